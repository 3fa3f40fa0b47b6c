//! Event headers, checksums, and the bodies of the small events.

use super::cursor::{Cursor, Malformed};
use super::xid::Xid;

/// Length of every event's common header.
pub(crate) const HEADER_BYTES: usize = 19;
/// Length of the CRC32 behind an event.
pub(crate) const CHECKSUM_BYTES: usize = 4;
/// The reader of an event that it doesn't know may skip it (LOG_EVENT_IGNORABLE_F).
pub(crate) const FLAG_IGNORABLE: u16 = 0x80;
/// Made up by the server for this stream, not in its log (LOG_EVENT_ARTIFICIAL_F).
pub(crate) const FLAG_ARTIFICIAL: u16 = 0x20;

/// Type codes, as both families number them.
pub(crate) mod kind {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const STOP: u8 = 3;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const INTVAR: u8 = 5;
    pub(crate) const LOAD: u8 = 6;
    pub(crate) const CREATE_FILE: u8 = 8;
    pub(crate) const NEW_LOAD: u8 = 12;
    pub(crate) const RAND: u8 = 13;
    pub(crate) const USER_VAR: u8 = 14;
    pub(crate) const FORMAT_DESCRIPTION: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const BEGIN_LOAD_QUERY: u8 = 17;
    pub(crate) const EXECUTE_LOAD_QUERY: u8 = 18;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_ROWS_V1: u8 = 23;
    pub(crate) const UPDATE_ROWS_V1: u8 = 24;
    pub(crate) const DELETE_ROWS_V1: u8 = 25;
    pub(crate) const INCIDENT: u8 = 26;
    pub(crate) const HEARTBEAT: u8 = 27;
    pub(crate) const IGNORABLE: u8 = 28;
    pub(crate) const ROWS_QUERY: u8 = 29;
    pub(crate) const WRITE_ROWS: u8 = 30;
    pub(crate) const UPDATE_ROWS: u8 = 31;
    pub(crate) const DELETE_ROWS: u8 = 32;
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const PREVIOUS_GTIDS: u8 = 35;
    pub(crate) const TRANSACTION_CONTEXT: u8 = 36;
    pub(crate) const VIEW_CHANGE: u8 = 37;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(crate) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(crate) const HEARTBEAT_V2: u8 = 41;
    pub(crate) const GTID_TAGGED: u8 = 42;
    pub(crate) const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub(crate) const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub(crate) const MARIADB_GTID: u8 = 162;
    pub(crate) const MARIADB_GTID_LIST: u8 = 163;
    pub(crate) const MARIADB_START_ENCRYPTION: u8 = 164;
    pub(crate) const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub(crate) const MARIADB_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub(crate) const MARIADB_UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub(crate) const MARIADB_DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub(crate) const MARIADB_WRITE_ROWS_COMPRESSED: u8 = 169;
    pub(crate) const MARIADB_UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub(crate) const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// The common header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventHeader {
    /// Seconds since 1970.
    pub(crate) timestamp: u32,
    /// Type code, see [`kind`].
    pub(crate) kind: u8,
    /// Server where it was written first.
    pub(crate) server_id: u32,
    /// Bytes of the whole event, header and checksum included.
    pub(crate) size: u32,
    /// Low 32 bits of the offset behind it; 0 in a payload and for some artificial events.
    pub(crate) log_pos: u32,
    /// Flags.
    pub(crate) flags: u16,
}

impl EventHeader {
    /// Reads the first [`HEADER_BYTES`] of an event.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        Ok(Self {
            timestamp: cursor.u32()?,
            kind: cursor.u8()?,
            server_id: cursor.u32()?,
            size: cursor.u32()?,
            log_pos: cursor.u32()?,
            flags: cursor.u16()?,
        })
    }

    /// Made up by the server for this stream.
    pub(crate) fn is_artificial(&self) -> bool {
        self.flags & FLAG_ARTIFICIAL != 0
    }
}

/// Appends the header of an event with a body of so many bytes, without checksum.
pub(crate) fn write_event_header(out: &mut Vec<u8>, header: &EventHeader, body_bytes: usize) {
    let size = u32::try_from(HEADER_BYTES + body_bytes).unwrap_or(u32::MAX);
    out.extend_from_slice(&header.timestamp.to_le_bytes());
    out.push(header.kind);
    out.extend_from_slice(&header.server_id.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&header.log_pos.to_le_bytes());
    out.extend_from_slice(&header.flags.to_le_bytes());
}

/// Insert, update, delete: what a rows event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsKind {
    Write,
    Update,
    Delete,
}

/// How a rows event is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsShape {
    pub(crate) kind: RowsKind,
    /// Version 2 has extra data behind the flags.
    pub(crate) extra_data: bool,
    /// MariaDB's log_bin_compress: zlib behind the column bitmaps.
    pub(crate) compressed: bool,
    /// Documents of the image after may be written as changes of those before (binlog_row_value_options).
    pub(crate) partial: bool,
}

impl RowsShape {
    /// `None` for an event that isn't a rows event we understand.
    pub(crate) fn of(event_kind: u8) -> Option<Self> {
        use RowsKind::{Delete, Update, Write};
        let (kind, extra_data, compressed) = match event_kind {
            kind::WRITE_ROWS_V1 => (Write, false, false),
            kind::UPDATE_ROWS_V1 => (Update, false, false),
            kind::DELETE_ROWS_V1 => (Delete, false, false),
            kind::WRITE_ROWS => (Write, true, false),
            kind::UPDATE_ROWS | kind::PARTIAL_UPDATE_ROWS => (Update, true, false),
            kind::DELETE_ROWS => (Delete, true, false),
            kind::MARIADB_WRITE_ROWS_COMPRESSED_V1 => (Write, false, true),
            kind::MARIADB_UPDATE_ROWS_COMPRESSED_V1 => (Update, false, true),
            kind::MARIADB_DELETE_ROWS_COMPRESSED_V1 => (Delete, false, true),
            kind::MARIADB_WRITE_ROWS_COMPRESSED => (Write, true, true),
            kind::MARIADB_UPDATE_ROWS_COMPRESSED => (Update, true, true),
            kind::MARIADB_DELETE_ROWS_COMPRESSED => (Delete, true, true),
            _ => return None,
        };
        Some(Self { kind, extra_data, compressed, partial: event_kind == kind::PARTIAL_UPDATE_ROWS })
    }
}

/// What FORMAT_DESCRIPTION says of the events behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormatDescription {
    /// Events behind it end with a CRC32.
    pub(crate) checksums: bool,
}

impl FormatDescription {
    /// Reads the body, with the five bytes at its end that say how events are checksummed.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        const VERSION_BYTES: usize = 50;
        const ROWS_POST_HEADER: u8 = 8;
        let mut cursor = Cursor::new(body);
        if cursor.u16()? != 4 {
            return Err(Malformed::new("the binlog's format isn't version 4"));
        }
        cursor.take(VERSION_BYTES + 4)?;
        if usize::from(cursor.u8()?) != HEADER_BYTES {
            return Err(Malformed::new("the binlog's event headers don't have 19 bytes"));
        }
        let rest = cursor.rest();
        let split = rest.len().checked_sub(1 + CHECKSUM_BYTES);
        let (post_headers, tail) = split.and_then(|at| rest.split_at_checked(at)).ok_or_else(|| {
            Malformed::new("the format description doesn't say how events are checksummed (server too old)")
        })?;
        // A table id of four bytes was written by servers older than 5.1.4 only.
        if post_headers.get(usize::from(kind::TABLE_MAP) - 1) != Some(&ROWS_POST_HEADER) {
            return Err(Malformed::new("table ids in the binlog don't have six bytes"));
        }
        match tail.first() {
            Some(0) => Ok(Self { checksums: false }),
            Some(1) => Ok(Self { checksums: true }),
            _ => Err(Malformed::new("events are checksummed by an algorithm that isn't known here")),
        }
    }
}

/// True where the last four bytes are the CRC32 of those before them.
pub(crate) fn checksum_holds(event: &[u8]) -> bool {
    event
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(body, checksum)| crc32fast::hash(body) == u32::from_le_bytes(*checksum))
}

/// Body of ROTATE: the next file and the offset in it.
pub(crate) fn parse_rotate(body: &[u8]) -> Result<(String, u64), Malformed> {
    let mut cursor = Cursor::new(body);
    let offset = cursor.u64()?;
    Ok((file_name(cursor.rest())?, offset))
}

/// Body of HEARTBEAT_V2: file and offset of the end of what was sent.
pub(crate) fn parse_heartbeat_v2(body: &[u8]) -> Result<(String, u64), Malformed> {
    const FILE_NAME: u64 = 1;
    const OFFSET: u64 = 2;
    let mut cursor = Cursor::new(body);
    let (mut file, mut offset) = (None, None);
    while !cursor.is_empty() {
        let field = cursor.lenenc()?;
        if field == 0 {
            break;
        }
        let length = cursor.lenenc_size()?;
        let value = cursor.take(length)?;
        match field {
            FILE_NAME => file = Some(file_name(value)?),
            OFFSET => offset = Some(Cursor::new(value).lenenc()?),
            _ => {}
        }
    }
    file.zip(offset).ok_or_else(|| Malformed::new("a heartbeat names no position"))
}

/// A binlog's file name ends with its number; anything else isn't one, and an order of positions would be lost.
pub(crate) fn file_name(bytes: &[u8]) -> Result<String, Malformed> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| {
        name.rsplit_once('.').is_some_and(|(base, number)| {
            !base.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
    });
    name.map(str::to_owned).ok_or_else(|| Malformed::new("a binlog file name doesn't end with its number"))
}

/// The offset at or behind `from` whose low 32 bits are `log_pos`: headers hold only these, files may be larger.
pub(crate) fn widen_offset(from: u64, log_pos: u32) -> u64 {
    const WRAP: u64 = 1 << 32;
    let candidate = (from & !(WRAP - 1)) | u64::from(log_pos);
    if candidate < from { candidate + WRAP } else { candidate }
}

/// Body of QUERY and QUERY_COMPRESSED.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// Low 32 bits of the id of the connection that ran it.
    pub(crate) connection: u32,
    /// The status variables, see [`super::context`].
    pub(crate) status: &'a [u8],
    pub(crate) schema: &'a [u8],
    pub(crate) sql: std::borrow::Cow<'a, [u8]>,
}

impl<'a> Query<'a> {
    pub(crate) fn parse(body: &'a [u8], compressed: bool) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let connection = cursor.u32()?;
        cursor.take(4)?;
        let schema_length = usize::from(cursor.u8()?);
        cursor.take(2)?;
        let status_length = usize::from(cursor.u16()?);
        let status = cursor.take(status_length)?;
        let schema = cursor.take(schema_length)?;
        cursor.take(1)?;
        let sql =
            if compressed { super::compress::inflate(cursor.rest())?.into() } else { cursor.rest().into() };
        Ok(Self { connection, status, schema, sql })
    }
}

/// Body of XA_PREPARE: whether it commits at once (XA COMMIT … ONE PHASE), and what it is called.
pub(crate) fn parse_xa_prepare(body: &[u8]) -> Result<(bool, Xid), Malformed> {
    let mut cursor = Cursor::new(body);
    Ok((cursor.u8()? != 0, Xid::read(&mut cursor)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn offsets_beyond_four_gigabytes_are_found_again() {
        let check = |from: u64, log_pos: u32, expected: u64| {
            assert_eq!(widen_offset(from, log_pos), expected, "{from} {log_pos}");
        };
        check(4, 120, 120);
        check(120, 120, 120);
        check(0xffff_fff0, 0x10, 0x1_0000_0010);
        check(0x1_0000_0010, 0x20, 0x1_0000_0020);
    }

    #[test]
    fn a_file_name_ends_with_its_number() {
        assert_eq!(file_name(b"bin.000003").unwrap(), "bin.000003");
        assert!(file_name(b"bin.000003\x12\x9a\xfe\x01").is_err());
        assert!(file_name(b"bin").is_err());
        assert!(file_name(b".1").is_err());
    }
}
