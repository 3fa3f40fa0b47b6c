//! A client's session: its state, its task, its move to another backend.

pub mod lexer;
pub mod pins;
pub mod registry;
pub mod replay;
pub mod state;
pub mod task;
