//! A folder that one writer at a time works in.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a run waits for the one before it in this process to let go: that ends with what it is writing.
const LIMIT: Duration = Duration::from_secs(10);

/// The lock on a folder, a file `lock` in it. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks a folder that is there. Blocks, for seconds where somebody else holds it.
    ///
    /// # Errors
    /// The file can't be made, or somebody else still holds the lock; `what` says of what.
    pub(crate) fn acquire(folder: &Path, what: &str) -> Result<Self> {
        let path = folder.join("lock");
        let failed = |why: String| Error::definite(None, path.display().to_string(), why);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| failed(format!("can't lock {what} ({error})")))?;
        let since = Instant::now();
        loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(_) if since.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return Err(failed(format!("another process writes {what}; stop it first"))),
            }
        }
    }
}
