//! Row filters: what they take, and what they can't be used with.

use config::progress::{Finding, Severity};
use config::{Config, FencePolicy, TableName};

use super::some_of;
use crate::schema::discover::{DiscoveredTable, Discovery};
use crate::schema::filter::rule_of;
use crate::schema::table::{ForeignKey, TableSchema};

/// What is to be said of the filters. `whole_rows`: the source logs whole row images; `cascades_in_binlog`: and what its
/// foreign keys do.
pub(super) fn judge(
    config: &Config,
    found: &Discovery,
    whole_rows: bool,
    cascades_in_binlog: bool,
) -> Vec<Finding> {
    let rules = &config.migration.rows;
    if rules.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut add = |severity, subject: String, message: String| {
        findings.push(Finding { severity, subject, message });
    };
    for rule in rules {
        let subject = || format!("rows of {}", rule.tables);
        let of = |table: &&DiscoveredTable| rule_of(rules, &table.schema.name) == Some(rule);
        let (with, without): (Vec<_>, Vec<_>) = found
            .tables
            .iter()
            .filter(of)
            .filter(|table| table.problems.is_empty())
            .partition(|table| table.schema.filter.is_some());
        if !found.tables.iter().any(|table| of(&table)) {
            let message = "No table matches that no rule before it has matched, so every row of all of them would be moved; \
                           correct migration.rows.";
            add(Severity::Fatal, subject(), message.to_owned());
        }
        if let Some((filter, table)) = with.first().and_then(|t| Some((t.schema.filter.as_ref()?, &t.schema)))
        {
            let condition = String::from_utf8_lossy(&filter.condition(table)).into_owned();
            let message = format!("Only the rows with {condition} are moved of {}.", names(&with));
            add(Severity::Note, subject(), message);
            if !whole_rows {
                let message = "The source logs row images that lack columns (binlog_row_image), so it isn't known of each \
                               change whether it is in the filter; SET GLOBAL binlog_row_image = 'FULL' there.";
                add(Severity::Fatal, subject(), message.to_owned());
            }
        }
        if !without.is_empty() {
            let message = format!(
                "{} have no column {}: every row of them is moved. Exclude those that hold other businesses' rows.",
                names(&without),
                rule.column
            );
            add(Severity::Warning, subject(), message);
        }
    }
    for (child, key, parent) in foreign_keys(found) {
        let subject = format!("table {}", child.name);
        let (key_name, parent_name) = (&key.name, &parent.name);
        if !cascades_in_binlog && acts_across(child, key, parent) {
            let message = format!(
                "Its foreign key {key_name} to {parent_name} has ON DELETE or ON UPDATE actions that this source doesn't log, \
                 and with migration.rows the target couldn't carry out the same: the rows of both tables that belong \
                 together aren't told by the key. Put the filter's column into the key, take the actions out of it, or \
                 exclude one of the tables."
            );
            add(Severity::Fatal, subject, message);
        } else if parent.filter.is_some() && !is_one_business(child, key, parent) {
            let message = format!(
                "Its foreign key {key_name} refers to {parent_name}, of which only some rows are moved. A row that refers to \
                 one that isn't comes without it, and the target's own checks may refuse later changes of it."
            );
            add(Severity::Warning, subject, message);
        }
    }
    if config.cutover.fence == FencePolicy::ReadOnly {
        let message = "The fence of a cutover is read_only, which holds every business on the old server, not only the one that \
                       is moved; where others go on there, set cutover.fence = \"accounts\" and name the business's own in \
                       cutover.fence_accounts, or \"none\".";
        add(Severity::Warning, "cutover.fence".to_owned(), message.to_owned());
    }
    if config.migration.reverse {
        let message = "On the way back rows return into tables that other businesses go on writing. A row whose key the old server \
                       has given to another business meanwhile stops the way back: let the new server take AUTO_INCREMENT \
                       values from elsewhere (auto_increment_offset and auto_increment_increment, or a higher start).";
        add(Severity::Note, "migration.rows".to_owned(), message.to_owned());
    }
    findings
}

fn names(tables: &[&DiscoveredTable]) -> String {
    let names: Vec<String> = tables.iter().map(|table| table.schema.name.to_string()).collect();
    some_of(names.iter().map(String::as_str))
}

fn foreign_keys(found: &Discovery) -> impl Iterator<Item = (&TableSchema, &ForeignKey, &TableSchema)> {
    let table = |name: &TableName| found.tables.iter().map(|t| &t.schema).find(|table| table.name == *name);
    let all = found.tables.iter().flat_map(|t| t.schema.foreign_keys.iter().map(move |key| (&t.schema, key)));
    all.filter_map(move |(child, key)| Some((child, key, table(&key.parent)?)))
}

/// True where the key itself says that a child and its parent are in their filters together.
fn is_one_business(child: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> bool {
    let (Some(own), Some(theirs)) = (&child.filter, &parent.filter) else { return false };
    let Some(column) = parent.columns.get(theirs.column()) else { return false };
    let mut pairs = key.columns.iter().zip(&key.parent_columns);
    own.takes_the_same_values(theirs)
        && pairs.any(|(mine, there)| *mine == own.column() && there.eq_ignore_ascii_case(&column.name))
}

/// True where an action of the key may bring a row into a filter or take it out of one, or act on rows whose cause isn't
/// moved.
fn acts_across(child: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> bool {
    if !key.cascades_on_delete && !key.cascades_on_update {
        return false;
    }
    let of_parent =
        parent.filter.is_some() && (key.cascades_on_update || !is_one_business(child, key, parent));
    let of_child = child.filter.as_ref().is_some_and(|filter| {
        let nullable = child.columns.get(filter.column()).is_some_and(|column| column.nullable);
        key.columns.contains(&filter.column()) && (key.cascades_on_update || nullable)
    });
    of_parent || of_child
}
