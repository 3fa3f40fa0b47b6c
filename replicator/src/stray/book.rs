//! `stray.json` in state_dir: what a watch has found, and where it goes on after a restart of Changeover. Both are written
//! together, so that nothing is counted twice and nothing is passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::progress::StrayWrites;
use config::{BinlogPosition, Gtid, Side, TableName, durable};
use serde::{Deserialize, Serialize};

use super::sight::{Sighting, Written};
use crate::error::{Error, Result};
use crate::state::StoredPosition;

const FILE: &str = "stray.json";
const NAME: &str = "stray";
const VERSION: u32 = 1;
/// Tables that are named; all others are counted together.
const TABLES_MAX: usize = 1000;

/// What is in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Book {
    /// `source` or `target`.
    side: String,
    /// Where the side ended when it stopped serving, as the cutover journal has it.
    pub(super) since: String,
    /// Everything up to here was looked at; `None`: nothing behind `since`.
    pub(super) reached: Option<StoredPosition>,
    /// What was found and nobody has acknowledged.
    open: Vec<Found>,
    /// The last position at which something was.
    #[serde(default)]
    last: String,
    /// Why what was written can't be found out any more, in a sentence.
    #[serde(default)]
    pub(super) blind: Option<String>,
    /// What came before is past finding out: it goes on where the server stands when it is asked next.
    #[serde(default)]
    pub(super) anew: bool,
}

/// Of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    schema: String,
    table: String,
    transactions: u64,
    rows: u64,
    more: bool,
    definition: bool,
    as_text: bool,
    first: String,
    last: String,
}

impl Book {
    pub(super) fn new(side: Side, since: &str) -> Self {
        let (side, since) = (side.as_str().to_owned(), since.to_owned());
        Self { side, since, reached: None, open: Vec::new(), last: String::new(), blind: None, anew: false }
    }

    /// The book of that watch, where an earlier process kept it, else a new one.
    ///
    /// # Errors
    /// The file is damaged.
    pub(super) fn of(state_dir: &Path, side: Side, since: &str) -> Result<Self> {
        let failed = |why: String| Error::definite(None, FILE, why);
        let bytes =
            durable::read(&path(state_dir), NAME, VERSION).map_err(|error| failed(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(Self::new(side, since)) };
        let book: Self = serde_json::from_slice(&bytes).map_err(|error| {
            failed(format!("it can't be read ({error}); move it away, then restart Changeover and VERIFY"))
        })?;
        // Of the watch before the last swap.
        let same = book.side == side.as_str() && book.since == since;
        Ok(if same { book } else { Self::new(side, since) })
    }

    pub(super) fn write(&self, state_dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::bug(FILE, error.to_string()))?;
        durable::write(&path(state_dir), NAME, VERSION, &bytes)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))
    }

    /// Removes the file; nobody is watched any more.
    pub(super) fn forget(state_dir: &Path) {
        if let Err(error) = std::fs::remove_file(path(state_dir))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(area = "stray", "{FILE} stays behind: {error}");
        }
        config::failpoint::hit("file.stray.json.removed");
    }

    /// Enters what was found. Returns the tables that it was found in.
    pub(super) fn enter(&mut self, sighting: &Sighting, end: &BinlogPosition) -> Vec<TableName> {
        let at = place(sighting.gtid.as_ref(), end);
        for (name, written) in &sighting.written {
            let known =
                self.open.iter().position(|found| found.schema == name.schema && found.table == name.table);
            let index = known.unwrap_or_else(|| self.insert(name, &at));
            if let Some(found) = self.open.get_mut(index) {
                found.add(written, &at);
            }
        }
        self.last = at;
        sighting.written.keys().cloned().collect()
    }

    fn insert(&mut self, name: &TableName, at: &str) -> usize {
        let TableName { schema, table } =
            if self.open.len() < TABLES_MAX { name.clone() } else { TableName::new("", "") };
        if let Some(rest) = self.open.iter().position(|found| found.schema == schema && found.table == table)
        {
            return rest;
        }
        let (first, last) = (at.to_owned(), at.to_owned());
        let (transactions, rows) = (0, 0);
        self.open.push(Found {
            schema,
            table,
            transactions,
            rows,
            more: false,
            definition: false,
            as_text: false,
            first,
            last,
        });
        self.open.len() - 1
    }

    /// Tables with something that nobody has acknowledged.
    pub(super) fn tables(&self) -> Vec<TableName> {
        self.open.iter().map(|found| TableName::new(&found.schema, &found.table)).collect()
    }

    /// Transactions that nobody has acknowledged, counted for every table.
    pub(super) fn transactions(&self) -> u64 {
        self.open.iter().map(|found| found.transactions).sum()
    }

    /// True where each of the tables was written to before.
    pub(super) fn knows_all(&self, sighting: &Sighting) -> bool {
        let known = |name: &TableName| {
            self.open.iter().any(|found| found.schema == name.schema && found.table == name.table)
        };
        sighting.written.keys().all(known)
    }

    /// Nothing waits for an operator any more. What couldn't be found out begins anew.
    pub(super) fn acknowledge(&mut self) {
        self.open.clear();
        self.anew |= self.blind.take().is_some();
    }

    /// For SHOW STRAY WRITES.
    pub(super) fn rows(&self, side: Side) -> Vec<StrayWrites> {
        self.open.iter().map(|found| found.shown(side)).collect()
    }

    /// What is open, in a sentence.
    pub(super) fn said(&self, side: Side) -> Option<String> {
        const NAMED: usize = 5;
        if let Some(why) = &self.blind {
            return Some(format!(
                "what others wrote on the {side}, which doesn't serve, can't be found out any more: {why}"
            ));
        }
        if self.open.is_empty() {
            return None;
        }
        let mut named: Vec<String> = self.open.iter().take(NAMED).map(Found::named).collect();
        if let Some(more) = self.open.len().checked_sub(NAMED).filter(|more| *more > 0) {
            named.push(format!("{more} more"));
        }
        let last = &self.last;
        Some(format!(
            "others than Changeover wrote on the {side}, which doesn't serve: {}; last at {last}",
            named.join(", ")
        ))
    }
}

impl Found {
    fn add(&mut self, written: &Written, at: &str) {
        self.transactions += 1;
        self.rows += written.rows;
        self.more |= written.more;
        self.definition |= written.definition;
        self.as_text |= written.as_text;
        at.clone_into(&mut self.last);
    }

    fn name(&self) -> String {
        match (self.schema.as_str(), self.table.as_str()) {
            ("", "") => "other tables".to_owned(),
            (schema, "") => format!("schema {schema}"),
            (schema, table) => format!("{schema}.{table}"),
        }
    }

    fn named(&self) -> String {
        let least = if self.more { "at least " } else { "" };
        let definition = if self.definition { ", its definition" } else { "" };
        let Self { transactions, rows, .. } = self;
        format!("{} ({transactions} transaction(s), {least}{rows} row(s){definition})", self.name())
    }

    fn shown(&self, side: Side) -> StrayWrites {
        let notes = [
            (self.more, "there may be more rows"),
            (self.definition, "a definition was changed"),
            (self.as_text, "written as a statement (binlog_format isn't ROW)"),
        ];
        let notes: Vec<&str> = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note).collect();
        StrayWrites {
            side,
            schema: self.schema.clone(),
            table: self.table.clone(),
            transactions: self.transactions,
            rows: self.rows,
            first_position: self.first.clone(),
            last_position: self.last.clone(),
            note: notes.join("; "),
        }
    }
}

/// What was written, of one transaction, for an event.
pub(super) fn described(written: &BTreeMap<TableName, Written>) -> String {
    let mut book = Book::new(Side::Source, "");
    book.enter(&Sighting { gtid: None, written: written.clone() }, &BinlogPosition::default());
    book.open.iter().map(Found::named).collect::<Vec<_>>().join(", ")
}

/// `gtid (file:offset)`.
pub(super) fn place(gtid: Option<&Gtid>, end: &BinlogPosition) -> String {
    match gtid {
        Some(gtid) => format!("{gtid} ({end})"),
        None => end.to_string(),
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn sighting(table: &str, rows: u64) -> Sighting {
        let written = Written { rows, ..Written::default() };
        Sighting {
            gtid: Some("0-1-5".parse().unwrap()),
            written: [(TableName::new("shop", table), written)].into(),
        }
    }

    fn at(offset: u64) -> BinlogPosition {
        BinlogPosition { file: "b.1".to_owned(), offset }
    }

    #[test]
    fn a_restart_goes_on_with_its_own_book_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::of(folder.path(), Side::Source, "0-1-4 (b.1:40)").unwrap();
        assert_eq!(book.said(Side::Source), None);
        book.enter(&sighting("a", 2), &at(50));
        book.enter(&sighting("a", 3), &at(60));
        book.enter(&sighting("b", 1), &at(70));
        book.write(folder.path()).unwrap();
        let same = Book::of(folder.path(), Side::Source, "0-1-4 (b.1:40)").unwrap();
        assert_eq!(same.transactions(), 3);
        let said = same.said(Side::Source).unwrap();
        assert!(said.contains("shop.a (2 transaction(s), 5 row(s)), shop.b"), "{said}");
        assert!(said.contains("last at 0-1-5 (b.1:70)"), "{said}");
        assert!(Book::of(folder.path(), Side::Source, "0-1-9 (b.1:90)").unwrap().tables().is_empty());
        assert!(Book::of(folder.path(), Side::Target, "0-1-4 (b.1:40)").unwrap().tables().is_empty());
    }

    #[test]
    fn the_book_stays_small() {
        let mut book = Book::new(Side::Target, "");
        for table in 0..TABLES_MAX + 50 {
            book.enter(&sighting(&format!("t{table}"), 1), &at(5));
        }
        assert_eq!((book.tables().len(), book.transactions()), (TABLES_MAX + 1, TABLES_MAX as u64 + 50));
        book.acknowledge();
        assert_eq!(book.said(Side::Target), None);
    }
}
