//! The source's binary log: fetched, checked and decoded by our own code (docs/binlog.md says why).

// Every byte here came from outside.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod address;
mod compress;
pub(crate) mod context;
pub(crate) mod cursor;
mod decimal;
pub(crate) mod decode;
pub(crate) mod event;
#[cfg(test)]
pub(crate) mod fixture;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod group;
pub(crate) mod gtid;
mod json;
mod packet;
pub(crate) mod payload;
pub(crate) mod rows;
pub(crate) mod statement;
pub(crate) mod stream;
pub(crate) mod table_map;
mod temporal;
pub mod transaction;
pub(crate) mod xid;
