//! Yields [`crate::binlog::transaction::SpoolItem`]s from a sequence number on, durable ones only. (H5)
