//! A client's session: its state, its task, its move to another backend.

mod detail;
pub mod lexer;
pub mod pins;
mod question;
pub mod registry;
pub mod replay;
pub mod state;
pub mod task;
mod tokens;
