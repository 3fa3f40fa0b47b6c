//! Replays the spool into the target, in parallel, with the position committed beside the rows.

pub mod checkpoint;
mod fold;
mod graph;
mod intervals;
mod net;
pub mod progress;
#[cfg(test)]
mod sample;
mod scheduler;
mod statement;
mod worker;
mod writeset;
