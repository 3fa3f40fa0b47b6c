//! How a value of one column becomes one of the column that stands for it on the other server.
//!
//! The columns have one name and, but for what [`Transfer`] lists, one type. A copy lets the source do the work (the
//! expression that reads the column), the tail does it here, and the verifier compares in the target's terms.

use std::borrow::Cow;

use bytes::Bytes;
use config::Side;
use config::names::quote_identifier;

use super::convert::same_name;
use super::table::{Column, ColumnKind};
use crate::binlog::transaction::{RowChange, RowsChange};
use crate::error::{Error, Result};
use crate::json;
use crate::snapshot::cell::select_expression;
use crate::value::Value;

/// What has to be done to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Nothing: both have the same bytes for it.
    Same,
    /// Text of another charset becomes utf8mb4.
    ToUtf8mb4(Encoding),
    /// MySQL's JSON becomes its text.
    JsonToText,
    /// MariaDB's UUID, INET4 and INET6 become what they print.
    PrintedToText,
    /// The text of one of these becomes its type again.
    FromText,
}

/// A charset whose texts can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// MySQL's latin1: Windows' 1252, whose five holes are control characters.
    Latin1,
    /// ucs2 and utf16: two bytes or four, big-endian.
    Utf16,
    /// utf16le.
    Utf16Le,
    /// utf32, big-endian.
    Utf32,
}

impl Transfer {
    /// From a column to the one that stands for it. `Err`: a sentence that says why its values can't be moved.
    pub(crate) fn between(source: &Column, target: &Column) -> std::result::Result<Self, String> {
        use ColumnKind as K;
        match (&source.kind, &target.kind) {
            (K::Unknown, _) => Err("its type isn't understood".to_owned()),
            (K::Text, K::Text) => Self::of_text(source, target),
            (K::Enum { .. } | K::Set { .. }, _) if source.kind == target.kind => {
                // By number, so the members have to be the same in the same order.
                if source.column_type.eq_ignore_ascii_case(&target.column_type) {
                    Ok(Self::Same)
                } else {
                    Err(format!("its members aren't those of the source ({})", source.column_type))
                }
            }
            (a, b) if a == b => Ok(Self::Same),
            (K::Json, K::Text) if target.charset.as_deref() == Some("utf8mb4") => Ok(Self::JsonToText),
            (K::Text, K::Json) if source.charset.as_deref() == Some("utf8mb4") => Ok(Self::FromText),
            (K::Uuid | K::Inet4 | K::Inet6, K::Text) => Ok(Self::PrintedToText),
            (K::Text, K::Uuid | K::Inet4 | K::Inet6) => Ok(Self::FromText),
            (K::Vector { .. }, K::Blob) | (K::Blob, K::Vector { .. }) => Ok(Self::Same),
            _ => Err(format!("it is {} there, not {}", target.column_type, source.column_type)),
        }
    }

    fn of_text(source: &Column, target: &Column) -> std::result::Result<Self, String> {
        let (from, to) = (charset(source), charset(target));
        if same_name(from, to) {
            return Ok(Self::Same);
        }
        match (from, to) {
            ("utf8" | "utf8mb3" | "ascii", "utf8mb4") | ("ascii", "latin1" | "utf8" | "utf8mb3") => {
                return Ok(Self::Same);
            }
            (_, "utf8mb4") => {}
            _ => return Err(format!("its charset is {to} there, not {from}")),
        }
        Ok(Self::ToUtf8mb4(match from {
            "latin1" => Encoding::Latin1,
            "ucs2" | "utf16" => Encoding::Utf16,
            "utf16le" => Encoding::Utf16Le,
            "utf32" => Encoding::Utf32,
            _ => {
                return Err(format!(
                    "its charset {from} isn't on the target, and Changeover can't convert it; make the column utf8mb4 \
                     on the source first (ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4)"
                ));
            }
        }))
    }

    /// The expression that reads the column on the source in the target's terms, as
    /// [`crate::snapshot::cell::select_expression`] does in its own.
    pub(crate) fn read(self, source: &Column) -> String {
        match self {
            Self::ToUtf8mb4(_) => format!("CONVERT({} USING utf8mb4)", quote_identifier(&source.name)),
            Self::PrintedToText => {
                format!("CAST({} AS CHAR CHARACTER SET latin1)", quote_identifier(&source.name))
            }
            Self::JsonToText => {
                format!("CAST({} AS CHAR CHARACTER SET utf8mb4)", quote_identifier(&source.name))
            }
            Self::Same | Self::FromText => select_expression(source),
        }
    }

    /// A value of the source as one of the target. `None`: it isn't a value of the source's type.
    fn value(self, value: Value) -> Option<Value> {
        Some(match (self, value) {
            (Self::Same, value) | (_, value @ (Value::Null | Value::Absent)) => value,
            (Self::ToUtf8mb4(encoding), Value::Bytes(bytes)) => Value::Bytes(encoding.utf8(&bytes)?),
            (Self::JsonToText, Value::Text(text)) => {
                Value::Bytes(Bytes::from(json::plain(&text).into_owned()))
            }
            (Self::PrintedToText, Value::Text(text)) => Value::Bytes(Bytes::from(text)),
            (Self::FromText, Value::Bytes(bytes)) => Value::Text(String::from_utf8(bytes.to_vec()).ok()?),
            _ => return None,
        })
    }
}

fn charset(column: &Column) -> &str {
    column.charset.as_deref().unwrap_or("binary")
}

impl Encoding {
    /// The text in UTF-8; `None` where it isn't one of this charset.
    fn utf8(self, bytes: &[u8]) -> Option<Bytes> {
        if self == Self::Latin1 && bytes.is_ascii() {
            return Some(Bytes::copy_from_slice(bytes));
        }
        let pair = |low_first: bool| {
            move |pair: &[u8]| match (pair, low_first) {
                ([low, high], true) | ([high, low], false) => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            }
        };
        let wide = |low_first| -> Option<String> {
            let units: Option<Vec<u16>> = bytes.chunks(2).map(pair(low_first)).collect();
            String::from_utf16(&units?).ok()
        };
        let text: Cow<'_, str> = match self {
            Self::Latin1 => bytes.iter().map(|byte| latin1(*byte)).collect::<String>().into(),
            Self::Utf16 => wide(false)?.into(),
            Self::Utf16Le => wide(true)?.into(),
            Self::Utf32 => {
                let number = |four: &[u8]| <[u8; 4]>::try_from(four).ok().map(u32::from_be_bytes);
                let chars = bytes.chunks(4).map(|four| number(four).and_then(char::from_u32));
                chars.collect::<Option<String>>()?.into()
            }
        };
        Some(Bytes::from(text.into_owned()))
    }
}

/// A byte of MySQL's latin1.
fn latin1(byte: u8) -> char {
    const FROM_80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    byte.checked_sub(0x80).and_then(|at| FROM_80.get(usize::from(at)).copied()).unwrap_or(char::from(byte))
}

/// Rows of the source as rows of the target's table. Those of a table that is the same on both sides are handed on.
pub(crate) fn on_target(change: RowsChange) -> Result<RowsChange> {
    let Some(target) = &change.table.target else { return Ok(change) };
    let mut transfers = Vec::with_capacity(change.table.columns.len());
    for (source, column) in change.table.column_pairs() {
        transfers.push(Transfer::between(source, column).map_err(|why| {
            Error::definite(
                Side::Target,
                change.table.name.to_string(),
                format!("the column {}: {why}", source.name),
            )
        })?);
    }
    let table = target.clone();
    if transfers.iter().all(|transfer| *transfer == Transfer::Same) {
        return Ok(RowsChange { table, ..change });
    }
    let row = |row: Vec<Value>| -> Result<Vec<Value>> {
        let values = row.into_iter().zip(&transfers).zip(&table.columns);
        values
            .map(|((value, transfer), column)| {
                transfer.value(value).ok_or_else(|| {
                    let place = format!("{}, column {}", table.name, column.name);
                    Error::definite(
                        Side::Source,
                        place,
                        "a value isn't a text of its column's charset, so it can't be converted for the target; \
                         correct it on the source (CONVERT(… USING utf8mb4) shows which), then begin the migration again",
                    )
                })
            })
            .collect()
    };
    let mut rows = Vec::with_capacity(change.rows.len());
    for change in change.rows {
        rows.push(match change {
            RowChange::Insert { after } => RowChange::Insert { after: row(after)? },
            RowChange::Delete { before } => RowChange::Delete { before: row(before)? },
            RowChange::Update { before, after } => {
                RowChange::Update { before: row(before)?, after: row(after)? }
            }
        });
    }
    Ok(RowsChange { rows, foreign_key_checks: change.foreign_key_checks, table: target.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn column(kind: ColumnKind, column_type: &str, charset: Option<&str>) -> Column {
        Column {
            name: "c".to_owned(),
            kind,
            column_type: column_type.to_owned(),
            charset: charset.map(str::to_owned),
            collation: None,
            nullable: true,
            generated: false,
        }
    }

    #[test]
    fn columns_that_stand_for_each_other() {
        let text = |charset| column(ColumnKind::Text, "varchar(9)", Some(charset));
        let check = |source: &Column, target: &Column, expected: Option<Transfer>| {
            assert_eq!(Transfer::between(source, target).ok(), expected, "{source:?} {target:?}");
        };
        check(&text("utf8"), &text("utf8mb3"), Some(Transfer::Same));
        check(&text("utf8mb3"), &text("utf8mb4"), Some(Transfer::Same));
        check(&text("latin1"), &text("utf8mb4"), Some(Transfer::ToUtf8mb4(Encoding::Latin1)));
        check(&text("gbk"), &text("gbk"), Some(Transfer::Same));
        check(&text("gbk"), &text("utf8mb4"), None);
        check(&text("utf8mb4"), &text("latin1"), None);
        let json = column(ColumnKind::Json, "json", None);
        check(&json, &text("utf8mb4"), Some(Transfer::JsonToText));
        check(&text("utf8mb4"), &json, Some(Transfer::FromText));
        let set = |of: &str| column(ColumnKind::Set { members: 2 }, of, Some("utf8mb4"));
        check(&set("set('a','b')"), &set("set('a','b')"), Some(Transfer::Same));
        check(&set("set('a','b')"), &set("set('b','a')"), None);
        let uuid = column(ColumnKind::Uuid, "uuid", None);
        check(&uuid, &text("ascii"), Some(Transfer::PrintedToText));
        check(&text("ascii"), &uuid, Some(Transfer::FromText));
        let blob = column(ColumnKind::Blob, "varbinary(12)", None);
        check(&column(ColumnKind::Vector { dimensions: 3 }, "vector(3)", None), &blob, Some(Transfer::Same));
        let unknown = column(ColumnKind::Unknown, "uuid", None);
        check(&unknown, &unknown, None);
    }

    #[test]
    fn texts_become_utf8() {
        let check = |encoding: Encoding, bytes: &[u8], expected: Option<&str>| {
            assert_eq!(encoding.utf8(bytes).as_deref(), expected.map(str::as_bytes), "{bytes:?}");
        };
        check(Encoding::Latin1, b"caf\xe9 \x80\x81\xff", Some("café €\u{81}ÿ"));
        check(Encoding::Utf16, &[0, 0x41, 0xd8, 0x3c, 0xdf, 0xac], Some("A🎬"));
        check(Encoding::Utf16Le, &[0x41, 0], Some("A"));
        check(Encoding::Utf32, &[0, 1, 0xf3, 0xac], Some("🎬"));
        check(Encoding::Utf16, &[0], None);
        check(Encoding::Utf16, &[0xd8, 0], None);
        check(Encoding::Utf32, &[0, 0x11, 0, 0], None);
    }
}
