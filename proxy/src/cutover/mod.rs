//! The swap: gate, drain, fence, wait, verdict, reverse, journal, swap.
//!
//! `checks → coordinator → run ⇄ step`: the coordinator starts a [`run`], which asks the pure machine of [`step`]
//! what to do next and carries it out. The [`journal`] is what a restart goes by.

pub mod checks;
pub mod coordinator;
pub mod history;
pub mod journal;
pub mod phase;
pub mod port;
mod run;
#[cfg(test)]
mod simulation;
pub mod step;
