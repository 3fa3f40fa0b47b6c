//! Connections of given accounts that don't come through the proxy: found in the process list, and ended.

use std::fmt;

use config::AccountName;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use crate::auth::inventory::may_take;

/// ER_NO_SUCH_THREAD
const NO_SUCH_THREAD: u16 = 1094;
/// Threads of the server's own have these users, and a connection without a login has one of them.
const OWN_THREADS: [&str; 3] = ["system user", "event_scheduler", "unauthenticated user"];

/// An account whose connections are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) name: AccountName,
    /// Why, in words for the operator; may be empty.
    pub(super) with: Vec<String>,
}

/// A connection of such an account that doesn't come through the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its id on the server.
    pub id: u64,
    account: AccountName,
    client: String,
    with: String,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, account, client, with } = self;
        let from = if client.is_empty() { String::new() } else { format!(" from {client}") };
        let with = if with.is_empty() { String::new() } else { format!("; {with}") };
        write!(f, "{account}{from} (connection {id}{with})")
    }
}

/// Which connections of `owners` there are now, but for `ours`, which come through the proxy. A connection is that of the account
/// whose host is the most particular one, so it is none of theirs where one of `everybody` is nearer.
pub(super) async fn connected(
    conn: &mut Conn,
    owners: &[Owner],
    everybody: &[AccountName],
    ours: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<Foreign>, Error> {
    if owners.is_empty() {
        return Ok(Vec::new());
    }
    let threads = threads(conn).await?.into_iter().filter(|thread| !ours(thread.id));
    Ok(threads.filter_map(|thread| foreign(owners, everybody, thread)).collect())
}

/// A thread of the server.
pub(super) struct Thread {
    pub(super) id: u64,
    pub(super) user: String,
    /// Address and port.
    client: String,
    command: String,
    /// What it does now; empty where nothing.
    pub(super) statement: String,
}

/// Every thread but the one that asks. By SHOW: MySQL refuses to list threads in information_schema while one of them runs a
/// statement whose bytes aren't UTF-8 of three bytes at most (error 3854).
pub(super) async fn threads(conn: &mut Conn) -> Result<Vec<Thread>, Error> {
    let own = u64::from(conn.id());
    let rows: Vec<Row> = conn.query("SHOW FULL PROCESSLIST").await?;
    let thread = |row: &Row| {
        let text = |name: &str| {
            let bytes = row.get_opt::<Vec<u8>, _>(name).and_then(Result::ok).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Some(Thread {
            id: row.get_opt("Id").and_then(Result::ok)?,
            user: text("User"),
            client: text("Host"),
            command: text("Command"),
            statement: text("Info"),
        })
    };
    Ok(rows.iter().filter_map(thread).filter(|thread| thread.id != own).collect())
}

fn foreign(owners: &[Owner], everybody: &[AccountName], thread: Thread) -> Option<Foreign> {
    let Thread { id, user, client, command, statement: _ } = thread;
    // A thread that sends the binlog does nothing else any more.
    if OWN_THREADS.contains(&user.as_str()) || command.starts_with("Binlog Dump") || command == "Daemon" {
        return None;
    }
    // A port stands behind the address of a client.
    let host = client.rsplit_once(':').map_or(client.as_str(), |(host, _)| host);
    let takes = |name: &&AccountName| name.user == user && may_take(&name.host, host);
    let owner = owners.iter().filter(|owner| takes(&&owner.name)).max_by_key(|o| particular(&o.name.host))?;
    let nearest = everybody.iter().filter(takes).map(|name| particular(&name.host)).max();
    if nearest > Some(particular(&owner.name.host)) {
        return None;
    }
    Some(Foreign { id, account: owner.name.clone(), client, with: owner.with.join(", ") })
}

/// Servers look at the hosts of a user's accounts in this order, the largest first: names and addresses, networks, and patterns by
/// what stands before their first wildcard.
fn particular(host: &str) -> usize {
    match host.find(['%', '_']) {
        Some(wildcard) => wildcard,
        None if host.is_empty() => 0,
        None if host.contains('/') => usize::MAX - 1,
        None => usize::MAX,
    }
}

/// Ends connections. Whoever went by itself is gone as well.
pub(super) async fn end(conn: &mut Conn, all: &[Foreign]) -> Result<(), Error> {
    for one in all {
        match conn.query_drop(format!("KILL {}", one.id)).await {
            Ok(()) => {}
            Err(Error::Server(refusal)) if refusal.code == NO_SUCH_THREAD => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(user: &str, host: &str) -> AccountName {
        AccountName { user: user.into(), host: host.into() }
    }

    fn thread(user: &str, client: &str, command: &str) -> Thread {
        let (user, client, command) = (user.into(), client.into(), command.into());
        Thread { id: 7, user, client, command, statement: String::new() }
    }

    #[test]
    fn threads_of_the_server_are_nobodys_connections() {
        let of = [Owner { name: name("root", "%"), with: vec!["SUPER".into()] }];
        let seen = |user: &str, client: &str, command: &str| {
            foreign(&of, &[], thread(user, client, command)).map(|found| found.to_string())
        };
        let told = "'root'@'%' from 10.0.0.1:99 (connection 7; SUPER)";
        assert_eq!(seen("root", "10.0.0.1:99", "Sleep").as_deref(), Some(told));
        assert_eq!(seen("root", "10.0.0.1:99", "Binlog Dump"), None);
        assert_eq!(seen("app", "10.0.0.1:99", "Query"), None);
        assert_eq!(seen("system user", "", "Connect"), None);
    }

    #[test]
    fn a_connection_is_the_nearest_accounts() {
        let everybody = [name("app", "10.0.%"), name("app", "10.0.0.7"), name("app", "%")];
        let seen = |owner: &AccountName, client: &str| {
            let of = [Owner { name: owner.clone(), with: Vec::new() }];
            foreign(&of, &everybody, thread("app", client, "Sleep")).is_some()
        };
        let [near, one, far] = &everybody;
        assert_eq!([near, one, far].map(|owner| seen(owner, "10.0.0.7:1")), [false, true, false]);
        assert_eq!([near, one, far].map(|owner| seen(owner, "10.0.0.8:1")), [true, false, false]);
        assert_eq!([near, one, far].map(|owner| seen(owner, "10.1.0.8:1")), [false, false, true]);
    }
}
