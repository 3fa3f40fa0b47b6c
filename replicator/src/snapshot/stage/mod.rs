//! Chunks on disk between source and target (`snapshot.stage_dir`): readers write them to files as fast as the source gives them, and
//! loaders take them from there as fast as the target takes them.
//!
//! `reader → part → queue → loader`. The source is done with once all is staged, however slow the target is; and a run that goes on
//! later loads what is staged without asking the source again.
//!
//! Nothing else is different from a copy without: a part is rows that were read after the start position, P1 is taken once all of it is
//! loaded, and a chunk is done when the chunk journal says so. The journal doesn't know of parts: one that is whole and goes on where the
//! journal ends is loaded, any other is removed, and what it held is read again ([`folder`]). So a part may be lost at any moment.

mod filler;
mod folder;
mod part;
mod queue;
mod room;
mod unloader;

use std::sync::Arc;

use config::{Config, StageConfig, TableName};

pub(super) use self::filler::Filler;
pub(super) use self::folder::{Staged, StagedTo};
pub(super) use self::unloader::Unloader;

use self::folder::{Folder, Found};
use self::queue::{Part, Queue};
use self::room::Room;
use super::chunker::{Chunk, Planner};
use super::encode::{Form, Protocol, statement};
use super::journal::Chunks;
use super::progress::SnapshotProgress;
use super::range::KeyRange;
use super::reader::select;
use super::target_end::TargetEnd;
use crate::error::{Error, Result};
use crate::schema::table::{SchemaSet, TableSchema};

/// What readers and loaders of a staged copy share.
#[derive(Debug)]
pub(super) struct Stage {
    folder: Arc<Folder>,
    room: Arc<Room>,
    queue: Arc<Queue>,
    /// P0, as parts are marked with it.
    start: String,
    /// How rows travel to the target.
    form: Form,
    /// The largest packet that the target takes, in bytes.
    packet_bytes_max: u64,
    progress: Arc<SnapshotProgress>,
}

/// Parts that an earlier run has left.
#[derive(Debug)]
pub(super) struct Left {
    found: Vec<Found>,
    pub(super) staged_to: StagedTo,
}

impl Stage {
    /// Opens the stage of a copy, and sorts out what is there.
    pub(super) async fn open(
        config: &Config,
        stage: &StageConfig,
        (start, chunks, tables): (String, Chunks, &SchemaSet),
        progress: Arc<SnapshotProgress>,
    ) -> Result<(Arc<Self>, Left)> {
        let (form, packet_bytes_max) = TargetEnd::new(config.target.clone()).form().await?;
        let (place, migration, tables) = (stage.clone(), config.migration.name.clone(), tables.clone());
        let copied = start.clone();
        let (folder, found, staged_to) = blocking(move || {
            let folder = Folder::open(&place, &migration)?;
            let shape = |name: &TableName, of: Form| {
                let table = tables.get(name).filter(|_| of == Form::Insert || form == Form::LoadData)?;
                shape(table, of).ok()
            };
            let (found, staged_to) = folder.recover(&copied, &chunks, shape)?;
            Ok((folder, found, staged_to))
        })
        .await?;
        let stage = Self {
            folder: Arc::new(folder),
            room: Room::new(stage.bytes_max),
            queue: Arc::default(),
            start,
            form,
            packet_bytes_max,
            progress,
        };
        Ok((Arc::new(stage), Left { found, staged_to }))
    }

    /// Has the parts that were found loaded before any that is read from now on.
    pub(super) fn resume(&self, left: Left, planner: &Planner) {
        if !left.found.is_empty() {
            let parts = left.found.len();
            tracing::info!(area = "snapshot", parts, "staged files of the run before are loaded as they are");
        }
        for Found { path, description, bytes } in left.found {
            // Its table is copied, or it wouldn't have been found to fit.
            let Some(plan) = planner.plan(&description.table) else { continue };
            let range = KeyRange {
                table: Arc::clone(&plan.table),
                after: description.after.clone(),
                upto: description.chunk_upto.clone(),
            };
            // Whether the run before has loaded it is unknown.
            let chunk = Chunk { number: description.chunk, range, again: true, plan };
            chunk.plan.progress.begun();
            self.progress.staged(description.rows, bytes);
            self.queue.put(Part { path, description, chunk, taken: self.room.is_taken(bytes), bytes });
        }
    }

    /// The copy is over, and with it the folder. Nobody else holds the stage any more.
    pub(super) async fn close(self: Arc<Self>) -> Result<()> {
        let folder = Arc::into_inner(self).and_then(|stage| Arc::into_inner(stage.folder));
        let Some(folder) = folder else {
            return Err(Error::bug("stage", "somebody still works with it and the copy is over"));
        };
        blocking(|| folder.remove_all()).await
    }
}

/// Forgets what an earlier migration has staged under this name.
pub(crate) fn discard(config: &Config) -> Result<()> {
    match &config.snapshot.stage {
        Some(stage) => Folder::discard(stage, &config.migration.name),
        None => Ok(()),
    }
}

/// How rows of a table are read and loaded: parts that were made otherwise are of no use, nor those of another version of this program.
fn shape(table: &Arc<TableSchema>, form: Form) -> Result<String> {
    let loaded = statement(&table.on_target(), form, false);
    let read = select(&KeyRange::whole(Arc::clone(table)), Protocol::Text)?;
    Ok(format!("{}\n{}\n{loaded}", env!("CARGO_PKG_VERSION"), String::from_utf8_lossy(&read)))
}

/// What has to do with files, away from the runtime's few threads. Dropped, it runs to its end all the same.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::bug("stage", format!("its thread ended: {error}"))))
}
