//! The gate: a session takes a permit before it loads the route and holds it to the end of the statement,
//! of the transaction, or of whatever pins it (invariant 2).
//!
//! Permits are counted in shards, each on cache lines of its own, so that sessions of different workers
//! share nothing that is written. What the protocol promises is: **once [`Gate::drained`] has returned, and
//! until the gate is opened again, nobody holds a permit and nobody gets one.** Why it holds:
//!
//! * `generation` is even while the gate is open and odd while it is closed; every change makes it larger,
//!   so that two equal readings mean that nothing happened in between.
//! * `enter` first adds itself to its shard, then reads the generation, and keeps its place only where that
//!   is even. `close` first makes the generation odd; counts are read afterwards. All of these are SeqCst,
//!   so they have one order: an `enter` that read an even generation did so before the close, and its
//!   addition came before that, so every count read after the close includes it until it is given back.
//! * An `enter` that read an odd generation has counted itself for a moment without holding a permit. That
//!   makes a count too large, never too small, and it says so when it takes itself off again.
//! * Counts of different shards are read one after the other. With the gate closed no shard gains a permit,
//!   so a shard that was once seen empty stays empty. A reopening in the middle of the sum would break
//!   that, and is why the generation is compared before and after it.
//! * A giver-back subtracts, then reads the generation. Where it reads even, the close is yet to come and
//!   the sum behind it sees the subtraction; where it reads odd, it wakes whoever waits in `drained`, who
//!   registered before it summed up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// Shards; sessions are spread over them by their id.
const SHARDS: usize = 64;

/// A closable counter of permits, sharded so that sessions of different workers share no cache line.
#[derive(Debug)]
pub struct Gate {
    core: Arc<Core>,
    shards: Box<[Arc<Shard>]>,
}

/// What every shard has in common. Written only by a close and an open.
#[derive(Debug)]
struct Core {
    /// Even: open. Odd: closed. Grows with every change.
    generation: AtomicU64,
    /// Wakes those who wait to enter.
    opened: Notify,
    /// Wakes those who wait for the drain.
    released: Notify,
}

/// 128 bytes: the pair of cache lines that processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    held: AtomicUsize,
    core: Arc<Core>,
}

/// The right to use the route that is loaded after it was taken. Given back on drop.
///
/// It refers to its shard, not to the gate, so that taking one writes to no line that all sessions share.
#[derive(Debug)]
pub struct Permit {
    shard: Arc<Shard>,
}

impl Core {
    fn is_closed(&self) -> bool {
        self.generation.load(SeqCst) % 2 == 1
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.shard.held.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "invariant 2: a permit was given back twice");
        if self.shard.core.is_closed() {
            self.shard.core.released.notify_waiters();
        }
    }
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let core =
            Arc::new(Core { generation: AtomicU64::new(0), opened: Notify::new(), released: Notify::new() });
        let shards =
            (0..SHARDS).map(|_| Arc::new(Shard { held: AtomicUsize::new(0), core: Arc::clone(&core) }));
        Arc::new(Self { shards: shards.collect(), core })
    }

    /// A permit where the gate is open, without waiting.
    #[must_use]
    pub fn try_enter(&self, shard: usize) -> Option<Permit> {
        let shard = &self.shards[shard % SHARDS];
        shard.held.fetch_add(1, SeqCst);
        // From here on the place is given back on drop, also where the gate turns out to be closed.
        let permit = Permit { shard: Arc::clone(shard) };
        (!self.core.is_closed()).then_some(permit)
    }

    /// A permit, at once or as soon as the gate opens.
    ///
    /// Cancel safety: dropped while waiting, it leaves nothing behind.
    pub async fn enter(self: &Arc<Self>, shard: usize) -> Permit {
        loop {
            if let Some(permit) = self.try_enter(shard) {
                return permit;
            }
            let opened = self.core.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            // Registered first, looked afterwards: an opening between the two wakes us.
            if self.core.is_closed() {
                opened.await;
            }
        }
    }

    /// From now on nobody gets a permit. Idempotent.
    pub fn close(&self) {
        let _ = self.core.generation.fetch_update(SeqCst, SeqCst, |g| (g % 2 == 0).then_some(g + 1));
        self.core.released.notify_waiters();
    }

    /// Lets the waiting ones in. Idempotent.
    pub fn open(&self) {
        let _ = self.core.generation.fetch_update(SeqCst, SeqCst, |g| (g % 2 == 1).then_some(g + 1));
        self.core.opened.notify_waiters();
    }

    /// True while closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Permits that are held. While the gate is closed it may for a moment count sessions that are just
    /// being turned away; it never counts too few.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.shards.iter().map(|shard| shard.held.load(SeqCst)).sum()
    }

    /// Returns when the gate is closed and no permit is held. Cancel safety: yes.
    pub async fn drained(&self) {
        loop {
            let released = self.core.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let generation = self.core.generation.load(SeqCst);
            if generation % 2 == 1
                && self.outstanding() == 0
                && self.core.generation.load(SeqCst) == generation
            {
                return;
            }
            released.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicBool, AtomicI64};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_closed_gate_lets_nobody_in_and_drains_when_the_last_leaves() {
        let gate = Gate::new();
        let permit = gate.enter(1).await;
        assert_eq!(gate.outstanding(), 1);
        gate.close();
        gate.close();
        assert!(gate.is_closed() && gate.try_enter(2).is_none());
        assert!(tokio::time::timeout(Duration::from_millis(20), gate.drained()).await.is_err());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(3).await }
        });
        drop(permit);
        gate.drained().await;
        assert!(!waiting.is_finished());
        gate.open();
        gate.open();
        drop(waiting.await.unwrap());
        assert_eq!(gate.outstanding(), 0);
        assert!(tokio::time::timeout(Duration::from_millis(20), gate.drained()).await.is_err(), "it is open");
    }

    #[tokio::test]
    async fn an_abandoned_wait_leaves_nothing_behind() {
        let gate = Gate::new();
        gate.close();
        assert!(tokio::time::timeout(Duration::from_millis(5), gate.enter(0)).await.is_err());
        gate.drained().await;
        assert_eq!(gate.outstanding(), 0);
    }

    /// Many tasks enter and leave while another closes and opens. Between `drained` and `open` nobody may
    /// be inside: they'd see `alone`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_inside_between_drained_and_open() {
        let gate = Gate::new();
        let alone = Arc::new(AtomicBool::new(false));
        let inside = Arc::new(AtomicI64::new(0));
        let entered = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for id in 0..16_usize {
            let (gate, alone, stop) = (Arc::clone(&gate), Arc::clone(&alone), Arc::clone(&stop));
            let (inside, entered) = (Arc::clone(&inside), Arc::clone(&entered));
            tasks.spawn(async move {
                let mut rounds = 0_u64;
                while !stop.load(SeqCst) {
                    let permit = gate.enter(id % 7).await;
                    inside.fetch_add(1, SeqCst);
                    entered.fetch_add(1, SeqCst);
                    assert!(!alone.load(SeqCst), "invariant 2");
                    if rounds.is_multiple_of(3) {
                        tokio::task::yield_now().await;
                    }
                    assert!(!alone.load(SeqCst), "invariant 2");
                    inside.fetch_sub(1, SeqCst);
                    drop(permit);
                    rounds += 1;
                    if rounds.is_multiple_of(16) {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        for _ in 0..100 {
            gate.close();
            tokio::time::timeout(Duration::from_secs(10), gate.drained()).await.expect("it drains");
            alone.store(true, SeqCst);
            assert_eq!(inside.load(SeqCst), 0, "invariant 2");
            tokio::task::yield_now().await;
            alone.store(false, SeqCst);
            let before = entered.load(SeqCst);
            gate.open();
            while entered.load(SeqCst) == before {
                tokio::task::yield_now().await;
            }
        }
        stop.store(true, SeqCst);
        tasks.join_all().await;
        assert_eq!(gate.outstanding(), 0);
    }
}
