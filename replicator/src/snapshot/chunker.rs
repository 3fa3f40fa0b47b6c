//! Cuts tables into chunks, and hands them out to the readers.
//!
//! The bounds are the source's own answers in the order of the row key: no arithmetic on keys, so every type,
//! sign and collation is cut right. A table is cut while it is copied, each chunk as large as the ones before it
//! say that it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use config::{BackendConfig, Side, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tokio::sync::Mutex;

use super::cell::{cell_of, select_expression, value_of_cell};
use super::journal::{ChunkJournal, Chunks, JournalledChunk};
use super::progress::TableProgress;
use super::range::{KeyRange, force_row_key, key_columns, key_list};
use super::stage::{Staged, StagedTo};
use crate::error::{Error, ErrorKind, Result};
use crate::recopy::without_auto_increment;
use crate::schema::table::{SchemaSet, TableSchema};
use crate::server::connect;
use crate::value::Value;

/// What a chunk should take, so that no statement or transaction lives long.
const CHUNK_TIME: Duration = Duration::from_millis(700);
/// What a chunk should weigh.
const CHUNK_BYTES: u64 = 16 << 20;
/// Rows of the first chunk, when nothing is known of a table; a chunk is at most this many times the one before.
const ROWS_FIRST: u64 = 500;
const GROWTH_MAX: u64 = 8;
/// Rows of an adaptive chunk at most.
const ROWS_MAX: u64 = 500_000;

/// The chunk journal of all readers.
pub(super) type SharedJournal = Arc<Mutex<ChunkJournal>>;

/// A chunk to copy.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// Its number in its table, from 0 on.
    pub(super) number: u64,
    /// Its rows.
    pub(super) range: KeyRange,
    /// True where a part of it may be on the target already.
    pub(super) again: bool,
    /// The table's state, for what comes of it.
    pub(super) plan: Arc<TablePlan>,
}

impl Chunk {
    /// True where rows may be on the target already that these have to displace: of an attempt before; or of another chunk, read
    /// at another moment, with a value that a second unique key takes once only.
    pub(super) fn replaces(&self) -> bool {
        self.again || self.range.table.on_target().unique_keys.len() > 1
    }
}

/// How far a table is cut.
#[derive(Debug)]
pub(super) struct TablePlan {
    pub(super) table: Arc<TableSchema>,
    pub(super) progress: Arc<TableProgress>,
    /// Readers at work on it.
    active: AtomicUsize,
    /// Every chunk was handed out.
    exhausted: AtomicBool,
    cuts: Mutex<Cuts>,
}

#[derive(Debug)]
struct Cuts {
    /// Chunks that a run before this one cut and didn't finish.
    unfinished: Vec<(u64, KeyRange)>,
    /// The number of the next chunk.
    next: u64,
    /// Where the last chunk ended. `None`: nothing was cut.
    last: Option<Vec<Value>>,
    /// The last chunk has no upper bound: the table is cut to its end.
    complete: bool,
    /// Chunks that were handed out and aren't on the target.
    open: usize,
    /// Rows of the next chunk, where that is adaptive.
    rows: u64,
}

/// Every table of a copy, the largest first.
#[derive(Debug)]
pub(super) struct Planner {
    plans: Vec<Arc<TablePlan>>,
    journal: SharedJournal,
    /// `snapshot.chunk_rows`; 0 is adaptive.
    chunk_rows: u64,
}

impl Planner {
    pub(super) fn new(
        tables: &SchemaSet,
        journal: SharedJournal,
        (journalled, staged_to): (&Chunks, &StagedTo),
        progress: impl Fn(&TableSchema) -> Arc<TableProgress>,
        chunk_rows: u64,
    ) -> Self {
        let mut tables = tables.sorted();
        tables.retain(|table| !table.keyless);
        tables.sort_by_key(|table| std::cmp::Reverse(table.rows_estimate));
        let plans = tables.into_iter().map(|table| {
            let journalled = journalled.get(&table.name).map(Vec::as_slice).unwrap_or_default();
            let progress = progress(&table);
            Arc::new(TablePlan::new(table, progress, journalled, staged_to))
        });
        Self { plans: plans.collect(), journal, chunk_rows }
    }

    /// What there is to know of a table.
    pub(super) fn plan(&self, table: &TableName) -> Option<Arc<TablePlan>> {
        self.plans.iter().find(|plan| plan.table.name == *table).cloned()
    }

    /// True when every chunk was handed out.
    pub(super) fn is_exhausted(&self) -> bool {
        self.plans.iter().all(|plan| plan.exhausted.load(Ordering::Acquire))
    }

    /// The next chunk, of the table with the fewest readers at work; `None` when every one was handed out.
    pub(super) async fn next(&self, source: &mut Conn, primary: &BackendConfig) -> Result<Option<Chunk>> {
        loop {
            let open = self.plans.iter().filter(|plan| !plan.exhausted.load(Ordering::Acquire));
            let Some(plan) = open.min_by_key(|plan| plan.active.load(Ordering::Relaxed)) else {
                return Ok(None);
            };
            // Counted before the lock, so that readers that come together spread over the tables.
            plan.active.fetch_add(1, Ordering::Relaxed);
            let next = plan.next(source, &self.journal, self.chunk_rows).await;
            if !matches!(next, Ok(Some(_))) {
                plan.active.fetch_sub(1, Ordering::Relaxed);
            }
            match next {
                Ok(Some(next)) => return Ok(Some(next)),
                Ok(None) => {}
                Err(error)
                    if error.kind == ErrorKind::Definite && was_changed_on(primary, &plan.table).await? =>
                {
                    plan.give_up().await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl TablePlan {
    fn new(
        table: Arc<TableSchema>,
        progress: Arc<TableProgress>,
        journalled: &[JournalledChunk],
        staged_to: &StagedTo,
    ) -> Self {
        let mut cuts =
            Cuts { unfinished: Vec::new(), next: 0, last: None, complete: false, open: 0, rows: ROWS_FIRST };
        let mut rows = 0;
        for chunk in journalled {
            let begin = chunk.copied_to.clone().or(cuts.last.take());
            rows += chunk.rows;
            if !chunk.done {
                let range = |after| KeyRange { table: table.clone(), after, upto: chunk.upto.clone() };
                match staged_to.get(&(table.name.clone(), cuts.next)) {
                    // It is as if it had been handed out: nobody reads it, and it is to be loaded.
                    Some(Staged::Whole) => cuts.open += 1,
                    Some(Staged::Upto(key)) => cuts.unfinished.push((cuts.next, range(Some(key.clone())))),
                    None => cuts.unfinished.push((cuts.next, range(begin))),
                }
            }
            cuts.next += 1;
            cuts.complete = chunk.upto.is_none();
            cuts.last.clone_from(&chunk.upto);
        }
        let is_read = cuts.complete && cuts.unfinished.is_empty();
        progress.resume(rows, cuts.next > 0, is_read && cuts.open == 0);
        let exhausted = AtomicBool::new(is_read);
        Self { table, progress, active: AtomicUsize::new(0), exhausted, cuts: Mutex::new(cuts) }
    }

    async fn next(
        self: &Arc<Self>,
        source: &mut Conn,
        journal: &SharedJournal,
        chunk_rows: u64,
    ) -> Result<Option<Chunk>> {
        let mut cuts = self.cuts.lock().await;
        let chunk = |number, range, again| Chunk { number, range, again, plan: self.clone() };
        let next = if let Some((number, range)) = cuts.unfinished.pop() {
            Some(chunk(number, range, true))
        } else if cuts.complete {
            None
        } else {
            let rows = if chunk_rows > 0 { chunk_rows } else { cuts.rows };
            // Of a table that seems to be no more than a chunk nothing is asked: were it larger, it would be one all the same.
            let upto = match cuts.next == 0 && (1..rows / 2).contains(&self.table.rows_estimate) {
                true => None,
                false => bound(source, &self.table, cuts.last.as_deref(), rows).await?,
            };
            // Under the table's lock, since the journal takes a table's chunks in their order.
            journal.lock().await.cut(&self.table.name, cuts.next, upto.as_deref())?;
            let range = KeyRange { table: self.table.clone(), after: cuts.last.take(), upto: upto.clone() };
            let number = cuts.next;
            cuts.next += 1;
            cuts.complete = upto.is_none();
            cuts.last = upto;
            Some(chunk(number, range, false))
        };
        cuts.open += usize::from(next.is_some());
        self.exhausted.store(cuts.complete && cuts.unfinished.is_empty(), Ordering::Release);
        Ok(next)
    }

    /// The table isn't on the source any more as it was when the copy began. The tail will come by the statement that
    /// changed it, and has the table copied anew there; until then what is on the target of it means nothing.
    pub(super) async fn give_up(&self) {
        let mut cuts = self.cuts.lock().await;
        cuts.unfinished.clear();
        cuts.complete = true;
        self.exhausted.store(true, Ordering::Release);
        self.progress.completed();
        tracing::info!(
            area = "snapshot",
            table = %self.table.name,
            "the table was changed on the source while it was copied; it is copied anew later"
        );
    }

    /// A chunk that is read will never be on the target.
    pub(super) async fn dropped(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.landed().await;
    }

    /// A chunk is read, which took so long and says how large the next one may be.
    pub(super) async fn was_read(&self, rows: u64, bytes: u64, took: Duration) {
        let mut cuts = self.cuts.lock().await;
        // Through a filter few rows of a chunk may be seen, or none: what took the time were all of them.
        let read = if self.table.filter.is_some() { cuts.rows.max(rows) } else { rows };
        cuts.rows = rows_of_next_chunk(cuts.rows, read, bytes, took);
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// A chunk is on the target, or given up. True when it was the table's last.
    pub(super) async fn landed(&self) -> bool {
        let mut cuts = self.cuts.lock().await;
        cuts.open = cuts.open.saturating_sub(1);
        cuts.open == 0 && cuts.complete && cuts.unfinished.is_empty()
    }
}

/// True where the source itself has another definition of the table by now, or none.
pub(super) async fn was_changed_on(primary: &BackendConfig, table: &TableSchema) -> Result<bool> {
    let mut source = connect(Side::Source, primary).await?;
    let changed = was_changed(&mut source, table).await;
    drop(source.disconnect().await);
    changed
}

/// The same on a connection that is there.
pub(crate) async fn was_changed(source: &mut Conn, table: &TableSchema) -> Result<bool> {
    let database = |e: mysql_async::Error| Error::database(Side::Source, table.name.to_string(), &e);
    // As the definitions were read: a literal in one would look different in a binary session.
    source.query_drop("SET NAMES utf8mb4").await.map_err(database)?;
    let shown: std::result::Result<Option<Row>, _> =
        source.query_first(format!("SHOW CREATE TABLE {}", table.quoted())).await;
    source.query_drop("SET NAMES binary").await.map_err(database)?;
    match shown {
        Ok(row) => {
            let now = row.and_then(|row| row.get_opt::<String, _>(1)).and_then(std::result::Result::ok);
            Ok(now
                .is_none_or(|now| without_auto_increment(&now) != without_auto_increment(table.whole_sql())))
        }
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1049 | 1146) => Ok(true),
        Err(error) => Err(database(error)),
    }
}

/// Scales the chunk to what one should take and weigh.
fn rows_of_next_chunk(planned: u64, rows: u64, bytes: u64, took: Duration) -> u64 {
    if rows == 0 {
        return planned;
    }
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let by_time = scale(rows, u64::try_from(CHUNK_TIME.as_micros()).unwrap_or(u64::MAX), micros);
    let by_bytes = scale(rows, CHUNK_BYTES, bytes.max(1));
    by_time.min(by_bytes).clamp(1, ROWS_MAX).min(planned.saturating_mul(GROWTH_MAX))
}

fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The row key of the row that is `rows` rows behind `after`; `None` where fewer are left.
async fn bound(
    source: &mut Conn,
    table: &Arc<TableSchema>,
    after: Option<&[Value]>,
    rows: u64,
) -> Result<Option<Vec<Value>>> {
    let place = || format!("cutting {} into chunks", table.name);
    let expressions: Vec<String> = key_columns(table).map(select_expression).collect();
    if expressions.is_empty() {
        return Err(Error::definite(Side::Source, place(), "the table has no key to cut it by"));
    }
    let range = KeyRange { table: table.clone(), after: after.map(<[Value]>::to_vec), upto: None };
    let head =
        format!("SELECT {} FROM {} {} WHERE ", expressions.join(", "), table.quoted(), force_row_key(table));
    let tail = format!(" ORDER BY {} LIMIT 1 OFFSET {}", key_list(table), rows.saturating_sub(1));
    let sql = [head.as_bytes(), &range.condition(), tail.as_bytes()].concat();
    let row: Option<Row> =
        source.query_first(sql).await.map_err(|e| Error::database(Side::Source, place(), &e))?;
    let Some(row) = row else { return Ok(None) };
    let values = key_columns(table).enumerate().map(|(i, column)| value_of_cell(column, cell_of(&row, i)));
    values.collect::<Result<Vec<_>>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_time_and_weight() {
        let check = |planned, rows, bytes, took_ms, expected| {
            let next = rows_of_next_chunk(planned, rows, bytes, Duration::from_millis(took_ms));
            assert_eq!(next, expected, "{rows} rows, {bytes} bytes, {took_ms} ms");
        };
        check(500, 500, 100_000, 1, 4_000);
        check(1_000, 1_000, 100_000, 700, 1_000);
        check(1_000, 1_000, 100_000, 1_400, 500);
        check(1_000, 1_000, 32 << 20, 1, 500);
        check(1_000, 1, 1 << 30, 1, 1);
        check(1_000, 0, 0, 0, 1_000);
        check(400_000, 400_000, 1_000, 1, 500_000);
    }
}
