//! What both halves of Changeover agree on: the configuration an operator writes, and the names that
//! stand in more than one room (tables, sides, flavors, GTID sets, binlog coordinates).
//!
//! This crate opens no connection and starts no task. `proxy` and `replicator` depend on it and never
//! on each other.

pub mod backend_tls;
pub mod collation;
pub mod dialect;
pub mod durable;
pub mod entrance;
pub mod events;
pub mod failpoint;
pub mod load;
pub mod migration;
pub mod names;
mod nearest;
pub mod network;
pub mod pattern;
pub mod position;
pub mod progress;
pub mod proxy;
mod raw;
pub mod renames;
pub mod secret;
mod url;
mod validate;

pub use backend_tls::{BackendIdentity, BackendTls, BackendTlsMode, Verify};
pub use dialect::{Dialect, Family};
pub use entrance::{EntranceConfig, ProxyHeaders, SentHeader};
pub use load::{ConfigErrors, Overrides, load};
pub use migration::{
    ApplyConfig, ColumnsConfig, CutoverConfig, DdlPolicy, FencePolicy, FilterValue, MigrationConfig,
    OpenTransactions, PastFence, RowsConfig, SnapshotConfig, StageConfig, StartPolicy, ThrottleConfig,
};
pub use names::{AccountName, Flavor, ServerVersion, Side, TableName};
pub use network::Network;
pub use position::{BinlogPosition, Gtid, GtidSet, ParsePositionError};
pub use proxy::{
    AdminConfig, BackendConfig, ClientCertificates, ConsoleConfig, Io, ProxyConfig, Scheduling, TlsMode,
};
pub use renames::{Names, Rename, SideNames};
pub use secret::Secret;

use std::path::PathBuf;

/// A whole, validated configuration: nothing in it still needs a default or a look at the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of everything that must survive a restart. One process at a time holds it.
    pub state_dir: PathBuf,
    /// The address applications connect to.
    pub proxy: ProxyConfig,
    /// The address operators connect to.
    pub admin: AdminConfig,
    /// The HTTP console.
    pub console: ConsoleConfig,
    /// The old backend, whichever of the two serves.
    pub source: BackendConfig,
    /// A replica of the old backend that the copy reads from (`source.replica_url`).
    pub replica: Option<BackendConfig>,
    /// Its SQL thread stands while the copy reads there (`source.replica_stop`).
    pub replica_stop: bool,
    /// The new backend, whichever of the two serves.
    pub target: BackendConfig,
    /// What is moved, and how.
    pub migration: MigrationConfig,
    /// The copy.
    pub snapshot: SnapshotConfig,
    /// What copy and verification wait for.
    pub throttle: ThrottleConfig,
    /// The tail.
    pub apply: ApplyConfig,
    /// The swap.
    pub cutover: CutoverConfig,
}
