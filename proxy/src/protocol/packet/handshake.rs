//! The server's greeting, protocol version 10.

use super::codec::{Malformed, Reader, put_nul_bytes};
use super::ok::StatusFlags;
use crate::protocol::capability::Capabilities;

/// Bytes of the scramble that both password plugins use.
pub const SCRAMBLE_LEN: usize = 20;
const FIRST_PART: usize = 8;
const PROTOCOL_VERSION: u8 = 10;

/// A greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// `@@version`, with MariaDB's `5.5.5-` before it where the server sent it.
    pub server_version: Vec<u8>,
    /// `CONNECTION_ID()` of this connection.
    pub connection_id: u32,
    /// The scramble, without the NUL that ends it.
    pub scramble: Vec<u8>,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// The server's default collation, low byte.
    pub collation: u8,
    /// At the start of a session: autocommit.
    pub status: StatusFlags,
    /// The plugin that the scramble is meant for.
    pub plugin: Vec<u8>,
}

impl Handshake {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8("protocol version")? != PROTOCOL_VERSION {
            return Err(Malformed("protocol version"));
        }
        let server_version = reader.nul_bytes("server version")?.to_vec();
        let connection_id = reader.u32("connection id")?;
        let mut scramble = reader.bytes(FIRST_PART, "scramble")?.to_vec();
        reader.u8("filler")?;
        let lower = reader.u16("capabilities")?;
        let collation = reader.u8("collation")?;
        let status = StatusFlags(reader.u16("status flags")?);
        let upper = reader.u16("upper capabilities")?;
        let scramble_len = usize::from(reader.u8("scramble length")?);
        reader.bytes(6, "reserved bytes")?;
        let extended = reader.u32("reserved bytes")?;
        let capabilities =
            Capabilities::from_bits(u64::from(lower) | u64::from(upper) << 16 | u64::from(extended) << 32)
                .normalised();
        if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let second = reader.bytes(scramble_len.saturating_sub(FIRST_PART).max(13), "scramble")?;
            scramble.extend_from_slice(second.strip_suffix(&[0]).unwrap_or(second));
        }
        let plugin = if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            reader.nul_bytes_or_rest().to_vec()
        } else {
            Vec::new()
        };
        Ok(Self { server_version, connection_id, scramble, capabilities, collation, status, plugin })
    }

    /// The payload. The scramble has [`SCRAMBLE_LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (first, second) = self.scramble.split_at(self.scramble.len().min(FIRST_PART));
        let capabilities = self.capabilities.normalised();
        let bits = capabilities.bits().to_le_bytes();
        let mut out = vec![PROTOCOL_VERSION];
        put_nul_bytes(&mut out, &self.server_version);
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(first);
        out.push(0);
        out.extend(bits.iter().take(2));
        out.push(self.collation);
        out.extend_from_slice(&self.status.0.to_le_bytes());
        out.extend(bits.iter().skip(2).take(2));
        out.push(u8::try_from(self.scramble.len() + 1).unwrap_or(u8::MAX));
        out.extend_from_slice(&[0; 6]);
        out.extend(bits.iter().skip(4));
        if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            out.extend_from_slice(second);
            out.push(0);
        }
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, &self.plugin);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(
            server_version in "[0-9a-zA-Z.-]{0,60}", connection_id: u32, scramble: [u8; SCRAMBLE_LEN],
            bits: u64, collation: u8, status: u16, plugin in "[a-z_]{0,30}",
        ) {
            let scramble = scramble.map(|b| b | 1).to_vec();
            let capabilities = Capabilities::from_bits(bits).normalised()
                | Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH;
            let packet = Handshake {
                server_version: server_version.into_bytes(), connection_id, scramble, capabilities,
                collation, status: StatusFlags(status), plugin: plugin.into_bytes(),
            };
            prop_assert_eq!(Handshake::parse(&packet.encode()).unwrap(), packet);
        }

        #[test]
        fn garbage_never_panics(mut bytes: Vec<u8>) {
            let _ = Handshake::parse(&bytes);
            bytes.insert(0, PROTOCOL_VERSION);
            let _ = Handshake::parse(&bytes);
        }
    }
}
