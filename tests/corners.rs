//! What is met rarely and costs data where it goes wrong: a migration that is abandoned behind a fence, keys that only a collation
//! holds for equal, a row that the target has no room for, logs that go while they are followed, numbers that were given out.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::file_and_offset::GTIDS_OFF;
use crate::support::changeover::Settings;
use crate::support::wait::until;
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Pair, Server, pair};

const LIMIT: Duration = Duration::from_secs(60);

/// The side that serves takes writes and has what acts on its own, and nothing is left of the migration.
async fn assert_serves_alone(pair: &Pair, changeover: &Changeover, target_is_fenced: bool) {
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO notes (body) VALUES ('still')").await.unwrap();
    app.disconnect().await.unwrap();
    assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    let fenced = pair.target.value::<i64>("SELECT @@GLOBAL.read_only").await;
    assert_eq!(fenced, i64::from(target_is_fenced), "the new server");
    let own = "SELECT (SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop')
               + (SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'shop' AND STATUS = 'ENABLED')";
    assert_eq!(pair.source.value::<i64>(own).await, 2);
    assert_eq!(pair.target.value::<i64>(own).await, 0);
    let audited: (i64, i64) = (
        pair.source.value("SELECT COUNT(*) FROM shop.notes").await,
        pair.source.value("SELECT COUNT(*) FROM shop.audit").await,
    );
    assert_eq!(audited.0, audited.1, "a trigger fired twice, or not at all");
    for server in [&pair.source, &pair.target] {
        let there = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'changeover' AND TABLE_NAME = 'checkpoint'";
        if server.value::<i64>(there).await == 1 {
            assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM changeover.checkpoint").await, 0);
        }
    }
    let left: Vec<String> = std::fs::read_dir(changeover.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("spool"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(changeover.status_of("route").await, "source");
}

/// Abandoned behind a fence that a death left on the serving side, and behind a rollback; each time it is started again.
async fn abandoned_behind_a_fence(engine: Engine, rolled_back: bool) {
    let Some(pair) = Pair::start(engine, 100).await else { return };
    for server in [&pair.source, &pair.target] {
        server.run(&["SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    }
    pair.source
        .run(&[
            "USE shop",
            "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(60))",
            "CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, note INT NOT NULL)",
            "CREATE DEFINER = 'app'@'%' TRIGGER noted AFTER INSERT ON notes FOR EACH ROW INSERT INTO audit (note) VALUES (NEW.id)",
            "CREATE DEFINER = 'app'@'%' EVENT idle ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' DO DELETE FROM audit",
            "INSERT INTO notes (body) VALUES ('first')",
        ])
        .await;
    let mut changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    if rolled_back {
        changeover.turn().await;
        let mut app = changeover.app(Some("shop")).await;
        app.query_drop("INSERT INTO notes (body) VALUES ('there')").await.unwrap();
        app.disconnect().await.unwrap();
        changeover.turn().await;
    } else {
        changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", "cutover.behind.fence")]).await;
        changeover.wait_ready().await;
        until("its death behind the fence", LIMIT, async || {
            let asked = changeover.try_admin("CUTOVER").await;
            if changeover.ended().is_some() { Ok(()) } else { Err(format!("{asked:?}")) }
        })
        .await;
        assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
        changeover.start_again_plain().await;
    }
    until("the migration to be abandoned", LIMIT, async || {
        changeover.try_admin("ABANDON MIGRATION").await.map(drop)
    })
    .await;
    assert_serves_alone(&pair, &changeover, rolled_back).await;
    for _ in 0..2 {
        changeover.kill_9();
        changeover.start_again().await;
        assert_serves_alone(&pair, &changeover, rolled_back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_behind_a_fence_that_a_death_left_mariadb() {
    abandoned_behind_a_fence(Engine::MariaDb, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_behind_a_fence_that_a_death_left_mysql97() {
    abandoned_behind_a_fence(Engine::MySql97, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_behind_a_rollback_mariadb() {
    abandoned_behind_a_fence(Engine::MariaDb, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_behind_a_rollback_mysql97() {
    abandoned_behind_a_fence(Engine::MySql97, true).await;
}

/// Two empty servers with the accounts for `shop`.
async fn servers(from: (Engine, &[&str]), to: (Engine, &[&str])) -> Option<(Server, Server)> {
    let (source, target) = pair::servers(from, to, "shop").await?;
    source.run(&["CREATE DATABASE shop"]).await;
    Some((source, target))
}

/// Texts that differ in bytes and are, or aren't, equal by what a collation says of case, accents, length and spaces.
const TEXTS: &[&str] = &[
    "", " ", "a", "A", "a ", "A  ", "á", "Á ", "b", "B", "B ", "ss", "ß", "SS ", "ẞ", "æ", "ae", "Æ", "i",
    "I", "ı", "İ", "ﬁ", "fi", "a\u{301}", "a\t", "a\u{1}", "k", "K", "\u{212A}", "z", "Z ", "😀", "😃", "日",
    "本",
];

/// Unique values that go from row to row inside of transactions and across them, on sessions side by side, through a tail that
/// applies in parallel and in batches; the books are the bytes of both servers.
async fn values_that_a_collation_holds_for_equal(from: Engine, to: Engine, collations: &[&str]) {
    let Some((source, target)) = servers((from, &[]), (to, &[])).await else { return };
    for (table, collation) in collations.iter().enumerate() {
        source
            .run(&[&format!(
                "CREATE TABLE shop.t{table} (k VARCHAR(20) NOT NULL, u VARCHAR(20) NULL, n INT NOT NULL DEFAULT 0,
                    PRIMARY KEY (k), UNIQUE KEY (u), UNIQUE KEY (u(1), n)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE {collation}"
            )])
            .await;
    }
    let settings = Settings::between(&source, &target, "shop")
        .with("apply.workers", "8")
        .with("migration.allow_lossy", "true");
    let mut changeover = Changeover::start(settings).await;
    let tables = collations.len() as u64;
    let sessions: Vec<_> =
        vec![source.root().await, source.root().await, source.root().await, source.root().await];
    let sessions = std::sync::Mutex::new(sessions);
    let writers = Writers::start(4, move |id, mut turns| {
        let mut conn = sessions.lock().unwrap().pop().unwrap();
        async move {
            conn.query_drop("SET NAMES utf8mb4").await.unwrap();
            let salt = u64::from(id) * 7919;
            while let Some(dice) = turns.throw().await {
                let dice = dice.wrapping_mul(31).wrapping_add(salt);
                let text = |at: u64| TEXTS[usize::try_from((dice >> at) % TEXTS.len() as u64).unwrap()];
                let table = dice % tables;
                let (a, b, n) = (text(3), text(9), dice >> 15 & 3);
                let sql = match dice >> 17 & 7 {
                    0 | 1 => format!("INSERT INTO shop.t{table} (k, u, n) VALUES ('{a}', '{b}', {n})"),
                    2 => format!("UPDATE shop.t{table} SET u = '{b}', n = n + 1 WHERE k = '{a}'"),
                    3 => format!("UPDATE shop.t{table} SET k = '{b}' WHERE k = '{a}'"),
                    4 => format!("DELETE FROM shop.t{table} WHERE k = '{a}'"),
                    5 => format!("UPDATE shop.t{table} SET u = NULL WHERE u = '{b}'"),
                    6 => format!("REPLACE INTO shop.t{table} (k, u, n) VALUES ('{a}', '{b}', {n})"),
                    _ => "COMMIT".to_owned(),
                };
                if dice >> 20 & 3 == 0 {
                    conn.query_drop("BEGIN").await.unwrap();
                }
                match conn.query_drop(&sql).await {
                    Ok(()) => turns.committed(),
                    Err(mysql_async::Error::Server(error)) if matches!(error.code, 1062 | 1205 | 1213) => {}
                    Err(error) => panic!("{sql}: {error}"),
                }
            }
            conn.query_drop("COMMIT").await.unwrap();
            conn.disconnect().await.unwrap();
        }
    });
    writers.wait_more(300).await;
    changeover.admin("START MIGRATION").await;
    writers.wait_more(300).await;
    changeover.wait_phase(&["following"]).await;
    // A backlog: batches are large, and many are under way.
    changeover.kill_9();
    writers.wait_more(1500).await;
    changeover.start_again().await;
    writers.wait_more(200).await;
    writers.close().await;
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    for (table, collation) in collations.iter().enumerate() {
        let sql = format!("SELECT CONCAT_WS('|', HEX(k), IFNULL(HEX(u), 'N'), n) FROM shop.t{table}");
        let (mut old, mut new): (Vec<String>, Vec<String>) =
            (source.rows(&sql).await, target.rows(&sql).await);
        old.sort();
        new.sort();
        assert!(old.len() > 3, "t{table} has {} rows", old.len());
        assert!(old == new, "{collation}: {old:?}\n{new:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_collations_hold_for_equal_mariadb() {
    let collations = [
        "utf8mb4_general_ci",
        "utf8mb4_unicode_ci",
        "utf8mb4_nopad_bin",
        "utf8mb4_uca1400_ai_ci",
        "utf8mb4_uca1400_nopad_as_cs",
    ];
    values_that_a_collation_holds_for_equal(Engine::MariaDb, Engine::MariaDb, &collations).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_collations_hold_for_equal_mysql97() {
    let collations = [
        "utf8mb4_0900_ai_ci",
        "utf8mb4_0900_as_cs",
        "utf8mb4_0900_bin",
        "utf8mb4_general_ci",
        "utf8mb4_de_pb_0900_ai_ci",
    ];
    values_that_a_collation_holds_for_equal(Engine::MySql97, Engine::MySql97, &collations).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_collations_hold_for_equal_mysql97_to_mariadb() {
    let collations = ["utf8mb4_general_ci", "utf8mb4_unicode_520_ci", "utf8mb4_bin", "utf8mb4_0900_as_cs"];
    values_that_a_collation_holds_for_equal(Engine::MySql97, Engine::MariaDb, &collations).await;
}

/// A row that is larger than what the target takes in a packet stops the tail with a remedy, and comes once there is room.
async fn a_row_without_room(engine: Engine) {
    let flags: (&[&str], &[&str]) = (&["--max-allowed-packet=64M"], &["--max-allowed-packet=4M"]);
    let Some((source, target)) = servers((engine, flags.0), (engine, flags.1)).await else { return };
    source
        .run(&[
            "CREATE TABLE shop.t (id INT PRIMARY KEY, body LONGBLOB)",
            "INSERT INTO shop.t VALUES (1, 'small')",
        ])
        .await;
    let mut changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source
        .run(&[
            "INSERT INTO shop.t VALUES (2, 'before')",
            "INSERT INTO shop.t VALUES (3, REPEAT('x', 9000000))",
            "UPDATE shop.t SET body = 'behind' WHERE id = 1",
        ])
        .await;
    let error = changeover.stopped().await;
    assert!(error.contains("max_allowed_packet"), "{error}");
    assert_eq!(target.value::<i64>("SELECT COUNT(*) FROM shop.t WHERE id = 3").await, 0);
    target.run(&["SET GLOBAL max_allowed_packet = 67108864"]).await;
    changeover.kill_9();
    changeover.start_again().await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    let sql =
        "SELECT GROUP_CONCAT(CONCAT_WS(':', id, LENGTH(body), SHA2(body, 224)) ORDER BY id) FROM shop.t";
    assert_eq!(source.value::<String>(sql).await, target.value::<String>(sql).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_target_has_no_room_for_mariadb() {
    a_row_without_room(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_target_has_no_room_for_mysql97() {
    a_row_without_room(Engine::MySql97).await;
}

/// Logs of a MySQL 5.6 that are rotated and purged while they are followed aren't missed; those that nobody has fetched are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_mysql56_go_while_they_are_followed() {
    let Some((source, target)) = servers((Engine::MySql56, &[]), (Engine::MariaDb, &[])).await else {
        return;
    };
    source
        .run(&["CREATE TABLE shop.t (id INT PRIMARY KEY, n INT)", "INSERT INTO shop.t VALUES (1, 1)"])
        .await;
    let mut changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let last = async || -> String {
        source.rows::<mysql_async::Row>("SHOW MASTER STATUS").await.remove(0).get(0).unwrap()
    };
    let purge = async || {
        let file = last().await;
        until("the logs to be purged", LIMIT, async || {
            source.run(&[&format!("PURGE BINARY LOGS TO '{file}'")]).await;
            let first: String =
                source.rows::<mysql_async::Row>("SHOW BINARY LOGS").await.remove(0).get(0).unwrap();
            if first == file { Ok(()) } else { Err(first) }
        })
        .await;
    };
    for turn in 2..8 {
        source
            .run(&[
                &format!("INSERT INTO shop.t VALUES ({turn}, 1)"),
                "FLUSH LOGS",
                "UPDATE shop.t SET n = n + 1",
            ])
            .await;
        changeover.wait_applied(&source).await;
        purge().await;
        if turn % 2 == 0 {
            changeover.kill_9();
            source.run(&[&format!("INSERT INTO shop.t VALUES ({}, 0)", turn + 100), "FLUSH LOGS"]).await;
            changeover.start_again().await;
        }
    }
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    let sql = "SELECT GROUP_CONCAT(CONCAT(id, ':', n) ORDER BY id) FROM shop.t";
    assert_eq!(source.value::<String>(sql).await, target.value::<String>(sql).await);
    changeover.kill_9();
    source
        .run(&["INSERT INTO shop.t VALUES (900, 0)", "FLUSH LOGS", "INSERT INTO shop.t VALUES (901, 0)"])
        .await;
    purge().await;
    changeover.start_again().await;
    let error = changeover.stopped().await;
    assert!(error.contains("no longer has") && error.contains("begin the migration again"), "{error}");
    assert_eq!(target.value::<i64>("SELECT COUNT(*) FROM shop.t WHERE id > 899").await, 0);
}

/// Numbers that the old server gave out, to rows that aren't moved or that are gone, aren't given out again behind a cutover.
async fn numbers_that_were_given_out(engine: Engine) {
    let Some((source, target)) = servers((engine, &[]), (engine, &[])).await else { return };
    target.run(&["GRANT ALL ON store.* TO app@'%'"]).await;
    source
        .run(&[
            "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, tenant_id INT NOT NULL, secret INT NULL)",
            "CREATE TABLE shop.plain (id INT AUTO_INCREMENT PRIMARY KEY, secret INT NULL)",
            "INSERT INTO shop.orders (tenant_id) VALUES (7), (7), (8), (8)",
            "INSERT INTO shop.plain (secret) VALUES (1), (2)",
        ])
        .await;
    let settings = Settings::between(&source, &target, "shop")
        .with(
            "migration.rename",
            "[{ from = \"shop\", to = \"store\" }, { from = \"shop.plain\", to = \"store.simple\" }]",
        )
        .with("migration.rows", "[{ table = \"shop.orders\", column = \"tenant_id\", values = [7] }]")
        .with("migration.columns", "[{ table = \"shop.%\", exclude = [\"secret\"] }]")
        .with("cutover.fence", "\"none\"");
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source
        .run(&[
            "INSERT INTO shop.orders (tenant_id) VALUES (7), (8), (8), (8)",
            "DELETE FROM shop.orders WHERE id > 6",
            "INSERT INTO shop.plain (secret) VALUES (3), (4), (5)",
            "DELETE FROM shop.plain WHERE id > 2",
            "BEGIN",
            "INSERT INTO shop.plain (secret) VALUES (6), (7)",
            "ROLLBACK",
        ])
        .await;
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    changeover.turn().await;
    let mut app = changeover.app(Some("shop")).await;
    let mut numbered = Vec::new();
    for sql in ["INSERT INTO orders (tenant_id) VALUES (7)", "INSERT INTO simple VALUES ()"] {
        app.query_drop(sql).await.unwrap();
        numbered.push(app.query_first::<u64, _>("SELECT LAST_INSERT_ID()").await.unwrap().unwrap());
    }
    assert!(numbered[0] >= 9 && numbered[1] >= 8, "{numbered:?}");
    changeover.wait_applied(&target).await;
    let sql = "SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.plain";
    assert_eq!(source.value::<String>(sql).await, format!("1,2,{}", numbered[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_were_given_out_mariadb() {
    numbers_that_were_given_out(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_were_given_out_mysql97() {
    numbers_that_were_given_out(Engine::MySql97).await;
}

/// A source that encrypts its binary log on its disk sends what is in it, so that nothing is lost and nothing stops.
async fn a_log_that_is_encrypted_on_the_disk(engine: Engine, flags: &[&str]) {
    let Some((source, target)) = servers((engine, flags), (Engine::MariaDb, &[])).await else {
        return;
    };
    let is_on =
        if engine == Engine::MariaDb { "@@GLOBAL.encrypt_binlog" } else { "@@GLOBAL.binlog_encryption" };
    assert_eq!(source.value::<i64>(&format!("SELECT {is_on}")).await, 1);
    source
        .run(&["CREATE TABLE shop.t (id INT PRIMARY KEY, n INT)", "INSERT INTO shop.t VALUES (1, 1)"])
        .await;
    let mut changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source.run(&["INSERT INTO shop.t VALUES (2, 2)", "FLUSH LOGS", "UPDATE shop.t SET n = n + 1"]).await;
    changeover.kill_9();
    source.run(&["INSERT INTO shop.t VALUES (3, 3)"]).await;
    changeover.start_again().await;
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    let sql = "SELECT GROUP_CONCAT(CONCAT(id, ':', n) ORDER BY id) FROM shop.t";
    assert_eq!(target.value::<String>(sql).await, "1:2,2:3,3:3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_encrypted_on_the_disk_of_mariadb() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    let file = format!("--file-key-management-filename={}", keys.display());
    let flags = ["--plugin-load-add=file_key_management", &file, "--encrypt-binlog=1"];
    a_log_that_is_encrypted_on_the_disk(Engine::MariaDb, &flags).await;
}

/// Its lengths and positions are those of what is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_encrypted_on_the_disk_of_mysql97() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = format!("KEYRING={}", dir.path().display());
    let mut flags = vec![keyring.as_str(), "--binlog-encryption=ON"];
    a_log_that_is_encrypted_on_the_disk(Engine::MySql97, &flags).await;
    // By file and offset, which has to be an offset of what is sent.
    flags.extend(GTIDS_OFF);
    a_log_that_is_encrypted_on_the_disk(Engine::MySql97, &flags).await;
}
