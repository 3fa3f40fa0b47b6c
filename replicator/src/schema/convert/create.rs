//! The source's schemas and tables, made on the target in its own terms. What is there already is compared, never
//! changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use config::names::quote_identifier;
use config::{Config, Names, Rename, Side, SideNames, TableName, failpoint};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::making::{self, Making, run};
use super::{Conversion, Converted, Dialects, collation_on, same_name, schema_defaults, table_definition};
use crate::error::{Error, Result};
use crate::literal::text_literal;
use crate::schema::discover::{DiscoveredTable, Discovery, SchemaDefaults, discover};
use crate::schema::filter::same_rows;
use crate::schema::renamed::Renaming;
use crate::schema::table::{Column, ColumnKind, SchemaSet, TableSchema};
use crate::schema::transfer::Transfer;
use crate::stray::own;

/// What a session needs to make tables as they are, each of it unknown to some server: tables without a primary
/// key have another unique one, and the target must not invent columns or refuse foreign keys that the source has.
const TABLE_SESSION: [&str; 3] = [
    "SET SESSION sql_require_primary_key = 0",
    "SET SESSION sql_generate_invisible_primary_key = 0",
    "SET SESSION restrict_fk_on_non_standard_key = 0",
];
const UNKNOWN_VARIABLE: u16 = 1193;
/// Schemas that are asked about in one statement.
const SCHEMAS_TOGETHER: usize = 100;

/// Makes the schemas and tables of `source` on the target, checks that what is there then is what was meant, and
/// returns the tables with what each of them is on the target ([`TableSchema::target`]).
///
/// It can be repeated: a restart in the middle finds part of it done. AUTO_INCREMENT comes with the CREATE TABLE,
/// so that it can't start below a value the source has given out. Triggers aren't made here: row events carry
/// their effects already.
pub async fn create_on_target(
    target: &mut Conn,
    source: Discovery,
    dialects: Dialects,
    config: &Config,
) -> Result<Discovery> {
    let migration = &config.migration;
    let result = create_all(target, &source, dialects, config).await;
    let left =
        run(target, "leaving the schema session", "SET NAMES binary, SESSION foreign_key_checks = 1").await;
    result.and(left)?;
    let made = discover(Side::Target, target, migration, &migration.rename.on(Side::Target)).await?;
    pair_up(source, &made, dialects, Side::Source)
}

/// Puts the tables of the side that is written beside those of the side that is read.
///
/// # Errors
/// One of them isn't there, or the target's isn't what the source's is in the target's terms, whichever is read.
pub fn pair_up(
    mut read: Discovery,
    written: &Discovery,
    dialects: Dialects,
    reads: Side,
) -> Result<Discovery> {
    let (here, there) = (read.schema_set(), written.schema_set());
    let differences = match reads {
        Side::Source => differences(&here, &there, dialects),
        Side::Target => {
            let mut differences = differences(&there, &here, dialects);
            differences.retain(|(table, _)| here.get(table).is_some());
            differences
        }
    };
    let fails = |table: &TableName, what: &str| {
        let what = format!(
            "the table on the target isn't what it is on the source: {what}; drop it there, or make it the same"
        );
        Error::definite(Side::Target, table.to_string(), what)
    };
    if let Some((table, what)) = differences.first() {
        return Err(fails(table, what));
    }
    for table in &mut read.tables {
        let schema = &mut table.schema;
        let other = there.get(&schema.name).ok_or_else(|| fails(&schema.name, "it isn't there"))?;
        // Each side has to be known by itself where one of them has columns more.
        let alike = schema.columns == other.columns
            && schema.unique_keys == other.unique_keys
            && schema.left_out.is_empty()
            && other.left_out.is_empty()
            && schema.stored() == other.stored();
        if !same_rows(schema, other) {
            let what = "the column by which its rows are filtered compares otherwise there";
            return Err(fails(&schema.name, what));
        }
        schema.target = (!alike).then(|| Arc::clone(other));
        for (column, other) in schema.column_pairs() {
            Transfer::between(column, other).map_err(|why| fails(&schema.name, &why))?;
        }
    }
    Ok(read)
}

/// The definitions of every table in the target's terms, in the order of [`Discovery::tables`].
pub fn definitions(source: &Discovery, dialects: Dialects, names: &Names) -> Result<Vec<Converted>> {
    let renaming = Renaming::new(names, Side::Source, false);
    let convert = |table: &TableSchema| {
        let mut converted =
            table_definition(&table.create_sql, &table.name, dialects.source, dialects.target)?;
        match renaming.statement(converted.sql.as_bytes(), &table.stored().schema) {
            Ok(sql) => converted.sql = String::from_utf8_lossy(&sql).into_owned(),
            Err(why) => converted.problems.push(format!(
                "Its definition can't be put into the target's names: {why}; exclude it with exclude_tables, or change \
                 migration.rename."
            )),
        }
        converted.conversions.extend(left_out(table));
        Ok(converted)
    };
    source.tables.iter().map(|table| convert(&table.schema)).collect()
}

/// What `migration.columns` leaves out. That it was configured is the yes to losing it, but for what is said of the columns
/// that remain.
fn left_out(table: &TableSchema) -> impl Iterator<Item = Conversion> {
    table.left_out.parts.iter().map(|part| Conversion {
        schema: table.name.schema.clone(),
        object: format!("{}.{}", table.name.table, part.name),
        kind: part.kind.as_str().to_owned(),
        source_definition: part.definition.clone(),
        target_definition: part.becomes.clone(),
        lossy: part.lossy,
    })
}

/// What is called otherwise on the target.
fn renames(names: &Names) -> impl Iterator<Item = Conversion> {
    names.rules().iter().map(|rule| {
        let (schema, object, from, to) = match rule {
            Rename::Schema { from, to } => (from.clone(), from.clone(), from.clone(), to.clone()),
            Rename::Table { from, to } => {
                (from.schema.clone(), from.table.clone(), from.to_string(), to.to_string())
            }
        };
        Conversion {
            schema,
            object,
            kind: "rename".to_owned(),
            source_definition: from,
            target_definition: to,
            lossy: false,
        }
    })
}

/// Everything that is defined otherwise on the target: names first, then schemas, then tables.
pub fn conversions(source: &Discovery, dialects: Dialects, names: &Names) -> Result<Vec<Conversion>> {
    let mut all: Vec<Conversion> = renames(names).collect();
    for schema in &source.schemas {
        let (charset, collation) = schema_defaults(&schema.charset, &schema.collation, dialects.target);
        if !same_name(&collation, &schema.collation) {
            all.push(Conversion {
                schema: schema.name.clone(),
                object: schema.name.clone(),
                kind: "collation".to_owned(),
                source_definition: format!(
                    "DEFAULT CHARACTER SET {} COLLATE {}",
                    schema.charset, schema.collation
                ),
                target_definition: format!("DEFAULT CHARACTER SET {charset} COLLATE {collation}"),
                lossy: false,
            });
        }
    }
    all.extend(definitions(source, dialects, names)?.into_iter().flat_map(|converted| converted.conversions));
    all.extend(source.tables.iter().filter_map(|table| filtered(&table.schema)));
    Ok(all)
}

/// Of a table with a filter only some rows are moved.
fn filtered(table: &TableSchema) -> Option<Conversion> {
    let filter = table.filter.as_ref()?;
    Some(Conversion {
        schema: table.name.schema.clone(),
        object: table.name.table.clone(),
        kind: "rows".to_owned(),
        source_definition: "every row".to_owned(),
        target_definition: format!("the rows with {}", String::from_utf8_lossy(&filter.condition(table))),
        lossy: false,
    })
}

async fn create_all(
    target: &mut Conn,
    source: &Discovery,
    dialects: Dialects,
    config: &Config,
) -> Result<()> {
    let names = &config.migration.rename;
    let there = names.on(Side::Target);
    let tables = in_making(source, definitions(source, dialects, names)?, &there)?;
    making::prepare_session(target).await?;
    for (schema, called) in schemas_on(source, &there) {
        let place = format!("creating the schema {called}");
        run(target, &place, &create_schema(schema, &called, dialects)).await?;
        failpoint::hit("schema.made");
    }
    making::make(target, &config.target, tables, config.snapshot.readers).await
}

/// What is run for the tables of `source`, whose definitions are `converted`.
fn in_making(source: &Discovery, converted: Vec<Converted>, there: &SideNames) -> Result<Vec<Making>> {
    let making = |(table, converted): (&DiscoveredTable, Converted)| {
        let name = table.schema.name.clone();
        if let Some(problem) = converted.problems.into_iter().next() {
            return Err(Error::definite(Side::Source, name.to_string(), problem));
        }
        let schema = called(there, &name)?.schema;
        Ok(Making { sql: create_table(&name, &converted.sql)?, name, schema })
    };
    source.tables.iter().zip(converted).map(making).collect()
}

/// The schemas that are made, each with what it is called there: also those that only tables go to by rules of their own, with
/// the defaults of the schema that such a table comes from.
fn schemas_on<'a>(source: &'a Discovery, there: &SideNames) -> Vec<(&'a SchemaDefaults, String)> {
    let mut all: Vec<(&SchemaDefaults, String)> = Vec::new();
    let of_schemas = source.schemas.iter().filter_map(|schema| Some((schema, there.schema(&schema.name)?)));
    let of_tables = there.schemas_of_tables().into_iter().filter_map(|(table, called)| {
        let is_moved = source.tables.iter().any(|moved| moved.schema.name == table);
        let schema = source.schemas.iter().find(|schema| schema.name == table.schema)?;
        is_moved.then_some((schema, called))
    });
    for (schema, called) in of_schemas.chain(of_tables) {
        if !all.iter().any(|(_, other)| *other == called) {
            all.push((schema, called));
        }
    }
    all
}

/// What the side with these names calls a table.
pub(crate) fn called(there: &SideNames, name: &TableName) -> Result<TableName> {
    there.table(name).ok_or_else(|| {
        let what = "what it would be called on the other side is the name of another table there (migration.rename); rename one of \
                    them, or exclude it with exclude_tables";
        Error::definite(None, name.to_string(), what)
    })
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

fn create_schema(schema: &SchemaDefaults, called: &str, dialects: Dialects) -> String {
    let (charset, collation) = schema_defaults(&schema.charset, &schema.collation, dialects.target);
    format!(
        "CREATE DATABASE IF NOT EXISTS {} DEFAULT CHARACTER SET {charset} DEFAULT COLLATE {collation}",
        quote_identifier(called),
    )
}

/// CREATE TABLE for the schema in use, doing nothing where the table exists.
fn create_table(name: &TableName, create_sql: &str) -> Result<String> {
    match create_sql.strip_prefix("CREATE TABLE ") {
        Some(rest) => Ok(format!("CREATE TABLE IF NOT EXISTS {rest}")),
        None => Err(Error::definite(
            Side::Source,
            name.to_string(),
            "SHOW CREATE TABLE doesn't begin with CREATE TABLE; exclude it with exclude_tables",
        )),
    }
}

/// The tables of `source` that aren't the same among `target`'s, each with the first thing that differs: what the
/// rows of a table depend on, not how a server prints it.
#[must_use]
pub fn differences(source: &SchemaSet, target: &SchemaSet, dialects: Dialects) -> Vec<(TableName, String)> {
    let mut found = Vec::new();
    for table in source.sorted() {
        let what = match target.get(&table.name) {
            Some(other) => table_difference(&table, other, dialects),
            None => Some("it isn't there".to_owned()),
        };
        found.extend(what.map(|what| (table.name.clone(), what)));
    }
    found
}

fn table_difference(source: &TableSchema, target: &TableSchema, dialects: Dialects) -> Option<String> {
    if source.columns.len() != target.columns.len() {
        return Some(format!("it has {} columns, not {}", target.columns.len(), source.columns.len()));
    }
    for (a, b) in source.columns.iter().zip(&target.columns) {
        if a.name != b.name {
            return Some(format!("the column {} stands where {} should", b.name, a.name));
        }
        if let Some(what) = column_difference(a, b, dialects) {
            return Some(format!("the column {}: {what}", a.name));
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

/// Why `there` can't stand for `column`.
fn column_difference(column: &Column, there: &Column, dialects: Dialects) -> Option<String> {
    if let Err(why) = Transfer::between(column, there) {
        return Some(why);
    }
    let same_collation = match (&column.collation, &there.collation) {
        (Some(collation), Some(other)) => same_name(&collation_on(collation, dialects.target), other),
        (a, b) => a.is_none() == b.is_none() || column.kind != there.kind,
    };
    // A generated column of MariaDB's takes no NOT NULL.
    let same_null = column.nullable == there.nullable || column.generated;
    let like = same_collation && same_null && column.generated == there.generated && same_size(column, there);
    (!like).then(|| format!("it is {} there, not {}", describe(there), describe(column)))
}

/// Display widths come and go between versions; lengths and members must be the same.
fn same_size(a: &Column, b: &Column) -> bool {
    let members = matches!(a.kind, ColumnKind::Enum { .. } | ColumnKind::Set { .. });
    let sized = members || a.column_type.contains("char") || a.column_type.contains("binary");
    // Another type has another size, chosen so that every value fits.
    let another_type = a.kind != b.kind;
    another_type || !sized || a.column_type.eq_ignore_ascii_case(&b.column_type)
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
    let on_target = tables.on_target();
    let there = auto_increments(Side::Source, source, tables).await?;
    let here = auto_increments(Side::Target, target, &on_target).await?;
    let mut raised = 0;
    for (table, value) in there {
        if here.get(&table).is_none_or(|present| *present < value) {
            if raised == 0 {
                own::announce(Side::Target, target).await?;
            }
            let called = on_target.get(&table).map_or_else(|| table.quoted(), |there| there.quoted());
            let statement = format!("ALTER TABLE {called} AUTO_INCREMENT = {value}");
            run(target, &format!("raising AUTO_INCREMENT of {table}"), &statement).await?;
            failpoint::hit("auto_increment.raised");
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
    // This is asked in a pause. A server opens every table that it is asked about, and passes over other schemas only
    // where theirs is named with a plain equality.
    let tables_sorted = tables.sorted();
    let known: HashMap<&TableName, &TableName> =
        tables_sorted.iter().map(|table| (table.stored(), &table.name)).collect();
    let schemas: BTreeSet<&str> = known.keys().map(|stored| stored.schema.as_str()).collect();
    let of_schema = |schema: &&str| {
        let schema = text_literal(schema);
        format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = {schema} AND AUTO_INCREMENT IS NOT NULL"
        )
    };
    let queries: Vec<String> = schemas.iter().map(of_schema).collect();
    let mut rows: Vec<(String, String, u64)> = Vec::new();
    for some in queries.chunks(SCHEMAS_TOGETHER) {
        rows.extend(
            conn.query::<(String, String, u64), _>(some.join(" UNION ALL ")).await.map_err(database)?,
        );
    }
    let rows = rows.into_iter().map(|(schema, table, value)| (TableName::new(schema, table), value));
    Ok(rows.filter_map(|(stored, value)| Some(((*known.get(&stored)?).clone(), value))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::schema::table::UniqueKey;
    use config::{Dialect, Family};

    const MYSQL: Dialect = Dialect { family: Family::MySql, version: (9, 7) };
    const SAME: Dialects = Dialects { source: MYSQL, target: MYSQL };

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
            keyless: false,
            target: None,
            stored_as: None,
            filter: None,
            left_out: Default::default(),
        }
    }

    #[test]
    fn differences_are_named() {
        let int = || ColumnKind::Integer { bytes: 4, unsigned: false };
        let check = |target: Vec<TableSchema>, expected: &str| {
            let source = SchemaSet::new(vec![table("int(11)", int(), "PRIMARY")]);
            let found = differences(&source, &SchemaSet::new(target), SAME);
            let shown: Vec<_> = found.iter().map(|(table, what)| format!("{table}: {what}")).collect();
            assert_eq!(shown.join("; "), expected);
        };
        check(vec![table("int", int(), "PRIMARY")], "");
        check(vec![], "s.t: it isn't there");
        check(
            vec![table("int(10) unsigned", ColumnKind::Integer { bytes: 4, unsigned: true }, "PRIMARY")],
            "s.t: the column a: it is int(10) unsigned there, not int(11)",
        );
        check(vec![table("int", int(), "u")], "s.t: the unique key PRIMARY isn't the same");
    }

    #[test]
    fn only_the_head_of_a_create_table_changes() {
        let table = table("int", ColumnKind::Year, "PRIMARY");
        let sql = create_table(&table.name, &table.create_sql).unwrap();
        assert_eq!(sql, "CREATE TABLE IF NOT EXISTS `t` (\n  `a` int\n) COMMENT='CREATE TABLE `t`'");
    }
}
