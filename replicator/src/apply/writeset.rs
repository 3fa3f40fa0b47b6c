//! The keys that transactions touch, as hashes that are equal where the server says equal.
//!
//! Two batches may run side by side if no key of one meets a key of the other. Every unique key of every old and
//! new image is in the set, so two changes of one row meet, and so do a change that gives a unique value away and
//! the one that takes it. A key with NULL in it is unique to nobody.
//!
//! A foreign key is in the set as the key of the parent that it names: the child *shares* it, since children of
//! one parent don't mind each other; the parent's row *takes* it where it comes, goes or changes those columns.
//!
//! Changes of a table without a row key all take one hash of the table, so that they come one after the other.
//!
//! What a foreign key of the source does without writing it to the binlog (cascades, where the server doesn't log
//! them) touches rows that nobody can name here, so such a change takes everything ([`WriteSet::whole`]).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use config::TableName;

use super::fold::{Fold, Folded, Mixer};
use super::net::{Row, same_columns};
use crate::binlog::transaction::{RowChange, RowsChange};
use crate::error::{Error, Result};
use crate::schema::table::{SchemaSet, TableSchema};
use crate::value::Value;

/// Takes a key hash as it is.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        // Only whole numbers are hashed here; anything else is slow and still right.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Hash maps and sets of key hashes.
pub(super) type KeyBuild = BuildHasherDefault<KeyHasher>;

/// The keys of some changes.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    /// Keys that are changed.
    pub(super) taken: HashSet<u64, KeyBuild>,
    /// Keys that have to stay as they are.
    pub(super) shared: HashSet<u64, KeyBuild>,
    /// Nothing else may run beside it.
    pub(super) whole: bool,
}

/// A key of one table, ready to be hashed.
#[derive(Debug)]
struct KeyPlan {
    seed: u64,
    columns: Vec<(usize, Fold, Option<u32>)>,
    /// An image may lack some of the columns.
    may_be_absent: bool,
    /// Some of them are generated, which is NULL where an image lacks it.
    generated: bool,
}

/// A key that other tables refer to.
#[derive(Debug)]
struct ReferencedKey {
    key: KeyPlan,
    columns: Vec<usize>,
    child: TableName,
    cascades_on_delete: bool,
    cascades_on_update: bool,
}

/// How the rows of a table are hashed.
#[derive(Debug, Default)]
struct TablePlan {
    /// Where no key tells the rows apart: the hash that every change of the table takes.
    keyless: Option<u64>,
    unique: Vec<KeyPlan>,
    parents: Vec<KeyPlan>,
    referenced: Vec<ReferencedKey>,
}

/// How the rows of every table are hashed, and which changes cascade.
#[derive(Debug)]
pub(super) struct Plans {
    tables: HashMap<TableName, TablePlan>,
    /// The source writes what its foreign keys do to the binlog.
    cascades_logged: bool,
    /// Their rows are exact while those of others are replayed over a copy.
    exact: HashSet<TableName>,
}

impl Plans {
    /// Plans for the tables of a migration.
    pub(super) fn new(schemas: &SchemaSet, cascades_logged: bool) -> Self {
        let mut tables: HashMap<TableName, TablePlan> = HashMap::new();
        for table in schemas.sorted() {
            let plan = tables.entry(table.name.clone()).or_default();
            plan.keyless = table.keyless.then(|| name_hash(&table.name, &["", "every row"]));
            plan.unique = table
                .unique_keys
                .iter()
                .enumerate()
                .map(|(i, key)| {
                    let seed = name_hash(&table.name, &[&i.to_string()]);
                    let columns = key.columns.iter().zip(&key.prefixes).map(|(&c, &prefix)| (c, prefix));
                    // Images may lack any key but the first, by which rows are found.
                    let plan = key_plan(seed, &table, columns);
                    KeyPlan { may_be_absent: i > 0 || plan.generated, ..plan }
                })
                .collect();
            for foreign in &table.foreign_keys {
                let names: Vec<&str> = foreign.parent_columns.iter().map(String::as_str).collect();
                let seed = name_hash(&foreign.parent, &names);
                let own = key_plan(seed, &table, foreign.columns.iter().map(|&c| (c, None)));
                tables.entry(table.name.clone()).or_default().parents.push(own);
                let Some(parent) = schemas.get(&foreign.parent) else { continue };
                let columns: Vec<usize> = names
                    .iter()
                    .filter_map(|n| parent.columns.iter().position(|c| c.name.eq_ignore_ascii_case(n)))
                    .collect();
                let key = key_plan(seed, parent, columns.iter().map(|&c| (c, None)));
                tables.entry(foreign.parent.clone()).or_default().referenced.push(ReferencedKey {
                    key,
                    columns,
                    child: table.name.clone(),
                    cascades_on_delete: foreign.cascades_on_delete,
                    cascades_on_update: foreign.cascades_on_update,
                });
            }
        }
        Self { tables, cascades_logged, exact: schemas.exact().clone() }
    }

    /// True where every row of the table is what the stream up to here makes of it, in safe mode, too.
    pub(super) fn is_exact(&self, table: &TableName) -> bool {
        self.exact.contains(table)
    }

    /// True where the source's foreign keys changed other rows along with this one and didn't log it, so that the
    /// target's foreign keys have to do the same.
    pub(super) fn cascades(&self, change: &RowsChange, row: &RowChange) -> bool {
        if self.cascades_logged || !change.foreign_key_checks {
            return false;
        }
        let Some(plan) = self.tables.get(&change.table.name) else { return false };
        plan.referenced.iter().any(|r| match row {
            RowChange::Insert { .. } => false,
            RowChange::Delete { .. } => r.cascades_on_delete,
            RowChange::Update { before, after } => {
                r.cascades_on_update && !same_columns(&r.columns, before, after)
            }
        })
    }

    /// The tables whose rows a cascade from this one may change, over however many steps.
    pub(super) fn descendants(&self, table: &TableName) -> HashSet<&TableName> {
        let (mut found, mut open) = (HashSet::new(), vec![table]);
        while let Some(next) = open.pop() {
            let referenced = self.tables.get(next).map_or(&[][..], |plan| &plan.referenced);
            for key in referenced.iter().filter(|key| key.cascades_on_delete || key.cascades_on_update) {
                if found.insert(&key.child) {
                    open.push(&key.child);
                }
            }
        }
        found
    }

    /// Adds the keys of an event's rows.
    pub(super) fn collect(&self, change: &RowsChange, into: &mut WriteSet) -> Result<()> {
        let name = &change.table.name;
        let plan = self.tables.get(name).ok_or_else(|| {
            Error::bug(
                name.to_string(),
                "a change of a table that isn't part of the migration was handed over",
            )
        })?;
        into.taken.extend(plan.keyless);
        for row in &change.rows {
            into.whole |= self.cascades(change, row);
            match row {
                RowChange::Insert { after } => plan.collect(after, None, into),
                RowChange::Delete { before } => plan.collect(before, None, into),
                RowChange::Update { before, after } => {
                    plan.collect(before, Some(after), into);
                    plan.collect(after, Some(before), into);
                }
            }
        }
        Ok(())
    }
}

impl TablePlan {
    /// The keys of one image; `other` is the other image of an update.
    fn collect(&self, row: &Row, other: Option<&Row>, into: &mut WriteSet) {
        for key in &self.unique {
            let unknown = |row: &Row| key.columns.iter().all(|&(c, ..)| row.get(c) == Some(&Value::Absent));
            // An update that lacks a key in both images has left it alone.
            if !(unknown(row) && other.is_some_and(unknown)) {
                key.take(row, into);
            }
        }
        for key in &self.parents {
            key.share(row, into);
        }
        for referenced in &self.referenced {
            if other.is_none_or(|other| !same_columns(&referenced.columns, row, other)) {
                referenced.key.take(row, into);
            }
        }
    }
}

/// A key's hash, and the hash of the key as a whole.
enum KeyHash {
    /// This value of the key.
    Value(u64),
    /// Any value of it.
    Any,
    /// None at all.
    Null,
}

impl KeyPlan {
    fn hash(&self, row: &Row) -> KeyHash {
        let mut mixer = Mixer::new(self.seed);
        let mut opaque = false;
        for &(column, fold, prefix) in &self.columns {
            match row.get(column).map(|value| fold.add(&mut mixer, value, prefix)) {
                Some(Folded::Added) => {}
                Some(Folded::Opaque) | None => opaque = true,
                Some(Folded::Null) if self.generated => opaque = true,
                Some(Folded::Null) => return KeyHash::Null,
            }
        }
        if opaque { KeyHash::Any } else { KeyHash::Value(mixer.finish()) }
    }

    /// True where a value may be opaque, so that the others have to share the key as a whole with it.
    fn may_be_opaque(&self) -> bool {
        self.may_be_absent
            || self.columns.iter().any(|(_, fold, prefix)| match fold {
                Fold::Plain | Fold::Bytes => false,
                Fold::BinaryText => prefix.is_some(),
                Fold::Ascii | Fold::Opaque => true,
            })
    }

    fn any(&self) -> u64 {
        Mixer::new(self.seed).finish()
    }

    fn take(&self, row: &Row, into: &mut WriteSet) {
        match self.hash(row) {
            KeyHash::Value(hash) => {
                into.taken.insert(hash);
                if self.may_be_opaque() {
                    into.shared.insert(self.any());
                }
            }
            KeyHash::Any => {
                into.taken.insert(self.any());
            }
            KeyHash::Null => {}
        }
    }

    fn share(&self, row: &Row, into: &mut WriteSet) {
        match self.hash(row) {
            KeyHash::Value(hash) => {
                into.shared.insert(hash);
                if self.may_be_opaque() {
                    into.shared.insert(self.any());
                }
            }
            // A child that may refer to any parent has to keep all of them as they are; parents with a hash of
            // their own only share the key as a whole, so the child takes it.
            KeyHash::Any => {
                into.taken.insert(self.any());
            }
            KeyHash::Null => {}
        }
    }
}

fn key_plan(seed: u64, table: &TableSchema, columns: impl Iterator<Item = (usize, Option<u32>)>) -> KeyPlan {
    let columns: Vec<_> =
        columns.map(|(c, prefix)| (c, table.columns.get(c).map_or(Fold::Opaque, Fold::of), prefix)).collect();
    let generated = columns.iter().any(|&(c, ..)| table.columns.get(c).is_some_and(|c| c.generated));
    KeyPlan { seed, columns, may_be_absent: false, generated }
}

/// Seeds of two namespaces: unique keys by their number, referenced keys by their columns.
fn name_hash(table: &TableName, parts: &[&str]) -> u64 {
    let mut mixer = Mixer::new(parts.len() as u64);
    for part in [table.schema.as_str(), table.table.as_str()].iter().chain(parts) {
        mixer.bytes(part.to_ascii_lowercase().as_bytes());
    }
    mixer.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use super::super::sample::{change, column, delete, insert, int_row, schema, table, text, update};
    use super::*;
    use crate::schema::table::{ColumnKind, ForeignKey};
    use crate::value::Value;

    const NULL: i64 = i64::MIN;

    fn set(plans: &Plans, changes: &[RowsChange]) -> WriteSet {
        let mut set = WriteSet::default();
        for change in changes {
            plans.collect(change, &mut set).unwrap();
        }
        set
    }

    fn meet(a: &WriteSet, b: &WriteSet) -> bool {
        a.whole
            || b.whole
            || a.taken.iter().any(|k| b.taken.contains(k) || b.shared.contains(k))
            || a.shared.iter().any(|k| b.taken.contains(k))
    }

    #[test]
    fn changes_meet_where_they_share_a_unique_value() {
        let table = table("t", 3, &[&[0], &[1, 2]]);
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let check = |a: RowChange, b: RowChange, expected: bool| {
            let (a, b) = (change(&table, vec![a]), change(&table, vec![b]));
            assert_eq!(meet(&set(&plans, &[a]), &set(&plans, &[b])), expected);
        };
        let r = int_row;
        check(insert(r(&[1, 1, 1])), insert(r(&[2, 1, 2])), false);
        check(insert(r(&[1, 1, 1])), delete(r(&[1, 5, 5])), true);
        check(update(r(&[1, 1, 1]), r(&[1, 2, 2])), insert(r(&[2, 1, 1])), true);
        check(update(r(&[1, 1, 1]), r(&[1, 2, 2])), insert(r(&[2, 2, 2])), true);
        check(update(r(&[1, 1, 1]), r(&[1, 2, 2])), insert(r(&[2, 1, 2])), false);
        check(insert(r(&[1, NULL, 1])), insert(r(&[2, NULL, 1])), false);
        check(update(r(&[1, 1, 1]), r(&[3, 1, 1])), insert(r(&[3, 7, 7])), true);
    }

    #[test]
    fn what_an_image_lacks_may_be_any_value() {
        let table = table("t", 3, &[&[0], &[1]]);
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let meet = |a: RowChange, b: RowChange| {
            let (a, b) = (change(&table, vec![a]), change(&table, vec![b]));
            meet(&set(&plans, &[a]), &set(&plans, &[b]))
        };
        let (int, gone) = (Value::Int, Value::Absent);
        let lone = |id| vec![int(id), gone.clone(), gone.clone()];
        // A row that goes gives an unknown value away, another one gets it.
        assert!(meet(delete(lone(1)), insert(int_row(&[2, 5, 0]))));
        assert!(meet(
            update(lone(1), vec![int(1), int(5), gone.clone()]),
            update(lone(2), vec![int(2), int(6), gone.clone()])
        ));
        // These leave their values alone.
        let third = |id, v| update(lone(id), vec![int(id), gone.clone(), int(v)]);
        assert!(!meet(third(1, 7), third(2, 7)) && meet(third(1, 7), third(1, 8)));
        assert!(!meet(third(1, 7), insert(int_row(&[2, 5, 0]))));
    }

    #[test]
    fn changes_of_a_table_without_a_key_meet() {
        let (none, other) = (table("none", 1, &[]), table("t", 1, &[&[0]]));
        let plans = Plans::new(&SchemaSet::new(vec![(*none).clone(), (*other).clone()]), true);
        let one = |table, n| set(&plans, &[change(table, vec![insert(int_row(&[n]))])]);
        assert!(meet(&one(&none, 1), &one(&none, 2)));
        assert!(!meet(&one(&none, 1), &one(&other, 1)));
    }

    #[test]
    fn text_keys_meet_as_their_collation_says() {
        let columns = vec![column("a", ColumnKind::Text, Some("utf8mb4_general_ci"))];
        let table = Arc::new(schema("t", columns, &[&[0]]));
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let check = |a: &str, b: &str, expected: bool| {
            let (a, b) =
                (change(&table, vec![insert(vec![text(a)])]), change(&table, vec![delete(vec![text(b)])]));
            assert_eq!(meet(&set(&plans, &[a]), &set(&plans, &[b])), expected);
        };
        check("A", "a ", true);
        check("a", "b", false);
        check("e", "é", true);
        check("é", "z", true);
        check("é", "ü", true);
    }

    fn family(cascade: bool, cascades_logged: bool) -> (Arc<TableSchema>, Arc<TableSchema>, Plans) {
        let parent = (*table("parent", 2, &[&[0]])).clone();
        let mut child = (*table("child", 2, &[&[0]])).clone();
        child.foreign_keys.push(ForeignKey {
            name: "fk".to_owned(),
            columns: vec![1],
            parent: parent.name.clone(),
            parent_columns: vec!["c0".to_owned()],
            cascades_on_delete: cascade,
            cascades_on_update: cascade,
        });
        let plans = Plans::new(&SchemaSet::new(vec![parent.clone(), child.clone()]), cascades_logged);
        (Arc::new(parent), Arc::new(child), plans)
    }

    #[test]
    fn a_child_waits_for_its_parent_and_not_for_its_siblings() {
        let (parent, child, plans) = family(false, true);
        let r = int_row;
        let born = set(&plans, &[change(&parent, vec![insert(r(&[5, 0]))])]);
        let changed = set(&plans, &[change(&parent, vec![update(r(&[5, 0]), r(&[5, 1]))])]);
        let gone = set(&plans, &[change(&parent, vec![delete(r(&[5, 0]))])]);
        let other = set(&plans, &[change(&parent, vec![insert(r(&[6, 0]))])]);
        let one = set(&plans, &[change(&child, vec![insert(r(&[1, 5]))])]);
        let two = set(&plans, &[change(&child, vec![insert(r(&[2, 5]))])]);
        let none = set(&plans, &[change(&child, vec![insert(r(&[3, NULL]))])]);
        assert!(meet(&born, &one) && meet(&gone, &two));
        assert!(!meet(&one, &two) && !meet(&changed, &one) && !meet(&other, &one) && !meet(&gone, &none));
    }

    #[test]
    fn an_unlogged_cascade_takes_everything() {
        let r = int_row;
        let check = |cascade, logged, checks: bool, row: RowChange, expected: bool| {
            let (parent, _, plans) = family(cascade, logged);
            let mut change = change(&parent, vec![row]);
            change.foreign_key_checks = checks;
            assert_eq!(set(&plans, &[change]).whole, expected);
        };
        check(true, false, true, delete(r(&[5, 0])), true);
        check(true, true, true, delete(r(&[5, 0])), false);
        check(true, false, false, delete(r(&[5, 0])), false);
        check(false, false, true, delete(r(&[5, 0])), false);
        check(true, false, true, update(r(&[5, 0]), r(&[5, 1])), false);
        check(true, false, true, update(r(&[5, 0]), r(&[6, 0])), true);
        check(true, false, true, insert(r(&[5, 0])), false);
    }

    #[test]
    fn a_table_that_nobody_planned_for_is_an_error() {
        let plans = Plans::new(&SchemaSet::new(vec![]), true);
        let stray = change(&table("t", 1, &[&[0]]), vec![insert(vec![Value::Int(1)])]);
        assert!(plans.collect(&stray, &mut WriteSet::default()).is_err());
    }
}
