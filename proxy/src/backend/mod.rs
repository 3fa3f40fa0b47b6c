//! Connections to a backend.

mod business;
pub mod bypass;
pub mod connect;
pub mod connections;
pub mod fence;
pub(crate) mod service;
mod whom;

pub use business::Business;
