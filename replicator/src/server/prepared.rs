//! Which transactions are between binlog and engine, of a MySQL that has no GTIDs to ask for.
//!
//! InnoDB prepares a transaction, the binlog takes it, InnoDB commits it. So whatever is in the binlog up to some
//! coordinates, and that no read sees yet, is prepared when it is asked for *behind* these coordinates. InnoDB's status is
//! what names prepared transactions: it isn't cached, unlike information_schema.INNODB_TRX, which has no word for them
//! either. Once those that it named are gone, every read sees everything up to the coordinates; others that were
//! prepared meanwhile are behind them. Nothing is locked, and nothing is written.

use std::collections::BTreeSet;

use config::Side;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use crate::error::{Error, Result};

const PLACE: &str = "SHOW ENGINE INNODB STATUS";

/// Ids of the transactions that are prepared now.
pub(super) async fn transactions(side: Side, conn: &mut Conn) -> Result<BTreeSet<String>> {
    let row: Option<Row> =
        conn.query_first(PLACE).await.map_err(|error| Error::database(side, PLACE, &error))?;
    let text = row.and_then(|mut row| row.take_opt::<Vec<u8>, _>("Status")).and_then(std::result::Result::ok);
    let text = text.ok_or_else(|| Error::definite(side, PLACE, "the server gave no status of InnoDB"))?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| {
        Error::transient(
            side,
            PLACE,
            "the server has more transactions than its status names, so it isn't known which of them are in its \
             binlog and not yet committed; it is asked again",
        )
    })
}

/// `None` where the list isn't whole.
fn parse(status: &str) -> Option<BTreeSet<String>> {
    const BEGIN: &str = "---TRANSACTION ";
    const PREPARED: &str = "ACTIVE (PREPARED)";
    if !status.contains("LIST OF TRANSACTIONS") || status.contains("... truncated...") {
        return None;
    }
    let lines = status.lines().filter_map(|line| line.strip_prefix(BEGIN)?.split_once(", "));
    Some(lines.filter(|(_, state)| state.starts_with(PREPARED)).map(|(id, _)| id.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn prepared_transactions_are_named() {
        let status = "TRANSACTIONS\n------------\nTrx id counter 1812\nLIST OF TRANSACTIONS FOR EACH SESSION:\n\
            ---TRANSACTION 0, not started\nMySQL thread id 7\n\
            ---TRANSACTION 1811, ACTIVE (PREPARED) 12 sec\n1 lock struct(s)\n\
            ---TRANSACTION 1810, ACTIVE (PREPARED) 0 sec committing\n\
            ---TRANSACTION 1809, ACTIVE 3 sec inserting\nINSERT ACTIVE (PREPARED)\n--------\nFILE I/O\n";
        let ids: Vec<String> = parse(status).unwrap().into_iter().collect();
        assert_eq!(ids, ["1810", "1811"]);
        assert_eq!(parse("nothing"), None);
        assert_eq!(parse(&format!("{status}... truncated...\n")), None);
    }
}
