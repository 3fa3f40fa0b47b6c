//! An application that keeps its own books: concurrent writers with long-lived sessions, and the proof against a
//! server that every acknowledged transaction is there once, every other one not at all, and every one whose reply
//! was lost at most once.

mod proof;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::Opts;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::server::opts;
use super::wait::until;
use super::{accounts, seed};

pub use proof::Proof;

/// A transaction of the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub writer: u32,
    /// The writer's own number.
    pub seq: u32,
    /// The account that it changes.
    pub account: u32,
    /// By so many cents.
    pub cents: i64,
    /// The inbox row that it removes, a number of the same writer's.
    pub removes: Option<u32>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// COMMIT was answered OK.
    Acknowledged,
    /// It was rolled back, or its connection ended before COMMIT was sent.
    Absent,
    /// COMMIT was sent and never answered.
    Unknown,
}

/// What all writers share.
#[derive(Debug, Default)]
struct Shared {
    books: Mutex<Vec<(Entry, Fate)>>,
    errors: Mutex<Vec<String>>,
    lost_connections: AtomicU64,
    slowest_us: AtomicU64,
    acknowledged: AtomicU64,
    /// Writers stop between two transactions while it is set.
    resting: AtomicBool,
    at_rest: AtomicU64,
    /// A lost connection is opened again instead of ending the writer as an error.
    reconnects: AtomicBool,
}

/// The running writers. Dropping it ends them.
pub struct Ledger {
    writers: JoinSet<()>,
    count: u32,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

impl Ledger {
    /// Starts `count` writers through the proxy at `port`, and returns once each has a session.
    pub async fn start(port: u16, count: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        let opts: Opts = opts(port, accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA));
        for id in 0..count {
            let writer = writer::Writer::open(id, opts.clone(), Arc::clone(&shared)).await;
            let writer = writer.unwrap_or_else(|error| panic!("writer {id} can't begin: {error}"));
            writers.spawn(writer.work(stop.clone()));
        }
        Self { writers, count, stop, shared }
    }

    /// From now on a lost connection is a fact of life: it is opened again, and what was under way is unknown.
    pub fn expect_lost_connections(&self) {
        self.shared.reconnects.store(true, Ordering::Relaxed);
    }

    /// Acknowledged transactions so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    pub async fn wait_more(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        until(&format!("{more} more transactions"), Duration::from_secs(60), async || {
            let seen = self.acknowledged();
            let errors = self.shared.errors.lock().unwrap().clone();
            assert!(errors.is_empty(), "{}", errors.join("\n"));
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
        })
        .await;
    }

    /// Stops every writer between two transactions, sessions open.
    pub async fn rest(&self) {
        self.shared.resting.store(true, Ordering::SeqCst);
        until("writers at rest", Duration::from_secs(30), async || {
            let errors = self.shared.errors.lock().unwrap().clone();
            assert!(errors.is_empty(), "{}", errors.join("\n"));
            let at_rest = self.shared.at_rest.load(Ordering::SeqCst);
            if at_rest == u64::from(self.count) {
                Ok(())
            } else {
                Err(format!("{at_rest} of {}", self.count))
            }
        })
        .await;
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        self.shared.resting.store(false, Ordering::SeqCst);
    }

    /// Errors that an application would have noticed.
    pub fn errors(&self) -> Vec<String> {
        self.shared.errors.lock().unwrap().clone()
    }

    /// The longest that any statement took, in its writer's own experience.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_us.load(Ordering::Relaxed))
    }

    /// Forgets the slowest so far.
    pub fn forget_slowest(&self) {
        self.shared.slowest_us.store(0, Ordering::Relaxed);
    }

    /// Ends every writer after its transaction. Panics on any error that was seen.
    pub async fn close(mut self) -> Proof {
        self.stop.cancel();
        while let Some(writer) = self.writers.join_next().await {
            writer.unwrap();
        }
        let errors = self.errors();
        assert!(errors.is_empty(), "the application saw {} errors:\n{}", errors.len(), errors.join("\n"));
        let books = std::mem::take(&mut *self.shared.books.lock().unwrap());
        Proof::new(books, self.shared.lost_connections.load(Ordering::Relaxed))
    }
}
