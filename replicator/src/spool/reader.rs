//! Yields [`SpoolItem`]s from a sequence number on, durable ones only.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use config::BinlogPosition;
use tokio::sync::watch;

use super::format::{MAGIC, Meta, RECORD_BYTES_MAX, RECORD_HEAD_BYTES, Record, read_record_head};
use super::segment::{damaged, find_end, io_error, segment_path};
use super::{Shared, SpoolProgress};
use crate::binlog::cursor::Malformed;
use crate::binlog::decode::Decoder;
use crate::binlog::event::{EventHeader, HEADER_BYTES};
use crate::binlog::rows::{RowsEvent, row_memory};
use crate::binlog::transaction::{RowChange, RowsChange, SpoolItem, TransactionMeta};
use crate::error::{Error, Result};
use crate::intervals::Intervals;
use crate::schema::table::SchemaSet;

/// Read from the file at once.
const READ_BYTES: usize = 1 << 20;
/// A transaction whose decoded rows take more memory than this comes in parts.
const LARGE_BYTES: usize = 16 << 20;
/// Decoded rows of one part of a large transaction.
const PART_BYTES: usize = 1 << 20;

/// Reads a spool, from its own place in it.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    progress: watch::Receiver<SpoolProgress>,
    decoder: Decoder,
    segment: OpenSegment,
    /// Read but not looked at.
    buffer: BytesMut,
    /// Transactions before this one are passed over.
    from_seq: u64,
    /// And these parts of later ones: bytes of their events, by their numbers.
    without: BTreeMap<u64, Intervals>,
    /// The segment that it begins in, where the spool didn't begin there.
    begins_in: Option<u64>,
    open: Option<Transaction>,
    /// Events of the present record that are still to be decoded.
    events: Bytes,
    rows: Option<RowsEvent>,
    ready: VecDeque<SpoolItem>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct OpenSegment {
    number: u64,
    base_bytes: u64,
    file: Arc<File>,
    path: PathBuf,
    /// Offset behind what is in the buffer.
    read_to: u64,
}

/// A transaction of which not everything was read.
#[derive(Debug)]
struct Transaction {
    meta: Meta,
    /// The binlog file that it is in.
    file: String,
    /// Its number is before the one wanted.
    passed_over: bool,
    /// Rows, and the last byte of the transaction's events that they come from.
    changes: Vec<(RowsChange, u64)>,
    /// Rows of the present event.
    rows: Vec<RowChange>,
    /// Bytes of the events before the present one.
    bytes_before: u64,
    /// Bytes of the present event.
    event_bytes: u64,
    /// Bytes up to which rows were yielded as parts.
    yielded_bytes: u64,
    memory: usize,
    size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    /// It has just shown to be large; where it ends isn't known yet.
    Growing,
    Large,
}

impl Transaction {
    fn described(&self, end: BinlogPosition) -> TransactionMeta {
        let Meta { seq, gtid, committed_at_us } = self.meta.clone();
        TransactionMeta { seq, gtid, end, committed_at_us }
    }

    /// Rows that end with that byte as a part of it.
    fn part(&mut self, change: RowsChange, last: u64) -> SpoolItem {
        let first = self.yielded_bytes + 1;
        self.yielded_bytes = last;
        SpoolItem::LargeRows { change, first, last }
    }
}

impl Reader {
    pub(super) fn open(shared: Arc<Shared>, from_seq: u64, tables: SchemaSet) -> Result<Self> {
        let progress = shared.progress.subscribe();
        let next_seq = progress.borrow().last_seq + 1;
        let place = || shared.dir.display().to_string();
        if from_seq > next_seq {
            return Err(Error::definite(
                None,
                place(),
                format!(
                    "the target has transactions up to {}, the spool ends with {}: one of them was set back (state_dir or \
                     target restored from a backup?). Begin again with an empty state_dir and an empty target",
                    from_seq - 1,
                    next_seq - 1
                ),
            ));
        }
        let (number, base_bytes) = {
            let segments = shared.segments.lock().unwrap_or_else(PoisonError::into_inner);
            let found = segments.iter().rev().find(|segment| segment.first_seq <= from_seq);
            found.map(|segment| (segment.number, segment.base_bytes)).ok_or_else(|| {
                Error::definite(
                    None,
                    place(),
                    format!(
                        "transaction {from_seq} is no longer in the spool: the target was set back. Begin again \
                         with an empty state_dir and an empty target"
                    ),
                )
            })?
        };
        let segment = OpenSegment::open(&shared, number, base_bytes)?;
        Ok(Self {
            shared,
            progress,
            decoder: Decoder::new(tables),
            segment,
            buffer: BytesMut::new(),
            from_seq,
            without: BTreeMap::new(),
            begins_in: (number > 1).then_some(number),
            open: None,
            events: Bytes::new(),
            rows: None,
            ready: VecDeque::new(),
            failed: None,
        })
    }

    /// Doesn't yield rows of those parts of transactions: bytes of their events, by their numbers. Where few rows of
    /// a large transaction are left it comes whole.
    #[must_use]
    pub(crate) fn without(mut self, parts: BTreeMap<u64, Intervals>) -> Self {
        self.without = parts;
        self
    }

    /// Bytes of the spool, since its begin, that were read. [`SpoolProgress::durable_bytes`] counts the same way.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.segment.base_bytes + self.segment.read_to - self.buffer.len() as u64
    }

    /// The next item; waits for one. After an error it gives the same error again.
    ///
    /// Cancel safety: nothing is lost, what was read in part is gone on with.
    pub async fn next(&mut self) -> Result<SpoolItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if let Err(error) = self.step().await {
                self.failed = Some(error);
            }
        }
    }

    /// One step: a part of a rows event, an event, or a record.
    async fn step(&mut self) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.size == Size::Growing) {
            return self.enlarge().await;
        }
        if self.rows.is_some() {
            return self.decode_rows();
        }
        if !self.events.is_empty() {
            return self.decode_event();
        }
        let record = self.record().await?;
        let end = match &record {
            Record::Begin { .. } if self.decoder.wants_end() => Some(self.end_ahead().await?),
            _ => None,
        };
        self.take(record, end)
    }

    /// Where the transaction ends whose records come next.
    async fn end_ahead(&self) -> Result<BinlogPosition> {
        let offset = self.segment.read_to - self.buffer.len() as u64;
        let (file, path) = (Arc::clone(&self.segment.file), self.segment.path.clone());
        let found = tokio::task::spawn_blocking(move || find_end(&file, &path, offset)).await;
        match found.map_err(|_| Error::bug("spool", "reading it ended without a result"))?? {
            Record::End { end, .. } => Ok(end),
            _ => Err(Error::bug("spool", "the end of a transaction isn't one")),
        }
    }

    /// Takes a record; `end` is where the transaction that it begins will end, if that was looked up.
    fn take(&mut self, record: Record, end: Option<BinlogPosition>) -> Result<()> {
        match record {
            // What went on behind the last transaction of the segment before is in the header alone for a reader
            // that begins here, and the source may have nothing more to say for long.
            Record::Header(header) if self.begins_in == Some(header.number) && self.open.is_none() => {
                self.ready.push_back(SpoolItem::Coordinates(header.coordinates));
            }
            Record::Header(_) | Record::Durable { .. } => {}
            Record::Begin { meta, file } if self.open.is_none() => {
                self.decoder.begin(end);
                let passed_over = meta.seq < self.from_seq;
                self.open = Some(Transaction {
                    meta,
                    file,
                    passed_over,
                    changes: Vec::new(),
                    rows: Vec::new(),
                    bytes_before: 0,
                    event_bytes: 0,
                    yielded_bytes: 0,
                    memory: 0,
                    size: Size::Small,
                });
            }
            Record::Events(events) if self.open.is_some() => {
                let passed_over = self.open.as_ref().is_some_and(|open| open.passed_over);
                self.events = if passed_over { Bytes::new() } else { events };
            }
            Record::End { seq, end } => match self.open.take() {
                Some(open) if open.meta.seq == seq => self.end(open, end),
                _ => return Err(self.damaged("a transaction's end has no begin")),
            },
            Record::Skip { meta, end } if self.open.is_none() => {
                if meta.seq >= self.from_seq {
                    let Meta { seq, gtid, committed_at_us } = meta;
                    self.ready.push_back(SpoolItem::Skip {
                        meta: TransactionMeta { seq, gtid, end, committed_at_us },
                    });
                }
            }
            Record::Coordinates(position) if self.open.is_none() => {
                self.ready.push_back(SpoolItem::Coordinates(position));
            }
            Record::Ddl { meta, end, statement } if self.open.is_none() => {
                if meta.seq >= self.from_seq {
                    let Meta { seq, gtid, committed_at_us } = meta;
                    let meta = TransactionMeta { seq, gtid, end, committed_at_us };
                    self.ready.push_back(SpoolItem::Ddl { meta, statement });
                }
            }
            _ => return Err(self.damaged("its records are in an order that makes no sense")),
        }
        Ok(())
    }

    fn end(&mut self, open: Transaction, end: BinlogPosition) {
        if open.passed_over {
            return;
        }
        let meta = open.described(end);
        self.ready.push_back(match open.size {
            Size::Large | Size::Growing => SpoolItem::LargeEnd,
            Size::Small if open.changes.is_empty() => SpoolItem::Skip { meta },
            Size::Small => {
                let changes = open.changes.into_iter().map(|(change, _)| change).collect();
                SpoolItem::Transaction { meta, changes }
            }
        });
    }

    fn decode_event(&mut self) -> Result<()> {
        let size = EventHeader::parse(&self.events).map(|header| header.size as usize);
        let size = size.map_err(|why| self.undecodable(&why, 0))?;
        if size < HEADER_BYTES || size > self.events.len() {
            return Err(self.damaged("an event is longer than its record"));
        }
        let event = self.events.split_to(size);
        if let Some(open) = &mut self.open {
            open.bytes_before += open.event_bytes;
            open.event_bytes = size as u64;
        }
        let log_pos = EventHeader::parse(&event).map_or(0, |header| header.log_pos);
        self.rows = self.decoder.event(&event).map_err(|why| self.undecodable(&why, log_pos))?;
        Ok(())
    }

    /// Decodes rows of the present event, until it ends or a part is full.
    fn decode_rows(&mut self) -> Result<()> {
        let (Some(event), Some(open)) = (&mut self.rows, &mut self.open) else { return Ok(()) };
        let without = self.without.get(&open.meta.seq);
        let mut part_memory = 0;
        let finished = loop {
            let row = match event.next_row() {
                Ok(Some(row)) => row,
                Ok(None) => break true,
                Err(why) => return Err(self.undecodable(&why, 0)),
            };
            let ends_with = open.bytes_before + event.read_bytes();
            if without.is_some_and(|parts| parts.contains(ends_with)) {
                continue;
            }
            let memory = row_memory(&row);
            part_memory += memory;
            open.memory += memory;
            open.rows.push(row);
            if open.size == Size::Large && part_memory >= PART_BYTES {
                break false;
            }
            if open.size == Size::Small && open.memory > LARGE_BYTES {
                open.size = Size::Growing;
                break false;
            }
        };
        if !open.rows.is_empty() {
            let change = RowsChange {
                table: Arc::clone(event.table()),
                rows: std::mem::take(&mut open.rows),
                foreign_key_checks: event.foreign_key_checks(),
            };
            let last = open.bytes_before + if finished { open.event_bytes } else { event.read_bytes() };
            match open.size {
                Size::Large => self.ready.push_back(open.part(change, last)),
                Size::Small | Size::Growing => open.changes.push((change, last)),
            }
        }
        if finished {
            self.rows = None;
        }
        Ok(())
    }

    /// From here on the open transaction comes in parts. They are announced with its end, which has to be found.
    async fn enlarge(&mut self) -> Result<()> {
        let end = self.end_ahead().await?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.size = Size::Large;
        let changes = std::mem::take(&mut open.changes);
        let meta = open.described(end);
        self.ready.push_back(SpoolItem::LargeBegin { meta });
        for (change, last) in changes {
            self.ready.push_back(open.part(change, last));
        }
        Ok(())
    }

    /// The next record, waiting until it is durable.
    async fn record(&mut self) -> Result<Record> {
        loop {
            let mut wanted = RECORD_HEAD_BYTES;
            if let Some(head) = self.buffer.first_chunk::<RECORD_HEAD_BYTES>() {
                let (length, crc) = read_record_head(head);
                if length == 0 || length > RECORD_BYTES_MAX {
                    return Err(self.damaged("a record has an impossible length"));
                }
                wanted += length;
                if self.buffer.len() >= wanted {
                    self.buffer.advance(RECORD_HEAD_BYTES);
                    let body = self.buffer.split_to(length).freeze();
                    if crc32fast::hash(&body) != crc {
                        return Err(self.damaged("a record fails its CRC"));
                    }
                    return Record::parse(&body).map_err(|why| self.damaged(&why.to_string()));
                }
            }
            self.fill(wanted - self.buffer.len()).await?;
        }
    }

    /// Reads more towards `wanted` bytes; waits until there is more.
    async fn fill(&mut self, wanted: usize) -> Result<()> {
        loop {
            let (number, offset) = self.progress.borrow_and_update().end;
            let limit = if number == self.segment.number { offset } else { self.segment.length()? };
            if self.segment.read_to < limit {
                return self.read(wanted, limit).await;
            }
            if !self.buffer.is_empty() {
                return Err(self.damaged("it ends in the middle of a record"));
            }
            if number > self.segment.number {
                let base_bytes = self.segment.base_bytes + limit;
                self.segment = OpenSegment::open(&self.shared, self.segment.number + 1, base_bytes)?;
                continue;
            }
            if self.progress.changed().await.is_err() {
                return Err(Error::bug("spool", "its progress ended before its reader"));
            }
        }
    }

    /// Reads a block. What is wanted may be a record of a gigabyte: it is read block by block, so that there aren't
    /// two copies of it, and exactly, so that no small record behind it holds on to its memory (invariant 7).
    async fn read(&mut self, wanted: usize, limit: u64) -> Result<()> {
        let from = self.segment.read_to;
        let is_large = self.buffer.len() + wanted > READ_BYTES;
        let bytes = if is_large { wanted.min(READ_BYTES) } else { READ_BYTES };
        let bytes = bytes.min(usize::try_from(limit - from).unwrap_or(usize::MAX));
        let file = Arc::clone(&self.segment.file);
        let read = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; bytes];
            file.read_exact_at(&mut block, from).map(|()| block)
        });
        let block = read.await.map_err(|_| Error::bug("spool", "reading it ended without a result"))?;
        let block = block.map_err(|error| io_error(&self.segment.path, "read the spool", &error))?;
        // Records that were handed out keep the memory they are in; an empty buffer begins anew.
        let needed = self.buffer.len() + wanted.max(block.len());
        if self.buffer.is_empty() || self.buffer.capacity() < needed {
            let mut larger = BytesMut::with_capacity(needed);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(&block);
        self.segment.read_to += block.len() as u64;
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        damaged(&self.segment.path, what)
    }

    /// An event that can't be decoded, at its position in the source's binlog.
    fn undecodable(&self, why: &Malformed, log_pos: u32) -> Error {
        let place = match &self.open {
            Some(open) if log_pos > 0 => format!("binlog {}:{log_pos}, {}", open.file, open.meta.gtid),
            Some(open) => format!("binlog {}, {}", open.file, open.meta.gtid),
            None => self.segment.path.display().to_string(),
        };
        Error::definite(config::Side::Source, place, why.to_string())
    }
}

impl OpenSegment {
    fn open(shared: &Shared, number: u64, base_bytes: u64) -> Result<Self> {
        let path = segment_path(&shared.dir, number);
        let file = File::open(&path).map_err(|error| io_error(&path, "read the spool", &error))?;
        // The magic was checked when the spool was opened, or written since.
        Ok(Self { number, base_bytes, file: Arc::new(file), path, read_to: MAGIC.len() as u64 })
    }

    fn length(&self) -> Result<u64> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        length.map_err(|error| io_error(&self.path, "read the spool", &error))
    }
}
