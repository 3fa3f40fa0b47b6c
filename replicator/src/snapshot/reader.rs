//! Streams the rows of a chunk out of the source: one plain SELECT, no lock, no transaction.

use bytes::Bytes;
use config::Side;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tokio::sync::mpsc;

use super::cell::{cell_of, value_of_cell};
use super::encode::{Form, select_list};
use super::limit::RateLimit;
use super::pack::Packer;
use super::range::{KeyRange, force_row_key, key_list};
use crate::error::{Error, Result};
use crate::schema::table::{Column, TableSchema};
use crate::schema::transfer::Transfer;
use crate::value::Value;

/// A chunk whose rows turn out this heavy ends where it is, so that no transaction on the target grows without a
/// bound (invariant 7); what is left is a chunk of its own.
pub(super) const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// What travels from reader to loader.
#[derive(Debug)]
pub(super) enum Batch {
    /// Rows in a form; for INSERTs they stand in one statement.
    Rows {
        /// Which form that is: batches of both may follow each other.
        form: Form,
        /// The rows.
        bytes: Bytes,
        /// How many.
        rows: u64,
    },
    /// The chunk is whole. Without it the loader must not commit.
    End,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct ReadTotals {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// The row key of the last row, where the chunk was too heavy to be read to its end. The connection has rows
    /// in it then.
    pub(super) stopped_at: Option<Vec<Value>>,
}

/// Reads a chunk into `batches`, packed by what the target takes (`travel`, see [`Packer::new`]), and ends with [`Batch::End`]. `Ok(None)`: the loader went away, which has an
/// error of its own.
///
/// Cancel safety: none needed. Dropped in the middle, the connection is left with rows in it and must be dropped
/// with the future.
pub(super) async fn read_chunk(
    source: &mut Conn,
    range: &KeyRange,
    travel: (Form, u64),
    limit: &RateLimit,
    batches: mpsc::Sender<Batch>,
) -> Result<Option<ReadTotals>> {
    let table = &range.table;
    let database = |e: mysql_async::Error| {
        Error::database(Side::Source, format!("reading a chunk of {}", table.name), &e)
    };
    let there = table.on_target();
    let mut result = source.query_iter(select(range)?).await.map_err(database)?;
    let mut totals = ReadTotals::default();
    let mut packer = Packer::new(&there, travel);
    while let Some(row) = result.next().await.map_err(database)? {
        let row: Row = row;
        let mut handed_on = false;
        for batch in packer.add(&row)?.into_iter().flatten() {
            if !totals.hand_on(batch, limit, &batches).await {
                return Ok(None);
            }
            handed_on = true;
        }
        if handed_on
            && totals.bytes >= CHUNK_BYTES_MAX
            && let Some(key) = key_of(table, &row)?
        {
            totals.stopped_at = Some(key);
            break;
        }
    }
    if totals.stopped_at.is_none() {
        result.drop_result().await.map_err(database)?;
    }
    if let Some(rest) = packer.rest()
        && !totals.hand_on(rest, limit, &batches).await
    {
        return Ok(None);
    }
    Ok(batches.send(Batch::End).await.is_ok().then_some(totals))
}

impl ReadTotals {
    /// False where nobody takes it.
    async fn hand_on(&mut self, batch: Batch, limit: &RateLimit, batches: &mpsc::Sender<Batch>) -> bool {
        if let Batch::Rows { bytes, rows, .. } = &batch {
            self.rows += rows;
            self.bytes += bytes.len() as u64;
            limit.take(*rows).await;
        }
        batches.send(batch).await.is_ok()
    }
}

/// The row key of a row as it was selected; `None` where a column of it is generated and so isn't, or was read in the
/// target's terms.
fn key_of(table: &TableSchema, row: &Row) -> Result<Option<Vec<Value>>> {
    let positions = table.row_key().map(|key| key.columns.as_slice()).unwrap_or_default();
    let as_it_is = |(column, there): (&Column, &Column)| {
        Transfer::between(column, there).is_ok_and(|transfer| transfer == Transfer::Same)
    };
    let pairs: Vec<(&Column, &Column)> = table.column_pairs().collect();
    if !positions.iter().all(|position| pairs.get(*position).copied().is_some_and(as_it_is)) {
        return Ok(None);
    }
    let mut key = Vec::with_capacity(positions.len());
    for position in positions {
        let selected = table.stored_columns().position(|stored| stored == *position);
        match (selected, table.columns.get(*position)) {
            (Some(selected), Some(column)) => key.push(value_of_cell(column, cell_of(row, selected))?),
            _ => return Ok(None),
        }
    }
    Ok((!key.is_empty()).then_some(key))
}

/// In the order of the row key, which is how the target's own tree grows cheapest.
pub(super) fn select(range: &KeyRange) -> Result<Vec<u8>> {
    let table = &range.table;
    let head =
        format!("SELECT {} FROM {} {} WHERE ", select_list(table)?, table.quoted(), force_row_key(table));
    let order = format!(" ORDER BY {}", key_list(table));
    Ok([head.as_bytes(), &table.moved(), b" AND ", &range.condition(), order.as_bytes()].concat())
}
