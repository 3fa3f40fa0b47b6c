//! What would keep triggers and events from being made on the side that is about to serve, or from doing there what they do
//! where they are.

use std::collections::BTreeSet;

use config::{Config, Flavor, Side, SideNames};
use mysql_async::prelude::Queryable as _;

use super::{Backend, columns};
use crate::activation::{Kind, Listed};
use crate::error::{Error, Result};
use crate::schema::convert::{collation_on, same_name};
use crate::schema::selection::Selection;
use crate::schema::table::SchemaSet;

/// What the servers' own accounts can't be asked for.
const NO_SUCH_TABLE: [u16; 4] = [1142, 1143, 1146, 1370];

/// Every reason, each a sentence without its full stop. `from` serves. `tables`: those of the migration.
///
/// # Errors
/// A side can't be asked.
pub(crate) async fn obstacles(
    config: &Config,
    from: &Backend,
    there: &mut Backend,
    selection: &Selection,
    (to, found, tables): (Side, &[Listed], &SchemaSet),
) -> Result<Vec<String>> {
    let mut reasons = unseen(from, to.other(), selection);
    if found.is_empty() {
        return Ok(reasons);
    }
    if !config.migration.rows.is_empty() {
        reasons.push(format!(
            "triggers and events change sides with the application, and with migration.rows other businesses on the old \
             server would lose theirs, or get new ones: {}; drop them first, or exclude their tables",
            named(found.iter())
        ));
    }
    let names = config.migration.rename.on(to);
    if to == Side::Target {
        reasons.extend(lacking_columns(found, tables));
    }
    reasons.extend(lacking_privileges(there, to, found, &names));
    reasons.extend(definers(there, to, found).await?);
    reasons.extend(collations(there, to, found, &names).await?);
    reasons.extend(past(there, to, found).await?);
    reasons.extend(scheduler(from, there, to, found));
    Ok(reasons)
}

/// What works with columns that aren't moved would fail on the new server.
fn lacking_columns(found: &[Listed], tables: &SchemaSet) -> Vec<String> {
    let mut reasons = Vec::new();
    for table in tables.sorted() {
        for listed in found {
            let (words, on) = (listed.words(), listed.is_on(&table.name));
            let named = columns::named_columns(&table, &words);
            if !named.is_empty() && (on || columns::has(&words, &table.name.table)) {
                reasons.push(format!(
                    "{} names {} of {}, which the {} hasn't got (migration.columns); change or drop it",
                    listed.called(),
                    named.join(", "),
                    table.name,
                    Side::Target
                ));
            }
        }
    }
    reasons
}

/// What an account may not see would be left behind in silence (invariant 5).
fn unseen(from: &Backend, side: Side, selection: &Selection) -> Vec<String> {
    let lacks = |privilege: &&str| match selection.schemas_here() {
        Some(schemas) => !schemas.iter().all(|schema| from.grants.has(privilege, schema)),
        None => !from.grants.has_global(privilege),
    };
    let lacking: Vec<&str> = ["TRIGGER", "EVENT"].into_iter().filter(lacks).collect();
    let mut reasons = Vec::new();
    if !lacking.is_empty() {
        reasons.push(format!(
            "the account on the {side} lacks {} on the migration's schemas, so that it doesn't see what there is",
            lacking.join(", ")
        ));
    }
    reasons
}

/// True where events run on `from` and wouldn't on `there`.
pub(crate) fn turns_scheduler_on(from: &Backend, there: &Backend, found: &[Listed]) -> bool {
    found.iter().any(|listed| listed.enabled)
        && from.settings.is_on("event_scheduler")
        && !there.settings.is_on("event_scheduler")
}

/// The first few of them by name.
fn named<'a>(found: impl Iterator<Item = &'a Listed>) -> String {
    let names: Vec<String> = found.map(Listed::called).collect();
    super::tables::some_of(names.iter().map(String::as_str))
}

fn lacking_privileges(there: &Backend, to: Side, found: &[Listed], names: &SideNames) -> Vec<String> {
    let (grants, flavor) = (&there.grants, there.info.version.flavor);
    let mut reasons = Vec::new();
    let lacks: BTreeSet<(&str, String)> = found
        .iter()
        .filter_map(|listed| {
            let privilege = if listed.kind == Kind::Trigger { "TRIGGER" } else { "EVENT" };
            Some((privilege, listed.schema_on(names)?))
        })
        .filter(|(privilege, schema)| !grants.has(privilege, schema))
        .collect();
    for (privilege, schema) in lacks {
        reasons.push(format!("the account on the {to} lacks {privilege} on the schema {schema}"));
    }
    let any = |privileges: &[&str]| privileges.iter().any(|privilege| grants.has_global(privilege));
    let (definer, asked) = match flavor {
        Flavor::MariaDb => (&["SUPER", "SET USER"][..], "SET USER"),
        Flavor::MySql => {
            (&["SUPER", "SET_USER_ID", "SET_ANY_DEFINER"][..], "SET_ANY_DEFINER (before 8.2 SET_USER_ID)")
        }
    };
    if found.iter().any(|listed| listed.definer != there.account) && !any(definer) {
        reasons.push(format!(
            "the account on the {to} lacks {asked}, so it can't make them with their definers"
        ));
    }
    let trusted = match flavor {
        Flavor::MariaDb => any(&["SUPER", "BINLOG ADMIN"]),
        Flavor::MySql => any(&["SUPER"]),
    };
    let logged = there.settings.is_on("log_bin") && !there.settings.is_on("log_bin_trust_function_creators");
    if logged && !trusted && found.iter().any(|listed| listed.kind == Kind::Trigger) {
        reasons.push(format!(
            "the {to} takes triggers from an account without SUPER only with SET GLOBAL log_bin_trust_function_creators = 1"
        ));
    }
    reasons
}

/// A definer that isn't there makes every statement fail that meets the trigger.
async fn definers(there: &mut Backend, to: Side, found: &[Listed]) -> Result<Vec<String>> {
    let database = |error: mysql_async::Error| Error::database(to, "looking for definers", &error);
    let accounts: Vec<(Vec<u8>, Vec<u8>)> = match there.conn.query("SELECT User, Host FROM mysql.user").await
    {
        Ok(accounts) => accounts,
        // They can't be looked at; making them says what there is to say.
        Err(mysql_async::Error::Server(error)) if NO_SUCH_TABLE.contains(&error.code) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(database(error)),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let known: BTreeSet<String> =
        accounts.iter().map(|(user, host)| format!("{}@{}", text(user), text(host))).collect();
    let mut reasons = Vec::new();
    let wanted: BTreeSet<&str> = found.iter().map(|listed| listed.definer.as_str()).collect();
    let whose = |definer: &str| named(found.iter().filter(|listed| listed.definer == definer));
    for definer in
        wanted.iter().filter(|definer| !known.contains(**definer) && !known.contains(&format!("{definer}@")))
    {
        reasons.push(format!(
            "their definer {definer:?} has no account on the {to} ({}); create it there",
            whose(definer)
        ));
    }
    let strong: Vec<(Vec<u8>, Vec<u8>)> =
        match there.conn.query("SELECT USER, HOST FROM mysql.global_grants WHERE PRIV = 'SYSTEM_USER'").await
        {
            Ok(strong) => strong,
            Err(mysql_async::Error::Server(error)) if NO_SUCH_TABLE.contains(&error.code) => Vec::new(),
            Err(error) => return Err(database(error)),
        };
    if !there.grants.has_global("SYSTEM_USER") {
        let strong = strong.iter().map(|(user, host)| format!("{}@{}", text(user), text(host)));
        for definer in strong.filter(|definer| wanted.contains(definer.as_str())) {
            reasons.push(format!(
                "their definer {definer:?} has SYSTEM_USER on the {to} ({}), and only an account that has it too may name \
                 it; GRANT SYSTEM_USER to the account there",
                whose(&definer)
            ));
        }
    }
    Ok(reasons)
}

/// What was made under another default of its schema would get the present one.
async fn collations(
    there: &mut Backend,
    to: Side,
    found: &[Listed],
    names: &SideNames,
) -> Result<Vec<String>> {
    let defaults: Vec<(String, String)> = there
        .conn
        .query("SELECT SCHEMA_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA")
        .await
        .map_err(|error| Error::database(to, "reading the schemas", &error))?;
    let dialect = there.info.dialect();
    let differs = |listed: &&Listed| {
        let wanted = collation_on(&listed.database_collation, dialect);
        let called = listed.schema_on(names);
        defaults.iter().any(|(schema, own)| Some(schema) == called.as_ref() && !same_name(own, &wanted))
    };
    let which = named(found.iter().filter(differs));
    Ok((!which.is_empty())
        .then(|| {
            format!(
                "{which}: made when their schema had another default collation than it has on the {to}; make them anew where \
                 they serve, or ALTER DATABASE"
            )
        })
        .into_iter()
        .collect())
}

/// What would be dropped as soon as it is made, by the clock of the side that it is to be made on.
async fn past(there: &mut Backend, to: Side, found: &[Listed]) -> Result<Vec<String>> {
    let mut past = Vec::new();
    for listed in found {
        let Some((zone, ends)) = listed.ends() else { continue };
        let sql = format!("SELECT CONVERT_TZ({ends}, {zone}, '+00:00') <= UTC_TIMESTAMP()");
        let is_past: Option<Option<i64>> = there
            .conn
            .query_first(sql)
            .await
            .map_err(|error| Error::database(to, listed.called(), &error))?;
        if is_past.flatten() == Some(1) {
            past.push(listed);
        }
    }
    let which = named(past.into_iter());
    Ok((!which.is_empty())
        .then(|| {
            format!(
                "{which}: their time is past, so they can't be made on the {to}; let them run, or drop them"
            )
        })
        .into_iter()
        .collect())
}

fn scheduler(from: &Backend, there: &Backend, to: Side, found: &[Listed]) -> Option<String> {
    let which = named(found.iter().filter(|listed| listed.enabled));
    if which.is_empty() {
        return None;
    }
    let other = to.other();
    let (here, now) = (from.settings.is_on("event_scheduler"), there.settings.is_on("event_scheduler"));
    if !here && now {
        return Some(format!(
            "event_scheduler is off on the {other} and on on the {to}, so that {which} would begin to run; set both alike, or \
             ALTER EVENT … DISABLE on the {other}"
        ));
    }
    if !here || now {
        return None;
    }
    if there.settings.get("event_scheduler").is_some_and(|value| value.eq_ignore_ascii_case("DISABLED")) {
        return Some(format!(
            "event_scheduler of the {to} is DISABLED, which only a restart with event_scheduler = ON changes ({which})"
        ));
    }
    let may = match there.info.version.flavor {
        Flavor::MariaDb => there.grants.has_global("SUPER"),
        Flavor::MySql => ["SUPER", "SYSTEM_VARIABLES_ADMIN"].iter().any(|p| there.grants.has_global(p)),
    };
    (!may).then(|| {
        format!(
            "event_scheduler is on on the {other} and off on the {to}, and the account may not set it; SET GLOBAL \
             event_scheduler = ON there, for {which}"
        )
    })
}
