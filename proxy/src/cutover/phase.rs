//! The nouns of a cutover: what it wants, what it may ask for, what it can be told.
//!
//! [`super::step`] holds the machine that connects them, [`super::coordinator`] carries the effects out.

use std::fmt;

use config::progress::{ReplicationPosition, Verdict};
use config::{OpenTransactions, Side};
use serde::{Deserialize, Serialize};

use crate::backend::fence::FenceBefore;

/// Counts the cutovers of one state_dir, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CutoverId(pub u64);

impl fmt::Display for CutoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which way a cutover leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// CUTOVER: from the source to the target.
    Forward,
    /// ROLLBACK CUTOVER: from the target back to the source.
    Rollback,
}

impl Direction {
    /// The one that begins at this side.
    #[must_use]
    pub fn begins_at(from: Side) -> Self {
        match from {
            Side::Source => Direction::Forward,
            Side::Target => Direction::Rollback,
        }
    }

    /// The side that serves before it.
    #[must_use]
    pub fn from(self) -> Side {
        match self {
            Direction::Forward => Side::Source,
            Direction::Rollback => Side::Target,
        }
    }

    /// The word in SHOW CUTOVERS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Rollback => "rollback",
        }
    }

    /// The statement that asks for it.
    #[must_use]
    pub fn statement(self) -> &'static str {
        match self {
            Direction::Forward => "CUTOVER",
            Direction::Rollback => "ROLLBACK CUTOVER",
        }
    }
}

/// What a cutover was asked to do. Both directions are the same machine with the sides exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its number.
    pub id: CutoverId,
    /// The side that serves.
    pub from: Side,
    /// The side that is to serve.
    pub to: Side,
    /// Whether `from` is fenced at all (`cutover.fence`).
    pub fenced: bool,
    /// What happens to transactions that outlive the drain deadline.
    pub open_transactions: OpenTransactions,
    /// How `to` was before an earlier cutover fenced it, where one did: a rollback takes that fence off again.
    pub release: Option<FenceBefore>,
    /// Whether `to` is followed into `from` behind the swap, so that there is a way back.
    pub way_back: bool,
}

impl Plan {
    /// The fence of an earlier cutover on `to` that keeps the sessions' accounts out there.
    #[must_use]
    pub fn locked_out(&self) -> Option<FenceBefore> {
        self.release.clone().filter(|found| found.accounts.is_some())
    }
}

/// What the machine asks for, one at a time. Every effect is answered by exactly one [`Event`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append to the journal and fsync. Answer: `Done`, `Failed`, or `Uncertain` where it can't be known whether
    /// the record is on the disk.
    Record(Entry),
    /// Unlock the accounts that the fence of an earlier cutover locked on `to`, so that sessions can log in there. Until the swap
    /// that side's log is watched for what others write through them. Answer: `Done` or `Failed`.
    Unlock(FenceBefore),
    /// Ask sessions to dial and restore themselves on `to`, and give them a bounded time. Answer: `Done`.
    Prepare,
    /// Read how `from` is now, and make sure that it can be fenced. Answer: `Inspected`.
    Inspect,
    /// Close the gate. The pause and its deadline start here. Answer: `Done`.
    CloseGate,
    /// Wait for the permits, until the drain deadline. Answer: `Done` or `DrainDeadline`.
    Drain,
    /// Close the sessions that hold permits. Answer: `Killed`.
    KillHolders,
    /// Fence `from`, as the journal says. Answer: `Done` or `Failed`, after which it may or may not be fenced.
    Fence,
    /// Read the position at which `from` ended. Answer: `Position`.
    ReadPosition,
    /// Wait until exactly that position is applied on `to`. Answer: `Done`.
    WaitApplied(ReplicationPosition),
    /// Compare what changed since it was last compared. Answer: `Verdict`.
    AskVerdict,
    /// Nothing is applied to `to` any more. Answer: `Done` or `Failed`.
    Hold,
    /// Make what acts on its own on `to`. Answer: `Done` or `Failed`.
    Activate,
    /// Take the position from which `to` is followed behind the swap, and make it durable. Answer: `Position`.
    StartReverse,

    /// Give `from` back as it was found. Answer: `Done` or `Failed`.
    Unfence(FenceBefore),
    /// Keep trying to give `from` back, in the background. Answer: `Done`.
    UnfenceLater(FenceBefore),
    /// Open the gate; the pause ends here. Answer: `Done`.
    OpenGate,
    /// Let replication go on from `from` to `to`. Answer: `Done` or `Failed`.
    TurnBack,
    /// Let go of what sessions prepared and did not use. Answer: `Done`.
    LetGo,
    /// Lock again on `to` what `Unlock` unlocked, now or as soon as it can be, and watch that it stays so. Answer: `Done`.
    LockAgain(FenceBefore),

    /// Take the fence of an earlier cutover off `to`. Answer: `Done` or `Failed`.
    Release(FenceBefore),
    /// One store: statements go to `to`. Answer: `Done`.
    Swap,
    /// Watch that `from` stays fenced, from now on. Answer: `Done`.
    KeepFence,
    /// Wait, for a bounded time, until every session has moved. Answer: `Settled`.
    Settle,
    /// End the replication of this direction for good, and begin that of the other one. Answer: `Done` or `Failed`.
    Seal,

    /// The journal's disk can't say what it holds: end the process, so that a restart reads what is there.
    Halt(String),
}

/// What the journal is asked to hold. The file's own records add times and numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A cutover began.
    Started,
    /// `from` was like this, and is about to be fenced.
    Fenced(FenceBefore),
    /// The point of no return.
    Switched {
        /// Where `from` ended.
        position: ReplicationPosition,
        /// Where `to` ended, and is followed from; `None` where there is no way back.
        reverse: Option<ReplicationPosition>,
    },
    /// Everything after the swap is done.
    Finished {
        /// Sessions that moved.
        sessions_moved: u64,
    },
    /// Undone.
    Aborted {
        /// Why, in a sentence.
        reason: String,
        /// `from` could not be given back yet; somebody has to go on trying.
        fence_left: bool,
    },
}

/// The answer to an effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is done.
    Done,
    /// Answer to `Inspect`.
    Inspected(FenceBefore),
    /// Answer to `Drain`: that many permits outlived the deadline.
    DrainDeadline(usize),
    /// Answer to `KillHolders`: that many sessions were closed.
    Killed(u64),
    /// Answer to `ReadPosition` and `StartReverse`.
    Position(ReplicationPosition),
    /// Answer to `AskVerdict`.
    Verdict(Verdict),
    /// Answer to `Settle`: that many sessions moved.
    Settled(u64),
    /// It failed, or the pause's deadline passed while it ran. Nothing is known of how far it came.
    Failed(String),
    /// Answer to `Record`: nobody can say whether it is on the disk.
    Uncertain(String),
}

/// How a cutover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is under way.
    Running,
    /// `to` serves.
    Switched,
    /// It was undone; `from` serves as before.
    Aborted,
}

impl Outcome {
    /// The word in SHOW CUTOVERS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Switched => "switched",
            Outcome::Aborted => "aborted",
        }
    }
}

impl Effect {
    /// The step's word in logs and in the rows of a dry run.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Record(Entry::Started) => "journal started",
            Effect::Record(Entry::Fenced(_)) => "journal fenced",
            Effect::Record(Entry::Switched { .. }) => "journal switched",
            Effect::Record(Entry::Finished { .. }) => "journal finished",
            Effect::Record(Entry::Aborted { .. }) => "journal aborted",
            Effect::Unlock(_) => "unlock",
            Effect::Prepare => "prepare",
            Effect::Inspect => "inspect",
            Effect::CloseGate => "close",
            Effect::Drain => "drain",
            Effect::KillHolders => "kill",
            Effect::Fence => "fence",
            Effect::ReadPosition => "position",
            Effect::WaitApplied(_) => "wait",
            Effect::AskVerdict => "verdict",
            Effect::Hold => "hold",
            Effect::Activate => "activate",
            Effect::StartReverse => "reverse",
            Effect::TurnBack => "turn back",
            Effect::Unfence(_) | Effect::UnfenceLater(_) => "unfence",
            Effect::OpenGate => "open",
            Effect::LetGo => "let go",
            Effect::LockAgain(_) => "lock again",
            Effect::Release(_) => "release",
            Effect::Swap => "swap",
            Effect::KeepFence => "keep fence",
            Effect::Settle => "settle",
            Effect::Seal => "seal",
            Effect::Halt(_) => "halt",
        }
    }
}
