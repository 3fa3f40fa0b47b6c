//! Replays the spool into the target, in parallel, with the position committed beside the rows. (H7)

pub mod checkpoint;
pub mod graph;
pub mod progress;
pub mod scheduler;
pub mod statement;
pub mod worker;
pub mod writeset;
