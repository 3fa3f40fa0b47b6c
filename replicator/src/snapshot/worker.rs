//! One of the copy's readers: takes a chunk, copies it, journals it, takes the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{BackendConfig, Config, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::chunk_source::ChunkSource;
use super::chunker::{Chunk, Planner, SharedJournal, was_changed_on};
use super::encode::Form;
use super::late_indexes::LateIndexes;
use super::limit::RateLimit;
use super::loader::{form_of, load_chunk, prepare};
use super::reader::{ReadTotals, read_chunk};
use crate::error::{Error, ErrorKind, Result};
use crate::server::connect;
use crate::throttle::Throttle;

/// Batches between reader and loader: with the batch's size this bounds the memory of a chunk (invariant 7).
const BATCHES_MAX: usize = 4;
/// Attempts at one thing, with a pause after each that doubles up to the longest: about a minute in all.
const ATTEMPTS_MAX: u32 = 10;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);

/// What all readers together are held to.
#[derive(Clone)]
pub(super) struct Pace {
    pub(super) limit: Arc<RateLimit>,
    /// Waited for between two chunks: within one, a statement on the source and a transaction on the target would be left open.
    pub(super) throttle: Arc<Throttle>,
}

/// A reader and its two connections.
pub(super) struct Worker {
    from: ChunkSource,
    /// The source itself, which knows what has become of a table.
    source_config: BackendConfig,
    target_config: BackendConfig,
    planner: Arc<Planner>,
    journal: SharedJournal,
    pace: Pace,
    late_indexes: Arc<LateIndexes>,
    stop: CancellationToken,
    source: Option<Conn>,
    /// With how rows travel to it, and the largest packet that it takes.
    target: Option<(Conn, (Form, u64))>,
}

impl Worker {
    pub(super) fn new(
        config: &Config,
        from: ChunkSource,
        planner: Arc<Planner>,
        journal: SharedJournal,
        (pace, late_indexes): (Pace, Arc<LateIndexes>),
        stop: CancellationToken,
    ) -> Self {
        Self {
            from,
            source_config: config.source.clone(),
            target_config: config.target.clone(),
            planner,
            journal,
            pace,
            late_indexes,
            stop,
            source: None,
            target: None,
        }
    }

    /// Copies chunks until none is left or the copy is stopped.
    pub(super) async fn run(mut self) -> Result<()> {
        let stop = self.stop.clone();
        let result = tokio::select! {
            biased;
            // The chunk that is under way is dropped with its connections and read again by the next run.
            () = stop.cancelled() => Ok(()),
            result = self.copy_chunks() => result,
        };
        for conn in [self.source.take(), self.target.take().map(|(conn, _)| conn)].into_iter().flatten() {
            // Only a goodbye: what matters was committed and journalled, or is rolled back.
            if !stop.is_cancelled() {
                drop(conn.disconnect().await);
            }
        }
        result
    }

    async fn copy_chunks(&mut self) -> Result<()> {
        'chunks: while let Some(mut chunk) = self.next_chunk().await? {
            let begun = Instant::now();
            chunk.plan.progress.begun();
            let (mut rows, mut bytes) = (0, 0);
            loop {
                self.pace.throttle.pass().await;
                let Some(totals) = self.copy_unless_changed(&mut chunk).await? else {
                    chunk.plan.dropped().await;
                    continue 'chunks;
                };
                self.journalled(&chunk, &totals).await?;
                chunk.plan.progress.copied(totals.rows);
                rows += totals.rows;
                bytes += totals.bytes;
                match totals.stopped_at {
                    Some(key) => chunk.range.after = Some(key),
                    None => break,
                }
            }
            if chunk.plan.finished(rows, bytes, begun.elapsed()).await {
                self.build_late_indexes(&chunk).await?;
                chunk.plan.progress.completed();
                tracing::info!(
                    area = "snapshot",
                    table = %chunk.range.table.name,
                    rows = chunk.plan.progress.rows_copied(),
                    "the table is copied"
                );
            }
        }
        Ok(())
    }

    async fn build_late_indexes(&mut self, chunk: &Chunk) -> Result<()> {
        let name = &chunk.range.table.name;
        let late = Arc::clone(&self.late_indexes);
        if !late.are_owed_to(name) {
            return Ok(());
        }
        chunk.plan.progress.indexing();
        let mut attempt = 0;
        loop {
            match late.build(name).await {
                Ok(()) => return Ok(()),
                Err(error) => self.pause(error, &mut attempt).await?,
            }
        }
    }

    async fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut attempt = 0;
        loop {
            let next = match self.source().await {
                Ok(_) => match self.source.as_mut() {
                    Some(source) => {
                        let next = self.planner.next(source, &self.source_config).await;
                        next.map_err(|error| self.from.named(error))
                    }
                    None => Err(Error::bug("copy", "no connection after connecting")),
                },
                Err(error) => Err(error),
            };
            match next {
                Ok(chunk) => return Ok(chunk),
                Err(error) => self.pause(error, &mut attempt).await?,
            }
        }
    }

    /// `None`: the table was changed on the source, and its copy is given up.
    async fn copy_unless_changed(&mut self, chunk: &mut Chunk) -> Result<Option<ReadTotals>> {
        let error = match self.copy(chunk).await {
            Ok(totals) => return Ok(Some(totals)),
            Err(error) if error.kind == ErrorKind::Definite => error,
            Err(error) => return Err(error),
        };
        if !was_changed_on(&self.source_config, &chunk.range.table).await? {
            return Err(error);
        }
        chunk.plan.give_up().await;
        Ok(None)
    }

    async fn copy(&mut self, chunk: &mut Chunk) -> Result<ReadTotals> {
        let mut attempt = 0;
        loop {
            match self.copy_once(chunk).await {
                Ok(totals) => return Ok(totals),
                Err(error) => {
                    // Whether the target committed it is unknown: its rows may be there.
                    chunk.again = true;
                    self.pause(error, &mut attempt).await?;
                }
            }
        }
    }

    async fn copy_once(&mut self, chunk: &Chunk) -> Result<ReadTotals> {
        let mut source = match self.source.take() {
            Some(conn) => conn,
            None => self.from.connect().await?,
        };
        let (mut target, form) = match self.target.take() {
            Some(pair) => pair,
            None => self.connect_target().await?,
        };
        let table = &chunk.range.table.on_target();
        let of_table = (form.0.of_table(table), form.1);
        // A second unique key lets rows of two chunks, read at two moments, claim one value.
        let replace = chunk.again || table.unique_keys.len() > 1;
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let (read, loaded) = tokio::join!(
            read_chunk(&mut source, &chunk.range, of_table.0, &self.pace.limit, sender),
            load_chunk(&mut target, table, of_table, replace, receiver),
        );
        // After an error both connections are dropped here: one may have rows in it, the other a transaction.
        let totals = match (read, loaded) {
            (Err(error), _) => return Err(self.from.named(error)),
            (Ok(_), Err(error)) => return Err(error),
            (Ok(None), Ok(_)) => {
                return Err(Error::bug("copy", "the loader left early and says all is well"));
            }
            (Ok(Some(totals)), Ok(rows)) if totals.rows == rows => totals,
            (Ok(Some(_)), Ok(_)) => return Err(Error::bug("copy", "rows read and rows loaded differ")),
        };
        match totals.stopped_at {
            Some(_) => abandon(source).await,
            None => self.source = Some(source),
        }
        self.target = Some((target, form));
        Ok(totals)
    }

    async fn source(&mut self) -> Result<()> {
        if self.source.is_none() {
            self.source = Some(self.from.connect().await?);
        }
        Ok(())
    }

    async fn connect_target(&self) -> Result<(Conn, (Form, u64))> {
        let mut target = connect(Side::Target, &self.target_config).await?;
        prepare(&mut target).await?;
        let form = form_of(&mut target).await?;
        Ok((target, form))
    }

    async fn journalled(&self, chunk: &Chunk, totals: &ReadTotals) -> Result<()> {
        let (table, number, rows) = (&chunk.range.table.name, chunk.number, totals.rows);
        let mut journal = self.journal.lock().await;
        let written = match &totals.stopped_at {
            Some(bound) => journal.partly_done(table, number, rows, bound)?,
            None => journal.done(table, number, rows)?,
        };
        drop(journal);
        // An fsync takes as long as the disk likes, and the runtime's threads are few.
        tokio::task::spawn_blocking(move || written.settle())
            .await
            .unwrap_or_else(|e| Err(Error::bug("copy", format!("the journal's writer ended: {e}"))))
    }

    /// Waits before another attempt, or gives the error back when another can't help.
    async fn pause(&mut self, error: Error, attempt: &mut u32) -> Result<()> {
        *attempt += 1;
        if error.kind != ErrorKind::Transient || *attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::warn!(area = "snapshot", attempt = *attempt, "{error}");
        self.source = None;
        self.target = None;
        let pause = PAUSE_FIRST.saturating_mul(1 << (*attempt - 1)).min(PAUSE_LONGEST);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Drops a connection that has rows in it without reading them: the driver would fetch them all on the way out,
/// unless it is left in the middle of a request.
async fn abandon(mut conn: Conn) {
    drop(tokio::time::timeout(Duration::ZERO, conn.ping()).await);
}
