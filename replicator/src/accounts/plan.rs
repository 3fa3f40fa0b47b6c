//! What becomes of each account: pure, from what both servers said.

use std::collections::{BTreeMap, BTreeSet};

use config::progress::Conversion;
use config::{AccountName, Dialect, Family, SideNames, TableName};
use zeroize::Zeroizing;

use super::account::Account;
use super::creation::{Abilities, create};
use super::grant::{Grant, Scope, role_sql};
use super::privilege::{carried, expand};
use crate::schema::selection::Selection;
use config::pattern::like;

/// An account and what it may do by itself.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) account: Account,
    pub(super) grants: Vec<Grant>,
    /// So many lines of SHOW GRANTS weren't understood.
    pub(super) strange: usize,
}

/// What the plan is made from.
pub(super) struct Grounds<'a> {
    pub(super) source: Dialect,
    pub(super) target: Abilities,
    /// Schemas that are moved, as the source spells them.
    pub(super) schemas: Vec<String>,
    pub(super) selection: &'a Selection,
    /// What the target calls things.
    pub(super) names: SideNames,
    /// Wildcards in the schemas of the source's grants aren't any.
    pub(super) is_literal: bool,
    /// The accounts that the target has.
    pub(super) there: BTreeSet<AccountName>,
    /// Those that it has from this migration.
    pub(super) made: BTreeSet<AccountName>,
    /// Those that are to be made, or were.
    pub(super) taken: BTreeSet<AccountName>,
}

/// One statement that grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToGrant {
    pub(super) scope: Scope,
    /// None where the scope is a role.
    pub(super) privileges: BTreeSet<String>,
    pub(super) grantable: bool,
}

impl ToGrant {
    /// Some of its privileges, or all, for an account.
    pub(super) fn sql<'a>(&self, to: &Account, privileges: impl Iterator<Item = &'a String>) -> String {
        let to = role_sql(&to.name);
        let with = |what: &str| if self.grantable { format!(" WITH {what} OPTION") } else { String::new() };
        match &self.scope {
            Scope::Role(role) => format!("GRANT {} TO {to}{}", role_sql(role), with("ADMIN")),
            scope => {
                let privileges: Vec<&str> = privileges.map(String::as_str).collect();
                format!("GRANT {} ON {} TO {to}{}", privileges.join(", "), scope.sql(), with("GRANT"))
            }
        }
    }

    /// In words, for the operator.
    pub(super) fn shown(&self) -> String {
        shown(&self.scope, &self.privileges, self.grantable)
    }
}

/// What becomes of one account.
pub(super) struct Planned {
    pub(super) account: Account,
    /// None where the target has it already.
    pub(super) create: Option<Zeroizing<String>>,
    /// Empty where the target had it before.
    pub(super) grants: Vec<ToGrant>,
    /// What it should have, whoever made it.
    pub(super) wanted: Vec<ToGrant>,
    pub(super) default_roles: Vec<AccountName>,
    /// How it gets in, in words.
    pub(super) shown: String,
    /// It was there before, and isn't touched.
    pub(super) is_left: bool,
    /// The target can't have it: MariaDB's roles on another family.
    pub(super) is_impossible: bool,
    /// What isn't carried, and why: what, reason.
    pub(super) lost: Vec<(String, String)>,
    /// What is carried otherwise.
    pub(super) changed: Vec<(String, String)>,
}

/// Decides about one account.
pub(super) fn plan(holder: &Holder, grounds: &Grounds<'_>) -> Planned {
    let account = holder.account.clone();
    let creation = create(&account, &grounds.target);
    let is_impossible = account.is_role && grounds.target.dialect.family != Family::MariaDb;
    let mut planned = Planned {
        is_left: grounds.there.contains(&account.name) && !grounds.made.contains(&account.name),
        create: (!is_impossible && !grounds.there.contains(&account.name)).then_some(creation.sql),
        is_impossible,
        grants: Vec::new(),
        wanted: Vec::new(),
        default_roles: Vec::new(),
        shown: creation.shown,
        lost: Vec::new(),
        changed: Vec::new(),
        account,
    };
    if is_impossible {
        let why = "roles aren't carried between two families; grant what it gives directly".to_owned();
        planned.lost.push(("account".to_owned(), why));
        return planned;
    }
    if !planned.is_left {
        planned.lost.extend(creation.lost.into_iter().map(|why| ("account".to_owned(), why)));
    }
    if holder.strange > 0 {
        let why = "SHOW GRANTS says it in words that aren't understood; look at it there".to_owned();
        planned.lost.push((format!("{} privileges", holder.strange), why));
    }
    let mut held = held(holder, grounds.source, &mut planned.lost);
    if grounds.source.family != grounds.target.dialect.family {
        without_single_options(&mut held, &mut planned.lost);
    }
    for ((scope, grantable), privileges) in held {
        planned.add(grounds, scope, privileges, grantable);
    }
    for role in &planned.account.default_roles {
        let is_granted = |grant: &ToGrant| grant.scope == Scope::Role(role.clone());
        if planned.wanted.iter().any(is_granted) {
            planned.default_roles.push(role.clone());
        } else {
            let why = "the role isn't granted there".to_owned();
            planned.lost.push((format!("DEFAULT ROLE {}", role_sql(role)), why));
        }
    }
    if !planned.is_left {
        planned.grants.clone_from(&planned.wanted);
    }
    planned
}

/// Privileges by scope and by whether they may be passed on, ALL taken apart. What is taken away again in some schema isn't
/// carried at all: for a moment it would be more.
fn held(
    holder: &Holder,
    source: Dialect,
    lost: &mut Vec<(String, String)>,
) -> BTreeMap<(Scope, bool), BTreeSet<String>> {
    let mut all: BTreeMap<(Scope, bool), BTreeSet<String>> = BTreeMap::new();
    let revoked: BTreeSet<&String> =
        holder.grants.iter().filter(|grant| grant.is_revoke).flat_map(|grant| &grant.privileges).collect();
    for grant in holder.grants.iter().filter(|grant| !grant.is_revoke) {
        let mut privileges = expand(source, &grant.scope, &grant.privileges);
        if grant.scope == Scope::Global && !revoked.is_empty() {
            let partly: BTreeSet<String> =
                privileges.iter().filter(|name| revoked.contains(name)).cloned().collect();
            privileges.retain(|name| !partly.contains(name));
            if !partly.is_empty() {
                let why = "it is taken away again in some schemas (partial_revokes), which isn't carried";
                lost.push((shown(&Scope::Global, &partly, grant.grantable), why.to_owned()));
            }
        }
        all.entry((grant.scope.clone(), grant.grantable)).or_default().extend(privileges);
    }
    all
}

/// MySQL keeps for each dynamic privilege whether it may be passed on. MariaDB has one GRANT OPTION for all that an account may do
/// somewhere, so it gets that only where it stood behind all.
fn without_single_options(
    held: &mut BTreeMap<(Scope, bool), BTreeSet<String>>,
    lost: &mut Vec<(String, String)>,
) {
    let both: Vec<Scope> = held
        .keys()
        .filter(|(scope, grantable)| *grantable && held.contains_key(&(scope.clone(), false)))
        .map(|(scope, _)| scope.clone())
        .collect();
    for scope in both {
        let Some(privileges) = held.remove(&(scope.clone(), true)) else { continue };
        let why = "it would be for everything there, and not for these privileges alone".to_owned();
        lost.push((format!("GRANT OPTION of {}", shown(&scope, &privileges, false)), why));
        held.entry((scope, false)).or_default().extend(privileges);
    }
}

impl Planned {
    /// True where this migration makes it, or has made it.
    pub(super) fn is_ours(&self) -> bool {
        !self.is_left && !self.is_impossible
    }

    fn add(&mut self, grounds: &Grounds<'_>, scope: Scope, privileges: BTreeSet<String>, grantable: bool) {
        let is_nothing = privileges.iter().all(|name| name == "USAGE") && !grantable;
        if is_nothing && !matches!(scope, Scope::Role(_)) {
            return;
        }
        let said = shown(&scope, &privileges, grantable);
        let scopes = match placed(grounds, &scope) {
            Ok(scopes) => scopes,
            Err(why) => return self.lost.push((said, why)),
        };
        for (table, there) in gone_elsewhere(grounds, &scope) {
            let why = format!("of {table}, which is in {there} there (migration.rename); grant it by hand");
            self.lost.push((said.clone(), why));
        }
        if matches!(scope, Scope::Role(_)) {
            self.wanted.push(ToGrant { scope, privileges, grantable });
            return;
        }
        let (given, lost) = carried((grounds.source, grounds.target.dialect), &privileges);
        if !lost.is_empty() {
            let why = "the target has nothing that allows just this, and not more".to_owned();
            self.lost.push((shown(&scope, &lost, false), why));
        }
        if scopes != [scope.clone()] && !given.is_empty() {
            let others: Vec<String> = scopes.iter().map(|scope| shown(scope, &given, grantable)).collect();
            self.changed.push((said, others.join("; ")));
        }
        if given.is_empty() {
            return;
        }
        for scope in scopes {
            self.wanted.push(ToGrant { scope, privileges: given.clone(), grantable });
        }
    }

    /// For SHOW CONVERSIONS.
    pub(super) fn rows(&self) -> Vec<Conversion> {
        let row = |kind: &str, from: &str, to: String, lossy: bool| Conversion {
            schema: String::new(),
            object: role_sql(&self.account.name),
            kind: kind.to_owned(),
            source_definition: from.to_owned(),
            target_definition: to,
            lossy,
        };
        let plugins: Vec<&str> = self.account.ways.iter().map(|way| way.plugin.as_str()).collect();
        let from = if self.account.is_role { "a role".to_owned() } else { plugins.join(" or ") };
        let to = if self.is_impossible {
            String::new()
        } else if self.is_left {
            "is there already and left as it is; SHOW ACCOUNTS compares the password".to_owned()
        } else {
            format!("{}; grants: {}", self.shown, self.wanted.len())
        };
        let mut rows = vec![row("account", &from, to, false)];
        for (what, why) in &self.lost {
            let kind = if what == "account" { "account" } else { "privilege" };
            let from = if what == "account" { &from } else { what };
            rows.push(row(kind, from, format!("not carried: {why}"), true));
        }
        for (from, to) in &self.changed {
            rows.push(row("privilege", from, to.clone(), false));
        }
        rows
    }

    /// What an account that was there before has otherwise.
    pub(super) fn compare(&mut self, there: &Holder, target: Dialect) {
        let flat = |scope: &Scope, privileges: &BTreeSet<String>, grantable: bool| -> Vec<String> {
            let option = grantable.then(|| format!("GRANT OPTION on {}", scope.sql()));
            let role = matches!(scope, Scope::Role(_)).then(|| format!("role {}", scope.sql()));
            let each = privileges.iter().filter(|name| *name != "USAGE");
            each.map(|name| format!("{name} on {}", scope.sql())).chain(option).chain(role).collect()
        };
        let wanted: BTreeSet<String> = self
            .wanted
            .iter()
            .flat_map(|grant| flat(&grant.scope, &grant.privileges, grant.grantable))
            .collect();
        let has: BTreeSet<String> = there
            .grants
            .iter()
            .flat_map(|grant| {
                let privileges = expand(target, &grant.scope, &grant.privileges);
                flat(&grant.scope, &privileges, grant.grantable)
            })
            .collect();
        for missing in wanted.difference(&has) {
            self.lost.push((missing.clone(), "the account that is there already lacks it".to_owned()));
        }
        for more in has.difference(&wanted) {
            self.changed.push((String::new(), format!("the account that is there already has {more}")));
        }
        for (what, differs) in [
            ("locked", self.account.locked != there.account.locked),
            ("expired", self.account.expired != there.account.expired),
            ("TLS", self.account.tls != there.account.tls),
            ("limits", self.account.limits != there.account.limits),
        ] {
            if differs {
                let why = format!("{what}: the account that is there already has it otherwise");
                self.lost.push(("account".to_owned(), why));
            }
        }
    }
}

/// Where on the target a privilege is for; or why nowhere.
fn placed(grounds: &Grounds<'_>, scope: &Scope) -> Result<Vec<Scope>, String> {
    let one_family = grounds.source.family == grounds.target.dialect.family;
    let is_moved = |schema: &str| grounds.schemas.iter().any(|moved| moved == schema);
    let elsewhere = || "its schema isn't moved".to_owned();
    let nowhere = || "it has no counterpart there (migration.rename)".to_owned();
    match scope {
        Scope::Global => Ok(vec![Scope::Global]),
        Scope::Schema(pattern) => {
            let matching: Vec<&String> =
                grounds.schemas.iter().filter(|schema| fits(grounds, pattern, schema)).collect();
            let is_plain = matching.iter().any(|schema| escaped(schema) == *pattern);
            // Every schema moves, so the pattern means there what it means here.
            let stays = is_plain || (grounds.selection.schemas().is_none() && !grounds.is_literal);
            match matching.as_slice() {
                [] => Err(elsewhere()),
                _ if stays && grounds.names.is_plain() => Ok(vec![scope.clone()]),
                some => {
                    let there = some.iter().filter_map(|schema| grounds.names.schema(schema));
                    Ok(there.map(|schema| Scope::Schema(escaped(&schema))).collect())
                }
            }
        }
        Scope::Table(schema, _) if !is_moved(schema) => Err(elsewhere()),
        Scope::Table(schema, table) if grounds.selection.excludes(&TableName::new(schema, table)) => {
            Err("its table isn't moved".to_owned())
        }
        Scope::Routine(_, schema, _) if !is_moved(schema) => Err(elsewhere()),
        Scope::Routine(..) if !one_family => Err("routines aren't moved between two families".to_owned()),
        Scope::Role(_) if !one_family => {
            Err("roles aren't carried between two families; grant what it gives directly".to_owned())
        }
        Scope::Role(account) | Scope::Proxy(account)
            if !grounds.there.contains(account) && !grounds.taken.contains(account) =>
        {
            Err(format!("{} isn't among the accounts that are made, nor there already", role_sql(account)))
        }
        Scope::Table(schema, table) => {
            let there = grounds.names.table(&TableName::new(schema, table)).ok_or_else(nowhere)?;
            Ok(vec![Scope::Table(there.schema, there.table)])
        }
        Scope::Routine(kind, schema, name) => {
            let there = grounds.names.schema(schema).ok_or_else(nowhere)?;
            Ok(vec![Scope::Routine(kind.clone(), there, name.clone())])
        }
        Scope::Role(_) | Scope::Proxy(_) => Ok(vec![scope.clone()]),
    }
}

/// Tables of a schema that go to another one than the rest of it, and which.
fn gone_elsewhere(grounds: &Grounds<'_>, scope: &Scope) -> Vec<(TableName, String)> {
    let Scope::Schema(pattern) = scope else { return Vec::new() };
    let mut gone = grounds.names.schemas_of_tables();
    gone.retain(|(table, _)| fits(grounds, pattern, &table.schema));
    gone
}

fn fits(grounds: &Grounds<'_>, pattern: &str, schema: &str) -> bool {
    if grounds.is_literal {
        escaped(pattern) == escaped(schema) || pattern == escaped(schema)
    } else {
        like(pattern, schema)
    }
}

/// A schema's name as a pattern that only it fits.
fn escaped(schema: &str) -> String {
    schema.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%")
}

/// Privileges and what they are for, for the operator.
fn shown(scope: &Scope, privileges: &BTreeSet<String>, grantable: bool) -> String {
    let option = if grantable { " WITH GRANT OPTION" } else { "" };
    let names: Vec<&str> = privileges.iter().map(String::as_str).collect();
    match scope {
        Scope::Role(role) => format!("role {}", role_sql(role)),
        scope => format!("{} ON {}{option}", names.join(", "), scope.sql()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::grant::parse;
    use super::*;

    const MARIADB: Dialect = Dialect { family: Family::MariaDb, version: (10, 11) };
    const MYSQL: Dialect = Dialect { family: Family::MySql, version: (9, 7) };

    /// What `app` gets of these lines where the schemas `shop` and `my_shop` are moved; and what isn't carried.
    fn planned(source: Dialect, target: Dialect, lines: &[&str]) -> (Vec<String>, Vec<String>) {
        planned_under(SideNames::default(), source, target, lines)
    }

    /// The same where the target calls things by `names`.
    fn planned_under(
        names: SideNames,
        source: Dialect,
        target: Dialect,
        lines: &[&str],
    ) -> (Vec<String>, Vec<String>) {
        let selection = Selection::of_schemas(&["shop", "my_shop"]);
        let grounds = Grounds {
            source,
            target: Abilities { dialect: target, plugins: BTreeSet::new() },
            schemas: vec!["my_shop".to_owned(), "shop".to_owned()],
            selection: &selection,
            names,
            is_literal: false,
            there: BTreeSet::new(),
            made: BTreeSet::new(),
            taken: BTreeSet::new(),
        };
        let name = AccountName { user: "app".into(), host: "%".into() };
        let account = Account { name, ..Account::default() };
        let grants = lines.iter().map(|line| parse(&format!("{line} TO `app`@`%`")).unwrap()).collect();
        let mut planned = plan(&Holder { account, grants, strange: 0 }, &grounds);
        planned.lost.retain(|(what, _)| what != "account");
        let wanted = planned.wanted.iter().map(ToGrant::shown).collect();
        (wanted, planned.lost.into_iter().map(|(what, _)| what).collect())
    }

    #[test]
    fn a_grant_goes_under_the_name_that_its_schema_has_there() {
        let table = |schema, table| TableName::new(schema, table);
        let rules = vec![
            config::Rename::Schema { from: "shop".to_owned(), to: "my_store".to_owned() },
            config::Rename::Table { from: table("shop", "orders"), to: table("my_store", "purchases") },
            config::Rename::Table { from: table("shop", "log"), to: table("attic", "log") },
        ];
        let names = config::Names::new(rules).on(config::Side::Target);
        let check = |line: &str, wanted: &[&str], lost: usize| {
            let (got, left) = planned_under(names.clone(), MARIADB, MARIADB, &[line]);
            assert_eq!(
                (got.iter().map(String::as_str).collect::<Vec<_>>(), left.len()),
                (wanted.to_vec(), lost),
                "{line}"
            );
        };
        check("GRANT SELECT ON `shop`.*", &["SELECT ON `my\\_store`.*"], 1);
        check("GRANT SELECT ON `my\\_shop`.*", &["SELECT ON `my\\_shop`.*"], 0);
        check("GRANT SELECT ON `shop`.`orders`", &["SELECT ON `my_store`.`purchases`"], 0);
        check("GRANT SELECT ON `shop`.`log`", &["SELECT ON `attic`.`log`"], 0);
        check("GRANT SELECT ON `shop`.`purchases`", &[], 1);
        check("GRANT EXECUTE ON PROCEDURE `shop`.`orders`", &["EXECUTE ON PROCEDURE `my_store`.`orders`"], 0);
        check("GRANT SELECT ON *.*", &["SELECT ON *.*"], 0);
    }

    #[test]
    fn a_grant_goes_where_its_schema_goes() {
        let check = |line: &str, wanted: &[&str], lost: usize| {
            let (got, left) = planned(MARIADB, MARIADB, &[line]);
            assert_eq!(
                (got.iter().map(String::as_str).collect::<Vec<_>>(), left.len()),
                (wanted.to_vec(), lost)
            );
        };
        check("GRANT SELECT ON `shop`.*", &["SELECT ON `shop`.*"], 0);
        check("GRANT SELECT ON `my\\_shop`.*", &["SELECT ON `my\\_shop`.*"], 0);
        // An unescaped underscore fits other schemas as well, which may be there on the target.
        check("GRANT SELECT ON `my_shop`.*", &["SELECT ON `my\\_shop`.*"], 0);
        check("GRANT SELECT ON `%shop`.*", &["SELECT ON `my\\_shop`.*", "SELECT ON `shop`.*"], 0);
        check("GRANT SELECT ON `other`.*", &[], 1);
        check("GRANT SELECT ON `mysql`.`user`", &[], 1);
        check("GRANT EXECUTE ON PROCEDURE `other`.`p`", &[], 1);
        check("GRANT `r`", &[], 1);
        check("GRANT USAGE ON *.*", &[], 0);
    }

    #[test]
    fn what_may_be_passed_on_never_grows() {
        let lines = ["GRANT SELECT ON *.*", "GRANT SET_USER_ID ON *.*"];
        let passing = "GRANT SET_USER_ID ON *.* TO `app`@`%` WITH GRANT OPTION";
        assert!(parse(passing).unwrap().grantable);
        let (wanted, lost) = planned(MYSQL, MARIADB, &lines);
        assert_eq!((wanted, lost.len()), (vec!["SELECT, SET USER ON *.*".to_owned()], 0));
        let mut held = BTreeMap::new();
        held.insert((Scope::Global, false), BTreeSet::from(["SELECT".to_owned()]));
        held.insert((Scope::Global, true), BTreeSet::from(["SET_USER_ID".to_owned()]));
        let mut lost = Vec::new();
        without_single_options(&mut held, &mut lost);
        assert_eq!((held.len(), lost.len()), (1, 1));
        assert!(held.contains_key(&(Scope::Global, false)));
    }
}
