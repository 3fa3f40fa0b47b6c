//! Schemas and tables that are called otherwise on the target: copy, tail, definitions in the stream, verifier and repair,
//! sessions that never name their schema, cutover and the way back. Equal means: each server's own SELECT of what it calls the
//! table gives the same rows.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{Settings, check};
use crate::support::wait::until;
use crate::support::writers::{Turns, Writers};
use crate::support::{Changeover, Engine, Server, accounts};

const LIMIT: Duration = Duration::from_secs(60);
/// A schema, a table in it under another name, and one that goes to a schema of its own.
const RULES: &str = "[{ from = \"shop\", to = \"store\" }, { from = \"shop.orders\", to = \"store.purchases\" }, \
                     { from = \"shop.old\", to = \"attic.old\" }]";

const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "USE shop",
    "CREATE TABLE customers (id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL, n INT NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, customer BIGINT NOT NULL, note VARCHAR(40), KEY (note),
        FOREIGN KEY (customer) REFERENCES customers (id)) ENGINE=InnoDB",
    "CREATE TABLE audit (id BIGINT AUTO_INCREMENT PRIMARY KEY, order_id BIGINT NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE old (id INT PRIMARY KEY, shop INT, orders BIGINT) ENGINE=InnoDB",
    "INSERT INTO customers (name) VALUES ('a'), ('b'), ('c'), ('d')",
    "INSERT INTO orders (customer, note) VALUES (1, 'shop.orders'), (2, 'two'), (3, 'three')",
    "INSERT INTO old VALUES (1, 1, 1), (2, 2, 2)",
];
/// What OceanBase hasn't got: a table without a key, a foreign key into another schema.
const NOT_IN_OCEANBASE: &[&str] = &[
    "ALTER TABLE shop.old ADD FOREIGN KEY (orders) REFERENCES shop.orders (id)",
    "CREATE TABLE shop.log (a INT, b VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO shop.log VALUES (1, 'x'), (1, 'x'), (2, NULL)",
];
const OBJECTS: &[&str] = &[
    "USE shop",
    "CREATE DEFINER = 'app'@'%' VIEW bought AS SELECT o.id AS id, c.name AS shop FROM orders o JOIN customers c ON o.customer = c.id",
    "CREATE DEFINER = 'app'@'%' PROCEDURE greet(IN whom VARCHAR(40)) INSERT INTO customers (name) VALUES (whom)",
    "CREATE DEFINER = 'app'@'%' TRIGGER noted AFTER INSERT ON orders FOR EACH ROW INSERT INTO audit (order_id) VALUES (NEW.id)",
    "CREATE DEFINER = 'app'@'%' EVENT idle ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' DO DELETE FROM audit",
];

struct Bed {
    source: Server,
    target: Server,
}

impl Bed {
    async fn start(from: Engine, to: Engine) -> Option<Self> {
        let trusting: &[&str] =
            if from == Engine::Seekdb { &[] } else { &["--log-bin-trust-function-creators=1"] };
        let there: &[&str] = if to == Engine::Seekdb { &[] } else { trusting };
        let (source, target) = tokio::join!(Server::start(from, trusting), Server::start(to, there));
        let bed = Self { source: source?, target: target? };
        accounts::create(&bed.source, "shop").await;
        accounts::create(&bed.target, "store").await;
        bed.target.run(&["GRANT ALL ON `attic`.* TO app@'%'"]).await;
        bed.source.run(TABLES).await;
        if to != Engine::Seekdb {
            bed.source.run(NOT_IN_OCEANBASE).await;
        }
        if from == to {
            bed.source.run(OBJECTS).await;
        }
        Some(bed)
    }

    fn settings(&self) -> Settings {
        Settings::between(&self.source, &self.target, "shop").with("migration.rename", RULES)
    }

    async fn tables(&self) -> Vec<String> {
        let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE = 'BASE TABLE'";
        self.source.rows(sql).await
    }

    /// Every table of the source, and its counterpart.
    async fn assert_equal(&self, least: usize) {
        let tables = self.tables().await;
        assert!(tables.len() >= least, "{tables:?}");
        for table in tables {
            let (schema, there) = called(&table);
            let columns = columns(&self.source, "shop", &table).await;
            assert_eq!(columns, self::columns(&self.target, schema, there).await, "{table}");
            let (old, new) = (
                rows(&self.source, "shop", &table, &columns).await,
                rows(&self.target, schema, there, &columns).await,
            );
            assert!(old == new, "{table}: {} and {} rows\n{old:?}\n{new:?}", old.len(), new.len());
        }
        let strays = "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ";
        assert_eq!(self.target.value::<i64>(&format!("{strays}'shop'")).await, 0);
        assert_eq!(self.source.value::<i64>(&format!("{strays}'store'")).await, 0);
    }
}

/// What the target calls a table of the source.
fn called(table: &str) -> (&'static str, &str) {
    match table {
        "orders" => ("store", "purchases"),
        "old" => ("attic", "old"),
        table => ("store", table),
    }
}

async fn columns(server: &Server, schema: &str, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{schema}' AND TABLE_NAME = '{table}'
         ORDER BY ORDINAL_POSITION"
    );
    server.rows(&sql).await
}

async fn rows(server: &Server, schema: &str, table: &str, columns: &[String]) -> Vec<String> {
    let shown: Vec<String> = columns.iter().map(|name| format!("IFNULL(HEX({name}), 'N')")).collect();
    let sql = format!("SELECT CONCAT_WS('|', {}) FROM {schema}.{table}", shown.join(", "));
    let mut rows: Vec<String> = server.rows(&sql).await;
    rows.sort();
    rows
}

/// An application that names no schema: `orders` is a table on the old server and a view on the new one.
async fn write(mut app: Conn, id: u32, mut turns: Turns, keyless: bool) {
    let mut number = u64::from(id);
    while turns.another().await {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (number >> 33) % 100;
        let done = match n % 6 {
            // Prepared once, and prepared again wherever the session goes.
            0 => app.exec_drop("INSERT INTO customers (name, n) VALUES (?, ?)", ("new", n)).await,
            1 | 2 => {
                app.query_drop(format!("INSERT INTO orders (customer, note) VALUES ({}, 'n{n}')", n % 3 + 1))
                    .await
            }
            3 => {
                app.query_drop(format!(
                    "UPDATE customers SET n = n + 1, name = 'n{n}' WHERE id = {}",
                    n % 9 + 1
                ))
                .await
            }
            4 if keyless => app.query_drop(format!("INSERT INTO log VALUES ({n}, 'x'), ({n}, 'x')")).await,
            5 if keyless => app.query_drop(format!("DELETE FROM log WHERE a = {n} LIMIT 1")).await,
            _ => app.query_drop(format!("UPDATE orders SET note = 'u{n}' WHERE id = {n}")).await,
        };
        match done {
            Ok(()) => turns.committed(),
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => {}
            Err(error) => panic!("{error}"),
        }
    }
    app.disconnect().await.unwrap();
}

async fn writers(changeover: &Changeover, keyless: bool) -> Writers {
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(changeover.app(Some("shop")).await);
    }
    let sessions = std::sync::Mutex::new(sessions);
    Writers::start(3, move |id, turns| {
        let app = sessions.lock().unwrap().pop().unwrap();
        write(app, id, turns, keyless)
    })
}

async fn schema_of(app: &mut Conn) -> String {
    app.query_first("SELECT DATABASE()").await.unwrap().unwrap()
}

/// Moves the application, and sees that it goes on in the schema that it had.
async fn turn(changeover: &Changeover, writers: &Writers, lasting: &mut Conn, expected: &str) {
    changeover.turn().await;
    writers.wait_more(40).await;
    assert_eq!(schema_of(lasting).await, expected);
    lasting.exec_drop("INSERT INTO customers (name, n) VALUES (?, ?)", ("lasting", 1)).await.unwrap();
    let mut fresh = changeover.app(Some("shop")).await;
    assert_eq!(schema_of(&mut fresh).await, expected);
    let shown = changeover.admin("SHOW SESSIONS").await;
    assert!(shown.iter().all(|row| row["schema"] == expected), "{shown:?}");
    fresh.disconnect().await.unwrap();
}

/// Copy and tail under writers, with a kill in the copy, and statements that change definitions.
async fn forth(bed: &Bed, settings: Settings, one_family: bool, keyless: bool) -> (Changeover, Writers) {
    let changeover = Changeover::start_and_die(settings, &["snapshot.chunk.journalled"]).await;
    let writers = writers(&changeover, keyless).await;
    writers.wait_more(20).await;
    bed.source
        .run(&[
            "USE shop",
            "ALTER TABLE orders ADD c INT NULL, ADD INDEX (c)",
            "UPDATE orders SET c = 7 WHERE id <= 2",
            "CREATE TABLE born (id INT PRIMARY KEY, o BIGINT, FOREIGN KEY (o) REFERENCES `shop`.`orders` (id)) ENGINE=InnoDB",
            "INSERT INTO born VALUES (1, 1), (2, 2)",
            "CREATE INDEX shop ON shop.old (shop)",
            "INSERT INTO old VALUES (3, 3, NULL)",
        ])
        .await;
    if one_family {
        bed.source
            .run(&[
                "USE shop",
                "CREATE TABLE like_it LIKE orders",
                "INSERT INTO like_it (id, customer) VALUES (1, 1)",
                "RENAME TABLE born TO reborn, like_it TO liked",
                "TRUNCATE TABLE liked",
                "INSERT INTO reborn VALUES (3, NULL)",
                "CREATE TABLE gone (id INT PRIMARY KEY) ENGINE=InnoDB",
                "DROP TABLE gone",
                "CREATE DEFINER = 'app'@'%' VIEW noted_ones AS SELECT id FROM audit",
            ])
            .await;
    }
    changeover.wait_applied(&bed.source).await;
    (changeover, writers)
}

/// What operators see goes by the source's names, what is run on the target by its own.
async fn repair(bed: &Bed, changeover: &Changeover) {
    bed.target.run(&["UPDATE store.purchases SET note = 'wrong' WHERE id = 3"]).await;
    changeover.wait_phase(&["following"]).await;
    changeover.admin("VERIFY TABLE shop.orders").await;
    let found = until("the difference", LIMIT, async || {
        changeover.admin("SHOW DIFFERENCES").await.pop().ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!((found["schema"].as_str(), found["table"].as_str()), ("shop", "orders"), "{found:?}");
    assert!(found["repair_sql"].contains("`store`.`purchases`"), "{found:?}");
    changeover.admin("REPAIR TABLE shop.orders").await;
    changeover.wait_ready().await;
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
}

/// What others write on the side that was left is named as the source has it.
async fn stray(bed: &Bed, changeover: &Changeover) {
    bed.target.run(&["UPDATE store.purchases SET note = 'stray' WHERE id = 3"]).await;
    let found = until("the stray write", LIMIT, async || {
        changeover.admin("SHOW STRAY WRITES").await.pop().ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!((found["schema"].as_str(), found["table"].as_str()), ("shop", "orders"), "{found:?}");
    until("it to be repaired and acknowledged", LIMIT, async || {
        changeover.try_admin("REPAIR TABLE shop.orders").await?;
        changeover.try_admin("ACKNOWLEDGE STRAY WRITES").await.map(drop)
    })
    .await;
}

async fn back_and_forth(from: Engine, to: Engine) {
    let Some(bed) = Bed::start(from, to).await else { return };
    let (code, said) = check(&bed.settings());
    assert!(code == 0 && said.contains("The schema shop is called store"), "{said}");
    assert!(said.contains("The application has to know the new names of shop.orders, shop.old"), "{said}");
    let one_family = from == to;
    let (changeover, writers) = forth(&bed, bed.settings(), one_family, true).await;
    let renames = changeover.admin("SHOW CONVERSIONS").await;
    let renames: Vec<&str> = renames
        .iter()
        .filter(|row| row["kind"] == "rename")
        .map(|row| row["target_definition"].as_str())
        .collect();
    assert_eq!(renames, ["store", "store.purchases", "attic.old"]);
    repair(&bed, &changeover).await;
    // What the application goes on calling orders.
    bed.target.run(&["CREATE VIEW store.orders AS SELECT * FROM store.purchases"]).await;
    if one_family {
        let bought: i64 = bed.target.value("SELECT COUNT(*) FROM store.bought").await;
        assert!(bought >= 3);
    }
    let mut lasting = changeover.app(Some("shop")).await;
    lasting.exec_drop("INSERT INTO customers (name, n) VALUES (?, ?)", ("lasting", 0)).await.unwrap();
    turn(&changeover, &writers, &mut lasting, "store").await;
    if one_family {
        bed.target
            .run(&[
                "ALTER TABLE store.purchases ADD d INT NULL",
                "CREATE TABLE store.late (id INT PRIMARY KEY, p BIGINT, FOREIGN KEY (p) REFERENCES store.purchases (id))",
                "INSERT INTO store.late VALUES (1, 1)",
                "ALTER TABLE attic.old DROP COLUMN shop",
                "CALL store.greet('hello')",
            ])
            .await;
        let events = "SELECT CONCAT(EVENT_SCHEMA, ' ', STATUS) FROM information_schema.EVENTS WHERE EVENT_NAME = 'idle'";
        bed.target.wait_value(events, "store ENABLED").await;
        let left: Vec<String> = bed.source.rows(events).await;
        assert!(left.is_empty(), "{left:?}");
        let audited = "SELECT COUNT(*) FROM store.purchases p JOIN store.audit a ON a.order_id = p.id";
        let (all, noted): (i64, i64) =
            (bed.target.value("SELECT COUNT(*) FROM store.purchases").await, bed.target.value(audited).await);
        assert!(noted >= all - 3, "{noted} of {all}");
    }
    turn(&changeover, &writers, &mut lasting, "shop").await;
    stray(&bed, &changeover).await;
    turn(&changeover, &writers, &mut lasting, "store").await;
    writers.close().await;
    lasting.disconnect().await.unwrap();
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal(6).await;
    let rows = changeover.admin("SHOW MIGRATION TABLES").await;
    assert!(rows.iter().all(|row| row["schema"] == "shop"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_on_under_other_names_and_comes_back() {
    back_and_forth(Engine::MariaDb, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_goes_on_under_other_names_and_comes_back() {
    back_and_forth(Engine::MySql97, Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_from_mariadb_to_mysql97_and_back() {
    back_and_forth(Engine::MariaDb, Engine::MySql97).await;
}

/// Copy, tail and verifier; from MySQL 5.6 also the application's move.
async fn one_way(from: Engine, to: Engine) {
    let Some(bed) = Bed::start(from, to).await else { return };
    let keyless = to != Engine::Seekdb;
    let settings = if keyless { bed.settings() } else { bed.settings().with("migration.reverse", "false") };
    let (changeover, writers) = forth(&bed, settings, false, keyless).await;
    writers.wait_more(40).await;
    writers.close().await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
    bed.assert_equal(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_from_mysql56_to_mysql97() {
    one_way(Engine::MySql56, Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_from_mariadb_to_oceanbase() {
    one_way(Engine::MariaDb, Engine::Seekdb).await;
}

/// What can't be told exactly is refused with a sentence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_renamed_exactly_is_refused() {
    let Some(bed) = Bed::start(Engine::MariaDb, Engine::MariaDb).await else { return };
    let with = |rules: &str| bed.settings().with("migration.rename", rules);
    let refused = |settings: &Settings, code: i32, sentence: &str| {
        let (ended, said) = check(settings);
        assert!(ended == code && said.contains(sentence), "{ended}: {said}");
    };
    refused(&with("[{ from = \"shop.nothing\", to = \"store.x\" }]"), 1, "There is nothing of that name");
    refused(
        &with("[{ from = \"shop\", to = \"store\" }, { from = \"shop\", to = \"b\" }]"),
        2,
        "renamed twice",
    );
    refused(
        &with("[{ from = \"shop.orders\", to = \"shop.audit\" }]"),
        1,
        "two tables of the source can't be one",
    );
    bed.source
        .run(&[
            "USE shop",
            "CREATE PROCEDURE named() DELETE FROM shop.audit",
            "CREATE EVENT named ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM orders",
        ])
        .await;
    refused(&bed.settings(), 0, "procedure shop.named: it says shop");
    refused(&bed.settings(), 0, "event shop.named: it says orders");
    bed.source.run(&["DROP PROCEDURE shop.named", "DROP EVENT shop.named"]).await;
    bed.target.run(&["CREATE DATABASE store", "CREATE TABLE store.orders (id INT PRIMARY KEY)"]).await;
    refused(
        &bed.settings(),
        1,
        "It holds store.orders, under names that nothing of the source could have there",
    );
    bed.target.run(&["DROP DATABASE store"]).await;

    let mut changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    bed.source.run(&["CREATE VIEW shop.w AS SELECT id FROM shop.customers"]).await;
    let pause = async |changeover: &Changeover, sentence: &str| {
        changeover.wait_phase(&["paused"]).await;
        let error = changeover.status_of("last_error").await;
        assert!(error.contains(sentence), "{error}");
    };
    pause(&changeover, "it says shop, a name that migration.rename speaks of").await;
    bed.target.run(&["CREATE VIEW store.w AS SELECT id FROM store.customers"]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    // Two names of the source can't be one on the target.
    bed.source.run(&["CREATE TABLE shop.purchases (id INT PRIMARY KEY)"]).await;
    changeover.wait_phase(&["failed"]).await;
    let error = changeover.status_of("last_error").await;
    assert!(error.contains("shop.purchases, which has no counterpart"), "{error}");
    changeover.set("migration.exclude_tables", "[\"shop.purchases\"]");
    changeover.start_again().await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    changeover.set("migration.rename", "[{ from = \"shop\", to = \"elsewhere\" }]");
    assert!(!changeover.start_unless_it_ends().await, "it started with other rules");
    assert!(changeover.log().contains("migration.rename was changed since the migration began"));
    changeover.set("migration.rename", RULES);
    changeover.start_again().await;
    changeover.wait_ready().await;
}
