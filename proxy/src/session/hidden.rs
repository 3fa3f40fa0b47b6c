//! What a session has that no statement of its client's and no answer told: what routines and triggers left in it.

use std::sync::Arc;

use config::{Flavor, Side};
use tokio::sync::Semaphore;
use tracing::warn;

use super::connection::RestoreError;
use super::execute::query_text;
use super::lexer::Effects;
use super::pins::Pins;
use super::question::{QuestionError, hex_literal};
use super::request::Request;
use super::surroundings::{Between, Reaches, Service, StoredCode};
use super::task::Session;
use crate::protocol::command::Command;
use crate::protocol::frame::HEADER_LEN;

/// So many sessions ask for their locks at once, each on a connection of its own.
static ASKING: Semaphore = Semaphore::const_new(16);

impl Session {
    /// What stored code may do by way of this request, which lies in the client's buffer.
    pub(super) fn reaches(&self, request: &Request) -> Reaches {
        let reached_by = |text: &[u8]| self.shared.servers.reached_by(self.backend.side, text);
        let reached = reached_by(self.text_of(request));
        if !request.effects.contains(Effects::TEXT_EXECUTE) {
            return reached;
        }
        // What it executes stands in another text.
        self.state.texts.values().fold(reached, |all, prepared| {
            let one = reached_by(&prepared.text);
            Reaches { locks: all.locks || one.locks, variables: all.variables || one.variables }
        })
    }

    /// The statement's text, as far as it was looked at; the request lies in the client's buffer.
    pub(super) fn text_of(&self, request: &Request) -> &[u8] {
        match request.command {
            Command::Query => {
                let payload = self.client.buffer.filled().get(HEADER_LEN..).unwrap_or_default();
                query_text(payload, self.backend.capabilities).unwrap_or(payload)
            }
            Command::StmtExecute | Command::StmtBulkExecute => {
                let statement = request.statement.and_then(|id| self.state.statements.get(&id));
                statement.map_or(&[], |statement| &*statement.text)
            }
            _ => &[],
        }
    }

    /// A statement has run that may have made stored code leave something.
    pub(super) async fn after_stored_code(&mut self, reaches: Reaches) {
        if reaches.variables {
            self.state.variables_may_have_changed();
        }
        if reaches.locks {
            self.state.may_hold_locks = true;
            // Before that a preparation asks.
            if self.known_between().is_some() || self.state.pins.contains(Pins::HIDDEN_LOCK) {
                let _ = Box::pin(self.look_for_locks()).await;
            }
        }
    }

    /// What was known of both servers when the session was last prepared to leave this one.
    fn known_between(&self) -> Option<Arc<Between>> {
        self.between.clone().filter(|between| between.towards == self.backend.side.other())
    }

    /// What is known of both servers; asked anew for a preparation.
    pub(super) async fn surroundings(&mut self, anew: bool) -> Result<Arc<Between>, RestoreError> {
        if let Some(between) = self.known_between().filter(|_| !anew) {
            return Ok(between);
        }
        let to = self.backend.side.other();
        let shared = Arc::clone(&self.shared);
        let between = shared.servers.between(&shared.routes, to).await;
        let between = between.map_err(|error| RestoreError::Write {
            what: "what the servers do to sessions by themselves".to_owned(),
            error,
        })?;
        self.between = Some(Arc::clone(&between));
        // It may have logged in before the server was asked for the first time.
        self.backend.names = shared.routes.backend(self.backend.side).names_as_spelled();
        Ok(between)
    }

    /// What code that wasn't seen may have left: names of user variables, and things that pin.
    pub(super) async fn look_for_hidden(&mut self) -> Result<(), RestoreError> {
        let called = self.state.versions.procedures > 0;
        let stored = Arc::clone(&self.surroundings(false).await?.from);
        // Triggers and functions set them as well, and no answer tells.
        self.state.user_variables.extend(stored.stored.user_variables.iter().cloned());
        if called || self.backend.version.flavor == Flavor::MariaDb {
            let service = &self.shared.routes.backend(self.backend.side).config;
            let names = self.backend.user_variable_names(service).await.map_err(RestoreError::Read)?;
            self.state.user_variables.extend(names);
        }
        if called {
            let hidden = self.backend.hidden(self.state.attempts).await;
            // Where nothing is counted, the bodies tell; what their prepared text does is another pin.
            let by_body = (stored.stored.makes_tables(self.state.called.as_ref()), false);
            let (tables, prepared) = hidden.map_err(RestoreError::Read)?.unwrap_or(by_body);
            if tables {
                self.state.pin_hidden_tables();
            }
            if prepared {
                self.set_pin(Pins::PREPARED_TEXT, true);
            }
        }
        self.pin_hidden_code(&stored.stored);
        if stored.stored.takes_locks() || stored.stored.unreadable {
            self.look_for_locks().await.map_err(RestoreError::Read)?;
        }
        match self.state.pins {
            Pins::NONE => Ok(()),
            pins => Err(RestoreError::Pinned(pins)),
        }
    }

    /// A CALL since the session was prepared: what it may have left pins at once, because the next question would come
    /// too late.
    pub(super) fn pin_what_was_called(&mut self, called: Option<&[Vec<u8>]>) {
        let Some(between) = self.known_between() else { return };
        let called = called.map(|names| names.iter().cloned().collect());
        if between.from.stored.makes_tables(called.as_ref()) {
            self.state.pin_hidden_tables();
        }
        self.pin_hidden_code(&between.from.stored);
    }

    /// A server without a list of user variables can't be asked what text that a procedure prepared has done.
    fn pin_hidden_code(&mut self, stored: &StoredCode) {
        if !self.backend.lists_user_variables() && stored.hides_from(self.state.called.as_ref()) {
            self.set_pin(Pins::HIDDEN_CODE, true);
        }
    }

    /// Whether it holds locks that stored code took. The service account asks, so the session notices nothing.
    pub(super) async fn look_for_locks(&mut self) -> Result<(), QuestionError> {
        let held = match self.surroundings(false).await {
            Ok(between) => self.holds_locks(&between.from.stored).await,
            Err(RestoreError::Write { error, .. } | RestoreError::Read(error)) => Err(error),
            Err(_) => Ok(None),
        };
        let session_id = self.registered.entry.id;
        let pin = match &held {
            Ok(Some(held)) => *held,
            Ok(None) => self.state.may_hold_locks,
            // invariant 3: what can't be known isn't taken for nothing.
            Err(error) => {
                warn!(area = "proxy", session_id, "locks of stored code can't be asked for: {error}");
                true
            }
        };
        self.set_pin(Pins::HIDDEN_LOCK, pin);
        held.map(drop)
    }

    /// `None`: nobody can tell.
    async fn holds_locks(&self, stored: &StoredCode) -> Result<Option<bool>, QuestionError> {
        let side: Side = self.backend.side;
        let service = &self.shared.routes.backend(side).config;
        // A closed semaphore would be no reason not to ask.
        let _turn = ASKING.acquire().await;
        let mut service = Service::open(service).await?;
        let held = self.ask_for_locks(&mut service, stored).await;
        service.close().await;
        held
    }

    async fn ask_for_locks(
        &self,
        service: &mut Service,
        stored: &StoredCode,
    ) -> Result<Option<bool>, QuestionError> {
        for sql in lists_of_locks(service.version.flavor, self.backend.id) {
            match service.ask(&sql).await {
                // The first column says whether the list is kept at all.
                Ok(answer) if answer.value(0) == Some(b"1") => {
                    let mut names = answer.rows.iter().filter_map(|row| row.get(1)?.clone());
                    return Ok(Some(names.any(|name| !self.state.holds_lock(&name))));
                }
                Ok(_) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(_) => {}
            }
        }
        let Some(names) = &stored.locks else { return Ok(None) };
        let own = self.backend.id.to_string();
        for name in names.iter().filter(|name| !self.state.holds_lock(name)) {
            let sql = format!("SELECT IS_USED_LOCK(CONVERT({} USING utf8))", hex_literal(name));
            if service.ask(&sql).await?.value(0) == Some(own.as_bytes()) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }
}

/// Questions for the locks of a connection, where the server keeps a list of them: whether it does, and their names.
fn lists_of_locks(flavor: Flavor, connection: u32) -> Vec<String> {
    let by_instrument = format!(
        "SELECT @@performance_schema AND i.ENABLED = 'YES', l.OBJECT_NAME FROM performance_schema.setup_instruments i \
         LEFT JOIN (performance_schema.metadata_locks l JOIN performance_schema.threads t \
         ON t.THREAD_ID = l.OWNER_THREAD_ID AND t.PROCESSLIST_ID = {connection}) \
         ON l.OBJECT_TYPE = 'USER LEVEL LOCK' AND l.LOCK_STATUS = 'GRANTED' \
         WHERE i.NAME = 'wait/lock/metadata/sql/mdl'"
    );
    let by_plugin = format!(
        "SELECT 1, l.TABLE_SCHEMA FROM (SELECT 1) one LEFT JOIN information_schema.METADATA_LOCK_INFO l \
         ON l.THREAD_ID = {connection} AND l.LOCK_TYPE = 'User lock'"
    );
    match flavor {
        Flavor::MySql => vec![by_instrument],
        Flavor::MariaDb => vec![by_plugin, by_instrument],
    }
}
