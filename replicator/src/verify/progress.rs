//! Where each table's verification stands.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use config::TableName;

use super::Differences;

/// Where a table's verification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyPhase {
    /// No pass has begun. Set by: a new verifier, and so by every restart.
    Waiting,
    /// A pass is under way.
    Verifying,
    /// A pass is through, and what was touched since is compared as it comes.
    Verified,
    /// It failed for good; the note says why.
    Failed,
}

/// A table of SHOW MIGRATION TABLES, as the verifier sees it.
#[derive(Debug, Clone)]
pub struct TableProgress {
    /// The table.
    pub table: TableName,
    /// Where it stands.
    pub phase: VerifyPhase,
    /// Rows compared in the present or last pass.
    pub rows_verified: u64,
    /// Rows that differ.
    pub differences: u64,
    /// What an operator should know; empty for nothing.
    pub note: String,
}

#[derive(Debug)]
struct State {
    phase: VerifyPhase,
    rows: u64,
    note: String,
    /// A pass is wanted, or has to be repeated.
    wanted: bool,
    /// A pass has looked at every row at least once, whatever it found.
    seen: bool,
    /// A pass is under way, and what an earlier one said is still shown.
    again: bool,
}

/// A pass that was begun.
pub(super) struct Pass<'a> {
    progress: &'a Progress,
    table: &'a TableName,
    ended: bool,
}

impl Pass<'_> {
    /// Every chunk was compared.
    pub(super) fn end(mut self) {
        self.ended = true;
        self.progress.change(self.table, |state| {
            state.phase = VerifyPhase::Verified;
            state.note.clear();
            state.seen = true;
            state.again = false;
        });
    }

    /// Every row was looked at while others were written, so that nothing can be said of them: it is wanted again.
    pub(super) fn end_moving(self, note: &str) {
        self.progress.change(self.table, |state| {
            state.note = note.to_owned();
            state.seen = true;
        });
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.change(self.table, |state| {
                state.wanted = true;
                state.again = false;
            });
        }
    }
}

#[derive(Debug)]
pub(super) struct Progress {
    tables: Mutex<BTreeMap<TableName, State>>,
}

impl Progress {
    pub(super) fn new(tables: impl Iterator<Item = TableName>) -> Self {
        let state = || State {
            phase: VerifyPhase::Waiting,
            rows: 0,
            note: String::new(),
            wanted: true,
            seen: false,
            again: false,
        };
        Self { tables: Mutex::new(tables.map(|name| (name, state())).collect()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TableName, State>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, table: &TableName, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.lock().get_mut(table) {
            change(state);
        }
    }

    /// Takes the states of these tables over. What had failed is tried again.
    pub(super) fn take_over(&mut self, earlier: &Self, kept: &[TableName]) {
        let mut before = earlier.lock();
        let mut tables = self.lock();
        for name in kept {
            if let Some(state) = before.remove(name).filter(|state| state.phase != VerifyPhase::Failed) {
                tables.insert(name.clone(), state);
            }
        }
    }

    pub(super) fn want(&self, table: &TableName) {
        self.change(table, |state| state.wanted = true);
    }

    pub(super) fn is_wanted(&self, table: &TableName) -> bool {
        self.lock().get(table).is_some_and(|state| state.wanted)
    }

    /// A pass begins. It has to be ended by [`Self::end`]: dropped in its midst, it is wanted again.
    pub(super) fn begin<'a>(&'a self, table: &'a TableName) -> Pass<'a> {
        self.change(table, |state| {
            let phase = VerifyPhase::Verifying;
            let note = String::new();
            *state = State { phase, rows: 0, note, wanted: false, seen: state.seen, again: false };
        });
        Pass { progress: self, table, ended: false }
    }

    /// The same for a table that is compared as a whole again and again: what was said of it stands until then.
    pub(super) fn begin_again<'a>(&'a self, table: &'a TableName) -> Pass<'a> {
        if !self.lock().get(table).is_some_and(|state| state.phase == VerifyPhase::Verified) {
            return self.begin(table);
        }
        self.change(table, |state| {
            state.wanted = false;
            state.again = true;
        });
        Pass { progress: self, table, ended: false }
    }

    /// Every row of it was looked at in some pass, and nothing of that failed.
    pub(super) fn is_seen(&self, table: &TableName) -> bool {
        self.lock().get(table).is_some_and(|state| state.seen && state.phase != VerifyPhase::Failed)
    }

    /// So many rows were compared at once.
    pub(super) fn compared_all(&self, table: &TableName, rows: u64) {
        self.change(table, |state| state.rows = rows);
    }

    pub(super) fn compared(&self, table: &TableName, rows: u64) {
        self.change(table, |state| state.rows += rows);
    }

    /// It goes on by itself.
    pub(super) fn note(&self, table: &TableName, note: String) {
        self.change(table, |state| state.note = note);
    }

    /// It doesn't, before VERIFY asks for it.
    pub(super) fn fail(&self, table: &TableName, note: String) {
        self.change(table, |state| {
            state.phase = VerifyPhase::Failed;
            state.note = note;
            state.wanted = false;
        });
    }

    pub(super) fn is_failed(&self, table: &TableName) -> bool {
        self.lock().get(table).is_some_and(|state| state.phase == VerifyPhase::Failed)
    }

    pub(super) fn is_covered(&self, table: &TableName) -> bool {
        self.lock()
            .get(table)
            .is_some_and(|state| state.phase == VerifyPhase::Verified && !state.wanted && !state.again)
    }

    pub(super) fn rows_verified(&self) -> u64 {
        self.lock().values().map(|state| state.rows).sum()
    }

    pub(super) fn first_note(&self) -> Option<String> {
        let tables = self.lock();
        let (table, state) = tables.iter().find(|(_, state)| !state.note.is_empty())?;
        Some(format!("{table}: {}", state.note))
    }

    pub(super) fn tables(&self, differences: &Differences) -> Vec<TableProgress> {
        let tables = self.lock();
        let rows = tables.iter().map(|(table, state)| TableProgress {
            table: table.clone(),
            phase: state.phase,
            rows_verified: state.rows,
            differences: differences.count(table),
            note: state.note.clone(),
        });
        rows.collect()
    }
}
