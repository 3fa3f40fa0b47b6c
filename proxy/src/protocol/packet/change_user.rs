//! COM_CHANGE_USER: a login within a session.

use config::Secret;
use zeroize::Zeroizing;

use super::codec::{Malformed, Reader, put_lenenc_bytes, put_nul_bytes};
use crate::protocol::capability::Capabilities;

/// A client wants its session to begin again as somebody else, or as itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeUser {
    /// Account name.
    pub user: Vec<u8>,
    /// An answer to some scramble of before.
    pub auth: Secret,
    /// The schema to begin in.
    pub schema: Option<Vec<u8>>,
    /// Collation id; `None` where the client leaves it as it was.
    pub collation: Option<u16>,
    /// The plugin that `auth` is of.
    pub plugin: Option<Vec<u8>>,
    /// Connection attributes, as in the handshake response.
    pub attributes: Option<Vec<u8>>,
}

impl ChangeUser {
    /// The command byte.
    pub const COMMAND: u8 = 0x11;

    /// Reads a command of a session with these capabilities.
    pub fn parse(payload: &[u8], capabilities: Capabilities) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8("command")? != Self::COMMAND {
            return Err(Malformed("command"));
        }
        let has = |flag| capabilities.contains(flag);
        let user = reader.nul_bytes("user name")?.to_vec();
        let auth = if has(Capabilities::SECURE_CONNECTION) {
            let len = usize::from(reader.u8("auth data")?);
            reader.bytes(len, "auth data")?
        } else {
            reader.nul_bytes("auth data")?
        };
        let auth = Secret::new(auth);
        let schema = reader.nul_bytes_or_rest().to_vec();
        let collation = if reader.is_empty() { None } else { Some(reader.u16("collation")?) };
        let plugin = has(Capabilities::PLUGIN_AUTH).then(|| reader.nul_bytes_or_rest().to_vec());
        let attributes = if has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
            Some(reader.lenenc_bytes("connection attributes")?.to_vec())
        } else {
            None
        };
        let schema = Some(schema).filter(|name| !name.is_empty());
        Ok(Self { user, auth, schema, collation, plugin, attributes })
    }

    /// The command for a session with these capabilities. Fields that they have no place for are left out;
    /// attributes need a plugin's name before them, and that needs a collation.
    #[must_use]
    pub fn encode(&self, capabilities: Capabilities) -> Zeroizing<Vec<u8>> {
        let has = |flag| capabilities.contains(flag);
        let mut out = Zeroizing::new(vec![Self::COMMAND]);
        put_nul_bytes(&mut out, &self.user);
        let auth = self.auth.expose();
        match u8::try_from(auth.len()) {
            Ok(len) if has(Capabilities::SECURE_CONNECTION) => {
                out.push(len);
                out.extend_from_slice(auth);
            }
            _ => put_nul_bytes(&mut out, auth),
        }
        put_nul_bytes(&mut out, self.schema.as_deref().unwrap_or_default());
        let Some(collation) = self.collation else { return out };
        out.extend_from_slice(&collation.to_le_bytes());
        let Some(plugin) = self.plugin.as_ref().filter(|_| has(Capabilities::PLUGIN_AUTH)) else {
            return out;
        };
        put_nul_bytes(&mut out, plugin);
        if let Some(attributes) = self.attributes.as_ref().filter(|_| has(Capabilities::CONNECT_ATTRS)) {
            put_lenenc_bytes(&mut out, attributes);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    const ALL: Capabilities = Capabilities::from_bits(u64::MAX);

    #[test]
    fn every_field() {
        let payload = b"\x11app\0\x03abcshop\0\x2d\x00mysql_native_password\0\x04\x01k\x01v";
        let command = ChangeUser::parse(payload, ALL).unwrap();
        assert_eq!(command.user, b"app");
        assert_eq!(command.auth.expose(), b"abc");
        assert_eq!(command.schema.as_deref(), Some(&b"shop"[..]));
        assert_eq!(command.collation, Some(45));
        assert_eq!(command.plugin.as_deref(), Some(&b"mysql_native_password"[..]));
        assert_eq!(command.attributes.as_deref(), Some(&b"\x01k\x01v"[..]));
        assert_eq!(command.encode(ALL).as_slice(), payload);
    }

    #[test]
    fn as_short_as_it_may_be() {
        let command = ChangeUser::parse(b"\x11app\0\x00\0", ALL).unwrap();
        assert_eq!((command.schema, command.collation, command.attributes), (None, None, None));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes: Vec<u8>, bits: u64) {
            bytes.insert(0, ChangeUser::COMMAND);
            let _ = ChangeUser::parse(&bytes, Capabilities::from_bits(bits));
        }
    }
}
