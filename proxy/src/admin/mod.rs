//! Admin SQL: what operators type into any MySQL client.
//!
//! `server` (listener) → `gateway` (one packet at a time) → opensrv-mysql → `shim` → [`command`] (text to statement)
//! → one file a group of statements → [`answer`] (statement to rows).

mod accounts;
pub mod answer;
pub mod command;
mod conversions;
mod cutovers;
mod events;
mod gateway;
mod help;
mod migration;
pub mod server;
mod sessions;
mod shim;
mod status;
mod stray;
mod talk;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use config::Side;
use config::events::EventLog;
use config::progress::Phase;

use crate::cutover::coordinator::Coordinator;
use crate::cutover::phase::Direction;
use crate::cutover::port::Replication;
use crate::route::table::RouteTable;
use crate::session::registry::SessionRegistry;

use self::answer::Answer;
use self::command::Command;

/// Everything the statements speak of.
#[allow(missing_debug_implementations, reason = "it holds trait objects")]
pub struct AdminContext {
    /// The migration.
    pub replication: Arc<dyn Replication>,
    /// The cutovers.
    pub coordinator: Arc<Coordinator>,
    /// The live sessions.
    pub registry: Arc<SessionRegistry>,
    /// The route.
    pub routes: Arc<RouteTable>,
    /// The events.
    pub events: Arc<EventLog>,
}

impl AdminContext {
    /// The phase as operators see it: the cutover's view overrules the replication's, but where the way back has stopped
    /// or was ended.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let replication = self.replication.status().phase;
        match self.coordinator.under_way() {
            Some(Direction::Forward) => return Phase::CuttingOver,
            Some(Direction::Rollback) => return Phase::RollingBack,
            None => {}
        }
        let stands = matches!(replication, Phase::Paused | Phase::Failed | Phase::Finished);
        if self.coordinator.serving() == Side::Target && !stands { Phase::Switched } else { replication }
    }

    /// Carries a statement out. `connection_id` is the admin client's own.
    pub async fn answer(&self, statement: &str, connection_id: u32) -> Answer {
        match command::parse(statement) {
            Ok(command) => Box::pin(self.carry_out(command, connection_id)).await,
            Err(error) => Answer::parse_error(error.to_string()),
        }
    }

    async fn carry_out(&self, command: Command, connection_id: u32) -> Answer {
        match command {
            Command::ShowMigrationStatus => status::migration(self),
            Command::ShowMigrationTables => status::tables(self),
            Command::ShowDifferences => status::differences(self),
            Command::ShowSessions => sessions::show(self),
            Command::KillSession(id) => sessions::kill(self, id),
            Command::ShowConversions => conversions::show(self).await,
            Command::ShowAccounts => accounts::show(self).await,
            Command::AdoptAccount { account, by_hand } => accounts::adopt(self, &account, by_hand).await,
            Command::ReleaseAccount(account) => accounts::release(self, &account).await,
            Command::ShowCutovers => cutovers::show(self),
            Command::Cutover { dry_run: true, asked } => cutovers::dry_run(self, asked).await,
            Command::Cutover { dry_run: false, asked } => cutovers::cutover(self, asked).await,
            Command::ShowStrayWrites => stray::show(self),
            Command::AcknowledgeStrayWrites => stray::acknowledge(self),
            Command::ShowEvents { limit } => events::show(self, limit),
            Command::Migration(verb) => migration::carry_out(self, verb).await,
            Command::Verify(table) => migration::verify(self, table).await,
            Command::Repair { table, dry_run } => migration::repair(self, table, dry_run).await,
            Command::Help => help::show(),
            Command::NotYet(statement) => Answer::not_yet(statement),
            Command::Talk(talk) => talk::answer(&talk, connection_id),
        }
    }
}
