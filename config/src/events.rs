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
    rows: Mutex<VecDeque<Counted>>,
}

#[derive(Debug)]
struct Counted {
    row: EventRow,
    times: u64,
}

impl EventLog {
    /// Adds an event, dropping the oldest when full (invariant 7). One that says the same as the one before it is
    /// counted there, so that a port scan doesn't push everything else out.
    pub fn push(&self, row: EventRow) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = rows.back_mut()
            && (last.row.level, &last.row.area, &last.row.message) == (row.level, &row.area, &row.message)
        {
            last.times += 1;
            last.row.at = row.at;
            return;
        }
        if rows.len() == EVENTS_MAX {
            rows.pop_front();
        }
        rows.push_back(Counted { row, times: 1 });
    }

    /// The newest `limit` events, newest first.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<EventRow> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |counted: &Counted| {
            let mut row = counted.row.clone();
            if counted.times > 1 {
                row.message.push_str(&format!(" ({} times)", counted.times));
            }
            row
        };
        rows.iter().rev().take(limit).map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: &str) -> EventRow {
        EventRow { at: SystemTime::now(), level: "warn", area: "admin".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let log = EventLog::default();
        for number in 0..=EVENTS_MAX {
            log.push(row(&number.to_string()));
        }
        let messages: Vec<String> = log.recent(usize::MAX).into_iter().map(|row| row.message).collect();
        assert_eq!(messages.len(), EVENTS_MAX);
        assert_eq!((messages[0].as_str(), messages[EVENTS_MAX - 1].as_str()), ("1000", "1"));
    }

    #[test]
    fn repeats_are_counted() {
        let log = EventLog::default();
        for message in ["started", "refused", "refused", "refused"] {
            log.push(row(message));
        }
        let messages: Vec<String> = log.recent(10).into_iter().map(|row| row.message).collect();
        assert_eq!(messages, ["refused (3 times)", "started"]);
    }
}
