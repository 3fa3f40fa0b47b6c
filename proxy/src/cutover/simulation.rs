//! A world of two backends, writers, replication and a disk, in which a cutover is crashed between any two effects,
//! fails anywhere, loses replies and is restarted from its journal, under one seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use config::progress::{ReplicationPosition, Verdict};
use config::{BinlogPosition, Flavor, GtidSet, OpenTransactions, Side};
use proptest::prelude::*;

use super::journal::{JournalState, Record};
use super::phase::{Effect, Entry, Event, Outcome, Plan};
use super::step::{Stage, State, begin, resume, step};
use crate::backend::fence::FenceBefore;

/// SplitMix64: the whole run is a function of the seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// What befalls an effect.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Works,
    Fails,
    ReplyLost,
    /// The statement is still running on the server when its caller gives up.
    TakesEffectLater,
    CrashBefore,
    CrashAfter,
}

#[derive(Default)]
struct Backend {
    read_only: bool,
    log: Vec<u64>,
}

struct World {
    dice: Dice,
    faults: bool,
    // On disks: outlives a crash of Changeover.
    journal: JournalState,
    source: Backend,
    target: Backend,
    /// Writes of the target that replication brought.
    applied: usize,
    sealed: bool,
    /// A `SET GLOBAL read_only = ON` that the source hasn't carried out yet.
    pending_fence: bool,
    operators_read_only: bool,
    fenced: bool,
    // In memory: gone after a crash.
    /// No client is let in before a restart took up what the journal says.
    listening: bool,
    gate_closed: bool,
    permits: usize,
    route: Side,
    keeper: bool,
    unfence_later: bool,
    next_write: u64,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let operators_read_only = dice.one_in(10);
        let fenced = !dice.one_in(6);
        Self {
            faults: true,
            journal: JournalState::new(),
            source: Backend { read_only: operators_read_only, log: Vec::new() },
            target: Backend::default(),
            applied: 0,
            sealed: false,
            pending_fence: false,
            operators_read_only,
            fenced,
            listening: true,
            gate_closed: false,
            permits: 0,
            route: Side::Source,
            keeper: false,
            unfence_later: false,
            next_write: 0,
            trace: Vec::new(),
            dice,
        }
    }

    fn plan(&mut self) -> Plan {
        let kill = self.dice.one_in(2);
        Plan {
            id: self.journal.next_id(),
            from: self.journal.serving,
            to: self.journal.serving.other(),
            fenced: self.fenced,
            open_transactions: if kill { OpenTransactions::Kill } else { OpenTransactions::Abort },
            release: None,
        }
    }

    fn backend(&mut self, side: Side) -> &mut Backend {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    /// What everyone else does between two effects.
    fn time_passes(&mut self) {
        for _ in 0..self.dice.next() % 4 {
            match self.dice.next() % 6 {
                0 if !self.gate_closed && self.listening => self.permits += 1,
                1 => self.permits = self.permits.saturating_sub(1),
                2 if self.permits > 0 => self.application_writes(),
                3 if self.fenced => self.somebody_writes_past_the_proxy(),
                4 if self.pending_fence => {
                    self.pending_fence = false;
                    self.source.read_only = true;
                }
                _ => self.replicate(1),
            }
        }
        if self.unfence_later && self.journal.unfinished.is_none() && self.dice.one_in(2) {
            self.finish_unfence_later();
        }
    }

    fn finish_unfence_later(&mut self) {
        self.unfence();
        self.unfence_later = false;
        if let Some((id, ..)) = self.journal.fence_left {
            self.journal.apply(&Record::Unfenced { id }).unwrap();
        }
    }

    fn application_writes(&mut self) {
        let side = self.route;
        // invariant 2: the journal alone decides who takes the application's writes.
        assert_eq!(side, self.journal.serving, "a write went to the {side}");
        if self.backend(side).read_only {
            return;
        }
        if side == Side::Target {
            // invariant 1: everything acknowledged before is there.
            assert_eq!(self.target.log[..self.source.log.len()], self.source.log[..], "lost at the swap");
        }
        self.next_write += 1;
        let write = self.next_write;
        self.backend(side).log.push(write);
    }

    fn somebody_writes_past_the_proxy(&mut self) {
        if self.source.read_only {
            return;
        }
        // invariant 2: nothing is acknowledged by the side that was left.
        assert_eq!(self.journal.serving, Side::Source, "the source took a write after the swap");
        self.next_write += 1;
        self.source.log.push(self.next_write);
    }

    fn replicate(&mut self, many: usize) {
        if self.sealed {
            return;
        }
        for _ in 0..many {
            if let Some(write) = self.source.log.get(self.applied) {
                self.target.log.push(*write);
                self.applied += 1;
            }
        }
    }

    fn unfence(&mut self) {
        self.pending_fence = false;
        self.source.read_only = self.operators_read_only;
    }

    /// Changeover dies and starts again: memory is gone, the route is what the journal says.
    fn crash(&mut self) -> (State, Option<Effect>) {
        self.trace.push("crash".into());
        self.listening = false;
        self.gate_closed = false;
        self.permits = 0;
        self.keeper = false;
        self.route = self.journal.serving;
        self.unfence_later = self.journal.fence_left.is_some();
        if let Some((side, _)) = self.journal.fenced {
            assert_eq!(side, Side::Source);
            self.source.read_only = true;
            self.keeper = true;
        }
        match self.journal.unfinished.clone() {
            None => (State::Ended(Outcome::Aborted), None),
            Some(unfinished) => {
                let mut plan = self.plan();
                (plan.id, plan.from, plan.to) = (unfinished.id, unfinished.from, unfinished.to);
                plan.fenced = unfinished.before.is_some();
                resume(plan, unfinished.stage)
            }
        }
    }

    fn fate(&mut self, effect: &Effect) -> Fate {
        if !self.faults || !self.dice.one_in(8) {
            return Fate::Works;
        }
        let may_fail = !matches!(
            effect,
            Effect::CloseGate
                | Effect::OpenGate
                | Effect::Swap
                | Effect::LetGo
                | Effect::UnfenceLater(_)
                | Effect::KeepFence
                | Effect::Settle
                | Effect::Prepare
        );
        match self.dice.next() % 5 {
            0 => Fate::CrashBefore,
            1 => Fate::CrashAfter,
            2 if may_fail => Fate::Fails,
            3 if may_fail => Fate::ReplyLost,
            4 if matches!(effect, Effect::Fence) => Fate::TakesEffectLater,
            _ => Fate::Works,
        }
    }

    fn record(&mut self, plan: &Plan, entry: &Entry) {
        let id = plan.id;
        let record = match entry.clone() {
            Entry::Started => Record::Started { id, at_ms: 0, from: plan.from, to: plan.to },
            Entry::Fenced(before) => Record::Fenced { id, before },
            Entry::Switched { position, note } => {
                assert!(self.gate_closed && self.permits == 0, "switched with permits out");
                Record::Switched {
                    id,
                    at_ms: 0,
                    source_position: position.coordinates.to_string(),
                    target_position: None,
                    note,
                }
            }
            Entry::Finished { sessions_moved } => {
                Record::Finished { id, pause_ms: None, sessions_moved, transactions_killed: 0 }
            }
            Entry::Aborted { reason, fence_left } => Record::Aborted {
                id,
                at_ms: 0,
                reason,
                fence_left,
                pause_ms: None,
                transactions_killed: 0,
                source_position: None,
            },
        };
        // A record that can't follow isn't written by the real journal either.
        let _ = self.journal.apply(&record);
    }

    /// The effect in the world, and its answer where all goes well.
    fn works(&mut self, plan: &Plan, effect: &Effect) -> Event {
        match effect {
            Effect::Record(entry) => self.record(plan, entry),
            Effect::Inspect => {
                return Event::Inspected(FenceBefore {
                    read_only: self.source.read_only,
                    super_read_only: None,
                });
            }
            Effect::CloseGate => self.gate_closed = true,
            Effect::Drain if self.permits > 0 && self.dice.one_in(2) => {
                return Event::DrainDeadline(self.permits);
            }
            Effect::Drain => self.permits = 0,
            Effect::KillHolders => return Event::Killed(std::mem::take(&mut self.permits) as u64),
            Effect::Fence => self.source.read_only = true,
            Effect::ReadPosition => return Event::Position(position(self.source.log.len())),
            Effect::WaitApplied(until) => {
                let missing = usize::try_from(until.coordinates.offset).unwrap()
                    - self.applied.min(usize::try_from(until.coordinates.offset).unwrap());
                self.replicate(missing);
            }
            Effect::AskVerdict if self.dice.one_in(20) => {
                return Event::Verdict(Verdict::Different { rows: 1 });
            }
            Effect::AskVerdict => return Event::Verdict(Verdict::Equal { rows: 1 }),
            Effect::StartReverse => return Event::Note("no way back yet".into()),
            Effect::Unfence(_) => self.unfence(),
            Effect::UnfenceLater(_) => self.unfence_later = true,
            Effect::OpenGate => self.gate_closed = false,
            Effect::Swap => {
                assert_eq!(self.permits, 0, "swapped with permits out");
                self.route = plan.to;
            }
            Effect::KeepFence => {
                self.keeper = true;
                self.source.read_only = true;
            }
            Effect::Settle => return Event::Settled(3),
            Effect::Seal => self.sealed = true,
            Effect::Prepare | Effect::LetGo | Effect::Release(_) | Effect::Halt(_) => {}
        }
        Event::Done
    }

    /// `None`: it crashed.
    fn carry_out(&mut self, plan: &Plan, effect: &Effect) -> Option<Event> {
        let fate = self.fate(effect);
        self.trace.push(format!("{} {fate:?}", effect.name()));
        match fate {
            Fate::Works if matches!(effect, Effect::Halt(_)) => None,
            Fate::Works => Some(self.works(plan, effect)),
            Fate::Fails => Some(Event::Failed("refused".into())),
            Fate::ReplyLost => {
                self.works(plan, effect);
                Some(if matches!(effect, Effect::Record(_)) {
                    Event::Uncertain("fsync".into())
                } else {
                    Event::Failed("late".into())
                })
            }
            Fate::TakesEffectLater => {
                self.pending_fence = true;
                Some(Event::Failed("late".into()))
            }
            Fate::CrashBefore => None,
            Fate::CrashAfter => {
                self.works(plan, effect);
                None
            }
        }
    }

    fn run(&mut self, plan: &Plan, mut next: (State, Option<Effect>)) {
        for turn in 0.. {
            assert!(turn < 1000, "it goes round in circles");
            self.faults &= turn < 300;
            self.time_passes();
            next = match next {
                (state, Some(effect)) => match self.carry_out(plan, &effect) {
                    Some(event) => step(state, event),
                    None => self.crash(),
                },
                (_, None) => {
                    self.listening = true;
                    return;
                }
            };
        }
    }

    /// Whatever happened, once nothing fails any more everything is where it belongs.
    fn settle_and_check(&mut self) {
        self.faults = false;
        if let Some(unfinished) = self.journal.unfinished.clone() {
            // As a retried CUTOVER or a restart would.
            let next = self.crash();
            let mut plan = self.plan();
            (plan.id, plan.from, plan.to) = (unfinished.id, unfinished.from, unfinished.to);
            plan.fenced = unfinished.before.is_some();
            self.run(&plan, next);
        }
        if self.unfence_later {
            self.finish_unfence_later();
        }
        if self.pending_fence {
            self.source.read_only = true;
        }
        assert!(!self.gate_closed, "the gate stayed closed");
        assert_eq!(self.journal.unfinished, None);
        assert_eq!(self.journal.fence_left, None);
        assert_eq!(self.route, self.journal.serving);
        match self.journal.serving {
            Side::Source => assert_eq!(self.source.read_only, self.operators_read_only, "fence left behind"),
            Side::Target => {
                assert!(self.sealed, "not sealed");
                assert_eq!(self.target.log[..self.source.log.len()], self.source.log[..], "lost");
                if self.fenced {
                    assert!(self.source.read_only && self.keeper, "the side that was left isn't fenced");
                }
            }
        }
        let mut writes = self.target.log.clone();
        writes.dedup();
        assert_eq!(writes.len(), self.target.log.len(), "applied twice");
    }
}

fn position(offset: usize) -> ReplicationPosition {
    ReplicationPosition {
        gtids: GtidSet::empty(Flavor::MySql),
        coordinates: BinlogPosition { file: "bin.000001".into(), offset: offset as u64 },
    }
}

fn simulate(seed: u64) -> (Side, usize) {
    let mut world = World::new(seed);
    let mut cutovers = 0;
    while world.journal.serving == Side::Source && cutovers < 4 {
        cutovers += 1;
        let plan = world.plan();
        if world.journal.unfinished.is_none() && !world.unfence_later {
            world.run(&plan.clone(), begin(plan));
        }
        world.settle_and_check();
        world.faults = true;
    }
    (world.journal.serving, cutovers)
}

/// Prints the seed of a world that went wrong.
fn seeded(seed: u64) -> (Side, usize) {
    std::panic::catch_unwind(|| simulate(seed)).unwrap_or_else(|cause| {
        eprintln!("cutover simulation failed with seed {seed:#x}");
        std::panic::resume_unwind(cause)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn no_crash_and_no_failure_loses_a_write_or_lets_two_write(seed in any::<u64>()) {
        seeded(seed);
    }
}

#[test]
fn most_worlds_reach_the_target_and_some_are_undone_first() {
    let ends: Vec<_> = (0..300).map(seeded).collect();
    let switched = ends.iter().filter(|(serving, _)| *serving == Side::Target).count();
    let undone_first = ends.iter().filter(|(_, cutovers)| *cutovers > 1).count();
    assert!(switched > 200 && undone_first > 50, "{switched} {undone_first}");
}

#[test]
fn without_faults_every_step_comes_in_its_order() {
    let mut world = World::new(7);
    (world.faults, world.fenced) = (false, true);
    let mut plan = world.plan();
    plan.fenced = true;
    let mut next = begin(plan.clone());
    let mut names = Vec::new();
    while let (state, Some(effect)) = next {
        names.push(effect.name());
        let event = if matches!(effect, Effect::AskVerdict) {
            Event::Verdict(Verdict::Equal { rows: 9 })
        } else {
            world.works(&plan, &effect)
        };
        next = step(state, event);
    }
    assert_eq!(next.0, State::Ended(Outcome::Switched));
    assert_eq!(
        names,
        [
            "journal started",
            "prepare",
            "inspect",
            "journal fenced",
            "close",
            "drain",
            "fence",
            "position",
            "wait",
            "verdict",
            "reverse",
            "position",
            "journal switched",
            "swap",
            "open",
            "keep fence",
            "settle",
            "let go",
            "seal",
            "journal finished"
        ]
    );
}

#[test]
fn an_abort_undoes_exactly_what_was_done() {
    // Fails at the named effect; the undo is what follows.
    let check = |at: &str, undo: &[&str]| {
        let mut world = World::new(7);
        (world.faults, world.fenced) = (false, true);
        let mut plan = world.plan();
        (plan.fenced, plan.open_transactions) = (true, OpenTransactions::Abort);
        let mut next = begin(plan.clone());
        let mut undone = Vec::new();
        let mut failed = false;
        while let (state, Some(effect)) = next {
            let event = if failed {
                undone.push(effect.name());
                world.works(&plan, &effect)
            } else if effect.name() == at {
                failed = true;
                Event::Failed("no".into())
            } else if matches!(effect, Effect::AskVerdict) {
                Event::Verdict(Verdict::Equal { rows: 9 })
            } else {
                world.works(&plan, &effect)
            };
            next = step(state, event);
        }
        assert_eq!(next.0, State::Ended(Outcome::Aborted), "{at}");
        assert_eq!(undone, undo, "{at}");
    };
    check("journal started", &["journal aborted"]);
    check("inspect", &["let go", "journal aborted"]);
    check("journal fenced", &["let go", "journal aborted"]);
    check("drain", &["open", "let go", "journal aborted"]);
    check("fence", &["unfence", "open", "let go", "journal aborted"]);
    check("wait", &["unfence", "open", "let go", "journal aborted"]);
    check("journal switched", &["unfence", "open", "let go", "journal aborted"]);
}

#[test]
fn a_rollback_takes_the_old_fence_off_before_it_swaps() {
    let found = FenceBefore { read_only: false, super_read_only: Some(false) };
    let plan = Plan {
        id: super::phase::CutoverId(2),
        from: Side::Target,
        to: Side::Source,
        fenced: true,
        open_transactions: OpenTransactions::Abort,
        release: Some(found),
    };
    let (state, effect) = resume(plan, Stage::Switched);
    assert_eq!(effect, Some(Effect::Fence));
    let (state, effect) = step(state, Event::Done);
    assert_eq!(effect, Some(Effect::Release(found)));
    let (state, effect) = step(state, Event::Failed("unreachable".into()));
    assert_eq!(effect, Some(Effect::Release(found)), "tried again");
    assert_eq!(step(state, Event::Done).1, Some(Effect::Swap));
}

#[test]
fn a_write_past_the_fence_is_waited_for_before_the_point_of_no_return() {
    let mut world = World::new(7);
    let mut plan = world.plan();
    plan.fenced = false;
    let mut next = begin(plan);
    // The source moves once more after its position was read.
    let mut positions = [5, 6, 6].into_iter();
    let mut waited = Vec::new();
    let switched_at = loop {
        let (state, Some(effect)) = next else { panic!("it ended early") };
        let event = match effect {
            Effect::ReadPosition => Event::Position(position(positions.next().unwrap())),
            Effect::WaitApplied(until) => {
                waited.push(until.coordinates.offset);
                Event::Done
            }
            Effect::AskVerdict => Event::Verdict(Verdict::Equal { rows: 1 }),
            Effect::StartReverse => Event::Note(String::new()),
            Effect::Record(Entry::Switched { position, .. }) => break position.coordinates.offset,
            _ => Event::Done,
        };
        next = step(state, event);
    };
    assert_eq!((waited, switched_at), (vec![5, 6], 6));
}
