//! From the spool into memory: reads ahead of the scheduler, within a bound of bytes.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::binlog::transaction::{RowChange, RowsChange, SpoolItem};
use crate::error::Result;
use crate::schema::transfer;
use crate::spool::reader::Reader;
use crate::value::Value;

/// Bytes of decoded rows that are read ahead or being applied, at most (invariant 7).
const BYTES_MAX: u32 = 64 << 20;
/// Items read ahead, at most.
const ITEMS_MAX: usize = 2_000;

/// Where transactions come from: a reader of the spool.
pub trait SpoolSource: Send + 'static {
    /// The next item; waits where nothing more is durable yet. It is dropped while it waits only when the whole
    /// source is.
    fn next(&mut self) -> impl Future<Output = Result<SpoolItem>> + Send;
}

impl SpoolSource for Reader {
    fn next(&mut self) -> impl Future<Output = Result<SpoolItem>> + Send {
        Reader::next(self)
    }
}

/// An item and its share of the bytes in memory, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    /// The item.
    pub(super) item: SpoolItem,
    /// About how many bytes it takes.
    pub(super) weight: usize,
    /// Its share.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Reads until it is cancelled or the source fails; the error is the last thing that is sent.
pub(super) async fn pump<S: SpoolSource>(
    mut source: S,
    to: mpsc::Sender<Result<Taken>>,
    cancel: CancellationToken,
) {
    let bytes = Arc::new(Semaphore::new(BYTES_MAX as usize));
    let reading = async {
        loop {
            let item = match source.next().await.and_then(on_target) {
                Ok(item) => item,
                Err(error) => {
                    drop(to.send(Err(error)).await);
                    return;
                }
            };
            // Definitions change there: what is behind it can't be decoded by those of before.
            let last = matches!(item, SpoolItem::Ddl { .. });
            let weight = weight(&item);
            // What is larger than the bound comes alone: nothing is read either until it is applied.
            let share = u32::try_from(weight).unwrap_or(BYTES_MAX).clamp(1, BYTES_MAX);
            let Ok(permit) = Arc::clone(&bytes).acquire_many_owned(share).await else { return };
            if to.send(Ok(Taken { item, weight, permit })).await.is_err() || last {
                return;
            }
            if share == BYTES_MAX {
                drop(bytes.acquire_many(BYTES_MAX / 2).await);
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = reading => {}
    }
}

/// Everything behind the intake works in the terms of the target's tables.
fn on_target(item: SpoolItem) -> Result<SpoolItem> {
    Ok(match item {
        SpoolItem::Transaction { meta, changes } => {
            let changes: Result<Vec<RowsChange>> = changes.into_iter().map(transfer::on_target).collect();
            SpoolItem::Transaction { meta, changes: changes? }
        }
        SpoolItem::LargeRows { change, first, last } => {
            SpoolItem::LargeRows { change: transfer::on_target(change)?, first, last }
        }
        other => other,
    })
}

/// The channel between [`pump`] and the scheduler.
pub(super) fn channel() -> (mpsc::Sender<Result<Taken>>, mpsc::Receiver<Result<Taken>>) {
    mpsc::channel(ITEMS_MAX)
}

fn weight(item: &SpoolItem) -> usize {
    const META: usize = 200;
    META + match item {
        SpoolItem::Transaction { changes, .. } => changes.iter().map(change_weight).sum(),
        SpoolItem::LargeRows { change, .. } => change_weight(change),
        SpoolItem::Ddl { statement, .. } => statement.sql.len(),
        _ => 0,
    }
}

fn change_weight(change: &RowsChange) -> usize {
    let row = |values: &Vec<Value>| values.iter().map(value_weight).sum::<usize>();
    change
        .rows
        .iter()
        .map(|change| match change {
            RowChange::Insert { after: image } | RowChange::Delete { before: image } => row(image),
            RowChange::Update { before, after } => row(before) + row(after),
        })
        .sum()
}

fn value_weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::sample::{change, insert, table, text};
    use super::*;

    /// Rows of so many bytes, one after the other.
    struct Rows {
        bytes: Vec<usize>,
        read: Arc<AtomicUsize>,
    }

    impl SpoolSource for Rows {
        async fn next(&mut self) -> Result<SpoolItem> {
            let Some(&bytes) = self.bytes.get(self.read.load(Ordering::SeqCst)) else {
                return std::future::pending().await;
            };
            self.read.fetch_add(1, Ordering::SeqCst);
            let row = insert(vec![text(&"x".repeat(bytes))]);
            let change = change(&table("t", 1, &[&[0]]), vec![row]);
            Ok(SpoolItem::LargeRows { change, first: 1, last: 1 })
        }
    }

    #[tokio::test]
    async fn a_very_large_row_comes_alone() {
        let read = Arc::new(AtomicUsize::new(0));
        let source = Rows { bytes: vec![10, 70 << 20, 10, 10], read: Arc::clone(&read) };
        let (to, mut from) = channel();
        let cancel = CancellationToken::new();
        let pumping = tokio::spawn(pump(source, to, cancel.clone()));
        let small = from.recv().await.unwrap().unwrap();
        let weight = small.weight;
        drop(small);
        let large = from.recv().await.unwrap().unwrap();
        assert!(large.weight > weight);
        // The pump runs on this very thread, as often as it has something to do.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(read.load(Ordering::SeqCst), 2, "read ahead of a very large row");
        drop(large);
        from.recv().await.unwrap().unwrap();
        from.recv().await.unwrap().unwrap();
        cancel.cancel();
        pumping.await.unwrap();
    }
}
