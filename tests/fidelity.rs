//! The protocol that naive proxies break: the same packets are sent to the server and through the proxy, and every
//! byte of the answers is compared (docs/protocol.md).

mod corners;
mod greeting;
mod transcripts;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for any answer here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const PAYLOAD_MAX: usize = 0xFF_FFFF;

/// PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH, TRANSACTIONS, multi-statements and multi-results, LOCAL_FILES.
const ORDINARY: u64 = 1 << 9 | 1 << 15 | 1 << 19 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 7;
const LONG_PASSWORD: u64 = 1;
const CONNECT_WITH_DB: u64 = 1 << 3;
const DEPRECATE_EOF: u64 = 1 << 24;
const SESSION_TRACK: u64 = 1 << 23;
const OPTIONAL_METADATA: u64 = 1 << 25;
const QUERY_ATTRIBUTES: u64 = 1 << 27;
const BULK: u64 = 1 << 34;

/// An account without a password: a raw client needs no plugin for it.
const RAW: &str = "raw";

/// A payload as packets from this number on, with the empty trailer where one is due.
fn packets(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let (mut bytes, mut sequence, mut rest) = (Vec::new(), sequence, payload);
    loop {
        let (part, after) = rest.split_at(rest.len().min(PAYLOAD_MAX));
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes()[..3]);
        bytes.push(sequence);
        bytes.extend_from_slice(part);
        if part.len() < PAYLOAD_MAX {
            return bytes;
        }
        (sequence, rest) = (sequence.wrapping_add(1), after);
    }
}

async fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("a packet").unwrap();
    let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
    timeout(PATIENCE, stream.read_exact(&mut payload)).await.expect("its end").unwrap();
    payload
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the end of the connection").unwrap();
    bytes
}

/// What a server greets with: version, connection id, capabilities, collation, status.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    version: String,
    id: u32,
    capabilities: u64,
    collation: u8,
    status: u16,
}

fn greeting(payload: &[u8]) -> Greeting {
    assert_eq!(payload[0], 10, "{:?}", String::from_utf8_lossy(payload));
    let end = payload.iter().position(|byte| *byte == 0).unwrap();
    let rest = &payload[end + 1..];
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
    let extended = u64::from(u32::from_le_bytes([rest[27], rest[28], rest[29], rest[30]]));
    Greeting {
        version: String::from_utf8(payload[1..end].to_vec()).unwrap(),
        id: u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]),
        capabilities: u16_at(13) | u16_at(18) << 16 | extended << 32,
        collation: rest[15],
        status: u16_at(16) as u16,
    }
}

/// Logs in without a password in the test's schema, with these capabilities.
async fn log_in(port: u16, capabilities: u64) -> (TcpStream, Greeting) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let greeting = greeting(&read_packet(&mut stream).await);
    let bits = (capabilities | ORDINARY | CONNECT_WITH_DB).to_le_bytes();
    let mut response = bits[..4].to_vec();
    response.extend_from_slice(&[0, 0, 0, 4, 45]);
    response.extend_from_slice(&[0; 19]);
    response.extend_from_slice(&bits[4..]);
    response.extend_from_slice(format!("{RAW}\0\0shop\0mysql_native_password\0").as_bytes());
    stream.write_all(&packets(1, &response)).await.unwrap();
    let mut sequence = 3;
    loop {
        let answer = read_packet(&mut stream).await;
        match answer.first() {
            Some(0) => return (stream, greeting),
            // Another plugin is asked for; the answer is as empty.
            Some(0xFE) => stream.write_all(&packets(sequence, b"")).await.unwrap(),
            _ => panic!("no login: {}", String::from_utf8_lossy(&answer)),
        }
        sequence += 2;
    }
}

/// Everything that a server answers to these packets, up to the end of the connection.
async fn transcript(port: u16, capabilities: u64, requests: &[Vec<u8>]) -> Vec<u8> {
    let (mut stream, _) = log_in(port, capabilities).await;
    let (mut reads, mut writes) = stream.split();
    let bytes = requests.concat();
    let mut answer = Vec::new();
    // A server that closes early resets the connection of a client that is still writing.
    let both = async { tokio::join!(writes.write_all(&bytes), reads.read_to_end(&mut answer)) };
    let _ = timeout(PATIENCE, both).await.expect("the end of the connection");
    answer
}

fn command(code: u8, argument: impl AsRef<[u8]>) -> Vec<u8> {
    packets(0, &[&[code], argument.as_ref()].concat())
}

fn query(sql: impl AsRef<[u8]>) -> Vec<u8> {
    command(3, sql)
}

fn quit() -> Vec<u8> {
    command(1, "")
}
