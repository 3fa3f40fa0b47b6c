//! Whether there can be a stage where `snapshot.stage_dir` says.

use std::path::Path;

use config::StageConfig;
use config::progress::{Finding, Severity};
use rustix::fs::{Access, access, statvfs};

/// Looks at the folder, or at the one in which it would be made.
pub(super) fn judge(stage: &StageConfig) -> Option<Finding> {
    let dir = stage.dir.display();
    let finding =
        |severity, message| Some(Finding { severity, subject: "snapshot.stage_dir".to_owned(), message });
    // A relative path without a folder that exists in it is made where the process works.
    let named = stage.dir.ancestors().filter(|path| !path.as_os_str().is_empty());
    let there = named.chain([Path::new(".")]).find(|path| path.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() || access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let message = format!(
            "{dir} can't be made or written to; name a folder that this user may write, or leave it out."
        );
        return finding(Severity::Fatal, message);
    }
    // Where the system doesn't say, there is nothing to say of it.
    let disk = statvfs(there).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < stage.bytes_max {
        let message = format!(
            "{dir} has {} GB free, and snapshot.stage_max_gb is {}; set it lower than what is free, or the migration pauses when \
             the disk is full.",
            free / 1_000_000_000,
            stage.bytes_max / 1_000_000_000
        );
        return finding(Severity::Warning, message);
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stage_is_a_folder_with_room() {
        let folder = tempfile::tempdir().unwrap();
        let judged = |dir: &Path, bytes_max| {
            let finding = judge(&StageConfig { dir: dir.to_owned(), bytes_max });
            finding.map(|finding| (finding.severity, finding.message))
        };
        assert_eq!(judged(folder.path(), 0), None);
        assert_eq!(judged(&folder.path().join("not/yet/there"), 0), None);
        assert_eq!(judged(Path::new("not-yet-there"), 0), None);
        let (severity, message) = judged(folder.path(), u64::MAX).unwrap();
        assert!(severity == Severity::Warning && message.contains("GB free"), "{message}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let (severity, message) = judged(&path, 0).unwrap();
            assert!(severity == Severity::Fatal && message.contains("can't be made"), "{message}");
        }
    }
}
