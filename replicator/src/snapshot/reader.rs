//! Streams the rows of a chunk out of the source: one plain SELECT, no lock, no transaction.

use bytes::Bytes;
use config::Side;
use mysql_async::prelude::{Protocol as AnyProtocol, Queryable as _};
use mysql_async::{Conn, QueryResult, Row};
use tokio::sync::mpsc;

use super::binary_row::{self, Printer};
use super::cell::value_of_cell;
use super::encode::{Cells, Form, Protocol, select_list};
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
    let mut reading = Reading {
        table,
        packer: Packer::new(&there, travel),
        limit,
        batches: &batches,
        totals: ReadTotals::default(),
    };
    let statement = match binary_row::is_better(table) {
        true => binary_row::prepare(source, &select(range, Protocol::Binary)?).await.map_err(database)?,
        false => None,
    };
    let taken = match &statement {
        Some(statement) => {
            let result = source.exec_iter(statement, ()).await.map_err(database)?;
            reading.all(result, Some(Printer::default())).await?
        }
        None => {
            let result = source.query_iter(select(range, Protocol::Text)?).await.map_err(database)?;
            reading.all(result, None).await?
        }
    };
    let totals = reading.totals;
    if let Some(statement) = statement
        && totals.stopped_at.is_none()
    {
        source.close(statement).await.map_err(database)?;
    }
    Ok((taken && batches.send(Batch::End).await.is_ok()).then_some(totals))
}

/// Batches that are ready to go, in their order.
type Ready = [Option<Batch>; 2];

/// A chunk while it is read.
struct Reading<'a> {
    table: &'a TableSchema,
    packer: Packer<'a>,
    limit: &'a RateLimit,
    batches: &'a mpsc::Sender<Batch>,
    totals: ReadTotals,
}

impl Reading<'_> {
    /// Hands on every row of the answer, or as many as a chunk may have; rows of the binary protocol are printed first. False where
    /// nobody takes them.
    async fn all<P: AnyProtocol>(
        &mut self,
        mut result: QueryResult<'_, 'static, P>,
        mut printer: Option<Printer>,
    ) -> Result<bool> {
        let place = || format!("reading a chunk of {}", self.table.name);
        let database = |e: mysql_async::Error| Error::database(Side::Source, place(), &e);
        while let Some(row) = result.next().await.map_err(database)? {
            let row: Row = row;
            let (ready, last_key) = match &mut printer {
                Some(printer) => self.add(&printer.print(&row, self.table)?)?,
                None => self.add(&row)?,
            };
            for batch in ready.into_iter().flatten() {
                if !self.totals.hand_on(batch, self.limit, self.batches).await {
                    return Ok(false);
                }
            }
            if last_key.is_some() {
                self.totals.stopped_at = last_key;
                break;
            }
        }
        if self.totals.stopped_at.is_none() {
            result.drop_result().await.map_err(database)?;
        }
        match self.packer.rest() {
            Some(rest) => Ok(self.totals.hand_on(rest, self.limit, self.batches).await),
            None => Ok(true),
        }
    }

    /// What is ready to go with this row, and the row's key where the chunk is too heavy to go on.
    fn add(&mut self, row: &impl Cells) -> Result<(Ready, Option<Vec<Value>>)> {
        let ready = self.packer.add(row)?;
        let bytes: u64 = ready.iter().flatten().map(Batch::len).sum();
        let is_heavy = bytes > 0 && self.totals.bytes + bytes >= CHUNK_BYTES_MAX;
        let last_key = if is_heavy { key_of(self.table, row)? } else { None };
        Ok((ready, last_key))
    }
}

impl Batch {
    /// Bytes of its rows.
    fn len(&self) -> u64 {
        match self {
            Self::Rows { bytes, .. } => bytes.len() as u64,
            Self::End => 0,
        }
    }
}

impl ReadTotals {
    /// False where nobody takes it.
    async fn hand_on(&mut self, batch: Batch, limit: &RateLimit, batches: &mpsc::Sender<Batch>) -> bool {
        self.bytes += batch.len();
        if let Batch::Rows { rows, .. } = &batch {
            self.rows += rows;
            limit.take(*rows).await;
        }
        batches.send(batch).await.is_ok()
    }
}

/// The row key of a row as it was selected; `None` where a column of it is generated and so isn't, or was read in the
/// target's terms.
fn key_of(table: &TableSchema, row: &impl Cells) -> Result<Option<Vec<Value>>> {
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
            (Some(selected), Some(column)) => key.push(value_of_cell(column, row.cell(selected))?),
            _ => return Ok(None),
        }
    }
    Ok((!key.is_empty()).then_some(key))
}

/// In the order of the row key, which is how the target's own tree grows cheapest.
pub(super) fn select(range: &KeyRange, protocol: Protocol) -> Result<Vec<u8>> {
    let table = &range.table;
    let list = select_list(table, protocol)?;
    let head = format!("SELECT {list} FROM {} {} WHERE ", table.quoted(), force_row_key(table));
    let order = format!(" ORDER BY {}", key_list(table));
    Ok([head.as_bytes(), &table.moved(), b" AND ", &range.condition(), order.as_bytes()].concat())
}
