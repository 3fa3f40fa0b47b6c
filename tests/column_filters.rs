//! Column filters: columns that aren't moved, through writers, kills, DDL, a cutover and the way back. Equal means: what the
//! new server holds is what the old one has in the other columns; and what was in these is there still.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{self, Settings};
use crate::support::wait::until;
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Server, accounts};

const SCHEMA: &str = "shop";
const LIMIT: Duration = Duration::from_secs(60);
const RULE: &str = "[{ table = \"shop.users\", exclude = [\"secret\", \"Hash\", \"seen\", \"notes\"] }, \
                    { table = \"shop.t%\", exclude = [\"notes\"] }]";
/// Of the tables that rules are about, what isn't moved.
const LEFT_OUT: &str = "TABLE_NAME = 'users' AND COLUMN_NAME IN ('secret', 'hash', 'seen', 'notes')
                        OR TABLE_NAME LIKE 't%' AND COLUMN_NAME = 'notes'";

/// What is left out stands in front, between and behind, and in every kind of key that it may stand in.
const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.users (secret VARCHAR(40) NULL, id INT NOT NULL, name VARCHAR(20) NOT NULL DEFAULT '',
        hash BINARY(8) NOT NULL DEFAULT 'none', email VARCHAR(30) NULL,
        seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, n INT NULL, notes TEXT NULL,
        PRIMARY KEY (id), UNIQUE KEY email (email), UNIQUE KEY secret (secret), KEY mixed (n, hash, name),
        KEY hashes (hash)) ENGINE=InnoDB DEFAULT CHARSET=latin1",
    "CREATE TABLE shop.teams (id INT PRIMARY KEY, notes TEXT, name VARCHAR(20)) ENGINE=InnoDB",
    "CREATE TABLE shop.towns (id INT PRIMARY KEY, name VARCHAR(20)) ENGINE=InnoDB",
    "CREATE TABLE shop.plain (id INT PRIMARY KEY, notes VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO shop.teams VALUES (1, 'a', 'one'), (2, 'b', 'two')",
    "INSERT INTO shop.towns VALUES (1, 'one')",
    "INSERT INTO shop.plain VALUES (1, 'one')",
];

struct Bed {
    source: Server,
    target: Server,
    /// What the target calls the schema.
    called: &'static str,
}

impl Bed {
    async fn start(from: Engine, to: Engine, flags: &[&str]) -> Option<Self> {
        Self::called(SCHEMA, from, to, flags).await
    }

    async fn called(called: &'static str, from: Engine, to: Engine, flags: &[&str]) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(from, flags), Server::start(to, flags));
        let bed = Self { source: source?, target: target?, called };
        for (server, schema) in [(&bed.source, SCHEMA), (&bed.target, called)] {
            accounts::create(server, schema).await;
        }
        bed.source.run(TABLES).await;
        for batch in 0..10 {
            let rows: Vec<String> = (batch * 100..batch * 100 + 100)
                .map(|id| {
                    format!(
                        "('s{id}', {id}, 'n', 'h{id}', 'e{id}', '2001-02-03 04:05:06', {id}, 'it''s {id}')"
                    )
                })
                .collect();
            let insert = "INSERT INTO shop.users (secret, id, name, hash, email, seen, n, notes) VALUES";
            bed.source.run(&[&format!("{insert} {}", rows.join(","))]).await;
        }
        Some(bed)
    }

    fn settings(&self) -> Settings {
        let settings = Settings::between(&self.source, &self.target, SCHEMA)
            .with("migration.columns", RULE)
            .with("snapshot.chunk_rows", "100");
        match self.called {
            SCHEMA => settings,
            called => {
                settings.with("migration.rename", &format!("[{{ from = \"{SCHEMA}\", to = \"{called}\" }}]"))
            }
        }
    }

    async fn assert_equal(&self) {
        let columns = async |server: &Server,
                             schema: &str,
                             condition: &str|
               -> BTreeMap<String, Vec<String>> {
            let sql = format!(
                "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{schema}' AND {condition}
                 ORDER BY TABLE_NAME, ORDINAL_POSITION"
            );
            let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (table, column) in server.rows::<(String, String)>(&sql).await {
                tables.entry(table).or_default().push(column);
            }
            tables
        };
        let wanted = columns(&self.source, SCHEMA, &format!("NOT ({LEFT_OUT})")).await;
        assert_eq!(wanted, columns(&self.target, self.called, "TRUE").await, "the new server's tables");
        assert!(wanted.len() >= 4);
        for (table, columns) in wanted {
            let shown: Vec<String> = columns.iter().map(|name| format!("IFNULL(HEX({name}), 'N')")).collect();
            let shown = shown.join(", ");
            let rows = async |server: &Server, schema: &str| {
                let sql =
                    format!("SELECT CONCAT_WS('|', {shown}) AS shown FROM {schema}.{table} ORDER BY shown");
                shown_rows(server, &sql).await
            };
            let (old, new) = (rows(&self.source, SCHEMA).await, rows(&self.target, self.called).await);
            let only = |a: &[String], b: &[String]| -> Vec<String> {
                a.iter().filter(|row| !b.contains(row)).take(5).cloned().collect()
            };
            assert!(
                old == new,
                "{table}: {} and {} rows, only on the source {:?}, only on the target {:?}",
                old.len(),
                new.len(),
                only(&old, &new),
                only(&new, &old)
            );
        }
    }

    /// What the old server's users have in the columns that aren't moved, by the key.
    async fn left_out(&self) -> BTreeMap<i64, String> {
        let sql = "SELECT id, CONCAT_WS('|', IFNULL(HEX(secret), 'N'), HEX(hash), UNIX_TIMESTAMP(seen), IFNULL(HEX(notes), 'N'))
                   FROM shop.users";
        self.source.rows::<(i64, String)>(sql).await.into_iter().collect()
    }
}

/// Times as they are printed in one zone.
async fn shown_rows(server: &Server, sql: &str) -> Vec<String> {
    let mut conn = server.root().await;
    conn.query_drop("SET time_zone = '+00:00'").await.unwrap();
    let rows = conn.query(sql).await.unwrap();
    conn.disconnect().await.unwrap();
    rows
}

/// Sessions that write on the old server.
async fn writers(server: &Server) -> Writers {
    let sessions = Mutex::new(vec![server.root().await, server.root().await]);
    Writers::start(2, move |_, mut turns| {
        let mut conn = sessions.lock().unwrap().pop().unwrap();
        async move {
            while let Some(turn) = turns.throw().await {
                write(&mut conn, turn).await;
                turns.committed();
            }
            conn.disconnect().await.unwrap();
        }
    })
}

async fn write(conn: &mut Conn, turn: u64) {
    let (id, other) = (turn / 16 % 1200, turn / 8 % 1200);
    let sql = match turn % 9 {
        0 => format!(
            "INSERT IGNORE INTO shop.users (id, secret, name, notes) VALUES ({id}, 'w{turn}', 'new', 'x')"
        ),
        1 | 2 => {
            format!("UPDATE shop.users SET notes = REPEAT('{turn}', 40), secret = 'w{turn}' WHERE id = {id}")
        }
        3 => format!("UPDATE shop.users SET hash = '{id}', n = {other} WHERE id BETWEEN {id} AND {id} + 5"),
        4 => format!("UPDATE shop.users SET name = '{other}', email = NULL WHERE id = {id}"),
        5 => format!("UPDATE IGNORE shop.users SET id = {other}, email = 'e{other}' WHERE id = {id}"),
        6 => format!("DELETE FROM shop.users WHERE id = {id}"),
        7 => format!("REPLACE INTO shop.users (id, name, secret) VALUES ({id}, 'replaced', 'w{turn}')"),
        _ => format!("REPLACE INTO shop.teams VALUES ({}, 'n{turn}', '{}')", id % 50, other % 3),
    };
    match conn.query_drop(&sql).await {
        Ok(()) => {}
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1062 | 1205 | 1213) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// What a migration may meet: statements that are run, and that make tables be copied anew.
const DEFINITIONS: &[&str] = &[
    "ALTER TABLE shop.users ADD c INT",
    "UPDATE shop.users SET c = id, notes = 'c'",
    "ALTER TABLE shop.users DROP COLUMN c, ADD INDEX (name)",
    "UPDATE shop.users SET notes = 'after', n = 1 WHERE id < 20",
    "ALTER TABLE shop.users ADD d INT DEFAULT 4 AFTER secret",
    "UPDATE shop.users SET d = n, notes = 'd' WHERE id > 20",
    "ALTER TABLE shop.users MODIFY notes LONGTEXT, DROP INDEX hashes, ADD e INT",
    "UPDATE shop.users SET e = d, notes = 'e' WHERE id > 30",
    "CREATE TABLE shop.tags (id INT PRIMARY KEY, notes VARCHAR(9), v INT) ENGINE=InnoDB",
    "INSERT INTO shop.tags VALUES (1, 'one', 1), (2, 'two', 2)",
    "CREATE TABLE shop.tags_too LIKE shop.tags",
    "INSERT INTO shop.tags_too VALUES (1, 'one', 1)",
    // As tools alter online: the ghost is under the same filter.
    "CREATE TABLE shop.tags_gho LIKE shop.tags",
    "ALTER TABLE shop.tags_gho ADD w INT",
    "INSERT INTO shop.tags_gho (id, notes, v) SELECT id, notes, v FROM shop.tags",
    "RENAME TABLE shop.tags TO shop.tags_del, shop.tags_gho TO shop.tags",
    "UPDATE shop.tags SET w = id, notes = 'w'",
    "UPDATE shop.tags SET notes = 'x'",
    "CREATE TABLE shop.copy_of_users LIKE shop.users",
    "INSERT INTO shop.copy_of_users (id, secret) VALUES (1, 'moved')",
    "RENAME TABLE shop.plain TO shop.t_plain",
    "INSERT INTO shop.t_plain VALUES (2, 'two')",
    "ALTER TABLE shop.towns ADD notes INT",
    "UPDATE shop.towns SET notes = 7",
    "RENAME TABLE shop.teams TO shop.t_teams",
    "INSERT INTO shop.t_teams VALUES (99, 'x', 'y')",
    "ALTER TABLE shop.t_teams DROP COLUMN notes",
    "INSERT INTO shop.t_teams VALUES (98, 'y')",
];

/// Copy and tail under writers, with kills, then DDL.
async fn forth(bed: &Bed, failpoints: &[&str]) -> Changeover {
    let writers = writers(&bed.source).await;
    let changeover = Changeover::start_and_die(bed.settings(), failpoints).await;
    changeover.wait_ready().await;
    writers.close().await;
    changeover.wait_applied(&bed.source).await;
    bed.assert_equal().await;
    bed.source.run(DEFINITIONS).await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    bed.assert_equal().await;
    // A difference in what isn't moved is none.
    bed.source.run(&["UPDATE shop.users SET notes = 'alone', secret = NULL WHERE id % 3 = 0"]).await;
    changeover.wait_applied(&bed.source).await;
    changeover.admin("VERIFY").await;
    changeover.wait_ready().await;
    assert_eq!(changeover.status_of("differences").await, "0");
    changeover
}

/// Rows as the application wants them, with known keys.
async fn fresh_rows(server: &Server) {
    let rows: Vec<String> = (1..=60)
        .map(|id| format!("('k{id}', {id}, 'n', 'h{id}', 'f{id}', '2002-02-03 04:05:06', {id}, 'kept {id}')"))
        .collect();
    let insert = "INSERT INTO shop.users (secret, id, name, hash, email, seen, n, notes) VALUES";
    server.run(&["DELETE FROM shop.users", &format!("{insert} {}", rows.join(","))]).await;
}

/// What the application does on the new server, and what has to stand in the old one's columns then.
async fn there(bed: &Bed, changeover: &Changeover, app: &mut Conn) {
    let before = bed.left_out().await;
    for sql in [
        "UPDATE users SET n = n + 1",
        "UPDATE users SET id = id + 100000 WHERE id BETWEEN 10 AND 19",
        "INSERT INTO users (id, name, n) VALUES (900001, 'new', 1), (900002, 'new', 2)",
        "INSERT INTO users (id, name) VALUES (5, 'n') ON DUPLICATE KEY UPDATE name = 'upserted'",
        "BEGIN",
        "DELETE FROM users WHERE id = 3",
        "INSERT INTO users (id, name, n) VALUES (3, 'again', 1)",
        "UPDATE users SET n = n + 1 WHERE id = 3",
        "UPDATE users SET email = NULL WHERE id = 1",
        "UPDATE users SET email = 'f1' WHERE id = 2",
        "UPDATE users SET email = 'f2' WHERE id = 1",
        "UPDATE users SET id = 700001 WHERE id = 30",
        "UPDATE users SET id = 30 WHERE id = 31",
        "UPDATE users SET id = 31 WHERE id = 700001",
        "DELETE FROM users WHERE id = 6",
        "COMMIT",
        "REPLACE INTO tags (id, v, w) VALUES (1, 10, 100), (3, 30, 300)",
    ] {
        app.query_drop(sql).await.unwrap();
    }
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal().await;
    let after = bed.left_out().await;
    let fresh = |id: i64| {
        let row = &after[&id];
        assert!(row.starts_with("N|6E6F6E6500000000|") && row.ends_with("|N"), "{id}: {row}");
    };
    [3, 900_001, 900_002].into_iter().for_each(fresh);
    assert!(!after.contains_key(&6));
    for (id, row) in &before {
        let now = match id {
            3 | 6 => continue,
            10..=19 => id + 100_000,
            30 => 31,
            31 => 30,
            id => *id,
        };
        assert_eq!(after.get(&now), Some(row), "{id}, which is {now} now");
    }
    assert_eq!(after.len(), before.len() + 1);
}

async fn moved(from: Engine, to: Engine, flags: &[&str], failpoints: &[&str]) {
    if let Some(bed) = Bed::start(from, to, flags).await {
        moved_and_back(bed, to, failpoints).await;
    }
}

async fn moved_and_back(bed: Bed, to: Engine, failpoints: &[&str]) {
    let changeover = forth(&bed, failpoints).await;
    let conversions = changeover.admin("SHOW CONVERSIONS").await;
    let said = |object: &str, kind: &str| {
        conversions.iter().any(|row| row["object"] == object && row["kind"] == kind && row["lossy"] == "0")
    };
    assert!(said("users.notes", "column") && said("users.secret", "index"), "{conversions:?}");
    fresh_rows(&bed.source).await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    if to == Engine::Seekdb {
        changeover.cut_over_by("CUTOVER WITHOUT ROLLBACK").await;
        bed.assert_equal().await;
        return;
    }
    changeover.cut_over().await;
    let mut app = changeover.app(Some(SCHEMA)).await;
    there(&bed, &changeover, &mut app).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    changeover.turn().await;
    assert_eq!(changeover.status_of("route").await, "source");
    // Where it is it has all its columns again.
    for sql in [
        "UPDATE users SET notes = 'back', n = 5 WHERE id = 900001",
        "UPDATE users SET secret = 'back' WHERE id = 900002",
        "INSERT INTO users (id, secret, notes) VALUES (900003, 'third', 'third')",
    ] {
        app.query_drop(sql).await.unwrap();
    }
    changeover.wait_applied(&bed.source).await;
    bed.assert_equal().await;
    changeover.turn().await;
    let before = bed.left_out().await;
    app.query_drop("UPDATE users SET n = 6 WHERE id > 900000").await.unwrap();
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal().await;
    assert_eq!(bed.left_out().await, before);
    assert!(before[&900_003].starts_with("7468697264|"), "{before:?}");
    // Nobody alters the table of the old server by a text that is meant for another.
    app.query_drop("ALTER TABLE users ADD later INT").await.unwrap();
    let error = changeover.stopped().await;
    assert!(error.contains("shop.users has columns that aren't moved"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_mysql97() {
    moved(Engine::MariaDb, Engine::MySql97, &[], &["snapshot.chunk.committed", "apply.batch.committed"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_to_mariadb() {
    moved(Engine::MySql97, Engine::MariaDb, &[], &["snapshot.chunk.journalled"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_to_mariadb() {
    moved(Engine::MySql56, Engine::MariaDb, &[], &["apply.batch.committed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_mariadb() {
    moved(Engine::MariaDb, Engine::MariaDb, &[], &["snapshot.chunk.committed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_to_mysql97() {
    moved(Engine::MySql97, Engine::MySql97, &[], &["snapshot.chunk.committed"]).await;
}

/// Into a schema of another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_mysql97_under_another_name() {
    if let Some(bed) = Bed::called("store", Engine::MariaDb, Engine::MySql97, &[]).await {
        moved_and_back(bed, Engine::MySql97, &["snapshot.chunk.committed"]).await;
    }
}

/// Images that lack columns: an update of nothing but columns that aren't moved has none of the others in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_mariadb_with_minimal_images() {
    moved(Engine::MariaDb, Engine::MariaDb, &["--binlog-row-image=MINIMAL"], &["snapshot.whole.defined"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_seekdb() {
    moved(Engine::MariaDb, Engine::Seekdb, &[], &["apply.batch.committed"]).await;
}

/// Rows that are wrong on the old server are made right on the way back, and keep what isn't moved; a filter that changes
/// stops the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repaired_on_the_way_back() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb, &[]).await else { return };
    let mut changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.kill_9();
    changeover.set("migration.columns", &RULE.replace("\"notes\"", "\"note\""));
    changeover.start_again().await;
    let error = changeover.stopped().await;
    assert!(error.contains("migration.columns") && error.contains("was changed"), "{error}");
    changeover.kill_9();
    changeover.set("migration.columns", RULE);
    changeover.start_again().await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let before = bed.left_out().await;
    bed.source
        .run(&[
            "SET sql_log_bin = 0",
            "UPDATE shop.users SET n = -1, seen = seen WHERE id IN (1, 2, 3)",
            "DELETE FROM shop.users WHERE id = 4",
            "INSERT INTO shop.users (id, secret) VALUES (800000, 'extra')",
        ])
        .await;
    until("a verification", LIMIT, async || changeover.try_admin("VERIFY").await).await;
    until("the differences to be listed", LIMIT, async || {
        let found = changeover.status_of("differences").await;
        if found == "5" { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(changeover.admin("REPAIR").await.len(), 5);
    bed.assert_equal().await;
    let after = bed.left_out().await;
    assert!(after[&4].starts_with("N|"), "its own are gone with it: {}", after[&4]);
    let others = |rows: &BTreeMap<i64, String>| -> BTreeMap<i64, String> {
        rows.iter().filter(|(id, _)| **id != 4).map(|(id, row)| (*id, row.clone())).collect()
    };
    assert_eq!(others(&after), others(&before));
    // What others write there to nothing but these columns is no business of the migration.
    bed.source
        .run(&[
            "UPDATE shop.users SET notes = 'elsewhere', secret = NULL, seen = seen WHERE id BETWEEN 20 AND 29",
            "UPDATE shop.users SET n = 0 WHERE id = 30",
        ])
        .await;
    until("the stray write", LIMIT, async || {
        let rows = changeover.admin("SHOW STRAY WRITES").await;
        let found: Vec<_> = rows.iter().map(|row| (row["table"].as_str(), row["rows"].as_str())).collect();
        if found == [("users", "1")] { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

/// A column without a default can't be filled on the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_default_there_is_no_way_back() {
    let Some(bed) = Bed::start(Engine::MySql97, Engine::MySql97, &[]).await else { return };
    bed.source.run(&["ALTER TABLE shop.teams MODIFY notes VARCHAR(30) NOT NULL"]).await;
    let (code, said) = changeover::check(&bed.settings());
    assert!(code == 0 && said.contains("there is no way back") && said.contains("NOT NULL"), "{said}");
    let changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("shop.teams") && refused.contains("WITHOUT ROLLBACK"), "{refused}");
    // Its definition may change meanwhile.
    bed.source.run(&["ALTER TABLE shop.teams MODIFY notes VARCHAR(30) NULL"]).await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    bed.assert_equal().await;
}

/// Definitions of nothing but columns that aren't moved.
const BESIDE: &[&str] = &[
    "ALTER TABLE shop.users MODIFY secret VARCHAR(300) NULL",
    "UPDATE shop.users SET secret = CONCAT(REPEAT('x', 270), id), n = 1 WHERE id < 50",
    "UPDATE shop.users SET notes = NULL",
    "ALTER TABLE shop.users MODIFY COLUMN notes DECIMAL(9, 2) NULL",
    "UPDATE shop.users SET notes = id, n = 2 WHERE id < 100",
    "ALTER TABLE shop.users DROP INDEX hashes, DROP COLUMN hash",
    "UPDATE shop.users SET notes = NULL, n = 3 WHERE id < 150",
    "ALTER TABLE shop.users MODIFY notes SET('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j')",
    "UPDATE shop.users SET notes = 'b,j', n = 4 WHERE id < 200",
    "UPDATE shop.users SET notes = NULL",
    "ALTER TABLE shop.users MODIFY notes BIT(17) NULL",
    "UPDATE shop.users SET notes = 70000, n = 5 WHERE id < 250",
    "UPDATE shop.users SET notes = NULL",
    "ALTER TABLE shop.users MODIFY notes DATETIME NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP",
    "UPDATE shop.users SET notes = '2003-02-01 00:00:00', n = n + 6 WHERE id < 300",
    "ALTER TABLE shop.teams DROP COLUMN notes",
    "INSERT INTO shop.teams VALUES (77, 'last')",
];

/// What is about nothing but columns that aren't moved has no table copied, wherever the source is by then; and what is in them
/// stays on the way back.
async fn nothing_is_copied_for_them(from: Engine, to: Engine) {
    let Some(bed) = Bed::start(from, to, &[]).await else { return };
    let settings = bed.settings().with("migration.ddl", "\"pause\"");
    let mut changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    // The source has all of them behind it before the first one is met.
    changeover.kill_9();
    bed.source.run(BESIDE).await;
    assert!(changeover.start_to_die("ddl.defined").await || changeover.ended().is_some());
    assert!(!changeover.wait_end().await.success());
    changeover.start_again_plain().await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    bed.assert_equal().await;
    assert!(!changeover.log().contains("copied anew"), "a table was copied anew");
    changeover.cut_over().await;
    let kept = "SELECT CONCAT_WS('|', id, IFNULL(secret, 'N'), UNIX_TIMESTAMP(seen), IFNULL(notes, 'N')) FROM shop.users ORDER BY id";
    let before: Vec<String> = bed.source.rows(kept).await;
    assert!(
        before.iter().any(|row| row.contains("xxx")) && before.iter().any(|row| row.contains("2003-02-01"))
    );
    let mut app = changeover.app(Some(SCHEMA)).await;
    app.query_drop("UPDATE users SET n = n + 1").await.unwrap();
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal().await;
    let after: Vec<String> = bed.source.rows(kept).await;
    assert!(before == after, "what isn't moved was changed on the way back");
    app.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_for_columns_that_are_not_moved_mariadb_to_mariadb() {
    nothing_is_copied_for_them(Engine::MariaDb, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_for_columns_that_are_not_moved_mysql97_to_mariadb() {
    nothing_is_copied_for_them(Engine::MySql97, Engine::MariaDb).await;
}

/// `migration.ddl = "pause"`: what nobody can do by hand is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_do_by_hand_is_said() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb, &[]).await else { return };
    let mut changeover = Changeover::start(bed.settings().with("migration.ddl", "\"pause\"")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    bed.source.run(&["ALTER TABLE shop.users CHANGE secret secret VARCHAR(50)"]).await;
    let error = changeover.stopped().await;
    assert!(error.contains("nobody can do it by hand"), "{error}");
    changeover.kill_9();
    changeover.set("migration.ddl", "\"apply\"");
    changeover.start_again().await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    bed.source.run(&["UPDATE shop.users SET secret = CONCAT('longer ', id), n = 3"]).await;
    changeover.wait_applied(&bed.source).await;
    bed.assert_equal().await;
}

/// What is left out is said beforehand, and what can't be is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_is_left_out() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb, &[]).await else { return };
    let (code, said) = changeover::check(&bed.settings());
    assert_eq!(code, 0, "{said}");
    for part in [
        "Of shop.users the column(s) secret, hash, seen, notes aren't moved",
        "shop.towns have none of its columns and are moved whole",
        "a row that is deleted and inserted again there has lost them",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    bed.source
        .run(&[
            "CREATE VIEW shop.v AS SELECT id, secret FROM shop.users",
            "CREATE TRIGGER shop.stamp BEFORE INSERT ON shop.users FOR EACH ROW SET NEW.notes = 'made'",
            "CREATE TABLE shop.made (id INT PRIMARY KEY, a INT, b INT AS (a + 1), c INT, d INT, UNIQUE (d),
                CHECK (c < 10 OR id > 3)) ENGINE=InnoDB",
            "CREATE TABLE shop.bare (a INT, b INT) ENGINE=InnoDB",
            "CREATE TABLE shop.child (id INT PRIMARY KEY, made INT, FOREIGN KEY (made) REFERENCES shop.made (d))
                ENGINE=InnoDB",
            "CREATE TABLE shop.parts (id INT, a INT, PRIMARY KEY (id, a)) ENGINE=InnoDB PARTITION BY HASH (a)",
        ])
        .await;
    let (code, said) = changeover::check(&bed.settings());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("It names the column(s) secret of shop.users"), "{said}");
    assert!(
        said.contains("A cutover would be refused: trigger shop.stamp names notes of shop.users"),
        "{said}"
    );
    let check = |table: &str, exclude: &str| {
        let rule = format!("[{{ table = \"{table}\", exclude = [\"{exclude}\"] }}]");
        changeover::check(&bed.settings().with("migration.columns", &rule))
    };
    let refused = |table: &str, exclude: &str, part: &str| {
        let (code, said) = check(table, exclude);
        assert!(code == 1 && said.contains(part), "{part}: {code} {said}");
    };
    refused("shop.usres", "secret", "No table matches");
    refused("shop.users", "secrets", "No table that it matches has a column secrets");
    refused("shop.%", "passwort", "No table that it matches has a column passwort");
    refused("shop.users", "id", "Its primary key stands on the column id");
    refused("shop.made", "a", "Its column b is made of the column a");
    refused("shop.made", "d", "refers to its column d");
    refused("shop.child", "made", "stands on the column made");
    refused("shop.bare", "a", "It has no key without the columns");
    refused("shop.parts", "a", "partitioned by its column a");
    refused("shop.made", "c", "migration.allow_lossy");
    let rule = "[{ table = \"shop.made\", exclude = [\"c\"] }]";
    let settings = bed.settings().with("migration.columns", rule).with("migration.allow_lossy", "true");
    assert_eq!(changeover::check(&settings).0, 0);
    let rows = "[{ table = \"shop.teams\", column = \"notes\", values = [\"a\"] }]";
    let (code, said) = changeover::check(&bed.settings().with("migration.rows", rows));
    assert!(code == 1 && said.contains("filters it by its column notes"), "{code} {said}");
}
