//! What it takes to make rows of the binary log's bytes, in nanoseconds: events of a hundred rows, with 4, 20 and 100
//! columns of the same four types. `cargo bench --bench decode`; the numbers stand in docs/benchmarks.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use config::TableName;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use replicator::binlog::fuzzing::events;
use replicator::schema::table::{Column, ColumnKind, SchemaSet, TableSchema, UniqueKey};

const ROWS_AN_EVENT: usize = 100;
const EVENTS: usize = 10;
const COLUMNS: [usize; 3] = [4, 20, 100];

/// Event types, and types of columns, as in the binary log.
const XID: u8 = 16;
const TABLE_MAP: u8 = 19;
const WRITE_ROWS_V1: u8 = 23;
const UPDATE_ROWS_V1: u8 = 24;
const MARIADB_GTID: u8 = 162;
const LONG: u8 = 3;
const VARCHAR: u8 = 15;
const DATETIME2: u8 = 18;
const NEWDECIMAL: u8 = 246;

/// `bench.t`: an INT, a VARCHAR(128), a DATETIME and a DECIMAL(12, 2), over and over.
fn tables(columns: usize) -> SchemaSet {
    let kinds = [
        ColumnKind::Integer { bytes: 4, unsigned: false },
        ColumnKind::Text,
        ColumnKind::Datetime { fraction: 0 },
        ColumnKind::Decimal { precision: 12, scale: 2 },
    ];
    let column = |(place, kind): (usize, &ColumnKind)| Column {
        name: format!("c{place}"),
        kind: kind.clone(),
        column_type: String::new(),
        charset: None,
        collation: None,
        nullable: place > 0,
        generated: false,
    };
    SchemaSet::new(vec![TableSchema {
        name: TableName::new("bench", "t"),
        columns: kinds.iter().cycle().take(columns).enumerate().map(column).collect(),
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

fn event(kind: u8, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(19 + body.len()).unwrap();
    let mut out = vec![1, 0, 0, 0, kind, 1, 0, 0, 0];
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(body);
    out
}

fn count_and_bits(columns: usize) -> Vec<u8> {
    let mut out = vec![u8::try_from(columns).unwrap()];
    out.extend(std::iter::repeat_n(0xFF, columns.div_ceil(8)));
    out
}

fn table_map(columns: usize) -> Vec<u8> {
    let mut body = b"\x4d\0\0\0\0\0\x01\0\x05bench\0\x01t\0".to_vec();
    body.push(u8::try_from(columns).unwrap());
    let types = [LONG, VARCHAR, DATETIME2, NEWDECIMAL];
    body.extend(types.iter().cycle().take(columns));
    // Of VARCHAR the bytes it may have, of DATETIME the digits of its fraction, of DECIMAL precision and scale.
    let metadata = [128, 0, 0, 12, 2].repeat(columns / types.len());
    body.extend_from_slice(&[0xFC]);
    body.extend_from_slice(&u16::try_from(metadata.len()).unwrap().to_le_bytes());
    body.extend_from_slice(&metadata);
    body.extend(std::iter::repeat_n(0xFE, columns.div_ceil(8)));
    event(TABLE_MAP, &body)
}

/// One row image.
fn image(id: usize, columns: usize) -> Vec<u8> {
    let mut out = vec![0; columns.div_ceil(8)];
    // 2026-11-30 12:34:56
    let (date, time): (u64, u64) = ((2026 * 13 + 11) << 5 | 30, 12 << 12 | 34 << 6 | 56);
    let datetime = ((date << 17 | time) + (1 << 39)).to_be_bytes();
    for _ in 0..columns / 4 {
        out.extend_from_slice(&u32::try_from(id).unwrap().to_le_bytes());
        out.push(32);
        out.extend_from_slice(b"68487932199-96439406143-93774651");
        out.extend_from_slice(&datetime[3..]);
        // 123.45
        out.extend_from_slice(&[0x80, 0, 0, 0, 123, 45]);
    }
    out
}

/// One transaction: [`EVENTS`] events of inserts, or of updates with both images.
fn transaction(columns: usize, updates: bool) -> Vec<u8> {
    let mut gtid = 7_u64.to_le_bytes().to_vec();
    gtid.extend_from_slice(&[0; 11]);
    let mut out = event(MARIADB_GTID, &gtid);
    for number in 0..EVENTS {
        out.extend(table_map(columns));
        let mut body = b"\x4d\0\0\0\0\0\x01\0".to_vec();
        body.extend(count_and_bits(columns));
        if updates {
            body.extend(&count_and_bits(columns)[1..]);
        }
        for row in 0..ROWS_AN_EVENT {
            let image = image(number * ROWS_AN_EVENT + row, columns);
            body.extend(image.repeat(if updates { 2 } else { 1 }));
        }
        out.extend(event(if updates { UPDATE_ROWS_V1 } else { WRITE_ROWS_V1 }, &body));
    }
    out.extend(event(XID, &[0; 8]));
    out
}

fn decode(criterion: &mut Criterion) {
    for (name, updates) in [("insert", false), ("update", true)] {
        let mut group = criterion.benchmark_group(name);
        for columns in COLUMNS {
            let (tables, stream) = (tables(columns), transaction(columns, updates));
            let seen = events(tables.clone(), &stream, false);
            assert_eq!((seen.rows, seen.closed), (EVENTS * ROWS_AN_EVENT, 1), "every row is decoded");
            group.throughput(Throughput::Elements((EVENTS * ROWS_AN_EVENT) as u64));
            group.bench_function(format!("{columns} columns"), |bencher| {
                bencher.iter(|| events(black_box(tables.clone()), black_box(&stream), false));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = rows;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = decode
}
criterion_main!(rows);
