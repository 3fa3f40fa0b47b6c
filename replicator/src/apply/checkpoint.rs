//! The applied position, in the target's own `changeover` schema.
//!
//! `changeover.migration` has a row for each migration: where it came from (the source's identity and P0) and an
//! epoch that every run raises. `changeover.checkpoint` has a row for each worker of it, which the worker writes in
//! the very transaction that writes its batch: the low water known at that time (the number of a transaction, every
//! one up to which is applied, and its position on the source), and what above it this worker has applied: numbers of
//! transactions, and parts of one that is too large for one batch ([`Done`]). Row 0 belongs to the scheduler, which moves
//! the low water over transactions that have nothing for us.
//!
//! What is applied is the union of all rows. Reading it takes their locks, so it waits for a COMMIT that a dead
//! process has left behind and sees what became of it; and it raises the epoch, so that a process that isn't as
//! dead as it seemed finds its row gone and stops, instead of applying anything twice (invariant 1).

use config::progress::ReplicationPosition;
use config::{BinlogPosition, GtidSet, Side, failpoint};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::done::{Done, Mark, Stretch};
use super::graph::LowWater;
use crate::binlog::transaction::TransactionMeta;
use crate::error::{Error, Result};
use crate::literal::text_literal;
use crate::stray::own;

const PLACE: &str = "schema changeover";
/// Of the tables' layout.
const VERSION: u32 = 1;

/// What a migration's checkpoint belongs to. A checkpoint of anything else is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `migration.name`.
    pub migration: String,
    /// [`crate::server::ServerInfo::identity`] of the source.
    pub source_identity: String,
    /// P0, the position from which the spool was filled.
    pub start: ReplicationPosition,
}

/// What the target says is applied.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Every transaction of the spool up to this number is applied. Replay goes on with the next one; 0: from the
    /// first.
    pub low_water: u64,
    /// The same in the source's terms; P0 before the first.
    pub position: ReplicationPosition,
    /// When the source committed the transaction at the low water, microseconds since 1970; 0 before the first.
    pub committed_at_us: u64,
    /// What above it is applied as well.
    pub(super) done: Done,
    /// Whose run this is.
    pub(super) epoch: u64,
    /// Rows there are, for workers 0 to this.
    pub(super) workers: usize,
}

/// Makes the tables where they are missing and this migration's rows, or reads them, and takes the migration over:
/// whatever process did so before can't apply anything any more. Fit for `workers` workers, however many there were.
pub async fn load(conn: &mut Conn, origin: &Origin, workers: usize) -> Result<Recovered> {
    create_tables(conn).await?;
    begin(conn).await?;
    let result = take_over(conn, origin, workers).await;
    failpoint::hit("checkpoint.before_take_over");
    let recovered = end(conn, result).await?;
    failpoint::hit("checkpoint.taken_over");
    Ok(recovered)
}

/// What is applied, without taking the migration over; `None` where the target knows nothing of it.
pub async fn peek(conn: &mut Conn, origin: &Origin) -> Result<Option<Recovered>> {
    let known: Option<u64> = conn
        .query_first(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA='changeover' \
             AND TABLE_NAME IN ('migration','checkpoint')",
        )
        .await
        .map_err(database)?;
    if known != Some(2) {
        return Ok(None);
    }
    let Some(epoch) = check_origin(conn, origin, "").await? else { return Ok(None) };
    read(conn, origin, epoch, "").await.map(Some)
}

/// Removes what the target knows of a migration, so that one of that name can begin anew.
pub async fn forget(conn: &mut Conn, migration: &str) -> Result<()> {
    create_tables(conn).await?;
    begin(conn).await?;
    let result = async {
        for table in ["checkpoint", "migration"] {
            let name = if table == "migration" { "name" } else { "migration" };
            conn.query_drop(format!(
                "DELETE FROM changeover.{table} WHERE {name}={}",
                text_literal(migration)
            ))
            .await
            .map_err(database)?;
        }
        Ok(())
    }
    .await;
    end(conn, result).await?;
    failpoint::hit("checkpoint.forgotten");
    Ok(())
}

/// Moves the checkpoint over one transaction that isn't made of rows, once its effect is on the target. Everything
/// before it has to be applied; where it stands behind it already, nothing happens.
///
/// # Errors
/// It stands elsewhere, or another process has taken the migration over meanwhile.
pub(crate) async fn step_over(conn: &mut Conn, origin: &Origin, meta: &TransactionMeta) -> Result<()> {
    begin(conn).await?;
    let result = step(conn, origin, meta).await;
    end(conn, result).await?;
    failpoint::hit("checkpoint.stepped_over");
    Ok(())
}

async fn step(conn: &mut Conn, origin: &Origin, meta: &TransactionMeta) -> Result<()> {
    let epoch = check_origin(conn, origin, " FOR UPDATE").await?.ok_or_else(taken_over)?;
    let recovered = read(conn, origin, epoch, " FOR UPDATE").await?;
    if recovered.low_water >= meta.seq {
        return Ok(());
    }
    if recovered.low_water + 1 != meta.seq || !recovered.done.is_empty() {
        return Err(Error::bug(
            PLACE,
            format!("the checkpoint is at {} and can't step over {}", recovered.low_water, meta.seq),
        ));
    }
    let mut low = recovered.low();
    if !low.position.gtids.add(&meta.gtid) {
        return Err(Error::bug(PLACE, "a GTID of another family of servers"));
    }
    low.mark = Mark::behind(meta.seq);
    low.position.coordinates = meta.end.clone();
    low.committed_at_us = meta.committed_at_us;
    let sql = update_sql(&origin.migration, epoch, 0, &low, &Done::default());
    conn.query_drop(sql).await.map_err(database)?;
    if conn.affected_rows() == 1 { Ok(()) } else { Err(taken_over()) }
}

/// The statement with which worker `worker` says what is applied once its transaction is committed. It matches one
/// row, or the migration was taken over.
pub(super) fn update_sql(migration: &str, epoch: u64, worker: usize, low: &LowWater, done: &Done) -> String {
    let Mark { seq, within } = low.mark;
    let mut done = done.clone();
    if within > 0 {
        // The low water is within a transaction, and only a whole one has a number to be told by.
        done.add(Stretch::Part { seq: seq + 1, first: 1, last: within });
    }
    format!(
        "UPDATE changeover.checkpoint SET low_water_seq={},gtids={},coordinates={},committed_at_us={},intervals='{done}' \
         WHERE migration={} AND worker={worker} AND epoch={epoch}",
        seq,
        text_literal(&low.position.gtids.to_string()),
        text_literal(&low.position.coordinates.to_string()),
        low.committed_at_us,
        text_literal(migration),
    )
}

/// Asks, after a COMMIT whose answer was lost, whether worker `worker` has applied that stretch. It takes the
/// row's lock, so it waits for a COMMIT that is still under way.
pub(super) async fn has_applied(
    conn: &mut Conn,
    migration: &str,
    epoch: u64,
    worker: usize,
    stretch: Stretch,
) -> Result<bool> {
    let sql = format!(
        "SELECT low_water_seq,CAST(intervals AS CHAR) FROM changeover.checkpoint \
         WHERE migration={} AND worker={worker} AND epoch={epoch} FOR UPDATE",
        text_literal(migration)
    );
    let row: Option<(u64, String)> = conn.query_first(sql).await.map_err(database)?;
    let (low, done) = row.ok_or_else(taken_over)?;
    Ok(Mark::behind(low) >= stretch.end() || done.parse::<Done>().map_err(|_| damaged())?.has(stretch))
}

/// The row of a worker isn't there under its epoch.
pub(super) fn taken_over() -> Error {
    Error::definite(
        Side::Target,
        "changeover.checkpoint",
        "this run's rows are gone: another Changeover process has taken this migration over, or someone has \
         changed the table. Nothing was applied twice; stop one of the two processes and resume",
    )
}

fn damaged() -> Error {
    Error::definite(
        Side::Target,
        "changeover.checkpoint",
        "a row of this migration can't be read: it wasn't written by this version of Changeover. Start the migration again on an empty target, \
         or go on with the version that wrote it",
    )
}

fn database(error: mysql_async::Error) -> Error {
    Error::database(Side::Target, PLACE, &error)
}

async fn create_tables(conn: &mut Conn) -> Result<()> {
    // Asked first, so that a restart doesn't write DDL into the target's binlog.
    let tables: Option<u64> = conn
        .query_first(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA='changeover' \
             AND TABLE_NAME IN ('migration','checkpoint','own')",
        )
        .await
        .map_err(database)?;
    if tables == Some(3) {
        return Ok(());
    }
    const NAME: &str = "VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";
    const TEXT: &str = "MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";
    const COORDINATES: &str = "VARCHAR(600) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";
    for statement in [
        "CREATE DATABASE IF NOT EXISTS changeover".to_owned(),
        format!(
            "CREATE TABLE IF NOT EXISTS changeover.migration (name {NAME} PRIMARY KEY, version INT UNSIGNED NOT NULL, \
             source_identity {TEXT}, start_gtids {TEXT}, start_coordinates {COORDINATES}, \
             epoch BIGINT UNSIGNED NOT NULL, \
             updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) ENGINE=InnoDB"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS changeover.checkpoint (migration {NAME}, worker INT UNSIGNED NOT NULL, \
             epoch BIGINT UNSIGNED NOT NULL, low_water_seq BIGINT UNSIGNED NOT NULL, gtids {TEXT}, \
             coordinates {COORDINATES}, committed_at_us BIGINT UNSIGNED NOT NULL, intervals {TEXT}, \
             updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, \
             PRIMARY KEY (migration, worker)) ENGINE=InnoDB"
        ),
        own::create_sql(),
    ] {
        conn.query_drop(statement).await.map_err(database)?;
    }
    failpoint::hit("checkpoint.made");
    Ok(())
}

async fn begin(conn: &mut Conn) -> Result<()> {
    conn.query_drop("START TRANSACTION").await.map_err(database)
}

async fn end<T>(conn: &mut Conn, result: Result<T>) -> Result<T> {
    let verb = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = conn.query_drop(verb).await.map_err(database);
    let value = result?;
    ended?;
    Ok(value)
}

async fn take_over(conn: &mut Conn, origin: &Origin, workers: usize) -> Result<Recovered> {
    let name = text_literal(&origin.migration);
    let known = check_origin(conn, origin, " FOR UPDATE").await?;
    let epoch = known.unwrap_or(0) + 1;
    let mut recovered = match known {
        Some(_) => read(conn, origin, epoch, " FOR UPDATE").await?,
        None => Recovered::beginning(origin, epoch),
    };
    recovered.workers = workers;
    let statement = match known {
        Some(_) => format!("UPDATE changeover.migration SET epoch={epoch} WHERE name={name}"),
        None => format!(
            "INSERT INTO changeover.migration (name,version,source_identity,start_gtids,start_coordinates,epoch) \
             VALUES ({name},{VERSION},{},{},{},{epoch})",
            text_literal(&origin.source_identity),
            text_literal(&origin.start.gtids.to_string()),
            text_literal(&origin.start.coordinates.to_string()),
        ),
    };
    conn.query_drop(statement).await.map_err(database)?;
    conn.query_drop(format!("DELETE FROM changeover.checkpoint WHERE migration={name}"))
        .await
        .map_err(database)?;
    for worker in 0..=workers {
        // The union of all rows, in the scheduler's row; the others begin with what they do themselves.
        let intervals = if worker == 0 { recovered.done.to_string() } else { String::new() };
        conn.query_drop(format!(
            "INSERT INTO changeover.checkpoint \
             (migration,worker,epoch,low_water_seq,gtids,coordinates,committed_at_us,intervals) \
             VALUES ({name},{worker},{epoch},{},{},{},{},'{intervals}')",
            recovered.low_water,
            text_literal(&recovered.position.gtids.to_string()),
            text_literal(&recovered.position.coordinates.to_string()),
            recovered.committed_at_us,
        ))
        .await
        .map_err(database)?;
    }
    Ok(recovered)
}

/// The epoch of the migration's row, where there is one; an error where it belongs to something else.
async fn check_origin(conn: &mut Conn, origin: &Origin, lock: &str) -> Result<Option<u64>> {
    let sql = format!(
        "SELECT version,CAST(source_identity AS CHAR),CAST(start_gtids AS CHAR),CAST(start_coordinates AS CHAR),epoch \
         FROM changeover.migration WHERE name={}{lock}",
        text_literal(&origin.migration)
    );
    let row: Option<(u32, String, String, String, u64)> = conn.query_first(sql).await.map_err(database)?;
    let Some((version, identity, gtids, coordinates, epoch)) = row else { return Ok(None) };
    if version != VERSION {
        return Err(damaged());
    }
    let wanted = &origin.start;
    let same_start = GtidSet::parse(wanted.gtids.flavor(), &gtids).is_ok_and(|gtids| gtids == wanted.gtids)
        && coordinates == wanted.coordinates.to_string();
    let what = if identity != origin.source_identity {
        "another source"
    } else if !same_start {
        "another start position"
    } else {
        return Ok(Some(epoch));
    };
    Err(Error::definite(
        Side::Target,
        format!("changeover.migration, {}", origin.migration),
        format!(
            "the target holds the state of a migration of this name from {what}, so its rows belong to that one. \
             Resume with the state_dir of that migration; or empty the migrated schemas on the target, \
             DROP DATABASE changeover there, and start again"
        ),
    ))
}

async fn read(conn: &mut Conn, origin: &Origin, epoch: u64, lock: &str) -> Result<Recovered> {
    let sql = format!(
        "SELECT low_water_seq,CAST(gtids AS CHAR),CAST(coordinates AS CHAR),committed_at_us,CAST(intervals AS CHAR) \
         FROM changeover.checkpoint WHERE migration={} ORDER BY worker{lock}",
        text_literal(&origin.migration)
    );
    let rows: Vec<Row> = conn.query(sql).await.map_err(database)?;
    if rows.is_empty() {
        return Err(damaged());
    }
    let mut out = Recovered::beginning(origin, epoch);
    for row in rows {
        let (low_water, gtids, coordinates, committed_at_us, intervals): (u64, String, String, u64, String) =
            mysql_async::from_row_opt(row).map_err(|_| damaged())?;
        out.done.add_all(&intervals.parse().map_err(|_| damaged())?);
        let position = ReplicationPosition {
            gtids: GtidSet::parse(origin.start.gtids.flavor(), &gtids).map_err(|_| damaged())?,
            coordinates: coordinates.parse::<BinlogPosition>().map_err(|_| damaged())?,
        };
        // The coordinates may be ahead of others at the same transaction: the binlog went on without one.
        if (low_water, &position.coordinates) >= (out.low_water, &out.position.coordinates) {
            out.low_water = low_water;
            out.position = position;
            out.committed_at_us = committed_at_us;
        }
    }
    out.done.drop_up_to(Mark::behind(out.low_water));
    Ok(out)
}

impl Recovered {
    /// True where nothing is applied yet.
    pub(crate) fn is_beginning(&self) -> bool {
        self.low_water == 0 && self.done.is_empty()
    }

    fn beginning(origin: &Origin, epoch: u64) -> Self {
        Self {
            low_water: 0,
            position: origin.start.clone(),
            committed_at_us: 0,
            done: Done::default(),
            epoch,
            workers: 0,
        }
    }

    pub(super) fn low(&self) -> LowWater {
        LowWater {
            mark: Mark::behind(self.low_water),
            position: self.position.clone(),
            committed_at_us: self.committed_at_us,
        }
    }
}
