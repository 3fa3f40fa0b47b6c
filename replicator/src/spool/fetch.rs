//! The task that keeps the spool ahead of the appliers: source → spool, with reconnects. (H5)
