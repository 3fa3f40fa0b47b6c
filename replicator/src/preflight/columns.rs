//! Column filters: what they leave out, and what still asks for it.

use config::progress::{Finding, Severity};
use config::{ColumnsConfig, MigrationConfig, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::some_of;
use crate::error::{Error, Result};
use crate::literal::text_literal;
use crate::schema::ddl::words;
use crate::schema::discover::{DiscoveredTable, Discovery};
use crate::schema::left_out::rule_of;
use crate::schema::table::TableSchema;

/// What is to be said of the filters.
pub(super) fn judge(migration: &MigrationConfig, found: &Discovery) -> Vec<Finding> {
    let rules = &migration.columns;
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| judge_rule(rules, rule, found)).collect();
    if !migration.reverse {
        return findings;
    }
    let mut comes_back = Vec::new();
    for table in found.tables.iter().filter(|table| !table.schema.left_out.is_empty()) {
        let name = table.schema.name.to_string();
        let Some(why) = &table.schema.left_out.no_way_back else {
            comes_back.push(name);
            continue;
        };
        let message = format!(
            "Behind a cutover there is no way back: {why}. CUTOVER is refused, and CUTOVER WITHOUT ROLLBACK isn't. Keep the \
             column, or make it nullable."
        );
        findings.push(Finding { severity: Severity::Warning, subject: format!("table {name}"), message });
    }
    if !comes_back.is_empty() {
        let message = format!(
            "On the way back the columns that aren't moved keep what is in them where a row of {} is updated, and get their \
             defaults where the new server inserts one: a row that is deleted and inserted again there has lost them. A CHECK \
             that a default doesn't hold stops the way back.",
            some_of(comes_back.iter().map(String::as_str))
        );
        findings.push(Finding { severity: Severity::Note, subject: "migration.columns".to_owned(), message });
    }
    findings
}

fn judge_rule(rules: &[ColumnsConfig], rule: &ColumnsConfig, found: &Discovery) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, message: String| {
        findings.push(Finding { severity, subject: format!("columns of {}", rule.tables), message });
    };
    let of = |table: &&DiscoveredTable| rule_of(rules, &table.schema.name) == Some(rule);
    let matched: Vec<&DiscoveredTable> = found.tables.iter().filter(of).collect();
    if matched.is_empty() {
        let message = "No table matches that no rule before it has matched, so every column of all of them would be moved; \
                       correct migration.columns.";
        add(Severity::Fatal, message.to_owned());
        return findings;
    }
    let (with, without): (Vec<_>, Vec<_>) =
        matched.into_iter().partition(|table| !table.schema.left_out.is_empty());
    let unknown = |name: &&String| !with.iter().any(|table| table.schema.left_out.has_column(name));
    let unknown: Vec<&str> = rule.exclude.iter().filter(unknown).map(String::as_str).collect();
    if !unknown.is_empty() {
        let message = format!(
            "No table that it matches has a column {}, so nothing would be left out for it; correct migration.columns.",
            some_of(unknown.into_iter())
        );
        add(Severity::Fatal, message);
    }
    for table in &with {
        let columns: Vec<&str> = table.schema.left_out.names().collect();
        let message = format!(
            "Of {} the column(s) {} aren't moved. The new server's table hasn't got them: what names them fails there, and \
             SELECT * has fewer columns.",
            table.schema.name,
            columns.join(", ")
        );
        add(Severity::Note, message);
    }
    if !without.is_empty() {
        let names: Vec<String> = without.iter().map(|table| table.schema.name.to_string()).collect();
        let message = format!(
            "{} have none of its columns and are moved whole.",
            some_of(names.iter().map(String::as_str))
        );
        add(Severity::Warning, message);
    }
    findings
}

/// Views and routines that name a column that isn't moved, and its table.
///
/// # Errors
/// The source can't be asked.
pub(super) async fn judge_objects(source: &mut Conn, found: &Discovery) -> Result<Vec<Finding>> {
    let less: Vec<&TableSchema> =
        found.tables.iter().map(|table| &table.schema).filter(|table| !table.left_out.is_empty()).collect();
    if less.is_empty() {
        return Ok(Vec::new());
    }
    let schemas: Vec<String> = found.schemas.iter().map(|schema| text_literal(&schema.name)).collect();
    let list = schemas.join(", ");
    let sql = format!(
        "SELECT 'view', TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA IN ({list}) \
         UNION ALL SELECT LOWER(ROUTINE_TYPE), ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_DEFINITION \
         FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA IN ({list})"
    );
    let rows: Vec<Row> = source
        .query(sql)
        .await
        .map_err(|error| Error::database(Side::Source, "reading views and routines", &error))?;
    let mut findings = Vec::new();
    for row in rows {
        let bytes =
            |at: usize| row.get_opt::<Option<Vec<u8>>, _>(at).and_then(std::result::Result::ok).flatten();
        let text = |at: usize| String::from_utf8_lossy(&bytes(at).unwrap_or_default()).into_owned();
        let words = words(&bytes(3).unwrap_or_default());
        for table in &less {
            let named = named_columns(table, &words);
            if named.is_empty() || !has(&words, &table.name.table) {
                continue;
            }
            let message = format!(
                "It names the column(s) {} of {}, which migration.columns leaves out: on the new server a view like this can't be \
                 made, and a routine fails where it comes to them. Change or drop it before the cutover.",
                named.join(", "),
                table.name
            );
            let subject = format!("{} {}.{}", text(0), text(1), text(2));
            findings.push(Finding { severity: Severity::Warning, subject, message });
        }
    }
    Ok(findings)
}

/// The columns that aren't moved among the words of a text.
pub(super) fn named_columns<'a>(table: &'a TableSchema, words: &[String]) -> Vec<&'a str> {
    table.left_out.names().filter(|name| has(words, name)).collect()
}

pub(super) fn has(words: &[String], name: &str) -> bool {
    let name = name.to_lowercase();
    words.iter().any(|word| word.to_lowercase() == name)
}
