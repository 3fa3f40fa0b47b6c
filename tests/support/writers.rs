//! Applications that write past the proxy, by their own test's rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::wait::until;

/// How long a writer thinks between two transactions, at least.
const THINKS: Duration = Duration::from_millis(4);

/// The time an application takes to think behind a transaction that it began then: `at_least`, and as long as the
/// transaction took. On a slow machine writers would otherwise take all of it, and leave a tail nothing to keep up with.
pub async fn think(began: Instant, at_least: Duration) {
    tokio::time::sleep(began.elapsed().max(at_least)).await;
}

/// Writers, one task each.
pub struct Writers {
    tasks: JoinSet<()>,
    turns: Turns,
}

/// What a writer is told, and tells.
#[derive(Clone, Default)]
pub struct Turns {
    committed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// When the writer's last transaction began.
    began: Option<Instant>,
    /// What was thrown last.
    dice: u64,
}

impl Turns {
    /// True where another transaction is wanted, after a moment to think.
    pub async fn another(&mut self) -> bool {
        if let Some(began) = self.began {
            think(began, THINKS).await;
        }
        self.began = Some(Instant::now());
        !self.stop.load(Ordering::SeqCst)
    }

    /// The same with what it is to be: any number, the same ones in every run.
    pub async fn throw(&mut self) -> Option<u64> {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.another().await.then_some(self.dice >> 33)
    }

    /// One was committed.
    pub fn committed(&self) {
        self.committed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Writers {
    /// Starts them; each is told its number, from 0.
    pub fn start<W: Future<Output = ()> + Send + 'static>(
        number: u32,
        write: impl Fn(u32, Turns) -> W,
    ) -> Self {
        let (mut tasks, turns) = (JoinSet::new(), Turns::default());
        for id in 0..number {
            tasks.spawn(write(id, Turns { dice: u64::from(id) + 1, ..turns.clone() }));
        }
        Self { tasks, turns }
    }

    /// Waits for so many more transactions.
    pub async fn wait_more(&self, more: u64) {
        let wanted = self.turns.committed.load(Ordering::SeqCst) + more;
        until("more transactions", Duration::from_secs(60), async || {
            let seen = self.turns.committed.load(Ordering::SeqCst);
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
        })
        .await;
    }

    /// Stops them and waits for their end. Returns how many transactions were committed.
    pub async fn close(mut self) -> u64 {
        self.turns.stop.store(true, Ordering::SeqCst);
        while let Some(writer) = self.tasks.join_next().await {
            writer.unwrap();
        }
        self.turns.committed.load(Ordering::SeqCst)
    }
}
