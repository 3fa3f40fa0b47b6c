//! A transaction that is too large for memory is applied in parts, each of which is committed with its place: through deaths between
//! any two of them it is on the target once, whatever it does, in safe mode and behind it.

use mysql_async::prelude::Queryable;

use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, Server, pair};

const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.items (id INT PRIMARY KEY, u INT NULL UNIQUE, k INT NOT NULL, v VARCHAR(600), KEY k (k)) ENGINE=InnoDB",
    "CREATE TABLE shop.pile (a INT, v VARCHAR(300)) ENGINE=InnoDB",
    "INSERT INTO shop.items VALUES (1, 1, 1, REPEAT('a', 400)), (2, 2, 2, REPEAT('b', 400))",
    "INSERT INTO shop.pile (a, v) VALUES (1, 'one'), (1, 'one'), (2, NULL)",
];
/// Rows that the transaction begins with: their decoded images are larger than what is kept in memory of one.
const ROWS: u32 = 32_768;

/// What it does then. Each statement changes rows of those before it, whose parts may be under way.
const CHANGES: &[&str] = &[
    "UPDATE items SET v = CONCAT(id, v) WHERE id % 5 = 0",
    "UPDATE items SET u = u + 1 WHERE id > 20000 ORDER BY u DESC",
    "UPDATE items SET id = id + 1000000 WHERE id % 11 = 0",
    "DELETE FROM items WHERE id % 13 = 0",
    "INSERT INTO items SELECT id - 1000000, NULL, k, 'again' FROM items WHERE id > 1000000",
    "INSERT INTO pile (a, v) SELECT k, LEFT(v, 200) FROM items WHERE id < 1500 ORDER BY id",
    "UPDATE pile SET a = a + 1 WHERE a % 2 = 0",
    "DELETE FROM pile WHERE a % 3 = 0",
];

async fn one_large_transaction(source: &Server) {
    let mut conn = source.root().await;
    conn.query_drop("USE shop").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    let mut rows = 2;
    while rows < ROWS {
        let more = "SELECT id + {n}, u + {n}, (id + {n}) * 7 % 499, v FROM items ORDER BY id";
        let sql = format!("INSERT INTO items {}", more.replace("{n}", &rows.to_string()));
        conn.query_drop(sql).await.unwrap();
        rows *= 2;
    }
    for sql in CHANGES {
        conn.query_drop(*sql).await.unwrap();
    }
    conn.query_drop("COMMIT").await.unwrap();
    conn.disconnect().await.unwrap();
    // What is behind it touches its rows.
    source
        .run(&[
            "UPDATE shop.items SET v = 'last' WHERE id < 100",
            "DELETE FROM shop.items WHERE id BETWEEN 200 AND 210",
            "INSERT INTO shop.pile (a, v) VALUES (1, 'one')",
        ])
        .await;
}

/// Rows and sums over what both servers print of them.
async fn content(server: &Server) -> Vec<(u64, String)> {
    let mut out = Vec::new();
    for (table, row) in [("items", "id, IFNULL(u, 'N'), k, v"), ("pile", "a, IFNULL(v, 'N')")] {
        let hash = format!("CRC32(CONCAT_WS('|', {row}))");
        let sql = format!("SELECT COUNT(*), CONCAT(SUM({hash}), ' ', BIT_XOR({hash})) FROM shop.{table}");
        out.extend(server.rows::<(u64, String)>(&sql).await);
    }
    out
}

async fn dies_within(from: Engine, to: Engine, in_safe_mode: bool) {
    let Some((source, target)) = pair::servers((from, &[]), (to, &[]), "shop").await else { return };
    source.run(TABLES).await;
    if to == Engine::Seekdb {
        // It doesn't take tables without a key.
        source.run(&["ALTER TABLE shop.pile ADD id INT NOT NULL AUTO_INCREMENT PRIMARY KEY"]).await;
    }
    let settings = Settings::between(&source, &target, "shop");
    let mut changeover;
    if in_safe_mode {
        changeover =
            Changeover::start_with(settings, &[("CHANGEOVER_FAILPOINT", "snapshot.chunk.committed")]).await;
        // The reply may be lost with the process.
        let _ = changeover.try_admin("START MIGRATION").await;
        assert!(!changeover.wait_end().await.success());
    } else {
        changeover = Changeover::start(settings).await;
        changeover.admin("START MIGRATION").await;
        changeover.wait_phase(&["following"]).await;
        changeover.kill_9();
    }
    one_large_transaction(&source).await;
    let mut parts_before = String::new();
    for failpoint in ["apply.part.committed", "apply.part.committed", "apply.part.before_commit"] {
        changeover.start_to_die(failpoint).await;
        assert!(!changeover.wait_end().await.success(), "it died at {failpoint}");
        let parts: String =
            target.value("SELECT GROUP_CONCAT(intervals SEPARATOR ' ') FROM changeover.checkpoint").await;
        if failpoint.ends_with(".committed") {
            assert!(parts.contains(':') && parts != parts_before, "{parts}, before it {parts_before}");
        }
        parts_before = parts;
    }
    changeover.start_again_plain().await;
    changeover.wait_applied(&source).await;
    assert_eq!(content(&source).await, content(&target).await);
    changeover.wait_ready().await;
    assert_eq!(changeover.status_of("differences").await, "0");
    assert!(changeover.log().contains("a large transaction is applied in parts"));
}

macro_rules! each {
    ($($name:ident => $call:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() { $call.await; })*
    };
}

each! {
    mariadb_to_mysql97 => dies_within(Engine::MariaDb, Engine::MySql97, false);
    mysql97_to_mariadb => dies_within(Engine::MySql97, Engine::MariaDb, false);
    mysql97_to_seekdb => dies_within(Engine::MySql97, Engine::Seekdb, false);
    over_a_copy_mariadb_to_mariadb => dies_within(Engine::MariaDb, Engine::MariaDb, true);
    over_a_copy_mysql56_to_mysql97 => dies_within(Engine::MySql56, Engine::MySql97, true);
}
