//! Connections that may write in spite of `read_only`: of accounts that have a privilege for that, and may write at
//! all. Where a server has no `super_read_only` the fence doesn't hold them.

use std::collections::BTreeMap;
use std::fmt;

use config::{Flavor, ServerVersion};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use crate::auth::inventory::may_take;

/// Rows of privileges that are looked at.
const GRANTS_MAX: usize = 20_000;
/// ER_NO_SUCH_THREAD
const NO_SUCH_THREAD: u16 = 1094;
/// What changes a row, or may do so by its owner's rights.
const WRITES: &str = "'INSERT', 'UPDATE', 'DELETE', 'DELETE HISTORY', 'CREATE', 'DROP', 'ALTER', 'INDEX', 'TRIGGER', \
                      'EVENT', 'EXECUTE', 'CREATE ROUTINE', 'ALTER ROUTINE', 'CREATE VIEW'";
/// Threads of the server's own have these users, and a connection without a login has one of them.
const OWN_THREADS: [&str; 3] = ["system user", "event_scheduler", "unauthenticated user"];

/// An account that the fence doesn't hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bypasser {
    user: String,
    host: String,
    /// What lets it.
    with: Vec<String>,
}

/// A connection of such an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    /// Its id on the server.
    pub id: u64,
    account: String,
    client: String,
    with: String,
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, account, client, with } = self;
        let from = if client.is_empty() { String::new() } else { format!(" from {client}") };
        write!(f, "{account}{from} (connection {id}; {with})")
    }
}

/// The accounts of the server that the fence doesn't hold, but for `service`.
pub(super) async fn accounts(conn: &mut Conn, service: &str) -> Result<Vec<Bypasser>, Error> {
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let privileges = format!(
        "SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN \
         ('SUPER', 'CONNECTION_ADMIN', 'READ_ONLY ADMIN', 'READ ONLY ADMIN') LIMIT {GRANTS_MAX}"
    );
    let privileges: Vec<(String, String)> = conn.query(privileges).await?;
    let of = |table: &str| {
        format!("SELECT GRANTEE FROM information_schema.{table} WHERE PRIVILEGE_TYPE IN ({WRITES})")
    };
    let writers: Vec<String> = conn
        .query(format!(
            "{} UNION {} UNION {} UNION {} LIMIT {GRANTS_MAX}",
            of("USER_PRIVILEGES"),
            of("SCHEMA_PRIVILEGES"),
            of("TABLE_PRIVILEGES"),
            of("COLUMN_PRIVILEGES"),
        ))
        .await?;
    Ok(weigh(&privileges, &writers, service, version.as_deref().and_then(ServerVersion::parse)))
}

fn weigh(
    privileges: &[(String, String)],
    writers: &[String],
    service: &str,
    version: Option<ServerVersion>,
) -> Vec<Bypasser> {
    // MariaDB took the way past read_only out of SUPER with 10.11.
    let super_holds = version.is_some_and(|version| {
        version.flavor == Flavor::MariaDb && (version.major, version.minor) >= (10, 11)
    });
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (grantee, privilege) in privileges {
        if !(super_holds && privilege == "SUPER") && writers.contains(grantee) {
            found.entry(grantee).or_default().push(privilege.clone());
        }
    }
    found
        .into_iter()
        .filter_map(|(grantee, with)| {
            let (user, host) = split(grantee)?;
            (user != service).then(|| Bypasser { user: user.to_owned(), host: host.to_owned(), with })
        })
        .collect()
}

/// `'user'@'host'`, in which nothing is escaped.
fn split(grantee: &str) -> Option<(&str, &str)> {
    grantee.strip_prefix('\'')?.strip_suffix('\'')?.rsplit_once("'@'")
}

/// Which of their connections there are now, but for `ours`, which come through the proxy.
pub(super) async fn connected(
    conn: &mut Conn,
    of: &[Bypasser],
    ours: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<Bypass>, Error> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let threads: Vec<(u64, String, String, String)> = conn
        .query(
            "SELECT ID, COALESCE(USER, ''), COALESCE(HOST, ''), COALESCE(COMMAND, '') \
             FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()",
        )
        .await?;
    let threads = threads.into_iter().filter(|(id, ..)| !ours(*id));
    Ok(threads.filter_map(|thread| bypass(of, thread)).collect())
}

fn bypass(of: &[Bypasser], thread: (u64, String, String, String)) -> Option<Bypass> {
    let (id, user, client, command) = thread;
    // A thread that sends the binlog does nothing else any more.
    if OWN_THREADS.contains(&user.as_str()) || command.starts_with("Binlog Dump") || command == "Daemon" {
        return None;
    }
    // A port stands behind the address of a client.
    let host = client.rsplit_once(':').map_or(client.as_str(), |(host, _)| host);
    let account = of.iter().find(|account| account.user == user && may_take(&account.host, host))?;
    let with = account.with.join(", ");
    Some(Bypass { id, account: format!("'{user}'@'{}'", account.host), client, with })
}

/// Ends connections. Whoever went by itself is gone as well.
pub(super) async fn end(conn: &mut Conn, all: &[Bypass]) -> Result<(), Error> {
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

    fn found(version: &str) -> Vec<String> {
        let own = |text: &str| text.to_owned();
        let privileges = [
            (own("'root'@'localhost'"), own("READ_ONLY ADMIN")),
            (own("'old'@'%'"), own("SUPER")),
            (own("'watcher'@'%'"), own("READ_ONLY ADMIN")),
            (own("'it'@'s'@'10.%'"), own("CONNECTION_ADMIN")),
            (own("'service'@'%'"), own("READ_ONLY ADMIN")),
        ];
        let writers = ["'root'@'localhost'", "'old'@'%'", "'it'@'s'@'10.%'", "'service'@'%'"].map(own);
        let found = weigh(&privileges, &writers, "service", ServerVersion::parse(version));
        found.into_iter().map(|account| format!("{} {}", account.user, account.host)).collect()
    }

    #[test]
    fn who_has_the_privilege_and_may_write_is_found() {
        assert_eq!(found("10.11.6-MariaDB-log"), ["it'@'s 10.%", "root localhost"]);
        assert_eq!(found("5.6.24-log"), ["it'@'s 10.%", "old %", "root localhost"]);
    }

    #[test]
    fn threads_of_the_server_are_nobodys_connections() {
        let of = [Bypasser { user: "root".into(), host: "%".into(), with: vec!["SUPER".into()] }];
        let seen = |user: &str, client: &str, command: &str| {
            bypass(&of, (7, user.into(), client.into(), command.into())).map(|found| found.to_string())
        };
        let told = "'root'@'%' from 10.0.0.1:99 (connection 7; SUPER)";
        assert_eq!(seen("root", "10.0.0.1:99", "Sleep").as_deref(), Some(told));
        assert_eq!(seen("root", "10.0.0.1:99", "Binlog Dump"), None);
        assert_eq!(seen("app", "10.0.0.1:99", "Query"), None);
        assert_eq!(seen("system user", "", "Connect"), None);
    }
}
