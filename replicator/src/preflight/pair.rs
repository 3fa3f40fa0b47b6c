//! What the two servers are to each other: which pairs work, and what of a schema the target can't have as it is.

use config::progress::{Finding, Severity};
use config::{Config, Dialect, Family, ServerVersion};

use super::tables::some_of;
use crate::schema::convert::{Dialects, collation_on, definitions, same_name};
use crate::schema::discover::Discovery;
use crate::schema::table::TableSchema;
use config::pattern::like;

fn finding(severity: Severity, subject: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity, subject: subject.into(), message: message.into() }
}

/// Whether rows can be moved from one to the other, and what is left of the way back.
pub(super) fn judge(from: ServerVersion, to: ServerVersion) -> Vec<Finding> {
    let mut found = Vec::new();
    let (source, target) = (Dialect::of(from), Dialect::of(to));
    if source.family == Family::OceanBase {
        let what =
            "OceanBase without its binlog service has no binary log, so nothing can be followed from it.";
        found.push(finding(Severity::Fatal, "source", what));
        return found;
    }
    for (subject, version, dialect) in [("source", from, source), ("target", to, target)] {
        let known = match dialect.family {
            Family::MariaDb => dialect.version >= (10, 11),
            Family::MySql => {
                dialect.version >= (8, 0) || dialect.version == (5, 6) || dialect.version == (5, 7)
            }
            Family::OceanBase => true,
        };
        if !known {
            let what = format!(
                "It is {version}, which isn't supported: MariaDB 10.11 or later, MySQL 5.6, 5.7, 8.0 or later, and \
                 OceanBase as a target."
            );
            found.push(finding(Severity::Fatal, subject, what));
        }
    }
    if target.family == Family::OceanBase {
        let what = "OceanBase without its binlog service has no binary log: after the cutover nothing can be replicated \
                    back, and ROLLBACK CUTOVER is not possible.";
        found.push(finding(Severity::Warning, "target", what));
    } else if source.family == target.family && target.version < source.version {
        let what =
            format!("It is {to}, older than the source ({from}); types or collations may be missing there.");
        found.push(finding(Severity::Warning, "target", what));
    } else if source.family != target.family {
        let what = format!(
            "{from} and {to} are of two families: definitions are converted (SHOW CONVERSIONS lists how), and \
             applications may see other texts of errors, other plans and other functions."
        );
        found.push(finding(Severity::Note, "source and target", what));
    }
    found
}

/// Tables that have no counterpart, and what is lost by converting them without a yes.
pub(super) fn judge_definitions(config: &Config, found: &Discovery, dialects: Dialects) -> Vec<Finding> {
    let mut findings = Vec::new();
    let all = match definitions(found, dialects, &config.migration.rename) {
        Ok(all) => all,
        Err(error) => return vec![finding(Severity::Fatal, "definitions", format!("{error}."))],
    };
    let mut changed = 0;
    for (table, converted) in found.tables.iter().zip(all) {
        let name = table.schema.name.to_string();
        let subject = format!("table {name}");
        for problem in &converted.problems {
            findings.push(finding(Severity::Fatal, subject.clone(), problem.clone()));
        }
        changed += usize::from(!converted.conversions.is_empty());
        if config.migration.allow_lossy.iter().any(|pattern| like(pattern, &name)) {
            continue;
        }
        for lost in converted.conversions.iter().filter(|conversion| conversion.lossy) {
            let message = format!(
                "The target can't have the {} of {} ({}), so it would be lost; say yes to that with migration.allow_lossy \
                 = [\"{name}\"] (true: for every table), or exclude the table with exclude_tables.",
                lost.kind, lost.object, lost.source_definition
            );
            findings.push(finding(Severity::Fatal, subject.clone(), message));
        }
    }
    if changed > 0 {
        let message = format!(
            "{changed} tables are defined otherwise on the target; SHOW CONVERSIONS lists every change."
        );
        findings.push(finding(Severity::Note, "definitions", message));
    }
    findings.extend(looser_keys(found, dialects));
    findings
}

/// Unique text keys whose collation has another one on the target: values that it calls equal collide there.
fn looser_keys(found: &Discovery, dialects: Dialects) -> Option<Finding> {
    let loose = |table: &TableSchema| {
        table.unique_keys.iter().flat_map(|key| &key.columns).any(|column| {
            let collation = table.columns.get(*column).and_then(|column| column.collation.as_deref());
            collation.is_some_and(|name| !same_name(&collation_on(name, dialects.target), name))
        })
    };
    let names: Vec<String> = found
        .tables
        .iter()
        .filter(|table| loose(&table.schema))
        .map(|table| table.schema.name.to_string())
        .collect();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "Unique keys over text of {} compare by another collation on the target: values that it calls equal (in case, \
         accents or trailing spaces) collide there. Such a row stops the migration or is listed as a difference; none \
         is lost in silence.",
        some_of(names.iter().map(String::as_str))
    );
    Some(finding(Severity::Warning, "unique keys", message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn pairs() {
        let check = |from: &str, to: &str, expected: &[&str]| {
            let version = |text| ServerVersion::parse(text).unwrap();
            let found: Vec<String> = judge(version(from), version(to))
                .iter()
                .map(|finding| format!("{:?} {}", finding.severity, finding.subject))
                .collect();
            assert_eq!(found, expected, "{from} {to}");
        };
        let oceanbase = "5.7.25-OceanBase seekdb-v1.4.0.0";
        check("10.11.2-MariaDB", "10.11.6-MariaDB", &[]);
        check("5.6.24", "9.7.0", &[]);
        check("9.7.0", "8.4.0", &["Warning target"]);
        check("9.7.0", "10.11.2-MariaDB", &["Note source and target"]);
        check("5.6.24", oceanbase, &["Warning target"]);
        check(oceanbase, "9.7.0", &["Fatal source"]);
        check("5.5.60", "9.7.0", &["Fatal source"]);
        check("10.5.1-MariaDB", "9.7.0", &["Fatal source", "Note source and target"]);
    }
}
