//! How often, and with which pauses, one thing of the copy is tried.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Attempts at one thing, with a pause after each that doubles up to the longest: about a minute in all.
const MAX: u32 = 10;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);

/// The attempts at one thing so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: u32,
}

impl Attempts {
    /// Waits before another attempt, or gives the error back when another can't help. Cancel safety: yes.
    pub(super) async fn pause(&mut self, error: Error) -> Result<()> {
        self.failed += 1;
        if error.kind != ErrorKind::Transient || self.failed >= MAX {
            return Err(error);
        }
        tracing::warn!(area = "snapshot", attempt = self.failed, "{error}");
        tokio::time::sleep(PAUSE_FIRST.saturating_mul(1 << (self.failed - 1)).min(PAUSE_LONGEST)).await;
        Ok(())
    }
}
