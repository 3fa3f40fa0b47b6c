//! What a stretch of row changes amounts to, row by row.
//!
//! A stretch is applied in one target transaction, so nobody sees what is between its begin and its end, and only
//! the net change of each row has to be written: a counter that goes up five hundred times becomes one UPDATE, and
//! rows of one table become one statement of many rows.
//!
//! Rows are told apart by the exact bytes of their key. Images of one row carry the same bytes from event to
//! event, so this follows every row exactly, and keys that are only equal under their collation stay two entries:
//! `'a'` deleted and `'A'` inserted.

use std::collections::HashMap;
use std::sync::Arc;

use config::TableName;

use crate::binlog::transaction::{RowChange, RowsChange};
use crate::schema::table::TableSchema;
use crate::value::Value;

/// A whole row image, in the order of [`TableSchema::columns`].
pub(super) type Row = [Value];

/// The net change of one row.
#[derive(Debug)]
struct NetRow<'a> {
    /// The image before the stretch; `None` where the row wasn't there.
    before: Option<&'a Row>,
    /// The image after the stretch; `None` where the row is gone.
    after: Option<&'a Row>,
    /// An image that carries the key.
    key: &'a Row,
}

/// The net changes of one table, in the order in which its rows were first touched.
#[derive(Debug)]
pub(super) struct NetTable<'a> {
    /// The table.
    pub(super) table: &'a Arc<TableSchema>,
    rows: Vec<NetRow<'a>>,
    by_key: HashMap<Vec<u8>, usize>,
}

/// See [`NetTable::exact`]; to be done in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct ExactSteps<'a> {
    /// Rows that have to be there, by their image before.
    pub(super) deletes: Vec<&'a Row>,
    /// Rows that have to be there, before and after, with the same unique values in both.
    pub(super) updates: Vec<(&'a Row, &'a Row)>,
    /// Rows that must not be there.
    pub(super) inserts: Vec<&'a Row>,
}

/// See [`NetTable::safe`]; to be done in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct SafeSteps<'a> {
    /// Rows that are gone, whether or not the copy has them.
    pub(super) deletes: Vec<&'a Row>,
    /// Rows as they are now.
    pub(super) replaces: Vec<&'a Row>,
}

impl<'a> NetTable<'a> {
    /// What exact mode has to do. Every row that gives up a unique value is taken out first, and every row that
    /// gets one is put in last, so no moment in between has a value twice, whatever is swapped with whatever.
    pub(super) fn exact(&self) -> ExactSteps<'a> {
        let mut steps = ExactSteps::default();
        for row in &self.rows {
            match (row.before, row.after) {
                (Some(before), Some(after)) if same_unique_values(self.table, before, after) => {
                    steps.updates.push((before, after));
                }
                (before, after) => {
                    steps.deletes.extend(before);
                    steps.inserts.extend(after);
                }
            }
        }
        steps
    }

    /// What safe mode has to do: over a copy whose rows are of any age up to the end of the copy, every row that
    /// was touched is made what it is at the end of the stretch.
    ///
    /// A REPLACE may displace rows that hold one of its unique values. None of them is a row of this stretch, since
    /// images of one moment don't contradict each other; so it is a row as a later moment has it, and that moment
    /// is an event behind this stretch which writes the row again, whole.
    pub(super) fn safe(&self) -> SafeSteps<'a> {
        let mut steps = SafeSteps::default();
        for row in &self.rows {
            match row.after {
                Some(after) => steps.replaces.push(after),
                None => steps.deletes.push(row.key),
            }
        }
        steps
    }

    fn add(&mut self, change: &'a RowChange, scratch: &mut Vec<u8>) {
        match change {
            RowChange::Insert { after } => self.put(after, scratch),
            RowChange::Delete { before } => self.take(before, scratch),
            RowChange::Update { before, after } => {
                if same_key(self.table, before, after) {
                    let row = self.entry(before, Some(before), scratch);
                    row.after = Some(after);
                } else {
                    self.take(before, scratch);
                    self.put(after, scratch);
                }
            }
        }
    }

    fn put(&mut self, after: &'a Row, scratch: &mut Vec<u8>) {
        self.entry(after, None, scratch).after = Some(after);
    }

    fn take(&mut self, before: &'a Row, scratch: &mut Vec<u8>) {
        self.entry(before, Some(before), scratch).after = None;
    }

    /// The row with the key of `image`; made with `before` where this is its first change.
    fn entry(&mut self, image: &'a Row, before: Option<&'a Row>, scratch: &mut Vec<u8>) -> &mut NetRow<'a> {
        scratch.clear();
        encode_key(self.table, image, scratch);
        let next = self.rows.len();
        let at = match self.by_key.get(scratch.as_slice()) {
            Some(&at) => at,
            None => {
                self.by_key.insert(scratch.clone(), next);
                self.rows.push(NetRow { before, after: None, key: image });
                next
            }
        };
        // Indexes in `by_key` are those of `rows`, which never shrinks.
        &mut self.rows[at]
    }
}

/// The net changes of a stretch, table by table. No change in it may cascade: across tables the order is lost.
#[derive(Debug, Default)]
pub(super) struct Net<'a> {
    tables: Vec<NetTable<'a>>,
    by_table: HashMap<&'a TableName, usize>,
    scratch: Vec<u8>,
}

impl<'a> Net<'a> {
    /// Adds the rows of an event.
    pub(super) fn add(&mut self, change: &'a RowsChange) {
        let next = self.tables.len();
        let at = *self.by_table.entry(&change.table.name).or_insert(next);
        if at == next {
            self.tables.push(NetTable { table: &change.table, rows: Vec::new(), by_key: HashMap::new() });
        }
        if let Some(table) = self.tables.get_mut(at) {
            for row in &change.rows {
                table.add(row, &mut self.scratch);
            }
        }
    }

    /// The tables, in the order in which they were first touched.
    pub(super) fn tables(&self) -> &[NetTable<'a>] {
        &self.tables
    }
}

/// True where the row key has the same bytes in both images.
pub(super) fn same_key(table: &TableSchema, a: &Row, b: &Row) -> bool {
    table.row_key().is_some_and(|key| same_columns(&key.columns, a, b))
}

/// True where those columns have the same bytes in both images.
pub(super) fn same_columns(columns: &[usize], a: &Row, b: &Row) -> bool {
    columns.iter().all(|&c| match (a.get(c), b.get(c)) {
        (Some(a), Some(b)) => a.is_identical(b),
        _ => false,
    })
}

fn same_unique_values(table: &TableSchema, a: &Row, b: &Row) -> bool {
    table.unique_keys.iter().all(|key| same_columns(&key.columns, a, b))
}

/// Appends an encoding of the row key that is equal for equal bytes only.
fn encode_key(table: &TableSchema, row: &Row, out: &mut Vec<u8>) {
    let columns = table.row_key().map_or(&[][..], |key| &key.columns);
    for value in columns.iter().filter_map(|&c| row.get(c)) {
        let (tag, number): (u8, u64) = match value {
            Value::Null => (0, 0),
            Value::Absent => (7, 0),
            Value::Int(v) => (1, v.cast_unsigned()),
            Value::UInt(v) => (2, *v),
            Value::Float(v) => (3, u64::from(v.to_bits())),
            Value::Double(v) => (4, v.to_bits()),
            Value::Text(text) => (5, text.len() as u64),
            Value::Bytes(bytes) => (6, bytes.len() as u64),
        };
        out.push(tag);
        out.extend_from_slice(&number.to_le_bytes());
        match value {
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Bytes(bytes) => out.extend_from_slice(bytes),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::sample::{change, delete, insert, int_row, table, update};
    use super::*;

    fn shown(rows: Vec<RowChange>) -> String {
        let change = change(&table("t", 2, &[&[0]]), rows);
        let mut net = Net::default();
        net.add(&change);
        let table = &net.tables()[0];
        let show = |row: &&Row| format!("{:?}:{:?}", row[0], row[1]).replace("Int", "");
        let list = |rows: Vec<&Row>| rows.iter().map(show).collect::<Vec<_>>().join(" ");
        let (exact, safe) = (table.exact(), table.safe());
        let updates: Vec<String> =
            exact.updates.iter().map(|(a, b)| format!("{}>{}", show(a), show(b))).collect();
        format!(
            "-{} ~{} +{} | -{} +{}",
            list(exact.deletes),
            updates.join(" "),
            list(exact.inserts),
            list(safe.deletes),
            list(safe.replaces)
        )
        .replace(['(', ')'], "")
    }

    #[test]
    fn changes_of_a_row_become_one() {
        let r = int_row;
        let check = |rows: Vec<RowChange>, expected: &str| assert_eq!(shown(rows), expected);
        check(vec![insert(r(&[1, 1]))], "- ~ +1:1 | - +1:1");
        check(vec![insert(r(&[1, 1])), update(r(&[1, 1]), r(&[1, 2]))], "- ~ +1:2 | - +1:2");
        check(vec![insert(r(&[1, 1])), delete(r(&[1, 1]))], "- ~ + | -1:1 +");
        check(vec![update(r(&[1, 1]), r(&[1, 2])), update(r(&[1, 2]), r(&[1, 3]))], "- ~1:1>1:3 + | - +1:3");
        check(vec![update(r(&[1, 1]), r(&[1, 2])), delete(r(&[1, 2]))], "-1:1 ~ + | -1:1 +");
        check(vec![delete(r(&[1, 1])), insert(r(&[1, 9]))], "- ~1:1>1:9 + | - +1:9");
        // A key that changes, and back again.
        check(vec![update(r(&[1, 1]), r(&[2, 1]))], "-1:1 ~ +2:1 | -1:1 +2:1");
        check(
            vec![update(r(&[1, 1]), r(&[2, 1])), update(r(&[2, 1]), r(&[1, 5]))],
            "- ~1:1>1:5 + | -2:1 +1:5",
        );
        // Keys that are swapped over a third one.
        check(
            vec![
                update(r(&[1, 1]), r(&[3, 1])),
                update(r(&[2, 2]), r(&[1, 2])),
                update(r(&[3, 1]), r(&[2, 1])),
            ],
            "- ~1:1>1:2 2:2>2:1 + | -3:1 +1:2 2:1",
        );
    }

    /// A table `(key, unique value)` that refuses what a server refuses.
    type Model = BTreeMap<i64, i64>;

    fn holder(model: &Model, value: i64) -> Option<i64> {
        model.iter().find(|(_, v)| **v == value && value != i64::MIN).map(|(k, _)| *k)
    }

    fn ints(row: &Row) -> (i64, i64) {
        match (&row[0], &row[1]) {
            (Value::Int(k), Value::Int(v)) => (*k, *v),
            (Value::Int(k), Value::Null) => (*k, i64::MIN),
            other => panic!("{other:?}"),
        }
    }

    fn run_exact(model: &mut Model, steps: &ExactSteps<'_>) {
        for row in &steps.deletes {
            let (k, v) = ints(row);
            assert_eq!(model.remove(&k), Some(v));
        }
        for (before, after) in &steps.updates {
            assert_eq!(ints(before).1, model[&ints(after).0]);
            assert_eq!(ints(before), ints(after), "unique values are the same");
        }
        for row in &steps.inserts {
            let (k, v) = ints(row);
            assert_eq!(holder(model, v), None, "a unique value twice");
            assert_eq!(model.insert(k, v), None, "a key twice");
        }
    }

    fn run_safe(model: &mut Model, steps: &SafeSteps<'_>) {
        for row in &steps.deletes {
            model.remove(&ints(row).0);
        }
        for row in &steps.replaces {
            let (k, v) = ints(row);
            if let Some(displaced) = holder(model, v) {
                model.remove(&displaced);
            }
            model.insert(k, v);
        }
    }

    /// Changes that the source accepts one by one, and the table after each of them.
    fn history(choices: &[(u8, i64, i64)]) -> Vec<(RowChange, Model)> {
        let mut model = Model::new();
        let mut out = Vec::new();
        for &(verb, key, value) in choices {
            let free = holder(&model, value).is_none_or(|k| k == key);
            let row = int_row(&[key, value]);
            let old = model.get(&key).map(|v| int_row(&[key, *v]));
            let made = match (verb, old) {
                (0, Some(old)) => {
                    model.remove(&key);
                    Some(delete(old))
                }
                (1, Some(old)) => (!model.contains_key(&value)).then(|| {
                    // The key becomes what `value` says.
                    let unique = model.remove(&key).unwrap();
                    model.insert(value, unique);
                    update(old, int_row(&[value, unique]))
                }),
                (_, Some(old)) if free => {
                    model.insert(key, value);
                    Some(update(old, row))
                }
                (_, None) if free => {
                    model.insert(key, value);
                    Some(insert(row))
                }
                _ => None,
            };
            out.extend(made.map(|change| (change, model.clone())));
        }
        out
    }

    proptest! {
        /// Cut into any stretches, both modes end where the source ends; safe mode from a copy whose every row
        /// is of another moment.
        #[test]
        fn stretches_end_where_the_source_ends(
            choices in proptest::collection::vec((0u8..4, 0i64..6, 0i64..6), 0..80),
            cuts in proptest::collection::vec(1usize..9, 80),
            ages in proptest::collection::vec(any::<u16>(), 6))
        {
            let table = table("t", 2, &[&[0], &[1]]);
            let history = history(&choices);
            let last = history.last().map(|(_, model)| model.clone()).unwrap_or_default();
            let mut copy = Model::new();
            for (key, age) in ages.iter().enumerate() {
                let at = usize::from(*age) % (history.len() + 1);
                let seen = at.checked_sub(1).and_then(|i| history[i].1.get(&(key as i64)).copied());
                // The loader of a chunk replaces, too.
                if let Some(value) = seen {
                    if let Some(displaced) = holder(&copy, value) { copy.remove(&displaced); }
                    copy.insert(key as i64, value);
                }
            }
            let mut exact = Model::new();
            let (mut rest, mut cuts) = (history.as_slice(), cuts.into_iter());
            while !rest.is_empty() {
                let (stretch, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                rest = behind;
                let events: Vec<RowsChange> =
                    stretch.iter().map(|(row, _)| change(&table, vec![row.clone()])).collect();
                let mut net = Net::default();
                events.iter().for_each(|event| net.add(event));
                for table in net.tables() {
                    run_exact(&mut exact, &table.exact());
                    run_safe(&mut copy, &table.safe());
                }
                prop_assert_eq!(&exact, &stretch.last().unwrap().1);
            }
            prop_assert_eq!(copy, last);
        }
    }
}
