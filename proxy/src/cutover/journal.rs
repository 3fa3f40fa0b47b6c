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
//! | `switched` | id, at_ms, source_position, target_position, note | the point of no return: `to` serves |
//! | `finished` | id, pause_ms, sessions_moved, transactions_killed | everything behind the swap is done |
//! | `aborted` | id, at_ms, reason, fence_left, pause_ms, transactions_killed, source_position | undone: `from` serves; with `fence_left` it may still be read-only because of us |
//! | `unfenced` | id | what `fence_left` left behind is gone |
//!
//! Ids count from 1. A cutover is `started fenced? (switched finished | aborted unfenced?)`, and one begins only
//! behind the end of the one before. A record counts once its append was fsynced.
//!
//! # Damage
//!
//! An append that a crash tore leaves bytes without a line feed at the end, or zeros: they are cut, since nobody
//! acted on them. Anything else that doesn't read as above stops the start with a sentence that says what to do:
//! a `switched` that is lost in silence would let both backends take writes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use config::{Side, failpoint};
use serde::{Deserialize, Serialize};

use super::phase::{CutoverId, Outcome};
use super::step::Stage;
use crate::backend::fence::FenceBefore;

/// Name of the file in state_dir.
pub const FILE_NAME: &str = "cutover.journal";
const HEADER: &str = "changeover cutover journal v1\n";
/// A journal of this size holds some 100,000 cutovers: whatever is larger isn't ours to read into memory.
const FILE_MAX: u64 = 64 << 20;
/// Rows that SHOW CUTOVERS keeps.
const HISTORY_MAX: usize = 1000;
/// Bytes that end a tail which is put aside as torn, at most: no record is longer.
const REASON_MAX: usize = 4000;

/// What can be wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused something, and it is known that the record isn't in the file.
    #[error("{path}: {what}: {source}")]
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

/// A row of SHOW CUTOVERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutoverRow {
    /// Counts from 1 on.
    pub id: CutoverId,
    /// `forward` or `rollback`.
    pub direction: &'static str,
    /// When it began.
    pub started_at: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// From the gate's closing to its opening. `None`: the gate wasn't closed, or a crash ended the pause.
    pub pause_ms: Option<u64>,
    /// Sessions that were carried over.
    pub sessions_moved: u64,
    /// Sessions that were closed because their transactions outlived the drain deadline.
    pub transactions_killed: u64,
    /// Where the old side ended.
    pub source_position: Option<String>,
    /// Where the new side began.
    pub target_position: Option<String>,
    /// Why it was undone, or what is worth knowing; may be empty.
    pub reason: String,
}

/// What the journal says on opening, and at any later moment.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalState {
    /// Who serves.
    pub serving: Side,
    /// The cutover that a crash interrupted.
    pub unfinished: Option<Unfinished>,
    /// The side that doesn't serve, and how it was before a cutover fenced it. Kept fenced.
    pub fenced: Option<(Side, FenceBefore)>,
    /// The serving side, where an abort could not take the fence off it yet.
    pub fence_left: Option<(CutoverId, Side, FenceBefore)>,
    /// The cutovers, oldest first.
    pub history: Vec<CutoverRow>,
}

/// A cutover without an end.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// Its number.
    pub id: CutoverId,
    /// The side that served.
    pub from: Side,
    /// The side that was to serve.
    pub to: Side,
    /// How far it came.
    pub stage: Stage,
    /// How `from` was before it was fenced, where it was.
    pub before: Option<FenceBefore>,
    /// How `to` was before an earlier cutover fenced it, where one did: a rollback takes that fence off.
    pub release: Option<FenceBefore>,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the table in the module's comment describes them")]
pub enum Record {
    Started {
        id: CutoverId,
        at_ms: u64,
        #[serde(with = "side")]
        from: Side,
        #[serde(with = "side")]
        to: Side,
    },
    Fenced {
        id: CutoverId,
        before: FenceBefore,
    },
    Switched {
        id: CutoverId,
        at_ms: u64,
        source_position: String,
        target_position: Option<String>,
        note: String,
    },
    Finished {
        id: CutoverId,
        pause_ms: Option<u64>,
        sessions_moved: u64,
        transactions_killed: u64,
    },
    Aborted {
        id: CutoverId,
        at_ms: u64,
        reason: String,
        fence_left: bool,
        pause_ms: Option<u64>,
        transactions_killed: u64,
        source_position: Option<String>,
    },
    Unfenced {
        id: CutoverId,
    },
}

mod side {
    use config::Side;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(side: &Side, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(side.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Side, D::Error> {
        match String::deserialize(from)?.as_str() {
            "source" => Ok(Side::Source),
            "target" => Ok(Side::Target),
            _ => Err(D::Error::custom("a side is `source` or `target`")),
        }
    }
}

impl JournalState {
    pub(super) fn new() -> Self {
        Self { serving: Side::Source, unfinished: None, fenced: None, fence_left: None, history: Vec::new() }
    }

    /// The number of the next cutover.
    #[must_use]
    pub fn next_id(&self) -> CutoverId {
        CutoverId(self.history.last().map_or(1, |row| row.id.0 + 1))
    }

    /// Takes a record in. `Err` says what of it can't be; the state is then as it was.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        if let Record::Started { id, at_ms, from, to } = record {
            return self.start(*id, *at_ms, *from, *to);
        }
        if let Record::Unfenced { id } = record {
            return match self.fence_left.take_if(|(left, ..)| left == id) {
                Some(_) => Ok(()),
                None => Err("nothing was left fenced by that cutover"),
            };
        }
        let Some(unfinished) = self.unfinished.as_mut() else {
            return Err("no cutover is under way");
        };
        let Some(row) = self.history.last_mut() else {
            return Err("no cutover was started");
        };
        if record.id() != unfinished.id {
            return Err("another cutover is under way");
        }
        match (record, &unfinished.stage) {
            (Record::Fenced { before, .. }, Stage::Started) => {
                unfinished.stage = Stage::Fenced(*before);
                unfinished.before = Some(*before);
            }
            (
                Record::Switched { source_position, target_position, note, .. },
                Stage::Started | Stage::Fenced(_),
            ) => {
                self.serving = unfinished.to;
                self.fenced = unfinished.before.map(|before| (unfinished.from, before));
                unfinished.stage = Stage::Switched;
                row.outcome = Outcome::Switched;
                row.source_position = Some(source_position.clone());
                row.target_position.clone_from(target_position);
                row.reason.clone_from(note);
            }
            (Record::Finished { pause_ms, sessions_moved, transactions_killed, .. }, Stage::Switched) => {
                row.pause_ms = *pause_ms;
                row.sessions_moved = *sessions_moved;
                row.transactions_killed = *transactions_killed;
                self.unfinished = None;
            }
            (Record::Aborted { .. }, Stage::Started | Stage::Fenced(_)) => self.abort(record),
            _ => return Err("that record can't follow the one before it"),
        }
        Ok(())
    }

    fn start(&mut self, id: CutoverId, at_ms: u64, from: Side, to: Side) -> Result<(), &'static str> {
        if self.unfinished.is_some() {
            return Err("the cutover before it has no end");
        }
        if id != self.next_id() {
            return Err("its number isn't the next one");
        }
        if from != self.serving || to == from {
            return Err("it doesn't begin at the side that serves");
        }
        if self.history.len() == HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(CutoverRow {
            id,
            direction: if from == Side::Source { "forward" } else { "rollback" },
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms),
            outcome: Outcome::Running,
            pause_ms: None,
            sessions_moved: 0,
            transactions_killed: 0,
            source_position: None,
            target_position: None,
            reason: String::new(),
        });
        let release = self.fenced.and_then(|(side, before)| (side == to).then_some(before));
        self.unfinished = Some(Unfinished { id, from, to, stage: Stage::Started, before: None, release });
        Ok(())
    }

    fn abort(&mut self, record: &Record) {
        let Record::Aborted {
            id, reason, fence_left, pause_ms, transactions_killed, source_position, ..
        } = record
        else {
            return;
        };
        let unfinished = self.unfinished.take();
        if let Some(row) = self.history.last_mut() {
            row.outcome = Outcome::Aborted;
            row.reason.clone_from(reason);
            row.pause_ms = *pause_ms;
            row.transactions_killed = *transactions_killed;
            row.source_position.clone_from(source_position);
        }
        if let (true, Some(Unfinished { from, before: Some(before), .. })) = (*fence_left, unfinished) {
            self.fence_left = Some((*id, from, before));
        }
    }
}

impl Record {
    fn id(&self) -> CutoverId {
        match self {
            Record::Started { id, .. }
            | Record::Fenced { id, .. }
            | Record::Switched { id, .. }
            | Record::Finished { id, .. }
            | Record::Aborted { id, .. }
            | Record::Unfenced { id } => *id,
        }
    }

    fn line(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
    }
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
        if matches!(record, Record::Switched { .. }) {
            failpoint::hit("cutover.before_journal");
        }
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            return Err(self.take_back(source));
        }
        if matches!(record, Record::Switched { .. }) {
            failpoint::hit("cutover.journal.after_switched");
        }
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
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| File::open(state_dir).and_then(|folder| folder.sync_all()));
    made.map_err(|source| io(path, "it can't be made", source))
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
    let sum = std::str::from_utf8(sum)
        .ok()
        .and_then(|text| text.strip_suffix(' '))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or("it doesn't begin with a checksum")?;
    if crc32fast::hash(json) != sum {
        return Err("its checksum is wrong");
    }
    serde_json::from_slice(json).map_err(|_| "it isn't a record that this version knows")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn started(id: u64, from: Side) -> Record {
        Record::Started { id: CutoverId(id), at_ms: 5, from, to: from.other() }
    }

    fn before() -> FenceBefore {
        FenceBefore { read_only: false, super_read_only: Some(false) }
    }

    fn switched(id: u64) -> Record {
        Record::Switched {
            id: CutoverId(id),
            at_ms: 6,
            source_position: "0-1-5 (bin.000001:44)".into(),
            target_position: None,
            note: "no way back yet".into(),
        }
    }

    fn aborted(id: u64, fence_left: bool) -> Record {
        Record::Aborted {
            id: CutoverId(id),
            at_ms: 6,
            reason: "lag".into(),
            fence_left,
            pause_ms: Some(3),
            transactions_killed: 1,
            source_position: None,
        }
    }

    fn finished(id: u64) -> Record {
        Record::Finished { id: CutoverId(id), pause_ms: Some(12), sessions_moved: 16, transactions_killed: 0 }
    }

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
        assert_eq!(state.fenced, Some((Side::Source, before())));
        assert_eq!(state.fence_left, None);
        assert_eq!(state.unfinished.unwrap().stage, Stage::Started);
        let outcomes: Vec<_> = state.history.iter().map(|row| (row.id.0, row.outcome)).collect();
        assert_eq!(outcomes, [(1, Outcome::Aborted), (2, Outcome::Switched), (3, Outcome::Running)]);
        assert_eq!(state.history[1].pause_ms, Some(12));
    }

    #[test]
    fn a_record_out_of_its_place_is_refused() {
        let check = |records: &[Record], wrong: &Record| {
            let mut state = JournalState::new();
            records.iter().for_each(|record| state.apply(record).unwrap());
            let was = state.clone();
            assert!(state.apply(wrong).is_err(), "{wrong:?}");
            assert_eq!(state, was);
        };
        check(&[], &switched(1));
        check(&[], &started(1, Side::Target));
        check(&[], &started(2, Side::Source));
        check(&[started(1, Side::Source)], &started(2, Side::Source));
        check(&[started(1, Side::Source)], &switched(2));
        check(&[started(1, Side::Source)], &finished(1));
        check(&[started(1, Side::Source), switched(1)], &aborted(1, false));
        check(&[started(1, Side::Source), aborted(1, false)], &Record::Unfenced { id: CutoverId(1) });
        check(&[started(1, Side::Source), switched(1), finished(1)], &started(2, Side::Source));
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
        fn a_torn_tail_is_cut(records in 0usize..9, cut in 1usize..400, zeros in 0usize..20) {
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
