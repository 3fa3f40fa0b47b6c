//! One of the readers of a staged copy: takes a chunk, writes it to files, takes the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use config::durable::is_full;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::attempts::Attempts;
use super::super::chunker::Chunk;
use super::super::encode::Form;
use super::super::reader::{Batch, CHUNK_BYTES_MAX, ReadTotals, read_chunk};
use super::super::source_end::SourceEnd;
use super::super::worker::{BATCHES_MAX, Pace};
use super::folder::{Folder, io_error};
use super::part::{Description, PartWriter};
use super::queue::{Part, Reading};
use super::{Stage, blocking, shape};
use crate::error::{Error, Result};

/// A reader and its connection.
pub(in super::super) struct Filler {
    stage: Arc<Stage>,
    source: SourceEnd,
    pace: Pace,
    /// Loaders wait for what it may still bring.
    reading: Reading,
}

/// What became of an attempt at a part.
enum Attempt {
    Staged(Box<Part>, ReadTotals),
    /// The disk had no room for it.
    Full(Refused),
}

/// A part that was written and has no end yet.
struct Written {
    path: PathBuf,
    writer: PartWriter,
}

/// What the system said to a part that couldn't be written, and that isn't there any more.
struct Refused {
    path: PathBuf,
    error: io::Error,
}

impl Refused {
    /// A half part is of no use to anybody, and takes room.
    fn remove(path: &Path, error: io::Error) -> Self {
        drop(std::fs::remove_file(path));
        Self { path: path.to_owned(), error }
    }

    fn attempt(self) -> Result<Attempt> {
        if is_full(&self.error) { Ok(Attempt::Full(self)) } else { Err(self.said()) }
    }

    /// With what to do about it.
    fn said(&self) -> Error {
        io_error(&self.path, "write a staged file", &self.error)
    }
}

impl Filler {
    pub(in super::super) fn new(stage: Arc<Stage>, source: SourceEnd, pace: Pace) -> Self {
        let reading = stage.queue.reader(&stage.progress);
        Self { stage, source, pace, reading }
    }

    /// Stages chunks until none is left or the copy is stopped.
    pub(in super::super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let result = tokio::select! {
            biased;
            // What is half written is removed by the next run.
            () = stop.cancelled() => return Ok(()),
            result = self.stage_chunks() => result,
        };
        // Loaders needn't wait for a goodbye.
        drop(self.reading);
        self.source.disconnect().await;
        result
    }

    async fn stage_chunks(&mut self) -> Result<()> {
        'chunks: while let Some(mut chunk) = self.source.next_chunk().await? {
            let begun = Instant::now();
            chunk.plan.progress.begun();
            let (mut rows, mut bytes) = (0, 0);
            loop {
                self.pace.throttle.pass().await;
                let staged = self.stage(&chunk).await;
                let Some((part, totals)) = self.source.unless_changed(staged, &chunk).await? else {
                    chunk.plan.dropped().await;
                    continue 'chunks;
                };
                self.stage.progress.staged(part.description.rows, part.bytes);
                self.stage.queue.put(*part);
                rows += totals.rows;
                bytes += totals.bytes;
                match totals.stopped_at {
                    Some(key) => chunk.range.after = Some(key),
                    None => break,
                }
            }
            chunk.plan.was_read(rows, bytes, begun.elapsed()).await;
        }
        Ok(())
    }

    async fn stage(&mut self, chunk: &Chunk) -> Result<(Box<Part>, ReadTotals)> {
        let mut attempts = Attempts::default();
        loop {
            match self.stage_once(chunk).await {
                Ok(Attempt::Staged(part, totals)) => return Ok((part, totals)),
                // What is loaded next makes room; where nothing else is staged, only an operator can.
                Ok(Attempt::Full(refused)) => {
                    if !self.stage.room.wait_for_less().await {
                        return Err(refused.said());
                    }
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn stage_once(&mut self, chunk: &Chunk) -> Result<Attempt> {
        // Before anything is asked of the source, which wouldn't like to wait in the midst of an answer.
        let mut taken = self.stage.room.take(CHUNK_BYTES_MAX).await;
        let form = self.stage.form.of_table(&chunk.range.table.on_target());
        let (totals, Written { path, writer }) = match self.read_into_file(chunk, form).await? {
            Ok(written) => written,
            Err(refused) => return refused.attempt(),
        };
        let description = self.description(chunk, form, &totals, writer.totals())?;
        let (folder, described) = (Arc::clone(&self.stage.folder), description.clone());
        let ended = blocking(move || {
            let ended = folder.end_part(&path, writer, &described);
            Ok(ended.map_err(|error| Refused::remove(&path, error)))
        });
        let (path, bytes) = match ended.await? {
            Ok(ended) => ended,
            Err(refused) => return refused.attempt(),
        };
        taken.becomes(bytes);
        let part = Part { path, description, chunk: chunk.clone(), bytes, taken };
        Ok(Attempt::Staged(Box::new(part), totals))
    }

    async fn read_into_file(
        &mut self,
        chunk: &Chunk,
        form: Form,
    ) -> Result<std::result::Result<(ReadTotals, Written), Refused>> {
        let mut source = self.source.take().await?;
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let folder = Arc::clone(&self.stage.folder);
        let (read, written) = tokio::join!(
            read_chunk(
                &mut source,
                &chunk.range,
                (form, self.stage.packet_bytes_max),
                &self.pace.limit,
                sender
            ),
            blocking(move || Ok(write(&folder, receiver))),
        );
        // After an error the connection is dropped here: it may have rows in it.
        let read = read.map_err(|error| self.source.named(error))?;
        match (read, written?) {
            (_, Err(refused)) => Ok(Err(refused)),
            (Some(totals), Ok(Some(written))) => {
                self.source.keep(source, &totals).await;
                Ok(Ok((totals, written)))
            }
            _ => Err(Error::bug("stage", "one end of it left early and says all is well")),
        }
    }

    fn description(
        &self,
        chunk: &Chunk,
        form: Form,
        totals: &ReadTotals,
        (rows, bytes): (u64, u64),
    ) -> Result<Description> {
        if (rows, bytes) != (totals.rows, totals.bytes) {
            return Err(Error::bug("stage", "rows read and rows written differ"));
        }
        let range = &chunk.range;
        Ok(Description {
            start: self.stage.start.clone(),
            shape: shape(&range.table, form)?,
            form,
            table: range.table.name.clone(),
            chunk: chunk.number,
            chunk_upto: range.upto.clone(),
            after: range.after.clone(),
            upto: totals.stopped_at.clone().or_else(|| range.upto.clone()),
            is_last: totals.stopped_at.is_none(),
            rows,
            bytes,
        })
    }
}

/// Writes batches up to their end; `None` where they end before. Blocks.
fn write(
    folder: &Folder,
    mut batches: mpsc::Receiver<Batch>,
) -> std::result::Result<Option<Written>, Refused> {
    let (path, writer) = folder.begin_part();
    let mut writer = writer.map_err(|error| Refused::remove(&path, error))?;
    loop {
        match batches.blocking_recv() {
            Some(Batch::Rows { form, bytes, rows }) => {
                writer.batch(form, rows, &bytes).map_err(|error| Refused::remove(&path, error))?;
            }
            Some(Batch::End) => return Ok(Some(Written { path, writer })),
            None => {
                drop(std::fs::remove_file(&path));
                return Ok(None);
            }
        }
    }
}
