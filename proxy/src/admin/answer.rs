//! The answer to an admin statement, as plain data.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// What a statement answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// OK.
    Done,
    /// A result set.
    Rows(Rows),
    /// An error.
    Error {
        /// Its number.
        kind: ErrorCode,
        /// A sentence for the operator.
        message: String,
    },
}

/// Numbers of the errors that the admin port gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// 1054, what a `select $$` gets.
    UnknownColumn,
    /// 1064
    Parse,
    /// 1094
    NoSuchSession,
    /// 1105, a statement that doesn't fit the phase or was refused.
    Refused,
    /// 1193
    UnknownVariable,
    /// 1235
    NotYet,
}

/// A result set.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Names and kinds.
    pub columns: Cow<'static, [Column]>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<Cell>>,
}

/// A column of a result set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As in the contract.
    pub name: Cow<'static, str>,
    /// What its cells are.
    pub kind: Kind,
}

/// What a column's cells are. Every cell may be NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// A number with a fraction.
    Fraction,
    /// A moment, in UTC, with milliseconds.
    Moment,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// Text.
    Text(String),
    /// A whole number.
    Number(u64),
    /// A number with one decimal.
    Fraction(f64),
    /// A moment.
    Moment(SystemTime),
}

/// A text column.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), kind: Kind::Text }
}

/// A column of whole numbers.
pub(super) const fn number(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), kind: Kind::Number }
}

/// A column of numbers with a fraction.
pub(super) const fn fraction(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), kind: Kind::Fraction }
}

/// A column of moments.
pub(super) const fn moment(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), kind: Kind::Moment }
}

impl Answer {
    pub(super) fn rows(columns: &'static [Column], rows: Vec<Vec<Cell>>) -> Self {
        debug_assert!(rows.iter().all(|row| row.len() == columns.len()));
        Self::Rows(Rows { columns: Cow::Borrowed(columns), rows })
    }

    pub(super) fn parse_error(message: impl Into<String>) -> Self {
        Self::Error { kind: ErrorCode::Parse, message: message.into() }
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::Error { kind: ErrorCode::Refused, message: message.into() }
    }

    pub(super) fn not_yet(statement: &str) -> Self {
        Self::Error {
            kind: ErrorCode::NotYet,
            message: format!("{statement} isn't built yet in this version of Changeover; HELP says what is"),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Cell::Number(number)
    }
}

impl From<bool> for Cell {
    fn from(yes: bool) -> Self {
        Cell::Number(yes.into())
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Cell::Fraction(number)
    }
}

impl From<SystemTime> for Cell {
    fn from(at: SystemTime) -> Self {
        Cell::Moment(at)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

impl Cell {
    /// As the text protocol writes it; `None` is NULL.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        match self {
            Cell::Null => None,
            Cell::Text(text) => Some(text.clone()),
            Cell::Number(number) => Some(number.to_string()),
            Cell::Fraction(number) => Some(format!("{number:.1}")),
            Cell::Moment(at) => Some(utc(*at)),
        }
    }
}

/// `2026-11-20 05:31:50.242` in UTC.
fn utc(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, ms) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

/// Year, month and day of a day since 1970-01-01: Howard Hinnant's `civil_from_days`, for days that aren't negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let check = |ms: u64, shown: &str| {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)), shown);
        };
        check(0, "1970-01-01 00:00:00.000");
        check(951_782_399_999, "2000-02-28 23:59:59.999");
        check(951_782_400_000, "2000-02-29 00:00:00.000");
        check(1_795_152_648_744, "2026-11-20 05:30:48.744");
        check(4_107_542_400_000, "2100-03-01 00:00:00.000");
    }

    #[test]
    fn cells_are_text_on_the_wire() {
        let check = |cell: Cell, text: Option<&str>| assert_eq!(cell.to_text().as_deref(), text);
        check(None::<u64>.into(), None);
        check(Some(7u64).into(), Some("7"));
        check(true.into(), Some("1"));
        check(99.95.into(), Some("100.0"));
        check("a".into(), Some("a"));
    }
}
