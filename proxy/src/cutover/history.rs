//! What the journal's records say, taken together: who serves, what is unfinished, what SHOW CUTOVERS shows. Pure.

use std::time::{Duration, SystemTime};

use config::Side;
use serde::{Deserialize, Serialize};

use super::phase::{CutoverId, Direction, Outcome};
use super::step::Stage;
use crate::backend::fence::FenceBefore;

/// Rows that SHOW CUTOVERS keeps.
const HISTORY_MAX: usize = 1000;

/// A row of SHOW CUTOVERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutoverRow {
    /// Counts from 1 on.
    pub id: CutoverId,
    /// `forward` or `rollback`.
    pub direction: &'static str,
    /// When it began.
    pub started_at: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// From the gate's closing to its opening. `None`: the gate wasn't closed, or a crash ended the pause.
    pub pause_ms: Option<u64>,
    /// Sessions that were carried over.
    pub sessions_moved: u64,
    /// Sessions that were closed because their transactions outlived the drain deadline.
    pub transactions_killed: u64,
    /// Where the source ended, or was at the swap back to it.
    pub source_position: Option<String>,
    /// Where the target was at the swap, or ended before the one back.
    pub target_position: Option<String>,
    /// Why it was undone, or what is worth knowing; may be empty.
    pub reason: String,
}

/// What the journal says on opening, and at any later moment.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalState {
    /// Who serves.
    pub serving: Side,
    /// The cutover that a crash interrupted.
    pub unfinished: Option<Unfinished>,
    /// The side that doesn't serve, and how it was before a cutover fenced it. Kept fenced.
    pub fenced: Option<(Side, FenceBefore)>,
    /// The side that was left by the last cutover, and where it ended, as far as the journal knows. Watched.
    pub left: Option<Left>,
    /// True where the side that serves is followed into the other one, so that a rollback is possible.
    pub way_back: bool,
    /// The serving side, where an abort could not take the fence off it yet.
    pub fence_left: Option<(CutoverId, Side, FenceBefore)>,
    /// The cutovers, oldest first.
    pub history: Vec<CutoverRow>,
}

/// A side that doesn't serve any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub side: Side,
    /// Its position when it stopped.
    pub since: String,
}

/// A cutover without an end.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// Its number.
    pub id: CutoverId,
    /// The side that served.
    pub from: Side,
    /// The side that was to serve.
    pub to: Side,
    /// How far it came.
    pub stage: Stage,
    /// How `from` was before it was fenced, where it was.
    pub before: Option<FenceBefore>,
    /// How `to` was before an earlier cutover fenced it, where one did: a rollback takes that fence off.
    pub release: Option<FenceBefore>,
}

/// One record of [`super::journal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the table in the journal's module comment describes them")]
pub enum Record {
    Started {
        id: CutoverId,
        at_ms: u64,
        #[serde(with = "side")]
        from: Side,
        #[serde(with = "side")]
        to: Side,
    },
    Fenced {
        id: CutoverId,
        before: FenceBefore,
    },
    Switched {
        id: CutoverId,
        at_ms: u64,
        /// A plain text in files of the first version.
        source_position: Option<String>,
        target_position: Option<String>,
        note: String,
        #[serde(default)]
        way_back: bool,
    },
    Finished {
        id: CutoverId,
        pause_ms: Option<u64>,
        sessions_moved: u64,
        transactions_killed: u64,
    },
    Aborted {
        id: CutoverId,
        at_ms: u64,
        reason: String,
        fence_left: bool,
        pause_ms: Option<u64>,
        transactions_killed: u64,
        source_position: Option<String>,
    },
    Unfenced {
        id: CutoverId,
    },
    Released {
        id: CutoverId,
    },
}

mod side {
    use config::Side;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(side: &Side, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(side.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Side, D::Error> {
        match String::deserialize(from)?.as_str() {
            "source" => Ok(Side::Source),
            "target" => Ok(Side::Target),
            _ => Err(D::Error::custom("a side is `source` or `target`")),
        }
    }
}

impl JournalState {
    pub(super) fn new() -> Self {
        Self {
            serving: Side::Source,
            unfinished: None,
            fenced: None,
            left: None,
            way_back: false,
            fence_left: None,
            history: Vec::new(),
        }
    }

    /// The number of the next cutover.
    #[must_use]
    pub fn next_id(&self) -> CutoverId {
        CutoverId(self.history.last().map_or(1, |row| row.id.0 + 1))
    }

    /// Takes a record in. `Err` says what of it can't be; the state is then as it was.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        if let Record::Started { id, at_ms, from, to } = record {
            return self.start(*id, *at_ms, *from, *to);
        }
        if let Record::Unfenced { id } = record {
            return match self.fence_left.take_if(|(left, ..)| left == id) {
                Some(_) => Ok(()),
                None => Err("nothing was left fenced by that cutover"),
            };
        }
        if let Record::Released { id } = record {
            return self.release(*id);
        }
        let Some(unfinished) = self.unfinished.as_mut() else {
            return Err("no cutover is under way");
        };
        let Some(row) = self.history.last_mut() else {
            return Err("no cutover was started");
        };
        if record.id() != unfinished.id {
            return Err("another cutover is under way");
        }
        match (record, &unfinished.stage) {
            (Record::Fenced { before, .. }, Stage::Started) => {
                unfinished.stage = Stage::Fenced(before.clone());
                unfinished.before = Some(before.clone());
            }
            (
                Record::Switched { source_position, target_position, note, way_back, .. },
                Stage::Started | Stage::Fenced(_),
            ) => {
                self.serving = unfinished.to;
                self.fenced = unfinished.before.clone().map(|before| (unfinished.from, before));
                let ended = match unfinished.from {
                    Side::Source => source_position,
                    Side::Target => target_position,
                };
                self.left = ended.clone().map(|since| Left { side: unfinished.from, since });
                self.way_back = *way_back;
                unfinished.stage = Stage::Switched;
                row.outcome = Outcome::Switched;
                row.source_position.clone_from(source_position);
                row.target_position.clone_from(target_position);
                row.reason.clone_from(note);
            }
            (Record::Finished { pause_ms, sessions_moved, transactions_killed, .. }, Stage::Switched) => {
                row.pause_ms = *pause_ms;
                row.sessions_moved = *sessions_moved;
                row.transactions_killed = *transactions_killed;
                self.unfinished = None;
            }
            (Record::Aborted { .. }, Stage::Started | Stage::Fenced(_)) => self.abort(record),
            _ => return Err("that record can't follow the one before it"),
        }
        Ok(())
    }

    fn start(&mut self, id: CutoverId, at_ms: u64, from: Side, to: Side) -> Result<(), &'static str> {
        if self.unfinished.is_some() {
            return Err("the cutover before it has no end");
        }
        if id != self.next_id() {
            return Err("its number isn't the next one");
        }
        if from != self.serving || to == from {
            return Err("it doesn't begin at the side that serves");
        }
        if self.history.len() == HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(CutoverRow {
            id,
            direction: Direction::begins_at(from).as_str(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms),
            outcome: Outcome::Running,
            pause_ms: None,
            sessions_moved: 0,
            transactions_killed: 0,
            source_position: None,
            target_position: None,
            reason: String::new(),
        });
        let release = self.fenced.clone().and_then(|(side, before)| (side == to).then_some(before));
        self.unfinished = Some(Unfinished { id, from, to, stage: Stage::Started, before: None, release });
        Ok(())
    }

    /// The side that doesn't serve is nobody's business any more, behind the last cutover.
    fn release(&mut self, id: CutoverId) -> Result<(), &'static str> {
        if self.unfinished.is_some() || self.history.last().is_none_or(|row| row.id != id) {
            return Err("it isn't behind the last cutover");
        }
        (self.fenced, self.left, self.way_back) = (None, None, false);
        Ok(())
    }

    fn abort(&mut self, record: &Record) {
        let Record::Aborted {
            id, reason, fence_left, pause_ms, transactions_killed, source_position, ..
        } = record
        else {
            return;
        };
        let unfinished = self.unfinished.take();
        if let Some(row) = self.history.last_mut() {
            row.outcome = Outcome::Aborted;
            row.reason.clone_from(reason);
            row.pause_ms = *pause_ms;
            row.transactions_killed = *transactions_killed;
            row.source_position.clone_from(source_position);
        }
        if let (true, Some(Unfinished { from, before: Some(before), .. })) = (*fence_left, unfinished) {
            self.fence_left = Some((*id, from, before));
        }
    }
}

impl Record {
    fn id(&self) -> CutoverId {
        match self {
            Record::Started { id, .. }
            | Record::Fenced { id, .. }
            | Record::Switched { id, .. }
            | Record::Finished { id, .. }
            | Record::Aborted { id, .. }
            | Record::Unfenced { id }
            | Record::Released { id } => *id,
        }
    }

    /// What it is called in the file.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Record::Started { .. } => "started",
            Record::Fenced { .. } => "fenced",
            Record::Switched { .. } => "switched",
            Record::Finished { .. } => "finished",
            Record::Aborted { .. } => "aborted",
            Record::Unfenced { .. } => "unfenced",
            Record::Released { .. } => "released",
        }
    }

    /// The record as a line of the file.
    pub(super) fn line(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
    }
}

/// Records for tests.
#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub(in crate::cutover) fn started(id: u64, from: Side) -> Record {
        Record::Started { id: CutoverId(id), at_ms: 5, from, to: from.other() }
    }

    pub(in crate::cutover) fn before() -> FenceBefore {
        FenceBefore { read_only: false, super_read_only: Some(false), accounts: None }
    }

    pub(in crate::cutover) fn switched(id: u64) -> Record {
        Record::Switched {
            id: CutoverId(id),
            at_ms: 6,
            source_position: Some("0-1-5 (bin.000001:44)".into()),
            target_position: Some("0-2-9 (bin.000002:7)".into()),
            note: String::new(),
            way_back: true,
        }
    }

    pub(in crate::cutover) fn aborted(id: u64, fence_left: bool) -> Record {
        Record::Aborted {
            id: CutoverId(id),
            at_ms: 6,
            reason: "lag".into(),
            fence_left,
            pause_ms: Some(3),
            transactions_killed: 1,
            source_position: None,
        }
    }

    pub(in crate::cutover) fn finished(id: u64) -> Record {
        Record::Finished { id: CutoverId(id), pause_ms: Some(12), sessions_moved: 16, transactions_killed: 0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::samples::{aborted, before, finished, started, switched};
    use super::*;

    #[test]
    fn a_record_out_of_its_place_is_refused() {
        let check = |records: &[Record], wrong: &Record| {
            let mut state = JournalState::new();
            records.iter().for_each(|record| state.apply(record).unwrap());
            let was = state.clone();
            assert!(state.apply(wrong).is_err(), "{wrong:?}");
            assert_eq!(state, was);
        };
        check(&[], &switched(1));
        check(&[], &started(1, Side::Target));
        check(&[], &started(2, Side::Source));
        check(&[started(1, Side::Source)], &started(2, Side::Source));
        check(&[started(1, Side::Source)], &switched(2));
        check(&[started(1, Side::Source)], &finished(1));
        check(&[started(1, Side::Source), switched(1)], &aborted(1, false));
        check(&[started(1, Side::Source), aborted(1, false)], &Record::Unfenced { id: CutoverId(1) });
        check(&[started(1, Side::Source), switched(1), finished(1)], &started(2, Side::Source));
        check(&[], &Record::Released { id: CutoverId(1) });
        check(&[started(1, Side::Source), switched(1)], &Record::Released { id: CutoverId(1) });
        check(&[started(1, Side::Source), aborted(1, false)], &Record::Released { id: CutoverId(2) });
    }

    #[test]
    fn what_is_kept_between_two_cutovers() {
        let mut state = JournalState::new();
        let fenced = Record::Fenced { id: CutoverId(1), before: before() };
        for record in [started(1, Side::Source), fenced, switched(1), finished(1)] {
            state.apply(&record).unwrap();
        }
        let fenced = Some((Side::Source, before()));
        assert_eq!((&state.fenced, state.way_back), (&fenced, true));
        assert_eq!(state.left, Some(Left { side: Side::Source, since: "0-1-5 (bin.000001:44)".into() }));
        state.apply(&started(2, Side::Target)).unwrap();
        assert_eq!(state.unfinished.as_ref().unwrap().release, Some(before()), "a rollback takes it off");
        state.apply(&aborted(2, false)).unwrap();
        assert_eq!((&state.fenced, state.way_back), (&fenced, true));
        state.apply(&Record::Released { id: CutoverId(2) }).unwrap();
        assert_eq!((state.fenced, state.way_back, state.serving), (None, false, Side::Target));
        assert_eq!(state.left, None);
    }
}
