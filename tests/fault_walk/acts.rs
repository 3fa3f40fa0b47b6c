//! Which places are reached by what, in the order in which a migration comes to them, and which walk dies at which.

use config::failpoint::PLACES;

use crate::robustness::is_long;

/// A walk: between which servers, and what is special there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Two MariaDBs: large transactions, sessions that are ended at the deadline. Ends with FINISH.
    MariaDb,
    /// Two MySQL 9.7; the fence is locked accounts. Ends with ABANDON.
    MySql,
    /// Two MySQL 9.7 without GTIDs, followed by file and offset; a scheduler that was off. Ends with FINISH.
    Offsets,
}

/// What makes a migration come to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The first start on an empty state_dir.
    FirstStart,
    /// START MIGRATION.
    Start,
    /// The copy goes on.
    Copy,
    /// The tail goes on.
    Tail,
    /// A transaction of more than a segment of the spool.
    Large,
    /// An XA transaction in two phases.
    Xa,
    /// PAUSE and RESUME MIGRATION.
    Pause,
    /// A definition that the target refuses.
    Stand,
    /// A row that isn't there.
    Fail,
    /// An ALTER TABLE.
    Define,
    /// A CREATE TABLE … SELECT.
    CopyAnew,
    /// REPAIR.
    Repair,
    /// A cutover that is undone because something is in its way.
    Undo,
    /// A cutover that is undone because the source dies.
    Late,
    /// A cutover or rollback, whichever side serves then.
    Turn,
    /// One that dies before its word is in the journal.
    Before,
    /// One that dies behind it.
    Behind,
    /// FINISH or ABANDON MIGRATION.
    End,
}

/// Places that are reached one behind the other; each is one death.
pub type Group = &'static [&'static str];

/// All of them.
pub const ACTS: &[(Act, &[Group])] = &[
    (
        Act::FirstStart,
        &[
            &["file.cutover.journal.before"],
            &["file.cutover.journal.written"],
            &["file.adopted.accounts.before"],
            &["file.adopted.accounts.written"],
            &["file.proxy-key.pem.before"],
            &["file.proxy-key.pem.written"],
            &["file.proxy-cert.pem.before"],
            &["file.proxy-cert.pem.written"],
        ],
    ),
    (
        Act::Start,
        &[
            &["migration.begun"],
            &["checkpoint.made"],
            &["checkpoint.forgotten"],
            &["file.accounts.json.before"],
            &["file.accounts.json.written"],
            &["accounts.before_create"],
            &["accounts.made"],
            &["accounts.created"],
            &["schema.made"],
            &["schema.table_made"],
            &["schema.objects_made"],
            &["accounts.granted"],
            &["file.definitions.json.before"],
            &["file.definitions.json.written"],
            &["migration.prepared"],
        ],
    ),
    (
        Act::Copy,
        &[
            &["spool.segment.before"],
            &["spool.segment.made"],
            &["file.binlog-files.before"],
            &["file.binlog-files.written"],
            &["snapshot.whole.loaded"],
            &["snapshot.whole.copied"],
            &["snapshot.whole.defined"],
            &["file.late-indexes.json.before"],
            &["file.late-indexes.json.written"],
            &["snapshot.indexes.noted"],
            &["snapshot.indexes.dropped"],
            &["snapshot.journal.begun"],
            &["snapshot.chunk.cut"],
            &["snapshot.stage.before"],
            &["snapshot.stage.written"],
            &["snapshot.chunk.committed"],
            &["snapshot.chunk.journalled"],
            &["snapshot.stage.removed"],
            &["snapshot.chunk.partly"],
            &["snapshot.indexes.built"],
            &["migration.copied"],
        ],
    ),
    (
        Act::Tail,
        &[
            &["checkpoint.before_take_over"],
            &["checkpoint.taken_over"],
            &["apply.batch.before_commit"],
            &["apply.batch.committed"],
            &["checkpoint.low_water"],
            &["spool.recovered"],
            &["spool.written"],
            &["spool.appended"],
        ],
    ),
    (
        Act::Large,
        &[
            &["spool.cut"],
            &["apply.part.before_commit"],
            &["apply.part.committed"],
            &["spool.segment.removed"],
        ],
    ),
    (
        Act::Xa,
        &[
            &["spool.xa.before"],
            &["spool.xa.parked"],
            &["spool.xa.taken", "spool.xa.put_back"],
            &["spool.xa.ended"],
            &["spool.xa.removed"],
        ],
    ),
    (
        Act::Pause,
        &[
            &["file.migration.json.before"],
            &["file.migration.json.written"],
            &["migration.paused", "migration.resumed"],
        ],
    ),
    (Act::Stand, &[&["migration.stood"]]),
    (Act::Fail, &[&["migration.failed"]]),
    (
        Act::Define,
        &[&["ddl.intended"], &["ddl.applied"], &["ddl.defined", "ddl.shown"], &["checkpoint.stepped_over"]],
    ),
    (Act::CopyAnew, &[&["recopy.dropped"], &["snapshot.journal.removed"], &["recopy.copied"]]),
    (Act::Repair, &[&["repair.before_commit"], &["repair.committed"]]),
    (
        Act::Undo,
        &[
            &["cutover.behind.unfence"],
            &["cutover.behind.turn back"],
            &["cutover.behind.journal aborted"],
            &["cutover.journal.before.aborted"],
            &["cutover.journal.written.aborted"],
            &["cutover.behind.lock again"],
        ],
    ),
    (Act::Late, &[&["cutover.journal.before.unfenced", "cutover.journal.written.unfenced"]]),
    (
        Act::Before,
        &[
            &["cutover.journal.before.started"],
            &["cutover.journal.written.started"],
            &["cutover.behind.journal started"],
            &["cutover.behind.unlock", "cutover.again.lock again"],
            &["cutover.behind.prepare"],
            &["cutover.behind.inspect"],
            &["cutover.journal.before.fenced"],
            &["cutover.journal.written.fenced"],
            &["cutover.behind.journal fenced"],
            &["cutover.behind.close"],
            &["cutover.behind.drain"],
            &["cutover.behind.kill"],
            &["cutover.behind.fence", "cutover.again.unfence"],
            &["cutover.behind.position"],
            &["cutover.behind.wait"],
            &["auto_increment.raised"],
            &["cutover.behind.verdict"],
            &["cutover.behind.hold", "cutover.again.turn back", "cutover.again.journal aborted"],
            &["activation.written"],
            &["activation.dropped"],
            &["activation.made"],
            &["cutover.behind.activate"],
            &["migration.next", "migration.next.dropped"],
            &["cutover.behind.reverse"],
            &["cutover.journal.before.switched"],
        ],
    ),
    (
        Act::Behind,
        &[
            &["cutover.journal.written.switched"],
            &[
                "cutover.behind.journal switched",
                "cutover.again.fence",
                "cutover.again.release",
                "cutover.again.swap",
                "cutover.again.open",
                "cutover.again.keep fence",
                "cutover.again.seal",
                "cutover.again.journal finished",
            ],
            &["cutover.behind.release"],
            &["cutover.behind.swap"],
            &["cutover.behind.open"],
            &["cutover.behind.keep fence"],
            &["cutover.behind.seal"],
            &["cutover.behind.settle"],
            &["cutover.behind.let go"],
            &["cutover.journal.before.finished"],
            &["cutover.journal.written.finished"],
            &["cutover.behind.journal finished"],
        ],
    ),
    (
        Act::Turn,
        &[
            &["fence.accounts.altered"],
            &["file.activation.json.before"],
            &["file.activation.json.written"],
            &["activation.kept"],
            &["activation.taken_away"],
            &["activation.woken"],
            &["activation.scheduler_on"],
            &["activation.scheduler_off"],
            &["file.stray.json.before"],
            &["file.stray.json.written"],
            &["spool.removed"],
            &["migration.turned"],
        ],
    ),
    (
        Act::End,
        &[
            &["migration.finished"],
            &["migration.abandoned"],
            &["cutover.journal.before.released"],
            &["cutover.journal.written.released"],
            &["file.stray.json.removed"],
        ],
    ),
];

/// Reached by a test of its own: it takes two families of servers.
pub const ADOPTION: &str = "accounts.adopted";

/// The walks that come to a place.
fn walks(place: &str) -> &'static [Walk] {
    match place {
        "file.binlog-files.before"
        | "file.binlog-files.written"
        | "activation.scheduler_on"
        | "activation.scheduler_off" => &[Walk::Offsets],
        // What is noted and not yet taken off stays: one walk dies there once, and builds nothing.
        "file.late-indexes.json.written" => &[Walk::Offsets],
        "snapshot.indexes.noted" => &[Walk::MariaDb],
        "snapshot.indexes.dropped"
        | "snapshot.indexes.built"
        | "cutover.behind.unlock"
        | "cutover.behind.lock again"
        | "fence.accounts.altered"
        | "migration.abandoned" => &[Walk::MySql],
        "cutover.behind.release" | "migration.finished" => &[Walk::MariaDb, Walk::Offsets],
        "snapshot.stage.before" | "snapshot.stage.written" | "snapshot.stage.removed" => &[Walk::Offsets],
        "snapshot.chunk.partly"
        | "spool.cut"
        | "spool.segment.removed"
        | "apply.part.before_commit"
        | "apply.part.committed"
        | "cutover.behind.kill" => &[Walk::MariaDb],
        _ => &[Walk::MariaDb, Walk::Offsets, Walk::MySql],
    }
}

/// The side that has to serve for a place to be reached, where it isn't both.
pub fn only_from(place: &str) -> Option<&'static str> {
    match place {
        "activation.scheduler_on" => Some("source"),
        // The side that is gone to is fenced from the first rollback on.
        "activation.scheduler_off"
        | "cutover.behind.release"
        | "cutover.behind.unlock"
        | "cutover.behind.lock again"
        | "cutover.behind.journal switched" => Some("target"),
        _ => None,
    }
}

/// Where this walk dies in an act. All walks together die at every place; with CHANGEOVER_LONG=1 each at all that it comes to.
pub fn due(walk: Walk, act: Act) -> Vec<(usize, Group)> {
    let groups = ACTS.iter().flat_map(|(of, groups)| groups.iter().map(move |group| (*of, *group)));
    let mine = groups.enumerate().filter(|(number, (of, group))| {
        let able = walks(group[0]);
        *of == act && if is_long() { able.contains(&walk) } else { able[number % able.len()] == walk }
    });
    mine.map(|(number, (_, group))| (number, group)).collect()
}

#[test]
fn every_place_is_in_the_walk() {
    let mut walked: Vec<&str> =
        ACTS.iter().flat_map(|(_, groups)| groups.iter().flat_map(|group| group.iter().copied())).collect();
    walked.push(ADOPTION);
    for place in PLACES {
        assert_eq!(walked.iter().filter(|walked| *walked == place).count(), 1, "{place}");
    }
    for place in walked {
        assert!(PLACES.contains(&place), "there is no {place}");
    }
}
