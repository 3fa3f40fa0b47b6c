//! The keys that the tail has touched since they were last compared. Bounded (invariant 7): a table with too
//! many of them needs another pass instead.
//!
//! What makes the verdict sound is a rule for those who call [`TouchedKeys::touch`]: after the commit on the target,
//! and before the transaction counts as applied in `apply::progress`. See the module comment of `verify`.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use config::TableName;
use tokio::sync::Notify;

use super::key::RowKey;
use crate::value::Value;

/// Keys kept over all tables.
const KEYS_MAX: usize = 200_000;
/// Bytes of keys kept over all tables: long text keys reach this bound first.
const BYTES_MAX: usize = 64 << 20;

/// Shared between appliers, which add, and the verifier, which takes.
#[derive(Debug)]
pub struct TouchedKeys {
    state: Mutex<State>,
    added: Notify,
    keys_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Only tables whose verification has begun: before that a touch says nothing that the pass won't see.
    tables: HashMap<TableName, Touched>,
    /// Keys and bytes in `tables`, those that were taken not among them.
    keys: usize,
    bytes: usize,
    /// Keys taken and not yet compared.
    taken: usize,
}

#[derive(Debug, Default)]
struct Touched {
    keys: HashSet<RowKey>,
    /// Keys were dropped: only another pass can say what became of them.
    overflowed: bool,
}

impl Default for TouchedKeys {
    fn default() -> Self {
        Self::bounded(KEYS_MAX, BYTES_MAX)
    }
}

impl TouchedKeys {
    /// With other bounds than the usual ones.
    #[must_use]
    pub fn bounded(keys_max: usize, bytes_max: usize) -> Self {
        Self { state: Mutex::default(), added: Notify::new(), keys_max, bytes_max }
    }

    /// Called by an applier after its commit and before it publishes the position, with the row-key values (old and
    /// new) it touched, in the order of [`crate::schema::table::TableSchema::row_key`]. Also where a commit's
    /// outcome had to be found out after a lost reply.
    pub fn touch(&self, table: &TableName, keys: Vec<Vec<Value>>) {
        {
            let state = self.lock();
            // Most of a catch-up happens before any pass: not a key is encoded then.
            if state.tables.get(table).is_none_or(|touched| touched.overflowed) {
                return;
            }
        }
        let encoded: Vec<RowKey> = keys.iter().map(|values| RowKey::encode(values)).collect();
        self.insert(&mut self.lock(), table, encoded);
        self.added.notify_one();
    }

    /// As [`Self::touch`], for changes whose keys nobody knows or that are too many to name: the rows that a foreign
    /// key's cascade changed where the source doesn't log them, a huge transaction.
    pub fn touch_whole_table(&self, table: &TableName) {
        self.overflow(&mut self.lock(), table);
        self.added.notify_one();
    }

    /// Every table has to be read as a whole again: an apply stage ended between a commit and its touch.
    pub fn touch_every_table(&self) {
        let mut state = self.lock();
        let tables: Vec<TableName> = state.tables.keys().cloned().collect();
        tables.iter().for_each(|table| self.overflow(&mut state, table));
        self.added.notify_one();
    }

    /// From now on touches of that table are kept. Those of before are forgotten: the caller reads every row
    /// of the table afterwards, at a moment when all that was touched before is visible on the source.
    pub(super) fn track(&self, table: &TableName) {
        let mut state = self.lock();
        let old = state.tables.insert(table.clone(), Touched::default());
        state.forget(old.map(|touched| touched.keys).unwrap_or_default());
    }

    /// The table isn't what it was: before it is tracked again a touch of it says nothing.
    pub(super) fn forget_table(&self, table: &TableName) {
        let mut state = self.lock();
        let old = state.tables.remove(table);
        state.forget(old.map(|touched| touched.keys).unwrap_or_default());
    }

    /// True where the table has to be read as a whole again.
    pub(super) fn overflowed(&self, table: &TableName) -> bool {
        self.lock().tables.get(table).is_some_and(|touched| touched.overflowed)
    }

    /// Keys that wait for their comparison, those being compared among them.
    pub(super) fn pending(&self) -> usize {
        let state = self.lock();
        state.keys + state.taken
    }

    /// Keys of the table that has most of them. They come back by themselves unless [`Taken::compared`] is called.
    pub(super) fn take(&self, keys_max: usize) -> Option<Taken<'_>> {
        let mut state = self.lock();
        let (table, touched) = state.tables.iter_mut().max_by_key(|(_, touched)| touched.keys.len())?;
        let table = table.clone();
        let keys: Vec<RowKey> = if touched.keys.len() <= keys_max {
            std::mem::take(&mut touched.keys).into_iter().collect()
        } else {
            let some: Vec<RowKey> = touched.keys.iter().take(keys_max).cloned().collect();
            for key in &some {
                touched.keys.remove(key);
            }
            some
        };
        if keys.is_empty() {
            return None;
        }
        state.forget(keys.iter().cloned());
        state.taken += keys.len();
        Some(Taken { touched: self, table, keys })
    }

    /// Keys that have to be compared (again).
    pub(super) fn put(&self, table: &TableName, keys: Vec<RowKey>) {
        self.insert(&mut self.lock(), table, keys);
    }

    /// Returns when something was touched since the last call returned.
    pub(super) async fn wait(&self) {
        self.added.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, state: &mut State, table: &TableName, keys: Vec<RowKey>) {
        let Some(touched) = state.tables.get_mut(table) else { return };
        if touched.overflowed {
            return;
        }
        let (mut added, mut bytes) = (0, 0);
        for key in keys {
            let length = key.len();
            if touched.keys.insert(key) {
                added += 1;
                bytes += length;
            }
        }
        state.keys += added;
        state.bytes += bytes;
        while state.keys > self.keys_max || state.bytes > self.bytes_max {
            let most = state.tables.iter().max_by_key(|(_, touched)| touched.keys.len());
            let Some(table) = most.map(|(table, _)| table.clone()) else { return };
            self.overflow(state, &table);
        }
    }

    fn overflow(&self, state: &mut State, table: &TableName) {
        let Some(touched) = state.tables.get_mut(table) else { return };
        touched.overflowed = true;
        let keys = std::mem::take(&mut touched.keys);
        state.forget(keys);
    }
}

impl State {
    fn forget(&mut self, keys: impl IntoIterator<Item = RowKey>) {
        for key in keys {
            self.keys -= 1;
            self.bytes -= key.len();
        }
    }
}

/// Keys on their way through a comparison. Dropped without [`Self::compared`], they wait again: an error or a
/// cancelled task loses none.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    touched: &'a TouchedKeys,
    /// The table they belong to.
    pub(super) table: TableName,
    /// The keys.
    pub(super) keys: Vec<RowKey>,
}

impl Taken<'_> {
    /// Every key was found equal, or is in the list of differences, but for `again`, which wait for their next turn.
    pub(super) fn compared(mut self, again: Vec<RowKey>) {
        self.give_back(again);
    }

    fn give_back(&mut self, again: Vec<RowKey>) {
        let count = std::mem::take(&mut self.keys).len();
        let mut state = self.touched.lock();
        self.touched.insert(&mut state, &self.table, again);
        state.taken -= count;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let keys = self.keys.clone();
        self.give_back(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<i64>) -> Vec<Vec<Value>> {
        numbers.map(|n| vec![Value::Int(n)]).collect()
    }

    #[test]
    fn keys_are_kept_once_and_come_back_unless_compared() {
        let (a, touched) = (TableName::new("s", "a"), TouchedKeys::default());
        touched.touch(&a, keys(0..5));
        assert_eq!(touched.pending(), 0, "nobody verifies that table yet");
        touched.track(&a);
        touched.touch(&a, keys(0..5));
        touched.touch(&a, keys(3..8));
        assert_eq!(touched.pending(), 8);
        let taken = touched.take(6).into_iter().next();
        assert_eq!((taken.as_ref().map(|t| t.keys.len()), touched.pending()), (Some(6), 8));
        drop(taken);
        assert_eq!(touched.pending(), 8);
        if let Some(taken) = touched.take(100) {
            // Touched again while it is being compared: that is another comparison.
            touched.touch(&a, keys(0..1));
            let again = taken.keys.iter().filter(|key| key.decode() == [Value::Int(7)]).cloned().collect();
            taken.compared(again);
        }
        assert_eq!(touched.pending(), 2);
        touched.track(&a);
        assert_eq!(touched.pending(), 0);
        assert!(touched.take(1).is_none());
    }

    #[test]
    fn too_many_keys_ask_for_another_pass_of_the_table_that_has_most() {
        let (a, b) = (TableName::new("s", "a"), TableName::new("s", "b"));
        let touched = TouchedKeys::bounded(10, 1 << 20);
        touched.track(&a);
        touched.track(&b);
        touched.touch(&a, keys(0..8));
        touched.touch(&b, keys(0..3));
        assert!(touched.overflowed(&a) && !touched.overflowed(&b));
        assert_eq!(touched.pending(), 3);
        touched.touch(&a, keys(0..8));
        assert_eq!(touched.pending(), 3);
        touched.touch_whole_table(&b);
        assert!(touched.overflowed(&b) && touched.pending() == 0);
        touched.track(&a);
        touched.touch(&a, keys(0..8));
        assert!(!touched.overflowed(&a) && touched.pending() == 8);
        let bytes = TouchedKeys::bounded(1000, 64);
        bytes.track(&a);
        bytes.touch(&a, keys(0..100));
        assert!(bytes.overflowed(&a));
    }
}
