//! From spool items to batches for the workers. (H7)
