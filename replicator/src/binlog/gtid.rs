//! The events that begin a transaction.

use config::Gtid;

use super::cursor::{Cursor, Malformed};
use super::event::EventHeader;

/// MariaDB's GTID event: no COMMIT closes the group, its one statement does.
const FL_STANDALONE: u8 = 1;
const FL_GROUP_COMMIT_ID: u8 = 2;
const FL_PREPARED_XA: u8 = 64;
const FL_COMPLETED_XA: u8 = 128;

/// What a GTID event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GtidEvent {
    pub(crate) gtid: Gtid,
    /// Microseconds since 1970.
    pub(crate) committed_at_us: u64,
    /// MariaDB only: true where a statement of its own is the whole group; false where the event is its BEGIN.
    /// MySQL writes BEGIN where there is one.
    pub(crate) standalone: Option<bool>,
    /// MariaDB only: it begins an XA transaction that XA_PREPARE ends. MySQL writes XA START where there is one.
    pub(crate) begins_xa: bool,
}

/// GTID (33) of MySQL.
pub(crate) fn parse_mysql(header: &EventHeader, body: &[u8]) -> Result<GtidEvent, Malformed> {
    const LOGICAL_TIMESTAMP: u8 = 2;
    let mut cursor = Cursor::new(body);
    cursor.u8()?;
    let uuid = cursor.array::<16>()?;
    let number = cursor.u64()?;
    let mut committed_at_us = u64::from(header.timestamp) * 1_000_000;
    // What follows was added by 5.7 and 8.0.1; 5.6 has none of it.
    if cursor.u8() == Ok(LOGICAL_TIMESTAMP)
        && cursor.take(16).is_ok()
        && let Ok(immediate) = cursor.uint_le(7)
    {
        committed_at_us = immediate & !(1 << 55);
    }
    Ok(GtidEvent {
        gtid: Gtid::MySql { uuid, tag: String::new(), number },
        committed_at_us,
        standalone: None,
        begins_xa: false,
    })
}

/// ANONYMOUS_GTID (34) of MySQL 5.7 and later with GTIDs off: the same fields, and no GTID in them.
pub(crate) fn parse_anonymous(header: &EventHeader, body: &[u8]) -> Result<GtidEvent, Malformed> {
    Ok(GtidEvent { gtid: Gtid::Anonymous, ..parse_mysql(header, body)? })
}

/// GTID_TAGGED (42) of MySQL 8.3 and later: a message of its serialisation library, fields with numbers.
pub(crate) fn parse_mysql_tagged(header: &EventHeader, body: &[u8]) -> Result<GtidEvent, Malformed> {
    const VERSION: u64 = 1;
    let mut cursor = Cursor::new(body);
    if varlen(&mut cursor)? != VERSION {
        return Err(Malformed::new("a tagged GTID event has a version that isn't known here"));
    }
    // The message's size and the last field that must be understood.
    varlen(&mut cursor)?;
    varlen(&mut cursor)?;
    let (mut uuid, mut number, mut tag, mut committed_at_us) = (None, None, None, None);
    while !cursor.is_empty() {
        match varlen(&mut cursor)? {
            0 => drop(varlen(&mut cursor)?),
            1 => {
                let mut bytes = [0; 16];
                for byte in &mut bytes {
                    *byte = u8::try_from(varlen(&mut cursor)?)
                        .map_err(|_| Malformed::new("a tagged GTID event has a broken uuid"))?;
                }
                uuid = Some(bytes);
            }
            2 => number = Some(varlen(&mut cursor)? >> 1),
            3 => {
                let length = usize::try_from(varlen(&mut cursor)?).unwrap_or(usize::MAX);
                let text = std::str::from_utf8(cursor.take(length)?)
                    .map_err(|_| Malformed::new("a tagged GTID event has a broken tag"))?;
                tag = Some(text.to_owned());
            }
            6 => committed_at_us = Some(varlen(&mut cursor)?),
            // Every other field, known or of a later server, is a number.
            _ => drop(varlen(&mut cursor)?),
        }
    }
    let missing = || Malformed::new("a tagged GTID event lacks a field");
    Ok(GtidEvent {
        gtid: Gtid::MySql {
            uuid: uuid.ok_or_else(missing)?,
            tag: tag.unwrap_or_default(),
            number: number.ok_or_else(missing)?,
        },
        committed_at_us: committed_at_us.unwrap_or(u64::from(header.timestamp) * 1_000_000),
        standalone: None,
        begins_xa: false,
    })
}

/// A number of MySQL's serialisation library: as many more bytes as the first one has ones at its low end.
pub(crate) fn varlen(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    let first = cursor.u8()?;
    let more = first.trailing_ones();
    if more == 8 {
        return cursor.u64();
    }
    let low = u64::from(first) >> (more + 1);
    let high = cursor.uint_le(more as usize)?;
    Ok(low | high << (7 - more))
}

/// Writes a number as [`varlen`] reads it.
pub(crate) fn write_varlen(out: &mut Vec<u8>, value: u64) {
    let bits = 64 - value.leading_zeros().min(63);
    let bytes = bits.div_ceil(7).max(1);
    if bytes > 8 {
        out.push(0xff);
        out.extend_from_slice(&value.to_le_bytes());
        return;
    }
    let marked = (value << bytes) | ((1 << (bytes - 1)) - 1);
    out.extend(marked.to_le_bytes().iter().take(bytes as usize));
}

/// GTID (162) of MariaDB.
pub(crate) fn parse_mariadb(header: &EventHeader, body: &[u8]) -> Result<GtidEvent, Malformed> {
    let mut cursor = Cursor::new(body);
    let sequence = cursor.u64()?;
    let domain = cursor.u32()?;
    let flags = cursor.u8()?;
    if flags & FL_GROUP_COMMIT_ID != 0 {
        cursor.u64()?;
    }
    // A prepared XA transaction is closed by XA_PREPARE, a completed one is one statement (and is standalone).
    let standalone =
        flags & FL_STANDALONE != 0 && flags & FL_PREPARED_XA == 0 || flags & FL_COMPLETED_XA != 0;
    Ok(GtidEvent {
        gtid: Gtid::MariaDb { domain, server: header.server_id, sequence },
        committed_at_us: u64::from(header.timestamp) * 1_000_000,
        standalone: Some(standalone),
        begins_xa: flags & FL_PREPARED_XA != 0,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_of_the_serialisation_library_round_trip() {
        for value in
            [0, 1, 63, 127, 128, 16383, 16384, 1 << 21, 1 << 35, 1 << 49, (1 << 56) - 1, 1 << 56, u64::MAX]
        {
            let mut bytes = Vec::new();
            write_varlen(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(varlen(&mut cursor).unwrap(), value, "{bytes:?}");
            assert!(cursor.is_empty(), "{value}");
        }
    }
}
