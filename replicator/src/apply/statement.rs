//! Row changes as SQL, exact and safe.
//!
//! The text of a batch is a few queries of many statements each, so that a batch takes a few round trips. Every
//! statement knows how many rows it has to match; the connection counts matched rows, not changed ones
//! (CLIENT_FOUND_ROWS), so an UPDATE to the same values counts as well.
//!
//! The session it runs in is the worker's: foreign_key_checks off and a strict sql_mode. Both are changed around
//! the statements that need something else.

use std::sync::Arc;

use super::net::{ExactSteps, Net, Row, SafeSteps, same_columns};
use super::table_text::TableText;
use super::writeset::Plans;
use crate::binlog::transaction::{RowChange, RowsChange};
use crate::error::{Error, Result};
use crate::schema::table::TableSchema;
use crate::value::Value;

/// How a batch is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Over a copy that holds rows of later moments.
    Safe,
    /// Onto exactly the rows of the moment before.
    Exact,
}

/// The worker's sql_mode: a value that doesn't fit is an error, and whatever the source could store does fit.
pub(super) const SQL_MODE: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,STRICT_ALL_TABLES";
/// The error value of an ENUM (index 0) can't be written in a strict mode.
const SQL_MODE_LENIENT: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";

/// A statement of many rows ends when its text has reached this.
const STATEMENT_BYTES: usize = 128 * 1024;
/// Rows of an IN list; more of them don't make it faster, and the range optimizer's memory is bounded.
const LIST_ROWS_MAX: u64 = 500;
/// A query of many statements ends when its text has reached this.
const QUERY_BYTES: usize = 512 * 1024;
/// What the protocol adds to a query.
const PACKET_OVERHEAD: usize = 64;

/// So many updates of a table, and more, are written as one statement of many rows.
const TOGETHER_ROWS_MIN: usize = 4;

/// Images of a row before and after.
type Change<'a> = (&'a Row, &'a Row);

/// What a statement does, for an error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// INSERT or REPLACE.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
}

/// What is known of a statement beforehand.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// The table; `None` for statements of the session or the checkpoint.
    pub(super) table: Option<Arc<TableSchema>>,
    /// What it does.
    pub(super) verb: Verb,
    /// How many rows have to match; `None` where any number is right.
    pub(super) rows: Option<u64>,
}

/// A text of some statements, sent at once.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// The text; statements are separated by `;`.
    pub(super) sql: Vec<u8>,
    /// One entry for each statement.
    pub(super) statements: Vec<Expected>,
}

/// Session settings that statements may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Settings {
    foreign_keys: bool,
    lenient: bool,
}

/// Collects the statements of a batch.
#[derive(Debug)]
pub(super) struct Script {
    queries: Vec<Query>,
    open: Query,
    settings: Settings,
    packet_bytes_max: usize,
}

impl Script {
    /// An empty script for a target that takes packets of that size.
    pub(super) fn new(max_allowed_packet: u64) -> Self {
        let max = usize::try_from(max_allowed_packet).unwrap_or(usize::MAX);
        Self {
            queries: Vec::new(),
            open: Query::default(),
            settings: Settings::default(),
            packet_bytes_max: max.saturating_sub(PACKET_OVERHEAD),
        }
    }

    /// Adds a statement that belongs to no table; `rows` as in [`Expected::rows`].
    pub(super) fn plain(&mut self, sql: &str, rows: Option<u64>) -> Result<()> {
        self.push(&mut sql.as_bytes().to_vec(), Expected { table: None, verb: Verb::Update, rows })
    }

    /// Adds the statements for a stretch of changes, in order.
    pub(super) fn changes(&mut self, plans: &Plans, mode: Mode, changes: &[RowsChange]) -> Result<()> {
        let mut net = Net::default();
        for change in changes {
            if change.table.keyless {
                // Its rows have no net change, since nothing tells them apart; no row of another table minds the order.
                self.keyless(change)?;
                continue;
            }
            if !change.table.left_out.is_empty() {
                self.net(mode, &std::mem::take(&mut net))?;
                self.beside_left_out(plans, mode, change)?;
                continue;
            }
            if change.rows.iter().any(RowChange::is_partial) {
                self.net(mode, &std::mem::take(&mut net))?;
                self.partial(plans, mode, change)?;
                continue;
            }
            if !change.rows.iter().any(|row| plans.cascades(change, row)) {
                net.add(change);
                continue;
            }
            // The target's foreign keys do the rest, so what stands before has to be there by then.
            self.net(mode, &std::mem::take(&mut net))?;
            for row in &change.rows {
                self.in_order(plans, mode, change, row)?;
            }
        }
        self.net(mode, &net)
    }

    /// The queries, with the session's settings as they were at the beginning.
    pub(super) fn finish(mut self) -> Result<Vec<Query>> {
        self.set(Settings::default())?;
        self.close();
        Ok(self.queries)
    }

    fn net(&mut self, mode: Mode, net: &Net<'_>) -> Result<()> {
        for changes in net.tables() {
            let table = TableText::new(changes.table);
            match mode {
                Mode::Exact => self.exact(&table, &changes.exact())?,
                Mode::Safe => self.safe(&table, &changes.safe())?,
            }
        }
        Ok(())
    }

    fn exact(&mut self, table: &TableText<'_>, steps: &ExactSteps<'_>) -> Result<()> {
        self.delete(table, &steps.deletes, Mode::Exact)?;
        let (together, single): (Vec<Change<'_>>, Vec<Change<'_>>) =
            steps.updates.iter().partition(|(before, after)| {
                steps.updates.len() >= TOGETHER_ROWS_MIN && table.fits_together(before, after)
            });
        for (before, after) in single {
            self.update(table, before, after)?;
        }
        self.update_together(table, &together)?;
        self.insert(table, &steps.inserts, Mode::Exact)
    }

    fn safe(&mut self, table: &TableText<'_>, steps: &SafeSteps<'_>) -> Result<()> {
        self.delete(table, &steps.deletes, Mode::Safe)?;
        self.insert(table, &steps.replaces, Mode::Safe)
    }

    /// A change whose table's foreign keys act on other rows: one statement, in its place.
    pub(super) fn in_order(
        &mut self,
        plans: &Plans,
        mode: Mode,
        change: &RowsChange,
        row: &RowChange,
    ) -> Result<()> {
        let table = TableText::new(&change.table);
        let cascades = plans.cascades(change, row);
        match (row, mode) {
            (RowChange::Insert { after }, _) => self.insert(&table, &[after], mode),
            (RowChange::Delete { before }, Mode::Exact) => {
                self.foreign_keys(cascades)?;
                self.delete(&table, &[before], mode)?;
                self.foreign_keys(false)
            }
            (RowChange::Delete { before }, Mode::Safe) => {
                // The copy may have been made when the row and its children were gone already, and replay has
                // brought the children back since. Without the row nothing would take them away again.
                if cascades {
                    self.insert(&table, &[before], mode)?;
                    self.foreign_keys(true)?;
                }
                self.delete(&table, &[before], mode)?;
                self.foreign_keys(false)
            }
            (RowChange::Update { before, after }, Mode::Exact) => {
                self.foreign_keys(cascades)?;
                self.update(&table, before, after)?;
                self.foreign_keys(false)
            }
            (RowChange::Update { .. }, Mode::Safe) if cascades => Err(Error::definite(
                config::Side::Source,
                change.table.name.to_string(),
                "while the copy ran, a key was changed that other tables refer to with ON UPDATE CASCADE or SET \
                 NULL; this source doesn't log what its foreign keys do, so it can't be replayed over the copy. \
                 Start the migration again on an empty target and leave such keys as they are until it follows",
            )),
            (RowChange::Update { before, after }, Mode::Safe) => {
                if !super::net::same_key(&change.table, before, after) {
                    self.delete(&table, &[before], mode)?;
                }
                self.insert(&table, &[after], mode)
            }
        }
    }

    fn foreign_keys(&mut self, on: bool) -> Result<()> {
        self.set(Settings { foreign_keys: on, ..self.settings })
    }

    pub(super) fn lenient(&mut self, on: bool) -> Result<()> {
        self.set(Settings { lenient: on, ..self.settings })
    }

    fn set(&mut self, wanted: Settings) -> Result<()> {
        if wanted.foreign_keys != self.settings.foreign_keys {
            self.plain(&format!("SET foreign_key_checks={}", u8::from(wanted.foreign_keys)), None)?;
        }
        if wanted.lenient != self.settings.lenient {
            let mode = if wanted.lenient { SQL_MODE_LENIENT } else { SQL_MODE };
            self.plain(&format!("SET sql_mode='{mode}'"), None)?;
        }
        self.settings = wanted;
        Ok(())
    }

    /// DELETE by key, in lists.
    pub(super) fn delete(&mut self, table: &TableText<'_>, rows: &[&Row], mode: Mode) -> Result<()> {
        let mut sql = Vec::new();
        let mut rows = rows.iter().peekable();
        while rows.peek().is_some() {
            sql.clear();
            sql.extend_from_slice(b"DELETE FROM ");
            sql.extend_from_slice(table.name.as_bytes());
            sql.extend_from_slice(b" WHERE ");
            let mut count = 0;
            while sql.len() < STATEMENT_BYTES
                && count < LIST_ROWS_MAX
                && let Some(row) = rows.next()
            {
                table.write_condition(&mut sql, row, count);
                count += 1;
            }
            table.end_condition(&mut sql);
            self.statement(table, &mut sql, Verb::Delete, count, mode)?;
        }
        Ok(())
    }

    /// INSERT or REPLACE, many rows a statement.
    pub(super) fn insert(&mut self, table: &TableText<'_>, rows: &[&Row], mode: Mode) -> Result<()> {
        let mut sql = Vec::new();
        let mut rows = rows.iter().peekable();
        while let Some(first) = rows.peek() {
            let lenient = table.needs_lenient(first);
            self.lenient(lenient)?;
            sql.clear();
            sql.extend_from_slice(if mode == Mode::Exact { b"INSERT INTO " } else { b"REPLACE INTO " });
            sql.extend_from_slice(table.name.as_bytes());
            sql.extend_from_slice(table.column_list.as_bytes());
            let mut count = 0;
            while sql.len() < STATEMENT_BYTES
                && let Some(row) = rows.next_if(|row| table.needs_lenient(row) == lenient)
            {
                sql.push(if count > 0 { b',' } else { b' ' });
                table.write_row(&mut sql, row);
                count += 1;
            }
            self.statement(table, &mut sql, Verb::Insert, count, mode)?;
        }
        self.lenient(false)
    }

    /// UPDATE of one row by its old key.
    fn update(&mut self, table: &TableText<'_>, before: &Row, after: &Row) -> Result<()> {
        self.lenient(table.needs_lenient(after))?;
        let mut sql = Vec::with_capacity(256);
        sql.extend_from_slice(b"UPDATE ");
        sql.extend_from_slice(table.name.as_bytes());
        sql.extend_from_slice(b" SET ");
        table.write_assignments(&mut sql, before, after);
        sql.extend_from_slice(b" WHERE ");
        table.write_condition(&mut sql, before, 0);
        table.end_condition(&mut sql);
        self.statement(table, &mut sql, Verb::Update, 1, Mode::Exact)?;
        self.lenient(false)
    }

    /// Updates as `INSERT … ON DUPLICATE KEY UPDATE`, which takes a fraction of the time of single statements.
    ///
    /// The server counts 2 for a row that it finds and changes, 1 for one that it finds unchanged or doesn't find.
    /// Every row here has changed, so anything but twice the number of rows is a target that isn't as it should
    /// be. No row can be taken for another one, since none gets a unique value that it didn't have.
    fn update_together(&mut self, table: &TableText<'_>, changes: &[Change<'_>]) -> Result<()> {
        let mut sql = Vec::new();
        let mut rows = changes.iter().map(|(_, after)| *after).peekable();
        while let Some(first) = rows.peek() {
            let lenient = table.needs_lenient(first);
            self.lenient(lenient)?;
            sql.clear();
            sql.extend_from_slice(b"INSERT INTO ");
            sql.extend_from_slice(table.name.as_bytes());
            sql.extend_from_slice(table.column_list.as_bytes());
            let mut count = 0;
            while sql.len() < STATEMENT_BYTES
                && let Some(row) = rows.next_if(|row| table.needs_lenient(row) == lenient)
            {
                sql.push(if count > 0 { b',' } else { b' ' });
                table.write_row(&mut sql, row);
                count += 1;
            }
            sql.extend_from_slice(b" ON DUPLICATE KEY UPDATE ");
            table.write_new_values(&mut sql);
            self.statement(table, &mut sql, Verb::Update, 2 * count, Mode::Exact)?;
        }
        self.lenient(false)
    }

    pub(super) fn statement(
        &mut self,
        table: &TableText<'_>,
        sql: &mut Vec<u8>,
        verb: Verb,
        rows: u64,
        mode: Mode,
    ) -> Result<()> {
        let rows = (mode == Mode::Exact).then_some(rows);
        self.push(sql, Expected { table: Some(Arc::clone(table.schema)), verb, rows })
    }

    /// Takes the text; what is left of it is its memory, for the next one.
    fn push(&mut self, sql: &mut Vec<u8>, expected: Expected) -> Result<()> {
        if sql.len() > self.packet_bytes_max {
            let place = expected.table.map_or_else(|| "a batch".to_owned(), |t| t.name.to_string());
            return Err(Error::definite(
                config::Side::Target,
                place,
                format!(
                    "a row needs a statement of {} bytes, and the target's max_allowed_packet is {} bytes; raise it",
                    sql.len(),
                    self.packet_bytes_max + PACKET_OVERHEAD
                ),
            ));
        }
        let limit = QUERY_BYTES.min(self.packet_bytes_max);
        if !self.open.statements.is_empty() && self.open.sql.len() + sql.len() + 1 > limit {
            self.close();
        }
        if self.open.statements.is_empty() && sql.len() > limit {
            // The text of a very large row isn't copied once more (invariant 7).
            self.open.sql = std::mem::take(sql);
        } else {
            if !self.open.statements.is_empty() {
                self.open.sql.push(b';');
            }
            self.open.sql.append(sql);
        }
        self.open.statements.push(expected);
        Ok(())
    }

    fn close(&mut self) {
        if !self.open.statements.is_empty() {
            self.queries.push(std::mem::take(&mut self.open));
        }
    }
}

/// The row-key values, old and new, that changes touch; each of them once where they follow each other.
pub(super) fn touched_keys(change: &RowsChange) -> Vec<Vec<Value>> {
    let Some(key) = change.table.row_key() else { return Vec::new() };
    let values = |row: &Row| key.columns.iter().filter_map(|&c| row.get(c).cloned()).collect::<Vec<_>>();
    let mut out = Vec::with_capacity(change.rows.len());
    for row in &change.rows {
        match row {
            RowChange::Insert { after: image } | RowChange::Delete { before: image } => {
                out.push(values(image))
            }
            RowChange::Update { before, after } => {
                out.push(values(after));
                if !same_columns(&key.columns, before, after) {
                    out.push(values(before));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::sample::{change, column, delete, insert, int_row, schema, table, text, update};
    use super::*;
    use crate::schema::table::{ColumnKind, ForeignKey, SchemaSet};

    fn plans(tables: &[&Arc<TableSchema>]) -> Plans {
        Plans::new(&SchemaSet::new(tables.iter().map(|t| (***t).clone()).collect()), false)
    }

    fn script(plans: &Plans, mode: Mode, changes: &[RowsChange]) -> Vec<Query> {
        let mut script = Script::new(1 << 20);
        script.changes(plans, mode, changes).unwrap();
        script.finish().unwrap()
    }

    fn shown(plans: &Plans, mode: Mode, changes: &[RowsChange]) -> String {
        let queries = script(plans, mode, changes);
        assert!(queries.len() <= 1);
        let Some(query) = queries.into_iter().next() else { return String::new() };
        let sql = String::from_utf8(query.sql).unwrap();
        let counts: Vec<String> = query
            .statements
            .iter()
            .map(|s| s.rows.map_or_else(|| "*".to_owned(), |rows| rows.to_string()))
            .collect();
        format!("{} [{}]", sql.replace(['`', '_'], ""), counts.join(" "))
    }

    #[test]
    fn rows_become_statements() {
        let t = table("t", 2, &[&[0]]);
        let plans = plans(&[&t]);
        let r = int_row;
        let check = |mode: Mode, rows: Vec<RowChange>, expected: &str| {
            assert_eq!(shown(&plans, mode, &[change(&t, rows)]), expected);
        };
        let rows = || {
            vec![
                insert(r(&[1, 1])),
                insert(r(&[2, i64::MIN])),
                update(r(&[3, 3]), r(&[3, 4])),
                update(r(&[5, 5]), r(&[6, 5])),
                delete(r(&[7, 7])),
                delete(r(&[8, 8])),
            ]
        };
        check(
            Mode::Exact,
            rows(),
            "DELETE FROM s.t WHERE c0 IN (5,7,8);UPDATE s.t SET c1=4 WHERE c0 IN (3);\
             INSERT INTO s.t (c0,c1) VALUES (1,1),(2,NULL),(6,5) [3 1 3]",
        );
        check(
            Mode::Safe,
            rows(),
            "DELETE FROM s.t WHERE c0 IN (5,7,8);\
             REPLACE INTO s.t (c0,c1) VALUES (1,1),(2,NULL),(3,4),(6,5) [* *]",
        );
        check(Mode::Exact, vec![update(r(&[1, 1]), r(&[1, 1]))], "UPDATE s.t SET c0=1 WHERE c0 IN (1) [1]");
        check(Mode::Exact, vec![], "");
    }

    #[test]
    fn many_small_updates_become_one_statement() {
        let t = table("t", 3, &[&[0]]);
        let plans = plans(&[&t]);
        let change_of = |row: i64| update(int_row(&[row, 1, 2]), int_row(&[row, 1, 3]));
        let unchanged = update(int_row(&[9, 1, 2]), int_row(&[9, 1, 2]));
        let rows = (1..=4).map(change_of).chain([unchanged]).collect();
        assert_eq!(
            shown(&plans, Mode::Exact, &[change(&t, rows)]),
            "UPDATE s.t SET c0=9 WHERE c0 IN (9);\
             INSERT INTO s.t (c0,c1,c2) VALUES (1,1,3),(2,1,3),(3,1,3),(4,1,3) \
             ON DUPLICATE KEY UPDATE c1=VALUES(c1),c2=VALUES(c2) [1 8]"
        );
    }

    #[test]
    fn what_a_column_is_decides_how_it_is_written() {
        let mut columns = vec![
            column("a", ColumnKind::Text, Some("utf8mb4_general_ci")),
            column("e", ColumnKind::Enum { members: 2 }, None),
            column("at", ColumnKind::Timestamp { fraction: 0 }, None),
            column("g", ColumnKind::Text, Some("latin1_bin")),
        ];
        columns[3].generated = true;
        let t = Arc::new(schema("t", columns, &[&[0, 1]]));
        let plans = plans(&[&t]);
        let row = |a: &str, e: u64, g: &str| {
            vec![text(a), Value::UInt(e), Value::Text("2024-01-02 03:04:05".to_owned()), text(g)]
        };
        let check = |rows: Vec<RowChange>, expected: &str| {
            assert_eq!(shown(&plans, Mode::Exact, &[change(&t, rows)]), expected);
        };
        check(
            vec![update(row("a", 1, "x"), row("a", 1, "y"))],
            "UPDATE s.t SET at='2024-01-02 03:04:05' WHERE a=utf8mb4'a' AND e=1 [1]",
        );
        check(
            vec![delete(row("a", 1, "x")), delete(row("b", 2, "x"))],
            "DELETE FROM s.t WHERE a=utf8mb4'a' AND e=1 OR a=utf8mb4'b' AND e=2 [2]",
        );
        // The error value of an ENUM needs another sql_mode for its statement.
        let shown =
            shown(&plans, Mode::Exact, &[change(&t, vec![insert(row("a", 1, "")), insert(row("b", 0, ""))])]);
        assert_eq!(
            shown,
            "INSERT INTO s.t (a,e,at) VALUES (utf8mb4'a',1,'2024-01-02 03:04:05');\
             SET sqlmode='NOAUTOVALUEONZERO,ALLOWINVALIDDATES';\
             INSERT INTO s.t (a,e,at) VALUES (utf8mb4'b',0,'2024-01-02 03:04:05');\
             SET sqlmode='NOAUTOVALUEONZERO,ALLOWINVALIDDATES,STRICTALLTABLES' [1 * 1 *]"
        );
    }

    #[test]
    fn a_cascading_change_keeps_its_place() {
        let parent = table("p", 2, &[&[0]]);
        let mut child = (*table("c", 2, &[&[0]])).clone();
        child.foreign_keys.push(ForeignKey {
            name: "fk".to_owned(),
            columns: vec![1],
            parent: parent.name.clone(),
            parent_columns: vec!["c0".to_owned()],
            cascades_on_delete: true,
            cascades_on_update: true,
        });
        let child = Arc::new(child);
        let plans = plans(&[&parent, &child]);
        let r = int_row;
        let changes = [
            change(&child, vec![delete(r(&[7, 5]))]),
            change(&parent, vec![delete(r(&[5, 0]))]),
            change(&child, vec![insert(r(&[7, 6]))]),
        ];
        assert_eq!(
            shown(&plans, Mode::Exact, &changes),
            "DELETE FROM s.c WHERE c0 IN (7);SET foreignkeychecks=1;DELETE FROM s.p WHERE c0 IN (5);\
             SET foreignkeychecks=0;INSERT INTO s.c (c0,c1) VALUES (7,6) [1 * 1 * 1]"
        );
        assert_eq!(
            shown(&plans, Mode::Safe, &changes),
            "DELETE FROM s.c WHERE c0 IN (7);REPLACE INTO s.p (c0,c1) VALUES (5,0);SET foreignkeychecks=1;\
             DELETE FROM s.p WHERE c0 IN (5);SET foreignkeychecks=0;REPLACE INTO s.c (c0,c1) VALUES (7,6) [* * * * * *]"
        );
        let update = [change(&parent, vec![update(r(&[5, 0]), r(&[6, 0]))])];
        assert_eq!(
            shown(&plans, Mode::Exact, &update),
            "SET foreignkeychecks=1;UPDATE s.p SET c0=6 WHERE c0 IN (5);SET foreignkeychecks=0 [* 1 *]"
        );
        let refused = Script::new(1 << 20).changes(&plans, Mode::Safe, &update).unwrap_err();
        assert!(refused.to_string().contains("ON UPDATE CASCADE"), "{refused}");
    }

    #[test]
    fn texts_are_bounded() {
        let t = Arc::new(schema("t", vec![column("a", ColumnKind::Blob, None)], &[&[0]]));
        let plans = plans(&[&t]);
        let blob = |size: usize| vec![Value::Bytes(vec![b'x'; size].into())];
        let rows = (0..100).map(|i| insert(blob(50_000 + i))).collect();
        let queries = script(&plans, Mode::Exact, &[change(&t, rows)]);
        assert!(queries.iter().all(|q| q.sql.len() <= QUERY_BYTES));
        let rows: u64 = queries.iter().flat_map(|q| &q.statements).filter_map(|s| s.rows).sum();
        assert_eq!(rows, 100);

        let mut script = Script::new(1 << 20);
        let error =
            script.changes(&plans, Mode::Exact, &[change(&t, vec![insert(blob(1 << 20))])]).unwrap_err();
        assert!(error.to_string().contains("max_allowed_packet is 1048576 bytes"), "{error}");
    }

    #[test]
    fn both_keys_of_a_row_are_touched() {
        let t = table("t", 2, &[&[0]]);
        let rows = vec![
            update(int_row(&[1, 1]), int_row(&[1, 2])),
            update(int_row(&[3, 1]), int_row(&[4, 1])),
            delete(int_row(&[5, 5])),
        ];
        let keys: Vec<Vec<Value>> = [1, 4, 3, 5].map(|k| vec![Value::Int(k)]).to_vec();
        assert_eq!(touched_keys(&change(&t, rows)), keys);
    }
}
