//! What the tables look like: read from the source, made on the target.

mod column;
pub mod convert;
pub mod discover;
mod pattern;
pub mod table;
pub(crate) mod transfer;

pub(crate) use pattern::like;
