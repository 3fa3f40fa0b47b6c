//! Which privilege is which on another server. What a privilege allows there is never more than it allowed where it comes from; what
//! has no counterpart is left out and named.

use std::collections::BTreeSet;

use config::{Dialect, Family};

use super::grant::Scope;

/// Privileges that mean the same on every server.
const SHARED: &[&str] = &[
    "USAGE",
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "RELOAD",
    "SHUTDOWN",
    "PROCESS",
    "FILE",
    "REFERENCES",
    "INDEX",
    "ALTER",
    "SHOW DATABASES",
    "CREATE TEMPORARY TABLES",
    "LOCK TABLES",
    "EXECUTE",
    "CREATE VIEW",
    "SHOW VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
    "CREATE USER",
    "EVENT",
    "TRIGGER",
    "CREATE TABLESPACE",
    "PROXY",
];

/// MariaDB's privileges and what they are on MySQL 8 and newer: what is needed, all of it, and what that gives.
const TO_MYSQL: &[(&[&str], &[&str])] = &[
    (&["BINLOG MONITOR", "SLAVE MONITOR"], &["REPLICATION CLIENT"]),
    (&["REPLICATION SLAVE", "BINLOG MONITOR", "SLAVE MONITOR"], &["REPLICATION SLAVE"]),
    (&["CONNECTION ADMIN", "READ_ONLY ADMIN"], &["CONNECTION_ADMIN"]),
    (&["SET USER"], &["SET_ANY_DEFINER", "ALLOW_NONEXISTENT_DEFINER"]),
];

/// MySQL's privileges and what they are on MariaDB. Its CONNECTION ADMIN and READ_ONLY ADMIN also set global variables.
const TO_MARIADB: &[(&[&str], &[&str])] = &[
    (&["REPLICATION CLIENT"], &["BINLOG MONITOR"]),
    (&["REPLICATION SLAVE"], &["REPLICATION SLAVE"]),
    (&["CONNECTION_ADMIN", "SYSTEM_VARIABLES_ADMIN"], &["CONNECTION ADMIN", "READ_ONLY ADMIN"]),
    (&["SET_ANY_DEFINER", "ALLOW_NONEXISTENT_DEFINER"], &["SET USER"]),
    (&["SET_USER_ID"], &["SET USER"]),
];

/// What ALL PRIVILEGES stands for on a table.
const OF_TABLE: &[&str] = &[
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "REFERENCES",
    "INDEX",
    "ALTER",
    "CREATE VIEW",
    "SHOW VIEW",
    "TRIGGER",
];
/// What a schema has beside these.
const OF_SCHEMA: &[&str] =
    &["CREATE TEMPORARY TABLES", "LOCK TABLES", "EXECUTE", "CREATE ROUTINE", "ALTER ROUTINE", "EVENT"];
/// What a server of any family has beside these.
const OF_SERVER: &[&str] = &[
    "RELOAD",
    "SHUTDOWN",
    "PROCESS",
    "FILE",
    "SHOW DATABASES",
    "SUPER",
    "REPLICATION SLAVE",
    "CREATE USER",
    "CREATE TABLESPACE",
];
/// And what MariaDB 10.11 has beside these.
const OF_MARIADB: &[&str] = &[
    "DELETE HISTORY",
    "BINLOG MONITOR",
    "BINLOG ADMIN",
    "BINLOG REPLAY",
    "SLAVE MONITOR",
    "REPLICATION MASTER ADMIN",
    "REPLICATION SLAVE ADMIN",
    "CONNECTION ADMIN",
    "FEDERATED ADMIN",
    "READ_ONLY ADMIN",
    "SET USER",
];

/// ALL PRIVILEGES by the names of what it stands for; anything else as it is.
pub(super) fn expand(of: Dialect, scope: &Scope, privileges: &[String]) -> BTreeSet<String> {
    if !privileges.iter().any(|name| name == "ALL PRIVILEGES" || name == "ALL") {
        return privileges.iter().cloned().collect();
    }
    let is_mariadb = of.family == Family::MariaDb;
    let mut all: Vec<&str> = Vec::new();
    if let Scope::Routine(..) = scope {
        all.extend(["EXECUTE", "ALTER ROUTINE"]);
    } else {
        all.extend(OF_TABLE);
        if !matches!(scope, Scope::Table(..)) {
            all.extend(OF_SCHEMA);
        }
        if is_mariadb {
            all.push("DELETE HISTORY");
        }
        if *scope == Scope::Global {
            all.extend(OF_SERVER);
            all.extend(if is_mariadb { OF_MARIADB } else { &["REPLICATION CLIENT"] });
        }
    }
    if is_mariadb && of.version >= (11, 3) && !matches!(scope, Scope::Table(..)) {
        all.push("SHOW CREATE ROUTINE");
    }
    all.into_iter().map(str::to_owned).collect()
}

/// What these privileges are on another server, and which of them aren't there.
pub(super) fn carried(
    (from, to): (Dialect, Dialect),
    held: &BTreeSet<String>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    if from.family == to.family {
        return (held.clone(), BTreeSet::new());
    }
    let bare = |name: &str| name.split(" (").next().unwrap_or_default().to_owned();
    let (mut given, mut lost): (BTreeSet<String>, BTreeSet<String>) =
        held.iter().cloned().partition(|name| SHARED.contains(&bare(name).as_str()));
    let table = match (from.family, to.family) {
        (Family::MariaDb, Family::MySql) if to.version >= (8, 2) => TO_MYSQL,
        (_, Family::MariaDb) => TO_MARIADB,
        _ => &[],
    };
    for (needed, gives) in table {
        if needed.iter().all(|name| held.contains(*name)) {
            given.extend(gives.iter().map(|&name| name.to_owned()));
            for name in *needed {
                lost.remove(*name);
            }
        }
    }
    (given, lost)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const MARIADB: Dialect = Dialect { family: Family::MariaDb, version: (10, 11) };
    const MYSQL: Dialect = Dialect { family: Family::MySql, version: (9, 7) };
    const MYSQL_5_6: Dialect = Dialect { family: Family::MySql, version: (5, 6) };

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn nothing_grows_between_families() {
        let check = |pair, held: &[&str], given: &[&str], lost: &[&str]| {
            assert_eq!(carried(pair, &set(held)), (set(given), set(lost)), "{held:?}");
        };
        check((MARIADB, MYSQL), &["SELECT", "SUPER"], &["SELECT"], &["SUPER"]);
        check((MARIADB, MYSQL), &["READ_ONLY ADMIN"], &[], &["READ_ONLY ADMIN"]);
        check((MARIADB, MYSQL), &["BINLOG MONITOR"], &[], &["BINLOG MONITOR"]);
        check((MARIADB, MYSQL), &["BINLOG MONITOR", "SLAVE MONITOR"], &["REPLICATION CLIENT"], &[]);
        check((MARIADB, MYSQL), &["SELECT (`a`)", "DELETE HISTORY"], &["SELECT (`a`)"], &["DELETE HISTORY"]);
        check((MYSQL, MARIADB), &["CONNECTION_ADMIN"], &[], &["CONNECTION_ADMIN"]);
        check((MYSQL, MARIADB), &["SET_ANY_DEFINER"], &[], &["SET_ANY_DEFINER"]);
        check((MYSQL, MARIADB), &["ROLE_ADMIN", "EVENT"], &["EVENT"], &["ROLE_ADMIN"]);
        check((MYSQL_5_6, MYSQL), &["SUPER", "EVENT"], &["SUPER", "EVENT"], &[]);
    }

    #[test]
    fn all_is_what_it_was_where_it_was_said() {
        let all = ["ALL PRIVILEGES".to_owned()];
        let schema = Scope::Schema("s".into());
        assert!(expand(MARIADB, &schema, &all).contains("DELETE HISTORY"));
        assert!(!expand(MYSQL, &schema, &all).contains("DELETE HISTORY"));
        assert_eq!(expand(MYSQL, &schema, &all).len(), 18);
        assert!(expand(MYSQL_5_6, &Scope::Global, &all).contains("REPLICATION CLIENT"));
        assert_eq!(expand(MYSQL, &Scope::Global, &["SELECT".to_owned()]), set(&["SELECT"]));
    }
}
