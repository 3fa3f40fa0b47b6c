//! The source's schemas and tables, made on the target.
//!
//! Between two servers of one family the source's own CREATE TABLE is what the target gets; conversions between
//! families are a later step. What is there already is compared, never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::names::quote_identifier;
use config::{MigrationConfig, Side, TableName};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::discover::{Discovery, SchemaDefaults, discover};
use super::table::{Column, SchemaSet, TableSchema};
use crate::error::{Error, Result};

/// What a session needs to make tables as they are, each of it unknown to some server: tables without a primary
/// key have another unique one, and the target must not invent columns or refuse foreign keys that the source has.
const TABLE_SESSION: [&str; 3] = [
    "SET SESSION sql_require_primary_key = 0",
    "SET SESSION sql_generate_invisible_primary_key = 0",
    "SET SESSION restrict_fk_on_non_standard_key = 0",
];
const UNKNOWN_VARIABLE: u16 = 1193;

/// Makes the schemas and tables of `source` on the target, and checks that what is there then is the same.
///
/// It can be repeated: a restart in the middle finds part of it done. AUTO_INCREMENT comes with the CREATE TABLE,
/// so that it can't start below a value the source has given out. Triggers aren't made here: row events carry
/// their effects already.
pub async fn create_on_target(
    target: &mut Conn,
    source: &Discovery,
    migration: &MigrationConfig,
) -> Result<()> {
    let result = create_all(target, source).await;
    let left =
        run(target, "leaving the schema session", "SET NAMES binary, SESSION foreign_key_checks = 1").await;
    result.and(left)?;
    let made = discover(Side::Target, target, migration).await?;
    let differences = differences(&source.schema_set(), &made.schema_set());
    match differences.first() {
        None => Ok(()),
        Some((table, what)) => Err(Error::definite(
            Side::Target,
            table.to_string(),
            format!(
                "the table on the target isn't what it is on the source: {what}; drop it there, or make it the \
                 same ({} tables differ)",
                differences.len()
            ),
        )),
    }
}

async fn create_all(target: &mut Conn, source: &Discovery) -> Result<()> {
    // Literals in a CREATE TABLE (defaults, members, comments) are text of the source's SHOW in UTF-8.
    run(target, "preparing the schema session", "SET NAMES utf8mb4").await?;
    run(target, "preparing the schema session", "SET SESSION foreign_key_checks = 0").await?;
    prepare_table_session(target).await?;
    for schema in &source.schemas {
        let place = format!("creating the schema {}", schema.name);
        run(target, &place, &create_schema(schema)).await?;
    }
    for table in &source.tables {
        let name = &table.schema.name;
        let place = format!("creating the table {name}");
        run(target, &place, &format!("USE {}", quote_identifier(&name.schema))).await?;
        run(target, &place, &create_table(&table.schema)?).await?;
    }
    Ok(())
}

/// Takes away what a server may put between a CREATE TABLE and the table that it makes elsewhere.
pub(crate) async fn prepare_table_session(target: &mut Conn) -> Result<()> {
    for statement in TABLE_SESSION {
        match target.query_drop(statement).await {
            // Unknown there, or not allowed to: then it matters only if the table comes out differently, and that is
            // checked.
            Ok(()) | Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(Error::database(Side::Target, "preparing the schema session", &error)),
        }
    }
    Ok(())
}

async fn run(target: &mut Conn, place: &str, statement: &str) -> Result<()> {
    target.query_drop(statement).await.map_err(|e| Error::database(Side::Target, place, &e))
}

fn create_schema(schema: &SchemaDefaults) -> String {
    format!(
        "CREATE DATABASE IF NOT EXISTS {} DEFAULT CHARACTER SET {} DEFAULT COLLATE {}",
        quote_identifier(&schema.name),
        schema.charset,
        schema.collation
    )
}

/// The source's CREATE TABLE, for the schema in use, doing nothing where the table exists.
fn create_table(table: &TableSchema) -> Result<String> {
    match table.create_sql.strip_prefix("CREATE TABLE ") {
        Some(rest) => Ok(format!("CREATE TABLE IF NOT EXISTS {rest}")),
        None => Err(Error::definite(
            Side::Source,
            table.name.to_string(),
            "SHOW CREATE TABLE doesn't begin with CREATE TABLE; exclude it with exclude_tables",
        )),
    }
}

/// The tables of `source` that aren't the same among `target`'s, each with the first thing that differs: what the
/// rows of a table depend on, not how a server prints it.
#[must_use]
pub fn differences(source: &SchemaSet, target: &SchemaSet) -> Vec<(TableName, String)> {
    let mut found = Vec::new();
    for table in source.sorted() {
        let what = match target.get(&table.name) {
            Some(other) => table_difference(&table, other),
            None => Some("it isn't there".to_owned()),
        };
        found.extend(what.map(|what| (table.name.clone(), what)));
    }
    found
}

fn table_difference(source: &Arc<TableSchema>, target: &Arc<TableSchema>) -> Option<String> {
    if source.columns.len() != target.columns.len() {
        return Some(format!("it has {} columns, not {}", target.columns.len(), source.columns.len()));
    }
    for (a, b) in source.columns.iter().zip(&target.columns) {
        if a.name != b.name {
            return Some(format!("the column {} stands where {} should", b.name, a.name));
        }
        if !same_column(a, b) {
            return Some(format!("the column {} is {} there, not {}", a.name, describe(b), describe(a)));
        }
    }
    let by_name = |table: &TableSchema| -> BTreeMap<String, _> {
        let keys = table.unique_keys.iter();
        keys.map(|key| (key.name.clone(), (key.columns.clone(), key.prefixes.clone()))).collect()
    };
    let (a, b) = (by_name(source), by_name(target));
    let key = a
        .iter()
        .find(|(name, key)| b.get(*name) != Some(key))
        .or_else(|| b.iter().find(|(name, key)| a.get(*name) != Some(key)));
    key.map(|(name, _)| format!("the unique key {name} isn't the same"))
}

fn same_column(a: &Column, b: &Column) -> bool {
    let members =
        matches!(a.kind, super::table::ColumnKind::Enum { .. } | super::table::ColumnKind::Set { .. });
    a.kind == b.kind
        && a.charset == b.charset
        && a.collation == b.collation
        && a.nullable == b.nullable
        && a.generated == b.generated
        // Display widths come and go between versions; lengths and members must be the same.
        && (a.column_type == b.column_type
            || !(members || a.column_type.contains("char") || a.column_type.contains("binary")))
}

fn describe(column: &Column) -> String {
    let collation = column.collation.as_deref().map(|c| format!(" {c}")).unwrap_or_default();
    let null = if column.nullable { "" } else { " NOT NULL" };
    let generated = if column.generated { " GENERATED" } else { "" };
    format!("{}{collation}{null}{generated}", column.column_type)
}

/// Raises AUTO_INCREMENT on the target to the source's where it is lower, and says for how many tables it had to.
///
/// InnoDB follows explicit inserts, so copy and tail bring it almost there; what is left are values that the
/// source gave out and rolled back. To be called behind the fence, when nobody inserts on either side.
pub async fn raise_auto_increment(source: &mut Conn, target: &mut Conn, tables: &SchemaSet) -> Result<usize> {
    let there = auto_increments(Side::Source, source, tables).await?;
    let here = auto_increments(Side::Target, target, tables).await?;
    let mut raised = 0;
    for (table, value) in there {
        if here.get(&table).is_none_or(|present| *present < value) {
            let statement = format!("ALTER TABLE {} AUTO_INCREMENT = {value}", table.quoted());
            run(target, &format!("raising AUTO_INCREMENT of {table}"), &statement).await?;
            raised += 1;
        }
    }
    Ok(raised)
}

async fn auto_increments(
    side: Side,
    conn: &mut Conn,
    tables: &SchemaSet,
) -> Result<BTreeMap<TableName, u64>> {
    const PLACE: &str = "reading AUTO_INCREMENT values";
    let database = |e: mysql_async::Error| Error::database(side, PLACE, &e);
    match conn.query_drop("SET SESSION information_schema_stats_expiry = 0").await {
        Ok(()) => {}
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_VARIABLE => {}
        Err(error) => return Err(database(error)),
    }
    let rows: Vec<(String, String, u64)> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES \
             WHERE AUTO_INCREMENT IS NOT NULL",
        )
        .await
        .map_err(database)?;
    let rows = rows.into_iter().map(|(schema, table, value)| (TableName::new(schema, table), value));
    Ok(rows.filter(|(name, _)| tables.get(name).is_some()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::schema::table::{ColumnKind, UniqueKey};

    fn table(column_type: &str, kind: ColumnKind, key: &str) -> TableSchema {
        TableSchema {
            name: TableName::new("s", "t"),
            columns: vec![Column {
                name: "a".to_owned(),
                kind,
                column_type: column_type.to_owned(),
                charset: None,
                collation: None,
                nullable: false,
                generated: false,
            }],
            unique_keys: vec![UniqueKey { name: key.to_owned(), columns: vec![0], prefixes: vec![None] }],
            foreign_keys: Vec::new(),
            has_cascading_children: false,
            rows_estimate: 0,
            create_sql: "CREATE TABLE `t` (\n  `a` int\n) COMMENT='CREATE TABLE `t`'".to_owned(),
        }
    }

    #[test]
    fn differences_are_named() {
        let int = || ColumnKind::Integer { bytes: 4, unsigned: false };
        let check = |target: Vec<TableSchema>, expected: &str| {
            let source = SchemaSet::new(vec![table("int(11)", int(), "PRIMARY")]);
            let found = differences(&source, &SchemaSet::new(target));
            let shown: Vec<_> = found.iter().map(|(table, what)| format!("{table}: {what}")).collect();
            assert_eq!(shown.join("; "), expected);
        };
        check(vec![table("int", int(), "PRIMARY")], "");
        check(vec![], "s.t: it isn't there");
        check(
            vec![table("int(10) unsigned", ColumnKind::Integer { bytes: 4, unsigned: true }, "PRIMARY")],
            "s.t: the column a is int(10) unsigned NOT NULL there, not int(11) NOT NULL",
        );
        check(vec![table("int", int(), "u")], "s.t: the unique key PRIMARY isn't the same");
    }

    #[test]
    fn only_the_head_of_a_create_table_changes() {
        let sql = create_table(&table("int", ColumnKind::Year, "PRIMARY")).unwrap();
        assert_eq!(sql, "CREATE TABLE IF NOT EXISTS `t` (\n  `a` int\n) COMMENT='CREATE TABLE `t`'");
    }
}
