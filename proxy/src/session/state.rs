//! What is known of a session's state.
//!
//! It is committed when the server has answered, never when the client has asked. For most of it only *that*
//! it may have changed is remembered, as a version that counts up; the values are asked of the server when
//! the session is prepared for its move, so that they are the server's own and not what a proxy made of a
//! statement's text. What can't be asked for (texts of prepared statements) is kept, and what can't be
//! carried over pins the session ([`Pins`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::detail::TextPrepare;
use super::lexer::{self, Effects};
use super::pins::Pins;
use super::request::{Details, Request, effects_of};
use crate::protocol::command::Command;
use crate::protocol::packet::ok::{OkPacket, SessionTrack, StatusFlags};
use crate::relay::exchange::Outcome;

/// Prepared statements of one session that are kept (invariant 7).
const STATEMENTS_MAX: usize = 4096;
/// Bytes of their texts.
const STATEMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Names of user variables that are kept.
const USER_VARIABLES_MAX: usize = 4096;

/// A prepared statement's id as the client knows it; each backend has its own for the same statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientStatementId(pub u32);

/// A prepared statement's id on one backend connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendStatementId(pub u32);

/// How often the client itself did something, whether it succeeded or not; the server counts the same, so
/// what it has counted beyond this was done by code that isn't seen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attempts {
    pub(crate) create_temporary: u64,
    pub(crate) create_table: u64,
    pub(crate) prepare: u64,
    pub(crate) deallocate: u64,
}

/// How often something may have changed. Equal versions: it hasn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Versions {
    /// Current schema.
    pub(crate) schema: u64,
    /// Session variables.
    pub(crate) variables: u64,
    /// Values of user variables.
    pub(crate) user_variables: u64,
    /// LAST_INSERT_ID.
    pub(crate) last_id: u64,
    /// What statements are prepared under.
    pub(crate) context: u64,
    /// Runs of code that wasn't seen.
    pub(crate) procedures: u64,
}

/// A binary prepared statement.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: Arc<[u8]>,
    pub(crate) effects: Effects,
    details: Option<Arc<Details>>,
    pub(crate) columns: u16,
    pub(crate) params: u16,
    /// Parameter types as the client sent them last; it sends them once and relies on the server's memory.
    pub(crate) types: Option<Box<[u8]>>,
    /// The version of the context that it was prepared under.
    pub(crate) context: u64,
}

/// A statement of PREPARE … FROM.
#[derive(Debug, Clone)]
pub(crate) struct TextStatement {
    /// The PREPARE itself.
    pub(crate) text: Arc<[u8]>,
    inner: Effects,
    pub(crate) context: u64,
    /// Tells it from another of the same name.
    pub(crate) version: u64,
}

/// What is known of the current schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schema {
    /// This one, or none.
    Known(Option<Vec<u8>>),
    /// The server has to be asked.
    Ask,
}

/// The tracked state.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) status: StatusFlags,
    pub(crate) pins: Pins,
    pub(crate) schema: Schema,
    pub(crate) versions: Versions,
    /// Session variables other than those that are always carried may differ from a fresh session's.
    pub(crate) variables_touched: bool,
    pub(crate) user_variables: BTreeSet<Vec<u8>>,
    pub(crate) statements: BTreeMap<ClientStatementId, Statement>,
    statement_bytes: usize,
    next_statement: u32,
    pub(crate) last_prepared: Option<ClientStatementId>,
    pub(crate) texts: BTreeMap<Vec<u8>, TextStatement>,
    next_text: u64,
    pub(crate) multi_statements: Option<bool>,
    pub(crate) attempts: Attempts,
    temporary_tables: Vec<Vec<u8>>,
    temporary_blind: bool,
    locks: Vec<Vec<u8>>,
    locks_blind: bool,
    handlers: u32,
    cursors: BTreeSet<ClientStatementId>,
    long_data: BTreeSet<ClientStatementId>,
    /// The next statement may well ask how the last one went.
    pub(crate) looks_back: bool,
    /// The last statement changed rows.
    pub(crate) wrote: bool,
}

impl SessionState {
    /// Just after the login.
    pub(crate) fn new(status: StatusFlags, schema: Option<Vec<u8>>) -> Self {
        Self {
            status,
            pins: Pins::NONE,
            schema: Schema::Known(schema),
            versions: Versions::default(),
            variables_touched: false,
            user_variables: BTreeSet::new(),
            statements: BTreeMap::new(),
            statement_bytes: 0,
            next_statement: 1,
            last_prepared: None,
            texts: BTreeMap::new(),
            next_text: 0,
            multi_statements: None,
            attempts: Attempts::default(),
            temporary_tables: Vec::new(),
            temporary_blind: false,
            locks: Vec::new(),
            locks_blind: false,
            handlers: 0,
            cursors: BTreeSet::new(),
            long_data: BTreeSet::new(),
            looks_back: false,
            wrote: false,
        }
    }

    /// NO_BACKSLASH_ESCAPES of the session's sql_mode.
    pub(crate) fn plain_backslash(&self) -> bool {
        self.status.contains(StatusFlags::NO_BACKSLASH_ESCAPES)
    }

    /// Inside a transaction, as far as the server has said.
    pub(crate) fn in_transaction(&self) -> bool {
        self.status.contains(StatusFlags::IN_TRANSACTION)
            || self.status.contains(StatusFlags::IN_READONLY_TRANSACTION)
    }

    /// Nothing is open that a move would lose.
    pub(crate) fn is_movable(&self) -> bool {
        !self.in_transaction() && self.pins.is_empty()
    }

    /// A COM_QUERY.
    pub(crate) fn query(&self, text: &[u8]) -> Request {
        let plain_backslash = self.plain_backslash();
        let mut effects = effects_of(text, plain_backslash);
        let mut details = None;
        if !effects.is_plain() {
            let read = Details::read(text, effects, plain_backslash);
            if effects.contains(Effects::TEXT_EXECUTE) {
                effects = effects.and(self.inner_effects(read.prepared_name.as_deref()));
            }
            details = Some(Arc::new(read));
        }
        Request { effects, details, ..Request::plain(Command::Query) }
    }

    /// What EXECUTE of a text statement does.
    fn inner_effects(&self, name: Option<&[u8]>) -> Effects {
        match name.and_then(|name| self.texts.get(name)) {
            Some(text) => text.inner,
            None => lexer::scan(b"CALL unseen", false),
        }
    }

    /// A COM_STMT_PREPARE.
    pub(crate) fn prepare(&self, text: &[u8]) -> Request {
        Request { argument: Some(text.into()), ..Request::plain(Command::StmtPrepare) }
    }

    /// A COM_STMT_EXECUTE or its bulk form.
    pub(crate) fn execute(&self, command: Command, id: ClientStatementId) -> Request {
        let (effects, details) = match self.statements.get(&id) {
            Some(statement) => (statement.effects, statement.details.clone()),
            None => (Effects::NONE, None),
        };
        Request { effects, details, statement: Some(id), ..Request::plain(command) }
    }

    /// Another command about a prepared statement.
    pub(crate) fn about(&self, command: Command, id: ClientStatementId) -> Request {
        Request { statement: Some(id), ..Request::plain(command) }
    }

    /// A command with an argument that matters.
    pub(crate) fn with_argument(&self, command: Command, argument: &[u8]) -> Request {
        let effects = match command {
            Command::InitDb | Command::DropDb => Effects::SCHEMA.and(Effects::CONTEXT),
            // It drops every prepared statement, so what those were prepared under doesn't matter.
            _ => Effects::NONE,
        };
        Request { effects, argument: Some(argument.into()), ..Request::plain(command) }
    }

    /// True where statements exist whose context would be lost with this request, and isn't noted yet.
    pub(crate) fn loses_context(&self, request: &Request, noted: &BTreeMap<u64, impl Sized>) -> bool {
        let now = self.versions.context;
        request.effects.contains(Effects::CONTEXT)
            && !noted.contains_key(&now)
            && (self.statements.values().any(|statement| statement.context == now)
                || self.texts.values().any(|text| text.context == now))
    }

    /// The next id for the client's eyes.
    pub(crate) fn new_statement_id(&mut self) -> ClientStatementId {
        let id = ClientStatementId(self.next_statement);
        // 0xFFFFFFFF means "the last one" to MariaDB.
        self.next_statement = self.next_statement.wrapping_add(1).clamp(1, u32::MAX - 1);
        id
    }

    /// The server has answered; `prepared_as` is the id that the client was told of a new statement.
    /// Returns true where the answer doesn't say whether a transaction is open.
    pub(crate) fn answered(
        &mut self,
        request: &Request,
        outcome: &Outcome,
        prepared_as: Option<ClientStatementId>,
    ) -> bool {
        let was_in_transaction = self.in_transaction();
        if let Some(status) = outcome.status {
            self.status = status;
        }
        self.looks_back = outcome.warnings > 0
            || outcome.error.is_some()
            || request.effects.contains(Effects::LEAVES_FOUND_ROWS);
        self.wrote = outcome.affected_rows > 0;
        if outcome.last_insert_id != 0 {
            self.versions.last_id += 1;
        }
        if !outcome.tracks.is_empty() {
            self.tracked(&outcome.tracks);
        }
        if outcome.incomplete {
            self.anything_may_have_changed();
        }
        let failed = outcome.error.is_some();
        self.commit_command(request, outcome, prepared_as, failed);
        // A plain BEGIN ends what LOCK TABLES began.
        if !request.effects.is_plain() || !self.pins.is_empty() {
            self.commit_effects(request, failed);
        }
        self.use_up_next_transaction(request.effects, was_in_transaction, failed);
        let several = Effects::MULTIPLE.and(Effects::PROCEDURE).and(Effects::BEGIN);
        failed
            && (was_in_transaction
                || self.in_transaction()
                || request.effects.any(several)
                || !self.status.contains(StatusFlags::AUTOCOMMIT))
    }

    fn use_up_next_transaction(&mut self, effects: Effects, was_in_transaction: bool, failed: bool) {
        if !self.pins.contains(Pins::NEXT_TRANSACTION) || effects.contains(Effects::NEXT_TRANSACTION) {
            return;
        }
        let in_transaction = self.in_transaction();
        let ended = was_in_transaction && !in_transaction;
        if !failed && (ended || (effects.contains(Effects::WRITES) && !in_transaction)) {
            self.pins.set(Pins::NEXT_TRANSACTION, false);
        }
    }

    /// What the commands do that aren't statement texts.
    fn commit_command(
        &mut self,
        request: &Request,
        outcome: &Outcome,
        prepared_as: Option<ClientStatementId>,
        failed: bool,
    ) {
        let id = request.statement;
        match request.command {
            Command::StmtPrepare => {
                if let (Some(prepared), Some(id), Some(text)) =
                    (outcome.prepared, prepared_as, request.argument.clone())
                {
                    self.remember_statement(id, text, prepared.columns, prepared.params);
                }
            }
            Command::StmtExecute | Command::StmtBulkExecute => {
                if let Some(id) = id {
                    self.long_data.remove(&id);
                    let open = outcome.status.is_some_and(|s| s.contains(StatusFlags::CURSOR_EXISTS));
                    if open && !failed {
                        self.cursors.insert(id);
                    } else {
                        self.cursors.remove(&id);
                    }
                }
            }
            Command::StmtFetch => {
                let last = outcome.status.is_some_and(|s| s.contains(StatusFlags::LAST_ROW_SENT));
                if let Some(id) = id.filter(|_| last && !failed) {
                    self.cursors.remove(&id);
                }
            }
            Command::StmtReset => {
                if let Some(id) = id.filter(|_| !failed) {
                    self.long_data.remove(&id);
                    self.cursors.remove(&id);
                }
            }
            Command::StmtClose => {
                if let Some(id) = id {
                    self.forget_statement(id);
                }
            }
            Command::StmtSendLongData => {
                self.long_data.extend(id);
            }
            Command::InitDb if !failed => {
                self.versions.schema += 1;
                self.versions.context += 1;
                self.schema = Schema::Known(request.argument.as_deref().map(<[u8]>::to_vec));
            }
            Command::DropDb if !failed => self.ask_schema(),
            Command::SetOption if !failed => {
                self.multi_statements = request.argument.as_deref().map(|option| option.first() == Some(&0));
            }
            Command::ResetConnection if !failed => self.reset(),
            Command::RegisterSlave if !failed => self.pins.set(Pins::BINLOG_STREAM, true),
            _ => {}
        }
        self.pins.set(Pins::CURSOR, !self.cursors.is_empty());
        self.pins.set(Pins::LONG_DATA, !self.long_data.is_empty());
    }

    fn remember_statement(&mut self, id: ClientStatementId, text: Arc<[u8]>, columns: u16, params: u16) {
        let plain_backslash = self.plain_backslash();
        let effects = lexer::scan(&text, plain_backslash);
        let details = (!effects.is_plain()).then(|| Arc::new(Details::read(&text, effects, plain_backslash)));
        self.statement_bytes += text.len();
        self.last_prepared = Some(id);
        let context = self.versions.context;
        self.statements
            .insert(id, Statement { text, effects, details, columns, params, types: None, context });
        self.bound_statements();
    }

    fn forget_statement(&mut self, id: ClientStatementId) {
        self.long_data.remove(&id);
        self.cursors.remove(&id);
        if let Some(statement) = self.statements.remove(&id) {
            self.statement_bytes -= statement.text.len();
            self.bound_statements();
        }
    }

    fn bound_statements(&mut self) {
        let too_much = self.statements.len() + self.texts.len() > STATEMENTS_MAX
            || self.statement_bytes > STATEMENT_BYTES_MAX;
        self.pins.set(Pins::STATEMENTS, too_much);
    }

    fn commit_effects(&mut self, request: &Request, failed: bool) {
        let effects = request.effects;
        let nothing = Details::default();
        let details = request.details.as_deref().unwrap_or(&nothing);
        self.count_attempts(effects);
        // What is asked for later may be asked once too often, also where the statement failed halfway.
        if effects.contains(Effects::VARIABLES) {
            self.variables_touched = true;
            self.versions.variables += 1;
        }
        if effects.contains(Effects::CONTEXT) && request.command != Command::InitDb {
            self.versions.context += 1;
        }
        if effects.contains(Effects::LAST_ID) {
            self.versions.last_id += 1;
        }
        if effects.contains(Effects::PROCEDURE) {
            self.versions.procedures += 1;
            self.versions.user_variables += 1;
        }
        if effects.contains(Effects::USER_VARIABLES) {
            self.versions.user_variables += 1;
            self.user_variables.extend(details.user_variables.iter().cloned());
            if self.user_variables.len() > USER_VARIABLES_MAX {
                self.pins.set(Pins::STATEMENTS, true);
            }
        }
        if effects.contains(Effects::SCHEMA) && request.command != Command::InitDb {
            match &details.schema {
                Some(schema) if !failed => {
                    self.versions.schema += 1;
                    self.schema = Schema::Known(Some(schema.clone()));
                }
                // A USE that failed alone changed nothing.
                Some(_) => {}
                None => self.ask_schema(),
            }
        }
        let several = effects.any(Effects::MULTIPLE.and(Effects::PROCEDURE).and(Effects::UNSURE));
        if !failed || several {
            self.pin(effects, details);
        }
        if !failed && !several {
            self.unpin(effects, details);
        }
    }

    fn count_attempts(&mut self, effects: Effects) {
        self.attempts.create_temporary += u64::from(effects.contains(Effects::TEMPORARY_CREATE));
        self.attempts.create_table += u64::from(effects.contains(Effects::CREATE_TABLE));
        self.attempts.prepare += u64::from(effects.contains(Effects::TEXT_PREPARE));
        self.attempts.deallocate += u64::from(effects.contains(Effects::TEXT_DEALLOCATE));
    }

    /// The server counts temporary tables that the client didn't make: a procedure did.
    pub(crate) fn pin_hidden_tables(&mut self) {
        self.temporary_blind = true;
        self.pins.set(Pins::TEMPORARY_TABLE, true);
    }

    fn pin(&mut self, effects: Effects, details: &Details) {
        let direct = [
            (Effects::LOCK_TABLES, Pins::LOCK_TABLES),
            (Effects::READ_LOCK, Pins::READ_LOCK),
            (Effects::BACKUP_LOCK, Pins::BACKUP_LOCK),
            (Effects::XA_START, Pins::XA),
            (Effects::NEXT_TRANSACTION, Pins::NEXT_TRANSACTION),
            (Effects::REPLICATION_VARIABLE, Pins::REPLICATION_VARIABLE),
            (Effects::ROLE, Pins::ROLE),
        ];
        for (effect, pin) in direct {
            if effects.contains(effect) {
                self.pins.set(pin, true);
            }
        }
        if effects.contains(Effects::TEMPORARY_CREATE) {
            match &details.tables {
                Some(tables) => self.temporary_tables.extend(tables.iter().cloned()),
                None => self.temporary_blind = true,
            }
            self.pins.set(Pins::TEMPORARY_TABLE, true);
        }
        if effects.contains(Effects::RENAME_TABLE) && !self.temporary_tables.is_empty() {
            self.temporary_blind = true;
        }
        if effects.contains(Effects::GET_LOCK) {
            match &details.locks {
                Some(locks) => self.locks.extend(locks.iter().cloned()),
                None => self.locks_blind = true,
            }
            self.pins.set(Pins::USER_LOCK, true);
        }
        if effects.contains(Effects::HANDLER_OPEN) {
            self.handlers += 1;
            self.pins.set(Pins::HANDLER, true);
        }
        if effects.contains(Effects::TEXT_PREPARE) {
            self.remember_text(details);
        }
    }

    fn remember_text(&mut self, details: &Details) {
        match (&details.prepare, &details.text) {
            (Some(TextPrepare { name, inner: Some(inner) }), Some(text)) => {
                self.next_text += 1;
                let statement = TextStatement {
                    text: Arc::clone(text),
                    inner: lexer::scan(inner, self.plain_backslash()),
                    context: self.versions.context,
                    version: self.next_text,
                };
                self.statement_bytes += text.len();
                if let Some(old) = self.texts.insert(name.clone(), statement) {
                    self.statement_bytes -= old.text.len();
                }
                self.bound_statements();
            }
            _ => self.pins.set(Pins::PREPARED_TEXT, true),
        }
    }

    fn unpin(&mut self, effects: Effects, details: &Details) {
        if effects.contains(Effects::UNLOCK_TABLES) {
            self.pins.set(Pins::LOCK_TABLES | Pins::READ_LOCK, false);
        }
        if effects.contains(Effects::BEGIN) {
            // It releases what LOCK TABLES took.
            self.pins.set(Pins::LOCK_TABLES, false);
        }
        if effects.contains(Effects::BACKUP_UNLOCK) {
            self.pins.set(Pins::BACKUP_LOCK, false);
        }
        if effects.contains(Effects::XA_FINISH) {
            self.pins.set(Pins::XA, false);
        }
        if effects.contains(Effects::HANDLER_CLOSE) {
            self.handlers = self.handlers.saturating_sub(1);
            self.pins.set(Pins::HANDLER, self.handlers > 0);
        }
        if effects.contains(Effects::DROP_TABLE) {
            remove_names(&mut self.temporary_tables, details.tables.as_deref());
            self.pins.set(Pins::TEMPORARY_TABLE, self.temporary_blind || !self.temporary_tables.is_empty());
        }
        if effects.contains(Effects::RELEASE_LOCK) && !effects.contains(Effects::GET_LOCK) {
            remove_names(&mut self.locks, details.locks.as_deref());
            self.pins.set(Pins::USER_LOCK, self.locks_blind || !self.locks.is_empty());
        }
        if effects.contains(Effects::RELEASE_ALL_LOCKS) && !effects.contains(Effects::GET_LOCK) {
            self.locks.clear();
            self.locks_blind = false;
            self.pins.set(Pins::USER_LOCK, false);
        }
        if effects.contains(Effects::TEXT_DEALLOCATE)
            && let Some(name) = &details.prepared_name
            && let Some(old) = self.texts.remove(name)
        {
            self.statement_bytes -= old.text.len();
            self.bound_statements();
        }
    }

    fn ask_schema(&mut self) {
        self.versions.schema += 1;
        self.schema = Schema::Ask;
    }

    fn anything_may_have_changed(&mut self) {
        self.ask_schema();
        self.variables_touched = true;
        self.versions.variables += 1;
        self.versions.user_variables += 1;
        self.versions.last_id += 1;
        self.versions.procedures += 1;
    }

    /// Session-track entries.
    fn tracked(&mut self, entries: &[u8]) {
        let packet = OkPacket { session_track: entries, ..OkPacket::default() };
        let mut readable = true;
        for entry in packet.tracks() {
            match entry {
                Ok(SessionTrack::Schema(schema)) => {
                    self.versions.schema += 1;
                    self.schema = Schema::Known((!schema.is_empty()).then(|| schema.to_vec()));
                }
                Ok(SessionTrack::SystemVariable { name, .. }) if name != b"autocommit" => {
                    self.variables_touched = true;
                    self.versions.variables += 1;
                }
                Ok(_) => {}
                Err(_) => readable = false,
            }
        }
        if !readable {
            self.anything_may_have_changed();
        }
    }

    /// COM_RESET_CONNECTION: everything but the schema is as after a login.
    fn reset(&mut self) {
        let fresh = Self::new(self.status, None);
        let old = std::mem::replace(self, fresh);
        self.versions = old.versions;
        self.next_statement = old.next_statement;
        self.next_text = old.next_text;
        self.versions.context += 1;
        self.anything_may_have_changed();
    }
}

/// Takes away each of `gone` where it is there exactly once; a name that is there twice can't be told apart.
fn remove_names(names: &mut Vec<Vec<u8>>, gone: Option<&[Vec<u8>]>) {
    for name in gone.unwrap_or_default() {
        let mut places = names.iter().enumerate().filter(|(_, other)| *other == name).map(|(place, _)| place);
        if let (Some(place), None) = (places.next(), places.next()) {
            names.swap_remove(place);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
