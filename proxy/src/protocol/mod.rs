//! The MySQL client/server protocol, as far as a relay has to understand it.

pub mod capability;
pub mod collation;
pub mod command;
pub mod frame;
pub mod packet;
pub mod stream;
