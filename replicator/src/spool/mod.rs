//! The source's binary log on our own disk: append-only, checksummed, bounded. (H5)

pub mod fetch;
pub mod format;
pub mod reader;
pub mod recovery;
pub mod writer;
