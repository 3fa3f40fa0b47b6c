//! What the end-to-end tests stand on: servers and a Changeover of their own, an application that keeps its
//! own books, and a comparison that trusts nobody.

pub mod accounts;
pub mod process;
pub mod server;
pub mod wait;

pub use server::{Engine, Server};
