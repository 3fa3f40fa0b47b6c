//! Authentication: towards clients, towards backends, and the plugins both share. (H2)

pub mod client;
pub mod plugin;
pub mod server;
