//! Two servers and a Changeover between them, ready for START MIGRATION.

use super::changeover::{Changeover, Settings};
use super::{Engine, Server, accounts, seed};

/// What most tests begin with.
pub struct Pair {
    /// The old server, filled.
    pub source: Server,
    /// The new server, empty.
    pub target: Server,
}

impl Pair {
    /// Two servers of one engine with all accounts; the source holds the test's schema. `None` where the engine
    /// can't be had.
    pub async fn start(engine: Engine, bulk_rows: u32) -> Option<Self> {
        Self::start_with(engine, bulk_rows, &[]).await
    }

    /// The same with more flags for the servers.
    pub async fn start_with(engine: Engine, bulk_rows: u32, flags: &[&str]) -> Option<Self> {
        let (source, target) = tokio::join!(Server::start(engine, flags), Server::start(engine, flags));
        let pair = Self { source: source?, target: target? };
        for server in [&pair.source, &pair.target] {
            accounts::create(server, seed::SCHEMA).await;
        }
        seed::fill(&pair.source, bulk_rows).await;
        Some(pair)
    }

    /// The side that serves, as `route` of the status names it, and the other one.
    pub fn sides(&self, route: &str) -> (&Server, &Server) {
        if route == "source" { (&self.source, &self.target) } else { (&self.target, &self.source) }
    }

    /// The configuration of a move between them.
    pub fn settings(&self) -> Settings {
        Settings::between(&self.source, &self.target, seed::SCHEMA)
    }

    /// A Changeover between them.
    pub async fn changeover(&self) -> Changeover {
        Changeover::start(self.settings()).await
    }
}
