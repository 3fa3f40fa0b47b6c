//! Row filters (`[[migration.rows]]`): of a table that several businesses share, the rows of one.
//!
//! Seen through a filter the shared table is a table of its own. Copy and verifier read it so, and its changes are those
//! of the shared one with each image outside left out: an update that brings a row in is an insert there, one that takes
//! a row out a delete. Such a history is one that a table can have (its keys are unique, each row is there before it is
//! changed), so everything behind the decoder holds for it as for any other table (invariants 1 and 4).
//!
//! That needs the predicate to mean the same in SQL and on the images of the binary log, so a column is refused where
//! that can't be said exactly:
//!
//! - Whole numbers, by value. Bytes, as they are.
//! - Text under a `_bin` collation: by its bytes, where it pads without trailing spaces.
//! - Text under the collations of [`folds_case`], for values of printable ASCII: two such texts are equal exactly where
//!   they are the same in lower case (tried out on real servers, `tests/filtered.rs`). A text with any other character in
//!   it can only be equal to one where all its printable ASCII characters are in that, in their order, since each of
//!   them has a weight there. That rules nearly all of them out; one that is left stops the migration (invariant 5).
//!
//! NULL is in no filter.

use config::names::quote_identifier;
use config::pattern::like;
use config::{FilterValue, RowsConfig, TableName};
use serde::{Deserialize, Serialize};

use super::table::{Column, ColumnKind, SchemaSet, TableSchema};
use crate::binlog::transaction::RowChange;
use crate::error::{self, Error};
use crate::literal::{is_ascii_safe, write_literal};
use crate::value::Value;

/// The rows of a table that are moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFilter {
    /// Index into [`TableSchema::columns`].
    column: usize,
    wanted: Wanted,
}

/// The values of which one has to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Integers(Vec<i64>),
    Bytes(Vec<Vec<u8>>),
    Text {
        values: Vec<Vec<u8>>,
        /// Spaces at the end don't count.
        pads: bool,
        folds_case: bool,
    },
}

/// What becomes of rows that aren't in the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outside {
    /// They are another business's: where the shared table is read.
    #[default]
    Dropped,
    /// They have no right to be there: where a table is read that holds this business alone.
    Refused,
}

/// The rule for a table: the first one that matches.
pub(crate) fn rule_of<'a>(rules: &'a [RowsConfig], table: &TableName) -> Option<&'a RowsConfig> {
    let text = table.to_string();
    rules.iter().find(|rule| like(&rule.tables, &text))
}

impl RowFilter {
    /// The filter of a table; `None` where no rule is about it, or where a pattern matches it and it hasn't got the
    /// column.
    ///
    /// # Errors
    /// A full sentence: why its rows can't be told apart exactly.
    pub(crate) fn of(rules: &[RowsConfig], table: &TableSchema) -> Result<Option<Self>, String> {
        let Some(rule) = rule_of(rules, &table.name) else { return Ok(None) };
        let position = table.columns.iter().position(|column| column.name.eq_ignore_ascii_case(&rule.column));
        let Some((position, column)) = position.and_then(|at| Some((at, table.columns.get(at)?))) else {
            if rule.tables == table.name.to_string() {
                return Err(format!(
                    "migration.rows filters it by the column {}, which it hasn't got; name one of its columns.",
                    rule.column
                ));
            }
            return Ok(None);
        };
        let wanted = wanted(column, &rule.values).map_err(|why| {
            format!(
                "migration.rows filters it by its column {} ({}), {why}.",
                column.name, column.column_type
            )
        })?;
        Ok(Some(Self { column: position, wanted }))
    }

    /// Index of the column into [`TableSchema::columns`].
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// True where both take the same values, and find them equal in the same way.
    pub(crate) fn takes_the_same_values(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }

    /// The condition as SQL, for a session of [`crate::server::connect`]. `table` is the one that it was made for.
    pub(crate) fn condition(&self, table: &TableSchema) -> Vec<u8> {
        let Some(column) = table.columns.get(self.column) else { return b"FALSE".to_vec() };
        let values: Vec<Value> = match &self.wanted {
            Wanted::Integers(values) => values.iter().copied().map(Value::Int).collect(),
            Wanted::Bytes(values) | Wanted::Text { values, .. } => {
                values.iter().map(|value| Value::Bytes(value.clone().into())).collect()
            }
        };
        let mut sql = format!("({} IN (", quote_identifier(&column.name)).into_bytes();
        for (i, value) in values.iter().enumerate() {
            sql.extend_from_slice(if i == 0 { b"" } else { b"," });
            write_literal(&mut sql, column, value);
        }
        sql.extend_from_slice(b"))");
        sql
    }

    /// True where a row is in the filter.
    ///
    /// # Errors
    /// It can't be said exactly; why, as the rest of a sentence about the row.
    pub(crate) fn takes(&self, row: &[Value]) -> Result<bool, &'static str> {
        match (&self.wanted, row.get(self.column)) {
            (_, Some(Value::Null)) => Ok(false),
            (Wanted::Integers(values), Some(Value::Int(number))) => Ok(values.contains(number)),
            (Wanted::Integers(values), Some(Value::UInt(number))) => {
                Ok(i64::try_from(*number).is_ok_and(|number| values.contains(&number)))
            }
            (Wanted::Bytes(values), Some(Value::Bytes(bytes))) => {
                Ok(values.iter().any(|value| value == bytes))
            }
            (Wanted::Text { values, pads, folds_case }, Some(Value::Bytes(text))) => {
                takes_text(values, *pads, *folds_case, text)
            }
            (_, Some(Value::Absent) | None) => Err(
                "lacks the column by which its rows are filtered: binlog_row_image isn't FULL in the session that wrote it; \
                 set it to FULL, globally and in every session, then begin the migration again",
            ),
            _ => Err(
                "has a value of another type in the column by which its rows are filtered; this is a bug of ours",
            ),
        }
    }

    /// What a change of the shared table is to the rows in the filter; `None`: nothing.
    ///
    /// # Errors
    /// As the rest of a sentence about the row.
    pub(crate) fn narrow(
        &self,
        change: RowChange,
        outside: Outside,
    ) -> Result<Option<RowChange>, &'static str> {
        let whole = |row: &[Value]| !row.contains(&Value::Absent);
        let narrowed = match change {
            RowChange::Insert { after } => self.takes(&after)?.then_some(RowChange::Insert { after }),
            RowChange::Delete { before } => self.takes(&before)?.then_some(RowChange::Delete { before }),
            RowChange::Update { before, after } => match (self.takes(&before)?, self.takes(&after)?) {
                (true, true) => Some(RowChange::Update { before, after }),
                (true, false) if outside == Outside::Dropped => Some(RowChange::Delete { before }),
                (false, true) if outside == Outside::Dropped && whole(&after) => {
                    Some(RowChange::Insert { after })
                }
                (false, true) if outside == Outside::Dropped => {
                    return Err(
                        "comes into the filter and lacks columns: binlog_row_image isn't FULL in the session that \
                                wrote it; set it to FULL, globally and in every session, then begin the migration again",
                    );
                }
                _ => None,
            },
        };
        match (narrowed, outside) {
            (None, Outside::Refused) => Err(
                "isn't of the business that was moved (migration.rows), so it has no place on the old server, whose table \
                 other businesses share. Nothing is skipped: the way back ends here. Correct the row on the new server and \
                 stay there: FINISH MIGRATION",
            ),
            (narrowed, _) => Ok(narrowed),
        }
    }
}

/// True where the same rows of both are moved.
pub(crate) fn same_rows(one: &TableSchema, other: &TableSchema) -> bool {
    let name = |table: &TableSchema, filter: &RowFilter| {
        table.columns.get(filter.column).map(|column| column.name.to_lowercase())
    };
    match (&one.filter, &other.filter) {
        (None, None) => true,
        (Some(a), Some(b)) => a.takes_the_same_values(b) && name(one, a) == name(other, b),
        _ => false,
    }
}

/// A filter isn't changed while a migration runs: what it would bring in was never copied.
///
/// # Errors
/// `migration.rows` says otherwise than when the migration, or a table's copy, began.
pub(crate) fn hold_to(rules: &[RowsConfig], tables: &SchemaSet) -> error::Result<()> {
    for table in tables.sorted() {
        if RowFilter::of(rules, &table).as_ref() != Ok(&table.filter) {
            let what = "migration.rows was changed for this table since the migration began, and rows were left out or \
                        taken along by what it said then; put it back and RESUME MIGRATION, or begin again with an empty \
                        state_dir and an empty target";
            return Err(Error::definite(None, table.name.to_string(), what));
        }
    }
    Ok(())
}

/// The values in the terms of a column. An error is the rest of a sentence.
fn wanted(column: &Column, values: &[FilterValue]) -> Result<Wanted, String> {
    if column.generated {
        return Err(
            "which is generated; filter by the columns that it is made of, where one of them will do"
                .to_owned(),
        );
    }
    match (&column.kind, column.charset.as_deref(), column.collation.as_deref()) {
        (ColumnKind::Integer { bytes, unsigned }, ..) => {
            let bits = u32::from(*bytes) * 8;
            let (least, most) = match unsigned {
                true => (0, (1_i128 << bits) - 1),
                false => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
            };
            let number = |value: &FilterValue| match value {
                FilterValue::Integer(number) if (least..=most).contains(&i128::from(*number)) => Ok(*number),
                other => Err(format!("which can't hold the value {other}")),
            };
            values.iter().map(number).collect::<Result<_, _>>().map(Wanted::Integers)
        }
        (ColumnKind::Binary { length }, ..) => {
            let length = usize::try_from(*length).unwrap_or(usize::MAX);
            let padded = |mut bytes: Vec<u8>| {
                bytes.resize(bytes.len().max(length), 0);
                if bytes.len() == length { Ok(bytes) } else { Err(format!("which holds no more than {length} bytes")) }
            };
            let bytes = values.iter().map(|value| bytes_of(value).and_then(padded));
            bytes.collect::<Result<_, _>>().map(Wanted::Bytes)
        }
        (ColumnKind::Blob, ..) => values.iter().map(bytes_of).collect::<Result<_, _>>().map(Wanted::Bytes),
        (ColumnKind::Text, Some(charset), Some(collation)) if is_ascii_safe(charset) => {
            text_of(charset, collation, values)
        }
        _ => Err("a type for which that can't be said exactly on rows of the binary log; filter by a column of whole \
                  numbers, of bytes, or of text"
            .to_owned()),
    }
}

fn bytes_of(value: &FilterValue) -> Result<Vec<u8>, String> {
    let FilterValue::Text(text) = value else {
        return Err(format!("which holds bytes, so {value} has to be a text between quotes, or \"0x…\""));
    };
    let Some(digits) = text.strip_prefix("0x") else { return Ok(text.as_bytes().to_vec()) };
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| format!("and {value} isn't a text of two hexadecimal digits for each byte behind 0x"))
}

fn text_of(charset: &str, collation: &str, values: &[FilterValue]) -> Result<Wanted, String> {
    let folds_case = folds_case(collation);
    if !folds_case && !collation.ends_with("_bin") {
        return Err(format!(
            "whose collation {collation} can't be followed exactly on rows of the binary log; filter by a column of whole \
             numbers, of bytes, or of text with a _bin collation"
        ));
    }
    let pads = !(collation.contains("_nopad_") || collation.contains("_0900_"));
    let utf8 = charset.starts_with("utf8");
    let text = |value: &FilterValue| match value {
        FilterValue::Integer(number) => Err(format!("which holds text, so {number} has to be \"{number}\"")),
        FilterValue::Text(text) if folds_case && !text.bytes().all(is_printable) => Err(format!(
            "whose collation {collation} is followed exactly for ASCII alone, which {value} isn't"
        )),
        FilterValue::Text(text) if !utf8 && !text.is_ascii() => {
            Err(format!("whose character set is {charset}, and {value} isn't ASCII"))
        }
        FilterValue::Text(text) => Ok(text.as_bytes().to_vec()),
    };
    let values = values.iter().map(text).collect::<Result<_, _>>()?;
    Ok(Wanted::Text { values, pads, folds_case })
}

/// Collations in which texts of printable ASCII are equal exactly where they are the same in lower case.
fn folds_case(collation: &str) -> bool {
    let Some((charset, rest)) = collation.split_once('_') else { return false };
    match charset {
        "utf8mb4" | "utf8mb3" | "utf8" => matches!(
            rest,
            "general_ci"
                | "unicode_ci"
                | "unicode_520_ci"
                | "0900_ai_ci"
                | "0900_as_ci"
                | "uca1400_ai_ci"
                | "uca1400_as_ci"
        ),
        "latin1" => rest == "swedish_ci",
        "ascii" => rest == "general_ci",
        _ => false,
    }
}

fn is_printable(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

fn takes_text(values: &[Vec<u8>], pads: bool, folds_case: bool, text: &[u8]) -> Result<bool, &'static str> {
    let bare = |text: &[u8]| -> Vec<u8> {
        let end =
            if pads { text.iter().rposition(|&b| b != b' ').map_or(0, |at| at + 1) } else { text.len() };
        let text = text.get(..end).unwrap_or_default();
        if folds_case { text.to_ascii_lowercase() } else { text.to_vec() }
    };
    let text = bare(text);
    if !folds_case || text.iter().copied().all(is_printable) {
        return Ok(values.iter().any(|value| bare(value) == text));
    }
    // Its spaces may be at the end, for all that is known of what else stands there.
    let known = || text.iter().copied().filter(|&byte| is_printable(byte) && byte != b' ');
    let may_be = |value: &Vec<u8>| {
        let value = bare(value);
        let mut rest = value.iter();
        known().all(|byte| rest.any(|other| *other == byte))
    };
    if values.iter().any(may_be) {
        return Err(
            "has a text that isn't ASCII in the column by which its rows are filtered, and only the server could say \
                    whether it is equal to a value of the filter; filter by a column with a _bin collation, or of whole \
                    numbers, and begin the migration again",
        );
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::apply::sample::{column, delete, insert, int_row, schema, text, update};
    use FilterValue::{Integer, Text};

    fn rule(values: &[FilterValue]) -> Vec<RowsConfig> {
        vec![RowsConfig { tables: "s.%".to_owned(), column: "C0".to_owned(), values: values.to_vec() }]
    }

    fn filter(
        kind: ColumnKind,
        collation: Option<&str>,
        values: &[FilterValue],
    ) -> Result<RowFilter, String> {
        let table = schema("t", vec![column("c0", kind, collation)], &[&[0]]);
        RowFilter::of(&rule(values), &table).map(Option::unwrap)
    }

    const INT: ColumnKind = ColumnKind::Integer { bytes: 1, unsigned: false };
    const UINT: ColumnKind = ColumnKind::Integer { bytes: 8, unsigned: true };

    #[test]
    fn what_cannot_be_said_exactly_is_refused() {
        let check = |kind: ColumnKind, collation: Option<&str>, value: FilterValue, expected: &str| {
            let found = filter(kind, collation, &[value]);
            let fits = found
                .as_ref()
                .map_or_else(|why| !expected.is_empty() && why.contains(expected), |_| expected.is_empty());
            assert!(fits, "{found:?}, not {expected}");
        };
        check(INT, None, Integer(-128), "");
        check(INT, None, Integer(128), "can't hold the value 128");
        check(UINT, None, Integer(-1), "can't hold the value -1");
        check(INT, None, Text("7".to_owned()), "can't hold the value '7'");
        check(ColumnKind::Double, None, Integer(7), "a type for which");
        check(ColumnKind::Text, Some("utf8mb4_bin"), Text("é".to_owned()), "");
        check(ColumnKind::Text, Some("utf8mb4_bin"), Integer(7), "\"7\"");
        check(ColumnKind::Text, Some("latin1_bin"), Text("é".to_owned()), "isn't ASCII");
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), Text("a".to_owned()), "");
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), Text("é".to_owned()), "for ASCII alone");
        check(ColumnKind::Text, Some("utf8mb4_swedish_ci"), Text("a".to_owned()), "utf8mb4_swedish_ci");
        check(ColumnKind::Text, Some("ucs2_bin"), Text("a".to_owned()), "a type for which");
        check(ColumnKind::Binary { length: 2 }, None, Text("0x0102".to_owned()), "");
        check(ColumnKind::Binary { length: 2 }, None, Text("0x010203".to_owned()), "no more than 2 bytes");
        check(ColumnKind::Blob, None, Text("0x012".to_owned()), "hexadecimal");
    }

    #[test]
    fn a_pattern_leaves_tables_without_the_column_alone() {
        let table = schema("t", vec![column("other", INT, None)], &[&[0]]);
        assert_eq!(RowFilter::of(&rule(&[Integer(7)]), &table), Ok(None));
        let exact = [RowsConfig { tables: "s.t".to_owned(), ..rule(&[Integer(7)]).remove(0) }];
        assert!(RowFilter::of(&exact, &table).unwrap_err().contains("hasn't got"));
        assert_eq!(RowFilter::of(&[], &table), Ok(None));
    }

    #[test]
    fn values_are_found_as_the_server_finds_them() {
        let check = |kind: ColumnKind,
                     collation: Option<&str>,
                     value: FilterValue,
                     row: Value,
                     expected: Option<bool>| {
            let filter = filter(kind, collation, &[Text("other".to_owned()), value.clone()])
                .or_else(|_| filter_of_numbers(&value));
            assert_eq!(filter.unwrap().takes(std::slice::from_ref(&row)).ok(), expected, "{value:?} {row:?}");
        };
        fn filter_of_numbers(value: &FilterValue) -> Result<RowFilter, String> {
            filter(UINT, None, &[Integer(3), value.clone()])
        }
        check(UINT, None, Integer(7), Value::UInt(7), Some(true));
        check(UINT, None, Integer(7), Value::UInt(u64::MAX), Some(false));
        check(UINT, None, Integer(7), Value::Null, Some(false));
        check(UINT, None, Integer(7), Value::Absent, None);
        let a = || Text("Ab".to_owned());
        check(ColumnKind::Text, Some("utf8mb4_bin"), a(), text("Ab  "), Some(true));
        check(ColumnKind::Text, Some("utf8mb4_bin"), a(), text("ab"), Some(false));
        check(ColumnKind::Text, Some("utf8mb4_0900_bin"), a(), text("Ab "), Some(false));
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), a(), text("aB "), Some(true));
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), a(), text("abc"), Some(false));
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), a(), text("äb"), None);
        check(ColumnKind::Text, Some("utf8mb4_general_ci"), a(), text("äx"), Some(false));
        check(ColumnKind::Text, Some("utf8mb4_0900_ai_ci"), a(), text("ab "), Some(false));
        check(ColumnKind::Blob, None, Text("0x4162".to_owned()), text("Ab"), Some(true));
        check(ColumnKind::Blob, None, Text("0x4162".to_owned()), text("Ab\0"), Some(false));
    }

    #[test]
    fn changes_are_those_of_the_rows_inside() {
        let filter = filter(UINT, None, &[Integer(7), Integer(9)]).unwrap();
        let r = int_row;
        let none = i64::MIN;
        let check = |change: RowChange, dropped: Option<RowChange>, refused: bool| {
            assert_eq!(filter.narrow(change.clone(), Outside::Dropped).unwrap(), dropped);
            let kept = filter.narrow(change.clone(), Outside::Refused);
            assert_eq!(kept.is_err(), refused, "{change:?}");
            assert!(refused || kept == Ok(Some(change)));
        };
        check(insert(r(&[7, 1])), Some(insert(r(&[7, 1]))), false);
        check(insert(r(&[8, 1])), None, true);
        check(insert(r(&[none, 1])), None, true);
        check(delete(r(&[9, 1])), Some(delete(r(&[9, 1]))), false);
        check(delete(r(&[8, 1])), None, true);
        check(update(r(&[7, 1]), r(&[9, 1])), Some(update(r(&[7, 1]), r(&[9, 1]))), false);
        check(update(r(&[7, 1]), r(&[8, 1])), Some(delete(r(&[7, 1]))), true);
        check(update(r(&[none, 1]), r(&[9, 1])), Some(insert(r(&[9, 1]))), true);
        check(update(r(&[8, 1]), r(&[6, 1])), None, true);
        let partial = update(vec![Value::Int(8), Value::Absent], vec![Value::Int(7), Value::Absent]);
        assert!(filter.narrow(partial, Outside::Dropped).unwrap_err().contains("binlog_row_image"));
    }

    #[test]
    fn the_condition_names_the_column_and_its_values() {
        let check = |kind: ColumnKind, collation: Option<&str>, values: &[FilterValue], expected: &str| {
            let table = schema("t", vec![column("c0", kind.clone(), collation)], &[&[0]]);
            let sql = filter(kind, collation, values).unwrap().condition(&table);
            assert_eq!(String::from_utf8(sql).unwrap(), expected);
        };
        check(UINT, None, &[Integer(7), Integer(9)], "(`c0` IN (7,9))");
        let quoted = [Text("it's".to_owned())];
        check(ColumnKind::Text, Some("utf8mb4_bin"), &quoted, "(`c0` IN (_utf8mb4'it\\'s'))");
        check(
            ColumnKind::Binary { length: 3 },
            None,
            &[Text("0x41".to_owned())],
            "(`c0` IN (_binary'A\\0\\0'))",
        );
    }
}
