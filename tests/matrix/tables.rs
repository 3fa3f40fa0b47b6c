//! The tables that go round: the usual types in terms that every server has, and what only one has.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use crate::support::{Engine, Server};

/// The schema that moves.
pub(super) const SCHEMA: &str = "shop";
/// Rows of `stock`.
pub(super) const STOCK: u32 = 600;

/// In every source.
const COMMON: &[&str] = &[
    "CREATE TABLE stock (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        name VARCHAR(60) NOT NULL, label VARCHAR(40) CHARACTER SET latin1 NULL, code CHAR(8) CHARACTER SET latin1 NOT NULL,
        words TEXT CHARACTER SET utf8 NULL, wide VARCHAR(20) CHARACTER SET ucs2 NULL,
        price DECIMAL(12,4) NOT NULL, weight DOUBLE NULL, ratio FLOAT NULL,
        born DATE NULL, opened TIME(3) NULL, seen DATETIME(6) NULL, moment DATETIME NULL,
        changed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), yr YEAR NULL,
        raw BINARY(6) NULL, raw_var VARBINARY(40) NULL, lump BLOB NULL,
        colour ENUM('red','gr\u{fc}n','blue') CHARACTER SET utf8mb4 NULL, tags SET('a','b','c') NULL, bits BIT(10) NULL,
        tiny TINYINT UNSIGNED NULL, filled INT(6) UNSIGNED ZEROFILL NULL, big BIGINT UNSIGNED NULL, small SMALLINT NULL,
        KEY name (name), UNIQUE KEY code (code, id), KEY words (words(20))) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE orders (
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        writer INT NOT NULL, seq INT NOT NULL, stock_id INT UNSIGNED NOT NULL, amount DECIMAL(10,2) NOT NULL,
        note VARCHAR(100) NULL, made DATETIME(6) NOT NULL,
        UNIQUE KEY writer (writer, seq), KEY stock_id (stock_id),
        CONSTRAINT orders_stock FOREIGN KEY (stock_id) REFERENCES stock (id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE words (
        word VARCHAR(30) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL, part VARCHAR(10) NOT NULL, n INT NOT NULL,
        PRIMARY KEY (word, part)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    "CREATE TABLE nothing (id INT NOT NULL PRIMARY KEY, x INT NULL) ENGINE=InnoDB",
];

/// What a source has that another server doesn't.
fn own(from: Engine, to: Engine) -> Vec<&'static str> {
    let old_target = to == Engine::MySql56;
    match from {
        Engine::MySql56 => vec![
            "CREATE TABLE journal (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, said VARCHAR(50)) ENGINE=MyISAM DEFAULT CHARSET=latin1 ROW_FORMAT=FIXED",
        ],
        Engine::MySql97 if old_target => vec![
            "CREATE TABLE journal (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, said VARCHAR(50)) ENGINE=MyISAM",
            "CREATE TABLE extras (id INT PRIMARY KEY, facts JSON, hidden INT INVISIBLE, KEY h (hidden) INVISIBLE)",
        ],
        Engine::MySql97 => vec![
            "CREATE TABLE journal (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, said VARCHAR(50)) ENGINE=MyISAM",
            "CREATE TABLE extras (
                id INT PRIMARY KEY, facts JSON, made INT GENERATED ALWAYS AS (id * 2) STORED NOT NULL,
                virtual_one VARCHAR(20) GENERATED ALWAYS AS (CONCAT('n', id)) VIRTUAL,
                hidden INT DEFAULT 3 INVISIBLE, uid CHAR(36) DEFAULT (UUID()), cs VARCHAR(20) COLLATE utf8mb4_0900_as_cs,
                KEY hidden (hidden) INVISIBLE, KEY down (hidden DESC, id), CONSTRAINT positive CHECK (id > 0))",
            "CREATE TABLE parts (id INT NOT NULL, region VARCHAR(10) NOT NULL, PRIMARY KEY (id))
                PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS THAN MAXVALUE)",
        ],
        Engine::MariaDb if old_target => vec![
            "CREATE TABLE journal (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, said VARCHAR(50)) ENGINE=Aria PAGE_CHECKSUM=1",
            "CREATE TABLE extras (id INT PRIMARY KEY, uid UUID, six INET6, hidden INT INVISIBLE)",
        ],
        _ => vec![
            "CREATE TABLE journal (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, said VARCHAR(50)) ENGINE=Aria PAGE_CHECKSUM=1",
            "CREATE TABLE extras (
                id INT PRIMARY KEY, facts JSON, made INT GENERATED ALWAYS AS (id * 2) STORED,
                hidden INT INVISIBLE DEFAULT 3, uid UUID DEFAULT UUID(), six INET6, four INET4, since DATE DEFAULT CURDATE(),
                cs VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_as_cs,
                KEY hidden (hidden) IGNORED, KEY down (hidden DESC, id), CONSTRAINT positive CHECK (id > 0))",
            "CREATE TABLE parts (id INT NOT NULL, region VARCHAR(10) NOT NULL, PRIMARY KEY (id))
                PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS THAN MAXVALUE)",
        ],
    }
}

/// Kinds of conversions that have to be listed.
pub(super) fn conversions(from: Engine, to: Engine) -> &'static [&'static str] {
    match (from, to) {
        (Engine::MySql56, Engine::Seekdb) => &["charset", "collation", "engine", "option"],
        (_, Engine::Seekdb) => &["charset", "collation", "engine"],
        (Engine::MySql97, Engine::MariaDb) => &["collation", "engine", "type", "generated", "index"],
        (Engine::MariaDb, Engine::MySql97) => &["collation", "engine", "type", "default", "index", "option"],
        (Engine::MySql97 | Engine::MariaDb, Engine::MySql56) => &["engine", "type", "attribute"],
        (_, _) => &["engine"],
    }
}

/// Creates and fills the schema on a source for that target.
pub(super) async fn fill(server: &Server, to: Engine) {
    let mut conn = session(server).await;
    let mut run = async |sql: String| {
        conn.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run(format!("CREATE DATABASE {SCHEMA} DEFAULT CHARACTER SET utf8mb4")).await;
    run(format!("USE {SCHEMA}")).await;
    let own = own(server.engine(), to);
    for table in COMMON.iter().chain(&own) {
        run((*table).to_owned()).await;
    }
    for chunk in (1..=STOCK).collect::<Vec<_>>().chunks(200) {
        let rows: Vec<String> = chunk.iter().map(|i| stock(*i)).collect();
        run(format!("INSERT INTO stock VALUES {}", rows.join(","))).await;
    }
    // Every column at its emptiest, NULL, and with a key of zero.
    run("INSERT INTO stock VALUES (0,'','','','','',0,0,0,'0000-00-00',0,'0000-00-00','0000-00-00','0000-00-00',0,'','','','','',0,0,0,0,0)".to_owned()).await;
    run("INSERT INTO stock (id, name, code, price, changed) VALUES (4000000000, 'n', 'c', 1, '2001-01-01 00:00:00')".to_owned()).await;
    let words: Vec<String> = (0..900)
        .map(|i| format!("('{}\u{e9}{}', 'p{}', {i})", char::from(b'a' + (i % 26) as u8), i / 26, i % 3))
        .collect();
    run(format!("INSERT INTO words VALUES {}", words.join(","))).await;
    run("INSERT INTO journal (said) VALUES ('one'), ('two'), (NULL)".to_owned()).await;
    if own.len() > 1 {
        extras(&mut run, server.engine(), to).await;
    }
}

async fn extras(run: &mut impl AsyncFnMut(String), from: Engine, to: Engine) {
    let columns = match (from, to) {
        (Engine::MySql97, Engine::MySql56) => "id, facts, hidden",
        (Engine::MySql97, _) => "id, facts, hidden, uid, cs",
        (_, Engine::MySql56) => "id, uid, six, hidden",
        _ => "id, facts, hidden, uid, six, four, since, cs",
    };
    for id in 1..=30 {
        let value = |column: &str| match column {
            "id" => id.to_string(),
            "facts" => format!("'{{\"n\": {id}, \"deep\": [1, null, \"\u{fc}\", true]}}'"),
            "hidden" if id % 3 == 0 => "NULL".to_owned(),
            "hidden" => (id * 7).to_string(),
            "uid" => format!("'123e4567-e89b-12d3-a456-4266141740{id:02}'"),
            "six" => format!("'2001:db8::{id:x}'"),
            "four" => format!("'10.0.0.{id}'"),
            "since" => "'2024-02-29'".to_owned(),
            _ => format!("'{}{id}'", if id % 2 == 0 { "A" } else { "a" }),
        };
        let values: Vec<String> = columns.split(", ").map(value).collect();
        run(format!("INSERT INTO extras ({columns}) VALUES ({})", values.join(", "))).await;
    }
    if to != Engine::MySql56 {
        run("INSERT INTO parts VALUES (1, 'a'), (99, 'b'), (100, 'c'), (5000, '\u{e9}')".to_owned()).await;
    }
}

fn stock(i: u32) -> String {
    let colour = ["red", "gr\u{fc}n", "blue"][i as usize % 3];
    format!(
        "({i}, 'N\u{e4}me {i} \u{1f3ac}', 'caf\u{e9} \u{20ac}{i}', 'c{}', 'w\u{f6}rd {i} \u{9ec4}', 'w\u{ef}de{i}', {i}.0625, \
         {i} / 3, {i} / 7, '1999-12-{:02}', '-{}:00:00.125', '2001-02-03 04:05:06.{i:06}', '2037-01-01 00:00:{:02}', \
         '2020-01-01 00:00:00.{i:06}', {}, 0x0{}00, 0x00FF27, REPEAT(0x00FF, {}), '{colour}', '{}', {}, {}, {i}, \
         18446744073709551615 - {i}, -{i})",
        i % 10,
        1 + i % 28,
        i % 800,
        i % 60,
        1901 + i % 250,
        1 + i % 9,
        i % 40,
        ["", "a", "b,c"][i as usize % 3],
        i % 1024,
        i % 256,
    )
}

async fn session(server: &Server) -> Conn {
    let mut conn = server.root().await;
    let sql = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO'";
    conn.query_drop(sql).await.unwrap();
    conn
}

/// Every value of every table, as each server prints it in a form that doesn't depend on charset or family. Returns
/// the rows compared.
pub(super) async fn assert_equal(source: &Server, target: &Server) -> u64 {
    let names = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{SCHEMA}' ORDER BY LOWER(TABLE_NAME)"
    );
    let tables: Vec<String> = source.rows(&names).await;
    assert_eq!(tables, target.rows::<String>(&names).await);
    let (mut old, mut new) = (session(source).await, session(target).await);
    let (mut rows, mut wrong) = (0, Vec::new());
    for table in &tables {
        let columns = columns(&mut old, table).await;
        let there = columns_of(&mut new, table).await;
        assert_eq!(
            columns.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            there.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        let (a, b) = (printed(&mut old, table, &columns).await, printed(&mut new, table, &there).await);
        rows += a.len() as u64;
        if a.len() != b.len() {
            wrong.push(format!("{table}: {} rows on the source, {} on the target", a.len(), b.len()));
        }
        let different = a.iter().zip(&b).filter(|(a, b)| a != b).take(2);
        wrong.extend(different.map(|(a, b)| format!("{table}\n  source {a}\n  target {b}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rows
}

async fn columns(conn: &mut Conn, table: &str) -> Vec<(String, String)> {
    columns_of(conn, table).await
}

async fn columns_of(conn: &mut Conn, table: &str) -> Vec<(String, String)> {
    conn.query(format!(
        "SELECT COLUMN_NAME, LOWER(DATA_TYPE) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{SCHEMA}' \
         AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
    ))
    .await
    .unwrap()
}

/// The rows as text, sorted here: two servers need not sort alike.
async fn printed(conn: &mut Conn, table: &str, columns: &[(String, String)]) -> Vec<String> {
    let expression = |(name, data_type): &(String, String)| match data_type.as_str() {
        "char" | "varchar" | "text" | "longtext" | "enum" | "set" => {
            format!("HEX(CONVERT(`{name}` USING utf8mb4))")
        }
        "json" | "uuid" | "inet6" | "inet4" => format!("HEX(CAST(`{name}` AS CHAR CHARACTER SET utf8mb4))"),
        "binary" | "varbinary" | "blob" => format!("HEX(`{name}`)"),
        "float" | "double" => format!("`{name}` * 1e0"),
        "bit" | "year" => format!("`{name}` + 0"),
        _ => format!("`{name}`"),
    };
    let list: Vec<String> = columns.iter().map(expression).collect();
    let sql = format!("SELECT {} FROM `{SCHEMA}`.`{table}`", list.join(", "));
    let rows: Vec<Row> = conn.query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let cell = |value: Value| match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => format!("{other:?}"),
    };
    let mut rows: Vec<String> = rows
        .into_iter()
        .map(|row| row.unwrap().into_iter().map(cell).collect::<Vec<_>>().join(" | "))
        .collect();
    rows.sort();
    rows
}
