//! The client's answer to the greeting, and the request for TLS that may come before it.

use config::Secret;
use zeroize::Zeroizing;

use super::codec::{Malformed, Reader, put_lenenc_bytes, put_lenenc_int, put_nul_bytes};
use crate::protocol::capability::Capabilities;

/// Bytes that both packets begin with.
const PREFIX_LEN: usize = 32;

/// The first half of a response, alone: the client wants TLS and will say the rest behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SslRequest {
    /// May differ from the flags of the response that follows: these are the ones that count, at both families of servers
    /// (seen at MySQL 9.7 and MariaDB 10.11).
    pub capabilities: Capabilities,
    /// As in the response.
    pub max_packet: u32,
    /// As in the response.
    pub collation: u16,
}

impl SslRequest {
    /// Reads a payload; `None` where it is something else, a response most likely.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        if payload.len() != PREFIX_LEN {
            return None;
        }
        let (capabilities, max_packet, collation) = prefix(&mut Reader::new(payload)).ok()?;
        capabilities.contains(Capabilities::SSL).then_some(Self { capabilities, max_packet, collation })
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_LEN);
        put_prefix(&mut out, self.capabilities, self.max_packet, self.collation);
        out
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// What the client wants of what it was offered.
    pub capabilities: Capabilities,
    /// The largest packet that the client takes.
    pub max_packet: u32,
    /// Collation id. Clients write one byte, some two.
    pub collation: u16,
    /// Account name, in the client's character set.
    pub user: Vec<u8>,
    /// The plugin's answer to the scramble.
    pub auth: Secret,
    /// The schema to begin in.
    pub schema: Option<Vec<u8>>,
    /// The plugin that `auth` is of.
    pub plugin: Option<Vec<u8>>,
    /// Connection attributes: the pairs as they came, without the length before them.
    pub attributes: Option<Vec<u8>>,
    /// Level of zstd compression.
    pub zstd_level: Option<u8>,
}

impl HandshakeResponse {
    /// Reads a payload. What an old client leaves out at the end is taken as absent.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        Self::parse_as(payload, None)
    }

    /// Reads the payload that follows a request for TLS, whose flags say what stands in it.
    pub fn parse_behind(request: &SslRequest, payload: &[u8]) -> Result<Self, Malformed> {
        Self::parse_as(payload, Some(request.capabilities))
    }

    fn parse_as(payload: &[u8], flags: Option<Capabilities>) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let (of_payload, max_packet, collation) = prefix(&mut reader)?;
        let capabilities = flags.unwrap_or(of_payload);
        let has = |flag| capabilities.contains(flag);
        let user = reader.nul_bytes("user name")?.to_vec();
        let auth = if has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            reader.lenenc_bytes("auth data")?
        } else if has(Capabilities::SECURE_CONNECTION) {
            let len = usize::from(reader.u8("auth data")?);
            reader.bytes(len, "auth data")?
        } else {
            reader.nul_bytes_or_rest()
        };
        let auth = Secret::new(auth);
        let schema = (has(Capabilities::CONNECT_WITH_DB) && !reader.is_empty())
            .then(|| reader.nul_bytes_or_rest().to_vec());
        let plugin = (has(Capabilities::PLUGIN_AUTH) && !reader.is_empty())
            .then(|| reader.nul_bytes_or_rest().to_vec());
        let attributes = if has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
            Some(reader.lenenc_bytes("connection attributes")?.to_vec())
        } else {
            None
        };
        let zstd_level =
            if has(Capabilities::ZSTD_COMPRESSION) { reader.u8("zstd level").ok() } else { None };
        Ok(Self {
            capabilities,
            max_packet,
            collation,
            user,
            auth,
            schema: schema.filter(|name| !name.is_empty()),
            plugin,
            attributes,
            zstd_level,
        })
    }

    /// The payload. Flags that say which fields follow are set as the fields are, so that the packet can't
    /// contradict itself.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let auth = self.auth.expose();
        let capabilities = self.effective_capabilities();
        let has = |flag| capabilities.contains(flag);
        let mut out = Zeroizing::new(Vec::with_capacity(
            PREFIX_LEN + 64 + self.user.len() + auth.len() + self.attributes.as_ref().map_or(0, Vec::len),
        ));
        put_prefix(&mut out, capabilities, self.max_packet, self.collation);
        put_nul_bytes(&mut out, &self.user);
        if has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            put_lenenc_int(&mut out, auth.len() as u64);
            out.extend_from_slice(auth);
        } else {
            let len = u8::try_from(auth.len()).unwrap_or(u8::MAX);
            out.push(len);
            out.extend(auth.iter().take(usize::from(len)));
        }
        if let Some(schema) = &self.schema {
            put_nul_bytes(&mut out, schema);
        }
        if let Some(plugin) = &self.plugin {
            put_nul_bytes(&mut out, plugin);
        }
        if let Some(attributes) = &self.attributes {
            put_lenenc_bytes(&mut out, attributes);
        }
        out.extend(self.zstd_level);
        out
    }

    fn effective_capabilities(&self) -> Capabilities {
        let mut capabilities =
            self.capabilities | Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION;
        for (flag, present) in [
            (Capabilities::CONNECT_WITH_DB, self.schema.is_some()),
            (Capabilities::PLUGIN_AUTH, self.plugin.is_some()),
            (Capabilities::CONNECT_ATTRS, self.attributes.is_some()),
            (Capabilities::ZSTD_COMPRESSION, self.zstd_level.is_some()),
        ] {
            capabilities = if present { capabilities | flag } else { capabilities.without(flag) };
        }
        capabilities.normalised()
    }
}

fn prefix(reader: &mut Reader<'_>) -> Result<(Capabilities, u32, u16), Malformed> {
    let lower = reader.u32("capabilities")?;
    if !Capabilities::from_bits(u64::from(lower)).contains(Capabilities::PROTOCOL_41) {
        return Err(Malformed("a client of before MySQL 4.1"));
    }
    let max_packet = reader.u32("max packet")?;
    let collation = reader.u16("collation")?;
    reader.bytes(18, "reserved bytes")?;
    let extended = reader.u32("reserved bytes")?;
    let capabilities = Capabilities::from_bits(u64::from(lower) | u64::from(extended) << 32).normalised();
    Ok((capabilities, max_packet, collation))
}

fn put_prefix(out: &mut Vec<u8>, capabilities: Capabilities, max_packet: u32, collation: u16) {
    let bits = capabilities.normalised().bits().to_le_bytes();
    out.extend(bits.iter().take(4));
    out.extend_from_slice(&max_packet.to_le_bytes());
    out.extend_from_slice(&collation.to_le_bytes());
    out.extend_from_slice(&[0; 18]);
    out.extend(bits.iter().skip(4));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn response()(
            bits: u64, max_packet: u32, collation: u16, user in "[a-zé%]{0,40}",
            auth in proptest::collection::vec(any::<u8>(), 0..250),
            schema in proptest::option::of("[a-z]{1,64}"), plugin in proptest::option::of("[a-z_]{1,30}"),
            attributes: Option<Vec<u8>>, zstd_level: Option<u8>,
        ) -> HandshakeResponse {
            let mut response = HandshakeResponse {
                capabilities: Capabilities::from_bits(bits), max_packet, collation, user: user.into_bytes(),
                auth: Secret::new(auth), schema: schema.map(String::into_bytes),
                plugin: plugin.map(String::into_bytes), attributes, zstd_level,
            };
            response.capabilities = response.effective_capabilities();
            response
        }
    }

    proptest! {
        #[test]
        fn round_trips(response in response()) {
            prop_assert_eq!(HandshakeResponse::parse(&response.encode()).unwrap(), response);
        }

        #[test]
        fn a_request_for_tls_round_trips(bits: u64, max_packet: u32, collation: u16) {
            let capabilities = (Capabilities::from_bits(bits) | Capabilities::SSL | Capabilities::PROTOCOL_41)
                .normalised();
            let request = SslRequest { capabilities, max_packet, collation };
            prop_assert_eq!(SslRequest::parse(&request.encode()), Some(request));
        }

        #[test]
        fn the_flags_of_the_request_for_tls_count(response in response(), bits: u64) {
            let flags = Capabilities::from_bits(bits) | Capabilities::SSL | Capabilities::PROTOCOL_41;
            let request = SslRequest { capabilities: flags.normalised(), max_packet: 0, collation: 0 };
            if let Ok(parsed) = HandshakeResponse::parse_behind(&request, &response.encode()) {
                prop_assert_eq!(parsed.capabilities, request.capabilities);
                let may_have_schema = request.capabilities.contains(Capabilities::CONNECT_WITH_DB);
                prop_assert!(parsed.schema.is_none() || may_have_schema);
            }
            let same = SslRequest { capabilities: response.capabilities, max_packet: 0, collation: 0 };
            prop_assert_eq!(HandshakeResponse::parse_behind(&same, &response.encode()).unwrap(), response);
        }

        #[test]
        fn a_cut_response_never_panics(response in response(), cut in 0usize..400) {
            let bytes = response.encode();
            let _ = HandshakeResponse::parse(&bytes[..cut.min(bytes.len())]);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HandshakeResponse::parse(&bytes);
            let _ = SslRequest::parse(&bytes);
        }
    }
}
