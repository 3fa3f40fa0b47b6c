//! How much of the disk the staged parts may take (`snapshot.stage_max_gb`).

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::handle::lock;

/// A part weighs this much at least, since the least that a file takes is a block; so their number is bounded too.
const PART_BYTES_MIN: u64 = 4096;
/// Parts at most, whatever they weigh: each is known in memory (invariant 7).
const PARTS_MAX: usize = 100_000;

/// Room for parts.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: u64,
    taken: Mutex<(u64, usize)>,
    freed: Notify,
}

/// The room that a part takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: Mutex::new((0, 0)), freed: Notify::new() })
    }

    /// Waits until so many bytes are free; where nothing else is taken they always are, so that one part has its way whatever it
    /// weighs. Says once when it has to wait. Cancel safety: yes, nothing is taken.
    pub(super) async fn take(self: &Arc<Self>, bytes: u64) -> Taken {
        let mut said = false;
        loop {
            let freed = self.freed.notified();
            if let Some(taken) = self.try_take(bytes) {
                return taken;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::debug!(
                    area = "snapshot",
                    "stage_dir is full (snapshot.stage_max_gb): reading waits for what is loaded"
                );
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Taken> {
        let mut taken = lock(&self.taken);
        let fits = taken.0.saturating_add(bytes) <= self.bytes_max && taken.1 < PARTS_MAX;
        (fits || *taken == (0, 0)).then(|| {
            *taken = (taken.0 + bytes, taken.1 + 1);
            Taken { room: Arc::clone(self), bytes }
        })
    }

    /// The room of a part that is there already.
    pub(super) fn is_taken(self: &Arc<Self>, bytes: u64) -> Taken {
        let mut taken = lock(&self.taken);
        *taken = (taken.0 + bytes, taken.1 + 1);
        Taken { room: Arc::clone(self), bytes }
    }

    /// Returns when a part has gone, at once where nothing is taken. False in that case.
    pub(super) async fn wait_for_less(&self) -> bool {
        let freed = self.freed.notified();
        if lock(&self.taken).1 == 0 {
            return false;
        }
        freed.await;
        true
    }
}

impl Taken {
    /// What it really weighs is known now.
    pub(super) fn becomes(&mut self, bytes: u64) {
        let bytes = bytes.max(PART_BYTES_MIN);
        let mut taken = lock(&self.room.taken);
        taken.0 = taken.0.saturating_sub(self.bytes).saturating_add(bytes);
        drop(taken);
        if std::mem::replace(&mut self.bytes, bytes) > bytes {
            self.room.freed.notify_waiters();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = lock(&self.room.taken);
        *taken = (taken.0.saturating_sub(self.bytes), taken.1.saturating_sub(1));
        drop(taken);
        self.room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// What a future has to say at its first look.
    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        timeout(Duration::ZERO, future).await.ok()
    }

    #[tokio::test]
    async fn who_comes_to_a_full_room_waits_until_there_is_less() {
        let room = Room::new(100_000);
        let mut first = room.take(60_000).await;
        let second = room.take(40_000).await;
        let mut third = pin!(room.take(40_000));
        assert!(at_once(third.as_mut()).await.is_none());
        first.becomes(20_000);
        let third = at_once(third.as_mut()).await.unwrap();
        let mut fourth = pin!(room.take(1));
        assert!(at_once(fourth.as_mut()).await.is_none());
        drop((second, third));
        assert!(at_once(fourth.as_mut()).await.is_some());
    }

    #[tokio::test]
    async fn one_part_has_its_way_whatever_it_weighs() {
        let room = Room::new(1);
        assert!(!room.wait_for_less().await, "there is nothing to wait for");
        let first = room.take(60_000).await;
        assert!(at_once(room.take(1)).await.is_none());
        drop(first);
        drop(room.take(60_000).await);
        let found = (room.is_taken(7), room.is_taken(8));
        let mut less = pin!(room.wait_for_less());
        assert!(at_once(less.as_mut()).await.is_none());
        drop(found);
        assert_eq!(at_once(less.as_mut()).await, Some(true));
    }
}
