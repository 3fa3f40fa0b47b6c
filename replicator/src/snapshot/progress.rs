//! How far the copy is, for whoever asks while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use config::TableName;
use tokio::sync::watch;

use super::journal::Chunks;
use crate::schema::table::{SchemaSet, TableSchema};

/// Progress of every table. Shared between the copy, which writes it, and everyone who shows it.
#[derive(Debug, Default)]
pub struct SnapshotProgress {
    tables: HashMap<TableName, Arc<TableProgress>>,
    staged_rows: AtomicU64,
    staged_bytes: AtomicU64,
    /// All that is staged or was is read.
    all_read: watch::Sender<bool>,
}

/// Progress of a table.
#[derive(Debug, Default)]
pub struct TableProgress {
    rows_copied: AtomicU64,
    rows_estimate: AtomicU64,
    phase: AtomicU8,
}

/// Where a table's copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPhase {
    /// No chunk of it was begun.
    Waiting,
    /// Some chunks were.
    Copying,
    /// All of its rows are on the target, and its secondary indexes are being built.
    Indexing,
    /// All of it is on the target.
    Copied,
}

impl CopyPhase {
    /// The word in SHOW MIGRATION TABLES.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CopyPhase::Waiting => "waiting",
            CopyPhase::Copying => "copying",
            CopyPhase::Indexing => "indexing",
            CopyPhase::Copied => "copied",
        }
    }
}

impl SnapshotProgress {
    /// Nothing is copied yet.
    #[must_use]
    pub fn new(tables: &SchemaSet) -> Arc<Self> {
        let tables = tables.sorted().into_iter().map(|table| {
            let progress = TableProgress::default();
            progress.rows_estimate.store(table.rows_estimate, Ordering::Relaxed);
            (table.name.clone(), Arc::new(progress))
        });
        Arc::new(Self { tables: tables.collect(), ..Self::default() })
    }

    /// The same for other tables: those that were there keep what they have, new ones hold what the stream brings.
    #[must_use]
    pub fn followed_by(&self, tables: &SchemaSet) -> Arc<Self> {
        let tables = tables.sorted().into_iter().map(|table| {
            let known = self.tables.get(&table.name).cloned().unwrap_or_default();
            known.completed();
            (table.name.clone(), known)
        });
        Arc::new(Self { tables: tables.collect(), ..Self::default() })
    }

    /// Every table is copied; so many rows of each are in the journal.
    pub(super) fn recall(&self, chunks: &Chunks) {
        for (name, table) in &self.tables {
            // A table without a row key has no chunks.
            let rows = chunks
                .get(name)
                .map_or_else(|| table.rows_estimate(), |chunks| chunks.iter().map(|chunk| chunk.rows).sum());
            table.resume(rows, true, true);
        }
    }

    /// A table was copied as a whole by a run before this one.
    pub(crate) fn was_copied(&self, name: &TableName) {
        if let Some(table) = self.tables.get(name) {
            table.resume(table.rows_estimate(), true, true);
        }
    }

    /// The copy is over since long: its rows are what the statistics say.
    pub(crate) fn all_copied(&self) {
        for table in self.tables.values() {
            table.resume(table.rows_estimate(), true, true);
        }
    }

    /// A table's progress.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Option<&Arc<TableProgress>> {
        self.tables.get(name)
    }

    pub(super) fn of(&self, table: &TableSchema) -> Arc<TableProgress> {
        self.tables.get(&table.name).cloned().unwrap_or_default()
    }

    /// Rows on the target, over all tables.
    #[must_use]
    pub fn rows_copied(&self) -> u64 {
        self.tables.values().map(|table| table.rows_copied()).sum()
    }

    /// Rows to copy, over all tables, as well as it is known by now.
    #[must_use]
    pub fn rows_estimate(&self) -> u64 {
        self.tables.values().map(|table| table.rows_estimate()).sum()
    }

    /// Tables that are on the target as a whole.
    #[must_use]
    pub fn tables_copied(&self) -> usize {
        self.tables.values().filter(|table| table.phase() == CopyPhase::Copied).count()
    }

    /// Rows that are read and wait on disk for the target, and the bytes that their files take.
    #[must_use]
    pub fn staged_now(&self) -> (u64, u64) {
        (self.staged_rows.load(Ordering::Relaxed), self.staged_bytes.load(Ordering::Relaxed))
    }

    /// Nothing more is read, whatever isn't loaded yet.
    pub(super) fn reads_are_over(&self) {
        self.all_read.send_replace(true);
    }

    /// Returns when nothing more is read of a copy that is staged; never of another one. Cancel safety: yes.
    pub(crate) async fn all_read(&self) {
        // It can't be gone: it is borrowed.
        drop(self.all_read.subscribe().wait_for(|over| *over).await);
    }

    pub(super) fn staged(&self, rows: u64, bytes: u64) {
        self.staged_rows.fetch_add(rows, Ordering::Relaxed);
        self.staged_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of them are on the target, or given up.
    pub(super) fn unstaged(&self, rows: u64, bytes: u64) {
        self.staged_rows.fetch_sub(rows, Ordering::Relaxed);
        self.staged_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// True when every table is.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tables_copied() == self.tables.len()
    }
}

impl TableProgress {
    /// Rows on the target.
    #[must_use]
    pub fn rows_copied(&self) -> u64 {
        self.rows_copied.load(Ordering::Relaxed)
    }

    /// Rows to copy: the source's estimate, never below what was copied, exact once the table is copied.
    #[must_use]
    pub fn rows_estimate(&self) -> u64 {
        match self.phase() {
            CopyPhase::Indexing | CopyPhase::Copied => self.rows_copied(),
            _ => self.rows_estimate.load(Ordering::Relaxed).max(self.rows_copied()),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> CopyPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => CopyPhase::Waiting,
            1 => CopyPhase::Copying,
            2 => CopyPhase::Indexing,
            _ => CopyPhase::Copied,
        }
    }

    pub(super) fn begun(&self) {
        self.phase.fetch_max(1, Ordering::Relaxed);
    }

    pub(super) fn copied(&self, rows: u64) {
        self.rows_copied.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn indexing(&self) {
        self.phase.fetch_max(2, Ordering::Relaxed);
    }

    pub(super) fn completed(&self) {
        self.phase.fetch_max(3, Ordering::Relaxed);
    }

    /// Sets what the journal knows.
    pub(super) fn resume(&self, rows: u64, begun: bool, complete: bool) {
        self.rows_copied.store(rows, Ordering::Relaxed);
        self.phase.store(if complete { 3 } else { u8::from(begun) }, Ordering::Relaxed);
    }
}
