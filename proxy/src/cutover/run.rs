//! Carries out the effects that [`super::step`] asks for, keeps the deadlines of the pause, and says what it does.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use config::progress::ReplicationPosition;
use config::{PastFence, Side, failpoint};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::coordinator::{BACKEND_WITHIN, Coordinator};
use super::journal::{JournalError, Record, shorten};
use super::phase::{Effect, Entry, Event, Outcome, Plan};
use super::port::PortError;
use super::step::{State, step};
use crate::backend::fence::FenceBefore;

/// How long the preparation, outside the pause, waits while sessions get ready one after the other.
const PREPARE_LONGEST: Duration = Duration::from_secs(30);
/// How long it waits for a lag to go down behind that.
const PREPARE_WITHIN: Duration = Duration::from_secs(2);
/// Once no session has come a step nearer for so long, the others aren't waited for. It is longer than the silence
/// that a session waits for after a statement that wrote.
const PREPARE_STANDSTILL: Duration = Duration::from_millis(2_200);
/// How long the verifier is in a hurry before the gate closes. It is work for both servers, so it isn't while sessions get
/// ready; it has gathered touched keys for less than this.
const HURRY_FOR: Duration = Duration::from_millis(300);
/// A lag of this size is hardly felt in the pause.
const LAG_GOOD_MS: u64 = 20;
/// How long the row of a cutover waits for sessions to move, behind the pause.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// The undo's part of the pause, at most.
const UNDO_RESERVE_MAX: Duration = Duration::from_millis(500);
/// What SHOW CUTOVERS says where that is so.
const NO_WAY_BACK: &str = "nothing follows the new side into the old one: there is no way back";
/// How often replication is asked for what has to be done in the end.
const TRIES: usize = 3;
/// How long replication may take over what is asked of it outside the pause.
const REPLICATION_WITHIN: Duration = Duration::from_secs(40);

/// The deadlines of one pause. All count from the closing of the gate.
#[derive(Debug, Clone, Copy)]
struct Pause {
    closed: Instant,
    /// Permits are waited for until then.
    drain_until: Instant,
    /// What isn't journalled by then is undone.
    work_until: Instant,
    /// The gate is open by then.
    open_by: Instant,
}

impl Pause {
    fn new(closed: Instant, pause: Duration) -> Self {
        // A little less than promised, for what the opening itself takes.
        let open_by = closed + pause - (pause / 20).min(Duration::from_millis(20));
        // The undo has to take the fence off while the gate is still closed, so it has a part of the pause.
        let work_until = open_by - UNDO_RESERVE_MAX.min(pause / 5);
        Self { closed, drain_until: closed + pause / 2, work_until, open_by }
    }
}

/// One cutover under way.
pub(super) struct Run<'a> {
    by: &'a Arc<Coordinator>,
    plan: Plan,
    /// How long the gate may be closed; `None` where a restart takes up what a crash left.
    pause: Option<Duration>,
    deadlines: Option<Pause>,
    pause_ms: Option<u64>,
    killed: u64,
    moved_before: u64,
    position: Option<ReplicationPosition>,
    unfence_later: Option<FenceBefore>,
}

impl<'a> Run<'a> {
    pub(super) fn new(by: &'a Arc<Coordinator>, plan: Plan, pause: Option<Duration>) -> Self {
        Self {
            by,
            plan,
            pause,
            deadlines: None,
            pause_ms: None,
            killed: 0,
            moved_before: 0,
            position: None,
            unfence_later: None,
        }
    }

    /// Goes on until nothing is left to do. Returns what failed first, if anything did.
    pub(super) async fn run(mut self, mut next: (State, Option<Effect>)) -> Option<String> {
        let id = self.plan.id;
        let mut failed = None;
        while let (state, Some(effect)) = next {
            let began = Instant::now();
            let name = effect.name();
            let event = self.carry_out(effect).await;
            failpoint::hit_of(if self.pause.is_some() { "cutover.behind" } else { "cutover.again" }, name);
            let ms = began.elapsed().as_millis();
            match &event {
                Event::Failed(why) | Event::Uncertain(why) => {
                    tracing::warn!(area = "cutover", "cutover {id}: {name} failed after {ms} ms: {why}");
                    failed.get_or_insert_with(|| why.clone());
                }
                Event::DrainDeadline(held) => {
                    tracing::warn!(area = "cutover", "cutover {id}: {name}: {held} left after {ms} ms");
                }
                _ => tracing::info!(area = "cutover", "cutover {id}: {name} took {ms} ms"),
            }
            next = step(state, event);
        }
        if let Some(found) = self.unfence_later.take() {
            self.by.unfence_later(id, self.plan.from, found);
        }
        self.say_how_it_ended(&next.0);
        failed
    }

    fn say_how_it_ended(&self, state: &State) {
        let id = self.plan.id;
        let history = self.by.history();
        let reason = history.iter().rfind(|row| row.id == id).map_or("", |row| row.reason.as_str());
        match state {
            State::Ended(Outcome::Switched) => {
                let pause =
                    self.pause_ms.map_or_else(String::new, |ms| format!("; the gate was closed for {ms} ms"));
                tracing::info!(area = "cutover", "cutover {id}: the {} serves{pause}", self.plan.to);
            }
            _ => tracing::warn!(
                area = "cutover",
                "cutover {id} was undone, the {} serves as before: {reason}",
                self.plan.from
            ),
        }
    }

    async fn carry_out(&mut self, effect: Effect) -> Event {
        let by = self.by;
        match effect {
            Effect::Record(entry) => self.record(entry).await,
            Effect::Unlock(found) => {
                // A keeper that is about to lock them again must not do so behind this.
                by.let_fence_go().await;
                done(by.fence(self.plan.to).unset(&found, BACKEND_WITHIN).await)
            }
            Effect::Prepare => self.prepare().await,
            Effect::Inspect => match by.fence(self.plan.from).probe(BACKEND_WITHIN).await {
                Ok(found) => Event::Inspected(found),
                Err(error) => Event::Failed(error.to_string()),
            },
            Effect::CloseGate => {
                by.gate.close();
                self.deadlines = Some(Pause::new(Instant::now(), self.pause.unwrap_or_default()));
                Event::Done
            }
            Effect::Drain => self.drain().await,
            Effect::KillHolders => self.kill_holders().await,
            Effect::Fence => self.fence().await,
            Effect::ReadPosition => self.read_position().await,
            Effect::WaitApplied(position) => {
                let port = Arc::clone(&by.replication);
                let wait = async move { port.wait_applied(&position).await };
                self.asked(&format!("the {} to apply the final position", self.plan.to), wait).await
            }
            Effect::AskVerdict => {
                let port = Arc::clone(&by.replication);
                let verdict = async move { port.verdict().await };
                self.ask("the verifier's verdict", verdict).await.map_or_else(failed, Event::Verdict)
            }
            Effect::Hold => {
                let port = Arc::clone(&by.replication);
                self.asked("replication to end", async move { port.hold().await }).await
            }
            Effect::Activate => {
                let (port, to) = (Arc::clone(&by.replication), self.plan.to);
                let alone = !self.plan.way_back;
                let activate = async move {
                    port.activate(to).await?;
                    // With a way back its start says the same.
                    if alone { port.left_alone().await } else { Ok(()) }
                };
                self.asked(&format!("triggers and events of the {to}"), activate).await
            }
            Effect::StartReverse => {
                let port = Arc::clone(&by.replication);
                let start = async move { port.start_reverse().await };
                self.ask("the start of the way back", start).await.map_or_else(failed, Event::Position)
            }
            Effect::Unfence(found) => done(by.fence(self.plan.from).unset(&found, self.undo_left()).await),
            Effect::UnfenceLater(found) => {
                self.unfence_later = Some(found);
                Event::Done
            }
            effect => self.carry_forward(effect).await,
        }
    }

    /// The effects that can't fail, or are tried again.
    async fn carry_forward(&mut self, effect: Effect) -> Event {
        let by = self.by;
        match effect {
            Effect::OpenGate => {
                by.gate.open();
                self.pause_ms = self.deadlines.take().map(|pause| ceil_ms(pause.closed.elapsed()));
            }
            Effect::LetGo => {
                by.routes.prepare(None);
                by.replication.let_go_of_watch();
            }
            Effect::LockAgain(found) => by.fence_again(self.plan.to, found).await,
            Effect::TurnBack => {
                let port = Arc::clone(&by.replication);
                return self
                    .try_often("replication to go on", || {
                        let port = Arc::clone(&port);
                        async move { port.turn_back().await }
                    })
                    .await;
            }
            Effect::Release(found) => {
                // A keeper that is about to set the fence again must not do so behind its release.
                by.let_fence_go().await;
                let released = by.fence(self.plan.to).unset(&found, BACKEND_WITHIN).await;
                if released.is_err() {
                    sleep(Duration::from_millis(100)).await;
                }
                return done(released);
            }
            Effect::Swap => {
                // invariant 2: nobody holds a permit while the route changes.
                debug_assert!(self.deadlines.is_none() || by.gate.is_closed());
                // Before the first write of the application gets there.
                by.replication.end_watch();
                by.routes.swap(self.plan.to);
            }
            Effect::KeepFence => {
                let Some((from, before)) = by.state().fenced else {
                    return Event::Failed("the journal names no fence, which is a bug".to_owned());
                };
                // Rows that come back have to get in. Where that fails the keeper tries again, and so do the appliers.
                let lowered = if self.plan.way_back {
                    by.fence(from).lower(&before, BACKEND_WITHIN).await
                } else {
                    Ok(())
                };
                by.keep_fence(from, before, self.plan.way_back).await;
                return done(lowered);
            }
            Effect::Settle => return self.settle().await,
            Effect::Seal => {
                by.watch_left();
                return self.seal().await;
            }
            Effect::Halt(why) => {
                tracing::error!(
                    area = "cutover",
                    "the journal can't say whether cutover {} is past its point of no return: {why}. Changeover \
                     ends now, with the gate closed, so that nothing is written to the wrong side. Make room or \
                     mend the disk under state_dir and start it again: it goes by what the journal holds",
                    self.plan.id
                );
                std::process::exit(1);
            }
            other => return Event::Failed(format!("{} has no executor, which is a bug", other.name())),
        }
        Event::Done
    }

    /// Time until what isn't journalled is undone; outside a pause, what a backend is given.
    fn left(&self) -> Duration {
        self.deadlines
            .map_or(BACKEND_WITHIN, |pause| pause.work_until.saturating_duration_since(Instant::now()))
    }

    /// Time until the gate must be open again, and a little where that has passed.
    fn undo_left(&self) -> Duration {
        self.deadlines.map_or(BACKEND_WITHIN, |pause| {
            pause.open_by.saturating_duration_since(Instant::now()).max(Duration::from_millis(20))
        })
    }

    fn late(&self, waiting_for: &str) -> String {
        let pause = self.pause.unwrap_or_default().as_millis();
        format!("waiting for {waiting_for} would have kept the gate closed for longer than {pause} ms")
    }

    /// Asks replication within the pause. In a task of its own, so that a bug over there can't keep the gate closed.
    async fn ask<T: Send + 'static>(
        &self,
        waiting_for: &str,
        answer: impl Future<Output = Result<T, PortError>> + Send + 'static,
    ) -> Result<T, String> {
        let mut task = JoinSet::new();
        task.spawn(answer);
        // Outside the pause there is time: replication ends its batches before it turns around.
        let within = if self.deadlines.is_some() { self.left() } else { REPLICATION_WITHIN };
        match timeout_at(Instant::now() + within, task.join_next()).await {
            Ok(Some(Ok(answer))) => answer.map_err(|error| error.to_string()),
            Ok(_) => Err(format!("{waiting_for} ended in a bug; see the log")),
            Err(_) => Err(self.late(waiting_for)),
        }
    }

    /// The same where the answer is only yes or no.
    async fn asked(
        &self,
        waiting_for: &str,
        answer: impl Future<Output = Result<(), PortError>> + Send + 'static,
    ) -> Event {
        self.ask(waiting_for, answer).await.map_or_else(failed, |()| Event::Done)
    }

    async fn prepare(&mut self) -> Event {
        let (registry, replication) = (&self.by.registry, &self.by.replication);
        self.moved_before = registry.moved_total();
        self.by.routes.prepare(Some(self.plan.to));
        if let Err(error) = replication.watch_ahead() {
            tracing::warn!(area = "cutover", "writes past the proxy are told by the position alone: {error}");
        }
        // Whoever isn't ready by then moves behind the swap, at the price of a longer wait of its own; and a lag that
        // is left is waited for with the gate closed.
        let began = Instant::now();
        let mut steps = (registry.preparations(), Instant::now());
        let mut hurried = None;
        loop {
            let now = Instant::now();
            if registry.preparations() != steps.0 {
                steps = (registry.preparations(), now);
            }
            // Sessions that are busy or pinned get ready when they can, which may be never.
            let all_can = registry.prepared() >= registry.len() || now - steps.1 > PREPARE_STANDSTILL;
            if (all_can || now - began >= PREPARE_LONGEST) && hurried.is_none() {
                replication.hurry();
                hurried = Some(now);
            }
            let caught_up = replication.status().lag_ms.unwrap_or(0) <= LAG_GOOD_MS;
            if let Some(since) = hurried.map(|at| now - at)
                && ((caught_up && since >= HURRY_FOR) || since >= PREPARE_WITHIN)
            {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        Event::Done
    }

    async fn drain(&self) -> Event {
        let until = match self.deadlines {
            // The sessions that were closed get what is left of the pause.
            Some(pause) if self.killed > 0 => pause.work_until,
            Some(pause) => pause.drain_until,
            None => Instant::now() + BACKEND_WITHIN,
        };
        match timeout_at(until, self.by.gate.drained()).await {
            Ok(()) => Event::Done,
            Err(_) => match self.by.gate.outstanding() {
                0 => Event::Done,
                held => Event::DrainDeadline(held),
            },
        }
    }

    /// Fences `from`, and ends what the fence doesn't hold where that is wanted: behind it and before the final position.
    async fn fence(&self) -> Event {
        let (by, from) = (self.by, self.plan.from);
        // Exactly what the journal holds is fenced, since exactly that is taken off by whoever comes after a crash.
        let Some(before) = by.state().unfinished.and_then(|unfinished| unfinished.before) else {
            return Event::Failed("the journal names no fence, which is a bug".to_owned());
        };
        let ours = |id| by.registry.is_ours(from, id);
        match by.fence(from).set(&before, &ours, self.left()).await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(
                area = "cutover",
                "{ended} connection(s) of locked accounts to the {from} were ended"
            ),
            Err(error) => return Event::Failed(error.to_string()),
        }
        if by.config.past_fence != PastFence::Kill {
            return Event::Done;
        }
        match by.fence(from).end_past(&ours, self.left()).await {
            Ok(0) => {}
            Ok(ended) => tracing::warn!(
                area = "cutover",
                "{ended} connection(s) to the {from} that may write in spite of {} were ended",
                by.fence_word()
            ),
            Err(error) => return Event::Failed(error.to_string()),
        }
        Event::Done
    }

    async fn kill_holders(&mut self) -> Event {
        let registry = Arc::clone(&self.by.registry);
        let killed =
            self.ask("sessions to end", async move { Ok(registry.kill_permit_holders().await) }).await;
        match killed {
            Ok(killed) => {
                self.killed = killed as u64;
                Event::Killed(self.killed)
            }
            Err(why) => Event::Failed(why),
        }
    }

    async fn read_position(&mut self) -> Event {
        // invariant 2: behind the closed gate nobody holds a permit, so nothing comes through the proxy any more.
        debug_assert!(self.by.gate.is_closed());
        let port = Arc::clone(&self.by.replication);
        let position = match self.ask("the final position", async move { port.final_position().await }).await
        {
            Ok(position) => position,
            Err(why) => return Event::Failed(why),
        };
        if let Some(before) = self.position.clone().filter(|before| *before != position) {
            if self.others_wrote(&before, &position).await {
                return Event::Position(before);
            }
            tracing::warn!(
                area = "cutover",
                "the {} was written to past the proxy and its fence; that is waited for as well",
                self.plan.from
            );
        }
        self.position = Some(position.clone());
        Event::Position(position)
    }

    /// True where what was written between two positions is no business of this migration. Where that can't be found out
    /// it counts as one.
    async fn others_wrote(&self, before: &ReplicationPosition, now: &ReplicationPosition) -> bool {
        let (port, before, now) = (Arc::clone(&self.by.replication), before.clone(), now.clone());
        let touched = async move { port.touched_behind(&before, &now).await };
        self.ask("what was written behind the final position", touched).await == Ok(0)
    }

    async fn settle(&self) -> Event {
        let until = Instant::now() + SETTLE_WITHIN;
        while self.by.registry.on(self.plan.from) > 0 && Instant::now() < until {
            sleep(Duration::from_millis(2)).await;
        }
        Event::Settled(self.by.registry.moved_total().saturating_sub(self.moved_before))
    }

    async fn seal(&self) -> Event {
        let (port, to) = (Arc::clone(&self.by.replication), self.plan.to);
        let sealed = self.try_often("replication to turn around", || {
            let port = Arc::clone(&port);
            async move { port.seal(to).await }
        });
        match sealed.await {
            Event::Failed(why) => {
                Event::Failed(format!("{why}; the next cutover or the next start of Changeover does it"))
            }
            event => event,
        }
    }

    /// Asks replication for what has to be done in the end.
    async fn try_often<F>(&self, waiting_for: &str, ask: impl Fn() -> F) -> Event
    where
        F: Future<Output = Result<(), PortError>> + Send + 'static,
    {
        let mut why = String::new();
        for _ in 0..TRIES {
            match self.ask(waiting_for, ask()).await {
                Ok(()) => return Event::Done,
                Err(error) => why = error,
            }
            sleep(Duration::from_millis(200)).await;
        }
        Event::Failed(why)
    }

    async fn record(&self, entry: Entry) -> Event {
        let id = self.plan.id;
        let record = match entry {
            Entry::Started => Record::Started { id, at_ms: now_ms(), from: self.plan.from, to: self.plan.to },
            Entry::Fenced(before) => Record::Fenced { id, before },
            Entry::Switched { position, reverse } => {
                if self.left().is_zero() {
                    return Event::Failed(self.late("the journal"));
                }
                // invariant 2: whoever takes the next write is decided here, with no permit out.
                debug_assert!(self.by.gate.is_closed());
                let way_back = reverse.is_some();
                let (ended, begins) = (Some(position.to_string()), reverse.map(|start| start.to_string()));
                let forward = self.plan.from == Side::Source;
                let (source_position, target_position) =
                    if forward { (ended, begins) } else { (begins, ended) };
                let note = if way_back { "" } else { NO_WAY_BACK }.to_owned();
                Record::Switched { id, at_ms: now_ms(), source_position, target_position, note, way_back }
            }
            Entry::Finished { sessions_moved } => Record::Finished {
                id,
                pause_ms: self.pause_ms,
                sessions_moved,
                transactions_killed: self.killed,
            },
            Entry::Aborted { reason, fence_left } => Record::Aborted {
                id,
                at_ms: now_ms(),
                reason: shorten(&reason),
                fence_left,
                pause_ms: self.pause_ms,
                transactions_killed: self.killed,
                source_position: self.position.as_ref().map(ToString::to_string),
            },
        };
        match append(self.by, record).await {
            Ok(()) => Event::Done,
            Err(error @ JournalError::Uncertain { .. }) => Event::Uncertain(error.to_string()),
            Err(error) => Event::Failed(error.to_string()),
        }
    }
}

/// Appends where blocking on the disk is allowed. Not to be given up half-way: only its end says what is on the disk.
pub(super) async fn append(by: &Coordinator, record: Record) -> Result<(), JournalError> {
    let journal = Arc::clone(&by.journal);
    let append = tokio::task::spawn_blocking(move || {
        journal.lock().unwrap_or_else(PoisonError::into_inner).append(&record)
    });
    match append.await {
        Ok(result) => result,
        Err(error) => Err(JournalError::Uncertain {
            path: super::journal::FILE_NAME.to_owned(),
            source: std::io::Error::other(error),
        }),
    }
}

fn done<T>(result: Result<T, impl std::fmt::Display>) -> Event {
    match result {
        Ok(_) => Event::Done,
        Err(error) => Event::Failed(error.to_string()),
    }
}

fn failed(why: String) -> Event {
    Event::Failed(why)
}

fn ceil_ms(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
