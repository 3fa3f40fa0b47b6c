//! How the servers are set.

use std::collections::HashMap;

use config::progress::{Finding, Severity};
use config::{ServerVersion, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use crate::error::{Error, Result};
use crate::schema::discover::Discovery;
use crate::schema::table::TableSchema;
use crate::server::status_statement;

/// Logs that are kept for less than this may be gone after a longer interruption.
const KEPT_SHORT_S: f64 = 86_400.0;

/// SHOW GLOBAL VARIABLES.
#[derive(Debug, Default)]
pub(super) struct Settings(HashMap<String, String>);

impl Settings {
    pub(super) async fn read(side: Side, conn: &mut Conn) -> Result<Self> {
        let rows: Vec<(String, Vec<u8>)> = conn
            .query("SHOW GLOBAL VARIABLES")
            .await
            .map_err(|e| Error::database(side, "reading the server's settings", &e))?;
        let rows = rows
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(&value).into_owned()));
        Ok(Self(rows.collect()))
    }

    /// A setting, where the server has it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("ON"))
    }

    fn is_mariadb(&self) -> bool {
        self.get("gtid_strict_mode").is_some()
    }

    /// True where a session that says nothing else logs whole row images.
    pub(super) fn logs_whole_rows(&self) -> bool {
        !self.is_not("binlog_row_image", "FULL")
    }

    /// True where the server has the setting and it isn't that.
    fn is_not(&self, name: &str, wanted: &str) -> bool {
        self.get(name).is_some_and(|value| !value.eq_ignore_ascii_case(wanted))
    }
}

fn finding(severity: Severity, subject: &str, message: impl Into<String>) -> Finding {
    Finding { severity, subject: subject.to_owned(), message: message.into() }
}

/// The source's binlog must hold every change.
pub(super) fn judge_source(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut fatal = |subject: &str, message: String| found.push(finding(Severity::Fatal, subject, message));
    if !settings.is_on("log_bin") {
        fatal(
            "source, log_bin",
            "The binary log is off, so changes during the copy can't be followed; start the server with log_bin."
                .to_owned(),
        );
        return found;
    }
    if settings.is_not("binlog_format", "ROW") {
        fatal(
            "source, binlog_format",
            format!(
                "It is {} and must be ROW; SET GLOBAL binlog_format = 'ROW' (and in its configuration file), then \
                 let the applications reconnect: sessions keep the old format.",
                settings.get("binlog_format").unwrap_or_default()
            ),
        );
    }
    if settings.is_not("gtid_mode", "ON") && settings.is_not("gtid_mode", "OFF") {
        fatal(
            "source, gtid_mode",
            format!(
                "It is {}, between two settings, so transactions may have GTIDs or not; take it on to ON, or back to OFF, \
                 before the start.",
                settings.get("gtid_mode").unwrap_or_default()
            ),
        );
    }
    if settings.get("server_id") == Some("0") {
        fatal(
            "source, server_id",
            "It is 0, which serves no replica; SET GLOBAL server_id to another.".to_owned(),
        );
    }
    found.extend(short_history(settings));
    if !settings.logs_whole_rows() {
        let message = format!(
            "It is {}, so changes lack columns. Each table is copied in one read of its own, at a known position (MySQL: behind a \
             read lock of a moment), and its changes are applied one by one; with FULL, copy and tail are faster.",
            settings.get("binlog_row_image").unwrap_or_default()
        );
        found.push(finding(Severity::Note, "source, binlog_row_image", message));
        if settings.is_mariadb() {
            let message = "MariaDB logs a REPLACE that leaves columns out as an update without them, though they get their \
                           defaults: on the target they keep what they were, as on MariaDB's own replicas. The verifier \
                           finds such rows, REPAIR mends them, and no cutover happens before; without such statements, \
                           or with FULL in every session, there are none.";
            found.push(finding(Severity::Warning, "source, binlog_row_image", message));
        }
    }
    if settings.get("gtid_mode").is_some_and(|mode| mode.eq_ignore_ascii_case("OFF")) {
        let message = "It is OFF, so the server is followed by binlog file and offset. Leave gtid_mode as it is, and don't \
                       RESET or replace the server, until the migration is done: it would have to begin again.";
        found.push(finding(Severity::Note, "source, gtid_mode", message));
    }
    found
}

/// A spool that was kept from fetching for longer than the source keeps its logs can't go on.
fn short_history(settings: &Settings) -> Option<Finding> {
    let seconds = kept_s(settings).filter(|seconds| *seconds < KEPT_SHORT_S)?;
    let message = format!(
        "The binlog is kept for {seconds} s only. It is fetched at once, but after an interruption that lasts longer \
         the migration would have to start over."
    );
    Some(finding(Severity::Note, "source, binlog_expire_logs_seconds", message))
}

/// How long binlogs are kept; `None`: for ever, as far as time goes.
fn kept_s(settings: &Settings) -> Option<f64> {
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<f64>().ok()).filter(|v| *v > 0.0);
    number("binlog_expire_logs_seconds").or_else(|| number("expire_logs_days").map(|days| days * 86_400.0))
}

/// The target must take writes, and take them as they are.
pub(super) fn judge_target(settings: &Settings, ocean_base: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in ["super_read_only", "read_only"] {
        if settings.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("OFF")) {
            found.push(finding(
                Severity::Fatal,
                &format!("target, {name}"),
                format!("The target takes no writes; SET GLOBAL {name} = OFF there."),
            ));
        }
    }
    if settings.is_on("log_bin")
        && settings.get("binlog_format").is_some_and(|v| v.eq_ignore_ascii_case("STATEMENT"))
    {
        found.push(finding(
            Severity::Fatal,
            "target, binlog_format",
            "It is STATEMENT, with which the copy can't be loaded; SET GLOBAL binlog_format = 'ROW'.",
        ));
    }
    if ocean_base {
        return found;
    }
    if !settings.is_on("log_bin") {
        found.push(finding(
            Severity::Note,
            "target, log_bin",
            "The target's binary log is off: after the cutover nothing can replicate from it.",
        ));
    }
    if !settings.is_on("local_infile") {
        found.push(finding(
            Severity::Warning,
            "target, local_infile",
            "It is off, so rows are inserted instead of loaded, which is slower; SET GLOBAL local_infile = ON for \
             the time of the copy.",
        ));
    }
    found
}

/// Tables with fewer rows are loaded too soon for it to matter how many connections do it.
const LARGE_ROWS: u64 = 1_000_000;

/// LOAD DATA is a "bulk insert": with innodb_autoinc_lock_mode = 1, the default of MariaDB and of MySQL before 8.0, it holds the
/// AUTO-INC lock of the table to its end, whether or not it has values for the counter (the manuals, "AUTO_INCREMENT Handling
/// in InnoDB").
pub(super) fn judge_counters(target: &Settings, moved: &Discovery) -> Option<Finding> {
    let mode = target.get("innodb_autoinc_lock_mode").filter(|mode| matches!(*mode, "0" | "1"))?;
    let large = |table: &&TableSchema| table.rows_estimate >= LARGE_ROWS && table.auto_increment().is_some();
    let mut tables = moved.tables.iter().map(|table| &table.schema).filter(large);
    let first = &tables.next()?.name;
    let more = match tables.count() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let message = format!(
        "It is {mode}, so while rows are loaded into a table with AUTO_INCREMENT no other connection loads into it: a large one \
         ({first}{more}) is copied over one connection at a time, whatever snapshot.readers is. It can be set only at the server's \
         start; with 2 several load at once, which is safe where its binlog isn't of statements."
    );
    Some(finding(Severity::Note, "target, innodb_autoinc_lock_mode", message))
}

/// What a server has acknowledged it must have behind a crash of its machine, or nobody can keep the promise that no acknowledged
/// write is lost. A crash of the server's process alone loses nothing with any of these settings but 0 of the first.
pub(super) fn judge_durability(side: Side, settings: &Settings) -> Option<Finding> {
    let lax: Vec<String> = ["innodb_flush_log_at_trx_commit", "sync_binlog"]
        .into_iter()
        .filter(|name| *name != "sync_binlog" || settings.is_on("log_bin"))
        .filter(|name| settings.is_not(name, "1"))
        .map(|name| format!("{name} = {}", settings.get(name).unwrap_or_default()))
        .collect();
    if lax.is_empty() {
        return None;
    }
    let what = match side {
        Side::Source => "the two servers may then hold different rows: VERIFY finds them",
        Side::Target => {
            "rows that count as copied may then be missing, which the verifier finds; behind a cutover it is the application's"
        }
    };
    let message = format!(
        "{}: a crash of the server's machine may take acknowledged transactions with it, or leave them out of its binlog; {what}. \
         Set both to 1 where that matters.",
        lax.join(", ")
    );
    Some(finding(Severity::Note, &format!("{side}, durability"), message))
}

/// One name must mean one table on both.
pub(super) fn judge_names(source: &Settings, target: &Settings, moved: &Discovery) -> Option<Finding> {
    let folding = |settings: &Settings| settings.get("lower_case_table_names").map(str::to_owned);
    let (from, to) = (folding(source), folding(target));
    if from == to {
        return None;
    }
    let lowered = |name: &str| name.chars().all(|c| !c.is_uppercase());
    let tables = moved.tables.iter().map(|table| &table.schema.name);
    let all_lowered = tables.clone().all(|name| lowered(&name.schema) && lowered(&name.table));
    let (severity, what) = if all_lowered {
        (
            Severity::Warning,
            "every name that is moved is in small letters, so that none is ambiguous; statements that write them \
             otherwise are taken on one side only",
        )
    } else {
        (
            Severity::Fatal,
            "so one name could mean two things; it can be chosen only when the target's data folder is made, or \
             rename what has capital letters",
        )
    };
    let message =
        format!("It is {} and the source's is {}: {what}.", to.unwrap_or_default(), from.unwrap_or_default());
    Some(finding(severity, "target, lower_case_table_names", message))
}

/// A server may leave schemas out of its binlog; what is written there would be lost.
pub(super) async fn check_filters(
    version: ServerVersion,
    conn: &mut Conn,
    schemas: &[String],
) -> Result<Vec<Finding>> {
    let row: Option<Row> = conn
        .query_first(status_statement(version))
        .await
        .map_err(|e| Error::database(Side::Source, "reading the binlog filters", &e))?;
    let column = |name: &str| -> String {
        let row = row.as_ref();
        let index = row.and_then(|row| row.columns_ref().iter().position(|c| c.name_str() == name));
        let cell = index.and_then(|index| row.and_then(|row| row.get_opt::<String, _>(index)));
        cell.and_then(std::result::Result::ok).unwrap_or_default()
    };
    Ok(judge_filters(&column("Binlog_Do_DB"), &column("Binlog_Ignore_DB"), schemas))
}

fn judge_filters(do_db: &str, ignore_db: &str, schemas: &[String]) -> Vec<Finding> {
    let names = |list: &str| -> Vec<String> {
        list.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
    };
    let (only, ignored) = (names(do_db), names(ignore_db));
    let lost = |schema: &String| {
        let schema = schema.to_lowercase();
        (!only.is_empty() && !only.contains(&schema)) || ignored.contains(&schema)
    };
    // Without a list of schemas whatever isn't logged may be one of them.
    let harmful =
        if schemas.is_empty() { !only.is_empty() || !ignored.is_empty() } else { schemas.iter().any(lost) };
    let message = "The server leaves schemas of this migration out of its binlog (binlog_do_db, binlog_ignore_db), so \
                   their changes would be lost; take these options out of its configuration and restart it.";
    if harmful { vec![finding(Severity::Fatal, "source, binlog filters", message)] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{column, schema};
    use crate::schema::discover::DiscoveredTable;
    use crate::schema::table::ColumnKind;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn subjects(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|f| format!("{:?} {}", f.severity, f.subject)).collect()
    }

    #[test]
    fn what_a_crash_may_take_is_said() {
        let check = |flush: &str, sync: &str, log: &str, expected: Option<&str>| {
            let set = settings(&[
                ("innodb_flush_log_at_trx_commit", flush),
                ("sync_binlog", sync),
                ("log_bin", log),
            ]);
            let found = judge_durability(Side::Target, &set).map(|finding| finding.message);
            assert_eq!(found.as_ref().and_then(|message| message.split(": ").next()), expected);
        };
        check("1", "1", "ON", None);
        check("1", "0", "OFF", None);
        check("2", "1", "ON", Some("innodb_flush_log_at_trx_commit = 2"));
        check("0", "100", "ON", Some("innodb_flush_log_at_trx_commit = 0, sync_binlog = 100"));
        assert_eq!(
            judge_durability(Side::Source, &settings(&[])),
            None,
            "a server without InnoDB's settings"
        );
    }

    #[test]
    fn a_source_must_log_its_rows() {
        let good = [
            ("log_bin", "ON"),
            ("binlog_format", "ROW"),
            ("binlog_row_image", "FULL"),
            ("binlog_row_value_options", ""),
            ("gtid_mode", "ON"),
            ("server_id", "1"),
            ("binlog_expire_logs_seconds", "2592000"),
        ];
        let check = |name: &str, value: &str, expected: &[&str]| {
            let mut changed = settings(&good);
            changed.0.insert(name.to_owned(), value.to_owned());
            assert_eq!(subjects(&judge_source(&changed)), expected, "{name} = {value}");
        };
        check("log_bin", "ON", &[]);
        check("log_bin", "OFF", &["Fatal source, log_bin"]);
        check("binlog_format", "MIXED", &["Fatal source, binlog_format"]);
        check("binlog_row_image", "MINIMAL", &["Note source, binlog_row_image"]);
        let mut mariadb = settings(&good);
        for (name, value) in [("gtid_strict_mode", "OFF"), ("binlog_row_image", "NOBLOB")] {
            mariadb.0.insert(name.to_owned(), value.to_owned());
        }
        mariadb.0.remove("gtid_mode");
        let said = subjects(&judge_source(&mariadb));
        assert_eq!(said, ["Note source, binlog_row_image", "Warning source, binlog_row_image"]);
        check("binlog_row_value_options", "PARTIAL_JSON", &[]);
        check("gtid_mode", "ON_PERMISSIVE", &["Fatal source, gtid_mode"]);
        check("gtid_mode", "OFF", &["Note source, gtid_mode"]);
        check("server_id", "0", &["Fatal source, server_id"]);
        check("binlog_expire_logs_seconds", "60", &["Note source, binlog_expire_logs_seconds"]);
        check("binlog_expire_logs_seconds", "0", &[]);
        check("expire_logs_days", "0.5", &[]);
    }

    #[test]
    fn a_target_must_take_writes() {
        let check = |pairs: &[(&str, &str)], expected: &[&str]| {
            assert_eq!(subjects(&judge_target(&settings(pairs), false)), expected);
        };
        check(&[("log_bin", "ON"), ("local_infile", "ON"), ("read_only", "OFF")], &[]);
        check(
            &[("log_bin", "ON"), ("local_infile", "ON"), ("read_only", "ON")],
            &["Fatal target, read_only"],
        );
        check(&[("log_bin", "ON"), ("local_infile", "OFF")], &["Warning target, local_infile"]);
        check(
            &[("log_bin", "ON"), ("local_infile", "ON"), ("binlog_format", "STATEMENT")],
            &["Fatal target, binlog_format"],
        );
        check(&[("log_bin", "OFF"), ("local_infile", "ON")], &["Note target, log_bin"]);
    }

    #[test]
    fn what_loads_one_after_the_other_is_said() {
        let kind = ColumnKind::Integer { bytes: 4, unsigned: false };
        let counting = |rows_estimate: u64, counts: &str| DiscoveredTable {
            schema: TableSchema {
                rows_estimate,
                create_sql: format!("CREATE TABLE `t` (\n  `id` int(11) NOT NULL{counts},\n"),
                ..schema("t", vec![column("id", kind.clone(), None)], &[&[0]])
            },
            engine: "InnoDB".to_owned(),
            problems: Vec::new(),
        };
        let (large, small) = (counting(2_000_000, " AUTO_INCREMENT"), counting(10, " AUTO_INCREMENT"));
        let without = counting(2_000_000, "");
        let check = |mode: &str, tables: &[&DiscoveredTable], expected: Option<&str>| {
            let tables = tables.iter().copied().cloned().collect();
            let moved = Discovery { tables, ..Discovery::default() };
            let found = judge_counters(&settings(&[("innodb_autoinc_lock_mode", mode)]), &moved);
            let said = found.as_ref().map(|finding| finding.message.as_str());
            assert_eq!(said.is_some(), expected.is_some(), "{mode}: {said:?}");
            assert!(said.zip(expected).is_none_or(|(said, part)| said.contains(part)), "{said:?}");
        };
        check("1", &[&large, &small, &large], Some("(s.t and 1 more)"));
        check("0", &[&without, &large], Some("It is 0, "));
        check("2", &[&large], None);
        check("1", &[&small, &without], None);
    }

    #[test]
    fn filters_that_lose_changes_are_found() {
        let check = |only: &str, ignored: &str, schemas: &[&str], harmful: bool| {
            let schemas: Vec<String> = schemas.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(!judge_filters(only, ignored, &schemas).is_empty(), harmful, "{only}/{ignored}");
        };
        check("", "", &[], false);
        check("", "", &["a"], false);
        check("a,b", "", &["a"], false);
        check("b", "", &["a"], true);
        check("", "a", &["a"], true);
        check("", "b", &["a"], false);
        check("", "b", &[], true);
    }
}
