//! ADOPT ACCOUNT and RELEASE ACCOUNT: an account of the target gets a password of Changeover's own, or it is given up.
//! What that is for stands in [`crate::auth::adopted`].
//!
//! The target is given the hash of the password and never the password: it needn't be kept out of anybody's log.

use std::sync::Arc;
use std::time::Duration;

use config::{AccountName, Flavor, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::read::{roster_of, sentence};
use super::{Account, Roster};
use crate::auth::accounts::dial;
use crate::auth::adopted::{AdoptedAccounts, AdoptedError};
use crate::auth::sha_crypt::{self, SALT_LEN};
use crate::route::table::{Backend, RouteTable};

/// How long the target may take for the statement.
const WITHIN: Duration = Duration::from_secs(10);

/// What became of a statement about one account.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) account: String,
    /// What the operator has to run on the target.
    pub(crate) sql: Option<String>,
    pub(crate) note: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What a client proves to know the password of.
    hash: [u8; 20],
    /// The account exists on the target.
    exists: bool,
}

/// Adopts an account: remembers the source's hash, and gives the account its password on the target or, `by_hand`,
/// returns the statement for that. Saying it again does no harm. The error is a sentence for the operator.
pub(crate) async fn adopt(
    routes: &Arc<RouteTable>,
    name: &AccountName,
    by_hand: bool,
    within: Duration,
) -> Result<Adoption, String> {
    let (source, target) =
        tokio::try_join!(roster_of(routes, Side::Source, within), roster_of(routes, Side::Target, within))?;
    let plan = plan(&source, &target, name)?;
    let backend = Arc::clone(routes.backend(Side::Target));
    let (statement, before) = remember(&backend, name, &plan).await?;
    let grants = if plan.exists { "" } else { "; it has no privileges there yet" };
    if by_hand {
        let note = format!("remembered; run this on the target{grants}");
        return Ok(Adoption { account: name.to_string(), sql: Some(statement), note });
    }
    match tokio::time::timeout(WITHIN, run(&backend, &statement)).await {
        Ok(Ok(())) => {
            config::failpoint::hit("accounts.adopted");
            tracing::info!(area = "accounts", "the account {name} was adopted");
            let note = format!("adopted: on the target it has a password of Changeover's own{grants}");
            Ok(Adoption { account: name.to_string(), sql: None, note })
        }
        Ok(Err(refused @ mysql_async::Error::Server(_))) => {
            put_back(&backend, name, before).await?;
            Err(format!(
                "the target refuses to change the account: {}; grant the service account CREATE USER there, or say ADOPT \
                 ACCOUNT {} BY HAND and run the statement yourself. Nothing was changed",
                sentence(&refused),
                name
            ))
        }
        // Whether the statement arrived isn't known, and what is remembered is right if it did.
        Ok(Err(error)) => Err(uncertain(name, &sentence(&error))),
        Err(_) => Err(uncertain(name, &format!("no answer within {} ms", WITHIN.as_millis()))),
    }
}

/// Gives an account up: clients log in with what they show themselves again.
pub(crate) async fn release(routes: &RouteTable, name: &AccountName) -> Result<Adoption, String> {
    let before = change(routes.backend(Side::Target), name, None).await?;
    if before.is_none() {
        return Err(format!("{name} isn't adopted; SHOW ACCOUNTS says which are"));
    }
    tracing::info!(area = "accounts", "the account {name} was released");
    let note =
        "released; on the target it keeps Changeover's password until it is given another (ALTER USER)";
    Ok(Adoption { account: name.to_string(), sql: None, note: note.to_owned() })
}

fn uncertain(name: &AccountName, why: &str) -> String {
    let account = name.to_string();
    format!("whether the target has changed {account} isn't known ({why}): say ADOPT ACCOUNT {account} again")
}

/// Whether this account can be adopted, and how.
fn plan(source: &Roster, target: &Roster, name: &AccountName) -> Result<Plan, String> {
    let find = |roster: &Roster| -> Option<Account> {
        roster.accounts.iter().find(|account| account.is(&name.user, &name.host)).cloned()
    };
    let quoted = name.to_string();
    let account = find(source).ok_or_else(|| {
        format!("there is no account {quoted} on the source; SHOW ACCOUNTS lists those there are")
    })?;
    let is_service = |roster: &Roster| account.is(&roster.service.0, &roster.service.1);
    if account.is_servers_own() || is_service(source) || is_service(target) {
        return Err(format!("{quoted} is an account of the servers' or of Changeover's own"));
    }
    if name.user.is_empty() {
        return Err(
            "an account without a name isn't adopted: clients come to it by names of their own".to_owned()
        );
    }
    if account.ways.iter().all(|way| way.is_open()) {
        return Err(format!("{quoted} has no password on the source: none is needed on the target either"));
    }
    let hash = account.ways.iter().find_map(|way| way.native_hash()).ok_or_else(|| {
        format!(
            "{quoted} uses {} on the source, where a client says its password or can't prove it to Changeover; only \
             accounts of mysql_native_password are adopted",
            account.plugins()
        )
    })?;
    match target.version {
        Some(version) if version.at_least(Flavor::MySql, 8, 0) && !version.ocean_base => {}
        Some(version) => {
            return Err(format!(
                "the target is {version}, which has mysql_native_password: give the account the hash that SHOW CREATE \
                 USER or SHOW GRANTS prints on the source"
            ));
        }
        None => return Err("the target doesn't say its version".to_owned()),
    }
    Ok(Plan { hash, exists: find(target).is_some() })
}

/// Remembers the account; returns the statement that gives it the password, and what was remembered before.
async fn remember(
    backend: &Arc<Backend>,
    name: &AccountName,
    plan: &Plan,
) -> Result<(String, Option<[u8; 20]>), String> {
    let before = change(backend, name, Some(plan.hash)).await?;
    let statement = statement(&backend.adopted, name, plan).ok_or("the system gives no random numbers")?;
    Ok((statement, before))
}

fn statement(adopted: &AdoptedAccounts, name: &AccountName, plan: &Plan) -> Option<String> {
    let mut random = [0; SALT_LEN];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    let stored = sha_crypt::stored_for(&adopted.password(&name.user, &plan.hash)?, &random);
    let verb = if plan.exists { "ALTER" } else { "CREATE" };
    Some(format!("{verb} USER {} IDENTIFIED WITH caching_sha2_password AS '{stored}'", name))
}

async fn put_back(
    backend: &Arc<Backend>,
    name: &AccountName,
    before: Option<[u8; 20]>,
) -> Result<(), String> {
    change(backend, name, before).await.map(drop)
}

/// Changes what is remembered, where blocking on a file is allowed.
async fn change(
    backend: &Arc<Backend>,
    name: &AccountName,
    hash: Option<[u8; 20]>,
) -> Result<Option<[u8; 20]>, String> {
    let (backend, name) = (Arc::clone(backend), name.clone());
    let work = tokio::task::spawn_blocking(move || match hash {
        Some(hash) => backend.adopted.adopt(&name.user, &name.host, hash),
        None => backend.adopted.release(&name.user, &name.host),
    });
    let changed: Result<_, AdoptedError> = work.await.map_err(|_| "a bug; see the log".to_owned())?;
    changed.map_err(|error| error.to_string())
}

async fn run(backend: &Backend, statement: &str) -> Result<(), mysql_async::Error> {
    let mut conn: Conn = dial(Some(&backend.config)).await?;
    // The statement's quotes are written for a server that takes backslashes.
    conn.query_drop("SET SESSION sql_mode = ''").await?;
    conn.query_drop(statement).await?;
    // It is done; how the goodbye goes doesn't matter.
    let _ = conn.disconnect().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Way;
    use super::*;
    use config::ServerVersion;

    const X: &str = "*B69027D44F6E5EDC07F1AEAD1477967B16F28227";

    fn roster(version: &str, accounts: &[(&str, &str, &str)]) -> Roster {
        let account = |(user, plugin, stored): &(&str, &str, &str)| Account {
            user: (*user).into(),
            host: "%".into(),
            ways: vec![Way { plugin: (*plugin).into(), stored: stored.as_bytes().to_vec() }],
            ..Account::default()
        };
        Roster {
            accounts: accounts.iter().map(account).collect(),
            service: ("changeover".into(), "%".into()),
            version: ServerVersion::parse(version),
            ..Roster::default()
        }
    }

    #[test]
    fn only_what_needs_it_is_adopted() {
        let native = "mysql_native_password";
        let source = roster(
            "5.6.24",
            &[
                ("app", native, X),
                ("open", native, ""),
                ("old", "mysql_old_password", "0123456789abcdef"),
                ("changeover", native, X),
                ("", native, X),
            ],
        );
        let check = |version: &str, user: &str, expected: Result<bool, &str>| {
            let target = roster(version, &[("app", "caching_sha2_password", "$A$")]);
            let name = AccountName { user: user.into(), host: "%".into() };
            match (plan(&source, &target, &name), expected) {
                (Ok(plan), Ok(exists)) => assert_eq!(plan.exists, exists, "{user}"),
                (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains('*'), "{user}: {why}"),
                other => unreachable!("{user}: {other:?}"),
            }
        };
        check("9.7.0", "app", Ok(true));
        check("8.0.36", "app", Ok(true));
        check("9.7.0", "nobody", Err("there is no account 'nobody'@'%' on the source"));
        check("9.7.0", "open", Err("has no password on the source"));
        check("9.7.0", "old", Err("uses mysql_old_password on the source"));
        check("9.7.0", "changeover", Err("Changeover's own"));
        check("9.7.0", "", Err("without a name"));
        check("10.11.6-MariaDB", "app", Err("MariaDB 10.11.6, which has mysql_native_password"));
        check("5.7.25-OceanBase", "app", Err("which has mysql_native_password"));
        check("", "app", Err("doesn't say its version"));
        let target = roster("9.7.0", &[]);
        let name = AccountName { user: "app".into(), host: "%".into() };
        assert!(!plan(&source, &target, &name).unwrap().exists);
    }

    #[test]
    fn the_statement_holds_the_hash_and_not_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let adopted = AdoptedAccounts::open(folder.path()).unwrap();
        let name = AccountName { user: "it's".into(), host: "10.%".into() };
        let plan = Plan { hash: [7; 20], exists: true };
        let sql = statement(&adopted, &name, &plan).unwrap();
        let stored =
            sql.strip_prefix("ALTER USER 'it''s'@'10.%' IDENTIFIED WITH caching_sha2_password AS '").unwrap();
        let password = adopted.password("it's", &[7; 20]).unwrap();
        assert_eq!(sha_crypt::fits(&password, stored.trim_end_matches('\'').as_bytes()), Some(true));
        assert!(!sql.contains(password.expose_str().unwrap()));
    }
}
