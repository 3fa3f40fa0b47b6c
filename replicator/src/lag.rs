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

/// Remembers when which transaction number was readable.
#[derive(Debug, Default)]
pub(crate) struct LagClock {
    samples: VecDeque<(u64, Instant)>,
}

impl LagClock {
    /// All transactions up to `last_seq` are readable since `now` at the latest.
    pub(crate) fn readable(&mut self, last_seq: u64, now: Instant) {
        if self.samples.back().is_some_and(|&(seq, _)| seq >= last_seq) {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.samples.push_back((last_seq, now));
    }

    /// Age of the oldest readable transaction that isn't applied; zero where everything is.
    pub(crate) fn behind(&mut self, applied_seq: u64, now: Instant) -> Duration {
        while self.samples.front().is_some_and(|&(seq, _)| seq <= applied_seq) {
            self.samples.pop_front();
        }
        self.samples.front().map_or(Duration::ZERO, |&(_, at)| now.saturating_duration_since(at))
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
        clock.readable(10, at(0));
        clock.readable(20, at(100));
        assert_eq!(clock.behind(9, at(150)), Duration::from_millis(150));
        assert_eq!(clock.behind(10, at(150)), Duration::from_millis(50));
        assert_eq!(clock.behind(20, at(150)), Duration::ZERO);
    }

    #[test]
    fn a_long_backlog_stays_bounded_and_keeps_its_oldest_sample() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for n in 1..=10_000u64 {
            clock.readable(n, start + Duration::from_millis(n));
        }
        assert!(clock.samples.len() <= SAMPLES_MAX);
        assert_eq!(clock.behind(0, start + Duration::from_millis(10_001)), Duration::from_millis(10_000));
    }
}
