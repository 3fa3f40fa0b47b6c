//! Waiting for a condition, with a deadline. Nothing in these tests waits for a time.

use std::future::Future;
use std::time::{Duration, Instant};

/// What takes a second on a quiet machine may take some on a busy one. A deadline only says when hope ends, so it costs
/// nothing where a test passes.
const PATIENCE: u32 = 3;

/// Asks again until `probe` answers `Some`. Panics with what was waited for and the last word of
/// `why_not` when the deadline, of a quiet machine, has passed [`PATIENCE`] times.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let (began, deadline) = (Instant::now(), deadline * PATIENCE);
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(why_not) if began.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; last seen: {why_not}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
