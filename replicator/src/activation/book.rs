//! `activation.json` in state_dir: what was read of triggers and events, and what a cutover left to be done.
//!
//! Nothing is dropped on a server whose definition isn't in here or on the other server, so none is ever lost: an operator
//! finds the text of each in this file, whatever happens to the servers.

use std::path::{Path, PathBuf};

use config::{Side, TableName, durable};
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::listing::{Kind, Listed};
use crate::error::{Error, Result};
use crate::schema::objects::Session;

const FILE: &str = "activation.json";
const NAME: &str = "activation";
const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// What the source had when a cutover last read it, or before it was dropped there.
    source: Vec<Kept>,
    /// The same of the target.
    target: Vec<Kept>,
    /// What a side that is about to serve gets once it does. Set by `activate`; taken away when it is done, or when a leg
    /// begins that writes to that side, since then there was no swap.
    pub(super) awaits: Option<Awaits>,
    /// The side whose event_scheduler was turned on by us, until it is turned off there again.
    pub(super) scheduler_on: Option<Place>,
}

/// A side, in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    Source,
    Target,
}

impl From<Side> for Place {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Target => Self::Target,
        }
    }
}

/// A definition, for whoever needs it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    kind: Kind,
    name: TableName,
    key: String,
    session: Session,
    /// Its CREATE statement; `0x…` where that isn't UTF-8.
    create: String,
}

/// What waits for the swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Awaits {
    /// The side that is to serve.
    pub(super) side: Place,
    /// What was made there, or was about to be.
    pub(super) made: Vec<(Kind, TableName)>,
    /// Events that were made disabled and are to run.
    pub(super) events: Vec<Sleeping>,
    /// Its event_scheduler is to be turned on.
    pub(super) scheduler: bool,
}

/// An event that was made disabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sleeping {
    pub(super) name: TableName,
    /// `DEFINER=…`, which ALTER EVENT would otherwise replace.
    pub(super) definer: String,
    pub(super) session: Session,
}

impl Book {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// Reads the file; an empty book where there is none.
    pub(super) fn read(state_dir: &Path) -> Result<Self> {
        let unreadable = |why: String| Error::definite(None, FILE, why);
        let bytes = durable::read(&Self::path(state_dir), NAME, VERSION)
            .map_err(|error| unreadable(error.to_string()))?;
        bytes.map_or_else(
            || Ok(Self::default()),
            |bytes| {
                serde_json::from_slice(&bytes).map_err(|error| {
                    unreadable(format!("it can't be read ({error}); restore it from a backup"))
                })
            },
        )
    }

    /// Replaces the file durably.
    pub(super) fn write(&self, state_dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::bug(FILE, error.to_string()))?;
        durable::write(&Self::path(state_dir), NAME, VERSION, &bytes)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))
    }

    /// True where this very definition was read from either side.
    pub(super) fn holds(&self, listed: &Listed) -> bool {
        self.source.iter().chain(&self.target).any(|kept| kept.kind == listed.kind && kept.key == listed.key)
    }

    /// True where a cutover made it on `side`.
    pub(super) fn made(&self, side: Side, listed: &Listed) -> bool {
        let made = |awaits: &Awaits| {
            awaits.side == side.into()
                && awaits.made.iter().any(|(kind, name)| *kind == listed.kind && *name == listed.name)
        };
        self.awaits.as_ref().is_some_and(made)
    }

    /// Everything that `side` has now takes the place of what it had when it was last read.
    pub(super) fn replace(&mut self, side: Side, found: &[(Listed, Definition)]) {
        *self.of(side) = found.iter().map(|(listed, definition)| Kept::of(listed, definition)).collect();
    }

    /// Keeps these as well.
    pub(super) fn add(&mut self, side: Side, found: &[(Listed, Definition)]) {
        let kept = found.iter().map(|(listed, definition)| Kept::of(listed, definition));
        self.of(side).extend(kept);
    }

    fn of(&mut self, side: Side) -> &mut Vec<Kept> {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }
}

impl Kept {
    fn of(listed: &Listed, definition: &Definition) -> Self {
        let create = String::from_utf8(definition.create.clone()).unwrap_or_else(|error| {
            let hex: String = error.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{hex}")
        });
        Self {
            kind: listed.kind,
            name: listed.name.clone(),
            key: listed.key.clone(),
            session: definition.session.clone(),
            create,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_survives_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Book::read(folder.path()).unwrap(), Book::default());
        let session = Session::default();
        let (a, b) =
            (Listed::sample(Kind::Trigger, "a", "1", false), Listed::sample(Kind::Event, "b", "2", true));
        let definition = |create: &[u8]| Definition {
            create: create.to_vec(),
            there: Err(String::new()),
            session: session.clone(),
            asleep: None,
        };
        let mut book = Book::default();
        book.replace(Side::Source, &[(a.clone(), definition(b"CREATE TRIGGER \xff"))]);
        book.add(Side::Source, &[(b.clone(), definition(b"CREATE EVENT"))]);
        book.awaits =
            Some(Awaits { side: Place::Target, made: Vec::new(), events: Vec::new(), scheduler: true });
        book.write(folder.path()).unwrap();
        let again = Book::read(folder.path()).unwrap();
        assert_eq!(again, book);
        assert!(again.holds(&a) && again.holds(&b));
        assert!(!again.holds(&Listed::sample(Kind::Event, "a", "1", true)), "another kind");
        assert!(
            String::from_utf8(std::fs::read(folder.path().join(FILE)).unwrap()).unwrap().contains("0x435245")
        );
    }
}
