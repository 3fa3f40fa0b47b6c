//! A table as copy, decoder, applier and verifier need it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use config::names::quote_identifier;
use config::{BinlogPosition, TableName};
use serde::{Deserialize, Serialize};

use super::filter::{Outside, RowFilter};
use super::left_out::LeftOut;
use super::selection::Selection;

/// A table of the migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Its name, the source's on both sides: what it is known by everywhere.
    pub name: TableName,
    /// Its name where this is its definition, if it is another one (`migration.rename`); see [`Self::quoted`].
    #[serde(default)]
    pub stored_as: Option<TableName>,
    /// Every column that is moved in the order of the row image, generated ones among them.
    pub columns: Vec<Column>,
    /// Unique keys; the first one is the key rows are found by (the primary key, else a unique key without
    /// nullable columns), unless the table is [`Self::keyless`].
    pub unique_keys: Vec<UniqueKey>,
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// True where another table of the migration refers to this one with ON DELETE or ON UPDATE CASCADE or SET
    /// NULL.
    pub has_cascading_children: bool,
    /// The server's estimate of its rows.
    pub rows_estimate: u64,
    /// SHOW CREATE TABLE on the source.
    pub create_sql: String,
    /// True where none of the unique keys tells its rows apart, if there are any: it is copied at one position and
    /// followed exactly once.
    #[serde(default)]
    pub keyless: bool,
    /// The table as it is where it is copied to, if its columns aren't defined alike there. `None`: they are.
    #[serde(with = "boxed", default)]
    pub target: Option<Arc<TableSchema>>,
    /// The rows that are moved; `None`: all of them.
    #[serde(default)]
    pub filter: Option<RowFilter>,
    /// The columns that aren't moved, on the side that has them; [`Self::columns`] are the others.
    #[serde(default)]
    pub left_out: LeftOut,
}

/// A table inside of a table, for serde.
mod boxed {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::TableSchema;

    pub(super) fn serialize<S: Serializer>(
        table: &Option<Arc<TableSchema>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        table.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<TableSchema>>, D::Error> {
        Ok(Option::<Box<TableSchema>>::deserialize(deserializer)?.map(Arc::from))
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as far as bytes are concerned.
    pub kind: ColumnKind,
    /// COLUMN_TYPE, for messages: `varchar(20)`, `int(10) unsigned`.
    pub column_type: String,
    /// Charset (`utf8mb4`, `latin1`); `None` where it has none. `binary` is never said: then it is `None`.
    pub charset: Option<String>,
    /// Collation, where there is a charset.
    pub collation: Option<String>,
    /// True where NULL is allowed.
    pub nullable: bool,
    /// True for a generated column, virtual or stored: in the row image, never written.
    pub generated: bool,
}

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnKind {
    /// TINYINT, SMALLINT, MEDIUMINT, INT, BIGINT: `bytes` is 1, 2, 3, 4 or 8.
    Integer {
        /// Width in bytes.
        bytes: u8,
        /// UNSIGNED.
        unsigned: bool,
    },
    /// DECIMAL(precision, scale).
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// FLOAT.
    Float,
    /// DOUBLE.
    Double,
    /// BIT(bits).
    Bit {
        /// 1 to 64.
        bits: u8,
    },
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// TIME(fraction).
    Time {
        /// Fractional digits, 0 to 6.
        fraction: u8,
    },
    /// DATETIME(fraction).
    Datetime {
        /// Fractional digits, 0 to 6.
        fraction: u8,
    },
    /// TIMESTAMP(fraction).
    Timestamp {
        /// Fractional digits, 0 to 6.
        fraction: u8,
    },
    /// CHAR, VARCHAR, TEXT and its sizes.
    Text,
    /// BINARY(length): values are padded with zeros to it.
    Binary {
        /// Bytes.
        length: u32,
    },
    /// VARBINARY, BLOB and its sizes.
    Blob,
    /// ENUM with so many members.
    Enum {
        /// Members.
        members: u16,
    },
    /// SET with so many members.
    Set {
        /// Members, up to 64.
        members: u8,
    },
    /// MySQL's binary JSON. (MariaDB's JSON is `Text`.)
    Json,
    /// GEOMETRY and its subtypes.
    Geometry,
    /// MySQL's VECTOR: bytes, four for each of at most so many numbers.
    Vector {
        /// Numbers, at most.
        dimensions: u32,
    },
    /// MariaDB's UUID.
    Uuid,
    /// MariaDB's INET4.
    Inet4,
    /// MariaDB's INET6.
    Inet6,
    /// A type that isn't understood: preflight refuses the table, the decoder stops (invariant 5).
    Unknown,
}

/// A unique key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueKey {
    /// Its name; `PRIMARY` for the primary key.
    pub name: String,
    /// Indexes into [`TableSchema::columns`].
    pub columns: Vec<usize>,
    /// For each of them, how many characters (bytes for binary types) are indexed; `None`: all.
    pub prefixes: Vec<Option<u32>>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// Indexes into the child's [`TableSchema::columns`].
    pub columns: Vec<usize>,
    /// The table it refers to.
    pub parent: TableName,
    /// The parent's columns, in the same order.
    pub parent_columns: Vec<String>,
    /// True for CASCADE, SET NULL or SET DEFAULT on delete.
    pub cascades_on_delete: bool,
    /// True for CASCADE, SET NULL or SET DEFAULT on update.
    pub cascades_on_update: bool,
}

/// The tables of a migration, by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SchemaSet {
    tables: Arc<HashMap<TableName, Arc<TableSchema>>>,
    passed_over: Arc<PassedOver>,
}

/// Whose rows in the binlog aren't wanted, though the spool has them.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    /// Tables whose rows are exact from their first change on: made by the stream, or copied at one position.
    pub(crate) exact: HashSet<TableName>,
    /// Things with rows that aren't tables: sequences.
    pub(crate) names: HashSet<TableName>,
    /// Tables that were copied at a later position than the others: up to there their rows are in the copy.
    pub(crate) begins: HashMap<TableName, BinlogPosition>,
    /// What it doesn't take isn't wanted.
    pub(crate) selection: Option<Selection>,
    /// What becomes of rows that aren't in their table's filter.
    pub(crate) outside: Outside,
}

impl SchemaSet {
    /// A set of tables.
    #[must_use]
    pub fn new(tables: Vec<TableSchema>) -> Self {
        let tables = tables.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect();
        Self { tables: Arc::new(tables), passed_over: Arc::default() }
    }

    /// The same tables, and what isn't wanted of the binlog.
    pub(crate) fn passing_over(mut self, passed_over: PassedOver) -> Self {
        self.passed_over = Arc::new(passed_over);
        self
    }

    /// The source's name of a table that the log of the side that is read calls so.
    pub(crate) fn in_source_names(&self, here: TableName) -> TableName {
        match &self.passed_over.selection {
            Some(selection) if !selection.names().is_plain() => {
                selection.names().source_table(&here).unwrap_or(here)
            }
            _ => here,
        }
    }

    /// The last of the positions up to which some table is passed over, where there is any: up to there a
    /// transaction's end decides.
    /// Tables whose rows are exact from their first change on, whatever is replayed over a copy beside them.
    pub(crate) fn exact(&self) -> &HashSet<TableName> {
        &self.passed_over.exact
    }

    pub(crate) fn last_begin(&self) -> Option<&BinlogPosition> {
        self.passed_over.begins.values().max()
    }

    /// True where the rows of `name` in a transaction that ends at `end` aren't wanted.
    pub(crate) fn passes_over(&self, name: &TableName, end: Option<&BinlogPosition>) -> bool {
        let PassedOver { names, begins, selection, .. } = &*self.passed_over;
        names.contains(name)
            || begins.get(name).is_some_and(|begin| end.is_some_and(|end| end <= begin))
            || selection.as_ref().is_some_and(|selection| !selection.takes(name))
    }

    /// What becomes of rows that aren't in their table's filter.
    pub(crate) fn outside(&self) -> Outside {
        self.passed_over.outside
    }

    /// The same tables with every row of them.
    pub(crate) fn unfiltered(&self) -> Self {
        let whole = |table: &Arc<TableSchema>| match table.filter {
            None => Arc::clone(table),
            Some(_) => Arc::new(TableSchema { filter: None, ..TableSchema::clone(table) }),
        };
        let tables = self.tables.iter().map(|(name, table)| (name.clone(), whole(table)));
        Self { tables: Arc::new(tables.collect()), passed_over: Arc::clone(&self.passed_over) }
    }

    /// A table, where it belongs to the migration.
    #[must_use]
    pub fn get(&self, name: &TableName) -> Option<&Arc<TableSchema>> {
        self.tables.get(name)
    }

    /// Every table, sorted by name.
    #[must_use]
    pub fn sorted(&self) -> Vec<Arc<TableSchema>> {
        let mut all: Vec<_> = self.tables.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The tables as the target has them.
    #[must_use]
    pub fn on_target(&self) -> Self {
        let tables = self.tables.iter().map(|(name, table)| (name.clone(), table.on_target()));
        Self { tables: Arc::new(tables.collect()), passed_over: Arc::clone(&self.passed_over) }
    }

    /// Number of tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// True for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// True where a table of the migration lives in that schema.
    #[must_use]
    pub fn has_schema(&self, schema: &str) -> bool {
        self.tables.keys().any(|name| name.schema == schema)
    }
}

impl TableSchema {
    /// What the server calls it whose definition this is.
    #[must_use]
    pub fn stored(&self) -> &TableName {
        self.stored_as.as_ref().unwrap_or(&self.name)
    }

    /// That name, safe to put into SQL for that server.
    #[must_use]
    pub fn quoted(&self) -> String {
        self.stored().quoted()
    }

    /// The key that rows are found by. `None` for a [`Self::keyless`] table.
    #[must_use]
    pub fn row_key(&self) -> Option<&UniqueKey> {
        if self.keyless { None } else { self.unique_keys.first() }
    }

    /// The table as the target has it.
    #[must_use]
    pub fn on_target(self: &Arc<Self>) -> Arc<TableSchema> {
        self.target.clone().unwrap_or_else(|| Arc::clone(self))
    }

    /// The column that counts, by the table's own definition.
    #[must_use]
    pub fn auto_increment(&self) -> Option<&str> {
        let counts = |column: &&Column| {
            let begin = format!("{} ", quote_identifier(&column.name));
            let mut lines = self.create_sql.lines().map(str::trim_start);
            lines
                .any(|line| line.starts_with(&begin) && line.to_ascii_uppercase().contains(" AUTO_INCREMENT"))
        };
        self.columns.iter().find(counts).map(|column| column.name.as_str())
    }

    /// The columns with what each of them is on the target.
    pub fn column_pairs(&self) -> impl Iterator<Item = (&Column, &Column)> {
        let there = self.target.as_ref().map_or(&self.columns, |target| &target.columns);
        self.columns.iter().zip(there)
    }

    /// The condition of the rows that are moved; `TRUE` for all of them.
    pub(crate) fn moved(&self) -> Vec<u8> {
        self.filter.as_ref().map_or_else(|| b"TRUE".to_vec(), |filter| filter.condition(self))
    }

    /// Indexes of the columns that are written: all but the generated ones.
    pub fn stored_columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().enumerate().filter(|(_, c)| !c.generated).map(|(i, _)| i)
    }
}
