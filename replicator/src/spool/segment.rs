//! Segment files: their names, and reading one record after the other.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{Header, MAGIC, RECORD_BYTES_MAX, RECORD_HEAD_BYTES, Record, read_record_head};
use crate::error::{Error, Result};

const EXTENSION: &str = "spool";

/// Path of a segment.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.{EXTENSION}"))
}

/// Numbers of the segments in a folder, ascending. Removes files that a crash left half made.
pub(super) fn list_segments(dir: &Path) -> Result<Vec<u64>> {
    let failed = |error: io::Error| io_error(dir, "read the folder", &error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some(EXTENSION) => {
                let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
                numbers.push(number.ok_or_else(|| damaged(&path, "its name isn't one of a spool segment"))?);
            }
            Some("tmp") => fs::remove_file(&path).map_err(failed)?,
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|f| f.sync_all()).map_err(|error| io_error(dir, "sync the folder", &error))
}

/// Reads the header of a segment.
pub(super) fn read_header(dir: &Path, number: u64) -> Result<Header> {
    let mut records = Records::open(&segment_path(dir, number))?;
    match records.next()? {
        Some(Record::Header(header)) if header.number == number => Ok(header),
        _ => Err(damaged(records.path(), "it doesn't begin with its header")),
    }
}

/// An input or output error of the spool, with what to do about it.
pub(super) fn io_error(path: &Path, what: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, then RESUME MIGRATION"
        }
        _ => "; put that right, then RESUME MIGRATION",
    };
    Error::definite(None, path.display().to_string(), format!("can't {what} ({error}){advice}"))
}

/// Damage that isn't the tail a crash leaves.
pub(super) fn damaged(path: &Path, what: &str) -> Error {
    Error::definite(
        None,
        path.display().to_string(),
        format!(
            "the spool is damaged: {what}. What is in it can't be trusted: check the disk, then begin \
             again with an empty state_dir and an empty target"
        ),
    )
}

/// Reads the records of one segment in order, with bounded memory.
#[derive(Debug)]
pub(super) struct Records {
    file: io::BufReader<File>,
    path: PathBuf,
    offset: u64,
    length: u64,
}

impl Records {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<_> {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            let mut file = io::BufReader::with_capacity(256 * 1024, file);
            let mut magic = [0; MAGIC.len()];
            let whole = file.read_exact(&mut magic).is_ok();
            Ok((file, length, whole && magic == *MAGIC))
        };
        let (file, length, right) = open().map_err(|error| io_error(path, "read the spool", &error))?;
        if !right {
            return Err(damaged(path, "it doesn't begin as a segment does"));
        }
        Ok(Self { file, path: path.to_owned(), offset: MAGIC.len() as u64, length })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Offset behind the last record.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` where there is no whole one. A whole record that says nonsense is an error.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let mut head = [0; RECORD_HEAD_BYTES];
        let left = self.length - self.offset;
        if left < RECORD_HEAD_BYTES as u64 {
            return Ok(None);
        }
        let failed = |path: &Path, error: io::Error| io_error(path, "read the spool", &error);
        self.file.read_exact(&mut head).map_err(|error| failed(&self.path, error))?;
        let (length, crc) = read_record_head(&head);
        if length == 0 || length > RECORD_BYTES_MAX || length as u64 > left - RECORD_HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut body = vec![0; length];
        self.file.read_exact(&mut body).map_err(|error| failed(&self.path, error))?;
        if crc32fast::hash(&body) != crc {
            return Ok(None);
        }
        self.offset += (RECORD_HEAD_BYTES + length) as u64;
        Record::parse(&body.into()).map(Some).map_err(|why| damaged(&self.path, &why.to_string()))
    }
}

/// Reads the record that ends the transaction whose records go on at `offset`, looking at nothing between.
pub(super) fn find_end(file: &File, path: &Path, mut offset: u64) -> Result<Record> {
    let failed = |error: io::Error| io_error(path, "read the spool", &error);
    loop {
        let mut head = [0; RECORD_HEAD_BYTES + 1];
        file.read_exact_at(&mut head, offset).map_err(failed)?;
        let (Some(lengths), Some(kind)) = (head.first_chunk::<RECORD_HEAD_BYTES>(), head.last()) else {
            return Err(damaged(path, "a transaction has no end"));
        };
        let (length, crc) = read_record_head(lengths);
        if *kind == super::format::kind::EVENTS && length <= RECORD_BYTES_MAX {
            offset += (RECORD_HEAD_BYTES + length) as u64;
            continue;
        }
        if *kind == super::format::kind::END && length < 4096 {
            let mut body = vec![0; length];
            file.read_exact_at(&mut body, offset + RECORD_HEAD_BYTES as u64).map_err(failed)?;
            if crc32fast::hash(&body) == crc {
                return Record::parse(&Bytes::from(body)).map_err(|why| damaged(path, &why.to_string()));
            }
        }
        return Err(damaged(path, "a transaction has no end"));
    }
}
