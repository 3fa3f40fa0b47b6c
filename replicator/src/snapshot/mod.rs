//! The copy: chunks by key range, in parallel, with plain reads.
//!
//! `chunker → reader → loader → journal`. A chunk is read with one SELECT, loaded in one transaction and then
//! journalled, so a crash repeats at most the chunks that were under way. Nothing here is consistent with anything
//! else: rows are read at different moments, all of them after the start position, and the tail that is replayed
//! from there puts every one of them right. That is why a chunk may be loaded twice and a row may be replaced. Tables
//! without a row key are copied otherwise ([`whole`]).

mod attempts;
pub mod cell;
mod chunk_source;
mod chunker;
mod encode;
pub mod journal;
mod landing;
pub(crate) mod late_indexes;
mod limit;
mod loader;
pub mod progress;
pub mod range;
mod reader;
mod record;
mod source_end;
mod target_end;
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
pub(crate) use self::chunker::was_changed;
use self::journal::ChunkJournal;
use self::landing::Landing;
use self::late_indexes::LateIndexes;
use self::limit::RateLimit;
use self::source_end::SourceEnd;
use self::target_end::TargetEnd;
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

/// The copy of some tables.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) config: &'a Config,
    /// Knows P0: the journal holds to it, since only what is replayed from there makes the copy right.
    pub(crate) from: ChunkSource,
    /// Those without a row key are passed over; all of them exist on the target.
    pub(crate) tables: &'a SchemaSet,
    /// Where the chunk journal is.
    pub(crate) state_dir: &'a Path,
    pub(crate) progress: Arc<SnapshotProgress>,
    /// Waited for between two chunks.
    pub(crate) throttle: Arc<Throttle>,
    /// Indexes that come after the rows.
    pub(crate) late_indexes: LateIndexes,
}

impl Snapshot<'_> {
    /// What the journal of a copy that is complete says of it; copies nothing.
    pub(crate) fn recall(
        state_dir: &Path,
        start: &ReplicationPosition,
        progress: &SnapshotProgress,
    ) -> Result<()> {
        let (_, chunks) = ChunkJournal::open(state_dir, &start.to_string())?;
        progress.recall(&chunks);
        Ok(())
    }

    /// Copies every row, and builds the indexes that come late, going on where the chunk journal says.
    ///
    /// Transient errors are tried again for about a minute a chunk; the first error that is left ends all readers.
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<Copied> {
        let Self { config, from, tables, state_dir, progress, throttle, late_indexes } = self;
        let late_indexes = Arc::new(late_indexes);
        let (journal, chunks) = ChunkJournal::open(state_dir, &from.start.to_string())?;
        let journal = Arc::new(Mutex::new(journal));
        let of = |table: &_| progress.of(table);
        let planner = Planner::new(tables, journal.clone(), &chunks, of, config.snapshot.chunk_rows);
        let planner = Arc::new(planner);
        let landing = Landing { journal, late_indexes: Arc::clone(&late_indexes) };
        let pace = Pace { limit: Arc::new(RateLimit::new(config.snapshot.max_rows_per_s)), throttle };
        // Ends the other readers when one fails, and nothing beyond this copy.
        let stop = cancel.child_token();
        let mut workers = JoinSet::new();
        for _ in 0..config.snapshot.readers.max(1) {
            let worker = Worker {
                source: SourceEnd::new(from.clone(), config.source.clone(), Arc::clone(&planner)),
                target: TargetEnd::new(config.target.clone()),
                landing: landing.clone(),
                pace: pace.clone(),
            };
            workers.spawn(worker.run(stop.clone()));
        }
        let mut failed = None;
        while let Some(ended) = workers.join_next().await {
            let ended = ended.unwrap_or_else(|e| Err(Error::bug("copy", format!("a reader ended: {e}"))));
            if let Err(error) = ended {
                stop.cancel();
                failed.get_or_insert(error);
            }
        }
        if failed.is_none() {
            // Those of tables that an earlier run had copied, and of any whose copy was given up.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Copied::Cancelled),
                built = late_indexes.build_all() => built?,
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
