//! The copy: chunks by key range, in parallel, with plain reads.
//!
//! `chunker → reader → loader → journal`. A chunk is read with one SELECT, loaded in one transaction and then
//! journalled, so a crash repeats at most the chunks that were under way. Nothing here is consistent with anything
//! else: rows are read at different moments, all of them after the start position, and the tail that is replayed
//! from there puts every one of them right. That is why a chunk may be loaded twice and a row may be replaced. Tables
//! without a row key are copied otherwise ([`whole`]). With `snapshot.stage_dir` chunks lie on disk between reader and loader ([`stage`]).

mod attempts;
mod binary_row;
pub mod cell;
mod chunk_source;
mod chunker;
mod encode;
pub mod journal;
mod landing;
pub(crate) mod late_indexes;
mod limit;
mod loader;
mod pack;
pub mod progress;
pub mod range;
mod reader;
mod record;
mod source_end;
pub(crate) mod stage;
mod target_end;
pub(crate) mod whole;
mod worker;

use std::path::Path;
use std::sync::Arc;

use config::progress::ReplicationPosition;
use config::{Config, StageConfig};
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
use self::stage::{Filler, Stage, Unloader};
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
    /// Chunks go over files there.
    pub(crate) stage: Option<&'a StageConfig>,
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
        let Self { config, from, tables, state_dir, progress, throttle, late_indexes, stage } = self;
        let late_indexes = Arc::new(late_indexes);
        let start = from.start.to_string();
        let (journal, chunks) = ChunkJournal::open(state_dir, &start)?;
        let staged = match stage {
            Some(stage) => Some(
                Stage::open(config, stage, (start, chunks.clone(), tables), Arc::clone(&progress)).await?,
            ),
            None => None,
        };
        let staged_to = staged.as_ref().map(|(_, left)| left.staged_to.clone()).unwrap_or_default();
        let journal = Arc::new(Mutex::new(journal));
        let of = |table: &_| progress.of(table);
        let planner =
            Planner::new(tables, journal.clone(), (&chunks, &staged_to), of, config.snapshot.chunk_rows);
        let crew = Crew {
            config,
            from,
            planner: Arc::new(planner),
            landing: Landing { journal, late_indexes: Arc::clone(&late_indexes) },
            throttle,
            // Ends the other readers when one fails, and nothing beyond this copy.
            stop: cancel.child_token(),
        };
        let stage = match staged {
            None => {
                crew.copy().await?;
                None
            }
            Some((stage, left)) => {
                stage.resume(left, &crew.planner);
                crew.copy_staged(&stage).await?;
                Some(stage)
            }
        };
        // Those of tables that an earlier run had copied, and of any whose copy was given up.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Copied::Cancelled),
            built = late_indexes.build_all() => built?,
        }
        if !progress.is_complete() {
            // invariant 5: done is what the tables say, not that nobody had anything left to do.
            let bug = Error::bug("copy", "every reader is done and not every table is copied");
            return if cancel.is_cancelled() { Ok(Copied::Cancelled) } else { Err(bug) };
        }
        if let Some(stage) = stage {
            stage.close().await?;
        }
        Ok(Copied::Everything)
    }
}

/// What those who copy have in common.
struct Crew<'a> {
    config: &'a Config,
    from: ChunkSource,
    planner: Arc<Planner>,
    landing: Landing,
    throttle: Arc<Throttle>,
    stop: CancellationToken,
}

impl Crew<'_> {
    /// Copies what the planner has, each reader over two connections of its own.
    async fn copy(&self) -> Result<()> {
        let pace = self.pace();
        let mut workers = JoinSet::new();
        for _ in 0..self.config.snapshot.readers.max(1) {
            let (source, target) = (self.source_end(), self.target_end());
            let worker = Worker { source, target, landing: self.landing.clone(), pace: pace.clone() };
            workers.spawn(worker.run(self.stop.clone()));
        }
        self.join(workers).await
    }

    /// The same over files, by as many who read and as many who load.
    async fn copy_staged(&self, stage: &Arc<Stage>) -> Result<()> {
        let (to_read, to_load) = (self.pace(), self.pace());
        let mut workers = JoinSet::new();
        for _ in 0..self.config.snapshot.readers.max(1) {
            let filler = Filler::new(Arc::clone(stage), self.source_end(), to_read.clone());
            workers.spawn(filler.run(self.stop.clone()));
            let unloader = Unloader {
                stage: Arc::clone(stage),
                target: self.target_end(),
                primary: self.config.source.clone(),
                landing: self.landing.clone(),
                pace: to_load.clone(),
            };
            workers.spawn(unloader.run(self.stop.clone()));
        }
        self.join(workers).await
    }

    fn pace(&self) -> Pace {
        let limit = Arc::new(RateLimit::new(self.config.snapshot.max_rows_per_s));
        Pace { limit, throttle: Arc::clone(&self.throttle) }
    }

    fn source_end(&self) -> SourceEnd {
        SourceEnd::new(self.from.clone(), self.config.source.clone(), Arc::clone(&self.planner))
    }

    fn target_end(&self) -> TargetEnd {
        TargetEnd::new(self.config.target.clone())
    }

    /// The first error ends all.
    async fn join(&self, mut workers: JoinSet<Result<()>>) -> Result<()> {
        let mut joined = Ok(());
        while let Some(ended) = workers.join_next().await {
            let ended = ended.unwrap_or_else(|e| Err(Error::bug("copy", format!("a reader ended: {e}"))));
            if ended.is_err() {
                self.stop.cancel();
            }
            joined = joined.and(ended);
        }
        joined
    }
}
