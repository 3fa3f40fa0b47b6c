//! How many sessions get ready for the other backend at the same time.
//!
//! A thousand at once would take the machine, and the servers, away from the statements that go on meanwhile. What the
//! application feels of a cutover is mostly this, not the closed gate (docs/benchmarks.md), and few sessions are ready soon
//! anyway, so they are given fewer turns still.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns there are where many sessions get ready.
const AT_ONCE_MAX: u32 = 16;
/// Turns there are where few do.
const AT_ONCE_MIN: u32 = 2;
/// So many sessions share one turn, between these two.
const SESSIONS_A_TURN: usize = 128;

/// One kind of work that sessions take turns at.
#[derive(Debug)]
pub(crate) struct Turn(Semaphore);

/// A turn that was taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

/// Of all that a session does to get ready.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Dialling and logging in.
    pub(crate) dial: Turn,
    /// Asking the old backend for the state.
    pub(crate) ask: Turn,
    /// Giving it to the new one.
    pub(crate) restore: Turn,
}

impl Default for Turn {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE_MAX as usize))
    }
}

impl Turn {
    /// Waits for a turn, where so many sessions there are.
    ///
    /// Cancel safety: yes; the place in the queue is lost.
    pub(crate) async fn wait(&self, sessions: usize) -> Taken<'_> {
        // It is never closed, and that would be no reason not to go on.
        Taken { _permit: self.0.acquire_many(share(sessions)).await.ok() }
    }

    /// A turn, where one is left.
    pub(crate) fn take(&self, sessions: usize) -> Option<Taken<'_>> {
        self.0.try_acquire_many(share(sessions)).ok().map(|permit| Taken { _permit: Some(permit) })
    }
}

/// What a turn takes of [`AT_ONCE_MAX`].
fn share(sessions: usize) -> u32 {
    let at_once = u32::try_from(sessions / SESSIONS_A_TURN).unwrap_or(AT_ONCE_MAX);
    AT_ONCE_MAX / at_once.clamp(AT_ONCE_MIN, AT_ONCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_once(sessions: usize) -> usize {
        let turn = Turn::default();
        std::iter::from_fn(|| turn.take(sessions).map(std::mem::forget)).count()
    }

    #[test]
    fn few_sessions_have_few_turns() {
        for (sessions, turns) in
            [(0, 2), (1, 2), (64, 2), (500, 3), (512, 4), (1_064, 8), (2_048, 16), (10_000, 16)]
        {
            assert_eq!(at_once(sessions), turns, "{sessions} sessions");
        }
    }

    #[test]
    fn a_turn_is_given_back() {
        let turn = Turn::default();
        let all: Vec<_> = (0..2).filter_map(|_| turn.take(1)).collect();
        assert_eq!((all.len(), turn.take(1).is_some()), (2, false));
        drop(all);
        assert!(turn.take(1).is_some());
    }
}
