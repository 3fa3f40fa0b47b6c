//! Changeover's wire-protocol proxy: what stands between the application and the two backends.
//!
//! `client bytes → frame → session → gate permit → route → backend`. See ARCHITECTURE.md.

pub mod admin;
pub mod auth;
pub mod backend;
pub mod console;
pub mod cutover;
mod entrance;
pub mod error;
pub mod listener;
mod metrics;
mod pace;
pub mod protocol;
pub mod relay;
mod ring;
pub mod route;
pub mod session;
pub mod tls;
