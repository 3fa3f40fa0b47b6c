//! Replays the spool into the target, in parallel, with the position committed beside the rows.

pub mod checkpoint;
mod fold;
mod graph;
mod net;
pub mod progress;
#[cfg(test)]
mod sample;
pub mod scheduler;
pub mod statement;
pub mod worker;
mod writeset;
