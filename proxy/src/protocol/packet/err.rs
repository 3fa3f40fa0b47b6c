//! ERR packets.

use super::codec::{Malformed, Reader};

/// An ERR packet: what went wrong, as MySQL says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error {code} ({}): {}", printable(.state), printable(.message))]
pub struct ErrPacket {
    /// Error number, such as 1045.
    pub code: u16,
    /// SQLSTATE.
    pub state: [u8; 5],
    /// Text, in the session's character set.
    pub message: Vec<u8>,
}

impl ErrPacket {
    /// The first byte of an ERR packet.
    pub const MARKER: u8 = 0xFF;

    /// An error of our own.
    pub fn new(code: u16, state: &[u8; 5], message: impl Into<Vec<u8>>) -> Self {
        Self { code, state: *state, message: message.into() }
    }

    /// 1045, as the servers word it.
    #[must_use]
    pub fn access_denied(user: &[u8], host: &str, with_password: bool) -> Self {
        let with = if with_password { "YES" } else { "NO" };
        let user = String::from_utf8_lossy(user);
        Self::new(
            1045,
            b"28000",
            format!("Access denied for user '{user}'@'{host}' (using password: {with})"),
        )
    }

    /// Reads a payload. The SQLSTATE is missing in what a server sends instead of its greeting.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8("ERR marker")? != Self::MARKER {
            return Err(Malformed("ERR marker"));
        }
        let code = reader.u16("error number")?;
        let mut with_state = reader;
        if with_state.u8("") == Ok(b'#')
            && let Ok(state) = with_state.bytes(5, "SQLSTATE")
            && let Ok(state) = <[u8; 5]>::try_from(state)
        {
            return Ok(Self { code, state, message: with_state.rest().to_vec() });
        }
        Ok(Self { code, state: *b"HY000", message: reader.rest().to_vec() })
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.message.len());
        out.push(Self::MARKER);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(b'#');
        out.extend_from_slice(&self.state);
        out.extend_from_slice(&self.message);
        out
    }
}

/// As text for a log. A client's own words may be in it (its user name), so it must not break a line.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(code: u16, state: [u8; 5], message: Vec<u8>) {
            let packet = ErrPacket { code, state, message };
            prop_assert_eq!(ErrPacket::parse(&packet.encode()).unwrap(), packet);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = ErrPacket::parse(&bytes);
        }
    }

    #[test]
    fn a_log_line_stays_one_line() {
        let text = ErrPacket::new(1045, b"28000", "for user 'a\r\nb\x1b[2J'").to_string();
        assert_eq!(text, "error 1045 (28000): for user 'a\u{FFFD}\u{FFFD}b\u{FFFD}[2J'");
    }

    #[test]
    fn instead_of_a_greeting() {
        let packet = ErrPacket::parse(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!(
            (packet.code, &packet.state, &packet.message[..]),
            (1040, b"HY000", &b"Too many connections"[..])
        );
    }
}
