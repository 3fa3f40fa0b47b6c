//! Other names on the target (`[[migration.rename]]`) together with what else a migration can be told, and with what its stream
//! may hold: accounts and grants, the fence of locked accounts, row and column filters, late indexes, XA, names in small letters,
//! and definitions that lead into a renamed name and out of it.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{Settings, check};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Server, accounts};

const LIMIT: Duration = Duration::from_secs(60);
const RULES: &str =
    "[{ from = \"shop\", to = \"store\" }, { from = \"shop.orders\", to = \"attic.purchases\" }]";
/// The rows that are moved where a row filter says so.
const MINE: &str = "tenant_id IN (7, 9)";

const TABLES: &[&str] = &[
    "CREATE DATABASE shop",
    "USE shop",
    "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, tenant_id INT NULL, secret VARCHAR(20) NULL, note VARCHAR(40),
        KEY noted (note), KEY owned (tenant_id, note)) ENGINE=InnoDB",
    "CREATE TABLE items (id INT PRIMARY KEY, tenant_id INT NULL, n INT NOT NULL DEFAULT 0) ENGINE=InnoDB",
    "CREATE TABLE log (tenant_id INT, what VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO items VALUES (1, 7, 0), (2, 8, 0), (3, 9, 0)",
    "INSERT INTO log VALUES (7, 'x'), (7, 'x'), (8, 'x')",
];

struct Bed {
    source: Server,
    target: Server,
}

impl Bed {
    async fn start(from: Engine, to: Engine, flags: &[&str]) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(from, flags), Server::start(to, flags));
        let bed = Self { source: source?, target: target? };
        for (server, schema) in [(&bed.source, "shop"), (&bed.target, "store")] {
            accounts::create(server, schema).await;
        }
        bed.target.run(&["GRANT ALL ON `attic`.* TO app@'%'"]).await;
        bed.source.run(TABLES).await;
        for batch in 0..8 {
            let rows: Vec<String> = (batch * 100..batch * 100 + 100)
                .map(|id| format!("({}, 's{id}', 'n{}')", 6 + id % 4, id % 50))
                .collect();
            let insert = "INSERT INTO shop.orders (tenant_id, secret, note) VALUES";
            bed.source.run(&[&format!("{insert} {}", rows.join(","))]).await;
        }
        Some(bed)
    }

    fn settings(&self) -> Settings {
        Settings::between(&self.source, &self.target, "shop")
            .with("migration.rename", RULES)
            .with("snapshot.chunk_rows", "100")
    }

    /// Each table of the source and its counterpart, in the columns that the target has. `condition`: of the rows that are moved.
    async fn assert_equal(&self, least: usize, condition: &str) {
        let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE = 'BASE TABLE'
                   ORDER BY TABLE_NAME";
        let tables: Vec<String> = self.source.rows(sql).await;
        assert!(tables.len() >= least, "{tables:?}");
        for table in &tables {
            let (schema, there) = called(table);
            let columns = columns(&self.target, schema, there).await;
            assert!(!columns.is_empty(), "{table} isn't there as {schema}.{there}");
            let old = rows(&self.source, "shop", table, &columns, condition).await;
            let new = rows(&self.target, schema, there, &columns, "TRUE").await;
            assert!(old == new, "{table}: {} and {} rows\n{old:?}\n{new:?}", old.len(), new.len());
        }
        let sql = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES
                   WHERE TABLE_SCHEMA IN ('store', 'attic') AND TABLE_TYPE = 'BASE TABLE'";
        let mut there: Vec<String> = self.target.rows(sql).await;
        let mut wanted: Vec<String> = tables
            .iter()
            .map(|table| called(table))
            .map(|(schema, table)| format!("{schema}.{table}"))
            .collect();
        there.sort();
        wanted.sort();
        assert_eq!(there, wanted);
    }
}

fn called(table: &str) -> (&'static str, &str) {
    match table {
        "orders" => ("attic", "purchases"),
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

async fn rows(
    server: &Server,
    schema: &str,
    table: &str,
    columns: &[String],
    condition: &str,
) -> Vec<String> {
    let shown: Vec<String> = columns.iter().map(|name| format!("IFNULL(HEX({name}), 'N')")).collect();
    let sql = format!("SELECT CONCAT_WS('|', {}) FROM {schema}.{table} WHERE {condition}", shown.join(", "));
    let mut rows: Vec<String> = server.rows(&sql).await;
    rows.sort();
    rows
}

/// Sessions of the application that write to the tables of one schema, by names without one.
async fn writers(changeover: &Changeover) -> Writers {
    let sessions = [changeover.app(Some("shop")).await, changeover.app(Some("shop")).await];
    let sessions = std::sync::Mutex::new(Vec::from(sessions));
    Writers::start(2, move |id, mut turns| {
        let mut app = sessions.lock().unwrap().pop().unwrap();
        async move {
            while let Some(turn) = turns.throw().await {
                let (key, tenant) = (turn % 90 + 10, [7, 9][usize::try_from(turn / 90 % 2).unwrap()]);
                let sql = match turn % 4 {
                    0 => format!("INSERT INTO log VALUES ({tenant}, 'w{id}')"),
                    1 => format!(
                        "UPDATE log SET what = 'v{id}' WHERE tenant_id = {tenant} AND what = 'w{id}' LIMIT 1"
                    ),
                    2 => format!(
                        "INSERT INTO items VALUES ({key}, {tenant}, 1) ON DUPLICATE KEY UPDATE n = n + 1"
                    ),
                    _ => format!(
                        "UPDATE items SET n = n + 1, tenant_id = {tenant} WHERE id = {key} AND {MINE}"
                    ),
                };
                match app.query_drop(&sql).await {
                    Ok(()) => turns.committed(),
                    Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => {}
                    Err(error) => panic!("{sql}: {error}"),
                }
            }
            app.disconnect().await.unwrap();
        }
    })
}

/// XA in two phases on the renamed table, past the proxy.
async fn prepared(server: &Server, table: &str, xid: &str, tenant: u32) {
    let mut conn = server.root().await;
    for sql in [
        format!("XA START '{xid}'"),
        format!("INSERT INTO {table} (tenant_id, note) VALUES ({tenant}, '{xid}')"),
        format!("XA END '{xid}'"),
        format!("XA PREPARE '{xid}'"),
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    conn.disconnect().await.unwrap();
    // It is nobody's once the server has seen that the session is gone.
    until("it to be left", LIMIT, async || {
        let mut conn = server.root().await;
        let open: Vec<mysql_async::Row> = conn.query("SHOW PROCESSLIST").await.unwrap();
        let left =
            open.iter().filter(|row| row.get::<String, _>("User").is_some_and(|user| user == "root")).count();
        conn.disconnect().await.unwrap();
        if left == 1 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
}

async fn is_locked(server: &Server, user: &str) -> bool {
    let sql = match server.engine() {
        Engine::MariaDb => format!(
            "SELECT Priv LIKE '%\"account\\_locked\":true%' FROM mysql.global_priv WHERE User = '{user}'"
        ),
        _ => format!("SELECT account_locked = 'Y' FROM mysql.user WHERE User = '{user}'"),
    };
    server.value::<i64>(&sql).await == 1
}

/// Only some rows and columns, indexes behind the rows, the fence of accounts, XA, deaths in the copy, in the tail and behind
/// the swap; cut over, back, and over again.
async fn with_everything(from: Engine, to: Engine) {
    let Some(bed) = Bed::start(from, to, &[]).await else { return };
    let settings = bed
        .settings()
        .with("migration.rows", "[{ table = \"shop.%\", column = \"tenant_id\", values = [7, 9] }]")
        .with("migration.columns", "[{ table = \"shop.orders\", exclude = [\"secret\"] }]")
        .with("snapshot.late_indexes", "true")
        .with("cutover.fence", "\"accounts\"")
        .with("cutover.fence_accounts", "[\"app@%\"]");
    let (code, said) = check(&settings);
    assert_eq!(code, 0, "{said}");
    let mut changeover = Changeover::start_and_die(settings, &["snapshot.chunk.journalled"]).await;
    changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", "apply.batch.committed")]).await;
    bed.source.run(&["UPDATE shop.orders SET note = CONCAT(note, 'x') WHERE id % 2 = 0"]).await;
    assert!(!changeover.wait_end().await.success());
    changeover.start_again_plain().await;
    let writers = writers(&changeover).await;
    writers.wait_more(40).await;
    prepared(&bed.source, "shop.orders", "forth", 7).await;
    prepared(&bed.source, "shop.orders", "beside", 8).await;
    bed.source
        .run(&[
            "XA COMMIT 'forth'",
            "XA COMMIT 'beside'",
            "UPDATE shop.orders SET tenant_id = tenant_id + 1 WHERE id % 7 = 0",
            "UPDATE shop.orders SET secret = 'other' WHERE id % 5 = 0",
            "ALTER TABLE shop.orders MODIFY secret VARCHAR(60) NULL, ALGORITHM=COPY",
        ])
        .await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    changeover.turn().await;
    assert!(is_locked(&bed.source, "app").await && !is_locked(&bed.target, "app").await);
    writers.wait_more(40).await;
    changeover.kill_9();
    // Its sessions are gone with it.
    drop(writers);
    changeover.start_again().await;
    let writers = self::writers(&changeover).await;
    writers.wait_more(20).await;
    prepared(&bed.target, "attic.purchases", "back", 9).await;
    bed.target
        .run(&[
            "XA COMMIT 'back'",
            "UPDATE attic.purchases SET note = 'there' WHERE id % 3 = 0 AND id <= 800",
        ])
        .await;
    changeover.turn().await;
    assert!(!is_locked(&bed.source, "app").await && is_locked(&bed.target, "app").await);
    writers.wait_more(40).await;
    changeover.turn().await;
    writers.wait_more(20).await;
    writers.close().await;
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal(3, MINE).await;
    let kept: i64 = bed.source.value("SELECT COUNT(*) FROM shop.orders WHERE secret IS NOT NULL").await;
    assert_eq!(kept, 800, "what isn't moved stays on the old server");
    for (server, table) in [(&bed.source, "shop.orders"), (&bed.target, "attic.purchases")] {
        for xid in ["forth", "back"] {
            let found: i64 =
                server.value(&format!("SELECT COUNT(*) FROM {table} WHERE note = '{xid}'")).await;
            assert_eq!(found, 1, "{xid} in {table}");
        }
    }
    let indexes =
        "SELECT COUNT(DISTINCT INDEX_NAME) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = 'attic'";
    assert_eq!(bed.target.value::<i64>(indexes).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_with_everything_mariadb() {
    with_everything(Engine::MariaDb, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_with_everything_mysql97_to_mariadb() {
    with_everything(Engine::MySql97, Engine::MariaDb).await;
}

/// Statements of a stream in which a renamed name is given away, taken and swapped.
const DEFINITIONS: &[&str] = &[
    "USE shop",
    // As gh-ost and pt-online-schema-change do it.
    "CREATE TABLE _orders_gho LIKE orders",
    "ALTER TABLE _orders_gho ADD COLUMN extra INT NULL",
    "INSERT INTO _orders_gho (id, tenant_id, secret, note) SELECT id, tenant_id, secret, note FROM orders",
    "RENAME TABLE orders TO _orders_del, _orders_gho TO orders",
    "UPDATE orders SET extra = id WHERE id < 50",
    "DROP TABLE _orders_del",
    // Out of the renamed name, and into it.
    "ALTER TABLE orders RENAME TO orders_2025",
    "CREATE TABLE orders LIKE orders_2025",
    "INSERT INTO orders (tenant_id, note) VALUES (7, 'first'), (8, 'second')",
    "UPDATE orders_2025 SET note = 'old' WHERE id % 9 = 0",
    "RENAME TABLE orders TO tmp, orders_2025 TO orders, tmp TO orders_2025",
    "UPDATE orders SET note = 'again' WHERE id % 10 = 0",
    "TRUNCATE TABLE orders_2025",
    "DROP TABLE orders_2025",
    "CREATE TABLE backup LIKE orders",
    "INSERT INTO backup SELECT * FROM orders",
    "TRUNCATE orders",
    "INSERT INTO orders SELECT * FROM backup WHERE id > 20",
    "ALTER TABLE orders DROP COLUMN extra, ADD COLUMN more INT NOT NULL DEFAULT 3 AFTER id, RENAME INDEX noted TO by_note",
    "CREATE INDEX orders ON orders (more)",
    "DROP INDEX orders ON orders",
    "CREATE TABLE parts (id INT PRIMARY KEY, o BIGINT, CONSTRAINT orders FOREIGN KEY (o) REFERENCES orders (id) ON DELETE CASCADE)",
    "INSERT INTO parts VALUES (1, 30), (2, 31), (3, NULL)",
    "ALTER TABLE parts ADD CONSTRAINT `more` FOREIGN KEY (id) REFERENCES shop.items (id)",
    "DELETE FROM orders WHERE id = 31",
    "DROP TABLE backup",
];

/// The same on the new server, in its own words.
const DEFINITIONS_THERE: &[&str] = &[
    "CREATE TABLE attic_gho LIKE attic.purchases",
    "ALTER TABLE attic_gho ADD COLUMN late INT NULL",
    "INSERT INTO attic_gho (id, more, tenant_id, secret, note) SELECT id, more, tenant_id, secret, note FROM attic.purchases",
    "RENAME TABLE attic.purchases TO purchases_del, attic_gho TO attic.purchases",
    "UPDATE attic.purchases SET late = id WHERE id < 90",
    "CREATE TABLE orders_copy LIKE attic.purchases",
    "INSERT INTO orders_copy SELECT * FROM attic.purchases",
    "ALTER TABLE parts DROP FOREIGN KEY orders",
    "TRUNCATE purchases_del",
    "DROP TABLE purchases_del",
    "ALTER TABLE items ADD COLUMN later INT NOT NULL DEFAULT 1",
];

async fn definitions(engine: Engine) {
    let Some(bed) = Bed::start(engine, engine, &[]).await else { return };
    let mut changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    for point in ["ddl.applied", "ddl.defined"] {
        changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", point)]).await;
        bed.source.run(&["ALTER TABLE shop.orders COMMENT 'another'"]).await;
        assert!(!changeover.wait_end().await.success());
    }
    changeover.start_again_plain().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows");
    let lines: Vec<String> = (0..50).map(|id| format!("{}\t7\tloaded {id}\n", 5000 + id)).collect();
    std::fs::write(&file, lines.concat()).unwrap();
    let load = format!("LOAD DATA INFILE '{}' INTO TABLE shop.orders (id, tenant_id, note)", file.display());
    bed.source.run(&[&load]).await;
    bed.source.run(DEFINITIONS).await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    bed.assert_equal(4, "TRUE").await;
    // The one without a key, in the first copy.
    assert_eq!(changeover.log().matches("copied anew").count(), 1, "another table was copied anew");
    let next: u64 = bed.source.value(NEXT).await;
    changeover.turn().await;
    // Behind the cutover no number is given twice.
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO attic.purchases (tenant_id, note) VALUES (7, 'numbered')").await.unwrap();
    let id: u64 = app.query_first("SELECT LAST_INSERT_ID()").await.unwrap().unwrap();
    assert!(id >= next, "{id} was given, {next} was the next one");
    for sql in DEFINITIONS_THERE {
        app.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    changeover.wait_applied(&bed.target).await;
    bed.assert_equal(5, "TRUE").await;
    changeover.turn().await;
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO orders (tenant_id, note) VALUES (7, 'back')").await.unwrap();
    let back: u64 = app.query_first("SELECT LAST_INSERT_ID()").await.unwrap().unwrap();
    assert!(back > id, "{back} was given behind {id}");
    changeover.wait_applied(&bed.source).await;
    bed.assert_equal(5, "TRUE").await;
}

const NEXT: &str = "SELECT CAST(MAX(id) + 1 AS UNSIGNED) FROM shop.orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_lead_into_renamed_names_and_out_mariadb() {
    definitions(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_lead_into_renamed_names_and_out_mysql97() {
    definitions(Engine::MySql97).await;
}

/// Grants of schemas, tables, columns and routines say the new names, and their owners log in behind the cutover.
async fn accounts_come_along(engine: Engine) {
    let Some(bed) = Bed::start(engine, engine, &[]).await else { return };
    let more = if engine == Engine::MariaDb { ", DELETE HISTORY" } else { "" };
    let may = format!(
        "GRANT CREATE USER, CREATE TEMPORARY TABLES{more} ON *.* TO changeover@'%' WITH GRANT OPTION"
    );
    bed.target.run(&[&may, "SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    bed.source
        .run(&[
            "CREATE DEFINER = app@'%' PROCEDURE shop.tell() SELECT COUNT(*) FROM items",
            "CREATE USER clerk@'%' IDENTIFIED BY 'clerk-Secret_4'",
            "GRANT SELECT, INSERT ON shop.* TO clerk@'%'",
            "GRANT UPDATE (note), SELECT (id, note) ON shop.orders TO clerk@'%'",
            "GRANT DELETE ON shop.items TO clerk@'%'",
            "GRANT EXECUTE ON PROCEDURE shop.tell TO clerk@'%'",
            "CREATE USER reader@'%' IDENTIFIED BY 'reader-Secret_5'",
            "GRANT SELECT ON shop.orders TO reader@'%' WITH GRANT OPTION",
        ])
        .await;
    let settings = bed.settings().with("migration.accounts", "true");
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let grants = async |account: &str| {
        let lines: Vec<String> = bed.target.rows(&format!("SHOW GRANTS FOR {account}")).await;
        lines.join("; ")
    };
    let clerk = grants("clerk@'%'").await;
    for part in [
        "GRANT SELECT, INSERT ON `store`.*",
        "ON `attic`.`purchases`",
        "DELETE ON `store`.`items`",
        "EXECUTE ON PROCEDURE `store`.`tell`",
    ] {
        assert!(clerk.contains(part), "{part}: {clerk}");
    }
    assert!(!clerk.contains("shop") && !clerk.contains("orders"), "{clerk}");
    let reader = grants("reader@'%'").await;
    assert!(
        reader.contains("GRANT SELECT ON `attic`.`purchases`") && reader.contains("GRANT OPTION"),
        "{reader}"
    );
    // What the clerk could do to orders by the grant of the schema isn't carried, and that is said.
    let said = changeover.admin("SHOW CONVERSIONS").await;
    let said = said
        .iter()
        .filter(|row| row["object"] == "'clerk'@'%'")
        .map(|row| format!("{row:?}"))
        .collect::<Vec<_>>();
    assert!(said.iter().any(|row| row.contains("orders")), "{said:#?}");
    changeover.cut_over().await;
    let log_in = async |user: &str, password: &str, schema: &str| {
        Conn::new(opts(changeover.port(), user, password, Some(schema))).await
    };
    let mut clerk = log_in("clerk", "clerk-Secret_4", "shop").await.unwrap();
    clerk.query_drop("INSERT INTO items VALUES (500, 7, 1)").await.unwrap();
    clerk.query_drop("DELETE FROM items WHERE id = 500").await.unwrap();
    clerk.query_drop("UPDATE attic.purchases SET note = 'by the clerk' WHERE id = 1").await.unwrap();
    clerk.query_drop("CALL tell()").await.unwrap();
    let denied = clerk.query_drop("INSERT INTO attic.purchases (note) VALUES ('x')").await;
    assert!(denied.is_err_and(|error| error.to_string().contains("denied")));
    let mut reader = log_in("reader", "reader-Secret_5", "attic").await.unwrap();
    let count: i64 = reader.query_first("SELECT COUNT(*) FROM purchases").await.unwrap().unwrap();
    assert_eq!(count, 800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_say_the_new_names_mariadb() {
    accounts_come_along(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_say_the_new_names_mysql97() {
    accounts_come_along(Engine::MySql97).await;
}

/// Servers that keep names in small letters take a schema in any spelling, and so do the rules.
async fn in_small_letters(engine: Engine) {
    let flags = ["--lower-case-table-names=1"];
    let Some(bed) = Bed::start(engine, engine, &flags).await else { return };
    let mut changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    bed.source
        .run(&[
            "ALTER TABLE SHOP.Orders ADD COLUMN c INT NULL",
            "UPDATE Shop.ORDERS SET c = id",
            "CREATE TABLE shop.Born LIKE shop.ORDERS",
            "RENAME TABLE Shop.Orders TO shop.Other, SHOP.BORN TO shop.OrderS",
            "INSERT INTO shop.orders (tenant_id) VALUES (1)",
        ])
        .await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    bed.assert_equal(4, "TRUE").await;
    let mut moved = changeover.app(Some("Shop")).await;
    let mut used = changeover.app(None).await;
    used.query_drop("USE SHOP").await.unwrap();
    for app in [&mut moved, &mut used] {
        app.query_drop("INSERT INTO items (id) SELECT MAX(id) + 1 FROM items").await.unwrap();
    }
    changeover.turn().await;
    let mut fresh = changeover.app(Some("SHOP")).await;
    for app in [&mut moved, &mut used, &mut fresh] {
        app.query_drop("INSERT INTO Items (id) SELECT MAX(id) + 1 FROM items").await.unwrap();
        let schema: String = app.query_first("SELECT DATABASE()").await.unwrap().unwrap();
        assert_eq!(schema, "store");
    }
    // Also where nobody has moved since its start.
    changeover.kill_9();
    changeover.start_again().await;
    let spelled = async || {
        let opts = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some("sHOP"));
        Conn::new(opts).await.map_err(|error| error.to_string())
    };
    let mut fresh = until("a login in another spelling", LIMIT, spelled).await;
    let mut moved = changeover.app(Some("STORE")).await;
    let mut used = changeover.app(None).await;
    used.query_drop("USE Store").await.unwrap();
    moved.query_drop("ALTER TABLE Attic.Purchases DROP COLUMN C").await.unwrap();
    changeover.turn().await;
    for app in [&mut moved, &mut used, &mut fresh] {
        let schema: String = app.query_first("SELECT DATABASE()").await.unwrap().unwrap();
        assert_eq!(schema.to_lowercase(), "shop");
    }
    until("the way forth", LIMIT, async || changeover.try_admin("VERIFY").await).await;
    changeover.wait_ready().await;
    bed.assert_equal(4, "TRUE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_small_letters_mariadb() {
    in_small_letters(Engine::MariaDb).await;
}

/// Only the target keeps them so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_small_letters_on_the_target() {
    let (source, target) = tokio::join!(
        Server::start(Engine::MariaDb, &[]),
        Server::start(Engine::MariaDb, &["--lower-case-table-names=1"])
    );
    let (Some(source), Some(target)) = (source, target) else { return };
    accounts::create(&source, "Shop").await;
    accounts::create(&target, "store").await;
    source
        .run(&[
            "CREATE DATABASE Shop",
            "CREATE TABLE Shop.Orders (id INT PRIMARY KEY)",
            "INSERT INTO Shop.Orders VALUES (1), (2)",
        ])
        .await;
    let rules = "[{ from = \"Shop\", to = \"store\" }]";
    let settings = Settings::between(&source, &target, "Shop").with("migration.rename", rules);
    let (code, said) = check(&settings);
    assert!(code == 1 && said.contains("capital letters"), "{code} {said}");
}

/// A table without a key under a name of its own, and rows in two phases in both: one piece of work of an application.
fn work(round: u32) -> Vec<String> {
    let text = format!(
        "INSERT INTO shop.log VALUES (7, 'r{round}'), (7, 'r{round}'), (NULL, NULL);
         UPDATE shop.log SET what = 'once' WHERE what = 'x' OR what = 'once' LIMIT 1;
         UPDATE shop.orders SET note = 'n{round}' WHERE id % 9 = {round} % 9 AND (note IS NULL OR note NOT LIKE 'xa %');
         XA START 'x{round}';
         INSERT INTO shop.log VALUES (8, 'xa'), (8, 'xa');
         DELETE FROM shop.log WHERE what = 'r{round}' LIMIT 1;
         INSERT INTO shop.orders (tenant_id, note) VALUES (7, 'xa {round}');
         UPDATE shop.orders SET secret = '{round}' WHERE id = {round} + 1;
         XA END 'x{round}';
         XA PREPARE 'x{round}';
         UPDATE shop.items SET n = n + 1;
         XA COMMIT 'x{round}'"
    );
    text.split(";\n").map(|sql| sql.trim().to_owned()).collect()
}

async fn do_work(source: &Server, round: u32) {
    let mut conn = source.root().await;
    let mut beside = source.root().await;
    for sql in work(round) {
        // What stands between the two phases is another session's.
        let of = if sql.contains("shop.items") { &mut beside } else { &mut conn };
        of.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Changeover dies in the tail at what is durable of such work, and by kill -9 with a backlog behind it.
async fn dies_in_the_tail(engine: Engine) {
    let Some(bed) = Bed::start(engine, engine, &[]).await else { return };
    let rules = RULES.replace(" }]", " }, { from = \"shop.log\", to = \"attic.journal\" }]");
    let mut changeover = Changeover::start(bed.settings().with("migration.rename", &rules)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let places = [
        "spool.xa.parked",
        "apply.batch.before_commit",
        "spool.xa.taken",
        "apply.batch.committed",
        "spool.xa.removed",
    ];
    for (round, place) in (0..).zip(places) {
        // What the one before has left may bring it there at once.
        changeover.start_to_die(place).await;
        do_work(&bed.source, round).await;
        assert!(!changeover.wait_end().await.success(), "{place}");
    }
    for round in 5..25 {
        do_work(&bed.source, round).await;
    }
    changeover.start_again_plain().await;
    changeover.wait_phase(&["catching_up", "following"]).await;
    changeover.kill_9();
    do_work(&bed.source, 25).await;
    changeover.start_again().await;
    changeover.wait_applied(&bed.source).await;
    changeover.wait_ready().await;
    for (old, new) in
        [("orders", ("attic", "purchases")), ("log", ("attic", "journal")), ("items", ("store", "items"))]
    {
        let columns = columns(&bed.source, "shop", old).await;
        let here = rows(&bed.source, "shop", old, &columns, "TRUE").await;
        let there = rows(&bed.target, new.0, new.1, &columns, "TRUE").await;
        assert!(here == there, "{old}: {here:?}\n{there:?}");
        assert!(here.len() > 2, "{old}: {here:?}");
    }
    let committed: i64 =
        bed.target.value("SELECT COUNT(*) FROM attic.purchases WHERE note LIKE 'xa %'").await;
    assert_eq!(committed, 26, "each of them once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_with_renamed_keyless_tables_and_xa_mariadb() {
    dies_in_the_tail(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_with_renamed_keyless_tables_and_xa_mysql97() {
    dies_in_the_tail(Engine::MySql97).await;
}

/// Differences are named as the source has its tables, and what repairs them as the target has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_say_the_new_names() {
    let Some(bed) = Bed::start(Engine::MySql97, Engine::MariaDb, &[]).await else { return };
    // It has nothing to tell a row by, so nothing of it is repaired.
    bed.source.run(&["DROP TABLE shop.log"]).await;
    let changeover = Changeover::start(bed.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    bed.target
        .run(&[
            "DELETE FROM attic.purchases WHERE id = 3",
            "UPDATE attic.purchases SET note = 'wrong', secret = NULL WHERE id = 4",
            "INSERT INTO attic.purchases (id, note) VALUES (77777, 'extra')",
            "UPDATE store.items SET n = 5 WHERE id = 2",
        ])
        .await;
    changeover.admin("VERIFY").await;
    let listed = async || {
        until("the differences", LIMIT, async || {
            let found = changeover.admin("SHOW DIFFERENCES").await;
            if found.len() == 4 { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    };
    let found = listed().await;
    let cell = |kind: &str, table: &str, name: &str| {
        let row = found.iter().find(|row| row["kind"] == kind && row["table"] == table);
        row.unwrap_or_else(|| panic!("{kind} {table}: {found:?}"))[name].clone()
    };
    assert!(found.iter().all(|row| row["schema"] == "shop"), "{found:?}");
    assert_eq!(cell("missing", "orders", "key"), "`id` = 3");
    assert_eq!(cell("extra", "orders", "key"), "`id` = 77777");
    assert_eq!(cell("different", "orders", "columns"), "secret, note");
    assert_eq!(cell("different", "items", "columns"), "n");
    let plan = changeover.admin("REPAIR DRY RUN").await;
    assert_eq!(plan.len(), 4, "{plan:?}");
    for row in &plan {
        let there = if row["table"] == "items" { "`store`.`items`" } else { "`attic`.`purchases`" };
        assert!(row["sql"].contains(there) && !row["sql"].contains("`shop`"), "{row:?}");
        assert_eq!(row["schema"], "shop", "{row:?}");
    }
    assert_eq!(listed().await, found, "a dry run repairs nothing");
    for sql in ["REPAIR TABLE attic.purchases", "REPAIR TABLE attic.purchases DRY RUN"] {
        let refused = changeover.try_admin(sql).await.unwrap_err();
        assert!(refused.contains("isn't part of the migration"), "{refused}");
    }
    assert_eq!(changeover.admin("REPAIR TABLE shop.orders").await.len(), 3);
    assert_eq!(changeover.admin("REPAIR").await.len(), 1);
    bed.source.run(&["UPDATE shop.orders SET note = 'behind' WHERE id IN (3, 4)"]).await;
    changeover.wait_applied(&bed.source).await;
    changeover.admin("VERIFY").await;
    changeover.wait_ready().await;
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
    bed.assert_equal(2, "TRUE").await;
}
