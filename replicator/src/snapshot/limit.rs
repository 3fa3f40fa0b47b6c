//! `snapshot.max_rows_per_s`, over all readers together.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets so many rows a second through.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// 0: no limit.
    rows_per_s: u64,
    /// When the rows that were let through so far are used up.
    free_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub(super) fn new(rows_per_s: u64) -> Self {
        Self { rows_per_s, free_at: Mutex::new(None) }
    }

    /// Waits until `rows` more may pass. Time that nobody used isn't saved up.
    pub(super) async fn take(&self, rows: u64) {
        if self.rows_per_s == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(rows as f64 / self.rows_per_s as f64);
        let begin = {
            let mut free_at = self.free_at.lock().await;
            let now = Instant::now();
            let begin = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(begin + cost);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}
