//! MySQL's binary JSON to the text that the server itself prints for it.
//!
//! Numbers keep their kind: an integer has no point, a double always has a point or an exponent. Decimals, dates, times
//! and bytes are marked, since JSON text has no place for their types: see [`crate::json`].

use std::fmt::Write as _;

use super::cursor::{Cursor, Malformed};
use super::decimal;
use super::temporal::{JsonTemporal, json_temporal};
use crate::json::{self, MARK, letter};

/// The server allows 100.
const DEPTH_MAX: u32 = 128;
/// No honest document grows by more than this when it is printed (an inlined `-32768, ` has three bytes). A
/// crafted one, whose containers share their bytes, would grow without an end (invariant 7).
const GROWTH_MAX: usize = 16;

const SMALL_OBJECT: u8 = 0x00;
const LARGE_OBJECT: u8 = 0x01;
const SMALL_ARRAY: u8 = 0x02;
const LARGE_ARRAY: u8 = 0x03;
const LITERAL: u8 = 0x04;
const INT16: u8 = 0x05;
const UINT16: u8 = 0x06;
const INT32: u8 = 0x07;
const UINT32: u8 = 0x08;
const INT64: u8 = 0x09;
const UINT64: u8 = 0x0a;
const DOUBLE: u8 = 0x0b;
const STRING: u8 = 0x0c;
const OPAQUE: u8 = 0x0f;

/// Prints a document.
pub(crate) fn json_text(document: &[u8]) -> Result<String, Malformed> {
    // A column that was added NOT NULL has empty documents, which the server reads as null.
    let Some((&kind, body)) = document.split_first() else {
        return Ok("null".to_owned());
    };
    let limit = document.len().saturating_mul(GROWTH_MAX).saturating_add(64);
    let mut printer = Printer { out: String::with_capacity(document.len()), limit };
    printer.value(kind, body, DEPTH_MAX)?;
    Ok(printer.out)
}

struct Printer {
    out: String,
    limit: usize,
}

fn broken(what: &'static str) -> Malformed {
    Malformed::new(what)
}

impl Printer {
    fn value(&mut self, kind: u8, body: &[u8], depth: u32) -> Result<(), Malformed> {
        if self.out.len() > self.limit {
            return Err(broken("a JSON document is larger printed than it can be"));
        }
        let mut cursor = Cursor::new(body);
        match kind {
            SMALL_OBJECT => self.container(body, true, 2, depth)?,
            LARGE_OBJECT => self.container(body, true, 4, depth)?,
            SMALL_ARRAY => self.container(body, false, 2, depth)?,
            LARGE_ARRAY => self.container(body, false, 4, depth)?,
            LITERAL => self.literal(cursor.u8()?)?,
            INT16 => self.display(i16::from_le_bytes(cursor.array()?)),
            UINT16 => self.display(cursor.u16()?),
            INT32 => self.display(i32::from_le_bytes(cursor.array()?)),
            UINT32 => self.display(cursor.u32()?),
            INT64 => self.display(i64::from_le_bytes(cursor.array()?)),
            UINT64 => self.display(cursor.u64()?),
            DOUBLE => self.double(f64::from_le_bytes(cursor.array()?))?,
            STRING => {
                let length = var_length(&mut cursor)?;
                self.string(cursor.take(length)?)?;
            }
            OPAQUE => self.opaque(&mut cursor)?,
            _ => return Err(broken("a JSON document holds a type that isn't known here")),
        }
        Ok(())
    }

    fn display(&mut self, number: impl std::fmt::Display) {
        // Writing to a String can't fail.
        let _ = write!(self.out, "{number}");
    }

    fn literal(&mut self, code: u8) -> Result<(), Malformed> {
        self.out.push_str(match code {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(broken("a JSON document holds a literal that isn't known here")),
        });
        Ok(())
    }

    /// The shortest digits that read back as the same number, with a point or an exponent so that it stays a
    /// double.
    fn double(&mut self, number: f64) -> Result<(), Malformed> {
        if !number.is_finite() {
            return Err(broken("a JSON document holds a number that isn't finite"));
        }
        let _ = write!(self.out, "{number:?}");
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|_| broken("a JSON string isn't valid UTF-8"))?;
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                control if control < ' ' => {
                    let _ = write!(self.out, "\\u{:04x}", u32::from(control));
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn marked(&mut self, letter: char, value: &str) {
        self.out.push(MARK);
        self.out.push(letter);
        self.out.push_str(value);
        self.out.push(MARK);
    }

    fn opaque(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        const TIMESTAMP: u8 = 7;
        const DATE: u8 = 10;
        const TIME: u8 = 11;
        const DATETIME: u8 = 12;
        const NEWDECIMAL: u8 = 246;
        let field_type = cursor.u8()?;
        let length = var_length(cursor)?;
        let bytes = cursor.take(length)?;
        let temporal = match field_type {
            NEWDECIMAL => {
                let mut cursor = Cursor::new(bytes);
                let (precision, scale) = (cursor.u8()?, cursor.u8()?);
                let number = decimal::decimal(&mut cursor, precision, scale)?;
                self.marked(letter::DECIMAL, &number);
                return Ok(());
            }
            DATE => (letter::DATE, JsonTemporal::Date),
            TIME => (letter::TIME, JsonTemporal::Time),
            DATETIME => (letter::DATETIME, JsonTemporal::Datetime),
            TIMESTAMP => (letter::TIMESTAMP, JsonTemporal::Datetime),
            _ if !json::carries_bytes_of(field_type) => {
                return Err(Malformed::new(json::uncarried(field_type)));
            }
            _ => {
                let mut value = format!("{field_type}:");
                push_base64(&mut value, bytes);
                self.marked(letter::BYTES, &value);
                return Ok(());
            }
        };
        let (letter, temporal) = temporal;
        let text = json_temporal(bytes, temporal)?;
        self.marked(letter, &text);
        Ok(())
    }

    /// An object or array: count, size, then for each member key offsets and lengths, then values or their
    /// offsets, all of `width` bytes.
    fn container(&mut self, body: &[u8], object: bool, width: usize, depth: u32) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or_else(|| broken("a JSON document is too deep"))?;
        let mut head = Cursor::new(body);
        let count = head.uint_le(width)?;
        let size = usize::try_from(head.uint_le(width)?).unwrap_or(usize::MAX);
        let body = body.get(..size).ok_or_else(|| broken("a JSON container is longer than its document"))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let key_bytes = if object { count.saturating_mul(width + 2) } else { 0 };
        let mut keys = Cursor::new(head.take(key_bytes)?);
        let mut values = Cursor::new(head.take(count.saturating_mul(width + 1))?);
        self.out.push(if object { '{' } else { '[' });
        for index in 0..count {
            if index > 0 {
                self.out.push_str(", ");
            }
            if object {
                let (at, length) = (keys.uint_le(width)?, usize::from(keys.u16()?));
                let mut key = slice_from(body, at)?;
                self.string(key.take(length)?)?;
                self.out.push_str(": ");
            }
            let kind = values.u8()?;
            let inlined = values.take(width)?;
            match kind {
                LITERAL | INT16 | UINT16 => self.value(kind, inlined, depth)?,
                INT32 | UINT32 if width == 4 => self.value(kind, inlined, depth)?,
                _ => {
                    let at = Cursor::new(inlined).uint_le(width)?;
                    self.value(kind, slice_from(body, at)?.rest(), depth)?;
                }
            }
        }
        self.out.push(if object { '}' } else { ']' });
        Ok(())
    }
}

fn slice_from(body: &[u8], at: u64) -> Result<Cursor<'_>, Malformed> {
    let rest = usize::try_from(at).ok().and_then(|at| body.get(at..));
    rest.map(Cursor::new).ok_or_else(|| broken("a JSON container points outside itself"))
}

/// A length with seven bits a byte, the lowest first.
fn var_length(cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
    let mut length = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = cursor.u8()?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(length).map_err(|_| broken("a JSON string is too long"));
        }
    }
    Err(broken("a JSON string is too long"))
}

/// Base64 with a line break behind every 76 characters, escaped as the server escapes it.
fn push_base64(out: &mut String, bytes: &[u8]) {
    const LINE_GROUPS: usize = 19;
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (index, group) in bytes.chunks(3).enumerate() {
        if index > 0 && index % LINE_GROUPS == 0 {
            out.push_str("\\n");
        }
        let word =
            group.iter().chain([0, 0].iter()).take(3).fold(0_u32, |w, &byte| (w << 8) | u32::from(byte));
        for place in 0..4_usize {
            if place > group.len() {
                out.push('=');
            } else {
                let index = (word >> (18 - 6 * place)) & 0x3f;
                out.push(char::from(ALPHABET.get(index as usize).copied().unwrap_or(b'=')));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_of_the_manual() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(json_text(bytes).unwrap(), expected);
        check(&[], "null");
        check(&[4, 1], "true");
        check(&[5, 0xff, 0xff], "-1");
        check(&[0x0c, 3, b'a', b'"', b'\n'], r#""a\"\n""#);
        check(&[0x0b, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f], "1.0");
        // {"a": [1, null]}
        check(
            &[0, 1, 0, 22, 0, 11, 0, 1, 0, 2, 12, 0, b'a', 2, 0, 10, 0, 5, 1, 0, 4, 0, 0],
            r#"{"a": [1, null]}"#,
        );
        check(&[0x0f, 246, 4, 3, 2, 0x81, 0x32], "\u{1}n1.50\u{1}");
        check(&[0x0f, 252, 2, 0xff, 0x00], "\u{1}b252:/wA=\u{1}");
        assert!(json_text(&[0x0f, 13, 1, 0x7c]).is_err(), "a YEAR");
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_document(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(json_text(&bytes));
        }

        #[test]
        fn nested_garbage_too(kind in 0_u8..4, bytes in proptest::collection::vec(0_u8..16, 0..300)) {
            let mut document = vec![kind];
            document.extend(bytes);
            drop(json_text(&document));
        }
    }
}
