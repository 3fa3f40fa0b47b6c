//! Where a server's history stands.
//!
//! Both positions are bounds, from opposite sides. [`start_position`] may name too little, never too much: what it
//! leaves out is fetched and replayed, which safe mode can take. [`end_position`] may name too much, never too
//! little: waiting for it waits a moment longer.

use std::time::Duration;

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Flavor, Gtid, GtidSet, ServerVersion, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tokio::time::Instant;

use super::{ServerInfo, prepared};
use crate::binlog::stream::BINLOG_START;
use crate::error::{Error, Result};

/// How long a start position waits for transactions that are between binlog and engine.
const COMMIT_WAIT_S: u32 = 5;
/// How often these are looked at where the server can't be asked to wait.
const COMMIT_POLL: Duration = Duration::from_millis(20);

/// The start position P0: every transaction in it is visible to every read that begins after this call
/// returned. MySQL: `gtid_executed` (a transaction enters it after its engine commit); MariaDB: the position of
/// a consistent snapshot (the binlog is written before the engine commits, so `gtid_binlog_pos` could name a
/// transaction that no read sees yet). MySQL without GTIDs: coordinates behind which nothing is on its way into the
/// engine any more (`prepared`).
pub async fn start_position(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    match info.version.flavor {
        Flavor::MySql if !info.has_gtids => start_position_anonymous(side, info, conn).await,
        Flavor::MySql => start_position_mysql(side, info, conn).await,
        Flavor::MariaDb => start_position_mariadb(side, conn).await,
    }
}

/// The end of the binlog: every transaction that any earlier read could see is at or before its coordinates.
///
/// Behind a fence both spellings are exact; under traffic the GTID set may lag or lead the coordinates by what is
/// being committed.
pub async fn end_position(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    let coordinates = binlog_status(side, info, conn).await?;
    if !info.has_gtids {
        return Ok(ReplicationPosition { gtids: GtidSet::Anonymous, coordinates });
    }
    let variable = match info.version.flavor {
        Flavor::MySql => "@@GLOBAL.gtid_executed",
        Flavor::MariaDb => "@@GLOBAL.gtid_binlog_pos",
    };
    let gtids = gtid_set(side, info.version.flavor, conn, &format!("SELECT {variable}")).await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

const POSITION: &str = "reading the binlog position";

/// What asks a server where its binlog ends.
pub(crate) fn status_statement(version: ServerVersion) -> &'static str {
    if version.at_least(Flavor::MySql, 8, 4) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" }
}

/// Where the server's binlog ends: it holds every transaction that a read could see so far, and those that are
/// between binlog and engine.
async fn binlog_status(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<BinlogPosition> {
    let statement = status_statement(info.version);
    let row: Option<Row> =
        conn.query_first(statement).await.map_err(|e| Error::database(side, POSITION, &e))?;
    let row = row.ok_or_else(|| {
        Error::definite(side, POSITION, "the binary log is off; start the server with log_bin")
    })?;
    let file = row.get_opt::<String, _>(0).and_then(std::result::Result::ok);
    let offset = row.get_opt::<u64, _>(1).and_then(std::result::Result::ok);
    match (file, offset) {
        (Some(file), Some(offset)) => Ok(BinlogPosition { file, offset }),
        _ => {
            Err(Error::definite(side, POSITION, format!("{statement} has no file and offset on this server")))
        }
    }
}

/// Reads a GTID set with a statement of one column and one row. NULL is an answer that says nothing.
async fn gtid_set(side: Side, flavor: Flavor, conn: &mut Conn, statement: &str) -> Result<GtidSet> {
    let text: Option<Option<String>> =
        conn.query_first(statement).await.map_err(|e| Error::database(side, POSITION, &e))?;
    let text = text.flatten().ok_or_else(|| {
        Error::transient(side, POSITION, "the server gave no GTID position for its binlog; it is asked again")
    })?;
    GtidSet::parse(flavor, &text).map_err(|e| Error::definite(side, POSITION, e.to_string()))
}

/// Coordinates first, then whatever was on its way into the engine at that moment is waited for: what is in the
/// binlog up to the coordinates had its GTID already, so it is executed or owned. The GTID set that is read last
/// holds all of it, and a transaction enters `gtid_executed` only after its engine commit.
async fn start_position_mysql(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    let database = |error: mysql_async::Error| Error::database(side, POSITION, &error);
    let mut coordinates = binlog_status(side, info, conn).await?;
    if !info.version.at_least(Flavor::MySql, 5, 7) {
        return start_position_mysql_56(side, coordinates, conn).await;
    }
    let owned = owned_gtids(side, conn).await?;
    if !owned.is_empty() {
        let waited: Option<Option<i64>> = conn
            .query_first(format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{owned}', {COMMIT_WAIT_S})"))
            .await
            .map_err(database)?;
        if waited.flatten() != Some(0) {
            // Someone holds a GTID without committing it. The server rotates only when nothing is on its way
            // into the engine, so the start of the file is a bound that always holds.
            coordinates.offset = u64::from(BINLOG_START);
        }
    }
    let gtids = gtid_set(side, Flavor::MySql, conn, "SELECT @@GLOBAL.gtid_executed").await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

/// MySQL 5.6 counts a transaction as executed when it is in the binlog, and as owned until its engine has committed
/// it. So the set is read first, and then waited for until nothing of it is owned any more. It can't be asked to wait.
async fn start_position_mysql_56(
    side: Side,
    coordinates: BinlogPosition,
    conn: &mut Conn,
) -> Result<ReplicationPosition> {
    let gtids = gtid_set(side, Flavor::MySql, conn, "SELECT @@GLOBAL.gtid_executed").await?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(COMMIT_WAIT_S));
    loop {
        let owned = owned_gtids(side, conn).await?;
        let owned = GtidSet::parse(Flavor::MySql, &owned)
            .map_err(|error| Error::definite(side, POSITION, error.to_string()))?;
        let inside = owned.intervals().iter().any(|(uuid, tag, first, _)| {
            gtids.contains(&Gtid::MySql { uuid: *uuid, tag: tag.clone(), number: *first })
        });
        if !inside {
            return Ok(ReplicationPosition { gtids, coordinates });
        }
        if Instant::now() >= deadline {
            return Err(uncommitted(side, &coordinates));
        }
        tokio::time::sleep(COMMIT_POLL).await;
    }
}

/// Coordinates first, then whatever was on its way into the engine at that moment is waited for.
async fn start_position_anonymous(
    side: Side,
    info: &ServerInfo,
    conn: &mut Conn,
) -> Result<ReplicationPosition> {
    let coordinates = binlog_status(side, info, conn).await?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(COMMIT_WAIT_S));
    let mut open = prepared::transactions(side, conn).await?;
    while !open.is_empty() {
        if Instant::now() >= deadline {
            return Err(uncommitted(side, &coordinates));
        }
        tokio::time::sleep(COMMIT_POLL).await;
        let now = prepared::transactions(side, conn).await?;
        open.retain(|id| now.contains(id));
    }
    Ok(ReplicationPosition { gtids: GtidSet::Anonymous, coordinates })
}

fn uncommitted(side: Side, coordinates: &BinlogPosition) -> Error {
    let what = "the server has transactions that are prepared and that it doesn't commit (XA RECOVER lists those of \
                applications, SHOW PROCESSLIST one that waits for a replica); it is asked again";
    Error::transient(side, format!("binlog {coordinates}"), what)
}

/// The GTIDs of transactions that aren't committed yet, as a set.
async fn owned_gtids(side: Side, conn: &mut Conn) -> Result<String> {
    let owned: Option<Option<String>> = conn
        .query_first("SELECT @@GLOBAL.gtid_owned")
        .await
        .map_err(|error| Error::database(side, POSITION, &error))?;
    Ok(without_owners(owned.flatten().as_deref().unwrap_or_default()))
}

/// `uuid:5#24, uuid:6#25` (GTIDs and the threads that own them) as a GTID set. Anything but the characters of
/// one is dropped, since it goes into a statement.
fn without_owners(owned: &str) -> String {
    let mut set = String::with_capacity(owned.len());
    let mut in_owner = false;
    for c in owned.chars() {
        match c {
            '#' => in_owner = true,
            ',' | ':' => {
                in_owner = false;
                set.push(c);
            }
            _ if in_owner => {}
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => set.push(c),
            _ => {}
        }
    }
    set
}

/// The binlog position of a consistent snapshot: MariaDB takes both under the lock that orders engine commits, so
/// everything before that position is in the snapshot, and in every later one.
async fn start_position_mariadb(side: Side, conn: &mut Conn) -> Result<ReplicationPosition> {
    let coordinates = snapshot_coordinates_mariadb(side, conn).await?;
    let BinlogPosition { file, offset } = &coordinates;
    let statement = format!("SELECT BINLOG_GTID_POS('{}', {offset})", file.replace(['\'', '\\'], ""));
    let gtids = gtid_set(side, Flavor::MariaDb, conn, &statement).await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

/// Coordinates up to which every transaction is visible to every read that begins after this call returned, without
/// the GTID set of [`start_position`], for which MariaDB reads its binlog file from the start.
pub(crate) async fn visible_coordinates(
    side: Side,
    info: &ServerInfo,
    conn: &mut Conn,
) -> Result<BinlogPosition> {
    match info.version.flavor {
        Flavor::MySql => Ok(start_position(side, info, conn).await?.coordinates),
        Flavor::MariaDb => snapshot_coordinates_mariadb(side, conn).await,
    }
}

async fn snapshot_coordinates_mariadb(side: Side, conn: &mut Conn) -> Result<BinlogPosition> {
    let result = consistent_snapshot_mariadb(side, conn).await;
    // The snapshot itself isn't needed: later reads see at least as much. Ended in any case, since an old
    // snapshot keeps the server from purging.
    let ended = conn.query_drop("ROLLBACK").await;
    let coordinates = result?;
    ended.map_err(|e| Error::database(side, POSITION, &e))?;
    Ok(coordinates)
}

/// Begins a consistent read and leaves it open; returns the coordinates at which it is, exactly.
pub(crate) async fn consistent_snapshot_mariadb(side: Side, conn: &mut Conn) -> Result<BinlogPosition> {
    let result = async {
        conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        conn.query::<(String, String), _>("SHOW STATUS LIKE 'binlog_snapshot_%'").await
    }
    .await;
    let rows = result.map_err(|e| Error::database(side, POSITION, &e))?;
    let value = |name: &str| {
        rows.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    };
    let file = value("Binlog_snapshot_file").filter(|file| !file.is_empty());
    let offset = value("Binlog_snapshot_position").and_then(|text| text.parse::<u64>().ok());
    let (Some(file), Some(offset)) = (file, offset) else {
        return Err(Error::definite(side, POSITION, "the binary log is off; start the server with log_bin"));
    };
    Ok(BinlogPosition { file: file.to_owned(), offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_cut_from_owned_gtids() {
        let check = |owned: &str, set: &str| assert_eq!(without_owners(owned), set, "{owned}");
        check("", "");
        check("a74f0b7b-251e-11ef:5#24", "a74f0b7b-251e-11ef:5");
        check("a74f:5#24:6#25,\nb8:1#3", "a74f:5:6,b8:1");
        check("a74f:tag_1:5#24", "a74f:tag_1:5");
        check("a74f:5') OR ('1", "a74f:5OR1");
    }
}
