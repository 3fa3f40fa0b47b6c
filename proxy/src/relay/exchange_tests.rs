#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::protocol::frame::put_packet;

const NONE: Capabilities = Capabilities::NONE;
const NEW: Capabilities = Capabilities::DEPRECATE_EOF;
const MORE: u16 = 0x0008;
const CURSOR: u16 = 0x0040;

/// Payloads as one stream, numbered from 1.
fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sequence = 1;
    for payload in payloads {
        sequence = put_packet(&mut out, sequence, payload);
    }
    out
}

fn ok(insert_id: u8, status: u16) -> Vec<u8> {
    let [low, high] = status.to_le_bytes();
    vec![0, 1, insert_id, low, high, 0, 0]
}

fn end(status: u16) -> Vec<u8> {
    let [low, high] = status.to_le_bytes();
    vec![0xFE, 0, 0, low, high, 0, 0]
}

fn eof(status: u16) -> Vec<u8> {
    let [low, high] = status.to_le_bytes();
    vec![0xFE, 0, 0, low, high]
}

fn error(code: u16) -> Vec<u8> {
    let mut packet = vec![0xFF];
    packet.extend_from_slice(&code.to_le_bytes());
    packet.extend_from_slice(b"#HY000no");
    packet
}

fn column() -> Vec<u8> {
    b"\x03def\x00\x00\x00\x01a\x01a\x0c?\x00".to_vec()
}

fn prepare(columns: u8, params: u8) -> Vec<u8> {
    vec![0, 7, 0, 0, 0, columns, 0, params, 0, 0, 0, 0]
}

/// A cursor that the client asked for has its rows fetched later. One that a routine has open is only a flag.
#[test]
fn whose_cursor_it_is() {
    let opened = stream(&[vec![1], column(), eof(CURSOR)]);
    let mut exchange = Exchange::new(Command::Ping, NONE);
    exchange.restart(Command::StmtExecute);
    exchange.expect_cursor();
    assert_eq!((exchange.feed(&opened), exchange.progress()), (opened.len(), Progress::Done));
    let in_a_loop = [
        vec![1],
        column(),
        eof(CURSOR | MORE),
        vec![1, b'x'],
        eof(CURSOR | MORE),
        vec![1],
        column(),
        eof(CURSOR | MORE),
        vec![1, b'y'],
        eof(CURSOR | MORE),
        ok(0, 2),
    ];
    for command in [Command::Query, Command::StmtExecute] {
        assert_eq!(check(command, NONE, &in_a_loop, "results within a loop").results, 3);
        check(
            command,
            NONE,
            &[vec![1], column(), eof(CURSOR), vec![1, b'x'], eof(CURSOR)],
            "a function's cursor",
        );
    }
    // CALL gives its results whole, whatever was asked for.
    let called = stream(&in_a_loop);
    exchange.restart(Command::StmtExecute);
    exchange.expect_cursor();
    assert_eq!((exchange.feed(&called), exchange.progress()), (called.len(), Progress::Done));
}

/// The whole answer is consumed, not a byte of what follows it, in one portion and byte by byte.
fn check(command: Command, capabilities: Capabilities, payloads: &[Vec<u8>], after: &str) -> Outcome {
    let answer = stream(payloads);
    let mut and_more = answer.clone();
    and_more.extend_from_slice(b"\x01\x00\x00\x01\x00");
    let mut whole = Exchange::new(command, capabilities);
    assert_eq!(whole.feed(&and_more), answer.len(), "{after}");
    assert_eq!(whole.progress(), Progress::Done, "{after}");
    let mut bytewise = Exchange::new(command, capabilities);
    for (at, byte) in answer.iter().enumerate() {
        assert_eq!(bytewise.progress(), Progress::More, "{after}, at {at} of {}", answer.len());
        assert_eq!(bytewise.feed(&[*byte]), 1, "{after}");
    }
    assert_eq!(bytewise.progress(), Progress::Done, "{after}");
    assert_eq!(whole.outcome(), bytewise.outcome(), "{after}");
    assert!(!whole.outcome().incomplete, "{after}");
    whole.outcome().clone()
}

/// MySQL's EOF behind OUT parameters lacks MORE_RESULTS, though an OK follows; under DEPRECATE_EOF it has it.
#[test]
fn out_parameters_are_never_last() {
    const OUT: u16 = 0x1000;
    let row = b"\0\0\x09\0\0\0".to_vec();
    let old = [vec![1], column(), eof(OUT | MORE), row.clone(), eof(2), ok(0, 2)];
    check(Command::StmtExecute, NONE, &old, "OUT parameters");
    let new = [vec![1], column(), row, end(OUT | MORE | 2), ok(0, 2)];
    check(Command::StmtExecute, NEW, &new, "OUT parameters without EOF");
}

#[test]
fn answers_without_rows() {
    let outcome = check(Command::Query, NONE, &[ok(9, 3)], "OK");
    assert_eq!((outcome.status, outcome.last_insert_id), (Some(StatusFlags(3)), 9));
    assert_eq!(check(Command::Query, NEW, &[error(1064)], "ERR").error, Some(1064));
    check(Command::Ping, NONE, &[ok(0, 2)], "ping");
    check(Command::SetOption, NONE, &[eof(2)], "set option, EOF");
    check(Command::SetOption, NEW, &[end(2)], "set option, OK as EOF");
    check(Command::Statistics, NONE, &[b"\xffUptime: 3".to_vec()], "statistics");
    check(Command::StmtReset, NONE, &[ok(0, 2)], "reset");
    check(Command::Other(0x77), NONE, &[error(1047)], "unknown command");
    assert_eq!(Exchange::new(Command::StmtClose, NONE).progress(), Progress::Done);
}

#[test]
fn result_sets_with_and_without_eofs() {
    let old = [vec![2], column(), column(), eof(2), b"\x011\x012".to_vec(), vec![0xFB, 0xFB], eof(3)];
    assert_eq!(check(Command::Query, NONE, &old, "old").status, Some(StatusFlags(3)));
    let new = [vec![2], column(), column(), b"\x011\x012".to_vec(), vec![0xFB, 0xFB], end(3)];
    assert_eq!(check(Command::Query, NEW, &new, "new").status, Some(StatusFlags(3)));
    check(Command::Query, NONE, &[vec![1], column(), eof(2), eof(2)], "old, empty");
    check(Command::StmtExecute, NEW, &[vec![1], column(), end(2)], "new, empty");
    let failed = [vec![1], column(), eof(2), b"\x011".to_vec(), error(1317)];
    assert_eq!(check(Command::Query, NONE, &failed, "killed in the middle").error, Some(1317));
    // Binary rows begin with 0; an empty text row value is a 0 too.
    check(Command::StmtExecute, NEW, &[vec![1], column(), vec![0, 0, 5], vec![0, 4], end(2)], "binary");
    check(Command::Query, NEW, &[vec![1], column(), vec![0], end(2)], "a row of one empty text");
    let mut wide = vec![vec![0xFC, 0xFB, 0]];
    wide.extend(vec![column(); 0xFB]);
    wide.extend([eof(2), eof(2)]);
    check(Command::Query, NONE, &wide, "251 columns");
}

#[test]
fn several_results() {
    let outcome = check(
        Command::Query,
        NONE,
        &[ok(3, MORE), vec![1], column(), eof(MORE), b"\x011".to_vec(), eof(MORE), ok(0, 2)],
        "old",
    );
    assert_eq!((outcome.results, outcome.last_insert_id), (3, 3));
    check(Command::Query, NEW, &[vec![1], column(), end(MORE), ok(0, 2)], "call, new");
    assert_eq!(
        check(Command::Query, NEW, &[ok(0, MORE | 1), error(1)], "second fails").status,
        Some(StatusFlags(MORE | 1))
    );
}

#[test]
fn full_packets_are_continued() {
    let huge = |first: u8| {
        let mut row = vec![b'x'; PAYLOAD_MAX + 10];
        row[0] = first;
        // Where the continuation begins there stands what would end a result set.
        row[PAYLOAD_MAX] = 0xFE;
        row
    };
    for (capabilities, ends) in [(NONE, eof(2)), (NEW, end(2))] {
        let mut payloads = vec![vec![1], column()];
        if capabilities == NONE {
            payloads.push(eof(2));
        }
        payloads.extend([huge(0xFE), huge(0xFD), vec![0xFD; PAYLOAD_MAX], b"\x011".to_vec(), ends]);
        let answer = stream(&payloads);
        let mut exchange = Exchange::new(Command::Query, capabilities);
        let mut at = 0;
        for chunk in answer.chunks(65_537) {
            assert_eq!(exchange.progress(), Progress::More, "at {at}");
            assert_eq!(exchange.feed(chunk), chunk.len());
            at += chunk.len();
        }
        assert_eq!(exchange.progress(), Progress::Done);
    }
}

#[test]
fn prepared_statements() {
    let old = [prepare(2, 1), column(), eof(2), column(), column(), eof(2)];
    let outcome = check(Command::StmtPrepare, NONE, &old, "old");
    assert_eq!(outcome.prepared, Some(Prepared { id: 7, columns: 2, params: 1 }));
    check(Command::StmtPrepare, NEW, &[prepare(2, 1), column(), column(), column()], "new");
    check(Command::StmtPrepare, NONE, &[prepare(0, 0)], "neither");
    check(Command::StmtPrepare, NONE, &[prepare(0, 2), column(), column(), eof(2)], "parameters only");
    check(Command::StmtPrepare, NONE, &[prepare(1, 0), column(), eof(2)], "columns only");
    check(Command::StmtPrepare, NONE, &[error(1064)], "error");
    check(Command::StmtExecute, NEW, &[vec![1], column(), end(CURSOR)], "cursor, new");
    check(Command::StmtFetch, NONE, &[vec![0, 0, 1], eof(CURSOR)], "fetch");
    check(Command::StmtFetch, NEW, &[vec![0, 0, 1], end(0x80)], "fetch, new");
    check(Command::FieldList, NONE, &[column(), column(), eof(2)], "fields");
}

#[test]
fn a_local_file_goes_the_other_way() {
    let mut exchange = Exchange::new(Command::Query, NONE);
    let ask = stream(&[b"\xfb/tmp/x".to_vec()]);
    assert_eq!(exchange.feed(&ask), ask.len());
    assert_eq!(exchange.progress(), Progress::ClientData);
    assert_eq!(exchange.feed(&ask), 0);
    let mut data = ClientData::new();
    let mut file = stream(&[b"1\t2\n".to_vec(), vec![b'x'; PAYLOAD_MAX], b"3".to_vec(), Vec::new()]);
    let len = file.len();
    file.push(9);
    for chunk in file.chunks(1000) {
        let taken = data.feed(chunk);
        assert!(taken == chunk.len() || data.ended());
    }
    assert!(data.ended());
    let mut data = ClientData::new();
    assert_eq!(data.feed(&file), len);
    exchange.data_sent();
    let answer = stream(&[ok(0, 2)]);
    assert_eq!(exchange.feed(&answer), answer.len());
    assert_eq!(exchange.progress(), Progress::Done);
}

#[test]
fn progress_reports_are_no_errors() {
    let mut report = vec![0xFF, 0xFF, 0xFF];
    report.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0]);
    check(Command::Query, NONE, &[report.clone(), report, ok(0, 2)], "progress");
}

#[test]
fn session_state_is_collected() {
    let track = [1, 5, 4, b's', b'h', b'o', b'p'];
    let mut payload = vec![0, 0, 0, 0x02, 0x40, 0, 0, 0, 7];
    payload.extend_from_slice(&track);
    let outcome = check(Command::InitDb, Capabilities::SESSION_TRACK, &[payload], "track");
    assert_eq!(outcome.tracks, track);
}

prop_compose! {
    fn answer()(rows in prop::collection::vec(prop::collection::vec(0_u8..0xFB, 1..40), 0..20),
                new: bool, results in 1_usize..4) -> (Capabilities, Vec<u8>) {
        let mut payloads = Vec::new();
        for left in (0..results).rev() {
            let status = if left > 0 { MORE } else { 2 };
            payloads.extend([vec![2], column(), column()]);
            if !new { payloads.push(eof(status)); }
            payloads.extend(rows.iter().cloned());
            payloads.push(if new { end(status) } else { eof(status) });
        }
        (if new { NEW } else { NONE }, stream(&payloads))
    }
}

proptest! {
    #[test]
    fn any_portions_give_the_same((capabilities, answer) in answer(), cuts in prop::collection::vec(1_usize..60, 1..30)) {
        let mut exchange = Exchange::new(Command::Query, capabilities);
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < answer.len() {
            prop_assert_eq!(exchange.progress(), Progress::More);
            let to = answer.len().min(at + cuts.next().unwrap());
            prop_assert_eq!(exchange.feed(&answer[at..to]), to - at);
            at = to;
        }
        prop_assert_eq!(exchange.progress(), Progress::Done);
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, command: u8, flags: u64, cut in 1_usize..9) {
        let mut exchange = Exchange::new(Command::from(command), Capabilities::from_bits(flags));
        for chunk in bytes.chunks(cut) {
            let taken = exchange.feed(chunk);
            prop_assert!(taken <= chunk.len());
            prop_assert!(taken == chunk.len() || exchange.progress() != Progress::More);
        }
        let mut data = ClientData::new();
        data.feed(&bytes);
    }
}
