//! The definitions at the applied position, `definitions.json` in state_dir.
//!
//! The source's definitions of today aren't those of the rows that are replayed. What decoder, appliers and verifier
//! go by is therefore kept here: read from the source where the migration or a table's copy began, and carried on by
//! every statement that changes definitions, in its place in the stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{BinlogPosition, ColumnsConfig, Side, TableName, durable};
use serde::{Deserialize, Serialize};

use super::discover::Discovery;
use super::filter::Outside;
use super::left_out::LeftOut;
use super::selection::Selection;
use super::table::{PassedOver, SchemaSet, TableSchema};
use crate::error::{Error, Result};
use crate::leg::Leg;

const FILE: &str = "definitions.json";
const NAME: &str = "definitions";
const VERSION: u32 = 1;

/// Since when the rows of a table on the target are what the stream makes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Begin {
    /// It was copied with the others, from P0 to P1.
    FirstCopy,
    /// It was made by a statement of the stream, and every row of it came by the stream.
    Stream,
    /// It was copied by itself: the stream up to `from` is in the copy, and the copy could see up to `to`.
    OwnCopy { from: String, to: String },
}

/// A table of the migration at the applied position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) table: TableSchema,
    pub(crate) begin: Begin,
}

/// A statement that was begun, or that an operator has been asked to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The statement's number in the spool.
    pub(crate) seq: u64,
    /// What the target's definitions were before it: a hash.
    pub(crate) before: String,
}

/// What holds at the applied position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definitions {
    /// The leg whose statements are numbered so.
    pub(crate) leg: Leg,
    /// Number of the last statement that changed definitions.
    pub(crate) seq: u64,
    pub(crate) tables: Vec<Definition>,
    /// Things with rows in the binlog that aren't moved: sequences, and tables that were to be copied anew and are gone from
    /// the source, so that nothing that comes of them stays.
    pub(crate) ignored: BTreeSet<TableName>,
    pub(crate) pending: Option<Pending>,
    /// By what columns aren't moved.
    #[serde(default)]
    pub(crate) column_rules: Vec<ColumnsConfig>,
}

impl Definitions {
    /// Those with which a migration begins.
    pub(crate) fn begin(found: &Discovery, column_rules: &[ColumnsConfig]) -> Self {
        let table = |table: &super::discover::DiscoveredTable| Definition {
            table: table.schema.clone(),
            begin: Begin::FirstCopy,
        };
        let sequences = found.objects.iter().filter(|object| object.kind == "sequence");
        Self {
            leg: Leg::FIRST,
            seq: 0,
            tables: found.tables.iter().map(table).collect(),
            ignored: sequences.map(|object| TableName::new(&object.schema, &object.name)).collect(),
            pending: None,
            column_rules: column_rules.to_vec(),
        }
    }

    /// The tables, as schema and table.
    pub(crate) fn names(&self) -> Vec<(String, String)> {
        let name = |definition: &Definition| {
            (definition.table.name.schema.clone(), definition.table.name.table.clone())
        };
        self.tables.iter().map(name).collect()
    }

    /// Those with which the leg behind this one begins, as `found` has them where that is looked up. An error is the first
    /// table that isn't there.
    pub(crate) fn of_next_leg(
        mut self,
        leg: Leg,
        found: Option<&Discovery>,
    ) -> std::result::Result<Self, TableName> {
        self.leg = leg;
        self.seq = 0;
        self.pending = None;
        for definition in &mut self.tables {
            definition.begin = Begin::FirstCopy;
            // The side that was written is the one that is read.
            if let Some(written) = definition.table.target.take() {
                let read = std::mem::replace(&mut definition.table, TableSchema::clone(&written));
                definition.table.target = Some(Arc::new(read));
                continue;
            }
            let Some(found) = found else { continue };
            let name = &definition.table.name;
            let table = found.tables.iter().find(|table| table.schema.name == *name);
            definition.table = table.ok_or_else(|| name.clone())?.schema.clone();
        }
        Ok(self)
    }

    pub(crate) fn get(&self, name: &TableName) -> Option<&Definition> {
        self.tables.iter().find(|definition| definition.table.name == *name)
    }

    /// The tables as the other stages take them. What `selection` leaves out by now isn't missed.
    pub(crate) fn schema_set(&self, selection: &Selection) -> Result<SchemaSet> {
        let mut begins = HashMap::new();
        let mut exact = HashSet::new();
        for Definition { table, begin } in &self.tables {
            if let Begin::OwnCopy { from, .. } = begin {
                begins.insert(table.name.clone(), position(from)?);
            }
            let at_one_position = match begin {
                Begin::FirstCopy => false,
                Begin::Stream => true,
                Begin::OwnCopy { from, to } => from == to,
            };
            if at_one_position {
                exact.insert(table.name.clone());
            }
        }
        let names = self.ignored.iter().cloned().collect();
        let tables = self.tables.iter().map(|definition| definition.table.clone()).collect();
        Ok(SchemaSet::new(tables).passing_over(PassedOver {
            exact,
            names,
            begins,
            selection: Some(selection.clone()),
            outside: match self.leg.reads() {
                Side::Source => Outside::Dropped,
                Side::Target => Outside::Refused,
            },
        }))
    }

    /// The end of what any copy could see; `copied_at` is that of the first one.
    pub(crate) fn copied_at(&self, copied_at: &BinlogPosition) -> Result<BinlogPosition> {
        let mut last = copied_at.clone();
        for definition in &self.tables {
            if let Begin::OwnCopy { to, .. } = &definition.begin {
                last = last.max(position(to)?);
            }
        }
        Ok(last)
    }

    /// Replaces the definitions of `names` by those that are in `now`, and drops the others among them. `begin` says
    /// since when a new table's rows are those of the stream; one that is known keeps what it has, a renamed one what
    /// the old name had (`came_from`).
    pub(crate) fn replace(
        &mut self,
        names: &[TableName],
        now: &Discovery,
        begin: &Begin,
        came_from: &BTreeMap<TableName, TableName>,
    ) {
        let before: BTreeMap<TableName, Begin> = self
            .tables
            .iter()
            .map(|definition| (definition.table.name.clone(), definition.begin.clone()))
            .collect();
        self.tables.retain(|definition| !names.contains(&definition.table.name));
        for table in now.tables.iter().filter(|table| names.contains(&table.schema.name)) {
            let name = &table.schema.name;
            self.ignored.remove(name);
            let begin = match begin {
                Begin::OwnCopy { .. } => begin,
                _ => before.get(came_from.get(name).unwrap_or(name)).unwrap_or(begin),
            };
            self.tables.push(Definition { table: table.schema.clone(), begin: begin.clone() });
        }
        self.tables.sort_by(|a, b| a.table.name.cmp(&b.table.name));
        self.note_cascades();
    }

    /// What isn't moved of a table from here on.
    pub(crate) fn set_left_out(&mut self, name: &TableName, left_out: LeftOut) {
        if let Some(known) = self.tables.iter_mut().find(|definition| definition.table.name == *name) {
            known.table.left_out = left_out;
        }
    }

    /// A foreign key that came or went changes what its parent's rows do.
    fn note_cascades(&mut self) {
        let parents: BTreeSet<TableName> = self
            .tables
            .iter()
            .flat_map(|definition| &definition.table.foreign_keys)
            .filter(|key| key.cascades_on_delete || key.cascades_on_update)
            .map(|key| key.parent.clone())
            .collect();
        for definition in &mut self.tables {
            definition.table.has_cascading_children = parents.contains(&definition.table.name);
        }
    }
}

/// A position that this file holds.
pub(crate) fn position(text: &str) -> Result<BinlogPosition> {
    text.parse().map_err(|_| damaged("it holds no position where one should be"))
}

fn damaged(why: &str) -> Error {
    Error::definite(None, FILE, format!("it can't be read ({why}); start over with an empty state_dir"))
}

/// The file.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
}

impl History {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// What it holds.
    ///
    /// # Errors
    /// It is damaged, or missing: the migration was begun by a version of Changeover that had none.
    pub(crate) fn read(&self) -> Result<Definitions> {
        let bytes = durable::read(&self.path, NAME, VERSION)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))?
            .ok_or_else(|| damaged("it isn't there"))?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))
    }

    /// Replaces it durably.
    pub(crate) fn write(&self, definitions: &Definitions) -> Result<()> {
        let bytes = serde_json::to_vec(definitions).map_err(|e| Error::bug(FILE, e.to_string()))?;
        durable::write(&self.path, NAME, VERSION, &bytes)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::discover::DiscoveredTable;
    use super::*;

    fn table(name: &str, sql: &str) -> DiscoveredTable {
        let schema = TableSchema {
            name: TableName::new("s", name),
            columns: Vec::new(),
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            has_cascading_children: false,
            rows_estimate: 0,
            create_sql: sql.to_owned(),
            keyless: false,
            target: None,
            stored_as: None,
            filter: None,
            left_out: Default::default(),
        };
        DiscoveredTable { schema, engine: "InnoDB".to_owned(), problems: Vec::new() }
    }

    fn found(tables: &[(&str, &str)]) -> Discovery {
        Discovery { tables: tables.iter().map(|(n, s)| table(n, s)).collect(), ..Discovery::default() }
    }

    fn shown(definitions: &Definitions) -> Vec<String> {
        let show = |d: &Definition| format!("{} {} {:?}", d.table.name.table, d.table.create_sql, d.begin);
        definitions.tables.iter().map(show).collect()
    }

    #[test]
    fn a_swap_of_names_carries_on_what_each_table_has_behind_it() {
        let mut definitions = Definitions::begin(&found(&[("a", "1")]), &[]);
        let name = |n: &str| TableName::new("s", n);
        definitions.replace(
            &[name("_gho")],
            &found(&[("a", "1"), ("_gho", "2")]),
            &Begin::Stream,
            &BTreeMap::new(),
        );
        assert_eq!(shown(&definitions), ["_gho 2 Stream", "a 1 FirstCopy"]);
        let came_from = BTreeMap::from([(name("_del"), name("a")), (name("a"), name("_gho"))]);
        let names = [name("a"), name("_del"), name("_gho")];
        let now = found(&[("_del", "1"), ("a", "2")]);
        definitions.replace(&names, &now, &Begin::Stream, &came_from);
        assert_eq!(shown(&definitions), ["_del 1 FirstCopy", "a 2 Stream"]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::of(folder.path());
        assert!(history.read().is_err());
        let mut definitions = Definitions::begin(&found(&[("a", "1")]), &[]);
        let own = Begin::OwnCopy { from: "bin.000001:4".to_owned(), to: "bin.000002:9".to_owned() };
        definitions.replace(&[TableName::new("s", "a")], &found(&[("a", "2")]), &own, &BTreeMap::new());
        definitions.pending = Some(Pending { seq: 7, before: "x".to_owned() });
        history.write(&definitions).unwrap();
        assert_eq!(history.read().unwrap(), definitions);
        let first: BinlogPosition = "bin.000001:500".parse().unwrap();
        assert_eq!(definitions.copied_at(&first).unwrap().to_string(), "bin.000002:9");
        let set = definitions.schema_set(&Selection::of_schemas(&["s"])).unwrap();
        let at = |text: &str| Some(text.parse::<BinlogPosition>().unwrap());
        let name = TableName::new("s", "a");
        assert!(set.passes_over(&name, at("bin.000001:4").as_ref()));
        assert!(!set.passes_over(&name, at("bin.000001:5").as_ref()));
        assert!(set.passes_over(&TableName::new("o", "a"), None));
    }
}
