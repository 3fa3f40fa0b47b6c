//! Tables and changes for the unit tests of this room.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use bytes::Bytes;
use config::{BinlogPosition, Gtid, TableName};

use crate::binlog::transaction::{RowChange, RowsChange, TransactionMeta};
use crate::schema::table::{Column, ColumnKind, TableSchema, UniqueKey};
use crate::value::Value;

/// A table of INT columns `c0`, `c1`, …; the first of `keys` is the primary key.
pub(crate) fn table(name: &str, columns: usize, keys: &[&[usize]]) -> Arc<TableSchema> {
    let columns = (0..columns)
        .map(|i| column(&format!("c{i}"), ColumnKind::Integer { bytes: 8, unsigned: false }, None))
        .collect();
    Arc::new(schema(name, columns, keys))
}

/// A table of any columns.
pub(crate) fn schema(name: &str, columns: Vec<Column>, keys: &[&[usize]]) -> TableSchema {
    let unique_keys = keys
        .iter()
        .enumerate()
        .map(|(i, key)| UniqueKey {
            name: if i == 0 { "PRIMARY".to_owned() } else { format!("u{i}") },
            columns: key.to_vec(),
            prefixes: vec![None; key.len()],
        })
        .collect();
    TableSchema {
        name: TableName::new("s", name),
        columns,
        unique_keys,
        foreign_keys: Vec::new(),
        has_cascading_children: false,
        rows_estimate: 0,
        create_sql: String::new(),
        keyless: keys.is_empty(),
        target: None,
        stored_as: None,
        filter: None,
        left_out: Default::default(),
    }
}

/// A column; `collation` says its charset as well.
pub(crate) fn column(name: &str, kind: ColumnKind, collation: Option<&str>) -> Column {
    Column {
        name: name.to_owned(),
        kind,
        column_type: String::new(),
        charset: collation.map(|c| c.split('_').next().unwrap().to_owned()),
        collation: collation.map(str::to_owned),
        nullable: true,
        generated: false,
    }
}

pub(crate) fn int_row(values: &[i64]) -> Vec<Value> {
    values.iter().map(|&v| if v == i64::MIN { Value::Null } else { Value::Int(v) }).collect()
}

pub(crate) fn text(value: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(value.as_bytes()))
}

pub(crate) fn insert(after: Vec<Value>) -> RowChange {
    RowChange::Insert { after }
}

pub(crate) fn update(before: Vec<Value>, after: Vec<Value>) -> RowChange {
    RowChange::Update { before, after }
}

pub(crate) fn delete(before: Vec<Value>) -> RowChange {
    RowChange::Delete { before }
}

pub(crate) fn change(table: &Arc<TableSchema>, rows: Vec<RowChange>) -> RowsChange {
    RowsChange { table: Arc::clone(table), rows, foreign_key_checks: true }
}

pub(crate) fn meta(seq: u64) -> TransactionMeta {
    TransactionMeta {
        seq,
        gtid: Gtid::MariaDb { domain: 0, server: 1, sequence: seq },
        end: BinlogPosition { file: "bin.000001".to_owned(), offset: 100 * seq },
        committed_at_us: 1_000_000 * seq,
    }
}
