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
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    rows: VecDeque<Counted>,
    /// Grows with every event; the number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Counted {
    row: EventRow,
    times: u64,
    number: u64,
}

impl Counted {
    fn shown(&self) -> EventRow {
        let mut row = self.row.clone();
        if self.times > 1 {
            row.message.push_str(&format!(" ({} times)", self.times));
        }
        row
    }
}

impl EventLog {
    /// Adds an event, dropping the oldest when full (invariant 7). One that says the same as the one before it is
    /// counted there, so that a port scan doesn't push everything else out.
    pub fn push(&self, row: EventRow) {
        let Log { rows, next } = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        *next += 1;
        if let Some(last) = rows.back_mut()
            && (last.row.level, &last.row.area, &last.row.message) == (row.level, &row.area, &row.message)
        {
            last.times += 1;
            last.row.at = row.at;
            last.number = number;
            return;
        }
        if rows.len() == EVENTS_MAX {
            rows.pop_front();
        }
        rows.push_back(Counted { row, times: 1, number });
    }

    /// The newest `limit` events, newest first.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<EventRow> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.rows.iter().rev().take(limit).map(Counted::shown).collect()
    }

    /// Events behind the one numbered `had`, with their numbers, oldest first; the newest `limit` of them. A
    /// number that was never given, by an earlier process for example, counts as none.
    #[must_use]
    pub fn after(&self, had: Option<u64>, limit: usize) -> Vec<(u64, EventRow)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let had = had.filter(|had| *had < log.next);
        let newer = log.rows.iter().rev().take_while(|event| had.is_none_or(|had| event.number > had));
        let mut events: Vec<_> = newer.take(limit).map(|event| (event.number, event.shown())).collect();
        events.reverse();
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: &str) -> EventRow {
        EventRow {
            at: SystemTime::now(),
            level: "warn",
            area: "admin".to_owned(),
            message: message.to_owned(),
        }
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
    fn a_reader_gets_what_it_has_not_had() {
        let log = EventLog::default();
        let messages = |had, limit| {
            log.after(had, limit)
                .into_iter()
                .map(|(number, row)| format!("{number} {}", row.message))
                .collect::<Vec<_>>()
        };
        assert!(messages(None, 9).is_empty() && messages(Some(0), 9).is_empty());
        for message in ["a", "b", "b"] {
            log.push(row(message));
        }
        assert_eq!(messages(None, 9), ["0 a", "2 b (2 times)"]);
        assert_eq!(messages(Some(0), 9), ["2 b (2 times)"]);
        assert_eq!(messages(Some(1), 9), ["2 b (2 times)"], "a repeat is news");
        assert!(messages(Some(2), 9).is_empty());
        assert_eq!(messages(Some(77), 1), ["2 b (2 times)"], "the number of an earlier process");
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
