//! A session's state in the terms of another server: names and values of variables, words of sql_mode,
//! character sets and collations. Pure: what comes of it is tested as tables.
//!
//! What has no counterpart and changes what statements do pins the session; what has none and changes nothing
//! is left behind, and said in SHOW SESSIONS (`mapped`). docs/sessions.md has the tables for people.

mod sql_modes;
mod variables;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use config::dialect::{Dialect, Family};
use config::{SideNames, collation};

use super::pins::Pins;
use super::replay::{Context, Snapshot, UserValue, Variables};
use super::surroundings::SystemZone;
pub(crate) use variables::may_be_left;

/// What can't be said in the other server's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmapped {
    /// As a reason in SHOW SESSIONS.
    pub(crate) pin: Pins,
    /// Which; a name, never a value of the client's.
    pub(crate) what: String,
}

/// time_zone SYSTEM as what it is on the other server.
pub(crate) fn time_zone(
    variables: &mut Variables,
    system: &SystemZone,
    notes: &mut Vec<String>,
) -> Result<(), Unmapped> {
    let Some(Some(zone)) = variables.get_mut("time_zone") else { return Ok(()) };
    if !zone.eq_ignore_ascii_case(b"SYSTEM") {
        return Ok(());
    }
    match system {
        SystemZone::Same => {}
        SystemZone::As(there) => {
            notes.push(format!("time_zone SYSTEM as {there}"));
            *zone = there.clone().into_bytes();
        }
        SystemZone::Missing => {
            return Err(Unmapped { pin: Pins::FOREIGN_ZONE, what: "time_zone SYSTEM".to_owned() });
        }
    }
    Ok(())
}

/// `snapshot`, taken at `from`, in the terms of `to`; what changed on the way goes to `notes`.
pub(crate) fn snapshot(
    snapshot: &Snapshot,
    from: Dialect,
    to: Dialect,
    notes: &mut Vec<String>,
) -> Result<Snapshot, Unmapped> {
    let mut there = snapshot.clone();
    if from.is_same(to) {
        return Ok(there);
    }
    there.variables = all_variables(&snapshot.variables, &snapshot.inherited, from, to, notes)?;
    for value in there.user_variables.values_mut() {
        if let UserValue::Text { charset, collation, .. } = value {
            let old = std::mem::take(collation);
            *collation = map_collation(&old, to)?;
            *charset = map_charset(charset, to)?;
        }
    }
    Ok(there)
}

/// What the side with the names `to` calls a schema that is called so by `from`.
pub(crate) fn schema(schema: &[u8], from: &SideNames, to: &SideNames) -> Result<Vec<u8>, Unmapped> {
    if from.is_plain() && to.is_plain() {
        return Ok(schema.to_vec());
    }
    // Names of rules are ASCII, and no other name is another one there.
    let Ok(text) = std::str::from_utf8(schema) else { return Ok(schema.to_vec()) };
    let there = from.source_schema(text).and_then(|of_source| to.schema(&of_source));
    there.map(String::into_bytes).ok_or_else(|| Unmapped {
        pin: Pins::FOREIGN_SCHEMA,
        what: "the current schema (migration.rename)".to_owned(),
    })
}

/// What older statements were prepared under, in the schemas of the side with the names `to`.
pub(crate) fn schemas_of_contexts(
    contexts: &mut BTreeMap<u64, Context>,
    from: &SideNames,
    to: &SideNames,
) -> Result<(), Unmapped> {
    for here in contexts.values_mut().filter_map(|context| context.schema.as_mut()) {
        *here = schema(here, from, to)?;
    }
    Ok(())
}

/// What older statements were prepared under, in the terms of `to`.
pub(crate) fn contexts(
    contexts: &BTreeMap<u64, Context>,
    from: Dialect,
    to: Dialect,
) -> Result<BTreeMap<u64, Context>, Unmapped> {
    if from.is_same(to) {
        return Ok(contexts.clone());
    }
    let map = |(version, context): (&u64, &Context)| {
        let variables = all_variables(&context.variables, &BTreeSet::new(), from, to, &mut Vec::new())?;
        Ok((*version, Context { schema: context.schema.clone(), variables }))
    };
    contexts.iter().map(map).collect()
}

fn all_variables(
    variables: &Variables,
    inherited: &BTreeSet<String>,
    from: Dialect,
    to: Dialect,
    notes: &mut Vec<String>,
) -> Result<Variables, Unmapped> {
    let mut there = Variables::new();
    for (name, value) in variables {
        // Nobody asked for it: the old server's own value, which the new one can't have.
        let of_text = name.starts_with("character_set_") || name.starts_with("collation_");
        if of_text && inherited.contains(name) && !has_text(value.as_deref(), to) {
            notes.push(format!("without {name}"));
            continue;
        }
        let text = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        let mapped = match (name.as_str(), text) {
            ("sql_mode", Some(mode)) => {
                let unmapped =
                    |word: String| Unmapped { pin: Pins::FOREIGN_SQL_MODE, what: format!("sql_mode {word}") };
                sql_modes::sql_mode(mode, from, to, notes).map_err(unmapped)?
            }
            (_, Some(charset)) if name.starts_with("character_set_") => map_charset(charset, to)?,
            (_, Some(collation)) if name.starts_with("collation_") => {
                let mapped = map_collation(collation, to)?;
                // The same character set has two names.
                let plain = |name: &str| name.replacen("utf8_", "utf8mb3_", 1);
                if plain(&mapped) != plain(collation) {
                    notes.push(format!("{name} {collation} as {mapped}"));
                }
                mapped
            }
            _ => {
                match variables::variable(name, value.as_deref(), from, to) {
                    variables::Fate::Carried(name, value) => drop(there.insert(name, value)),
                    variables::Fate::Left(_) => notes.push(format!("without {name}")),
                }
                continue;
            }
        };
        there.insert(name.clone(), Some(mapped.into_bytes()));
    }
    Ok(there)
}

/// Whether the server has the character set or the collation.
fn has_text(name: Option<&[u8]>, to: Dialect) -> bool {
    let name = name.and_then(|name| std::str::from_utf8(name).ok());
    name.is_none_or(|name| collation::collation(name, to).is_some())
}

fn map_charset(name: &str, to: Dialect) -> Result<String, Unmapped> {
    let unmapped = || Unmapped { pin: Pins::FOREIGN_CHARSET, what: format!("the character set {name}") };
    collation::charset(name, to).ok_or_else(unmapped)
}

fn map_collation(name: &str, to: Dialect) -> Result<String, Unmapped> {
    let unmapped = || Unmapped { pin: Pins::FOREIGN_CHARSET, what: format!("the collation {name}") };
    collation::collation(name, to).ok_or_else(unmapped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    pub(super) const MARIADB: Dialect = Dialect { family: Family::MariaDb, version: (10, 11) };
    pub(super) const MYSQL_9_7: Dialect = Dialect { family: Family::MySql, version: (9, 7) };
    pub(super) const MYSQL_5_6: Dialect = Dialect { family: Family::MySql, version: (5, 6) };
    pub(super) const OCEANBASE: Dialect = Dialect { family: Family::OceanBase, version: (5, 7) };

    #[test]
    fn a_whole_snapshot() {
        let text = |charset: &str, collation: &str| UserValue::Text {
            charset: charset.to_owned(),
            collation: collation.to_owned(),
            literal: "x'41'".to_owned(),
        };
        let value = |text: &str| Some(text.as_bytes().to_vec());
        let here = Snapshot {
            variables: [
                ("sql_mode".to_owned(), value("STRICT_TRANS_TABLES,TIME_TRUNCATE_FRACTIONAL")),
                ("collation_connection".to_owned(), value("utf8mb4_0900_ai_ci")),
                ("character_set_results".to_owned(), None),
                ("max_execution_time".to_owned(), value("20")),
            ]
            .into(),
            user_variables: [(b"s".to_vec(), text("utf8mb4", "utf8mb4_0900_ai_ci"))].into(),
            ..Snapshot::default()
        };
        let mut notes = Vec::new();
        let there = snapshot(&here, MYSQL_9_7, MARIADB, &mut notes).unwrap();
        assert_eq!(
            there.variables,
            [
                ("sql_mode".to_owned(), value("STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER")),
                ("collation_connection".to_owned(), value("utf8mb4_uca1400_nopad_ai_ci")),
                ("character_set_results".to_owned(), None),
                ("max_statement_time".to_owned(), value("0.020")),
            ]
            .into()
        );
        let collation = text("utf8mb4", "utf8mb4_uca1400_nopad_ai_ci");
        assert_eq!(there.user_variables, [(b"s".to_vec(), collation)].into());
        assert_eq!(notes, ["collation_connection utf8mb4_0900_ai_ci as utf8mb4_uca1400_nopad_ai_ci"]);
        assert_eq!(snapshot(&here, MYSQL_9_7, MYSQL_9_7, &mut notes).unwrap(), here);
        let own = value("latin1");
        let started = Snapshot {
            variables: [("character_set_server".to_owned(), own)].into(),
            inherited: ["character_set_server".to_owned()].into(),
            ..Snapshot::default()
        };
        notes.clear();
        assert!(snapshot(&started, MYSQL_9_7, OCEANBASE, &mut notes).unwrap().variables.is_empty());
        assert_eq!(notes, ["without character_set_server"]);
        let mut latin1 = here;
        latin1.user_variables = [(b"s".to_vec(), text("latin1", "latin1_bin"))].into();
        let unmapped = snapshot(&latin1, MYSQL_9_7, OCEANBASE, &mut notes).unwrap_err();
        assert_eq!(unmapped.pin, Pins::FOREIGN_CHARSET);
        assert!(unmapped.what.contains("latin1"), "{}", unmapped.what);
    }

    #[test]
    fn the_zone_of_the_system_is_the_old_one_s() {
        let zone = |name: &str| Variables::from([("time_zone".to_owned(), Some(name.into()))]);
        let mut notes = Vec::new();
        let berlin = SystemZone::As("Europe/Berlin".to_owned());
        for (here, system, there) in [
            ("SYSTEM", &berlin, "Europe/Berlin"),
            ("SYSTEM", &SystemZone::Same, "SYSTEM"),
            ("+02:00", &berlin, "+02:00"),
            ("+02:00", &SystemZone::Missing, "+02:00"),
        ] {
            let mut variables = zone(here);
            time_zone(&mut variables, system, &mut notes).unwrap();
            assert_eq!(variables, zone(there), "{here} {system:?}");
        }
        assert_eq!(notes, ["time_zone SYSTEM as Europe/Berlin"]);
        let unmapped = time_zone(&mut zone("SYSTEM"), &SystemZone::Missing, &mut notes).unwrap_err();
        assert_eq!(unmapped.pin, Pins::FOREIGN_ZONE);
    }
}
