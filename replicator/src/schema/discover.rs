//! Reads schemas, tables, keys and foreign keys of a server into [`TableSchema`]s.
//!
//! What can't be migrated isn't left out here: it comes back with its problems, so that preflight can say all of
//! them at once and nothing is skipped in silence (invariant 5).

use std::collections::{BTreeMap, HashMap, HashSet};

use config::pattern::like;
use config::{MigrationConfig, Side, SideNames, TableName};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Row};

use super::column;
use super::filter::RowFilter;
use super::left_out::{self, LeftOut};
use super::selection::is_own_schema;
use super::shown;
use super::table::{Column, ColumnKind, ForeignKey, SchemaSet, TableSchema, UniqueKey};
use crate::error::{Error, Result};
use crate::server;

/// What is being done, in an error.
pub(super) const PLACE: &str = "reading the schema";
/// Engines whose rows are read and logged like InnoDB's; on the target every table is InnoDB's (OceanBase: its own).
const ENGINES: [&str; 7] = ["InnoDB", "MyISAM", "Aria", "MEMORY", "ROCKSDB", "TokuDB", "OceanBase"];
/// Engines whose tables can be read as of one moment, and whose changes are committed with the position.
const MANY_VERSIONS: [&str; 2] = ["InnoDB", "OceanBase"];

/// Everything found in the schemas of a migration.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// The schemas, sorted by name.
    pub schemas: Vec<SchemaDefaults>,
    /// The tables that aren't excluded, sorted by name.
    pub tables: Vec<DiscoveredTable>,
    /// Tables that `exclude_tables` left out, sorted by name.
    pub excluded: Vec<TableName>,
    /// Configured schemas that the server hasn't got.
    pub missing_schemas: Vec<String>,
    /// Configured schemas that are the server's or Changeover's own.
    pub own_schemas: Vec<String>,
    /// Views, routines, triggers, events and sequences.
    pub objects: Vec<OtherObject>,
    /// Tables of this side, as it calls them, in schemas of the migration and under names that nothing of the source
    /// could have here (`migration.rename`).
    pub unnamed: Vec<TableName>,
}

/// A schema and what its tables get by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaDefaults {
    /// Its name.
    pub name: String,
    /// Default charset.
    pub charset: String,
    /// Default collation.
    pub collation: String,
}

/// A table, and what keeps it from being migrated.
#[derive(Debug, Clone)]
pub struct DiscoveredTable {
    /// The table.
    pub schema: TableSchema,
    /// Its storage engine.
    pub engine: String,
    /// Why it can't be migrated, each a full sentence; empty for a table that can.
    pub problems: Vec<String>,
}

/// Something in a schema that isn't a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherObject {
    /// `view`, `procedure`, `function`, `trigger`, `event` or `sequence`.
    pub kind: String,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl Discovery {
    /// The tables as copy, tail and verifier take them.
    #[must_use]
    pub fn schema_set(&self) -> SchemaSet {
        SchemaSet::new(self.tables.iter().map(|t| t.schema.clone()).collect())
    }
}

/// Reads what a migration moves, from a server that calls things by `names`; what comes back goes by the source's. The
/// connection is one of [`crate::server::connect`]. `side`: on the target a table hasn't got the columns that aren't moved, so
/// `migration.columns` is for the source alone.
pub async fn discover(
    side: Side,
    conn: &mut Conn,
    migration: &MigrationConfig,
    names: &SideNames,
) -> Result<Discovery> {
    let mut reader = Reader { side, conn, names };
    // Names and SHOW CREATE TABLE are text for people: with a binary session a literal in them would lose its
    // charset.
    reader.run("SET NAMES utf8mb4").await?;
    let found = reader.discover(migration).await;
    let left = reader.run("SET NAMES binary").await;
    found.and_then(|found| left.map(|()| found))
}

struct Reader<'a> {
    side: Side,
    conn: &'a mut Conn,
    names: &'a SideNames,
}

/// Tables by what the server calls them.
type Drafts = BTreeMap<TableName, DiscoveredTable>;

impl Reader<'_> {
    async fn run(&mut self, statement: &str) -> Result<()> {
        self.conn.query_drop(statement).await.map_err(|e| Error::database(self.side, PLACE, &e))
    }

    async fn rows<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Vec<T>> {
        self.conn.query(statement).await.map_err(|e| Error::database(self.side, PLACE, &e))
    }

    async fn discover(&mut self, migration: &MigrationConfig) -> Result<Discovery> {
        // MySQL keeps statistics of a day ago unless told otherwise; a server without the setting has none.
        let _fresh_or_unknown = self.run("SET SESSION information_schema_stats_expiry = 0").await;
        if self.side == Side::Source && !migration.columns.is_empty() {
            // What names a column is told from what doesn't by its quotes.
            self.run("SET SESSION sql_quote_show_create = 1").await?;
        }
        let (mut found, here) = self.schemas(&migration.schemas).await?;
        if here.is_empty() {
            return Ok(found);
        }
        let list: Vec<String> = here.iter().map(|schema| string_literal(schema)).collect();
        let list = list.join(", ");
        let excluded = |name: &TableName| {
            let text = name.to_string();
            migration.exclude_tables.iter().any(|pattern| like(pattern, &text))
        };
        let mut drafts = self.tables(&list, &mut found, excluded).await?;
        self.columns(&list, &mut drafts).await?;
        self.keys(&list, &mut drafts).await?;
        self.foreign_keys(&list, &mut drafts).await?;
        let objects = self.objects(&list, &found.schemas).await?;
        found.objects.extend(objects);
        found.objects.sort();
        let here: Vec<&TableName> = drafts.keys().collect();
        let shown = shown::definitions(self.side, self.conn, &here).await?;
        for (draft, create_sql) in drafts.values_mut().zip(shown) {
            draft.schema.create_sql = create_sql;
        }
        note_cascades(&mut drafts);
        if self.side == Side::Source {
            for draft in drafts.values_mut() {
                draft.problems.extend(left_out::leave_out(migration, &mut draft.schema));
            }
        }
        found.tables = drafts.into_values().map(|draft| narrow(finish(draft), migration)).collect();
        found.tables.sort_by(|a, b| a.schema.name.cmp(&b.schema.name));
        left_out::judge_parents(&mut found.tables);
        Ok(found)
    }

    /// The schemas, and which ones of this server are to be looked into.
    async fn schemas(&mut self, configured: &[String]) -> Result<(Discovery, Vec<String>)> {
        let rows: Vec<(String, String, String)> = self
            .rows(
                "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME \
                 FROM information_schema.SCHEMATA ORDER BY SCHEMA_NAME",
            )
            .await?;
        let folded: Vec<u8> = self.rows("SELECT @@GLOBAL.lower_case_table_names").await?;
        let folded = folded.first().is_some_and(|mode| *mode != 0);
        let own = is_own_schema;
        let mut found = Discovery::default();
        let mut wanted = HashSet::new();
        // A server that folds names keeps those of the rules as they are, which has to be in small letters there.
        let of_source = |here: &String| self.names.source_schema(here);
        for name in configured {
            let stored = rows
                .iter()
                .filter_map(|(stored, ..)| of_source(stored))
                .find(|stored| stored == name || (folded && stored.to_lowercase() == name.to_lowercase()));
            match stored {
                _ if own(name) => found.own_schemas.push(name.clone()),
                Some(stored) => drop(wanted.insert(stored)),
                None => found.missing_schemas.push(name.clone()),
            }
        }
        let is_wanted =
            |name: &String| if configured.is_empty() { !own(name) } else { wanted.contains(name) };
        let held = self.names.schemas(configured.iter().map(String::as_str));
        let here = rows
            .iter()
            .map(|(here, ..)| here)
            .filter(|here| of_source(here).is_some_and(|name| is_wanted(&name)) || held.contains(here));
        let here = here.cloned().collect();
        let moved = rows.into_iter().filter_map(|(here, charset, collation)| {
            let name = self.names.source_schema(&here).filter(is_wanted)?;
            Some(SchemaDefaults { name, charset, collation })
        });
        found.schemas = moved.collect();
        found.schemas.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((found, here))
    }

    /// What the source calls a table or a view of this server. `None`: it isn't moved.
    fn known(&self, here: &TableName, moved: &[SchemaDefaults]) -> Option<TableName> {
        if self.names.is_plain() {
            return Some(here.clone());
        }
        // A schema that holds tables of another one by rules of their own isn't moved for that.
        let name = self.names.source_table(here)?;
        moved.iter().any(|schema| schema.name == name.schema).then_some(name)
    }

    async fn tables(
        &mut self,
        list: &str,
        found: &mut Discovery,
        excluded: impl Fn(&TableName) -> bool,
    ) -> Result<Drafts> {
        type Table = (String, String, String, Option<String>, Option<u64>);
        let rows: Vec<Table> = self
            .rows(&format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS \
                 FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({list})"
            ))
            .await?;
        let mut drafts = BTreeMap::new();
        for (schema, table, table_type, engine, rows_estimate) in rows {
            let here = TableName::new(schema, table);
            let Some(name) = self.known(&here, &found.schemas) else {
                // A view there may well stand in for a table that is renamed.
                if table_type == "BASE TABLE" && self.names.source_table(&here).is_none() {
                    found.unnamed.push(here);
                }
                continue;
            };
            let kind = match table_type.as_str() {
                "VIEW" => Some("view"),
                "SEQUENCE" => Some("sequence"),
                _ => None,
            };
            if let Some(kind) = kind {
                found.objects.push(OtherObject {
                    kind: kind.to_owned(),
                    schema: name.schema,
                    name: name.table,
                });
                continue;
            }
            if excluded(&name) {
                found.excluded.push(name);
                continue;
            }
            let mut problems = Vec::new();
            if table_type != "BASE TABLE" {
                problems.push(format!(
                    "It is a table of the kind {table_type}, which isn't supported yet; exclude it with \
                     exclude_tables."
                ));
            }
            let schema = TableSchema {
                stored_as: (name != here).then(|| here.clone()),
                name,
                columns: Vec::new(),
                unique_keys: Vec::new(),
                foreign_keys: Vec::new(),
                has_cascading_children: false,
                rows_estimate: rows_estimate.unwrap_or(0),
                create_sql: String::new(),
                keyless: false,
                target: None,
                filter: None,
                left_out: LeftOut::default(),
            };
            drafts.insert(here, DiscoveredTable { schema, engine: engine.unwrap_or_default(), problems });
        }
        found.excluded.sort();
        Ok(drafts)
    }

    async fn columns(&mut self, list: &str, drafts: &mut Drafts) -> Result<()> {
        let rows: Vec<Row> = self
            .rows(&format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, \
                 COLLATION_NAME, IS_NULLABLE, EXTRA \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN ({list}) \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
            ))
            .await?;
        let ocean_base = self.conn.server_version() == server::OCEANBASE_SAYS;
        for row in rows {
            let name = TableName::new(self.text(&row, 0)?, self.text(&row, 1)?);
            let Some(draft) = drafts.get_mut(&name) else { continue };
            let column_type = self.text(&row, 3)?;
            let kind = match column::kind(&column_type) {
                // OceanBase prints a document as the text that it was made of, and knows no marks for its types.
                ColumnKind::Json if ocean_base => ColumnKind::Text,
                kind => kind,
            };
            let column_name = self.text(&row, 2)?;
            if kind == ColumnKind::Unknown {
                draft.problems.push(format!(
                    "Its column {column_name} has the type {column_type}, which isn't supported yet; exclude \
                     the table with exclude_tables or change the column."
                ));
            }
            let extra = self.text(&row, 7)?.to_ascii_uppercase();
            let text = matches!(kind, ColumnKind::Text | ColumnKind::Enum { .. } | ColumnKind::Set { .. });
            let document = text && column_type.eq_ignore_ascii_case("json");
            let of_text = |said: Option<String>, of_document: &str| {
                let said = if document { Some(of_document.to_owned()) } else { said };
                said.filter(|name| text && name != "binary")
            };
            draft.schema.columns.push(Column {
                name: column_name,
                kind,
                column_type,
                charset: of_text(self.optional_text(&row, 4)?, "utf8mb4"),
                collation: of_text(self.optional_text(&row, 5)?, "utf8mb4_bin"),
                nullable: self.text(&row, 6)?.eq_ignore_ascii_case("YES"),
                // MySQL also says DEFAULT_GENERATED of a column whose default is an expression.
                generated: extra.split(' ').any(|word| word == "GENERATED")
                    || extra.split(' ').any(|word| word == "PERSISTENT"),
            });
        }
        Ok(())
    }

    async fn keys(&mut self, list: &str, drafts: &mut Drafts) -> Result<()> {
        type Part = (String, String, String, Option<String>, Option<u32>, String);
        let rows: Vec<Part> = self
            .rows(&format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART, INDEX_TYPE \
                 FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0 AND TABLE_SCHEMA IN ({list}) \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
            ))
            .await?;
        for (schema, table, index, column, prefix, index_type) in rows {
            let Some(draft) = drafts.get_mut(&TableName::new(schema, table)) else { continue };
            let position = column
                .as_ref()
                .and_then(|column| draft.schema.columns.iter().position(|c| &c.name == column));
            let Some(position) = position else {
                draft.problems.push(format!(
                    "Its unique key {index} is over an expression, which isn't supported yet; exclude the \
                     table with exclude_tables or make the key one of columns."
                ));
                continue;
            };
            if index_type.eq_ignore_ascii_case("HASH") && draft.engine.eq_ignore_ascii_case("InnoDB") {
                draft.problems.push(format!(
                    "Its unique key {index} is kept as a hash of long columns, which isn't supported yet; \
                     exclude the table with exclude_tables."
                ));
            }
            match draft.schema.unique_keys.last_mut().filter(|key| key.name == index) {
                Some(key) => {
                    key.columns.push(position);
                    key.prefixes.push(prefix);
                }
                None => draft.schema.unique_keys.push(UniqueKey {
                    name: index,
                    columns: vec![position],
                    prefixes: vec![prefix],
                }),
            }
        }
        Ok(())
    }

    async fn foreign_keys(&mut self, list: &str, drafts: &mut Drafts) -> Result<()> {
        let rows: Vec<Row> = self
            .rows(&format!(
                "SELECT k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, \
                 k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, \
                 r.DELETE_RULE, r.UPDATE_RULE \
                 FROM information_schema.KEY_COLUMN_USAGE k \
                 JOIN information_schema.REFERENTIAL_CONSTRAINTS r \
                 ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME \
                 AND r.TABLE_NAME = k.TABLE_NAME \
                 WHERE k.TABLE_SCHEMA IN ({list}) AND k.REFERENCED_TABLE_NAME IS NOT NULL \
                 ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
            ))
            .await?;
        for row in rows {
            let table = TableName::new(self.text(&row, 0)?, self.text(&row, 1)?);
            let Some(draft) = drafts.get_mut(&table) else { continue };
            let (name, column) = (self.text(&row, 2)?, self.text(&row, 3)?);
            let parent_column = self.text(&row, 6)?;
            let position = draft.schema.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&column));
            let position = position.ok_or_else(|| {
                Error::bug(format!("foreign key {name} of {table}"), "its column isn't among the table's")
            })?;
            let acts = |rule: &str| matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT");
            match draft.schema.foreign_keys.last_mut().filter(|key| key.name == name) {
                Some(key) => {
                    key.columns.push(position);
                    key.parent_columns.push(parent_column);
                }
                None => draft.schema.foreign_keys.push(ForeignKey {
                    name,
                    columns: vec![position],
                    parent: self.parent(TableName::new(self.text(&row, 4)?, self.text(&row, 5)?)),
                    parent_columns: vec![parent_column],
                    cascades_on_delete: acts(&self.text(&row, 7)?),
                    cascades_on_update: acts(&self.text(&row, 8)?),
                }),
            }
        }
        Ok(())
    }

    /// A parent that nothing of the source is called by is one that isn't moved.
    fn parent(&self, here: TableName) -> TableName {
        self.names.source_table(&here).unwrap_or(here)
    }

    async fn objects(&mut self, list: &str, moved: &[SchemaDefaults]) -> Result<Vec<OtherObject>> {
        let rows: Vec<(String, String, String, String)> = self
            .rows(&format!(
                "SELECT LOWER(ROUTINE_TYPE), ROUTINE_SCHEMA, ROUTINE_NAME, '' FROM information_schema.ROUTINES \
                 WHERE ROUTINE_SCHEMA IN ({list}) \
                 UNION ALL SELECT 'trigger', TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_TABLE \
                 FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA IN ({list})"
            ))
            .await?;
        let events = self.events(list).await?;
        let events = events.into_iter().map(|(kind, schema, name)| (kind, schema, name, String::new()));
        let object = |(kind, schema, name, table): (String, String, String, String)| {
            // A trigger goes where its table goes.
            let schema = match table.as_str() {
                "" => self.names.source_schema(&schema)?,
                _ => self.names.source_table(&TableName::new(schema, table))?.schema,
            };
            moved.iter().any(|moved| moved.name == schema).then_some(OtherObject { kind, schema, name })
        };
        Ok(rows.into_iter().chain(events).filter_map(object).collect())
    }

    /// OceanBase hasn't got any in its information_schema.
    async fn events(&mut self, list: &str) -> Result<Vec<(String, String, String)>> {
        const UNKNOWN_TABLE: u16 = 1109;
        let sql = format!(
            "SELECT 'event', EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA IN ({list})"
        );
        match self.conn.query(sql).await {
            Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_TABLE => Ok(Vec::new()),
            rows => rows.map_err(|error| Error::database(self.side, PLACE, &error)),
        }
    }

    fn text(&self, row: &Row, index: usize) -> Result<String> {
        Ok(self.optional_text(row, index)?.unwrap_or_default())
    }

    fn optional_text(&self, row: &Row, index: usize) -> Result<Option<String>> {
        match row.get_opt::<Option<String>, _>(index) {
            Some(Ok(text)) => Ok(text),
            _ => Err(Error::definite(self.side, PLACE, "the server's answer isn't text in UTF-8")),
        }
    }
}

/// Marks the tables that others refer to with an action of their own.
fn note_cascades(drafts: &mut Drafts) {
    let parents: HashSet<TableName> = drafts
        .values()
        .flat_map(|draft| &draft.schema.foreign_keys)
        .filter(|key| key.cascades_on_delete || key.cascades_on_update)
        .map(|key| key.parent.clone())
        .collect();
    for draft in drafts.values_mut() {
        draft.schema.has_cascading_children = parents.contains(&draft.schema.name);
    }
}

/// Puts the key that rows are found by first, and says what is wrong with the table as a whole.
fn finish(mut draft: DiscoveredTable) -> DiscoveredTable {
    let DiscoveredTable { schema, engine, problems } = &mut draft;
    let columns = &schema.columns;
    let usable = |key: &UniqueKey| {
        key.prefixes.iter().all(Option::is_none)
            && key.columns.iter().filter_map(|i| columns.get(*i)).all(|column| {
                !column.nullable
                    // A FLOAT's literal is a double and compares equal to hardly any of them.
                    && !matches!(column.kind, ColumnKind::Float | ColumnKind::Double | ColumnKind::Unknown)
            })
    };
    let best = schema.unique_keys.iter().position(|key| key.name == "PRIMARY" && usable(key));
    let best = best.or_else(|| shortest(&schema.unique_keys, usable));
    match best {
        Some(position) => schema.unique_keys.get_mut(..=position).unwrap_or_default().rotate_right(1),
        None => {
            schema.keyless = true;
            problems.extend(without_key(schema, engine));
            problems.extend(left_out::without_key(schema));
        }
    }
    if !ENGINES.iter().any(|known| engine.eq_ignore_ascii_case(known)) {
        problems.push(format!(
            "Its storage engine is {}, whose rows can't be moved; change it to InnoDB (ALTER TABLE … ENGINE = \
             InnoDB) or exclude the table with exclude_tables.",
            if engine.is_empty() { "unknown" } else { engine }
        ));
    }
    // Only as a default: a name or a comment with this in it is refused for nothing, and can be excluded.
    if schema.create_sql.to_ascii_lowercase().contains("nextval(") {
        problems.push(
            "A default of it takes values from a sequence, which isn't moved yet; exclude the table with \
             exclude_tables."
                .to_owned(),
        );
    }
    let mut seen = HashMap::new();
    problems.retain(|problem| seen.insert(problem.clone(), ()).is_none());
    draft
}

/// Notes which rows of the table are moved.
fn narrow(mut draft: DiscoveredTable, migration: &MigrationConfig) -> DiscoveredTable {
    match RowFilter::of(&migration.rows, &draft.schema) {
        Ok(filter) => draft.schema.filter = filter,
        Err(problem) => draft.problems.push(problem),
    }
    draft
}

/// What keeps a table whose rows nothing tells apart from being copied at one position and followed exactly once.
fn without_key(schema: &TableSchema, engine: &str) -> Option<String> {
    let why = if MANY_VERSIONS.iter().all(|known| !engine.eq_ignore_ascii_case(known)) {
        "its storage engine can't be read as of one moment"
    } else if schema.has_cascading_children
        || schema.foreign_keys.iter().any(|key| key.cascades_on_delete || key.cascades_on_update)
    {
        "ON DELETE or ON UPDATE actions of a foreign key change rows of it, or because of it"
    } else if !schema.columns.iter().any(|column| !column.generated) {
        "it has no column that is written"
    } else {
        return None;
    };
    Some(format!(
        "It has no primary key and no unique key of NOT NULL columns (whole columns, none of them FLOAT or DOUBLE), so \
         its rows can't be told apart, and {why}; add a primary key, or exclude the table with exclude_tables."
    ))
}

/// The usable key with the fewest columns.
fn shortest(keys: &[UniqueKey], usable: impl Fn(&UniqueKey) -> bool) -> Option<usize> {
    let usable = keys.iter().enumerate().filter(|(_, key)| usable(key));
    usable.min_by_key(|(_, key)| key.columns.len()).map(|(position, _)| position)
}

/// A string literal for a session in UTF-8 without NO_BACKSLASH_ESCAPES.
fn string_literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn column(name: &str, kind: ColumnKind, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            kind,
            column_type: String::new(),
            charset: None,
            collation: None,
            nullable,
            generated: false,
        }
    }

    fn key(name: &str, columns: &[usize], prefix: Option<u32>) -> UniqueKey {
        let prefixes = columns.iter().map(|_| prefix).collect();
        UniqueKey { name: name.to_owned(), columns: columns.to_vec(), prefixes }
    }

    #[test]
    fn the_row_key_comes_first() {
        let check = |keys: Vec<UniqueKey>, expected: &[&str], keyless: bool| {
            let int = ColumnKind::Integer { bytes: 4, unsigned: false };
            let schema = TableSchema {
                name: TableName::new("s", "t"),
                columns: vec![
                    column("a", int.clone(), false),
                    column("b", int, true),
                    column("c", ColumnKind::Text, false),
                    column("f", ColumnKind::Float, false),
                ],
                unique_keys: keys,
                foreign_keys: Vec::new(),
                has_cascading_children: false,
                rows_estimate: 0,
                create_sql: String::new(),
                keyless: false,
                target: None,
                stored_as: None,
                filter: None,
                left_out: LeftOut::default(),
            };
            let done = finish(DiscoveredTable { schema, engine: "InnoDB".to_owned(), problems: Vec::new() });
            let names: Vec<_> = done.schema.unique_keys.iter().map(|k| k.name.as_str()).collect();
            assert_eq!(names, expected);
            assert_eq!(done.schema.keyless, keyless, "{expected:?}");
            assert!(done.problems.is_empty(), "{expected:?}");
        };
        check(vec![key("A", &[2], None), key("PRIMARY", &[0], None)], &["PRIMARY", "A"], false);
        check(vec![key("b", &[1], None), key("c", &[0, 2], None)], &["c", "b"], false);
        check(
            vec![key("ac", &[0, 2], None), key("x", &[1], None), key("c", &[2], None)],
            &["c", "ac", "x"],
            false,
        );
        check(vec![key("c", &[2], Some(5))], &["c"], true);
        check(vec![key("b", &[1], None)], &["b"], true);
        check(vec![key("PRIMARY", &[3], None)], &["PRIMARY"], true);
        check(vec![], &[], true);
    }

    #[test]
    fn tables_without_a_key_are_of_innodb_and_have_no_cascades() {
        let check = |engine: &str, cascades: bool, expected: Option<&str>| {
            let schema = TableSchema {
                name: TableName::new("s", "t"),
                columns: vec![column("a", ColumnKind::Integer { bytes: 4, unsigned: false }, true)],
                unique_keys: Vec::new(),
                foreign_keys: Vec::new(),
                has_cascading_children: cascades,
                rows_estimate: 0,
                create_sql: String::new(),
                keyless: false,
                target: None,
                stored_as: None,
                filter: None,
                left_out: LeftOut::default(),
            };
            let done = finish(DiscoveredTable { schema, engine: engine.to_owned(), problems: Vec::new() });
            assert!(done.schema.keyless && done.schema.row_key().is_none());
            let first = done.problems.first();
            assert_eq!(first.is_some(), expected.is_some(), "{first:?}");
            assert!(first.zip(expected).is_none_or(|(problem, part)| problem.contains(part)), "{first:?}");
        };
        check("InnoDB", false, None);
        check("MyISAM", false, Some("one moment"));
        check("InnoDB", true, Some("foreign key"));
    }
}
