//! What the two ends say to each other between the handshake and the OK.

use super::codec::{Malformed, Reader, put_nul_bytes};

/// MariaDB's plugin whose scramble is any bytes.
const ED25519: &[u8] = b"client_ed25519";

/// The server wants another authentication plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSwitchRequest {
    /// Its name.
    pub plugin: Vec<u8>,
    /// The scramble for it, without the NUL that ends it.
    pub data: Vec<u8>,
}

impl AuthSwitchRequest {
    /// The first byte.
    pub const MARKER: u8 = 0xFE;

    /// Reads a payload. One that is only the marker asks for the password hash of before 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8("auth switch marker")? != Self::MARKER {
            return Err(Malformed("auth switch marker"));
        }
        if reader.is_empty() {
            return Ok(Self { plugin: b"mysql_old_password".to_vec(), data: Vec::new() });
        }
        let plugin = reader.nul_bytes("plugin name")?.to_vec();
        let data = reader.rest();
        // Scrambles end with a NUL that is no part of them, but for this one: a NUL at its end is a random byte.
        let scramble = if plugin == ED25519 { None } else { data.strip_suffix(&[0]) };
        Ok(Self { plugin, data: scramble.unwrap_or(data).to_vec() })
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![Self::MARKER];
        put_nul_bytes(&mut out, &self.plugin);
        out.extend_from_slice(&self.data);
        if self.plugin != ED25519 {
            out.push(0);
        }
        out
    }
}

/// The plugin's server side has more to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthMoreData<'a>(pub &'a [u8]);

impl<'a> AuthMoreData<'a> {
    /// The first byte.
    pub const MARKER: u8 = 0x01;

    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        match payload.split_first() {
            Some((&Self::MARKER, data)) => Ok(Self(data)),
            _ => Err(Malformed("auth data marker")),
        }
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![Self::MARKER];
        out.extend_from_slice(self.0);
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
        fn a_switch_round_trips(plugin in "[a-z_]{0,40}", data: Vec<u8>) {
            let packet = AuthSwitchRequest { plugin: plugin.into_bytes(), data };
            prop_assert_eq!(AuthSwitchRequest::parse(&packet.encode()).unwrap(), packet);
        }

        #[test]
        fn every_byte_of_an_ed25519_scramble_counts(mut data in proptest::collection::vec(any::<u8>(), 31)) {
            data.push(0);
            let payload = [&b"\xFEclient_ed25519\0"[..], &data].concat();
            let packet = AuthSwitchRequest::parse(&payload).unwrap();
            prop_assert_eq!(packet.encode(), payload);
            prop_assert_eq!(packet.data, data);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = AuthSwitchRequest::parse(&bytes);
            let _ = AuthMoreData::parse(&bytes);
        }
    }
}
