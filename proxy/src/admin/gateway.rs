//! Between an admin client that has logged in and opensrv-mysql: one packet at a time.
//!
//! opensrv-mysql 0.7 frees the buffer of a request that it still reads when a second one arrives behind it, panics on
//! odd sequence numbers, closes on text that isn't UTF-8, and answers OK to commands that it doesn't know. None of it
//! can happen behind this: a request is read whole and checked, only COM_QUERY goes on, and the next one isn't
//! read from the socket before the answer has ended. Everything else is answered here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opensrv_mysql::{AsyncMysqlIntermediary, IntermediaryOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::AdminContext;
use super::shim::Shim;
use crate::protocol::capability::Capabilities;
use crate::protocol::command::Command;
use crate::protocol::frame::{Frames, HEADER_LEN, Header, put_packet};
use crate::protocol::packet::{ErrPacket, Handshake, HandshakeResponse, OkPacket, StatusFlags};
use crate::protocol::stream::Stream;
use crate::relay::exchange::{Exchange, Progress};

/// A request's bytes, at most.
pub(super) const PACKET_MAX: usize = 1 << 20;
/// Bytes on their way from opensrv to the client, at most.
const PIPE: usize = 64 * 1024;
/// How long a client may be silent between two statements: what MySQL's wait_timeout is.
const IDLE_MAX: Duration = Duration::from_secs(8 * 3600);
/// How long the rest of a packet, or reading an answer, may take.
const STALL_MAX: Duration = Duration::from_secs(30);
/// COM_QUERY
const QUERY: u8 = 3;
/// The plugin that opensrv names, and which the login on the pipe answers with.
const PIPE_PLUGIN: &[u8] = b"mysql_native_password";

/// What a client of the admin port is offered: what opensrv answers rightly. DEPRECATE_EOF, session tracking,
/// several results and compression are not among that.
pub(super) const OFFERED: Capabilities = Capabilities::from_bits(
    Capabilities::LONG_PASSWORD.bits()
        | Capabilities::FOUND_ROWS.bits()
        | Capabilities::LONG_FLAG.bits()
        | Capabilities::CONNECT_WITH_DB.bits()
        | Capabilities::PROTOCOL_41.bits()
        | Capabilities::INTERACTIVE.bits()
        | Capabilities::TRANSACTIONS.bits()
        | Capabilities::RESERVED.bits()
        | Capabilities::SECURE_CONNECTION.bits()
        | Capabilities::PLUGIN_AUTH.bits()
        | Capabilities::CONNECT_ATTRS.bits()
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.bits(),
);

/// What the pipe speaks.
const PIPE_CAPABILITIES: Capabilities = Capabilities::from_bits(
    Capabilities::LONG_PASSWORD.bits()
        | Capabilities::PROTOCOL_41.bits()
        | Capabilities::SECURE_CONNECTION.bits()
        | Capabilities::PLUGIN_AUTH.bits()
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.bits(),
);

/// Serves one client until it leaves. Both ends of the pipe live in this one future.
///
/// Cancel safety: dropping it closes the connection; a cutover that it asked for goes on.
pub(super) async fn serve(client: Stream, context: Arc<AdminContext>, connection_id: u32) -> io::Result<()> {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (reads, writes) = tokio::io::split(theirs);
    let options = IntermediaryOptions {
        process_use_statement_on_query: true,
        reject_connection_on_dbname_absence: false,
    };
    let shim = Shim { context, connection_id };
    let server = AsyncMysqlIntermediary::run_with_options(shim, reads, writes, &options);
    let gateway = async {
        let pipe = log_in(ours).await?;
        Gateway { client, pipe, chunk: vec![0; 16 * 1024] }.run().await
    };
    tokio::select! {
        ended = Box::pin(gateway) => ended,
        ended = Box::pin(server) => ended,
    }
}

/// Takes opensrv's greeting and logs in on the pipe, which nobody else can reach.
async fn log_in(mut pipe: DuplexStream) -> io::Result<DuplexStream> {
    let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "opensrv's login isn't understood");
    let mut frames = Frames::new();
    let greeting = frames.read(&mut pipe).await.map_err(io::Error::other)?;
    Handshake::parse(&greeting).map_err(bad)?;
    let response = HandshakeResponse {
        capabilities: PIPE_CAPABILITIES,
        max_packet: 1 << 24,
        collation: 45,
        user: b"admin".to_vec(),
        auth: config::Secret::default(),
        schema: None,
        plugin: Some(PIPE_PLUGIN.to_vec()),
        attributes: None,
        zstd_level: None,
    };
    frames.write(&mut pipe, &response.encode()).await?;
    let answer = frames.read(&mut pipe).await.map_err(io::Error::other)?;
    OkPacket::parse(&answer, PIPE_CAPABILITIES).map_err(bad)?;
    Ok(pipe)
}

struct Gateway {
    client: Stream,
    pipe: DuplexStream,
    chunk: Vec<u8>,
}

/// What a request leads to.
enum Next {
    Pass,
    Say(Vec<u8>),
    Silence,
    Leave,
}

impl Gateway {
    async fn run(mut self) -> io::Result<()> {
        while let Some(request) = self.request().await? {
            match judge(&request) {
                Next::Pass => self.pass(&request).await?,
                Next::Say(payload) => self.say(&payload).await?,
                Next::Silence => {}
                Next::Leave => break,
            }
        }
        // The client reads what was said before it sees the end.
        let _ = timeout(STALL_MAX, self.client.shutdown()).await;
        Ok(())
    }

    /// The next request, whole. `None`: the client left, or what it sent isn't a request.
    async fn request(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; HEADER_LEN];
        match timeout(IDLE_MAX, self.client.read_exact(&mut header)).await {
            Ok(Ok(_)) => {}
            // Silent for too long, or gone.
            Err(_) | Ok(Err(_)) => return Ok(None),
        }
        let [a, b, c, sequence] = header;
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        if sequence != 0 || len == 0 {
            self.say(&ErrPacket::new(1835, b"HY000", "Malformed communication packet").encode()).await?;
            return Ok(None);
        }
        if len > PACKET_MAX {
            let text = "Got a packet bigger than 'max_allowed_packet' bytes";
            self.say(&ErrPacket::new(1153, b"08S01", text).encode()).await?;
            return Ok(None);
        }
        let mut payload = vec![0; len];
        match timeout(STALL_MAX, self.client.read_exact(&mut payload)).await {
            Ok(Ok(_)) => Ok(Some(payload)),
            Err(_) | Ok(Err(_)) => Ok(None),
        }
    }

    /// Hands a request to opensrv and its answer, to the end, to the client.
    async fn pass(&mut self, request: &[u8]) -> io::Result<()> {
        // The space keeps opensrv from answering `SELECT @@max_allowed_packet` and `USE` by itself.
        let statement = request.get(1..).unwrap_or_default();
        let mut packet = Vec::with_capacity(HEADER_LEN + 1 + request.len());
        packet.extend_from_slice(&Header { len: 1 + request.len(), sequence: 0 }.to_bytes());
        packet.extend_from_slice(&[QUERY, b' ']);
        packet.extend_from_slice(statement);
        // The pipe is narrower than the packet may be; opensrv reads while this is written.
        self.pipe.write_all(&packet).await?;
        let mut answer = Exchange::new(Command::Query, PIPE_CAPABILITIES);
        while answer.progress() != Progress::Done {
            let read = self.pipe.read(&mut self.chunk).await?;
            let chunk = self.chunk.get(..read).unwrap_or_default();
            if chunk.is_empty() || answer.feed(chunk) != chunk.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "opensrv's answer isn't understood"));
            }
            stalled(timeout(STALL_MAX, self.client.write_all(chunk)).await)?;
        }
        stalled(timeout(STALL_MAX, self.client.flush()).await)
    }

    /// Answers without opensrv.
    async fn say(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut packet = Vec::with_capacity(HEADER_LEN + payload.len());
        put_packet(&mut packet, 1, payload);
        stalled(timeout(STALL_MAX, self.client.write_all(&packet)).await)?;
        stalled(timeout(STALL_MAX, self.client.flush()).await)
    }
}

fn stalled(result: Result<io::Result<()>, tokio::time::error::Elapsed>) -> io::Result<()> {
    result.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client doesn't read")))
}

fn error(code: u16, state: &[u8; 5], message: &str) -> Next {
    Next::Say(ErrPacket::new(code, state, message).encode())
}

/// What to do with a request. Pure.
fn judge(request: &[u8]) -> Next {
    let Some((command, rest)) = request.split_first() else {
        return Next::Leave;
    };
    match Command::from(*command) {
        Command::Quit => Next::Leave,
        Command::Query if std::str::from_utf8(rest).is_ok() => Next::Pass,
        Command::Query => error(1300, b"HY000", "the statement isn't valid UTF-8"),
        Command::Ping | Command::InitDb | Command::ResetConnection => Next::Say(ok()),
        Command::SetOption | Command::FieldList => Next::Say(eof()),
        Command::Statistics => Next::Say(b"Changeover; SHOW MIGRATION STATUS says more".to_vec()),
        Command::StmtPrepare => error(
            1295,
            b"HY000",
            "This command is not supported in the prepared statement protocol yet: send admin SQL as plain text",
        ),
        Command::StmtExecute | Command::StmtReset | Command::StmtFetch | Command::StmtBulkExecute => error(
            1243,
            b"HY000",
            "Unknown prepared statement handler: the admin port has no prepared statements",
        ),
        Command::StmtSendLongData | Command::StmtClose => Next::Silence,
        _ => error(1047, b"08S01", "Unknown command"),
    }
}

fn ok() -> Vec<u8> {
    OkPacket { status: StatusFlags::AUTOCOMMIT, ..OkPacket::default() }.encode(PIPE_CAPABILITIES)
}

fn eof() -> Vec<u8> {
    let [low, high] = StatusFlags::AUTOCOMMIT.0.to_le_bytes();
    vec![OkPacket::EOF_MARKER, 0, 0, low, high]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_plain_queries_reach_opensrv() {
        let check = |request: &[u8], expected: &str| {
            let said = match judge(request) {
                Next::Pass => "pass".to_owned(),
                Next::Silence => "silence".to_owned(),
                Next::Leave => "leave".to_owned(),
                Next::Say(payload) => match payload.first() {
                    Some(0xFF) => ErrPacket::parse(&payload).unwrap().code.to_string(),
                    Some(0xFE) => "eof".to_owned(),
                    Some(0) => "ok".to_owned(),
                    _ => "text".to_owned(),
                },
            };
            assert_eq!(said, expected, "{request:?}");
        };
        check(b"", "leave");
        check(b"\x01", "leave");
        check(b"\x02shop", "ok");
        check(b"\x03HELP", "pass");
        check(b"\x03\xFF", "1300");
        check(b"\x04t\0%", "eof");
        check(b"\x09", "text");
        check(b"\x0E", "ok");
        check(b"\x11admin\0", "1047");
        check(b"\x12", "1047");
        check(b"\x16SELECT 1", "1295");
        check(b"\x17\x01\0\0\0", "1243");
        check(b"\x18", "silence");
        check(b"\x19\x01\0\0\0", "silence");
        check(b"\x1B\0\0", "eof");
        check(b"\x1F", "ok");
        check(b"\xEE", "1047");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(request in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = judge(&request);
        }
    }
}
