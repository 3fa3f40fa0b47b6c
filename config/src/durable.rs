//! Small files that must survive a crash whole: a versioned, checksummed header line, then the body.
//!
//! ```text
//! changeover NAME VERSION CRC32\n      CRC32: of the body, eight hexadecimal digits
//! body …
//! ```
//!
//! A file is replaced by write, fsync, rename, fsync of the folder: after a crash the old one or the new one is
//! there, never a mixture.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failpoint;

/// A durable file that can't be used. It is never repaired by guessing (invariant 5).
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The system refused.
    #[error("{}: {error}; {}", path.display(), remedy(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file isn't what was written.
    #[error("{} is damaged ({reason}); restore it from a backup, or start over with an empty state_dir", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        reason: String,
    },
}

/// True where the disk has no room.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What an operator does about what the system said of a file of ours.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match is_full(error) {
        true => "make room on that disk, then try again (RESUME MIGRATION, where the migration has stopped)",
        false => "put that right, then try again (RESUME MIGRATION, where the migration has stopped)",
    }
}

/// Replaces `path` by `bytes` as they are, mode 0600.
///
/// # Errors
/// The system refused; then the old file is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    let io = |error| DurableError::Io { path: path.to_owned(), error };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    failpoint::hit_file(path, "before");
    fs::rename(&temporary, path).map_err(io)?;
    sync_folder(folder).map_err(io)?;
    failpoint::hit_file(path, "written");
    Ok(())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The system refused.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Replaces `path` by a header of `name` and `version`, and `body`.
///
/// # Errors
/// As [`replace`].
pub fn write(path: &Path, name: &str, version: u32, body: &[u8]) -> Result<(), DurableError> {
    let mut bytes = format!("changeover {name} {version} {:08x}\n", crc32fast::hash(body)).into_bytes();
    bytes.extend_from_slice(body);
    replace(path, &bytes)
}

/// Reads what [`write`] wrote. `None`: there is no such file.
///
/// # Errors
/// The system refused, the file is damaged, or it is of another version.
pub fn read(path: &Path, name: &str, version: u32) -> Result<Option<Vec<u8>>, DurableError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DurableError::Io { path: path.to_owned(), error }),
    };
    let damaged = |reason: String| DurableError::Damaged { path: path.to_owned(), reason };
    let end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| damaged("it has no header".to_owned()))?;
    let (header, body) = bytes.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let expected = format!("changeover {name} {version} {:08x}", crc32fast::hash(body));
    if header != expected.as_bytes() {
        return Err(damaged(format!("its header isn't `{expected}`")));
    }
    Ok(Some(body.to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("migration.json");
        assert!(read(&path, "thing", 1).unwrap().is_none());
        write(&path, "thing", 1, b"one\ntwo").unwrap();
        assert_eq!(read(&path, "thing", 1).unwrap().unwrap(), b"one\ntwo");
        assert!(matches!(read(&path, "thing", 2), Err(DurableError::Damaged { .. })));
        for at in 0..fs::read(&path).unwrap().len() {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            let broken = folder.path().join("broken");
            fs::write(&broken, bytes).unwrap();
            assert!(matches!(read(&broken, "thing", 1), Err(DurableError::Damaged { .. })), "byte {at}");
        }
    }
}
