//! Accounts and what they may do (`migration.accounts`): made on the target before the views and routines that name them as
//! definers, and given their privileges behind these, since those on a routine need the routine.
//!
//! `read → plan → create → grant`. What an account may do on the target is never more than on the source, and what isn't carried is
//! named: beforehand by `check` and SHOW CONVERSIONS, and what the target refuses in SHOW EVENTS as well. An account that the target has
//! already is left as it is. Hashes go from one server to the other and nowhere else (invariant 8).

mod account;
mod book;
mod creation;
mod grant;
mod plan;
mod privilege;
mod read;
mod watch;

use std::collections::BTreeSet;

use config::progress::{Conversion, Finding, Severity};
use config::{AccountName, Config, Dialect, Family, Side, SideNames};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use self::account::Account;
use self::book::Book;
use self::grant::{Scope, role_sql};
use self::plan::{Grounds, Holder, Planned, plan};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::selection::Selection;
use crate::server::ServerInfo;

pub(crate) use self::watch::watch;

/// Accounts that belong to a server itself.
const OWN: &[&str] = &["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "debian-sys-maint"];
/// Where a server's own root comes from.
const LOCAL: &[&str] = &["localhost", "127.0.0.1", "::1"];
/// MariaDB's role of everybody.
const PUBLIC: &str = "PUBLIC";
/// Answers to CREATE USER whose text holds nothing of the statement.
const HARMLESS: [u16; 6] = [1044, 1045, 1227, 1396, 1524, 1819];

/// A server that is asked.
pub(crate) struct Asked<'a> {
    pub(crate) info: &'a ServerInfo,
    pub(crate) conn: &'a mut Conn,
}

/// What becomes of the accounts.
pub(crate) struct Accounts {
    planned: Vec<Planned>,
    /// Privileges of the service account on the target, which it can't pass on.
    cant_grant: BTreeSet<String>,
    may_create: bool,
    /// What of the source is no account that could be made, and why: name, reason.
    beside: Vec<(String, &'static str)>,
    target: Dialect,
}

/// True where an account is one of the migration's.
fn takes(config: &Config, user: &str, host: &str) -> bool {
    let is_own = OWN.contains(&user)
        || user.is_empty()
        || user == config.source.user
        || (user == "root" && LOCAL.contains(&host))
        || (user == PUBLIC && host.is_empty());
    !is_own && watch::is_named(&config.migration.accounts, user, host)
}

impl Accounts {
    /// Asks both servers and decides; changes nothing. `schemas` are those that are moved. None of it where the configuration
    /// takes no accounts.
    pub(crate) async fn plan(
        config: &Config,
        source: &mut Asked<'_>,
        target: &mut Asked<'_>,
        schemas: &[String],
    ) -> Result<Self> {
        let dialect = target.info.dialect();
        let mut all = Self {
            planned: Vec::new(),
            cant_grant: BTreeSet::new(),
            may_create: true,
            beside: Vec::new(),
            target: dialect,
        };
        if config.migration.accounts.is_empty() {
            return Ok(all);
        }
        let found = read::accounts(Side::Source, source.info, source.conn).await?;
        if found.iter().any(|account| account.is_role && account.name.user == PUBLIC) {
            let why = "what everybody may do there has to be granted on the target by hand";
            all.beside.push((PUBLIC.to_owned(), why));
        }
        let machine = read::hostname(Side::Source, source.conn).await?;
        let is_taken = |AccountName { user, host }: &AccountName| {
            takes(config, user, host) && !(user == "root" && *host == machine)
        };
        let found: Vec<Account> = found.into_iter().filter(|account| is_taken(&account.name)).collect();
        let there = read::accounts(Side::Target, target.info, target.conn).await?;
        let made = Book::read(&config.state_dir)?.made();
        let selection = Selection::new(&config.migration, SideNames::default(), source.info.folds_names);
        let grounds = Grounds {
            source: source.info.dialect(),
            target: read::abilities(Side::Target, target.info, target.conn).await?,
            schemas: schemas.to_vec(),
            selection: &selection,
            names: config.migration.rename.on(Side::Target),
            is_literal: read::schemas_are_literal(Side::Source, source.conn).await?,
            there: there.iter().map(|account| account.name.clone()).collect(),
            made,
            taken: found.iter().map(|account| account.name.clone()).collect(),
        };
        for account in found {
            match read::grants(Side::Source, source.conn, &account).await? {
                Some((grants, strange)) => {
                    all.planned.push(plan(&Holder { account, grants, strange }, &grounds));
                }
                None => {
                    let why = "its server doesn't count it as an account itself (skip_name_resolve)";
                    all.beside.push((role_sql(&account.name), why));
                }
            }
        }
        for planned in all.planned.iter_mut().filter(|planned| planned.is_left) {
            if let Some(account) = there.iter().find(|account| account.name == planned.account.name) {
                let (grants, strange) =
                    read::grants(Side::Target, target.conn, account).await?.unwrap_or_default();
                planned.compare(&Holder { account: account.clone(), grants, strange }, dialect);
            }
        }
        all.look_at_own(target).await?;
        Ok(all)
    }

    /// What the service account on the target may pass on. What its roles give isn't seen; then the server says so in the end.
    async fn look_at_own(&mut self, target: &mut Asked<'_>) -> Result<()> {
        let own = Account { name: read::own(Side::Target, target.conn).await?, ..Account::default() };
        let (grants, _) = read::grants(Side::Target, target.conn, &own).await?.unwrap_or_default();
        let global = |grant: &&grant::Grant| grant.scope == Scope::Global && !grant.is_revoke;
        let (mut has, mut passes) = (BTreeSet::new(), BTreeSet::new());
        for grant in grants.iter().filter(global) {
            let privileges = privilege::expand(self.target, &grant.scope, &grant.privileges);
            if grant.grantable {
                passes.extend(privileges.iter().cloned());
            }
            has.extend(privileges);
        }
        self.may_create = has.contains("CREATE USER");
        let wanted = self.planned.iter().flat_map(|planned| &planned.grants);
        let wanted = wanted.filter(|grant| !matches!(grant.scope, Scope::Proxy(_)));
        let names = wanted.flat_map(|grant| &grant.privileges).map(|name| name.split(" (").next());
        let names: BTreeSet<String> = names.flatten().map(str::to_owned).collect();
        self.cant_grant =
            names.into_iter().filter(|name| name != "USAGE" && !passes.contains(name)).collect();
        Ok(())
    }

    /// For SHOW CONVERSIONS: a row for each account, and one for each thing that isn't carried as it is.
    pub(crate) fn rows(&self) -> Vec<Conversion> {
        let mut rows: Vec<Conversion> = self.planned.iter().flat_map(Planned::rows).collect();
        rows.extend(self.beside.iter().map(|(name, why)| Conversion {
            schema: String::new(),
            object: name.clone(),
            kind: "account".to_owned(),
            source_definition: name.clone(),
            target_definition: format!("not carried: {why}"),
            lossy: true,
        }));
        rows
    }

    /// For `check`.
    pub(crate) fn findings(&self, user: &str) -> Vec<Finding> {
        let finding = |severity, subject: String, message| Finding { severity, subject, message };
        let mut findings = Vec::new();
        let to_make = self.planned.iter().filter(|planned| planned.is_ours()).count();
        if to_make > 0 && !self.may_create {
            let message = format!(
                "migration.accounts wants accounts made, which the account there may not do; GRANT CREATE USER ON *.* TO \
                 '{user}'@…."
            );
            findings.push(finding(Severity::Fatal, "target, accounts".to_owned(), message));
        }
        if !self.cant_grant.is_empty() {
            let names: Vec<&str> = self.cant_grant.iter().map(String::as_str).collect();
            let names = names.join(", ");
            let message = format!(
                "The account there can't pass on {names}, so accounts would lack these; GRANT {names} ON *.* TO \
                 '{user}'@… WITH GRANT OPTION."
            );
            findings.push(finding(Severity::Warning, "target, accounts".to_owned(), message));
        }
        for planned in self.planned.iter().filter(|planned| !planned.lost.is_empty()) {
            let lost: Vec<String> = planned
                .lost
                .iter()
                .map(|(what, why)| if what == "account" { why.clone() } else { format!("{what}: {why}") })
                .collect();
            let subject = format!("account {}", role_sql(&planned.account.name));
            let message = format!("Not everything of it is carried. {}.", lost.join(". "));
            findings.push(finding(Severity::Warning, subject, message));
        }
        for (name, why) in &self.beside {
            let message = format!("It isn't carried: {why}.");
            findings.push(finding(Severity::Warning, format!("account {name}"), message));
        }
        if !self.planned.is_empty() {
            let left = self.planned.iter().filter(|planned| planned.is_left).count();
            let message = format!(
                "{to_make} accounts would be made on the target, {left} are there already and left as they are; SHOW CONVERSIONS \
                 lists them."
            );
            findings.push(finding(Severity::Note, "accounts".to_owned(), message));
        }
        findings
    }

    /// Makes those that are missing. It can be repeated: `accounts.json` says which are this migration's before the first is made.
    pub(crate) async fn create(
        &mut self,
        config: &Config,
        source: &mut Asked<'_>,
        target: &mut Conn,
    ) -> Result<()> {
        if config.migration.accounts.is_empty() {
            return Ok(());
        }
        let mut book = Book::read(&config.state_dir)?;
        let missing = self.planned.iter().filter(|planned| planned.create.is_some());
        let digests = watch::digests(config, source.info, source.conn).await?;
        book.begin(missing.map(|planned| planned.account.name.clone()), digests);
        book.write(&config.state_dir)?;
        config::failpoint::hit("accounts.before_create");
        for planned in &mut self.planned {
            let Some(statement) = &planned.create else { continue };
            let made = target.query_drop(statement.as_str()).await;
            config::failpoint::hit("accounts.made");
            let Err(error) = made else { continue };
            let place = planned.account.name.to_string();
            let why = match &error {
                mysql_async::Error::Server(server) if !HARMLESS.contains(&server.code) => {
                    format!("the server answered {}", server.code)
                }
                _ => {
                    let error = Error::database(Side::Target, &place, &error);
                    if error.kind == ErrorKind::Transient {
                        return Err(error);
                    }
                    error.message
                }
            };
            tracing::warn!(area = "accounts", "{place} can't be made on the target: {why}");
            planned.lost.push(("account".to_owned(), format!("it can't be made: {why}")));
            planned.grants.clear();
            planned.default_roles.clear();
        }
        config::failpoint::hit("accounts.created");
        Ok(())
    }

    /// Gives them what they may do. It can be repeated.
    pub(crate) async fn grant(&mut self, target: &mut Conn) -> Result<()> {
        let roles_first = |grant: &plan::ToGrant| !matches!(grant.scope, Scope::Role(_));
        for planned in &mut self.planned {
            let mut grants = std::mem::take(&mut planned.grants);
            grants.sort_by_key(roles_first);
            for grant in &grants {
                let all = grant.sql(&planned.account, grant.privileges.iter());
                let Some(why) = run(target, &planned.account, &all).await? else { continue };
                // One that can't be given keeps the others out: each by itself.
                let mut refused = Vec::new();
                if grant.privileges.len() > 1 {
                    for one in &grant.privileges {
                        let sql = grant.sql(&planned.account, std::iter::once(one));
                        if let Some(why) = run(target, &planned.account, &sql).await? {
                            refused.push((format!("{one} ON {}", grant.scope.sql()), why));
                        }
                    }
                } else {
                    refused.push((grant.shown(), why));
                }
                for (what, why) in refused {
                    tracing::warn!(area = "accounts", "{} doesn't get {what}: {why}", planned.account.name);
                    planned.lost.push((what, why));
                }
            }
        }
        for planned in self.planned.iter_mut().filter(|planned| planned.is_ours()) {
            let Some(sql) = default_role(planned, self.target) else { continue };
            if let Some(why) = run(target, &planned.account, &sql).await? {
                planned.lost.push(("DEFAULT ROLE".to_owned(), why));
            }
        }
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let lacking: Vec<String> = self
            .planned
            .iter()
            .filter(|planned| !planned.lost.is_empty())
            .map(|planned| role_sql(&planned.account.name))
            .collect();
        let left = self.planned.iter().filter(|planned| planned.is_left).count();
        if !self.planned.is_empty() {
            let made = self.planned.iter().filter(|planned| planned.is_ours()).count();
            tracing::info!(
                area = "accounts",
                "{made} accounts made on the target; {left} were there and are left as they are"
            );
        }
        if !lacking.is_empty() {
            let which = crate::preflight::some_of(lacking.iter().map(String::as_str));
            tracing::warn!(
                area = "accounts",
                "not everything is carried of {which}; SHOW CONVERSIONS lists what isn't"
            );
        }
    }
}

/// Runs a statement without secrets. Why the server refuses it, if it does.
async fn run(target: &mut Conn, account: &Account, sql: &str) -> Result<Option<String>> {
    let Err(error) = target.query_drop(sql).await else { return Ok(None) };
    let error = Error::database(Side::Target, account.name.to_string(), &error);
    if error.kind == ErrorKind::Transient { Err(error) } else { Ok(Some(error.message)) }
}

fn default_role(planned: &Planned, target: Dialect) -> Option<String> {
    if planned.default_roles.is_empty() {
        return None;
    }
    let roles: Vec<String> = planned.default_roles.iter().map(role_sql).collect();
    let (roles, name) = (roles.join(", "), AccountName::to_string(&planned.account.name));
    Some(if target.family == Family::MariaDb {
        format!("SET DEFAULT ROLE {roles} FOR {name}")
    } else {
        format!("SET DEFAULT ROLE {roles} TO {name}")
    })
}
