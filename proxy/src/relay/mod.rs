//! Moving packets.

pub mod copy;
pub mod exchange;
