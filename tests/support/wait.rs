//! Waiting for a condition, with a deadline. Nothing in these tests waits for a time.

use std::time::{Duration, Instant};

/// What takes a second on a quiet machine may take some on a busy one. A deadline only says when hope ends, so it costs
/// nothing where a test passes.
const PATIENCE: u32 = 3;

/// Of the time between two looks so much counts at most: a machine that stood still meanwhile let nobody else get on either.
const COUNTS_MAX: Duration = Duration::from_secs(5);

/// Asks again until `probe` answers `Ok`. Panics with what was waited for and the last word of
/// `why_not` when the deadline, of a quiet machine, has passed [`PATIENCE`] times.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let (deadline, mut waited, mut looked) = (deadline * PATIENCE, Duration::ZERO, Instant::now());
    loop {
        let why_not = match probe().await {
            Ok(value) => return value,
            Err(why_not) => why_not,
        };
        waited += looked.elapsed().min(COUNTS_MAX);
        looked = Instant::now();
        assert!(waited <= deadline, "waited {deadline:?} for {what}; last seen: {why_not}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
