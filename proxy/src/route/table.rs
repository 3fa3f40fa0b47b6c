//! The route: one `ArcSwap` that every statement loads and a cutover stores. (H3)

use std::sync::Arc;

use config::{BackendConfig, Side};

/// Counts swaps. A session whose connection carries another epoch than the route has to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// A backend as the proxy knows it.
#[derive(Debug)]
pub struct Backend {
    /// Which of the two.
    pub side: Side,
    /// Address and service account.
    pub config: BackendConfig,
}

/// Where statements go.
#[derive(Debug)]
pub struct Route {
    /// Of this route.
    pub epoch: Epoch,
    /// The backend that serves.
    pub backend: Arc<Backend>,
}

/// The present route, and the backend that sessions should prepare for.
#[derive(Debug)]
pub struct RouteTable {}

impl RouteTable {
    /// A table with `serving` in front.
    #[must_use]
    pub fn new(_source: Backend, _target: Backend, _serving: Side) -> Arc<Self> {
        todo!()
    }

    /// The present route.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Route>> {
        todo!()
    }

    /// One of the two backends.
    #[must_use]
    pub fn backend(&self, _side: Side) -> &Arc<Backend> {
        todo!()
    }

    /// Routes to `side` from now on. The caller has closed the gate and drained it (invariant 2).
    pub fn swap(&self, _side: Side) -> Epoch {
        todo!()
    }

    /// Asks every session to dial, authenticate and restore itself on `side` while traffic flows; `None`
    /// lets go of what was prepared.
    pub fn prepare(&self, _side: Option<Side>) {
        todo!()
    }
}
