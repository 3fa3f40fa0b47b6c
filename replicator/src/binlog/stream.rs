//! The dump: asks the source for everything behind a GTID set, or behind a place in its binlog, and yields its events
//! whole, checked and placed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use config::progress::ReplicationPosition;
use config::{BackendConfig, BinlogPosition, Flavor, GtidSet, Side};

use super::cursor::Malformed;
use super::event::{
    CHECKSUM_BYTES, EventHeader, FormatDescription, HEADER_BYTES, checksum_holds, file_name, kind,
    parse_heartbeat_v2, parse_rotate, widen_offset,
};
use super::gtid::write_varlen;
use super::packet::{PACKET_BYTES_MAX, PacketConnection};
use crate::error::{Error, ErrorKind, Result};

/// The source sends a heartbeat where it has nothing else for so long.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(1);
/// A source that is silent for so long is gone, whatever the network says.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The largest event that is held as a whole (a compressed transaction isn't). The servers' own bound.
const EVENT_BYTES_MAX: u32 = (1 << 30) + (1 << 20);

/// Where the first event of a binlog file begins.
pub(crate) const BINLOG_START: u32 = 4;
/// Flag of a dump by MySQL: offsets beyond 4 GiB in heartbeats. Older servers don't look at it.
const USE_HEARTBEAT_EVENT_V2: u16 = 2;

/// An event, or a piece of one.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) header: EventHeader,
    /// A whole event: header and body. A piece of a compressed transaction: body only. Never the checksum.
    pub(crate) bytes: Bytes,
    /// Where the source's binlog stands behind this event. Doesn't move for events made up for the stream.
    pub(crate) end: BinlogPosition,
    pub(crate) part: Part,
}

/// Which part of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// A piece of a TRANSACTION_PAYLOAD, which may be too large to hold.
    Piece {
        /// Length of the whole body, where this is the first piece.
        first: Option<u64>,
        last: bool,
    },
}

/// The dump connection.
#[derive(Debug)]
pub(crate) struct BinlogStream {
    connection: PacketConnection,
    /// `None` before the first format description.
    checksums: Option<bool>,
    position: BinlogPosition,
    /// The event of which packets are still to come.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    header: EventHeader,
    /// Of an event that is joined: what came so far.
    joined: BytesMut,
    /// Of one that is handed on in pieces: what is still to come, the checksum so far.
    missing: u64,
    crc: crc32fast::Hasher,
    tail: BytesMut,
    /// The last packet was full, so another one follows.
    continued: bool,
}

impl BinlogStream {
    /// Asks for every transaction that isn't in `from`; where the source has no GTIDs, for everything behind its
    /// coordinates, and where these are beyond 4 GiB, for that file from its start. `server_id` must be used by no
    /// other replica of the source.
    pub(crate) async fn open(
        backend: &BackendConfig,
        from: &ReplicationPosition,
        server_id: u32,
    ) -> Result<Self> {
        let mut connection = PacketConnection::connect(backend).await?;
        prepare(&mut connection, &from.gtids, server_id).await?;
        connection.command_ok(&register_replica(server_id)).await?;
        let dump = match &from.gtids {
            GtidSet::MySql(_) => dump_gtid(&from.gtids, server_id),
            // The server finds the place by `@slave_connect_state`.
            GtidSet::MariaDb(_) => dump(server_id, 0, BINLOG_START, ""),
            GtidSet::Anonymous => {
                let offset = u32::try_from(from.coordinates.offset).unwrap_or(BINLOG_START);
                dump(server_id, USE_HEARTBEAT_EVENT_V2, offset, &from.coordinates.file)
            }
        };
        connection.command(&dump).await?;
        Ok(Self { connection, checksums: None, position: BinlogPosition::default(), partial: None })
    }

    /// True where the next event can be had without waiting for the source.
    pub(crate) fn has_event(&self) -> bool {
        self.connection.has_packet()
    }

    /// The next event or piece of one.
    ///
    /// Cancel safety: nothing is lost, an event that came in part stays in `self`.
    pub(crate) async fn next(&mut self) -> Result<Fetched> {
        loop {
            let packet = tokio::time::timeout(SILENCE_MAX, self.connection.read())
                .await
                .map_err(|_| self.connection.transient("not even a heartbeat for 30 s"))??;
            if let Some(fetched) = self.packet(packet)? {
                return Ok(fetched);
            }
        }
    }

    fn packet(&mut self, packet: Bytes) -> Result<Option<Fetched>> {
        let full = packet.len() == PACKET_BYTES_MAX;
        if self.partial.is_some() {
            return self.continuation(packet, full);
        }
        match packet.first() {
            Some(0x00) => {}
            Some(0xff) => return Err(self.connection.server_error(&packet)),
            Some(0xfe) => return Err(self.connection.transient("the server ended the stream")),
            _ => return Err(self.connection.unexpected()),
        }
        let bytes = packet.slice(1..);
        let header = EventHeader::parse(&bytes).map_err(|why| self.damaged(&why))?;
        let size = header.size as usize;
        if size < HEADER_BYTES || (header.kind != kind::TRANSACTION_PAYLOAD && header.size > EVENT_BYTES_MAX)
        {
            return Err(self.damaged(&Malformed::new("an event has an impossible size")));
        }
        if header.kind == kind::TRANSACTION_PAYLOAD {
            return self.first_piece(header, &bytes, full).map(Some);
        }
        if full {
            let mut joined = BytesMut::new();
            joined.extend_from_slice(&bytes);
            self.partial = Some(Partial::joining(header, joined));
            return Ok(None);
        }
        self.whole(header, bytes).map(Some)
    }

    fn continuation(&mut self, packet: Bytes, full: bool) -> Result<Option<Fetched>> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        partial.continued = full;
        if partial.header.kind == kind::TRANSACTION_PAYLOAD {
            return self.next_piece(packet).map(Some);
        }
        partial.joined.extend_from_slice(&packet);
        if partial.joined.len() > partial.header.size as usize {
            return Err(self.damaged(&Malformed::new("an event is longer than it says")));
        }
        if full {
            return Ok(None);
        }
        let (header, bytes) = (partial.header, std::mem::take(&mut partial.joined).freeze());
        self.partial = None;
        self.whole(header, bytes).map(Some)
    }

    /// Checks a whole event, cuts its checksum off and follows its position.
    fn whole(&mut self, header: EventHeader, mut bytes: Bytes) -> Result<Fetched> {
        if bytes.len() != header.size as usize {
            return Err(self.damaged(&Malformed::new("an event doesn't have the length that it says")));
        }
        if header.kind == kind::FORMAT_DESCRIPTION {
            let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
            let format = FormatDescription::parse(body).map_err(|why| self.damaged(&why))?;
            self.checksums = Some(format.checksums);
        }
        if self.is_checksummed(&header, &bytes)? || header.kind == kind::FORMAT_DESCRIPTION {
            bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        }
        let body = bytes.slice(HEADER_BYTES..);
        self.follow(&header, &body).map_err(|why| self.damaged(&why))?;
        Ok(Fetched { header, bytes, end: self.position.clone(), part: Part::Whole })
    }

    /// Whether the event ends with a CRC32; one that is wrong is an error.
    ///
    /// Events that the server makes up are checksummed by what it believes we want, which before the first format
    /// description isn't known here; there a checksum is recognised by being right.
    fn is_checksummed(&self, header: &EventHeader, bytes: &[u8]) -> Result<bool> {
        let holds = bytes.len() >= HEADER_BYTES + CHECKSUM_BYTES && checksum_holds(bytes);
        let made_up = header.is_artificial() || matches!(header.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2);
        let fake_rotate = made_up && header.kind == kind::ROTATE;
        match self.checksums {
            Some(true) if !(holds || fake_rotate) => Err(self.bad_checksum()),
            Some(true) => Ok(holds),
            Some(false) | None => Ok(holds && made_up),
        }
    }

    fn bad_checksum(&self) -> Error {
        self.damaged(&Malformed::new(
            "an event fails its checksum: it was damaged on the way or on the source's disk. RESUME MIGRATION reads \
             it again; where it stays damaged (see mysqlbinlog --verify-binlog-checksum), begin the migration again",
        ))
    }

    /// Moves the position behind an event.
    fn follow(&mut self, header: &EventHeader, body: &[u8]) -> std::result::Result<(), Malformed> {
        match header.kind {
            kind::ROTATE => {
                let (file, offset) = parse_rotate(body)?;
                self.position = BinlogPosition { file, offset };
            }
            kind::HEARTBEAT => {
                let file = file_name(body)?;
                let same = file == self.position.file;
                let from = if same { self.position.offset } else { 0 };
                let offset = widen_offset(from & !0xffff_ffff, header.log_pos);
                self.advance(BinlogPosition { file, offset });
            }
            kind::HEARTBEAT_V2 => {
                let (file, offset) = parse_heartbeat_v2(body)?;
                self.advance(BinlogPosition { file, offset });
            }
            _ if header.is_artificial() || header.log_pos == 0 => {}
            _ => self.position.offset = widen_offset(self.position.offset, header.log_pos),
        }
        Ok(())
    }

    /// A heartbeat never takes the position back.
    fn advance(&mut self, position: BinlogPosition) {
        if position > self.position {
            self.position = position;
        }
    }

    fn first_piece(&mut self, header: EventHeader, bytes: &Bytes, full: bool) -> Result<Fetched> {
        let checksum = if self.checksums == Some(true) { CHECKSUM_BYTES as u64 } else { 0 };
        let body = u64::from(header.size).checked_sub(HEADER_BYTES as u64 + checksum);
        let body = body.ok_or_else(|| self.damaged(&Malformed::new("an event has an impossible size")))?;
        let mut partial = Partial::joining(header, BytesMut::new());
        partial.missing = body;
        partial.continued = full;
        partial.crc.update(bytes.get(..HEADER_BYTES).unwrap_or_default());
        self.partial = Some(partial);
        let mut fetched = self.next_piece(bytes.slice(HEADER_BYTES..))?;
        if let Part::Piece { first, .. } = &mut fetched.part {
            *first = Some(body);
        }
        Ok(fetched)
    }

    fn next_piece(&mut self, packet: Bytes) -> Result<Fetched> {
        let Some(partial) = &mut self.partial else { return Err(self.connection.unexpected()) };
        let of_body = usize::try_from(partial.missing).unwrap_or(usize::MAX).min(packet.len());
        let piece = packet.slice(..of_body);
        partial.crc.update(&piece);
        partial.missing -= of_body as u64;
        partial.tail.extend_from_slice(packet.get(of_body..).unwrap_or_default());
        let header = partial.header;
        let last = !partial.continued;
        if last && let Some(partial) = self.partial.take() {
            let tail = partial.tail.first_chunk::<CHECKSUM_BYTES>().copied();
            let expected = if self.checksums == Some(true) { CHECKSUM_BYTES } else { 0 };
            if partial.missing > 0 || partial.tail.len() != expected {
                return Err(self.damaged(&Malformed::new("an event doesn't have the length that it says")));
            }
            if expected > 0 && tail.map(u32::from_le_bytes) != Some(partial.crc.finalize()) {
                return Err(self.bad_checksum());
            }
            self.follow(&header, &[]).map_err(|why| self.damaged(&why))?;
        }
        Ok(Fetched {
            header,
            bytes: piece,
            end: self.position.clone(),
            part: Part::Piece { first: None, last },
        })
    }

    /// An error behind the present position.
    pub(crate) fn damaged(&self, why: &Malformed) -> Error {
        Error::definite(Side::Source, format!("binlog {}", self.position), why.to_string())
    }
}

impl Partial {
    fn joining(header: EventHeader, joined: BytesMut) -> Self {
        Self {
            header,
            joined,
            missing: 0,
            crc: crc32fast::Hasher::new(),
            tail: BytesMut::new(),
            continued: true,
        }
    }
}

/// The session variables that say how we want the stream. Semi-synchronous replication is not asked for: nobody
/// may wait for us.
async fn prepare(connection: &mut PacketConnection, from: &GtidSet, server_id: u32) -> Result<()> {
    let heartbeat = HEARTBEAT_PERIOD.as_nanos();
    let mut sets = vec![
        // While the spool is full we read nothing for long, and the source shall not hang up for it.
        "net_write_timeout = 3600".to_owned(),
    ];
    match from.flavor() {
        Flavor::MySql => {
            for word in ["master", "source"] {
                sets.push(format!("@{word}_binlog_checksum = 'CRC32'"));
                sets.push(format!("@{word}_heartbeat_period = {heartbeat}"));
            }
            // With a uuid of its own the server ends the dump that a broken connection of ours left behind.
            let uuid = format!("00000000-0000-4000-8000-{server_id:012x}");
            sets.push(format!("@slave_uuid = '{uuid}', @replica_uuid = '{uuid}'"));
        }
        Flavor::MariaDb => {
            sets.push("@mariadb_slave_capability = 4".to_owned());
            sets.push("@master_binlog_checksum = 'CRC32'".to_owned());
            sets.push(format!("@master_heartbeat_period = {heartbeat}"));
            sets.push(format!("@slave_connect_state = '{from}'"));
            sets.push("@slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0".to_owned());
        }
    }
    connection.query(&format!("SET {}", sets.join(", "))).await
}

/// COM_REGISTER_SLAVE: shows us in SHOW REPLICAS.
fn register_replica(server_id: u32) -> Vec<u8> {
    const COM_REGISTER_SLAVE: u8 = 0x15;
    const HOST: &[u8] = b"changeover";
    let mut payload = vec![COM_REGISTER_SLAVE];
    payload.extend_from_slice(&server_id.to_le_bytes());
    payload.push(u8::try_from(HOST.len()).unwrap_or_default());
    payload.extend_from_slice(HOST);
    // No user, no password, port 0, rank 0, master id 0.
    payload.extend_from_slice(&[0; 1 + 1 + 2 + 4 + 4]);
    payload
}

/// COM_BINLOG_DUMP, from a place in a file.
fn dump(server_id: u32, flags: u16, offset: u32, file: &str) -> Vec<u8> {
    const COM_BINLOG_DUMP: u8 = 0x12;
    let mut payload = vec![COM_BINLOG_DUMP];
    payload.extend_from_slice(&offset.to_le_bytes());
    payload.extend_from_slice(&flags.to_le_bytes());
    payload.extend_from_slice(&server_id.to_le_bytes());
    payload.extend_from_slice(file.as_bytes());
    payload
}

/// COM_BINLOG_DUMP_GTID.
fn dump_gtid(from: &GtidSet, server_id: u32) -> Vec<u8> {
    const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
    let set = encode_gtid_set(from);
    let mut payload = vec![COM_BINLOG_DUMP_GTID];
    payload.extend_from_slice(&USE_HEARTBEAT_EVENT_V2.to_le_bytes());
    payload.extend_from_slice(&server_id.to_le_bytes());
    payload.extend_from_slice(&0_u32.to_le_bytes());
    payload.extend_from_slice(&u64::from(BINLOG_START).to_le_bytes());
    payload.extend_from_slice(&u32::try_from(set.len()).unwrap_or(u32::MAX).to_le_bytes());
    payload.extend_from_slice(&set);
    payload
}

/// A GTID set as MySQL encodes it: with a count in one format for plain sets, in another (8.3 and later) where a
/// GTID has a tag.
fn encode_gtid_set(set: &GtidSet) -> Vec<u8> {
    let intervals = set.intervals();
    let tagged = intervals.iter().any(|(_, tag, ..)| !tag.is_empty());
    let groups: Vec<_> = intervals.chunk_by(|a, b| (a.0, &a.1) == (b.0, &b.1)).collect();
    let count = groups.len() as u64;
    let mut out = Vec::new();
    out.extend_from_slice(&if tagged { count << 8 | 1 << 56 } else { count }.to_le_bytes());
    for group in groups {
        let Some((uuid, tag, ..)) = group.first() else { continue };
        out.extend_from_slice(uuid);
        if tagged {
            write_varlen(&mut out, tag.len() as u64);
            out.extend_from_slice(tag.as_bytes());
        }
        out.extend_from_slice(&(group.len() as u64).to_le_bytes());
        for (_, _, first, last) in group {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.saturating_add(1).to_le_bytes());
        }
    }
    out
}

/// What an error of the server means for the stream.
pub(crate) fn classify_server_error(code: u16, text: &str, place: &str) -> Error {
    const FATAL_READING_BINLOG: u16 = 1236;
    let lower = text.to_ascii_lowercase();
    let advice = match code {
        FATAL_READING_BINLOG if lower.contains("has connected to the") => {
            return Error::transient(Side::Source, place, format!("{text}; it is tried again"));
        }
        FATAL_READING_BINLOG
            if lower.contains("purged")
                || lower.contains("could not find gtid state")
                || lower.contains("could not find first log") =>
        {
            PURGED
        }
        FATAL_READING_BINLOG
            if lower.contains("more gtids")
                || lower.contains("not in the master's binlog")
                || lower.contains("impossible position")
                || lower.contains("position > file size") =>
        {
            WENT_BACK
        }
        FATAL_READING_BINLOG if lower.contains("could not find next log") => {
            "The source's binary logs were taken away while they were read (RESET, PURGE, or a lost index): begin the \
             migration again"
        }
        FATAL_READING_BINLOG => "The source can't read its own binlog here; see its error log",
        1045 | 1227 => {
            "The source's account needs the privileges REPLICATION SLAVE and REPLICATION CLIENT, and its password \
             must be right"
        }
        _ => {
            let text = text.split(" near ").next().unwrap_or_default();
            let kind = match code {
                1040 | 1053 | 1077 | 1079 | 1129 | 1158..=1161 | 1203 | 1205 | 1213 | 1927 | 4031 => {
                    ErrorKind::Transient
                }
                _ => ErrorKind::Definite,
            };
            let message = format!("the server answered {code}: {text}");
            return Error { kind, side: Some(Side::Source), place: place.to_owned(), message };
        }
    };
    let text = text.trim_end_matches('.');
    Error::definite(Side::Source, place, format!("the server answered {code}: {text}. {advice}"))
}

/// What to do about logs that are gone.
pub(crate) const PURGED: &str = "The source no longer has the binary logs that are still needed: begin the migration \
     again, and keep logs longer (binlog_expire_logs_seconds, expire_logs_days; no PURGE, no RESET) until it is done";

/// What to do about a source that lost transactions.
pub(crate) const WENT_BACK: &str = "The source's history went back: transactions that were already fetched aren't in \
     it any more (restored from a backup, a RESET, a failover that lost data, or another server at this address). \
     Begin the migration again";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn errors_of_the_stream_say_what_to_do() {
        let check = |code: u16, text: &str, kind: ErrorKind, needle: &str| {
            let error = classify_server_error(code, text, "x");
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(needle), "{error}");
        };
        check(
            1236,
            "Cannot replicate because the source purged required binary logs",
            ErrorKind::Definite,
            "begin",
        );
        check(
            1236,
            "Could not find GTID state requested by slave in any binlog files",
            ErrorKind::Definite,
            "begin",
        );
        check(
            1236,
            "Could not find first log file name in binary log index file",
            ErrorKind::Definite,
            "begin",
        );
        check(1236, "Replica has more GTIDs than the source has", ErrorKind::Definite, "went back");
        check(
            1236,
            "Client requested source to start replication from position > file size",
            ErrorKind::Definite,
            "went back",
        );
        check(
            1236,
            "A replica with the same server_uuid/server_id as this replica has connected to the source",
            ErrorKind::Transient,
            "tried again",
        );
        check(1053, "Server shutdown in progress", ErrorKind::Transient, "1053");
        check(1227, "Access denied", ErrorKind::Definite, "REPLICATION SLAVE");
    }
}
