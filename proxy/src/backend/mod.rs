//! Connections to a backend.

pub mod connect;
pub mod fence;
mod whom;
