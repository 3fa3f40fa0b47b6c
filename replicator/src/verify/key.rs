//! Row keys: as bytes that can be kept and compared, and as conditions that an index can serve.

use config::names::quote_identifier;

use crate::error::{Error, Result};
use crate::literal::write_literal;
use crate::schema::table::{Column, ColumnKind, TableSchema};
use crate::value::Value;

/// The values of a row's key, encoded: equal bytes are equal values. The reverse doesn't hold where the server
/// compares more loosely ('A' = 'a', 0.0 = -0.0), so only the server is asked whether two keys are the same row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RowKey(Box<[u8]>);

impl RowKey {
    pub(crate) fn encode(values: &[Value]) -> Self {
        let mut out = Vec::with_capacity(values.len() * 9);
        for value in values {
            encode_value(&mut out, value);
        }
        Self(out.into_boxed_slice())
    }

    pub(crate) fn decode(&self) -> Vec<Value> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(|| decode_value(&mut rest)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A tag, then the value; what has no fixed length has its length in front. Floats by their bits.
pub(super) fn encode_value(out: &mut Vec<u8>, value: &Value) {
    let mut long = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Text(text) => long(5, text.as_bytes()),
        Value::Bytes(bytes) => long(6, bytes),
        // No key has an absent value.
        Value::Null | Value::Absent => out.push(0),
        Value::Int(v) => fixed(out, 1, &v.to_le_bytes()),
        Value::UInt(v) => fixed(out, 2, &v.to_le_bytes()),
        Value::Float(v) => fixed(out, 3, &v.to_bits().to_le_bytes()),
        Value::Double(v) => fixed(out, 4, &v.to_bits().to_le_bytes()),
    }
}

fn fixed(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

/// `None` at the end. Only ever reads what [`encode_value`] wrote.
fn decode_value(rest: &mut &[u8]) -> Option<Value> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = rest.split_first_chunk::<N>()?;
        *rest = tail;
        Some(*head)
    }
    let [tag] = take::<1>(rest)?;
    Some(match tag {
        0 => Value::Null,
        1 => Value::Int(i64::from_le_bytes(take(rest)?)),
        2 => Value::UInt(u64::from_le_bytes(take(rest)?)),
        3 => Value::Float(f32::from_bits(u32::from_le_bytes(take(rest)?))),
        4 => Value::Double(f64::from_bits(u64::from_le_bytes(take(rest)?))),
        _ => {
            let length = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
            let (head, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            match tag {
                5 => Value::Text(String::from_utf8_lossy(head).into_owned()),
                _ => Value::Bytes(head.to_vec().into()),
            }
        }
    })
}

/// The key that a table's rows are found by, with what SQL needs of it.
pub(super) struct Key<'a> {
    columns: Vec<&'a Column>,
}

impl<'a> Key<'a> {
    pub(super) fn of(table: &'a TableSchema) -> Result<Self> {
        Self::with(table, |at| table.columns.get(at))
    }

    /// The key of `table` with other columns than its own.
    pub(super) fn with(table: &TableSchema, column: impl Fn(usize) -> Option<&'a Column>) -> Result<Self> {
        // Such a table is only ever compared as a whole.
        let Some(key) = table.row_key() else { return Ok(Self { columns: Vec::new() }) };
        let columns: Option<Vec<&Column>> = key.columns.iter().map(|&i| column(i)).collect();
        let columns = columns.filter(|columns| !columns.is_empty()).ok_or_else(|| {
            Error::bug(table.name.to_string(), format!("the key {} has no columns", key.name))
        })?;
        Ok(Self { columns })
    }

    pub(super) fn columns(&self) -> &[&'a Column] {
        &self.columns
    }

    /// The condition of one row.
    pub(super) fn equals(&self, key: &RowKey) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_equals(&mut out, key);
        out
    }

    fn write_equals(&self, out: &mut Vec<u8>, key: &RowKey) {
        out.push(b'(');
        for (i, (column, value)) in self.columns.iter().zip(key.decode()).enumerate() {
            out.extend_from_slice(if i == 0 { b"" } else { b" AND " });
            write_comparison(out, column, " = ", &value);
        }
        out.push(b')');
    }

    /// The condition of several rows: an IN list for one column; for more, ANDs in an OR, because MariaDB uses no
    /// index for a list of rows.
    pub(super) fn one_of(&self, keys: &[RowKey]) -> Vec<u8> {
        let mut out = Vec::new();
        if let [column] = self.columns.as_slice() {
            write_compared(&mut out, column);
            out.extend_from_slice(b" IN (");
            for (i, key) in keys.iter().enumerate() {
                out.extend_from_slice(if i == 0 { b"" } else { b"," });
                for value in key.decode().iter().take(1) {
                    write_literal(&mut out, column, value);
                }
            }
            out.push(b')');
            return out;
        }
        for (i, key) in keys.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"(" } else { b" OR " });
            self.write_equals(&mut out, key);
        }
        out.push(b')');
        out
    }
}

fn write_comparison(out: &mut Vec<u8>, column: &Column, operator: &str, value: &Value) {
    write_compared(out, column);
    out.extend_from_slice(operator.as_bytes());
    write_literal(out, column, value);
}

fn write_compared(out: &mut Vec<u8>, column: &Column) {
    let name = quote_identifier(&column.name);
    match column.kind {
        // Compared with a number, a SET goes through a double, which has only 53 bits.
        ColumnKind::Set { .. } => out.extend_from_slice(format!("CAST({name} AS UNSIGNED)").as_bytes()),
        _ => out.extend_from_slice(name.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::verify::checksum::tests::{column, table};
    use proptest::prelude::*;

    #[test]
    fn conditions() {
        let table = table(vec![
            column("a", ColumnKind::Integer { bytes: 4, unsigned: false }),
            column("b`", ColumnKind::Integer { bytes: 4, unsigned: true }),
        ]);
        let key = |a, b| RowKey::encode(&[Value::Int(a), Value::UInt(b)]);
        let two = Key::of(&table).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(two.one_of(&[key(1, 2), key(3, 4)])),
            "((`a` = 1 AND `b``` = 2) OR (`a` = 3 AND `b``` = 4))"
        );
        let mut one_column = table.clone();
        one_column.unique_keys[0].columns = vec![0];
        let one = Key::of(&one_column).unwrap();
        let key = |a| RowKey::encode(&[Value::Int(a)]);
        assert_eq!(text(one.one_of(&[key(1), key(2)])), "`a` IN (1,2)");
        assert_eq!(text(one.equals(&key(7))), "(`a` = 7)");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::UInt),
            (-1e30_f32..1e30).prop_map(Value::Float),
            (-1e300_f64..1e300).prop_map(Value::Double),
            "\\PC*".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Bytes(b.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_key_survives_its_bytes(values in proptest::collection::vec(any_value(), 0..5)) {
            prop_assert_eq!(RowKey::encode(&values).decode(), values);
        }
    }
}
