//! `chunks.journal` in the state folder: which chunks exist and which of them are on the target, so that a copy
//! goes on where a crash left it.
//!
//! # Format, version 1
//! The file begins with the eight bytes `CHGOCHK1`. Records follow, each of them
//!
//! ```text
//! length  u32 little-endian, of the payload
//! crc     u32 little-endian, CRC-32 of the payload
//! payload
//! ```
//!
//! and a payload is a kind byte and its fields, where a text is a u32 length and its bytes, and a number a u64:
//!
//! | kind | fields | means |
//! |---|---|---|
//! | 1 | text | the start position that this copy belongs to; the first record, exactly once |
//! | 2 | schema, table, chunk number, bound | a chunk was cut: it ends with this bound and begins behind that of the chunk before; chunk numbers of a table count from 0 |
//! | 3 | schema, table, chunk number, rows | the chunk, or what kind 4 left of it, is committed on the target |
//! | 4 | schema, table, chunk number, rows, bound | the chunk turned out too heavy: it is committed up to this bound |
//!
//! A bound is written as [`super::record`] says.
//!
//! Kinds 3 and 4 are fsynced before anybody relies on them ([`Written::settle`]), several readers' together; kind 2 isn't, since a
//! chunk that is forgotten is only cut again.
//! A torn record at the end is cut off on opening, a damaged one before the end is an error: what follows it could
//! be believed only by guessing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use config::{TableName, failpoint};

use super::record::{
    take_bound, take_text, take_u8, take_u32, take_u64, write_bound, write_chunk, write_text,
};
use crate::error::{Error, Result};
use crate::handle::lock;
use crate::value::Value;

const FILE: &str = "chunks.journal";
const MAGIC: &[u8; 8] = b"CHGOCHK1";
const HEAD_BYTES: usize = 8;
/// Longer than any record can be: an index key has at most 3072 bytes.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// A chunk of a table as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalledChunk {
    /// Where it ends. `None`: the table's last chunk.
    pub upto: Option<Vec<Value>>,
    /// It is on the target.
    pub done: bool,
    /// Rows of it that are on the target.
    pub rows: u64,
    /// Where the part of it that is on the target ends, while it isn't done. `None`: nothing of it is there.
    pub copied_to: Option<Vec<Value>>,
}

/// Chunks of each table, by number from 0 on.
pub type Chunks = BTreeMap<TableName, Vec<JournalledChunk>>;

/// The open journal.
#[derive(Debug)]
pub struct ChunkJournal {
    disk: Arc<Disk>,
    buffer: Vec<u8>,
}

/// The file, and how much of it is known to be on the disk.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    file: File,
    /// Records written.
    written: AtomicU64,
    /// Records that are on the disk.
    synced: Mutex<u64>,
    /// A write failed and may have left half a record, or an fsync did: nothing may follow it.
    broken: AtomicBool,
}

/// A record that is written, and that nobody may rely on yet.
#[derive(Debug)]
#[must_use]
pub struct Written {
    disk: Arc<Disk>,
    /// Its number.
    record: u64,
    place: &'static str,
}

impl Written {
    /// Returns when it is on the disk. Who comes while another waits for the disk shares the next fsync with all that came
    /// meanwhile, so that readers don't wait for one another's.
    ///
    /// # Errors
    /// An fsync failed, this one or one before it.
    pub fn settle(self) -> Result<()> {
        self.disk.sync(self.record)?;
        failpoint::hit(self.place);
        Ok(())
    }
}

impl Disk {
    fn sync(&self, record: u64) -> Result<()> {
        let mut synced = lock(&self.synced);
        if *synced >= record {
            return Ok(());
        }
        self.usable()?;
        let written = self.written.load(Ordering::Acquire);
        if let Err(error) = self.file.sync_data() {
            // The kernel may have dropped the pages: what a second fsync says means nothing.
            self.broken.store(true, Ordering::Release);
            return Err(io_error(&self.path, "syncing", &error));
        }
        *synced = written;
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if !self.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::definite(
            None,
            self.path.display().to_string(),
            "the chunk journal couldn't be written before; it is read again at the next start",
        ))
    }
}

impl ChunkJournal {
    /// Opens or makes the journal of the copy that belongs to `start`, and says what it holds. A journal of
    /// another start position is an error: its chunks were read before a position from which nothing is replayed.
    pub fn open(state_dir: &Path, start: &str) -> Result<(Self, Chunks)> {
        let path = state_dir.join(FILE);
        let failed = |e: std::io::Error| io_error(&path, "opening", &e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (content, good) = read(&bytes).map_err(|why| {
            Error::definite(
                None,
                path.display().to_string(),
                format!(
                    "the chunk journal is damaged ({why}); move it away and empty the target's tables to copy \
                     again"
                ),
            )
        })?;
        file.set_len(good as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let disk = Disk {
            path: path.clone(),
            file,
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            broken: AtomicBool::new(false),
        };
        let mut journal = Self { disk: Arc::new(disk), buffer: Vec::new() };
        match content.start {
            None => {
                journal.buffer.extend_from_slice(MAGIC);
                let begun = journal.append("snapshot.journal.begun", |payload| {
                    payload.push(1);
                    write_text(payload, start.as_bytes());
                })?;
                // The name has to survive as well.
                File::open(state_dir).and_then(|folder| folder.sync_all()).map_err(failed)?;
                begun.settle()?;
            }
            Some(found) if found == start => {}
            Some(_) => {
                return Err(Error::definite(
                    None,
                    path.display().to_string(),
                    "the chunk journal belongs to a copy with another start position; move it away and empty \
                     the target's tables to copy again",
                ));
            }
        }
        Ok((journal, content.chunks))
    }

    /// Forgets a copy, so that a new migration can begin in the same folder.
    pub fn discard(state_dir: &Path) -> Result<()> {
        let path = state_dir.join(FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io_error(&path, "removing", &e)),
        }
        File::open(state_dir)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| io_error(&path, "removing", &e))?;
        failpoint::hit("snapshot.journal.removed");
        Ok(())
    }

    /// Notes where a chunk ends. It is on disk with the next record that is settled.
    pub fn cut(&mut self, table: &TableName, number: u64, upto: Option<&[Value]>) -> Result<()> {
        let cut = self.append("snapshot.chunk.cut", |payload| {
            payload.push(2);
            write_chunk(payload, table, number);
            write_bound(payload, upto);
        })?;
        failpoint::hit(cut.place);
        Ok(())
    }

    /// Notes that a chunk is committed on the target up to a bound of its own.
    pub fn partly_done(
        &mut self,
        table: &TableName,
        number: u64,
        rows: u64,
        bound: &[Value],
    ) -> Result<Written> {
        self.append("snapshot.chunk.partly", |payload| {
            payload.push(4);
            write_chunk(payload, table, number);
            payload.extend_from_slice(&rows.to_le_bytes());
            write_bound(payload, Some(bound));
        })
    }

    /// Notes that a chunk is committed on the target.
    pub fn done(&mut self, table: &TableName, number: u64, rows: u64) -> Result<Written> {
        self.append("snapshot.chunk.journalled", |payload| {
            payload.push(3);
            write_chunk(payload, table, number);
            payload.extend_from_slice(&rows.to_le_bytes());
        })
    }

    /// Writes one record with one call, so that a crash tears at most the last one.
    fn append(&mut self, place: &'static str, write: impl FnOnce(&mut Vec<u8>)) -> Result<Written> {
        self.disk.usable()?;
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
        write(&mut self.buffer);
        let payload = self.buffer.get(begin + HEAD_BYTES..).unwrap_or_default();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let crc = crc32fast::hash(payload).to_le_bytes();
        let head = length.into_iter().chain(crc);
        self.buffer.iter_mut().skip(begin).zip(head).for_each(|(slot, byte)| *slot = byte);
        let written = (&self.disk.file).write_all(&self.buffer);
        self.buffer.clear();
        if let Err(error) = written {
            self.disk.broken.store(true, Ordering::Release);
            return Err(io_error(&self.disk.path, "writing", &error));
        }
        let record = self.disk.written.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Written { disk: Arc::clone(&self.disk), record, place })
    }
}

fn io_error(path: &Path, doing: &str, error: &std::io::Error) -> Error {
    let what = format!("{doing} the chunk journal failed: {error}; {}", config::durable::remedy(error));
    Error::definite(None, path.display().to_string(), what)
}

#[derive(Debug, Default)]
struct Content {
    start: Option<String>,
    chunks: Chunks,
}

/// Reads a journal's bytes: what it says and how many of them are whole.
fn read(bytes: &[u8]) -> std::result::Result<(Content, usize), String> {
    let mut content = Content::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        let torn = MAGIC.starts_with(bytes);
        return if torn { Ok((content, 0)) } else { Err("it isn't one of this version".to_owned()) };
    };
    while let Some((payload, after)) = next_payload(rest)? {
        apply(&mut content, payload)
            .ok_or_else(|| format!("a record at offset {} makes no sense", bytes.len() - rest.len()))?;
        rest = after;
    }
    // A head without a start position says nothing: the file begins anew.
    let good = if content.start.is_some() { bytes.len() - rest.len() } else { 0 };
    Ok((content, good))
}

/// A payload and what follows it.
type Parted<'a> = (&'a [u8], &'a [u8]);

/// The next record's payload and what follows it; `None` at the end and before a torn record.
fn next_payload(rest: &[u8]) -> std::result::Result<Option<Parted<'_>>, String> {
    let Some((head, body)) = rest.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let mut input = head;
    let (Some(length), Some(crc)) = (take_u32(&mut input), take_u32(&mut input)) else { return Ok(None) };
    let length = length as usize;
    let Some((payload, after)) = body.split_at_checked(length) else { return Ok(None) };
    if length <= PAYLOAD_BYTES_MAX && length > 0 && crc32fast::hash(payload) == crc {
        return Ok(Some((payload, after)));
    }
    if after.is_empty() || rest.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Err("a checksum before the end is wrong".to_owned())
}

fn apply(content: &mut Content, mut input: &[u8]) -> Option<()> {
    let input = &mut input;
    let kind = take_u8(input)?;
    if kind == 1 {
        let start = String::from_utf8(take_text(input)?.to_vec()).ok()?;
        return content.start.replace(start).is_none().then_some(());
    }
    content.start.as_ref()?;
    let schema = String::from_utf8(take_text(input)?.to_vec()).ok()?;
    let table = String::from_utf8(take_text(input)?.to_vec()).ok()?;
    let number = usize::try_from(take_u64(input)?).ok()?;
    let chunks = content.chunks.entry(TableName::new(schema, table)).or_default();
    match kind {
        2 => {
            let upto = take_bound(input)?;
            let follows = number == chunks.len() && chunks.last().is_none_or(|c| c.upto.is_some());
            follows.then(|| chunks.push(JournalledChunk { upto, done: false, rows: 0, copied_to: None }))?;
        }
        3 => {
            let chunk = chunks.get_mut(number).filter(|chunk| !chunk.done)?;
            chunk.rows = chunk.rows.checked_add(take_u64(input)?)?;
            chunk.done = true;
        }
        4 => {
            let chunk = chunks.get_mut(number).filter(|chunk| !chunk.done)?;
            chunk.rows = chunk.rows.checked_add(take_u64(input)?)?;
            chunk.copied_to = Some(take_bound(input)??);
        }
        _ => return None,
    }
    input.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn table() -> TableName {
        TableName::new("s", "t")
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let bound = vec![
            Value::Int(-5),
            Value::UInt(u64::MAX),
            Value::Float(1.5),
            Value::Double(-0.0),
            Value::Text("1.20".to_owned()),
            Value::Bytes(Bytes::from_static(b"\0\xff")),
            Value::Null,
        ];
        let (mut journal, chunks) = ChunkJournal::open(folder.path(), "0-1-5").unwrap();
        assert!(chunks.is_empty());
        journal.cut(&table(), 0, Some(&bound)).unwrap();
        journal.cut(&table(), 1, None).unwrap();
        let done = journal.done(&table(), 1, 7).unwrap();
        let partly = journal.partly_done(&table(), 0, 5, &bound).unwrap();
        partly.settle().unwrap();
        done.settle().unwrap();
        drop(journal);
        let (_, chunks) = ChunkJournal::open(folder.path(), "0-1-5").unwrap();
        let expected = vec![
            JournalledChunk { upto: Some(bound.clone()), done: false, rows: 5, copied_to: Some(bound) },
            JournalledChunk { upto: None, done: true, rows: 7, copied_to: None },
        ];
        assert_eq!(chunks.get(&table()), Some(&expected));
        assert!(ChunkJournal::open(folder.path(), "0-1-6").is_err());
        ChunkJournal::discard(folder.path()).unwrap();
        ChunkJournal::discard(folder.path()).unwrap();
        assert!(ChunkJournal::open(folder.path(), "0-1-6").unwrap().1.is_empty());
    }

    #[test]
    fn one_fsync_is_for_all_that_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = ChunkJournal::open(folder.path(), "p").unwrap();
        journal.cut(&table(), 0, Some(&[Value::Int(1)])).unwrap();
        journal.cut(&table(), 1, None).unwrap();
        let (first, second) = (journal.done(&table(), 0, 7).unwrap(), journal.done(&table(), 1, 7).unwrap());
        let synced = |journal: &ChunkJournal| *lock(&journal.disk.synced);
        assert_eq!(synced(&journal), 1, "the start alone");
        first.settle().unwrap();
        assert_eq!(synced(&journal), 5);
        second.settle().unwrap();
        // Behind an fsync that failed nothing is believed.
        let third = journal.done(&table(), 2, 7).unwrap();
        journal.disk.broken.store(true, Ordering::Release);
        assert!(third.settle().is_err() && journal.done(&table(), 3, 7).is_err());
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = ChunkJournal::open(folder.path(), "p").unwrap();
        journal.cut(&table(), 0, None).unwrap();
        journal.done(&table(), 0, 7).unwrap().settle().unwrap();
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        let mut seen = Vec::new();
        for length in 0..=bytes.len() {
            std::fs::write(folder.path().join(FILE), &bytes[..length]).unwrap();
            let (mut journal, chunks) = ChunkJournal::open(folder.path(), "p").unwrap();
            let state = chunks.get(&table()).map(|chunks| chunks[0].done);
            seen.push(state);
            if state.is_none() {
                journal.cut(&table(), 0, None).unwrap();
                let (_, chunks) = ChunkJournal::open(folder.path(), "p").unwrap();
                assert_eq!(chunks.len(), 1, "appended after a cut at {length}");
            }
        }
        seen.dedup();
        assert_eq!(seen, [None, Some(false), Some(true)]);
    }

    #[test]
    fn damage_before_the_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = ChunkJournal::open(folder.path(), "p").unwrap();
        journal.cut(&table(), 0, None).unwrap();
        journal.done(&table(), 0, 7).unwrap().settle().unwrap();
        let mut bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        bytes[MAGIC.len() + HEAD_BYTES] ^= 1;
        std::fs::write(folder.path().join(FILE), &bytes).unwrap();
        assert!(ChunkJournal::open(folder.path(), "p").is_err());
        std::fs::write(folder.path().join(FILE), b"something else").unwrap();
        assert!(ChunkJournal::open(folder.path(), "p").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = MAGIC.to_vec();
            file.extend(bytes);
            let _ = read(&file);
        }
    }
}
