//! The copy: chunks by key range, in parallel, with plain reads.
//!
//! `chunker → reader → loader → journal`. A chunk is read with one SELECT, loaded in one transaction and then
//! journalled, so a crash repeats at most the chunks that were under way. Nothing here is consistent with anything
//! else: rows are read at different moments, all of them after the start position, and the tail that is replayed
//! from there puts every one of them right. That is why a chunk may be loaded twice and a row may be replaced. Tables
//! without a row key are copied otherwise ([`whole`]).

pub mod cell;
mod chunk_source;
mod chunker;
mod encode;
pub mod journal;
mod limit;
mod loader;
pub mod progress;
pub mod range;
mod reader;
pub(crate) mod whole;
mod worker;

use std::path::Path;
use std::sync::Arc;

use config::Config;
use config::progress::ReplicationPosition;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::chunker::Planner;
use self::journal::ChunkJournal;
use self::limit::RateLimit;
use self::worker::{Pace, Worker};
use crate::error::{Error, Result};
use crate::schema::table::SchemaSet;
use crate::throttle::Throttle;

pub(crate) use self::chunk_source::ChunkSource;
pub use self::progress::SnapshotProgress;
pub use self::range::KeyRange;

/// How a copy ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Copied {
    /// Every row of every table was read after the start position and is on the target.
    Everything,
    /// It was cancelled; the next run goes on with the chunks that are left.
    Cancelled,
}

/// The copy.
#[derive(Debug)]
pub struct Snapshot;

impl Snapshot {
    /// What the journal of a copy that is complete says of it; copies nothing.
    pub fn recall(state_dir: &Path, start: &ReplicationPosition, progress: &SnapshotProgress) -> Result<()> {
        let (_, chunks) = ChunkJournal::open(state_dir, &start.to_string())?;
        progress.recall(&chunks);
        Ok(())
    }

    /// Copies every table of `tables` that has a row key to the target, where they exist, going on where the journal in `state_dir`
    /// says. `from` knows P0: the journal holds to it, since only what is replayed from there makes the copy right.
    ///
    /// Between two chunks it waits for `throttle`. Transient errors are tried again for about a minute a chunk; the first error that is left ends all readers.
    pub(crate) async fn run(
        config: &Config,
        from: ChunkSource,
        tables: &SchemaSet,
        state_dir: &Path,
        progress: Arc<SnapshotProgress>,
        throttle: Arc<Throttle>,
        cancel: CancellationToken,
    ) -> Result<Copied> {
        let (journal, chunks) = ChunkJournal::open(state_dir, &from.start.to_string())?;
        let journal = Arc::new(Mutex::new(journal));
        let of = |table: &_| progress.of(table);
        let planner = Planner::new(tables, journal.clone(), &chunks, of, config.snapshot.chunk_rows);
        let planner = Arc::new(planner);
        let pace = Pace { limit: Arc::new(RateLimit::new(config.snapshot.max_rows_per_s)), throttle };
        // Ends the other readers when one fails, and nothing beyond this copy.
        let stop = cancel.child_token();
        let mut workers = JoinSet::new();
        for _ in 0..config.snapshot.readers.max(1) {
            let worker = Worker::new(
                config,
                from.clone(),
                planner.clone(),
                journal.clone(),
                pace.clone(),
                stop.clone(),
            );
            workers.spawn(worker.run());
        }
        let mut failed = None;
        while let Some(ended) = workers.join_next().await {
            let ended = ended.unwrap_or_else(|e| Err(Error::bug("copy", format!("a reader ended: {e}"))));
            if let Err(error) = ended {
                stop.cancel();
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None if cancel.is_cancelled() && !progress.is_complete() => Ok(Copied::Cancelled),
            // invariant 5: done is what the tables say, not that nobody had anything left to do.
            None if !progress.is_complete() => {
                Err(Error::bug("copy", "every reader is done and not every table is copied"))
            }
            None => Ok(Copied::Everything),
        }
    }
}
