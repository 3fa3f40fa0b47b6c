//! The swap: gate, drain, fence, wait, verdict, reverse, journal, swap. (H4)

pub mod coordinator;
pub mod journal;
pub mod phase;
pub mod port;
#[cfg(test)]
mod simulation;
pub mod step;
