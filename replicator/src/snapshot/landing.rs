//! What follows once rows are on the target: the journal, the progress, and what a table's last chunk brings with it.

use std::sync::Arc;

use super::attempts::Attempts;
use super::chunker::{Chunk, SharedJournal};
use super::late_indexes::LateIndexes;
use crate::error::{Error, Result};
use crate::value::Value;

/// Where whoever loads rows says so.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) journal: SharedJournal,
    pub(super) late_indexes: Arc<LateIndexes>,
}

impl Landing {
    /// So many rows of a chunk are committed on the target, up to a bound, or all of it. Returns when that can be relied on.
    pub(super) async fn rows(&self, chunk: &Chunk, rows: u64, upto: Option<&[Value]>) -> Result<()> {
        let (table, number) = (&chunk.range.table.name, chunk.number);
        let mut journal = self.journal.lock().await;
        let written = match upto {
            Some(bound) => journal.partly_done(table, number, rows, bound)?,
            None => journal.done(table, number, rows)?,
        };
        drop(journal);
        // An fsync takes as long as the disk likes, and the runtime's threads are few.
        tokio::task::spawn_blocking(move || written.settle())
            .await
            .unwrap_or_else(|e| Err(Error::bug("copy", format!("the journal's writer ended: {e}"))))?;
        chunk.plan.progress.copied(rows);
        Ok(())
    }

    /// All of a chunk is there, and all that was said of it above.
    pub(super) async fn chunk(&self, chunk: &Chunk) -> Result<()> {
        if !chunk.plan.landed().await {
            return Ok(());
        }
        let (table, progress) = (&chunk.range.table.name, &chunk.plan.progress);
        if self.late_indexes.are_owed_to(table) {
            progress.indexing();
            let mut attempts = Attempts::default();
            while let Err(error) = self.late_indexes.build(table).await {
                attempts.pause(error).await?;
            }
        }
        progress.completed();
        tracing::info!(area = "snapshot", %table, rows = progress.rows_copied(), "the table is copied");
        Ok(())
    }
}
