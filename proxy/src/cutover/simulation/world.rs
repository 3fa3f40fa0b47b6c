//! The world that is simulated: what an effect does in it, what can befall it, and what has to hold.

use config::progress::{ReplicationPosition, Verdict};
use config::{AccountName, BinlogPosition, Flavor, GtidSet, OpenTransactions, Side};

use crate::backend::fence::FenceBefore;
use crate::cutover::journal::{JournalState, Record};
use crate::cutover::phase::{Effect, Entry, Event, Outcome, Plan};
use crate::cutover::step::{Stage, State, resume, step};

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
pub(super) enum Fate {
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
    /// The application's account is, so that nobody logs in with it.
    locked: bool,
    /// A statement that fences it and that the server hasn't carried out yet.
    pending_fence: bool,
    /// Triggers and events are there.
    acts: bool,
    /// Every write, in its order: the application's and replication's.
    log: Vec<u32>,
    /// The same as a set, by number.
    holds: Vec<bool>,
    /// Writes of others while it didn't serve, which nobody has acknowledged. They are in no log of ours.
    stray: usize,
}

impl Backend {
    fn write(&mut self, write: u32) {
        let index = write as usize;
        if self.holds.len() <= index {
            self.holds.resize(index + 1, false);
        }
        // invariant 1
        assert!(!std::mem::replace(&mut self.holds[index], true), "write {write} was applied twice");
        self.log.push(write);
    }
}

/// Replication, as the replicator keeps it.
struct Replication {
    // Durable, in migration.json and in the schema `changeover`.
    reads: Side,
    /// How much of the read side's log is applied.
    applied: usize,
    /// Prepared by a cutover under way.
    next: Option<usize>,
    /// There is no leg for the side that serves.
    over: bool,
    // In memory.
    running: bool,
}

/// Backends, replication, a disk and what Changeover has in memory.
pub(super) struct World {
    pub(super) seed: u64,
    dice: Dice,
    pub(super) faults: bool,
    // On disks: outlives a crash of Changeover.
    pub(super) journal: JournalState,
    source: Backend,
    target: Backend,
    replication: Replication,
    /// Or the operator's own lock.
    operators_read_only: bool,
    pub(super) fenced: bool,
    /// The fence locks accounts.
    by_accounts: bool,
    // In memory: gone after a crash.
    /// No client is let in before a restart took up what the journal says.
    listening: bool,
    gate_closed: bool,
    permits: usize,
    route: Side,
    keeper: Option<Side>,
    unfence_later: bool,
    /// Writes that were acknowledged, wherever.
    acknowledged: u32,
    pub(super) rollbacks: usize,
    pub(super) trace: Vec<(&'static str, Option<Fate>)>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let operators_read_only = dice.one_in(10);
        let fenced = !dice.one_in(6);
        let by_accounts = dice.one_in(2);
        let source = Backend {
            read_only: operators_read_only && !by_accounts,
            locked: operators_read_only && by_accounts,
            acts: true,
            ..Backend::default()
        };
        Self {
            seed,
            faults: true,
            journal: JournalState::new(),
            source,
            target: Backend::default(),
            replication: Replication {
                reads: Side::Source,
                applied: 0,
                next: None,
                over: false,
                running: true,
            },
            operators_read_only,
            fenced,
            by_accounts,
            listening: true,
            gate_closed: false,
            permits: 0,
            route: Side::Source,
            keeper: None,
            unfence_later: false,
            acknowledged: 0,
            rollbacks: 0,
            trace: Vec::new(),
            dice,
        }
    }

    /// The plan of the next cutover, as the coordinator makes it.
    pub(super) fn plan(&mut self) -> Plan {
        let kill = self.dice.one_in(2);
        let from = self.journal.serving;
        Plan {
            id: self.journal.next_id(),
            from,
            to: from.other(),
            fenced: self.fenced,
            open_transactions: if kill { OpenTransactions::Kill } else { OpenTransactions::Abort },
            release: self.journal.fenced.clone().and_then(|(side, before)| (side != from).then_some(before)),
            way_back: !self.dice.one_in(10),
        }
    }

    fn backend(&mut self, side: Side) -> &mut Backend {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    /// What everyone else does between two effects.
    pub(super) fn time_passes(&mut self) {
        for _ in 0..self.dice.next() % 4 {
            match self.dice.next() % 7 {
                0 if !self.gate_closed && self.listening => self.permits += 1,
                1 => self.permits = self.permits.saturating_sub(1),
                2 if self.permits > 0 => self.application_writes(),
                3 => {
                    let side = if self.dice.one_in(2) { Side::Source } else { Side::Target };
                    self.somebody_writes_past_the_proxy(side);
                }
                4 => self.pending_fences(),
                5 => {
                    if let Some(side) = self.keeper {
                        self.fence(side);
                    }
                }
                _ => self.replicate(1),
            }
        }
        if self.unfence_later && self.journal.unfinished.is_none() && self.dice.one_in(2) {
            self.finish_unfence_later();
        }
    }

    fn pending_fences(&mut self) {
        for side in [Side::Source, Side::Target] {
            if std::mem::take(&mut self.backend(side).pending_fence) {
                self.fence(side);
            }
        }
    }

    fn fence(&mut self, side: Side) {
        let by_accounts = self.by_accounts;
        let backend = self.backend(side);
        if by_accounts {
            backend.locked = true;
        } else {
            backend.read_only = true;
        }
    }

    fn finish_unfence_later(&mut self) {
        let left = self.journal.fence_left.clone();
        if let Some((id, side, before)) = left {
            self.unfence(side, &before);
            self.journal.apply(&Record::Unfenced { id }).unwrap();
        }
        self.unfence_later = false;
    }

    fn application_writes(&mut self) {
        let side = self.route;
        // invariant 2: the journal alone decides who takes the application's writes.
        assert_eq!(side, self.journal.serving, "a write went to the {side}");
        if self.backend(side).read_only {
            return;
        }
        let acknowledged = self.acknowledged;
        let backend = self.backend(side);
        // invariant 1: everything acknowledged before, on whichever side, is there.
        assert_eq!(backend.log.len(), acknowledged as usize, "lost at the swap to the {side}");
        assert!(backend.acts, "triggers don't act where the application writes");
        backend.write(acknowledged);
        self.acknowledged += 1;
    }

    fn somebody_writes_past_the_proxy(&mut self, side: Side) {
        let serving = self.journal.serving;
        if self.backend(side).read_only || self.backend(side).locked {
            return;
        }
        if side == Side::Target && self.journal.history.is_empty() {
            return; // Nobody has a reason to, before the first cutover, and the fence isn't there to stop them.
        }
        if side != serving && (!self.fenced || self.by_accounts) {
            // Nothing keeps them away, or not while accounts are unlocked for the sessions to come: an alarm.
            self.backend(side).stray += 1;
            return;
        }
        if side != serving && self.journal.fenced.is_none() {
            return;
        }
        // invariant 2: nothing is acknowledged by the side that doesn't serve.
        assert_eq!(side, serving, "the {side} took a write while the {serving} serves");
        let acknowledged = self.acknowledged;
        self.backend(side).write(acknowledged);
        self.acknowledged += 1;
    }

    fn replicate(&mut self, many: usize) {
        if !self.replication.running {
            return;
        }
        let reads = self.replication.reads;
        for _ in 0..many {
            let applied = self.replication.applied;
            let Some(write) = self.backend(reads).log.get(applied).copied() else { return };
            let written = self.backend(reads.other());
            assert!(!written.acts, "triggers act a second time on what is applied");
            written.write(write);
            self.replication.applied += 1;
        }
    }

    /// A leg begins, or goes on: nothing may act on its own where it writes.
    fn run_leg(&mut self) {
        if self.replication.over || self.replication.running {
            return;
        }
        let writes = self.replication.reads.other();
        self.backend(writes).acts = false;
        self.replication.running = true;
    }

    fn seal(&mut self, serving: Side) {
        if self.replication.reads != serving && !self.replication.over {
            self.replication.running = false;
            match self.replication.next.take() {
                Some(start) => (self.replication.reads, self.replication.applied) = (serving, start),
                None => self.replication.over = true,
            }
        }
        self.run_leg();
    }

    fn unfence(&mut self, side: Side, before: &FenceBefore) {
        let backend = self.backend(side);
        backend.pending_fence = false;
        match &before.accounts {
            Some(ours) => backend.locked &= ours.is_empty(),
            None => backend.read_only = before.read_only,
        }
    }

    /// Changeover dies and starts again: memory is gone, the route is what the journal says.
    fn crash(&mut self) -> (State, Option<Effect>) {
        self.trace.push(("crash", None));
        self.listening = false;
        self.gate_closed = false;
        self.permits = 0;
        self.keeper = None;
        self.replication.running = false;
        self.route = self.journal.serving;
        self.unfence_later = self.journal.fence_left.is_some();
        if let Some((side, _)) = self.journal.fenced.clone() {
            assert_ne!(side, self.journal.serving, "the side that serves counts as fenced");
            self.fence(side);
            self.keeper = Some(side);
        }
        match self.taken_up() {
            None => {
                self.resume_after_restart();
                (State::Ended(Outcome::Aborted), None)
            }
            Some((plan, stage)) => resume(plan, stage),
        }
    }

    /// What the coordinator takes up, of a crash or of an end that couldn't be journalled.
    fn taken_up(&mut self) -> Option<(Plan, Stage)> {
        let unfinished = self.journal.unfinished.clone()?;
        let mut plan = self.plan();
        (plan.id, plan.from, plan.to) = (unfinished.id, unfinished.from, unfinished.to);
        plan.fenced = unfinished.before.is_some();
        plan.release = unfinished.release;
        plan.way_back = unfinished.stage == Stage::Switched && self.journal.way_back;
        Some((plan, unfinished.stage))
    }

    fn resume_after_restart(&mut self) {
        if self.replication.reads == self.journal.serving {
            self.replication.next = None;
            self.run_leg();
        }
    }

    fn fate(&mut self, effect: &Effect) -> Fate {
        if !self.faults || !self.dice.one_in(24) {
            return Fate::Works;
        }
        let may_fail = !matches!(
            effect,
            Effect::CloseGate
                | Effect::OpenGate
                | Effect::Swap
                | Effect::LetGo
                | Effect::LockAgain(_)
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
            Entry::Switched { reverse, .. } => {
                assert!(self.gate_closed && self.permits == 0, "switched with permits out");
                assert!(!self.replication.running, "switched while rows are applied");
                Record::Switched {
                    id,
                    at_ms: 0,
                    source_position: None,
                    target_position: None,
                    note: String::new(),
                    way_back: reverse.is_some(),
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
        let written = self.journal.apply(&record);
        if let (Ok(()), Entry::Switched { position, .. }) = (written, entry) {
            self.sides_change(plan, usize::try_from(position.coordinates.offset).unwrap());
        }
    }

    /// What was written past the proxy on `from` behind its last look is on that side alone, and known as such. On `to` it
    /// is what is followed from there.
    fn sides_change(&mut self, plan: &Plan, ended: usize) {
        let fenced = self.fenced;
        let from = self.backend(plan.from);
        let behind = from.log.split_off(ended);
        assert!(behind.is_empty() || !fenced, "written behind the fence");
        for write in &behind {
            from.holds[*write as usize] = false;
        }
        from.stray += behind.len();
        self.acknowledged -= u32::try_from(behind.len()).unwrap();
        for _ in 0..std::mem::take(&mut self.backend(plan.to).stray) {
            let acknowledged = self.acknowledged;
            self.backend(plan.to).write(acknowledged);
            self.acknowledged += 1;
        }
    }

    /// The effect in the world, and its answer where all goes well.
    pub(super) fn works(&mut self, plan: &Plan, effect: &Effect) -> Event {
        match effect {
            Effect::Record(entry) => self.record(plan, entry),
            Effect::Inspect => {
                let (read_only, locked) = (self.backend(plan.from).read_only, self.backend(plan.from).locked);
                let open = || if locked { Vec::new() } else { vec![AccountName::default()] };
                let accounts = self.by_accounts.then(open);
                return Event::Inspected(FenceBefore { read_only, super_read_only: None, accounts });
            }
            Effect::CloseGate => self.gate_closed = true,
            Effect::Drain if self.permits > 0 && self.dice.one_in(2) => {
                return Event::DrainDeadline(self.permits);
            }
            Effect::Drain => self.permits = 0,
            Effect::KillHolders => return Event::Killed(std::mem::take(&mut self.permits) as u64),
            Effect::Fence => self.fence(plan.from),
            Effect::ReadPosition => return Event::Position(position(self.backend(plan.from).log.len())),
            Effect::WaitApplied(until) => {
                let until = usize::try_from(until.coordinates.offset).unwrap();
                self.replicate(until.saturating_sub(self.replication.applied));
                if self.replication.applied < until {
                    return Event::Failed("replication doesn't run".into());
                }
            }
            Effect::AskVerdict if self.dice.one_in(20) => {
                return Event::Verdict(Verdict::Different { rows: 1 });
            }
            Effect::AskVerdict => return Event::Verdict(Verdict::Equal { rows: 1 }),
            Effect::Hold => {
                self.replication.next = None;
                self.replication.running = false;
            }
            Effect::Activate => {
                self.backend(plan.to).acts = true;
                if !plan.way_back && self.backend(plan.to).stray > 0 {
                    return Event::Failed("somebody else has written there".into());
                }
            }
            Effect::StartReverse if self.backend(plan.to).stray > 0 => {
                return Event::Failed("somebody else has written there".into());
            }
            Effect::StartReverse => {
                let start = self.backend(plan.to).log.len();
                self.replication.next = Some(start);
                return Event::Position(position(start));
            }
            Effect::TurnBack => {
                self.replication.next = None;
                self.run_leg();
            }
            Effect::Unfence(found) => self.unfence(plan.from, found),
            Effect::UnfenceLater(_) => self.unfence_later = true,
            Effect::OpenGate => self.gate_closed = false,
            Effect::Unlock(found) | Effect::Release(found) => {
                self.keeper = None;
                self.unfence(plan.to, found);
            }
            Effect::LockAgain(_) => {
                self.keeper = Some(plan.to);
                self.fence(plan.to);
            }
            Effect::Prepare => {
                assert!(!self.backend(plan.to).locked, "sessions can't log in on the {}", plan.to)
            }
            Effect::Swap => {
                // An end that couldn't be journalled is carried out again while traffic flows, and changes nothing.
                assert!(self.permits == 0 || self.route == plan.to, "swapped with permits out");
                assert!(!self.backend(plan.to).locked, "the {} lets nobody in", plan.to);
                self.route = plan.to;
            }
            Effect::KeepFence => {
                self.keeper = Some(plan.from);
                self.fence(plan.from);
            }
            Effect::Settle => return Event::Settled(3),
            Effect::Seal => self.seal(plan.to),
            Effect::LetGo | Effect::Halt(_) => {}
        }
        Event::Done
    }

    /// `None`: it crashed.
    fn carry_out(&mut self, plan: &Plan, effect: &Effect) -> Option<Event> {
        let fate = self.fate(effect);
        self.trace.push((effect.name(), Some(fate)));
        match fate {
            Fate::Works if matches!(effect, Effect::Halt(_)) => None,
            Fate::Works => Some(self.works(plan, effect)),
            Fate::Fails => {
                if matches!(effect, Effect::TurnBack) {
                    // It goes on all the same; only what was prepared couldn't be thrown away.
                    self.run_leg();
                }
                Some(Event::Failed("refused".into()))
            }
            Fate::ReplyLost => {
                self.works(plan, effect);
                Some(if matches!(effect, Effect::Record(_)) {
                    Event::Uncertain("fsync".into())
                } else {
                    Event::Failed("late".into())
                })
            }
            Fate::TakesEffectLater => {
                self.backend(plan.from).pending_fence = true;
                Some(Event::Failed("late".into()))
            }
            Fate::CrashBefore => None,
            Fate::CrashAfter => {
                self.works(plan, effect);
                None
            }
        }
    }

    pub(super) fn run(&mut self, mut plan: Plan, mut next: (State, Option<Effect>)) {
        for turn in 0.. {
            assert!(turn < 1000, "it goes round in circles");
            self.faults &= turn < 300;
            self.time_passes();
            next = match next {
                (state, Some(effect)) => match self.carry_out(&plan, &effect) {
                    Some(event) => step(state, event),
                    None => {
                        if let Some((taken_up, _)) = self.taken_up() {
                            plan = taken_up;
                        }
                        self.crash()
                    }
                },
                (_, None) => {
                    if !self.listening {
                        self.resume_after_restart();
                    }
                    self.listening = true;
                    return;
                }
            };
        }
    }

    /// Whatever happened, once nothing fails any more everything is where it belongs.
    pub(super) fn settle_and_check(&mut self) {
        self.faults = false;
        if let Some((plan, stage)) = self.taken_up() {
            // As the next CUTOVER does.
            self.run(plan.clone(), resume(plan, stage));
        }
        if self.unfence_later {
            self.finish_unfence_later();
        }
        self.pending_fences();
        assert!(!self.gate_closed, "the gate stayed closed");
        assert_eq!(self.journal.unfinished, None);
        assert_eq!(self.journal.fence_left, None);
        assert_eq!(self.route, self.journal.serving);
        let serving = self.journal.serving;
        let (operators, fenced) = (self.operators_read_only && serving == Side::Source, self.fenced);
        let is_fenced = |backend: &Backend| backend.read_only || backend.locked;
        assert_eq!(is_fenced(self.backend(serving)), operators, "fence left behind");
        if !self.journal.history.is_empty() && self.journal.fenced.is_some() && fenced {
            assert_eq!(self.keeper, Some(serving.other()));
            assert!(is_fenced(self.backend(serving.other())), "the side that was left isn't fenced");
        }
        if !self.replication.over {
            assert!(self.replication.reads == serving && self.replication.running, "nothing follows");
            self.replicate(usize::MAX);
            // invariant 4
            assert_eq!(self.source.log.len(), self.target.log.len(), "the two aren't equal");
        }
        let acknowledged = self.acknowledged as usize;
        assert_eq!(self.backend(serving).log.len(), acknowledged, "lost");
        assert!(self.backend(serving).acts, "nothing acts on its own on the side that serves");
    }

    /// An operator has seen the stray writes and had the rows repaired.
    pub(super) fn acknowledge(&mut self) {
        let serving = self.journal.serving;
        assert_eq!(self.backend(serving).stray, 0, "stray writes on the {serving}, which serves");
        if self.dice.one_in(2) {
            self.backend(serving.other()).stray = 0;
        }
    }

    /// Whether the next one is possible at all.
    pub(super) fn may_turn(&self) -> bool {
        !self.replication.over && (self.journal.serving == Side::Source || !self.operators_read_only)
    }
}

pub(super) fn position(offset: usize) -> ReplicationPosition {
    ReplicationPosition {
        gtids: GtidSet::empty(Flavor::MySql),
        coordinates: BinlogPosition { file: String::new(), offset: offset as u64 },
    }
}
