//! Appends whole transactions and says what is durable.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Gtid};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Shared;
use super::format::{Header, Meta, Record, kind, write_record, write_record_head};
use super::parking::Half;
use super::recovery::{Recovered, Segment};
use super::store::{self, Command, Published, Store};
use crate::binlog::event::{EventHeader, HEADER_BYTES, write_event_header};
use crate::binlog::transaction::DdlStatement;
use crate::error::{Error, Result};

/// Events of one record; a larger one has a record of its own.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Handed to the thread at once.
pub(super) const GROUP_BYTES: usize = 512 * 1024;
/// Groups that wait for the thread.
const GROUPS_MAX: usize = 4;
/// How often space is looked for where the spool is full.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A `durable` record is worth its space after so many bytes.
const MARK_BYTES: u64 = 64 * 1024;

/// The end of the spool that is written. One at a time; the files' thread ends with it.
#[derive(Debug)]
pub struct SpoolWriter {
    pub(super) shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<Result<()>>>,
    /// The newest segment; its size is what was handed to the thread.
    segment: Segment,
    pending: Vec<u8>,
    /// Events of the open transaction that are no record yet.
    chunk: Vec<u8>,
    open: Option<Open>,
    /// What is kept aside of a transaction that may end in two phases.
    pub(super) half: Option<Half>,
    /// Offset behind the last whole transaction, where it is not handed over yet.
    boundary: Option<u64>,
    next_seq: u64,
    position: ReplicationPosition,
    marked: u64,
    /// The last warning about a full spool has not been followed by space yet.
    full: bool,
}

#[derive(Debug)]
struct Open {
    meta: Meta,
    /// Where it begins in the segment.
    start: u64,
}

impl SpoolWriter {
    pub(super) fn start(shared: Arc<Shared>, store: Store, recovered: &Recovered, segment: Segment) -> Self {
        let (commands, receiver) = mpsc::channel(GROUPS_MAX);
        let of_thread = Arc::clone(&shared);
        let thread = tokio::task::spawn_blocking(move || store::run(store, &of_thread, receiver));
        Self {
            shared,
            commands: Some(commands),
            thread: Some(thread),
            marked: segment.bytes,
            segment,
            pending: Vec::with_capacity(GROUP_BYTES + CHUNK_BYTES),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            open: None,
            half: None,
            boundary: None,
            next_seq: recovered.next_seq,
            position: recovered.position.clone(),
            full: false,
        }
    }

    /// Everything up to here was appended.
    #[must_use]
    pub fn position(&self) -> &ReplicationPosition {
        &self.position
    }

    /// The spool's folder.
    pub(super) fn dir(&self) -> &std::path::Path {
        &self.shared.dir
    }

    /// The source was heard of.
    pub(super) fn heard(&self, connected: bool) {
        self.shared.progress.send_modify(|progress| {
            progress.connected = connected;
            if connected {
                progress.heard_at = std::time::SystemTime::now();
            }
        });
    }

    /// The number that the next transaction gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    fn offset(&self) -> u64 {
        self.segment.bytes + self.pending.len() as u64
    }

    /// Begins a transaction, in this file of the binlog.
    pub(super) fn begin(&mut self, gtid: Gtid, committed_at_us: u64, file: &str) {
        debug_assert!(self.open.is_none());
        let meta = Meta { seq: self.next_seq, gtid, committed_at_us };
        self.open = Some(Open { meta: meta.clone(), start: self.offset() });
        Record::Begin { meta, file: file.to_owned() }.write(&mut self.pending);
    }

    /// Appends an event to the open transaction: its header, put right, and its body without checksum.
    ///
    /// Cancel safety: dropped in the middle of a large event, the transaction has to be aborted.
    pub(super) async fn event(
        &mut self,
        header: &EventHeader,
        body: &[u8],
        end: &BinlogPosition,
    ) -> Result<()> {
        #[allow(clippy::cast_possible_truncation)]
        let header = EventHeader { log_pos: end.offset as u32, ..*header };
        let event_bytes = HEADER_BYTES + body.len();
        if !self.chunk.is_empty() && self.chunk.len() + event_bytes > CHUNK_BYTES {
            self.end_chunk();
        }
        if event_bytes > CHUNK_BYTES {
            return self.large_event(&header, body).await;
        }
        write_event_header(&mut self.chunk, &header, body.len());
        self.chunk.extend_from_slice(body);
        Ok(())
    }

    /// A record of its own, which goes to the thread in pieces: it may take a gigabyte, and there isn't a second copy
    /// of it (invariant 7).
    async fn large_event(&mut self, header: &EventHeader, body: &[u8]) -> Result<()> {
        let mut first = vec![kind::EVENTS];
        write_event_header(&mut first, header, body.len());
        write_record_head(&mut self.pending, &[&first, body]);
        self.pending.append(&mut first);
        for piece in body.chunks(CHUNK_BYTES) {
            self.pending.extend_from_slice(piece);
            if self.pending.len() >= GROUP_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            write_record(&mut self.pending, kind::EVENTS, |out| out.extend_from_slice(&self.chunk));
            self.chunk.clear();
        }
    }

    /// True between [`Self::begin`] and [`Self::end`] or [`Self::abort`].
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Ends the open transaction.
    pub(super) fn end(&mut self, end: BinlogPosition) -> Result<()> {
        self.end_chunk();
        let open = self.open.take().ok_or_else(|| Error::bug("spool", "no transaction is open"))?;
        Record::End { seq: open.meta.seq, end: end.clone() }.write(&mut self.pending);
        self.transaction_ended(&open.meta.gtid, end)
    }

    /// Appends a transaction with nothing for this migration.
    pub(super) fn skip(&mut self, gtid: Gtid, committed_at_us: u64, end: BinlogPosition) -> Result<()> {
        let meta = Meta { seq: self.next_seq, gtid: gtid.clone(), committed_at_us };
        Record::Skip { meta, end: end.clone() }.write(&mut self.pending);
        self.transaction_ended(&gtid, end)
    }

    /// Appends a statement that changes a definition.
    pub(super) fn ddl(
        &mut self,
        gtid: Gtid,
        committed_at_us: u64,
        end: BinlogPosition,
        statement: DdlStatement,
    ) -> Result<()> {
        let meta = Meta { seq: self.next_seq, gtid: gtid.clone(), committed_at_us };
        Record::Ddl { meta, end: end.clone(), statement }.write(&mut self.pending);
        self.transaction_ended(&gtid, end)
    }

    /// The binlog went on without a transaction. While one is open this is about what came before it: its own end says more,
    /// and between its records nothing else may stand.
    pub(super) fn coordinates(&mut self, position: BinlogPosition) {
        if self.open.is_none() && position > self.position.coordinates {
            Record::Coordinates(position.clone()).write(&mut self.pending);
            self.position.coordinates = position;
            self.boundary = Some(self.offset());
        }
    }

    fn transaction_ended(&mut self, gtid: &Gtid, end: BinlogPosition) -> Result<()> {
        // invariant 1: a transaction that is in the set, or that ends where the spool already is, was spooled before, and
        // would be applied twice.
        let before = self.position.gtids.is_anonymous() && end <= self.position.coordinates;
        if before || self.position.gtids.contains(gtid) {
            return Err(Error::definite(
                config::Side::Source,
                format!("binlog {end}"),
                format!(
                    "the source sends transaction {gtid} a second time, or out of order within its domain (MariaDB: \
                     set gtid_strict_mode = ON on the source); begin the migration again"
                ),
            ));
        }
        if !self.position.gtids.add(gtid) {
            return Err(Error::bug("spool", "a GTID of another family of servers"));
        }
        self.next_seq += 1;
        self.position.coordinates = end;
        self.boundary = Some(self.offset());
        Ok(())
    }

    /// The open transaction came in half and will come again: nothing of it stays.
    pub(super) async fn abort(&mut self) -> Result<()> {
        self.forget_aside().await?;
        self.chunk.clear();
        let Some(start) = self.open.as_ref().map(|open| open.start) else { return Ok(()) };
        if let Some(kept) = start.checked_sub(self.segment.bytes) {
            self.pending.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            self.open = None;
            return Ok(());
        }
        // Nothing in front of its begin is pending any more, so all of that is the transaction's.
        self.pending.clear();
        let room = self.room().await?;
        self.open = None;
        self.segment.bytes = start;
        room.send(Command::Truncate { offset: start });
        Ok(())
    }

    /// Hands over what is pending where that is worth it. To be called after every event: it is where a spool that
    /// is full, or a slow disk, holds the source back.
    pub(super) async fn make_room(&mut self) -> Result<()> {
        // A segment ends with the transaction that fills it, whatever came between: a full one that stays the newest
        // could never be released.
        let segment_full = self.open.is_none() && self.offset() >= self.shared.segment_bytes;
        let group_bytes = GROUP_BYTES.min(usize::try_from(self.shared.segment_bytes).unwrap_or(GROUP_BYTES));
        if segment_full || self.pending.len() >= group_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands over everything that is pending. It is durable once the progress says so.
    pub(super) async fn flush(&mut self) -> Result<()> {
        // Also with nothing to hand over, a disk that failed has to be noticed.
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.commands = None;
        }
        if self.commands.is_none() {
            self.room().await?;
        }
        self.hand_over().await?;
        if self.open.is_none() && self.segment.bytes >= self.shared.segment_bytes {
            self.roll().await?;
        }
        self.wait_for_space().await
    }

    async fn hand_over(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let room = self.room().await?;
        if self.open.is_none() {
            self.mark_durable();
        }
        let bytes = std::mem::replace(&mut self.pending, Vec::with_capacity(GROUP_BYTES + CHUNK_BYTES));
        self.segment.bytes += bytes.len() as u64;
        let publish = self.boundary.take().map(|boundary| Published {
            end: (self.segment.number, boundary),
            last_seq: self.next_seq - 1,
            position: self.position.clone(),
            bytes: self.segment.base_bytes + boundary,
        });
        room.send(Command::Append { bytes, publish });
        Ok(())
    }

    /// Notes what is durable, so that a recovery can tell damage from a torn end.
    fn mark_durable(&mut self) {
        let (number, offset) = self.shared.progress.borrow().end;
        if number == self.segment.number && offset >= self.marked + MARK_BYTES {
            Record::Durable { offset }.write(&mut self.pending);
            self.marked = offset;
            if self.boundary.is_some() {
                self.boundary = Some(self.offset());
            }
        }
    }

    async fn roll(&mut self) -> Result<()> {
        let room = self.room().await?;
        let header = Header {
            number: self.segment.number + 1,
            first_seq: self.next_seq,
            base_bytes: self.segment.base_bytes + self.segment.bytes,
            previous_bytes: self.segment.bytes,
            gtids: self.position.gtids.clone(),
            coordinates: self.position.coordinates.clone(),
        };
        let next = Segment {
            number: header.number,
            first_seq: header.first_seq,
            base_bytes: header.base_bytes,
            bytes: store::segment_head(&header).len() as u64,
        };
        room.send(Command::Roll(header));
        let mut segments = self.shared.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = segments.back_mut() {
            last.bytes = self.segment.bytes;
        }
        segments.push_back(next.clone());
        self.marked = next.bytes;
        self.segment = next;
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        let segments = self.shared.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = segments.front().map_or(0, |segment| segment.base_bytes);
        drop(segments);
        self.parked().bytes + (self.segment.base_bytes + self.segment.bytes).saturating_sub(oldest)
    }

    /// The spool is as large as it may become.
    pub(super) fn is_full(&self) -> bool {
        self.used_bytes() > self.shared.max_bytes
    }

    /// Waits while it is.
    async fn wait_for_space(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        loop {
            self.sweep().await?;
            let freed = shared.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !self.is_full() {
                self.full = false;
                return Ok(());
            }
            self.refuse_what_never_fits()?;
            if !self.full {
                self.full = true;
                tracing::warn!(
                    area = "spool",
                    max_bytes = shared.max_bytes,
                    "the spool is full (apply.spool_max_gb): the source is not read until the target has applied more"
                );
            }
            // That what was prepared is in the spool for good frees space too, and nobody says it.
            drop(tokio::time::timeout(LOOK_EVERY, freed).await);
        }
    }

    /// A transaction that alone is larger than the spool would wait for ever: it can't be applied before its end is
    /// known. So would one that meets what is prepared, whose end isn't read while this waits.
    fn refuse_what_never_fits(&self) -> Result<()> {
        let open = self.open.as_ref().map_or(0, |open| self.segment.bytes.saturating_sub(open.start));
        let (prepared, parked, ended) = {
            let parked = self.parked();
            let ended = parked.taken.iter().any(|(seq, _)| *seq < self.next_seq);
            (parked.prepared.len(), parked.bytes, ended)
        };
        // What has ended goes as soon as that is durable.
        if ended || open + parked + self.shared.segment_bytes * 2 < self.shared.max_bytes {
            return Ok(());
        }
        let max = self.shared.max_bytes;
        let what = match &self.open {
            Some(open) if parked == 0 => format!(
                "transaction {} of the source is larger than the spool may become ({max} bytes): raise \
                 apply.spool_max_gb and restart",
                open.meta.gtid
            ),
            _ => format!(
                "the XA transactions that are prepared on the source ({prepared}), or being prepared, take {parked} bytes, too \
                 much of what the spool may take ({max} bytes): end some of them there (XA RECOVER lists them), or raise \
                 apply.spool_max_gb and restart"
            ),
        };
        Err(Error::definite(None, self.shared.dir.display().to_string(), what))
    }

    /// Room for one command. It is waited for before anything is changed, so that a caller that goes away while it
    /// waits leaves the books as they are.
    pub(super) async fn room(&mut self) -> Result<mpsc::OwnedPermit<Command>> {
        if let Some(commands) = self.commands.clone()
            && let Ok(room) = commands.reserve_owned().await
        {
            return Ok(room);
        }
        self.commands = None;
        self.join().await?;
        Err(Error::bug("spool", "its thread ended without an error"))
    }

    async fn join(&mut self) -> Result<()> {
        match self.thread.take() {
            Some(thread) => thread.await.map_err(|_| Error::bug("spool", "its thread panicked"))?,
            None => Ok(()),
        }
    }

    /// Drops a half transaction, waits until everything else is durable and the files are closed.
    pub(super) async fn close(mut self) -> Result<()> {
        self.abort().await?;
        self.hand_over().await?;
        self.commands = None;
        self.join().await
    }
}
