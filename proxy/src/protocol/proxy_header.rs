//! The PROXY protocol, versions 1 and 2: what a load balancer says about its client before the first byte.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Reading is strict, because what is taken here
//! decides whose address stands in logs and grants; TLVs of version 2 are skipped unread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::packet::Malformed;

const V1_START: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end.
const V1_MAX: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses of version 2.
const V2_FIXED: usize = 16;
/// Addresses and TLVs of version 2. Balancers send some hundred bytes, with a client certificate's name perhaps
/// a thousand.
const V2_REST_MAX: usize = 4096;
/// Bytes of the shortest header: `PROXY UNKNOWN` and its end.
const SHORTEST: usize = 15;
/// Bytes of the shortest addresses of version 1, with their end.
const V1_TCP4_MIN: usize = b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n".len();
const V1_TCP6_MIN: usize = b"PROXY TCP6 :: :: 1 1\r\n".len();
const V4_ADDRESSES: usize = 12;
const V6_ADDRESSES: usize = 36;
const UNIX_ADDRESSES: usize = 216;

/// The beginning of a connection, as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At least so many bytes are still to come, and they are the header's.
    More(usize),
    /// A whole header.
    Whole {
        /// Its bytes.
        len: usize,
        /// The client that it names; `None` where the balancer speaks for itself (a health check) or doesn't
        /// know, and the connection's own address counts.
        client: Option<SocketAddr>,
    },
}

/// True where `bytes`, the first of a connection, may become a header. Four are enough to tell it from a packet
/// of a login.
#[must_use]
pub fn may_begin(bytes: &[u8]) -> bool {
    let begins = |with: &[u8]| {
        let len = bytes.len().min(with.len());
        bytes.get(..len) == with.get(..len)
    };
    begins(V1_START) || begins(V2_SIGNATURE)
}

/// Looks at the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Result<Start, Malformed> {
    if !may_begin(bytes) {
        return Err(Malformed("it doesn't begin with a PROXY header"));
    }
    if bytes.len() < SHORTEST {
        return Ok(Start::More(SHORTEST - bytes.len()));
    }
    if bytes.starts_with(V2_SIGNATURE) { parse_v2(bytes) } else { parse_v1(bytes) }
}

fn parse_v1(bytes: &[u8]) -> Result<Start, Malformed> {
    const BROKEN: Malformed = Malformed("the PROXY header's line is malformed");
    let Some(end) = bytes.iter().position(|byte| !(b' '..=b'~').contains(byte)) else {
        if bytes.len() > V1_MAX - 2 {
            return Err(Malformed("the PROXY header's line doesn't end"));
        }
        let least = match bytes.get(V1_START.len()..V1_START.len() + 4) {
            Some(b"TCP4") => V1_TCP4_MIN,
            Some(b"TCP6") => V1_TCP6_MIN,
            _ => SHORTEST,
        };
        return Ok(Start::More(least.saturating_sub(bytes.len()).max(2)));
    };
    match bytes.get(end..) {
        Some([b'\r']) if end + 2 <= V1_MAX => return Ok(Start::More(1)),
        Some([b'\r', b'\n', ..]) if end + 2 <= V1_MAX => {}
        _ => return Err(BROKEN),
    }
    let line = bytes.get(V1_START.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let fields: Vec<&str> = line.ok_or(BROKEN)?.split(' ').collect();
    let len = end + 2;
    let address = |address: &str, family: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            _ => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        }
    };
    match *fields.as_slice() {
        // What follows is nobody's business, by the specification.
        ["UNKNOWN", ..] => Ok(Start::Whole { len, client: None }),
        [family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let source = address(source, family).ok_or(BROKEN)?;
            address(destination, family).ok_or(BROKEN)?;
            v1_port(destination_port).ok_or(BROKEN)?;
            let client = SocketAddr::new(source, v1_port(source_port).ok_or(BROKEN)?);
            Ok(Start::Whole { len, client: Some(client) })
        }
        _ => Err(BROKEN),
    }
}

/// Digits only, and no zero before them.
fn v1_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Result<Start, Malformed> {
    let Some([command, family, high, low]) = bytes.get(V2_SIGNATURE.len()..V2_FIXED) else {
        return Ok(Start::More(V2_FIXED.saturating_sub(bytes.len())));
    };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest > V2_REST_MAX {
        return Err(Malformed("the PROXY header is too long"));
    }
    let addresses = match (*command, *family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => V4_ADDRESSES,
        (0x21, 0x21) => V6_ADDRESSES,
        (0x21, 0x31) => UNIX_ADDRESSES,
        (0x21, _) => return Err(Malformed("the PROXY header is of no stream connection")),
        _ => return Err(Malformed("the PROXY header has an unknown version or command")),
    };
    if rest < addresses {
        return Err(Malformed("the PROXY header is too short for its addresses"));
    }
    let len = V2_FIXED + rest;
    let Some(body) = bytes.get(V2_FIXED..len) else {
        return Ok(Start::More(len.saturating_sub(bytes.len())));
    };
    Ok(Start::Whole { len, client: v2_client(addresses, body) })
}

/// Source address, destination address, source port, destination port.
fn v2_client(addresses: usize, body: &[u8]) -> Option<SocketAddr> {
    let (address, ports): (IpAddr, usize) = match addresses {
        V4_ADDRESSES => (IpAddr::from(*body.first_chunk::<4>()?), 8),
        V6_ADDRESSES => (IpAddr::from(*body.first_chunk::<16>()?), 32),
        _ => return None,
    };
    let port = body.get(ports..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

/// Why there is no header.
#[derive(Debug)]
pub enum ReadError {
    /// The connection ended or failed.
    Io(io::Error),
    /// What came isn't one.
    Malformed(Malformed),
}

/// Reads a header of which `begun` has been read, and not a byte more.
///
/// Cancel safety: none; a dropped read leaves the stream in the middle of the header.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    begun: &[u8],
) -> Result<Option<SocketAddr>, ReadError> {
    let mut bytes = begun.to_vec();
    loop {
        match parse(&bytes).map_err(ReadError::Malformed)? {
            Start::Whole { client, .. } => return Ok(client),
            Start::More(count) => {
                let read = bytes.len();
                bytes.resize(read + count, 0);
                let rest = bytes.get_mut(read..).unwrap_or_default();
                stream.read_exact(rest).await.map_err(ReadError::Io)?;
            }
        }
    }
}

/// The line of version 1 that names nobody.
pub const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// Version 2 without a client: the sender speaks for itself.
#[must_use]
pub fn v2_local() -> Vec<u8> {
    [&V2_SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}

/// The line of version 1 for a client of a server. The addresses are written in one family.
#[must_use]
pub fn v1(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = alike(client, server);
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), server.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), server.port()).into_bytes()
}

/// The same as version 2.
#[must_use]
pub fn v2(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = alike(client, server);
    let mut out = V2_SIGNATURE.to_vec();
    let (family, len) = if client.is_ipv4() { (0x11, V4_ADDRESSES) } else { (0x21, V6_ADDRESSES) };
    out.extend_from_slice(&[0x21, family, 0, len as u8]);
    for address in [client, server] {
        match address.ip() {
            IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
        }
    }
    for address in [client, server] {
        out.extend_from_slice(&address.port().to_be_bytes());
    }
    out
}

/// Both in the client's family: its address is what counts, and a server of the other family is nowhere.
fn alike(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
    let to = match (from, to) {
        (IpAddr::V4(_), IpAddr::V6(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (IpAddr::V6(_), IpAddr::V4(v4)) => IpAddr::V6(v4.to_ipv6_mapped()),
        _ => to,
    };
    (SocketAddr::new(from, client.port()), SocketAddr::new(to, server.port()))
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
