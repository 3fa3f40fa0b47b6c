//! Writers through the proxy, with nothing in their sessions that one of the servers couldn't have, and with books.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;

use super::tables::{SCHEMA, STOCK};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::writers::think;
use crate::support::{Server, accounts};

#[derive(Debug, Default)]
struct Shared {
    acknowledged: Mutex<Vec<(u32, u32)>>,
    errors: Mutex<Vec<String>>,
    resting: AtomicBool,
    at_rest: AtomicU64,
    stop: AtomicBool,
}

/// The running writers.
pub(super) struct Writers {
    tasks: JoinSet<()>,
    count: u32,
    shared: Arc<Shared>,
}

/// What was acknowledged.
pub(super) struct Books(Vec<(u32, u32)>);

impl Writers {
    pub(super) async fn start(port: u16, count: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for id in 0..count {
            let opts = opts(port, accounts::APP, accounts::APP_PASSWORD, Some(SCHEMA));
            let conn = Conn::new(opts).await.unwrap_or_else(|error| panic!("writer {id}: {error}"));
            tasks.spawn(work(id, conn, Arc::clone(&shared)));
        }
        Self { tasks, count, shared }
    }

    fn acknowledged(&self) -> usize {
        let errors = self.shared.errors.lock().unwrap().clone();
        assert!(errors.is_empty(), "{}", errors.join("\n"));
        self.shared.acknowledged.lock().unwrap().len()
    }

    pub(super) async fn wait_more(&self, more: usize) {
        let wanted = self.acknowledged() + more;
        until(&format!("{more} more transactions"), Duration::from_secs(60), async || {
            let seen = self.acknowledged();
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
        })
        .await;
    }

    pub(super) async fn rest(&self) {
        self.shared.resting.store(true, Ordering::SeqCst);
        until("writers at rest", Duration::from_secs(60), async || {
            let (_, at_rest) = (self.acknowledged(), self.shared.at_rest.load(Ordering::SeqCst));
            if at_rest == u64::from(self.count) {
                Ok(())
            } else {
                Err(format!("{at_rest} of {}", self.count))
            }
        })
        .await;
    }

    pub(super) fn go_on(&self) {
        self.shared.resting.store(false, Ordering::SeqCst);
    }

    pub(super) async fn close(mut self) -> Books {
        self.shared.stop.store(true, Ordering::SeqCst);
        while let Some(writer) = self.tasks.join_next().await {
            writer.unwrap();
        }
        self.acknowledged();
        Books(std::mem::take(&mut *self.shared.acknowledged.lock().unwrap()))
    }
}

impl Books {
    /// Every acknowledged transaction is there once, and nothing else is.
    pub(super) async fn assert_holds_on(&self, server: &Server) {
        let mut there: Vec<(u32, u32)> =
            server.rows(&format!("SELECT writer, seq FROM {SCHEMA}.orders ORDER BY writer, seq")).await;
        there.sort_unstable();
        let mut wanted = self.0.clone();
        wanted.sort_unstable();
        assert_eq!(there, wanted);
        assert!(!wanted.is_empty());
    }
}

async fn work(id: u32, mut conn: Conn, shared: Arc<Shared>) {
    let mut seq = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if shared.resting.load(Ordering::SeqCst) {
            shared.at_rest.fetch_add(1, Ordering::SeqCst);
            while shared.resting.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            shared.at_rest.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        seq += 1;
        let began = Instant::now();
        match transaction(id, seq, &mut conn).await {
            Ok(()) => shared.acknowledged.lock().unwrap().push((id, seq)),
            // An application tries again.
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => {
                drop(conn.query_drop("ROLLBACK").await);
            }
            Err(error) => {
                shared.errors.lock().unwrap().push(format!("writer {id}: {error}"));
                return;
            }
        }
        think(began, Duration::from_millis(10)).await;
    }
    drop(conn.disconnect().await);
}

async fn transaction(id: u32, seq: u32, conn: &mut Conn) -> Result<(), mysql_async::Error> {
    let stock = 1 + (id * 97 + seq * 13) % STOCK;
    let word = char::from(b'a' + u8::try_from((id + seq) % 26).unwrap());
    conn.query_drop("BEGIN").await?;
    conn.query_drop(format!(
        "INSERT INTO orders (writer, seq, stock_id, amount, note, made) VALUES ({id}, {seq}, {stock}, {seq}.25, 'n\u{f6}te {seq}', NOW(6))"
    ))
    .await?;
    conn.query_drop(format!(
        "UPDATE stock SET price = price + 0.5, label = CONCAT('d\u{e9}j\u{e0} \u{20ac}', {seq}), wide = '\u{fc}{seq}', \
         words = 'w\u{f6}rter {seq}', weight = weight * 1.1, ratio = {seq} / 3, bits = {seq} % 1024, tags = 'a,c', \
         raw = 0x0102, lump = REPEAT(0x00FF27, {}), yr = 2024, seen = NULL WHERE id = {stock}",
        seq % 30
    ))
    .await?;
    // Keys that come and go, under a collation in which case doesn't count.
    conn.query_drop(format!("DELETE FROM words WHERE word = '{word}\u{e9}{}' AND part = 'x{id}'", seq % 7))
        .await?;
    conn.query_drop(format!(
        "INSERT INTO words VALUES ('{}\u{c9}{}', 'X{id}', {seq})",
        word.to_ascii_uppercase(),
        seq % 7
    ))
    .await?;
    conn.query_drop("COMMIT").await
}
