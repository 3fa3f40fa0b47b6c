//! Events to sightings: which transactions of a binary log wrote to tables of the migration and aren't ours. Pure.
//!
//! It is another reading than that of the tail, which stops where it isn't sure: here whatever may have changed a table
//! of the migration counts, and the rest doesn't matter.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use config::{Gtid, TableName};

use super::own;
use crate::binlog::cursor::{Cursor, Malformed};
use crate::binlog::event::{EventHeader, Query, RowsShape, kind};
use crate::binlog::gtid::{self, GtidEvent};
use crate::binlog::rows::{RowsEvent, RowsHead};
use crate::binlog::statement::{SchemaNames, Statement, classify};
use crate::binlog::table_map::TableMap;
use crate::schema::ddl::Change;
use crate::schema::filter::Outside;
use crate::schema::selection::{Known, Selection};
use crate::schema::table::SchemaSet;

/// Events of one transaction that are kept, so that its rows can be counted once it is known to be nobody of ours.
const KEPT_BYTES: usize = 4 << 20;
/// Connections remembered that have announced themselves.
const ANNOUNCED_MAX: usize = 10_000;
/// Where in a format description the moment stands at which the server was started; 0 in a file that began later.
const STARTED_AT: usize = 2 + 50;

/// What was written to one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) rows: u64,
    /// There were more rows than were counted.
    pub(super) more: bool,
    /// The definition was changed.
    pub(super) definition: bool,
    /// It was written as text, so that the table isn't known.
    pub(super) as_text: bool,
    /// Something beside the tables: a view, a routine, a trigger, an event, the second half of an XA transaction. A cutover
    /// must not leave it behind; on a side that was left it is no write to a table.
    pub(super) beside: bool,
}

impl Written {
    /// True where a table was written to.
    pub(super) fn is_of_table(&self) -> bool {
        self.rows > 0 || self.more || self.definition || self.as_text
    }
}

/// A transaction that wrote to tables of the migration and isn't ours. A table without a name is any of its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) gtid: Option<Gtid>,
    pub(super) written: BTreeMap<TableName, Written>,
}

/// What an event meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The transaction goes on, or there is none.
    Nothing,
    /// One ended that is ours, or has nothing to do with the migration.
    Ended(Option<Gtid>),
    /// One ended that has no right to be there.
    Stray(Sighting),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Sight {
    names: SchemaNames,
    selection: Selection,
    announced: HashSet<u32>,
    open: Option<Open>,
}

#[derive(Debug, Default)]
struct Open {
    gtid: Option<Gtid>,
    /// A statement doesn't end it.
    begun: bool,
    ours: bool,
    written: BTreeMap<TableName, Written>,
    tables: HashMap<u64, Table>,
    kept: Vec<(u64, RowsShape, Bytes)>,
    kept_bytes: usize,
}

#[derive(Debug, Clone)]
enum Table {
    Own,
    /// With the body of its table map.
    Moved(TableName, Bytes),
    Foreign,
}

impl Sight {
    pub(super) fn new(selection: Selection) -> Self {
        let names = match selection.schemas_here() {
            Some(schemas) => SchemaNames::new(schemas.iter().map(String::as_str)),
            None => SchemaNames::all(),
        };
        Self { names, selection, announced: HashSet::new(), open: None }
    }

    /// True between the event that begins a transaction and the one that ends it.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next event. `tables`: how rows of the migration are stored on this side.
    pub(super) fn event(
        &mut self,
        header: &EventHeader,
        body: &Bytes,
        tables: &dyn Fn() -> SchemaSet,
    ) -> Result<Seen, Malformed> {
        match header.kind {
            kind::GTID => self.begin(gtid::parse_mysql(header, body)?),
            kind::GTID_TAGGED => self.begin(gtid::parse_mysql_tagged(header, body)?),
            kind::MARIADB_GTID => self.begin(gtid::parse_mariadb(header, body)?),
            kind::ANONYMOUS_GTID => self.open = Some(Open::default()),
            kind::QUERY => return self.query(body, false, tables),
            kind::MARIADB_QUERY_COMPRESSED => return self.query(body, true, tables),
            kind::XID | kind::XA_PREPARE => return self.close(tables),
            kind::TABLE_MAP => self.table_map(body)?,
            kind::FORMAT_DESCRIPTION | kind::ROTATE | kind::STOP => self.file_ended(header, body)?,
            kind::EXECUTE_LOAD_QUERY | kind::LOAD | kind::NEW_LOAD => self.as_text(""),
            kind::INCIDENT => {
                return Err(Malformed::new("the server says that its binlog lacks changes (incident event)"));
            }
            rows => {
                if let Some(shape) = RowsShape::of(rows) {
                    self.rows(shape, body, tables)?;
                }
            }
        }
        Ok(Seen::Nothing)
    }

    fn begin(&mut self, event: GtidEvent) {
        let begun = event.standalone == Some(false);
        self.open = Some(Open { gtid: Some(event.gtid), begun, ..Open::default() });
    }

    /// Nothing of a transaction without its end was committed. Connections are numbered anew by a server that starts.
    fn file_ended(&mut self, header: &EventHeader, body: &[u8]) -> Result<(), Malformed> {
        self.open = None;
        if header.kind == kind::FORMAT_DESCRIPTION {
            let mut cursor = Cursor::new(body);
            cursor.take(STARTED_AT)?;
            if cursor.u32()? != 0 {
                self.announced.clear();
            }
        }
        Ok(())
    }

    fn close(&mut self, tables: &dyn Fn() -> SchemaSet) -> Result<Seen, Malformed> {
        let Some(mut open) = self.open.take() else { return Ok(Seen::Nothing) };
        if open.ours || open.written.is_empty() {
            return Ok(Seen::Ended(open.gtid));
        }
        open.count(&tables());
        // What isn't in its table's filter is another business's, and what isn't of its columns nobody's here.
        open.written.retain(|_, written| written.is_of_table() || written.beside);
        if open.written.is_empty() {
            return Ok(Seen::Ended(open.gtid));
        }
        Ok(Seen::Stray(Sighting { gtid: open.gtid, written: open.written }))
    }

    fn query(
        &mut self,
        body: &[u8],
        compressed: bool,
        tables: &dyn Fn() -> SchemaSet,
    ) -> Result<Seen, Malformed> {
        let query = Query::parse(body, compressed)?;
        let schema = String::from_utf8_lossy(query.schema);
        let announces = query.sql.windows(b"changeover".len()).any(|part| part == b"changeover")
            && matches!(self.change(&query.sql, &schema), Change::DropTables(names) if own::is_announcement(&names));
        if announces {
            if self.announced.len() >= ANNOUNCED_MAX {
                self.announced.clear();
            }
            self.announced.insert(query.connection);
            return self.close(tables);
        }
        let open = self.open.get_or_insert_with(Open::default);
        match classify(query.schema, &query.sql, &self.names) {
            Statement::Begin | Statement::XaStart | Statement::Nothing => open.begun = true,
            Statement::RollbackToSavepoint => {}
            // What a rollback leaves in the log is of tables without transactions, and stays.
            Statement::Commit | Statement::Rollback | Statement::XaRollback(_) => return self.close(tables),
            // Its rows came when it was prepared, and it isn't known whose they were.
            Statement::XaCommit(_) => {
                open.written.entry(TableName::new("", "")).or_default().beside = true;
                return self.close(tables);
            }
            Statement::RowChange if self.names.may_concern(query.schema, &query.sql) => self.as_text(&schema),
            Statement::RowChange | Statement::Unrelated => {}
            Statement::Ddl => {
                let ours = self.announced.contains(&query.connection);
                let (changed, beside) = self.changed(&query.sql, &schema);
                if let Some(open) = self.open.as_mut().filter(|_| !ours) {
                    for name in changed {
                        let written = open.written.entry(name).or_default();
                        *(if beside { &mut written.beside } else { &mut written.definition }) = true;
                    }
                }
            }
        }
        match &self.open {
            Some(open) if !open.begun => self.close(tables),
            _ => Ok(Seen::Nothing),
        }
    }

    fn change(&self, sql: &[u8], schema: &str) -> Change {
        Change::parse(sql, schema, self.selection.folds_names())
    }

    /// The tables of the migration whose definition, or whole content, a statement changes; or what it changes beside them.
    fn changed(&self, sql: &[u8], schema: &str) -> (Vec<TableName>, bool) {
        let change = self.change(sql, schema).in_source_names(&self.selection);
        // A name that nothing of the migration could have there: what is done to it is understood as far as its schema.
        let change = change.unwrap_or(Change::Unknown);
        let schema = self.selection.names().source_schema(schema).unwrap_or_else(|| schema.to_owned());
        match change {
            change @ (Change::Views(_) | Change::Routine(_) | Change::Trigger(_) | Change::Event(_)) => {
                let of_ours = |name: &TableName| self.selection.takes_schema(&name.schema);
                (change.names().into_iter().filter(of_ours).collect(), true)
            }
            Change::Schema { name, .. } if self.selection.takes_schema(&name) => {
                (vec![TableName::new(name, "")], false)
            }
            Change::Schema { .. } => (Vec::new(), false),
            Change::Unknown => (vec![TableName::new(schema, "")], false),
            change => (change.names().into_iter().filter(|name| self.selection.takes(name)).collect(), false),
        }
    }

    fn as_text(&mut self, schema: &str) {
        let schema = self.selection.names().source_schema(schema).unwrap_or_else(|| schema.to_owned());
        let open = self.open.get_or_insert_with(Open::default);
        let written = open.written.entry(TableName::new(schema, "")).or_default();
        (written.as_text, written.more) = (true, true);
    }

    fn table_map(&mut self, body: &Bytes) -> Result<(), Malformed> {
        let map = TableMap::parse(body)?;
        let table = if own::is_own(&map.name) {
            Table::Own
        } else {
            match self.selection.known(&map.name) {
                Known::Moved(name) => Table::Moved(name, body.clone()),
                // Nothing of the migration could be called so there.
                Known::Other | Known::Unnamed => Table::Foreign,
            }
        };
        self.open.get_or_insert_with(Open::default).tables.insert(map.table_id, table);
        Ok(())
    }

    fn rows(
        &mut self,
        shape: RowsShape,
        body: &Bytes,
        tables: &dyn Fn() -> SchemaSet,
    ) -> Result<(), Malformed> {
        let head = RowsHead::parse(body)?;
        let open = self.open.get_or_insert_with(Open::default);
        match open.tables.get(&head.table_id) {
            Some(Table::Own) => open.ours = true,
            Some(Table::Moved(name, _)) => {
                let name = name.clone();
                let mut full = open.kept_bytes + body.len() > KEPT_BYTES;
                // That there are more rows says nothing where most of them may be another business's, or changes of columns
                // that aren't moved.
                let may_be_none_of_ours = |name: &TableName| {
                    tables()
                        .get(name)
                        .is_some_and(|table| table.filter.is_some() || !table.left_out.is_empty())
                };
                if full && !open.ours && may_be_none_of_ours(&name) {
                    open.count(&tables());
                    full = false;
                }
                let written = open.written.entry(name).or_default();
                if open.ours || full {
                    written.more = true;
                } else {
                    open.kept_bytes += body.len();
                    open.kept.push((head.table_id, shape, body.clone()));
                }
            }
            Some(Table::Foreign) | None => {}
        }
        Ok(())
    }
}

impl Open {
    /// Counts the rows of the events that were kept. One that can't be read has a row at least.
    fn count(&mut self, tables: &SchemaSet) {
        self.kept_bytes = 0;
        for (table_id, shape, body) in std::mem::take(&mut self.kept) {
            let Some(Table::Moved(name, map)) = self.tables.get(&table_id) else { continue };
            let written = self.written.entry(name.clone()).or_default();
            let (rows, whole) = rows_in(tables, name, map, shape, &body);
            written.rows += rows;
            written.more |= !whole;
        }
        for written in self.written.values_mut().filter(|written| written.more) {
            written.rows = written.rows.max(1);
        }
    }
}

/// How many rows an event holds, and whether that is all of them.
fn rows_in(tables: &SchemaSet, name: &TableName, map: &[u8], shape: RowsShape, body: &Bytes) -> (u64, bool) {
    let mut rows = 0;
    let Some(table) = tables.get(name) else { return (rows, false) };
    let plan = TableMap::parse(map).and_then(|map| map.plan(table));
    let Ok(mut event) = plan.and_then(|plan| RowsEvent::parse(shape, body, plan.into(), Outside::Dropped))
    else {
        return (rows, false);
    };
    loop {
        match event.next_row() {
            Ok(Some(_)) => rows += 1,
            Ok(None) => return (rows, true),
            Err(_) => return (rows, false),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::binlog::fixture::{self, header};
    use proptest::prelude::*;

    fn sight() -> Sight {
        Sight::new(Selection::of_schemas(&["shop"]))
    }

    fn gtid(flags: u8) -> (u8, Vec<u8>) {
        let mut body = 5_u64.to_le_bytes().to_vec();
        body.extend_from_slice(&[0, 0, 0, 0, flags]);
        body.extend_from_slice(&[0; 6]);
        (kind::MARIADB_GTID, body)
    }

    fn query(connection: u32, schema: &str, sql: &str) -> (u8, Vec<u8>) {
        let mut body = connection.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 4]);
        body.push(u8::try_from(schema.len()).unwrap());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(schema.as_bytes());
        body.push(0);
        body.extend_from_slice(sql.as_bytes());
        (kind::QUERY, body)
    }

    fn map(schema: &str) -> (u8, Vec<u8>) {
        (kind::TABLE_MAP, fixture::table_map(schema))
    }

    fn rows(ids: &[u32]) -> (u8, Vec<u8>) {
        (kind::WRITE_ROWS, fixture::write_rows(ids, 3))
    }

    /// What was found, in words.
    fn found(events: &[(u8, Vec<u8>)]) -> Vec<String> {
        let mut sight = sight();
        let mut found = Vec::new();
        for (kind, body) in events {
            let seen = sight.event(&header(*kind), &Bytes::from(body.clone()), &fixture::tables).unwrap();
            if let Seen::Stray(sighting) = seen {
                for (table, w) in sighting.written {
                    let what = match (w.definition, w.beside) {
                        (true, _) => " defined",
                        (_, true) => " beside",
                        _ => "",
                    };
                    let more = if w.more { "+" } else { "" };
                    found.push(format!("{table} {}{more}{what}", w.rows));
                }
            }
        }
        found
    }

    #[test]
    fn rows_of_others_are_found_and_ours_are_not() {
        let xid = (kind::XID, vec![0; 8]);
        let stray = [gtid(4), map("other"), rows(&[9]), map("shop"), rows(&[1, 2]), rows(&[3]), xid.clone()];
        assert_eq!(found(&stray), ["shop.t 3"]);
        let ours = [gtid(4), map("shop"), rows(&[1, 2]), map("changeover"), rows(&[1]), xid.clone()];
        assert_eq!(found(&ours), [""; 0]);
        assert_eq!(found(&[gtid(4), map("other"), rows(&[9]), xid.clone()]), [""; 0]);
        let torn = [gtid(4), map("shop"), rows(&[1]), (kind::STOP, vec![]), xid];
        assert_eq!(found(&torn), [""; 0], "it was never committed");
    }

    #[test]
    fn rows_that_can_not_be_counted_are_one_at_least() {
        let mut other = fixture::table_map("shop");
        let types = other.len() - 6;
        other[types] = 8;
        let events = [gtid(4), (kind::TABLE_MAP, other), rows(&[1, 2]), (kind::XID, vec![0; 8])];
        assert_eq!(found(&events), ["shop.t 1+"]);
    }

    #[test]
    fn definitions_are_ours_where_their_connection_says_so() {
        let announced =
            query(7, "shop", "DROP TABLE IF EXISTS `changeover`.`announced` /* generated by server */");
        let alter = |connection| query(connection, "shop", "ALTER TABLE t ADD c INT");
        let check = |events: &[(u8, Vec<u8>)], expected: &[&str]| assert_eq!(found(events), expected);
        check(&[gtid(1), announced.clone(), gtid(1), alter(7)], &[]);
        check(&[gtid(1), announced.clone(), gtid(1), alter(8)], &["shop.t 0 defined"]);
        check(&[gtid(1), query(8, "other", "ALTER TABLE t ADD c INT")], &[]);
        check(
            &[gtid(1), query(8, "shop", "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a = 1")],
            &["shop.x 0 beside"],
        );
        check(&[gtid(1), query(8, "other", "CREATE EVENT x ON SCHEDULE EVERY 1 DAY DO SET @a = 1")], &[]);
        check(&[gtid(1), query(8, "other", "XA COMMIT X'78',X'',1")], &[". 0 beside"]);
        check(&[gtid(1), query(8, "other", "DROP DATABASE shop")], &["shop. 0 defined"]);
        check(&[gtid(1), query(8, "shop", "INSERT INTO t VALUES (1)")], &["shop. 1+"]);
        check(&[gtid(1), query(8, "other", "INSERT INTO t VALUES (1)")], &[]);
        // A server that was started numbers its connections anew.
        let mut started = vec![0; STARTED_AT];
        started.extend_from_slice(&[1, 0, 0, 0]);
        check(
            &[gtid(1), announced, (kind::FORMAT_DESCRIPTION, started), gtid(1), alter(7)],
            &["shop.t 0 defined"],
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            events in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
            which in 0_usize..7, cut in 0_usize..80,
        ) {
            let mut sight = sight();
            let (kind, mut body) = fixture::samples()[which].clone();
            body.truncate(cut);
            for (kind, body) in std::iter::once((kind, body)).chain(events) {
                drop(sight.event(&header(kind), &Bytes::from(body), &fixture::tables));
            }
        }
    }
}
