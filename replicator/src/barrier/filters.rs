//! Statements on tables of which only some rows are moved ([`crate::schema::filter`]). Pure.
//!
//! - What may change the column of the filter, or which filter a table has, changes which rows are moved without a row
//!   being logged for it. The table is copied anew there.
//! - On the way back a statement would act on the old server's table, which other businesses share. None is run.

use config::{RowsConfig, TableName};

use super::{Plan, came_from};
use crate::schema::ddl::{Change, words};
use crate::schema::filter::{rule_of, same_rows};
use crate::schema::history::Definitions;
use crate::schema::selection::Selection;
use crate::schema::table::TableSchema;

/// Words of an ALTER TABLE that names the column and may change it, or what it holds.
const CHANGING: [&str; 6] = ["CHANGE", "MODIFY", "RENAME", "DROP", "CONVERT", "EXCHANGE"];

/// What a statement becomes whose plan is `plan`, on the way to the new server.
pub(super) fn forth(
    plan: Plan,
    (change, sql): (&Change, &[u8]),
    rules: &[RowsConfig],
    definitions: &Definitions,
    selection: &Selection,
) -> Plan {
    if rules.is_empty() || !matches!(plan, Plan::Run { .. }) {
        return plan;
    }
    let renamed =
        came_from(change).into_iter().any(|(to, from)| rule_of(rules, &to) != rule_of(rules, &from));
    let changed = match change {
        Change::Alter { table, .. } => rule_of(rules, table).is_some_and(|rule| {
            let filtered = definitions.get(table).is_some_and(|d| d.table.filter.is_some());
            may_change(&words(sql), &rule.column, filtered)
        }),
        _ => false,
    };
    if renamed || changed {
        return Plan::CopyAnew(change.names().into_iter().filter(|name| selection.takes(name)).collect());
    }
    plan
}

/// True where the words of an ALTER TABLE may change the column. `filtered`: the table has it by now.
fn may_change(words: &[String], column: &str, filtered: bool) -> bool {
    let has = |word: &str| words.iter().any(|other| other.eq_ignore_ascii_case(word));
    // Another character set of the table is one of the column.
    has("CONVERT") || has(column) && (!filtered || CHANGING.iter().any(|word| has(word)))
}

/// The tables with a filter that a statement would act on, on the way back.
pub(super) fn shared(change: &Change, definitions: &Definitions) -> Vec<TableName> {
    let filtered = definitions.tables.iter().map(|d| &d.table).filter(|table| table.filter.is_some());
    let names = change.names();
    let touched = |table: &&TableSchema| match change {
        Change::Schema { name, dropped } => *dropped && table.name.schema == *name,
        Change::CreateTable { table: made, .. } => *made == table.name,
        // What isn't understood isn't run, but left to an operator.
        Change::Unknown | Change::Views(_) | Change::Routine(_) | Change::Trigger(_) | Change::Event(_) => {
            false
        }
        Change::DropTables(_) | Change::Truncate(_) | Change::Rename(_) | Change::Alter { .. } => {
            names.contains(&table.name)
        }
    };
    filtered.filter(touched).map(|table| table.name.clone()).collect()
}

/// The first table that has other rows by its definition of now than by the one before.
pub(super) fn moved_otherwise<'a>(
    now: impl Iterator<Item = &'a TableSchema>,
    change: &Change,
    definitions: &Definitions,
) -> Option<&'a TableName> {
    let came_from = came_from(change);
    let mut now = now.filter_map(|table| {
        let before = definitions.get(came_from.get(&table.name).unwrap_or(&table.name))?;
        (!same_rows(&before.table, table)).then_some(&table.name)
    });
    now.next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_may_change_the_column_is_told_by_its_words() {
        let check = |sql: &str, filtered: bool, expected: bool| {
            assert_eq!(may_change(&words(sql.as_bytes()), "tenant_id", filtered), expected, "{sql}");
        };
        check("ALTER TABLE a ADD c INT", true, false);
        check("ALTER TABLE a ADD INDEX (tenant_id)", true, false);
        check("ALTER TABLE a ADD tenant_id INT", false, true);
        check("ALTER TABLE a DROP COLUMN Tenant_ID", true, true);
        check("ALTER TABLE a DROP COLUMN other", true, false);
        check("ALTER TABLE a MODIFY `tenant_id` BIGINT", true, true);
        check("ALTER TABLE a RENAME COLUMN tenant_id TO x, RENAME COLUMN y TO tenant_id", true, true);
        check("ALTER TABLE a CHANGE x tenant_id INT", true, true);
        check("ALTER TABLE a CONVERT TO CHARACTER SET utf8mb4", true, true);
    }
}
