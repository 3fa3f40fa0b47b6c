//! Runs a statement that changes definitions on the target as it ran on the source, and finds out whether it ran.
//!
//! Such a statement can't be in one transaction with the position. What the target's definitions were before it is
//! written down first; after a crash or a lost answer a hash of what they are by then says whether it ran. InnoDB's
//! table ids are part of it: they tell TRUNCATE, a rebuild, and a swap of two names whose tables look the same.

use std::time::{Duration, Instant};

use config::names::quote_identifier;
use config::{BackendConfig, Flavor, Side, SideNames, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use sha2::{Digest as _, Sha256};

use crate::binlog::context::StatementContext;
use crate::binlog::transaction::DdlStatement;
use crate::error::{Error, Result};
use crate::literal::text_literal;
use crate::schema::convert::prepare_table_session;
use crate::schema::ddl::{Change, is_nameless};
use crate::server;
use crate::stray::own;

/// A statement that an earlier process left running has so long to end once it is killed.
const LEFT_OVER_LIMIT: Duration = Duration::from_secs(60);
const LEFT_OVER_POLL: Duration = Duration::from_millis(100);

/// What a statement is known by on the target: stands in front of its text as a comment.
pub(crate) fn label(migration: &str, seq: u64) -> String {
    let name: String = migration
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '.' })
        .collect();
    format!("/* changeover {name} {seq} */")
}

/// Runs `sql` in the session in which the statement ran on the source.
///
/// # Errors
/// The target refused it, or its answer was lost: then it may have run, or still run.
pub(crate) async fn run(
    target: &BackendConfig,
    flavor: Flavor,
    label: &str,
    statement: &DdlStatement,
    context: &StatementContext,
    sql: &[u8],
) -> Result<()> {
    const PLACE: &str = "preparing a session for a definition";
    let mut conn = server::connect(Side::Target, target).await?;
    prepare_table_session(&mut conn).await?;
    own::announce(Side::Target, &mut conn).await?;
    if !statement.schema.is_empty() {
        match conn.query_drop(format!("USE {}", quote_identifier(&statement.schema))).await {
            // Not a schema of the migration: every name in the text has its own then, or it fails there.
            Ok(()) | Err(mysql_async::Error::Server(mysql_async::ServerError { code: 1044 | 1049, .. })) => {}
            Err(error) => return Err(Error::database(Side::Target, PLACE, &error)),
        }
    }
    for setting in settings(statement, context, flavor) {
        conn.query_drop(setting).await.map_err(|error| Error::database(Side::Target, PLACE, &error))?;
    }
    let text = [label.as_bytes(), b" ", sql].concat();
    conn.query_drop(text).await.map_err(|error| Error::database(Side::Target, "a definition", &error))?;
    drop(conn.disconnect().await);
    Ok(())
}

/// The source's session as SET statements. Charsets come last: they say how the text that follows is read.
fn settings(statement: &DdlStatement, context: &StatementContext, flavor: Flavor) -> Vec<String> {
    // Modes that MySQL 8 took away; a replica leaves them out as well.
    const GONE: u64 = 0x3_ff00 | 0x10 | 0x1000_0000;
    let switch = |on: bool| u8::from(on);
    let mut settings = vec![format!(
        "SET SESSION timestamp = {}.{:06}",
        statement.began_at_s,
        context.microseconds % 1_000_000
    )];
    if let Some((foreign_keys, unique)) = context.checks {
        settings.push(format!(
            "SET SESSION foreign_key_checks = {}, unique_checks = {}",
            switch(foreign_keys),
            switch(unique)
        ));
    }
    if let Some(mode) = context.sql_mode {
        let mode = if flavor == Flavor::MySql { mode & !GONE } else { mode };
        settings.push(format!("SET SESSION sql_mode = {mode}"));
    }
    if let Some(zone) = &context.time_zone {
        settings.push(format!("SET SESSION time_zone = '{zone}'"));
    }
    if let Some(locale) = context.lc_time_names {
        settings.push(format!("SET SESSION lc_time_names = {locale}"));
    }
    if let Some(explicit) = context.explicit_defaults {
        settings.push(format!("SET SESSION explicit_defaults_for_timestamp = {}", switch(explicit)));
    }
    if let Some(collation) = context.utf8mb4_collation {
        settings.push(format!("SET SESSION default_collation_for_utf8mb4 = {collation}"));
    }
    if let Some((client, connection, server)) = context.charsets {
        settings.push(format!(
            "SET SESSION collation_server = {server}, character_set_client = {client}, collation_connection = {connection}"
        ));
    }
    settings
}

/// Ends what an earlier process may have left running under that label, and waits until it is gone.
pub(crate) async fn end_left_over(conn: &mut Conn, label: &str) -> Result<()> {
    const PLACE: &str = "looking for a statement that is still running";
    let database = |error: mysql_async::Error| Error::database(Side::Target, PLACE, &error);
    let since = Instant::now();
    loop {
        // By SHOW: MySQL refuses to list threads in information_schema while one of them runs a statement whose bytes aren't
        // UTF-8 of three bytes at most (error 3854).
        let threads: Vec<Row> = conn.query("SHOW FULL PROCESSLIST").await.map_err(database)?;
        let labelled = |thread: &&Row| {
            let statement = thread.get_opt::<Vec<u8>, _>("Info").and_then(std::result::Result::ok);
            statement.is_some_and(|statement| statement.starts_with(label.as_bytes()))
        };
        let id = |thread: &Row| thread.get_opt::<u64, _>("Id").and_then(std::result::Result::ok);
        let running: Vec<u64> = threads.iter().filter(labelled).filter_map(id).collect();
        if running.is_empty() {
            return Ok(());
        }
        if since.elapsed() > LEFT_OVER_LIMIT {
            return Err(Error::transient(
                Side::Target,
                PLACE,
                "it was killed and still runs; it is waited for",
            ));
        }
        for id in running {
            // It may have ended meanwhile.
            let _gone = conn.query_drop(format!("KILL {id}")).await;
        }
        tokio::time::sleep(LEFT_OVER_POLL).await;
    }
}

/// A hash of what the target has of the things that a statement is about. `schemas`: where that can't be told.
/// `names`: what the target calls things.
pub(crate) async fn fingerprint(
    conn: &mut Conn,
    change: &Change,
    names: &SideNames,
    schemas: &[String],
) -> Result<String> {
    let mut seen = Sha256::new();
    match change {
        Change::Schema { name, .. } => {
            let name = &names.schema(name).unwrap_or_else(|| name.clone());
            let sql = format!(
                "SELECT * FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
                text_literal(name)
            );
            rows(conn, &sql, &mut seen).await?;
            tables_of(conn, std::slice::from_ref(name), &mut seen).await?;
        }
        Change::Routine(name) => {
            let name = &TableName::new(names.schema(&name.schema).unwrap_or_default(), &name.table);
            let sql = format!(
                "SELECT ROUTINE_TYPE, DTD_IDENTIFIER, ROUTINE_DEFINITION, SQL_MODE, DEFINER, CREATED, LAST_ALTERED \
                 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = {} AND ROUTINE_NAME = {}",
                text_literal(&name.schema),
                text_literal(&name.table)
            );
            rows(conn, &sql, &mut seen).await?;
        }
        Change::Unknown => tables_of(conn, schemas, &mut seen).await?,
        change => {
            let there = change.names().into_iter().filter(|name| !is_nameless(name));
            for name in there.filter_map(|name| names.table(&name)) {
                table(conn, &name, &mut seen).await?;
            }
        }
    }
    Ok(seen.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn table(conn: &mut Conn, name: &TableName, seen: &mut Sha256) -> Result<()> {
    seen.update(name.to_string());
    match conn.query::<Row, _>(format!("SHOW CREATE TABLE {}", name.quoted())).await {
        Ok(found) => found.iter().for_each(|row| add(row, seen)),
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1049 | 1146) => seen.update("absent"),
        Err(error) => return Err(Error::database(Side::Target, name.to_string(), &error)),
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !plain(&name.schema) || !plain(&name.table) {
        return Ok(());
    }
    let path = format!("{}/{}", name.schema, name.table);
    // The two families keep them under different names; where neither may be read, the definition alone decides.
    for view in ["INNODB_TABLES", "INNODB_SYS_TABLES"] {
        let sql = format!(
            "SELECT NAME, TABLE_ID FROM information_schema.{view} WHERE NAME = '{path}' OR NAME LIKE '{}#p#%' ORDER BY NAME",
            path.replace('_', "\\_")
        );
        match conn.query::<Row, _>(sql).await {
            Ok(found) => {
                found.iter().for_each(|row| add(row, seen));
                return Ok(());
            }
            Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(Error::database(Side::Target, name.to_string(), &error)),
        }
    }
    Ok(())
}

async fn tables_of(conn: &mut Conn, schemas: &[String], seen: &mut Sha256) -> Result<()> {
    let list: Vec<String> = schemas.iter().map(|schema| text_literal(schema)).collect();
    if list.is_empty() {
        return Ok(());
    }
    let list = list.join(",");
    for sql in [
        format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, CREATE_TIME FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA IN ({list}) ORDER BY 1, 2"
        ),
        format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, COLUMN_DEFAULT, IS_NULLABLE \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN ({list}) ORDER BY 1, 2, ORDINAL_POSITION"
        ),
    ] {
        rows(conn, &sql, seen).await?;
    }
    Ok(())
}

async fn rows(conn: &mut Conn, sql: &str, seen: &mut Sha256) -> Result<()> {
    let found: Vec<Row> =
        conn.query(sql).await.map_err(|e| Error::database(Side::Target, "reading definitions", &e))?;
    found.iter().for_each(|row| add(row, seen));
    Ok(())
}

fn add(row: &Row, seen: &mut Sha256) {
    for index in 0..row.len() {
        // The text of a literal keeps NULL and every value apart; a debug form would leave out a long text's end.
        seen.update(row.as_ref(index).map(|value| value.as_sql(false)).unwrap_or_default());
        seen.update(";");
    }
}

/// The words a statement begins with, as far as they are words of the language: `ALTER TABLE`.
pub(crate) fn kind(sql: &str) -> String {
    const WORDS: [&str; 40] = [
        "ALTER",
        "CREATE",
        "DROP",
        "TRUNCATE",
        "RENAME",
        "ANALYZE",
        "OPTIMIZE",
        "REPAIR",
        "GRANT",
        "REVOKE",
        "SET",
        "OR",
        "REPLACE",
        "TEMPORARY",
        "ONLINE",
        "OFFLINE",
        "IGNORE",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "TABLE",
        "TABLES",
        "INDEX",
        "VIEW",
        "TRIGGER",
        "PROCEDURE",
        "FUNCTION",
        "EVENT",
        "DATABASE",
        "SCHEMA",
        "SEQUENCE",
        "USER",
        "ROLE",
        "SERVER",
        "TABLESPACE",
        "AGGREGATE",
        "PACKAGE",
        "BODY",
        "INSERT",
        "IF",
    ];
    let mut words = Vec::new();
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        // `/*!40000 ALTER … */` is a statement, other comments aren't.
        if let Some(versioned) = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!")) {
            rest = versioned.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if rest.starts_with("/*") {
            let Some((_, behind)) = rest.split_once("*/") else { break };
            rest = behind;
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            let Some((_, behind)) = rest.split_once('\n') else { break };
            rest = behind;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            let Some(known) = WORDS.iter().find(|known| known.eq_ignore_ascii_case(word)) else { break };
            if *known == "IF" || words.len() == 6 {
                break;
            }
            words.push(*known);
            rest = behind;
        }
    }
    if words.is_empty() { "a statement of an unknown kind".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_by_its_kind() {
        let check = |sql: &str, expected: &str| assert_eq!(kind(sql), expected, "{sql}");
        check("alter table t add c int default 42", "ALTER TABLE");
        check("/* app */ CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE OR REPLACE VIEW");
        check("/*!40000 ALTER TABLE t DISABLE KEYS */", "ALTER TABLE");
        check("-- x\nDROP TABLE IF EXISTS `t`", "DROP TABLE");
        check("# x\nTRUNCATE t", "TRUNCATE");
        check("CREATE UNIQUE INDEX i ON t (a)", "CREATE UNIQUE INDEX");
        check("CREATE DEFINER=`a`@`b` TRIGGER x", "CREATE");
        check("/* never closed", "a statement of an unknown kind");
        check("", "a statement of an unknown kind");
        check("secret 'literal'", "a statement of an unknown kind");
    }

    #[test]
    fn a_session_is_set_up_in_the_words_of_its_family() {
        let statement = DdlStatement {
            schema: String::new(),
            sql: "".into(),
            status: "".into(),
            began_at_s: 1_700_000_000,
            alone: true,
        };
        let context = StatementContext {
            checks: Some((false, true)),
            sql_mode: Some(0x1020_0000),
            microseconds: 42,
            ..StatementContext::default()
        };
        let expected = |mode: u64| {
            [
                "SET SESSION timestamp = 1700000000.000042".to_owned(),
                "SET SESSION foreign_key_checks = 0, unique_checks = 1".to_owned(),
                format!("SET SESSION sql_mode = {mode}"),
            ]
        };
        assert_eq!(settings(&statement, &context, Flavor::MySql), expected(0x20_0000));
        assert_eq!(settings(&statement, &context, Flavor::MariaDb), expected(0x1020_0000));
    }

    #[test]
    fn a_label_can_not_end_its_own_comment() {
        assert_eq!(label("a*/ '%x", 7), "/* changeover a.....x 7 */");
    }
}
