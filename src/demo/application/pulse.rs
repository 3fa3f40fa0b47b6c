//! What the application feels, counted while it runs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Error texts kept for the report; the rest are only counted.
const ERRORS_KEPT: usize = 5;

/// Where the demo is, so that a pause can be told by what caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the migration.
    Before,
    /// From START MIGRATION to the cutover.
    Replicating,
    /// CUTOVER is running.
    Cutover,
    /// On the new server.
    After,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Before => "before the migration",
            Stage::Replicating => "during copy and verification",
            Stage::Cutover => "at the cutover",
            Stage::After => "after the cutover",
        }
    }
}

const STAGES: [Stage; 4] = [Stage::Before, Stage::Replicating, Stage::Cutover, Stage::After];

/// Counters of all sessions together.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    stage: AtomicUsize,
    transactions: AtomicU64,
    statements: AtomicU64,
    errors: AtomicU64,
    slowest_us: [AtomicU64; STAGES.len()],
    slowest_was: Mutex<String>,
    first_errors: Mutex<Vec<String>>,
}

impl Pulse {
    /// The demo goes on to its next stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as usize, Ordering::Relaxed);
    }

    /// A statement was answered. It counts for the stage in which it ended and the one in which it began,
    /// since the caller passes both.
    pub(crate) fn answered(&self, began_in: usize, took: Duration, what: &str) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        if took > self.slowest() {
            let stage = STAGES.get(began_in).map_or("", |stage| stage.name());
            let what: String = what.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
            *self.slowest_was.lock().unwrap_or_else(PoisonError::into_inner) = format!("{what}, {stage}");
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for stage in [began_in, self.stage()] {
            if let Some(slowest) = self.slowest_us.get(stage) {
                slowest.fetch_max(took, Ordering::Relaxed);
            }
        }
    }

    /// A transaction was acknowledged.
    pub(crate) fn committed(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// Something went wrong that a real application would have noticed.
    pub(crate) fn error(&self, text: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_errors.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < ERRORS_KEPT {
            first.push(text);
        }
    }

    /// The present stage, for [`Pulse::answered`].
    pub(crate) fn stage(&self) -> usize {
        self.stage.load(Ordering::Relaxed)
    }

    /// Acknowledged transactions so far.
    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Statements so far.
    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Errors so far.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The first few errors in words.
    pub(crate) fn first_errors(&self) -> Vec<String> {
        self.first_errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The slowest answer of a stage.
    pub(crate) fn slowest_in(&self, stage: Stage) -> Duration {
        let us = self.slowest_us.get(stage as usize).map_or(0, |us| us.load(Ordering::Relaxed));
        Duration::from_micros(us)
    }

    /// What had the slowest answer, and when.
    pub(crate) fn slowest_was(&self) -> String {
        self.slowest_was.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The slowest answer of all.
    pub(crate) fn slowest(&self) -> Duration {
        STAGES.iter().map(|stage| self.slowest_in(*stage)).max().unwrap_or_default()
    }
}
