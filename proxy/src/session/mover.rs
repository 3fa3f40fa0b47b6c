//! A session's move to another backend: asked for, prepared ahead while traffic flows, and carried out
//! between two statements.
//!
//! The old server is asked for the state only where that can't be noticed: a question of ours would come
//! between a statement and the client's question how it went (SHOW WARNINGS, FOUND_ROWS). So the questions
//! come just before a statement of the client's that asks no such thing, or after a while of silence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{Connection, RestoreError, is_transient};
use super::lexer::Effects;
use super::mapping;
use super::pins::Pins;
use super::registry::Activity;
use super::replay::{Snapshot, ToPrepare};
use super::request::Request;
use super::restoration::{Origin, restore};
use super::state::{Schema, Versions};
use super::surroundings::{Between, LASTING, SystemZone};
use super::task::{End, Session};
use crate::error::ConnectError;
use crate::protocol::command::Command;
use crate::protocol::packet::ErrPacket;
use crate::protocol::packet::ok::StatusFlags;
use crate::route::table::{Epoch, Route};

/// A client that was silent for so long won't ask how its last statement went, unless that left something
/// to ask about.
const SILENCE: Duration = Duration::from_millis(250);
/// The same after a statement that changed rows, whose number is asked for more often (ROW_COUNT).
const SILENCE_AFTER_WRITE: Duration = Duration::from_secs(2);
/// A closed gate, or a backend that couldn't be dialled, is tried again after this.
const RETRY: Duration = Duration::from_millis(20);
const REDIAL: Duration = Duration::from_millis(500);
/// Moves are tried so often before the session is given up.
const ATTEMPTS: u32 = 3;
/// A silent session that found all turns taken looks again after this and up to twice as long, each at its own moment.
const TURN_AGAIN: Duration = Duration::from_millis(50);

/// The connection to the other backend that a session has ready.
pub(super) enum Standby {
    /// None.
    None,
    /// Being dialled.
    Dialling(JoinSet<Result<Connection, ConnectError>>),
    /// Logged in.
    Dialled(Box<Connection>),
    /// Is being given the session's state of a moment ago.
    Restoring(JoinSet<Restoration>),
    /// Has the session's state of a moment ago.
    Restored(Box<Ahead>),
    /// Couldn't be given the state of these versions.
    Refused(Box<(RestoreError, Versions)>),
    /// Couldn't be dialled.
    Failed(ConnectError),
    /// Is to be dialled again at this time.
    Later(Instant),
}

type Restoration = Result<Box<Ahead>, Box<(RestoreError, Versions)>>;

/// A connection with the state of a moment ago.
pub(super) struct Ahead {
    connection: Connection,
    snapshot: Snapshot,
    versions: Versions,
}

impl Standby {
    /// Returns when a dial or a restoration has ended, well or not; never where none is under way.
    ///
    /// Cancel safety: yes.
    pub(super) async fn ended(&mut self) {
        *self = match self {
            Self::Dialling(dial) => Self::of_dial(dial.join_next().await),
            Self::Restoring(restoration) => Self::of_restoration(restoration.join_next().await),
            _ => std::future::pending().await,
        };
    }

    /// Looks, without waiting, whether one has ended.
    fn look(&mut self) {
        let ended = match self {
            Self::Dialling(dial) => dial.try_join_next().map(|ended| Self::of_dial(Some(ended))),
            Self::Restoring(restoration) => {
                restoration.try_join_next().map(|ended| Self::of_restoration(Some(ended)))
            }
            _ => None,
        };
        if let Some(ended) = ended {
            *self = ended;
        }
    }

    fn of_dial(ended: Option<Result<Result<Connection, ConnectError>, JoinError>>) -> Self {
        match ended {
            Some(Ok(Ok(connection))) => Self::Dialled(Box::new(connection)),
            Some(Ok(Err(error))) => Self::Failed(error),
            // A dial that panicked is a bug of ours, and no reason to stop serving.
            Some(Err(_)) | None => Self::Later(Instant::now() + REDIAL),
        }
    }

    fn of_restoration(ended: Option<Result<Restoration, JoinError>>) -> Self {
        match ended {
            Some(Ok(Ok(ahead))) => Self::Restored(ahead),
            Some(Ok(Err(refused))) => Self::Refused(refused),
            Some(Err(_)) | None => Self::Later(Instant::now() + REDIAL),
        }
    }
}

impl Session {
    /// Woken between two statements: does the route, or what is to be prepared, ask for something?
    pub(super) async fn look_at_route(&mut self) -> Result<(), End> {
        let route = self.shared.routes.load_full();
        if route.epoch != self.backend.epoch {
            return Box::pin(self.move_while_idle(&route)).await;
        }
        let wanted = self.shared.routes.preparing().filter(|side| *side != self.backend.side);
        let Some(side) = wanted else {
            self.let_go_of_standby().await;
            self.between = None;
            return Ok(());
        };
        if self.state.pins.contains(Pins::HIDDEN_LOCK) && !self.state.in_transaction() {
            // Whatever let go of it need not have been seen here.
            let _ = Box::pin(self.look_for_locks()).await;
            self.settle();
            self.look_at = Some(Instant::now() + REDIAL);
        }
        self.take_restored();
        match std::mem::replace(&mut self.standby, Standby::None) {
            Standby::None if !self.state.pins.any(Pins::OF_OTHER_SERVER) => self.start_dialling(side),
            Standby::Failed(error) => self.dial_failed(&error),
            Standby::Later(at) if at <= Instant::now() => self.start_dialling(side),
            Standby::Later(at) => {
                self.look_at = Some(at);
                self.standby = Standby::Later(at);
            }
            other => self.standby = other,
        }
        if matches!(self.standby, Standby::Dialled(_)) && !self.holds_permit() && self.state.is_movable() {
            return Box::pin(self.restore_while_silent()).await;
        }
        Ok(())
    }

    /// The questions wait for silence, or for the next statement where the client is likely to look back.
    async fn restore_while_silent(&mut self) -> Result<(), End> {
        let silent_at = self.silent_at();
        if self.state.looks_back {
            return Ok(());
        }
        if Instant::now() < silent_at {
            self.look_at = Some(silent_at.max(Instant::now() + RETRY));
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let Some(_turn) = shared.turns.ask.take() else {
            let own_moment = Duration::from_millis(u64::from(self.registered.entry.id % 50));
            self.look_at = Some(Instant::now() + TURN_AGAIN + own_moment);
            return Ok(());
        };
        if !self.try_enter() {
            self.look_at = Some(Instant::now() + RETRY);
            return Ok(());
        }
        self.note_outcome().await.map_err(|error| Self::backend_end(&error))?;
        let done = self.restore_ahead().await;
        self.settle();
        done
    }

    /// The client may still ask how its last statement went, and a move would have questions of its own.
    pub(super) fn waits_for_client(&self) -> bool {
        let asks = match &self.standby {
            Standby::Restored(ahead) => ahead.versions != self.state.versions,
            _ => true,
        };
        asks && self.state.looks_back
    }

    /// When questions of ours won't be noticed any more.
    fn silent_at(&self) -> Instant {
        self.heard + if self.state.wrote { SILENCE_AFTER_WRITE } else { SILENCE }
    }

    fn dial_failed(&mut self, error: &ConnectError) {
        let session_id = self.registered.entry.id;
        if is_transient(error) {
            info!(session_id, "a session couldn't be prepared yet: {error}");
            self.standby = Standby::Later(Instant::now() + REDIAL);
            self.look_at = Some(Instant::now() + REDIAL);
            return;
        }
        warn!(area = "proxy", session_id, "a session can't be moved: {error}");
        self.set_pin(Pins::NOT_RESTORABLE, true);
        self.settle();
    }

    pub(super) async fn let_go_of_standby(&mut self) {
        match std::mem::replace(&mut self.standby, Standby::None) {
            Standby::Dialled(connection) => connection.quit().await,
            Standby::Restored(ahead) => ahead.connection.quit().await,
            // What is under way is given up.
            Standby::Dialling(_) | Standby::Restoring(_) => {}
            Standby::None | Standby::Failed(_) | Standby::Refused(_) | Standby::Later(_) => {}
        }
        self.registered.entry.prepared.store(false, std::sync::atomic::Ordering::Relaxed);
        if self.state.pins.any(Pins::OF_OTHER_SERVER) {
            self.set_pin(Pins::OF_OTHER_SERVER, false);
            self.settle();
        }
    }

    /// A preparation that failed behind the closed gate pins nothing: the move itself is the next try.
    fn forget_preparation(&mut self) {
        self.set_pin(Pins::OF_OTHER_SERVER, false);
    }

    /// What the other server didn't take may be gone: the next preparation will tell.
    pub(super) fn forget_refusal(&mut self) {
        // User variables may change with any statement; a dial for each of them would be too much.
        let of_settings = |v: Versions| (v.variables, v.context, v.schema);
        if self.refused_at.is_some_and(|at| of_settings(at) != of_settings(self.state.versions)) {
            self.refused_at = None;
            self.set_pin(Pins::OF_OTHER_SERVER, false);
        }
    }

    fn start_dialling(&mut self, side: config::Side) {
        let shared = Arc::clone(&self.shared);
        let backend = Arc::clone(shared.routes.backend(side));
        let (login, credential) = (self.login.clone(), self.credential.clone());
        let mut dial = JoinSet::new();
        // The epoch is the route's after the swap, and is set then.
        dial.spawn(async move {
            let _turn = shared.turns.begin(shared.registry.len()).await;
            Connection::dial(&backend, Epoch(u64::MAX), &login, &credential).await
        });
        self.standby = Standby::Dialling(dial);
    }

    /// The questions of a move would hide how the last statement went, and behind this request the client may still ask.
    /// What it does needs no backend in particular; long data does: it belongs where the statement will run.
    fn stays(request: &Request) -> bool {
        request.keeps_outcome() && request.command != Command::StmtSendLongData
    }

    /// Before a statement, with a permit: moves where the route has changed, else uses the moment to prepare.
    pub(super) async fn follow_route(&mut self, request: &Request) -> Result<(), End> {
        if Self::stays(request) {
            return Ok(());
        }
        // What was noted goes along.
        let looks_back = request.effects.contains(Effects::ASKS_LAST) && self.outcome.is_none();
        // The guard touches no counter that sessions share; only a move keeps the route for longer.
        if self.shared.routes.load().epoch != self.backend.epoch {
            self.forget_preparation();
            // invariant 3: what is open never moves; it would have held its permit through the swap.
            debug_assert!(self.state.is_movable(), "invariant 3");
            if looks_back && Self::only_looks_back(request) {
                return Ok(());
            }
            if looks_back {
                return Err(End::Failed(ErrPacket::new(
                    1105,
                    b"HY000",
                    "Changeover can't carry the outcome of the last statement over to a statement that writes; \
                     connect again",
                )));
            }
            let route = self.shared.routes.load_full();
            return Box::pin(self.move_to(&route)).await;
        }
        self.take_restored();
        if matches!(self.standby, Standby::Dialled(_)) && !looks_back && self.state.is_movable() {
            // The client waits: where all turns are taken, the next statement's moment, or a silence, will do.
            let shared = Arc::clone(&self.shared);
            let Some(_turn) = shared.turns.ask.take() else { return Ok(()) };
            return Box::pin(self.restore_ahead()).await;
        }
        match &mut self.until_move {
            None => Ok(()),
            Some(0) if !looks_back && self.state.is_movable() => Box::pin(self.move_across()).await,
            Some(left) => {
                *left = left.saturating_sub(1);
                Ok(())
            }
        }
    }

    /// `proxy.move_every`: prepares itself for the other backend and moves there as in a cutover, but the
    /// route stays what it is.
    async fn move_across(&mut self) -> Result<(), End> {
        let routes = &self.shared.routes;
        let backend = Arc::clone(routes.backend(self.backend.side.other()));
        let route = Route { epoch: self.backend.epoch, backend };
        self.let_go_of_standby().await;
        let dialled = Connection::dial(&route.backend, route.epoch, &self.login, &self.credential).await;
        if let Ok(connection) = dialled {
            self.standby = Standby::Dialled(Box::new(connection));
            self.restore_ahead().await?;
            if matches!(self.standby, Standby::Restoring(_)) {
                self.standby.ended().await;
                self.take_restored();
            }
            if !matches!(self.standby, Standby::Restored(_)) {
                // Something turned up that can't be moved; the next statement sees to it again.
                if let Standby::Dialled(connection) = std::mem::replace(&mut self.standby, Standby::None) {
                    connection.quit().await;
                }
                return Ok(());
            }
        }
        self.until_move = self.shared.move_every.map(|every| every.get() - 1);
        self.move_to(&route).await
    }

    /// After a swap, without a statement to carry: at once where nothing has to be asked, else when that
    /// can't be noticed.
    async fn move_while_idle(&mut self, route: &Route) -> Result<(), End> {
        if self.holds_permit() {
            return Ok(());
        }
        let asks = match &self.standby {
            Standby::Restored(ahead) => ahead.versions != self.state.versions,
            _ => true,
        };
        if asks && self.state.looks_back {
            return Ok(());
        }
        let silent_at = self.silent_at();
        if asks && Instant::now() < silent_at {
            self.look_at = Some(silent_at);
            return Ok(());
        }
        if !self.try_enter() {
            self.look_at = Some(Instant::now() + RETRY);
            return Ok(());
        }
        self.forget_preparation();
        if asks {
            self.note_outcome().await.map_err(|error| Self::backend_end(&error))?;
        }
        let moved = self.move_to(route).await;
        self.settle();
        moved
    }

    /// Moves, with a permit held. The last resort is to close the session.
    async fn move_to(&mut self, route: &Route) -> Result<(), End> {
        let entry = Arc::clone(&self.registered.entry);
        entry.set_activity(Activity::Moving);
        let mut attempt = 1;
        loop {
            if matches!(self.standby, Standby::Restoring(_)) {
                self.standby.ended().await;
            }
            let prepared = matches!(self.standby, Standby::Restored(_));
            match self.try_move(route).await {
                Ok(old) => {
                    entry.set_previous(Some((old.side, old.id)));
                    entry.set_backend(route.backend.side, self.backend.id);
                    entry.prepared.store(false, std::sync::atomic::Ordering::Relaxed);
                    entry.set_mapped(&self.backend.mapped);
                    self.shared.registry.count_move();
                    let metrics = &self.shared.registry.metrics;
                    let moves = if prepared { &metrics.moves_prepared } else { &metrics.moves_unprepared };
                    moves.add_one();
                    self.keep_previous(old).await;
                    entry.set_activity(Activity::Busy);
                    return Ok(());
                }
                Err(RestoreError::Read(error)) if error.is_transient() => {
                    return Err(Self::backend_end(&error));
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    info!(area = "proxy", session_id = entry.id, "a move is tried again: {error}");
                    attempt += 1;
                    tokio::time::sleep(REDIAL / 5).await;
                }
                Err(error) => {
                    warn!(area = "proxy", session_id = entry.id, "a session couldn't be moved: {error}");
                    self.shared.registry.metrics.moves_failed.add_one();
                    return Err(End::Failed(match &error {
                        RestoreError::Connect(error) => error.for_client(),
                        _ => ErrPacket::new(
                            1105,
                            b"HY000",
                            "Changeover couldn't move this session to the new server; connect again",
                        ),
                    }));
                }
            }
        }
    }

    /// Between two statements the old connection may still be asked how the last one went; its own state is
    /// then what it was, because nothing was asked of it in between.
    async fn keep_previous(&mut self, old: Connection) {
        if let Some(older) = self.previous.replace(old) {
            older.quit().await;
        }
    }

    /// Returns the connection that was left.
    async fn try_move(&mut self, route: &Route) -> Result<Connection, RestoreError> {
        let standby = std::mem::replace(&mut self.standby, Standby::None);
        let side = route.backend.side;
        let (mut connection, have, versions) = match standby {
            Standby::Restored(ahead) if ahead.connection.side == side => {
                let Ahead { mut connection, snapshot, versions } = *ahead;
                if !connection.is_quiet() {
                    let gone = std::io::Error::other("the connection that was prepared is gone");
                    return Err(RestoreError::Write { what: "the session".to_owned(), error: gone.into() });
                }
                (connection, Some(snapshot), Some(versions))
            }
            Standby::Dialled(connection) if connection.side == side => (*connection, None, None),
            _ => {
                let (login, credential) = (&self.login, &self.credential);
                (Connection::dial(&route.backend, route.epoch, login, credential).await?, None, None)
            }
        };
        let asked = self.backend.asked + connection.asked;
        let wanted = self.snapshot(have.as_ref().zip(versions)).await?;
        restore(&mut connection, have, &wanted, self.origin()).await?;
        let asked = self.backend.asked + connection.asked - asked;
        self.shared.registry.metrics.move_questions.add(asked);
        // They were noted in the old server's terms.
        let (from, to) = (self.backend.dialect(), connection.dialect());
        self.contexts = mapping::contexts(&self.contexts, from, to).map_err(RestoreError::Unmapped)?;
        self.rename_schemas(&connection, wanted.schema.as_deref()).map_err(RestoreError::Unmapped)?;
        connection.epoch = route.epoch;
        // The new server counts from here.
        self.state.attempts = connection.attempts;
        let settled = connection.leg.settle();
        settled
            .map_err(|error| RestoreError::Write { what: "the session".to_owned(), error: error.into() })?;
        Ok(std::mem::replace(&mut self.backend, connection))
    }

    /// What is known of schemas, by the names of the connection that the session goes on with. `current`: by those of the one
    /// that it leaves.
    fn rename_schemas(
        &mut self,
        connection: &Connection,
        current: Option<&[u8]>,
    ) -> Result<(), mapping::Unmapped> {
        let (from, to) = (&self.backend.names, &connection.names);
        if from.is_plain() && to.is_plain() {
            return Ok(());
        }
        mapping::schemas_of_contexts(&mut self.contexts, from, to)?;
        let there = current.map(|schema| mapping::schema(schema, from, to)).transpose()?;
        self.registered.entry.set_schema(there.as_deref().unwrap_or_default());
        if matches!(self.state.schema, Schema::Known(_)) {
            self.state.schema = Schema::Known(there);
        }
        Ok(())
    }

    /// What a restoration goes by now.
    fn origin(&self) -> Origin<'_> {
        let zone = self.between.as_ref().map_or(&SystemZone::Same, |between| &between.zone);
        Origin {
            from: self.backend.dialect(),
            names: &self.backend.names,
            zone,
            contexts: &self.contexts,
            state: &self.state,
        }
    }

    /// Asks the old server for the session's state, with a permit held, and begins to restore it on the standby while the
    /// old server serves on.
    async fn restore_ahead(&mut self) -> Result<(), End> {
        let Standby::Dialled(connection) = std::mem::replace(&mut self.standby, Standby::None) else {
            return Ok(());
        };
        let entry = Arc::clone(&self.registered.entry);
        entry.set_activity(Activity::Moving);
        let versions = self.state.versions;
        let snapshot = self.snapshot(None).await;
        entry.set_activity(Activity::Busy);
        match snapshot {
            Ok(snapshot) => {
                self.start_restoring(connection, snapshot, versions);
                Ok(())
            }
            Err(RestoreError::Read(error)) if error.is_transient() => Err(Self::backend_end(&error)),
            Err(RestoreError::Pinned(pins)) => {
                info!(area = "proxy", session_id = entry.id, "a session can't be moved now: {pins}");
                self.standby = Standby::Dialled(connection);
                Ok(())
            }
            Err(error) => {
                self.not_restored(&error, versions);
                Ok(())
            }
        }
    }

    fn start_restoring(&mut self, mut connection: Box<Connection>, snapshot: Snapshot, versions: Versions) {
        let (former, shared) = (self.origin().keep(), Arc::clone(&self.shared));
        let mut restoration = JoinSet::new();
        restoration.spawn(async move {
            let _turn = shared.turns.restore.wait().await;
            match restore(&mut connection, None, &snapshot, former.origin()).await {
                Ok(()) => Ok(Box::new(Ahead { connection: *connection, snapshot, versions })),
                Err(error) => Err(Box::new((error, versions))),
            }
        });
        self.standby = Standby::Restoring(restoration);
    }

    /// The state of `versions` couldn't be restored on the other server.
    fn not_restored(&mut self, error: &RestoreError, versions: Versions) {
        if error.is_transient() {
            let again = Instant::now() + REDIAL;
            self.look_at = Some(again);
            self.standby = Standby::Later(again);
            return;
        }
        let session_id = self.registered.entry.id;
        warn!(area = "proxy", session_id, "a session can't be moved: {error}");
        let pin = match error {
            RestoreError::Unmapped(unmapped) => unmapped.pin,
            _ => Pins::NOT_RESTORABLE,
        };
        self.set_pin(pin, true);
        self.refused_at = Some(versions);
    }

    /// Looks, without waiting, whether a restoration has ended, and takes what came of it.
    fn take_restored(&mut self) {
        self.standby.look();
        match std::mem::replace(&mut self.standby, Standby::None) {
            Standby::Restored(ahead) => {
                let was = self.registered.entry.prepared.swap(true, std::sync::atomic::Ordering::Relaxed);
                if !was {
                    self.shared.registry.count_preparation();
                }
                self.standby = Standby::Restored(ahead);
            }
            Standby::Refused(refused) => self.not_restored(&refused.0, refused.1),
            other => self.standby = other,
        }
    }

    /// The session's state, asked of the old server as far as it may have changed since `before`.
    pub(super) async fn snapshot(
        &mut self,
        before: Option<(&Snapshot, Versions)>,
    ) -> Result<Snapshot, RestoreError> {
        let now = self.state.versions;
        let (mut snapshot, then) = match before {
            Some((snapshot, versions)) => (snapshot.clone(), Some(versions)),
            None => (Snapshot::default(), None),
        };
        let same = |of: fn(&Versions) -> u64| then.is_some_and(|then| of(&then) == of(&now));
        let read = RestoreError::Read;
        let schema = same(|v| v.schema) || matches!(self.state.schema, Schema::Known(_));
        // Also where the client set nothing: the servers' global values may differ, or have changed meanwhile.
        let touched = !same(|v| v.variables);
        let between = self.surroundings(before.is_none()).await?;
        if !(same(|v| v.last_id) && same(|v| v.variables) && same(|v| v.context) && schema) {
            // First, because it also says what kind of server this is.
            let basics = self.backend.basics().await.map_err(read)?;
            if touched {
                self.ask_for_variables(&mut snapshot, &between).await?;
            }
            snapshot.schema = basics.schema;
            snapshot.last_insert_id = basics.last_insert_id;
            snapshot.variables.extend(basics.variables);
        } else if let Schema::Known(schema) = &self.state.schema {
            snapshot.schema.clone_from(schema);
        }
        if !same(|v| v.procedures) {
            self.look_for_hidden().await?;
        }
        // Also where none is left: a reset took them away, and what was prepared ahead may have some.
        if !same(|v| v.user_variables) {
            snapshot.user_variables =
                self.backend.user_variables(&self.state.user_variables).await.map_err(read)?;
        }
        snapshot.autocommit = self.state.status.contains(StatusFlags::AUTOCOMMIT);
        snapshot.multi_statements = self.state.multi_statements;
        snapshot.prepared = self.prepared();
        Ok(snapshot)
    }

    /// Session variables other than those that every move carries.
    async fn ask_for_variables(
        &mut self,
        snapshot: &mut Snapshot,
        between: &Between,
    ) -> Result<(), RestoreError> {
        let set = &self.state.set_variables;
        let names: BTreeSet<String> = set.union(&between.differing).cloned().collect();
        snapshot.inherited.clear();
        if names.is_empty() && !self.state.variables_touched {
            let lasting = between.from.globals.keys().map(String::as_str);
            if !self.backend.differs_from_global(lasting).await.map_err(RestoreError::Read)? {
                snapshot.variables.clear();
                return Ok(());
            }
        }
        let asked = self.backend.touched_variables(&names).await;
        snapshot.variables = asked.map_err(RestoreError::Read)?;
        if !self.state.variables_touched {
            snapshot.variables.retain(|name, _| LASTING.contains(&name.as_str()));
        }
        for name in between.differing.iter().filter(|name| !set.contains(*name)) {
            let value = snapshot.variables.get(name);
            if value == between.to.globals.get(name) {
                // It came from there, and couldn't be set here.
                snapshot.variables.remove(name);
            } else if value == between.from.globals.get(name) {
                snapshot.inherited.insert(name.clone());
            }
        }
        Ok(())
    }

    fn prepared(&self) -> Vec<(ToPrepare, u64)> {
        let binary = self.state.statements.iter().map(|(id, s)| (ToPrepare::Binary(*id), s.context));
        let texts = self
            .state
            .texts
            .iter()
            .map(|(name, text)| (ToPrepare::Text(name.clone(), text.version), text.context));
        binary.chain(texts).collect()
    }
}
