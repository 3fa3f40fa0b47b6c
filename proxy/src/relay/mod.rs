//! Moving packets. (H3)

pub mod copy;
pub mod exchange;
