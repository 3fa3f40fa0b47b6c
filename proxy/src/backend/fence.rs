//! Keeps writers that don't come through the proxy off a backend.
//!
//! `super_read_only` where the server has it and lets us, else `read_only`. Both are global variables, so they end
//! with the server's process: a [`keep`]er sets them again whenever the server comes back without them.
//!
//! Every statement here runs under `lock_wait_timeout = 1` and a deadline of the caller's, on a connection of the
//! service account. A `SET GLOBAL read_only` whose client gave up can still take effect later, so taking the fence
//! off first ends every statement of ours that might be setting it (they carry [`MARK`]).

use std::collections::BTreeSet;
use std::time::Duration;

use config::{BackendConfig, FencePolicy};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::bypass::{self, Bypass, Bypasser};
use super::service;

/// A comment in every statement that may set the fence, by which a later one finds it in the process list.
const MARK: &str = "/* changeover fence */";
/// ER_LOCK_WAIT_TIMEOUT
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// How often a keeper looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How often it looks for a server that is away, so that little is written before its fence stands again.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How long a keeper's look may take.
const WATCH_WITHIN: Duration = Duration::from_secs(5);

/// How a backend was before we fenced it. An operator's own `read_only` is not undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceBefore {
    /// `@@GLOBAL.read_only`
    pub read_only: bool,
    /// `@@GLOBAL.super_read_only`; `None` where the server has no such variable.
    pub super_read_only: Option<bool>,
}

impl FenceBefore {
    /// True where application writes were possible.
    #[must_use]
    pub fn writable(&self) -> bool {
        !self.read_only && self.super_read_only != Some(true)
    }
}

/// Which fence was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceLevel {
    /// Nobody writes.
    SuperReadOnly,
    /// Nobody writes but accounts that may write in spite of `read_only`.
    ReadOnly,
    /// `cutover.fence = "none"`.
    None,
}

/// What went wrong with a fence. The text names the backend, and says what to do where that is known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FenceError {
    /// The server refused a statement.
    #[error("{address}: {what}: {message}")]
    Server {
        /// The backend.
        address: String,
        /// What was tried.
        what: &'static str,
        /// What it said, and what to do.
        message: String,
    },
    /// It took too long.
    #[error("{address}: {what} took longer than {within_ms} ms")]
    Late {
        /// The backend.
        address: String,
        /// What was tried.
        what: &'static str,
        /// The bound.
        within_ms: u128,
    },
}

/// One backend's fence.
#[derive(Debug)]
pub struct Fence {
    backend: BackendConfig,
    policy: FencePolicy,
    /// Kept between `inspect` and `set`, so that the pause doesn't pay for a handshake.
    connection: Mutex<Option<Conn>>,
    /// Accounts that the fence doesn't hold, as [`Fence::past`] found them: looking for them takes longer than a pause
    /// should.
    bypassers: Mutex<Vec<Bypasser>>,
}

impl Fence {
    /// The fence of this backend. Dials nothing yet.
    #[must_use]
    pub fn new(backend: BackendConfig, policy: FencePolicy) -> Self {
        Self { backend, policy, connection: Mutex::new(None), bypassers: Mutex::default() }
    }

    /// How the backend is now, for the policy's sake or just to know whether it takes writes.
    pub async fn inspect(&self, within: Duration) -> Result<FenceBefore, FenceError> {
        self.run("reading read_only", within, async |conn| read(conn).await).await
    }

    /// Like [`Fence::inspect`], and makes sure that this account may set the fence, by setting what is set.
    pub async fn probe(&self, within: Duration) -> Result<FenceBefore, FenceError> {
        if self.policy == FencePolicy::None {
            return self.inspect(within).await;
        }
        self.run("trying whether read_only may be set", within, async |conn| {
            let found = read(conn).await?;
            conn.query_drop(format!("SET GLOBAL read_only = @@GLOBAL.read_only {MARK}")).await?;
            Ok(found)
        })
        .await
    }

    /// Fences the backend. After an error it may be fenced or not.
    pub async fn set(&self, within: Duration) -> Result<FenceLevel, FenceError> {
        if self.policy == FencePolicy::None {
            return Ok(FenceLevel::None);
        }
        self.run("setting read_only", within, async |conn| set(conn).await).await
    }

    /// Lets accounts in that may write in spite of `read_only`, so that rows can be applied: `super_read_only` goes,
    /// `read_only` stays.
    pub async fn lower(&self, within: Duration) -> Result<(), FenceError> {
        if self.policy == FencePolicy::None {
            return Ok(());
        }
        self.run("taking super_read_only off", within, async |conn| lower(conn).await).await
    }

    /// The connections that the fence wouldn't hold: none where `super_read_only` does, and none of `ours`.
    pub async fn past(
        &self,
        ours: &(dyn Fn(u64) -> bool + Sync),
        within: Duration,
    ) -> Result<Vec<Bypass>, FenceError> {
        if self.policy == FencePolicy::None {
            return Ok(Vec::new());
        }
        let looked = self.run("looking for connections past read_only", within, async |conn| {
            if read(conn).await?.super_read_only.is_some() {
                return Ok((Vec::new(), Vec::new()));
            }
            let accounts = bypass::accounts(conn, &self.backend.user).await?;
            let connected = bypass::connected(conn, &accounts, ours).await?;
            Ok((accounts, connected))
        });
        let (accounts, connected) = looked.await?;
        *self.bypassers.lock().await = accounts;
        Ok(connected)
    }

    /// Ends the connections of the accounts that [`Fence::past`] found last, but for `ours`, until there is none. Returns
    /// how many there were.
    pub async fn end_past(
        &self,
        ours: &(dyn Fn(u64) -> bool + Sync),
        within: Duration,
    ) -> Result<usize, FenceError> {
        let accounts = self.bypassers.lock().await.clone();
        self.run("ending connections past read_only", within, async |conn| {
            let mut ended = BTreeSet::new();
            loop {
                let found = bypass::connected(conn, &accounts, ours).await?;
                if found.is_empty() {
                    return Ok(ended.len());
                }
                bypass::end(conn, &found).await?;
                ended.extend(found.iter().map(|one| one.id));
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Gives the backend back as it was found, whatever the policy says by now. Harmless where it isn't fenced.
    pub async fn unset(&self, before: FenceBefore, within: Duration) -> Result<(), FenceError> {
        self.forget().await;
        self.run("taking read_only off", within, async |conn| unset(conn, before).await).await
    }

    /// Sets `read_only` alone: what has to hold while rows are applied to a fenced backend.
    async fn set_low(&self, within: Duration) -> Result<(), FenceError> {
        self.run("setting read_only", within, async |conn| {
            conn.query_drop(format!("SET GLOBAL read_only = ON {MARK}")).await
        })
        .await
    }

    /// Closes the kept connection.
    pub async fn forget(&self) {
        self.connection.lock().await.take();
    }

    /// Runs `work` on the kept connection, or a new one. A connection that failed or was late isn't kept.
    async fn run<T>(
        &self,
        what: &'static str,
        within: Duration,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, mysql_async::Error>,
    ) -> Result<T, FenceError> {
        let deadline = Instant::now() + within;
        let whole = async {
            let mut kept = self.connection.lock().await;
            let mut conn = match kept.take() {
                Some(conn) => conn,
                None => dial(&self.backend).await?,
            };
            let value = work(&mut conn).await?;
            *kept = Some(conn);
            Ok::<T, mysql_async::Error>(value)
        };
        match timeout_at(deadline, whole).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(FenceError::Server {
                address: self.backend.address(),
                what,
                message: explain(&error, &self.backend.user),
            }),
            Err(_) => {
                Err(FenceError::Late { address: self.backend.address(), what, within_ms: within.as_millis() })
            }
        }
    }
}

/// Keeps `fence` standing until told to stop: whenever the server is found without it, it is set again and an event
/// says so. What was written in between is in that server's binlog. With `applied_to` rows are applied to that server, so
/// the fence is `read_only`; else nobody writes.
///
/// Returns at once when told to stop: a statement that is under way then may still take effect, which [`Fence::unset`]
/// ends first.
pub async fn keep(fence: &Fence, applied_to: bool, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_on(fence, applied_to) => {}
    }
}

async fn keep_on(fence: &Fence, applied_to: bool) {
    if fence.policy == FencePolicy::None {
        return;
    }
    let mut reachable = true;
    loop {
        match fence.inspect(WATCH_WITHIN).await {
            Ok(found) if found.writable() => {
                reachable = true;
                refence(fence, applied_to).await;
            }
            Ok(found) if applied_to && found.super_read_only == Some(true) => {
                reachable = true;
                if let Err(error) = fence.lower(WATCH_WITHIN).await {
                    tracing::warn!(
                        area = "cutover",
                        "rows can't be applied to the fenced backend yet: {error}"
                    );
                }
            }
            Ok(_) => reachable = true,
            Err(error) => {
                // The connection may be one of a server that was restarted since: the next look dials.
                fence.forget().await;
                if std::mem::replace(&mut reachable, false) {
                    tracing::warn!(area = "cutover", "the fenced backend can't be watched: {error}");
                }
            }
        }
        sleep(if reachable { WATCH_EVERY } else { RETRY_EVERY }).await;
    }
}

async fn refence(fence: &Fence, applied_to: bool) {
    let address = fence.backend.address();
    let set =
        if applied_to { fence.set_low(WATCH_WITHIN).await } else { fence.set(WATCH_WITHIN).await.map(drop) };
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

async fn dial(backend: &BackendConfig) -> Result<Conn, mysql_async::Error> {
    let mut conn = Conn::new(service::options(backend)).await?;
    // Both kinds of server wait for other sessions' locks in SET GLOBAL read_only, and both obey this.
    conn.query_drop("SET SESSION lock_wait_timeout = 1").await?;
    Ok(conn)
}

async fn read(conn: &mut Conn) -> Result<FenceBefore, mysql_async::Error> {
    let rows: Vec<(String, String)> =
        conn.query("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only')").await?;
    // MariaDB 12 has more words than ON for a read_only that binds somebody.
    let on = |value: &str| !matches!(value, "OFF" | "0");
    let value = |wanted: &str| rows.iter().find(|(name, _)| name == wanted).map(|(_, value)| on(value));
    Ok(FenceBefore {
        read_only: value("read_only").unwrap_or(false),
        super_read_only: value("super_read_only"),
    })
}

async fn set(conn: &mut Conn) -> Result<FenceLevel, mysql_async::Error> {
    if read(conn).await?.super_read_only.is_some() {
        // It implies read_only. Where the account may not, the lesser fence is tried; a lock that is in the way is in
        // the way of both.
        match conn.query_drop(format!("SET GLOBAL super_read_only = ON {MARK}")).await {
            Ok(()) => return Ok(FenceLevel::SuperReadOnly),
            Err(mysql_async::Error::Server(refusal)) if refusal.code != LOCK_WAIT_TIMEOUT => {}
            Err(error) => return Err(error),
        }
    }
    conn.query_drop(format!("SET GLOBAL read_only = ON {MARK}")).await?;
    Ok(FenceLevel::ReadOnly)
}

async fn lower(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    end_pending(conn).await?;
    // Only where it is known and set: it is not a statement of MariaDB, and the lesser fence must stand before.
    if read(conn).await?.super_read_only == Some(true) {
        conn.query_drop(format!("SET GLOBAL read_only = ON {MARK}")).await?;
        conn.query_drop("SET GLOBAL super_read_only = OFF").await?;
    }
    Ok(())
}

async fn unset(conn: &mut Conn, before: FenceBefore) -> Result<(), mysql_async::Error> {
    end_pending(conn).await?;
    if before.super_read_only == Some(false) {
        conn.query_drop("SET GLOBAL super_read_only = OFF").await?;
    }
    if !before.read_only {
        conn.query_drop("SET GLOBAL read_only = OFF").await?;
    }
    Ok(())
}

/// Ends statements of ours that might still set the fence after we took it off, and waits until they are gone.
async fn end_pending(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    loop {
        let pending: Vec<u64> = conn
            .query(format!(
                "SELECT ID FROM information_schema.PROCESSLIST \
                 WHERE ID <> CONNECTION_ID() AND INFO LIKE 'SET GLOBAL%{MARK}'"
            ))
            .await?;
        if pending.is_empty() {
            return Ok(());
        }
        for id in pending {
            match conn.query_drop(format!("KILL {id}")).await {
                // It ended by itself in between.
                Ok(()) | Err(mysql_async::Error::Server(_)) => {}
                Err(error) => return Err(error),
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// What the server said, with what to do about the two refusals that operators meet.
fn explain(error: &mysql_async::Error, user: &str) -> String {
    let refusal = match error {
        mysql_async::Error::Server(refusal) => refusal,
        // The library says twice that it is an input/output error.
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => return error.to_string(),
        other => return other.to_string(),
    };
    let advice = match refusal.code {
        LOCK_WAIT_TIMEOUT => {
            "; a statement or LOCK TABLES of a session that doesn't come through the proxy is in the way: end it"
                .to_owned()
        }
        1227 => format!(
            "; grant {user:?} what it takes (MariaDB: READ_ONLY ADMIN; MySQL: SYSTEM_VARIABLES_ADMIN and \
             CONNECTION_ADMIN), or set cutover.fence = \"none\" and keep other writers away yourself"
        ),
        _ => String::new(),
    };
    format!("error {}: {}{advice}", refusal.code, refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_own_read_only_is_not_writable() {
        let check = |read_only, super_read_only, writable| {
            assert_eq!(FenceBefore { read_only, super_read_only }.writable(), writable);
        };
        check(false, None, true);
        check(false, Some(false), true);
        check(true, None, false);
        check(true, Some(true), false);
    }
}
