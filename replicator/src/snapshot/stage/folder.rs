//! The folder of the staged parts of one migration, `MIGRATION` in `snapshot.stage_dir`, and what an earlier run has left in it.
//!
//! A part is `NUMBER.rows`, numbered as they come. It has that name only once all of it is on the disk; before, it is `NUMBER.new`. Files
//! of other names are somebody else's: they are neither read nor removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use config::durable::{self, is_full};
use config::{StageConfig, TableName, failpoint};

use super::super::encode::Form;
use super::super::journal::Chunks;
use super::part::{Description, PartWriter, Unusable, read_description};
use crate::error::{Error, Result};
use crate::folder_lock::FolderLock;
use crate::value::Value;

/// The folder, which nobody else writes to while this is held.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    _lock: FolderLock,
    /// The number of the next part.
    next: AtomicU64,
}

/// A part that an earlier run has left, and that fits.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) description: Description,
    /// Bytes of the file.
    pub(super) bytes: u64,
}

/// How far chunks are staged by parts that were found.
pub(in super::super) type StagedTo = BTreeMap<(TableName, u64), Staged>;

/// How far a chunk is staged.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Staged {
    /// All of it that isn't on the target.
    Whole,
    /// Up to this key.
    Upto(Vec<Value>),
}

impl Folder {
    /// Makes the folder, mode 0700, and locks it.
    pub(super) fn open(stage: &StageConfig, migration: &str) -> Result<Self> {
        let dir = stage.dir.join(migration);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| io_error(&dir, "make the folder", &error))?;
        let lock = FolderLock::acquire(&dir, "this stage_dir")?;
        let numbers = files(&dir)?.into_iter().map(|(number, _)| number);
        let next = numbers.max().map_or(1, |last| last.saturating_add(1));
        Ok(Self { dir, _lock: lock, next: AtomicU64::new(next) })
    }

    /// Removes whatever an earlier migration of this name has left; there may be no folder.
    pub(super) fn discard(stage: &StageConfig, migration: &str) -> Result<()> {
        if !stage.dir.join(migration).exists() {
            return Ok(());
        }
        Self::open(stage, migration)?.remove_all()
    }

    /// Begins a part under a name that says that it isn't whole.
    pub(super) fn begin_part(&self) -> (PathBuf, io::Result<PartWriter>) {
        let path = self.dir.join(format!("{:012}.new", self.next.fetch_add(1, Ordering::Relaxed)));
        let writer = PartWriter::create(&path);
        (path, writer)
    }

    /// Ends a part, durably, and gives it its name. Returns that and the bytes of the file. Blocks.
    pub(super) fn end_part(
        &self,
        path: &Path,
        writer: PartWriter,
        description: &Description,
    ) -> io::Result<(PathBuf, u64)> {
        let bytes = writer.finish(description)?;
        failpoint::hit("snapshot.stage.before");
        let whole = path.with_extension("rows");
        fs::rename(path, &whole)?;
        durable::sync_folder(&self.dir)?;
        failpoint::hit("snapshot.stage.written");
        Ok((whole, bytes))
    }

    /// The parts that an earlier run has left and that go on where the journal ends, in the order of their chunks; all others are
    /// removed, and what was in them is read again. Blocks.
    ///
    /// `shape`: how rows of a table are read and loaded now in a form; `None`: it isn't copied in chunks, or not in that form.
    pub(super) fn recover(
        &self,
        start: &str,
        chunks: &Chunks,
        shape: impl Fn(&TableName, Form) -> Option<String>,
    ) -> Result<(Vec<Found>, StagedTo)> {
        let mut by_chunk: BTreeMap<(TableName, u64), Vec<Found>> = BTreeMap::new();
        for (_, path) in files(&self.dir)? {
            let described = match path.extension().is_some_and(|extension| extension == "rows") {
                true => read_description(&path),
                // Whoever wrote it has died over it.
                false => Err(Unusable::Damaged("")),
            };
            match described {
                Ok((part, bytes))
                    if part.start == start && shape(&part.table, part.form).as_ref() == Some(&part.shape) =>
                {
                    let of = by_chunk.entry((part.table.clone(), part.chunk)).or_default();
                    of.push(Found { path, description: part, bytes });
                }
                Ok(_) => remove(&path, "it belongs to another copy")?,
                Err(Unusable::Damaged("")) => remove(&path, "")?,
                Err(Unusable::Damaged(why)) => remove(&path, why)?,
                Err(Unusable::Io(error)) => return Err(io_error(&path, "read a staged file", &error)),
            }
        }
        let (mut found, mut staged_to) = (Vec::new(), StagedTo::new());
        for (chunk, parts) in by_chunk {
            let (fitting, others, staged) = follow(parts, begin_of(chunks, &chunk));
            found.extend(fitting);
            staged_to.extend(staged.map(|staged| (chunk, staged)));
            // One that is loaded stays where the process died before it was removed.
            others.iter().try_for_each(|part| remove(&part.path, ""))?;
        }
        Ok((found, staged_to))
    }

    /// The copy is over.
    pub(super) fn remove_all(self) -> Result<()> {
        for (_, path) in files(&self.dir)? {
            remove(&path, "")?;
        }
        // Both stay where somebody else has put something in.
        drop(fs::remove_file(self.dir.join("lock")).and_then(|()| fs::remove_dir(&self.dir)));
        Ok(())
    }
}

/// Where a chunk goes on that the journal knows and that isn't all on the target, and where it ends.
type Open<'a> = (Option<&'a Vec<Value>>, Option<&'a Vec<Value>>);

fn begin_of<'a>(chunks: &'a Chunks, (table, number): &(TableName, u64)) -> Option<Open<'a>> {
    let chunks = chunks.get(table)?;
    let number = usize::try_from(*number).ok()?;
    let chunk = chunks.get(number).filter(|chunk| !chunk.done)?;
    let before = number.checked_sub(1).and_then(|before| chunks.get(before));
    let begin = chunk.copied_to.as_ref().or_else(|| before.and_then(|before| before.upto.as_ref()));
    Some((begin, chunk.upto.as_ref()))
}

/// Those of a chunk's parts that follow one another from where the chunk goes on, the others, and how far the first get.
fn follow(parts: Vec<Found>, open: Option<Open<'_>>) -> (Vec<Found>, Vec<Found>, Option<Staged>) {
    let Some((begin, chunk_upto)) = open else { return (Vec::new(), parts, None) };
    let (mut fitting, mut others, mut staged) = (Vec::new(), Vec::new(), None);
    let mut at = begin.cloned();
    for found in parts {
        let part = &found.description;
        let fits =
            part.after == at && part.chunk_upto.as_ref() == chunk_upto && staged != Some(Staged::Whole);
        // The chunk ends with its last part; each one before that ends with a key.
        let to = match (part.is_last, &part.upto) {
            (true, upto) if upto.as_ref() == chunk_upto => Some(Staged::Whole),
            (false, Some(key)) => Some(Staged::Upto(key.clone())),
            _ => None,
        };
        match to.filter(|_| fits) {
            Some(to) => {
                at.clone_from(&part.upto);
                staged = Some(to);
                fitting.push(found);
            }
            None => others.push(found),
        }
    }
    (fitting, others, staged)
}

/// Parts and what was to become one, by number.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |error: io::Error| io_error(dir, "read the folder", &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "rows" || extension == "new");
        let number = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| stem.len() == 12);
        if let Some(number) = number.and_then(|stem| stem.parse().ok()).filter(|_| is_ours) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Removes a part; `why` for those that should have been of use. It needn't be durable: one that comes back follows nothing.
pub(super) fn remove(path: &Path, why: &str) -> Result<()> {
    if !why.is_empty() {
        tracing::warn!(
            area = "snapshot",
            "the staged file {} isn't loaded: {why}; what it was to hold is read again",
            path.display()
        );
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(path, "remove a staged file", &error)),
    }
    failpoint::hit("snapshot.stage.removed");
    Ok(())
}

/// An error of the folder, with what to do about it.
pub(super) fn io_error(path: &Path, what: &str, error: &io::Error) -> Error {
    let advice = match is_full(error) {
        true => {
            "; make room there, or lower snapshot.stage_max_gb and start Changeover again, then RESUME MIGRATION"
        }
        false => {
            "; put that right, or take snapshot.stage_dir out and start Changeover again, then RESUME MIGRATION"
        }
    };
    Error::pause(None, path.display().to_string(), format!("can't {what} ({error}){advice}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::journal::JournalledChunk;
    use super::*;

    const START: &str = "0-1-5";

    fn table() -> TableName {
        TableName::new("s", "t")
    }

    fn key(number: i64) -> Option<Vec<Value>> {
        Some(vec![Value::Int(number)])
    }

    /// A part of chunk 1, which goes from 10 to 20.
    fn part(after: i64, upto: i64) -> Description {
        Description {
            start: START.to_owned(),
            shape: "shape".to_owned(),
            form: Form::LoadData,
            table: table(),
            chunk: 1,
            chunk_upto: key(20),
            after: key(after),
            upto: key(upto),
            is_last: upto == 20,
            rows: 1,
            bytes: 1,
        }
    }

    fn put(folder: &Folder, description: &Description) -> PathBuf {
        let (path, writer) = folder.begin_part();
        let mut writer = writer.unwrap();
        writer.batch(Form::LoadData, 1, b"x").unwrap();
        folder.end_part(&path, writer, description).unwrap().0
    }

    fn chunks(copied_to: Option<i64>, done: bool) -> Chunks {
        let chunk = |upto, done, copied_to| JournalledChunk { upto, done, rows: 0, copied_to };
        let of = vec![
            chunk(key(10), true, None),
            chunk(key(20), done, copied_to.and_then(key)),
            chunk(None, false, None),
        ];
        [(table(), of)].into_iter().collect()
    }

    /// Puts these parts, recovers, and returns what is of use by its bounds, how far that gets, and how many files are left.
    fn recovered(parts: &[Description], chunks: &Chunks) -> (Vec<(i64, i64)>, Option<Staged>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let stage = StageConfig { dir: dir.path().to_owned(), bytes_max: 1 << 30 };
        let folder = Folder::open(&stage, "shop").unwrap();
        for description in parts {
            put(&folder, description);
        }
        let (found, staged) =
            folder.recover(START, chunks, |name, _| (*name == table()).then(|| "shape".to_owned())).unwrap();
        let int = |bound: &Option<Vec<Value>>| match bound.as_deref() {
            Some([Value::Int(number)]) => *number,
            _ => 0,
        };
        let found = found.iter().map(|part| (int(&part.description.after), int(&part.description.upto)));
        let left = files(&dir.path().join("shop")).unwrap().len();
        (found.collect(), staged.get(&(table(), 1)).cloned(), left)
    }

    #[test]
    fn parts_go_on_where_the_journal_ends() {
        let all = [part(10, 13), part(13, 17), part(17, 20)];
        let check = |parts: &[Description], copied_to, expected: &[(i64, i64)], staged: Option<Staged>| {
            let found = recovered(parts, &chunks(copied_to, false));
            assert_eq!(found, (expected.to_vec(), staged, expected.len()), "{copied_to:?}");
        };
        let upto = |number| key(number).map(Staged::Upto);
        check(&all, None, &[(10, 13), (13, 17), (17, 20)], Some(Staged::Whole));
        check(&all, Some(13), &[(13, 17), (17, 20)], Some(Staged::Whole));
        check(&all[..2], None, &[(10, 13), (13, 17)], upto(17));
        check(&[all[0].clone(), all[2].clone()], None, &[(10, 13)], upto(13));
        check(&all[1..], None, &[], None);
        check(&[], None, &[], None);
    }

    #[test]
    fn what_is_of_another_copy_or_chunk_is_of_no_use() {
        let check = |change: &dyn Fn(&mut Description), why: &str| {
            let mut other = part(10, 20);
            change(&mut other);
            assert_eq!(recovered(&[other], &chunks(None, false)), (vec![], None, 0), "{why}");
        };
        check(&|part| part.start = "0-1-6".to_owned(), "another start position");
        check(&|part| part.shape = "another".to_owned(), "read otherwise");
        check(&|part| part.table = TableName::new("s", "u"), "a table that isn't copied");
        check(&|part| part.chunk = 9, "a chunk that the journal has forgotten");
        check(&|part| part.chunk = 0, "one that is on the target");
        check(&|part| part.chunk_upto = key(30), "one that was cut anew");
        check(
            &|part| (part.upto, part.is_last) = (key(15), true),
            "a last one that doesn't end with its chunk",
        );
        check(&|part| (part.upto, part.is_last) = (None, false), "one before the last that has no end");
        assert_eq!(recovered(&[part(10, 20)], &chunks(None, true)), (vec![], None, 0), "it is done");
        let twice = recovered(&[part(10, 20), part(10, 20)], &chunks(None, false));
        assert_eq!(twice, (vec![(10, 20)], Some(Staged::Whole), 1));
    }

    #[test]
    fn files_of_others_stay_and_half_parts_go() {
        let dir = tempfile::tempdir().unwrap();
        let stage = StageConfig { dir: dir.path().to_owned(), bytes_max: 1 << 30 };
        let folder = Folder::open(&stage, "shop").unwrap();
        let at = |name: &str| dir.path().join("shop").join(name);
        let first = put(&folder, &part(10, 13));
        assert_eq!(first, at("000000000001.rows"));
        for name in ["notes.txt", "1.rows", "backup.rows", "000000000007.new", "000000000008.rows"] {
            fs::write(at(name), "not a part").unwrap();
        }
        drop(folder);
        let folder = Folder::open(&stage, "shop").unwrap();
        let (found, _) =
            folder.recover(START, &chunks(None, false), |_, _| Some("shape".to_owned())).unwrap();
        assert_eq!(found.len(), 1);
        assert!(!at("000000000007.new").exists() && !at("000000000008.rows").exists());
        assert_eq!(put(&folder, &part(13, 20)), at("000000000009.rows"));
        folder.remove_all().unwrap();
        assert!(!first.exists());
        for name in ["notes.txt", "1.rows", "backup.rows"] {
            assert!(at(name).exists(), "{name}");
            fs::remove_file(at(name)).unwrap();
        }
        Folder::discard(&stage, "shop").unwrap();
        assert!(!at("").exists());
        Folder::discard(&stage, "shop").unwrap();
    }
}
