//! How far the target is, for everyone who waits for it: verifier, cutover, SHOW MIGRATION STATUS.
//!
//! The position published here is a low water: everything at or before it is committed on the target. Single
//! batches behind it may be committed as well, which nobody may rely on.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::BinlogPosition;
use config::progress::ReplicationPosition;
use tokio::sync::watch;

/// The rate is that of this last stretch of time.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Samples closer to each other than this are merged, which bounds their number.
const RATE_STEP: Duration = Duration::from_millis(100);

/// A position of the source that the target has reached.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Every transaction of the spool up to this number is committed on the target; 0 before the first.
    pub low_water: u64,
    /// The same in the source's terms.
    pub position: ReplicationPosition,
    /// When the source committed the transaction at the low water, microseconds since 1970; 0 before the first.
    pub committed_at_us: u64,
    /// Row changes applied by this process.
    pub rows: u64,
    /// When this position was reached.
    pub at: Instant,
}

/// Publishes [`Applied`]; shared by reference-counted pointer, written by the apply stage alone. It outlives a
/// pause: the last position stays readable, and waiters go on waiting until the stage runs again.
#[derive(Debug)]
pub struct AppliedProgress {
    state: watch::Sender<Option<Applied>>,
    samples: Mutex<VecDeque<(Instant, u64)>>,
}

impl Default for AppliedProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl AppliedProgress {
    /// Nothing is known to be applied yet.
    #[must_use]
    pub fn new() -> Self {
        Self { state: watch::Sender::new(None), samples: Mutex::default() }
    }

    /// The present state; `None` until the apply stage ran for the first time.
    #[must_use]
    pub fn current(&self) -> Option<Applied> {
        self.state.borrow().clone()
    }

    /// The applied position; `None` until the apply stage ran for the first time.
    #[must_use]
    pub fn position(&self) -> Option<ReplicationPosition> {
        self.state.borrow().as_ref().map(|applied| applied.position.clone())
    }

    /// For who wants to see every step.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Applied>> {
        self.state.subscribe()
    }

    /// True where everything up to those coordinates is applied.
    #[must_use]
    pub fn has_reached(&self, coordinates: &BinlogPosition) -> bool {
        self.state.borrow().as_ref().is_some_and(|a| a.position.coordinates >= *coordinates)
    }

    /// Returns when everything up to those coordinates is applied. It knows no deadline: while replication is
    /// paused or failed it goes on waiting, so the caller brings a timeout.
    ///
    /// Cancel safety: it only looks, so it can be dropped and called again at any time.
    pub async fn wait_for_coordinates(&self, coordinates: &BinlogPosition) {
        self.wait_until(|applied| applied.position.coordinates >= *coordinates).await;
    }

    /// As [`Self::wait_for_coordinates`], and every transaction of the position's GTID set is applied as well.
    ///
    /// Cancel safety: it only looks, so it can be dropped and called again at any time.
    pub async fn wait_for(&self, position: &ReplicationPosition) {
        self.wait_until(|applied| {
            applied.position.coordinates >= position.coordinates
                && applied.position.gtids.contains_set(&position.gtids)
        })
        .await;
    }

    async fn wait_until(&self, mut reached: impl FnMut(&Applied) -> bool) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self` is borrowed, so the only way out is the condition.
        drop(state.wait_for(|applied| applied.as_ref().is_some_and(&mut reached)).await);
    }

    /// Row changes applied a second, over the last seconds; 0 when nothing was applied in them.
    #[must_use]
    pub fn rows_per_s(&self) -> u64 {
        self.rows_per_s_at(Instant::now())
    }

    fn rows_per_s_at(&self, now: Instant) -> u64 {
        let rows = self.state.borrow().as_ref().map_or(0, |applied| applied.rows);
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(at, then)) =
            samples.iter().find(|(at, _)| now.saturating_duration_since(*at) <= RATE_WINDOW)
        else {
            return 0;
        };
        let elapsed_ms = now.saturating_duration_since(at).max(RATE_STEP).as_millis();
        u64::try_from(u128::from(rows.saturating_sub(then)) * 1000 / elapsed_ms).unwrap_or(u64::MAX)
    }

    /// Publishes where a run begins. That may be behind what the run before it had published: the checkpoint's last
    /// low water may not have been written down any more, and transactions above it are known by their numbers alone
    /// until the run comes past them. Called by the apply stage alone.
    pub(super) fn begin(&self, applied: Applied) {
        self.sample(&applied);
        self.state.send_replace(Some(applied));
    }

    /// Publishes a step of the run that has begun last. Called by the apply stage alone.
    pub(super) fn publish(&self, applied: Applied) {
        self.sample(&applied);
        self.state.send_modify(|state| {
            debug_assert!(
                state.as_ref().is_none_or(|old| old.low_water <= applied.low_water),
                "invariant 4: the applied position went back"
            );
            *state = Some(applied);
        });
    }

    /// Rows counted so far, so that a run goes on counting where the last one ended.
    pub(super) fn rows(&self) -> u64 {
        self.state.borrow().as_ref().map_or(0, |applied| applied.rows)
    }

    fn sample(&self, applied: &Applied) {
        // A sample holds the rows *before* this step, so that a burst after a quiet time counts in full.
        let rows = self.rows();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_none_or(|(at, _)| applied.at.saturating_duration_since(*at) >= RATE_STEP) {
            samples.push_back((applied.at, rows));
        }
        while samples
            .front()
            .is_some_and(|(at, _)| applied.at.saturating_duration_since(*at) > RATE_WINDOW + RATE_STEP)
        {
            samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use config::{Flavor, GtidSet};

    use super::*;

    fn applied(low_water: u64, offset: u64, rows: u64, at: Instant) -> Applied {
        Applied {
            low_water,
            position: ReplicationPosition {
                gtids: GtidSet::empty(Flavor::MariaDb),
                coordinates: BinlogPosition { file: "bin.000001".to_owned(), offset },
            },
            committed_at_us: 0,
            rows,
            at,
        }
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_the_step_that_reaches_its_position() {
        let progress = Arc::new(AppliedProgress::new());
        let wanted = BinlogPosition { file: "bin.000001".to_owned(), offset: 100 };
        let waiter = {
            let (progress, wanted) = (Arc::clone(&progress), wanted.clone());
            tokio::spawn(async move { progress.wait_for_coordinates(&wanted).await })
        };
        let now = Instant::now();
        progress.publish(applied(1, 99, 1, now));
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished() && !progress.has_reached(&wanted));
        progress.publish(applied(2, 100, 2, now));
        waiter.await.unwrap();
        // One who comes later doesn't wait at all.
        progress.wait_for_coordinates(&wanted).await;
    }

    #[test]
    fn a_run_may_begin_behind_what_was_published() {
        let progress = AppliedProgress::new();
        let now = Instant::now();
        progress.begin(applied(0, 4, 0, now));
        progress.publish(applied(7, 700, 7, now));
        // The server died before the low water was written down: 1 to 7 are known to be applied by their numbers.
        progress.begin(applied(0, 4, 7, now));
        assert_eq!(progress.current().map(|applied| applied.low_water), Some(0));
        progress.publish(applied(7, 700, 7, now));
        assert_eq!(progress.current().map(|applied| applied.low_water), Some(7));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let progress = AppliedProgress::new();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(progress.rows_per_s_at(start), 0);
        for step in 0..=200 {
            progress.publish(applied(step, step, step * 50, at(step * 50)));
        }
        // 50 rows each 50 ms.
        let rate = progress.rows_per_s_at(at(10_000));
        assert!((990..=1030).contains(&rate), "{rate}");
        assert!(progress.samples.lock().unwrap().len() <= 60);
        // Nothing more for longer than the window.
        assert_eq!(progress.rows_per_s_at(at(16_000)), 0);
    }
}
