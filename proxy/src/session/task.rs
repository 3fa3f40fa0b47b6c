//! The task of one session, both directions in it.
//!
//! A turn is: wait for the client (holding nothing), take a permit, load the route, move where the route has
//! changed, send the request on, relay the answer, remember what it changed, give the permit back unless a
//! transaction or a pin holds it. While it waits the task also listens to the backend (it may go away), to
//! orders, and to changes of the route.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::connection::Connection;
use super::execute::query_text;
use super::lexer::Effects;
use super::mover::Standby;
use super::outcome::LastOutcome;
use super::pins::Pins;
use super::question;
use super::registry::{Activity, Order, Registered, SessionRegistry};
use super::relay::unless_ended;
use super::replay::Context;
use super::request::Request;
use super::state::{SessionState, Versions};
use super::surroundings::{Between, Reaches, Servers};
use super::tokens::Tokens;
use super::turns::Turns;
use crate::auth::server::FrontDoor;
use crate::auth::{Credential, Login};
use crate::protocol::command::{Command, Reply};
use crate::protocol::frame::{HEADER_LEN, Header, put_packet};
use crate::protocol::packet::ErrPacket;
use crate::relay::copy::Leg;
use crate::relay::exchange::Exchange;
use crate::route::gate::{Gate, Permit};
use crate::route::table::RouteTable;

/// A buffer is given back when the client was silent for so long.
const RELEASE_AFTER_MS: u64 = 2_000;

/// What all sessions have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Arc<Gate>,
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) registry: Arc<SessionRegistry>,
    /// For clients that come in, and for those that become somebody else.
    pub(crate) door: FrontDoor,
    /// What the servers do to sessions without their doing.
    pub(crate) servers: Servers,
    /// How many get ready for the other backend at once.
    pub(crate) turns: Turns,
    /// `proxy.move_every`; `None`: sessions are moved by cutovers only.
    pub(crate) move_every: Option<NonZeroU32>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// COM_QUIT, or the client closed.
    #[error("the client left")]
    ClientLeft,
    /// The connection to the client broke.
    #[error("the client's connection broke: {0}")]
    Client(std::io::Error),
    /// The backend closed, or its connection broke.
    #[error("the backend's connection ended: {0}")]
    Backend(String),
    /// KILL SESSION, or a cutover.
    #[error("it was killed")]
    Killed,
    /// The proxy shuts down.
    #[error("the proxy shuts down")]
    Drained,
    /// It wasn't let in as another user, and has been told why.
    #[error("its COM_CHANGE_USER failed: {0}")]
    NotLetIn(String),
    /// The session can't go on; the client is told this.
    #[error("{}", String::from_utf8_lossy(&.0.message))]
    Failed(ErrPacket),
}

/// What ends a wait.
enum Event {
    /// The beginning of a request is in the client's buffer.
    Request,
    /// There is an order, or something about the route.
    Look,
}

/// A client, its backend connection, and what is known of the session between them.
pub(crate) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) registered: Registered,
    pub(super) login: Login,
    pub(super) credential: Credential,
    pub(super) client: Leg,
    pub(super) backend: Connection,
    /// The connection that an idle session has moved away from, kept for one statement: it alone can say
    /// how the last statement went.
    pub(super) previous: Option<Connection>,
    pub(super) standby: Standby,
    pub(super) state: SessionState,
    /// What statements of older contexts were prepared under.
    pub(super) contexts: BTreeMap<u64, Context>,
    pub(super) exchange: Exchange,
    permit: Option<Permit>,
    /// The proxy rolled the transaction back; the client hears of it with its next statement.
    pub(super) rolled_back: bool,
    /// When the client was last heard.
    pub(super) heard: Instant,
    /// When to look at the route again without being woken.
    pub(super) look_at: Option<Instant>,
    /// It was woken in the middle of a statement, and looks afterwards.
    pub(super) woken: bool,
    /// No statement is under way. Where one is, nothing more is said to the backend: the rest of a request
    /// that was cut off must not be made up from a farewell.
    pub(super) at_rest: bool,
    /// Commands until the next move of `proxy.move_every`.
    pub(super) until_move: Option<u32>,
    /// The other server refused the state of these versions.
    pub(super) refused_at: Option<Versions>,
    /// What the last statement left, noted before a question of ours took its place.
    pub(super) outcome: Option<LastOutcome>,
    /// What was known of both servers when the session was last prepared.
    pub(super) between: Option<Arc<Between>>,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        registered: Registered,
        login: Login,
        credential: Credential,
        client: Leg,
        backend: Connection,
    ) -> Self {
        let schema = shared.routes.backend(backend.side).login_schema(login.schema.as_deref());
        let state = SessionState::new(backend.status, schema.clone());
        let until_move = shared.move_every.map(NonZeroU32::get);
        registered.entry.set_schema(schema.as_deref().unwrap_or_default());
        registered.entry.set_credential(login.user_text(), credential.clone());
        Self {
            exchange: Exchange::new(Command::Ping, backend.capabilities),
            shared,
            registered,
            login,
            credential,
            client,
            backend,
            previous: None,
            standby: Standby::None,
            state,
            contexts: BTreeMap::new(),
            permit: None,
            rolled_back: false,
            heard: Instant::now(),
            look_at: None,
            woken: false,
            at_rest: true,
            until_move,
            refused_at: None,
            outcome: None,
            between: None,
        }
    }

    /// Runs until the client leaves, the backend goes away or somebody ends it. What few requests need (a move, another user,
    /// questions of ours) is boxed where it is called: what isn't is in the memory of every idle session.
    pub(crate) async fn run(mut self) {
        let settled = self.client.settle().and_then(|()| self.backend.leg.settle());
        let end = loop {
            if let Err(error) = settled {
                break End::Client(error);
            }
            let turn = match self.wait().await {
                Ok(Event::Request) => self.serve().await,
                Ok(Event::Look) => self.look().await,
                Err(end) => Err(end),
            };
            if let Err(end) = turn {
                break end;
            }
        };
        Box::pin(self.finish(end)).await;
    }

    /// Waits for the client's next request.
    async fn wait(&mut self) -> Result<Event, End> {
        self.registered.entry.set_activity(Activity::Idle);
        self.client.buffer.calm();
        self.backend.leg.buffer.calm();
        loop {
            if self.has_to_look() {
                return Ok(Event::Look);
            }
            if self.client.buffer.len() > HEADER_LEN || self.has_empty_packet() {
                return Ok(Event::Request);
            }
            let look_at = self.look_at;
            tokio::select! {
                biased;
                read = self.client.fill() => match read {
                    Ok(0) => return Err(End::ClientLeft),
                    Ok(_) => {}
                    Err(error) => return Err(End::Client(error)),
                },
                read = self.backend.leg.fill() => return Err(self.unasked(read)),
                () = self.registered.entry.wake.notified() => return Ok(Event::Look),
                () = self.standby.ended() => {
                    self.shared.registry.count_preparation();
                    return Ok(Event::Look);
                }
                () = async { tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now)).await },
                    if look_at.is_some() =>
                {
                    self.look_at = None;
                    return Ok(Event::Look);
                }
            }
        }
    }

    fn has_empty_packet(&self) -> bool {
        Header::parse(self.client.buffer.filled()).is_some_and(|header| header.len == 0)
    }

    fn has_to_look(&mut self) -> bool {
        if std::mem::take(&mut self.woken) {
            return true;
        }
        match self.registered.entry.order() {
            Order::None => false,
            // What holds a permit may end first.
            Order::Drain => self.permit.is_none(),
            Order::EndTransaction | Order::Close => true,
        }
    }

    /// The backend said something, or closed, without having been asked.
    fn unasked(&mut self, read: std::io::Result<usize>) -> End {
        match read {
            Ok(0) => End::Backend("it closed the connection".to_owned()),
            Ok(_) => {
                // A farewell, most likely: shutdown, KILL, wait_timeout. The client gets it as it is.
                let text =
                    self.backend.leg.buffer.filled().get(HEADER_LEN..).and_then(|p| ErrPacket::parse(p).ok());
                End::Backend(text.map_or_else(|| "it said something unasked".to_owned(), |e| e.to_string()))
            }
            Err(error) => End::Backend(error.to_string()),
        }
    }

    /// Orders, the route, what to prepare; and memory that an idle session needn't hold.
    async fn look(&mut self) -> Result<(), End> {
        match self.registered.entry.order() {
            Order::Close => return Err(End::Killed),
            Order::Drain if self.permit.is_none() => return Err(End::Drained),
            Order::EndTransaction => self.give_up_transaction().await?,
            Order::Drain | Order::None => {}
        }
        if self.registered.entry.idle_ms() >= RELEASE_AFTER_MS {
            self.client.release();
            self.backend.leg.release();
        }
        self.look_at_route().await
    }

    /// One request, from the client's buffer to the last byte of its answer.
    async fn serve(&mut self) -> Result<(), End> {
        self.heard = Instant::now();
        self.registered.entry.heard(self.heard.into_std());
        self.registered.entry.work.count_statement();
        let request = self.understand().await?;
        match request.command {
            Command::Quit => return Err(End::ClientLeft),
            Command::ChangeUser => return Box::pin(self.change_user()).await,
            _ => {}
        }
        if self.rolled_back && Self::runs_statements(request.command) {
            self.rolled_back = false;
            if !self.is_rollback(&request) {
                return self.answer_instead(&rolled_back()).await;
            }
        }
        self.enter().await?;
        self.follow_route(&request).await?;
        self.bring_back_outcome(&request).await?;
        let reaches = self.reaches(&request);
        let request_calls = request.effects.contains(Effects::PROCEDURE);
        let called = request.called().filter(|_| request_calls);
        let releases = request.effects.any(Effects::RELEASE_LOCK.and(Effects::RELEASE_ALL_LOCKS));
        let changes_code = request.effects.any(Effects::STORED_CODE.and(Effects::RENAME_TABLE));
        self.at_rest = false;
        let served = self.relay(request).await;
        self.at_rest = served.is_ok();
        if changes_code {
            self.shared.servers.stored_code_changed();
        }
        if served.is_ok() && request_calls {
            self.pin_what_was_called(called.as_deref());
        }
        let releases = releases && self.state.pins.contains(Pins::HIDDEN_LOCK);
        let reaches = Reaches { locks: reaches.locks || releases, ..reaches };
        if served.is_ok() && reaches != Reaches::default() {
            self.after_stored_code(reaches).await;
        }
        if served.is_ok() && self.state.in_transaction() && self.is_left_behind() {
            self.end_look_back().await?;
        }
        self.forget_refusal();
        self.settle();
        self.account();
        self.shared.registry.metrics.statement_time.record(self.registered.entry.id, self.heard.elapsed());
        served
    }

    /// What passed over the legs, for the metrics.
    fn account(&mut self) {
        let mut backend = self.backend.leg.take_traffic();
        if let Some(previous) = &mut self.previous {
            backend += previous.leg.take_traffic();
        }
        self.registered.entry.work.count_traffic(self.client.take_traffic(), backend);
    }

    /// A command that must not go on as if a transaction that was rolled back were still there.
    fn runs_statements(command: Command) -> bool {
        matches!(
            command,
            Command::Query | Command::StmtExecute | Command::StmtBulkExecute | Command::StmtFetch
        )
    }

    /// A ROLLBACK of the whole transaction: what has happened to it already is what it asks for.
    fn is_rollback(&self, request: &Request) -> bool {
        let payload = self.client.buffer.filled().get(HEADER_LEN..).unwrap_or_default();
        let text =
            query_text(payload, self.backend.capabilities).filter(|_| request.command == Command::Query);
        let mut tokens = Tokens::new(text.unwrap_or_default(), false);
        tokens.next().is_some_and(|token| token.is("ROLLBACK")) && tokens.all(|token| !token.is("TO"))
    }

    /// Takes a permit, unless one is held already.
    pub(super) async fn enter(&mut self) -> Result<(), End> {
        let entry = Arc::clone(&self.registered.entry);
        if self.permit.is_none() {
            // First said, then done: whoever ends permit holders must not overlook this one.
            entry.holds_permit.store(true, Release);
            self.permit = self.shared.gate.try_enter(entry.id as usize);
        }
        let waits_since = self.permit.is_none().then(Instant::now);
        while self.permit.is_none() {
            entry.holds_permit.store(false, Release);
            entry.set_activity(Activity::Waiting);
            tokio::select! {
                biased;
                () = entry.wake.notified() => {
                    self.woken = true;
                    if entry.order() == Order::Close {
                        return Err(End::Killed);
                    }
                }
                permit = self.shared.gate.enter(entry.id as usize) => {
                    entry.holds_permit.store(true, Release);
                    self.permit = Some(permit);
                }
                read = self.backend.leg.fill() => return Err(self.unasked(read)),
            }
        }
        if let Some(since) = waits_since {
            self.shared.registry.metrics.gate_wait.record(entry.id, since.elapsed());
        }
        entry.set_activity(Activity::Busy);
        Ok(())
    }

    /// A permit where the gate is open, for work of the session's own. True where it has one now.
    pub(super) fn try_enter(&mut self) -> bool {
        if self.permit.is_none() {
            let entry = &self.registered.entry;
            entry.holds_permit.store(true, Release);
            self.permit = self.shared.gate.try_enter(entry.id as usize);
            entry.holds_permit.store(self.permit.is_some(), Release);
        }
        self.permit.is_some()
    }

    /// Gives the permit back, unless something is open; says what others may know.
    pub(super) fn settle(&mut self) {
        let entry = &self.registered.entry;
        entry.set_transaction(self.state.in_transaction(), self.state.wrote);
        entry.set_pins(self.state.pins);
        entry.waits_for_client.store(self.waits_for_client(), Relaxed);
        if self.state.is_movable() {
            self.permit = None;
            entry.holds_permit.store(false, Release);
        } else if self.permit.is_none() {
            // invariant 2: what is open was opened under a permit. A pin that came from a preparation takes one.
            self.try_enter();
        }
    }

    pub(super) fn holds_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// `open_transactions = "kill"`: what holds this session's permit has to end.
    async fn give_up_transaction(&mut self) -> Result<(), End> {
        if self.permit.is_some() {
            if !self.state.pins.is_empty() {
                return Err(End::Killed);
            }
            if self.state.in_transaction() {
                // The connection stays, and with it the session's state. Once the server has answered, the
                // rollback is certain; without an answer the connection closes.
                let rolled_back = self.backend.query(b"ROLLBACK AND NO CHAIN NO RELEASE").await;
                rolled_back.map_err(|_| End::Killed)?;
                self.state.status = self.backend.status;
                self.rolled_back = true;
            }
            self.settle();
        }
        self.registered.entry.done(Order::EndTransaction);
        Ok(())
    }

    /// The client's request isn't sent on; it gets this instead.
    pub(super) async fn answer_instead(&mut self, packet: &ErrPacket) -> Result<(), End> {
        let command =
            self.client.buffer.filled().get(HEADER_LEN).copied().map_or(Command::Sleep, Command::from);
        let skipped = skip_request(&mut self.client);
        let sequence = unless_ended(&self.registered.entry, &mut self.woken, skipped).await??;
        if command.reply() == Reply::None {
            return Ok(());
        }
        let mut bytes = Vec::new();
        put_packet(&mut bytes, sequence.wrapping_add(1), &packet.encode());
        self.client.write(&bytes).await.map_err(End::Client)
    }

    /// Closes both ends.
    async fn finish(mut self, end: End) {
        let id = self.registered.entry.id;
        match &end {
            End::ClientLeft | End::Client(_) | End::Drained | End::NotLetIn(_) => {
                debug!(session_id = id, "session ended: {end}")
            }
            End::Killed => tracing::info!(area = "proxy", session_id = id, "session closed: {end}"),
            End::Backend(_) | End::Failed(_) => {
                warn!(area = "proxy", session_id = id, side = %self.backend.side, "session closed: {end}");
            }
        }
        let last_words = async {
            match &end {
                End::Failed(packet) => {
                    let mut bytes = Vec::new();
                    put_packet(&mut bytes, 1, &packet.encode());
                    let _ = self.client.write(&bytes).await;
                }
                End::Backend(_) if !self.backend.leg.buffer.is_empty() => {
                    let _ = self.client.write(self.backend.leg.buffer.filled()).await;
                }
                _ => {}
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), last_words).await;
        self.account();
        // The permit goes back last: until then the backend may still be at work for this session.
        let Self { backend, previous, client, permit, registered, at_rest, .. } = self;
        let _ = tokio::time::timeout(Duration::from_secs(1), client.close()).await;
        if at_rest {
            backend.quit().await;
        } else {
            drop(backend);
        }
        if let Some(previous) = previous {
            previous.quit().await;
        }
        drop(permit);
        drop(registered);
    }
}

/// Reads past a request, whatever its size. Returns its last sequence number.
async fn skip_request(client: &mut Leg) -> Result<u8, End> {
    loop {
        client.fill_to(HEADER_LEN).await.map_err(End::Client)?;
        let Some(header) = Header::parse(client.buffer.filled()) else { return Err(End::ClientLeft) };
        let mut left = HEADER_LEN + header.len;
        while left > 0 {
            if client.buffer.is_empty() && client.fill().await.map_err(End::Client)? == 0 {
                return Err(End::ClientLeft);
            }
            let count = left.min(client.buffer.len());
            client.buffer.consume(count);
            left -= count;
        }
        if !header.continues() {
            return Ok(header.sequence);
        }
    }
}

/// 1213, for a transaction that a cutover has rolled back.
pub(super) fn rolled_back() -> ErrPacket {
    ErrPacket::new(
        1213,
        b"40001",
        "Deadlock found when trying to get lock; try restarting transaction (rolled back by a cutover)",
    )
}

impl Session {
    /// True where the connection is of a route that is no longer the present one.
    fn is_left_behind(&self) -> bool {
        self.backend.epoch != self.shared.routes.load().epoch
    }

    /// With autocommit off a look back may have opened a transaction on the connection that is to be left.
    /// It has only read, so ending it loses nothing, and what follows belongs to the new backend.
    pub(super) async fn end_look_back(&mut self) -> Result<(), End> {
        let ended = self.backend.query(b"COMMIT AND NO CHAIN NO RELEASE").await;
        ended.map_err(|error| Self::backend_end(&error))?;
        self.state.status = self.backend.status;
        Ok(())
    }

    /// True where the request asks how the statement before it went, and does nothing else that the old
    /// backend couldn't do behind its fence.
    pub(super) fn only_looks_back(request: &Request) -> bool {
        request.effects.contains(Effects::ASKS_LAST)
            && !request.effects.any(Effects::WRITES.and(Effects::PROCEDURE).and(Effects::MULTIPLE))
    }

    /// Pins or unpins for a reason of the proxy's own.
    pub(super) fn set_pin(&mut self, pin: Pins, on: bool) {
        self.state.pins.set(pin, on);
    }

    /// An error of a question of ours on the connection that serves.
    pub(super) fn backend_end(error: &question::QuestionError) -> End {
        End::Backend(error.to_string())
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
