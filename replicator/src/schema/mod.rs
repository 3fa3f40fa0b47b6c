//! What the tables look like. (H6)

pub mod convert;
pub mod discover;
pub mod table;
