//! The source's binary log on our own disk: append-only, checksummed, bounded.
//!
//! [`fetch`] fills it, [`reader::Reader`] yields from it, and [`Spool::release`] gives space back once the target
//! holds what is in it.

// Every byte here came from outside.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod fetch;
mod format;
pub(crate) mod history;
mod parked;
mod parking;
pub mod reader;
mod recovery;
mod segment;
mod store;
#[cfg(test)]
mod tests;
pub mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use config::progress::ReplicationPosition;
use tokio::sync::{Notify, watch};

use self::parked::Parked;
use self::recovery::Segment;
use self::writer::SpoolWriter;
use crate::binlog::xid::Xid;
use crate::error::{Error, Result};
use crate::schema::table::SchemaSet;

/// Size from which a segment is closed and the next one begun, at the end of a transaction.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How far the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolProgress {
    /// The position of the source up to which everything is in the spool, durably.
    pub fetched: ReplicationPosition,
    /// When the source was last heard of (an event or a heartbeat), with nothing of it left to write.
    pub heard_at: SystemTime,
    /// Number of the last transaction in it; 0: none yet.
    pub last_seq: u64,
    /// Bytes ever written durably. With [`reader::Reader::read_bytes`] it says how much isn't read yet.
    pub durable_bytes: u64,
    /// True while the dump connection stands.
    pub connected: bool,
    /// The end of what is durable: segment and offset in it.
    end: (u64, u64),
}

/// A spool that is open. Cheap to clone; ends with its writer.
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

/// What writer, readers and the handle share.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    max_bytes: u64,
    segment_bytes: u64,
    /// Oldest first; the last one is being written and its size isn't kept up to date here.
    segments: Mutex<VecDeque<Segment>>,
    /// What is prepared on the source.
    parked: Arc<Mutex<Parked>>,
    /// A segment was removed.
    freed: Notify,
    progress: watch::Sender<SpoolProgress>,
}

/// Which XA transactions are prepared, now and later.
#[derive(Debug, Clone)]
pub(crate) struct Prepared(Arc<Mutex<Parked>>);

impl Prepared {
    /// `anyway`: also those that are only noted, without changes of ours.
    pub(crate) fn now(&self, anyway: bool) -> BTreeSet<Xid> {
        let parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = parked.prepared.iter().filter(|(_, file)| anyway || file.is_ours);
        wanted.map(|(xid, _)| xid.clone()).collect()
    }
}

impl Spool {
    /// Opens the spool in `dir`, or makes one that begins behind `start`. An existing one goes on where it ends,
    /// whatever `start` says. Waits for a writer of this process that is just ending.
    pub async fn open(
        dir: &Path,
        max_bytes: u64,
        start: &ReplicationPosition,
    ) -> Result<(Self, SpoolWriter)> {
        let (owned, start) = (dir.to_owned(), start.clone());
        let segment_bytes = SEGMENT_BYTES.min((max_bytes / 8).max(4096));
        let opened = tokio::task::spawn_blocking(move || {
            let (store, recovered) = store::open(&owned, &start)?;
            let parked = parked::open(&owned, recovered.next_seq)?;
            Ok((store, recovered, parked))
        })
        .await;
        let (store, recovered, parked) =
            opened.map_err(|_| Error::bug("spool", "opening it ended without a result"))??;
        if recovered.cut_bytes > 0 {
            tracing::info!(
                area = "spool",
                bytes = recovered.cut_bytes,
                "cut off what a crash left unfinished at the end of the spool; it is fetched again"
            );
        }
        let last = recovered.segments.last().ok_or_else(|| Error::bug("spool", "it has no segment"))?.clone();
        let (progress, _) = watch::channel(SpoolProgress {
            fetched: recovered.position.clone(),
            heard_at: SystemTime::now(),
            last_seq: recovered.next_seq - 1,
            durable_bytes: last.base_bytes + last.bytes,
            connected: false,
            end: (last.number, last.bytes),
        });
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            max_bytes,
            segment_bytes,
            segments: Mutex::new(recovered.segments.clone().into()),
            parked: Arc::new(Mutex::new(parked)),
            freed: Notify::new(),
            progress,
        });
        let writer = SpoolWriter::start(Arc::clone(&shared), store, &recovered, last);
        Ok((Self { shared }, writer))
    }

    /// Reads from transaction `from_seq` on (the first one is 1). Waits at the end for more.
    pub fn reader(&self, from_seq: u64, tables: SchemaSet) -> Result<reader::Reader> {
        reader::Reader::open(Arc::clone(&self.shared), from_seq, tables)
    }

    /// How far it is, now and whenever that changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<SpoolProgress> {
        self.shared.progress.subscribe()
    }

    /// Bytes on disk, but for what the writer added to the newest segment meanwhile.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let segments = self.shared.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.shared.progress.borrow().durable_bytes;
        let parked = self.shared.parked.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        parked + segments.front().map_or(0, |oldest| end.saturating_sub(oldest.base_bytes))
    }

    /// The XA transactions that are prepared on the source, as far as they are fetched.
    #[must_use]
    pub(crate) fn prepared(&self) -> Prepared {
        Prepared(Arc::clone(&self.shared.parked))
    }

    /// Bytes ever written whose space was given back.
    #[must_use]
    pub fn released_bytes(&self) -> u64 {
        let segments = self.shared.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.front().map_or(0, |oldest| oldest.base_bytes)
    }

    /// Transactions up to `upto_seq` are on the target for good: their space is given back.
    pub fn release(&self, upto_seq: u64) -> Result<()> {
        self.shared.release(upto_seq)
    }
}

impl Shared {
    fn release(&self, upto_seq: u64) -> Result<()> {
        let mut removed = Vec::new();
        {
            let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            // A segment holds the numbers up to its successor's first one; the last segment always stays.
            while segments.get(1).is_some_and(|next| next.first_seq <= upto_seq.saturating_add(1)) {
                removed.extend(segments.pop_front());
            }
        }
        for segment in &removed {
            let path = segment::segment_path(&self.dir, segment.number);
            std::fs::remove_file(&path)
                .map_err(|error| segment::io_error(&path, "remove what is applied", &error))?;
            config::failpoint::hit("spool.segment.removed");
        }
        if !removed.is_empty() {
            self.freed.notify_waiters();
        }
        Ok(())
    }
}
