//! A full pass over one table: chunks by key range, compared by their checksums, narrowed down to rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checksum::{ChunkSum, TableSql};
use super::key::RowKey;
use super::recheck::{Comparison, Pair, unequal};
use crate::error::Result;
use crate::snapshot::range::KeyRange;
use crate::value::Value;

/// What a chunk should take on the slower side.
const CHUNK_AIM: Duration = Duration::from_millis(300);
/// Rows of the first chunk, and the bounds of every other one.
const CHUNK_ROWS_FIRST: u64 = 2_000;
const CHUNK_ROWS_MIN: u64 = 200;
const CHUNK_ROWS_MAX: u64 = 250_000;
/// A chunk that differs is compared again in pieces of so many rows.
const PIECE_ROWS: u64 = 2_000;
/// Rows of a piece that are held in memory, a side (invariant 7).
const PIECE_ROWS_MAX: usize = 4 * PIECE_ROWS as usize;
/// Rows that are settled together, since each time the tail is waited for.
const SUSPECTS_MAX: usize = 1_000;

/// Where a pass stands.
#[derive(Debug)]
pub(super) struct Walk {
    /// Everything up to here is compared.
    after: Option<Vec<Value>>,
    chunk_rows: u64,
    /// True behind the last chunk.
    pub(super) done: bool,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { after: None, chunk_rows: CHUNK_ROWS_FIRST, done: false }
    }

    /// Compares the next chunk. After an error the same chunk is next.
    ///
    /// The source decides where a chunk ends, in the order of its own index; the last one has no end, so that rows
    /// which only the target has are in some chunk wherever they are.
    /// Returns how many rows of the source were compared, and the keys of rows that have to be compared again.
    pub(super) async fn step(
        &mut self,
        pair: &mut Pair,
        compare: &Comparison<'_>,
    ) -> Result<(u64, Vec<RowKey>)> {
        let (place, sql) = (compare.place(), compare.sql);
        let place = place.as_str();
        let table = Arc::clone(compare.table);
        let rest = KeyRange { table, after: self.after.clone(), upto: None };
        let upto = pair.source.bound(place, sql, &rest, self.chunk_rows - 1).await?;
        let range = KeyRange { upto: upto.clone(), ..rest };
        let begun = Instant::now();
        let (source, target) = sums(pair, place, sql, &range).await?;
        let elapsed = begun.elapsed();
        let again =
            if source == target { Vec::new() } else { narrow(pair, compare, range, source, target).await? };
        self.chunk_rows = next_rows(self.chunk_rows, elapsed);
        self.done = upto.is_none();
        self.after = upto;
        Ok((source.rows, again))
    }
}

async fn sums(
    pair: &mut Pair,
    place: &str,
    sql: &TableSql<'_>,
    range: &KeyRange,
) -> Result<(ChunkSum, ChunkSum)> {
    let (source, target) =
        tokio::join!(pair.source.checksum(place, sql, range), pair.target.checksum(place, sql, range));
    Ok((source?, target?))
}

/// A part of a chunk that differs. `rows`: how many it may have, on the side that has more.
struct Piece {
    range: KeyRange,
    rows: u64,
    target_has_more: bool,
}

/// Finds the rows that differ in a range, and settles them. Works through it piece by piece, so that memory stays
/// bounded even where one side has millions of rows that the other one hasn't.
async fn narrow(
    pair: &mut Pair,
    compare: &Comparison<'_>,
    range: KeyRange,
    source: ChunkSum,
    target: ChunkSum,
) -> Result<Vec<RowKey>> {
    let (place, sql) = (compare.place(), compare.sql);
    let place = place.as_str();
    let piece = |range, source: ChunkSum, target: ChunkSum| Piece {
        range,
        rows: source.rows.max(target.rows),
        target_has_more: target.rows > source.rows,
    };
    let (mut suspects, mut again) = (Vec::new(), Vec::new());
    let mut todo = vec![piece(range, source, target)];
    while let Some(next) = todo.pop() {
        if next.rows > PIECE_ROWS {
            let side = if next.target_has_more { &mut pair.target } else { &mut pair.source };
            if let Some(cut) = side.bound(place, sql, &next.range, PIECE_ROWS - 1).await? {
                let rest = KeyRange { after: Some(cut.clone()), ..next.range.clone() };
                let first = KeyRange { upto: Some(cut), ..next.range };
                todo.push(Piece { range: rest, rows: next.rows - PIECE_ROWS, ..next });
                todo.push(Piece { range: first, rows: PIECE_ROWS, ..next });
                continue;
            }
        }
        let (source, target) = sums(pair, place, sql, &next.range).await?;
        if source == target {
            continue;
        }
        let rows = source.rows.max(target.rows);
        if rows >= PIECE_ROWS_MAX as u64 {
            todo.push(piece(next.range, source, target));
            continue;
        }
        let (ours, theirs) = tokio::join!(
            pair.source.hashes_in_range(place, sql, &next.range, PIECE_ROWS_MAX),
            pair.target.hashes_in_range(place, sql, &next.range, PIECE_ROWS_MAX)
        );
        let (ours, theirs) = (ours?, theirs?);
        if ours.len().max(theirs.len()) >= PIECE_ROWS_MAX {
            // It grew since it was counted: what lies behind the limit wasn't read, so it is cut once more.
            todo.push(Piece {
                rows: PIECE_ROWS_MAX as u64,
                target_has_more: theirs.len() > ours.len(),
                ..next
            });
            continue;
        }
        suspects.extend(unequal(&ours, &theirs));
        if suspects.len() >= SUSPECTS_MAX {
            again.extend(compare.of_suspects(pair, std::mem::take(&mut suspects)).await?);
        }
    }
    again.extend(compare.of_suspects(pair, suspects).await?);
    Ok(again)
}

/// Towards the time a chunk should take, at most four times as many or as few at once.
fn next_rows(rows: u64, elapsed: Duration) -> u64 {
    let aim = u128::from(rows) * CHUNK_AIM.as_micros() / elapsed.as_micros().max(1);
    let aim = u64::try_from(aim).unwrap_or(u64::MAX);
    aim.clamp(rows / 4, rows.saturating_mul(4)).clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_and_shrink_towards_their_time() {
        let check = |rows, ms, expected| assert_eq!(next_rows(rows, Duration::from_millis(ms)), expected);
        check(2_000, 300, 2_000);
        check(2_000, 150, 4_000);
        check(2_000, 1, 8_000);
        check(2_000, 0, 8_000);
        check(100_000, 600, 50_000);
        check(100_000, 60_000, 25_000);
        check(250_000, 100, CHUNK_ROWS_MAX);
        check(200, 60_000, CHUNK_ROWS_MIN);
    }
}
