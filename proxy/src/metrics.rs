//! What the proxy counts.
//!
//! A statement touches only what is its session's own, and one shard of a histogram: no lock, no allocation, no
//! cache line that all sessions write. Everything is added up when somebody asks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use config::Side;

/// Shards of a histogram; sessions are spread over them by their id, as over those of the gate.
const SHARDS: usize = 64;

/// Upper bounds of the buckets in microseconds; the last bucket has none.
const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// The same in seconds, as Prometheus writes them.
pub(crate) const BOUNDS: [&str; BOUNDS_US.len()] = [
    "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5",
    "1", "2.5", "10",
];

/// Durations, counted by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    shards: Box<[Shard]>,
}

/// Whole pairs of cache lines, as in the gate.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Microseconds.
    sum: AtomicU64,
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
}

/// A histogram's figures at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Microseconds of all together.
    pub(crate) sum_us: u64,
    /// How many fell into each bucket, the one without a bound last.
    pub(crate) buckets: [u64; BOUNDS_US.len() + 1],
}

impl Figures {
    /// One more.
    pub(crate) fn add(&mut self, took: Duration) {
        let us = micros(took);
        self.sum_us = self.sum_us.saturating_add(us);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(us)) {
            *bucket += 1;
        }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn bucket_of(us: u64) -> usize {
    BOUNDS_US.partition_point(|bound| *bound < us)
}

impl Default for Histogram {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Histogram {
    /// Counts one of the session `id`.
    pub(crate) fn record(&self, id: u32, took: Duration) {
        let us = micros(took);
        let shard = &self.shards[id as usize % SHARDS];
        // Sessions of one shard may run on several workers, so this has to be a real addition.
        shard.sum.fetch_add(us, Relaxed);
        shard.buckets[bucket_of(us)].fetch_add(1, Relaxed);
    }

    /// All shards together.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        for shard in &self.shards {
            figures.sum_us = figures.sum_us.wrapping_add(shard.sum.load(Relaxed));
            for (total, bucket) in figures.buckets.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Relaxed);
            }
        }
        figures
    }
}

/// Bytes that passed over one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the other end.
    pub received: u64,
    /// To it.
    pub sent: u64,
}

/// What sessions count for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) statements: u64,
    pub(crate) client: Traffic,
    pub(crate) backend: Traffic,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.statements += other.statements;
        self.client += other.client;
        self.backend += other.backend;
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
    }
}

/// [`Work`] that its session writes and others read.
#[derive(Debug, Default)]
pub(crate) struct WorkCell {
    statements: AtomicU64,
    client: [AtomicU64; 2],
    backend: [AtomicU64; 2],
}

/// Adds to a number that nobody else adds to, which needs no locked addition.
fn add_own(number: &AtomicU64, more: u64) {
    number.store(number.load(Relaxed).wrapping_add(more), Relaxed);
}

impl WorkCell {
    /// One more statement. For its session alone.
    pub(crate) fn count_statement(&self) {
        add_own(&self.statements, 1);
    }

    /// What passed over the two legs since the last call. For its session alone.
    pub(crate) fn count_traffic(&self, client: Traffic, backend: Traffic) {
        for (cell, traffic) in [(&self.client, client), (&self.backend, backend)] {
            add_own(&cell[0], traffic.received);
            add_own(&cell[1], traffic.sent);
        }
    }

    pub(crate) fn get(&self) -> Work {
        let traffic =
            |cell: &[AtomicU64; 2]| Traffic { received: cell[0].load(Relaxed), sent: cell[1].load(Relaxed) };
        Work {
            statements: self.statements.load(Relaxed),
            client: traffic(&self.client),
            backend: traffic(&self.backend),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What happens seldom enough to be counted in one place, and how long things took.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections accepted.
    pub(crate) connections: Counter,
    /// Turned away before the greeting: too many are there.
    pub(crate) too_many: Counter,
    /// Turned away: the PROXY header was missing or wrong, or came from a stranger.
    pub(crate) not_proxied: Counter,
    /// Turned away: no backend has said how to greet.
    pub(crate) no_backend: Counter,
    /// Logins that ended before a backend was asked: the client left, or knew no password.
    pub(crate) logins_unfinished: Counter,
    /// Logins that the backend refused.
    pub(crate) logins_refused: Counter,
    /// Logins that no backend could be reached for.
    pub(crate) logins_unreachable: Counter,
    /// Moves onto a connection that had the session's state already.
    pub(crate) moves_prepared: Counter,
    /// Moves onto a connection that was dialled or restored at the move.
    pub(crate) moves_unprepared: Counter,
    /// Sessions closed because they couldn't be moved.
    pub(crate) moves_failed: Counter,
    /// Round trips to a server that moves still needed.
    pub(crate) move_questions: Counter,
    /// From the first byte of a statement to the last of its answer, with its wait at the gate.
    pub(crate) statement_time: Histogram,
    /// What statements waited for a closed gate.
    pub(crate) gate_wait: Histogram,
    source_up: AtomicU8,
    target_up: AtomicU8,
}

impl Metrics {
    fn up(&self, side: Side) -> &AtomicU8 {
        match side {
            Side::Source => &self.source_up,
            Side::Target => &self.target_up,
        }
    }

    /// A backend was asked for its greeting.
    pub(crate) fn set_up(&self, side: Side, up: bool) {
        self.up(side).store(1 + u8::from(up), Relaxed);
    }

    /// Whether it greeted when it was last asked; `None` before that.
    pub(crate) fn is_up(&self, side: Side) -> Option<bool> {
        match self.up(side).load(Relaxed) {
            0 => None,
            state => Some(state == 2),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let check = |us: u64, bucket: usize| assert_eq!(bucket_of(us), bucket, "{us} µs");
        check(0, 0);
        check(100, 0);
        check(101, 1);
        check(10_000_000, 14);
        check(10_000_001, 15);
        check(u64::MAX, 15);
        for (us, text) in BOUNDS_US.iter().zip(BOUNDS) {
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            let seconds = *us as f64 / 1e6;
            assert_eq!(seconds.to_string(), text);
        }
    }

    #[test]
    fn every_shard_counts() {
        let histogram = Histogram::default();
        for id in 0..200 {
            histogram.record(id, Duration::from_micros(150));
        }
        histogram.record(7, Duration::MAX);
        let figures = histogram.figures();
        assert_eq!((figures.buckets[1], figures.buckets[15]), (200, 1));
        assert_eq!(figures.buckets.iter().sum::<u64>(), 201);
    }

    #[test]
    fn what_a_session_did_adds_up() {
        let cell = WorkCell::default();
        cell.count_statement();
        cell.count_traffic(Traffic { received: 3, sent: 5 }, Traffic { received: 7, sent: 11 });
        cell.count_traffic(Traffic { received: 1, sent: 0 }, Traffic::default());
        let mut work = cell.get();
        work += cell.get();
        assert_eq!(
            work,
            Work {
                statements: 2,
                client: Traffic { received: 8, sent: 10 },
                backend: Traffic { received: 14, sent: 22 },
            }
        );
    }
}
