//! One of the copy's readers: takes a chunk, copies it, journals it, takes the next.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::chunker::Chunk;
use super::landing::Landing;
use super::limit::RateLimit;
use super::loader::load_chunk;
use super::reader::{ReadTotals, read_chunk};
use super::source_end::SourceEnd;
use super::target_end::TargetEnd;
use crate::error::{Error, Result};
use crate::throttle::Throttle;

/// Batches between reader and loader: with the batch's size this bounds the memory of a chunk (invariant 7).
pub(super) const BATCHES_MAX: usize = 4;

/// What all readers together are held to.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    pub(super) limit: Arc<RateLimit>,
    /// Waited for between two chunks: within one, a statement on the source and a transaction on the target would be left open.
    pub(super) throttle: Arc<Throttle>,
}

/// A reader and its two connections.
pub(super) struct Worker {
    pub(super) source: SourceEnd,
    pub(super) target: TargetEnd,
    pub(super) landing: Landing,
    pub(super) pace: Pace,
}

impl Worker {
    /// Copies chunks until none is left or the copy is stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let result = tokio::select! {
            biased;
            // The chunk that is under way is dropped with its connections and read again by the next run.
            () = stop.cancelled() => return Ok(()),
            result = self.copy_chunks() => result,
        };
        // Only goodbyes: what matters was committed and journalled, or is rolled back.
        self.source.disconnect().await;
        self.target.disconnect().await;
        result
    }

    async fn copy_chunks(&mut self) -> Result<()> {
        'chunks: while let Some(mut chunk) = self.source.next_chunk().await? {
            let begun = Instant::now();
            chunk.plan.progress.begun();
            let (mut rows, mut bytes) = (0, 0);
            loop {
                self.pace.throttle.pass().await;
                let copied = self.copy(&mut chunk).await;
                let Some(totals) = self.source.unless_changed(copied, &chunk).await? else {
                    chunk.plan.dropped().await;
                    continue 'chunks;
                };
                self.landing.rows(&chunk, totals.rows, totals.stopped_at.as_deref()).await?;
                rows += totals.rows;
                bytes += totals.bytes;
                match totals.stopped_at {
                    Some(key) => chunk.range.after = Some(key),
                    None => break,
                }
            }
            chunk.plan.was_read(rows, bytes, begun.elapsed()).await;
            self.landing.chunk(&chunk).await?;
        }
        Ok(())
    }

    async fn copy(&mut self, chunk: &mut Chunk) -> Result<ReadTotals> {
        let mut attempts = Attempts::default();
        loop {
            match self.copy_once(chunk).await {
                Ok(totals) => return Ok(totals),
                Err(error) => {
                    // Whether the target committed it is unknown: its rows may be there.
                    chunk.again = true;
                    attempts.pause(error).await?;
                }
            }
        }
    }

    async fn copy_once(&mut self, chunk: &Chunk) -> Result<ReadTotals> {
        let mut source = self.source.take().await?;
        let mut target = self.target.take().await?;
        let table = &chunk.range.table.on_target();
        let of_table = (target.form.of_table(table), target.packet_bytes_max);
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let (read, loaded) = tokio::join!(
            read_chunk(&mut source, &chunk.range, of_table, &self.pace.limit, sender),
            load_chunk(&mut target.conn, table, target.packet_bytes_max, chunk.replaces(), receiver),
        );
        // After an error both connections are dropped here: one may have rows in it, the other a transaction.
        let totals = match (read, loaded) {
            (Err(error), _) => return Err(self.source.named(error)),
            (Ok(_), Err(error)) => return Err(error),
            (Ok(None), Ok(_)) => {
                return Err(Error::bug("copy", "the loader left early and says all is well"));
            }
            (Ok(Some(totals)), Ok(rows)) if totals.rows == rows => totals,
            (Ok(Some(_)), Ok(_)) => return Err(Error::bug("copy", "rows read and rows loaded differ")),
        };
        self.source.keep(source, &totals).await;
        self.target.keep(target);
        Ok(totals)
    }
}
