//! A client's session: its state, its task, its move to another backend.

mod change_user;
mod connection;
mod detail;
mod execute;
#[doc(hidden)]
pub mod fuzzing;
mod hidden;
mod kill;
pub mod lexer;
mod mapping;
mod mover;
mod outcome;
pub mod pins;
mod question;
pub mod registry;
mod relay;
pub mod replay;
mod request;
mod restoration;
pub mod state;
mod surroundings;
pub mod task;
mod tokens;
mod turns;
mod user_variables;

pub(crate) use connection::{Connection, DIAL_TIMEOUT, is_transient};
pub(crate) use surroundings::Servers;
pub(crate) use turns::Turns;
