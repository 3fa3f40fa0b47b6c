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
        let (source, target) = servers((engine, flags), (engine, flags), seed::SCHEMA).await?;
        let pair = Self { source, target };
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

/// Two empty servers, each of an engine with more flags, with all accounts for `schema`. `None` where one can't be had.
pub async fn servers(
    from: (Engine, &[&str]),
    to: (Engine, &[&str]),
    schema: &str,
) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(from.0, from.1), Server::start(to.0, to.1));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, schema).await;
    }
    Some((source, target))
}
