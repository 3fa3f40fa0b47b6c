//! Proves both sides equal, under traffic. (H1)

pub mod checksum;
pub mod recheck;
pub mod touched;
