//! Tables whose rows nothing tells apart: copied at one position and followed exactly once, through kills in the copy
//! and in the tail, a cutover under traffic and back. Equal means: as multisets, by what both servers print.

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::changeover::Settings;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::writers::think;
use crate::support::{Changeover, Engine, Server, accounts};

const SCHEMA: &str = "shop";
const WRITERS: u64 = 2;

/// Without a key; with one that says nothing of rows with NULL; to be emptied; to be given a key.
const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.log (
        id INT NULL, name VARCHAR(40) CHARACTER SET utf8, code CHAR(10) CHARACTER SET latin1, single_f FLOAT,
        double_f DOUBLE, price DECIMAL(12,2), bits BIT(9), kind ENUM('a','b'), tags SET('x','y'), born YEAR,
        at DATETIME(6) NULL, stamp TIMESTAMP NULL, raw VARBINARY(20), pad BINARY(4), body TEXT CHARACTER SET utf8, dump BLOB,
        KEY name (name), KEY id (id)) ENGINE=InnoDB",
    "CREATE TABLE shop.half (u INT NULL UNIQUE, v INT) ENGINE=InnoDB",
    "CREATE TABLE shop.emptied (a INT, b VARCHAR(20)) ENGINE=InnoDB",
    "CREATE TABLE shop.promoted (a INT NOT NULL, b VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO shop.log (id, name, code) VALUES (1, 'Ann', 'ann'), (1, 'ANN', 'ANN'), (1, 'ann', 'ann'), (NULL, NULL, NULL),
        (NULL, NULL, NULL), (2, '', ' x')",
    "INSERT INTO shop.log VALUES
        (3, 'Zoë', 'ü', 1.1, 1.1, 1.50, b'100000001', 'a', 'x,y', 2000, '2024-02-29 12:00:00.000001',
         '2024-03-31 01:30:00', x'00ff00', x'01', 'long', x'00'),
        (3, 'zoe', 'u', 1.1, 1.1, 1.50, b'100000001', 'a', 'x,y', 2000, '2024-02-29 12:00:00.000001',
         '2024-03-31 01:30:00', x'00ff00', x'0100', 'LONG', x'0000'),
        (4, 'zero', 'z', -0e0, -0e0, 0, 0, 'b', '', 1901, '1000-01-01', NULL, '', '', '', ''),
        (4, 'zero', 'z', 0e0, 0e0, 0, 0, 'b', '', 1901, '1000-01-01', NULL, '', '', '', '')",
    "INSERT INTO shop.half VALUES (1, 1), (2, 2), (NULL, 3), (NULL, 3), (NULL, NULL)",
    "INSERT INTO shop.emptied VALUES (1, 'a'), (1, 'a')",
    "INSERT INTO shop.promoted VALUES (1, 'a'), (2, 'a')",
];

/// For two servers with these types.
const DOCUMENTS: &[&str] = &[
    "CREATE TABLE shop.docs (j JSON, g GEOMETRY, v VECTOR(3)) ENGINE=InnoDB",
    "INSERT INTO shop.docs VALUES ('{\"a\": 1}', ST_GeomFromText('POINT(1 2)', 4326), STRING_TO_VECTOR('[1,2,3]')),
        ('{\"a\": 1.0}', NULL, NULL), ('{\"a\": 1}', NULL, NULL), (JSON_OBJECT('a', CAST(1 AS DECIMAL(5,2))), NULL, NULL),
        (NULL, NULL, NULL), (NULL, NULL, NULL)",
];
const DOCUMENTS_CHANGE: &[&str] = &[
    "DELETE FROM shop.docs WHERE JSON_TYPE(j->'$.a') = 'DOUBLE' LIMIT 1",
    "UPDATE shop.docs SET g = ST_GeomFromText('POINT(3 4)', 4326) WHERE JSON_TYPE(j->'$.a') = 'DECIMAL' LIMIT 1",
    "UPDATE shop.docs SET j = '[2]', v = STRING_TO_VECTOR('[3,2,1]') WHERE v IS NOT NULL LIMIT 1",
    "DELETE FROM shop.docs WHERE j = '[2]'",
    "DELETE FROM shop.docs WHERE j IS NULL LIMIT 1",
];

/// Every row as it is printed, each with how often it is there.
async fn multiset(server: &Server, table: &str) -> Vec<(String, u64)> {
    let columns: Vec<(String, String)> = server
        .rows(&format!(
            "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = '{SCHEMA}' AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
        ))
        .await;
    let shown: Vec<String> = columns
        .iter()
        .map(|(name, kind)| match kind.as_str() {
            "float" | "double" => format!("IFNULL({name} * 1e0, 'N')"),
            "json" => format!(
                "IFNULL(CONCAT({name}, JSON_TYPE({name}), IFNULL(JSON_TYPE(JSON_EXTRACT({name}, '$.a')), '')), 'N')"
            ),
            _ => format!("IFNULL(HEX({name}), 'N')"),
        })
        .collect();
    let row = format!("CONCAT_WS('|', {})", shown.join(", "));
    server
        .rows(&format!("SELECT {row} AS shown, COUNT(*) FROM {SCHEMA}.{table} GROUP BY shown ORDER BY shown"))
        .await
}

async fn assert_equal(source: &Server, target: &Server) {
    let different = difference(source, target).await;
    assert!(different.is_none(), "{different:?}");
}

/// The first table that differs.
async fn difference(source: &Server, target: &Server) -> Option<String> {
    let sql = format!("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{SCHEMA}'");
    let tables: Vec<String> = source.rows(&sql).await;
    assert!(tables.len() >= 4);
    for table in tables {
        let (old, new) = (multiset(source, &table).await, multiset(target, &table).await);
        if old != new {
            let not_in = |here: &[(String, u64)], there: &[(String, u64)]| -> Vec<(String, u64)> {
                here.iter().filter(|row| !there.contains(row)).cloned().collect()
            };
            let (missing, extra) = (not_in(&old, &new), not_in(&new, &old));
            return Some(format!("{table}: only on the source {missing:?}, only on the target {extra:?}"));
        }
    }
    None
}

/// Sessions that write the tables, until they are told to stop.
struct Writers {
    stop: CancellationToken,
    sessions: JoinSet<()>,
}

impl Writers {
    fn start(port: u16, user: &'static str, password: &'static str) -> Self {
        let (stop, mut sessions) = (CancellationToken::new(), JoinSet::new());
        for number in 1..=WRITERS {
            let stop = stop.clone();
            sessions.spawn(async move {
                let mut conn = Conn::new(opts(port, user, password, Some(SCHEMA))).await.unwrap();
                let mut turn = number;
                while !stop.is_cancelled() {
                    turn =
                        turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let began = Instant::now();
                    change(&mut conn, turn >> 33).await;
                    // The tail applies such a table one row after the other, and has to keep up.
                    think(began, Duration::from_millis(10)).await;
                }
                conn.disconnect().await.unwrap();
            });
        }
        Self { stop, sessions }
    }

    async fn rest(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.sessions.join_next().await {
            ended.unwrap();
        }
    }
}

/// One change, by a number.
async fn change(conn: &mut Conn, turn: u64) {
    let n = turn / 16 % 300;
    let statements: &[String] = &match turn % 16 {
        0..=3 => vec![format!(
            "INSERT INTO log (id, name, code, double_f) VALUES ({n}, 'Ann', 'x', {n}.1), ({n}, 'ann', 'X', NULL)"
        )],
        4 => vec!["INSERT INTO log () VALUES (), ()".to_owned()],
        5 | 6 => vec![format!("UPDATE log SET name = 'ann ', single_f = 0.1 WHERE id = {n} LIMIT 1")],
        7 => vec!["UPDATE log SET id = 3, raw = 'r' WHERE id IS NULL LIMIT 1".to_owned()],
        8..=10 => vec![format!("DELETE FROM log WHERE id = {n} LIMIT 1")],
        11 => vec!["DELETE FROM log WHERE id IS NULL LIMIT 1".to_owned()],
        12 => vec![
            "BEGIN".to_owned(),
            format!("INSERT INTO log (id, body) VALUES ({n}, 'kept'), ({n}, 'kept')"),
            format!("DELETE FROM log WHERE id = {n} AND body = 'kept' LIMIT 1"),
            "COMMIT".to_owned(),
        ],
        13 => vec![format!("INSERT INTO half (u, v) VALUES (NULL, {n})")],
        14 => vec![format!("UPDATE half SET v = v + 1 WHERE u = {}", n % 3)],
        _ => vec![format!("DELETE FROM half WHERE u IS NULL AND v = {n} LIMIT 1")],
    };
    for sql in statements {
        match conn.query_drop(sql.as_str()).await {
            Ok(()) => {}
            // Full scans of two sessions may stand in each other's way.
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => return,
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}

struct Bed {
    source: Server,
    target: Server,
    documents: bool,
}

impl Bed {
    async fn start(from: Engine, to: Engine, target_flags: &[&str]) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(from, &[]), Server::start(to, target_flags));
        let bed = Self {
            source: source?,
            target: target?,
            documents: (from, to) == (Engine::MySql97, Engine::MySql97),
        };
        for server in [&bed.source, &bed.target] {
            accounts::create(server, SCHEMA).await;
        }
        bed.source.run(TABLES).await;
        if bed.documents {
            bed.source.run(DOCUMENTS).await;
        }
        for _ in 0..5 {
            bed.source.run(&["INSERT INTO shop.log SELECT * FROM shop.log"]).await;
        }
        Some(bed)
    }
}

async fn moved(bed: &Bed, back: bool) {
    let settings = Settings::between(&bed.source, &bed.target, SCHEMA);
    let writers = Writers::start(bed.source.port(), "root", "");
    let places = ["snapshot.whole.loaded", "snapshot.whole.defined", "apply.batch.committed"];
    let changeover = Changeover::start_and_die(settings, &places).await;
    bed.source
        .run(&[
            "UPDATE shop.emptied SET b = 'b' LIMIT 1",
            "TRUNCATE shop.emptied",
            "INSERT INTO shop.emptied VALUES (NULL, NULL), (7, 'x'), (7, 'x')",
            "DELETE FROM shop.emptied WHERE a = 7 LIMIT 1",
            "ALTER TABLE shop.promoted ADD PRIMARY KEY (a)",
            "UPDATE shop.promoted SET b = 'c' WHERE a = 2",
            "ALTER TABLE shop.promoted DROP PRIMARY KEY",
            "INSERT INTO shop.promoted VALUES (2, 'c'), (2, 'c')",
            "DELETE FROM shop.promoted WHERE a = 2 LIMIT 1",
            "ALTER TABLE shop.half ADD w INT",
        ])
        .await;
    if bed.documents {
        bed.source.run(DOCUMENTS_CHANGE).await;
    }
    writers.rest().await;
    changeover.wait_applied(&bed.source).await;
    assert_equal(&bed.source, &bed.target).await;
    changeover.wait_ready().await;
    differences_are_named(bed, &changeover).await;

    let writers = Writers::start(changeover.port(), accounts::APP, accounts::APP_PASSWORD);
    changeover.cut_over().await;
    if back {
        changeover.turn().await;
    }
    writers.rest().await;
    let serving = if back { &bed.source } else { &bed.target };
    if back {
        // The applied position may still be that of the other direction, in the other server's binlog.
        until("both to be equal", Duration::from_secs(60), async || {
            difference(&bed.source, &bed.target).await.map_or(Ok(()), Err)
        })
        .await;
    }
    assert_eq!(serving.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
}

/// What only the target has is found, named for the table as a whole, and not repaired.
async fn differences_are_named(bed: &Bed, changeover: &Changeover) {
    bed.target.run(&["INSERT INTO shop.log (id) VALUES (424242)"]).await;
    changeover.admin("VERIFY TABLE shop.log").await;
    let row = until("the difference to be listed", Duration::from_secs(60), async || {
        changeover.admin("SHOW DIFFERENCES").await.pop().ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!((row["table"].as_str(), row["kind"].as_str()), ("log", "different"), "{row:?}");
    let told = changeover.try_admin("CUTOVER DRY RUN").await;
    assert!(format!("{told:?}").contains("differ"), "{told:?}");
    let refused = changeover.try_admin("REPAIR").await.unwrap_err();
    assert!(refused.contains("no key"), "{refused}");
    bed.target.run(&["DELETE FROM shop.log WHERE id = 424242"]).await;
    changeover.admin("VERIFY TABLE shop.log").await;
    until("no difference to be left", Duration::from_secs(60), async || {
        let left = changeover.admin("SHOW DIFFERENCES").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    changeover.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb, &[]).await else { return };
    moved(&bed, true).await;
}

/// The target would give such tables a key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97() {
    let flags = ["--sql-generate-invisible-primary-key=ON"];
    let Some(bed) = Bed::start(Engine::MySql97, Engine::MySql97, &flags).await else { return };
    moved(&bed, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_to_mysql97() {
    let Some(bed) = Bed::start(Engine::MySql56, Engine::MySql97, &[]).await else { return };
    moved(&bed, false).await;
}

/// A transaction that stays open holds the copy of a table that it wrote, on MySQL, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_in_the_copy_or_behind_it() {
    for (from, to) in [(Engine::MySql56, Engine::MySql97), (Engine::MariaDb, Engine::MariaDb)] {
        let Some(bed) = Bed::start(from, to, &[]).await else { return };
        let changeover = Changeover::start(Settings::between(&bed.source, &bed.target, SCHEMA)).await;
        let mut open = bed.source.root().await;
        open.query_drop("BEGIN").await.unwrap();
        open.query_drop("INSERT INTO shop.log (id) VALUES (555)").await.unwrap();
        changeover.admin("START MIGRATION").await;
        if from == Engine::MySql56 {
            until("the lock to be waited for", Duration::from_secs(60), async || {
                let log = changeover.log();
                if log.contains("stays open") { Ok(()) } else { Err("nothing is said".to_owned()) }
            })
            .await;
        } else {
            changeover.wait_phase(&["following"]).await;
        }
        open.query_drop("COMMIT").await.unwrap();
        changeover.wait_ready().await;
        changeover.wait_applied(&bed.source).await;
        assert_equal(&bed.source, &bed.target).await;
    }
}
