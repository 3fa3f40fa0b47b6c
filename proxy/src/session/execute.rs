//! The packets of prepared statements and of queries, as far as they have to be looked into: where the types
//! of parameters stand, and where a query's text begins.
//!
//! A client sends the types of its parameters once and relies on the server to remember them. A server that
//! the session has moved to doesn't, so they are put in.

use std::ops::Range;

use config::Flavor;

use crate::protocol::capability::Capabilities;
use crate::protocol::command::Command;
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::packet::codec::Reader;
use crate::protocol::packet::{ErrPacket, Malformed};

/// COM_STMT_BULK_EXECUTE: types follow.
const BULK_TYPES: u8 = 128;
/// Behind the command byte and the statement's id.
const BEHIND_ID: usize = 5;
/// COM_STMT_EXECUTE: behind flags and iteration count, too.
const BEHIND_ITERATIONS: usize = 10;

/// The types of cursors among an execute's flags: read-only, for update, scrollable.
const CURSOR_TYPES: u8 = 0x07;

/// Where an execute says the types of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Types {
    /// The byte that says whether they are there.
    flag_at: usize,
    /// Its value where they are.
    flag: u8,
    /// Where they are; empty where they aren't.
    range: Range<usize>,
    /// They are there.
    pub(crate) present: bool,
}

impl Types {
    /// Finds them in the payload of an execute of a statement with `params` parameters. `None` where it has
    /// none, or the payload isn't one.
    pub(crate) fn find(
        payload: &[u8],
        command: Command,
        params: u16,
        capabilities: Capabilities,
    ) -> Option<Self> {
        if command == Command::StmtBulkExecute {
            let (flag_at, start) = (BEHIND_ID, BEHIND_ID + 2);
            let flag = *payload.get(flag_at)?;
            let present = flag & BULK_TYPES != 0;
            let end = if present { start + 2 * usize::from(params) } else { start };
            let found = Self { flag_at, flag: flag | BULK_TYPES, range: start..end, present };
            return (params > 0 && end <= payload.len()).then_some(found);
        }
        let mut reader = Reader::new(payload.get(BEHIND_ITERATIONS..)?);
        let mut count = u64::from(params);
        let attributes = capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        if attributes && (params > 0 || payload.get(BEHIND_ID)? & 0x08 != 0) {
            count = reader.lenenc_int("parameter count").ok()?;
        }
        if count == 0 {
            return None;
        }
        reader.bytes(usize::try_from(count).ok()?.div_ceil(8), "null bitmap").ok()?;
        let flag_at = payload.len() - reader.rest().len();
        let present = reader.u8("types follow").ok()? == 1;
        let start = flag_at + 1;
        if present {
            skip_types(&mut reader, count, attributes).ok()?;
        }
        let end = payload.len() - reader.rest().len();
        Some(Self { flag_at, flag: 1, range: start..end, present })
    }

    /// The types themselves.
    pub(crate) fn of<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(self.range.clone()).unwrap_or_default()
    }

    /// The payload with `types` in it, for one that hasn't any.
    pub(crate) fn insert(&self, payload: &[u8], types: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() + types.len());
        let (head, tail) = payload.split_at(self.range.start.min(payload.len()));
        out.extend_from_slice(head);
        if let Some(flag) = out.get_mut(self.flag_at) {
            *flag = self.flag;
        }
        out.extend_from_slice(types);
        out.extend_from_slice(tail);
        out
    }
}

fn skip_types(reader: &mut Reader<'_>, count: u64, named: bool) -> Result<Vec<u8>, Malformed> {
    let mut kinds = Vec::new();
    for _ in 0..count {
        kinds.push(reader.u8("parameter type")?);
        reader.u8("parameter flags")?;
        if named {
            reader.lenenc_bytes("parameter name")?;
        }
    }
    Ok(kinds)
}

/// True where the payload of a COM_STMT_EXECUTE wants a cursor in place of rows.
pub(super) fn asks_for_cursor(payload: &[u8]) -> bool {
    payload.get(BEHIND_ID).is_some_and(|flags| flags & CURSOR_TYPES != 0)
}

/// 1243, in the words of the server that would have said it: the statement isn't there under this id.
pub(super) fn unknown_statement(flavor: Flavor, command: Command, packet: &[u8]) -> ErrPacket {
    let id = packet.get(HEADER_LEN + 1..HEADER_LEN + 5).and_then(|id| id.first_chunk());
    let id = id.map_or(0, |id| u32::from_le_bytes(*id));
    let given_to = match (flavor, command) {
        (Flavor::MySql, _) => "mysql_stmt_precheck",
        (Flavor::MariaDb, Command::StmtFetch) => "mysqld_stmt_fetch",
        (Flavor::MariaDb, Command::StmtReset) => "mysqld_stmt_reset",
        (Flavor::MariaDb, _) => "mysqld_stmt_execute",
    };
    let message = format!("Unknown prepared statement handler ({id}) given to {given_to}");
    ErrPacket::new(1243, b"HY000", message)
}

/// The statement text in the payload of a COM_QUERY, behind the query attributes where the session has those.
pub(crate) fn query_text(payload: &[u8], capabilities: Capabilities) -> Option<&[u8]> {
    let argument = payload.get(1..)?;
    if !capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
        return Some(argument);
    }
    behind_attributes(argument).ok()
}

fn behind_attributes(argument: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(argument);
    let count = reader.lenenc_int("attribute count")?;
    reader.lenenc_int("attribute sets")?;
    if count == 0 {
        return Ok(reader.rest());
    }
    let len = usize::try_from(count).map_err(|_| Malformed("attribute count"))?.div_ceil(8);
    let nulls = reader.bytes(len, "null bitmap")?;
    if reader.u8("types follow")? != 1 {
        return Err(Malformed("types follow"));
    }
    let kinds = skip_types(&mut reader, count, true)?;
    for (place, kind) in kinds.iter().enumerate() {
        if nulls.get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 == 1) {
            continue;
        }
        match kind {
            0x06 => {}
            0x01 => drop(reader.bytes(1, "value")?),
            0x02 | 0x0D => drop(reader.bytes(2, "value")?),
            0x03 | 0x04 | 0x09 => drop(reader.bytes(4, "value")?),
            0x05 | 0x08 => drop(reader.bytes(8, "value")?),
            0x07 | 0x0A..=0x0C => {
                let len = reader.u8("value")?;
                reader.bytes(usize::from(len), "value")?;
            }
            _ => drop(reader.lenenc_bytes("value")?),
        }
    }
    Ok(reader.rest())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    const ATTRIBUTES: Capabilities = Capabilities::QUERY_ATTRIBUTES;

    fn execute(rest: &[u8]) -> Vec<u8> {
        [&[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0][..], rest].concat()
    }

    #[test]
    fn types_are_found_and_put_in() {
        let with = execute(&[0, 1, 8, 0, 0xFD, 0, 5, 5]);
        let found = Types::find(&with, Command::StmtExecute, 2, Capabilities::NONE).unwrap();
        assert!(found.present);
        assert_eq!(found.of(&with), [8, 0, 0xFD, 0]);
        let without = execute(&[0, 0, 5, 5]);
        let missing = Types::find(&without, Command::StmtExecute, 2, Capabilities::NONE).unwrap();
        assert!(!missing.present);
        assert_eq!(missing.insert(&without, found.of(&with)), with);
        assert_eq!(Types::find(&execute(&[]), Command::StmtExecute, 0, Capabilities::NONE), None);
    }

    #[test]
    fn types_with_names() {
        let with = execute(&[2, 0, 1, 8, 0, 0, 0xFD, 0, 1, b'n', 5, 5]);
        let found = Types::find(&with, Command::StmtExecute, 2, ATTRIBUTES).unwrap();
        assert_eq!(found.of(&with), [8, 0, 0, 0xFD, 0, 1, b'n']);
        let without = execute(&[2, 0, 0, 5, 5]);
        let missing = Types::find(&without, Command::StmtExecute, 2, ATTRIBUTES).unwrap();
        assert_eq!(missing.insert(&without, found.of(&with)), with);
    }

    #[test]
    fn types_of_a_bulk() {
        let with = [&[0xFA, 1, 0, 0, 0, 128, 0][..], &[8, 0], &[0, 5]].concat();
        let found = Types::find(&with, Command::StmtBulkExecute, 1, Capabilities::NONE).unwrap();
        let without = [&[0xFA, 1, 0, 0, 0, 0, 0][..], &[0, 5]].concat();
        let missing = Types::find(&without, Command::StmtBulkExecute, 1, Capabilities::NONE).unwrap();
        assert_eq!(missing.insert(&without, found.of(&with)), with);
    }

    #[test]
    fn texts_are_found() {
        assert_eq!(query_text(b"\x03SELECT 1", Capabilities::NONE).unwrap(), b"SELECT 1");
        assert_eq!(query_text(b"\x03\x00\x01SELECT 1", ATTRIBUTES).unwrap(), b"SELECT 1");
        let two = [
            &[3, 2, 1, 0, 1][..],
            &[8, 0, 1, b'a', 0xFD, 0, 1, b'b'],
            &[0; 8],
            &[2, b'x', b'y'],
            b"SELECT 1",
        ];
        assert_eq!(query_text(&two.concat(), ATTRIBUTES).unwrap(), b"SELECT 1");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, params in 0_u16..40, bulk: bool, attributes: bool) {
            let capabilities = if attributes { ATTRIBUTES } else { Capabilities::NONE };
            let command = if bulk { Command::StmtBulkExecute } else { Command::StmtExecute };
            if let Some(types) = Types::find(&bytes, command, params, capabilities) {
                let _ = types.insert(&bytes, types.of(&bytes));
            }
            let _ = query_text(&bytes, capabilities);
        }
    }
}
