//! How fast clients are let in (`proxy.max_connects_per_s`).
//!
//! One that is over the limit isn't refused: it isn't accepted yet, and waits in the system's accept queue. After
//! a failover every pool of an application reconnects at once, and an error would only make it try again sooner.

use std::time::Duration;

use tokio::time::Instant;

/// So many may come at once after a quiet time, as a part of what may come in a second.
const BURST_PART: u32 = 10;

/// A limit on how often something happens.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Between two of them; zero is no limit.
    interval: Duration,
    /// How far ahead of an even pace they may be.
    ahead: Duration,
    /// When the next is due at an even pace.
    due: Option<Instant>,
}

impl Pace {
    /// `per_s` of 0 is no limit.
    pub(crate) fn new(per_s: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_s).unwrap_or_default();
        Self { interval, ahead: interval * (per_s / BURST_PART).saturating_sub(1), due: None }
    }

    /// When the next one may happen; `None` at once.
    fn opens(&self, now: Instant) -> Option<Instant> {
        let opens = self.due?.checked_sub(self.ahead)?;
        (opens > now).then_some(opens)
    }

    /// Returns when the next one may happen. Cancel safety: yes.
    pub(crate) async fn wait(&self) {
        if let Some(opens) = self.opens(Instant::now()) {
            tokio::time::sleep_until(opens).await;
        }
    }

    /// One has happened.
    pub(crate) fn count(&mut self) {
        self.count_at(Instant::now());
    }

    fn count_at(&mut self, now: Instant) {
        if !self.interval.is_zero() {
            self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// How many happen within `ms` where as many come as may.
    fn within(per_s: u32, ms: u64) -> u64 {
        let began = Instant::now();
        let mut pace = Pace::new(per_s);
        let (mut now, mut count) = (began, 0);
        while now - began < Duration::from_millis(ms) && count < 1_000_000 {
            match pace.opens(now) {
                Some(opens) => now = opens,
                None => {
                    pace.count_at(now);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn so_many_a_second_and_a_burst() {
        assert_eq!(within(0, 1), 1_000_000, "no limit");
        assert_eq!((within(1, 1000), within(1, 1001)), (1, 2));
        assert_eq!(within(10, 3000), 30);
        assert_eq!(within(100, 1), 10);
        assert_eq!(within(100, 1000), 109);
        assert_eq!(within(1_000_000, 1000), 1_000_000);
    }

    #[test]
    fn a_quiet_time_saves_up_no_more_than_a_burst() {
        let mut pace = Pace::new(100);
        let began = Instant::now();
        pace.count_at(began);
        let later = began + Duration::from_secs(60);
        let mut count = 0;
        while pace.opens(later).is_none() {
            pace.count_at(later);
            count += 1;
        }
        assert_eq!(count, 10);
    }
}
