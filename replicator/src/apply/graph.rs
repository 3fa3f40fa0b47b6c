//! Which batches may run now, and how far everything is done. Pure: no clock, no connection.
//!
//! Batches are consecutive stretches of the spool and are started in order. One is started when it shares no key
//! with a batch that is still running; the first that can't be started holds the ones behind it back, so what a
//! batch may overtake is only what it has nothing in common with.

use std::collections::{HashMap, VecDeque};

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Gtid, GtidSet};

use super::done::Mark;
use super::writeset::{KeyBuild, WriteSet};
use crate::binlog::transaction::TransactionMeta;

/// Number of users of a key among the running batches.
#[derive(Debug, Default, Clone, Copy)]
struct KeyUse {
    taken: u32,
    shared: u32,
}

/// The keys of the batches that are running.
#[derive(Debug, Default)]
pub(super) struct Running {
    keys: HashMap<u64, KeyUse, KeyBuild>,
    batches: usize,
    whole: bool,
}

impl Running {
    /// True where nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// True where a batch with those keys has nothing in common with what is running.
    pub(super) fn admits(&self, keys: &WriteSet) -> bool {
        if self.batches == 0 {
            return true;
        }
        if self.whole || keys.whole {
            return false;
        }
        let free = |key: &u64| self.keys.get(key).is_none_or(|u| u.taken == 0 && u.shared == 0);
        let not_taken = |key: &u64| self.keys.get(key).is_none_or(|u| u.taken == 0);
        keys.taken.iter().all(free) && keys.shared.iter().all(not_taken)
    }

    /// A batch begins.
    pub(super) fn start(&mut self, keys: &WriteSet) {
        debug_assert!(self.admits(keys), "a batch was started beside one that it depends on");
        self.batches += 1;
        self.whole |= keys.whole;
        for &key in &keys.taken {
            self.keys.entry(key).or_default().taken += 1;
        }
        for &key in &keys.shared {
            self.keys.entry(key).or_default().shared += 1;
        }
    }

    /// A batch has ended; `keys` are those it was started with.
    pub(super) fn finish(&mut self, keys: &WriteSet) {
        self.batches = self.batches.saturating_sub(1);
        // A batch that takes everything runs alone.
        self.whole = false;
        for (set, taken) in [(&keys.taken, true), (&keys.shared, false)] {
            for key in set {
                let Some(users) = self.keys.get_mut(key) else { continue };
                let count = if taken { &mut users.taken } else { &mut users.shared };
                *count = count.saturating_sub(1);
                if users.taken == 0 && users.shared == 0 {
                    self.keys.remove(key);
                }
            }
        }
    }
}

/// A stretch of the spool that is being applied, or is applied and waits for one before it.
#[derive(Debug)]
struct Open {
    /// Where it ends.
    mark: Mark,
    gtids: Vec<Gtid>,
    /// The same in the source's terms; `None` within a large transaction, which doesn't move its position.
    end: Option<(BinlogPosition, u64)>,
    done: bool,
}

/// What is applied without a gap.
#[derive(Debug, Clone)]
pub(super) struct LowWater {
    /// Everything up to here is applied.
    pub(super) mark: Mark,
    /// Where its last whole transaction ends, in the source's terms.
    pub(super) position: ReplicationPosition,
    /// When the source committed that.
    pub(super) committed_at_us: u64,
}

/// Follows the stretches in the order of the spool.
#[derive(Debug)]
pub(super) struct Watermark {
    low: LowWater,
    open: VecDeque<Open>,
    last: Mark,
}

impl Watermark {
    /// Begins behind what a checkpoint says.
    pub(super) fn new(low: LowWater) -> Self {
        let last = low.mark;
        Self { low, open: VecDeque::new(), last }
    }

    /// What is applied without a gap.
    pub(super) fn low(&self) -> &LowWater {
        &self.low
    }

    /// The last whole transaction that was begun.
    pub(super) fn last_seq(&self) -> u64 {
        self.last.seq
    }

    /// Stretches that were begun and aren't below the low water.
    pub(super) fn stretches(&self) -> usize {
        self.open.len()
    }

    /// A stretch begins: the transactions behind the last one, in order. Returns false where there is a gap, which
    /// is a bug.
    #[must_use]
    pub(super) fn begin(&mut self, transactions: &[TransactionMeta]) -> bool {
        let consecutive =
            transactions.iter().zip(self.last.seq + 1..).all(|(meta, expected)| meta.seq == expected);
        let (Some(last), true) = (transactions.last(), consecutive) else { return false };
        self.last = Mark::behind(last.seq);
        self.open.push_back(Open {
            mark: self.last,
            gtids: transactions.iter().map(|meta| meta.gtid.clone()).collect(),
            end: Some((last.end.clone(), last.committed_at_us)),
            done: false,
        });
        true
    }

    /// A stretch within the transaction behind the last one begins, up to that place. Its end is begun as a transaction.
    /// Returns false where it isn't of that transaction or doesn't go on in it, which is a bug.
    #[must_use]
    pub(super) fn begin_part(&mut self, end: Mark) -> bool {
        if end.seq != self.last.seq || end <= self.last {
            return false;
        }
        self.last = end;
        self.open.push_back(Open { mark: end, gtids: Vec::new(), end: None, done: false });
        true
    }

    /// The stretch that ends there is done. Returns true where the low water rose.
    pub(super) fn finish(&mut self, end: Mark) -> bool {
        if let Ok(at) = self.open.binary_search_by_key(&end, |open| open.mark)
            && let Some(stretch) = self.open.get_mut(at)
        {
            stretch.done = true;
        }
        let mut rose = false;
        while self.open.front().is_some_and(|stretch| stretch.done) {
            let Some(stretch) = self.open.pop_front() else { break };
            add_all(&mut self.low.position.gtids, &stretch.gtids);
            self.low.mark = stretch.mark;
            if let Some((coordinates, committed_at_us)) = stretch.end {
                self.low.position.coordinates = coordinates;
                self.low.committed_at_us = committed_at_us;
            }
            rose = true;
        }
        rose
    }

    /// The binlog went on to these coordinates without a transaction behind the last one that was begun. Returns
    /// true where the low water rose.
    pub(super) fn advance(&mut self, coordinates: BinlogPosition) -> bool {
        let end = match self.open.back_mut() {
            Some(Open { end: Some((coordinates, _)), .. }) => coordinates,
            // Nothing comes between the parts of a transaction.
            Some(_) => return false,
            None => &mut self.low.position.coordinates,
        };
        if coordinates <= *end {
            return false;
        }
        *end = coordinates;
        self.open.is_empty()
    }
}

fn add_all(set: &mut GtidSet, gtids: &[Gtid]) {
    for gtid in gtids {
        let same_family = set.add(gtid);
        debug_assert!(same_family, "a GTID of the other family came out of the spool");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use config::Flavor;
    use proptest::prelude::*;

    use super::super::sample::meta;
    use super::*;

    fn keys(taken: &[u64], shared: &[u64]) -> WriteSet {
        WriteSet {
            taken: taken.iter().copied().collect(),
            shared: shared.iter().copied().collect(),
            whole: false,
        }
    }

    #[test]
    fn a_batch_runs_beside_what_it_has_nothing_in_common_with() {
        let mut running = Running::default();
        let first = keys(&[1, 2], &[9]);
        running.start(&first);
        assert!(running.admits(&keys(&[3], &[])));
        assert!(!running.admits(&keys(&[2], &[])), "both take it");
        assert!(running.admits(&keys(&[], &[9])), "both share it");
        assert!(!running.admits(&keys(&[9], &[])) && !running.admits(&keys(&[], &[1])));
        let whole = WriteSet { whole: true, ..WriteSet::default() };
        assert!(!running.admits(&whole));
        let second = keys(&[3], &[9]);
        running.start(&second);
        running.finish(&first);
        assert!(running.admits(&keys(&[1], &[])) && !running.admits(&keys(&[9], &[])));
        running.finish(&second);
        assert!(running.is_empty() && running.keys.is_empty());
        running.start(&whole);
        assert!(!running.admits(&keys(&[77], &[])));
        running.finish(&whole);
        assert!(running.admits(&keys(&[77], &[])));
    }

    fn low(seq: u64) -> LowWater {
        LowWater {
            mark: Mark::behind(seq),
            position: ReplicationPosition {
                gtids: GtidSet::empty(Flavor::MariaDb),
                coordinates: BinlogPosition { file: "bin.000001".to_owned(), offset: seq * 100 },
            },
            committed_at_us: 0,
        }
    }

    fn at(offset: u64) -> BinlogPosition {
        BinlogPosition { file: "bin.000001".to_owned(), offset }
    }

    #[test]
    fn the_low_water_rises_only_without_a_gap() {
        let mut mark = Watermark::new(low(10));
        assert!(!mark.begin(&[meta(12)]), "a gap");
        assert!(mark.begin(&[meta(11), meta(12)]) && mark.begin(&[meta(13)]) && mark.begin(&[meta(14)]));
        assert!(!mark.finish(Mark::behind(13)));
        assert_eq!(mark.low().mark.seq, 10);
        assert!(!mark.advance(at(1450)), "the last one isn't done");
        assert!(mark.finish(Mark::behind(12)));
        assert_eq!((mark.low().mark.seq, &mark.low().position.coordinates), (13, &at(1300)));
        assert!(mark.finish(Mark::behind(14)) && mark.stretches() == 0);
        assert_eq!((mark.low().mark.seq, &mark.low().position.coordinates), (14, &at(1450)));
        assert_eq!(mark.low().position.gtids.to_string(), "0-1-14");
        assert!(mark.advance(at(1500)) && !mark.advance(at(1400)));
        assert_eq!(mark.low().position.coordinates, at(1500));
    }

    #[test]
    fn within_a_large_transaction_the_position_stays_where_it_was() {
        let mut mark = Watermark::new(low(10));
        let part = |within| Mark { seq: 10, within };
        assert!(mark.begin_part(part(500)) && mark.begin_part(part(900)));
        assert!(
            !mark.begin_part(part(900)) && !mark.begin_part(Mark { seq: 11, within: 1 }),
            "not in its order"
        );
        assert!(!mark.finish(part(900)) && mark.finish(part(500)));
        assert_eq!((mark.low().mark, &mark.low().position.coordinates), (part(900), &at(1000)));
        assert!(mark.begin(&[meta(11)]) && mark.begin_part(Mark { seq: 11, within: 30 }));
        assert!(!mark.advance(at(1500)), "the next one is open");
        assert!(mark.finish(Mark::behind(11)));
        assert_eq!((mark.low().mark, &mark.low().position.coordinates), (Mark::behind(11), &at(1100)));
        assert_eq!(mark.low().position.gtids.to_string(), "0-1-11");
    }

    proptest! {
        /// Whatever order the batches end in, as far as the graph allows it: the result is that of one after the other.
        #[test]
        fn any_permitted_order_gives_the_same_rows(
            batches in proptest::collection::vec(
                proptest::collection::vec((0u64..12, any::<bool>()), 1..4), 1..25),
            choices in proptest::collection::vec(any::<u16>(), 200))
        {
            // A write of key k in batch b leaves (b); a read of it records what it saw.
            let sets: Vec<WriteSet> = batches.iter().map(|batch| {
                let taken = batch.iter().filter(|(_, write)| *write).map(|(k, _)| *k).collect();
                let shared = batch.iter().filter(|(_, write)| !*write).map(|(k, _)| *k).collect();
                WriteSet { taken, shared, whole: false }
            }).collect();
            let apply = |b: usize, table: &mut HashMap<u64, usize>, seen: &mut HashMap<(usize, u64), Option<usize>>| {
                for (key, write) in &batches[b] {
                    if *write { table.insert(*key, b); } else { seen.insert((b, *key), table.get(key).copied()); }
                }
            };
            let (mut serial, mut serial_seen) = (HashMap::new(), HashMap::new());
            for b in 0..batches.len() {
                apply(b, &mut serial, &mut serial_seen);
            }
            let (mut table, mut seen) = (HashMap::new(), HashMap::new());
            let (mut running, mut mark) = (Running::default(), Watermark::new(low(0)));
            let (mut next, mut started) = (0, Vec::new());
            let mut choices = choices.into_iter().cycle();
            while next < batches.len() || !started.is_empty() {
                let choice = choices.next().unwrap();
                if next < batches.len() && running.admits(&sets[next]) && (started.is_empty() || choice % 2 == 0) {
                    running.start(&sets[next]);
                    prop_assert!(mark.begin(&[meta(next as u64 + 1)]));
                    started.push(next);
                    next += 1;
                } else {
                    // A batch commits at a moment of its own choice.
                    let b = started.swap_remove(usize::from(choice) % started.len());
                    apply(b, &mut table, &mut seen);
                    running.finish(&sets[b]);
                    mark.finish(Mark::behind(b as u64 + 1));
                    let unfinished = started.iter().min().copied().unwrap_or(next);
                    prop_assert_eq!(mark.low().mark, Mark::behind(unfinished as u64));
                }
            }
            prop_assert_eq!(table, serial);
            prop_assert_eq!(seen, serial_seen);
            prop_assert!(running.keys.is_empty() && mark.stretches() == 0);
        }
    }
}
