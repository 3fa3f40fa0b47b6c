//! A disk of a few megabytes, that can be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::server::say_skipped;

/// A file system of its own, in memory. Taken away on drop.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// `None`, with a loud word, where this user may not mount one: that is no server that could be had.
    pub fn of_megabytes(size: u32) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("changeover-disk-").tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}m"), "changeover-test"]).arg(dir.path());
        let why = match mount.output() {
            Ok(done) if done.status.success() => return Some(Self { dir }),
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let thread = std::thread::current();
        say_skipped(&format!("SKIPPED {}: no disk to fill ({why})", thread.name().unwrap_or("?")));
        None
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let piece = vec![7_u8; 65_536];
        let mut bytes = piece.len();
        while bytes > 0 {
            match file.write(&piece[..bytes]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => bytes /= 2,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives it back.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until then.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
