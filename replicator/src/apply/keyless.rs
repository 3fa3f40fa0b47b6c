//! Changes of a table whose rows nothing tells apart.
//!
//! A row is found by the bytes of all its stored columns, and one of those that are equal in them is changed: which one
//! makes no difference to anybody. The changes are carried out one by one in their order, in safe mode too, since the
//! table was copied at a position of its own and everything behind that is applied exactly once (see
//! `snapshot::whole`): the position is committed with the rows.

use config::names::quote_identifier;

use super::net::Row;
use super::statement::{Mode, Script, Verb};
use super::table_text::TableText;
use crate::binlog::transaction::{RowChange, RowsChange};
use crate::error::Result;
use crate::json;
use crate::literal::{is_ascii_safe, write_bytes, write_literal};
use crate::schema::table::{Column, ColumnKind};
use crate::value::Value;

/// A text up to so many bytes is compared by its collation as well, which an index can serve.
const INDEXED_BYTES_MAX: usize = 255;

impl Script {
    /// Adds the statements for the rows of an event, in their order.
    pub(super) fn keyless(&mut self, change: &RowsChange) -> Result<()> {
        let table = TableText::new(&change.table);
        let mut inserts: Vec<&Row> = Vec::new();
        for row in &change.rows {
            if let RowChange::Insert { after } = row {
                inserts.push(after);
                continue;
            }
            self.insert(&table, &std::mem::take(&mut inserts), Mode::Exact)?;
            let mut sql = Vec::with_capacity(256);
            match row {
                RowChange::Insert { .. } => {}
                RowChange::Delete { before } => {
                    sql.extend_from_slice(b"DELETE FROM ");
                    sql.extend_from_slice(table.name.as_bytes());
                    write_condition(&mut sql, &table, before);
                    self.statement(&table, &mut sql, Verb::Delete, 1, Mode::Exact)?;
                }
                RowChange::Update { before, after } => {
                    self.lenient(table.needs_lenient(after))?;
                    sql.extend_from_slice(b"UPDATE ");
                    sql.extend_from_slice(table.name.as_bytes());
                    sql.extend_from_slice(b" SET ");
                    table.write_assignments(&mut sql, before, after);
                    write_condition(&mut sql, &table, before);
                    self.statement(&table, &mut sql, Verb::Update, 1, Mode::Exact)?;
                    self.lenient(false)?;
                }
            }
        }
        self.insert(&table, &inserts, Mode::Exact)
    }
}

/// ` WHERE a=1 AND b IS NULL … LIMIT 1`
fn write_condition(out: &mut Vec<u8>, table: &TableText<'_>, row: &Row) {
    out.extend_from_slice(b" WHERE ");
    let mut first = true;
    for &at in table.stored() {
        if let (Some(column), Some(value)) = (table.schema.columns.get(at), row.get(at)) {
            if !std::mem::take(&mut first) {
                out.extend_from_slice(b" AND ");
            }
            write_equals(out, column, value);
        }
    }
    out.extend_from_slice(b" LIMIT 1");
}

/// A condition that holds for exactly the bytes of `value`.
fn write_equals(out: &mut Vec<u8>, column: &Column, value: &Value) {
    let name = quote_identifier(&column.name);
    let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
    match (&column.kind, value) {
        (_, Value::Null) => text(&format!("{name} IS NULL")),
        // By number: their texts can be ambiguous. A year of two digits would be another one.
        (ColumnKind::Enum { .. } | ColumnKind::Set { .. } | ColumnKind::Year, Value::UInt(number)) => {
            text(&format!("CAST({name} AS UNSIGNED)={number}"));
        }
        (ColumnKind::Bit { .. }, Value::Bytes(bytes)) => {
            let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            text(&format!("CAST({name} AS UNSIGNED)={number}"));
        }
        (ColumnKind::Json, Value::Text(document)) => write_equal_document(out, column, document),
        (_, Value::Bytes(bytes)) => {
            let charset = column.charset.as_deref();
            if charset.is_some_and(is_ascii_safe) && bytes.is_ascii() && bytes.len() <= INDEXED_BYTES_MAX {
                text(&format!("{name}="));
                write_literal(out, column, value);
                out.extend_from_slice(b" AND ");
            }
            out.extend_from_slice(format!("CAST({name} AS BINARY)=").as_bytes());
            write_bytes(out, bytes);
        }
        _ => {
            text(&format!("{name}="));
            write_literal(out, column, value);
            if let Some(sign) = sign_of_zero(value) {
                // Both zeros are equal to the server, and print differently.
                out.extend_from_slice(format!(" AND LEFT(CONCAT({name} * 1e0),1)='{sign}'").as_bytes());
            }
        }
    }
}

/// How a floating-point zero begins when it is printed.
fn sign_of_zero(value: &Value) -> Option<char> {
    let number = match value {
        Value::Float(number) => f64::from(*number),
        Value::Double(number) => *number,
        _ => return None,
    };
    (number == 0.0).then_some(if number.is_sign_negative() { '-' } else { '0' })
}

/// Documents are equal to the server where their numbers are, of whatever type; so their texts and types are compared, as a
/// copy reads them.
fn write_equal_document(out: &mut Vec<u8>, column: &Column, document: &str) {
    let read = format!("CAST({} AS BINARY)", json::select_expression(&column.name));
    let mut literal = Vec::new();
    write_literal(&mut literal, column, &Value::Text(document.to_owned()));
    out.extend_from_slice(format!("{read}=(SELECT {read} FROM (SELECT CAST(").as_bytes());
    out.extend_from_slice(&literal);
    out.extend_from_slice(
        format!(" AS JSON) AS {}) `changeover document`)", quote_identifier(&column.name)).as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use super::super::sample::{change, column, delete, insert, int_row, schema, table, text, update};
    use super::super::writeset::Plans;
    use super::*;
    use crate::schema::table::SchemaSet;

    #[test]
    fn changes_come_in_their_order_in_either_mode() {
        let t = table("t", 2, &[]);
        let plans = Plans::new(&SchemaSet::new(vec![(*t).clone()]), true);
        let r = int_row;
        let none = i64::MIN;
        let rows = vec![
            insert(r(&[1, none])),
            insert(r(&[1, none])),
            update(r(&[1, none]), r(&[2, none])),
            delete(r(&[1, none])),
            insert(r(&[3, 3])),
        ];
        for mode in [Mode::Safe, Mode::Exact] {
            let mut script = Script::new(1 << 20);
            script.changes(&plans, mode, &[change(&t, rows.clone())]).unwrap();
            let query = script.finish().unwrap().remove(0);
            let counts: Vec<Option<u64>> = query.statements.iter().map(|s| s.rows).collect();
            assert_eq!(counts, [Some(2), Some(1), Some(1), Some(1)]);
            assert_eq!(
                String::from_utf8(query.sql).unwrap().replace('`', ""),
                "INSERT INTO s.t (c0,c1) VALUES (1,NULL),(1,NULL);\
                 UPDATE s.t SET c0=2 WHERE c0=1 AND c1 IS NULL LIMIT 1;\
                 DELETE FROM s.t WHERE c0=1 AND c1 IS NULL LIMIT 1;\
                 INSERT INTO s.t (c0,c1) VALUES (3,3)"
            );
        }
    }

    #[test]
    fn values_are_compared_by_their_bytes() {
        let check = |kind: ColumnKind, collation: Option<&str>, value: Value, expected: &str| {
            let t = Arc::new(schema("t", vec![column("c", kind, collation)], &[]));
            let mut sql = Vec::new();
            write_condition(&mut sql, &TableText::new(&t), &[value]);
            let sql = String::from_utf8(sql).unwrap().replace('`', "");
            assert_eq!(sql, format!(" WHERE {expected} LIMIT 1"));
        };
        let utf8 = Some("utf8mb4_general_ci");
        check(ColumnKind::Text, utf8, text("a'"), "c=_utf8mb4'a\\'' AND CAST(c AS BINARY)=_binary'a\\''");
        check(ColumnKind::Text, utf8, text("é"), "CAST(c AS BINARY)=_binary'é'");
        check(ColumnKind::Blob, None, text("a"), "CAST(c AS BINARY)=_binary'a'");
        check(ColumnKind::Double, None, Value::Double(1.5), "c=1.5e0");
        check(ColumnKind::Double, None, Value::Double(-0.0), "c=-0e0 AND LEFT(CONCAT(c * 1e0),1)='-'");
        check(ColumnKind::Float, None, Value::Float(0.0), "c=0e0 AND LEFT(CONCAT(c * 1e0),1)='0'");
        check(ColumnKind::Year, None, Value::UInt(0), "CAST(c AS UNSIGNED)=0");
        check(ColumnKind::Bit { bits: 9 }, None, text("\u{1}\u{2}"), "CAST(c AS UNSIGNED)=258");
        check(ColumnKind::Text, utf8, Value::Null, "c IS NULL");
    }
}
