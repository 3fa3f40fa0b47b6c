//! A difference under traffic is read again once the tail has passed it.
//!
//! One look at both sides proves nothing against a row: the target is always a little behind. So the source row is
//! read, then the position at which the source's binlog ends; when the tail has applied that position, the target row
//! holds everything that the read saw; then the source row is read again. If it stayed the same all that time and the
//! target's differs, that is a strike, and two strikes in a row are a difference. A row that keeps changing is left
//! for later (it is touched again anyway, or it is compared behind the fence, where nothing moves).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use config::Side;

use super::checksum::TableSql;
use super::difference::describe;
use super::key::RowKey;
use super::side::{Backend, Hashes};
use super::{Differences, Passed};
use crate::error::{Error, Result};
use crate::schema::table::TableSchema;
use crate::value::Value;

/// Looks at a row before it is left for later.
const ROUNDS_MAX: usize = 8;
/// Strikes that make a difference.
const STRIKES: u8 = 2;
/// How long a look waits for the tail; it may be paused.
const TAIL_LIMIT: Duration = Duration::from_secs(10);
/// How long a source may keep a transaction between its binlog and its engine.
const VISIBLE_LIMIT: Duration = Duration::from_secs(30);

/// A connection to each side.
pub(super) struct Pair {
    pub(super) source: Backend,
    pub(super) target: Backend,
}

impl Pair {
    /// Opens what isn't open, so that a verdict doesn't wait for it.
    pub(super) async fn open(&mut self) -> Result<()> {
        let (source, target) = tokio::join!(self.source.open(), self.target.open());
        source.and(target)
    }

    /// Returns when every transaction that the tail can have applied so far is visible to reads of the source. A
    /// source writes its binlog before its engine commits, so the target may have what the source doesn't show yet.
    pub(super) async fn source_shows_all(&mut self) -> Result<()> {
        let written = self.source.end_position().await?;
        let waiting = async {
            while self.source.visible_position().await? < written {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        tokio::time::timeout(VISIBLE_LIMIT, waiting).await.unwrap_or_else(|_| {
            let what = "the source has transactions in its binlog that it doesn't commit; it is asked again";
            Err(Error::transient(Side::Source, "verifier", what))
        })
    }
}

/// One comparison of rows of one table.
pub(super) struct Comparison<'a> {
    pub(super) table: &'a Arc<TableSchema>,
    pub(super) sql: &'a TableSql<'a>,
    pub(super) passed: &'a Passed,
    pub(super) differences: &'a Differences,
}

impl Comparison<'_> {
    pub(super) fn place(&self) -> String {
        self.table.name.to_string()
    }

    /// Compares the rows with these keys and brings the list of differences up to date. Returns those keys that have
    /// to be compared again.
    pub(super) async fn of_keys(&self, pair: &mut Pair, keys: &[RowKey]) -> Result<Vec<RowKey>> {
        let suspects = self.first_look(pair, keys).await?;
        self.of_suspects(pair, suspects).await
    }

    /// Compares the rows with these keys as they are now, and takes the equal ones off the list. Returns the others.
    async fn first_look(&self, pair: &mut Pair, keys: &[RowKey]) -> Result<Vec<RowKey>> {
        let place = self.place();
        let (source, target) = tokio::join!(
            pair.source.hashes_of(&place, self.sql, keys),
            pair.target.hashes_of(&place, self.sql, keys)
        );
        let suspects = unequal(&source?, &target?);
        if self.differences.total() > 0 {
            let unequal: HashSet<&RowKey> = suspects.iter().collect();
            let equal = keys.iter().filter(|key| !unequal.contains(key));
            for key in equal {
                self.differences.remove(&self.table.name, key);
            }
        }
        Ok(suspects)
    }

    /// Takes those of the listed keys off the list whose rows are equal now. The others stay as they are.
    pub(super) async fn of_listed(&self, pair: &mut Pair, keys: &[RowKey]) -> Result<()> {
        self.first_look(pair, keys).await.map(drop)
    }

    /// As [`Self::of_keys`], for rows that differed at a first look.
    pub(super) async fn of_suspects(&self, pair: &mut Pair, suspects: Vec<RowKey>) -> Result<Vec<RowKey>> {
        if suspects.is_empty() {
            return Ok(Vec::new());
        }
        let (different, mut again) = self.look(pair, suspects).await?;
        for (key, on_source) in different {
            if !self.list(pair, &key, on_source).await? {
                again.push(key);
            }
        }
        Ok(again)
    }

    /// Looks until each row is settled, or left for later. Returns the rows that differ, each with whether the source
    /// has it, and those left.
    async fn look(
        &self,
        pair: &mut Pair,
        suspects: Vec<RowKey>,
    ) -> Result<(Vec<(RowKey, bool)>, Vec<RowKey>)> {
        let place = self.place();
        let mut different = Vec::new();
        let mut open = suspects;
        let mut strikes = vec![0_u8; open.len()];
        let mut before = pair.source.hash_of_each(&place, self.sql, &open).await?;
        for _ in 0..ROUNDS_MAX {
            if open.is_empty() {
                break;
            }
            let position = pair.source.end_position().await?;
            if tokio::time::timeout(TAIL_LIMIT, (self.passed)(position)).await.is_err() {
                break;
            }
            let target = pair.target.hash_of_each(&place, self.sql, &open).await?;
            let after = pair.source.hash_of_each(&place, self.sql, &open).await?;
            let mut left = (Vec::new(), Vec::new(), Vec::new());
            let looks = open.into_iter().zip(strikes).zip(before.iter().zip(&target).zip(&after));
            for ((key, strikes), ((before, target), after)) in looks {
                match judge(*before, *target, *after, strikes) {
                    Judgement::Equal => {
                        self.differences.remove(&self.table.name, &key);
                    }
                    Judgement::Different => different.push((key, after.is_some())),
                    Judgement::Open { strikes } => {
                        left.0.push(key);
                        left.1.push(strikes);
                        left.2.push(*after);
                    }
                }
            }
            (open, strikes, before) = left;
        }
        Ok((different, open))
    }

    /// Reads both rows whole and lists what differs. False where they turn out equal.
    async fn list(&self, pair: &mut Pair, key: &RowKey, on_source: bool) -> Result<bool> {
        if self.differences.is_full() && !self.differences.contains(&self.table.name, key) {
            self.differences.count_one(&self.table.name);
            return Ok(true);
        }
        if !on_source {
            // All that is shown of an extra row is its key.
            let extra = describe(self.table, key, None, Some(&[]))?;
            extra.into_iter().for_each(|difference| self.differences.add(key.clone(), difference));
            return Ok(true);
        }
        let (place, columns) = (self.place(), &self.table.columns);
        let (source, target) = tokio::join!(
            pair.source.row(&place, self.sql, columns, key),
            pair.target.row(&place, self.sql, columns, key)
        );
        let (source, target) = (source?, target?);
        // The row goes by the source's spelling of its key: 'A' and 'a' may be one row.
        let own = source.as_ref().or(target.as_ref()).map(|row| self.key_of(row));
        match describe(self.table, key, source.as_deref(), target.as_deref())? {
            Some(difference) => {
                self.differences.add(own.unwrap_or_else(|| key.clone()), difference);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn key_of(&self, row: &[Value]) -> RowKey {
        let columns = self.table.row_key().map(|key| key.columns.as_slice()).unwrap_or_default();
        let values: Vec<Value> = columns.iter().filter_map(|&i| row.get(i).cloned()).collect();
        RowKey::encode(&values)
    }
}

/// Keys that one side has and the other one hasn't, or with another row.
pub(super) fn unequal(source: &Hashes, target: &Hashes) -> Vec<RowKey> {
    let mut keys: Vec<RowKey> = source
        .iter()
        .filter(|(key, hash)| target.get(*key) != Some(*hash))
        .map(|(key, _)| key.clone())
        .collect();
    keys.extend(target.keys().filter(|key| !source.contains_key(*key)).cloned());
    keys
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Equal,
    Different,
    Open { strikes: u8 },
}

/// `target` was read when the tail had passed the position of `before`, and before `after` was read.
fn judge(before: Option<u128>, target: Option<u128>, after: Option<u128>, strikes: u8) -> Judgement {
    if target == before || target == after {
        return Judgement::Equal;
    }
    if before != after {
        return Judgement::Open { strikes: 0 };
    }
    match strikes + 1 {
        STRIKES.. => Judgement::Different,
        strikes => Judgement::Open { strikes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judgements() {
        let check = |before, target, after, strikes, expected| {
            assert_eq!(judge(before, target, after, strikes), expected, "{before:?} {target:?} {after:?}");
        };
        check(Some(1), Some(1), Some(2), 1, Judgement::Equal);
        check(Some(1), Some(2), Some(2), 1, Judgement::Equal);
        check(None, None, None, 0, Judgement::Equal);
        check(Some(1), Some(3), Some(2), 1, Judgement::Open { strikes: 0 });
        check(Some(1), None, Some(1), 0, Judgement::Open { strikes: 1 });
        check(Some(1), None, Some(1), 1, Judgement::Different);
        check(None, Some(1), None, 1, Judgement::Different);
    }

    #[test]
    fn sides_are_compared_both_ways() {
        let key = |n| RowKey::encode(&[Value::Int(n)]);
        let hashes =
            |pairs: &[(i64, u128)]| pairs.iter().map(|(n, hash)| (key(*n), *hash)).collect::<Hashes>();
        let mut found = unequal(&hashes(&[(1, 1), (2, 2), (3, 3)]), &hashes(&[(1, 1), (2, 9), (4, 4)]));
        found.sort();
        assert_eq!(found, [key(2), key(3), key(4)]);
    }
}
