//! Chunks and their bounds as bytes, for the files that know of them: the chunk journal and the staged parts.
//!
//! A text is a u32 length and its bytes, a number a u64, both little-endian. A bound is a byte 0 (no bound: the table's first or last
//! row) or 1, a count byte and so many values; a value is a tag byte (0 to 6: the variants of [`Value`] in order) and a number,
//! the bits of a float, or a text.

use bytes::Bytes;
use config::TableName;

use crate::value::Value;

pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(text);
}

pub(super) fn write_chunk(out: &mut Vec<u8>, table: &TableName, number: u64) {
    write_text(out, table.schema.as_bytes());
    write_text(out, table.table.as_bytes());
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn write_bound(out: &mut Vec<u8>, bound: Option<&[Value]>) {
    match bound {
        None => out.push(0),
        Some(values) => {
            out.push(1);
            out.push(u8::try_from(values.len()).unwrap_or(u8::MAX));
            values.iter().for_each(|value| write_value(out, value));
        }
    }
}

/// The outer `None`: it makes no sense.
pub(super) fn take_bound(input: &mut &[u8]) -> Option<Option<Vec<Value>>> {
    match take_u8(input)? {
        0 => Some(None),
        _ => {
            let count = take_u8(input)?;
            (0..count).map(|_| take_value(input)).collect::<Option<Vec<_>>>().map(Some)
        }
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut number = |tag: u8, bits: u64| {
        out.push(tag);
        out.extend_from_slice(&bits.to_le_bytes());
    };
    match value {
        // No key has an absent value.
        Value::Null | Value::Absent => out.push(0),
        Value::Int(v) => number(1, v.cast_unsigned()),
        Value::UInt(v) => number(2, *v),
        Value::Float(v) => number(3, u64::from(v.to_bits())),
        Value::Double(v) => number(4, v.to_bits()),
        Value::Text(text) => {
            out.push(5);
            write_text(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(6);
            write_text(out, bytes);
        }
    }
}

fn take_value(input: &mut &[u8]) -> Option<Value> {
    Some(match take_u8(input)? {
        0 => Value::Null,
        1 => Value::Int(take_u64(input)?.cast_signed()),
        2 => Value::UInt(take_u64(input)?),
        3 => Value::Float(f32::from_bits(u32::try_from(take_u64(input)?).ok()?)),
        4 => Value::Double(f64::from_bits(take_u64(input)?)),
        5 => Value::Text(String::from_utf8(take_text(input)?.to_vec()).ok()?),
        6 => Value::Bytes(Bytes::copy_from_slice(take_text(input)?)),
        _ => return None,
    })
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

pub(super) fn take_u8(input: &mut &[u8]) -> Option<u8> {
    take(input, 1)?.first().copied()
}

pub(super) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(input, 4)?.try_into().ok()?))
}

pub(super) fn take_u64(input: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(input, 8)?.try_into().ok()?))
}

pub(super) fn take_text<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u32(input)?;
    take(input, length as usize)
}
