//! What is kept of an XA transaction until its second phase: into a file of its own ([`super::parked`]), and from there into the
//! spool.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;
use config::{BinlogPosition, Gtid};
use tokio::sync::oneshot;

use super::format::{kind, write_record, write_record_head};
use super::parked::{Action, Ended, Parked, ParkedFile, ParkedReader, head, prepared, write_end};
use super::segment::damaged;
use super::store::Command;
use super::writer::{CHUNK_BYTES, GROUP_BYTES, SpoolWriter};
use crate::binlog::event::{EventHeader, HEADER_BYTES, write_event_header};
use crate::binlog::xid::Xid;
use crate::error::{Error, Result};

/// What is kept of an XA transaction whose XA_PREPARE hasn't come.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// Events that are no record yet. A transaction in one phase that fits in here never sees a file.
    chunk: Vec<u8>,
    /// What waits to be handed to the thread.
    pending: Vec<u8>,
    /// The file's number, once something was written to it.
    number: Option<u64>,
    event_bytes: u64,
    /// Bytes of the file so far.
    bytes: u64,
}

impl Half {
    fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            write_record(&mut self.pending, kind::EVENTS, |out| out.extend_from_slice(&self.chunk));
            self.chunk.clear();
        }
    }
}

/// The end of a transaction, as the spool notes it.
#[derive(Debug, Clone)]
pub(super) struct Ending<'a> {
    pub(super) gtid: Gtid,
    pub(super) committed_at_us: u64,
    pub(super) end: BinlogPosition,
    /// The binlog file that it is in.
    pub(super) file: &'a str,
}

impl SpoolWriter {
    pub(super) fn parked(&self) -> MutexGuard<'_, Parked> {
        self.shared.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn aside(&mut self, action: Action) -> Result<()> {
        self.room().await?.send(Command::Aside(action));
        Ok(())
    }

    /// Keeps an event of a transaction that may end in two phases.
    ///
    /// Cancel safety: dropped in the middle, the transaction has to be aborted.
    pub(super) async fn keep_aside(&mut self, header: &EventHeader, body: &[u8]) -> Result<()> {
        let half = self.half.get_or_insert_default();
        let event_bytes = HEADER_BYTES + body.len();
        half.event_bytes += event_bytes as u64;
        if !half.chunk.is_empty() && half.chunk.len() + event_bytes > CHUNK_BYTES {
            half.end_chunk();
        }
        if event_bytes > CHUNK_BYTES {
            // As in the spool there is no second copy of it (invariant 7).
            let mut first = vec![kind::EVENTS];
            write_event_header(&mut first, header, body.len());
            write_record_head(&mut half.pending, &[&first, body]);
            half.pending.append(&mut first);
            for piece in body.chunks(CHUNK_BYTES) {
                if let Some(half) = &mut self.half {
                    half.pending.extend_from_slice(piece);
                }
                self.hand_aside(GROUP_BYTES).await?;
            }
        } else {
            write_event_header(&mut half.chunk, header, body.len());
            half.chunk.extend_from_slice(body);
        }
        self.hand_aside(GROUP_BYTES).await?;
        // Whatever waits to be applied has to be there for that.
        if self.is_full() { self.flush().await } else { Ok(()) }
    }

    /// Hands over what waits, where it is as much as that.
    async fn hand_aside(&mut self, at_least: usize) -> Result<()> {
        if self.half.as_ref().is_none_or(|half| half.pending.len() < at_least) {
            return Ok(());
        }
        let room = self.room().await?;
        let Some(half) = &mut self.half else { return Ok(()) };
        let mut parked = self.shared.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        let number = *half.number.get_or_insert_with(|| {
            bytes = head();
            parked.next_number += 1;
            parked.next_number - 1
        });
        bytes.append(&mut half.pending);
        half.bytes += bytes.len() as u64;
        parked.bytes += bytes.len() as u64;
        room.send(Command::Aside(Action::Write { number, bytes }));
        Ok(())
    }

    /// The transaction that is kept aside is prepared, by the one that is appended next. It is durable before anything that is appended from here on. `anyway`:
    /// also where nothing of it is ours, so that its second phase is known.
    pub(super) async fn park(&mut self, xid: Xid, anyway: bool) -> Result<()> {
        if self.half.is_none() && anyway {
            self.half = Some(Half::default());
        }
        let mut file = None;
        let prepared_by = self.next_seq();
        if let Some(half) = &mut self.half {
            half.end_chunk();
            let end = Ended { xid: xid.clone(), event_bytes: half.event_bytes, prepared_by };
            write_end(&mut half.pending, &end);
            self.hand_aside(0).await?;
            if let Some(Half { number: Some(number), bytes, event_bytes, .. }) = self.half.take() {
                self.aside(Action::Finish { number }).await?;
                file = Some(ParkedFile { number, bytes, is_ours: event_bytes > 0 });
            }
        }
        // Under this name nothing else can be prepared any more, whatever became of it.
        let older = {
            let mut parked = self.parked();
            let older = match file {
                Some(file) => parked.prepared.insert(xid, file),
                None => parked.prepared.remove(&xid),
            };
            older.inspect(|older| parked.forget(older))
        };
        match older {
            Some(older) => self.aside(Action::Remove { number: older.number, taken: None }).await,
            None => Ok(()),
        }
    }

    /// The transaction that is kept aside is committed in one phase.
    pub(super) async fn commit_aside(&mut self, xid: Xid, of: Ending<'_>) -> Result<()> {
        match self.half.take() {
            None => self.skip(of.gtid, of.committed_at_us, of.end),
            Some(half) if half.number.is_none() && half.pending.is_empty() => {
                let end = of.end.clone();
                self.begin(of.gtid, of.committed_at_us, of.file);
                self.pour(half.chunk.into(), &end, Path::new("memory")).await?;
                self.end(end)
            }
            half => {
                self.half = half;
                self.park(xid.clone(), false).await?;
                self.commit_parked(&xid, of).await.map(drop)
            }
        }
    }

    /// What was prepared under this name is committed: it goes into the spool. False where nothing of that name is here.
    ///
    /// Cancel safety: dropped in the middle, the transaction has to be aborted, and what was prepared is found when the spool
    /// is opened again.
    pub(super) async fn commit_parked(&mut self, xid: &Xid, of: Ending<'_>) -> Result<bool> {
        let Some(file) = self.take_parked(xid) else { return Ok(false) };
        let (done, reached) = oneshot::channel();
        self.aside(Action::Reached(done)).await?;
        if reached.await.is_err() {
            // It ended with an error, which this asks for.
            self.room().await?;
        }
        let path = prepared(self.dir(), file.number);
        let (at, wanted) = (path.clone(), xid.clone());
        let mut reader = blocking(move || ParkedReader::open(&at, Some(wanted))).await?;
        self.aside(Action::Take { number: file.number, seq: self.next_seq() }).await?;
        self.begin(of.gtid, of.committed_at_us, of.file);
        loop {
            let (back, events) = blocking(move || reader.next().map(|events| (reader, events))).await?;
            reader = back;
            let Some(events) = events else { break };
            self.pour(events, &of.end, &path).await?;
        }
        self.end(of.end)?;
        Ok(true)
    }

    /// What was prepared under this name is rolled back.
    pub(super) async fn roll_back_parked(&mut self, xid: &Xid, of: Ending<'_>) -> Result<()> {
        if let Some(file) = self.take_parked(xid) {
            self.aside(Action::Take { number: file.number, seq: self.next_seq() }).await?;
        }
        self.skip(of.gtid, of.committed_at_us, of.end)
    }

    fn take_parked(&self, xid: &Xid) -> Option<ParkedFile> {
        let seq = self.next_seq();
        let mut parked = self.parked();
        let file = parked.prepared.remove(xid)?;
        parked.taken.push((seq, file.clone()));
        Some(file)
    }

    /// Appends whole events to the open transaction.
    async fn pour(&mut self, mut events: Bytes, end: &BinlogPosition, path: &Path) -> Result<()> {
        while !events.is_empty() {
            let header = EventHeader::parse(&events).map_err(|why| damaged(path, &why.to_string()))?;
            let size = header.size as usize;
            if size < HEADER_BYTES || size > events.len() {
                return Err(damaged(path, "an event is longer than its record"));
            }
            let event = events.split_to(size);
            self.event(&header, &event.slice(HEADER_BYTES..), end).await?;
            self.make_room().await?;
        }
        Ok(())
    }

    /// The connection broke: what is kept of a transaction that isn't prepared yet will come again.
    pub(super) async fn forget_aside(&mut self) -> Result<()> {
        let Some(Half { number: Some(number), bytes, .. }) = self.half.take() else { return Ok(()) };
        self.parked().forget(&ParkedFile { number, bytes, is_ours: true });
        self.aside(Action::Discard { number }).await
    }

    /// Files whose end is durable are removed.
    pub(super) async fn sweep(&mut self) -> Result<()> {
        let durable = self.shared.progress.borrow().last_seq;
        loop {
            let next = {
                let mut parked = self.parked();
                let at = parked.taken.iter().position(|(seq, _)| *seq <= durable);
                at.map(|at| parked.taken.swap_remove(at)).inspect(|(_, file)| parked.forget(file))
            };
            let Some((seq, file)) = next else { return Ok(()) };
            self.aside(Action::Remove { number: file.number, taken: Some(seq) }).await?;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::bug("spool", "reading a prepared transaction ended without a result"))?
}
