//! The end of the copy at which chunks are cut and read: a connection, and what to make of its errors.

use std::sync::Arc;
use std::time::Duration;

use config::BackendConfig;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::attempts::Attempts;
use super::chunk_source::ChunkSource;
use super::chunker::{Chunk, Planner, was_changed_on};
use super::reader::ReadTotals;
use crate::error::{Error, ErrorKind, Result};

/// A connection to read chunks from, and the plan that they come from.
#[derive(Debug)]
pub(super) struct SourceEnd {
    from: ChunkSource,
    /// The source itself, which knows what has become of a table.
    primary: BackendConfig,
    planner: Arc<Planner>,
    conn: Option<Conn>,
}

impl SourceEnd {
    pub(super) fn new(from: ChunkSource, primary: BackendConfig, planner: Arc<Planner>) -> Self {
        Self { from, primary, planner, conn: None }
    }

    /// The next chunk that nobody else has; `None` when every one was handed out.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut attempts = Attempts::default();
        // Who has nothing to read needs no server.
        while !self.planner.is_exhausted() {
            match self.ask_for_chunk().await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => {
                    self.conn = None;
                    attempts.pause(error).await?;
                }
            }
        }
        Ok(None)
    }

    async fn ask_for_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut conn = self.take().await?;
        let next = self.planner.next(&mut conn, &self.primary).await.map_err(|error| self.named(error))?;
        self.conn = Some(conn);
        Ok(next)
    }

    /// The connection, which comes back with [`Self::keep`], or not at all after an error.
    pub(super) async fn take(&mut self) -> Result<Conn> {
        match self.conn.take() {
            Some(conn) => Ok(conn),
            None => self.from.connect().await,
        }
    }

    /// The connection may be used again, unless what was read ended in the midst of an answer.
    pub(super) async fn keep(&mut self, conn: Conn, read: &ReadTotals) {
        match read.stopped_at {
            Some(_) => abandon(conn).await,
            None => self.conn = Some(conn),
        }
    }

    /// An error from reading, which says where.
    pub(super) fn named(&self, error: Error) -> Error {
        self.from.named(error)
    }

    /// What came of a chunk; `None`: the table was changed on the source, which is why it failed, and its copy is given up.
    pub(super) async fn unless_changed<T>(&self, result: Result<T>, chunk: &Chunk) -> Result<Option<T>> {
        unless_changed(result, &self.primary, chunk).await
    }

    pub(super) async fn disconnect(self) {
        if let Some(conn) = self.conn {
            drop(conn.disconnect().await);
        }
    }
}

/// The same for an end that doesn't read.
pub(super) async fn unless_changed<T>(
    result: Result<T>,
    primary: &BackendConfig,
    chunk: &Chunk,
) -> Result<Option<T>> {
    let error = match result {
        Ok(value) => return Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::Definite => error,
        Err(error) => return Err(error),
    };
    if !was_changed_on(primary, &chunk.range.table).await? {
        return Err(error);
    }
    chunk.plan.give_up().await;
    Ok(None)
}

/// Drops a connection that has rows in it without reading them: the driver would fetch them all on the way out,
/// unless it is left in the middle of a request.
async fn abandon(mut conn: Conn) {
    drop(tokio::time::timeout(Duration::ZERO, conn.ping()).await);
}
