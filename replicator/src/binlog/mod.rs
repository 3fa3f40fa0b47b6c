//! The source's binary log: fetched, checked and decoded by our own code (docs/binlog.md says why). (H5)

pub mod decode;
pub mod event;
pub mod json;
pub mod rows;
pub mod stream;
pub mod transaction;
