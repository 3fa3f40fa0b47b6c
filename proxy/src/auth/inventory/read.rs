//! Reads the accounts of both servers with the service accounts. Nothing is changed, no login is tried.

use std::sync::Arc;
use std::time::Duration;

use config::{BackendConfig, Flavor, SentHeader, ServerVersion, Side};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use serde_json::Value as Json;

use super::{Account, AccountRow, LiveUser, Roster, Way, absent, compare};
use crate::auth::accounts::dial;
use crate::auth::adopted::AdoptedAccounts;
use crate::auth::plugin::Plugin;
use crate::backend::fence::FenceBefore;
use crate::route::table::RouteTable;
use crate::session::registry::SessionRegistry;

/// Accounts of one server that are looked at.
const ACCOUNTS_MAX: usize = 10_000;
const NO_SUCH_TABLE: u16 = 1146;

/// What was found about the accounts of both servers.
#[derive(Debug)]
pub(crate) struct Survey {
    /// A row for each application account of the source.
    pub(crate) rows: Vec<AccountRow>,
    /// Users with live sessions and no account on the source, and how many sessions.
    absent_on_source: Vec<(String, usize)>,
    /// The same of the target.
    absent_on_target: Vec<(String, usize)>,
}

impl Survey {
    /// Users with live sessions and no account on that side, and how many sessions.
    pub(crate) fn absent_on(&self, side: Side) -> &[(String, usize)] {
        match side {
            Side::Source => &self.absent_on_source,
            Side::Target => &self.absent_on_target,
        }
    }
}

/// Looks at the accounts of both servers and at the live sessions. Accounts that are locked by the fence of the side that doesn't
/// serve are unlocked before it does, so they don't count as locked. The error is a sentence for the operator.
pub(crate) async fn survey(
    routes: &RouteTable,
    registry: &Arc<SessionRegistry>,
    fenced: Option<&(Side, FenceBefore)>,
    within: Duration,
) -> Result<Survey, String> {
    let ask = |side| roster_of(routes, side, within);
    let (mut source, mut target) = tokio::try_join!(ask(Side::Source), ask(Side::Target))?;
    if let Some((side, FenceBefore { accounts: Some(ours), .. })) = fenced {
        let roster = if *side == Side::Source { &mut source } else { &mut target };
        for account in &mut roster.accounts {
            account.locked &= !ours.iter().any(|name| account.is(&name.user, &name.host));
        }
    }
    let live = registry.live_users();
    let backend = Arc::clone(routes.backend(Side::Target));
    // Checking passwords against hashes is slow on purpose.
    let work = tokio::task::spawn_blocking(move || weigh(&source, &target, &live, &backend.adopted));
    work.await.map_err(|_| "the accounts can't be compared: a bug; see the log".to_owned())
}

fn weigh(source: &Roster, target: &Roster, live: &[LiveUser], adopted: &AdoptedAccounts) -> Survey {
    let absent = |from: &Roster| -> Vec<(String, usize)> {
        absent(from, live).into_iter().map(|live| (live.user.clone(), live.sessions)).collect()
    };
    Survey {
        rows: compare(source, target, live, adopted),
        absent_on_source: absent(source),
        absent_on_target: absent(target),
    }
}

/// The accounts of one server. The error is a sentence for the operator.
pub(super) async fn roster_of(routes: &RouteTable, side: Side, within: Duration) -> Result<Roster, String> {
    tokio::time::timeout(within, read(&routes.backend(side).config))
        .await
        .map_err(|_| late(side, within))?
        .map_err(|why| format!("the accounts of the {side} can't be read: {why}"))
}

fn late(side: Side, within: Duration) -> String {
    format!("the accounts of the {side} can't be read: it took longer than {} ms", within.as_millis())
}

async fn read(backend: &BackendConfig) -> Result<Roster, String> {
    let mut conn = dial(Some(backend)).await.map_err(|error| sentence(&error))?;
    let roster = roster(&mut conn).await;
    // Whatever became of the questions, the connection isn't needed any more.
    let _ = conn.disconnect().await;
    let mut roster = roster?;
    let shows = backend.tls.identity().is_some();
    for account in &mut roster.accounts {
        if backend.tls.client().is_some() {
            account.requires_tls = account.requires_certificate && !shows;
        }
        account.names_certificate &= shows;
    }
    if backend.proxy_protocol != SentHeader::Off {
        // The server sees each client's own address, and ours on this connection only.
        roster.seen.clear();
    }
    Ok(roster)
}

pub(super) fn sentence(error: &mysql_async::Error) -> String {
    match error {
        mysql_async::Error::Server(refusal) if matches!(refusal.code, 1142 | 1143 | 1044) => {
            format!("error {}; grant the service account SELECT on the schema mysql", refusal.code)
        }
        mysql_async::Error::Server(refusal) => format!("error {}: {}", refusal.code, refusal.message),
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => error.to_string(),
        other => other.to_string(),
    }
}

async fn roster(conn: &mut Conn) -> Result<Roster, String> {
    let failed = |error: mysql_async::Error| sentence(&error);
    let who: Option<Row> = conn
        .query_first("SELECT CURRENT_USER() service, USER() seen, VERSION() version")
        .await
        .map_err(failed)?;
    let who = who.ok_or("it answered nothing")?;
    let (service, seen, version) = (text(&who, "service"), text(&who, "seen"), text(&who, "version"));
    let mut accounts = accounts(conn).await?;
    if accounts.len() > ACCOUNTS_MAX {
        return Err(format!("there are more than {ACCOUNTS_MAX}"));
    }
    let super_read_only: Option<Row> =
        conn.query_first("SHOW GLOBAL VARIABLES LIKE 'super_read_only'").await.map_err(failed)?;
    let grants: Vec<Row> = conn
        .query(
            "SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN \
             ('SUPER', 'CONNECTION_ADMIN', 'READ_ONLY ADMIN', 'READ ONLY ADMIN') LIMIT 20000",
        )
        .await
        .map_err(failed)?;
    note_grants(&mut accounts, &grants, &version);
    let (user, host) = split(&service);
    Ok(Roster {
        accounts,
        service: (user.to_owned(), host.to_owned()),
        seen: split(&seen).1.to_owned(),
        has_super_read_only: super_read_only.is_some(),
        version: ServerVersion::parse(&version),
    })
}

/// `user@host`; a user's name may have an `@` in it.
fn split(account: &str) -> (&str, &str) {
    account.rsplit_once('@').unwrap_or((account, ""))
}

fn note_grants(accounts: &mut [Account], grants: &[Row], version: &str) {
    // MariaDB took the way past read_only out of SUPER with 10.11.
    let version = ServerVersion::parse(version);
    let of_super = !version.is_some_and(|version| {
        version.flavor == Flavor::MariaDb && (version.major, version.minor) >= (10, 11)
    });
    let mut by_name: std::collections::HashMap<String, &mut Account> = accounts
        .iter_mut()
        .map(|account| (format!("'{}'@'{}'", account.user, account.host), account))
        .collect();
    for grant in grants {
        let privilege = text(grant, "PRIVILEGE_TYPE");
        if (of_super || privilege != "SUPER")
            && let Some(account) = by_name.get_mut(&text(grant, "GRANTEE"))
        {
            account.past_read_only.push(privilege);
        }
    }
}

/// MariaDB keeps an account in one JSON document; elsewhere it is a row of columns, which depend on the version.
pub(crate) async fn accounts(conn: &mut Conn) -> Result<Vec<Account>, String> {
    let limit = ACCOUNTS_MAX + 1;
    let documents = format!("SELECT Host, User, Priv FROM mysql.global_priv LIMIT {limit}");
    let documents: Result<Vec<Row>, _> = conn.query(documents).await;
    match documents {
        Ok(documents) => {
            let account = |row: &Row| of_document(text(row, "Host"), text(row, "User"), field(row, "Priv"));
            Ok(documents.iter().filter_map(account).collect())
        }
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => {
            let rows: Vec<Row> = conn
                .query(format!("SELECT * FROM mysql.user LIMIT {limit}"))
                .await
                .map_err(|error| sentence(&error))?;
            Ok(rows.iter().filter_map(of_columns).collect())
        }
        Err(error) => Err(sentence(&error)),
    }
}

/// A column's bytes; none where it is NULL or isn't there.
fn field<'a>(row: &'a Row, name: &str) -> &'a [u8] {
    let at = row.columns_ref().iter().position(|column| column.name_str().eq_ignore_ascii_case(name));
    match at.and_then(|at| row.as_ref(at)) {
        Some(Value::Bytes(bytes)) => bytes,
        _ => &[],
    }
}

fn text(row: &Row, name: &str) -> String {
    String::from_utf8_lossy(field(row, name)).into_owned()
}

/// An account from MariaDB's document; `None` for a role.
fn of_document(host: String, user: String, document: &[u8]) -> Option<Account> {
    let document: Json = serde_json::from_slice(document).unwrap_or_default();
    let is = |key: &str| document.get(key).and_then(Json::as_bool).unwrap_or(false);
    let number = |key: &str| document.get(key).and_then(Json::as_i64);
    if is("is_role") {
        return None;
    }
    let ways = match document.get("auth_or").and_then(Json::as_array) {
        // The empty one stands for the document's own.
        Some(all) => all
            .iter()
            .map(|one| if one.get("plugin").is_some() { way(one) } else { way(&document) })
            .collect(),
        None => vec![way(&document)],
    };
    Some(Account {
        user,
        host,
        ways,
        factors: false,
        locked: is("account_locked"),
        expired: number("password_last_changed") == Some(0),
        requires_tls: number("ssl_type").is_some_and(|kind| kind != 0),
        requires_certificate: number("ssl_type").is_some_and(|kind| kind > 1),
        names_certificate: number("ssl_type").is_some_and(|kind| kind > 2),
        past_read_only: Vec::new(),
    })
}

/// What one of MariaDB's documents says of mysql_native_password: the hashes that a client with that plugin gets
/// to, and whether the account has no other way in.
pub(in crate::auth) fn native_of_document(document: &[u8]) -> (impl Iterator<Item = [u8; 20]>, bool) {
    let is_native = |way: &Way| way.plugin == Plugin::Native.name();
    let is_understood = serde_json::from_slice::<Json>(document).is_ok();
    let ways = of_document(String::new(), String::new(), document).map(|account| account.ways);
    let ways = ways.unwrap_or_default();
    let are_all = is_understood && ways.iter().all(is_native);
    let reached = ways.into_iter().take_while(move |way| is_native(way) || way.is_silent());
    (reached.filter_map(|way| way.native_hash()), are_all)
}

fn way(document: &Json) -> Way {
    let member = |key: &str| document.get(key).and_then(Json::as_str);
    Way {
        plugin: member("plugin").unwrap_or(Plugin::Native.name()).to_owned(),
        stored: member("authentication_string").unwrap_or_default().as_bytes().to_vec(),
    }
}

/// An account from a row of `mysql.user`; `None` for a role of MariaDB.
fn of_columns(row: &Row) -> Option<Account> {
    let bytes = |name: &str| field(row, name);
    let yes = |name: &str| bytes(name) == b"Y";
    if yes("is_role") {
        return None;
    }
    let plugin = text(row, "plugin");
    let plugin = if plugin.is_empty() { Plugin::Native.name().to_owned() } else { plugin };
    // Before 5.7 the hash of mysql_native_password has a column of its own.
    let stored = match bytes("authentication_string") {
        [] => bytes("Password"),
        stored => stored,
    };
    let mut ways = vec![Way { plugin, stored: stored.to_vec() }];
    let attributes: Json = serde_json::from_slice(bytes("User_attributes")).unwrap_or_default();
    if let (Some(second), Some(first)) =
        (attributes.get("additional_password").and_then(Json::as_str), ways.first())
    {
        // RETAIN CURRENT PASSWORD: either opens the account.
        let second = Way { plugin: first.plugin.clone(), stored: second.as_bytes().to_vec() };
        ways.push(second);
    }
    let has_factors = attributes.get("multi_factor_authentication").and_then(Json::as_array);
    Some(Account {
        user: text(row, "User"),
        host: text(row, "Host"),
        ways,
        factors: has_factors.is_some_and(|factors| !factors.is_empty()),
        locked: yes("account_locked"),
        expired: yes("password_expired"),
        requires_tls: !bytes("ssl_type").is_empty(),
        requires_certificate: !matches!(bytes("ssl_type"), b"" | b"ANY"),
        names_certificate: !matches!(bytes("ssl_type"), b"" | b"ANY" | b"X509"),
        past_read_only: Vec::new(),
    })
}
