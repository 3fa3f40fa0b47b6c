//! The folder of everything that must survive, held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// The lock on a state_dir. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateDirLock {
    _file: File,
}

/// Makes the folder (mode 0700: the spool holds rows and the folder a private key) and locks it.
///
/// # Errors
/// The folder can't be made, or another process works on it.
pub(crate) fn lock(dir: &Path) -> anyhow::Result<StateDirLock> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("state_dir {} can't be made; name a folder that this user may write", dir.display())
    })?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} can't be opened; state_dir must be writable", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "another changeover process works on state_dir {}; stop it first, or give this one a --state-dir of its own",
            dir.display()
        );
    }
    Ok(StateDirLock { _file: file })
}
