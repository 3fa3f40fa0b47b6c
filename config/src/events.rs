//! The bounded log behind SHOW EVENTS.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Events kept; older ones are in the log on stderr.
pub const EVENTS_MAX: usize = 1000;

/// A row of SHOW EVENTS.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// When.
    pub at: SystemTime,
    /// `error`, `warn` or `info`.
    pub level: &'static str,
    /// `cutover`, `snapshot`, `apply`, `verify`, `proxy`, …
    pub area: String,
    /// What happened. Never a row value, a literal or a secret (invariant 8).
    pub message: String,
}

/// The last [`EVENTS_MAX`] events. Filled by the binary's tracing layer from every log line that carries an
/// `area` field, so that an event is written once, where it happens, as an ordinary log line.
#[derive(Debug, Default)]
pub struct EventLog {
    rows: Mutex<VecDeque<EventRow>>,
}

impl EventLog {
    /// Adds an event, dropping the oldest when full (invariant 7).
    pub fn push(&self, row: EventRow) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() == EVENTS_MAX {
            rows.pop_front();
        }
        rows.push_back(row);
    }

    /// The newest `limit` events, newest first.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<EventRow> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().rev().take(limit).cloned().collect()
    }
}
