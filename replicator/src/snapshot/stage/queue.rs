//! Parts that wait to be loaded, and who takes which.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use config::TableName;
use tokio::sync::Notify;

use super::super::chunker::Chunk;
use super::super::progress::SnapshotProgress;
use super::part::Description;
use super::room::Taken;
use crate::handle::lock;

/// A part that is whole and on the disk.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) description: Description,
    /// The chunk that it is of.
    pub(super) chunk: Chunk,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// The room that is kept for it.
    #[expect(dead_code, reason = "it is given back when it is dropped")]
    pub(super) taken: Taken,
}

/// What parts of one chunk have in common: they are loaded in their order, since the journal knows only how far a chunk is.
type ChunkId = (TableName, u64);

/// Parts in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Part>,
    /// Chunks of which a part is being loaded.
    loading: HashSet<ChunkId>,
    /// Readers that may still bring some.
    readers: usize,
}

/// A reader that may bring parts, until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    queue: Arc<Queue>,
    /// Where the last one says that nothing more is read.
    progress: Arc<SnapshotProgress>,
}

/// A part that nobody else loads, nor another one of its chunk, until it is dropped.
#[derive(Debug)]
pub(super) struct Loading {
    queue: Arc<Queue>,
    pub(super) part: Part,
}

impl Queue {
    /// One reader more.
    pub(super) fn reader(self: &Arc<Self>, progress: &Arc<SnapshotProgress>) -> Reading {
        lock(&self.inner).readers += 1;
        Reading { queue: Arc::clone(self), progress: Arc::clone(progress) }
    }

    pub(super) fn put(&self, part: Part) {
        lock(&self.inner).waiting.push_back(part);
        self.changed.notify_waiters();
    }

    /// The next part that may be loaded; `None` when there is none and nobody brings another. Cancel safety: yes.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Loading> {
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = lock(&self.inner);
                if let Some(part) = inner.next() {
                    return Some(Loading { queue: Arc::clone(self), part });
                }
                if inner.readers == 0 && inner.waiting.is_empty() {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl Inner {
    fn next(&mut self) -> Option<Part> {
        let is_free = |part: &Part| !self.loading.contains(&part.id());
        let part = self.waiting.iter().position(is_free).and_then(|at| self.waiting.remove(at))?;
        self.loading.insert(part.id());
        Some(part)
    }
}

impl Part {
    fn id(&self) -> ChunkId {
        (self.description.table.clone(), self.description.chunk)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut inner = lock(&self.queue.inner);
        inner.readers -= 1;
        let was_last = inner.readers == 0;
        drop(inner);
        if was_last {
            self.progress.reads_are_over();
        }
        self.queue.changed.notify_waiters();
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        lock(&self.queue.inner).loading.remove(&self.part.id());
        self.queue.changed.notify_waiters();
    }
}
