//! TIMESTAMPs through a change of daylight saving, between servers whose systems live in different zones: each is the instant that it
//! was, through copy, tail and definitions.

use mysql_async::prelude::Queryable as _;

use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, Server, accounts, pair};

/// Central Europe, by rule: 26 October 2025, 01:00 UTC, is when 03:00 becomes 02:00; 30 March, 01:00 UTC, when 02:00 becomes 03:00.
const SOURCE: &str = "TZ=CET-1CEST,M3.5.0,M10.5.0/3";
/// India.
const TARGET: &str = "TZ=IST-5:30";
/// Half hours around both changes, the ends of the type, and one of each season.
const INSTANTS: &str = "1.000001, 1743294600, 1743296400, 1743298200, 1743300000, 1761433200, 1761435000, 1761436800, \
                        1761438600, 1761440400, 1761442200, 1767225600, 1782864000, 2147483646.999999";
const SEEN: &str = "SELECT CONCAT_WS('|', id, UNIX_TIMESTAMP(t), UNIX_TIMESTAMP(d), UNIX_TIMESTAMP(made), local) FROM shop.moments ORDER BY id";

/// What a session in UTC sees of it.
async fn seen(server: &Server, sql: &str) -> Vec<String> {
    let mut conn = server.root().await;
    conn.query_drop("SET time_zone = '+00:00'").await.unwrap();
    conn.query(sql).await.unwrap()
}

/// The literals after DEFAULT, which SHOW CREATE TABLE gives in the zone of the session; information_schema of MySQL has them as they were written.
async fn defaults(server: &Server) -> Vec<String> {
    let mut conn = server.root().await;
    conn.query_drop("SET time_zone = '+00:00'").await.unwrap();
    let shown: Option<(String, String)> = conn.query_first("SHOW CREATE TABLE shop.moments").await.unwrap();
    let (_, sql) = shown.unwrap();
    let literals = sql.split("DEFAULT '").skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned());
    let literals: Vec<String> = literals.collect();
    assert_eq!(literals.len(), 2, "{sql}");
    literals
}

async fn stays_the_instant_that_it_was(engine: Engine, to: Engine) {
    let (source, target) = tokio::join!(Server::start(engine, &[SOURCE]), Server::start(to, &[TARGET]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, "shop").await;
    }
    source
        .run(&[
            "CREATE DATABASE shop",
            // By the zone of the source's system: summer, and winter.
            "CREATE TABLE shop.moments (id INT AUTO_INCREMENT PRIMARY KEY, t TIMESTAMP(6) NULL, d TIMESTAMP NOT NULL DEFAULT '2025-07-01 12:00:00',
                made TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), local DATETIME NULL)",
        ])
        .await;
    let mut app = source.root().await;
    app.query_drop("SET time_zone = '+00:00'").await.unwrap();
    for instant in INSTANTS.split(", ") {
        let sql = format!(
            "INSERT INTO shop.moments (t, local) VALUES (FROM_UNIXTIME({instant}), '2025-10-26 02:30:00')"
        );
        app.query_drop(sql).await.unwrap();
    }
    let changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    assert_eq!(seen(&source, SEEN).await, seen(&target, SEEN).await, "copied");
    // The application's sessions live in the zone of the source's system, the way it was set up.
    app.query_drop("SET time_zone = 'SYSTEM'").await.unwrap();
    for sql in [
        "UPDATE shop.moments SET t = t + INTERVAL 7 MINUTE, made = '2025-03-30 03:30:00' WHERE id IN (2, 3, 5, 6, 9, 11)",
        "INSERT INTO shop.moments (t, local) VALUES ('2025-10-26 02:31:00', NOW()), ('2026-07-01 00:00:00', NULL)",
        "DELETE FROM shop.moments WHERE t = '2026-07-01 02:00:00'",
        "ALTER TABLE shop.moments ADD COLUMN noon TIMESTAMP NOT NULL DEFAULT '2025-12-01 12:00:00'",
        "ALTER TABLE shop.moments ALTER COLUMN d SET DEFAULT '2025-01-01 00:00:00'",
        "CREATE TABLE shop.later (id INT PRIMARY KEY, t TIMESTAMP NOT NULL DEFAULT '2025-08-01 00:00:00')",
        "INSERT INTO shop.later (id) VALUES (1)",
        "INSERT INTO shop.moments (t) VALUES (NULL)",
    ] {
        app.query_drop(sql).await.unwrap();
    }
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    let noon = "SELECT CONCAT_WS('|', id, UNIX_TIMESTAMP(noon)) FROM shop.moments ORDER BY id";
    let later = "SELECT CONCAT_WS('|', id, UNIX_TIMESTAMP(t)) FROM shop.later";
    for sql in [SEEN, noon, later] {
        assert_eq!(seen(&source, sql).await, seen(&target, sql).await, "followed: {sql}");
    }
    // And so is what a row gets that comes without one.
    assert_eq!(defaults(&source).await, defaults(&target).await);
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
}

/// What `mysql_tzinfo_to_sql` loads, for one summer of one zone.
async fn load_zone(server: &Server) {
    server
        .run(&[
            "INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (7, 'N')",
            "INSERT INTO mysql.time_zone_name VALUES ('Europe/Berlin', 7)",
            "INSERT INTO mysql.time_zone_transition_type VALUES (7, 0, 7200, 1, 'CEST'), (7, 1, 3600, 0, 'CET')",
            "INSERT INTO mysql.time_zone_transition VALUES (7, -1, 1), (7, 1743296400, 0), (7, 1761440400, 1)",
        ])
        .await;
}

/// The source knows a zone by its name and the target doesn't: what was run in it waits until it does.
async fn a_zone_that_the_target_has_not_got(engine: Engine) {
    let Some((source, target)) = pair::servers((engine, &[]), (engine, &[TARGET]), "shop").await else {
        return;
    };
    load_zone(&source).await;
    source
        .run(&[
            "CREATE DATABASE shop",
            "SET time_zone = 'Europe/Berlin'",
            "CREATE TABLE shop.moments (id INT AUTO_INCREMENT PRIMARY KEY, t TIMESTAMP NULL)",
            "INSERT INTO shop.moments (t) VALUES ('2025-07-01 12:00:00'), ('2025-12-01 12:00:00')",
        ])
        .await;
    let changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source
        .run(&[
            "SET time_zone = 'Europe/Berlin'",
            "INSERT INTO shop.moments (t) VALUES ('2025-08-01 12:00:00')",
            "ALTER TABLE shop.moments ADD COLUMN noon TIMESTAMP NOT NULL DEFAULT '2025-07-01 12:00:00'",
            "INSERT INTO shop.moments (t) VALUES ('2025-11-01 12:00:00')",
        ])
        .await;
    let said = changeover.stopped().await;
    assert_eq!(changeover.status_of("phase").await, "paused", "{said}");
    for part in
        ["target", "Europe/Berlin", "ALTER TABLE", "bin.0000", "mysql_tzinfo_to_sql", "RESUME MIGRATION"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(
        target.value::<i64>("SELECT COUNT(*) FROM shop.moments").await,
        3,
        "all before it, nothing behind it"
    );
    load_zone(&target).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_applied(&source).await;
    changeover.wait_ready().await;
    let sql =
        "SELECT CONCAT_WS('|', id, UNIX_TIMESTAMP(t), UNIX_TIMESTAMP(noon)) FROM shop.moments ORDER BY id";
    let wanted = seen(&source, sql).await;
    assert_eq!(wanted, seen(&target, sql).await);
    assert!(wanted[0].ends_with("|1751364000"), "{wanted:?}");
    assert!(!changeover.log().contains("copied anew"), "the zone says what it means");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_and_unknown_to_the_target_mariadb() {
    a_zone_that_the_target_has_not_got(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_and_unknown_to_the_target_mysql97() {
    a_zone_that_the_target_has_not_got(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() {
    stays_the_instant_that_it_was(Engine::MariaDb, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql97() {
    stays_the_instant_that_it_was(Engine::MySql97, Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mysql56_to_mysql97() {
    stays_the_instant_that_it_was(Engine::MySql56, Engine::MySql97).await;
}
