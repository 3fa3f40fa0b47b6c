//! Where does the answer to a command end?
//!
//! A pure state machine over the bytes that a backend sends. It hops from packet header to packet header,
//! looks at the first byte behind each, and reads whole only the few packets that say something about the
//! session: OK, EOF, ERR, a column count, the answer to a prepare. Rows and column definitions are skipped
//! unread. It takes the bytes in any portions and keeps nothing of them but what it needs of a packet that
//! a portion cuts in two.
//!
//! A packet of 16 MiB less one byte is continued by the next one, whose first byte therefore means nothing.

use crate::protocol::capability::Capabilities;
use crate::protocol::command::{Command, Reply};
use crate::protocol::frame::{HEADER_LEN, Header, PAYLOAD_MAX};
use crate::protocol::packet::codec::Reader;
use crate::protocol::packet::ok::{OkPacket, StatusFlags};

/// Bytes of a status packet that are kept; what is longer than that is cut, and the outcome says so.
const KEPT_MAX: usize = 256 * 1024;
/// Session-track entries of one answer that are kept.
const TRACKS_MAX: usize = 256 * 1024;
/// An EOF packet is shorter than this; a row that begins with 0xFE is longer.
const EOF_LEN_MAX: usize = 9;

const ERR: u8 = 0xFF;
const EOF: u8 = 0xFE;
const LOCAL_INFILE: u8 = 0xFB;
const OK: u8 = 0x00;
/// MariaDB's progress reports are ERR packets with this number.
const PROGRESS: u16 = 0xFFFF;

/// What an answer said about the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Status flags of the last packet that had some. ERR packets have none.
    pub status: Option<StatusFlags>,
    /// Number of the ERR packet that ended the answer.
    pub error: Option<u16>,
    /// Warnings that the last result reported.
    pub warnings: u16,
    /// Affected rows of the last OK.
    pub affected_rows: u64,
    /// The last generated id that was reported; 0 for none.
    pub last_insert_id: u64,
    /// Session-track entries of every OK, one behind the other.
    pub tracks: Vec<u8>,
    /// True where something about the session was said that couldn't be kept or read.
    pub incomplete: bool,
    /// The answer to COM_STMT_PREPARE.
    pub prepared: Option<Prepared>,
    /// Results that ended well.
    pub results: u32,
}

/// The answer to COM_STMT_PREPARE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// The backend's id of the statement.
    pub id: u32,
    /// Columns of its result.
    pub columns: u16,
    /// Parameters.
    pub params: u16,
}

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The backend has more to say.
    More,
    /// LOAD DATA LOCAL: the client sends a file now; see [`ClientData`] and [`Exchange::data_sent`].
    ClientData,
    /// That was all.
    Done,
}

/// What the next packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The start of a result.
    Result,
    /// So many column definitions.
    Columns(u64),
    /// The EOF behind column definitions.
    ColumnsEof,
    /// Rows.
    Rows,
    /// One packet with a status.
    Status,
    /// One packet of anything.
    Text,
    /// The first packet of the answer to a prepare.
    Prepare,
    /// Definitions of a prepared statement: parameters first, columns afterwards.
    Definitions { left: u16, then: u16 },
    /// The EOF behind those.
    DefinitionsEof { then: u16 },
    /// Definitions up to an EOF.
    Fields,
    /// Anything, for ever.
    Stream,
    /// Nothing: the client's file is to come.
    ClientData,
    /// Nothing.
    Done,
}

/// Where in a packet the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes of the header are here.
    Header(usize),
    /// Behind the header of a packet that isn't empty.
    First,
    /// In the payload, with so many bytes to come.
    Body(usize),
}

/// Follows the answer to one command.
#[derive(Debug)]
pub struct Exchange {
    capabilities: Capabilities,
    expect: Expect,
    place: Place,
    header: [u8; HEADER_LEN],
    /// The packet now read continues the one before.
    continuation: bool,
    /// Sequence number of the last header.
    sequence: u8,
    /// The rows are OUT parameters. MySQL's EOF behind them says that nothing follows, but their OK does.
    out_params: bool,
    /// The client has asked for a cursor.
    asks_for_cursor: bool,
    /// The present packet is one to be read whole.
    keeping: bool,
    kept: Vec<u8>,
    outcome: Outcome,
}

impl Exchange {
    /// For the answer to `command` in a session with these capabilities.
    #[must_use]
    pub fn new(command: Command, capabilities: Capabilities) -> Self {
        let mut exchange = Self {
            capabilities,
            expect: Expect::Done,
            place: Place::Header(0),
            header: [0; HEADER_LEN],
            continuation: false,
            sequence: 0,
            out_params: false,
            asks_for_cursor: false,
            keeping: false,
            kept: Vec::new(),
            outcome: Outcome::default(),
        };
        exchange.restart(command);
        exchange
    }

    /// The same for the next command, with the same memory.
    pub fn restart(&mut self, command: Command) {
        self.expect = match command.reply() {
            Reply::None => Expect::Done,
            Reply::Results => Expect::Result,
            Reply::Status => Expect::Status,
            Reply::Text => Expect::Text,
            Reply::Prepare => Expect::Prepare,
            Reply::Fields => Expect::Fields,
            Reply::Rows => Expect::Rows,
            Reply::Stream => Expect::Stream,
        };
        (self.place, self.continuation, self.keeping) = (Place::Header(0), false, false);
        (self.out_params, self.asks_for_cursor) = (false, false);
        self.kept.clear();
        let mut tracks = std::mem::take(&mut self.outcome.tracks);
        tracks.clear();
        self.outcome = Outcome { tracks, ..Outcome::default() };
    }

    /// The COM_STMT_EXECUTE whose answer this is asks for a cursor. Only then a result may be without its rows: routines
    /// have cursors of their own, and MariaDB sets the same flag while one of those is open.
    pub fn expect_cursor(&mut self) {
        self.asks_for_cursor = true;
    }

    /// What was said so far.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match self.expect {
            Expect::Done => Progress::Done,
            Expect::ClientData => Progress::ClientData,
            _ => Progress::More,
        }
    }

    /// Sequence number of the last packet.
    #[must_use]
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// True between two packets, where one of our own could be put.
    #[must_use]
    pub fn between_packets(&self) -> bool {
        self.place == Place::Header(0)
    }

    /// The client has sent its file and the empty packet behind it.
    pub fn data_sent(&mut self) {
        if self.expect == Expect::ClientData {
            self.expect = Expect::Result;
        }
    }

    /// Takes the next bytes. Returns how many of them belong to this answer: all, unless it ended, or
    /// stopped for the client's file, before the last.
    pub fn feed(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while self.progress() == Progress::More && at < chunk.len() {
            match self.place {
                Place::Header(0) => {
                    at += self.skip_uninteresting(&chunk[at..]);
                    if at < chunk.len() {
                        at += self.take_header(0, &chunk[at..]);
                    }
                }
                Place::Header(have) => at += self.take_header(have, &chunk[at..]),
                Place::First => {
                    let first = chunk[at];
                    let len = self.len();
                    self.keeping = self.interesting(first, len);
                    self.place = Place::Body(len);
                }
                Place::Body(left) => at += self.take_body(left, &chunk[at..]),
            }
        }
        at
    }

    fn len(&self) -> usize {
        let [a, b, c, _] = self.header;
        u32::from_le_bytes([a, b, c, 0]) as usize
    }

    /// Hops over rows that lie whole in the chunk: nearly all that a relay ever sees.
    fn skip_uninteresting(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        if self.expect != Expect::Rows || self.continuation {
            return at;
        }
        while let Some([a, b, c, sequence, first, ..]) = chunk.get(at..) {
            let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
            let next = at + HEADER_LEN + len;
            if len == 0 || len == PAYLOAD_MAX || next > chunk.len() || *first >= EOF {
                break;
            }
            self.sequence = *sequence;
            at = next;
        }
        at
    }

    fn take_header(&mut self, have: usize, chunk: &[u8]) -> usize {
        let take = chunk.len().min(HEADER_LEN - have);
        self.header[have..have + take].copy_from_slice(&chunk[..take]);
        if have + take < HEADER_LEN {
            self.place = Place::Header(have + take);
            return take;
        }
        self.sequence = self.header[HEADER_LEN - 1];
        self.place = match self.len() {
            // An empty packet is complete with its header.
            0 => {
                self.keeping &= self.continuation;
                self.end_packet(0, &[]);
                return take;
            }
            len if self.continuation => Place::Body(len),
            _ => Place::First,
        };
        take
    }

    fn take_body(&mut self, left: usize, chunk: &[u8]) -> usize {
        let take = left.min(chunk.len());
        let len = self.len();
        let whole = take == len && !self.continuation && len < PAYLOAD_MAX;
        if self.keeping && !whole {
            let room = KEPT_MAX.saturating_sub(self.kept.len());
            self.outcome.incomplete |= take > room;
            self.kept.extend_from_slice(&chunk[..take.min(room)]);
        }
        if take < left {
            self.place = Place::Body(left - take);
        } else {
            self.end_packet(len, if whole { &chunk[..take] } else { &[] });
        }
        take
    }

    /// A packet has ended; `whole` is its payload where that didn't have to be kept.
    fn end_packet(&mut self, len: usize, whole: &[u8]) {
        self.place = Place::Header(0);
        self.continuation = len == PAYLOAD_MAX;
        if self.continuation {
            return;
        }
        let kept = std::mem::take(&mut self.kept);
        let payload: &[u8] = match (self.keeping, kept.is_empty()) {
            (false, _) => &[],
            (true, true) => whole,
            (true, false) => &kept,
        };
        self.expect = self.after(payload);
        self.kept = kept;
        self.kept.clear();
        self.keeping = false;
    }

    fn deprecate_eof(&self) -> bool {
        self.capabilities.contains(Capabilities::DEPRECATE_EOF)
    }

    /// Does the packet that begins with `first` have to be read whole?
    fn interesting(&self, first: u8, len: usize) -> bool {
        match self.expect {
            Expect::Result | Expect::Status | Expect::Prepare => true,
            Expect::ColumnsEof | Expect::DefinitionsEof { .. } => true,
            Expect::Rows | Expect::Fields => first == ERR || (first == EOF && self.ends_rows(len)),
            // An error may come in place of a definition; a definition begins with a length, never 0xFF.
            Expect::Columns(_) | Expect::Definitions { .. } => first == ERR,
            Expect::Text | Expect::Stream | Expect::ClientData | Expect::Done => false,
        }
    }

    /// A row may begin with 0xFE too: the length of a column of 16 MiB or more, so in a full packet.
    fn ends_rows(&self, len: usize) -> bool {
        if self.deprecate_eof() { len < PAYLOAD_MAX } else { len < EOF_LEN_MAX }
    }

    /// What comes after a packet with this payload; empty where the packet wasn't to be read.
    fn after(&mut self, payload: &[u8]) -> Expect {
        let first = payload.first().copied();
        if first == Some(ERR) && self.expect != Expect::Stream {
            return self.error(payload);
        }
        match self.expect {
            Expect::Result => self.after_result_start(payload),
            Expect::Columns(left) if left > 1 => Expect::Columns(left - 1),
            Expect::Columns(_) if self.deprecate_eof() => Expect::Rows,
            Expect::Columns(_) => Expect::ColumnsEof,
            Expect::ColumnsEof => {
                self.eof(payload);
                self.out_params = self.has_status(StatusFlags::PS_OUT_PARAMS);
                // With a cursor the rows are fetched later, and it is the only result.
                let is_cursor = self.asks_for_cursor
                    && self.has_status(StatusFlags::CURSOR_EXISTS)
                    && !self.has_status(StatusFlags::MORE_RESULTS);
                if is_cursor { self.end_of_result() } else { Expect::Rows }
            }
            Expect::Rows | Expect::Fields if first == Some(EOF) => {
                self.end_of_rows(payload);
                self.end_of_result()
            }
            Expect::Status => {
                match first {
                    Some(OK) => self.ok(payload),
                    Some(EOF) => self.end_of_rows(payload),
                    _ => self.outcome.incomplete = true,
                }
                self.outcome.results += 1;
                Expect::Done
            }
            Expect::Text => Expect::Done,
            Expect::Prepare => self.after_prepare(payload),
            Expect::Definitions { left, then } if left > 1 => Expect::Definitions { left: left - 1, then },
            Expect::Definitions { then, .. } if self.deprecate_eof() => definitions(then, 0),
            Expect::Definitions { then, .. } => Expect::DefinitionsEof { then },
            Expect::DefinitionsEof { then } => {
                self.eof(payload);
                definitions(then, 0)
            }
            same @ (Expect::Rows | Expect::Fields | Expect::Stream | Expect::ClientData | Expect::Done) => {
                same
            }
        }
    }

    fn after_result_start(&mut self, payload: &[u8]) -> Expect {
        match payload.first() {
            Some(&OK) => {
                self.ok(payload);
                self.end_of_result()
            }
            // MySQL's COM_SET_OPTION and COM_DEBUG answer so; as a result it is one without rows.
            Some(&EOF) if payload.len() < EOF_LEN_MAX => {
                self.eof(payload);
                self.end_of_result()
            }
            Some(&LOCAL_INFILE) => Expect::ClientData,
            _ => {
                let mut reader = Reader::new(payload);
                let Ok(columns @ 1..) = reader.lenenc_int("column count") else {
                    self.outcome.incomplete = true;
                    return Expect::Done;
                };
                let optional =
                    Capabilities::OPTIONAL_RESULTSET_METADATA | Capabilities::MARIADB_CACHE_METADATA;
                let may_lack = self.capabilities & optional != Capabilities::NONE;
                match reader.u8("metadata follows") {
                    Ok(0) if may_lack && self.deprecate_eof() => Expect::Rows,
                    Ok(0) if may_lack => Expect::ColumnsEof,
                    _ => Expect::Columns(columns),
                }
            }
        }
    }

    fn after_prepare(&mut self, payload: &[u8]) -> Expect {
        let mut reader = Reader::new(payload);
        let mut read = || -> Result<_, crate::protocol::packet::codec::Malformed> {
            reader.u8("prepare marker")?;
            let (id, columns) = (reader.u32("statement id")?, reader.u16("columns")?);
            let params = reader.u16("parameters")?;
            reader.u8("filler")?;
            Ok((Prepared { id, columns, params }, reader.u16("warnings").unwrap_or(0)))
        };
        match (payload.first(), read()) {
            (Some(&OK), Ok((prepared, warnings))) => {
                self.outcome.prepared = Some(prepared);
                self.outcome.warnings = warnings;
                self.outcome.results += 1;
                let optional = self.capabilities.contains(Capabilities::OPTIONAL_RESULTSET_METADATA);
                match reader.u8("metadata follows") {
                    Ok(0) if optional => Expect::Done,
                    _ => definitions(prepared.params, prepared.columns),
                }
            }
            _ => {
                self.outcome.incomplete = true;
                Expect::Done
            }
        }
    }

    fn end_of_result(&mut self) -> Expect {
        self.outcome.results += 1;
        let follows = std::mem::take(&mut self.out_params) || self.has_status(StatusFlags::MORE_RESULTS);
        if follows { Expect::Result } else { Expect::Done }
    }

    fn has_status(&self, flag: StatusFlags) -> bool {
        self.outcome.status.is_some_and(|status| status.contains(flag))
    }

    fn error(&mut self, payload: &[u8]) -> Expect {
        let code = Reader::new(payload.get(1..).unwrap_or_default()).u16("error number").unwrap_or(0);
        if code == PROGRESS {
            return self.expect;
        }
        self.outcome.error = Some(code);
        Expect::Done
    }

    /// Reads an OK. A session state that can't be read is worth nothing, but the flags before it are.
    fn ok(&mut self, payload: &[u8]) {
        let packet = match OkPacket::parse(payload, self.capabilities) {
            Ok(packet) => packet,
            Err(_) => {
                self.outcome.incomplete = true;
                let Ok(packet) = OkPacket::parse(payload, Capabilities::NONE) else { return };
                packet
            }
        };
        self.outcome.status = Some(packet.status);
        self.outcome.warnings = packet.warnings;
        self.outcome.affected_rows = packet.affected_rows;
        if packet.last_insert_id != 0 {
            self.outcome.last_insert_id = packet.last_insert_id;
        }
        if self.outcome.tracks.len() + packet.session_track.len() > TRACKS_MAX {
            self.outcome.incomplete = true;
        } else {
            self.outcome.tracks.extend_from_slice(packet.session_track);
        }
    }

    fn eof(&mut self, payload: &[u8]) {
        let mut reader = Reader::new(payload.get(1..).unwrap_or_default());
        if let (Ok(warnings), Ok(status)) = (reader.u16("warnings"), reader.u16("status flags")) {
            self.outcome.status = Some(StatusFlags(status));
            self.outcome.warnings = warnings;
        } else {
            self.outcome.incomplete = true;
        }
    }

    /// The packet that ends rows: an EOF, or an OK under DEPRECATE_EOF. Both exist there: an EOF has five
    /// bytes, an OK at least seven.
    fn end_of_rows(&mut self, payload: &[u8]) {
        if self.deprecate_eof() && payload.len() > 5 { self.ok(payload) } else { self.eof(payload) }
    }
}

fn definitions(left: u16, then: u16) -> Expect {
    match (left, then) {
        (0, 0) => Expect::Done,
        (0, then) => Expect::Definitions { left: then, then: 0 },
        (left, then) => Expect::Definitions { left, then },
    }
}

/// Follows what a client sends where several packets belong together: one request in 16 MiB parts, or the
/// file of LOAD DATA LOCAL, which ends with an empty packet.
#[derive(Debug, Default)]
pub struct ClientData {
    header: [u8; HEADER_LEN],
    have: usize,
    left: usize,
    continuation: bool,
    ended: bool,
}

impl ClientData {
    /// At the start of a file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True once the empty packet was seen.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes the next bytes; returns how many belong to the file, with the empty packet.
    pub fn feed(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while at < chunk.len() && !self.ended {
            if self.left > 0 {
                let take = self.left.min(chunk.len() - at);
                self.left -= take;
                at += take;
                continue;
            }
            self.header[self.have] = chunk[at];
            self.have += 1;
            at += 1;
            if self.have == HEADER_LEN {
                self.have = 0;
                self.left = Header::parse(&self.header).map_or(0, |header| header.len);
                // The empty trailer of a full packet doesn't end the file.
                self.ended = self.left == 0 && !self.continuation;
                self.continuation = self.left == PAYLOAD_MAX;
            }
        }
        at
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
