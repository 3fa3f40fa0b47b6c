//! The route: one `ArcSwap` that every statement loads and a cutover stores.
//!
//! Statements only load. Sessions that are idle hear of a change through [`RouteTable::subscribe`], which
//! one task of the proxy passes on to them, so that waiting for a client touches nothing that is shared.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use config::{BackendConfig, Side, SideNames};
use tokio::sync::watch;

use crate::auth::adopted::AdoptedAccounts;
use crate::auth::{Credential, Login};

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
    /// Its accounts that have a password of Changeover's own.
    pub adopted: AdoptedAccounts,
    /// What schemas are called there (`migration.rename`).
    pub names: SideNames,
    /// It keeps names in small letters. False until it was asked, which is done at the start and before any session moves.
    folds_names: AtomicBool,
}

impl Backend {
    /// A backend of which no account is adopted.
    #[must_use]
    pub fn new(side: Side, config: BackendConfig) -> Self {
        let (adopted, names) = (AdoptedAccounts::default(), SideNames::default());
        Self { side, config, adopted, names, folds_names: AtomicBool::new(false) }
    }

    /// The server was asked whether it keeps names in small letters.
    pub(crate) fn set_folds_names(&self, folds: bool) {
        self.folds_names.store(folds, Ordering::Relaxed);
    }

    /// What schemas are called there, for names that clients say. Without rules every name is what the client says.
    #[must_use]
    pub fn names_as_spelled(&self) -> SideNames {
        self.names.as_spelled(self.folds_names.load(Ordering::Relaxed))
    }

    /// The schema in which a client begins here that logs in with `schema`. A client goes on saying what the source calls it, so
    /// that is what a login means wherever it leads; a schema that has no name there but its own is what the client says.
    #[must_use]
    pub fn login_schema(&self, schema: Option<&[u8]>) -> Option<Vec<u8>> {
        let schema = schema?;
        let there =
            std::str::from_utf8(schema).ok().and_then(|schema| self.names_as_spelled().schema(schema));
        Some(there.map_or_else(|| schema.to_vec(), String::into_bytes))
    }

    /// The login as this backend is told of it.
    #[must_use]
    pub fn login<'a>(&self, login: &'a Login) -> Cow<'a, Login> {
        if self.names.is_plain() {
            return Cow::Borrowed(login);
        }
        Cow::Owned(Login { schema: self.login_schema(login.schema.as_deref()), ..login.clone() })
    }

    /// What a client that showed `given` is logged in with here.
    #[must_use]
    pub fn credential(&self, login: &Login, given: &Credential) -> Credential {
        self.adopted.credential(&login.user, given).unwrap_or_else(|| given.clone())
    }
}

/// Where statements go.
#[derive(Debug)]
pub struct Route {
    /// Of this route.
    pub epoch: Epoch,
    /// The backend that serves.
    pub backend: Arc<Backend>,
}

/// What idle sessions are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Of the present route.
    pub epoch: Epoch,
    /// The side that sessions should prepare themselves for.
    pub prepare: Option<Side>,
}

/// The present route, and the backend that sessions should prepare for.
#[derive(Debug)]
pub struct RouteTable {
    source: Arc<Backend>,
    target: Arc<Backend>,
    route: ArcSwap<Route>,
    signal: watch::Sender<Signal>,
}

impl RouteTable {
    /// A table with `serving` in front.
    #[must_use]
    pub fn new(source: Backend, target: Backend, serving: Side) -> Arc<Self> {
        let (source, target) = (Arc::new(source), Arc::new(target));
        let epoch = Epoch(0);
        let backend = Arc::clone(if serving == Side::Source { &source } else { &target });
        Arc::new(Self {
            route: ArcSwap::from_pointee(Route { epoch, backend }),
            signal: watch::Sender::new(Signal { epoch, prepare: None }),
            source,
            target,
        })
    }

    /// The present route.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Route>> {
        self.route.load()
    }

    /// The present route, to be kept for longer than a moment.
    #[must_use]
    pub fn load_full(&self) -> Arc<Route> {
        self.route.load_full()
    }

    /// One of the two backends.
    #[must_use]
    pub fn backend(&self, side: Side) -> &Arc<Backend> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// Routes to `side` from now on, and ends a preparation. The caller has closed the gate and drained it
    /// (invariant 2). Where `side` serves already nothing changes.
    pub fn swap(&self, side: Side) -> Epoch {
        let mut epoch = Epoch(0);
        // The sender's lock is what keeps two swaps apart.
        self.signal.send_if_modified(|signal| {
            epoch = signal.epoch;
            if self.route.load().backend.side == side {
                return false;
            }
            epoch = Epoch(signal.epoch.0 + 1);
            self.route.store(Arc::new(Route { epoch, backend: Arc::clone(self.backend(side)) }));
            *signal = Signal { epoch, prepare: None };
            true
        });
        epoch
    }

    /// Asks every session to dial, authenticate and restore itself on `side` while traffic flows; `None`
    /// lets go of what was prepared.
    pub fn prepare(&self, side: Option<Side>) {
        self.signal.send_if_modified(|signal| {
            // Nobody prepares for the side that it is on.
            let wanted = side.filter(|side| *side != self.route.load().backend.side);
            std::mem::replace(&mut signal.prepare, wanted) != wanted
        });
    }

    /// The side that sessions should prepare themselves for.
    #[must_use]
    pub fn preparing(&self) -> Option<Side> {
        self.signal.borrow().prepare
    }

    /// Changes of the route and of what is to be prepared. Passed on to sessions by the proxy.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use config::Secret;

    use super::*;

    fn table(serving: Side) -> Arc<RouteTable> {
        let backend = |side, port| {
            let config = BackendConfig {
                host: "127.0.0.1".into(),
                port,
                user: "repl".into(),
                password: Secret::default(),
                proxy_protocol: Default::default(),
                tls: Default::default(),
            };
            Backend::new(side, config)
        };
        RouteTable::new(backend(Side::Source, 1), backend(Side::Target, 2), serving)
    }

    #[test]
    fn a_swap_changes_the_backend_and_the_epoch_together() {
        let routes = table(Side::Source);
        let watcher = routes.subscribe();
        assert_eq!((routes.load().backend.config.port, routes.load().epoch), (1, Epoch(0)));
        routes.prepare(Some(Side::Target));
        assert_eq!(routes.preparing(), Some(Side::Target));
        assert_eq!(routes.swap(Side::Target), Epoch(1));
        assert_eq!((routes.load().backend.config.port, routes.load().epoch), (2, Epoch(1)));
        assert_eq!(*watcher.borrow(), Signal { epoch: Epoch(1), prepare: None });
        assert_eq!(routes.swap(Side::Target), Epoch(1), "already there");
        assert_eq!(routes.swap(Side::Source), Epoch(2));
    }

    #[test]
    fn nobody_prepares_for_the_side_that_serves() {
        let routes = table(Side::Target);
        routes.prepare(Some(Side::Target));
        assert_eq!(routes.preparing(), None);
        routes.prepare(Some(Side::Source));
        routes.prepare(None);
        assert_eq!(routes.preparing(), None);
    }
}
