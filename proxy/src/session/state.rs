//! What is known of a session's state.
//!
//! It is committed when the server has answered, never when the client has asked. For most of it only *that*
//! it may have changed is remembered, as a version that counts up; the values are asked of the server when
//! the session is prepared for its move, so that they are the server's own and not what a proxy made of a
//! statement's text. What can't be asked for (texts of prepared statements) is kept, and what can't be
//! carried over pins the session ([`Pins`]).

mod pinning;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::detail::{NamedTable, TextPrepare};
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
pub(super) const USER_VARIABLES_MAX: usize = 4096;
/// Bytes of them.
const USER_VARIABLE_BYTES_MAX: usize = 1024 * 1024;
/// Names that are kept of those that may be none, because the text reads otherwise: random bytes between quotes have
/// thousands of them. Where there are more the server is asked which it has.
pub(super) const GUESSED_MAX: usize = 64;
/// Names of session variables that are kept.
const SET_VARIABLES_MAX: usize = 2048;
/// Temporary tables, and locks, that are told apart.
const NAMES_MAX: usize = 1024;
/// ER_PARSE_ERROR: the server counts no statement that it couldn't parse.
const PARSE_ERROR: u16 = 1064;

/// A prepared statement's id as the client knows it; each backend has its own for the same statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientStatementId(pub u32);

/// A prepared statement's id on one backend connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendStatementId(pub u32);

/// How often the client itself did something, whether it succeeded or not, unless it couldn't be parsed; the
/// server counts the same, so what it has counted beyond this was done by code that isn't seen here.
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
#[derive(Debug, Clone)]
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
    /// Text and types are kept, so that it can be prepared again elsewhere.
    kept: bool,
}

impl Statement {
    fn bytes(&self) -> usize {
        self.text.len() + self.types.as_ref().map_or(0, |types| types.len())
    }
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

/// A schema by the name that the client gave. In which character set it did is only known of ASCII.
fn known(name: Option<&[u8]>) -> Schema {
    match name {
        Some(name) if !name.is_ascii() => Schema::Ask,
        name => Schema::Known(name.map(<[u8]>::to_vec)),
    }
}

/// What is known of the current schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schema {
    /// This one, or none; in UTF-8.
    Known(Option<Vec<u8>>),
    /// The server has to be asked.
    Ask,
}

/// The tracked state.
#[derive(Debug, Clone)]
pub(crate) struct SessionState {
    pub(crate) status: StatusFlags,
    pub(crate) pins: Pins,
    pub(crate) schema: Schema,
    pub(crate) versions: Versions,
    /// Session variables other than those that are always carried may differ from a fresh session's.
    pub(crate) variables_touched: bool,
    /// Session variables that a SET named, in lower case.
    pub(crate) set_variables: BTreeSet<String>,
    pub(crate) user_variables: BTreeSet<Vec<u8>>,
    pub(crate) statements: BTreeMap<ClientStatementId, Statement>,
    user_variable_bytes: usize,
    /// How many of them may be none.
    guessed_variables: usize,
    /// More than are kept.
    user_variables_lost: bool,
    statement_bytes: usize,
    /// Statements whose text isn't kept.
    statements_lost: usize,
    next_statement: u32,
    pub(crate) last_prepared: Option<ClientStatementId>,
    pub(crate) texts: BTreeMap<Vec<u8>, TextStatement>,
    next_text: u64,
    pub(crate) multi_statements: Option<bool>,
    pub(crate) attempts: Attempts,
    temporary_tables: BTreeSet<NamedTable>,
    temporary_blind: bool,
    locks: Vec<Vec<u8>>,
    locks_blind: bool,
    /// A statement ran that may have made stored code take a lock.
    pub(crate) may_hold_locks: bool,
    /// Procedures that were called, in lower case; `None`: nobody knows which.
    pub(crate) called: Option<BTreeSet<Vec<u8>>>,
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
            schema: known(schema.as_deref()),
            versions: Versions::default(),
            variables_touched: false,
            set_variables: BTreeSet::new(),
            user_variables: BTreeSet::new(),
            statements: BTreeMap::new(),
            user_variable_bytes: 0,
            guessed_variables: 0,
            user_variables_lost: false,
            statement_bytes: 0,
            statements_lost: 0,
            next_statement: 1,
            last_prepared: None,
            texts: BTreeMap::new(),
            next_text: 0,
            multi_statements: None,
            attempts: Attempts::default(),
            temporary_tables: BTreeSet::new(),
            temporary_blind: false,
            locks: Vec::new(),
            locks_blind: false,
            may_hold_locks: false,
            called: Some(BTreeSet::new()),
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
            let mut read = read;
            if effects.contains(Effects::TEXT_EXECUTE) {
                effects = effects.and(self.inner_effects(read.prepared_name.as_deref()));
                // The CALL stands in another text.
                read.called = None;
            }
            details = Some(Arc::new(read));
        }
        Request { effects, details, ..Request::plain(Command::Query) }
    }

    /// What EXECUTE of a text statement does.
    fn inner_effects(&self, name: Option<&[u8]>) -> Effects {
        match name.and_then(|name| self.texts.get(name)) {
            Some(text) => text.inner,
            None => lexer::scan(b"CALL unseen", false).and(Effects::CONTEXT),
        }
    }

    /// A COM_STMT_PREPARE.
    pub(crate) fn prepare(&self, text: &[u8]) -> Request {
        // Preparing SHOW WARNINGS leaves what it will ask for as it is; every other effect comes when it is executed.
        let asks = lexer::scan(text, self.plain_backslash()).contains(Effects::ASKS_LAST);
        let effects = if asks { Effects::ASKS_LAST } else { Effects::NONE };
        Request { effects, argument: Some(text.into()), ..Request::plain(Command::StmtPrepare) }
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
        let asked_about = outcome.warnings > 0
            || outcome.error.is_some()
            || request.effects.contains(Effects::LEAVES_FOUND_ROWS)
            // ROW_COUNT() of one row can be brought back behind a question of ours, of more it can't.
            || outcome.affected_rows > 1;
        if request.keeps_outcome() {
            self.looks_back |= asked_about;
        } else {
            self.looks_back = asked_about;
            self.wrote = outcome.affected_rows > 0;
        }
        // A bulk may answer with a row for each of its rows, and no OK.
        if outcome.last_insert_id != 0 || request.command == Command::StmtBulkExecute {
            self.versions.last_id += 1;
        }
        if !outcome.tracks.is_empty() {
            self.tracked(&outcome.tracks);
        }
        if outcome.incomplete {
            self.anything_may_have_changed();
        }
        let failed = outcome.error.is_some();
        if !self.user_variables.is_empty() && Self::runs_code(request.command) {
            // Any function and any trigger may have set them.
            self.versions.user_variables += 1;
        }
        self.commit_command(request, outcome, prepared_as, failed);
        // A plain BEGIN ends what LOCK TABLES began.
        if !request.effects.is_plain() || !self.pins.is_empty() {
            self.commit_effects(request, outcome.error);
        }
        if request.unseen {
            // Not before it was sent: until then it is nothing that a move would lose.
            self.pins.set(Pins::LONG_STATEMENT, true);
        }
        self.use_up_next_transaction(request.effects, was_in_transaction, failed);
        self.keep_savepoint(request.effects, was_in_transaction, failed);
        let several = Effects::MULTIPLE.and(Effects::PROCEDURE).and(Effects::BEGIN);
        failed
            && (was_in_transaction
                || self.in_transaction()
                || request.unseen
                || request.effects.any(several)
                || !self.status.contains(StatusFlags::AUTOCOMMIT))
    }

    /// With autocommit off a savepoint counts from the moment when it is set, though the server says that a
    /// transaction is open only from the first statement on that reads or writes a table.
    fn keep_savepoint(&mut self, effects: Effects, was_in_transaction: bool, failed: bool) {
        let pinned = self.pins.contains(Pins::SAVEPOINT);
        if failed || !(pinned || effects.contains(Effects::SAVEPOINT)) {
            return;
        }
        let in_transaction = self.in_transaction();
        let waits = !in_transaction && !self.status.contains(StatusFlags::AUTOCOMMIT);
        if effects.contains(Effects::SAVEPOINT) {
            self.pins.set(Pins::SAVEPOINT, waits);
        } else if in_transaction || was_in_transaction || !waits || effects.contains(Effects::WRITES) {
            self.pins.set(Pins::SAVEPOINT, false);
        }
    }

    fn runs_code(command: Command) -> bool {
        matches!(
            command,
            Command::Query | Command::StmtExecute | Command::StmtBulkExecute | Command::StmtFetch
        )
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
                    let open = request.asks_for_cursor
                        && outcome.status.is_some_and(|s| s.contains(StatusFlags::CURSOR_EXISTS));
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
                // A server drops data for a statement that it doesn't have and says nothing; ids that a client makes
                // up would be kept for ever, and pin it (invariant 7).
                self.long_data.extend(id.filter(|id| self.statements.contains_key(id)));
            }
            Command::InitDb if !failed => {
                self.versions.schema += 1;
                self.versions.context += 1;
                self.schema = known(request.argument.as_deref());
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
        self.last_prepared = Some(id);
        let context = self.versions.context;
        let mut statement =
            Statement { text, effects, details, columns, params, types: None, context, kept: true };
        let full = self.statements.len() + self.texts.len() >= STATEMENTS_MAX;
        if full || !self.has_room(statement.bytes()) {
            self.lose(&mut statement);
        }
        self.statement_bytes += statement.bytes();
        self.statements.insert(id, statement);
        self.bound_statements();
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.statement_bytes + bytes <= STATEMENT_BYTES_MAX
    }

    /// Keeps of a statement only what it may do; it pins the session for as long as it lives (invariant 7).
    fn lose(&mut self, statement: &mut Statement) {
        statement.kept = false;
        (statement.text, statement.details, statement.types) = (Arc::from([]), None, None);
        if !statement.effects.is_plain() {
            // The names that it is about went with its text, so the server has to be asked for what it did.
            statement.effects = statement.effects.and(Effects::PROCEDURE);
        }
        self.statements_lost += 1;
    }

    /// The client has sent other types of parameters.
    pub(crate) fn remember_types(&mut self, id: ClientStatementId, types: &[u8]) {
        let Some(mut statement) = self.statements.remove(&id) else { return };
        self.statement_bytes -= statement.bytes();
        if statement.kept {
            statement.types = Some(types.into());
            if !self.has_room(statement.bytes()) {
                self.lose(&mut statement);
            }
        }
        self.statement_bytes += statement.bytes();
        self.statements.insert(id, statement);
        self.bound_statements();
    }

    fn forget_statement(&mut self, id: ClientStatementId) {
        self.long_data.remove(&id);
        self.cursors.remove(&id);
        if let Some(statement) = self.statements.remove(&id) {
            self.statement_bytes -= statement.bytes();
            self.statements_lost -= usize::from(!statement.kept);
            self.bound_statements();
        }
    }

    fn bound_statements(&mut self) {
        self.pins.set(Pins::STATEMENTS, self.statements_lost > 0 || self.user_variables_lost);
    }

    fn remember_called(&mut self, names: Option<&Vec<Vec<u8>>>) {
        match (&mut self.called, names) {
            (Some(called), Some(names)) if called.len() < NAMES_MAX => called.extend(names.iter().cloned()),
            _ => self.called = None,
        }
    }

    /// The session variables have to be asked for.
    pub(crate) fn variables_may_have_changed(&mut self) {
        self.variables_touched = true;
        self.versions.variables += 1;
        self.versions.last_id += 1;
    }

    /// Whether the client itself has taken this lock.
    pub(crate) fn holds_lock(&self, name: &[u8]) -> bool {
        self.locks.iter().any(|lock| lock.eq_ignore_ascii_case(name))
    }

    fn commit_effects(&mut self, request: &Request, error: Option<u16>) {
        let failed = error.is_some();
        let effects = request.effects;
        let nothing = Details::default();
        let details = request.details.as_deref().unwrap_or(&nothing);
        if error != Some(PARSE_ERROR) {
            self.count_attempts(effects);
        }
        // What is asked for later may be asked once too often, also where the statement failed halfway.
        if effects.contains(Effects::VARIABLES) {
            self.variables_touched = true;
            self.versions.variables += 1;
            if !failed || effects.contains(Effects::MULTIPLE) {
                self.remember_set_variables(&details.set_variables);
            }
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
            self.remember_called(details.called.as_ref());
        }
        if effects.contains(Effects::USER_VARIABLES) {
            self.versions.user_variables += 1;
            self.remember_user_variables(&details.user_variables);
            self.remember_guessed_variables(&details.guessed_variables);
        }
        if effects.contains(Effects::SCHEMA) && request.command != Command::InitDb {
            match &details.schema {
                Some(schema) if !failed => {
                    self.versions.schema += 1;
                    self.schema = known(Some(schema));
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
        if failed && !several && effects.contains(Effects::TEXT_PREPARE) {
            // Where the text that is to be prepared isn't seen, a syntax error may be the PREPARE's own.
            let prepare = details.prepare.as_ref();
            self.forget_text(prepare.filter(|p| p.inner.is_some() || error != Some(PARSE_ERROR)));
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

    fn remember_text(&mut self, details: &Details) {
        match (&details.prepare, &details.text) {
            (Some(TextPrepare { name, inner: Some(inner) }), Some(text))
                if self.has_room(text.len()) && self.statements.len() + self.texts.len() < STATEMENTS_MAX =>
            {
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
            }
            _ => self.pins.set(Pins::PREPARED_TEXT, true),
        }
    }

    /// A PREPARE that fails has dropped the statement that had its name.
    fn forget_text(&mut self, prepare: Option<&TextPrepare>) {
        if let Some(old) = prepare.and_then(|prepare| self.texts.remove(&prepare.name)) {
            self.statement_bytes -= old.text.len();
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
                    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                    self.remember_set_variables(&[name]);
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
        self.begin_again_somewhere(self.status);
    }

    /// As [`Self::begin_again`], in a schema that only the server knows.
    pub(crate) fn begin_again_somewhere(&mut self, status: StatusFlags) {
        self.begin_again(status, None);
        self.anything_may_have_changed();
    }

    /// COM_CHANGE_USER: everything is as after a login, but for what tells old from new.
    pub(crate) fn begin_again(&mut self, status: StatusFlags, schema: Option<Vec<u8>>) {
        let old = std::mem::replace(self, Self::new(status, schema));
        self.next_statement = old.next_statement;
        self.next_text = old.next_text;
        // It belongs to the connection, like what the login agreed on.
        self.multi_statements = old.multi_statements;
        self.versions = Versions {
            schema: old.versions.schema + 1,
            variables: old.versions.variables + 1,
            user_variables: old.versions.user_variables + 1,
            last_id: old.versions.last_id + 1,
            context: old.versions.context + 1,
            procedures: 0,
        };
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
