//! How the last statement went, as far as the client may still ask for it in numbers: FOUND_ROWS() and ROW_COUNT().
//!
//! A question of the proxy's own takes their place on the server. So before the first one that comes in a silence of
//! the client both are noted, and where the client does ask for them, they are brought back first.

use super::lexer::Effects;
use super::question::QuestionError;
use super::request::Request;
use super::task::{End, Session};
use crate::protocol::packet::ErrPacket;

/// Rows that are read to bring FOUND_ROWS() back.
const FOUND_MAX: u64 = 1_000_000;
const DIGITS: &str = "(SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
                      SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";

/// The numbers that the last statement left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastOutcome {
    found_rows: u64,
    row_count: i64,
}

impl LastOutcome {
    /// Statements after which a server has these numbers, and neither a warning nor anything else. `None`: there
    /// are none. Where a statement changed one row, FOUND_ROWS() isn't brought back along with that.
    fn statements(self, asks_found_rows: bool) -> Option<Vec<String>> {
        let Self { found_rows, row_count } = self;
        if found_rows > FOUND_MAX && asks_found_rows {
            return None;
        }
        let found = rows(if asks_found_rows { found_rows } else { 1 });
        match row_count {
            -1 => Some(vec![found]),
            0 => Some(vec![found, "SET SESSION time_zone = @@SESSION.time_zone".to_owned()]),
            // A variable that is NULL is one that isn't there.
            1 if !asks_found_rows => Some(vec!["SELECT NULL INTO @changeover".to_owned()]),
            _ => None,
        }
    }
}

/// A SELECT of so many rows, one digit a row.
fn rows(count: u64) -> String {
    if count == 0 {
        return "SELECT 0 FROM (SELECT 0) none WHERE FALSE".to_owned();
    }
    let mut tables = Vec::new();
    let mut reach = 1;
    while reach < count || tables.is_empty() {
        tables.push(format!("{DIGITS} t{}", tables.len()));
        reach *= 10;
    }
    format!("SELECT 0 FROM {} LIMIT {count}", tables.join(", "))
}

impl Session {
    /// Before a question in a silence: what it would take the place of.
    pub(super) async fn note_outcome(&mut self) -> Result<(), QuestionError> {
        if self.outcome.is_some() {
            return Ok(());
        }
        let answer = self.backend.query(b"SELECT FOUND_ROWS(), ROW_COUNT()").await?;
        let text = |column| std::str::from_utf8(answer.value(column)?).ok();
        let found_rows = text(0).and_then(|text| text.parse().ok());
        let row_count = text(1).and_then(|text| text.parse().ok());
        if let (Some(found_rows), Some(row_count)) = (found_rows, row_count) {
            self.outcome = Some(LastOutcome { found_rows, row_count });
        }
        Ok(())
    }

    /// Before a request goes to the server: brings back what it asks for.
    pub(super) async fn bring_back_outcome(&mut self, request: &Request) -> Result<(), End> {
        if request.keeps_outcome() {
            return Ok(());
        }
        let Some(outcome) = self.outcome.take() else { return Ok(()) };
        if !request.effects.contains(Effects::ASKS_LAST) {
            return Ok(());
        }
        // It was asked itself since, and knows less than we do.
        if let Some(previous) = self.previous.take() {
            self.registered.entry.set_previous(None);
            previous.quit().await;
        }
        let text = self.text_of(request);
        let asks_found_rows = text.windows(10).any(|window| window.eq_ignore_ascii_case(b"FOUND_ROWS"));
        let Some(statements) = outcome.statements(asks_found_rows) else {
            return Err(End::Failed(ErrPacket::new(
                1105,
                b"HY000",
                "Changeover can't bring back how many rows the last statement found or changed; connect again",
            )));
        };
        for sql in statements {
            let asked = self.backend.query(sql.as_bytes()).await;
            asked.map_err(|error| Self::backend_end(&error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_made_of_digits() {
        assert_eq!(rows(0), "SELECT 0 FROM (SELECT 0) none WHERE FALSE");
        for (count, tables) in [(1, 1), (10, 1), (11, 2), (100, 2), (101, 3), (1_000_000, 6)] {
            let sql = rows(count);
            assert_eq!(sql.matches(DIGITS).count(), tables, "{count}");
            assert!(sql.ends_with(&format!(" LIMIT {count}")), "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_brought_back_is_said() {
        let of = |found_rows, row_count, asks| LastOutcome { found_rows, row_count }.statements(asks);
        assert_eq!(of(3, -1, true).map(|list| list.len()), Some(1));
        assert_eq!(of(3, 0, true).map(|list| list.len()), Some(2));
        assert_eq!(of(3, 1, false).map(|list| list.len()), Some(1));
        for (found_rows, row_count, asks) in [(3, 1, true), (3, 2, false), (FOUND_MAX + 1, -1, true)] {
            assert_eq!(of(found_rows, row_count, asks), None);
        }
    }
}
