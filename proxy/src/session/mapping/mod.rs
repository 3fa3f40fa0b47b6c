//! A session's state in the terms of another server: names and values of variables, words of sql_mode,
//! character sets and collations. Pure: what comes of it is tested as tables.
//!
//! What has no counterpart and changes what statements do pins the session; what has none and changes nothing
//! is left behind, and said in SHOW SESSIONS (`mapped`). docs/sessions.md has the tables for people.

mod sql_modes;
mod variables;

use std::collections::BTreeMap;

use config::collation;
pub(crate) use config::dialect::{Dialect, Family};

use super::pins::Pins;
use super::replay::{Context, Snapshot, UserValue, Variables};
pub(crate) use variables::may_be_left;

/// What can't be said in the other server's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmapped {
    /// As a reason in SHOW SESSIONS.
    pub(crate) pin: Pins,
    /// Which; a name, never a value of the client's.
    pub(crate) what: String,
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
    there.variables = all_variables(&snapshot.variables, from, to, notes)?;
    // OceanBase has no SYSTEM.
    if let (Family::OceanBase, Some(offset)) = (to.family, &snapshot.utc_offset)
        && let Some(Some(zone)) = there.variables.get_mut("time_zone")
        && zone == b"SYSTEM"
    {
        notes.push(format!("time_zone SYSTEM as {offset}"));
        *zone = offset.clone().into_bytes();
    }
    for value in there.user_variables.values_mut() {
        if let UserValue::Text { charset, collation, .. } = value {
            let old = std::mem::take(collation);
            *collation = map_collation(&old, to)?;
            *charset = map_charset(charset, to)?;
        }
    }
    Ok(there)
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
        let variables = all_variables(&context.variables, from, to, &mut Vec::new())?;
        Ok((*version, Context { schema: context.schema.clone(), variables }))
    };
    contexts.iter().map(map).collect()
}

fn all_variables(
    variables: &Variables,
    from: Dialect,
    to: Dialect,
    notes: &mut Vec<String>,
) -> Result<Variables, Unmapped> {
    let mut there = Variables::new();
    for (name, value) in variables {
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
        let mut latin1 = here;
        latin1.user_variables = [(b"s".to_vec(), text("latin1", "latin1_bin"))].into();
        let unmapped = snapshot(&latin1, MYSQL_9_7, OCEANBASE, &mut notes).unwrap_err();
        assert_eq!(unmapped.pin, Pins::FOREIGN_CHARSET);
        assert!(unmapped.what.contains("latin1"), "{}", unmapped.what);
    }
}
