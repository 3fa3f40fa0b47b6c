//! What the end-to-end tests stand on: servers and a Changeover of their own, an application that keeps its
//! own books, and a comparison that trusts nobody.

pub mod accounts;
pub mod changeover;
pub mod compare;
pub mod disk;
pub mod hop;
pub mod leaks;
pub mod ledger;
pub mod pair;
#[path = "../../src/demo/process.rs"]
pub mod process;
pub mod replica;
pub mod scratch;
pub mod seed;
pub mod server;
pub mod wait;
pub mod writers;

pub use changeover::Changeover;
pub use ledger::Ledger;
pub use pair::Pair;
pub use server::{Engine, Server};
