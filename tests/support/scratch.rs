//! Where the servers and Changeovers of tests have their files: in memory where the machine has plenty of it. Tests make and
//! remove files all the time, which costs a disk's file system much of the machine, and no test is about what survives that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock, statvfs};
use tempfile::{Builder, TempDir};

/// A file system in memory that every Linux has.
const IN_MEMORY: &str = "/dev/shm";
/// Name of the folder of a run, before its process id.
const RUN: &str = "changeover-tests-";
/// So much has to be free in it, and of memory twice as much: four tests at once were seen to fill 0.9 GB of it.
const ROOM: u64 = 6 << 30;

/// A new folder, removed when it is dropped.
pub fn folder() -> TempDir {
    static RUN: OnceLock<Option<Run>> = OnceLock::new();
    match RUN.get_or_init(Run::begin) {
        Some(run) => within(&run.folder),
        None => on_disk(),
    }
}

/// The same on a disk, or wherever TMPDIR says.
pub fn on_disk() -> TempDir {
    within(&std::env::temp_dir())
}

fn within(place: &Path) -> TempDir {
    Builder::new().prefix("changeover-test-").tempdir_in(place).unwrap()
}

/// The folder in memory of this process.
struct Run {
    folder: PathBuf,
    /// Locked for as long as this process lives.
    _lock: File,
}

impl Run {
    /// `None` where files had better be on the disk, or TMPDIR says where. What runs that were killed have left is removed:
    /// it would take up memory until the machine's next start.
    fn begin() -> Option<Self> {
        if std::env::var_os("TMPDIR").is_some() || free(IN_MEMORY) < ROOM || memory() < 2 * ROOM {
            return None;
        }
        let place = Path::new(IN_MEMORY);
        // Nobody takes a folder for abandoned that isn't locked yet.
        let one_at_a_time = File::create(place.join(format!("{RUN}lock"))).ok()?;
        flock(&one_at_a_time, FlockOperation::LockExclusive).ok()?;
        for found in fs::read_dir(place).ok()?.flatten() {
            let ours = found.file_name().to_string_lossy().starts_with(RUN) && found.path().is_dir();
            if ours && locked(&found.path()).is_some() {
                let _ = fs::remove_dir_all(found.path());
            }
        }
        let folder = place.join(format!("{RUN}{}", std::process::id()));
        fs::create_dir_all(&folder).ok()?;
        Some(Self { _lock: locked(&folder)?, folder })
    }
}

/// The folder locked, unless a process that lives has done it.
fn locked(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(folder)
}

/// Bytes that may be written there.
fn free(folder: &str) -> u64 {
    statvfs(folder).map_or(0, |found| found.f_bavail * found.f_frsize)
}

/// Bytes of memory that programs can still have.
fn memory() -> u64 {
    let all = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
