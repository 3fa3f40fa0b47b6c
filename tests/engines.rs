//! Sessions that move between kinds of servers: their state is the same on both, as far as both have it, or they
//! stay and say why. `move_every = 1` moves them before every statement, by the code that a cutover uses.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::Settings;
use crate::support::server::opts;
use crate::support::{Changeover, Engine, Server, accounts};

/// What a session sets, in this order; the first goes to the source.
const STATE: &[&str] = &[
    // Exactly the source's global value, and not the target's.
    "SET SESSION lock_wait_timeout = 77",
    "SET SESSION time_zone = '-07:30'",
    "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
    "SET @n = NULL, @i = -7, @d = 1.50, @f = 2.5e0, @s = 'it''s \\ ünï', @b = x'00FF27'",
    "SELECT 41 + 1 INTO @into",
    "SET SESSION wait_timeout = 5000, group_concat_max_len = 4321",
    "USE shop",
    "PREPARE text_one FROM 'SELECT ? + 1'",
    "SET @p = 8",
    "SET autocommit = 0",
];

/// What shows it, in terms that every server has.
const ASKED: &str = "@@SESSION.lock_wait_timeout, @@SESSION.time_zone, FIND_IN_SET('ANSI_QUOTES', @@SESSION.sql_mode) > 0, \
     'a' || 'b', @n, @i, @d, @f, @s, HEX(@b), @into, @@SESSION.wait_timeout, @@SESSION.group_concat_max_len, \
     DATABASE(), @@SESSION.autocommit + 0, @@SESSION.character_set_client";

/// Two servers with an account that every authentication plugin lets in, a Changeover that moves its session before
/// every statement, and that session.
pub struct Bed {
    servers: [Server; 2],
    changeover: Changeover,
    pub conn: Conn,
}

impl Bed {
    pub async fn start(from: Engine, to: Engine) -> Option<Self> {
        Self::start_with(from, to, &[]).await
    }

    /// With more on both servers.
    pub async fn start_with(from: Engine, to: Engine, on_both: &[&str]) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(from, &[]), Server::start(to, &[]));
        Some(Self::between(source?, target?, &[], on_both).await)
    }

    /// With `source_runs` on the source before the session begins.
    pub async fn between(source: Server, target: Server, source_runs: &[&str], on_both: &[&str]) -> Self {
        for server in [&source, &target] {
            accounts::create(server, "shop").await;
            server
                .run(&["CREATE DATABASE shop", "CREATE USER anyone@'%'", "GRANT ALL ON shop.* TO anyone@'%'"])
                .await;
            server.run(on_both).await;
        }
        source.run(&["SET GLOBAL lock_wait_timeout = 77"]).await;
        source.run(source_runs).await;
        let settings = Settings::between(&source, &target, "shop").with("proxy.move_every", "1");
        let changeover = Changeover::start(settings).await;
        let conn = Conn::new(opts(changeover.port(), "anyone", "", None)).await.unwrap();
        Self { servers: [source, target], changeover, conn }
    }

    /// The answer of each server to the same question, by its version.
    pub async fn both(&mut self, asked: &str) -> BTreeMap<String, Vec<String>> {
        let mut answers = BTreeMap::new();
        for _ in 0..4 {
            let sql = format!("SELECT @@version, CONCAT_WS('|', {asked})");
            // A server that doesn't know a name in it isn't the one that was meant.
            let Ok(row) = self.conn.query_first::<(String, String), _>(&sql).await else { continue };
            let (version, answer) = row.unwrap();
            answers.entry(version).or_insert_with(Vec::new).push(answer);
        }
        answers
    }

    /// Runs it on whichever of the two takes it.
    pub async fn on_one(&mut self, sql: &str) {
        let mut why = String::new();
        for _ in 0..3 {
            match self.conn.query_drop(sql).await {
                Ok(()) => return,
                Err(error) => why = error.to_string(),
            }
        }
        panic!("{sql}: {why}");
    }

    /// As root, on both.
    pub async fn run(&self, statements: &[&str]) {
        for server in &self.servers {
            server.run(statements).await;
        }
    }

    pub async fn session(&self, column: &str) -> String {
        self.changeover.admin("SHOW SESSIONS").await[0][column].clone()
    }
}

async fn state_is_the_same(from: Engine, to: Engine) -> Option<Bed> {
    let mut bed = Bed::start(from, to).await?;
    for sql in STATE {
        bed.conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let answers = bed.both(ASKED).await;
    assert_eq!(answers.len(), 2, "it didn't move: {answers:?}; {}", bed.session("pinned_by").await);
    let expected = "77|-07:30|1|ab|-7|1.50|2.5|it's  ünï|00FF27|42|5000|4321|shop|0|utf8mb4";
    for (version, rows) in &answers {
        assert!(rows.iter().all(|row| row == expected), "{version}: {rows:?}");
    }
    // Each server has it under a name of its own; some under both.
    let mut levels = bed.both("@@SESSION.transaction_isolation").await;
    levels.extend(bed.both("@@SESSION.tx_isolation").await);
    assert_eq!(levels.len(), 2, "{levels:?}");
    assert!(levels.values().flatten().all(|level| level == "SERIALIZABLE"), "{levels:?}");

    let statement = bed.conn.prep("SELECT ? + 1, CONCAT(?, 'ü')").await.unwrap();
    for number in 1..4 {
        let row: Option<(i64, String)> = bed.conn.exec_first(&statement, (number, "x")).await.unwrap();
        assert_eq!(row, Some((number + 1, "xü".to_owned())));
        let text: Option<i64> = bed.conn.query_first("EXECUTE text_one USING @p").await.unwrap();
        assert_eq!(text, Some(9));
        bed.conn.query_drop("SELECT LAST_INSERT_ID(41)").await.unwrap();
        let last: Option<u64> = bed.conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap();
        assert_eq!(last, Some(41));
    }
    Some(bed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_and_mysql97() {
    let Some(mut bed) = state_is_the_same(Engine::MariaDb, Engine::MySql97).await else { return };
    // A collation that only one has, and the other's nearest.
    bed.on_one("SET collation_connection = utf8mb4_0900_as_cs").await;
    for (version, rows) in bed.both("@@SESSION.collation_connection, COLLATION('a')").await {
        let name =
            if version.contains("Maria") { "utf8mb4_uca1400_nopad_as_cs" } else { "utf8mb4_0900_as_cs" };
        assert!(rows.iter().all(|row| *row == format!("{name}|{name}")), "{version}: {rows:?}");
    }
    let mut said = bed.session("mapped").await;
    if !said.contains("collation_connection") {
        bed.conn.query_drop("DO 1").await.unwrap();
        said = bed.session("mapped").await;
    }
    assert!(said.contains("collation_connection"), "{said}");
    // How fractions of seconds become whole is the session's, not the server's.
    let fractions = bed.both("CAST('2026-01-01 00:00:00.6' AS DATETIME)").await;
    let seen: Vec<_> = fractions.values().flatten().collect();
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{fractions:?}");
    // A word that changes what statements do, and that MySQL lacks, holds the session.
    bed.on_one("SET sql_mode = 'EMPTY_STRING_IS_NULL'").await;
    let held = bed.both("@@SESSION.sql_mode").await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(held.keys().all(|version| version.contains("Maria")), "{held:?}");
    assert_eq!(bed.session("pinned_by").await, "sql_mode that the other server lacks");
    bed.conn.query_drop("SET sql_mode = ''").await.unwrap();
    assert_eq!(bed.both("@@SESSION.lock_wait_timeout").await.len(), 2, "it moves again");
    assert_eq!(bed.session("pinned_by").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_and_mysql97() {
    let Some(mut bed) = state_is_the_same(Engine::MySql56, Engine::MySql97).await else { return };
    // A word that 9.7 no longer has, and doesn't need.
    bed.on_one("SET sql_mode = 'NO_AUTO_CREATE_USER,STRICT_TRANS_TABLES'").await;
    for (version, rows) in bed.both("FIND_IN_SET('STRICT_TRANS_TABLES', @@SESSION.sql_mode) > 0").await {
        assert!(rows.iter().all(|row| row == "1"), "{version}: {rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_and_mariadb() {
    let _ = state_is_the_same(Engine::MySql56, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_and_seekdb() {
    let Some(mut bed) = state_is_the_same(Engine::MariaDb, Engine::Seekdb).await else { return };
    // seekdb has no latin1 at all.
    bed.on_one("SET NAMES latin1").await;
    let held = bed.both("@@SESSION.character_set_client").await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(bed.session("pinned_by").await, "character set that the other server lacks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_and_seekdb() {
    let _ = state_is_the_same(Engine::MySql97, Engine::Seekdb).await;
}
