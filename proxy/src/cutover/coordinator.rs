//! Cutovers as the rest of the proxy sees them: start one, look at them, take up what a crash left.
//!
//! One at a time, each in a task of its own that no dropped admin client can cancel. What may start is decided by
//! [`super::checks`], what happens next by [`super::step`], and [`super::run`] carries it out.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::progress::{Phase, Repaired};
use config::{CutoverConfig, FencePolicy, Side, TableName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::checks::{self, DryRunRow};
use super::journal::{CutoverRow, Journal, JournalState, Record};
use super::phase::{CutoverId, Direction, Plan};
use super::port::{PortError, Replication};
use super::run::{self, Run};
use super::step::{Stage, begin, resume};
use crate::backend::Business;
use crate::backend::fence::{Fence, FenceBefore, keeper};
use crate::route::gate::Gate;
use crate::route::table::RouteTable;
use crate::session::registry::SessionRegistry;

/// How long a statement against a backend may take outside the pause.
pub(super) const BACKEND_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to give a backend back.
const UNFENCE_EVERY: Duration = Duration::from_secs(1);

/// What a coordinator works with.
#[allow(missing_debug_implementations, reason = "it holds a trait object")]
pub struct CutoverParts {
    /// The open journal.
    pub journal: Journal,
    /// The route, built with the side that the journal says serves.
    pub routes: Arc<RouteTable>,
    /// The gate in front of it.
    pub gate: Arc<Gate>,
    /// The live sessions.
    pub registry: Arc<SessionRegistry>,
    /// Replication from the serving side to the other.
    pub replication: Arc<dyn Replication>,
    /// `[cutover]`
    pub config: CutoverConfig,
    /// `migration.schemas`
    pub schemas: Vec<String>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// CUTOVER or ROLLBACK CUTOVER.
    pub direction: Direction,
    /// Stands in for `cutover.pause_ms` this once.
    pub timeout: Option<Duration>,
    /// WITHOUT ROLLBACK: the operator knows that there will be no way back.
    pub without_rollback: bool,
}

/// Every reason why a cutover doesn't start. Nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is refused: {}", listed(.reasons))]
pub struct Refused {
    /// In sentences.
    pub reasons: Vec<String>,
}

fn refused(reason: String) -> Refused {
    Refused { reasons: vec![reason] }
}

fn listed(reasons: &[String]) -> String {
    match reasons {
        [only] => only.clone(),
        many => {
            let numbered = many.iter().enumerate().map(|(i, reason)| format!("({}) {reason}", i + 1));
            numbered.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Runs cutovers, one at a time.
#[allow(missing_debug_implementations, reason = "it holds a trait object")]
pub struct Coordinator {
    pub(super) journal: Arc<Mutex<Journal>>,
    pub(super) routes: Arc<RouteTable>,
    pub(super) gate: Arc<Gate>,
    pub(super) registry: Arc<SessionRegistry>,
    pub(super) replication: Arc<dyn Replication>,
    pub(super) config: CutoverConfig,
    source_fence: Arc<Fence>,
    target_fence: Arc<Fence>,
    /// [`IDLE`], or what is under way.
    running: AtomicU8,
    repairing: AtomicBool,
    unfencing: AtomicBool,
    keeper: Mutex<Option<Keeper>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

const IDLE: u8 = 0;
const CUTTING_OVER: u8 = 1;
const ROLLING_BACK: u8 = 2;
/// FINISH or ABANDON MIGRATION.
const ENDING: u8 = 3;

/// Says that a cutover is under way for as long as it lives.
struct Running(Arc<Coordinator>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(IDLE, Ordering::SeqCst);
    }
}

/// The task that keeps a fence.
#[derive(Debug)]
struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Says that rows of the target are being repaired for as long as it lives.
struct Repairing(Arc<Coordinator>);

impl Drop for Repairing {
    fn drop(&mut self) {
        self.0.repairing.store(false, Ordering::SeqCst);
    }
}

impl Coordinator {
    /// A coordinator. Call [`Coordinator::recover`] before the first client is let in.
    #[must_use]
    pub fn new(parts: CutoverParts) -> Arc<Self> {
        let fence = |side| {
            let backend = parts.routes.backend(side);
            let schemas = backend.names.schemas(parts.schemas.iter().map(String::as_str));
            let business = Business { schemas, named: parts.config.fence_accounts.clone() };
            Arc::new(Fence::new(backend.config.clone(), parts.config.fence, business))
        };
        Arc::new(Self {
            source_fence: fence(Side::Source),
            target_fence: fence(Side::Target),
            journal: Arc::new(Mutex::new(parts.journal)),
            routes: parts.routes,
            gate: parts.gate,
            registry: parts.registry,
            replication: parts.replication,
            config: parts.config,
            running: AtomicU8::new(IDLE),
            repairing: AtomicBool::new(false),
            unfencing: AtomicBool::new(false),
            keeper: Mutex::new(None),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Takes up what the journal says, before any client is let in: undoes a cutover that didn't reach the point of
    /// no return, rolls one forward that did, and fences the backend that was left behind. A backend that can't be
    /// reached doesn't hold the start up: it is tried again in the background.
    pub async fn recover(self: &Arc<Self>) {
        let state = self.state();
        if let Some((id, side, before)) = state.fence_left.clone() {
            self.unfence_later(id, side, before);
        }
        if matches!(self.replication.status().phase, Phase::Finished | Phase::Abandoned) {
            // FINISH or ABANDON MIGRATION may not have come to its end.
            if let Err(refused) = self.release_other_side(&state).await {
                tracing::error!(area = "cutover", "{}", refused.reasons.join("; "));
            }
            self.replication.unwatch();
            return;
        }
        if let Some((side, before)) = state.fenced {
            // The fence of a server that was restarted while we were away comes first (invariant 2).
            self.fence_again(side, before).await;
        }
        self.watch_left();
        if state.unfinished.is_some() {
            self.take_up().await;
        }
    }

    /// What others write on the side that was left is watched, as long as the migration lasts.
    pub(super) fn watch_left(&self) {
        let Some(left) = self.state().left else { return };
        if let Err(error) = self.replication.watch(left.side, &left.since) {
            tracing::error!(area = "stray", "what others write on the {} isn't watched: {error}", left.side);
        }
    }

    /// Moves the application to the other side; returns when that is done or undone.
    ///
    /// Cancel safety: dropping it only stops the waiting; the cutover goes on.
    pub async fn cutover(self: &Arc<Self>, asked: Asked) -> Result<CutoverRow, Refused> {
        let what = match asked.direction {
            Direction::Forward => CUTTING_OVER,
            Direction::Rollback => ROLLING_BACK,
        };
        let running = self.begin(what)?;
        // A repair says that it runs before it looks for a cutover, and a cutover the other way round, so at least
        // one of two that begin at once sees the other.
        if self.repairing.load(Ordering::SeqCst) {
            return Err(refused("a REPAIR is running; wait for its end".to_owned()));
        }
        let this = Arc::clone(self);
        let whole = self.tasks.spawn(async move {
            let _running = running;
            this.clear_unfinished().await?;
            let found = checks::all(&this, asked).await;
            let reasons: Vec<String> =
                found.rows.into_iter().filter(|row| !row.ok).map(|row| row.note).collect();
            if !reasons.is_empty() {
                return Err(Refused { reasons });
            }
            let pause = asked.timeout.unwrap_or(Duration::from_millis(this.config.pause_ms));
            let row = this.carry_out(pause, found.way_back).await;
            row.map_err(|why| refused(format!("it could not be begun: {why}")))
        });
        match whole.await {
            Ok(row) => row,
            Err(_) => Err(refused("the cutover ended in a bug; see the log".to_owned())),
        }
    }

    fn begin(self: &Arc<Self>, what: u8) -> Result<Running, Refused> {
        match self.running.compare_exchange(IDLE, what, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ok(Running(Arc::clone(self))),
            Err(_) => Err(refused(checks::ANOTHER.to_owned())),
        }
    }

    /// Every check that a cutover begins with, and what it would meet. Touches nothing.
    pub async fn dry_run(self: &Arc<Self>, asked: Asked) -> Vec<DryRunRow> {
        checks::dry_run(self, asked).await
    }

    /// FINISH MIGRATION while the target serves, ABANDON MIGRATION while the source does: nothing follows the side that
    /// serves any more. The other side stays as it is, read-only where a cutover made it so, and isn't watched any more.
    ///
    /// Cancel safety: dropping it only stops the waiting.
    pub async fn end_migration(self: &Arc<Self>, serving: Side) -> Result<(), Refused> {
        let running = self.begin(ENDING)?;
        let this = Arc::clone(self);
        let whole = self.tasks.spawn(async move {
            let _running = running;
            this.clear_unfinished().await?;
            let state = this.state();
            if state.serving != serving {
                return Err(refused(format!("the {} serves", state.serving)));
            }
            if state.unfinished.is_some() || this.unfencing() {
                return Err(refused("the last cutover isn't finished yet; see SHOW EVENTS".to_owned()));
            }
            let ended = match serving {
                Side::Target => this.replication.finish().await,
                Side::Source => this.replication.abandon().await,
            };
            ended.map_err(|error| refused(error.to_string()))?;
            this.release_other_side(&state).await
        });
        whole.await.unwrap_or_else(|_| Err(refused("it ended in a bug; see the log".to_owned())))
    }

    async fn release_other_side(self: &Arc<Self>, state: &JournalState) -> Result<(), Refused> {
        let Some(last) = state.history.last().filter(|_| state.fenced.is_some() || state.left.is_some())
        else {
            return Ok(());
        };
        let released = run::append(self, Record::Released { id: last.id }).await;
        released.map_err(|error| refused(error.to_string()))?;
        self.let_fence_go().await;
        self.replication.unwatch();
        match &state.fenced {
            Some((side, FenceBefore { accounts: Some(accounts), .. })) => tracing::info!(
                area = "cutover",
                "{} account(s) stay locked on the {side}, which isn't watched any more; ALTER USER … ACCOUNT UNLOCK there gives \
                 them back: {}",
                accounts.len(),
                checks::listed(accounts.iter().map(ToString::to_string))
            ),
            Some((side, _)) => tracing::info!(
                area = "cutover",
                "the {side} stays read-only and isn't watched any more; SET GLOBAL read_only = OFF there gives it back"
            ),
            None => tracing::info!(area = "cutover", "the {} isn't watched any more", state.serving.other()),
        }
        Ok(())
    }

    /// REPAIR, which only writes to the side that doesn't serve: no cutover runs at the same time.
    ///
    /// Cancel safety: dropping it only stops the waiting; the repair goes on.
    pub async fn repair(
        self: &Arc<Self>,
        table: Option<TableName>,
        dry_run: bool,
    ) -> Result<Vec<Repaired>, PortError> {
        if dry_run {
            return self.replication.repair(table, true).await;
        }
        if self.repairing.swap(true, Ordering::SeqCst) {
            return Err(PortError("another REPAIR is running; wait for its end".to_owned()));
        }
        let repairing = Repairing(Arc::clone(self));
        if self.running.load(Ordering::SeqCst) != IDLE {
            return Err(PortError("a cutover is under way; wait for its end".to_owned()));
        }
        // invariant 2: behind a swap replication may not have turned around yet, and would write to the side that serves.
        if self.state().unfinished.is_some() {
            return Err(PortError("the last cutover isn't finished yet; see SHOW EVENTS".to_owned()));
        }
        let this = Arc::clone(self);
        let whole = self.tasks.spawn(async move {
            let _repairing = repairing;
            tokio::select! {
                repaired = this.replication.repair(table, false) => repaired,
                () = this.stop.cancelled() => Err(PortError("Changeover is leaving".to_owned())),
            }
        });
        whole.await.unwrap_or_else(|_| Err(PortError("the repair ended in a bug; see the log".to_owned())))
    }

    /// The cutovers, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<CutoverRow> {
        self.state().history
    }

    /// The side that serves, as the journal says.
    #[must_use]
    pub fn serving(&self) -> Side {
        self.lock_journal().state().serving
    }

    /// The side that doesn't serve, and how it was before a cutover fenced it.
    #[must_use]
    pub(crate) fn fenced(&self) -> Option<(Side, FenceBefore)> {
        self.state().fenced
    }

    /// True while a cutover is under way, in either direction.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        self.under_way().is_some()
    }

    /// The cutover that is under way.
    #[must_use]
    pub fn under_way(&self) -> Option<Direction> {
        match self.running.load(Ordering::SeqCst) {
            CUTTING_OVER => Some(Direction::Forward),
            ROLLING_BACK => Some(Direction::Rollback),
            _ => None,
        }
    }

    /// True where an abort could not give the serving backend back yet.
    #[must_use]
    pub fn unfencing(&self) -> bool {
        self.unfencing.load(Ordering::SeqCst)
    }

    /// Waits for a cutover that is under way, then ends the background tasks. The fence stays.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn fence(&self, side: Side) -> &Arc<Fence> {
        match side {
            Side::Source => &self.source_fence,
            Side::Target => &self.target_fence,
        }
    }

    pub(super) fn lock_journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> JournalState {
        self.lock_journal().state().clone()
    }

    /// Sets the fence of the side that doesn't serve once more, and keeps it.
    pub(super) async fn fence_again(self: &Arc<Self>, side: Side, before: FenceBefore) {
        let ours = |id| self.registry.is_ours(side, id);
        if let Err(error) = self.fence(side).set(&before, &ours, BACKEND_WITHIN).await {
            tracing::warn!(area = "cutover", "the {side} can't be fenced yet: {error}");
        }
        let way_back = self.state().way_back;
        self.keep_fence(side, before, way_back).await;
    }

    /// What connections that the fence doesn't hold write in spite of.
    pub(super) fn fence_word(&self) -> &'static str {
        if self.config.fence == FencePolicy::Accounts { "the locked accounts" } else { "read_only" }
    }

    fn plan(&self, id: CutoverId, from: Side, release: Option<FenceBefore>, way_back: bool) -> Plan {
        Plan {
            id,
            from,
            to: from.other(),
            fenced: self.config.fence != FencePolicy::None,
            open_transactions: self.config.open_transactions,
            release,
            way_back,
        }
    }

    /// Runs the machine to its end. Says why where not even the start could be journalled.
    async fn carry_out(self: &Arc<Self>, pause: Duration, way_back: bool) -> Result<CutoverRow, String> {
        let state = self.state();
        let (id, from) = (state.next_id(), state.serving);
        let release = state.fenced.and_then(|(side, before)| (side != from).then_some(before));
        let plan = self.plan(id, from, release, way_back);
        let this = Arc::clone(self);
        let run = self.tasks.spawn(async move {
            let run = Run::new(&this, plan.clone(), Some(pause));
            run.run(begin(plan)).await
        });
        let ran = run.await;
        if ran.is_err() {
            // A bug in the machine must not leave the gate closed: what the journal says is carried out, as after
            // a crash.
            tracing::error!(area = "cutover", "cutover {id} ended in a bug; going by the journal");
            self.take_up().await;
            self.gate.open();
            self.routes.prepare(None);
        }
        let row = self.state().history.into_iter().rfind(|row| row.id == id);
        row.ok_or_else(|| ran.ok().flatten().unwrap_or_else(|| "the log says why".to_owned()))
    }

    /// Carries on from the journal's last record.
    /// Returns what failed.
    async fn take_up(self: &Arc<Self>) -> Option<String> {
        let state = self.state();
        let unfinished = state.unfinished?;
        let way_back = unfinished.stage == Stage::Switched && state.way_back;
        let mut plan = self.plan(unfinished.id, unfinished.from, unfinished.release, way_back);
        // What counts is what that cutover did, not what the configuration says by now.
        plan.fenced = unfinished.before.is_some();
        tracing::warn!(
            area = "cutover",
            "cutover {} had not ended; {}",
            unfinished.id,
            if unfinished.stage == Stage::Switched { "it is rolled forward" } else { "it is undone" }
        );
        let run = Run::new(self, plan.clone(), None);
        run.run(resume(plan, unfinished.stage)).await
    }

    /// An end whose record could not be written is written now, so that a new cutover may begin.
    async fn clear_unfinished(self: &Arc<Self>) -> Result<(), Refused> {
        if self.state().unfinished.is_none() {
            return Ok(());
        }
        let failed = self.take_up().await;
        match self.state().unfinished {
            None => Ok(()),
            Some(unfinished) => Err(refused(format!(
                "cutover {} isn't finished yet: {}",
                unfinished.id,
                failed.as_deref().unwrap_or("the log says why")
            ))),
        }
    }

    /// Starts the task that keeps `side` fenced, in place of the one before. With `applied_to` it lets rows be applied.
    pub(super) async fn keep_fence(self: &Arc<Self>, side: Side, before: FenceBefore, applied_to: bool) {
        self.let_fence_go().await;
        let (stop, fence) = (self.stop.child_token(), Arc::clone(self.fence(side)));
        let stopped = stop.clone();
        let registry = Arc::clone(&self.registry);
        let task = self.tasks.spawn(async move {
            let ours = |id| registry.is_ours(side, id);
            keeper::keep(&fence, &before, applied_to, &ours, &stopped).await;
        });
        *self.lock_keeper() = Some(Keeper { stop, task });
    }

    /// Stops the task that keeps a fence, and waits for its end: what it was about to set isn't set any more.
    pub(super) async fn let_fence_go(&self) {
        let keeper = self.lock_keeper().take();
        if let Some(Keeper { stop, task }) = keeper {
            stop.cancel();
            drop(task.await);
        }
    }

    fn lock_keeper(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries, for as long as it takes, to give `side` back as it was, and journals when that is done.
    pub(super) fn unfence_later(self: &Arc<Self>, id: CutoverId, side: Side, before: FenceBefore) {
        self.unfencing.store(true, Ordering::SeqCst);
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                match this.fence(side).unset(&before, BACKEND_WITHIN).await {
                    Ok(()) => break,
                    Err(error) => tracing::error!(
                        area = "cutover",
                        "the {side} is still fenced after cutover {id} was undone: {error}"
                    ),
                }
                tokio::select! {
                    () = this.stop.cancelled() => return,
                    () = tokio::time::sleep(UNFENCE_EVERY) => {}
                }
            }
            if let Err(error) = run::append(&this, Record::Unfenced { id }).await {
                tracing::error!(area = "cutover", "{error}");
            }
            this.unfencing.store(false, Ordering::SeqCst);
            tracing::info!(area = "cutover", "the {side} takes writes again after cutover {id}");
        });
    }
}
