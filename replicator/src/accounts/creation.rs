//! The statement that makes an account, as like the source's as the target can have it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use config::{Dialect, Family};
use zeroize::Zeroizing;

use super::account::{Account, NATIVE, Policy, Tls, Way};
use super::grant::role_sql;

const SHA2: &str = "caching_sha2_password";
const SHA256: &str = "sha256_password";
/// A hash of mysql_native_password that no known password has.
const NOBODYS_HASH: &str = "*0000000000000000000000000000000000000000";

/// What a server can have.
#[derive(Debug, Clone)]
pub(super) struct Abilities {
    pub(super) dialect: Dialect,
    /// Plugins that check passwords, as it names them.
    pub(super) plugins: BTreeSet<String>,
}

impl Abilities {
    fn has(&self, plugin: &str) -> bool {
        // OceanBase doesn't list any.
        self.plugins.contains(plugin) || (self.plugins.is_empty() && plugin == NATIVE)
    }

    fn is_mariadb(&self) -> bool {
        self.dialect.family == Family::MariaDb
    }

    /// MySQL 5.6 and OceanBase can neither lock an account nor let its password expire when it is made.
    fn locks(&self) -> bool {
        match self.dialect.family {
            Family::MariaDb => true,
            Family::MySql => self.dialect.version >= (5, 7),
            Family::OceanBase => false,
        }
    }
}

/// How an account is made.
pub(super) struct Creation {
    /// Holds what opens the account: never shown (invariant 8).
    pub(super) sql: Zeroizing<String>,
    /// In words for the operator.
    pub(super) shown: String,
    /// What the target's account lacks, each a sentence without its full stop.
    pub(super) lost: Vec<String>,
}

/// Writes it.
pub(super) fn create(account: &Account, target: &Abilities) -> Creation {
    if account.is_role {
        let sql = Zeroizing::new(format!("CREATE ROLE {}", role_sql(&account.name)));
        return Creation { sql, shown: "a role".to_owned(), lost: Vec::new() };
    }
    let mut lost = Vec::new();
    let (identified, shown) = identified(account, target, &mut lost);
    let options = options(account, target, &mut lost);
    let name = &account.name;
    let create = if target.dialect.family == Family::MySql && !target.locks() {
        // Before 5.7 only GRANT takes options.
        format!("GRANT USAGE ON *.* TO {name}")
    } else {
        format!("CREATE USER {name}")
    };
    let sql = Zeroizing::new(format!("{create}{}{options}", *identified));
    Creation { sql, shown, lost }
}

/// What is said of a server without the account's plugin, or where less would be asked of whoever logs in.
fn unusable(account: &Account, target: &Abilities) -> Option<String> {
    let is_native = account.ways.iter().any(|way| way.plugin == NATIVE);
    if account.factors {
        return Some("it asks for more than one factor, which isn't carried".to_owned());
    }
    if (account.locked || account.expired) && !target.locks() {
        return Some("it is locked or expired, which the target can't be told".to_owned());
    }
    if account.ways.iter().any(|way| clause(way, target).is_some()) || account.has_no_password() {
        return None;
    }
    let plugins: Vec<&str> = account.ways.iter().map(|way| way.plugin.as_str()).collect();
    let plugins = plugins.join(" or ");
    Some(if is_native && !target.is_mariadb() {
        format!(
            "the target has no {plugins}; ADOPT ACCOUNT, or ALTER USER … IDENTIFIED BY there with the password"
        )
    } else {
        format!("the target has no {plugins}; ALTER USER … IDENTIFIED BY there with the password")
    })
}

/// ` IDENTIFIED …`, and that in words.
fn identified(account: &Account, target: &Abilities, lost: &mut Vec<String>) -> (Zeroizing<String>, String) {
    if let Some(why) = unusable(account, target) {
        lost.push(format!("nobody can log in with it: {why}"));
        return (nobody(target), "a password that nobody knows".to_owned());
    }
    if account.second_password {
        lost.push("its second password isn't carried".to_owned());
    }
    let carried: Vec<(&Way, Zeroizing<String>)> =
        account.ways.iter().filter_map(|way| Some((way, clause(way, target)?))).collect();
    let left: Vec<&str> = account
        .ways
        .iter()
        .filter(|way| !carried.iter().any(|(carried, _)| carried == way))
        .map(|way| way.plugin.as_str())
        .collect();
    if carried.is_empty() {
        return (Zeroizing::new(String::new()), "no password, as on the source".to_owned());
    }
    if !left.is_empty() {
        lost.push(format!("the target has no {}; the other ways in are carried", left.join(" or ")));
    }
    let mut sql = Zeroizing::new(String::from(" IDENTIFIED "));
    for (at, (_, clause)) in carried.iter().enumerate() {
        sql.push_str(if at > 0 {
            " OR "
        } else if target.is_mariadb() {
            "VIA "
        } else {
            ""
        });
        sql.push_str(clause);
    }
    let shown: Vec<&str> = carried.iter().map(|(way, _)| way.plugin.as_str()).collect();
    (sql, shown.join(" or "))
}

/// Behind IDENTIFIED, and on MariaDB behind VIA; none where the target can't check it.
fn clause(way: &Way, target: &Abilities) -> Option<Zeroizing<String>> {
    let stored = || std::str::from_utf8(&way.stored).ok().map(quoted);
    if !target.has(&way.plugin) {
        return None;
    }
    let plugin: String = way.plugin.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    Some(Zeroizing::new(if target.is_mariadb() {
        format!("{plugin} USING {}", stored()?)
    } else if way.plugin == NATIVE && !target.dialect.is_mysql_8() {
        format!("BY PASSWORD {}", stored()?)
    } else if !target.dialect.is_mysql_8() {
        // Its binary hash has no spelling there.
        return None;
    } else if matches!(way.plugin.as_str(), SHA2 | SHA256) && !way.stored.is_empty() {
        let hex: String = way.stored.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("WITH {plugin} AS 0x{hex}")
    } else {
        format!("WITH {plugin} AS {}", stored()?)
    }))
}

/// A password that nobody knows.
fn nobody(target: &Abilities) -> Zeroizing<String> {
    Zeroizing::new(if target.is_mariadb() {
        format!(" IDENTIFIED VIA {NATIVE} USING '{NOBODYS_HASH}'")
    } else if target.dialect.is_mysql_8() {
        // The server makes it up, and its answer is thrown away.
        format!(" IDENTIFIED WITH {SHA2} BY RANDOM PASSWORD")
    } else {
        format!(" IDENTIFIED BY PASSWORD '{NOBODYS_HASH}'")
    })
}

/// Everything behind the password.
fn options(account: &Account, target: &Abilities, lost: &mut Vec<String>) -> String {
    let mut sql = String::new();
    match &account.tls {
        Tls::None => {}
        Tls::Any => sql.push_str(" REQUIRE SSL"),
        Tls::X509 => sql.push_str(" REQUIRE X509"),
        Tls::Specified(parts) => {
            let named = ["CIPHER", "ISSUER", "SUBJECT"].into_iter().zip(parts);
            let named = named.filter(|(_, part)| !part.is_empty());
            let asked: Vec<String> = named.map(|(name, part)| format!("{name} {}", quoted(part))).collect();
            let _ = write!(sql, " REQUIRE {}", asked.join(" AND "));
        }
    }
    let names =
        ["MAX_QUERIES_PER_HOUR", "MAX_UPDATES_PER_HOUR", "MAX_CONNECTIONS_PER_HOUR", "MAX_USER_CONNECTIONS"];
    let limits = names.into_iter().zip(account.limits).filter(|(_, limit)| *limit != 0);
    let mut limits: Vec<String> = limits.map(|(name, limit)| format!("{name} {limit}")).collect();
    if account.statement_s > 0.0 {
        let limit = format!("MAX_STATEMENT_TIME {}", account.statement_s);
        if target.is_mariadb() {
            limits.push(limit);
        } else {
            lost.push(format!("the target has no {limit}"));
        }
    }
    if !limits.is_empty() {
        let _ = write!(sql, " WITH {}", limits.join(" "));
    }
    if target.locks() {
        match (account.expired, account.lifetime_days) {
            (true, _) => sql.push_str(" PASSWORD EXPIRE"),
            (false, Some(0)) => sql.push_str(" PASSWORD EXPIRE NEVER"),
            (false, Some(days)) => {
                let _ = write!(sql, " PASSWORD EXPIRE INTERVAL {days} DAY");
            }
            (false, None) => {}
        }
        if account.locked {
            sql.push_str(" ACCOUNT LOCK");
        }
    } else if account.lifetime_days.is_some_and(|days| days > 0) {
        lost.push("the target can't be told when its password expires".to_owned());
    }
    if target.dialect.is_mysql_8() {
        sql.push_str(&policy(&account.policy));
        if let Some(metadata) = &account.metadata {
            let _ = write!(sql, " ATTRIBUTE {}", quoted(metadata));
        }
    } else {
        if account.policy != Policy::default() {
            lost.push(
                "the target has no rules for its new passwords and failed logins (PASSWORD HISTORY, REUSE, REQUIRE \
                 CURRENT, FAILED_LOGIN_ATTEMPTS)"
                    .to_owned(),
            );
        }
        if account.metadata.is_some() {
            lost.push("the target has no COMMENT and ATTRIBUTE of accounts".to_owned());
        }
    }
    sql
}

fn policy(policy: &Policy) -> String {
    let mut sql = String::new();
    if let Some(history) = policy.history {
        let _ = write!(sql, " PASSWORD HISTORY {history}");
    }
    if let Some(days) = policy.reuse_days {
        let _ = write!(sql, " PASSWORD REUSE INTERVAL {days} DAY");
    }
    if let Some(is_required) = policy.require_current {
        let optional = if is_required { "" } else { " OPTIONAL" };
        let _ = write!(sql, " PASSWORD REQUIRE CURRENT{optional}");
    }
    if let Some(attempts) = policy.failed_attempts {
        let _ = write!(sql, " FAILED_LOGIN_ATTEMPTS {attempts}");
    }
    match policy.lock_days {
        Some(-1) => sql.push_str(" PASSWORD_LOCK_TIME UNBOUNDED"),
        Some(days) => {
            let _ = write!(sql, " PASSWORD_LOCK_TIME {days}");
        }
        None => {}
    }
    sql
}

/// A text in a session whose backslashes escape.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use config::AccountName;

    use super::*;

    const HASH: &str = "*B69027D44F6E5EDC07F1AEAD1477967B16F28227";

    fn able(family: Family, version: (u16, u16), plugins: &[&str]) -> Abilities {
        let plugins = plugins.iter().map(|&name| name.to_owned()).collect();
        Abilities { dialect: Dialect { family, version }, plugins }
    }

    fn account(plugin: &str, stored: &[u8]) -> Account {
        let way = Way { plugin: plugin.to_owned(), stored: Zeroizing::new(stored.to_vec()) };
        let name = AccountName { user: "app".into(), host: "%".into() };
        Account { name, ways: vec![way], ..Account::default() }
    }

    #[test]
    fn what_opens_an_account_is_carried_as_it_is() {
        let mariadb = able(Family::MariaDb, (10, 11), &[NATIVE, "ed25519"]);
        let mysql = able(Family::MySql, (9, 7), &[SHA2, SHA256]);
        let old = able(Family::MySql, (5, 6), &[NATIVE, SHA256]);
        let check = |account: &Account, target: &Abilities, sql: &str, lost: usize| {
            let made = create(account, target);
            assert_eq!((made.sql.as_str(), made.lost.len()), (sql, lost), "{:?}", made.lost);
            assert!(!made.shown.contains('*') && !made.lost.concat().contains('*'), "{}", made.shown);
        };
        let native = account(NATIVE, HASH.as_bytes());
        check(
            &native,
            &mariadb,
            &format!("CREATE USER 'app'@'%' IDENTIFIED VIA mysql_native_password USING '{HASH}'"),
            0,
        );
        check(
            &native,
            &mysql,
            "CREATE USER 'app'@'%' IDENTIFIED WITH caching_sha2_password BY RANDOM PASSWORD",
            1,
        );
        check(&native, &old, &format!("GRANT USAGE ON *.* TO 'app'@'%' IDENTIFIED BY PASSWORD '{HASH}'"), 0);
        check(
            &account(SHA2, b"$A\x00'"),
            &mysql,
            "CREATE USER 'app'@'%' IDENTIFIED WITH caching_sha2_password AS 0x24410027",
            0,
        );
        check(
            &account(SHA2, b"$A"),
            &mariadb,
            &format!("CREATE USER 'app'@'%' IDENTIFIED VIA mysql_native_password USING '{NOBODYS_HASH}'"),
            1,
        );
        check(&account(NATIVE, b""), &mysql, "CREATE USER 'app'@'%'", 0);
        let mut two = account("ed25519", b"k");
        two.ways.extend(account("pam", b"").ways);
        check(&two, &mariadb, "CREATE USER 'app'@'%' IDENTIFIED VIA ed25519 USING 'k'", 1);
        let locked = Account { locked: true, ..account(NATIVE, HASH.as_bytes()) };
        check(
            &locked,
            &old,
            &format!("GRANT USAGE ON *.* TO 'app'@'%' IDENTIFIED BY PASSWORD '{NOBODYS_HASH}'"),
            1,
        );
    }

    #[test]
    fn what_an_account_is_held_to_comes_along() {
        let mysql = able(Family::MySql, (9, 7), &[SHA2]);
        let held = Account {
            tls: Tls::Specified([String::new(), "/CN=it's".into(), "/CN=x".into()]),
            limits: [1, 0, 0, 4],
            statement_s: 1.5,
            locked: true,
            lifetime_days: Some(90),
            policy: Policy { failed_attempts: Some(3), lock_days: Some(-1), ..Policy::default() },
            metadata: Some("{\"comment\":\"x\"}".into()),
            ..account(SHA2, b"$")
        };
        let made = create(&held, &mysql);
        assert_eq!(
            made.sql.as_str(),
            "CREATE USER 'app'@'%' IDENTIFIED WITH caching_sha2_password AS 0x24 REQUIRE ISSUER '/CN=it''s' AND SUBJECT \
             '/CN=x' WITH MAX_QUERIES_PER_HOUR 1 MAX_USER_CONNECTIONS 4 PASSWORD EXPIRE INTERVAL 90 DAY ACCOUNT LOCK \
             FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME UNBOUNDED ATTRIBUTE '{\"comment\":\"x\"}'"
        );
        assert_eq!(made.lost, ["the target has no MAX_STATEMENT_TIME 1.5"]);
    }
}
