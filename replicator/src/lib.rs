//! Changeover's replicator: moves the rows of the old backend to the new one and keeps them equal.
//!
//! `table → chunks → reader → loader`, `binlog → decode → transaction → spool → scheduler → appliers →
//! checkpoint`, `both backends → chunk checksum → recheck → verdict`. See ARCHITECTURE.md.

mod accounts;
mod activation;
pub mod apply;
mod barrier;
pub mod binlog;
pub mod error;
mod folder_lock;
pub mod handle;
mod intervals;
mod json;
mod lag;
pub mod leg;

pub mod literal;
mod live;
mod pipeline;
pub mod preflight;
mod recopy;
pub mod schema;
pub mod server;
pub mod snapshot;

pub mod spool;
mod standing_replica;
mod state;
mod stray;
mod throttle;
pub mod value;
pub mod verify;

pub use error::{Error, ErrorKind};
