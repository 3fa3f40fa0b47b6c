//! Stored hashes of mysql_native_password accounts, read with the service account.
//!
//! Which of a user's accounts (`user@host`) a client would match isn't worked out here: the token is checked
//! against every hash that the user has anywhere, and the backend decides in the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config::BackendConfig;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::inventory::native_of_document;
use super::plugin::{Plugin, parse_stored_hash};
use super::server::{NativeHashes, NativeHashesFuture, StoredHashes};
use crate::backend::service;
use crate::route::table::Backend;

/// A changed password is noticed after this time. Until then the new one only means a longer login.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Names are the client's choice, so the cache is emptied rather than let grow.
const CACHED_USERS_MAX: usize = 1024;
/// `*` and 40 hexadecimal digits.
const HASH_LEN: usize = 41;
/// One user's accounts that are looked at.
const ACCOUNTS_MAX: usize = 64;
/// A login doesn't wait longer for the hash; it goes on without one.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// A backend that can't be asked is asked again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Asks the backend that serves. One connection, opened when it is needed first.
pub struct Accounts {
    serving: Box<dyn Fn() -> Arc<Backend> + Send + Sync>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The backend that connection and cache are of.
    of: Option<BackendConfig>,
    connection: Option<Conn>,
    cache: HashMap<Vec<u8>, (Instant, StoredHashes)>,
    failed_at: Option<Instant>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts(…)")
    }
}

impl Accounts {
    /// `serving` says which backend serves at the moment.
    pub fn new(serving: impl Fn() -> Arc<Backend> + Send + Sync + 'static) -> Self {
        Self { serving: Box::new(serving), known: Mutex::default() }
    }

    async fn look_up(&self, backend: &Backend, user: &[u8], anew: bool) -> StoredHashes {
        let Ok(name) = std::str::from_utf8(user) else { return StoredHashes::default() };
        let now = Instant::now();
        let mut known = self.known.lock().await;
        known.turn_to(&backend.config);
        if let Some((at, stored)) = known.cache.get(user)
            && now.duration_since(*at) < CACHE_TTL
            && !anew
        {
            return stored.clone();
        }
        if known.failed_at.is_some_and(|at| now.duration_since(at) < RETRY_AFTER) {
            return StoredHashes::default();
        }
        match known.ask(name).await {
            Ok(stored) => {
                known.failed_at = None;
                known.remember(user, now, &stored);
                stored
            }
            Err(error) => {
                known.failed_at = Some(now);
                known.connection = None;
                // Not an error: clients are asked for their password in another way.
                tracing::warn!(
                    area = "accounts", %error,
                    "can't read the hashes of mysql_native_password accounts; clients of such accounts are \
                     asked for caching_sha2_password. Grant the service account SELECT on the schema mysql"
                );
                StoredHashes::default()
            }
        }
    }
}

impl NativeHashes for Accounts {
    fn hashes<'a>(&'a self, user: &'a [u8], anew: bool) -> NativeHashesFuture<'a> {
        Box::pin(async move {
            let backend = (self.serving)();
            let asked = tokio::time::timeout(LOOKUP_TIMEOUT, self.look_up(&backend, user, anew)).await;
            let mut stored = asked.unwrap_or_default();
            // An adopted account is opened by the password that it had where it came from.
            stored.hashes.extend(backend.adopted.hashes(user));
            stored
        })
    }
}

impl Known {
    fn turn_to(&mut self, backend: &BackendConfig) {
        if self.of.as_ref() != Some(backend) {
            *self = Self { of: Some(backend.clone()), ..Self::default() };
        }
    }

    fn remember(&mut self, user: &[u8], now: Instant, stored: &StoredHashes) {
        if self.cache.len() >= CACHED_USERS_MAX {
            self.cache.clear();
        }
        self.cache.insert(user.to_vec(), (now, stored.clone()));
    }

    /// Cancel safety: the connection is out of its place while it is used, so a dropped question drops it.
    async fn ask(&mut self, user: &str) -> Result<StoredHashes, mysql_async::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => dial(self.of.as_ref()).await?,
        };
        let hashes = match query(&mut connection, user).await {
            // The server closed it while it was idle: once more with a new one.
            Err(mysql_async::Error::Io(_)) => {
                connection = dial(self.of.as_ref()).await?;
                query(&mut connection, user).await?
            }
            outcome => outcome?,
        };
        self.connection = Some(connection);
        Ok(hashes)
    }
}

pub(super) async fn dial(backend: Option<&BackendConfig>) -> Result<Conn, mysql_async::Error> {
    let backend = backend.ok_or_else(|| mysql_async::Error::Other("no backend".into()))?;
    Conn::new(service::options(backend)).await
}

/// MariaDB keeps every way in of an account in one JSON document; elsewhere there is a column for it, whose
/// name depends on the version.
async fn query(connection: &mut Conn, user: &str) -> Result<StoredHashes, mysql_async::Error> {
    // Accounts without a name take in whoever has none of their own.
    let documents = "SELECT Priv FROM mysql.global_priv WHERE User IN (?, '') ORDER BY User = '' LIMIT 64";
    let columns = "SELECT * FROM mysql.user WHERE User IN (?, '') ORDER BY User = '' LIMIT 64";
    let mut stored = StoredHashes::default();
    match connection.exec::<Vec<u8>, _, _>(documents, (user,)).await {
        // No such table.
        Err(mysql_async::Error::Server(error)) if error.code == 1146 => {
            let rows: Vec<Row> = connection.exec(columns, (user,)).await?;
            stored.are_all = rows.len() < ACCOUNTS_MAX && rows.iter().all(is_native);
            for value in rows.into_iter().flat_map(Row::unwrap_raw).flatten() {
                if let Value::Bytes(text) = value {
                    stored.hashes.extend(stored_hashes(&text).take(ACCOUNTS_MAX));
                }
            }
        }
        documents => {
            let documents = documents?;
            stored.are_all = documents.len() < ACCOUNTS_MAX;
            for document in &documents {
                let (hashes, are_all) = native_of_document(document);
                stored.hashes.extend(hashes.take(ACCOUNTS_MAX));
                stored.are_all &= are_all;
            }
        }
    }
    stored.hashes.sort_unstable();
    stored.hashes.dedup();
    stored.hashes.truncate(ACCOUNTS_MAX);
    Ok(stored)
}

/// True where a row of `mysql.user` is of that plugin: before 5.7 it may say so by naming none.
fn is_native(row: &Row) -> bool {
    let plugin = row.get_opt::<Option<String>, _>("plugin");
    let plugin = plugin.and_then(Result::ok).map(Option::unwrap_or_default);
    plugin.is_some_and(|plugin| plugin.is_empty() || plugin == Plugin::Native.name())
}

/// Every hash of mysql_native_password in a text. Hashes of other plugins look different, so the form is
/// enough to know one.
fn stored_hashes(text: &[u8]) -> impl Iterator<Item = [u8; 20]> + '_ {
    text.windows(HASH_LEN).filter_map(|window| parse_stored_hash(std::str::from_utf8(window).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_wherever_they_stand() {
        let check = |text: &str, found: usize| {
            assert_eq!(stored_hashes(text.as_bytes()).count(), found, "{text}");
        };
        let hash = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";
        check(hash, 1);
        check("", 0);
        check("invalid", 0);
        check("$A$005$0123456789012345678901234567890123456789012345678901234567890123", 0);
        check(&format!("{hash}{hash}"), 2);
    }
}
