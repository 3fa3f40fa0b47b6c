//! A session's connection to one backend: what it can be asked about the session's state, and how it is
//! given one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use config::{Flavor, ServerVersion, Side, SideNames};

use super::mapping::{self, Dialect, Family, Unmapped};
use super::pins::Pins;
use super::question::{self, Answer, QuestionError, backticked, from_hex};
use super::replay::{Snapshot, Step, ToPrepare, Variables, set_statement};
use super::state::{Attempts, BackendStatementId, ClientStatementId, SessionState};
use crate::auth::{Credential, Login};
use crate::backend::connect::{BackendConnection, connect};
use crate::error::ConnectError;
use crate::protocol::capability::Capabilities;
use crate::protocol::packet::ErrPacket;
use crate::protocol::packet::ok::StatusFlags;
use crate::relay::copy::Leg;
use crate::route::table::{Backend, Epoch};

/// A backend that doesn't answer a dial within this time can't be reached.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What a server says of a variable, or a value, that it doesn't know.
const UNKNOWN_VARIABLE: u16 = 1193;
const WRONG_VALUE: u16 = 1231;
const WRONG_TYPE: u16 = 1232;
const UNKNOWN_CHARSET: u16 = 1115;
const UNKNOWN_COLLATION: u16 = 1273;
/// ER_TOO_BIG_SELECT.
const TOO_BIG_SELECT: u16 = 1104;

/// Refusals of a PREPARE that say nothing about its statement: no memory, no time, killed, a lock that was waited for too
/// long, `max_prepared_stmt_count`, a limit of the account. The same statement may well be prepared later.
const NOT_ITS_FAULT: [u16; 10] = [1037, 1038, 1041, 1205, 1213, 1226, 1317, 1461, 1969, 3024];

const COM_QUIT: u8 = 0x01;
const COM_INIT_DB: u8 = 0x02;
const COM_PING: u8 = 0x0E;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_CLOSE: u8 = 0x19;
const COM_SET_OPTION: u8 = 0x1B;

/// Session-only variables, and others whose difference to the global value says nothing about what a client
/// did. Those among them that a client can set to an effect pin the session instead.
const NOT_CARRIED: &[&str] = &[
    "autocommit",
    "character_set_database",
    "collation_database",
    "character_set_connection",
    "error_count",
    "external_user",
    "gtid_next",
    "gtid_executed",
    "gtid_owned",
    "gtid_seq_no",
    "identity",
    "in_predicate_conversion_threshold",
    "in_transaction",
    "insert_id",
    "last_gtid",
    "last_insert_id",
    "proxy_user",
    "pseudo_replica_mode",
    "pseudo_slave_mode",
    "pseudo_thread_id",
    "rand_seed1",
    "rand_seed2",
    "resultset_metadata",
    "skip_replication",
    "statement_id",
    "timestamp",
    "transaction_allow_batching",
    "tx_isolation",
    "transaction_isolation",
    "tx_read_only",
    "transaction_read_only",
    "warning_count",
    "original_commit_timestamp",
    "original_server_version",
    "immediate_server_version",
    "require_row_format",
    "use_secondary_engine",
    "gtid_binlog_pos",
    "gtid_binlog_state",
    "gtid_current_pos",
    "gtid_slave_pos",
];

/// What has become of a client's prepared statement here.
#[derive(Debug, Clone)]
pub(crate) enum BackendStatement {
    /// It has this id.
    Ready {
        /// The backend's id.
        id: BackendStatementId,
        /// This backend was told the types of its parameters.
        bound: bool,
    },
    /// Preparing it again failed; the client is told when it executes it.
    Failed(ErrPacket),
}

/// A logged-in connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) leg: Leg,
    pub(crate) side: Side,
    /// What schemas are called there.
    pub(crate) names: SideNames,
    pub(crate) epoch: Epoch,
    /// The backend's id of it.
    pub(crate) id: u32,
    pub(crate) version: ServerVersion,
    pub(crate) capabilities: Capabilities,
    pub(crate) status: StatusFlags,
    pub(crate) statements: HashMap<ClientStatementId, BackendStatement>,
    /// What a session was given here; the server counts it as it counts the client's own.
    pub(crate) attempts: Attempts,
    /// Questions that were asked of it for the session, a round trip each.
    pub(crate) asked: u64,
    /// What a session that came here from another kind of server has in other terms, or does without.
    pub(crate) mapped: Vec<String>,
    /// It comes, or is to come, from another kind of server.
    pub(crate) crossing: bool,
    /// Variables that it does without where it can't have them.
    pub(crate) inherited: BTreeSet<String>,
}

/// Why a connection couldn't take over a state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The backend can't be logged in to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A question to the old server failed.
    #[error("the state couldn't be read: {0}")]
    Read(QuestionError),
    /// The new server didn't take something.
    #[error("{what} couldn't be restored: {error}")]
    Write {
        /// What; never a value.
        what: String,
        /// Why.
        error: QuestionError,
    },
    /// The other server has nothing like it.
    #[error("the other server has no counterpart of {}", .0.what)]
    Unmapped(Unmapped),
    /// Something turned up that no move can carry over.
    #[error("it has a {0}")]
    Pinned(Pins),
    /// Nothing leads from one state to the other.
    #[error("the state changed in a way that this connection can't follow")]
    Unreachable,
}

impl RestoreError {
    /// True where another try on another connection may do better.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => is_transient(error),
            Self::Read(error) | Self::Write { error, .. } => error.is_transient(),
            Self::Unreachable => true,
            Self::Pinned(_) | Self::Unmapped(_) => false,
        }
    }
}

/// Refusals that pass: too many connections, of all or of one user; shutting down, or not up yet.
const PASSING: [u16; 5] = [1040, 1053, 1203, 1226, 3032];

/// True where dialling again later may do better.
pub(crate) fn is_transient(error: &ConnectError) -> bool {
    match error {
        ConnectError::Unreachable { .. } => true,
        ConnectError::Refused { packet, .. } => PASSING.contains(&packet.code),
        ConnectError::Credential { .. } | ConnectError::Protocol { .. } => false,
    }
}

/// What every session has a value of.
#[derive(Debug, Default)]
pub(crate) struct Basics {
    /// In UTF-8.
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) last_insert_id: u64,
    pub(crate) variables: Variables,
}

impl Connection {
    /// Around a connection that has just logged in; returns the OK that ended the login, too.
    pub(crate) fn new(connection: BackendConnection, backend: &Backend, epoch: Epoch) -> (Self, Vec<u8>) {
        let this = Self {
            leg: Leg::new(connection.stream),
            side: backend.side,
            names: backend.names_as_spelled(),
            epoch,
            id: connection.connection_id,
            version: connection.version,
            capabilities: connection.capabilities,
            status: connection.status,
            statements: HashMap::new(),
            attempts: Attempts::default(),
            asked: 0,
            mapped: Vec::new(),
            crossing: false,
            inherited: BTreeSet::new(),
        };
        (this, connection.ok)
    }

    /// Dials for a session that is to move there. It begins without a schema, because there is no way back
    /// to that from one that has been chosen. `credential` is what the client showed.
    pub(crate) async fn dial(
        backend: &Backend,
        epoch: Epoch,
        login: &Login,
        credential: &Credential,
    ) -> Result<Self, ConnectError> {
        let login = Login { schema: None, ..login.clone() };
        let credential = backend.credential(&login, credential);
        let connection = connect(&backend.config, &login, &credential, DIAL_TIMEOUT).await?;
        Ok(Self::new(connection, backend, epoch).0)
    }

    pub(crate) async fn query(&mut self, sql: &[u8]) -> Result<Answer, QuestionError> {
        self.asked += 1;
        let answer = question::query(&mut self.leg, self.capabilities, sql).await?;
        if let Some(status) = answer.outcome.status {
            self.status = status;
        }
        Ok(answer)
    }

    /// A query on tables of the server's own, whatever the client's `max_join_size` allows.
    pub(super) async fn query_tables(&mut self, sql: &[u8]) -> Result<Answer, QuestionError> {
        match self.query(sql).await {
            Err(QuestionError::Refused(packet)) if packet.code == TOO_BIG_SELECT => {}
            done => return done,
        }
        // Otherwise it wouldn't have been refused, so this puts back what was there.
        self.query(b"SET SESSION sql_big_selects = 1").await?;
        let answer = self.query(sql).await;
        self.query(b"SET SESSION sql_big_selects = 0").await?;
        let mut answer = answer?;
        for row in &mut answer.rows {
            if let [Some(name), Some(value)] = row.as_mut_slice()
                && name.eq_ignore_ascii_case(b"sql_big_selects")
            {
                *value = b"OFF".to_vec();
            }
        }
        Ok(answer)
    }

    async fn command(&mut self, code: u8, argument: &[u8]) -> Result<Answer, QuestionError> {
        self.asked += 1;
        let answer = question::command(&mut self.leg, self.capabilities, code, argument).await?;
        if let Some(status) = answer.outcome.status {
            self.status = status;
        }
        Ok(answer)
    }

    /// The status flags now.
    pub(crate) async fn ping(&mut self) -> Result<StatusFlags, QuestionError> {
        self.command(COM_PING, b"").await?;
        Ok(self.status)
    }

    /// True where it is there, and silent.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.leg.is_quiet()
    }

    /// Says goodbye.
    pub(crate) async fn quit(mut self) {
        let mut packet = Vec::new();
        question::put_command(&mut packet, COM_QUIT, self.capabilities, b"");
        let goodbye = async {
            if self.leg.write(&packet).await.is_ok() {
                self.leg.close().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }

    /// Names of the variables that every move carries, as this server calls them.
    fn carried(&self) -> [(&'static str, &'static str); 8] {
        // Before 5.7.20 MySQL had the old names only; every MariaDB has them.
        let version = (self.version.major, self.version.minor, self.version.patch);
        let old = self.version.flavor == Flavor::MariaDb || version < (5, 7, 20);
        let (isolation, read_only) = match old {
            true => ("tx_isolation", "tx_read_only"),
            false => ("transaction_isolation", "transaction_read_only"),
        };
        [
            ("sql_mode", "sql_mode"),
            ("character_set_client", "character_set_client"),
            ("character_set_results", "character_set_results"),
            ("collation_connection", "collation_connection"),
            ("time_zone", "time_zone"),
            ("group_concat_max_len", "group_concat_max_len"),
            // The same thing has two names; the plan compares it under one.
            ("transaction_isolation", isolation),
            ("transaction_read_only", read_only),
        ]
    }

    /// Schema, LAST_INSERT_ID and the variables that every move carries.
    pub(crate) async fn basics(&mut self) -> Result<Basics, QuestionError> {
        let carried = self.carried();
        let mut sql =
            "SELECT HEX(CONVERT(DATABASE() USING utf8mb4)), @@SESSION.last_insert_id, @@version".to_owned();
        for (_, name) in carried {
            sql.push_str(", @@SESSION.");
            sql.push_str(name);
        }
        let answer = self.query(sql.as_bytes()).await?;
        let number = |value: Option<&[u8]>| std::str::from_utf8(value?).ok()?.parse().ok();
        // OceanBase doesn't say in its greeting who it is.
        let version = answer.value(2).map(String::from_utf8_lossy);
        if version.and_then(|text| ServerVersion::parse(&text)).is_some_and(|version| version.ocean_base) {
            self.version.ocean_base = true;
        }
        Ok(Basics {
            schema: answer.value(0).map(from_hex).transpose()?,
            last_insert_id: number(answer.value(1)).unwrap_or(0),
            variables: carried
                .iter()
                .enumerate()
                .map(|(place, (name, _))| ((*name).to_owned(), answer.value(place + 3).map(<[u8]>::to_vec)))
                .collect(),
        })
    }

    /// How the server is spoken to about its variables.
    pub(crate) fn dialect(&self) -> Dialect {
        Dialect::of(self.version)
    }

    /// True where one of these session variables differs from its global value, or may. For sessions that have set none this
    /// spares the server the listing of all of its variables, which takes it milliseconds.
    pub(crate) async fn differs_from_global(
        &mut self,
        names: impl Iterator<Item = &str>,
    ) -> Result<bool, QuestionError> {
        let is_same =
            |name: &str| format!("CAST(@@SESSION.{name} AS BINARY) <=> CAST(@@GLOBAL.{name} AS BINARY)");
        let all: Vec<_> = names.filter(|name| is_plain_name(name)).map(is_same).collect();
        if all.is_empty() {
            return Ok(true);
        }
        match self.query(format!("SELECT {}", all.join(" AND ")).as_bytes()).await {
            Ok(answer) => Ok(answer.value(0) != Some(b"1")),
            Err(error) if error.is_transient() => Err(error),
            // One of them is known in a list and not by this name.
            Err(_) => Ok(true),
        }
    }

    /// Session variables that differ from their global value, and those named in `set`: what was set to the
    /// global value here may differ from the other server's.
    pub(crate) async fn touched_variables(
        &mut self,
        set: &BTreeSet<String>,
    ) -> Result<Variables, QuestionError> {
        let mut names = "''".to_owned();
        for name in set.iter().filter(|name| is_plain_name(name)) {
            names.push_str(", '");
            names.push_str(name);
            names.push('\'');
        }
        let dialect = self.dialect();
        let sql = match dialect.family {
            Family::MariaDb => format!(
                "SELECT VARIABLE_NAME, SESSION_VALUE FROM information_schema.SYSTEM_VARIABLES \
                 WHERE VARIABLE_SCOPE LIKE 'SESSION%' AND READ_ONLY = 'NO' AND (VARIABLE_NAME IN ({names}) \
                 OR VARIABLE_SCOPE = 'SESSION' AND NOT (BINARY SESSION_VALUE <=> BINARY GLOBAL_VALUE)) \
                 LIMIT 100000"
            ),
            Family::MySql if dialect.version >= (5, 7) => differences(
                "performance_schema.session_variables",
                "performance_schema.global_variables",
                &names,
            ),
            Family::MySql | Family::OceanBase => differences(
                "information_schema.SESSION_VARIABLES",
                "information_schema.GLOBAL_VARIABLES",
                &names,
            ),
        };
        let answer = self.query_tables(sql.as_bytes()).await?;
        let carried = self.carried();
        let mut variables = Variables::new();
        for row in &answer.rows {
            let (Some(Some(name)), Some(value)) = (row.first(), row.get(1)) else { continue };
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let by_name = is_plain_name(&name);
            let elsewhere = NOT_CARRIED.contains(&name.as_str()) || carried.iter().any(|(_, n)| *n == name);
            if by_name && !elsewhere {
                variables.insert(name, value.clone());
            }
        }
        Ok(variables)
    }

    /// What procedures may have left behind: temporary tables, and statements of PREPARE. The server counts
    /// such commands also where they ran within a procedure; `None`: this one doesn't.
    pub(crate) async fn hidden(&mut self, own: Attempts) -> Result<Option<(bool, bool)>, QuestionError> {
        if self.version.ocean_base {
            return Ok(None);
        }
        let sql = b"SHOW SESSION STATUS WHERE Variable_name IN \
                    ('Com_create_temporary_table', 'Com_create_table', 'Com_prepare_sql', 'Com_dealloc_sql')";
        let answer = self.query_tables(sql).await?;
        let counted = |name: &str| {
            answer.rows.iter().find_map(|row| {
                let matches = row.first()?.as_deref()?.eq_ignore_ascii_case(name.as_bytes());
                let value = std::str::from_utf8(row.get(1)?.as_deref()?).ok()?;
                matches.then(|| value.parse::<u64>().ok())?
            })
        };
        let tables = match (counted("Com_create_temporary_table"), counted("Com_create_table")) {
            (Some(temporary), _) => temporary > own.create_temporary,
            // MySQL counts tables of both sorts together, so a procedure's ordinary table pins as well.
            (None, all) => all.unwrap_or(u64::MAX) > own.create_table,
        };
        let prepared = counted("Com_prepare_sql").unwrap_or(u64::MAX).saturating_sub(own.prepare);
        let deallocated = counted("Com_dealloc_sql").unwrap_or(0).saturating_sub(own.deallocate);
        Ok(Some((tables, prepared > deallocated)))
    }

    /// Carries out one step of a plan.
    pub(crate) async fn carry_out(&mut self, step: &Step, state: &SessionState) -> Result<(), RestoreError> {
        match step {
            Step::Prepare(ToPrepare::Text(..)) => self.attempts.prepare += 1,
            Step::Deallocate(_) => self.attempts.deallocate += 1,
            _ => {}
        }
        let result = match step {
            Step::Schema(schema) => self.command(COM_INIT_DB, schema).await.map(drop),
            Step::Variables(variables) => return self.set_variables(variables).await,
            Step::Assign(list) => {
                let mut sql = b"SET ".to_vec();
                sql.extend_from_slice(list);
                self.query(&sql).await.map(drop)
            }
            Step::MultiStatements(on) => {
                let option: &[u8] = if *on { &[0, 0] } else { &[1, 0] };
                self.command(COM_SET_OPTION, option).await.map(drop)
            }
            Step::Deallocate(name) => {
                let mut sql = b"DEALLOCATE PREPARE ".to_vec();
                sql.extend(backticked(name));
                self.query(&sql).await.map(drop)
            }
            Step::Close(id) => self.close_statement(*id).await,
            Step::Prepare(ToPrepare::Text(name, _)) => match state.texts.get(name) {
                Some(statement) => self.query(&statement.text).await.map(drop),
                None => Ok(()),
            },
            Step::Prepare(ToPrepare::Binary(id)) => self.prepare(*id, state).await,
        };
        result.map_err(|error| RestoreError::Write { what: what(step), error })
    }

    /// Prepares a binary statement again. That it can't be is the client's business when it executes it, as
    /// it would be on a direct connection whose table went away. A server that has no room or time for it is
    /// another matter: there it would be half a session (invariant 3).
    pub(crate) async fn prepare(
        &mut self,
        id: ClientStatementId,
        state: &SessionState,
    ) -> Result<(), QuestionError> {
        let Some(statement) = state.statements.get(&id) else { return Ok(()) };
        let prepared = match self.command(COM_STMT_PREPARE, &statement.text).await {
            Ok(answer) => answer.outcome.prepared,
            Err(QuestionError::Refused(packet)) if !NOT_ITS_FAULT.contains(&packet.code) => {
                self.statements.insert(id, BackendStatement::Failed(packet));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let entry = match prepared {
            // Another number of columns is what a table that was altered meanwhile gives on a direct connection, too:
            // the answer to the execution says which they are.
            Some(new) if new.params == statement.params && (new.columns == 0) == (statement.columns == 0) => {
                BackendStatement::Ready { id: BackendStatementId(new.id), bound: false }
            }
            _ => BackendStatement::Failed(ErrPacket::new(
                1615,
                b"HY000",
                "Prepared statement needs to be re-prepared: it has other parameters on the new server",
            )),
        };
        self.statements.insert(id, entry);
        Ok(())
    }

    async fn close_statement(&mut self, id: ClientStatementId) -> Result<(), QuestionError> {
        if let Some(BackendStatement::Ready { id, .. }) = self.statements.remove(&id) {
            let mut packet = Vec::new();
            question::put_command(&mut packet, COM_STMT_CLOSE, self.capabilities, &id.0.to_le_bytes());
            self.leg.write(&packet).await?;
        }
        Ok(())
    }

    /// Sets session variables; one by one where they don't all go at once.
    async fn set_variables(&mut self, variables: &Variables) -> Result<(), RestoreError> {
        let names = self.carried();
        let here = |name: &str| {
            names
                .iter()
                .find(|(plan, _)| *plan == name)
                .map_or(name.to_owned(), |(_, here)| (*here).to_owned())
        };
        let variables: Variables = variables.iter().map(|(n, value)| (here(n), value.clone())).collect();
        match self.query(&set_statement(&variables)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() => {
                return Err(RestoreError::Write { what: "session variables".to_owned(), error });
            }
            Err(_) => {}
        }
        for (name, value) in variables {
            let one: Variables = [(name.clone(), value)].into();
            let Err(error) = self.query(&set_statement(&one)).await else { continue };
            let QuestionError::Refused(packet) = &error else {
                return Err(RestoreError::Write { what: format!("the session variable {name}"), error });
            };
            match packet.code {
                // A global or a read-only variable can't have been changed by the session.
                1229 | 1238 => {}
                _ if self.inherited.contains(&name)
                    || (self.crossing && mapping::may_be_left(&name).is_some()) =>
                {
                    self.mapped.push(format!("without {name}"));
                }
                UNKNOWN_VARIABLE | WRONG_VALUE | WRONG_TYPE | UNKNOWN_CHARSET | UNKNOWN_COLLATION
                    if self.crossing =>
                {
                    let of_text = [UNKNOWN_CHARSET, UNKNOWN_COLLATION].contains(&packet.code);
                    let pin = if of_text { Pins::FOREIGN_CHARSET } else { Pins::FOREIGN_VARIABLE };
                    return Err(RestoreError::Unmapped(Unmapped { pin, what: name }));
                }
                _ => {
                    return Err(RestoreError::Write { what: format!("the session variable {name}"), error });
                }
            }
        }
        Ok(())
    }

    /// What a new connection has, before anything was restored on it.
    pub(crate) async fn fresh_snapshot(&mut self) -> Result<Snapshot, QuestionError> {
        let basics = self.basics().await?;
        Ok(Snapshot {
            schema: basics.schema,
            variables: basics.variables,
            last_insert_id: basics.last_insert_id,
            autocommit: self.status.contains(StatusFlags::AUTOCOMMIT),
            ..Snapshot::default()
        })
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Session variables that differ from their global value, or are among `names`. One that is a session's only
/// has no global row.
fn differences(session: &str, global: &str, names: &str) -> String {
    format!(
        "SELECT s.VARIABLE_NAME, s.VARIABLE_VALUE FROM {session} s \
         LEFT JOIN {global} g ON g.VARIABLE_NAME = s.VARIABLE_NAME \
         WHERE s.VARIABLE_NAME IN ({names}) OR g.VARIABLE_NAME IS NOT NULL \
         AND NOT (CAST(s.VARIABLE_VALUE AS BINARY) <=> CAST(g.VARIABLE_VALUE AS BINARY)) LIMIT 100000"
    )
}

/// For messages: never a value (invariant 8).
fn what(step: &Step) -> String {
    match step {
        Step::Schema(_) => "the current schema",
        Step::Variables(_) => "session variables",
        Step::Assign(_) => "user variables",
        Step::MultiStatements(_) => "the multi-statement option",
        Step::Prepare(_) => "a prepared statement",
        Step::Deallocate(_) | Step::Close(_) => "the end of a prepared statement",
    }
    .to_owned()
}
