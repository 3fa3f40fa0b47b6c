//! The gate: a session takes a permit before it loads the route and holds it to the end of the statement,
//! of the transaction, or of whatever pins it (invariant 2). (H3)

use std::sync::Arc;

/// A closable counter of permits, sharded so that sessions of different workers share no cache line.
#[derive(Debug)]
pub struct Gate {}

/// The right to use the route that is loaded after it was taken. Given back on drop.
#[derive(Debug)]
pub struct Permit {}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new() -> Arc<Self> {
        todo!()
    }

    /// A permit, at once or as soon as the gate opens.
    ///
    /// Cancel safety: dropped while waiting, it leaves nothing behind.
    pub async fn enter(self: &Arc<Self>, _shard: usize) -> Permit {
        todo!()
    }

    /// From now on nobody gets a permit. Idempotent.
    pub fn close(&self) {
        todo!()
    }

    /// Lets the waiting ones in. Idempotent.
    pub fn open(&self) {
        todo!()
    }

    /// True while closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Permits that are held.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        todo!()
    }

    /// Returns when the gate is closed and no permit is held. Cancel safety: yes.
    pub async fn drained(&self) {
        todo!()
    }
}
