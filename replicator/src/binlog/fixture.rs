//! A small table and its events, for tests.

use bytes::Bytes;
use config::{BinlogPosition, Gtid, TableName};

use super::event::{EventHeader, HEADER_BYTES, kind, write_event_header};
use crate::schema::table::{Column, ColumnKind, SchemaSet, TableSchema, UniqueKey};

/// Table id in the events.
const TABLE_ID: u8 = 77;

/// `shop.t (id INT UNSIGNED PRIMARY KEY, v VARCHAR(1000))`.
pub(crate) fn tables() -> SchemaSet {
    let column = |name: &str, kind: ColumnKind, nullable: bool| Column {
        name: name.to_owned(),
        kind,
        column_type: name.to_owned(),
        charset: None,
        collation: None,
        nullable,
        generated: false,
    };
    SchemaSet::new(vec![TableSchema {
        name: TableName::new("shop", "t"),
        columns: vec![
            column("id", ColumnKind::Integer { bytes: 4, unsigned: true }, false),
            column("v", ColumnKind::Blob, true),
        ],
        unique_keys: vec![UniqueKey { name: "PRIMARY".to_owned(), columns: vec![0], prefixes: vec![None] }],
        foreign_keys: Vec::new(),
        has_cascading_children: false,
        rows_estimate: 0,
        create_sql: String::new(),
        keyless: false,
        target: None,
        stored_as: None,
        filter: None,
        left_out: Default::default(),
    }])
}

pub(crate) fn header(kind: u8) -> EventHeader {
    EventHeader { timestamp: 1, kind, server_id: 1, size: 0, log_pos: 0, flags: 0 }
}

/// Body of a table map for `schema`.t.
pub(crate) fn table_map(schema: &str) -> Vec<u8> {
    let mut body = vec![TABLE_ID, 0, 0, 0, 0, 0, 1, 0];
    body.push(u8::try_from(schema.len()).unwrap_or_default());
    body.extend_from_slice(schema.as_bytes());
    body.extend_from_slice(&[0, 1, b't', 0]);
    // Two columns, LONG and VARCHAR(1000), two bytes of metadata, null bitmap.
    body.extend_from_slice(&[2, 3, 15, 2, 0xe8, 0x03, 2]);
    body
}

/// Body of WRITE_ROWS with these ids, each with `value_bytes` of value.
pub(crate) fn write_rows(ids: &[u32], value_bytes: u16) -> Vec<u8> {
    let mut body = vec![TABLE_ID, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 3];
    for id in ids {
        body.push(0);
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(&value_bytes.to_le_bytes());
        body.resize(body.len() + usize::from(value_bytes), b'v');
    }
    body
}

/// Body of UPDATE_ROWS that adds one to an id.
pub(crate) fn update_rows(id: u32) -> Vec<u8> {
    let mut body = vec![TABLE_ID, 0, 0, 0, 0, 0, 3, 0, 2, 0, 2, 3, 3];
    for (id, nulls) in [(id, 2_u8), (id + 1, 2)] {
        body.push(nulls);
        body.extend_from_slice(&id.to_le_bytes());
    }
    body
}

/// An event as the spool holds it.
pub(crate) fn whole(kind: u8, body: &[u8]) -> Bytes {
    let mut out = Vec::new();
    write_event_header(&mut out, &header(kind), body.len());
    out.extend_from_slice(body);
    out.into()
}

pub(crate) fn gtid(sequence: u64) -> Gtid {
    Gtid::MariaDb { domain: 0, server: 1, sequence }
}

pub(crate) fn position(offset: u64) -> BinlogPosition {
    BinlogPosition { file: "bin.000001".to_owned(), offset }
}

/// Every kind of event of a transaction that is ours, with a body that is right.
pub(crate) fn samples() -> Vec<(u8, Vec<u8>)> {
    let mut gtid_event = vec![0; 25];
    gtid_event.extend_from_slice(&[2; 40]);
    let mut query = vec![0; 8];
    query.extend_from_slice(&[4, 0, 0, 0, 0]);
    query.extend_from_slice(b"shop\0BEGIN");
    vec![
        (kind::GTID, gtid_event),
        (kind::MARIADB_GTID, vec![1; 19]),
        (kind::QUERY, query),
        (kind::TABLE_MAP, table_map("shop")),
        (kind::WRITE_ROWS, write_rows(&[1, 2, 3], 20)),
        (kind::UPDATE_ROWS, update_rows(4)),
        (kind::XID, vec![0; 8]),
    ]
}

pub(crate) const HEADER: usize = HEADER_BYTES;
