//! A range of a table's rows by its row key, and the condition that selects it.

use std::sync::Arc;

use config::names::quote_identifier;

use crate::literal::write_literal;
use crate::schema::table::{Column, TableSchema, UniqueKey};
use crate::value::Value;

/// The rows of a table whose row key is greater than `after` and not greater than `upto`, in the order of the
/// key's own collations. Copy and verifier cut tables into these.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRange {
    /// The table.
    pub table: Arc<TableSchema>,
    /// Exclusive lower bound: a value for each column of the row key. `None`: from the first row on.
    pub after: Option<Vec<Value>>,
    /// Inclusive upper bound. `None`: to the last row.
    pub upto: Option<Vec<Value>>,
}

impl KeyRange {
    /// Every row of a table.
    #[must_use]
    pub fn whole(table: Arc<TableSchema>) -> Self {
        Self { table, after: None, upto: None }
    }

    /// The condition as SQL bytes, to stand behind WHERE, for a session of [`crate::server::connect`]. `TRUE`
    /// for the whole table. Bytes, since a literal of a binary key isn't UTF-8.
    #[must_use]
    pub fn condition(&self) -> Vec<u8> {
        self.condition_over(&key_columns(&self.table).collect::<Vec<_>>())
    }

    /// The same with literals for other columns of these names: those of the other side.
    pub(crate) fn condition_over(&self, key: &[&Column]) -> Vec<u8> {
        let mut sql = Vec::new();
        if let Some(after) = &self.after {
            write_bound(&mut sql, key, after, Bound::After);
        }
        if let Some(upto) = &self.upto {
            if !sql.is_empty() {
                sql.extend_from_slice(b" AND ");
            }
            write_bound(&mut sql, key, upto, Bound::Upto);
        }
        if sql.is_empty() {
            sql.extend_from_slice(b"TRUE");
        }
        sql
    }
}

/// The columns of a table's row key, in key order. Empty for a table without one.
pub fn key_columns(table: &TableSchema) -> impl Iterator<Item = &Column> {
    let positions = table.row_key().map(|key| key.columns.as_slice()).unwrap_or_default();
    positions.iter().filter_map(|position| table.columns.get(*position))
}

/// The columns of a table's row key as SQL, `` `a`, `b` ``: for ORDER BY.
#[must_use]
pub fn key_list(table: &TableSchema) -> String {
    key_columns(table).map(|column| quote_identifier(&column.name)).collect::<Vec<_>>().join(", ")
}

/// `` FORCE INDEX (`PRIMARY`) ``: the optimizer must not sort what the row key has in order. Nothing for a table without a
/// row key.
#[must_use]
pub fn force_row_key(table: &TableSchema) -> String {
    let force = |key: &UniqueKey| format!("FORCE INDEX ({})", quote_identifier(&key.name));
    table.row_key().map(force).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    After,
    Upto,
}

/// `(a, b) > (1, 2)` as `(a >= 1 AND (a > 1 OR (a = 1 AND b > 2)))`: neither family's optimizer turns a row
/// comparison into an index range, both do it with this form.
fn write_bound(sql: &mut Vec<u8>, key: &[&Column], values: &[Value], bound: Bound) {
    let columns: Vec<(&Column, &Value)> = key.iter().copied().zip(values).collect();
    let (strict, last): (&[u8], &[u8]) = match bound {
        Bound::After => (b" > ", b" > "),
        Bound::Upto => (b" < ", b" <= "),
    };
    sql.push(b'(');
    if let ([(column, value), _, ..], loose) =
        (columns.as_slice(), if bound == Bound::After { b" >= " } else { b" <= " })
    {
        write_comparison(sql, column, loose, value);
        sql.extend_from_slice(b" AND ");
    }
    for (index, (column, value)) in columns.iter().enumerate() {
        if index + 1 == columns.len() {
            write_comparison(sql, column, last, value);
        } else {
            sql.push(b'(');
            write_comparison(sql, column, strict, value);
            sql.extend_from_slice(b" OR (");
            write_comparison(sql, column, b" = ", value);
            sql.extend_from_slice(b" AND ");
        }
    }
    for _ in 1..columns.len() {
        sql.extend_from_slice(b"))");
    }
    sql.push(b')');
}

fn write_comparison(sql: &mut Vec<u8>, column: &Column, operator: &[u8], value: &Value) {
    sql.extend_from_slice(quote_identifier(&column.name).as_bytes());
    sql.extend_from_slice(operator);
    write_literal(sql, column, value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::schema::table::ColumnKind;
    use config::TableName;

    fn table(key: &[usize]) -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: ColumnKind::Integer { bytes: 8, unsigned: false },
            column_type: "bigint".to_owned(),
            charset: None,
            collation: None,
            nullable: false,
            generated: false,
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            columns: vec![column("a"), column("b"), column("c")],
            unique_keys: vec![UniqueKey {
                name: "PRIMARY".to_owned(),
                columns: key.to_vec(),
                prefixes: vec![None; key.len()],
            }],
            foreign_keys: Vec::new(),
            has_cascading_children: false,
            rows_estimate: 0,
            create_sql: String::new(),
            keyless: false,
            target: None,
            stored_as: None,
            filter: None,
            left_out: Default::default(),
        })
    }

    #[test]
    fn conditions_are_spelled_out() {
        let check = |key: &[usize], after: Option<&[i64]>, upto: Option<&[i64]>, expected: &str| {
            let values = |v: Option<&[i64]>| v.map(|v| v.iter().map(|n| Value::Int(*n)).collect());
            let range = KeyRange { table: table(key), after: values(after), upto: values(upto) };
            assert_eq!(String::from_utf8(range.condition()).unwrap(), expected);
        };
        check(&[0], None, None, "TRUE");
        check(&[0], Some(&[-1]), None, "(`a` > -1)");
        check(&[0], Some(&[1]), Some(&[5]), "(`a` > 1) AND (`a` <= 5)");
        check(&[1, 0], Some(&[1, 2]), None, "(`b` >= 1 AND (`b` > 1 OR (`b` = 1 AND `a` > 2)))");
        check(
            &[0, 1, 2],
            None,
            Some(&[1, 2, 3]),
            "(`a` <= 1 AND (`a` < 1 OR (`a` = 1 AND (`b` < 2 OR (`b` = 2 AND `c` <= 3)))))",
        );
    }
}
