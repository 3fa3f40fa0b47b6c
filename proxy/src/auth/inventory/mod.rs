//! Which accounts' sessions can move: the accounts of both servers side by side.
//!
//! [`compare`] is pure. What it can't know it doesn't claim: two stored hashes of caching_sha2_password have
//! different salts, so whether they are of one password is only known where they are equal to the byte, or where a live
//! session showed the password and it fits.

mod account;
mod adopt;
mod host;
mod read;
pub(in crate::auth) use read::native_of_document;
#[cfg(test)]
mod tests;

pub(crate) use account::{Account, Way};
pub(crate) use adopt::{Adoption, adopt, release};
pub(crate) use host::may_take;
pub(crate) use read::{Survey, accounts, survey};

use std::collections::HashMap;

use config::ServerVersion;

use self::account::Fit;
use super::Credential;
use super::adopted::AdoptedAccounts;
use super::plugin::Plugin;
use super::sha_crypt;

/// Credentials of live sessions that one SHOW ACCOUNTS checks against stored hashes: each takes milliseconds.
const CHECKS_MAX: usize = 64;

/// The accounts of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    /// All of them, the server's own and the service account among them.
    pub(crate) accounts: Vec<Account>,
    /// User and host of the service account.
    pub(crate) service: (String, String),
    /// What the server calls the host that Changeover connects from. Empty where it sees the clients' own addresses.
    pub(crate) seen: String,
    /// True where a fence can be made with `super_read_only`, which holds everybody.
    pub(crate) has_super_read_only: bool,
    /// Family and version of the server.
    pub(crate) version: Option<ServerVersion>,
}

/// A roster in which a user's accounts are found at once.
struct Indexed<'a> {
    roster: &'a Roster,
    by_user: HashMap<&'a str, Vec<&'a Account>>,
}

impl<'a> Indexed<'a> {
    fn new(roster: &'a Roster) -> Self {
        let mut by_user: HashMap<&str, Vec<&Account>> = HashMap::new();
        for account in &roster.accounts {
            by_user.entry(&account.user).or_default().push(account);
        }
        Self { roster, by_user }
    }

    fn of_user(&self, user: &str) -> &[&'a Account] {
        self.by_user.get(user).map_or(&[], Vec::as_slice)
    }

    /// Those that may let in who comes from where Changeover does.
    fn reachable(&self, user: &str) -> impl Iterator<Item = &'a Account> {
        let seen = &self.roster.seen;
        self.of_user(user).iter().copied().filter(move |account| host::may_take(&account.host, seen))
    }
}

/// A user with live sessions.
#[derive(Debug, Clone)]
pub(crate) struct LiveUser {
    pub(crate) user: String,
    pub(crate) sessions: usize,
    /// What its sessions logged in with, each once.
    pub(crate) credentials: Vec<Credential>,
}

/// Different credentials of one user that are kept.
const CREDENTIALS_MAX: usize = 4;

impl LiveUser {
    /// A user without sessions.
    pub(crate) fn new(user: String) -> Self {
        Self { user, sessions: 0, credentials: Vec::new() }
    }

    /// One of its sessions logged in with this.
    pub(crate) fn saw(&mut self, credential: Credential) {
        let is_new = !self.credentials.iter().any(|known| known.is_same(&credential));
        if is_new && self.credentials.len() < CREDENTIALS_MAX {
            self.credentials.push(credential);
        }
    }
}

/// A row of SHOW ACCOUNTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountRow {
    pub(crate) account: String,
    pub(crate) source_plugin: String,
    /// `None`: the account doesn't exist there.
    pub(crate) target_plugin: Option<String>,
    /// `None`: it can't be known yet.
    pub(crate) ready: Option<bool>,
    /// Why, what to do, and what else there is to know.
    pub(crate) note: String,
}

/// A row for each application account of the source.
pub(crate) fn compare(
    source: &Roster,
    target: &Roster,
    live: &[LiveUser],
    adopted: &AdoptedAccounts,
) -> Vec<AccountRow> {
    let mut left = CHECKS_MAX;
    let (source, target) = (Indexed::new(source), Indexed::new(target));
    let service = &source.roster.service;
    let mut rows: Vec<AccountRow> = source
        .roster
        .accounts
        .iter()
        .filter(|account| !account.is_servers_own() && !account.is(&service.0, &service.1))
        .map(|account| {
            let user = live.iter().find(|live| live.user == account.user);
            let seen = user.map_or(&[][..], |live| &live.credentials);
            let here = attributed(&source, account, seen, &mut left);
            let password = |there: &Account, left: &mut usize| {
                by_adoption(account, there, adopted, left)
                    .unwrap_or_else(|| passwords(account, there, &here, left))
            };
            row(&source, &target, account, password, &mut left)
        })
        .collect();
    rows.sort_unstable_by(|a, b| a.account.cmp(&b.account));
    rows
}

/// Users with live sessions that have no account on the target: their sessions can't move. Only those of which that
/// is certain.
pub(crate) fn absent<'a>(target: &Roster, live: &'a [LiveUser]) -> Vec<&'a LiveUser> {
    let target = Indexed::new(target);
    // A session of an unknown user may be let in by an anonymous account.
    let exists = |user: &str| target.reachable(user).chain(target.reachable("")).next().is_some();
    live.iter().filter(|live| !exists(&live.user)).collect()
}

/// Those of a user's live credentials that are of this account: its hash says so, or there is no other account that
/// they could be of.
fn attributed<'a>(
    source: &Indexed<'_>,
    account: &Account,
    credentials: &'a [Credential],
    left: &mut usize,
) -> Vec<&'a Credential> {
    if credentials.is_empty() {
        return Vec::new();
    }
    let mut reachable = source.reachable(&account.user);
    if let (Some(only), None) = (reachable.next(), reachable.next())
        && only.host == account.host
    {
        return credentials.iter().collect();
    }
    credentials.iter().filter(|credential| best_fit(account, credential, left) == Fit::Yes).collect()
}

/// The best that a credential can do with an account.
fn best_fit(account: &Account, credential: &Credential, left: &mut usize) -> Fit {
    let mut best = Fit::No;
    for way in account.usable_ways() {
        if *left == 0 {
            return Fit::Unknown;
        }
        *left -= 1;
        match (way.fit(credential), best) {
            (Fit::Yes, _) => return Fit::Yes,
            (fit, Fit::No) => best = fit,
            _ => {}
        }
    }
    best
}

fn row(
    source: &Indexed<'_>,
    target: &Indexed<'_>,
    account: &Account,
    password: impl FnOnce(&Account, &mut usize) -> (Option<bool>, String),
    left: &mut usize,
) -> AccountRow {
    let there =
        target.of_user(&account.user).iter().copied().find(|there| there.is(&account.user, &account.host));
    let mut reasons = in_the_way_on_the_source(account);
    let mut notes = Vec::new();
    let mut ready = None;
    match there {
        None => reasons.push(missing(target, account)),
        Some(there) => {
            reasons.extend(in_the_way_on_the_target(account, there));
            if reasons.is_empty() {
                let (known, why) = password(there, left);
                ready = known;
                notes.push(why);
                if account.names_certificate || there.names_certificate {
                    ready = known.filter(|known| !known);
                    notes.push(NAMES.to_owned());
                }
            }
        }
    }
    if !reasons.is_empty() {
        ready = Some(false);
    }
    reasons.append(&mut notes);
    reasons.extend(worth_knowing(source.roster, account));
    AccountRow {
        account: account.name(),
        source_plugin: account.plugins(),
        target_plugin: there.map(Account::plugins),
        ready,
        note: reasons.join("; "),
    }
}

fn missing(target: &Indexed<'_>, account: &Account) -> String {
    match target.reachable(&account.user).next() {
        Some(other) => {
            format!(
                "missing on the target, where its sessions would be taken for {}: create it",
                other.name()
            )
        }
        None => "missing on the target: create it there with the same password and privileges".to_owned(),
    }
}

const NAMES: &str = "it asks for a certificate of certain names (REQUIRE SUBJECT, ISSUER, CIPHER): whether Changeover's is \
                     one isn't looked at";
const FACTORS: &str = "more than one factor is asked for, and Changeover only has the password";
const TLS: &str = "it requires TLS or a certificate (REQUIRE), and Changeover shows none, or dials in plain TCP: set tls of \
                   that server in the configuration, for a certificate also cert and key; or REQUIRE NONE for the time of \
                   the move";

fn in_the_way_on_the_source(account: &Account) -> Vec<String> {
    let mut reasons = Vec::new();
    if account.factors {
        reasons.push(format!("on the source {FACTORS}"));
    }
    if account.requires_tls {
        reasons.push(format!("on the source {TLS}"));
    }
    // A locked account has no use of a password; a role of MySQL is one.
    if !account.locked && account.usable_ways().next().is_none() {
        reasons.push(unspoken("source", account));
    }
    reasons
}

fn in_the_way_on_the_target(account: &Account, there: &Account) -> Vec<String> {
    let mut reasons = Vec::new();
    if there.locked && !account.locked {
        reasons.push("locked on the target: ALTER USER … ACCOUNT UNLOCK".to_owned());
    }
    if there.expired && !account.locked {
        reasons.push("its password is expired on the target: ALTER USER … IDENTIFIED BY …".to_owned());
    }
    if there.factors {
        reasons.push(format!("on the target {FACTORS}"));
    }
    if there.requires_tls {
        reasons.push(format!("on the target {TLS}"));
    }
    if !account.locked && there.usable_ways().next().is_none() {
        reasons.push(unspoken("target", there));
    }
    reasons
}

fn unspoken(side: &str, account: &Account) -> String {
    if account.ways.iter().all(|way| Plugin::of_account(&way.plugin).is_some()) {
        return format!("what the {side} keeps of its password is no hash, so no password fits");
    }
    format!(
        "Changeover can't log in with {} on the {side}: give the account caching_sha2_password (MySQL) or \
         mysql_native_password (MariaDB) there, see docs/accounts.md",
        account.plugins()
    )
}

/// Whether an adopted account still is what it was adopted as; `None` for one that isn't adopted.
fn by_adoption(
    account: &Account,
    there: &Account,
    adopted: &AdoptedAccounts,
    left: &mut usize,
) -> Option<(Option<bool>, String)> {
    const AGAIN: &str = "ADOPT ACCOUNT again, or RELEASE ACCOUNT";
    let hash = adopted.hash_of(&account.user, &account.host)?;
    if !account.ways.iter().any(|way| way.native_hash() == Some(hash)) {
        return Some((
            Some(false),
            format!("adopted, but its password on the source has changed since: {AGAIN}"),
        ));
    }
    let password = adopted.password(&account.user, &hash)?;
    let fits: Vec<Option<bool>> = there
        .usable_ways()
        .map(|way| {
            *left = left.checked_sub(1)?;
            sha_crypt::fits(&password, &way.stored)
        })
        .collect();
    Some(if fits.contains(&Some(true)) {
        (Some(true), "adopted: on the target it has a password of Changeover's own".to_owned())
    } else if fits.contains(&None) {
        (None, "adopted; not known whether it has Changeover's password on the target".to_owned())
    } else {
        (
            Some(false),
            format!(
                "adopted, but on the target it has another password than Changeover's: run the statement that ADOPT                  ACCOUNT … BY HAND gave, or {AGAIN}"
            ),
        )
    })
}

/// Whether the passwords that open an account on the source open it on the target, as far as it is known.
fn passwords(
    account: &Account,
    there: &Account,
    seen: &[&Credential],
    left: &mut usize,
) -> (Option<bool>, String) {
    let here: Vec<&Way> = account.usable_ways().collect();
    let there_ways: Vec<&Way> = there.usable_ways().collect();
    // Nothing stored is the same for every plugin.
    let same = |a: &Way, b: &Way| a.stored == b.stored && (a.is_open() || a.plugin == b.plugin);
    let carried = here.iter().filter(|way| there_ways.iter().any(|there| same(way, there))).count();
    if account.locked {
        return (Some(true), String::new());
    }
    if carried == here.len() {
        return (Some(true), "the password is the same".to_owned());
    }
    let all_open = |ways: &[&Way]| ways.iter().all(|way| way.is_open());
    let comparable = |way: &&Way| way.is_open() || way.usable() == Some(Plugin::Native);
    if carried == 0 && here.iter().all(comparable) && there_ways.iter().all(comparable) {
        let what = "the passwords differ: take the source's hash over, as SHOW CREATE USER there prints it";
        return (Some(false), what.to_owned());
    }
    if all_open(&here) != all_open(&there_ways) {
        let side = if all_open(&here) { "source" } else { "target" };
        return (Some(false), format!("the passwords differ: on the {side} there is none"));
    }
    by_live_sessions(account, there, seen, left)
}

fn by_live_sessions(
    account: &Account,
    there: &Account,
    seen: &[&Credential],
    left: &mut usize,
) -> (Option<bool>, String) {
    const TAKE_OVER: &str = "To be sure, take the source's hash over (CREATE USER … IDENTIFIED WITH … AS …), or log in \
                             through the proxy once and look again";
    // There is nothing to take over where the plugin can't be the same.
    const PROVE: &str = "To be sure, log in through the proxy once with a client that speaks caching_sha2_password and \
                         look again; where there is none, ADOPT ACCOUNT";
    let takes_hash = |way: &Way| there.usable_ways().any(|there| there.plugin == way.plugin);
    let way_out = if account.usable_ways().any(takes_hash) { TAKE_OVER } else { PROVE };
    let fits: Vec<Fit> = seen.iter().map(|credential| best_fit(there, credential, left)).collect();
    let has = |fit| fits.contains(&fit);
    let plugins = there.plugins();
    if has(Fit::NeedsPassword) {
        return (
            Some(false),
            format!(
                "on the target it uses {plugins}, for which the password itself is needed, and a session that is \
                 logged in now only showed mysql_native_password's answer: connect with a client that speaks \
                 caching_sha2_password, or ADOPT ACCOUNT"
            ),
        );
    }
    if has(Fit::No) {
        return (
            Some(false),
            "the password of a session that is logged in now isn't the target's: the passwords differ"
                .to_owned(),
        );
    }
    if !fits.is_empty() && !has(Fit::Unknown) {
        return (
            Some(true),
            "checked with the password of a session that is logged in: the target has the same".to_owned(),
        );
    }
    (None, format!("not known: the hashes can't be compared ({plugins} on the target). {way_out}"))
}

fn worth_knowing(source: &Roster, account: &Account) -> Vec<String> {
    let mut notes = Vec::new();
    if account.locked {
        notes.push("locked on the source: nobody logs in with it".to_owned());
    } else if account.expired {
        notes.push("its password is expired on the source".to_owned());
    }
    if !account.locked && !account.past_read_only.is_empty() {
        let with = account.past_read_only.join(", ");
        notes.push(if source.has_super_read_only {
            format!("it may write in spite of read_only ({with}); only super_read_only holds it at the cutover")
        } else {
            format!("it may write in spite of read_only ({with}): the cutover's fence doesn't hold it, REVOKE that")
        });
    }
    if !host::may_take(&account.host, &source.seen) {
        notes.push(format!("not for sessions through the proxy, which connects from {}", source.seen));
    }
    notes
}
