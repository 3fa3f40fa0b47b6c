//! `(state, event) → (state, effect)`: what a cutover does next. No clock, no tokio, no globals, so that a seeded
//! simulation can crash it between any two effects (see the tests in `simulation.rs`).
//!
//! The three kinds of state are three types. [`Before`] the point of no return is the only one that has
//! [`Before::abort`]; [`After`] it has no way to say "undo", so a mistake of that kind doesn't compile.
//!
//! ```text
//! Before  started (· unlock) · prepare · inspect · journal fenced · close · drain (· kill · drain) · fence
//!         · position · wait · verdict · position (moved: wait again)
//!         · hold · activate · reverse · position (moved: undo) · journal switched
//!            │ failed                                                 │ done
//!            ▼                                                        ▼
//! Undoing unfence · open · turn back · let go (· lock again)       After release · swap · open · keep · seal · settle
//!         · journal aborted                                              · let go · journal finished
//! ```

use config::OpenTransactions;
use config::progress::{ReplicationPosition, Verdict};

use super::phase::{Effect, Entry, Event, Outcome, Plan};
use crate::backend::fence::FenceBefore;

/// Where a cutover stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// `from` serves, and every failure undoes what was done.
    Before(Before),
    /// Undoing, in the reverse order.
    Undoing(Undoing),
    /// The journal says `switched`: every failure rolls forward.
    After(After),
    /// Nothing is left to do.
    Ended(Outcome),
    /// The journal can't say on which side of the point of no return this is; the process has to end.
    Halted,
}

/// The effect in flight before the point of no return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Announce,
    Unlock,
    Prepare,
    Inspect,
    Intend,
    Close,
    Drain,
    Kill,
    DrainRest,
    Fence,
    Position,
    Wait,
    Verdict,
    Confirm,
    Hold,
    Activate,
    Reverse,
    Recheck,
    Switch,
}

/// Before the point of no return.
#[derive(Debug, Clone, PartialEq)]
pub struct Before {
    plan: Plan,
    doing: Doing,
    /// What `Inspect` found; from `Intend` on the journal holds it too.
    found: Option<FenceBefore>,
    position: Option<ReplicationPosition>,
    /// Where `to` is followed from behind the swap.
    reverse: Option<ReplicationPosition>,
    owed: Owed,
}

/// What an abort has to undo. A thing is owed from the moment its effect is *asked for*: whether one that failed
/// or timed out took effect can't be known, and each undo is harmless where there is nothing to undo.
#[derive(Debug, Clone, Default, PartialEq)]
struct Owed {
    unfence: Option<FenceBefore>,
    open: bool,
    turn_back: bool,
    let_go: bool,
    /// Accounts on `to` that were unlocked for the sessions to come.
    lock_again: Option<FenceBefore>,
    record: bool,
}

/// Undoing.
#[derive(Debug, Clone, PartialEq)]
pub struct Undoing {
    reason: String,
    owed: Owed,
    fence_left: bool,
    doing: Undo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Unfence,
    Open,
    UnfenceLater,
    TurnBack,
    LetGo,
    LockAgain,
    Record,
}

/// The effect in flight after the point of no return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forward {
    /// After a restart only: the fence is set again before anything else.
    Refence,
    Release,
    Swap,
    Open,
    Keep,
    Seal,
    Settle,
    LetGo,
    Finish,
}

/// After the point of no return.
#[derive(Debug, Clone, PartialEq)]
pub struct After {
    plan: Plan,
    doing: Forward,
    /// After a restart there are no sessions to wait for and the route was built as the journal says.
    restarted: bool,
    /// The other direction of replication began. Without that the cutover stays unfinished in the journal.
    sealed: bool,
    sessions_moved: u64,
}

/// What a restart finds unfinished in the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Announced; nothing was touched.
    Started,
    /// `from` was found like this and may have been fenced.
    Fenced(FenceBefore),
    /// Past the point of no return.
    Switched,
}

/// Begins a cutover.
#[must_use]
pub fn begin(plan: Plan) -> (State, Option<Effect>) {
    let before = Before {
        plan,
        doing: Doing::Announce,
        found: None,
        position: None,
        reverse: None,
        owed: Owed::default(),
    };
    // Owed already: a write that failed may still have reached the disk.
    before.ask(Doing::Announce, Effect::Record(Entry::Started))
}

/// Takes up what a crash left. The gate is new and open, no session lives, and the route was built as the journal
/// says; what a crash can leave behind is a fence.
#[must_use]
pub fn resume(plan: Plan, stage: Stage) -> (State, Option<Effect>) {
    match stage {
        Stage::Started | Stage::Fenced(_) => {
            let unfence = if let Stage::Fenced(found) = stage { Some(found) } else { None };
            // How far replication came towards the other direction isn't journalled: turning back is harmless.
            let lock_again = plan.locked_out();
            let owed =
                Owed { unfence, open: false, turn_back: true, let_go: false, lock_again, record: true };
            let reason = "Changeover ended before the point of no return; the restart undid it".to_owned();
            Undoing { reason, owed, fence_left: false, doing: Undo::Unfence }.next()
        }
        Stage::Switched => {
            let fenced = plan.fenced;
            let after =
                After { plan, doing: Forward::Refence, restarted: true, sealed: false, sessions_moved: 0 };
            if fenced { after.ask(Forward::Refence, Effect::Fence) } else { after.follow(Forward::Refence) }
        }
    }
}

/// The next state, and what to do now. `None` once it has ended.
#[must_use]
pub fn step(state: State, event: Event) -> (State, Option<Effect>) {
    match state {
        State::Before(before) => before.on(event),
        State::Undoing(undoing) => undoing.on(event),
        State::After(after) => after.on(event),
        State::Ended(_) | State::Halted => (state, None),
    }
}

impl Before {
    fn ask(mut self, doing: Doing, effect: Effect) -> (State, Option<Effect>) {
        match &effect {
            Effect::Record(Entry::Started) => self.owed.record = true,
            Effect::Unlock(found) => self.owed.lock_again = Some(found.clone()),
            Effect::Prepare => self.owed.let_go = true,
            Effect::CloseGate => self.owed.open = true,
            Effect::Fence => self.owed.unfence.clone_from(&self.found),
            Effect::Hold => self.owed.turn_back = true,
            _ => {}
        }
        self.doing = doing;
        (State::Before(self), Some(effect))
    }

    /// Undoes what was done. Exists here only: past the point of no return there is no such call.
    fn abort(self, reason: String) -> (State, Option<Effect>) {
        Undoing { reason, owed: self.owed, fence_left: false, doing: Undo::Unfence }.next()
    }

    fn on(mut self, event: Event) -> (State, Option<Effect>) {
        match (self.doing, event) {
            (Doing::Switch, Event::Uncertain(why)) => (State::Halted, Some(Effect::Halt(why))),
            (_, Event::Failed(why) | Event::Uncertain(why)) => self.abort(why),
            // Sessions log in on `to` while traffic flows, so what keeps their accounts out there has to go first.
            (Doing::Announce, Event::Done) => match self.plan.locked_out() {
                Some(found) => self.ask(Doing::Unlock, Effect::Unlock(found)),
                None => self.ask(Doing::Prepare, Effect::Prepare),
            },
            (Doing::Unlock, Event::Done) => self.ask(Doing::Prepare, Effect::Prepare),
            (Doing::Prepare, Event::Done) if self.plan.fenced => self.ask(Doing::Inspect, Effect::Inspect),
            (Doing::Prepare, Event::Done) => self.ask(Doing::Close, Effect::CloseGate),
            // The intent is durable before the deed, and before the pause begins.
            (Doing::Inspect, Event::Inspected(found)) => {
                self.found = Some(found.clone());
                self.ask(Doing::Intend, Effect::Record(Entry::Fenced(found)))
            }
            (Doing::Intend, Event::Done) => self.ask(Doing::Close, Effect::CloseGate),
            (Doing::Close, Event::Done) => self.ask(Doing::Drain, Effect::Drain),
            (Doing::Drain | Doing::DrainRest, Event::Done) if self.plan.fenced => {
                self.ask(Doing::Fence, Effect::Fence)
            }
            (Doing::Drain | Doing::DrainRest, Event::Done) => self.ask(Doing::Position, Effect::ReadPosition),
            (Doing::Drain, Event::DrainDeadline(held)) => match self.plan.open_transactions {
                OpenTransactions::Kill => self.ask(Doing::Kill, Effect::KillHolders),
                OpenTransactions::Abort => self.abort(outlived(held)),
            },
            (Doing::Kill, Event::Killed(_)) => self.ask(Doing::DrainRest, Effect::Drain),
            (Doing::DrainRest, Event::DrainDeadline(held)) => self.abort(format!(
                "{held} session(s) went on after they were told to end; SHOW SESSIONS lists them"
            )),
            // The final position is read behind the fence and never before it (invariant 1).
            (Doing::Fence, Event::Done) => self.ask(Doing::Position, Effect::ReadPosition),
            (Doing::Position, Event::Position(position)) => {
                self.position = Some(position.clone());
                self.ask(Doing::Wait, Effect::WaitApplied(position))
            }
            (Doing::Wait, Event::Done) => self.ask(Doing::Verdict, Effect::AskVerdict),
            (Doing::Verdict, Event::Verdict(verdict)) => match objection(&verdict) {
                None => self.ask(Doing::Confirm, Effect::ReadPosition),
                Some(why) => self.abort(why),
            },
            // An account that may write in spite of the fence would be lost in silence: where `from` has moved on, what
            // it wrote is waited for and compared as well, until it stands still or time is up.
            (Doing::Confirm, Event::Position(position)) if self.position.as_ref() == Some(&position) => {
                self.ask(Doing::Hold, Effect::Hold)
            }
            (Doing::Confirm, Event::Position(position)) => {
                self.position = Some(position.clone());
                self.ask(Doing::Wait, Effect::WaitApplied(position))
            }
            // From here on nothing is applied to `to`: what acts on its own there acts on the application's rows alone,
            // and everything that replication wrote is before the position that it is followed from.
            (Doing::Hold, Event::Done) => self.ask(Doing::Activate, Effect::Activate),
            (Doing::Activate, Event::Done) if self.plan.way_back => {
                self.ask(Doing::Reverse, Effect::StartReverse)
            }
            (Doing::Activate, Event::Done) => self.ask(Doing::Recheck, Effect::ReadPosition),
            (Doing::Reverse, Event::Position(start)) => {
                self.reverse = Some(start);
                self.ask(Doing::Recheck, Effect::ReadPosition)
            }
            (Doing::Recheck, Event::Position(position)) if self.position.as_ref() == Some(&position) => {
                let reverse = self.reverse.clone();
                self.ask(Doing::Switch, Effect::Record(Entry::Switched { position, reverse }))
            }
            (Doing::Recheck, Event::Position(_)) => {
                let from = self.plan.from;
                self.abort(format!(
                    "tables of the migration on the {from} were written to at the last moment, past the proxy and its \
                     fence; keep such writers away (SHOW ACCOUNTS names accounts that no fence holds) and try again"
                ))
            }
            (Doing::Switch, Event::Done) => self.commit(),
            (doing, event) => self.abort(format!(
                "{} during {doing:?} was not expected, which is a bug in Changeover",
                kind(&event)
            )),
        }
    }

    /// The journal holds `switched`. From here on there is only forward.
    fn commit(self) -> (State, Option<Effect>) {
        let after = After {
            plan: self.plan,
            doing: Forward::Refence,
            restarted: false,
            sealed: false,
            sessions_moved: 0,
        };
        after.follow(Forward::Refence)
    }
}

impl Undoing {
    /// The next thing that is owed. The fence goes before the gate, so that no client meets a read-only server.
    fn next(mut self) -> (State, Option<Effect>) {
        let (doing, effect) = if let (Some(found), false) = (&self.owed.unfence, self.fence_left) {
            (Undo::Unfence, Effect::Unfence(found.clone()))
        } else if std::mem::take(&mut self.owed.open) {
            (Undo::Open, Effect::OpenGate)
        } else if let Some(found) = self.owed.unfence.take() {
            (Undo::UnfenceLater, Effect::UnfenceLater(found))
        } else if std::mem::take(&mut self.owed.turn_back) {
            (Undo::TurnBack, Effect::TurnBack)
        } else if std::mem::take(&mut self.owed.let_go) {
            (Undo::LetGo, Effect::LetGo)
        } else if let Some(found) = self.owed.lock_again.take() {
            (Undo::LockAgain, Effect::LockAgain(found))
        } else if std::mem::take(&mut self.owed.record) {
            let entry = Entry::Aborted { reason: self.reason.clone(), fence_left: self.fence_left };
            (Undo::Record, Effect::Record(entry))
        } else {
            return (State::Ended(Outcome::Aborted), None);
        };
        self.doing = doing;
        (State::Undoing(self), Some(effect))
    }

    fn on(mut self, event: Event) -> (State, Option<Effect>) {
        let failed = matches!(event, Event::Failed(_) | Event::Uncertain(_));
        match self.doing {
            // A backend that can't be given back in time doesn't keep the gate closed: traffic goes on, and the
            // fence is taken off as soon as it can be.
            Undo::Unfence if failed => self.fence_left = true,
            Undo::Unfence => self.owed.unfence = None,
            // An abort that isn't on the disk is undone once more after a restart, which changes nothing.
            Undo::Open
            | Undo::UnfenceLater
            | Undo::TurnBack
            | Undo::LetGo
            | Undo::LockAgain
            | Undo::Record => {}
        }
        self.next()
    }
}

impl After {
    fn ask(mut self, doing: Forward, effect: Effect) -> (State, Option<Effect>) {
        self.doing = doing;
        (State::After(self), Some(effect))
    }

    fn on(mut self, event: Event) -> (State, Option<Effect>) {
        let failed = matches!(event, Event::Failed(_) | Event::Uncertain(_));
        if let Event::Settled(moved) = event {
            self.sessions_moved = moved;
        }
        match (self.doing, failed) {
            // `to` must take writes before it gets any.
            (Forward::Release, true) => match self.plan.release.clone() {
                Some(found) => self.ask(Forward::Release, Effect::Release(found)),
                None => self.follow(Forward::Release),
            },
            (Forward::Seal, failed) => {
                self.sealed = !failed;
                self.follow(Forward::Seal)
            }
            (Forward::Finish, true) => (State::Ended(Outcome::Switched), None),
            (doing, _) => self.follow(doing),
        }
    }

    /// What comes behind a step that is done.
    fn follow(self, done: Forward) -> (State, Option<Effect>) {
        match done {
            // What `Unlock` did is still so, unless a restart came in between.
            Forward::Refence => match self.plan.release.clone() {
                Some(found) if self.restarted || found.accounts.is_none() => {
                    self.ask(Forward::Release, Effect::Release(found))
                }
                _ => self.follow(Forward::Release),
            },
            Forward::Release => self.ask(Forward::Swap, Effect::Swap),
            Forward::Swap => self.ask(Forward::Open, Effect::OpenGate),
            Forward::Open if self.plan.fenced => self.ask(Forward::Keep, Effect::KeepFence),
            Forward::Open => self.follow(Forward::Keep),
            Forward::Keep => self.ask(Forward::Seal, Effect::Seal),
            Forward::Seal if self.restarted => self.follow(Forward::LetGo),
            Forward::Seal => self.ask(Forward::Settle, Effect::Settle),
            Forward::Settle => self.ask(Forward::LetGo, Effect::LetGo),
            // Unfinished in the journal: the next start, or the next cutover, seals and finishes.
            Forward::LetGo if !self.sealed => (State::Ended(Outcome::Switched), None),
            Forward::LetGo => {
                let entry = Entry::Finished { sessions_moved: self.sessions_moved };
                self.ask(Forward::Finish, Effect::Record(entry))
            }
            Forward::Finish => (State::Ended(Outcome::Switched), None),
        }
    }
}

fn outlived(held: usize) -> String {
    format!(
        "{held} session(s) were still in a transaction, or held something that can't be moved, at the drain \
         deadline; SHOW SESSIONS lists them. End them, or set cutover.open_transactions = \"kill\""
    )
}

fn objection(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Equal { .. } => None,
        Verdict::Different { rows } => Some(format!("{rows} row(s) differ; SHOW DIFFERENCES lists them")),
        Verdict::Unknown { why } => Some(format!("the verifier can't say that both sides are equal: {why}")),
    }
}

/// The kind of an event, without what it carries.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Done => "done",
        Event::Inspected(_) => "inspected",
        Event::DrainDeadline(_) => "drain deadline",
        Event::Killed(_) => "killed",
        Event::Position(_) => "position",
        Event::Verdict(_) => "verdict",
        Event::Settled(_) => "settled",
        Event::Failed(_) => "failed",
        Event::Uncertain(_) => "uncertain",
    }
}
