//! Rows of the binary protocol, as the cells that the text protocol would have for them.
//!
//! A server that prints a double exactly works longer for it than for ten integers, and one that reads 17 digits as well. In the
//! binary protocol a FLOAT or DOUBLE is its own bytes, and here it gets the fewest digits that mean exactly it
//! (docs/benchmarks.md has what that saves). So chunks of tables that have them are read by prepared
//! statements. What else is in such a row is printed as the server would print it, or is text anyway.

use std::io::Write as _;
use std::ops::Range;

use config::Side;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Statement, Value};

use super::encode::Cells;
use crate::error::{Error, Result};
use crate::schema::table::{ColumnKind, TableSchema};

/// ER_MAX_PREPARED_STMT_COUNT_REACHED; some servers allow none at all.
const TOO_MANY: u16 = 1461;

/// True where chunks of the table are better read so. Of a YEAR(2) the number doesn't say which year it is.
pub(super) fn is_better(table: &TableSchema) -> bool {
    let stored = || table.stored_columns().filter_map(|index| table.columns.get(index));
    stored().any(|column| is_float(&column.kind))
        && !stored().any(|column| column.column_type.eq_ignore_ascii_case("year(2)"))
}

/// Types whose values are read as they are, where [`is_better`].
pub(super) fn is_float(kind: &ColumnKind) -> bool {
    matches!(kind, ColumnKind::Float | ColumnKind::Double)
}

/// The prepared statement; `None` where the text protocol has to do. It is to be closed when its rows are read.
pub(super) async fn prepare(conn: &mut Conn, sql: &[u8]) -> mysql_async::Result<Option<Statement>> {
    // The driver looks for named parameters, and nothing here is one.
    if sql.contains(&b':') {
        return Ok(None);
    }
    match conn.prep(sql).await {
        Ok(statement) => Ok(Some(statement)),
        Err(mysql_async::Error::Server(error)) if error.code == TOO_MANY => Ok(None),
        Err(error) => Err(error),
    }
}

/// Prints rows, one after the other, in memory of its own.
#[derive(Debug, Default)]
pub(super) struct Printer {
    text: Vec<u8>,
    /// Where the text of each cell stands that isn't text already.
    places: Vec<Range<usize>>,
}

/// A row, and what was printed of it.
#[derive(Debug)]
pub(super) struct PrintedRow<'a> {
    row: &'a Row,
    printer: &'a Printer,
}

impl Printer {
    /// Prints a row of [`super::encode::select_list`].
    ///
    /// # Errors
    /// There is a value that a column of its type can't have.
    pub(super) fn print<'a>(&'a mut self, row: &'a Row, table: &TableSchema) -> Result<PrintedRow<'a>> {
        self.text.clear();
        self.places.clear();
        let stored = table.stored_columns().filter_map(|index| table.columns.get(index));
        for (index, column) in stored.enumerate() {
            let from = self.text.len();
            if let Some(value) = row.as_ref(index)
                && !print(&mut self.text, &column.kind, value)
            {
                let place = format!("{}, column {} ({})", table.name, column.name, column.column_type);
                return Err(Error::definite(
                    Side::Source,
                    place,
                    "the server's answer isn't a value of this type",
                ));
            }
            self.places.push(from..self.text.len());
        }
        Ok(PrintedRow { row, printer: self })
    }
}

impl Cells for PrintedRow<'_> {
    fn count(&self) -> usize {
        self.printer.places.len()
    }

    fn cell(&self, index: usize) -> Option<&[u8]> {
        match self.row.as_ref(index)? {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(bytes),
            _ => self.printer.text.get(self.printer.places.get(index)?.clone()),
        }
    }
}

/// False where it isn't a value of the type.
fn print(out: &mut Vec<u8>, kind: &ColumnKind, value: &Value) -> bool {
    match (value, kind) {
        (Value::NULL | Value::Bytes(_), _) => true,
        // As a text, '0' would be another year than '0000'.
        (Value::Int(year), ColumnKind::Year) => write!(out, "{year:04}").is_ok(),
        (Value::UInt(year), ColumnKind::Year) => write!(out, "{year:04}").is_ok(),
        (Value::Int(number), _) => write!(out, "{number}").is_ok(),
        (Value::UInt(number), _) => write!(out, "{number}").is_ok(),
        (Value::Float(number), _) => print_float(out, *number),
        (Value::Double(number), _) => print_double(out, *number),
        (Value::Date(year, month, day, hour, minute, second, micros), _) => {
            let date = write!(out, "{year:04}-{month:02}-{day:02}");
            let (ColumnKind::Datetime { fraction } | ColumnKind::Timestamp { fraction }) = kind else {
                return date.is_ok() && *kind == ColumnKind::Date;
            };
            let time = write!(out, " {hour:02}:{minute:02}:{second:02}");
            date.is_ok() && time.is_ok() && print_fraction(out, *micros, *fraction)
        }
        (Value::Time(negative, days, hours, minutes, seconds, micros), ColumnKind::Time { fraction }) => {
            let sign = if *negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            write!(out, "{sign}{hours:02}:{minutes:02}:{seconds:02}").is_ok()
                && print_fraction(out, *micros, *fraction)
        }
        (Value::Time(..), _) => false,
    }
}

/// The fewest digits that are this double.
fn print_double(out: &mut Vec<u8>, number: f64) -> bool {
    out.extend_from_slice(zmij::Buffer::new().format(number).as_bytes());
    number.is_finite()
}

/// The fewest digits that a server, which reads a double of them and makes a float of that, takes for this float.
fn print_float(out: &mut Vec<u8>, number: f32) -> bool {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format(number);
    // Rounded twice, a number beside the middle of two floats may become the other one; and the double of the largest float's
    // digits is larger than it, which a server refuses.
    let is_taken =
        |double: f64| double.abs() <= f64::from(f32::MAX) && (double as f32).to_bits() == number.to_bits();
    if text.parse().is_ok_and(is_taken) {
        out.extend_from_slice(text.as_bytes());
        number.is_finite()
    } else {
        print_double(out, f64::from(number))
    }
}

/// So many digits behind the point; false where there are more than six.
fn print_fraction(out: &mut Vec<u8>, micros: u32, digits: u8) -> bool {
    let text = format!("{micros:06}");
    match text.as_bytes().get(..usize::from(digits)) {
        Some([]) => true,
        Some(shown) => {
            out.push(b'.');
            out.extend_from_slice(shown);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;
    use crate::apply::sample::{column, schema};

    fn shown(kind: &ColumnKind, value: Value) -> Option<String> {
        let mut out = Vec::new();
        print(&mut out, kind, &value).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_are_printed_as_a_server_prints_them() {
        let check = |kind: ColumnKind, value: Value, expected: &str| {
            assert_eq!(shown(&kind, value).as_deref(), Some(expected), "{kind:?}");
        };
        let int = ColumnKind::Integer { bytes: 8, unsigned: false };
        check(int.clone(), Value::Int(i64::MIN), "-9223372036854775808");
        check(int.clone(), Value::UInt(u64::MAX), "18446744073709551615");
        let (seconds, micros) = (ColumnKind::Datetime { fraction: 0 }, ColumnKind::Timestamp { fraction: 6 });
        check(ColumnKind::Date, Value::Date(0, 0, 0, 0, 0, 0, 0), "0000-00-00");
        check(ColumnKind::Date, Value::Date(2004, 2, 0, 0, 0, 0, 0), "2004-02-00");
        check(seconds.clone(), Value::Date(0, 0, 0, 0, 0, 0, 0), "0000-00-00 00:00:00");
        check(seconds, Value::Date(9999, 12, 31, 23, 59, 59, 0), "9999-12-31 23:59:59");
        check(micros, Value::Date(1970, 1, 1, 0, 0, 1, 42), "1970-01-01 00:00:01.000042");
        let time = |fraction| ColumnKind::Time { fraction };
        check(time(0), Value::Time(false, 0, 0, 0, 0, 0), "00:00:00");
        check(time(6), Value::Time(true, 34, 22, 59, 59, 999_999), "-838:59:59.999999");
        check(time(3), Value::Time(false, 4, 4, 5, 6, 7_000), "100:05:06.007");
        check(ColumnKind::Year, Value::Int(0), "0000");
        check(ColumnKind::Year, Value::UInt(2155), "2155");
        check(ColumnKind::Double, Value::Double(-0.0), "-0.0");
        check(ColumnKind::Double, Value::Double(0.1), "0.1");
        check(ColumnKind::Double, Value::Double(5e-324), "5e-324");
        check(ColumnKind::Double, Value::Double(f64::MAX), "1.7976931348623157e+308");
        check(ColumnKind::Float, Value::Float(0.1), "0.1");
        check(ColumnKind::Float, Value::Float(16_777_216.0), "16777216.0");
        check(ColumnKind::Float, Value::Float(f32::MAX), "3.4028234663852886e+38");
        check(ColumnKind::Float, Value::Float(-f32::MAX), "-3.4028234663852886e+38");
        // Refused: no column of the type holds that.
        for (kind, value) in [
            (ColumnKind::Double, Value::Double(f64::NAN)),
            (ColumnKind::Float, Value::Float(f32::INFINITY)),
            (int, Value::Time(false, 0, 0, 0, 0, 0)),
            (time(0), Value::Date(2000, 1, 1, 0, 0, 0, 0)),
            (time(7), Value::Time(false, 0, 0, 0, 0, 0)),
        ] {
            assert_eq!(shown(&kind, value), None, "{kind:?}");
        }
    }

    #[test]
    fn only_tables_with_floating_points_are_read_so() {
        let int = ColumnKind::Integer { bytes: 4, unsigned: false };
        let better = |kinds: &[&ColumnKind]| {
            let columns = kinds.iter().enumerate();
            is_better(&schema(
                "t",
                columns.map(|(i, k)| column(&format!("c{i}"), (*k).clone(), None)).collect(),
                &[&[0]],
            ))
        };
        assert!(better(&[&int, &ColumnKind::Double]) && better(&[&int, &ColumnKind::Float]));
        assert!(!better(&[&int]) && better(&[&int, &ColumnKind::Float, &ColumnKind::Year]));
        let mut of_two_digits = column("y", ColumnKind::Year, None);
        of_two_digits.column_type = "year(2)".to_owned();
        assert!(!is_better(&schema("t", vec![of_two_digits, column("f", ColumnKind::Float, None)], &[&[0]])));
    }

    proptest! {
        #[test]
        fn every_floating_point_is_read_as_itself(float in any::<u32>(), double in any::<u64>()) {
            let (float, double) = (f32::from_bits(float), f64::from_bits(double));
            prop_assume!(float.is_finite() && double.is_finite());
            // A server reads a double, looks whether it is in the range of floats, and makes one of it.
            let read: f64 = shown(&ColumnKind::Float, Value::Float(float)).unwrap().parse().unwrap();
            prop_assert!(read.abs() <= f64::from(f32::MAX));
            prop_assert_eq!((read as f32).to_bits(), float.to_bits());
            let read: f64 = shown(&ColumnKind::Double, Value::Double(double)).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), double.to_bits());
        }
    }
}
