//! Named places at which a test kills the process, or holds it while something else is killed, so that recovery is proved
//! at that very instruction.
//!
//! Each thing that is made to last, on our own disk or on a server, has one behind it, and one in front of it where what was
//! done before that isn't another's place already. [`PLACES`] lists them all: a test walks over the list and fails for one
//! that it doesn't reach, and [`hit`] knows no other.
//!
//! A build without debug assertions has none of them: a release binary ignores the variables.

use std::path::Path;

/// Every place there is. `file.NAME.before`: the new file is whole and on the disk, under a name of its own;
/// `file.NAME.written`: it is in the place of the old one. `cutover.behind.STEP`: a cutover or rollback has taken this step;
/// `cutover.again.STEP`: so has a restart that takes up what a crash left of one.
pub const PLACES: &[&str] = &[
    "file.proxy-key.pem.before",
    "file.proxy-key.pem.written",
    "file.proxy-cert.pem.before",
    "file.proxy-cert.pem.written",
    "file.adopted.accounts.before",
    "file.adopted.accounts.written",
    "file.cutover.journal.before",
    "file.cutover.journal.written",
    "file.migration.json.before",
    "file.migration.json.written",
    "file.accounts.json.before",
    "file.accounts.json.written",
    "file.definitions.json.before",
    "file.definitions.json.written",
    "file.late-indexes.json.before",
    "file.late-indexes.json.written",
    "file.binlog-files.before",
    "file.binlog-files.written",
    "file.activation.json.before",
    "file.activation.json.written",
    "file.stray.json.before",
    "file.stray.json.written",
    "file.stray.json.removed",
    "migration.begun",
    "migration.prepared",
    "migration.copied",
    "migration.paused",
    "migration.resumed",
    "migration.stood",
    "migration.failed",
    "migration.next",
    "migration.next.dropped",
    "migration.turned",
    "migration.finished",
    "migration.abandoned",
    "checkpoint.made",
    "checkpoint.forgotten",
    "checkpoint.before_take_over",
    "checkpoint.taken_over",
    "checkpoint.stepped_over",
    "checkpoint.low_water",
    "accounts.before_create",
    "accounts.made",
    "accounts.created",
    "accounts.granted",
    "accounts.adopted",
    "schema.made",
    "schema.table_made",
    "schema.objects_made",
    "snapshot.journal.begun",
    "snapshot.journal.removed",
    "snapshot.chunk.cut",
    "snapshot.chunk.committed",
    "snapshot.chunk.partly",
    "snapshot.chunk.journalled",
    "snapshot.indexes.noted",
    "snapshot.indexes.dropped",
    "snapshot.indexes.built",
    "snapshot.stage.before",
    "snapshot.stage.written",
    "snapshot.stage.removed",
    "snapshot.whole.loaded",
    "snapshot.whole.copied",
    "snapshot.whole.defined",
    "spool.segment.before",
    "spool.segment.made",
    "spool.segment.removed",
    "spool.removed",
    "spool.recovered",
    "spool.written",
    "spool.appended",
    "spool.cut",
    "spool.xa.before",
    "spool.xa.parked",
    "spool.xa.taken",
    "spool.xa.put_back",
    "spool.xa.ended",
    "spool.xa.removed",
    "apply.batch.before_commit",
    "apply.batch.committed",
    "apply.part.before_commit",
    "apply.part.committed",
    "ddl.intended",
    "ddl.applied",
    "ddl.defined",
    "ddl.shown",
    "recopy.dropped",
    "recopy.copied",
    "repair.before_commit",
    "repair.committed",
    "auto_increment.raised",
    "activation.written",
    "activation.dropped",
    "activation.made",
    "activation.kept",
    "activation.taken_away",
    "activation.woken",
    "activation.scheduler_on",
    "activation.scheduler_off",
    "fence.accounts.altered",
    "cutover.journal.before.started",
    "cutover.journal.before.fenced",
    "cutover.journal.before.switched",
    "cutover.journal.before.finished",
    "cutover.journal.before.aborted",
    "cutover.journal.before.unfenced",
    "cutover.journal.before.released",
    "cutover.journal.written.started",
    "cutover.journal.written.fenced",
    "cutover.journal.written.switched",
    "cutover.journal.written.finished",
    "cutover.journal.written.aborted",
    "cutover.journal.written.unfenced",
    "cutover.journal.written.released",
    "cutover.behind.journal started",
    "cutover.behind.unlock",
    "cutover.behind.prepare",
    "cutover.behind.inspect",
    "cutover.behind.journal fenced",
    "cutover.behind.close",
    "cutover.behind.drain",
    "cutover.behind.kill",
    "cutover.behind.fence",
    "cutover.behind.position",
    "cutover.behind.wait",
    "cutover.behind.verdict",
    "cutover.behind.hold",
    "cutover.behind.activate",
    "cutover.behind.reverse",
    "cutover.behind.journal switched",
    "cutover.behind.swap",
    "cutover.behind.release",
    "cutover.behind.open",
    "cutover.behind.keep fence",
    "cutover.behind.seal",
    "cutover.behind.settle",
    "cutover.behind.journal finished",
    "cutover.behind.unfence",
    "cutover.behind.turn back",
    "cutover.behind.let go",
    "cutover.behind.lock again",
    "cutover.behind.journal aborted",
    "cutover.again.fence",
    "cutover.again.release",
    "cutover.again.swap",
    "cutover.again.open",
    "cutover.again.keep fence",
    "cutover.again.seal",
    "cutover.again.journal finished",
    "cutover.again.unfence",
    "cutover.again.turn back",
    "cutover.again.lock again",
    "cutover.again.journal aborted",
];

/// Ends the process at once, as `kill -9` would, where the environment variable `CHANGEOVER_FAILPOINT`
/// names this place. Nothing is flushed and no destructor runs.
///
/// Where the file that `CHANGEOVER_HOLD` names holds the name of this place, it is renamed to `….reached`, and this thread
/// waits until that is removed.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    static WANTED: OnceLock<(Option<String>, Option<PathBuf>)> = OnceLock::new();
    debug_assert!(PLACES.contains(&name), "failpoint::PLACES doesn't list {name}");
    let (wanted, hold) = WANTED.get_or_init(|| {
        let hold = std::env::var_os("CHANGEOVER_HOLD").map(PathBuf::from);
        (std::env::var("CHANGEOVER_FAILPOINT").ok(), hold)
    });
    if wanted.as_deref() == Some(name) {
        std::process::abort();
    }
    let Some(hold) = hold else { return };
    let reached = hold.with_extension("reached");
    if std::fs::read_to_string(hold).is_ok_and(|place| place == name)
        && std::fs::rename(hold, &reached).is_ok()
    {
        while reached.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// [`hit`] at `GROUP.NAME`, for places that have their names from elsewhere.
#[cfg(debug_assertions)]
pub fn hit_of(group: &str, name: &str) {
    hit(&format!("{group}.{name}"));
}

/// [`hit`] at `file.NAME.WHEN`, with the name of a file of state_dir.
#[cfg(debug_assertions)]
pub fn hit_file(path: &Path, when: &str) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    hit(&format!("file.{name}.{when}"));
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_name: &str) {}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit_of(_group: &str, _name: &str) {}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit_file(_path: &Path, _when: &str) {}

#[cfg(test)]
mod tests {
    use super::PLACES;
    use std::collections::BTreeSet;

    #[test]
    fn no_place_is_listed_twice() {
        assert_eq!(PLACES.iter().collect::<BTreeSet<_>>().len(), PLACES.len());
    }
}
