//! Everything that a binlog holds: what is followed, in each of its forms, and what stops the migration with its
//! position and a sentence.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::Settings;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Server, accounts, compare};

/// The tables of one migration.
const TABLES: &[&str] = &[
    "CREATE TABLE t (id INT PRIMARY KEY, u INT NULL, name VARCHAR(40) CHARACTER SET utf8mb4, UNIQUE KEY u (u)) ENGINE=InnoDB",
    "CREATE TABLE parent (id INT PRIMARY KEY, n INT) ENGINE=InnoDB",
    "CREATE TABLE child (id INT PRIMARY KEY, parent INT NULL, FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE) ENGINE=InnoDB",
    "CREATE TABLE nulled (id INT PRIMARY KEY, parent INT NULL, FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE SET NULL) ENGINE=InnoDB",
    "CREATE TABLE pairs (a VARCHAR(20) CHARACTER SET utf8mb4 NOT NULL, b INT NOT NULL, c VARCHAR(20) CHARACTER SET latin1, x INT, \
     PRIMARY KEY (a, b), UNIQUE KEY c (c)) ENGINE=InnoDB",
    "CREATE TABLE lumps (id INT PRIMARY KEY, body MEDIUMBLOB, doc JSON) ENGINE=InnoDB",
];

/// Rows that are there before the migration.
const ROWS: &[&str] = &[
    "INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two'), (3, NULL, NULL), (4, NULL, 'four'), (10, 10, 'ten')",
    "INSERT INTO parent VALUES (1, 1), (2, 2), (3, 3)",
    "INSERT INTO child VALUES (11, 1), (12, 1), (21, 2), (99, NULL)",
    "INSERT INTO nulled VALUES (11, 1), (21, 2)",
    "INSERT INTO pairs VALUES ('a', 1, 'x', 0), ('B', 1, 'y', 0), ('b', 2, 'Z', 0), ('é', 3, NULL, 0)",
    "INSERT INTO lumps VALUES (1, REPEAT('lump', 1000), '{\"a\": [1, 2, {\"b\": \"text\"}]}')",
];

/// What an application, its tools and its administrators do. Every statement, on one connection.
const WORK: &[&str] = &[
    // Savepoints.
    "BEGIN",
    "INSERT INTO t VALUES (100, 100, 'kept')",
    "SAVEPOINT a",
    "INSERT INTO t VALUES (101, 101, 'undone')",
    "UPDATE t SET name = 'undone' WHERE id = 1",
    "ROLLBACK TO a",
    "INSERT INTO t VALUES (102, 102, 'kept too')",
    "RELEASE SAVEPOINT a",
    "COMMIT",
    "BEGIN",
    "DELETE FROM t",
    "ROLLBACK",
    // Unique values swapped inside a transaction, and across several.
    "BEGIN",
    "UPDATE t SET u = -1 WHERE id = 1",
    "UPDATE t SET u = 1 WHERE id = 2",
    "UPDATE t SET u = 2 WHERE id = 1",
    "COMMIT",
    "UPDATE t SET u = NULL WHERE id = 1",
    "UPDATE t SET u = 2 WHERE id = 10",
    "UPDATE t SET u = 10 WHERE id = 1",
    "REPLACE INTO t VALUES (5, 10, 'displaces 1')",
    "INSERT INTO t VALUES (5, 5, 'x') ON DUPLICATE KEY UPDATE name = 'again', u = u + 1000",
    // Keys that change, also by no more than their case.
    "UPDATE t SET id = id + 1000 WHERE id IN (3, 4)",
    "UPDATE pairs SET a = 'A' WHERE a = 'a'",
    "UPDATE pairs SET a = 'b ', c = 'X' WHERE a = 'B' AND b = 1 AND 0",
    "UPDATE pairs SET b = b + 1 ORDER BY b DESC",
    "UPDATE pairs SET c = 'z' WHERE c = 'Z'",
    "INSERT INTO pairs VALUES ('', 0, '', 1), (' x', -1, 'x ' , 1) ON DUPLICATE KEY UPDATE x = x + 1",
    "DELETE FROM pairs WHERE a = 'É'",
    // Foreign keys that act.
    "DELETE FROM parent WHERE id = 1",
    "BEGIN",
    "INSERT INTO parent VALUES (7, 7)",
    "INSERT INTO child VALUES (71, 7), (72, 7)",
    "DELETE FROM parent WHERE id = 7",
    "INSERT INTO parent VALUES (8, 8)",
    "COMMIT",
    "UPDATE parent SET n = n + 1",
    "SET foreign_key_checks = 0",
    "INSERT INTO child VALUES (500, 12345)",
    "SET foreign_key_checks = 1",
    // Many rows, large rows, and another log file in the middle.
    "INSERT INTO t SELECT 10000 + a.id * 100 + b.id * 7, NULL, 'many' FROM (SELECT DISTINCT id FROM t WHERE id < 200) a, \
     (SELECT DISTINCT id FROM t WHERE id < 200) b ON DUPLICATE KEY UPDATE name = 'met'",
    "FLUSH LOGS",
    "UPDATE t SET name = CONCAT(name, '!') WHERE id >= 10000",
    "INSERT INTO lumps VALUES (2, REPEAT(x'00ff27', 1000000), '[]')",
    "UPDATE lumps SET doc = JSON_SET(doc, '$.a[2].b', 'other', '$.c', 7) WHERE id = 1",
    "FLUSH LOGS",
    "DELETE FROM t WHERE id >= 10000 ORDER BY id LIMIT 3",
    "UPDATE t, parent SET t.name = 'joined', parent.n = 100 WHERE t.id = 2 AND parent.id = 3",
    // What isn't about these tables.
    "CREATE TEMPORARY TABLE scratch (id INT PRIMARY KEY, name VARCHAR(10))",
    "INSERT INTO scratch VALUES (1, 'temp')",
    "BEGIN",
    "INSERT INTO t SELECT id + 200, NULL, name FROM scratch",
    "DROP TEMPORARY TABLE scratch",
    "COMMIT",
    "CREATE DATABASE IF NOT EXISTS elsewhere",
    "USE elsewhere",
    "CREATE TABLE copied AS SELECT 1 AS a UNION SELECT 2",
    "TRUNCATE TABLE copied",
    "DROP TABLE copied",
    "USE events",
    "ANALYZE TABLE t",
    "CREATE USER somebody@localhost IDENTIFIED BY 'their-Secret_9'",
    "DROP USER somebody@localhost",
    // XA in one phase.
    "XA START 'one'",
    "INSERT INTO t VALUES (300, 300, 'xa')",
    "XA END 'one'",
    "XA COMMIT 'one' ONE PHASE",
    "XA START 'undone'",
    "INSERT INTO t VALUES (301, 301, 'xa')",
    "XA END 'undone'",
    "XA ROLLBACK 'undone'",
    // In two phases, under a name that is used again, with nothing of ours, with much.
    "XA START 'two', 'branch', 7",
    "INSERT INTO t VALUES (310, 310, 'xa')",
    "UPDATE t SET name = 'xa too' WHERE id = 300",
    "XA END 'two', 'branch', 7",
    "XA PREPARE 'two', 'branch', 7",
    "XA COMMIT 'two', 'branch', 7",
    "XA START 'two', 'branch', 7",
    "DELETE FROM t",
    "XA END 'two', 'branch', 7",
    "XA PREPARE 'two', 'branch', 7",
    "XA ROLLBACK 'two', 'branch', 7",
    "CREATE TABLE elsewhere.x (id INT PRIMARY KEY) ENGINE=InnoDB",
    "XA START 'two', 'branch', 7",
    "INSERT INTO elsewhere.x VALUES (1)",
    "XA END 'two', 'branch', 7",
    "XA PREPARE 'two', 'branch', 7",
    "XA COMMIT 'two', 'branch', 7",
    "XA START X'00ff27'",
    "INSERT INTO lumps VALUES (3, REPEAT(x'00ff27', 900000), '[]')",
    "INSERT INTO t SELECT 20000 + id, NULL, REPEAT(name, 2) FROM t WHERE id < 200",
    "XA END X'00ff27'",
    "XA PREPARE X'00ff27'",
    "XA COMMIT X'00ff27'",
    "XA START 'many'",
    "UPDATE lumps SET body = CONCAT(body, '!')",
    "XA END 'many'",
    "XA COMMIT 'many' ONE PHASE",
];

async fn at_work(server: &Server, schema: &str) -> Conn {
    let mut conn = server.root().await;
    conn.query_drop(format!("USE {schema}")).await.unwrap();
    conn.query_drop("SET NAMES utf8mb4").await.unwrap();
    conn
}

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

async fn servers(engine: Engine, flags: &[&str]) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(engine, flags), Server::start(engine, &[]));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, "events").await;
    }
    Some((source, target))
}

/// A schema of its own with its migration, which follows.
async fn following(source: &Server, target: &Server, schema: &str) -> (Changeover, Conn) {
    source.run(&[&format!("CREATE DATABASE {schema}")]).await;
    let mut conn = at_work(source, schema).await;
    run(&mut conn, TABLES).await;
    run(&mut conn, ROWS).await;
    let changeover = Changeover::start(Settings::between(source, target, schema)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    (changeover, conn)
}

async fn is_followed(engine: Engine, flags: &[&str], more: &[&str]) {
    let Some((source, target)) = servers(engine, flags).await else { return };
    let (changeover, mut conn) = following(&source, &target, "events").await;
    run(&mut conn, WORK).await;
    run(&mut conn, more).await;
    changeover.wait_applied(&source).await;
    compare::assert_equal(&source, &target, "events").await;
    assert_eq!(changeover.status_of("phase").await, "following");
}

/// Images that lack columns, in a session of a server that logs whole ones.
const IMAGES: &[&str] = &[
    "SET SESSION binlog_row_image = MINIMAL",
    "INSERT INTO t (id, u) VALUES (500, 500)",
    "UPDATE t SET name = 'minimal' WHERE id = 500",
    "SET SESSION binlog_row_image = NOBLOB",
    "UPDATE lumps SET id = id + 900 WHERE id = 1",
    "UPDATE lumps SET body = 'noblob' WHERE id = 901",
    "DELETE FROM t WHERE id = 500",
    "SET SESSION binlog_row_image = FULL",
    "UPDATE lumps SET id = id - 900 WHERE id = 901",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_plain() {
    let flags = ["--binlog-checksum=NONE", "--binlog-annotate-row-events=OFF"];
    is_followed(Engine::MariaDb, &flags, IMAGES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_compressed() {
    let flags = ["--log-bin-compress=ON", "--log-bin-compress-min-len=10", "--binlog-checksum=CRC32"];
    is_followed(Engine::MariaDb, &flags, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_plain() {
    let tagged = [
        "SET gtid_next = 'AUTOMATIC:tagged'",
        "INSERT INTO t VALUES (400, 400, 'tagged')",
        "SET gtid_next = 'AUTOMATIC'",
        "INSERT INTO t VALUES (401, 401, 'untagged')",
        "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
        "UPDATE lumps SET doc = JSON_SET(doc, '$.a[0]', 2) WHERE id = 1",
        "UPDATE lumps SET doc = JSON_SET(doc, '$.a[2].b', '', '$.\"new é\"', JSON_ARRAY(1.50)) WHERE id = 1",
        "UPDATE lumps SET doc = JSON_REMOVE(doc, '$.a[1]'), body = NULL WHERE id = 1",
        "UPDATE lumps SET doc = JSON_REPLACE(doc, '$.\"new é\"[0]', 7), id = 70 WHERE id = 1",
        "UPDATE lumps SET doc = JSON_SET(doc, '$[0]', 'x') WHERE id = 2",
    ];
    is_followed(Engine::MySql97, &["--binlog-checksum=NONE"], &tagged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_compressed() {
    let off = [
        "SET SESSION binlog_transaction_compression = OFF",
        "INSERT INTO t VALUES (400, 400, 'not compressed')",
        "SET SESSION binlog_transaction_compression = ON",
        "INSERT INTO t VALUES (401, 401, 'compressed')",
    ];
    let flags = ["--binlog-transaction-compression=ON", "--binlog-rows-query-log-events=ON"];
    is_followed(Engine::MySql97, &flags, &off).await;
}

/// What stops a migration: the statements, and words of the sentence.
struct Stop {
    what: &'static str,
    statements: &'static [&'static str],
    words: &'static [&'static str],
}

const STOPS: &[Stop] = &[Stop {
    what: "statement",
    statements: &["SET SESSION binlog_format = STATEMENT", "UPDATE t SET name = 'secret-Value' WHERE id = 1"],
    words: &["binlog_format", "ROW", "UPDATE"],
}];

async fn stops(engine: Engine) {
    let Some((source, target)) = servers(engine, &[]).await else { return };
    for Stop { what, statements, words } in STOPS {
        let (changeover, mut conn) = following(&source, &target, &format!("stops_{what}")).await;
        run(&mut conn, statements).await;
        let told = failure(&changeover).await;
        for word in words.iter().chain(&["bin.0"]) {
            assert!(told.contains(word), "{what}: `{word}` isn't in: {told}");
        }
        assert!(!told.contains("secret-Value"), "{what}: a value is shown: {told}");
        conn.disconnect().await.unwrap();
    }
}

/// The sentence of a migration that stops.
async fn failure(changeover: &Changeover) -> String {
    until("the migration to stop", Duration::from_secs(60), async || {
        let mut status = changeover.status().await;
        let phase = status["phase"].clone();
        let error = status.remove("last_error").unwrap_or_default();
        if phase == "failed" { Ok(error) } else { Err(format!("phase {phase}: {error}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_mariadb() {
    stops(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_mysql97() {
    stops(Engine::MySql97).await;
}

/// The source's binlog begins anew, as after RESET or a restore, or lacks what is still needed.
async fn history_is_lost(engine: Engine) {
    let Some((source, target)) = servers(engine, &[]).await else { return };
    let (mut changeover, mut conn) = following(&source, &target, "purged").await;
    run(&mut conn, &["INSERT INTO t VALUES (60, 60, 'before')"]).await;
    changeover.wait_applied(&source).await;
    changeover.kill_9();
    run(
        &mut conn,
        &["INSERT INTO t VALUES (61, 61, 'missed')", "FLUSH LOGS", "INSERT INTO t VALUES (62, 62, 'there')"],
    )
    .await;
    let file: String = match engine {
        Engine::MariaDb => first_cell(&source, "SHOW MASTER STATUS").await,
        _ => first_cell(&source, "SHOW BINARY LOG STATUS").await,
    };
    // A log that the killed connection still reads isn't purged.
    until("the logs to be purged", Duration::from_secs(60), async || {
        source.run(&[&format!("PURGE BINARY LOGS TO '{file}'")]).await;
        let first = first_cell(&source, "SHOW BINARY LOGS").await;
        if first == file { Ok(()) } else { Err(first) }
    })
    .await;
    changeover.start_again().await;
    let told = failure(&changeover).await;
    assert!(told.contains("no longer has") && told.contains("begin the migration again"), "{told}");
    drop(changeover);

    let (changeover, mut conn) = following(&source, &target, "rewound").await;
    run(&mut conn, &["INSERT INTO t VALUES (60, 60, 'before')"]).await;
    changeover.wait_applied(&source).await;
    let reset = if engine == Engine::MariaDb { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" };
    run(&mut conn, &[reset, "INSERT INTO t VALUES (61, 61, 'of another history')"]).await;
    let told = failure(&changeover).await;
    assert!(told.to_lowercase().contains("begin the migration again"), "{told}");
    assert_eq!(target.value::<u32>("SELECT COUNT(*) FROM rewound.t WHERE id = 61").await, 0);
}

async fn first_cell(server: &Server, sql: &str) -> String {
    server.rows::<mysql_async::Row>(sql).await.remove(0).get(0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_loses_its_history() {
    history_is_lost(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_loses_its_history() {
    history_is_lost(Engine::MySql97).await;
}
