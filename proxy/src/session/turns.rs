//! How fast sessions get ready for the other backend, and how many at the same time.
//!
//! Getting ready takes the machine, and the servers, away from the statements that go on meanwhile. What the
//! application feels of a cutover is mostly this, not the closed gate (docs/benchmarks.md), so sessions begin one after the
//! other, with a pause between them in which statements get through: a thousand take some seconds, and nobody waits for them.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// Turns there are.
const AT_ONCE: usize = 16;
/// Between two sessions that begin, at most.
const APART_MAX: Duration = Duration::from_millis(7);
/// Where there are very many, all have begun within this, which is less than a cutover waits for them.
const ALL_WITHIN: Duration = Duration::from_secs(20);

/// One kind of work that sessions take turns at.
#[derive(Debug)]
pub(crate) struct Turn(Semaphore);

/// A turn that was taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

/// Of all that a session does to get ready.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Dialling and logging in. It is what a session begins with.
    dial: Turn,
    /// Held by the session that begins next.
    begins: Semaphore,
    /// Asking the old backend for the state.
    pub(crate) ask: Turn,
    /// Giving it to the new one.
    pub(crate) restore: Turn,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            dial: Turn::default(),
            begins: Semaphore::new(1),
            ask: Turn::default(),
            restore: Turn::default(),
        }
    }
}

impl Turns {
    /// Waits until one of so many sessions may begin.
    ///
    /// Cancel safety: yes; the place in the queue is lost.
    pub(crate) async fn begin(&self, sessions: usize) -> Taken<'_> {
        // Neither semaphore is ever closed, and that would be no reason not to go on.
        let begins = self.begins.acquire().await.ok();
        sleep(apart(sessions)).await;
        drop(begins);
        self.dial.wait().await
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Turn {
    /// Waits for a turn.
    ///
    /// Cancel safety: yes; the place in the queue is lost.
    pub(crate) async fn wait(&self) -> Taken<'_> {
        Taken { _permit: self.0.acquire().await.ok() }
    }

    /// A turn, where one is left.
    pub(crate) fn take(&self) -> Option<Taken<'_>> {
        self.0.try_acquire().ok().map(|permit| Taken { _permit: Some(permit) })
    }
}

/// The pause between two of so many sessions.
fn apart(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX).max(1);
    (ALL_WITHIN / sessions).min(APART_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_begin_faster() {
        for (sessions, us) in [(0, 7_000), (1, 7_000), (1_064, 7_000), (4_000, 5_000), (10_000, 2_000)] {
            assert_eq!(apart(sessions).as_micros(), us, "{sessions} sessions");
        }
    }

    #[tokio::test]
    async fn a_turn_is_given_back() {
        let turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(turns.begin(100_000).await);
        }
        assert!(turns.dial.take().is_none() && turns.ask.take().is_some());
        taken.pop();
        assert!(turns.dial.take().is_some());
        // A session that gives up while it waits doesn't keep the next one from beginning.
        taken.pop();
        assert!(tokio::time::timeout(Duration::ZERO, turns.begin(1)).await.is_err());
        taken.push(turns.begin(100_000).await);
        assert_eq!(taken.len(), AT_ONCE - 1);
    }
}
