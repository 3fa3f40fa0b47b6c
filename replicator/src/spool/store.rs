//! The files behind a writer: appends, makes durable, says so. Blocking, on a thread of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::failpoint;
use config::progress::ReplicationPosition;
use tokio::sync::mpsc;

use super::Shared;
use super::format::{Header, MAGIC, Record};
use super::parked::{Action, Files};
use super::recovery::{Recovered, Segment, recover};
use super::segment::{io_error, segment_path, sync_dir};
use crate::error::{Error, Result};
use crate::folder_lock::FolderLock;

/// What the writer asks for, in order.
#[derive(Debug)]
pub(super) enum Command {
    /// Append to the newest segment, and say what is durable then.
    Append { bytes: Vec<u8>, publish: Option<Published> },
    /// Cut the newest segment: the rest belongs to a transaction that came in half.
    Truncate { offset: u64 },
    /// Begin a segment.
    Roll(Header),
    /// Something about prepared transactions.
    Aside(Action),
}

/// What is in the spool once everything before it is durable.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) end: (u64, u64),
    pub(super) last_seq: u64,
    pub(super) position: ReplicationPosition,
    pub(super) bytes: u64,
}

/// The newest segment's file and the lock on the folder.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    file: File,
    path: PathBuf,
    offset: u64,
    files: Files,
    /// Held as long as it lives: a second writer would destroy the spool.
    _lock: FolderLock,
}

/// Recovers a spool, or makes one.
pub(super) fn open(dir: &Path, start: &ReplicationPosition) -> Result<(Store, Recovered)> {
    fs::create_dir_all(dir).map_err(|error| io_error(dir, "make the folder", &error))?;
    let lock = FolderLock::acquire(dir, "this spool")?;
    let recovered = match recover(dir)? {
        Some(recovered) => recovered,
        None => make(dir, start)?,
    };
    let same_kind = recovered.position.gtids.flavor() == start.gtids.flavor()
        && recovered.position.gtids.is_anonymous() == start.gtids.is_anonymous();
    if !same_kind {
        return Err(Error::definite(
            None,
            dir.display().to_string(),
            "the spool was filled by a server of the other family, or with another gtid_mode: use an empty state_dir \
             for another source",
        ));
    }
    let last = recovered.segments.last().ok_or_else(|| Error::bug("spool", "it has no segment"))?;
    let path = segment_path(dir, last.number);
    let file = open_segment(&path)?;
    let files = Files::default();
    Ok((Store { dir: dir.to_owned(), file, path, offset: last.bytes, files, _lock: lock }, recovered))
}

fn make(dir: &Path, start: &ReplicationPosition) -> Result<Recovered> {
    let header = Header {
        number: 1,
        first_seq: 1,
        base_bytes: 0,
        previous_bytes: 0,
        gtids: start.gtids.clone(),
        coordinates: start.coordinates.clone(),
    };
    let bytes = create_segment(dir, &header)?;
    Ok(Recovered {
        segments: vec![Segment { number: 1, first_seq: 1, base_bytes: 0, bytes }],
        next_seq: 1,
        position: start.clone(),
        cut_bytes: 0,
    })
}

fn open_segment(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(path).map_err(|error| io_error(path, "open the spool", &error))
}

/// The bytes a segment begins with.
pub(super) fn segment_head(header: &Header) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    Record::Header(header.clone()).write(&mut bytes);
    bytes
}

/// Makes a segment that has its header, durably, before it has its name.
fn create_segment(dir: &Path, header: &Header) -> Result<u64> {
    let path = segment_path(dir, header.number);
    let bytes = segment_head(header);
    let temporary = path.with_extension("tmp");
    let create = || -> io::Result<()> {
        let file = File::create(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        failpoint::hit("spool.segment.before");
        fs::rename(&temporary, &path)
    };
    create().map_err(|error| io_error(&path, "make a segment of the spool", &error))?;
    sync_dir(dir)?;
    failpoint::hit("spool.segment.made");
    Ok(bytes.len() as u64)
}

/// Works off commands until the writer is gone. Everything that waits is written before one sync.
pub(super) fn run(
    mut store: Store,
    shared: &Arc<Shared>,
    mut commands: mpsc::Receiver<Command>,
) -> Result<()> {
    while let Some(first) = commands.blocking_recv() {
        let mut next = Some(first);
        let mut published = None;
        while let Some(command) = next {
            store.execute(command, shared, &mut published)?;
            next = commands.try_recv().ok();
        }
        store.publish(shared, &mut published)?;
    }
    Ok(())
}

impl Store {
    fn execute(
        &mut self,
        command: Command,
        shared: &Shared,
        published: &mut Option<Published>,
    ) -> Result<()> {
        let failed = |path: &Path, error: io::Error| io_error(path, "write the spool", &error);
        match command {
            Command::Append { bytes, publish } => {
                self.file.write_all_at(&bytes, self.offset).map_err(|error| failed(&self.path, error))?;
                self.offset += bytes.len() as u64;
                failpoint::hit("spool.written");
                if publish.is_some() {
                    *published = publish;
                }
            }
            Command::Truncate { offset } => {
                self.file.set_len(offset).map_err(|error| failed(&self.path, error))?;
                failpoint::hit("spool.cut");
                self.offset = offset;
            }
            Command::Roll(header) => {
                // The old segment has to be whole before a new one says so.
                self.file.sync_data().map_err(|error| failed(&self.path, error))?;
                self.offset = create_segment(&self.dir, &header)?;
                self.path = segment_path(&self.dir, header.number);
                self.file = open_segment(&self.path)?;
                self.publish(shared, published)?;
            }
            Command::Aside(action) => self.files.execute(&self.dir, action)?,
        }
        Ok(())
    }

    fn publish(&mut self, shared: &Shared, published: &mut Option<Published>) -> Result<()> {
        let Some(published) = published.take() else { return Ok(()) };
        self.file.sync_data().map_err(|error| io_error(&self.path, "write the spool", &error))?;
        failpoint::hit("spool.appended");
        shared.progress.send_modify(|progress| {
            progress.fetched = published.position;
            progress.last_seq = published.last_seq;
            progress.durable_bytes = published.bytes;
            progress.end = published.end;
        });
        Ok(())
    }
}
