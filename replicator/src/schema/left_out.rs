//! Column filters (`[[migration.columns]]`): columns that aren't moved.
//!
//! Seen through the filter a table is one without them: its definition, its copy, its changes and its checksums are those
//! of the rest. A change of nothing but these columns is none. That is a history that such a table can have, so everything
//! behind discovery and decoder holds for it as for any other (invariants 1 and 4), as long as nothing of the rest stands on
//! what is left out. Whatever does is refused: the primary key, the row key, foreign keys of either side, the partitioning,
//! generated columns, defaults and row filters. A table without a key is refused as well: rows that are told apart by
//! these columns alone would be equal.
//!
//! What stands on them beside that goes with them, and is listed with the conversions: other unique keys as a whole (of the
//! columns that remain they say nothing), indexes by these columns, CHECK constraints.
//!
//! On the way back the rows of the old server still have these columns, so there no row may be written anew that is there:
//! `apply/left_out.rs`.

use std::collections::BTreeSet;

use config::pattern::like;
use config::{ColumnsConfig, MigrationConfig, TableName};
use serde::{Deserialize, Serialize};

use super::convert::{Reduced, without_columns};
use super::discover::DiscoveredTable;
use super::filter;
use super::table::{Column, ForeignKey, TableSchema};
use crate::error::{Error, Result};

/// What of a table isn't moved. Empty for most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The columns, in their order.
    pub columns: Vec<LeftOutColumn>,
    /// Everything that goes with them, the columns among it.
    pub(crate) parts: Vec<Part>,
    /// SHOW CREATE TABLE of the whole table.
    pub(crate) create_sql: String,
    /// Why rows can't be brought back into the whole table, as the rest of a sentence about it. `None`: they can.
    pub(crate) no_way_back: Option<String>,
}

/// A column that isn't moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutColumn {
    /// Its place in the whole table, and so in the row image.
    pub at: usize,
    /// What it is.
    pub column: Column,
    /// Its definition was changed since that was read. Its type is what the binary log says.
    #[serde(default)]
    pub altered: bool,
}

/// A part of a definition that isn't made on the other side, or not as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) name: String,
    /// What it is, behind its name.
    pub(crate) definition: String,
    /// What is left of it; empty: nothing.
    pub(crate) becomes: String,
    /// The columns of a key.
    pub(crate) columns: Vec<String>,
    /// It said something about the columns that remain.
    pub(crate) lossy: bool,
}

/// What such a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PartKind {
    Column(Filling),
    Unique,
    Index,
    Check,
}

/// What an INSERT that doesn't name a column gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Filling {
    Null,
    Default,
    Nothing,
}

impl PartKind {
    /// As SHOW CONVERSIONS has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            PartKind::Column(_) => "column",
            PartKind::Unique | PartKind::Index => "index",
            PartKind::Check => "check",
        }
    }
}

impl LeftOut {
    /// True where everything is moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// True for the name of one of the columns.
    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|left| same(&left.column.name, name))
    }

    /// True for the name of a column whose definition was changed meanwhile.
    pub(crate) fn is_altered(&self, name: &str) -> bool {
        self.columns.iter().any(|left| left.altered && same(&left.column.name, name))
    }

    /// True for the name of a column, or of a key or constraint that isn't the same on the other side.
    pub(crate) fn is_about(&self, name: &str) -> bool {
        self.parts.iter().any(|part| same(&part.name, name))
    }

    /// The names of the columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|left| left.column.name.as_str())
    }

    /// The same behind a statement that has dropped some of the other columns or added some behind all of them: they were
    /// `before` and are `now`. `None` where it can't have been such a statement.
    pub(crate) fn behind(&self, before: &[Column], now: &[Column]) -> Option<Self> {
        let is_there = |name: &str| now.iter().any(|column| column.name == name);
        let added = now.iter().filter(|column| !before.iter().any(|old| old.name == column.name));
        let (mut names, mut columns) = (Vec::new(), Vec::with_capacity(self.columns.len()));
        let mut at = 0;
        for (place, name) in in_order(before, &self.columns) {
            match name {
                Ok(left) => columns.push(LeftOutColumn { at, ..left.clone() }),
                Err(column) if is_there(&column.name) => names.push(column.name.as_str()),
                Err(_) => continue,
            }
            debug_assert!(place >= at);
            at += 1;
        }
        names.extend(added.map(|column| column.name.as_str()));
        let same = names.len() == now.len() && names.iter().zip(now).all(|(name, now)| *name == now.name);
        same.then(|| Self { columns, ..self.clone() })
    }
}

/// The columns of a whole table in their order: one that is left out, or one that isn't.
fn in_order<'a>(
    kept: &'a [Column],
    left: &'a [LeftOutColumn],
) -> impl Iterator<Item = (usize, std::result::Result<&'a LeftOutColumn, &'a Column>)> {
    let (mut kept, mut left) = (kept.iter(), left.iter().peekable());
    let mut place = 0..;
    std::iter::from_fn(move || {
        let at = place.next()?;
        let column = match left.next_if(|left| left.at == at) {
            Some(left) => Ok(left),
            None => Err(kept.next()?),
        };
        Some((at, column))
    })
}

impl TableSchema {
    /// Every column in the order of the row image, with its index into [`Self::columns`]; `None` for one that isn't moved.
    pub(crate) fn image(&self) -> Vec<(&Column, Option<usize>)> {
        let mut next = 0..;
        let all = in_order(&self.columns, &self.left_out.columns);
        all.map(|(_, column)| match column {
            Ok(left) => (&left.column, None),
            Err(column) => (column, next.next()),
        })
        .collect()
    }

    /// SHOW CREATE TABLE of the whole table.
    pub(crate) fn whole_sql(&self) -> &str {
        if self.left_out.is_empty() { &self.create_sql } else { &self.left_out.create_sql }
    }

    /// What of it isn't moved, on whichever side of it the rest is.
    pub(crate) fn left_out_of_either(&self) -> Option<&LeftOut> {
        let there = self.target.as_ref().map(|target| &target.left_out);
        [Some(&self.left_out), there].into_iter().flatten().find(|left| !left.is_empty())
    }
}

/// The rule for a table: the first one that matches.
pub(crate) fn rule_of<'a>(rules: &'a [ColumnsConfig], table: &TableName) -> Option<&'a ColumnsConfig> {
    let text = table.to_string();
    rules.iter().find(|rule| like(&rule.tables, &text))
}

/// A filter isn't changed while a migration runs: what it would bring in was never copied.
///
/// # Errors
/// `migration.columns` says otherwise than when the migration began.
pub(crate) fn hold_to(rules: &[ColumnsConfig], begun_with: &[ColumnsConfig]) -> Result<()> {
    if rules == begun_with {
        return Ok(());
    }
    let what = "it was changed since the migration began, and columns were left out by what it said then; put it back and \
                RESUME MIGRATION, or begin again with an empty state_dir and an empty target";
    Err(Error::definite(None, "migration.columns", what))
}

/// Makes the table the one without the columns that aren't moved. Returns why it can't be, each a full sentence.
pub(crate) fn leave_out(migration: &MigrationConfig, table: &mut TableSchema) -> Vec<String> {
    let Some(rule) = rule_of(&migration.columns, &table.name) else { return Vec::new() };
    let names: BTreeSet<String> =
        table.columns.iter().map(|column| lower(&column.name)).filter(|name| rule.excludes(name)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let Some(Reduced { sql, parts, mut problems }) = without_columns(&table.create_sql, &names) else {
        return vec![
            "Its definition can't be read, so columns of it can't be left out (migration.columns); exclude the table with \
             exclude_tables."
                .to_owned(),
        ];
    };
    if let Some(rows) =
        filter::rule_of(&migration.rows, &table.name).filter(|rows| rule.excludes(&rows.column))
    {
        problems.push(format!(
            "migration.rows filters it by its column {}, which migration.columns leaves out; the new server would have no \
             column to tell by whose its rows are. Keep it.",
            rows.column
        ));
    }
    let (kept, columns) = split(std::mem::take(&mut table.columns), &names);
    if kept.iter().all(|(_, column)| column.generated) {
        problems.push("migration.columns leaves none of its columns that are written.".to_owned());
    }
    // Where the columns that remain are now.
    let moved = |old: &[usize]| -> Option<Vec<usize>> {
        old.iter().map(|old| kept.iter().position(|(at, _)| at == old)).collect()
    };
    table.unique_keys.retain_mut(|key| moved(&key.columns).map(|columns| key.columns = columns).is_some());
    // Those that stand on them are refused.
    table.foreign_keys.retain_mut(|key: &mut ForeignKey| {
        moved(&key.columns).map(|columns| key.columns = columns).is_some()
    });
    table.columns = kept.into_iter().map(|(_, column)| column).collect();
    let no_way_back = no_way_back(&columns, &parts);
    let create_sql = std::mem::replace(&mut table.create_sql, sql);
    table.left_out = LeftOut { columns, parts, create_sql, no_way_back };
    problems
}

fn split(columns: Vec<Column>, names: &BTreeSet<String>) -> (Vec<(usize, Column)>, Vec<LeftOutColumn>) {
    let (mut kept, mut left) = (Vec::new(), Vec::new());
    for (at, column) in columns.into_iter().enumerate() {
        if names.contains(&lower(&column.name)) {
            left.push(LeftOutColumn { at, column, altered: false });
        } else {
            kept.push((at, column));
        }
    }
    (kept, left)
}

/// What is wrong with a table whose key was looked for among what is left of it.
pub(crate) fn without_key(table: &TableSchema) -> Option<String> {
    (!table.left_out.is_empty() && table.keyless).then(|| {
        "It has no key without the columns that migration.columns leaves out, and nothing else may tell its rows apart: rows \
         that differ in those alone would be equal. Give it a primary key, or keep the columns."
            .to_owned()
    })
}

/// What other tables refer to has to stay. Adds it to the problems of the tables that are referred to.
pub(crate) fn judge_parents(tables: &mut [DiscoveredTable]) {
    let keys: Vec<(TableName, ForeignKey)> = tables
        .iter()
        .flat_map(|table| {
            table.schema.foreign_keys.iter().map(|key| (table.schema.name.clone(), key.clone()))
        })
        .collect();
    for table in tables.iter_mut().filter(|table| !table.schema.left_out.is_empty()) {
        let left_out = &table.schema.left_out;
        let unique = |name: &String| {
            let mut keys = left_out.parts.iter().filter(|part| part.kind == PartKind::Unique);
            keys.any(|key| key.columns.iter().any(|column| same(column, name)))
        };
        for (child, key) in keys.iter().filter(|(_, key)| key.parent == table.schema.name) {
            let goes = |name: &&String| left_out.has_column(name) || unique(name);
            if let Some(column) = key.parent_columns.iter().find(goes) {
                table.problems.push(format!(
                    "The foreign key {} of {child} refers to its column {column}, which migration.columns leaves out, or \
                     whose unique key it does; keep those columns, or drop the foreign key.",
                    key.name
                ));
            }
        }
    }
}

/// Why rows of the new server couldn't be brought back: an INSERT doesn't name these columns, and an UPDATE leaves them.
pub(super) fn no_way_back(columns: &[LeftOutColumn], parts: &[Part]) -> Option<String> {
    let filling = |name: &str| {
        parts.iter().find_map(|part| match part.kind {
            PartKind::Column(filling) if same(&part.name, name) => Some(filling),
            _ => None,
        })
    };
    let generated =
        |name: &str| columns.iter().any(|left| left.column.generated && same(&left.column.name, name));
    for part in parts {
        match part.kind {
            PartKind::Column(Filling::Nothing) if !generated(&part.name) => {
                return Some(format!(
                    "its column {}, which isn't moved, is NOT NULL and has no default, so a row of the new server has no \
                     value for it",
                    part.name
                ));
            }
            PartKind::Unique => {
                let apart = part.columns.iter().all(|name| filling(name).is_some())
                    && part
                        .columns
                        .iter()
                        .any(|name| filling(name) == Some(Filling::Null) && !generated(name));
                if !apart {
                    return Some(format!(
                        "its unique key {} holds columns that aren't moved, and rows of the new server might collide in it",
                        part.name
                    ));
                }
            }
            _ => {}
        }
    }
    None
}

pub(super) fn same(a: &str, b: &str) -> bool {
    lower(a) == lower(b)
}

/// Names of columns have no case.
pub(crate) fn lower(name: &str) -> String {
    name.to_lowercase()
}
