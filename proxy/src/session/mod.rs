//! A client's session: its state, its task, its move to another backend. (H3)

pub mod lexer;
pub mod registry;
pub mod replay;
pub mod state;
pub mod task;
