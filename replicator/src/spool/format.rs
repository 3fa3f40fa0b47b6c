//! The spool's file format. This comment is its specification.
//!
//! A spool is a folder of *segments*, `0000000001.spool` and so on, numbered without gaps. The oldest ones are
//! removed once applied. A segment is the eight bytes `CHGSPOOL` and then *records*:
//!
//! ```text
//! length   u32   bytes of kind and payload
//! crc      u32   CRC32 of kind and payload
//! kind     u8
//! payload
//! ```
//!
//! All numbers are little-endian. `string` is a u32 length and bytes; `position` is a string (the binlog file) and
//! a u64 (the offset); `gtid` is a u8 0, 16 bytes uuid, u64 number, string tag (MySQL) or a u8 1, u32 domain, u32
//! server, u64 sequence (MariaDB) or a u8 2 (MySQL with GTIDs off); `meta` is u64 seq, gtid, u64 commit time in microseconds.
//!
//! | kind | name | payload |
//! |---|---|---|
//! | 0 | header | u32 version (2), u64 segment number, u64 seq of the first transaction, u64 bytes of all segments before it, u64 bytes of the segment before it, u8 family (0 MySQL, 1 MariaDB), string GTID set before it, position |
//! | 1 | begin | meta, string binlog file |
//! | 2 | events | whole binlog events one behind the other, each with its header (size and end position put right) and without checksum |
//! | 3 | end | u64 seq, position |
//! | 4 | skip | meta, position: a transaction with nothing for this migration |
//! | 5 | coordinates | position: the source's binlog went on without a transaction |
//! | 6 | ddl | meta, position, string default schema, string statement, string status variables, u32 begin in seconds since 1970, u8 1 where it came without rows |
//! | 7 | durable | 16 fixed bytes, u64: everything before this offset of the segment was durable when this was written |
//!
//! The first record of a segment is its header, written and made durable under another name before the segment
//! gets its own. A transaction is begin, events, end, or a skip, or a ddl; it never spans segments, and its number
//! `seq` is one more than that of the transaction before it. A segment's records end where a record is cut short
//! or fails its CRC; in the last segment that is what a crash left, and whatever stands behind the last whole
//! transaction is cut off and fetched again. Anywhere else it is damage. A `durable` record behind the break
//! proves damage too.

use bytes::Bytes;
use config::{BinlogPosition, Flavor, Gtid, GtidSet};

use crate::binlog::cursor::{Cursor, Malformed};
use crate::binlog::transaction::DdlStatement;

/// First bytes of a segment.
pub(super) const MAGIC: &[u8; 8] = b"CHGSPOOL";
/// Version in the header.
const VERSION: u32 = 2;
/// Length and CRC.
pub(super) const RECORD_HEAD_BYTES: usize = 8;
/// A record holds at most one event that is larger than a chunk, and no event is larger than this.
pub(super) const RECORD_BYTES_MAX: usize = (1 << 30) + (2 << 20);
/// Begins the payload of a `durable` record, so that one can be found behind a break.
pub(super) const DURABLE_MARK: &[u8; 16] = b"\xf1spool-durable\xf2\xf3";

/// Kinds of records.
pub(super) mod kind {
    pub(in crate::spool) const HEADER: u8 = 0;
    pub(in crate::spool) const BEGIN: u8 = 1;
    pub(in crate::spool) const EVENTS: u8 = 2;
    pub(in crate::spool) const END: u8 = 3;
    pub(in crate::spool) const SKIP: u8 = 4;
    pub(in crate::spool) const COORDINATES: u8 = 5;
    pub(in crate::spool) const DDL: u8 = 6;
    pub(in crate::spool) const DURABLE: u8 = 7;
    /// In files of prepared transactions alone.
    pub(in crate::spool) const PREPARED: u8 = 8;
}

/// The first record of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) first_seq: u64,
    pub(super) base_bytes: u64,
    pub(super) previous_bytes: u64,
    pub(super) gtids: GtidSet,
    pub(super) coordinates: BinlogPosition,
}

/// What identifies a transaction, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) seq: u64,
    pub(super) gtid: Gtid,
    pub(super) committed_at_us: u64,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Header(Header),
    Begin { meta: Meta, file: String },
    Events(Bytes),
    End { seq: u64, end: BinlogPosition },
    Skip { meta: Meta, end: BinlogPosition },
    Coordinates(BinlogPosition),
    Ddl { meta: Meta, end: BinlogPosition, statement: DdlStatement },
    Durable { offset: u64 },
}

/// Appends a record of which `write` appends the payload.
pub(super) fn write_record(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    out.push(kind);
    write(out);
    let body = out.get(start + RECORD_HEAD_BYTES..).unwrap_or_default();
    let head = record_head(&[body]);
    if let Some(place) = out.get_mut(start..start + RECORD_HEAD_BYTES) {
        place.copy_from_slice(&head);
    }
}

/// Appends the head of a record whose kind and body follow, in these parts.
pub(super) fn write_record_head(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(&record_head(parts));
}

fn record_head(parts: &[&[u8]]) -> [u8; RECORD_HEAD_BYTES] {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    let crc = crc.finalize().to_le_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (length, crc);
    [a, b, c, d, e, f, g, h]
}

impl Record {
    /// Appends it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Record::Header(header) => write_record(out, kind::HEADER, |out| write_header(out, header)),
            Record::Begin { meta, file } => write_record(out, kind::BEGIN, |out| {
                write_meta(out, meta);
                write_string(out, file.as_bytes());
            }),
            Record::Events(events) => write_record(out, kind::EVENTS, |out| out.extend_from_slice(events)),
            Record::End { seq, end } => write_record(out, kind::END, |out| {
                out.extend_from_slice(&seq.to_le_bytes());
                write_position(out, end);
            }),
            Record::Skip { meta, end } => write_record(out, kind::SKIP, |out| {
                write_meta(out, meta);
                write_position(out, end);
            }),
            Record::Coordinates(position) => {
                write_record(out, kind::COORDINATES, |out| write_position(out, position));
            }
            Record::Ddl { meta, end, statement } => write_record(out, kind::DDL, |out| {
                write_meta(out, meta);
                write_position(out, end);
                write_string(out, statement.schema.as_bytes());
                write_string(out, &statement.sql);
                write_string(out, &statement.status);
                out.extend_from_slice(&statement.began_at_s.to_le_bytes());
                out.push(u8::from(statement.alone));
            }),
            Record::Durable { offset } => write_record(out, kind::DURABLE, |out| {
                out.extend_from_slice(DURABLE_MARK);
                out.extend_from_slice(&offset.to_le_bytes());
            }),
        }
    }

    /// Reads kind and payload of a record whose CRC holds.
    pub(super) fn parse(body: &Bytes) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let record = match cursor.u8()? {
            kind::HEADER => Record::Header(read_header(&mut cursor)?),
            kind::BEGIN => Record::Begin { meta: read_meta(&mut cursor)?, file: read_string(&mut cursor)? },
            kind::EVENTS => return Ok(Record::Events(body.slice(1..))),
            kind::END => Record::End { seq: cursor.u64()?, end: read_position(&mut cursor)? },
            kind::SKIP => Record::Skip { meta: read_meta(&mut cursor)?, end: read_position(&mut cursor)? },
            kind::COORDINATES => Record::Coordinates(read_position(&mut cursor)?),
            kind::DDL => Record::Ddl {
                meta: read_meta(&mut cursor)?,
                end: read_position(&mut cursor)?,
                statement: DdlStatement {
                    schema: read_string(&mut cursor)?,
                    sql: read_bytes(&mut cursor)?,
                    status: read_bytes(&mut cursor)?,
                    began_at_s: cursor.u32()?,
                    alone: cursor.u8()? != 0,
                },
            },
            kind::DURABLE => {
                if cursor.take(DURABLE_MARK.len())? != DURABLE_MARK {
                    return Err(Malformed::new("a record is not what it says"));
                }
                Record::Durable { offset: cursor.u64()? }
            }
            _ => return Err(Malformed::new("a record has a kind that this version doesn't know")),
        };
        if cursor.is_empty() {
            Ok(record)
        } else {
            Err(Malformed::new("a record is longer than it should be"))
        }
    }
}

/// Length of kind and payload, and CRC.
pub(super) fn read_record_head(head: &[u8; RECORD_HEAD_BYTES]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = *head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

fn write_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(&VERSION.to_le_bytes());
    for number in [header.number, header.first_seq, header.base_bytes, header.previous_bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(match header.gtids.flavor() {
        Flavor::MySql => 0,
        Flavor::MariaDb => 1,
    });
    write_string(out, header.gtids.to_string().as_bytes());
    write_position(out, &header.coordinates);
}

fn read_header(cursor: &mut Cursor<'_>) -> Result<Header, Malformed> {
    if cursor.u32()? != VERSION {
        return Err(Malformed::new("it was written by another version of Changeover"));
    }
    let (number, first_seq, base_bytes, previous_bytes) =
        (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let flavor = match cursor.u8()? {
        0 => Flavor::MySql,
        1 => Flavor::MariaDb,
        _ => return Err(Malformed::new("its header names a family of servers that isn't known")),
    };
    let gtids = GtidSet::parse(flavor, &read_string(cursor)?)
        .map_err(|_| Malformed::new("its header holds no GTID set"))?;
    Ok(Header { number, first_seq, base_bytes, previous_bytes, gtids, coordinates: read_position(cursor)? })
}

fn write_meta(out: &mut Vec<u8>, meta: &Meta) {
    out.extend_from_slice(&meta.seq.to_le_bytes());
    match &meta.gtid {
        Gtid::MySql { uuid, tag, number } => {
            out.push(0);
            out.extend_from_slice(uuid);
            out.extend_from_slice(&number.to_le_bytes());
            write_string(out, tag.as_bytes());
        }
        Gtid::MariaDb { domain, server, sequence } => {
            out.push(1);
            out.extend_from_slice(&domain.to_le_bytes());
            out.extend_from_slice(&server.to_le_bytes());
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        Gtid::Anonymous => out.push(2),
    }
    out.extend_from_slice(&meta.committed_at_us.to_le_bytes());
}

fn read_meta(cursor: &mut Cursor<'_>) -> Result<Meta, Malformed> {
    let seq = cursor.u64()?;
    let gtid = match cursor.u8()? {
        0 => {
            let (uuid, number) = (cursor.array()?, cursor.u64()?);
            Gtid::MySql { uuid, tag: read_string(cursor)?, number }
        }
        1 => Gtid::MariaDb { domain: cursor.u32()?, server: cursor.u32()?, sequence: cursor.u64()? },
        2 => Gtid::Anonymous,
        _ => return Err(Malformed::new("a record holds a GTID of an unknown family")),
    };
    Ok(Meta { seq, gtid, committed_at_us: cursor.u64()? })
}

pub(super) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(text);
}

fn read_string(cursor: &mut Cursor<'_>) -> Result<String, Malformed> {
    let length = cursor.u32()? as usize;
    let text = std::str::from_utf8(cursor.take(length)?);
    text.map(str::to_owned).map_err(|_| Malformed::new("a record holds a text that isn't valid UTF-8"))
}

pub(super) fn read_bytes(cursor: &mut Cursor<'_>) -> Result<Bytes, Malformed> {
    let length = cursor.u32()? as usize;
    cursor.take(length).map(Bytes::copy_from_slice)
}

fn write_position(out: &mut Vec<u8>, position: &BinlogPosition) {
    write_string(out, position.file.as_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

fn read_position(cursor: &mut Cursor<'_>) -> Result<BinlogPosition, Malformed> {
    Ok(BinlogPosition { file: read_string(cursor)?, offset: cursor.u64()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn gtid() -> impl Strategy<Value = Gtid> {
        prop_oneof![
            (any::<[u8; 16]>(), "[a-z_]{0,8}", 1_u64..1 << 62).prop_map(|(uuid, tag, number)| Gtid::MySql {
                uuid,
                tag,
                number
            }),
            (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(domain, server, sequence)| Gtid::MariaDb {
                domain,
                server,
                sequence
            }),
            Just(Gtid::Anonymous),
        ]
    }

    fn position() -> impl Strategy<Value = BinlogPosition> {
        ("[a-z]{1,5}\\.[0-9]{6}", any::<u64>()).prop_map(|(file, offset)| BinlogPosition { file, offset })
    }

    fn meta() -> impl Strategy<Value = Meta> {
        (any::<u64>(), gtid(), any::<u64>()).prop_map(|(seq, gtid, committed_at_us)| Meta {
            seq,
            gtid,
            committed_at_us,
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            (meta(), "\\PC{0,9}").prop_map(|(meta, file)| Record::Begin { meta, file }),
            proptest::collection::vec(any::<u8>(), 0..99).prop_map(|bytes| Record::Events(bytes.into())),
            (any::<u64>(), position()).prop_map(|(seq, end)| Record::End { seq, end }),
            (meta(), position()).prop_map(|(meta, end)| Record::Skip { meta, end }),
            position().prop_map(Record::Coordinates),
            (meta(), position(), "\\PC{0,9}", any::<Vec<u8>>(), any::<u32>(), any::<bool>()).prop_map(
                |(meta, end, schema, bytes, began_at_s, alone)| Record::Ddl {
                    meta,
                    end,
                    statement: DdlStatement {
                        schema,
                        status: bytes.iter().rev().copied().collect(),
                        sql: bytes.into(),
                        began_at_s,
                        alone
                    },
                }
            ),
            any::<u64>().prop_map(|offset| Record::Durable { offset }),
            (any::<[u64; 4]>(), position()).prop_map(|(numbers, coordinates)| Record::Header(Header {
                number: numbers[0],
                first_seq: numbers[1],
                base_bytes: numbers[2],
                previous_bytes: numbers[3],
                gtids: GtidSet::parse(Flavor::MariaDb, "0-1-100,3-1-5").unwrap(),
                coordinates,
            })),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(record in record()) {
            let mut out = Vec::new();
            record.write(&mut out);
            let (head, body) = out.split_first_chunk::<RECORD_HEAD_BYTES>().unwrap();
            let (length, crc) = read_record_head(head);
            prop_assert_eq!(length, body.len());
            prop_assert_eq!(crc, crc32fast::hash(body));
            prop_assert_eq!(Record::parse(&Bytes::copy_from_slice(body)).unwrap(), record);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Record::parse(&bytes.into()));
        }
    }
}
