//! Waiting for a condition, with a deadline. Nothing in these tests waits for a time.

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks again until `probe` answers `Some`. Panics with what was waited for and the last word of
/// `why_not` when the deadline passes.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let began = Instant::now();
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
