//! Accounts that may write in spite of `read_only`: they have a privilege for that, and may write at all. Where a server
//! has no `super_read_only` the fence doesn't hold them.

use std::collections::BTreeMap;

use config::{AccountName, Flavor, ServerVersion};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::connections::Owner;

/// Rows of privileges that are looked at.
const GRANTS_MAX: usize = 20_000;
/// What changes a row, or may do so by its owner's rights.
const WRITES: &str = "'INSERT', 'UPDATE', 'DELETE', 'DELETE HISTORY', 'CREATE', 'DROP', 'ALTER', 'INDEX', 'TRIGGER', \
                      'EVENT', 'EXECUTE', 'CREATE ROUTINE', 'ALTER ROUTINE', 'CREATE VIEW'";

/// The accounts of the server that the fence doesn't hold, but for `service`.
pub(super) async fn accounts(conn: &mut Conn, service: &str) -> Result<Vec<Owner>, Error> {
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
) -> Vec<Owner> {
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
            let name = split(grantee)?;
            (name.user != service).then_some(Owner { name, with })
        })
        .collect()
}

/// `'user'@'host'`, in which nothing is escaped.
pub(super) fn split(grantee: &str) -> Option<AccountName> {
    let (user, host) = grantee.strip_prefix('\'')?.strip_suffix('\'')?.rsplit_once("'@'")?;
    Some(AccountName { user: user.to_owned(), host: host.to_owned() })
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
        found.into_iter().map(|account| format!("{} {}", account.name.user, account.name.host)).collect()
    }

    #[test]
    fn who_has_the_privilege_and_may_write_is_found() {
        assert_eq!(found("10.11.6-MariaDB-log"), ["it'@'s 10.%", "root localhost"]);
        assert_eq!(found("5.6.24-log"), ["it'@'s 10.%", "old %", "root localhost"]);
    }
}
