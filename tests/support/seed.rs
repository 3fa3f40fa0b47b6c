//! The database that the tests move: rows of every ordinary type at rest, and tables for the ledger's writers.

use mysql_async::prelude::Queryable;

use super::{Engine, Server};

/// The schema that moves.
pub const SCHEMA: &str = "shop";
/// Rows in `accounts`.
pub const ACCOUNTS: u32 = 2_000;
/// Rows in `gauges`, which the writers change in place.
pub const GAUGES: u32 = 1_000;

const TABLES: &[&str] = &[
    "CREATE TABLE accounts (
        id INT UNSIGNED NOT NULL PRIMARY KEY,
        balance DECIMAL(14,2) NOT NULL,
        changes BIGINT NOT NULL,
        name VARCHAR(60) CHARACTER SET utf8mb4 NOT NULL,
        updated TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
        KEY name (name)) ENGINE=InnoDB",
    "CREATE TABLE entries (
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        writer INT NOT NULL,
        seq INT NOT NULL,
        account INT UNSIGNED NOT NULL,
        amount DECIMAL(12,2) NOT NULL,
        kind ENUM('credit','debit') NOT NULL,
        note VARCHAR(200) CHARACTER SET utf8mb4 NULL,
        made DATETIME(6) NOT NULL,
        KEY writer (writer, seq),
        KEY account (account),
        CONSTRAINT entries_account FOREIGN KEY (account) REFERENCES accounts (id)) ENGINE=InnoDB",
    "CREATE TABLE inbox (
        writer INT NOT NULL,
        seq INT NOT NULL,
        slot VARCHAR(20) CHARACTER SET utf8mb4 NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (writer, seq),
        UNIQUE KEY slot (slot)) ENGINE=InnoDB",
    "CREATE TABLE gauges (
        id INT NOT NULL PRIMARY KEY,
        tiny TINYINT NULL, tiny_u TINYINT UNSIGNED NULL,
        small SMALLINT NULL, small_u SMALLINT UNSIGNED NULL,
        medium MEDIUMINT NULL, medium_u MEDIUMINT UNSIGNED NULL,
        plain INT NULL, plain_u INT UNSIGNED NULL,
        big BIGINT NULL, big_u BIGINT UNSIGNED NULL,
        exact DECIMAL(30,10) NULL, single_f FLOAT NULL, double_f DOUBLE NULL,
        day DATE NULL, moment DATETIME NULL, moment_us DATETIME(6) NULL,
        stamp TIMESTAMP NULL, stamp_ms TIMESTAMP(3) NULL, span TIME NULL, span_us TIME(6) NULL, yr YEAR NULL,
        letters CHAR(20) CHARACTER SET utf8mb4 NULL, latin VARCHAR(60) CHARACTER SET latin1 NULL,
        words VARCHAR(300) CHARACTER SET utf8mb4 NULL, raw BINARY(8) NULL, raw_var VARBINARY(300) NULL,
        story TEXT CHARACTER SET utf8mb4 NULL, long_story MEDIUMTEXT CHARACTER SET utf8mb4 NULL, lump BLOB NULL,
        colour ENUM('red','green','blue') NULL, tags SET('a','b','c','d') NULL, bits BIT(12) NULL,
        facts JSON NULL,
        KEY plain (plain), KEY words (words(50))) ENGINE=InnoDB",
    "CREATE TABLE bulk (
        id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        k INT NOT NULL DEFAULT 0,
        c CHAR(120) NOT NULL DEFAULT '',
        pad CHAR(60) NOT NULL DEFAULT '',
        KEY k_1 (k)) ENGINE=InnoDB",
    "CREATE TABLE names (
        name VARCHAR(40) CHARACTER SET utf8mb4 NOT NULL,
        part VARBINARY(10) NOT NULL,
        n INT NOT NULL,
        PRIMARY KEY (name, part)) ENGINE=InnoDB",
    "CREATE TABLE nothing (id INT NOT NULL PRIMARY KEY, x INT NULL) ENGINE=InnoDB",
];

/// Creates and fills the schema; `bulk_rows` sets how long a copy takes.
pub async fn fill(server: &Server, bulk_rows: u32) {
    let mut conn = server.root().await;
    conn.query_drop(format!("CREATE DATABASE {SCHEMA} DEFAULT CHARACTER SET utf8mb4")).await.unwrap();
    conn.query_drop(format!("USE {SCHEMA}")).await.unwrap();
    conn.query_drop("SET sql_mode = '', time_zone = '+00:00'").await.unwrap();
    for table in TABLES {
        conn.query_drop(*table).await.unwrap();
    }
    for sql in fills(server.engine(), bulk_rows) {
        conn.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    conn.disconnect().await.unwrap();
}

fn fills(engine: Engine, bulk_rows: u32) -> Vec<String> {
    // Both engines count by a recursive expression; the limit has another name on each.
    let count = |rows: u32| {
        format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT")
    };
    let limit = match engine {
        Engine::MariaDb => "SET max_recursive_iterations = 10000000",
        Engine::MySql97 | Engine::Seekdb => "SET cte_max_recursion_depth = 10000000",
        // It has no recursive expressions.
        Engine::MySql56 => panic!("a MySQL 5.6 can't be filled yet"),
    };
    vec![
        limit.to_owned(),
        format!(
            "INSERT INTO accounts {} i, 0, 0, CONCAT('Zoë № ', i, ' 🎬'), '2025-01-01 00:00:00.000001' FROM n",
            count(ACCOUNTS)
        ),
        format!(
            "INSERT INTO gauges {} i,
                i - 128, i MOD 256, 32767 - i * 60, 65535 - i, i * 8388 - 8388608, 16777215 - i,
                -2147483648 + i, 4294967295 - i, -9223372036854775808 + i, 18446744073709551615 - i,
                -12345678901234567890.0123456789 + i, i / 3, PI() * i * 1e100,
                '1000-01-01' + INTERVAL i * 3000 DAY, '1999-12-31 23:59:59' + INTERVAL i HOUR,
                '2001-02-03 04:05:06.000007' + INTERVAL i * 999 MICROSECOND,
                '1970-01-01 00:00:01' + INTERVAL i DAY, '2037-01-01 00:00:00.123' + INTERVAL i * 7 MINUTE,
                SEC_TO_TIME(i * 5000 - 3000000), '-838:59:58.999999', 1901 + i MOD 255,
                CONCAT('Ä', i, '  '), CONCAT('caf\u{e9} ', i), REPEAT(CONCAT('wörd', i, ' 黄 '), i MOD 20),
                UNHEX(LPAD(HEX(i), 6, '0')), UNHEX(CONCAT(LPAD(HEX(i), 6, '0'), '0000')),
                REPEAT(CONCAT('línea ', i, '\\n'), i MOD 50), REPEAT(CONCAT(i, '🎬'), i MOD 300), REPEAT(UNHEX('00FF27'), i MOD 90),
                1 + i MOD 3, i MOD 16, i MOD 4096,
                IF(i MOD 3 = 0, JSON_OBJECT('n', i, 'deep', JSON_ARRAY(1, NULL, 'ü', 1.5)), JSON_ARRAY(i)) FROM n",
            count(GAUGES - 100)
        ),
        // Every column NULL, and every column at its emptiest.
        format!("INSERT INTO gauges (id) {} i + {} FROM n", count(50), GAUGES - 100),
        format!(
            "INSERT INTO gauges {} i + {}, 0,0,0,0,0,0,0,0,0,0, 0, 0, 0, '0000-00-00', '0000-00-00', '0000-00-00',
                '0000-00-00', '0000-00-00', 0, 0, 0, '', '', '', '', '', '', '', '', 1, '', 0, '{{}}' FROM n",
            count(50),
            GAUGES - 50
        ),
        format!(
            "INSERT INTO bulk (id, k, c, pad) {} i * 3, i * 7919 MOD 100000, CONCAT(SHA2(i, 224), SHA2(-i, 224)), SHA2(-i, 224) FROM n",
            count(bulk_rows)
        ),
        format!("INSERT INTO names {} CONCAT(CHAR(97 + i MOD 26), 'é', i DIV 7), UNHEX(LPAD(HEX(i), 4, '0')), i FROM n", count(700)),
        "INSERT INTO names VALUES ('', '', 0), ('O''Brien \\\\ \"x\"', 0x00, 1), ('tab\\tline\\n', 0xFF00, 2)".to_owned(),
    ]
}
