//! Events to transactions: which ones begin and end one, and what of it is for this migration.
//!
//! A pure state machine. What it doesn't understand it refuses (invariant 5).

use std::collections::HashMap;

use bytes::Bytes;
use config::{Gtid, TableName};

use super::context::StatementContext;
use super::cursor::Malformed;
use super::event::{EventHeader, FLAG_IGNORABLE, Query, RowsShape, kind, parse_xa_prepare};
use super::gtid::{self, GtidEvent};
use super::rows::RowsHead;
use super::statement::{SchemaNames, Statement, classify, kind_of};
use super::table_map::TableMap;
use super::transaction::DdlStatement;
use super::xid::Xid;
use crate::schema::ddl::{Change, is_readable_in};
use crate::schema::selection::{Known, Selection};

/// The table id of a rows event that holds no rows and only ends a statement.
const DUMMY_TABLE_ID: u64 = 0x00ff_ffff;

/// What an event means for the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing of ours.
    Ignore,
    /// The event belongs to the open transaction and is kept.
    Keep,
    /// The open transaction ends with this event.
    Close(Box<Closed>),
    /// The open transaction never ended on the source: what was kept of it is dropped.
    Abort,
}

/// A transaction that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) gtid: Gtid,
    pub(crate) committed_at_us: u64,
    /// A statement that changes a definition.
    pub(crate) ddl: Option<DdlStatement>,
    pub(crate) xa: Xa,
}

/// Which part of a transaction in two phases a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Xa {
    /// None: it is whole and committed.
    No,
    /// An XA transaction that is committed at once.
    OnePhase(Xid),
    /// What was kept is prepared: whether it is ever committed isn't known yet.
    Prepared(Xid),
    /// What was prepared under this name is committed.
    Committed(Xid),
    /// What was prepared under this name is rolled back.
    RolledBack(Xid),
}

/// A transaction whose end hasn't been seen.
#[derive(Debug)]
struct Open {
    gtid: Gtid,
    committed_at_us: u64,
    /// A statement doesn't end it, only XID, COMMIT, ROLLBACK or XA_PREPARE does.
    begun: bool,
    kept: bool,
    ddl: Option<DdlStatement>,
    /// XA_PREPARE ends it.
    xa: bool,
    /// Table ids, and whether the table belongs to the migration.
    tables: HashMap<u64, bool>,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Grouper {
    names: SchemaNames,
    selection: Selection,
    /// Each transaction begins with its GTID. MySQL 5.6 without GTIDs writes nothing in that place.
    has_gtids: bool,
    open: Option<Open>,
}

impl Grouper {
    /// For what a migration moves, and the binlog of a server that has GTIDs or hasn't.
    pub(crate) fn new(selection: Selection, has_gtids: bool) -> Self {
        let names = match selection.schemas_here() {
            Some(schemas) => SchemaNames::new(schemas.iter().map(String::as_str)),
            None => SchemaNames::all(),
        };
        Self { names, selection, has_gtids, open: None }
    }

    /// True between the event that begins a transaction and the one that ends it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// True where whether the open transaction is committed may be said only later, by a group of its own.
    pub(crate) fn is_xa(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.xa)
    }

    /// The transaction that is open.
    pub(crate) fn open_gtid(&self) -> Option<(&Gtid, u64)> {
        self.open.as_ref().map(|open| (&open.gtid, open.committed_at_us))
    }

    /// The connection broke: what was seen of the open transaction will come again.
    pub(crate) fn reset(&mut self) {
        self.open = None;
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, header: &EventHeader, body: &[u8]) -> Result<Step, Malformed> {
        match header.kind {
            kind::GTID | kind::GTID_TAGGED | kind::MARIADB_GTID if !self.has_gtids => Err(Malformed::new(
                "a transaction with a GTID, while the migration follows this server by file and offset, since its \
                 gtid_mode was OFF: it was changed; begin the migration again, and leave gtid_mode as it is until it is \
                 done",
            )),
            kind::ANONYMOUS_GTID if !self.has_gtids => self.begin(gtid::parse_anonymous(header, body)?),
            kind::GTID => self.begin(gtid::parse_mysql(header, body)?),
            kind::GTID_TAGGED => self.begin(gtid::parse_mysql_tagged(header, body)?),
            kind::MARIADB_GTID => self.begin(gtid::parse_mariadb(header, body)?),
            kind::ANONYMOUS_GTID => Err(Malformed::new(
                "a transaction without a GTID, while the migration follows this server by GTIDs: gtid_mode isn't ON any \
                 more; begin the migration again, and leave gtid_mode as it is until it is done",
            )),
            kind::QUERY => self.query(header, body, false),
            kind::MARIADB_QUERY_COMPRESSED => self.query(header, body, true),
            kind::XID => self.close(Xa::No),
            kind::XA_PREPARE => self.xa_prepare(body),
            kind::TABLE_MAP => self.table_map(body),
            rows if RowsShape::of(rows).is_some() => self.rows(body),
            kind::FORMAT_DESCRIPTION | kind::ROTATE | kind::STOP => Ok(self.file_ended()),
            kind::PREVIOUS_GTIDS
            | kind::MARIADB_GTID_LIST
            | kind::MARIADB_BINLOG_CHECKPOINT
            | kind::MARIADB_START_ENCRYPTION
            | kind::MARIADB_ANNOTATE_ROWS
            | kind::ROWS_QUERY
            | kind::IGNORABLE
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            // Context of a statement written as text, which stops the stream by itself where there is one.
            | kind::INTVAR
            | kind::RAND
            | kind::USER_VAR => Ok(Step::Ignore),
            kind::INCIDENT => Err(Malformed::new(
                "the source says that its binlog lacks changes (incident event); begin the migration again",
            )),
            kind::LOAD
            | kind::CREATE_FILE..=kind::NEW_LOAD
            | kind::BEGIN_LOAD_QUERY
            | kind::EXECUTE_LOAD_QUERY => Err(not_row_format("LOAD DATA")),
            _ if header.flags & FLAG_IGNORABLE != 0 => Ok(Step::Ignore),
            other => Err(Malformed::new(format!(
                "an event of type {other}, which isn't understood and may not be skipped; find out what writes it \
                 on the source and turn that off, then begin the migration again"
            ))),
        }
    }

    fn begin(&mut self, event: GtidEvent) -> Result<Step, Malformed> {
        if self.open.is_some() {
            return Err(Malformed::new("a transaction begins before the one before it has ended"));
        }
        self.open = Some(Open {
            gtid: event.gtid,
            committed_at_us: event.committed_at_us,
            begun: event.standalone == Some(false),
            kept: false,
            ddl: None,
            xa: event.begins_xa,
            tables: HashMap::new(),
        });
        Ok(Step::Ignore)
    }

    fn opened(&mut self) -> Result<&mut Open, Malformed> {
        self.open.as_mut().ok_or_else(|| {
            Malformed::new(
                "a change that belongs to no transaction: gtid_mode was changed, or the log is damaged; begin the \
                 migration again",
            )
        })
    }

    fn close(&mut self, xa: Xa) -> Result<Step, Malformed> {
        let open = self.opened()?;
        if open.xa && open.kept && xa == Xa::No {
            return Err(Malformed::new("an XA transaction that holds changes ends without being prepared"));
        }
        let Some(Open { gtid, committed_at_us, ddl, .. }) = self.open.take() else { return Ok(Step::Ignore) };
        Ok(Step::Close(Box::new(Closed { gtid, committed_at_us, ddl, xa })))
    }

    /// A crash of the source can leave a transaction without its end; it was rolled back there.
    fn file_ended(&mut self) -> Step {
        if self.open.take().is_some() { Step::Abort } else { Step::Ignore }
    }

    fn query(&mut self, header: &EventHeader, body: &[u8], compressed: bool) -> Result<Step, Malformed> {
        let query = Query::parse(body, compressed)?;
        let mut statement = classify(query.schema, &query.sql, &self.names);
        if statement == Statement::Ddl && !self.concerns(&query) {
            statement = Statement::Unrelated;
        }
        if self.open.is_none() && !self.has_gtids {
            self.begin(GtidEvent {
                gtid: Gtid::Anonymous,
                committed_at_us: u64::from(header.timestamp) * 1_000_000,
                standalone: None,
                begins_xa: false,
            })?;
        }
        let open = self.opened()?;
        match statement {
            Statement::Begin => {
                open.begun = true;
                Ok(Step::Ignore)
            }
            Statement::XaStart => {
                (open.begun, open.xa) = (true, true);
                Ok(Step::Ignore)
            }
            Statement::Nothing => Ok(Step::Ignore),
            Statement::Commit => self.close(Xa::No),
            // The second half of an XA transaction is a group of its own.
            Statement::Rollback | Statement::RollbackToSavepoint | Statement::XaRollback(_) if open.kept => {
                Err(rolled_back())
            }
            Statement::Rollback => self.close(Xa::No),
            Statement::RollbackToSavepoint => Ok(Step::Ignore),
            Statement::XaCommit(_) if open.kept => {
                Err(Malformed::new("an XA transaction is committed by a group that holds changes of its own"))
            }
            Statement::XaCommit(name) => self.close(Xa::Committed(Xid::parse(&name)?)),
            Statement::XaRollback(name) => self.close(Xa::RolledBack(Xid::parse(&name)?)),
            Statement::RowChange => Err(not_row_format(&kind_of(&String::from_utf8_lossy(&query.sql)))),
            Statement::Unrelated => self.statement_ended(None),
            Statement::Ddl => self.statement_ended(Some(DdlStatement {
                schema: String::from_utf8_lossy(query.schema).into_owned(),
                sql: Bytes::copy_from_slice(&query.sql),
                status: Bytes::copy_from_slice(query.status),
                began_at_s: header.timestamp,
                alone: !self.open.as_ref().is_some_and(|open| open.begun),
            })),
        }
    }

    /// A statement that isn't part of the framing: alone it is the whole group, after a BEGIN (CREATE TABLE …
    /// SELECT) the group goes on.
    fn statement_ended(&mut self, ddl: Option<DdlStatement>) -> Result<Step, Malformed> {
        let open = self.opened()?;
        if open.ddl.is_none() {
            open.ddl = ddl;
        }
        if open.begun { Ok(Step::Ignore) } else { self.close(Xa::No) }
    }

    fn xa_prepare(&mut self, body: &[u8]) -> Result<Step, Malformed> {
        let (commits, xid) = parse_xa_prepare(body)?;
        let open = self.opened()?;
        if !open.xa {
            return Err(Malformed::new("an XA transaction is prepared that wasn't begun as one"));
        }
        self.close(if commits { Xa::OnePhase(xid) } else { Xa::Prepared(xid) })
    }

    fn table_map(&mut self, body: &[u8]) -> Result<Step, Malformed> {
        let map = TableMap::parse(body)?;
        let wanted = self.wants(&map.name)?;
        let open = self.opened()?;
        open.tables.insert(map.table_id, wanted);
        open.kept |= wanted;
        Ok(if wanted { Step::Keep } else { Step::Ignore })
    }

    fn wants(&self, name: &TableName) -> Result<bool, Malformed> {
        match self.selection.known(name) {
            Known::Moved(_) => Ok(true),
            Known::Other => Ok(false),
            Known::Unnamed => Err(Malformed::new(format!(
                "rows of {name}, which has no counterpart on the other side: what would have to be called so there is renamed \
                 (migration.rename), so its changes can't be followed. Give the table another name"
            ))),
        }
    }

    /// False where the names in the statement say that it isn't about anything that is moved.
    fn concerns(&self, query: &Query<'_>) -> bool {
        let readable = query.sql.is_ascii()
            || StatementContext::parse(query.status).is_ok_and(|context| is_readable_in(&context));
        let Ok(schema) = std::str::from_utf8(query.schema) else { return true };
        if !readable {
            return true;
        }
        match Change::parse(&query.sql, schema, self.selection.folds_names()) {
            Change::Unknown => true,
            Change::Schema { name, .. } => self.selection.holds(&name),
            change @ (Change::Routine(_) | Change::Trigger(_) | Change::Event(_))
                if !self.selection.names().is_plain() =>
            {
                change.names().iter().any(|name| self.selection.holds(&name.schema))
            }
            change => change.names().iter().any(|name| self.selection.known(name) != Known::Other),
        }
    }

    fn rows(&mut self, body: &[u8]) -> Result<Step, Malformed> {
        let head = RowsHead::parse(body)?;
        let open = self.opened()?;
        match open.tables.get(&head.table_id) {
            Some(true) => Ok(Step::Keep),
            Some(false) => Ok(Step::Ignore),
            None if head.table_id == DUMMY_TABLE_ID => Ok(Step::Ignore),
            // Not knowing whose rows these are, they can't be dropped.
            None => Err(Malformed::new("rows of a table that was not named before them")),
        }
    }
}

fn not_row_format(what: &str) -> Malformed {
    Malformed::new(format!(
        "{what} is in the binlog as a statement: binlog_format isn't ROW in the session that ran it; set it to ROW, \
         globally and in every session, then begin the migration again"
    ))
}

fn rolled_back() -> Malformed {
    Malformed::new(
        "a transaction that was rolled back, wholly or to a savepoint, is in the binlog because it also changed \
         tables of an engine without transactions; convert these tables to InnoDB, then begin the migration again",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::binlog::fixture::{self, header};
    use proptest::prelude::*;

    fn grouper() -> Grouper {
        Grouper::new(Selection::of_schemas(&["shop"]), true)
    }

    fn mariadb_gtid(sequence: u64, flags: u8) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend_from_slice(&[0, 0, 0, 0, flags]);
        body.extend_from_slice(&[0; 6]);
        body
    }

    fn query(schema: &str, sql: &str) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.push(u8::try_from(schema.len()).unwrap());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(schema.as_bytes());
        body.push(0);
        body.extend_from_slice(sql.as_bytes());
        body
    }

    fn steps(events: &[(u8, Vec<u8>)]) -> Vec<Result<Step, Malformed>> {
        let mut grouper = grouper();
        events.iter().map(|(kind, body)| grouper.event(&header(*kind), body)).collect()
    }

    fn last(events: &[(u8, Vec<u8>)]) -> Result<Step, Malformed> {
        steps(events).pop().unwrap()
    }

    fn is_close(step: &Step, ddl: bool) -> bool {
        matches!(step, Step::Close(closed) if closed.ddl.is_some() == ddl)
    }

    #[test]
    fn a_transaction_keeps_what_is_ours() {
        let events = [
            (kind::MARIADB_GTID, mariadb_gtid(5, 4)),
            (kind::TABLE_MAP, fixture::table_map("other")),
            (kind::WRITE_ROWS_V1, fixture::write_rows(&[1], 1)),
            (kind::TABLE_MAP, fixture::table_map("shop")),
            (kind::WRITE_ROWS_V1, fixture::write_rows(&[1], 1)),
            (kind::XID, vec![0; 8]),
        ];
        let steps: Vec<_> = steps(&events).into_iter().map(Result::unwrap).collect();
        use Step::{Ignore, Keep};
        assert_eq!(steps[..5], [Ignore, Ignore, Ignore, Keep, Keep]);
        assert!(is_close(&steps[5], false));
    }

    #[test]
    fn a_definition_closes_its_group_with_and_without_begin() {
        let standalone = [
            (kind::MARIADB_GTID, mariadb_gtid(5, 1)),
            (kind::QUERY, query("shop", "ALTER TABLE t ADD c INT")),
        ];
        assert!(is_close(&last(&standalone).unwrap(), true));
        let mut events = vec![
            (kind::MARIADB_GTID, mariadb_gtid(5, 4)),
            (kind::QUERY, query("other", "CREATE TABLE shop.x (id INT)")),
            (kind::TABLE_MAP, fixture::table_map("other")),
            (kind::WRITE_ROWS, fixture::write_rows(&[1], 1)),
        ];
        assert_eq!(last(&events).unwrap(), Step::Ignore);
        events.push((kind::QUERY, query("", "COMMIT")));
        assert!(is_close(&last(&events).unwrap(), true));
        let unrelated =
            [(kind::MARIADB_GTID, mariadb_gtid(5, 1)), (kind::QUERY, query("other", "DROP TABLE x"))];
        assert!(is_close(&last(&unrelated).unwrap(), false));
    }

    #[test]
    fn what_is_not_understood_stops() {
        let gtid = (kind::MARIADB_GTID, mariadb_gtid(5, 4));
        let map = (kind::TABLE_MAP, fixture::table_map("shop"));
        let rows = (kind::WRITE_ROWS, fixture::write_rows(&[1], 1));
        let check = |events: &[(u8, Vec<u8>)], needle: &str| {
            let error = last(events).unwrap_err();
            assert!(error.0.contains(needle), "{error}");
        };
        check(&[(200, vec![])], "type 200");
        check(std::slice::from_ref(&rows), "no transaction");
        check(&[gtid.clone(), rows.clone()], "not named");
        check(&[gtid.clone(), gtid.clone()], "before the one before");
        check(&[(kind::ANONYMOUS_GTID, vec![0; 40])], "gtid_mode");
        check(&[gtid.clone(), (kind::QUERY, query("other", "INSERT INTO t VALUES (1)"))], "binlog_format");
        check(&[(kind::INCIDENT, vec![])], "incident");
        check(&[gtid.clone(), map.clone(), (kind::QUERY, query("", "ROLLBACK"))], "rolled back");
        check(&[gtid.clone(), map.clone(), (kind::QUERY, query("", "ROLLBACK TO `a`"))], "rolled back");
        check(&[gtid.clone(), map.clone(), rows, xa_prepare(false)], "wasn't begun");
        check(&[gtid.clone(), map.clone(), (kind::QUERY, query("", "XA COMMIT X'78',X'',1"))], "of its own");
        check(&[gtid.clone(), map, (kind::QUERY, query("", "XA ROLLBACK X'78',X'',1"))], "rolled back");
        check(&[gtid, (kind::QUERY, query("", "XA COMMIT 'x'"))], "isn't written as");
    }

    #[test]
    fn without_gtids_begin_and_commit_alone_frame_a_transaction() {
        let mut grouper = Grouper::new(Selection::of_schemas(&["shop"]), false);
        let mut step = |kind: u8, body: Vec<u8>| grouper.event(&header(kind), &body);
        let begin = || query("shop", "BEGIN");
        // MySQL 5.6, which writes nothing before a transaction; a statement is one of its own.
        for end in [(kind::XID, vec![0; 8]), (kind::QUERY, query("shop", "COMMIT"))] {
            assert_eq!(step(kind::QUERY, begin()).unwrap(), Step::Ignore);
            assert_eq!(step(kind::TABLE_MAP, fixture::table_map("shop")).unwrap(), Step::Keep);
            assert_eq!(step(kind::WRITE_ROWS, fixture::write_rows(&[1], 1)).unwrap(), Step::Keep);
            let Step::Close(closed) = step(end.0, end.1).unwrap() else { panic!() };
            assert_eq!((closed.gtid, closed.committed_at_us), (Gtid::Anonymous, 1_000_000));
        }
        assert!(is_close(&step(kind::QUERY, query("shop", "ALTER TABLE t ADD a INT")).unwrap(), true));
        assert!(is_close(&step(kind::QUERY, query("mysql", "FLUSH PRIVILEGES")).unwrap(), false));
        // Newer ones.
        assert_eq!(step(kind::ANONYMOUS_GTID, vec![0; 42]).unwrap(), Step::Ignore);
        assert_eq!(step(kind::QUERY, begin()).unwrap(), Step::Ignore);
        assert!(is_close(&step(kind::XID, vec![0; 8]).unwrap(), false));
        // A crash left half of one.
        assert_eq!(step(kind::QUERY, begin()).unwrap(), Step::Ignore);
        assert_eq!(step(kind::FORMAT_DESCRIPTION, vec![]).unwrap(), Step::Abort);
        for (kind, body) in [(kind::GTID, vec![0; 25]), (kind::GTID_TAGGED, vec![0; 25])] {
            assert!(step(kind, body).unwrap_err().0.contains("gtid_mode was OFF"));
        }
        assert!(
            step(kind::WRITE_ROWS, fixture::write_rows(&[1], 1)).unwrap_err().0.contains("no transaction")
        );
    }

    #[test]
    fn an_ignorable_event_may_be_unknown() {
        let unknown = EventHeader { flags: FLAG_IGNORABLE, ..header(200) };
        assert_eq!(grouper().event(&unknown, &[]).unwrap(), Step::Ignore);
    }

    #[test]
    fn a_file_that_ends_within_a_transaction_undoes_it() {
        let events = [
            (kind::MARIADB_GTID, mariadb_gtid(5, 4)),
            (kind::TABLE_MAP, fixture::table_map("shop")),
            (kind::FORMAT_DESCRIPTION, vec![]),
        ];
        assert_eq!(last(&events).unwrap(), Step::Abort);
    }

    fn xa_prepare(one_phase: bool) -> (u8, Vec<u8>) {
        let mut body = vec![u8::from(one_phase), 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        body.push(b'x');
        (kind::XA_PREPARE, body)
    }

    #[test]
    fn both_phases_are_told_apart() {
        let xid = Xid::parse("X'78',X'',1").unwrap();
        let xa_of = |step: &Result<Step, Malformed>| match step {
            Ok(Step::Close(closed)) => closed.xa.clone(),
            other => panic!("{other:?}"),
        };
        let rows = [
            (kind::TABLE_MAP, fixture::table_map("shop")),
            (kind::WRITE_ROWS_V1, fixture::write_rows(&[1], 1)),
            (kind::QUERY, query("", "XA END X'78',X'',1")),
        ];
        // MariaDB says that it is one in its GTID event, MySQL by XA START.
        let mariadb = vec![(kind::MARIADB_GTID, mariadb_gtid(5, 64))];
        let mysql = vec![(kind::GTID, vec![0; 25]), (kind::QUERY, query("", "XA START X'78',X'',1"))];
        for (begin, one_phase) in [(&mariadb, false), (&mysql, false), (&mysql, true)] {
            let mut grouper = grouper();
            for (kind, body) in begin {
                assert_eq!(grouper.event(&header(*kind), body).unwrap(), Step::Ignore);
            }
            for ((kind, body), kept) in rows.iter().zip([true, true, false]) {
                assert!(grouper.is_xa());
                let step = grouper.event(&header(*kind), body).unwrap();
                assert_eq!(step == Step::Keep, kept);
            }
            let (kind, body) = xa_prepare(one_phase);
            let expected = if one_phase { Xa::OnePhase(xid.clone()) } else { Xa::Prepared(xid.clone()) };
            assert_eq!(xa_of(&grouper.event(&header(kind), &body)), expected);
            assert!(!grouper.is_xa() && !grouper.is_open());
        }
        for (word, expected) in
            [("COMMIT", Xa::Committed(xid.clone())), ("ROLLBACK", Xa::RolledBack(xid.clone()))]
        {
            let sql = format!("XA {word} X'78',X'',1");
            let events = [(kind::MARIADB_GTID, mariadb_gtid(6, 128)), (kind::QUERY, query("", &sql))];
            assert_eq!(xa_of(&last(&events)), expected);
        }
    }

    proptest! {
        #[test]
        fn garbage_and_truncation_never_panic(
            events in proptest::collection::vec((0_usize..7, 0_usize..80, any::<u8>(), any::<bool>()), 1..12),
            garbage in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..4),
        ) {
            let mut grouper = grouper();
            let samples = fixture::samples();
            for (which, at, byte, cut) in events {
                let (kind, mut body) = samples[which].clone();
                if cut { body.truncate(at); } else if let Some(place) = body.get_mut(at) { *place = byte; }
                drop(grouper.event(&header(kind), &body));
            }
            for (kind, body) in garbage {
                drop(grouper.event(&header(kind), &body));
            }
        }
    }
}
