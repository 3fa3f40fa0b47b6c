//! KILL by the id that a client was greeted with.
//!
//! A session that has moved is known to its client by the id of its first connection, and to the backend by
//! that of its present one. A driver that cancels a statement names the first, so the id is exchanged on the way.

use std::ops::Range;

use super::relay::Way;
use super::task::Session;
use super::tokens::{Kind, Tokens};
use crate::protocol::frame::{HEADER_LEN, Header, PAYLOAD_MAX};
use crate::protocol::packet::ErrPacket;

impl Session {
    /// A COM_QUERY whose text begins at `at` in the payload.
    pub(super) fn kill_by_text(&self, at: usize) -> Way {
        let packet = self.client.buffer.filled();
        let Some(header) = Header::parse(packet) else { return Way::AsItIs };
        let payload = packet.get(HEADER_LEN..HEADER_LEN + header.len).unwrap_or_default();
        let text = payload.get(at..).unwrap_or_default();
        let Some((place, id)) = killed(text) else { return Way::AsItIs };
        let present = match self.present_id(id) {
            Some(Ok(present)) => present.to_string(),
            Some(Err(unknown)) => return Way::Answered(unknown),
            None => return Way::AsItIs,
        };
        let parts =
            [payload.get(..at), text.get(..place.start), Some(present.as_bytes()), text.get(place.end..)];
        let changed = parts.into_iter().flatten().collect::<Vec<_>>().concat();
        if changed.len() >= PAYLOAD_MAX {
            return Way::AsItIs;
        }
        let mut instead = Header { len: changed.len(), ..header }.to_bytes().to_vec();
        instead.extend(changed);
        Way::Instead(instead)
    }

    /// COM_PROCESS_KILL.
    pub(super) fn kill_by_command(&mut self) -> Way {
        let place = HEADER_LEN + 1..HEADER_LEN + 5;
        let named = self.client.buffer.filled().get(place.clone()).and_then(|id| id.first_chunk());
        let Some(id) = named.map(|id| u32::from_le_bytes(*id)) else { return Way::AsItIs };
        match self.present_id(id) {
            Some(Ok(present)) => {
                if let Some(id) = self.client.buffer.filled_mut().get_mut(place) {
                    id.copy_from_slice(&present.to_le_bytes());
                }
                Way::AsItIs
            }
            Some(Err(unknown)) => Way::Answered(unknown),
            None => Way::AsItIs,
        }
    }

    /// The present id of the session that was greeted with `id`; `None` where it needn't be exchanged. A session
    /// on the other backend isn't there for a KILL on this one, and somebody else may have its number.
    fn present_id(&self, id: u32) -> Option<Result<u32, ErrPacket>> {
        let (side, present) = self.shared.registry.backend_of(id)?;
        if side != self.backend.side {
            return Some(Err(ErrPacket::new(1094, b"HY000", format!("Unknown thread id: {id}"))));
        }
        (present != id).then_some(Ok(present))
    }
}

/// The connection's id in `KILL [HARD | SOFT] [CONNECTION | QUERY] id`, and where it stands.
fn killed(text: &[u8]) -> Option<(Range<usize>, u32)> {
    // Most statements end here.
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if !matches!(first, b'k' | b'K' | b'/' | b'-' | b'#') {
        return None;
    }
    let mut tokens = Tokens::new(text, false);
    tokens.next().filter(|token| token.is("KILL"))?;
    let mut token = tokens.next()?;
    for words in [["HARD", "SOFT"], ["CONNECTION", "QUERY"]] {
        if words.iter().any(|word| token.is(word)) {
            token = tokens.next()?;
        }
    }
    let end = text.len() - tokens.rest().len();
    let id = std::str::from_utf8(token.text).ok()?.parse().ok()?;
    let alone = tokens.all(|token| token.kind == Kind::Sign(b';'));
    (token.kind == Kind::Number && alone).then(|| (end - token.text.len()..end, id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_a_connection_that_is_named_by_its_number() {
        for text in [
            "KILL 42",
            "kill query 42",
            " KILL QUERY 42;",
            "KILL HARD CONNECTION 42 ;",
            "KILL SOFT QUERY 42 -- now",
            "/* a tool's */ KILL CONNECTION\n42",
            "KILL /*!50000 QUERY */ 42",
        ] {
            let (place, id) = killed(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((&text[place], id), ("42", 42), "{text}");
        }
        for text in [
            "",
            "SELECT 42",
            "KILL",
            "KILL QUERY",
            "KILL QUERY ID 42",
            "KILL USER app",
            "KILL CONNECTION_ID()",
            "KILL 42 + 1",
            "KILL @a",
            "KILL '42'",
            "KILL 4.2",
            "KILL 99999999999",
            "/* KILL 42 */ SELECT 42",
        ] {
            assert_eq!(killed(text.as_bytes()), None, "{text}");
        }
    }
}
