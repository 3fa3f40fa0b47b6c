//! Keeps writers that don't come through the proxy off a backend, in one of two ways.
//!
//! `super_read_only` where the server has it and lets us, else `read_only`. Both are global variables, so they end
//! with the server's process: a [`keeper`] sets them again whenever the server comes back without them.
//!
//! Or locked accounts ([`super::business`]), for a server that others go on writing to. A lock outlives a restart of the server,
//! and doesn't touch connections that are there: those from elsewhere are ended, the proxy's own stay, because the gate holds
//! them, and because sessions that haven't moved yet still have to ask theirs for what they are to take along (invariant 3). What
//! is locked is what the journal says, so that exactly that is unlocked, and nothing that an operator had locked himself.
//!
//! Every statement here runs under `lock_wait_timeout = 1` and a deadline of the caller's, on a connection of the
//! service account. A `SET GLOBAL read_only` whose client gave up can still take effect later, so taking the fence
//! off first ends every statement of ours that might be setting it (they carry [`MARK`]).

pub mod keeper;

use std::collections::BTreeSet;
use std::time::Duration;

use config::{AccountName, BackendConfig, FencePolicy};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::business::{self, Business, Roll};
use super::connections::{self, Foreign, Owner, Thread, threads};
use super::{bypass, service};

/// A comment in every statement that may set the fence, by which a later one finds it in the process list.
pub(super) const MARK: &str = "/* changeover fence */";
/// ER_LOCK_WAIT_TIMEOUT
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// Between two looks whether connections that were told to end have done so.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Says whether the connection with this id is the proxy's own.
pub type Ours<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// How a backend was before we fenced it. An operator's own `read_only` is not undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceBefore {
    /// `@@GLOBAL.read_only`
    pub read_only: bool,
    /// `@@GLOBAL.super_read_only`; `None` where the server has no such variable.
    pub super_read_only: Option<bool>,
    /// The accounts that the fence locks, which weren't locked; `None` where the fence is `read_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<AccountName>>,
}

impl FenceBefore {
    /// True where application writes were possible.
    #[must_use]
    pub fn writable(&self) -> bool {
        !self.read_only && self.super_read_only != Some(true)
    }
}

/// What a fence of accounts would do now.
#[derive(Debug, Clone)]
pub struct Prospect {
    /// Accounts that it would lock.
    pub lock: Vec<AccountName>,
    /// How many are locked already.
    pub locked: usize,
    /// Connections that it would end.
    pub end: Vec<Foreign>,
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

/// What keeps a statement's work from being done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server's refusal, or a broken connection.
    Server(mysql_async::Error),
    /// In words.
    Said(String),
}

impl From<mysql_async::Error> for Trouble {
    fn from(error: mysql_async::Error) -> Self {
        Self::Server(error)
    }
}

/// One backend's fence.
#[derive(Debug)]
pub struct Fence {
    backend: BackendConfig,
    policy: FencePolicy,
    business: Business,
    /// Kept between `inspect` and `set`, so that the pause doesn't pay for a handshake.
    connection: Mutex<Option<Conn>>,
    /// Whom the fence doesn't hold, as [`Fence::past`] found them: looking for them takes longer than a pause should.
    past: Mutex<Past>,
}

/// Accounts that a fence doesn't hold.
#[derive(Debug, Clone, Default)]
struct Past {
    owners: Vec<Owner>,
    /// Every account, where one's connections have to be told from another's.
    everybody: Vec<AccountName>,
}

impl Fence {
    /// The fence of this backend. Dials nothing yet.
    #[must_use]
    pub fn new(backend: BackendConfig, policy: FencePolicy, business: Business) -> Self {
        Self { backend, policy, business, connection: Mutex::new(None), past: Mutex::default() }
    }

    /// How the backend is now, for the policy's sake or just to know whether it takes writes. Accounts aren't looked at.
    pub async fn inspect(&self, within: Duration) -> Result<FenceBefore, FenceError> {
        self.run("reading read_only", within, async |conn| Ok(read(conn).await?)).await
    }

    /// Like [`Fence::inspect`], and makes sure that this account may set the fence, by setting what is set.
    pub async fn probe(&self, within: Duration) -> Result<FenceBefore, FenceError> {
        match self.policy {
            FencePolicy::None => self.inspect(within).await,
            FencePolicy::Accounts => {
                self.run("trying whether accounts may be locked", within, async |conn| {
                    business::try_lock(conn).await?;
                    let roll = self.roll(conn).await?;
                    Ok(FenceBefore { accounts: Some(roll.open()), ..read(conn).await? })
                })
                .await
            }
            FencePolicy::ReadOnly => {
                self.run("trying whether read_only may be set", within, async |conn| {
                    let found = read(conn).await?;
                    conn.query_drop(format!("SET GLOBAL read_only = @@GLOBAL.read_only {MARK}")).await?;
                    Ok(found)
                })
                .await
            }
        }
    }

    /// What a fence of accounts would lock and end now.
    pub async fn prospect(&self, ours: Ours<'_>, within: Duration) -> Result<Prospect, FenceError> {
        self.run("looking for the business's accounts", within, async |conn| {
            let roll = self.roll(conn).await?;
            let lock = roll.open();
            let end = connections::connected(conn, &owners(&lock), &roll.everybody, ours).await?;
            Ok(Prospect { locked: roll.held.len() - lock.len(), lock, end })
        })
        .await
    }

    /// The accounts of the server. It is an error where a fence would hold nobody.
    async fn roll(&self, conn: &mut Conn) -> Result<Roll, Trouble> {
        let roll = business::roll(conn, &self.business, &self.backend.user).await?;
        if roll.held.is_empty() {
            let whom = if self.business.named.is_empty() {
                "may write in the migration's schemas and nowhere else; name the business's in cutover.fence_accounts"
            } else {
                "is one of cutover.fence_accounts"
            };
            return Err(Trouble::Said(format!(
                "cutover.fence = \"accounts\" would hold nobody: no account {whom}"
            )));
        }
        Ok(roll)
    }

    /// Fences the backend, which was found like that. Returns how many connections from elsewhere were ended: where accounts
    /// are locked, none of theirs is left. After an error it may be fenced or not.
    pub async fn set(
        &self,
        before: &FenceBefore,
        ours: Ours<'_>,
        within: Duration,
    ) -> Result<usize, FenceError> {
        match &before.accounts {
            Some(accounts) => {
                self.run("locking accounts", within, async |conn| {
                    business::lock(conn, accounts).await?;
                    let everybody = names(business::locks(conn).await?);
                    end_all(conn, &owners(accounts), &everybody, ours).await
                })
                .await
            }
            None if self.policy == FencePolicy::None => Ok(0),
            None => {
                self.run("setting read_only", within, async |conn| Ok(set(conn).await?)).await.map(|()| 0)
            }
        }
    }

    /// Lets accounts in that may write in spite of `read_only`, so that rows can be applied: `super_read_only` goes,
    /// `read_only` stays. The service account is never locked.
    pub async fn lower(&self, before: &FenceBefore, within: Duration) -> Result<(), FenceError> {
        if self.policy == FencePolicy::None || before.accounts.is_some() {
            return Ok(());
        }
        self.run("taking super_read_only off", within, async |conn| Ok(lower(conn).await?)).await
    }

    /// The connections that the fence wouldn't hold: none where `super_read_only` does, and none of `ours`.
    pub async fn past(&self, ours: Ours<'_>, within: Duration) -> Result<Vec<Foreign>, FenceError> {
        if self.policy == FencePolicy::None {
            return Ok(Vec::new());
        }
        let looked = self.run("looking for connections past the fence", within, async |conn| {
            let past = if self.policy == FencePolicy::Accounts {
                let roll = self.roll(conn).await?;
                Past { owners: roll.past, everybody: roll.everybody }
            } else if read(conn).await?.super_read_only.is_some() {
                Past::default()
            } else {
                Past { owners: bypass::accounts(conn, &self.backend.user).await?, everybody: Vec::new() }
            };
            let connected = connections::connected(conn, &past.owners, &past.everybody, ours).await?;
            Ok((past, connected))
        });
        let (past, connected) = looked.await?;
        *self.past.lock().await = past;
        Ok(connected)
    }

    /// Ends the connections of the accounts that [`Fence::past`] found last, but for `ours`, until there is none. Returns
    /// how many there were.
    pub async fn end_past(&self, ours: Ours<'_>, within: Duration) -> Result<usize, FenceError> {
        let Past { owners, everybody } = self.past.lock().await.clone();
        self.run("ending connections past the fence", within, async |conn| {
            end_all(conn, &owners, &everybody, ours).await
        })
        .await
    }

    /// Gives the backend back as it was found, whatever the policy says by now. Harmless where it isn't fenced.
    pub async fn unset(&self, before: &FenceBefore, within: Duration) -> Result<(), FenceError> {
        self.forget().await;
        match &before.accounts {
            Some(accounts) => {
                self.run("unlocking accounts", within, async |conn| {
                    end_pending(conn).await?;
                    Ok(business::unlock(conn, accounts).await?)
                })
                .await
            }
            None => {
                self.run("taking read_only off", within, async |conn| Ok(unset(conn, before).await?)).await
            }
        }
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
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, Trouble>,
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
            Ok::<T, Trouble>(value)
        };
        match timeout_at(deadline, whole).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(FenceError::Server {
                address: self.backend.address(),
                what,
                message: match error {
                    Trouble::Server(error) => explain(&error, &self.backend.user, self.policy),
                    Trouble::Said(why) => why,
                },
            }),
            Err(_) => {
                Err(FenceError::Late { address: self.backend.address(), what, within_ms: within.as_millis() })
            }
        }
    }
}

async fn dial(backend: &BackendConfig) -> Result<Conn, mysql_async::Error> {
    let mut conn = Conn::new(service::options(backend)).await?;
    // Both kinds of server wait for other sessions' locks in SET GLOBAL read_only and in ALTER USER, and both obey this.
    // Names of accounts are quoted with backslashes.
    conn.query_drop("SET SESSION lock_wait_timeout = 1, sql_mode = ''").await?;
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
        accounts: None,
    })
}

fn owners(accounts: &[AccountName]) -> Vec<Owner> {
    accounts.iter().map(|name| Owner { name: name.clone(), with: Vec::new() }).collect()
}

fn names(accounts: Vec<(AccountName, bool)>) -> Vec<AccountName> {
    accounts.into_iter().map(|(name, _)| name).collect()
}

/// Ends the connections of `owners`, but for `ours`, until there is none. Returns how many there were.
async fn end_all(
    conn: &mut Conn,
    owners: &[Owner],
    everybody: &[AccountName],
    ours: Ours<'_>,
) -> Result<usize, Trouble> {
    let mut ended = BTreeSet::new();
    loop {
        let found = connections::connected(conn, owners, everybody, ours).await?;
        if found.is_empty() {
            return Ok(ended.len());
        }
        connections::end(conn, &found).await?;
        ended.extend(found.iter().map(|one| one.id));
        sleep(LOOK_AGAIN).await;
    }
}

async fn set(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    if read(conn).await?.super_read_only.is_some() {
        // It implies read_only. Where the account may not, the lesser fence is tried; a lock that is in the way is in
        // the way of both.
        match conn.query_drop(format!("SET GLOBAL super_read_only = ON {MARK}")).await {
            Ok(()) => return Ok(()),
            Err(mysql_async::Error::Server(refusal)) if refusal.code != LOCK_WAIT_TIMEOUT => {}
            Err(error) => return Err(error),
        }
    }
    conn.query_drop(format!("SET GLOBAL read_only = ON {MARK}")).await
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

async fn unset(conn: &mut Conn, before: &FenceBefore) -> Result<(), mysql_async::Error> {
    end_pending(conn).await?;
    if before.super_read_only == Some(false) {
        conn.query_drop("SET GLOBAL super_read_only = OFF").await?;
    }
    if !before.read_only {
        conn.query_drop("SET GLOBAL read_only = OFF").await?;
    }
    Ok(())
}

/// Ends statements of ours that might still set the fence after we took it off, and waits until they are gone. MySQL shows an
/// ALTER USER in words of its own, without our mark.
async fn end_pending(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    let own: Option<String> = conn.query_first("SELECT USER()").await?;
    let own = own.as_deref().and_then(|own| own.rsplit_once('@')).map_or("", |(user, _)| user).to_owned();
    loop {
        let pending = threads(conn).await?.into_iter().filter(|thread| is_pending(thread, &own));
        let pending: Vec<u64> = pending.map(|thread| thread.id).collect();
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

fn is_pending(thread: &Thread, own: &str) -> bool {
    let statement = thread.statement.to_ascii_uppercase();
    let sets = statement.starts_with("SET GLOBAL") && thread.statement.ends_with(MARK);
    let locks = statement.starts_with("ALTER USER") && statement.contains("ACCOUNT LOCK");
    sets || (locks && thread.user == own)
}

/// What the server said, with what to do about the two refusals that operators meet.
fn explain(error: &mysql_async::Error, user: &str, policy: FencePolicy) -> String {
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
        1227 if policy == FencePolicy::Accounts => format!(
            "; grant {user:?} what it takes: CREATE USER, and CONNECTION ADMIN (MariaDB) or CONNECTION_ADMIN (MySQL)"
        ),
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
            assert_eq!(FenceBefore { read_only, super_read_only, accounts: None }.writable(), writable);
        };
        check(false, None, true);
        check(false, Some(false), true);
        check(true, None, false);
        check(true, Some(true), false);
    }
}
