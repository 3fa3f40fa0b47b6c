//! Sessions that hold everything that moves with a session, each with values of its own. (What holds a session until it is
//! ended, a lock or a transaction, is in tests/sessions.rs and tests/hidden.rs.)

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Statement, Value};

use super::tables::SCHEMA;
use crate::support::server::opts;
use crate::support::{Engine, accounts};

/// Sessions at once.
pub(super) const HOLDERS: u32 = 64;

/// What a session sets, and the question that shows it in terms of every server.
struct Held {
    sets: String,
    shown_by: &'static str,
    shown: String,
}

/// The sessions, and what each must answer wherever it is.
pub(super) struct Holders(Vec<Holder>);

struct Holder {
    id: u32,
    conn: Conn,
    statement: Statement,
    expected: BTreeMap<&'static str, String>,
}

/// A table of session state, one entry a kind; what only some servers have is left out for the others.
fn held(id: u32, (from, to): (Engine, Engine)) -> Vec<Held> {
    let of = |sets: String, shown_by, shown: &str| Held { sets, shown_by, shown: shown.to_owned() };
    let pick = |words: [&'static str; 4]| words[id as usize % 4];
    let mut all = vec![
        of(
            format!("SET SESSION lock_wait_timeout = {}, wait_timeout = {}", 1000 + id, 5000 + id),
            "CONCAT(@@SESSION.lock_wait_timeout, ' ', @@SESSION.wait_timeout)",
            &format!("{} {}", 1000 + id, 5000 + id),
        ),
        of(
            format!("SET SESSION group_concat_max_len = {}", 4000 + id),
            "@@SESSION.group_concat_max_len",
            &(4000 + id).to_string(),
        ),
        of(
            format!("SET SESSION time_zone = '-{:02}:30'", id % 12),
            "@@SESSION.time_zone",
            &format!("-{:02}:30", id % 12),
        ),
        of(
            format!(
                "SET SESSION sql_mode = '{}'",
                pick(["", "ANSI_QUOTES", "PIPES_AS_CONCAT", "ANSI_QUOTES,PIPES_AS_CONCAT"])
            ),
            "CONCAT(FIND_IN_SET('ANSI_QUOTES', @@SESSION.sql_mode) > 0, 'a' || 'b')",
            pick(["00", "10", "0ab", "1ab"]),
        ),
        of(
            format!(
                "SET @n = NULL, @i = -{id}, @d = {id}.50, @f = {id}.5e0, @s = 'it''s {id} ünï', @b = x'00FF27'"
            ),
            "CONCAT_WS('~', @n IS NULL, @i, @d, @f, @s, HEX(@b))",
            &format!("1~-{id}~{id}.50~{id}.5~it's {id} ünï~00FF27"),
        ),
        of(format!("SELECT {id} + 1 INTO @into_it"), "@into_it", &(id + 1).to_string()),
        of(format!("USE {SCHEMA}"), "DATABASE()", SCHEMA),
        of(format!("SET autocommit = {}", id % 2), "@@SESSION.autocommit + 0", &(id % 2).to_string()),
    ];
    let engines = [from, to];
    if !engines.contains(&Engine::Seekdb) {
        all.push(of(
            "SET NAMES latin1 COLLATE latin1_bin".to_owned(),
            "@@SESSION.collation_connection",
            "latin1_bin",
        ));
        all.push(of(
            "SET SESSION max_join_size = 100000, SESSION sql_safe_updates = 1".to_owned(),
            "CONCAT(@@SESSION.max_join_size, @@SESSION.sql_big_selects + 0, @@SESSION.sql_safe_updates + 0)",
            "10000001",
        ));
    }
    all
}

impl Holders {
    pub(super) async fn open(port: u16, pair: (Engine, Engine)) -> Self {
        let mut all = Vec::new();
        for id in 1..=HOLDERS {
            let opts = opts(port, accounts::APP, accounts::APP_PASSWORD, None);
            let mut conn = Conn::new(opts).await.unwrap_or_else(|error| panic!("holder {id}: {error}"));
            let mut expected = BTreeMap::new();
            for Held { sets, shown_by, shown } in held(id, pair) {
                conn.query_drop(&sets).await.unwrap_or_else(|error| panic!("{sets}: {error}"));
                expected.insert(shown_by, shown);
            }
            conn.query_drop("PREPARE by_text FROM 'SELECT ? + @i'").await.unwrap();
            let statement = conn.prep("SELECT ? + 1, CONCAT(?, 'z'), ?").await.unwrap();
            let mut holder = Holder { id, conn, statement, expected };
            holder.check(pair).await;
            holder.conn.query_drop(format!("SELECT LAST_INSERT_ID({})", 70 + id)).await.unwrap();
            holder.conn.query_drop("COMMIT").await.unwrap();
            all.push(holder);
        }
        Self(all)
    }

    /// Each is as it was left.
    pub(super) async fn check(&mut self, pair: (Engine, Engine)) {
        for holder in &mut self.0 {
            let id = holder.id;
            let last: Option<u32> = holder.conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap();
            assert_eq!(last, Some(70 + id));
            holder.check(pair).await;
            // For the next move.
            holder.conn.query_drop(format!("SELECT LAST_INSERT_ID({})", 70 + id)).await.unwrap();
            holder.conn.query_drop("COMMIT").await.unwrap();
        }
    }

    pub(super) async fn close(self) {
        for holder in self.0 {
            holder.conn.disconnect().await.unwrap();
        }
    }
}

impl Holder {
    async fn check(&mut self, (from, to): (Engine, Engine)) {
        let Self { id, conn, statement, expected } = self;
        for (asked, wanted) in &*expected {
            let row: Option<Row> = conn.query_first(format!("SELECT CONCAT({asked}, '')")).await.unwrap();
            let value = row.and_then(|mut row| row.take::<Value, _>(0));
            let Some(Value::Bytes(bytes)) = value else {
                panic!("holder {id}, {from:?} to {to:?}: {asked} is {value:?}")
            };
            // In latin1 the letters of a user variable come as latin1.
            let told = String::from_utf8(bytes)
                .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
            assert_eq!(&told, wanted, "holder {id}, {from:?} to {to:?}: {asked}");
        }
        let row: Option<(i64, String, Option<f64>)> =
            conn.exec_first(&*statement, (*id, "y", Value::NULL)).await.unwrap();
        assert_eq!(row, Some((i64::from(*id) + 1, "yz".to_owned(), None)));
        conn.query_drop("SET @p = 100").await.unwrap();
        let text: Option<i64> = conn.query_first("EXECUTE by_text USING @p").await.unwrap();
        assert_eq!(text, Some(100 - i64::from(*id)));
    }
}
