//! Row filters: the rows of one business out of tables that several share, through kills, writers that move rows into the
//! filter and out of it, a cutover beside the others, and the way back. Equal means: what the new server holds is what the
//! old one selects.

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
const RULE: &str = "[{ table = \"shop.%\", column = \"tenant_id\", values = [7, 9] }]";
const MINE: &str = "tenant_id IN (7, 9)";

/// The column beside the key, in it, without any key, and a table that hasn't got it.
const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, tenant_id INT NULL, u INT NULL UNIQUE,
        note VARCHAR(40)) ENGINE=InnoDB",
    "CREATE TABLE shop.items (tenant_id SMALLINT UNSIGNED NOT NULL, id INT NOT NULL, v INT, PRIMARY KEY (tenant_id, id))
        ENGINE=InnoDB",
    "CREATE TABLE shop.log (tenant_id INT NULL, body VARCHAR(20)) ENGINE=InnoDB",
    "CREATE TABLE shop.countries (id INT PRIMARY KEY, name VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO shop.countries VALUES (1, 'one'), (2, 'two')",
    "INSERT INTO shop.orders (tenant_id, note) VALUES (7, 'a'), (8, 'b'), (9, 'c'), (NULL, 'd'), (10, 'e')",
    "INSERT INTO shop.items VALUES (7, 1, 1), (8, 1, 1), (9, 1, 1)",
    "INSERT INTO shop.log VALUES (7, 'a'), (7, 'a'), (8, 'a'), (NULL, 'a')",
];

struct Bed {
    source: Server,
    target: Server,
}

impl Bed {
    async fn start(from: Engine, to: Engine) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(from, &[]), Server::start(to, &[]));
        let bed = Self { source: source?, target: target? };
        for server in [&bed.source, &bed.target] {
            accounts::create(server, SCHEMA).await;
        }
        bed.source.run(TABLES).await;
        for _ in 0..9 {
            bed.source
                .run(&["INSERT INTO shop.orders (tenant_id, note) SELECT tenant_id, note FROM shop.orders"])
                .await;
        }
        Some(bed)
    }

    fn settings(&self) -> Settings {
        Settings::between(&self.source, &self.target, SCHEMA)
            .with("migration.rows", RULE)
            .with("cutover.fence", "\"none\"")
            .with("snapshot.chunk_rows", "100")
    }

    async fn assert_equal(&self) {
        let tables: Vec<(String, u64)> = self
            .source
            .rows(
                "SELECT t.TABLE_NAME, COUNT(c.COLUMN_NAME) FROM information_schema.TABLES t
                 LEFT JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = t.TABLE_SCHEMA
                    AND c.TABLE_NAME = t.TABLE_NAME AND c.COLUMN_NAME = 'tenant_id'
                 WHERE t.TABLE_SCHEMA = 'shop' GROUP BY t.TABLE_NAME",
            )
            .await;
        assert!(tables.len() >= 4);
        for (table, filtered) in tables {
            let condition = if filtered == 1 { MINE } else { "TRUE" };
            let old = rows(&self.source, &table, condition).await;
            let new = rows(&self.target, &table, "TRUE").await;
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
}

/// Rows as they are printed.
async fn rows(server: &Server, table: &str, condition: &str) -> Vec<String> {
    let columns: Vec<String> = server
        .rows(&format!(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME = '{table}'
             ORDER BY ORDINAL_POSITION"
        ))
        .await;
    let shown: Vec<String> = columns.iter().map(|name| format!("IFNULL(HEX({name}), 'N')")).collect();
    let sql = format!(
        "SELECT CONCAT_WS('|', {}) AS shown FROM shop.{table} WHERE {condition} ORDER BY shown",
        shown.join(", ")
    );
    server.rows(&sql).await
}

/// Sessions that write on a server past the proxy. `mine`: also the rows that are moved, into the filter and out of it.
async fn writers(server: &Server, mine: bool) -> Writers {
    let sessions = Mutex::new(vec![server.root().await, server.root().await]);
    Writers::start(2, move |_, mut turns| {
        let mut conn = sessions.lock().unwrap().pop().unwrap();
        async move {
            while let Some(turn) = turns.throw().await {
                write(&mut conn, turn, mine).await;
                turns.committed();
            }
            conn.disconnect().await.unwrap();
        }
    })
}

async fn write(conn: &mut Conn, turn: u64, mine: bool) {
    let (id, n) = (turn / 16 % 3000, turn / 8 % 100);
    let tenants: &[&str] = if mine { &["7", "8", "9", "NULL", "10"] } else { &["8", "10"] };
    let pick = |salt: u64| tenants[usize::try_from((turn + salt) % tenants.len() as u64).unwrap()];
    let (a, b) = (pick(turn >> 7), pick(turn >> 11));
    let key = |tenant: &str| if tenant == "NULL" { "8".to_owned() } else { tenant.to_owned() };
    let own = if mine { "TRUE" } else { "tenant_id IN (8, 10)" };
    let sql = match turn % 12 {
        0 | 1 => {
            format!("INSERT INTO shop.orders (tenant_id, u, note) VALUES ({a}, NULL, 'n'), ({b}, NULL, 'm')")
        }
        2..=4 => {
            format!("UPDATE shop.orders SET tenant_id = {a}, note = 'moved {turn}' WHERE id = {id} AND {own}")
        }
        5 => format!("UPDATE shop.orders SET u = NULL WHERE u = {n} AND {own}"),
        6 => format!("UPDATE IGNORE shop.orders SET u = {n}, tenant_id = {b} WHERE id = {id} AND {own}"),
        7 => format!("DELETE FROM shop.orders WHERE id = {id} AND {own}"),
        8 => format!("REPLACE INTO shop.items VALUES ({}, {n}, {id})", key(a)),
        9 => format!(
            "UPDATE IGNORE shop.items SET tenant_id = {} WHERE id = {n} AND tenant_id = {}",
            key(a),
            key(b)
        ),
        10 => format!("INSERT INTO shop.log VALUES ({a}, 'x{n}'), ({a}, 'x{n}'), ({b}, 'y')"),
        _ => format!("UPDATE shop.log SET tenant_id = {b} WHERE body = 'x{n}' AND {own} LIMIT 3"),
    };
    match conn.query_drop(&sql).await {
        Ok(()) => {}
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// Copy and tail under writers, with kills; DDL; repair.
async fn forth(bed: &Bed, settings: Settings, failpoint: &str) -> Changeover {
    let writers = writers(&bed.source, true).await;
    let changeover = Changeover::start_and_die(settings, &[failpoint, "apply.batch.committed"]).await;
    // A row that is replaced while MySQL 5.6 builds a table beside its writers may be a duplicate key to it (1062).
    let algorithm = if bed.source.engine() == Engine::MySql56 { ", ALGORITHM = COPY" } else { "" };
    bed.source
        .run(&[
            &format!("ALTER TABLE shop.orders ADD c INT FIRST{algorithm}"),
            "ALTER TABLE shop.orders ADD INDEX (tenant_id)",
            "CREATE TABLE shop.born (id INT PRIMARY KEY, tenant_id INT) ENGINE=InnoDB",
            "INSERT INTO shop.born VALUES (1, 7), (2, 8), (3, NULL)",
            "UPDATE shop.born SET tenant_id = 9 WHERE id = 2",
            // It is copied anew: which rows are moved may change without an event.
            "ALTER TABLE shop.born MODIFY tenant_id BIGINT",
            "UPDATE shop.born SET tenant_id = 8 WHERE id = 1",
            "CREATE TABLE shop.late (id INT PRIMARY KEY) ENGINE=InnoDB",
            "INSERT INTO shop.late VALUES (7), (8)",
            "ALTER TABLE shop.late ADD tenant_id INT",
            "UPDATE shop.late SET tenant_id = id",
        ])
        .await;
    changeover.wait_ready().await;
    writers.close().await;
    changeover.wait_applied(&bed.source).await;
    bed.assert_equal().await;
    changeover
}

async fn repaired(bed: &Bed, changeover: &Changeover) {
    let id: i64 = bed.source.value("SELECT MIN(id) FROM shop.orders WHERE tenant_id = 8").await;
    let mine: i64 = bed.source.value("SELECT MIN(id) FROM shop.orders WHERE tenant_id = 7").await;
    bed.target
        .run(&[
            &format!("INSERT INTO shop.orders (id, tenant_id, note) VALUES ({id}, 8, 'not mine'), (900000, 7, 'extra')"),
            &format!("DELETE FROM shop.orders WHERE id = {mine}"),
        ])
        .await;
    changeover.admin("VERIFY").await;
    until("the differences to be listed", LIMIT, async || {
        let mut kinds: Vec<String> =
            changeover.admin("SHOW DIFFERENCES").await.iter().map(|row| row["kind"].clone()).collect();
        kinds.sort();
        if kinds == ["extra", "extra", "missing"] { Ok(()) } else { Err(format!("{kinds:?}")) }
    })
    .await;
    assert_eq!(changeover.admin("REPAIR").await.len(), 3);
    changeover.wait_ready().await;
    bed.assert_equal().await;
}

async fn moved(from: Engine, to: Engine, fence: &str, failpoint: &str) {
    let Some(bed) = Bed::start(from, to).await else { return };
    let settings = bed.settings().with("cutover.fence", fence);
    let settings = match fence {
        "\"accounts\"" => settings.with("cutover.fence_accounts", "[\"app@%\"]"),
        _ => settings,
    };
    let changeover = forth(&bed, settings, failpoint).await;
    repaired(&bed, &changeover).await;
    let conversions = changeover.admin("SHOW CONVERSIONS").await;
    assert!(
        conversions
            .iter()
            .any(|row| row["object"] == "orders" && row["target_definition"].contains("IN (7,9)")),
        "{conversions:?}"
    );
    if from != to {
        return;
    }
    // The others go on where they are, and are nobody's stray writes.
    let others = self::writers(&bed.source, false).await;
    changeover.cut_over().await;
    let mut app = changeover.app(Some(SCHEMA)).await;
    for round in 0..2 {
        // Those that the old server gives to others meanwhile go up.
        let id = -1_000 - round * 10;
        for sql in [
            format!(
                "INSERT INTO orders (id, tenant_id, note) VALUES ({id}, 7, 'new'), ({}, 9, 'new')",
                id + 1
            ),
            format!("UPDATE orders SET tenant_id = 7, note = 'changed' WHERE id = {}", id + 1),
            "UPDATE orders SET note = CONCAT('back ', id) WHERE id % 7 = 0".to_owned(),
            "DELETE FROM orders WHERE id % 11 = 0".to_owned(),
            "INSERT INTO log VALUES (7, 'z'), (7, 'z')".to_owned(),
            "UPDATE log SET body = 'q' WHERE body = 'z' LIMIT 1".to_owned(),
            "UPDATE items SET v = v + 1".to_owned(),
        ] {
            app.query_drop(sql).await.unwrap();
        }
        // There, and back again.
        changeover.wait_applied(&bed.target).await;
        bed.assert_equal().await;
        assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
        changeover.turn().await;
        assert_eq!(changeover.status_of("route").await, "source");
        changeover.turn().await;
    }
    others.close().await;
    assert!(bed.source.value::<u64>("SELECT COUNT(*) FROM shop.orders WHERE tenant_id = 8").await > 10);
    // What isn't of this business has no place in the shared table.
    app.query_drop("INSERT INTO orders (id, tenant_id, note) VALUES (-5, 8, 'not mine')").await.unwrap();
    let error = changeover.stopped().await;
    assert!(error.contains("shop.orders") && error.contains("isn't of the business"), "{error}");
    let there: u64 = bed.source.value("SELECT COUNT(*) FROM shop.orders WHERE id = -5").await;
    assert_eq!(there, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_business_moves_and_comes_back_on_mariadb() {
    moved(Engine::MariaDb, Engine::MariaDb, "\"none\"", "snapshot.whole.loaded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_business_moves_and_comes_back_on_mysql97() {
    moved(Engine::MySql97, Engine::MySql97, "\"accounts\"", "snapshot.whole.defined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_business_moves_from_mysql56_to_mysql97() {
    moved(Engine::MySql56, Engine::MySql97, "\"none\"", "snapshot.whole.defined").await;
}

/// The definition that keeps the rows apart goes: nobody else's rows come along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_column_a_table_is_moved_no_further() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb).await else { return };
    let mut changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.kill_9();
    changeover.set("migration.rows", &RULE.replace("9", "8"));
    changeover.start_again().await;
    let error = changeover.stopped().await;
    assert!(error.contains("migration.rows was changed"), "{error}");
    changeover.kill_9();
    changeover.set("migration.rows", RULE);
    changeover.start_again().await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    bed.source.run(&["ALTER TABLE shop.orders DROP COLUMN tenant_id"]).await;
    let error = changeover.stopped().await;
    assert!(error.contains("shop.orders") && error.contains("column"), "{error}");
    let there: u64 = bed
        .target
        .value("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME = 'orders'")
        .await;
    assert_eq!(there, 0, "nothing of it is there");
}

/// A row that others bring into the filter on the old server is found; a TRUNCATE doesn't reach the others' rows.
async fn shared_on_the_way_back(engine: Engine) {
    let Some(bed) = Bed::start(engine, engine).await else { return };
    let changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let before: u64 = bed.source.value("SELECT COUNT(*) FROM shop.orders").await;
    bed.source
        .run(&[
            "UPDATE shop.orders SET note = 'theirs' WHERE tenant_id = 8",
            "UPDATE shop.orders SET tenant_id = 7 WHERE tenant_id = 8 ORDER BY id LIMIT 2",
        ])
        .await;
    until("the stray write", LIMIT, async || {
        let rows = changeover.admin("SHOW STRAY WRITES").await;
        let found: Vec<_> = rows.iter().map(|row| (row["table"].as_str(), row["rows"].as_str())).collect();
        if found == [("orders", "2")] { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let mut app = changeover.app(Some(SCHEMA)).await;
    app.query_drop("TRUNCATE TABLE orders").await.unwrap();
    until("the way back to stop", LIMIT, async || {
        let events = changeover.admin("SHOW EVENTS").await;
        let said = events.iter().any(|row| row["message"].contains("other businesses share"));
        if said { Ok(()) } else { Err(changeover.status_of("last_error").await) }
    })
    .await;
    let after: u64 = bed.source.value("SELECT COUNT(*) FROM shop.orders").await;
    assert_eq!(before, after, "the others' rows are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_rows_stay_on_the_way_back_on_mariadb() {
    shared_on_the_way_back(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_rows_stay_on_the_way_back_on_mysql97() {
    shared_on_the_way_back(Engine::MySql97).await;
}

/// Every text of one and two printable ASCII characters is in the filter exactly where the server says so: those that are
/// copied by its own condition, those that follow by ours.
async fn as_the_server_says(engine: Engine, collations: &[&str]) {
    let (source, target) = tokio::join!(Server::start(engine, &[]), Server::start(engine, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    let bed = Bed { source, target };
    for server in [&bed.source, &bed.target] {
        accounts::create(server, SCHEMA).await;
    }
    let values = [
        "a", "Z", "A ", " b", "ab", "Ss", "i", "y", "[", "]", "\\\\", "'", "-", "--", "_", "^", "~", "{}",
        "@", "0", "1.", "", " ", "ij", "ae", "oe", "th", "!", "\\\"",
    ];
    let list: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
    let mut ddl = vec![
        "CREATE DATABASE shop".to_owned(),
        "CREATE TABLE shop.chars (c INT PRIMARY KEY)".to_owned(),
        format!(
            "INSERT INTO shop.chars VALUES {}",
            (32..127).map(|c| format!("({c})")).collect::<Vec<_>>().join(",")
        ),
    ];
    for (i, collation) in collations.iter().enumerate() {
        let (charset, _) = collation.split_once('_').unwrap();
        ddl.push(format!(
            "CREATE TABLE shop.word_{i} (id INT AUTO_INCREMENT PRIMARY KEY, c VARCHAR(10) CHARACTER SET {charset} \
             COLLATE {collation}) ENGINE=InnoDB"
        ));
    }
    let ddl: Vec<&str> = ddl.iter().map(String::as_str).collect();
    bed.source.run(&ddl).await;
    let fill = async || {
        for i in 0..collations.len() {
            bed.source
                .run(&[
                    &format!("INSERT INTO shop.word_{i} (c) SELECT CHAR(c) FROM shop.chars"),
                    &format!("INSERT INTO shop.word_{i} (c) SELECT CHAR(a.c, b.c) FROM shop.chars a, shop.chars b"),
                    &format!("INSERT INTO shop.word_{i} (c) VALUES (NULL), (''), ('   '), ('a  '), ('A   '), ('xqz')"),
                ])
                .await;
        }
    };
    fill().await;
    let rule = format!("[{{ table = \"shop.word%\", column = \"c\", values = [{}] }}]", list.join(", "));
    let settings = Settings::between(&bed.source, &bed.target, SCHEMA).with("migration.rows", &rule);
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    fill().await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    let condition: Vec<String> =
        values.iter().map(|value| format!("'{}'", value.replace("\\\"", "\"").replace('\'', "''"))).collect();
    for (i, collation) in collations.iter().enumerate() {
        let table = format!("word_{i}");
        let old = rows(&bed.source, &table, &format!("c IN ({})", condition.join(","))).await;
        let new = rows(&bed.target, &table, "TRUE").await;
        let differing: Vec<&String> = old
            .iter()
            .filter(|row| !new.contains(row))
            .chain(new.iter().filter(|row| !old.contains(row)))
            .collect();
        assert!(differing.is_empty(), "{collation}: {differing:?}");
        assert!(old.len() >= 2 * values.len(), "{collation}: {}", old.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_told_apart_as_mariadb_does() {
    as_the_server_says(
        Engine::MariaDb,
        &[
            "utf8mb4_bin",
            "utf8mb4_nopad_bin",
            "latin1_bin",
            "utf8mb4_general_ci",
            "utf8mb3_unicode_ci",
            "utf8mb4_unicode_520_ci",
            "utf8mb4_uca1400_ai_ci",
            "utf8mb4_uca1400_as_ci",
            "latin1_swedish_ci",
            "ascii_general_ci",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_told_apart_as_mysql97_does() {
    as_the_server_says(
        Engine::MySql97,
        &[
            "utf8mb4_bin",
            "utf8mb4_0900_bin",
            "latin1_bin",
            "utf8mb4_general_ci",
            "utf8mb4_unicode_ci",
            "utf8mb4_unicode_520_ci",
            "utf8mb4_0900_ai_ci",
            "utf8mb4_0900_as_ci",
            "latin1_swedish_ci",
            "ascii_general_ci",
        ],
    )
    .await;
}

/// What a filter takes is said beforehand, and what can't be followed is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_is_moved() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb).await else { return };
    bed.source
        .run(&[
            "CREATE TABLE shop.prices (id INT PRIMARY KEY, price DOUBLE)",
            "CREATE TABLE shop.lines (id INT PRIMARY KEY, tenant_id INT, `order` BIGINT,
                FOREIGN KEY (`order`) REFERENCES shop.orders (id) ON DELETE CASCADE) ENGINE=InnoDB",
        ])
        .await;
    let (code, said) = changeover::check(&bed.settings());
    for part in [
        "(`tenant_id` IN (7,9))",
        "shop.countries",
        "no column tenant_id",
        "doesn't log",
        "auto_increment_offset",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(code, 1, "the cascade can't be followed: {said}");
    bed.source.run(&["DROP TABLE shop.lines"]).await;
    bed.source
        .run(&["CREATE TRIGGER shop.stamp BEFORE INSERT ON shop.orders FOR EACH ROW SET NEW.note = 'made'"])
        .await;
    let (code, said) = changeover::check(&bed.settings());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("A cutover would be refused") && said.contains("would lose theirs"), "{said}");
    let refused = |rows: &str, part: &str| {
        let (code, said) = changeover::check(&bed.settings().with("migration.rows", rows));
        assert!(code == 1 && said.contains(part), "{part}: {code} {said}");
    };
    refused("[{ table = \"shop.ordres\", column = \"tenant_id\", values = [7] }]", "No table matches");
    refused("[{ table = \"shop.prices\", column = \"price\", values = [7] }]", "double");
    refused("[{ table = \"shop.prices\", column = \"tenant_id\", values = [7] }]", "hasn't got");
    refused("[{ table = \"shop.items\", column = \"tenant_id\", values = [-7] }]", "can't hold the value -7");
    bed.source.run(&["SET GLOBAL binlog_row_image = 'MINIMAL'"]).await;
    refused(RULE, "binlog_row_image");
}
