//! The copy of a table whose rows nothing tells apart.
//!
//! Its changes can't be replayed over a copy that may hold them already, so the copy is the table exactly as it was at a
//! known position: one consistent read, streamed. The tail passes over the table's rows up to that position and applies
//! every one behind it exactly once. There is no chunk to go on with: what was begun and not ended begins anew.
//!
//! # How the position is known
//!
//! - MariaDB takes a consistent snapshot and its binlog coordinates under the lock that orders commits. Nobody waits. XA COMMIT
//!   isn't ordered by that lock: its group is in the binlog a moment before a snapshot sees its rows (so it was in 37 of 6,000
//!   snapshots of a 10.11 that six sessions kept busy with XA). So where one may have been
//!   under way (something was prepared just before, or XA COMMIT was said meanwhile) it is done as on MySQL.
//! - MySQL has nothing like it. The table is read-locked for a moment: granted, the lock says that no transaction which
//!   wrote the table is open, or between its binlog and its engine. Under it another session begins its consistent read
//!   and the end of the binlog is asked for. Whatever changed the table is in both or in neither. The wait for the lock
//!   is short and bounded, because writers wait behind it. MySQL 5.6 lets LOCK TABLES pass open transactions, but not
//!   where it takes the engine's own lock as well, which it does without autocommit.
//!
//! The reader has touched the table before it counts, so no statement can change its definition until it is copied.

use std::sync::Arc;
use std::time::Duration;

use config::{BackendConfig, BinlogPosition, Config, Flavor, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, QueryResult, Row, TextProtocol};
use tokio::sync::mpsc;

use super::chunker::was_changed;
use super::encode::{Form, Protocol, select_list};
use super::limit::RateLimit;
use super::loader::{form_of, load_chunk, prepare};
use super::pack::Packer;
use super::progress::TableProgress;
use super::reader::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::table::TableSchema;
use crate::server::{self, ServerInfo, connect};

/// How long the lock may be waited for, since writers wait behind it.
const LOCK_WAIT_S: u32 = 2;
/// Attempts at a known position, and the pause between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// What is read ends up in target transactions of about so many bytes (invariant 7).
const PIECE_BYTES: u64 = 64 << 20;
/// Batches between reader and loader.
const BATCHES_MAX: usize = 4;

/// Copies the whole of a table, which the target has without a row, and returns the position at which it is copied.
/// `table` is what the source is expected to have.
///
/// Cancel safety: dropped in the middle, a part of the table is on the target.
pub(crate) async fn copy(
    config: &Config,
    source: &ServerInfo,
    table: &Arc<TableSchema>,
    progress: &TableProgress,
) -> Result<BinlogPosition> {
    progress.resume(0, true, false);
    let mut reader = connect(Side::Source, &config.source).await?;
    let at = stand(&config.source, source, table, &mut reader).await?;
    let mut target = connect(Side::Target, &config.target).await?;
    prepare(&mut target).await?;
    let (form, packet_bytes_max) = form_of(&mut target).await?;
    let there = &table.on_target();
    let travel = (form.of_table(there), packet_bytes_max);
    let limit = RateLimit::new(config.snapshot.max_rows_per_s);
    let head = format!("SELECT {} FROM {} WHERE ", select_list(table, Protocol::Text)?, table.quoted());
    let sql = [head.as_bytes(), &table.moved()].concat();
    let mut rows = reader.query_iter(sql).await.map_err(|error| failed(table, &error))?;
    let mut more = true;
    while more {
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let piece = Piece { table: there, travel, limit: &limit };
        let (read, loaded) = tokio::join!(
            piece.read(&mut rows, sender),
            load_chunk(&mut target, there, packet_bytes_max, false, receiver)
        );
        let (read, loaded) = match (read, loaded) {
            (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
            (Ok(read), Ok(loaded)) => (read, loaded),
        };
        if read.rows != loaded {
            return Err(Error::bug(table.name.to_string(), "rows read and rows loaded differ"));
        }
        progress.copied(loaded);
        more = read.more;
        config::failpoint::hit("snapshot.whole.loaded");
    }
    drop(rows);
    // Only goodbyes: all of it is committed.
    drop(reader.disconnect().await);
    drop(target.disconnect().await);
    progress.completed();
    config::failpoint::hit("snapshot.whole.copied");
    tracing::info!(
        area = "snapshot",
        table = %table.name,
        rows = progress.rows_copied(),
        "the table has no key and is copied at {at}"
    );
    Ok(at)
}

fn failed(table: &TableSchema, error: &mysql_async::Error) -> Error {
    Error::database(Side::Source, format!("reading {} at one position", table.name), error)
}

/// Begins the consistent read and says at which position it is.
async fn stand(
    config: &BackendConfig,
    source: &ServerInfo,
    table: &TableSchema,
    reader: &mut Conn,
) -> Result<BinlogPosition> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let stood = match source.version.flavor {
            Flavor::MariaDb => match stand_mariadb(table, reader).await {
                Ok(None) => stand_locked(config, source, table, reader).await,
                Ok(Some(at)) => Ok(at),
                Err(error) => Err(error),
            },
            Flavor::MySql => stand_locked(config, source, table, reader).await,
        };
        match stood {
            Err(error) if error.kind == ErrorKind::Transient && attempt < ATTEMPTS => {
                tracing::warn!(area = "snapshot", table = %table.name, attempt, "{error}");
                tokio::time::sleep(PAUSE).await;
                reader.query_drop("ROLLBACK").await.map_err(|error| failed(table, &error))?;
            }
            stood => return stood,
        }
    }
}

/// `None` where an XA transaction may be in the binlog up to there and not in the read.
async fn stand_mariadb(table: &TableSchema, reader: &mut Conn) -> Result<Option<BinlogPosition>> {
    let before = xa_commits(table, reader).await?;
    let prepared = server::xa::prepared(Side::Source, reader).await?;
    let at = server::consistent_snapshot_mariadb(Side::Source, reader).await?;
    // Whatever was under way then was prepared, or its XA COMMIT was counted since.
    if prepared.is_none_or(|prepared| !prepared.is_empty()) || xa_commits(table, reader).await? != before {
        reader.query_drop("ROLLBACK").await.map_err(|error| failed(table, &error))?;
        return Ok(None);
    }
    hold_definition(table, reader).await?;
    Ok(Some(at))
}

/// How often XA COMMIT was begun on the server.
async fn xa_commits(table: &TableSchema, reader: &mut Conn) -> Result<Option<(String, u64)>> {
    let asked = reader.query_first("SHOW GLOBAL STATUS LIKE 'Com_xa_commit'").await;
    asked.map_err(|error| failed(table, &error))
}

async fn stand_locked(
    config: &BackendConfig,
    source: &ServerInfo,
    table: &TableSchema,
    reader: &mut Conn,
) -> Result<BinlogPosition> {
    // Dropped with its lock wherever this ends early.
    let mut lock = connect(Side::Source, config).await?;
    let settings = format!(
        "SET SESSION autocommit = 0, SESSION lock_wait_timeout = {LOCK_WAIT_S}, \
         SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}"
    );
    for statement in [settings, format!("LOCK TABLES {} READ", table.quoted())] {
        lock.query_drop(statement).await.map_err(|error| match failed(table, &error) {
            error if error.kind == ErrorKind::Transient => Error::transient(
                Side::Source,
                table.name.to_string(),
                format!(
                    "the table is locked for a moment to be copied at a known position, and a transaction that wrote it stays \
                     open, or prepared (XA RECOVER) ({}); it is tried again",
                    error.message
                ),
            ),
            error => error,
        })?;
    }
    reader
        .query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        .await
        .map_err(|error| failed(table, &error))?;
    let at = server::end_position(Side::Source, source, &mut lock).await?.coordinates;
    hold_definition(table, reader).await?;
    for statement in ["COMMIT", "UNLOCK TABLES"] {
        lock.query_drop(statement).await.map_err(|error| failed(table, &error))?;
    }
    drop(lock.disconnect().await);
    Ok(at)
}

/// Touches the table, so that its definition stays, and looks whether it is the one that is expected.
async fn hold_definition(table: &TableSchema, reader: &mut Conn) -> Result<()> {
    const CHANGED: &str = "its definition is being changed; it is read again";
    let changed = || Error::transient(Side::Source, table.name.to_string(), CHANGED);
    match reader.query_drop(format!("SELECT 1 FROM {} LIMIT 1", table.quoted())).await {
        Ok(()) => {}
        // No such table; or a consistent read that is older than the table's definition.
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1146 | 1412) => return Err(changed()),
        Err(error) => return Err(failed(table, &error)),
    }
    if was_changed(reader, table).await? { Err(changed()) } else { Ok(()) }
}

/// What one target transaction takes.
struct Piece<'a> {
    table: &'a TableSchema,
    /// How rows may travel, and the largest packet.
    travel: (Form, u64),
    limit: &'a RateLimit,
}

struct Read {
    rows: u64,
    /// The table has more.
    more: bool,
}

impl Piece<'_> {
    async fn read(
        &self,
        result: &mut QueryResult<'_, '_, TextProtocol>,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Read> {
        let (mut read, mut bytes) = (Read { rows: 0, more: false }, 0_u64);
        let mut packer = Packer::new(self.table, self.travel);
        while let Some(row) = result.next().await.map_err(|error| failed(self.table, &error))? {
            let row: Row = row;
            read.rows += 1;
            for batch in packer.add(&row)?.into_iter().flatten() {
                bytes += self.hand_on(batch, &batches).await?;
            }
            if bytes >= PIECE_BYTES {
                read.more = true;
                break;
            }
        }
        if let Some(rest) = packer.rest() {
            self.hand_on(rest, &batches).await?;
        }
        // Where the loader is gone, it has an error of its own.
        drop(batches.send(Batch::End).await);
        Ok(read)
    }

    /// Returns its bytes.
    async fn hand_on(&self, batch: Batch, batches: &mpsc::Sender<Batch>) -> Result<u64> {
        let Batch::Rows { bytes, rows, .. } = &batch else { return Ok(0) };
        let length = bytes.len() as u64;
        self.limit.take(*rows).await;
        batches.send(batch).await.map_err(|_| {
            Error::transient(
                None,
                self.table.name.to_string(),
                "the loader stopped before the end of the table",
            )
        })?;
        Ok(length)
    }
}
