//! Statements on tables of which some columns aren't moved ([`crate::schema::left_out`]). Pure.
//!
//! - On the way to the new server a statement is run there where it means the same for the table without these columns, and
//!   leaves their places in the row image known: it names none of them, nor a key that isn't the same there, and it moves no
//!   column. What is about these columns and nothing else isn't run at all ([`crate::schema::alterations`]). Everything else has
//!   the table copied anew.
//! - On the way back it would act on the old server's table, and what is in its columns is nowhere else. None is run but
//!   TRUNCATE, which takes away rows as a DELETE does.

use std::sync::Arc;

use config::{ColumnsConfig, TableName};

use super::came_from;
use crate::schema::ddl::{Change, words};
use crate::schema::discover::Discovery;
use crate::schema::history::Definitions;
use crate::schema::left_out::{LeftOut, rule_of};
use crate::schema::table::TableSchema;

/// Words that may give a column another place, another name, or another type without naming it.
const MOVING: [&str; 4] = ["FIRST", "AFTER", "CHANGE", "CONVERT"];

/// The words of a statement, in lower case.
struct Words(Vec<String>);

impl Words {
    fn of(sql: &[u8]) -> Self {
        Self(words(sql).iter().map(|word| word.to_lowercase()).collect())
    }

    fn any(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.0.iter().any(|word| wanted(word))
    }

    fn has(&self, wanted: &str) -> bool {
        self.any(|word| word.eq_ignore_ascii_case(wanted))
    }
}

/// True where a statement on the old server has its tables copied anew for the sake of columns that aren't moved.
pub(super) fn copies_anew(
    change: &Change,
    sql: &[u8],
    rules: &[ColumnsConfig],
    definitions: &Definitions,
) -> bool {
    if rules.is_empty() {
        return false;
    }
    let renamed =
        came_from(change).into_iter().any(|(to, from)| rule_of(rules, &to) != rule_of(rules, &from));
    let of = |name: &TableName| definitions.get(name).map(|definition| &definition.table.left_out);
    match change {
        Change::Alter { table, .. } => {
            let left_out = of(table).filter(|left_out| !left_out.is_empty());
            renamed || may_change(&Words::of(sql), rule_of(rules, table), left_out)
        }
        Change::Rename(_) => renamed,
        // Under one filter it is what its pattern is.
        Change::CreateTable { table, like: Some(like) } => rule_of(rules, table) != rule_of(rules, like),
        Change::CreateTable { table, like: None } => names_excluded(&Words::of(sql), rule_of(rules, table)),
        _ => false,
    }
}

fn names_excluded(words: &Words, rule: Option<&ColumnsConfig>) -> bool {
    rule.is_some_and(|rule| words.any(|word| rule.excludes(word)))
}

/// True where an ALTER TABLE may change the columns that aren't moved, or where they are. `left_out`: what they are by now.
fn may_change(words: &Words, rule: Option<&ColumnsConfig>, left_out: Option<&LeftOut>) -> bool {
    if names_excluded(words, rule) {
        return true;
    }
    let Some(left_out) = left_out else { return false };
    words.any(|word| left_out.is_about(word))
        || MOVING.iter().any(|word| words.has(word))
        || (words.has("RENAME") && words.has("COLUMN"))
        || (words.has("DROP") && words.has("ADD"))
}

/// The first table with columns that aren't moved that a statement on the new server would act on, on the old one.
pub(super) fn stopping(
    change: &Change,
    sql: &[u8],
    rules: &[ColumnsConfig],
    definitions: &Definitions,
) -> Option<TableName> {
    if rules.is_empty() {
        return None;
    }
    let has_more = |table: &TableSchema| table.left_out_of_either().is_some();
    let mut names = change.names();
    match change {
        Change::Schema { name, dropped: true } => {
            let mut of = definitions.tables.iter().map(|definition| &definition.table);
            return of
                .find(|table| table.name.schema == *name && has_more(table))
                .map(|table| table.name.clone());
        }
        Change::CreateTable { like: Some(like), .. } => names.push(like.clone()),
        Change::CreateTable { .. } | Change::DropTables(_) | Change::Rename(_) | Change::Alter { .. } => {}
        _ => return None,
    }
    let words = Words::of(sql);
    let moved = came_from(change).into_iter().find(|(to, from)| rule_of(rules, to) != rule_of(rules, from));
    let touched = |name: &TableName| {
        definitions.get(name).is_some_and(|definition| has_more(&definition.table))
            || names_excluded(&words, rule_of(rules, name))
    };
    names.into_iter().find(touched).or(moved.map(|(to, _)| to))
}

/// Puts to the definitions that the new server has by now what they have more on the old one, behind a statement that was run
/// there. An error is a table and what is wrong with it.
pub(super) fn carry_over(
    found: &mut Discovery,
    names: &[TableName],
    definitions: &Definitions,
    change: &Change,
) -> Result<(), (TableName, &'static str)> {
    let mut came_from = came_from(change);
    if let Change::CreateTable { table, like: Some(like) } = change {
        came_from.insert(table.clone(), like.clone());
    }
    for table in found.tables.iter_mut().filter(|table| names.contains(&table.schema.name)) {
        let name = table.schema.name.clone();
        let Some(before) = definitions.get(came_from.get(&name).unwrap_or(&name)) else { continue };
        let left_out = &before.table.left_out;
        if left_out.is_empty() {
            continue;
        }
        if table.schema.keyless {
            return Err((name, "it has no key without the columns that aren't moved"));
        }
        let Some(left_out) = left_out.behind(&before.table.columns, &table.schema.columns) else {
            return Err((
                name,
                "the order of its columns, with those that aren't moved, isn't known any more",
            ));
        };
        let written = table.schema.target.take().unwrap_or_else(|| Arc::new(table.schema.clone()));
        (table.schema.left_out, table.schema.target) = (left_out, Some(written));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::apply::sample::{column, schema};
    use crate::leg::Leg;
    use crate::schema::history::{Begin, Definition};
    use crate::schema::left_out::{LeftOutColumn, Part, PartKind};
    use crate::schema::table::{Column, ColumnKind};

    fn int(name: &str) -> Column {
        column(name, ColumnKind::Integer { bytes: 4, unsigned: false }, None)
    }

    fn rules() -> Vec<ColumnsConfig> {
        let rule =
            |tables: &str| ColumnsConfig { tables: tables.to_owned(), exclude: vec!["Secret".to_owned()] };
        vec![rule("s.users"), rule("s.u\\_%")]
    }

    fn definitions() -> Definitions {
        let mut users = schema("users", vec![int("id"), int("a")], &[&[0]]);
        let part = |kind, name: &str| Part {
            kind,
            name: name.to_owned(),
            definition: String::new(),
            becomes: String::new(),
            columns: Vec::new(),
            lossy: false,
        };
        users.left_out.columns = vec![LeftOutColumn { at: 1, column: int("secret"), altered: false }];
        users.left_out.parts = vec![part(PartKind::Index, "by_secret")];
        let other = schema("other", vec![int("id"), int("secret")], &[&[0]]);
        let definition = |table| Definition { table, begin: Begin::FirstCopy };
        Definitions {
            leg: Leg::FIRST,
            seq: 0,
            tables: vec![definition(users), definition(other)],
            ignored: Default::default(),
            pending: None,
            column_rules: rules(),
        }
    }

    #[test]
    fn what_is_run_leaves_the_columns_where_they_are() {
        let check = |sql: &str, anew: bool, stops: bool| {
            let change = Change::parse(sql.as_bytes(), "s", false);
            let (rules, definitions) = (rules(), definitions());
            assert_eq!(copies_anew(&change, sql.as_bytes(), &rules, &definitions), anew, "{sql}");
            let stopping = stopping(&change, sql.as_bytes(), &rules, &definitions);
            assert_eq!(stopping.is_some(), stops, "{sql}: {stopping:?}");
        };
        check("ALTER TABLE users ADD c INT, ADD INDEX (a)", false, true);
        check("ALTER TABLE users ADD c INT AFTER id", true, true);
        check("ALTER TABLE users DROP COLUMN a", false, true);
        check("ALTER TABLE users DROP COLUMN a, ADD a INT", true, true);
        check("ALTER TABLE users RENAME COLUMN a TO b", true, true);
        check("ALTER TABLE users RENAME INDEX a TO b", false, true);
        check("ALTER TABLE users MODIFY a BIGINT", false, true);
        check("ALTER TABLE users MODIFY a BIGINT, MODIFY `SECRET` BIGINT", true, true);
        check("DROP INDEX By_Secret ON users", true, true);
        check("CREATE INDEX x ON users (a)", false, true);
        check("ALTER TABLE users CONVERT TO CHARACTER SET utf8mb4", true, true);
        check("ALTER TABLE users COMMENT 'secret, AFTER x'", false, true);
        check("TRUNCATE users", false, false);
        check("DROP TABLE users", false, true);
        check("ALTER TABLE other MODIFY secret BIGINT FIRST", false, false);
        check("CREATE TABLE ghost LIKE users", true, true);
        check("CREATE TABLE ghost LIKE other", false, false);
        check("CREATE TABLE u_1 LIKE u_2", false, false);
        check("CREATE TABLE u_1 LIKE other", true, false);
        check("CREATE TABLE u_1 (id INT, secret INT)", true, true);
        check("CREATE TABLE u_1 (id INT, open INT)", false, false);
        check("ALTER TABLE u_1 ADD secret INT", true, true);
        check("RENAME TABLE u_1 TO u_2", false, false);
        check("RENAME TABLE other TO u_2", true, true);
        check("RENAME TABLE users TO old, other TO users", true, true);
        check("DROP DATABASE s", false, true);
        check("ALTER TABLE s.users DISABLE KEYS", false, true);
    }

    #[test]
    fn the_places_of_columns_are_carried_on() {
        let left = |at, name: &str| LeftOutColumn { at, column: int(name), altered: false };
        let of = |columns: Vec<LeftOutColumn>| LeftOut { columns, ..LeftOut::default() };
        let columns = |names: &[&str]| names.iter().map(|name| int(name)).collect::<Vec<_>>();
        let before = columns(&["a", "b", "c"]);
        // x a b y c z
        let whole = of(vec![left(0, "x"), left(3, "y"), left(5, "z")]);
        let check = |now: &[&str], expected: Option<[usize; 3]>| {
            let behind = whole.behind(&before, &columns(now));
            let places = behind.map(|left| left.columns.iter().map(|left| left.at).collect::<Vec<_>>());
            assert_eq!(places.as_deref(), expected.as_ref().map(|e| &e[..]), "{now:?}");
        };
        check(&["a", "b", "c"], Some([0, 3, 5]));
        check(&["a", "b", "c", "d"], Some([0, 3, 5]));
        check(&["b", "c"], Some([0, 2, 4]));
        check(&["a", "d", "e"], Some([0, 2, 3]));
        check(&["a", "c", "b"], None);
        check(&["d", "a", "b", "c"], None);
        check(&["a", "d", "b", "c"], None);
    }

    #[test]
    fn a_definition_keeps_what_is_not_moved() {
        let definitions = definitions();
        let mut found = Discovery::default();
        let now = schema("users", vec![int("id"), int("a"), int("c")], &[&[0]]);
        found.tables.push(crate::schema::discover::DiscoveredTable {
            schema: now.clone(),
            engine: String::new(),
            problems: Vec::new(),
        });
        let names = [now.name.clone()];
        let alter = Change::Alter { table: now.name.clone(), renamed: None, exchanged: None };
        carry_over(&mut found, &names, &definitions, &alter).unwrap();
        let table = &found.tables[0].schema;
        assert_eq!(table.target.as_deref(), Some(&now));
        let image: Vec<_> = table.image().iter().map(|(c, at)| format!("{} {at:?}", c.name)).collect();
        assert_eq!(image, ["id Some(0)", "secret None", "a Some(1)", "c Some(2)"]);
        found.tables[0].schema = schema("users", vec![int("id"), int("a")], &[]);
        assert!(carry_over(&mut found, &names, &definitions, &alter).is_err());
        // A table that is made like it has what it has.
        let ghost = schema("u_gho", vec![int("id"), int("a")], &[&[0]]);
        found.tables[0].schema = ghost.clone();
        let like = Change::CreateTable { table: ghost.name.clone(), like: Some(now.name) };
        carry_over(&mut found, &[ghost.name], &definitions, &like).unwrap();
        assert!(found.tables[0].schema.left_out.has_column("secret"));
    }
}
