//! Puts the rows of a chunk on the target, all of them or none, in one transaction.
//!
//! LOAD DATA LOCAL commits what it got when its stream ends early, and with LOCAL it turns every error in a value
//! into a warning. So the transaction is explicit, a stream that ends without [`Batch::End`] or a batch in another form is an
//! error, and the rows, the skipped ones and the warnings that the server counted are all looked at before the commit.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use config::{ServerVersion, Side};
use futures_core::Stream;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, InfileData};
use tokio::sync::mpsc;

use super::encode::{Form, statement};
use super::reader::Batch;
use crate::error::{Error, Result};
use crate::handle::lock;
use crate::schema::table::{ColumnKind, TableSchema};
use crate::stray::own;

/// A packet to the target at most, so that no server takes it for too large.
const PACKET_BYTES: usize = 1 << 20;
/// Warnings about spelling: a charset or collation whose name is deprecated; and OceanBase's word that it works a
/// generated column out by the session that made the table, which is what it should do.
const HARMLESS_WARNINGS: [u16; 5] = [1287, 3719, 3720, 3778, 5540];
/// "Data truncated for column": what an ENUM answers that is given its own error value 0 back.
const DATA_TRUNCATED: u16 = 1265;

/// Whether the target takes LOAD DATA LOCAL, and the largest packet that it takes.
pub(super) async fn form_of(target: &mut Conn) -> Result<(Form, u64)> {
    let answer: Option<(u8, u64)> = target
        .query_first("SELECT @@GLOBAL.local_infile, @@SESSION.max_allowed_packet")
        .await
        .map_err(|e| Error::database(Side::Target, "asking for local_infile", &e))?;
    let (allowed, packet_bytes_max) = answer.unwrap_or_default();
    // OceanBase takes it, and is faster at INSERTs of many rows.
    let version: Option<String> = target
        .query_first("SELECT VERSION()")
        .await
        .map_err(|e| Error::database(Side::Target, "asking for its version", &e))?;
    let ocean_base =
        version.and_then(|text| ServerVersion::parse(&text)).is_some_and(|version| version.ocean_base);
    Ok((if allowed == 1 && !ocean_base { Form::LoadData } else { Form::Insert }, packet_bytes_max))
}

/// A statement that is too long makes the server hang up, often without a word: without this it would be tried
/// again for ever.
fn refuse_what_never_fits(table: &TableSchema, bytes: usize, packet_bytes_max: u64) -> Result<()> {
    const PROTOCOL_BYTES: u64 = 64;
    if bytes as u64 + PROTOCOL_BYTES <= packet_bytes_max {
        return Ok(());
    }
    Err(Error::definite(
        Side::Target,
        table.name.to_string(),
        format!(
            "some rows need a statement of {bytes} bytes, and the target's max_allowed_packet is {packet_bytes_max} \
             bytes; raise it (or set local_infile = ON there), then RESUME MIGRATION"
        ),
    ))
}

/// Prepares a session to load: parents may come after children, and a duplicate must not lock the gap it is in.
pub(super) async fn prepare(target: &mut Conn) -> Result<()> {
    for statement in
        ["SET SESSION foreign_key_checks = 0", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"]
    {
        let database = |e: mysql_async::Error| Error::database(Side::Target, "preparing a load", &e);
        target.query_drop(statement).await.map_err(database)?;
    }
    Ok(())
}

/// Loads what comes through `batches` and commits it. Says how many rows it was.
///
/// After an error the connection is in an unknown state and has to be dropped, which rolls back.
///
/// Cancel safety: dropped in the middle, nothing is committed once the connection is dropped as well.
pub(super) async fn load_chunk(
    target: &mut Conn,
    table: &TableSchema,
    packet_bytes_max: u64,
    replace: bool,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<u64> {
    let database = |e: mysql_async::Error| {
        Error::database(Side::Target, format!("loading a chunk of {}", table.name), &e)
    };
    let first = match batches.recv().await {
        Some(Batch::End) => return Ok(0),
        Some(Batch::Rows { form, bytes, rows }) => Rows { form, bytes, rows },
        None => return Err(cut_short(table)),
    };
    target.query_drop("START TRANSACTION").await.map_err(database)?;
    own::mark(Side::Target, target).await?;
    let (mut total, mut next) = (0, Some(first));
    while let Some(first) = next {
        let (rows, rest) = match first.form {
            Form::LoadData => load_data(target, table, replace, first, batches).await?,
            Form::Insert => insert(target, table, (replace, packet_bytes_max), first, batches).await?,
        };
        total += rows;
        Rest { batches, next } = rest;
    }
    target.query_drop("COMMIT").await.map_err(database)?;
    config::failpoint::hit("snapshot.chunk.committed");
    Ok(total)
}

/// A batch of rows.
struct Rows {
    form: Form,
    bytes: Bytes,
    rows: u64,
}

/// What is left behind a statement.
struct Rest {
    batches: mpsc::Receiver<Batch>,
    /// The first batch that is in another form. `None`: the chunk is whole.
    next: Option<Rows>,
}

fn cut_short(table: &TableSchema) -> Error {
    Error::transient(None, format!("loading a chunk of {}", table.name), "its reader stopped before the end")
}

async fn load_data(
    target: &mut Conn,
    table: &TableSchema,
    replace: bool,
    first: Rows,
    batches: mpsc::Receiver<Batch>,
) -> Result<(u64, Rest)> {
    let place = || format!("loading a chunk of {}", table.name);
    let end = Arc::new(Mutex::new(None));
    let infile =
        Infile { batches: Some(batches), left: first.bytes, rows: first.rows, end: Arc::clone(&end) };
    target.set_infile_handler(async move { Ok(Box::pin(infile) as InfileData) });
    let loaded = target.query_drop(statement(table, Form::LoadData, replace)).await;
    let end = lock(&end).take();
    let (rows, rest) = match (loaded, end) {
        (Ok(()), Some(end)) => end,
        // invariant 1: a stream that wasn't whole is never committed.
        (Ok(()), None) => return Err(cut_short(table)),
        // The reader's own error says more than what the driver makes of the end of the stream.
        (Err(error @ (mysql_async::Error::Server(_) | mysql_async::Error::Io(_))), _)
        | (Err(error), Some(_)) => return Err(Error::database(Side::Target, place(), &error)),
        (Err(_), None) => return Err(cut_short(table)),
    };
    let (records, skipped) = counts(&target.info());
    if records != Some(rows) || skipped != Some(0) {
        return Err(Error::definite(
            Side::Target,
            place(),
            format!(
                "of {rows} rows the target took {} and skipped {}; are there rows that this migration didn't \
                 put there?",
                records.map_or_else(|| "?".to_owned(), |n| n.to_string()),
                skipped.map_or_else(|| "?".to_owned(), |n| n.to_string()),
            ),
        ));
    }
    check_warnings(target, table).await?;
    Ok((rows, rest))
}

async fn insert(
    target: &mut Conn,
    table: &TableSchema,
    (replace, packet_bytes_max): (bool, u64),
    first: Rows,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<(u64, Rest)> {
    let place = || format!("loading a chunk of {}", table.name);
    let head = statement(table, Form::Insert, replace);
    let (mut bytes, mut rows) = (first.bytes, first.rows);
    let mut total = 0;
    loop {
        let sql = [head.as_bytes(), &bytes].concat();
        refuse_what_never_fits(table, sql.len(), packet_bytes_max)?;
        target.query_drop(sql).await.map_err(|e| Error::database(Side::Target, place(), &e))?;
        // A row that replaces others counts them as well.
        let affected = target.affected_rows();
        if affected < rows || (!replace && affected != rows) {
            return Err(Error::definite(
                Side::Target,
                place(),
                format!("of {rows} rows the target took {affected}"),
            ));
        }
        check_warnings(target, table).await?;
        total += rows;
        match batches.recv().await {
            Some(Batch::Rows { form: Form::Insert, bytes: more, rows: count }) => {
                (bytes, rows) = (more, count)
            }
            Some(Batch::Rows { form, bytes, rows }) => {
                return Ok((total, Rest { batches, next: Some(Rows { form, bytes, rows }) }));
            }
            Some(Batch::End) => return Ok((total, Rest { batches, next: None })),
            None => return Err(cut_short(table)),
        }
    }
}

/// `Records: 5  Deleted: 0  Skipped: 0  Warnings: 0` → records and skipped.
fn counts(info: &str) -> (Option<u64>, Option<u64>) {
    let after = |name: &str| {
        let (_, rest) = info.split_once(name)?;
        rest.trim_start().split(' ').next()?.parse().ok()
    };
    (after("Records:"), after("Skipped:"))
}

/// A warning of the last statement means that a value may have been changed: nothing is committed then. The codes
/// are kept, the texts hold values (invariant 8).
async fn check_warnings(target: &mut Conn, table: &TableSchema) -> Result<()> {
    let count = target.get_warnings();
    if count == 0 {
        return Ok(());
    }
    let place = || format!("loading a chunk of {}", table.name);
    let warnings: Vec<(String, u16, String)> =
        target.query("SHOW WARNINGS").await.map_err(|e| Error::database(Side::Target, place(), &e))?;
    let harmless = |(_, code, text): &(String, u16, String)| {
        HARMLESS_WARNINGS.contains(code) || (*code == DATA_TRUNCATED && names_an_enum(table, text))
    };
    if warnings.len() >= usize::from(count).min(1) && warnings.iter().all(harmless) {
        return Ok(());
    }
    let mut codes: Vec<u16> =
        warnings.iter().filter(|warning| !harmless(warning)).map(|(_, code, _)| *code).collect();
    codes.sort_unstable();
    codes.dedup();
    let codes: Vec<String> = codes.iter().map(u16::to_string).collect();
    Err(Error::definite(
        Side::Target,
        place(),
        format!(
            "the target took the rows with {count} warnings (codes {}), so values may have changed; the chunk \
             was rolled back. Make the target's column the same as the source's",
            codes.join(", ")
        ),
    ))
}

fn names_an_enum(table: &TableSchema, warning: &str) -> bool {
    let name =
        warning.split_once("column '").and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name);
    table
        .columns
        .iter()
        .any(|column| matches!(column.kind, ColumnKind::Enum { .. }) && Some(column.name.as_str()) == name)
}

/// The batches of one form as the driver wants them.
struct Infile {
    /// `None` once it has ended.
    batches: Option<mpsc::Receiver<Batch>>,
    left: Bytes,
    /// Rows so far.
    rows: u64,
    /// Where it says, once it is whole, how many rows it had and what comes behind it.
    end: Arc<Mutex<Option<(u64, Rest)>>>,
}

impl Stream for Infile {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left.is_empty() {
            let Some(batches) = &mut self.batches else { return Poll::Ready(None) };
            let next = match ready!(batches.poll_recv(context)) {
                Some(Batch::Rows { form: Form::LoadData, bytes, rows }) => {
                    self.left = bytes;
                    self.rows += rows;
                    None
                }
                Some(Batch::Rows { form, bytes, rows }) => Some(Some(Rows { form, bytes, rows })),
                Some(Batch::End) => Some(None),
                None => {
                    let why = std::io::Error::other("the reader stopped before the end of the chunk");
                    return Poll::Ready(Some(Err(why)));
                }
            };
            if let Some(next) = next {
                if let Some(batches) = self.batches.take() {
                    *lock(&self.end) = Some((self.rows, Rest { batches, next }));
                }
                return Poll::Ready(None);
            }
        }
        let length = self.left.len().min(PACKET_BYTES);
        Poll::Ready(Some(Ok(self.left.split_to(length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::schema::table::SchemaSet;

    #[test]
    fn a_statement_that_never_fits_is_an_error_and_no_broken_connection() {
        let tables: SchemaSet = crate::binlog::fixture::tables();
        for table in tables.sorted() {
            assert!(refuse_what_never_fits(&table, 1000, 1064).is_ok());
            let error = refuse_what_never_fits(&table, 1001, 1064).err();
            assert!(error.is_some_and(
                |e| e.kind == ErrorKind::Definite && e.message.contains("max_allowed_packet is 1064")
            ));
        }
    }

    #[test]
    fn the_servers_counts_are_read() {
        assert_eq!(counts("Records: 5  Deleted: 0  Skipped: 2  Warnings: 0"), (Some(5), Some(2)));
        assert_eq!(counts(""), (None, None));
        assert_eq!(counts("Records: x"), (None, None));
    }
}
