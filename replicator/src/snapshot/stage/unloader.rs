//! One of the loaders of a staged copy: takes a part, loads it, has it journalled, removes the file, takes the next.

use std::sync::Arc;

use config::{BackendConfig, Side};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::attempts::Attempts;
use super::super::landing::Landing;
use super::super::loader::load_chunk;
use super::super::reader::Batch;
use super::super::source_end::unless_changed;
use super::super::target_end::TargetEnd;
use super::super::worker::{BATCHES_MAX, Pace};
use super::folder::{io_error, remove};
use super::part::{Unusable, read_batches};
use super::queue::Part;
use super::{Stage, blocking};
use crate::error::{Error, Result};

/// A loader and its connection.
pub(in super::super) struct Unloader {
    pub(in super::super) stage: Arc<Stage>,
    pub(in super::super) target: TargetEnd,
    /// The source, which knows what has become of a table.
    pub(in super::super) primary: BackendConfig,
    pub(in super::super) landing: Landing,
    pub(in super::super) pace: Pace,
}

/// What became of an attempt at a part.
enum Attempt {
    /// So many rows are committed.
    Loaded(u64),
    /// The file isn't what it was; nothing of it is committed.
    Damaged(&'static str),
}

impl Unloader {
    /// Loads parts until none is left and nobody brings any, or the copy is stopped.
    pub(in super::super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let result = tokio::select! {
            biased;
            // The part that is under way is dropped with the connection, and loaded by the next run.
            () = stop.cancelled() => return Ok(()),
            result = self.load_parts() => result,
        };
        self.target.disconnect().await;
        result
    }

    async fn load_parts(&mut self) -> Result<()> {
        while let Some(mut loading) = self.stage.queue.take().await {
            self.pace.throttle.pass().await;
            let loaded = self.load(&mut loading.part).await;
            let part = &loading.part;
            let landed = unless_changed(loaded, &self.primary, &part.chunk).await?;
            if let Some(rows) = landed {
                let upto = part.description.upto.as_deref().filter(|_| !part.description.is_last);
                self.landing.rows(&part.chunk, rows, upto).await?;
            }
            let path = part.path.clone();
            blocking(move || remove(&path, "")).await?;
            self.stage.progress.unstaged(part.description.rows, part.bytes);
            match (part.description.is_last, landed) {
                (true, Some(_)) => self.landing.chunk(&part.chunk).await?,
                (true, None) => drop(part.chunk.plan.landed().await),
                (false, _) => {}
            }
        }
        Ok(())
    }

    async fn load(&mut self, part: &mut Part) -> Result<u64> {
        let mut attempts = Attempts::default();
        loop {
            match self.load_once(part).await {
                Ok(Attempt::Loaded(rows)) => return Ok(rows),
                Ok(Attempt::Damaged(why)) => {
                    // The next run reads again whatever no part holds.
                    let path = part.path.clone();
                    blocking(move || remove(&path, why)).await?;
                    let place = part.path.display().to_string();
                    return Err(Error::transient(None, place, format!("a staged file is damaged: {why}")));
                }
                Err(error) => {
                    // Whether the target committed it is unknown: its rows may be there.
                    part.chunk.again = true;
                    attempts.pause(error).await?;
                }
            }
        }
    }

    async fn load_once(&mut self, part: &Part) -> Result<Attempt> {
        let mut target = self.target.take().await?;
        if target.form != self.stage.form {
            let what = "local_infile is set otherwise than when the rows were staged; they are read again";
            return Err(Error::transient(Side::Target, "loading staged files", what));
        }
        let table = &part.chunk.range.table.on_target();
        let packet_bytes_max = target.packet_bytes_max;
        let (to_pump, mut from_file) = mpsc::channel::<Batch>(1);
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let (path, description) = (part.path.clone(), part.description.clone());
        let pump = async {
            let reading = blocking(move || {
                Ok(read_batches(&path, &description, |form, rows, bytes| {
                    to_pump.blocking_send(Batch::Rows { form, bytes, rows }).is_ok()
                }))
            });
            let pumping = async {
                while let Some(batch) = from_file.recv().await {
                    if let Batch::Rows { rows, .. } = &batch {
                        self.pace.limit.take(*rows).await;
                    }
                    if sender.send(batch).await.is_err() {
                        // The loader has an error of its own.
                        from_file.close();
                    }
                }
            };
            let (read, ()) = tokio::join!(reading, pumping);
            let read = read?;
            if read.is_ok() {
                // invariant 1: what isn't whole is never committed.
                drop(sender.send(Batch::End).await);
            }
            drop(sender);
            Ok::<_, Error>(read)
        };
        let (read, loaded) = tokio::join!(
            pump,
            load_chunk(&mut target.conn, table, packet_bytes_max, part.chunk.replaces(), receiver)
        );
        match read? {
            Ok(()) => {}
            Err(Unusable::Damaged(why)) => return Ok(Attempt::Damaged(why)),
            Err(Unusable::Io(error)) => return Err(io_error(&part.path, "read a staged file", &error)),
        }
        let rows = loaded?;
        if rows != part.description.rows {
            return Err(Error::bug("stage", "rows staged and rows loaded differ"));
        }
        self.target.keep(target);
        Ok(Attempt::Loaded(rows))
    }
}
