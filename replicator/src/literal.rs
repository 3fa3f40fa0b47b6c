//! Values as exact SQL literals, for a session with `SET NAMES binary`, `time_zone = '+00:00'` and an sql_mode
//! without NO_BACKSLASH_ESCAPES and ANSI_QUOTES (see `server::connect`).

use std::io::Write as _;

use crate::schema::table::{Column, ColumnKind};
use crate::value::Value;

/// Appends `value` of `column` as a literal that compares and stores exactly.
///
/// Text carries its charset as an introducer: without it a comparison with the column would be binary, and no
/// index could serve it.
pub fn write_literal(out: &mut Vec<u8>, column: &Column, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"NULL"),
        // Writing to a Vec can't fail.
        Value::Int(v) => drop(write!(out, "{v}")),
        Value::UInt(v) => drop(write!(out, "{v}")),
        // `{:e}` prints the shortest digits that read back as the same number. A FLOAT is written as the double
        // that it is: `f = 1.1` would compare it with another one, and finds nothing.
        Value::Float(v) => drop(write!(out, "{:e}", f64::from(*v))),
        Value::Double(v) => drop(write!(out, "{v:e}")),
        Value::Text(text) => match column.kind {
            ColumnKind::Decimal { .. } => out.extend_from_slice(text.as_bytes()),
            ColumnKind::Json => {
                out.extend_from_slice(b"_utf8mb4");
                write_quoted(out, text.as_bytes());
            }
            _ => write_quoted(out, text.as_bytes()),
        },
        Value::Bytes(bytes) => match (&column.kind, &column.charset) {
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
            (_, None) => {
                out.extend_from_slice(b"_binary");
                write_quoted(out, bytes);
            }
        },
    }
}

/// Charsets in which no byte of a longer character can be taken for a quote or a backslash.
fn is_ascii_safe(charset: &str) -> bool {
    matches!(
        charset,
        "utf8mb4" | "utf8mb3" | "utf8" | "latin1" | "ascii" | "latin2" | "cp1250" | "cp1251" | "koi8r"
    )
}

fn write_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'\'');
    for &byte in bytes {
        match byte {
            0 => out.extend_from_slice(b"\\0"),
            b'\'' => out.extend_from_slice(b"\\'"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x1a => out.extend_from_slice(b"\\Z"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 0xf)]);
    }
}
