//! Are two servers' schemas equal? Every table, every row, every value in its exact binary form.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::{Engine, Server};

/// Panics with the first differences unless every table of `schema` is defined equally on both servers and holds
/// equal rows. Returns the rows compared. The caller makes sure that nobody writes.
pub async fn assert_equal(source: &Server, target: &Server, schema: &str) -> u64 {
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES
         WHERE TABLE_SCHEMA = '{schema}' AND TABLE_TYPE = 'BASE TABLE' ORDER BY 1"
    );
    let tables: Vec<String> = source.rows(&sql).await;
    assert!(!tables.is_empty(), "{schema} has no tables");
    assert_eq!(tables, target.rows::<String>(&sql).await, "the tables of {schema}");
    let (mut old, mut new) = (session(source).await, session(target).await);
    let mut rows = 0;
    let mut wrong = Vec::new();
    for table in &tables {
        let (a, b) = (definition(&mut old, schema, table).await, definition(&mut new, schema, table).await);
        if a != b {
            wrong.push(format!("{table} is defined as\n{a}\non the source and as\n{b}\non the target"));
        }
        let (a, b) = (content(&mut old, schema, table).await, content(&mut new, schema, table).await);
        rows += a.len() as u64;
        wrong.extend(differences(table, &a, &b));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rows
}

async fn session(server: &Server) -> Conn {
    let mut conn = server.root().await;
    let session = match server.engine() {
        Engine::MariaDb | Engine::MySql56 | Engine::Seekdb => {
            "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = ''"
        }
        // Invisible primary keys would hide from SELECT *.
        Engine::MySql97 => {
            "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '', show_gipk_in_create_table_and_information_schema = ON"
        }
    };
    conn.query_drop(session).await.unwrap();
    conn
}

/// SHOW CREATE TABLE without the counter, which goes on by itself.
async fn definition(conn: &mut Conn, schema: &str, table: &str) -> String {
    let row: Option<(String, String)> =
        conn.query_first(format!("SHOW CREATE TABLE `{schema}`.`{table}`")).await.unwrap();
    let text = row.unwrap().1;
    let words = text.split(' ').filter(|word| !word.starts_with("AUTO_INCREMENT="));
    words.collect::<Vec<_>>().join(" ")
}

/// Every row in the order of the primary key, or of all columns where there is none.
async fn content(conn: &mut Conn, schema: &str, table: &str) -> Vec<Vec<Value>> {
    let keys: Vec<String> = conn
        .query(format!(
            "SELECT COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = '{schema}'
             AND TABLE_NAME = '{table}' AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX"
        ))
        .await
        .unwrap();
    let order: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let order = if order.is_empty() { "1".to_owned() } else { order.join(", ") };
    // Prepared, so that FLOAT and the others come in binary and whole.
    let sql = format!("SELECT * FROM `{schema}`.`{table}` ORDER BY {order}");
    let rows: Vec<Row> = conn.exec(&sql, ()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(Row::unwrap).collect()
}

fn differences(table: &str, old: &[Vec<Value>], new: &[Vec<Value>]) -> Vec<String> {
    let mut wrong = Vec::new();
    if old.len() != new.len() {
        wrong.push(format!("{table} has {} rows on the source and {} on the target", old.len(), new.len()));
    }
    let pairs = old.iter().zip(new).filter(|(old, new)| old != new);
    wrong.extend(pairs.take(3).map(|(old, new)| format!("{table}\n  source {old:?}\n  target {new:?}")));
    wrong
}
