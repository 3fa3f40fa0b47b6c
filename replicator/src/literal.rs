//! Values as exact SQL literals, for a session with `SET NAMES binary`, `time_zone = '+00:00'` and an sql_mode
//! without NO_BACKSLASH_ESCAPES and ANSI_QUOTES (see `server::connect`).

use std::io::Write as _;

use crate::json;
use crate::schema::table::{Column, ColumnKind};
use crate::value::Value;

/// A name or a position as a literal, in any session and whatever its mode. Nothing from a table goes into it.
pub(crate) fn text_literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("_utf8mb4 x'{hex}'")
}

/// Appends `value` of `column` as a literal that compares and stores exactly.
///
/// Text carries its charset as an introducer: without it a comparison with the column would be binary, and no
/// index could serve it.
pub fn write_literal(out: &mut Vec<u8>, column: &Column, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"NULL"),
        // Only rows that are inserted are written with one.
        Value::Absent => out.extend_from_slice(b"DEFAULT"),
        // Writing to a Vec can't fail.
        Value::Int(v) => {
            if *v < 0 {
                out.push(b'-');
            }
            write_digits(out, v.unsigned_abs());
        }
        Value::UInt(v) => write_digits(out, *v),
        // `{:e}` prints the shortest digits that read back as the same number. A FLOAT is written as the double
        // that it is: a comparison is made between doubles, where the float's own shortest digits (1.1) name
        // another number than the column holds (1.10000002…).
        Value::Float(v) => drop(write!(out, "{:e}", f64::from(*v))),
        Value::Double(v) => drop(write!(out, "{v:e}")),
        Value::Text(text) => match column.kind {
            ColumnKind::Decimal { .. } => out.extend_from_slice(text.as_bytes()),
            ColumnKind::Json => json::write_sql(out, text, write_quoted),
            // Without a charset the digits would be taken for the 4 or 16 bytes themselves.
            ColumnKind::Uuid | ColumnKind::Inet4 | ColumnKind::Inet6 => {
                out.extend_from_slice(b"_latin1");
                write_quoted(out, text.as_bytes());
            }
            _ => write_quoted(out, text.as_bytes()),
        },
        Value::Bytes(bytes) => write_stored_bytes(out, column, bytes),
    }
}

/// [`write_literal`] of [`Value::Bytes`], for a column whose values those are.
pub(crate) fn write_stored_bytes(out: &mut Vec<u8>, column: &Column, bytes: &[u8]) {
    match (&column.kind, &column.charset) {
        (ColumnKind::Bit { .. }, _) => {
            out.extend_from_slice(b"0x");
            write_hex(out, bytes);
        }
        (_, Some(charset)) if is_ascii_safe(charset) => {
            out.push(b'_');
            out.extend_from_slice(charset.as_bytes());
            write_quoted(out, bytes);
        }
        (_, Some(charset)) => {
            out.push(b'_');
            out.extend_from_slice(charset.as_bytes());
            out.extend_from_slice(b" x'");
            write_hex(out, bytes);
            out.push(b'\'');
        }
        (_, None) => write_bytes(out, bytes),
    }
}

/// Appends bytes that are no text to the server.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"_binary");
    write_quoted(out, bytes);
}

/// Charsets in which no byte of a longer character can be taken for a quote or a backslash.
pub(crate) fn is_ascii_safe(charset: &str) -> bool {
    matches!(
        charset,
        "utf8mb4" | "utf8mb3" | "utf8" | "latin1" | "ascii" | "latin2" | "cp1250" | "cp1251" | "koi8r"
    )
}

fn write_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 2);
    out.push(b'\'');
    let mut rest = bytes;
    // Stretches without a special byte are found and copied whole: this is where a copy spends its time.
    while let Some(at) = memchr::memchr3(0, b'\'', b'\\', rest) {
        let (plain, special) = rest.split_at(at);
        write_without_specials(out, plain);
        let Some((&byte, behind)) = special.split_first() else { break };
        out.extend_from_slice(match byte {
            0 => b"\\0",
            b'\'' => b"\\'",
            _ => b"\\\\",
        });
        rest = behind;
    }
    write_without_specials(out, rest);
    out.push(b'\'');
}

/// Of the special bytes only 0x1a is left in it.
fn write_without_specials(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(0x1a, rest) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        out.extend_from_slice(b"\\Z");
        rest = special.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for &byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 0xf)]);
    }
}

/// Decimal digits, without the detour over `fmt`, which costs more than all else for a row of numbers.
fn write_digits(out: &mut Vec<u8>, mut number: u64) {
    let start = out.len();
    loop {
        // Below 10, so it fits.
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn column(kind: ColumnKind, charset: Option<&str>) -> Column {
        Column {
            name: "c".to_owned(),
            kind,
            column_type: String::new(),
            charset: charset.map(str::to_owned),
            collation: charset.map(|c| format!("{c}_bin")),
            nullable: true,
            generated: false,
        }
    }

    fn literal(kind: ColumnKind, charset: Option<&str>, value: Value) -> String {
        let mut out = Vec::new();
        write_literal(&mut out, &column(kind, charset), &value);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn literals_are_exact() {
        let integer = || ColumnKind::Integer { bytes: 8, unsigned: false };
        let check = |kind: ColumnKind, charset: Option<&str>, value: Value, expected: &str| {
            assert_eq!(literal(kind, charset, value), expected);
        };
        let bytes = |b: &'static [u8]| Value::Bytes(Bytes::from_static(b));
        check(integer(), None, Value::Null, "NULL");
        check(integer(), None, Value::Int(0), "0");
        check(integer(), None, Value::Int(i64::MIN), "-9223372036854775808");
        check(integer(), None, Value::UInt(u64::MAX), "18446744073709551615");
        check(ColumnKind::Float, None, Value::Float(1.1), "1.100000023841858e0");
        check(ColumnKind::Float, None, Value::Float(-0.0), "-0e0");
        check(ColumnKind::Double, None, Value::Double(1.1), "1.1e0");
        check(ColumnKind::Double, None, Value::Double(f64::MIN_POSITIVE), "2.2250738585072014e-308");
        let decimal = ColumnKind::Decimal { precision: 10, scale: 4 };
        check(decimal, None, Value::Text("-12.3400".to_owned()), "-12.3400");
        check(ColumnKind::Date, None, Value::Text("0000-00-00".to_owned()), "'0000-00-00'");
        check(
            ColumnKind::Json,
            None,
            Value::Text("{\"a\": \"\\n'\"}".to_owned()),
            "_utf8mb4'{\"a\": \"\\\\n\\'\"}'",
        );
        check(ColumnKind::Inet6, None, Value::Text("::1".to_owned()), "_latin1'::1'");
        check(ColumnKind::Bit { bits: 9 }, None, bytes(&[1, 0xff]), "0x01ff");
        check(ColumnKind::Text, Some("latin1"), bytes(b"it's\0"), "_latin1'it\\'s\\0'");
        check(ColumnKind::Text, Some("utf8mb4"), bytes(b""), "_utf8mb4''");
        // 0x5c is the second byte of a character here, so that no escaping is right for every server.
        check(ColumnKind::Text, Some("sjis"), bytes(&[0x95, 0x5c]), "_sjis x'955c'");
        check(ColumnKind::Blob, None, bytes(b"a\\\x1a"), "_binary'a\\\\\\Z'");
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\''), Just(b'\\'), Just(0), Just(0x1a)], 0..60))
        {
            let mut out = Vec::new();
            write_quoted(&mut out, &bytes);
            let inner = &out[1..out.len() - 1];
            let (mut read, mut at) = (Vec::new(), 0);
            while at < inner.len() {
                prop_assert_ne!(inner[at], b'\'');
                if inner[at] == b'\\' {
                    at += 1;
                    read.push(match inner[at] { b'0' => 0, b'Z' => 0x1a, other => other });
                } else {
                    read.push(inner[at]);
                }
                at += 1;
            }
            prop_assert_eq!(read, bytes);
        }

        #[test]
        fn integers_read_back(signed in any::<i64>(), unsigned in any::<u64>()) {
            let integer = || ColumnKind::Integer { bytes: 8, unsigned: false };
            prop_assert_eq!(literal(integer(), None, Value::Int(signed)), signed.to_string());
            prop_assert_eq!(literal(integer(), None, Value::UInt(unsigned)), unsigned.to_string());
        }

        #[test]
        fn floats_read_back(float in any::<f32>().prop_filter("finite", |f| f.is_finite())) {
            let text = literal(ColumnKind::Float, None, Value::Float(float));
            let double: f64 = text.parse().unwrap();
            prop_assert_eq!(double.to_bits(), f64::from(float).to_bits());
        }
    }
}
