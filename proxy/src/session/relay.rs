//! One request and its answer: what has to be read or rewritten on the way to the backend, and the way back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

use super::connection::{BackendStatement, Connection};
use super::execute::{Types, asks_for_cursor, query_text, unknown_statement};
use super::lexer::Effects;
use super::pins::Pins;
use super::registry::{Entry, Order};
use super::replay::{CONTEXT_VARIABLES, Context};
use super::request::Request;
use super::state::{BackendStatementId, ClientStatementId, SessionState};
use super::surroundings::as_service;
use super::task::{End, Session, Shared, rolled_back};
use crate::protocol::capability::Capabilities;
use crate::protocol::command::{Command, Reply};
use crate::protocol::frame::{HEADER_LEN, Header, PAYLOAD_MAX, put_packet};
use crate::protocol::packet::ErrPacket;
use crate::relay::copy::{Leg, both_ways};
use crate::relay::exchange::{ClientData, Exchange, Progress};

/// Bytes of a statement that are looked at. Beyond that a statement is an INSERT of data, or it pins.
const INSPECT_MAX: usize = 1024 * 1024;
/// Bytes that a client may have sent ahead while its last request is being answered.
const PIPELINE_MAX: usize = 16 * 1024;
/// Time for a KILL on a connection of its own.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// So many connections may be open for that at once: when a thousand clients leave together, the backend's own
/// limit isn't spent on them.
static KILLING: Semaphore = Semaphore::const_new(16);
/// MariaDB: the statement that was prepared last.
const LAST_PREPARED: u32 = u32::MAX;
/// A packet's bytes up to and with the statement's id.
const BEHIND_ID: usize = HEADER_LEN + 5;
/// ER_QUERY_INTERRUPTED.
const INTERRUPTED: u16 = 1317;

/// How a request goes on.
pub(super) enum Way {
    /// As it lies in the buffer.
    AsItIs,
    /// With this in place of its first packet.
    Instead(Vec<u8>),
    /// Not at all: the client gets this error, where the command has an answer.
    Answered(ErrPacket),
}

impl Session {
    /// Reads as much of the request as has to be looked at, and what it may do.
    pub(super) async fn understand(&mut self) -> Result<Request, End> {
        let Some(header) = Header::parse(self.client.buffer.filled()) else { return Err(End::ClientLeft) };
        let code = self.client.buffer.filled().get(HEADER_LEN).copied();
        let command = code.filter(|_| header.len > 0).map_or(Command::Sleep, Command::from);
        let looked_at = match command {
            Command::StmtPrepare => header.len,
            _ => header.len.min(INSPECT_MAX),
        };
        // A client that stalls in the middle of a packet may hold a permit, so orders are heard meanwhile.
        let filled = self.client.fill_to(HEADER_LEN + looked_at);
        unless_ended(&self.registered.entry, &mut self.woken, filled).await?.map_err(End::Client)?;
        let payload = self.client.buffer.filled().get(HEADER_LEN..HEADER_LEN + looked_at).unwrap_or_default();
        let argument = payload.get(1..).unwrap_or_default();
        let state = &self.state;
        Ok(match command {
            Command::Query => {
                let text = query_text(payload, self.backend.capabilities);
                let mut request = state.query(text.unwrap_or(argument));
                if text.is_none() || looked_at < header.len {
                    request.unseen = self.may_hide_more(&request);
                    // RETURNING may stand there.
                    request.effects = request.effects.and(Effects::LAST_ID);
                }
                request
            }
            Command::StmtPrepare => Request { unseen: header.continues(), ..state.prepare(argument) },
            Command::StmtExecute | Command::StmtBulkExecute => match self.statement_id(argument) {
                Some(id) => Request {
                    asks_for_cursor: command == Command::StmtExecute && asks_for_cursor(payload),
                    ..state.execute(command, id)
                },
                None => Request::plain(command),
            },
            Command::StmtFetch | Command::StmtReset | Command::StmtClose | Command::StmtSendLongData => {
                match self.statement_id(argument) {
                    Some(id) => state.about(command, id),
                    None => Request::plain(command),
                }
            }
            Command::InitDb | Command::SetOption | Command::DropDb => state.with_argument(command, argument),
            _ => Request::plain(command),
        })
    }

    /// Its end wasn't looked at. That is no matter where it can only be data, or expressions that set user
    /// variables, which the server is asked for.
    fn may_hide_more(&self, request: &Request) -> bool {
        let several = self.login.capabilities.contains(Capabilities::MULTI_STATEMENTS)
            || self.state.multi_statements == Some(true);
        several || !request.effects.contains(Effects::WRITES)
    }

    fn statement_id(&self, argument: &[u8]) -> Option<ClientStatementId> {
        match u32::from_le_bytes(*argument.first_chunk()?) {
            LAST_PREPARED => self.state.last_prepared,
            id => Some(ClientStatementId(id)),
        }
    }

    /// Sends the request on, relays its answer, and remembers what it did. A permit is held.
    pub(super) async fn relay(&mut self, request: Request) -> Result<(), End> {
        if self.state.loses_context(&request, &self.contexts) {
            self.note_context().await?;
        }
        let Some(mut previous) = self.previous.take() else { return self.relay_to_backend(&request).await };
        if request.command.keeps_outcome() {
            self.previous = Some(previous);
            return self.relay_to_backend(&request).await;
        }
        // A statement is prepared where it will be known from now on, and that isn't the old connection.
        if request.command == Command::StmtPrepare || !Self::only_looks_back(&request) {
            // The client asked something else, so nobody will ask the old connection any more.
            self.registered.entry.set_previous(None);
            previous.quit().await;
            return self.relay_to_backend(&request).await;
        }
        std::mem::swap(&mut self.backend, &mut previous);
        let mut done = self.relay_to_backend(&request).await;
        if done.is_ok() && self.state.in_transaction() {
            done = self.end_look_back().await;
        }
        std::mem::swap(&mut self.backend, &mut previous);
        if done.is_ok() && request.effects.contains(Effects::USER_VARIABLES) {
            done = self.take_user_variables(&mut previous).await;
        }
        self.previous = Some(previous);
        done
    }

    async fn relay_to_backend(&mut self, request: &Request) -> Result<(), End> {
        self.prepare_failed(request).await?;
        let way = self.way(request);
        let (client, backend) = (&mut self.client, &mut self.backend.leg);
        let (entry, woken) = (&self.registered.entry, &mut self.woken);
        match way {
            Way::AsItIs => unless_ended(entry, woken, send(client, backend)).await??,
            Way::Instead(packet) => {
                unless_ended(entry, woken, send_instead(client, backend, &packet)).await??;
            }
            Way::Answered(packet) => {
                if request.command == Command::StmtClose {
                    self.forget(request);
                }
                return self.answer_instead(&packet).await;
            }
        }
        match request.command.reply() {
            Reply::None => {
                self.forget(request);
                Ok(())
            }
            Reply::Stream => {
                self.set_pin(Pins::BINLOG_STREAM, true);
                self.settle();
                self.stream().await
            }
            _ => self.relay_answer(request).await,
        }
    }

    /// What couldn't be prepared again when the session moved may be preparable by now.
    async fn prepare_failed(&mut self, request: &Request) -> Result<(), End> {
        let executes = matches!(
            request.command,
            Command::StmtExecute
                | Command::StmtBulkExecute
                | Command::StmtReset
                | Command::StmtFetch
                // It has no answer, so a value that isn't sent on now would be missing in silence.
                | Command::StmtSendLongData
        );
        let Some(id) = request.statement.filter(|_| executes) else { return Ok(()) };
        match self.backend.statements.get(&id) {
            Some(BackendStatement::Failed(_)) => {
                let prepared = self.backend.prepare(id, &self.state).await;
                prepared.map_err(|error| Self::backend_end(&error))
            }
            _ => Ok(()),
        }
    }

    /// A command without an answer has been sent.
    fn forget(&mut self, request: &Request) {
        if request.command == Command::StmtClose {
            if let Some(id) = request.statement {
                self.backend.statements.remove(&id);
            }
            self.drop_unused_contexts();
        }
        self.state.answered(request, &Default::default(), None);
    }

    fn drop_unused_contexts(&mut self) {
        if !self.contexts.is_empty() {
            let state = &self.state;
            self.contexts.retain(|version, _| {
                state.statements.values().any(|statement| statement.context == *version)
                    || state.texts.values().any(|text| text.context == *version)
            });
        }
    }

    /// What was said so far is what statements were prepared under; the request may change it.
    async fn note_context(&mut self) -> Result<(), End> {
        let basics = self.backend.basics().await.map_err(|error| Self::backend_end(&error))?;
        let mut variables = basics.variables;
        variables.retain(|name, _| CONTEXT_VARIABLES.contains(&name.as_str()));
        self.drop_unused_contexts();
        self.contexts.insert(self.state.versions.context, Context { schema: basics.schema, variables });
        Ok(())
    }

    /// How the request goes on: ids of prepared statements are the client's own, and types of parameters
    /// may have to be put in.
    fn way(&mut self, request: &Request) -> Way {
        match request.command {
            Command::Query => {
                let payload = self.client.buffer.filled().get(HEADER_LEN..).unwrap_or_default();
                let text = query_text(payload, self.backend.capabilities);
                return text.map_or(Way::AsItIs, |text| self.kill_by_text(payload.len() - text.len()));
            }
            Command::ProcessKill => return self.kill_by_command(),
            _ => {}
        }
        let about_statement = matches!(
            request.command,
            Command::StmtExecute
                | Command::StmtBulkExecute
                | Command::StmtFetch
                | Command::StmtReset
                | Command::StmtClose
                | Command::StmtSendLongData
        );
        if !about_statement {
            return Way::AsItIs;
        }
        let (flavor, command) = (self.backend.version.flavor, request.command);
        let unknown = |packet: &[u8]| Way::Answered(unknown_statement(flavor, command, packet));
        let Some(client_id) = request.statement else { return unknown(self.client.buffer.filled()) };
        let (id, bound) = match self.backend.statements.get(&client_id) {
            Some(BackendStatement::Ready { id, bound }) => (*id, *bound),
            Some(BackendStatement::Failed(packet)) => return Way::Answered(packet.clone()),
            None => return unknown(self.client.buffer.filled()),
        };
        let packet = self.client.buffer.filled_mut();
        let Some(place) = packet.get_mut(BEHIND_ID - 4..BEHIND_ID) else { return unknown(b"") };
        place.copy_from_slice(&id.0.to_le_bytes());
        if matches!(request.command, Command::StmtExecute | Command::StmtBulkExecute) {
            return self.with_types(request.command, client_id, id, bound);
        }
        Way::AsItIs
    }

    fn with_types(
        &mut self,
        command: Command,
        client_id: ClientStatementId,
        id: BackendStatementId,
        bound: bool,
    ) -> Way {
        let Some(statement) = self.state.statements.get(&client_id) else { return Way::AsItIs };
        let packet = self.client.buffer.filled();
        let Some(header) = Header::parse(packet) else { return Way::AsItIs };
        let whole = packet.len().min(HEADER_LEN + header.len);
        let payload = packet.get(HEADER_LEN..whole).unwrap_or_default();
        let Some(types) = Types::find(payload, command, statement.params, self.backend.capabilities) else {
            return Way::AsItIs;
        };
        if types.present {
            if statement.types.as_deref() != Some(types.of(payload)) {
                self.state.remember_types(client_id, types.of(payload));
            }
        } else if !bound && let Some(known) = &statement.types {
            let len = header.len + known.len();
            if len >= PAYLOAD_MAX {
                let message = "Got a packet bigger than can be sent on without its parameter types";
                return Way::Answered(ErrPacket::new(1153, b"08S01", message));
            }
            let mut instead = Header { len, sequence: header.sequence }.to_bytes().to_vec();
            instead.extend(types.insert(payload, known));
            self.backend.statements.insert(client_id, BackendStatement::Ready { id, bound: true });
            return Way::Instead(instead);
        }
        if types.present && !bound {
            self.backend.statements.insert(client_id, BackendStatement::Ready { id, bound: true });
        }
        Way::AsItIs
    }

    /// The answer, from the backend to the client, and what it says.
    async fn relay_answer(&mut self, request: &Request) -> Result<(), End> {
        self.exchange.restart(request.command);
        if request.asks_for_cursor {
            self.exchange.expect_cursor();
        }
        let mut prepared_as = None;
        let mut way_back = WayBack {
            client: &mut self.client,
            backend: &mut self.backend,
            exchange: &mut self.exchange,
            entry: &self.registered.entry,
            shared: &self.shared,
            woken: &mut self.woken,
            sent: 0,
            interrupted: false,
            several: request.unseen || request.effects.any(Effects::MULTIPLE.and(Effects::PROCEDURE)),
        };
        let relayed = async {
            if request.command == Command::StmtPrepare {
                prepared_as = way_back.take_over_statement(&mut self.state).await?;
            }
            way_back.run().await
        };
        let relayed = relayed.await;
        if let Err(End::ClientLeft | End::Client(_) | End::Killed) = &relayed {
            // Nobody waits for the answer, so the server needn't work it out, nor keep what has come of a file.
            way_back.kill("CONNECTION").await;
        }
        relayed?;
        if request.command == Command::ResetConnection && self.exchange.outcome().error.is_none() {
            self.rolled_back = false;
            self.backend.statements.clear();
            self.contexts.clear();
        }
        let in_doubt = self.state.answered(request, self.exchange.outcome(), prepared_as);
        if in_doubt {
            let status = self.backend.ping().await.map_err(|error| Self::backend_end(&error))?;
            self.state.status = status;
        }
        if let super::state::Schema::Known(schema) = &self.state.schema
            && request.effects.contains(Effects::SCHEMA)
        {
            self.registered.entry.set_schema(schema.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    /// A stream without an end: both ways, until somebody closes it.
    async fn stream(&mut self) -> Result<(), End> {
        let entry = &self.registered.entry;
        // One future for as long as it lasts: one that is dropped on a wake-up may have written a part of its
        // buffer, and the next would write that again.
        let streaming = both_ways(&mut self.client, &mut self.backend.leg);
        tokio::pin!(streaming);
        loop {
            tokio::select! {
                biased;
                () = entry.wake.notified() => {
                    if entry.order() >= Order::Drain {
                        return Err(End::Killed);
                    }
                }
                done = &mut streaming => {
                    return Err(done.map_or_else(End::Client, |()| End::ClientLeft));
                }
            }
        }
    }

    /// A statement that looked back set user variables on the connection that was left.
    async fn take_user_variables(&mut self, previous: &mut Connection) -> Result<(), End> {
        let values = previous.user_variables(&self.state.user_variables).await;
        let values = values.map_err(|error| Self::backend_end(&error))?;
        let wanted = super::replay::Snapshot { user_variables: values, ..Default::default() };
        let (from, to) = (previous.dialect(), self.backend.dialect());
        let wanted = super::mapping::snapshot(&wanted, from, to, &mut Vec::new()).map_err(|unmapped| {
            End::Backend(format!("the server has no counterpart of {}", unmapped.what))
        })?;
        let steps = super::replay::plan(&wanted, &Default::default(), &Default::default(), 0);
        for step in steps.unwrap_or_default() {
            self.backend
                .carry_out(&step, &self.state)
                .await
                .map_err(|error| End::Backend(error.to_string()))?;
        }
        Ok(())
    }
}

/// Everything that the way back of an answer needs.
struct WayBack<'a> {
    client: &'a mut Leg,
    backend: &'a mut Connection,
    exchange: &'a mut Exchange,
    entry: &'a Arc<Entry>,
    shared: &'a Shared,
    /// A wake-up came that isn't for here.
    woken: &'a mut bool,
    /// Bytes that the client has got.
    sent: usize,
    /// The proxy has interrupted the statement.
    interrupted: bool,
    /// It may be more than one statement: of several, or of a procedure.
    several: bool,
}

impl WayBack<'_> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            match self.exchange.progress() {
                Progress::Done => return Ok(()),
                Progress::ClientData => self.local_file().await?,
                Progress::More => {
                    if self.backend.leg.buffer.is_empty() {
                        self.wait().await?;
                        continue;
                    }
                    let first = Header::parse(self.backend.leg.buffer.filled());
                    let count = self.exchange.feed(self.backend.leg.buffer.filled());
                    if self.was_interrupted() {
                        self.backend.leg.buffer.consume(count);
                        let sequence = first.map_or(1, |header| header.sequence);
                        let mut bytes = Vec::new();
                        put_packet(&mut bytes, sequence, &rolled_back().encode());
                        return self.client.write(&bytes).await.map_err(End::Client);
                    }
                    self.sent += count;
                    let sent = self.backend.leg.forward_to_reader(self.client, count, PIPELINE_MAX);
                    unless_ended(self.entry, self.woken, sent).await?.map_err(End::Client)?;
                }
            }
        }
    }

    /// The first packet of the answer to a prepare: the client gets an id of ours in place of the backend's.
    async fn take_over_statement(
        &mut self,
        state: &mut SessionState,
    ) -> Result<Option<ClientStatementId>, End> {
        self.wait_for(HEADER_LEN).await?;
        let len = Header::parse(self.backend.leg.buffer.filled()).map_or(0, |header| header.len);
        self.wait_for(HEADER_LEN + len.min(PIPELINE_MAX)).await?;
        let packet = self.backend.leg.buffer.filled_mut();
        let is_ok = len >= 12 && packet.get(HEADER_LEN) == Some(&0);
        let Some(place) = packet.get_mut(BEHIND_ID - 4..BEHIND_ID).filter(|_| is_ok) else { return Ok(None) };
        let Some(id) = place.first_chunk::<4>().copied() else { return Ok(None) };
        let client_id = state.new_statement_id();
        place.copy_from_slice(&client_id.0.to_le_bytes());
        let id = BackendStatementId(u32::from_le_bytes(id));
        self.backend.statements.insert(client_id, BackendStatement::Ready { id, bound: false });
        Ok(Some(client_id))
    }

    /// Waits until so many bytes of the backend are here. A prepare may wait for locks, as any statement may.
    async fn wait_for(&mut self, count: usize) -> Result<(), End> {
        while self.backend.leg.buffer.len() < count {
            self.wait().await?;
        }
        Ok(())
    }

    /// All of the answer is the error that our own interruption has caused. Where it was the error of one among
    /// several statements, some may have been committed, so nobody is told that all is rolled back (invariant 1).
    fn was_interrupted(&self) -> bool {
        self.interrupted
            && self.sent == 0
            && !self.several
            && self.exchange.progress() == Progress::Done
            && self.exchange.outcome().error == Some(INTERRUPTED)
    }

    /// For bytes of the backend; meanwhile for a client that leaves, and for orders.
    async fn wait(&mut self) -> Result<(), End> {
        let room = self.client.buffer.len() < PIPELINE_MAX;
        tokio::select! {
            biased;
            read = self.backend.leg.fill() => match read {
                Ok(0) => return Err(End::Backend("it closed the connection in the middle of an answer".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(End::Backend(error.to_string())),
            },
            read = self.client.fill(), if room => match read {
                Ok(0) | Err(_) => return Err(End::ClientLeft),
                Ok(_) => {}
            },
            () = self.entry.wake.notified() => match self.entry.order() {
                Order::Close => return Err(End::Killed),
                Order::EndTransaction if !self.interrupted => {
                    self.interrupted = true;
                    self.kill("QUERY").await;
                }
                _ => *self.woken = true,
            },
        }
        Ok(())
    }

    /// LOAD DATA LOCAL: the client's file, up to its empty packet. It never touches a disk of ours.
    async fn local_file(&mut self) -> Result<(), End> {
        let sent = send_file(self.client, &mut self.backend.leg);
        unless_ended(self.entry, self.woken, sent).await??;
        self.exchange.data_sent();
        Ok(())
    }

    /// KILL on a connection of the service account; given up after a while, because the connection that is
    /// killed is about to close anyway.
    async fn kill(&self, what: &str) {
        let service = &self.shared.routes.backend(self.backend.side).config;
        let sql = format!("KILL {what} {}", self.backend.id);
        let killing = async {
            // A closed semaphore would be no reason not to kill.
            let _turn = KILLING.acquire().await;
            as_service(service, &sql).await
        };
        match tokio::time::timeout(KILL_TIMEOUT, killing).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(session_id = self.entry.id, "a statement couldn't be killed: {error}"),
            Err(_) => debug!(session_id = self.entry.id, "a statement couldn't be killed in time"),
        }
    }
}

/// Does work that may hang on a client which neither reads nor writes, and gives it up when the session is
/// told to end.
pub(super) async fn unless_ended<T>(
    entry: &Entry,
    woken: &mut bool,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = entry.wake.notified() => {
                *woken = true;
                if entry.order() >= Order::EndTransaction {
                    return Err(End::Killed);
                }
            }
        }
    }
}

/// The file of LOAD DATA LOCAL, up to its empty packet.
async fn send_file(client: &mut Leg, backend: &mut Leg) -> Result<(), End> {
    let mut file = ClientData::new();
    while !file.ended() {
        if client.buffer.is_empty() && client.fill().await.map_err(End::Client)? == 0 {
            return Err(End::ClientLeft);
        }
        let count = file.feed(client.buffer.filled());
        let sent = client.forward(backend, count).await;
        sent.map_err(|error| End::Backend(error.to_string()))?;
    }
    Ok(())
}

/// The request in the client's buffer, and what of it is still to come.
async fn send(client: &mut Leg, backend: &mut Leg) -> Result<(), End> {
    loop {
        client.fill_to(HEADER_LEN).await.map_err(End::Client)?;
        let Some(header) = Header::parse(client.buffer.filled()) else { return Err(End::ClientLeft) };
        send_bytes(client, backend, HEADER_LEN + header.len).await?;
        if !header.continues() {
            return Ok(());
        }
    }
}

/// Another first packet for the request, whose end may be still to come.
async fn send_instead(client: &mut Leg, backend: &mut Leg, packet: &[u8]) -> Result<(), End> {
    let whole = Header::parse(client.buffer.filled()).map_or(0, |header| HEADER_LEN + header.len);
    let replaced = client.buffer.len().min(whole);
    if let Err(error) = backend.write(packet).await {
        return Err(last_words(backend, &error).await);
    }
    client.buffer.consume(replaced);
    send_bytes(client, backend, whole - replaced).await
}

async fn send_bytes(client: &mut Leg, backend: &mut Leg, count: usize) -> Result<(), End> {
    let mut left = count;
    while left > 0 {
        if client.buffer.is_empty() && client.fill().await.map_err(End::Client)? == 0 {
            return Err(End::ClientLeft);
        }
        let part = left.min(client.buffer.len());
        if let Err(error) = client.forward(backend, part).await {
            return Err(last_words(backend, &error).await);
        }
        left -= part;
    }
    Ok(())
}

/// A backend that closes while it is written to has often said why (a packet that is too large).
async fn last_words(backend: &mut Leg, error: &std::io::Error) -> End {
    let _ = tokio::time::timeout(Duration::from_millis(500), backend.fill()).await;
    End::Backend(error.to_string())
}
