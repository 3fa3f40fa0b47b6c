//! Tables without a row key are compared as a whole, by the sums of their rows' hashes: how often a row is there counts,
//! and its place doesn't.
//!
//! Both sides never stand still together under traffic, so sums are taken as rows are elsewhere ([`super::recheck`]): the
//! source's, the target's once the tail has passed that moment, the source's again. The target's sum is equal to one of
//! the source's where nobody wrote in between. It differs for good where the source's stayed the same all that time, twice
//! in a row. Of a table that is written all the time nothing can be said then; it waits for the fence of the cutover, where
//! nothing moves and one look decides.
//!
//! What is touched of such a table is the table. It is tracked anew right before the target is read, so the claim in the
//! module comment of `verify` holds with the table in the place of the row: a touch behind that asks for another pass, and
//! what was touched before it was committed on the target by then and is in the sum.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config::TableName;
use config::progress::{Difference, DifferenceKind};
use tokio::time::Instant;

use super::Verifier;
use super::checksum::{ChunkSum, TableSql};
use super::key::RowKey;
use super::recheck::Pair;
use crate::error::{ErrorKind, Result};
use crate::schema::table::TableSchema;
use crate::snapshot::range::KeyRange;

/// Looks at a table in one pass.
const ROUNDS_MAX: usize = 4;
/// Looks in a row at which the source stood still and the target differed.
const STRIKES: usize = 2;
/// How long a look waits for the tail.
const TAIL_LIMIT: Duration = Duration::from_secs(10);
/// A table that is written all the time is read again no sooner than after this, and after so many times of what it took.
const REST: Duration = Duration::from_secs(2);
const REST_FACTOR: u32 = 4;
/// Rows, by the server's estimate, of all tables without a key that wait for the fence, at most.
const STANDING_ROWS_MAX: u64 = 500_000;

const MOVING: &str =
    "it has no key and is written all the time; it is compared as a whole behind the fence of the cutover";

/// What a look at both sides says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Equal,
    Different,
    /// Somebody wrote meanwhile.
    Moving,
}

fn judge(before: ChunkSum, target: ChunkSum, after: ChunkSum) -> Look {
    match (target == before || target == after, before == after) {
        (true, _) => Look::Equal,
        (false, true) => Look::Different,
        (false, false) => Look::Moving,
    }
}

impl Verifier {
    /// A pass over a table without a row key. Transient errors are tried again, the rest is returned.
    pub(super) async fn pass_whole(&self, table: &Arc<TableSchema>) -> Result<()> {
        let sql = self.sql_of(table)?;
        let pass = self.progress.begin_again(&table.name);
        self.throttle.pass().await;
        self.while_standing_still().await;
        let mut pair = self.walker.lock().await;
        let looked = self.unless_standing_still(self.look_at_whole(table, &sql, &mut pair)).await;
        drop(pair);
        match looked {
            // A cutover wants the connections, and looks for itself.
            None => Ok(()),
            Some(Ok(Look::Moving)) => {
                pass.end_moving(MOVING);
                Ok(())
            }
            Some(Ok(_)) => {
                pass.end();
                Ok(())
            }
            Some(Err(error)) if error.kind == ErrorKind::Transient => {
                self.pause_after(table, &error).await;
                Ok(())
            }
            Some(Err(error)) => Err(error),
        }
    }

    async fn look_at_whole(
        &self,
        table: &Arc<TableSchema>,
        sql: &TableSql<'_>,
        pair: &mut Pair,
    ) -> Result<Look> {
        let (place, range) = (table.name.to_string(), KeyRange::whole(table.on_target()));
        let (mut last, mut strikes) = (Look::Moving, 0);
        for _ in 0..ROUNDS_MAX {
            pair.source_shows_all().await?;
            let before = pair.source.checksum(&place, sql, &range).await?;
            let position = pair.source.end_position().await?;
            if tokio::time::timeout(TAIL_LIMIT, (self.passed)(position)).await.is_err() {
                return Ok(Look::Moving);
            }
            self.touched.track(&table.name);
            let target = pair.target.checksum(&place, sql, &range).await?;
            let after = pair.source.checksum(&place, sql, &range).await?;
            last = judge(before, target, after);
            strikes = if last == Look::Different { strikes + 1 } else { 0 };
            if last == Look::Equal || strikes == STRIKES {
                self.settle(table, target.rows, before.rows, last == Look::Equal);
                return Ok(last);
            }
        }
        // One strike is no difference yet.
        Ok(if last == Look::Different { Look::Moving } else { last })
    }

    /// Behind the fence: nothing moves, so one look decides.
    pub(super) async fn whole_standing_still(&self, table: &Arc<TableSchema>, pair: &mut Pair) -> Result<()> {
        let sql = self.sql_of(table)?;
        let (place, range) = (table.name.to_string(), KeyRange::whole(table.on_target()));
        let pass = self.progress.begin_again(&table.name);
        self.touched.track(&table.name);
        let (source, target) = tokio::join!(
            pair.source.checksum(&place, &sql, &range),
            pair.target.checksum(&place, &sql, &range)
        );
        let (source, target) = (source?, target?);
        self.settle(table, target.rows, source.rows, source == target);
        pass.end();
        Ok(())
    }

    fn settle(&self, table: &TableSchema, on_target: u64, on_source: u64, equal: bool) {
        let key = RowKey::encode(&[]);
        self.progress.compared_all(&table.name, on_source);
        if equal {
            self.differences.remove(&table.name, &key);
            return;
        }
        tracing::warn!(area = "verify", table = %table.name, "{} differs and has no key to say in which rows", table.name);
        let difference = Difference {
            table: table.name.clone(),
            key: String::new(),
            kind: DifferenceKind::Different,
            columns: Vec::new(),
            repair_sql: format!(
                "-- the table has no key: its {on_source} rows on the source and {on_target} on the target differ as a \
                 whole, and can't be repaired one by one"
            ),
        };
        self.differences.add(key, difference);
    }

    /// The table has no key, was looked at, and is compared as a whole behind the fence.
    pub(super) fn waits_for_the_fence(&self, table: &TableSchema) -> bool {
        table.keyless && self.progress.is_seen(&table.name)
    }

    /// Why such tables keep a cutover from beginning: they would take too long behind its fence.
    pub(super) fn too_many_without_key(&self) -> Option<String> {
        let waiting = self
            .tables
            .iter()
            .filter(|table| !self.is_covered(&table.name) && self.waits_for_the_fence(table));
        let rows: u64 = waiting.map(|table| table.rows_estimate).sum();
        (rows > STANDING_ROWS_MAX).then(|| {
            format!(
                "tables without a key that are written all the time have {rows} rows, and can be compared only behind \
                 the fence, which {STANDING_ROWS_MAX} rows are few enough for; keep the application from writing to \
                 them until they are verified, or give them keys"
            )
        })
    }
}

/// Until when tables that were just read as a whole aren't read again.
#[derive(Debug, Default)]
pub(super) struct Rests(HashMap<TableName, Instant>);

impl Rests {
    pub(super) fn rest_after(&mut self, table: &TableName, took: Duration) {
        self.0.insert(table.clone(), Instant::now() + REST.max(took.saturating_mul(REST_FACTOR)));
    }

    pub(super) fn is_resting(&self, table: &TableName) -> bool {
        self.0.get(table).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_judged_by_what_the_source_did_meanwhile() {
        let sum = |hash| ChunkSum { rows: 1, hash };
        let check = |before, target, after, expected| {
            assert_eq!(judge(sum(before), sum(target), sum(after)), expected, "{before} {target} {after}");
        };
        check(1, 1, 1, Look::Equal);
        check(1, 1, 2, Look::Equal);
        check(1, 2, 2, Look::Equal);
        check(1, 3, 1, Look::Different);
        check(1, 3, 2, Look::Moving);
    }
}
