//! Prepared XA transactions, each in a file of its own beside the segments. This comment is their specification.
//!
//! Whether a prepared transaction is ever committed is said by a group of its own, maybe hours later, and a segment must not
//! wait for that. So what is kept of it waits here, and goes into the spool with its XA COMMIT: an XA transaction is applied
//! where it was committed. What it locks on the source keeps every transaction and every definition that would meet it out of
//! the stream in between.
//!
//! | name | what it is |
//! |---|---|
//! | `xa-0000000001.tmp` | being made; a crash left it, and it is fetched again |
//! | `xa-0000000001.prepared` | prepared, and neither committed nor rolled back |
//! | `xa-0000000001.as-42` | transaction 42 of the spool is its end. Where the spool has no such transaction, a crash came between: it is prepared as before. Where it has, the file is of no use any more |
//!
//! A file may be durable before what was appended in front of it. So it says which transaction of the spool prepared it, and
//! where the spool hasn't that one, it is removed: it comes again, and behind whatever else comes again, maybe the end of
//! another one of the same name. Of two that are left with one name the one with the higher number is right. A file begins with the eight bytes `CHGXAPRE`. Records follow, as the spool has them
//! (`format.rs`):
//!
//! | kind | name | payload |
//! |---|---|---|
//! | 2 | events | as in the spool, but for the end position, which is put right when they go there |
//! | 8 | prepared | u32 version (1), u32 format, string global transaction, string branch, u64 bytes of all events, u64 seq of the transaction that prepared it |
//!
//! The last one is `prepared`, and nothing stands behind it. A file has its name only when it is whole and durable, so one that
//! isn't whole is damaged; nothing of it is applied.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use config::failpoint;
use tokio::sync::oneshot;

use super::format::{
    RECORD_BYTES_MAX, RECORD_HEAD_BYTES, kind, read_bytes, read_record_head, write_record, write_string,
};
use super::segment::{damaged, io_error, sync_dir};
use crate::binlog::cursor::{Cursor, Malformed};
use crate::binlog::xid::Xid;
use crate::error::Result;

const MAGIC: &[u8; 8] = b"CHGXAPRE";
const VERSION: u32 = 1;
const PREFIX: &str = "xa-";
const PREPARED: &str = "prepared";

/// One of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParkedFile {
    pub(super) number: u64,
    /// Bytes of it.
    pub(super) bytes: u64,
    /// It holds changes for this migration.
    pub(super) is_ours: bool,
}

/// Which files there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parked {
    /// Neither committed nor rolled back.
    pub(super) prepared: HashMap<Xid, ParkedFile>,
    /// Ended by this transaction of the spool, which isn't known to be durable.
    pub(super) taken: Vec<(u64, ParkedFile)>,
    /// Bytes of all of them, and of one that is being made.
    pub(super) bytes: u64,
    /// The next file's.
    pub(super) next_number: u64,
}

impl Parked {
    /// A file is gone, or about to be.
    pub(super) fn forget(&mut self, file: &ParkedFile) {
        self.bytes = self.bytes.saturating_sub(file.bytes);
    }
}

/// What the spool's thread does to these files, in the order in which it appends: a file is durable before what says that it was
/// prepared, and has its last name before what it becomes.
#[derive(Debug)]
pub(super) enum Action {
    /// Append to the file that is being made; the first piece makes it.
    Write { number: u64, bytes: Vec<u8> },
    /// It is whole.
    Finish { number: u64 },
    /// It will never be whole.
    Discard { number: u64 },
    /// This transaction of the spool is its end.
    Take { number: u64, seq: u64 },
    /// It is of no use any more.
    Remove { number: u64, taken: Option<u64> },
    /// Everything before this is done.
    Reached(oneshot::Sender<()>),
}

/// The thread's side.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The file that is being made.
    open: Option<File>,
}

impl Files {
    pub(super) fn execute(&mut self, dir: &Path, action: Action) -> Result<()> {
        match action {
            Action::Write { number, bytes } => {
                use io::Write as _;
                let path = temporary(dir, number);
                let failed = |error: io::Error| io_error(&path, "write a prepared transaction", &error);
                if self.open.is_none() {
                    self.open = Some(File::create(&path).map_err(failed)?);
                }
                if let Some(file) = &mut self.open {
                    file.write_all(&bytes).map_err(failed)?;
                }
                Ok(())
            }
            Action::Finish { number } => {
                let path = temporary(dir, number);
                let failed = |error: io::Error| io_error(&path, "write a prepared transaction", &error);
                if let Some(file) = self.open.take() {
                    file.sync_all().map_err(failed)?;
                }
                failpoint::hit("spool.xa.before");
                rename(dir, &path, &prepared(dir, number))?;
                failpoint::hit("spool.xa.parked");
                Ok(())
            }
            Action::Discard { number } => {
                self.open = None;
                remove(&temporary(dir, number))
            }
            Action::Take { number, seq } => {
                rename(dir, &prepared(dir, number), &taken(dir, number, seq))?;
                failpoint::hit("spool.xa.taken");
                Ok(())
            }
            Action::Remove { number, taken: None } => remove(&prepared(dir, number)),
            Action::Remove { number, taken: Some(seq) } => {
                failpoint::hit("spool.xa.ended");
                remove(&taken(dir, number, seq))?;
                failpoint::hit("spool.xa.removed");
                Ok(())
            }
            Action::Reached(whom) => {
                // Nobody may be waiting any more.
                let _ = whom.send(());
                Ok(())
            }
        }
    }
}

fn temporary(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:010}.tmp"))
}

/// Where a prepared transaction is.
pub(super) fn prepared(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:010}.{PREPARED}"))
}

fn taken(dir: &Path, number: u64, seq: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:010}.as-{seq}"))
}

fn rename(dir: &Path, from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| io_error(to, "name a prepared transaction", &error))?;
    sync_dir(dir)
}

/// Where a crash brings it back it is removed again.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(path, "remove a prepared transaction that has ended", &error))
        }
        _ => Ok(()),
    }
}

/// Looks at the files of a spool whose next transaction is `next_seq`, and puts right what a crash left. Behind
/// `segment::list_segments`, which removes what was being made.
pub(super) fn open(dir: &Path, next_seq: u64) -> Result<Parked> {
    let failed = |error: io::Error| io_error(dir, "read the folder", &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = name.strip_prefix(PREFIX) {
            let what = parse_name(name)
                .ok_or_else(|| damaged(&path, "its name isn't one of a prepared transaction"))?;
            found.push(what);
        }
    }
    found.sort_unstable();
    let mut parked = Parked { next_number: 1, ..Parked::default() };
    for (number, seq) in found {
        parked.next_number = number + 1;
        match seq {
            Some(seq) if seq < next_seq => {
                remove(&taken(dir, number, seq))?;
                continue;
            }
            Some(seq) => {
                rename(dir, &taken(dir, number, seq), &prepared(dir, number))?;
                failpoint::hit("spool.xa.put_back");
            }
            None => {}
        }
        let path = prepared(dir, number);
        let (Ended { xid, prepared_by, .. }, bytes, is_ours) = look(&path)?;
        if prepared_by >= next_seq {
            remove(&path)?;
            continue;
        }
        parked.bytes += bytes;
        if let Some(older) = parked.prepared.insert(xid, ParkedFile { number, bytes, is_ours }) {
            parked.forget(&older);
            remove(&prepared(dir, older.number))?;
        }
    }
    Ok(parked)
}

/// Number, and transaction of the spool; `name` is what stands behind the prefix.
fn parse_name(name: &str) -> Option<(u64, Option<u64>)> {
    let (number, what) = name.split_once('.')?;
    let seq = match what {
        PREPARED => None,
        what => Some(what.strip_prefix("as-")?.parse().ok()?),
    };
    Some((number.parse().ok()?, seq))
}

/// What a file says of itself, its length, and whether there is anything in it. Its events are looked at when they are needed.
fn look(path: &Path) -> Result<(Ended, u64, bool)> {
    let mut reader = ParkedReader::open(path, None)?;
    let bytes = reader.left + MAGIC.len() as u64;
    loop {
        match reader.step(false)? {
            Some(Part::Events(_)) => {}
            Some(Part::End(end)) => return Ok((end, bytes, reader.event_bytes > 0)),
            None => return Err(reader.broken()),
        }
    }
}

/// What a file begins with.
pub(super) fn head() -> Vec<u8> {
    MAGIC.to_vec()
}

/// The record that ends a file.
pub(super) fn write_end(out: &mut Vec<u8>, ended: &Ended) {
    let Ended { xid, event_bytes, prepared_by } = ended;
    write_record(out, kind::PREPARED, |out| {
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&xid.format.to_le_bytes());
        write_string(out, &xid.global);
        write_string(out, &xid.branch);
        out.extend_from_slice(&event_bytes.to_le_bytes());
        out.extend_from_slice(&prepared_by.to_le_bytes());
    });
}

fn read_end(cursor: &mut Cursor<'_>) -> std::result::Result<Ended, Malformed> {
    if cursor.u32()? != VERSION {
        return Err(Malformed::new("it was written by another version of Changeover"));
    }
    let (format, global, branch) = (cursor.u32()?, read_bytes(cursor)?, read_bytes(cursor)?);
    let (event_bytes, prepared_by) = (cursor.u64()?, cursor.u64()?);
    if !cursor.is_empty() {
        return Err(Malformed::new("a record is longer than it should be"));
    }
    Ok(Ended { xid: Xid::new(format, &global, &branch)?, event_bytes, prepared_by })
}

/// What the last record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) xid: Xid,
    pub(super) event_bytes: u64,
    /// The transaction of the spool that prepared it.
    pub(super) prepared_by: u64,
}

/// A part of a file.
#[derive(Debug)]
enum Part {
    Events(Bytes),
    End(Ended),
}

/// Reads a file, one record after the other, with bounded memory.
#[derive(Debug)]
pub(super) struct ParkedReader {
    file: io::BufReader<File>,
    path: PathBuf,
    /// Bytes of the file that weren't read.
    left: u64,
    event_bytes: u64,
    /// What it has to be called.
    wanted: Option<Xid>,
    ended: bool,
}

impl ParkedReader {
    pub(super) fn open(path: &Path, wanted: Option<Xid>) -> Result<Self> {
        let open = || -> io::Result<_> {
            let file = OpenOptions::new().read(true).open(path)?;
            let length = file.metadata()?.len();
            let mut file = io::BufReader::with_capacity(256 * 1024, file);
            let mut magic = [0; MAGIC.len()];
            let whole = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
            Ok((file, length, whole))
        };
        let (file, length, whole) =
            open().map_err(|error| io_error(path, "read a prepared transaction", &error))?;
        let left = length.saturating_sub(MAGIC.len() as u64);
        let reader = Self { file, path: path.to_owned(), left, event_bytes: 0, wanted, ended: false };
        if whole { Ok(reader) } else { Err(reader.broken()) }
    }

    /// The next events; `None` behind the last ones, once it is sure that these were all.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.step(true)? {
            Some(Part::Events(events)) => Ok(Some(events)),
            Some(Part::End(end)) if self.wanted.as_ref().is_none_or(|wanted| *wanted == end.xid) => {
                self.ended = true;
                Ok(None)
            }
            _ => Err(self.broken()),
        }
    }

    fn broken(&self) -> crate::error::Error {
        damaged(&self.path, "a prepared transaction isn't what was written")
    }

    /// The next record; `None` where there is no whole one. `check`: events too are held against their CRC.
    fn step(&mut self, check: bool) -> Result<Option<Part>> {
        let failed = |path: &Path, error: io::Error| io_error(path, "read a prepared transaction", &error);
        let mut head = [0; RECORD_HEAD_BYTES + 1];
        if self.left < head.len() as u64 {
            return Ok(None);
        }
        self.file.read_exact(&mut head).map_err(|error| failed(&self.path, error))?;
        let (Some(lengths), Some(&of)) = (head.first_chunk::<RECORD_HEAD_BYTES>(), head.last()) else {
            return Ok(None);
        };
        let (length, crc) = read_record_head(lengths);
        let record_bytes = (RECORD_HEAD_BYTES + length) as u64;
        if length == 0 || length > RECORD_BYTES_MAX || record_bytes > self.left {
            return Ok(None);
        }
        self.left -= record_bytes;
        if of == kind::EVENTS && !check {
            let skipped = i64::try_from(length - 1).unwrap_or(i64::MAX);
            self.file.seek_relative(skipped).map_err(|error| failed(&self.path, error))?;
            self.event_bytes += length as u64 - 1;
            return Ok(Some(Part::Events(Bytes::new())));
        }
        let mut body = vec![0; length];
        let (first, rest) = body.split_at_mut(1);
        first.fill(of);
        self.file.read_exact(rest).map_err(|error| failed(&self.path, error))?;
        if crc32fast::hash(&body) != crc {
            return Ok(None);
        }
        match of {
            kind::EVENTS => {
                self.event_bytes += length as u64 - 1;
                Ok(Some(Part::Events(Bytes::from(body).slice(1..))))
            }
            kind::PREPARED => {
                let mut cursor = Cursor::new(rest_of(&body));
                let end = read_end(&mut cursor).map_err(|why| damaged(&self.path, &why.to_string()))?;
                Ok((self.left == 0 && end.event_bytes == self.event_bytes).then_some(Part::End(end)))
            }
            _ => Ok(None),
        }
    }
}

fn rest_of(body: &[u8]) -> &[u8] {
    body.get(1..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn xid(name: &[u8]) -> Xid {
        Xid::new(1, name, b"").unwrap()
    }

    fn ended(xid: &Xid, blocks: &[Vec<u8>], prepared_by: u64) -> Ended {
        let event_bytes = blocks.iter().map(|block| block.len() as u64).sum();
        Ended { xid: xid.clone(), event_bytes, prepared_by }
    }

    fn written(xid: &Xid, blocks: &[Vec<u8>], prepared_by: u64) -> Vec<u8> {
        let mut out = head();
        for block in blocks {
            write_record(&mut out, kind::EVENTS, |out| out.extend_from_slice(block));
        }
        write_end(&mut out, &ended(xid, blocks, prepared_by));
        out
    }

    fn read(path: &Path, wanted: &Xid) -> Result<Vec<Vec<u8>>> {
        let mut reader = ParkedReader::open(path, Some(wanted.clone()))?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next()? {
            blocks.push(block.to_vec());
        }
        Ok(blocks)
    }

    #[test]
    fn what_a_crash_left_is_put_right() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let put = |path: PathBuf, name: &[u8], by: u64| {
            fs::write(path, written(&xid(name), &[vec![1; 9]], by)).unwrap();
        };
        put(prepared(dir, 1), b"waits", 1);
        put(taken(dir, 2, 7), b"is in the spool", 2);
        put(taken(dir, 3, 8), b"isn't", 3);
        put(prepared(dir, 4), b"twice", 4);
        put(prepared(dir, 5), b"twice", 5);
        // What comes again, behind an end of the same name that comes again too.
        put(prepared(dir, 6), b"isn't", 9);
        put(taken(dir, 7, 10), b"comes again", 8);
        let parked = open(dir, 8).unwrap();
        let numbers = |parked: &Parked| {
            let mut numbers: Vec<u64> = parked.prepared.values().map(|file| file.number).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(&parked), [1, 3, 5]);
        assert_eq!(parked.next_number, 8);
        assert_eq!(parked.prepared[&xid(b"twice")].number, 5);
        let bytes: u64 = fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(parked.bytes, bytes);
        let again = open(dir, 8).unwrap();
        assert_eq!((again.prepared, again.bytes), (parked.prepared, parked.bytes), "again it is the same");
        fs::write(dir.join("xa-what.ever"), "").unwrap();
        assert!(open(dir, 8).is_err());
    }

    proptest! {
        #[test]
        fn a_file_is_read_whole_or_refused(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5),
            cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
            more in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = prepared(dir.path(), 1);
            let whole = written(&xid(b"x"), &blocks, 3);
            fs::write(&path, &whole).unwrap();
            prop_assert_eq!(&read(&path, &xid(b"x")).unwrap(), &blocks);
            let any = blocks.iter().any(|block| !block.is_empty());
            prop_assert_eq!(look(&path).unwrap(), (ended(&xid(b"x"), &blocks, 3), whole.len() as u64, any));
            prop_assert!(read(&path, &xid(b"y")).is_err());
            let mut garbled = whole.clone();
            garbled[at.index(whole.len())] ^= flip;
            for broken in [whole[..cut.index(whole.len())].to_vec(), garbled, [whole.clone(), more].concat()] {
                fs::write(&path, &broken).unwrap();
                prop_assert!(read(&path, &xid(b"x")).is_err());
                drop(look(&path));
            }
        }
    }
}
