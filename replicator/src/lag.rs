//! How old the target is, in milliseconds.
//!
//! A source that stamps its transactions with whole seconds (MariaDB) can't be compared with a clock to better
//! than a second, so the lag behind what was fetched is measured with our own clock: from the moment at which a
//! transaction became readable in the spool to the moment at which it is applied.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples kept. When the backlog is longer than they reach, every second one is dropped: the lag then is right to
/// within one sample's distance.
const SAMPLES_MAX: usize = 1024;

/// Transactions up to `seq` are readable since `at`, and end `bytes` behind the begin of the spool.
#[derive(Debug)]
struct Sample {
    seq: u64,
    bytes: u64,
    at: Instant,
}

/// Remembers when which transaction number was readable.
#[derive(Debug, Default)]
pub(crate) struct LagClock {
    samples: VecDeque<Sample>,
    /// `bytes` of the last sample that is applied.
    applied_bytes: u64,
}

impl LagClock {
    /// All transactions up to `last_seq` are readable since `now` at the latest; the spool ends at `bytes`.
    pub(crate) fn readable(&mut self, last_seq: u64, bytes: u64, now: Instant) {
        if self.samples.back().is_some_and(|sample| sample.seq >= last_seq) {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.samples.push_back(Sample { seq: last_seq, bytes, at: now });
    }

    /// Age of the oldest readable transaction that isn't applied; zero where everything is.
    pub(crate) fn behind(&mut self, applied_seq: u64, now: Instant) -> Duration {
        self.forget(applied_seq);
        self.samples.front().map_or(Duration::ZERO, |sample| now.saturating_duration_since(sample.at))
    }

    /// Bytes of the spool that aren't applied, to within a sample's distance.
    pub(crate) fn bytes_behind(&mut self, applied_seq: u64, durable_bytes: u64) -> u64 {
        self.forget(applied_seq);
        if self.samples.is_empty() { 0 } else { durable_bytes.saturating_sub(self.applied_bytes) }
    }

    fn forget(&mut self, applied_seq: u64) {
        while let Some(sample) = self.samples.front().filter(|sample| sample.seq <= applied_seq) {
            self.applied_bytes = sample.bytes;
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unapplied_transaction_decides() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = LagClock::default();
        clock.readable(10, 1000, at(0));
        clock.readable(20, 3000, at(100));
        assert_eq!(clock.behind(9, at(150)), Duration::from_millis(150));
        assert_eq!(clock.behind(10, at(150)), Duration::from_millis(50));
        assert_eq!(clock.bytes_behind(10, 3000), 2000);
        assert_eq!(clock.behind(20, at(150)), Duration::ZERO);
        assert_eq!(clock.bytes_behind(20, 3000), 0);
    }

    #[test]
    fn a_long_backlog_stays_bounded_and_keeps_its_oldest_sample() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for n in 1..=10_000u64 {
            clock.readable(n, n, start + Duration::from_millis(n));
        }
        assert!(clock.samples.len() <= SAMPLES_MAX);
        assert_eq!(clock.behind(0, start + Duration::from_millis(10_001)), Duration::from_millis(10_000));
    }
}
