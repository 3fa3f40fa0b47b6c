//! Column values as hashes that are equal wherever the server could say that the values are.
//!
//! Why this is sound: a hash may be equal for values that differ (then two batches wait for each other without
//! need), but never different for values that compare equal. Numbers are brought to one form (no sign on zero, no
//! zeros at the end of a fraction). Bytes without a charset compare as they are; trailing zeros are dropped
//! because BINARY(n) values of two widths may refer to each other.
//!
//! Text is the hard part, since what a collation calls equal is in tables that only the server has:
//! - `…_bin` compares bytes, and where it pads, without trailing spaces.
//! - The collations of [`folds_ascii`] were tried out on real servers over every text of one and two ASCII
//!   characters: two of them are equal only if they are the same after control characters (which the UCA ignores)
//!   and trailing spaces are dropped and letters are lowered. Between ASCII and everything else there is no such
//!   rule (`'e' = 'é'`), so a text that isn't ASCII has no hash of its own: it takes the whole key for itself
//!   ([`Folded::Opaque`]), which every ASCII text of that key shares.
//! - All other collations, some of which say `'i' = 'y'` or `'v' = 'w'`, and charsets whose first 128 characters
//!   aren't ASCII, take the whole key always.

use crate::schema::table::{Column, ColumnKind};
use crate::value::Value;

/// A 64-bit hash that is built value by value. Keys are the source's own data and a collision only costs
/// parallelism, so speed counts and secrecy doesn't.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mixer(u64);

impl Mixer {
    /// A mixer that starts from another hash, or from a constant.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Adds a number.
    pub(super) fn number(&mut self, value: u64) {
        // The folded product of two odd constants' worth of bits, as wyhash does it: every bit of the input
        // reaches every bit of the output.
        let product = u128::from(self.0 ^ value) * u128::from(0xa076_1d64_78bd_642f_u64);
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ 0xe703_7ed1_a0b4_28db;
    }

    /// Adds bytes and their number.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunks.remainder()) {
            *to = *from;
        }
        self.number(u64::from_le_bytes(word));
        self.number(bytes.len() as u64);
    }

    /// The hash.
    pub(super) fn finish(mut self) -> u64 {
        self.number(0);
        self.0
    }
}

/// How a column's values are brought to a form that is equal for equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    /// Numbers and times, by value.
    Plain,
    /// Bytes, without trailing zeros.
    Bytes,
    /// Text that compares by its bytes, without trailing spaces.
    BinaryText,
    /// ASCII text by its lowered letters; any other text is opaque.
    Ascii,
    /// Nothing is known: every text is opaque.
    Opaque,
}

/// What [`Fold::add`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folded {
    /// The value is in the mixer.
    Added,
    /// The value has no hash of its own; it may be equal to any other of its column.
    Opaque,
    /// NULL, which is equal to nothing.
    Null,
}

impl Fold {
    /// The fold of a column.
    pub(super) fn of(column: &Column) -> Self {
        match (&column.kind, column.charset.as_deref(), column.collation.as_deref()) {
            (ColumnKind::Text, Some(charset), Some(collation)) => {
                if !holds_ascii(charset) {
                    Fold::Opaque
                } else if collation.ends_with("_bin") {
                    Fold::BinaryText
                } else if folds_ascii(collation) {
                    Fold::Ascii
                } else {
                    Fold::Opaque
                }
            }
            (ColumnKind::Text, Some(_), None) => Fold::Opaque,
            (ColumnKind::Text | ColumnKind::Binary { .. } | ColumnKind::Blob, ..) => Fold::Bytes,
            _ => Fold::Plain,
        }
    }

    /// Adds a value, or its first `prefix` characters (bytes where it has no charset).
    pub(super) fn add(self, mixer: &mut Mixer, value: &Value, prefix: Option<u32>) -> Folded {
        match value {
            Value::Null => return Folded::Null,
            Value::Absent => return Folded::Opaque,
            // 5 and 5 unsigned are one number.
            Value::Int(v) => mixer.number(v.cast_unsigned()),
            Value::UInt(v) => mixer.number(*v),
            Value::Float(v) => mixer.number((f64::from(*v) + 0.0).to_bits()),
            Value::Double(v) => mixer.number((*v + 0.0).to_bits()),
            Value::Text(text) => mixer.bytes(without_idle_digits(text).as_bytes()),
            Value::Bytes(bytes) => return self.add_bytes(mixer, bytes, prefix),
        }
        Folded::Added
    }

    fn add_bytes(self, mixer: &mut Mixer, bytes: &[u8], prefix: Option<u32>) -> Folded {
        let prefix = prefix.map_or(usize::MAX, |p| usize::try_from(p).unwrap_or(usize::MAX));
        let first = |bytes: &'_ [u8]| bytes.len().min(prefix);
        match self {
            // BIT: a number, big-endian, always as wide as its column.
            Fold::Plain => mixer.bytes(bytes),
            Fold::Bytes => mixer.bytes(without_trailing(&bytes[..first(bytes)], 0)),
            Fold::BinaryText => {
                let head = &bytes[..first(bytes)];
                // Characters are longer than bytes, so a prefix is only known where they are all ASCII.
                if head.len() < bytes.len() && !head.is_ascii() {
                    return Folded::Opaque;
                }
                mixer.bytes(without_trailing(head, b' '));
            }
            Fold::Ascii => {
                let head = &bytes[..first(bytes)];
                if !head.is_ascii() {
                    return Folded::Opaque;
                }
                mixer.bytes(&lowered(head));
            }
            Fold::Opaque => return Folded::Opaque,
        }
        Folded::Added
    }
}

/// Charsets in which a byte below 0x80 is that ASCII character, wherever it stands.
fn holds_ascii(charset: &str) -> bool {
    matches!(
        charset,
        "utf8mb4" | "utf8mb3" | "utf8" | "latin1" | "latin2" | "ascii" | "cp1250" | "cp1251" | "koi8r"
    )
}

/// Collations in which two ASCII texts are equal only if [`lowered`] makes them the same (seen on MariaDB 10.11
/// and MySQL 9.7, see the module's comment).
fn folds_ascii(collation: &str) -> bool {
    let Some((charset, rest)) = collation.split_once('_') else { return false };
    match charset {
        "utf8mb4" | "utf8mb3" | "utf8" => matches!(
            rest,
            "general_ci"
                | "general_nopad_ci"
                | "unicode_ci"
                | "unicode_nopad_ci"
                | "unicode_520_ci"
                | "unicode_520_nopad_ci"
                | "0900_ai_ci"
                | "0900_as_ci"
                | "0900_as_cs"
                | "uca1400_ai_ci"
                | "uca1400_as_ci"
                | "uca1400_as_cs"
        ),
        "latin1" => matches!(rest, "swedish_ci" | "swedish_nopad_ci" | "general_ci" | "general_cs"),
        "ascii" => matches!(rest, "general_ci" | "general_nopad_ci"),
        _ => false,
    }
}

/// ASCII text without what may not count: control characters, trailing spaces, the case of letters.
fn lowered(ascii: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> =
        ascii.iter().filter(|b| !b.is_ascii_control()).map(u8::to_ascii_lowercase).collect();
    out.truncate(without_trailing(&out, b' ').len());
    out
}

fn without_trailing(bytes: &[u8], what: u8) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b != what).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A decimal or a time without zeros at the end of its fraction, and without the sign of a zero.
fn without_idle_digits(text: &str) -> &str {
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.' | b':' | b'-')) => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::sample::{column, text};
    use super::*;

    fn hash(column: &Column, value: &Value, prefix: Option<u32>) -> Option<u64> {
        let mut mixer = Mixer::new(7);
        (Fold::of(column).add(&mut mixer, value, prefix) == Folded::Added).then(|| mixer.finish())
    }

    #[test]
    fn what_the_server_calls_equal_has_one_hash() {
        let check = |collation: &str, a: &str, b: &str, prefix: Option<u32>, same: bool| {
            let column = column("c", ColumnKind::Text, Some(collation));
            let (a_hash, b_hash) = (hash(&column, &text(a), prefix), hash(&column, &text(b), prefix));
            let both = a_hash.is_none() || b_hash.is_none() || a_hash == b_hash;
            assert_eq!(both, same, "{collation} {a:?} {b:?}");
        };
        check("utf8mb4_general_ci", "A", "a", None, true);
        check("utf8mb4_general_ci", "a  ", "a", None, true);
        check("utf8mb4_0900_ai_ci", "a\u{1} ", "A", None, true);
        check("utf8mb4_general_ci", "a", "b", None, false);
        check("utf8mb4_general_ci", "é", "e", None, true);
        check("utf8mb4_lithuanian_ci", "i", "y", None, true);
        check("utf8mb4_bin", "A", "a", None, false);
        check("utf8mb4_bin", "a ", "a", None, true);
        check("utf8mb4_bin", "é", "e", None, false);
        check("utf8mb4_bin", "ééx", "ééy", Some(2), true);
        check("utf8mb4_general_ci", "abcX", "ABCy", Some(3), true);
        check("utf8mb4_general_ci", "abX", "abY", Some(3), false);
        check("latin1_swedish_ci", "abcé", "abcd", Some(3), true);
        check("latin1_german2_ci", "a", "b", None, true);
        check("sjis_japanese_ci", "a", "b", None, true);
    }

    #[test]
    fn numbers_are_equal_by_value() {
        let check = |kind: ColumnKind, a: Value, b: Value, same: bool| {
            let column = column("c", kind, None);
            assert_eq!(hash(&column, &a, None) == hash(&column, &b, None), same, "{a:?} {b:?}");
        };
        let text = |t: &str| Value::Text(t.to_owned());
        let integer = || ColumnKind::Integer { bytes: 8, unsigned: false };
        check(integer(), Value::Int(5), Value::UInt(5), true);
        check(integer(), Value::Int(5), Value::Int(6), false);
        check(ColumnKind::Float, Value::Float(-0.0), Value::Float(0.0), true);
        check(ColumnKind::Double, Value::Double(-0.0), Value::Double(0.0), true);
        check(ColumnKind::Double, Value::Double(1.0), Value::Double(1.5), false);
        let decimal = || ColumnKind::Decimal { precision: 10, scale: 2 };
        check(decimal(), text("-0.00"), text("0.00"), true);
        check(decimal(), text("10"), text("1"), false);
        check(decimal(), text("1.50"), text("1.5"), true);
        check(decimal(), text("-1.5"), text("1.5"), false);
        let binary = |b: &'static [u8]| Value::Bytes(bytes::Bytes::from_static(b));
        check(ColumnKind::Binary { length: 4 }, binary(b"a\0\0\0"), binary(b"a"), true);
        check(ColumnKind::Blob, binary(b"a "), binary(b"a"), false);
    }

    #[test]
    fn hashes_of_neighbours_spread() {
        let column = column("c", ColumnKind::Integer { bytes: 8, unsigned: false }, None);
        let hashes: std::collections::HashSet<u64> =
            (0..100_000).filter_map(|i| hash(&column, &Value::Int(i), None)).collect();
        assert_eq!(hashes.len(), 100_000);
        let buckets: std::collections::HashSet<u64> = hashes.iter().map(|h| h & 0xffff).collect();
        assert!(buckets.len() > 40_000, "{}", buckets.len());
    }
}
