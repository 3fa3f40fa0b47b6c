//! What there is to move, and what is in its place already.

use std::collections::{BTreeMap, HashSet};

use config::progress::{Finding, Severity};
use config::{Config, Side, TableName};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};
use crate::recopy::not_at_one_position;
use crate::schema::convert::{Dialects, collation_on, differences, same_name};
use crate::schema::discover::{Discovery, SchemaDefaults, discover};
use crate::schema::table::TableSchema;

/// Names in one message at most; the rest is a number.
const NAMES_MAX: usize = 10;

fn finding(severity: Severity, subject: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity, subject: subject.into(), message: message.into() }
}

/// The first names and how many more there are.
pub(crate) fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What is wrong with, or worth knowing of, what the source holds.
pub(super) fn judge(found: &Discovery, cascades_in_binlog: bool, one_family: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for schema in &found.missing_schemas {
        let there = "There is no such schema on the source, or the account may not see it; correct \
                     migration.schemas.";
        findings.push(finding(Severity::Fatal, format!("schema {schema}"), there));
    }
    for schema in &found.own_schemas {
        let own =
            "It belongs to the server or to Changeover and isn't moved; take it out of migration.schemas.";
        findings.push(finding(Severity::Fatal, format!("schema {schema}"), own));
    }
    if found.tables.is_empty() {
        let none = "There is no table to move: none in these schemas that exclude_tables leaves, or none that the \
                    account may see.";
        findings.push(finding(Severity::Fatal, "migration", none));
    }
    for table in &found.tables {
        for problem in &table.problems {
            findings.push(finding(Severity::Fatal, format!("table {}", table.schema.name), problem));
        }
    }
    findings.extend(foreign_parents(found));
    findings.extend(cascades(found, cascades_in_binlog));
    findings.extend(keyless(found));
    findings.extend(objects(found, one_family));
    if !found.excluded.is_empty() {
        let names: Vec<String> = found.excluded.iter().map(TableName::to_string).collect();
        let message = format!(
            "{} tables are left out by exclude_tables: {}.",
            names.len(),
            some_of(names.iter().map(String::as_str))
        );
        findings.push(finding(Severity::Note, "exclude_tables", message));
    }
    findings
}

/// A table whose parent stays behind could never take a row on the target.
fn foreign_parents(found: &Discovery) -> Vec<Finding> {
    let moved: HashSet<&TableName> = found.tables.iter().map(|table| &table.schema.name).collect();
    let keys =
        found.tables.iter().flat_map(|table| table.schema.foreign_keys.iter().map(move |key| (table, key)));
    let orphans = keys.filter(|(_, key)| !moved.contains(&key.parent));
    orphans
        .map(|(table, key)| {
            let message = format!(
                "Its foreign key {} refers to {}, which isn't moved; move that table as well, exclude this one, or \
                 drop the key.",
                key.name, key.parent
            );
            finding(Severity::Fatal, format!("table {}", table.schema.name), message)
        })
        .collect()
}

fn cascades(found: &Discovery, in_binlog: bool) -> Option<Finding> {
    if in_binlog {
        return None;
    }
    let names: Vec<String> = found
        .tables
        .iter()
        .filter(|table| table.schema.has_cascading_children)
        .map(|table| table.schema.name.to_string())
        .collect();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "Other tables refer to {} with ON DELETE or ON UPDATE actions, which this source doesn't log; the target \
         carries them out itself. An update of a referenced key while the copy is replayed stops the migration.",
        some_of(names.iter().map(String::as_str))
    );
    Some(finding(Severity::Note, "foreign keys", message))
}

/// The tables whose rows nothing tells apart: they are moved, and it should be known at what price.
fn keyless(found: &Discovery) -> Option<Finding> {
    let names: Vec<String> = without_key(found).map(TableName::to_string).collect();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "{} have no primary key and no unique key of NOT NULL columns. Each is copied in one read of its own, from its \
         first row on after an interruption, and every update and delete of a row reads the target's table unless an \
         index serves it. They are verified as a whole, and can't be repaired row by row.",
        some_of(names.iter().map(String::as_str))
    );
    Some(finding(Severity::Note, "tables without a key", message))
}

/// Where the source doesn't log whole rows, each table is copied as it is at one position.
pub(super) fn judge_at_one_position(found: &Discovery, cascades_in_binlog: bool) -> Vec<Finding> {
    not_at_one_position(&found.tables, cascades_in_binlog)
        .map(|(table, why)| finding(Severity::Fatal, format!("table {table}"), why))
        .collect()
}

/// Tables that are moved without a key.
pub(super) fn without_key(found: &Discovery) -> impl Iterator<Item = &TableName> {
    let keyless = found.tables.iter().filter(|table| table.schema.keyless && table.problems.is_empty());
    keyless.map(|table| &table.schema.name)
}

/// What is made on the target, when, and what isn't moved: nobody should find that out afterwards. `one_family`: both
/// servers are of one.
fn objects(found: &Discovery, one_family: bool) -> Vec<Finding> {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for object in &found.objects {
        kinds.entry(&object.kind).or_default().push(format!("{}.{}", object.schema, object.name));
    }
    kinds
        .into_iter()
        .map(|(kind, names)| {
            let (number, named) = (names.len(), some_of(names.iter().map(String::as_str)));
            let (severity, message) = match kind {
                "view" | "procedure" | "function" => (
                    Severity::Note,
                    format!(
                        "{number} of them are made on the target with the tables, where both servers are of one family: \
                         {named}. One that can't be made there is named in SHOW EVENTS."
                    ),
                ),
                "trigger" | "event" if one_family => (
                    Severity::Note,
                    format!(
                        "{number} of them are made on the target at the cutover, and dropped on the side that is left then: \
                         {named}. What they do before arrives as rows."
                    ),
                ),
                "trigger" | "event" => (
                    Severity::Warning,
                    format!(
                        "{number} of them aren't moved between two families of servers: {named}. What they do on the source \
                         arrives as rows; make them on the target behind the cutover."
                    ),
                ),
                _ => (
                    Severity::Warning,
                    format!(
                        "{number} of them aren't moved yet and have to be created on the target by hand before the cutover: \
                         {named}. Tables whose defaults use them can't be made on the target."
                    ),
                ),
            };
            finding(severity, format!("{kind}s"), message)
        })
        .collect()
}

/// What the target holds where the tables are to be. Nothing is there, or the same tables without a row.
pub(super) async fn check_target(
    target: &mut Conn,
    config: &Config,
    source: &Discovery,
    dialects: Dialects,
    resuming: bool,
) -> Result<Vec<Finding>> {
    if resuming {
        return Ok(Vec::new());
    }
    // Under the same names and without the exclusions: an excluded table with rows is one in these schemas too.
    let mut migration = config.migration.clone();
    migration.schemas = source.schemas.iter().map(|schema| schema.name.clone()).collect();
    migration.exclude_tables.clear();
    if migration.schemas.is_empty() {
        return Ok(Vec::new());
    }
    let names = config.migration.rename.on(Side::Target);
    let there = discover(Side::Target, target, &migration, &names).await?;
    let mut findings = Vec::new();
    if !there.unnamed.is_empty() {
        let tables: Vec<String> = there.unnamed.iter().map(TableName::to_string).collect();
        let message = format!(
            "It holds {}, under names that nothing of the source could have there (migration.rename), so a way back couldn't \
             follow what is written to them; drop or rename them there.",
            some_of(tables.iter().map(String::as_str))
        );
        findings.push(finding(Severity::Fatal, "target, migration.rename", message));
    }
    let mut empty = HashSet::new();
    let mut filled: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for table in &there.tables {
        let name = &table.schema.name;
        if has_rows(target, &table.schema).await? {
            let stored = table.schema.stored();
            filled.entry(&stored.schema).or_default().push(&stored.table);
        } else {
            empty.insert(name.clone());
        }
    }
    for (schema, tables) in filled {
        let message = format!(
            "The target already holds rows in {} of its tables ({}), which the copy would mix with the source's; \
             empty or drop them there, or choose another target.",
            tables.len(),
            some_of(tables.into_iter())
        );
        findings.push(finding(Severity::Fatal, format!("target, schema {schema}"), message));
    }
    for (name, what) in differences(&source.schema_set(), &there.schema_set(), dialects) {
        if empty.contains(&name) {
            let message = format!(
                "It is on the target, empty, but not as it is on the source: {what}; drop it there, it is made again."
            );
            findings.push(finding(Severity::Fatal, format!("table {name}"), message));
        }
    }
    for schema in &source.schemas {
        let wanted = collation_on(&schema.collation, dialects.target);
        let differs =
            |other: &&SchemaDefaults| other.name == schema.name && !same_name(&other.collation, &wanted);
        if let Some(other) = there.schemas.iter().find(differs) {
            let message = format!(
                "It is on the target with another default ({}, not {}), which tables made later would get; ALTER \
                 DATABASE there to make it the same.",
                other.collation, wanted
            );
            let subject = format!("schema {}", names.schema(&schema.name).as_ref().unwrap_or(&schema.name));
            findings.push(finding(Severity::Warning, subject, message));
        }
    }
    Ok(findings)
}

async fn has_rows(target: &mut Conn, table: &TableSchema) -> Result<bool> {
    let row: Option<u8> = target
        .query_first(format!("SELECT 1 FROM {} LIMIT 1", table.quoted()))
        .await
        .map_err(|e| Error::database(Side::Target, table.name.to_string(), &e))?;
    Ok(row.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(some_of(names.iter().map(String::as_str)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(some_of(["a", "b"].into_iter()), "a, b");
    }
}
