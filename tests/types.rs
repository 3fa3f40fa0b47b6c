//! Every column type with every edge value, by the copy and by the binlog, compared by what the servers say.

#[path = "types/catalogue.rs"]
mod catalogue;

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use self::catalogue::{Case, cases};
use crate::support::changeover::Settings;
use crate::support::pair::servers;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Server};

const SCHEMA: &str = "types";
/// The clock of Central Europe around the changes that the timestamps are next to, as the servers keep it.
const ZONE: &[&str] = &[
    "INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (7, 'N')",
    "INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Test/Summer', 7)",
    "INSERT INTO mysql.time_zone_transition_type VALUES (7, 0, 3600, 0, 'CET'), (7, 1, 7200, 1, 'CEST')",
    "INSERT INTO mysql.time_zone_transition VALUES (7, 1679792400, 1), (7, 1698541200, 0), (7, 1711846800, 1), (7, 1729990800, 0)",
];

/// Tables of a case: `v_…` and `b_…` hold the values in a column, `k_…` in the primary key. A table with a floating point, as
/// `b_…` is, is read in the binary protocol.
async fn fill(server: &Server, cases: &[Case]) {
    let mut conn = writer(server).await;
    let mut run = async |sql: String| {
        conn.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run(format!("CREATE DATABASE {SCHEMA} DEFAULT CHARACTER SET utf8mb4")).await;
    run(format!("USE {SCHEMA}")).await;
    for case in cases {
        let (name, columns) = (&case.name, &case.columns);
        run(format!("CREATE TABLE v_{name} (id INT PRIMARY KEY, {columns}) ENGINE=InnoDB")).await;
        run(format!("CREATE TABLE b_{name} (id INT PRIMARY KEY, {columns}, f DOUBLE) ENGINE=InnoDB")).await;
        for (number, value) in case.values.iter().enumerate() {
            run(format!("INSERT INTO v_{name} (id, v) VALUES ({number} - 2, {value})")).await;
            run(format!("INSERT INTO b_{name} (id, v, f) VALUES ({number} - 2, {value}, {number} / 7)"))
                .await;
        }
        if case.key {
            run(format!("CREATE TABLE k_{name} ({columns}, n INT, PRIMARY KEY (v)) ENGINE=InnoDB")).await;
            for value in case.values.iter().filter(|value| *value != "NULL") {
                // Values that are one under their collation or type are there once.
                run(format!("INSERT IGNORE INTO k_{name} (v, n) VALUES ({value}, 1)")).await;
            }
        }
    }
}

/// Inserts, updates and deletes each value of each case.
async fn change(server: &Server, cases: &[Case]) {
    let mut conn = writer(server).await;
    let mut run = async |sql: String| {
        conn.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run(format!("USE {SCHEMA}")).await;
    for case in cases {
        let name = &case.name;
        let count = case.values.len();
        run("BEGIN".to_owned()).await;
        for (number, value) in case.values.iter().enumerate() {
            run(format!(
                "INSERT INTO v_{name} (id, v) VALUES ({number} + 1000, {value}), ({number} + 2000, {value})"
            ))
            .await;
            let next = (number + 1) % count;
            run(format!("UPDATE v_{name} SET v = {value} WHERE id = {next} - 2")).await;
        }
        run("COMMIT".to_owned()).await;
        // Alone, and with a key that changes.
        run(format!("UPDATE v_{name} SET id = id + 5000 WHERE id >= 2000")).await;
        run(format!("DELETE FROM v_{name} WHERE id >= 1000 AND id < 2000")).await;
        if case.key {
            run(format!("UPDATE k_{name} SET n = n + 1")).await;
            run(format!("UPDATE k_{name} SET n = n + 1 LIMIT 1")).await;
            run(format!("DELETE FROM k_{name} LIMIT 2")).await;
            for value in case.values.iter().filter(|value| *value != "NULL") {
                run(format!("INSERT IGNORE INTO k_{name} (v, n) VALUES ({value}, 7)")).await;
            }
        }
    }
}

async fn writer(server: &Server) -> Conn {
    session(server, "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES").await
}

async fn session(server: &Server, sql_mode: &str) -> Conn {
    let mut conn = server.root().await;
    let sql = format!(
        "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '{sql_mode}', SESSION group_concat_max_len = 1000000"
    );
    conn.query_drop(sql).await.unwrap();
    conn
}

/// What both servers print for every row of every case, in a list of differences.
async fn assert_equal(source: &Server, target: &Server, cases: &[Case], when: &str) {
    let (mut old, mut new) = (session(source, "").await, session(target, "").await);
    let mut wrong = Vec::new();
    let mut rows = 0;
    for case in cases {
        let look = case.look.expressions().join(", ");
        let by_key = format!("SELECT {look}, n FROM {SCHEMA}.k_{} ORDER BY 1, 2", case.name);
        let by_id = format!("SELECT id, v IS NULL, {look} FROM {SCHEMA}.v_{} ORDER BY id", case.name);
        let beside = format!("SELECT id, v IS NULL, {look}, f FROM {SCHEMA}.b_{} ORDER BY id", case.name);
        for sql in [Some(by_id), Some(beside), case.key.then_some(by_key)].into_iter().flatten() {
            let (a, b) = (shown(&mut old, &sql).await, shown(&mut new, &sql).await);
            assert!(!a.is_empty(), "{sql}: no row");
            rows += a.len();
            let different = a.iter().zip(&b).filter(|(a, b)| a != b).take(3);
            wrong.extend(
                different.map(|(a, b)| format!("{}\n  source {a:.300}\n  target {b:.300}", case.name)),
            );
            if a.len() != b.len() {
                wrong.push(format!(
                    "{}: {} rows on the source, {} on the target",
                    case.name,
                    a.len(),
                    b.len()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{when}: {}", wrong.join("\n"));
    println!("{when}: {rows} rows of {} types are equal", cases.len());
}

async fn shown(conn: &mut Conn, sql: &str) -> Vec<String> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let cell = |value: Value| match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => format!("{other:?}"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect::<Vec<_>>().join(" | ")).collect()
}

/// How a migration goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By LOAD DATA, and everything changes once the copy is there.
    Loaded,
    /// By INSERTs, and everything changes while the copy runs: replay goes over rows of every age.
    Overtaken,
}

async fn every_type(engine: Engine, way: Way) {
    let infile = format!("--local-infile={}", if way == Way::Loaded { "ON" } else { "OFF" });
    let of_target = ["--max-allowed-packet=64M", "--default-time-zone=-03:30", infile.as_str()];
    let Some((source, target)) = servers((engine, &of_target[..1]), (engine, &of_target), SCHEMA).await
    else {
        return;
    };
    source.run(ZONE).await;
    source.run(&["SET GLOBAL time_zone = 'Test/Summer'"]).await;
    let cases = cases(engine);
    fill(&source, &cases).await;
    let mut settings = Settings::between(&source, &target, SCHEMA);
    if way == Way::Overtaken {
        settings.set("snapshot.max_rows_per_s", "100");
    }
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    if way == Way::Overtaken {
        changeover.wait_phase(&["copying"]).await;
        change(&source, &cases).await;
        changeover.wait_ready().await;
    } else {
        changeover.wait_ready().await;
        assert_equal(&source, &target, &cases, "copied").await;
        change(&source, &cases).await;
    }
    changeover.wait_applied(&source).await;
    assert_equal(&source, &target, &cases, "followed").await;
    changeover.admin("VERIFY").await;
    changeover.wait_ready().await;
    until("every touched row to be compared", Duration::from_secs(60), async || {
        let row = changeover.admin("CUTOVER DRY RUN").await.pop().unwrap();
        let differences = changeover.admin("SHOW DIFFERENCES").await;
        assert!(differences.is_empty(), "{differences:?}");
        if row["ok"] == "1" { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_copied_then_followed() {
    every_type(Engine::MariaDb, Way::Loaded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_changed_while_copied() {
    every_type(Engine::MariaDb, Way::Overtaken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_copied_then_followed() {
    every_type(Engine::MySql97, Way::Loaded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_changed_while_copied() {
    every_type(Engine::MySql97, Way::Overtaken).await;
}

/// What isn't prepared is read as text: where the source prepares nothing, and where the driver would take a name for a parameter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floats_of_a_source_that_prepares_nothing() {
    let flags: &[&str] = &["--max-prepared-stmt-count=0"];
    let Some((source, target)) = servers((Engine::MariaDb, flags), (Engine::MySql97, &[]), SCHEMA).await
    else {
        return;
    };
    source
        .run(&[
            "CREATE DATABASE types",
            "CREATE TABLE types.f (id INT PRIMARY KEY, `a:b` FLOAT, d DOUBLE) ENGINE=InnoDB",
            "CREATE TABLE types.g (id INT PRIMARY KEY, a FLOAT, d DOUBLE) ENGINE=InnoDB",
            "INSERT INTO types.f VALUES (1, 0.1, 0.1), (2, 16777217, -0e0), (3, NULL, 1.7976931348623157e308)",
            "INSERT INTO types.g SELECT * FROM types.f",
        ])
        .await;
    let changeover = Changeover::start(Settings::between(&source, &target, SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    for (table, float) in [("f", "`a:b`"), ("g", "a")] {
        // Exactly: times one, a double has all its digits, and of a float it is one.
        let sql = format!(
            "SELECT GROUP_CONCAT(CONCAT_WS(',', id, {float} * 1e0, d * 1e0) ORDER BY id) FROM types.{table}"
        );
        assert_eq!(source.value::<String>(&sql).await, target.value::<String>(&sql).await);
    }
}

/// Values nearly as large as a packet may be, by both paths, within a bound of memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects() {
    const MEMORY_MAX: u64 = 512 << 20;
    let flags = ["--max-allowed-packet=64M", "--innodb-log-file-size=600M"];
    let engine = (Engine::MariaDb, flags.as_slice());
    let Some((source, target)) = servers(engine, engine, SCHEMA).await else { return };
    let large = |id: u32| {
        format!("INSERT INTO types.large VALUES ({id}, REPEAT(x'4100ff42', 8 << 20), REPEAT('é', 8 << 20))")
    };
    source
        .run(&[
            "CREATE DATABASE types",
            "CREATE TABLE types.large (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT CHARACTER SET utf8mb4) ENGINE=InnoDB",
            &large(1),
            &large(2),
        ])
        .await;
    let changeover = Changeover::start(Settings::between(&source, &target, SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source
        .run(&[
            &large(3),
            "UPDATE types.large SET t = CONCAT('x', t) WHERE id = 1",
            "DELETE FROM types.large WHERE id = 2",
            // Few rows in one transaction, small ones between large ones, and more bytes than may be in memory.
            "INSERT INTO types.large SELECT 100 + seq, REPEAT('b', IF(seq % 6 = 0, 24 << 20, 2500 << 10)), '' \
             FROM types.seq_1_to_12",
        ])
        .await;
    changeover.wait_applied(&source).await;
    let sql = "SELECT GROUP_CONCAT(id, SHA2(b, 256), SHA2(t, 256) ORDER BY id) FROM types.large";
    assert_eq!(source.value::<String>(sql).await, target.value::<String>(sql).await);
    let peak = changeover.peak_bytes();
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}
