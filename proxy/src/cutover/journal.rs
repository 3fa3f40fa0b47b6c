//! The cutover journal: after a crash it alone decides who serves (invariant 2).
//!
//! # The file
//!
//! `cutover.journal` in state_dir, append-only, readable with any pager. The first line is
//! `changeover cutover journal v1`; it is written to a temporary file that is fsynced and renamed, and the folder
//! is fsynced, so that it exists whole or not at all. Every other line is a record:
//!
//! ```text
//! 8 hex digits: CRC-32 (IEEE) of the rest of the line without its line feed · a space · one JSON object · a line feed
//! ```
//!
//! | `record` | carries | meaning |
//! |---|---|---|
//! | `started` | id, at_ms, from, to | a cutover began; nothing was touched |
//! | `fenced` | id, before | `from` was found like that and may be read-only because of us |
//! | `switched` | id, at_ms, source_position, target_position, note, way_back | the point of no return: `to` serves, and with `way_back` is followed into `from` |
//! | `finished` | id, pause_ms, sessions_moved, transactions_killed | everything behind the swap is done |
//! | `aborted` | id, at_ms, reason, fence_left, pause_ms, transactions_killed, source_position | undone: `from` serves; with `fence_left` it may still be read-only because of us |
//! | `unfenced` | id | what `fence_left` left behind is gone |
//! | `released` | id | the migration was finished or abandoned behind that cutover: the other side isn't watched any more |
//!
//! Ids count from 1. A cutover is `started fenced? (switched finished | aborted unfenced?) released?`, and one begins
//! only behind the end of the one before. A `switched` without `way_back` is one of an earlier version: without. A record counts once its append was fsynced.
//!
//! # Damage
//!
//! An append that a crash tore leaves bytes without a line feed at the end, or zeros: they are cut, since nobody
//! acted on them. Anything else that doesn't read as above stops the start with a sentence that says what to do:
//! a `switched` that is lost in silence would let both backends take writes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use config::failpoint;

pub use super::history::{CutoverRow, JournalState, Record, Unfinished};

/// Name of the file in state_dir.
pub const FILE_NAME: &str = "cutover.journal";
const HEADER: &str = "changeover cutover journal v1\n";
/// A journal of this size holds some 100,000 cutovers: whatever is larger isn't ours to read into memory.
const FILE_MAX: u64 = 64 << 20;
/// Characters of a reason or a note that a record keeps.
const REASON_MAX: usize = 4000;

/// What can be wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused something, and it is known that the record isn't in the file.
    #[error("{path}: {what}: {source}; {}", config::durable::remedy(source))]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The write or its fsync failed, and so did taking it back: nobody can say what is on the disk.
    #[error("{path}: an append failed and could not be taken back: {source}")]
    Uncertain {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it can't be right.
    #[error(
        "{path}, line {line}: {what}. The journal decides which backend serves, so Changeover doesn't start \
         without it. Restore the file from a backup; or find out which backend took the last writes, move the \
         file away, and begin the migration anew"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Line, from 1 on.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A newer Changeover wrote it.
    #[error("{path} was written by another version of Changeover ({found:?}); start that version")]
    Version {
        /// The file.
        path: String,
        /// Its first line, cut.
        found: String,
    },
    /// A record that can't follow the one before, which is a bug of ours.
    #[error("{0} can't be journalled now, which is a bug in Changeover")]
    Sequence(&'static str),
}

/// The open file. Appends block on fsync: call them where blocking is allowed.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes that are known to be whole records on the disk.
    len: u64,
    state: JournalState,
    /// After an append whose fate is unknown nothing may be appended.
    poisoned: bool,
}

impl Journal {
    /// Opens or makes the journal of this state_dir, which the caller holds locked.
    pub fn open(state_dir: &Path) -> Result<(Self, JournalState), JournalError> {
        let path = state_dir.join(FILE_NAME);
        if !path.exists() {
            create(state_dir, &path)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|source| io(&path, "it can't be opened", source))?;
        let size = file.metadata().map_err(|source| io(&path, "it can't be read", source))?.len();
        if size > FILE_MAX {
            return Err(damaged(&path, 1, "it is larger than any journal can be"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| io(&path, "it can't be read", source))?;
        let (state, len) = read(&path, &bytes)?;
        if len < bytes.len() as u64 {
            tracing::warn!(
                area = "cutover",
                "the last record of {} was torn by a crash; its {} bytes are cut",
                path.display(),
                bytes.len() as u64 - len
            );
            file.set_len(len)
                .and_then(|()| file.sync_all())
                .map_err(|source| io(&path, "the torn record can't be cut", source))?;
        }
        let journal = Self { file, path, len, state: state.clone(), poisoned: false };
        Ok((journal, state))
    }

    /// What it says now.
    #[must_use]
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Appends and fsyncs. An error other than [`JournalError::Uncertain`] means: it isn't in the file.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut next = self.state.clone();
        next.apply(record).map_err(JournalError::Sequence)?;
        let line = record.line().map_err(|_| JournalError::Sequence("a record that isn't JSON"))?;
        if self.poisoned {
            let source = std::io::Error::other("an earlier append is in doubt; restart Changeover");
            return Err(io(&self.path, "it takes no more records", source));
        }
        failpoint::hit_of("cutover.journal.before", record.name());
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            return Err(self.take_back(source));
        }
        failpoint::hit_of("cutover.journal.written", record.name());
        self.len += line.len() as u64;
        self.state = next;
        Ok(())
    }

    /// Cuts what a failed append may have left.
    fn take_back(&mut self, source: std::io::Error) -> JournalError {
        let cut = self
            .file
            .set_len(self.len)
            .and_then(|()| self.file.seek(SeekFrom::End(0)))
            .and_then(|_| self.file.sync_all());
        match cut {
            Ok(()) => io(&self.path, "a record can't be written", source),
            Err(_) => {
                self.poisoned = true;
                JournalError::Uncertain { path: self.path.display().to_string(), source }
            }
        }
    }
}

/// A reason short enough for a record.
#[must_use]
pub fn shorten(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

fn create(state_dir: &Path, path: &Path) -> Result<(), JournalError> {
    let temporary = state_dir.join(format!("{FILE_NAME}.new"));
    let made = File::create(&temporary)
        .and_then(|mut file| file.write_all(HEADER.as_bytes()).and_then(|()| file.sync_all()))
        .inspect(|()| failpoint::hit_file(path, "before"))
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| File::open(state_dir).and_then(|folder| folder.sync_all()));
    made.map_err(|source| io(path, "it can't be made", source))?;
    failpoint::hit_file(path, "written");
    Ok(())
}

fn io(path: &Path, what: &'static str, source: std::io::Error) -> JournalError {
    JournalError::Io { path: path.display().to_string(), what, source }
}

fn damaged(path: &Path, line: usize, what: impl Into<String>) -> JournalError {
    JournalError::Damaged { path: path.display().to_string(), line, what: what.into() }
}

/// The state that the bytes tell, and how many of them are whole.
fn read(path: &Path, bytes: &[u8]) -> Result<(JournalState, u64), JournalError> {
    let Some(mut rest) = bytes.strip_prefix(HEADER.as_bytes()) else {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let found: String = String::from_utf8_lossy(first).chars().take(80).collect();
        return Err(if found.starts_with("changeover cutover journal v") {
            JournalError::Version { path: path.display().to_string(), found }
        } else {
            damaged(path, 1, "it doesn't begin as a cutover journal does")
        });
    };
    let mut state = JournalState::new();
    let mut number = 1;
    while !rest.is_empty() {
        number += 1;
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return tail(path, number, rest).map(|()| (state, (bytes.len() - rest.len()) as u64));
        };
        let (line, behind) = rest.split_at(end);
        let record = parse(line).map_err(|what| damaged(path, number, what))?;
        state.apply(&record).map_err(|what| damaged(path, number, what))?;
        rest = behind.get(1..).unwrap_or_default();
    }
    Ok((state, bytes.len() as u64))
}

/// Bytes behind the last line feed: torn, unless they are a whole record whose line feed went bad, which no crash
/// of ours makes.
fn tail(path: &Path, number: usize, rest: &[u8]) -> Result<(), JournalError> {
    let but_last = rest.split_last().map(|(_, line)| line).unwrap_or_default();
    match parse(but_last) {
        Ok(_) => Err(damaged(path, number, "its line feed was overwritten")),
        Err(_) => Ok(()),
    }
}

fn parse(line: &[u8]) -> Result<Record, &'static str> {
    let (sum, json) = line.split_at_checked(9).ok_or("it is too short for a record")?;
    // As text: a number could be spelled in other ways, and a byte that went bad must not pass for one of them.
    if sum != format!("{:08x} ", crc32fast::hash(json)).as_bytes() {
        return Err("its checksum is wrong");
    }
    serde_json::from_slice(json).map_err(|_| "it isn't a record that this version knows")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::history::samples::{aborted, before, finished, started, switched};
    use super::super::phase::{CutoverId, Outcome};
    use super::super::step::Stage;
    use super::*;
    use config::Side;
    use proptest::prelude::*;

    fn full() -> Vec<Record> {
        vec![
            started(1, Side::Source),
            Record::Fenced { id: CutoverId(1), before: before() },
            aborted(1, true),
            Record::Unfenced { id: CutoverId(1) },
            started(2, Side::Source),
            Record::Fenced { id: CutoverId(2), before: before() },
            switched(2),
            finished(2),
            Record::Released { id: CutoverId(2) },
            started(3, Side::Target),
        ]
    }

    #[test]
    fn what_was_appended_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        for record in full() {
            let (mut journal, _) = Journal::open(folder.path()).unwrap();
            journal.append(&record).unwrap();
            let live = journal.state().clone();
            drop(journal);
            assert_eq!(Journal::open(folder.path()).unwrap().1, live);
        }
        let (_, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(state.serving, Side::Target);
        assert_eq!(state.fenced, None);
        assert_eq!(state.fence_left, None);
        assert_eq!(state.unfinished.unwrap().stage, Stage::Started);
        let outcomes: Vec<_> = state.history.iter().map(|row| (row.id.0, row.outcome)).collect();
        assert_eq!(outcomes, [(1, Outcome::Aborted), (2, Outcome::Switched), (3, Outcome::Running)]);
        assert_eq!(state.history[1].pause_ms, Some(12));
    }

    #[test]
    fn after_an_append_in_doubt_nothing_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, empty) = Journal::open(folder.path()).unwrap();
        let writable = std::mem::replace(&mut journal.file, File::open(&journal.path).unwrap());
        // Neither the write nor the cut behind it can work on a file that is open for reading.
        let doubt = journal.append(&started(1, Side::Source)).unwrap_err();
        assert!(matches!(doubt, JournalError::Uncertain { .. }), "{doubt}");
        assert_eq!(*journal.state(), empty);
        journal.file = writable;
        assert!(journal.append(&started(1, Side::Source)).unwrap_err().to_string().contains("in doubt"));
    }

    #[test]
    fn a_switch_that_an_earlier_version_wrote_has_no_way_back() {
        let json = r#"{"record":"switched","id":1,"at_ms":6,"source_position":"0-1-5 (b:44)","target_position":null,"note":"n"}"#;
        let line = format!("{:08x} {json}", crc32fast::hash(json.as_bytes()));
        let Record::Switched { source_position, way_back, .. } = parse(line.as_bytes()).unwrap() else {
            panic!("it is another record")
        };
        assert_eq!((source_position.as_deref(), way_back), (Some("0-1-5 (b:44)"), false));
    }

    #[test]
    fn the_version_and_the_first_line_are_checked() {
        let check = |bytes: &[u8], part: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
            let error = Journal::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(b"", "doesn't begin as");
        check(b"changeover cutover journal v2\n", "another version");
        check(b"garbage", "doesn't begin as");
    }

    proptest! {
        /// A crash in the middle of an append leaves any prefix of it, perhaps with zeros behind.
        #[test]
        fn a_torn_tail_is_cut(records in 0usize..10, cut in 1usize..400, zeros in 0usize..20) {
            let folder = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(folder.path()).unwrap();
            let all = full();
            all[..records].iter().for_each(|record| journal.append(record).unwrap());
            let whole = journal.state().clone();
            let line = all[records].line().unwrap();
            let mut torn = line.as_bytes()[..cut.min(line.len() - 1)].to_vec();
            // A whole record with zeros for its line feed is told from a torn one by nobody, and cut as well,
            // unless it is exactly one byte: that is what a line feed that went bad looks like.
            prop_assume!(!(torn.len() == line.len() - 1 && zeros == 1));
            torn.resize(torn.len() + zeros, 0);
            let path = folder.path().join(FILE_NAME);
            let mut bytes = std::fs::read(&path).unwrap();
            let len = bytes.len();
            bytes.extend(torn);
            std::fs::write(&path, &bytes).unwrap();
            let (journal, state) = Journal::open(folder.path()).unwrap();
            prop_assert_eq!(&state, &whole);
            drop(journal);
            prop_assert_eq!(std::fs::read(&path).unwrap().len(), len);
        }

        /// One byte that went bad anywhere in a whole file is found.
        #[test]
        fn damage_is_an_error(at in 0usize..2000, flip in 1u8..=255) {
            let mut bytes = HEADER.as_bytes().to_vec();
            full().iter().for_each(|record| bytes.extend(record.line().unwrap().as_bytes()));
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(read(Path::new("j"), &bytes).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(Path::new("j"), &bytes);
            let mut file = HEADER.as_bytes().to_vec();
            file.extend(bytes);
            let _ = read(Path::new("j"), &file);
        }
    }
}
