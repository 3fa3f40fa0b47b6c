//! What the proxy itself costs a statement, in nanoseconds and without a socket: hopping over packets, finding the
//! end of an answer, reading a statement. `cargo bench --bench relay`; the numbers stand in docs/benchmarks.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proxy::protocol::capability::Capabilities;
use proxy::protocol::command::Command;
use proxy::protocol::frame::{HEADER_LEN, Header, put_packet};
use proxy::relay::exchange::{Exchange, Progress};
use proxy::session::lexer;

/// What a leg with a lot to say reads at a time.
const PORTION: usize = 64 * 1024;
/// `Rows` of sysbench's large result: a row is an id, a number and two texts, 190 bytes.
const ROW: usize = 190;
const AUTOCOMMIT: u16 = 2;

/// sysbench's text of `c`: ten groups of eleven digits.
fn c_text() -> String {
    ["68487932199"; 10].join("-")
}

/// What an application says, by name.
fn statements() -> Vec<(String, Vec<u8>)> {
    let update = format!("UPDATE sbtest1 SET c='{}' WHERE id=5021", c_text());
    assert_eq!(update.len(), 156);
    let insert = format!(
        "INSERT INTO sbtest1 (id, k, c, pad) VALUES (5021, 4977, '{}', '67847967377-48000963322-62604785301-91415491898-96926520291')",
        c_text()
    );
    let join = "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id \
                WHERE o.status = 'open' AND o.created > '2026-01-01' ORDER BY o.id LIMIT 20";
    let texts = [
        ("commit", "COMMIT"),
        ("point select", "SELECT c FROM sbtest1 WHERE id=5021"),
        ("sum range", "SELECT SUM(k) FROM sbtest1 WHERE id BETWEEN 5021 AND 5120"),
        ("update", &update),
        ("insert", &insert),
        ("join", join),
        ("set names", "SET NAMES utf8mb4"),
    ];
    texts
        .iter()
        .map(|(name, text)| (format!("{name}, {} bytes", text.len()), text.as_bytes().to_vec()))
        .collect()
}

fn stream<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sequence = 1;
    for payload in payloads {
        sequence = put_packet(&mut out, sequence, payload);
    }
    out
}

fn eof() -> [u8; 5] {
    let [low, high] = AUTOCOMMIT.to_le_bytes();
    [0xFE, 0, 0, low, high]
}

const OK: &[u8] = &[0, 1, 0, AUTOCOMMIT as u8, 0, 0, 0];
const COLUMN: &[u8] =
    b"\x03def\x06sbtest\x07sbtest1\x07sbtest1\x01c\x01c\x0c\x2d\x00\xe0\x01\x00\x00\xfe\x01\x00\x00\x00";

fn rows(count: usize) -> Vec<u8> {
    let mut row = vec![b'7'; ROW];
    row[0] = 0xBD - 1;
    let eof = eof();
    let head: [&[u8]; 3] = [&[1], COLUMN, &eof];
    stream(head.into_iter().chain(std::iter::repeat_n(row.as_slice(), count)).chain([eof.as_slice()]))
}

fn frames(criterion: &mut Criterion) {
    let row = [b'7'; ROW];
    let count = PORTION / (HEADER_LEN + ROW);
    let bytes = stream(std::iter::repeat_n(&row[..], count));
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(format!("walk {count} packets of {ROW} bytes"), |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(bytes.as_slice());
            let mut last = 0;
            while let Some(header) = Header::parse(rest) {
                last = header.sequence;
                rest = rest.get(HEADER_LEN + header.len..).unwrap_or_default();
            }
            last
        });
    });
    group.finish();
}

/// An answer in portions, as the sockets give it.
fn follow(exchange: &mut Exchange, command: Command, answer: &[u8]) {
    exchange.restart(command);
    for portion in answer.chunks(PORTION) {
        black_box(exchange.feed(black_box(portion)));
    }
    assert_eq!(exchange.progress(), Progress::Done);
}

fn answers(criterion: &mut Criterion) {
    let mut prepared = vec![0, 7, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
    prepared.truncate(12);
    let eof = eof();
    let answers = [
        ("OK of an update", Command::Query, stream([OK])),
        ("point select, 1 row", Command::Query, rows(1)),
        ("prepare", Command::StmtPrepare, stream([&prepared, COLUMN, &eof, COLUMN, &eof])),
        ("range, 100 rows", Command::Query, rows(100)),
        ("10,000 rows", Command::Query, rows(10_000)),
    ];
    let mut group = criterion.benchmark_group("answers");
    for (name, command, answer) in answers {
        let mut exchange = Exchange::new(command, Capabilities::PROTOCOL_41);
        group.throughput(Throughput::Bytes(answer.len() as u64));
        group.bench_function(format!("{name}, {} bytes", answer.len()), |bencher| {
            bencher.iter(|| follow(&mut exchange, command, &answer));
        });
    }
    group.finish();
}

fn lexer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lexer");
    for (name, text) in statements() {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| lexer::scan(black_box(&text), false)));
    }
    group.finish();
}

criterion_group! {
    name = relay;
    // Short, because the functions are; the median of 50 samples is steady to a few per cent.
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = frames, answers, lexer
}
criterion_main!(relay);
