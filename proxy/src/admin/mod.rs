//! Admin SQL. (H4)

pub mod command;
pub mod server;
