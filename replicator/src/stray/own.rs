//! By what Changeover's own writes are known in the binary log of the side that they are written on.
//!
//! Every transaction of ours that changes rows of the migration also writes to a table of the schema `changeover`: an
//! applier commits its position in `checkpoint`, a load and a repair count themselves in `own`. A definition can't share a
//! transaction with anything, so a session that is about to change one announces itself: it drops a table that never
//! exists, which the servers log with the number of the connection, as they log what it runs next.

use config::{Side, TableName};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};

/// Its tables are written by Changeover alone.
const SCHEMA: &str = "changeover";
/// Where transactions that aren't an applier's count themselves.
const OWN: &str = "own";
/// What never exists.
const ANNOUNCED: &str = "announced";
/// ER_BAD_DB_ERROR: nothing was ever applied to that side.
const UNKNOWN_SCHEMA: u16 = 1049;

/// Marks the open transaction as ours. Each connection has a row of its own, so that nobody waits for another.
///
/// # Errors
/// The side refuses it, or can't be asked.
pub(crate) async fn mark(side: Side, conn: &mut Conn) -> Result<()> {
    conn.query_drop(format!(
        "INSERT INTO {SCHEMA}.{OWN} (connection, writes) VALUES (CONNECTION_ID(), 1) \
         ON DUPLICATE KEY UPDATE writes = writes + 1"
    ))
    .await
    .map_err(|error| Error::database(side, "schema changeover", &error))
}

/// Makes what this connection does to definitions from here on known as ours.
///
/// # Errors
/// The side refuses it, or can't be asked.
pub(crate) async fn announce(side: Side, conn: &mut Conn) -> Result<()> {
    match conn.query_drop(format!("DROP TABLE IF EXISTS {SCHEMA}.{ANNOUNCED}")).await {
        Ok(()) | Err(mysql_async::Error::Server(mysql_async::ServerError { code: UNKNOWN_SCHEMA, .. })) => {
            Ok(())
        }
        Err(error) => Err(Error::database(side, "schema changeover", &error)),
    }
}

/// The definition of the table that [`mark`] writes to.
pub(crate) fn create_sql() -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {SCHEMA}.{OWN} (connection BIGINT UNSIGNED NOT NULL PRIMARY KEY, \
         writes BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB"
    )
}

/// True for a table that only Changeover writes to.
pub(super) fn is_own(table: &TableName) -> bool {
    table.schema == SCHEMA
}

/// True for the text of [`announce`], as a server logs it.
pub(super) fn is_announcement(dropped: &[TableName]) -> bool {
    matches!(dropped, [only] if only.schema == SCHEMA && only.table == ANNOUNCED)
}
