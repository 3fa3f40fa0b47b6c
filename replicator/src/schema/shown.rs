//! SHOW CREATE TABLE of many tables.

use config::{Side, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use crate::error::{Error, Result};

/// Tables that are asked about in one packet: a question for each would be a round trip for each.
const TOGETHER: usize = 50;
/// The schema or the table isn't there.
const GONE: [u16; 2] = [1049, 1146];

/// The definitions of `tables`, as the server calls them, in their order.
pub(super) async fn definitions(side: Side, conn: &mut Conn, tables: &[&TableName]) -> Result<Vec<String>> {
    let mut all = Vec::with_capacity(tables.len());
    for some in tables.chunks(TOGETHER) {
        match together(conn, some).await {
            Ok(rows) if rows.len() == some.len() => {
                for (row, table) in rows.iter().zip(some) {
                    all.push(text(side, table, row)?);
                }
            }
            // One of them failed, and with it all behind it. Asked one by one they say which it is.
            Ok(_) | Err(mysql_async::Error::Server(_)) => {
                for table in some {
                    all.push(definition(side, conn, table).await?);
                }
            }
            Err(error) => return Err(Error::database(side, super::discover::PLACE, &error)),
        }
    }
    Ok(all)
}

async fn together(conn: &mut Conn, tables: &[&TableName]) -> mysql_async::Result<Vec<Row>> {
    let statements: Vec<String> = tables.iter().map(|table| statement(table)).collect();
    let mut result = conn.query_iter(statements.join("; ")).await?;
    let mut rows = Vec::with_capacity(tables.len());
    for _ in tables {
        let set: Vec<Row> = result.collect().await?;
        rows.extend(set.into_iter().next());
    }
    result.drop_result().await?;
    Ok(rows)
}

async fn definition(side: Side, conn: &mut Conn, table: &TableName) -> Result<String> {
    match conn.query_first(statement(table)).await {
        Ok(Some(row)) => text(side, table, &row),
        Ok(None) => Err(Error::definite(side, table.to_string(), "SHOW CREATE TABLE gave nothing")),
        Err(mysql_async::Error::Server(error)) if GONE.contains(&error.code) => {
            let what = "it was dropped or renamed while the schema was read; it is tried again";
            Err(Error::transient(side, table.to_string(), what))
        }
        Err(error) => Err(Error::database(side, super::discover::PLACE, &error)),
    }
}

fn statement(table: &TableName) -> String {
    format!("SHOW CREATE TABLE {}", table.quoted())
}

fn text(side: Side, table: &TableName, row: &Row) -> Result<String> {
    match row.get_opt::<Option<String>, _>(1) {
        Some(Ok(text)) => Ok(text.unwrap_or_default()),
        _ => Err(Error::definite(side, table.to_string(), "SHOW CREATE TABLE's answer isn't text in UTF-8")),
    }
}
