//! Accounts that change on the source after they were made on the target. Such changes aren't followed, since half of an ALTER USER can't
//! be; they are noticed, by whichever way they came.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use config::{Config, Family, FencePolicy, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::account::field;
use super::book::Book;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Context;
use crate::server::{self, ServerInfo};
use config::pattern::like;

/// How often they are looked at. The tables are small, and read in a few statements.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tables that say what an account is and may do, with the columns that name it.
const MARIADB: &[(&str, [&str; 2])] = &[
    ("global_priv", ["User", "Host"]),
    ("db", ["User", "Host"]),
    ("tables_priv", ["User", "Host"]),
    ("columns_priv", ["User", "Host"]),
    ("procs_priv", ["User", "Host"]),
    ("proxies_priv", ["User", "Host"]),
    ("roles_mapping", ["User", "Host"]),
];
const MYSQL: &[(&str, [&str; 2])] = &[
    ("user", ["User", "Host"]),
    ("db", ["User", "Host"]),
    ("tables_priv", ["User", "Host"]),
    ("columns_priv", ["User", "Host"]),
    ("procs_priv", ["User", "Host"]),
    ("proxies_priv", ["User", "Host"]),
    ("global_grants", ["USER", "HOST"]),
    ("role_edges", ["TO_USER", "TO_HOST"]),
    ("default_roles", ["USER", "HOST"]),
];

/// Of each account that the configuration takes, a digest of all that the server keeps of it. A row at a time is held. Where cutovers
/// lock accounts, whether one is locked doesn't count.
pub(super) async fn digests(
    config: &Config,
    info: &ServerInfo,
    conn: &mut Conn,
) -> Result<BTreeMap<String, u32>> {
    let mut digests: BTreeMap<String, u32> = BTreeMap::new();
    let locks_count = config.cutover.fence != FencePolicy::Accounts;
    let tables = if info.dialect().family == Family::MariaDb { MARIADB } else { MYSQL };
    for (table, named) in tables {
        let place = || format!("mysql.{table}");
        let database = |error: mysql_async::Error| Error::database(Side::Source, place(), &error);
        let rows = match conn.query_iter(format!("SELECT * FROM mysql.{table}")).await {
            Ok(rows) => rows,
            // An older server hasn't got all of them.
            Err(mysql_async::Error::Server(error)) if error.code == 1146 => continue,
            Err(error) => return Err(database(error)),
        };
        let count = |row: Row| {
            let [user, host] = named.map(|name| String::from_utf8_lossy(field(&row, name)).into_owned());
            let account = format!("{user}@{host}");
            if super::takes(config, &user, &host) {
                let digest = digests.entry(account).or_default();
                // Rows come in any order.
                *digest = digest.wrapping_add(digest_of(table, &row, locks_count));
            }
        };
        rows.for_each_and_drop(count).await.map_err(database)?;
    }
    Ok(digests)
}

fn digest_of(table: &str, row: &Row, locks_count: bool) -> u32 {
    let mut hash = Sha256::new();
    hash.update(table);
    for (at, column) in row.columns_ref().iter().enumerate() {
        match (row.as_ref(at), column.name_str().as_ref()) {
            (Some(Value::Bytes(_)), "account_locked") if !locks_count => {}
            (Some(Value::Bytes(bytes)), name) => {
                let unlocked = if name == "Priv" && !locks_count {
                    without_lock(bytes)
                } else {
                    Cow::Borrowed(&bytes[..])
                };
                hash.update((unlocked.len() as u64).to_le_bytes());
                hash.update(&unlocked);
            }
            _ => hash.update([0xff]),
        }
    }
    let hash = hash.finalize();
    hash.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// MariaDB's document of an account, without whether it is locked.
fn without_lock(document: &[u8]) -> Cow<'_, [u8]> {
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(document) else {
        return Cow::Borrowed(document);
    };
    json.as_object_mut().map(|members| members.remove("account_locked"));
    Cow::Owned(json.to_string().into_bytes())
}

/// Names those that have changed, once for each change, until it is cancelled. Nothing else waits for it, so what it can't read it tries
/// again.
pub(crate) async fn watch(context: Arc<Context>, info: ServerInfo, cancel: CancellationToken) -> Result<()> {
    let config = &context.config;
    let mut known = Book::read(&config.state_dir)?.digests().clone();
    let mut conn = None;
    let mut is_refused = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
        let look = async {
            let conn = match &mut conn {
                Some(conn) => conn,
                None => conn.insert(server::connect(Side::Source, &config.source).await?),
            };
            digests(config, &info, conn).await
        };
        let found = tokio::select! {
            found = look => found,
            () = cancel.cancelled() => return Ok(()),
        };
        match found {
            Ok(now) => {
                let changed = changes(&known, &now);
                if !changed.is_empty() {
                    tracing::warn!(
                        area = "accounts",
                        "accounts of the source have changed since they were made on the target, which isn't followed: \
                         {}; do the same there",
                        named(&changed)
                    );
                }
                known = now;
            }
            Err(error) => {
                conn = None;
                if error.kind != ErrorKind::Transient && !is_refused {
                    tracing::warn!(area = "accounts", "changes of accounts aren't noticed: {error}");
                    is_refused = true;
                }
            }
        }
    }
}

/// What became of which account.
fn changes(before: &BTreeMap<String, u32>, now: &BTreeMap<String, u32>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let change = |name: &String| match (before.get(name), now.get(name)) {
        (None, Some(_)) => Some(format!("{name} (new)")),
        (Some(_), None) => Some(format!("{name} (dropped)")),
        (before, now) if before != now => Some(format!("{name} (changed)")),
        _ => None,
    };
    names.into_iter().filter_map(change).collect()
}

/// The first few of them.
fn named(changed: &[String]) -> String {
    const NAMED_MAX: usize = 10;
    let first: Vec<&str> = changed.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = changed.len().saturating_sub(NAMED_MAX);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// True where one of the patterns takes the account.
pub(super) fn is_named(patterns: &[String], user: &str, host: &str) -> bool {
    let name = format!("{user}@{host}");
    patterns.iter().any(|pattern| like(pattern, &name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_left_out_of_a_document() {
        let check = |text: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&without_lock(text.as_bytes())), expected);
        };
        check(r#"{"access":0,"account_locked":true,"plugin":"p"}"#, r#"{"access":0,"plugin":"p"}"#);
        check("no document", "no document");
    }

    #[test]
    fn each_change_has_its_word() {
        let of =
            |all: &[(&str, u32)]| all.iter().map(|(name, digest)| ((*name).to_owned(), *digest)).collect();
        let before = of(&[("a@%", 1), ("b@%", 1), ("c@%", 1)]);
        let now = of(&[("a@%", 1), ("b@%", 2), ("d@%", 1)]);
        assert_eq!(changes(&before, &now), ["b@% (changed)", "c@% (dropped)", "d@% (new)"]);
        assert!(is_named(&["app@%".to_owned()], "app", "10.0.0.1"));
        assert!(!is_named(&["app@10.%".to_owned()], "app", "localhost"));
    }
}
