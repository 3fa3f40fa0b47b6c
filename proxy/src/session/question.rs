//! Questions of the proxy's own on a session's connection, in the text protocol: what is the state here, and
//! take this over. Answers are small, and bounded.

use std::io;
use std::time::Duration;

use crate::protocol::capability::Capabilities;
use crate::protocol::command::Command;
use crate::protocol::frame::{HEADER_LEN, Header, put_packet};
use crate::protocol::packet::codec::Reader;
use crate::protocol::packet::{ErrPacket, Malformed};
use crate::relay::copy::Leg;
use crate::relay::exchange::{Exchange, Outcome, Progress};

/// The largest answer to a question of ours.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// A backend that takes longer for one of these is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    /// The server said no. The connection is good for more. Its text may quote what was sent: values and
    /// statements of the client, which belong in no log (invariant 8).
    #[error("the server refused with error {} ({})", .0.code, .0.state.escape_ascii())]
    Refused(ErrPacket),
    /// The connection is of no more use.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer makes no sense; neither does the connection any more.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl QuestionError {
    /// True where the connection is broken, so that trying again elsewhere may help.
    pub(crate) fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// A column of an answer, as far as it is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    /// The protocol's type byte.
    pub(crate) kind: u8,
    /// Column flags.
    pub(crate) flags: u16,
    /// The most bytes that a value has.
    pub(crate) length: u32,
}

/// An answer: the last result set, and what was said about the session.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Option<Vec<u8>>>>,
    pub(crate) outcome: Outcome,
}

impl Answer {
    /// A value of the first row; `None` for NULL and for what isn't there.
    pub(crate) fn value(&self, column: usize) -> Option<&[u8]> {
        self.rows.first()?.get(column)?.as_deref()
    }
}

/// A command as a packet, appended to `out`. A query of a session with query attributes says that it has none.
pub(crate) fn put_command(out: &mut Vec<u8>, command: u8, capabilities: Capabilities, argument: &[u8]) {
    let mut payload = Vec::with_capacity(argument.len() + 3);
    payload.push(command);
    if Command::from(command) == Command::Query && capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
        payload.extend_from_slice(&[0, 1]);
    }
    payload.extend_from_slice(argument);
    put_packet(out, 0, &payload);
}

/// Asks with COM_QUERY.
pub(crate) async fn query(
    leg: &mut Leg,
    capabilities: Capabilities,
    sql: &[u8],
) -> Result<Answer, QuestionError> {
    command(leg, capabilities, 0x03, sql).await
}

/// Sends one command and reads its answer.
///
/// Cancel safety: none; the connection of a dropped question is of no more use.
pub(crate) async fn command(
    leg: &mut Leg,
    capabilities: Capabilities,
    code: u8,
    argument: &[u8],
) -> Result<Answer, QuestionError> {
    let mut request = Vec::new();
    put_command(&mut request, code, capabilities, argument);
    let asked = async {
        leg.write(&request).await?;
        answer(leg, capabilities, Command::from(code)).await
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// Reads the answer to a command that was sent.
pub(crate) async fn answer(
    leg: &mut Leg,
    capabilities: Capabilities,
    command: Command,
) -> Result<Answer, QuestionError> {
    let mut exchange = Exchange::new(command, capabilities);
    let (mut bytes, mut too_large) = (Vec::new(), false);
    while exchange.progress() == Progress::More {
        if leg.buffer.is_empty() && leg.fill().await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let count = exchange.feed(leg.buffer.filled());
        // Read to its end all the same: the connection is the session's, which goes on.
        too_large |= bytes.len() + count > ANSWER_MAX;
        if too_large {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(leg.buffer.filled().get(..count).unwrap_or_default());
        }
        leg.buffer.consume(count);
    }
    if too_large {
        let text = "an answer larger than any that was asked for";
        return Err(QuestionError::Refused(ErrPacket::new(1105, b"HY000", text)));
    }
    if exchange.progress() == Progress::ClientData {
        return Err(Malformed("a file was asked for").into());
    }
    let outcome = exchange.outcome().clone();
    if outcome.error.is_some() {
        return Err(QuestionError::Refused(last_error(&bytes)));
    }
    read(&bytes, capabilities, outcome)
}

/// The payloads of a stream of packets, put together where they were split.
fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let (mut rest, mut open) = (bytes, false);
    while let Some(header) = Header::parse(rest) {
        let end = (HEADER_LEN + header.len).min(rest.len());
        let payload = rest.get(HEADER_LEN..end).unwrap_or_default();
        match payloads.last_mut() {
            Some(last) if open => last.extend_from_slice(payload),
            _ => payloads.push(payload.to_vec()),
        }
        open = header.continues();
        rest = rest.get(end..).unwrap_or_default();
    }
    payloads
}

fn last_error(bytes: &[u8]) -> ErrPacket {
    payloads(bytes)
        .last()
        .and_then(|payload| ErrPacket::parse(payload).ok())
        .unwrap_or_else(|| ErrPacket::new(1105, b"HY000", "unknown error"))
}

/// Columns and rows of an answer with at most one result set.
fn read(bytes: &[u8], capabilities: Capabilities, outcome: Outcome) -> Result<Answer, QuestionError> {
    let mut answer = Answer { outcome, ..Answer::default() };
    let packets = payloads(bytes);
    let mut packets = packets.iter().map(Vec::as_slice);
    let count = match packets.next() {
        Some([0x00 | 0xFE, ..]) | None => return Ok(answer),
        Some(first) => Reader::new(first).lenenc_int("column count")?,
    };
    for packet in packets.by_ref().take(usize::try_from(count).unwrap_or(0)) {
        answer.columns.push(column(packet)?);
    }
    if !capabilities.contains(Capabilities::DEPRECATE_EOF) {
        packets.next();
    }
    for packet in packets {
        if packet.first() == Some(&0xFE) && packet.len() < 0xFF_FFFF {
            break;
        }
        let mut reader = Reader::new(packet);
        let row: Result<Vec<_>, Malformed> = answer
            .columns
            .iter()
            .map(|_| Ok(reader.lenenc_bytes_or_null("value")?.map(<[u8]>::to_vec)))
            .collect();
        answer.rows.push(row?);
    }
    Ok(answer)
}

fn column(packet: &[u8]) -> Result<Column, Malformed> {
    let mut reader = Reader::new(packet);
    for _ in 0..6 {
        reader.lenenc_bytes("names of a column")?;
    }
    // MariaDB's extended type information comes before the fixed part, whose length is always 12.
    let mut fixed = reader;
    if fixed.u8("fixed part")? != 0x0C {
        reader.lenenc_bytes("extended type information")?;
        fixed = reader;
        fixed.u8("fixed part")?;
    }
    fixed.u16("character set")?;
    let length = fixed.u32("column length")?;
    Ok(Column { kind: fixed.u8("type")?, flags: fixed.u16("flags")?, length })
}

/// `text` as a string literal that means the same whatever the session's sql_mode and character set are.
pub(crate) fn hex_literal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("x'");
    for byte in bytes {
        let _ = write!(out, "{byte:02X}");
    }
    out.push('\'');
    out
}

/// What the server's `HEX()` printed.
pub(crate) fn from_hex(digits: &[u8]) -> Result<Vec<u8>, Malformed> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.ok_or(Malformed("hexadecimal digits"))
}

/// `text` between single quotes.
pub(crate) fn quoted(text: &[u8], plain_backslash: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'\'');
    for &byte in text {
        if byte == b'\'' || (byte == b'\\' && !plain_backslash) {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'\'');
    out
}

/// `name` between backticks.
pub(crate) fn backticked(name: &[u8]) -> Vec<u8> {
    let mut out = vec![b'`'];
    for &byte in name {
        if byte == b'`' {
            out.push(b'`');
        }
        out.push(byte);
    }
    out.push(b'`');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::protocol::stream::Stream;

    #[tokio::test]
    async fn a_row_is_read() {
        for capabilities in [Capabilities::NONE, Capabilities::DEPRECATE_EOF] {
            let (near, mut far) = tokio::io::duplex(1 << 12);
            let mut leg = Leg::new(Stream::Duplex(near));
            let mut answer = Vec::new();
            let definition =
                b"\x03def\x00\x00\x00\x02@a\x00\x0c\x3f\x00\x10\x00\x00\x00\x08\x81\x00\x00\x00\x00";
            let mut sequence = put_packet(&mut answer, 1, &[2]);
            sequence = put_packet(&mut answer, sequence, definition);
            sequence = put_packet(&mut answer, sequence, definition);
            if capabilities == Capabilities::NONE {
                sequence = put_packet(&mut answer, sequence, &[0xFE, 0, 0, 2, 0]);
            }
            sequence = put_packet(&mut answer, sequence, b"\x0242\xfb");
            let end: &[u8] = if capabilities == Capabilities::NONE {
                &[0xFE, 0, 0, 2, 0]
            } else {
                &[0xFE, 0, 0, 2, 0, 0, 0]
            };
            put_packet(&mut answer, sequence, end);
            let serve = async {
                let mut request = [0; 13];
                far.read_exact(&mut request).await.unwrap();
                assert_eq!(&request[4..], b"\x03SELECT @");
                far.write_all(&answer).await.unwrap();
            };
            let (answer, ()) = tokio::join!(query(&mut leg, capabilities, b"SELECT @"), serve);
            let answer = answer.unwrap();
            assert_eq!(answer.columns[0], Column { kind: 8, flags: 0x81, length: 16 });
            assert_eq!((answer.value(0), answer.value(1)), (Some(&b"42"[..]), None));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_leaves_the_connection_good() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut leg = Leg::new(Stream::Duplex(near));
        let serve = async {
            let mut packets = Vec::new();
            let definition =
                b"\x03def\x00\x00\x00\x01a\x00\x0c\x3f\x00\x10\x00\x00\x00\x08\x81\x00\x00\x00\x00";
            put_packet(&mut packets, 1, &[1]);
            put_packet(&mut packets, 2, definition);
            put_packet(&mut packets, 3, &[0xFE, 0, 0, 2, 0]);
            far.write_all(&packets).await.unwrap();
            let mut row = Vec::new();
            put_packet(&mut row, 4, &vec![b'x'; 1 << 20]);
            for _ in 0..ANSWER_MAX >> 20 {
                far.write_all(&row).await.unwrap();
            }
            let mut end = Vec::new();
            put_packet(&mut end, 9, &[0xFE, 0, 0, 2, 0]);
            far.write_all(&end).await.unwrap();
        };
        let (answer, ()) = tokio::join!(query(&mut leg, Capabilities::NONE, b"SELECT @"), serve);
        assert!(!answer.unwrap_err().is_transient());
        assert!(leg.is_quiet());
    }

    #[test]
    fn what_a_server_quotes_is_not_repeated() {
        let packet = ErrPacket::new(1064, b"42000", "You have an error near 'secret'");
        let text = QuestionError::Refused(packet).to_string();
        assert_eq!(text, "the server refused with error 1064 (42000)");
    }

    #[test]
    fn text_is_quoted() {
        assert_eq!(quoted(b"it's \\", false), b"'it''s \\\\'");
        assert_eq!(quoted(b"it's \\", true), b"'it''s \\'");
        assert_eq!(backticked(b"a`b"), b"`a``b`");
        assert_eq!(hex_literal(b"A\n"), "x'410A'");
        assert_eq!(from_hex(b"410a").ok().as_deref(), Some(&b"A\n"[..]));
        assert!(from_hex(b"4x").is_err());
    }
}
