//! Connections to a backend.

pub mod bypass;
pub mod connect;
pub mod fence;
pub(crate) mod service;
mod whom;
