//! A table's part of a statement's text: names, rows, conditions.

use std::sync::Arc;

use config::names::quote_identifier;

use super::net::{Row, same_columns};
use crate::literal::write_literal;
use crate::schema::table::{Column, ColumnKind, TableSchema};
use crate::value::Value;

/// Only rows up to about this size are updated together: all of a row is named there, not only what changed.
const TOGETHER_BYTES_MAX: usize = 1024;

/// The parts of a table's statements that are the same for every row.
#[derive(Debug)]
pub(super) struct TableText<'a> {
    /// The table.
    pub(super) schema: &'a Arc<TableSchema>,
    /// Schema and table, quoted.
    pub(super) name: String,
    /// ` (a,b,c) VALUES`
    pub(super) column_list: String,
    key_names: Vec<String>,
    key: &'a [usize],
    stored: Vec<usize>,
    /// Columns that aren't moved and that an UPDATE might set by itself.
    kept_back: Vec<String>,
    has_enum: bool,
}

impl<'a> TableText<'a> {
    pub(super) fn new(schema: &'a Arc<TableSchema>) -> Self {
        let key = schema.row_key();
        let stored: Vec<usize> = schema.stored_columns().collect();
        let name_of = |column: &Column| quote_identifier(&column.name);
        let names = |columns: &[usize]| -> Vec<String> {
            columns.iter().filter_map(|&c| schema.columns.get(c)).map(name_of).collect()
        };
        Self {
            schema,
            name: schema.quoted(),
            column_list: format!(" ({}) VALUES", names(&stored).join(",")),
            key_names: key.map(|key| names(&key.columns)).unwrap_or_default(),
            key: key.map_or(&[], |key| &key.columns),
            kept_back: schema
                .left_out
                .columns
                .iter()
                .filter(|left| is_timed(&left.column) || left.altered)
                .map(|left| name_of(&left.column))
                .collect(),
            has_enum: schema.columns.iter().any(|c| matches!(c.kind, ColumnKind::Enum { .. })),
            stored,
        }
    }

    /// The columns that are written.
    pub(super) fn stored(&self) -> &[usize] {
        &self.stored
    }

    fn write_list(&self, out: &mut Vec<u8>, columns: &[usize], row: &Row) {
        for (i, &c) in columns.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            if let (Some(column), Some(value)) = (self.schema.columns.get(c), row.get(c)) {
                write_literal(out, column, value);
            }
        }
    }

    /// `(1,'a')`
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &Row) {
        out.push(b'(');
        self.write_list(out, &self.stored, row);
        out.push(b')');
    }

    /// The next part of a condition by key: `a IN (1`, `,2`; or, for a key of several columns, `a=1 AND b=2`,
    /// ` OR a=1 AND b=3`. Row constructors would be shorter, but MariaDB reads the whole table for one.
    pub(super) fn write_condition(&self, out: &mut Vec<u8>, row: &Row, before: u64) {
        if let &[column] = self.key {
            if before == 0 {
                out.extend_from_slice(self.key_names.first().map_or("", String::as_str).as_bytes());
                out.extend_from_slice(b" IN (");
            } else {
                out.push(b',');
            }
            self.write_list(out, &[column], row);
            return;
        }
        if before > 0 {
            out.extend_from_slice(b" OR ");
        }
        for (i, (column, name)) in self.key.iter().zip(&self.key_names).enumerate() {
            if i > 0 {
                out.extend_from_slice(b" AND ");
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            self.write_list(out, std::slice::from_ref(column), row);
        }
    }

    pub(super) fn end_condition(&self, out: &mut Vec<u8>) {
        if self.key.len() == 1 {
            out.push(b')');
        }
    }

    /// `a=1,b='x'` for the columns that changed, and for every TIMESTAMP and DATETIME: one that isn't named is
    /// set to the present time where it is declared ON UPDATE CURRENT_TIMESTAMP. One that isn't moved stays as it is.
    pub(super) fn write_assignments(&self, out: &mut Vec<u8>, before: &Row, after: &Row) {
        let changed = |c: usize| match (before.get(c), after.get(c)) {
            (_, Some(Value::Absent)) => false,
            (Some(a), Some(b)) => !a.is_identical(b),
            _ => true,
        };
        let timed = |c: usize| self.schema.columns.get(c).is_some_and(is_timed);
        let mut named: Vec<usize> = self.stored.iter().copied().filter(|&c| timed(c) || changed(c)).collect();
        if named.is_empty() {
            // Nothing that is stored has changed; the statement still has to find its row.
            named.extend(self.key.first().or(self.stored.first()));
        }
        for (i, &c) in named.iter().enumerate() {
            if let (Some(column), Some(value)) = (self.schema.columns.get(c), after.get(c)) {
                if i > 0 {
                    out.push(b',');
                }
                let name = quote_identifier(&column.name);
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                match value {
                    // It stays as it is.
                    Value::Absent => out.extend_from_slice(name.as_bytes()),
                    value => write_literal(out, column, value),
                }
            }
        }
        for name in &self.kept_back {
            out.extend_from_slice(format!(",{name}={name}").as_bytes());
        }
    }

    /// `a=VALUES(a),b=VALUES(b)` for every column that is stored and not of the row key.
    pub(super) fn write_new_values(&self, out: &mut Vec<u8>) {
        let mut first = true;
        for column in
            self.stored.iter().filter(|c| !self.key.contains(c)).filter_map(|&c| self.schema.columns.get(c))
        {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            let name = quote_identifier(&column.name);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"=VALUES(");
            out.extend_from_slice(name.as_bytes());
            out.push(b')');
        }
    }

    /// True for a small row of which something changed that is stored and not of the row key.
    pub(super) fn fits_together(&self, before: &Row, after: &Row) -> bool {
        let bytes: usize = after
            .iter()
            .map(|value| match value {
                Value::Text(text) => text.len(),
                Value::Bytes(bytes) => bytes.len(),
                _ => 8,
            })
            .sum();
        // The server counts by its own idea of what changed: zeros with and without a sign, or two spellings of a
        // JSON document, may be the same to it.
        let certain = |c: usize| {
            let kind = self.schema.columns.get(c).map(|column| &column.kind);
            !matches!(kind, None | Some(ColumnKind::Float | ColumnKind::Double | ColumnKind::Json))
        };
        bytes <= TOGETHER_BYTES_MAX
            && self.stored.iter().any(|&c| certain(c) && !same_columns(&[c], before, after))
    }

    /// True where the row holds the error value of an ENUM, or a default that there may be none of: the source gave the
    /// column its type's own then.
    pub(super) fn needs_lenient(&self, row: &Row) -> bool {
        let of_enum = || {
            self.schema.columns.iter().zip(row).any(|(column, value)| {
                matches!(column.kind, ColumnKind::Enum { .. }) && *value == Value::UInt(0)
            })
        };
        row.contains(&Value::Absent) || (self.has_enum && of_enum())
    }
}

/// True for a column that may be declared ON UPDATE CURRENT_TIMESTAMP.
fn is_timed(column: &Column) -> bool {
    matches!(column.kind, ColumnKind::Timestamp { .. } | ColumnKind::Datetime { .. }) && !column.generated
}
