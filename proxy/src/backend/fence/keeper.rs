//! A fence that has to last: looked at again and again, and set anew where it doesn't stand any more.

use std::time::Duration;

use config::{AccountName, FencePolicy};
use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::{business, connections};
use super::{Fence, FenceBefore, FenceError, MARK, Ours, end_all, names, owners, set};

/// How often a keeper looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// The same of locks, which outlive a restart of the server: only somebody who unlocks them can take them off.
const WATCH_LOCKS_EVERY: Duration = Duration::from_secs(2);
/// How often it looks for a server that is away, so that little is written before its fence stands again.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// A connection that was told to quit has gone by then.
const LEAVING: Duration = Duration::from_millis(500);
/// How long a keeper's look may take.
const WATCH_WITHIN: Duration = Duration::from_secs(5);

/// Keeps `fence` standing until told to stop: whenever the server is found without it, it is set again and an event
/// says so. What was written in between is in that server's binlog. With `applied_to` rows are applied to that server, so
/// the fence is `read_only`; else nobody writes. Which fence it is `before` says, as the journal has it.
///
/// Returns at once when told to stop: a statement that is under way then may still take effect, which [`Fence::unset`]
/// ends first.
pub async fn keep(
    fence: &Fence,
    before: &FenceBefore,
    applied_to: bool,
    ours: Ours<'_>,
    stop: &CancellationToken,
) {
    let kept = async {
        match &before.accounts {
            Some(accounts) => keep_locked(fence, accounts, ours).await,
            None if fence.policy == FencePolicy::None => {}
            None => keep_read_only(fence, applied_to).await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = kept => {}
    }
}

async fn keep_locked(fence: &Fence, accounts: &[AccountName], ours: Ours<'_>) {
    let address = fence.backend.address();
    let mut reachable = true;
    loop {
        match fence.hold(accounts, ours).await {
            Ok(found) => {
                reachable = true;
                if found != (0, 0) {
                    tracing::warn!(
                        area = "cutover",
                        "{address} doesn't serve: {} account(s) of the business's were open there and were locked again, {} \
                         connection(s) of theirs were ended; SHOW STRAY WRITES has what they wrote",
                        found.0,
                        found.1
                    );
                }
            }
            Err(error) => watch_failed(fence, &error, &mut reachable).await,
        }
        sleep(if reachable { WATCH_LOCKS_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn keep_read_only(fence: &Fence, applied_to: bool) {
    let mut reachable = true;
    loop {
        match fence.inspect(WATCH_WITHIN).await {
            Ok(found) if found.writable() => {
                reachable = true;
                refence(fence, applied_to).await;
            }
            Ok(found) if applied_to && found.super_read_only == Some(true) => {
                reachable = true;
                if let Err(error) = fence.lower(&found, WATCH_WITHIN).await {
                    tracing::warn!(
                        area = "cutover",
                        "rows can't be applied to the fenced backend yet: {error}"
                    );
                }
            }
            Ok(_) => reachable = true,
            Err(error) => watch_failed(fence, &error, &mut reachable).await,
        }
        sleep(if reachable { WATCH_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn watch_failed(fence: &Fence, error: &FenceError, reachable: &mut bool) {
    // The connection may be one of a server that was restarted since: the next look dials.
    fence.forget().await;
    if std::mem::replace(reachable, false) {
        tracing::warn!(area = "cutover", "the fenced backend can't be watched: {error}");
    }
}

async fn refence(fence: &Fence, applied_to: bool) {
    let address = fence.backend.address();
    let set = if applied_to {
        fence.set_low(WATCH_WITHIN).await
    } else {
        fence.run("setting read_only", WATCH_WITHIN, async |conn| Ok(set(conn).await?)).await
    };
    match set {
        Ok(()) => tracing::warn!(
            area = "cutover",
            "{address} had come back without its fence and was fenced again; what was written there in between \
             is there alone, and shown by SHOW STRAY WRITES where it is of this migration"
        ),
        Err(error) => tracing::warn!(
            area = "cutover",
            "{address} came back without its fence and can't be fenced again yet: {error}"
        ),
    }
}

impl Fence {
    /// Sets `read_only` alone: what has to hold while rows are applied to a fenced backend.
    async fn set_low(&self, within: Duration) -> Result<(), FenceError> {
        self.run("setting read_only", within, async |conn| {
            Ok(conn.query_drop(format!("SET GLOBAL read_only = ON {MARK}")).await?)
        })
        .await
    }

    /// Locks those of the accounts that aren't, and ends what is connected as them from elsewhere. Returns how many there were of
    /// both.
    async fn hold(&self, accounts: &[AccountName], ours: Ours<'_>) -> Result<(usize, usize), FenceError> {
        self.run("watching the locked accounts", WATCH_WITHIN, async |conn| {
            let all = business::locks(conn).await?;
            let is_open = |name: &&AccountName| all.iter().any(|(one, locked)| one == *name && !locked);
            let open: Vec<AccountName> = accounts.iter().filter(is_open).cloned().collect();
            business::lock(conn, &open).await?;
            let (owners, everybody) = (owners(accounts), names(all));
            let mut ended = 0;
            if !connections::connected(conn, &owners, &everybody, ours).await?.is_empty() {
                // One that a session has just given up is still there for a moment, and nobody's to be ended.
                sleep(LEAVING).await;
                ended = end_all(conn, &owners, &everybody, ours).await?;
            }
            Ok((open.len(), ended))
        })
        .await
    }
}
