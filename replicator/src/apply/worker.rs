//! One connection that applies batches: a batch is one transaction on the target, with the checkpoint in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::{BackendConfig, Side, TableName, failpoint};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::checkpoint;
use super::done::{Done, Stretch};
use super::graph::LowWater;
use super::statement::{Expected, Mode, Query, SQL_MODE, Script, Verb, touched_keys};
use super::writeset::Plans;
use crate::binlog::transaction::RowsChange;
use crate::error::{Error, ErrorKind, Result};
use crate::server;
use crate::verify::touched::TouchedKeys;

/// First pause before a batch is tried again; it doubles up to the next.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A batch that is tried again and again is logged so often.
const RETRY_LOG_EVERY: Duration = Duration::from_secs(10);

/// What every worker of a run knows.
#[derive(Debug)]
pub(super) struct Context {
    /// The target.
    pub(super) target: BackendConfig,
    /// `migration.name`.
    pub(super) migration: String,
    /// Of this run, see [`checkpoint`].
    pub(super) epoch: u64,
    /// The target's `max_allowed_packet`.
    pub(super) max_allowed_packet: u64,
    /// Of the migration's tables.
    pub(super) plans: Plans,
    /// Is told of every key that was touched.
    pub(super) touched: Arc<TouchedKeys>,
}

/// Some consecutive transactions, or a part of one.
#[derive(Debug)]
pub(super) struct Batch {
    /// Which.
    pub(super) stretch: Stretch,
    /// Where they are, for error messages.
    pub(super) place: String,
    /// How they are replayed.
    pub(super) mode: Mode,
    /// Their row events in order.
    pub(super) changes: Vec<RowsChange>,
    /// What was applied without a gap when the batch was handed out.
    pub(super) low: LowWater,
}

/// A connection and the row of `changeover.checkpoint` that it writes.
#[derive(Debug)]
pub(super) struct Worker {
    context: Arc<Context>,
    number: usize,
    conn: Option<Conn>,
    done: Done,
}

/// Why an attempt failed.
enum Failure {
    /// Nothing of it is on the target.
    Before(Error),
    /// COMMIT was sent and its answer is missing: it may be on the target.
    Unknown(Error),
}

impl Worker {
    /// Worker `number`, from 1 on. It connects when it has something to do.
    pub(super) fn new(context: Arc<Context>, number: usize) -> Self {
        Self { context, number, conn: None, done: Done::default() }
    }

    /// Applies a batch until it is on the target, however often the connection breaks. Returns the rows applied, and
    /// an error only where trying again can't help.
    pub(super) async fn apply(&mut self, batch: Batch) -> Result<u64> {
        let done = self.done_after(&batch);
        let mut script = Script::new(self.context.max_allowed_packet);
        script.plain("BEGIN", None)?;
        script.changes(&self.context.plans, batch.mode, &batch.changes).map_err(|e| at(&batch, e))?;
        script.plain(&self.checkpoint(&batch, &done), Some(1))?;
        let queries = script.finish()?;
        let mut backoff = Backoff::new();
        loop {
            let error = match self.attempt(&batch, &queries).await {
                Ok(()) => break,
                Err(Failure::Before(error)) => error,
                Err(Failure::Unknown(error)) => {
                    if self.was_committed(&batch, &error).await? {
                        break;
                    }
                    error
                }
            };
            if error.kind != ErrorKind::Transient {
                self.conn = None;
                return Err(error);
            }
            backoff.wait(&error).await;
        }
        failpoint::hit(match batch.stretch {
            Stretch::Transactions { .. } => "apply.batch.committed",
            Stretch::Part { .. } => "apply.part.committed",
        });
        self.done = done;
        Ok(self.touch(&batch.changes))
    }

    fn done_after(&self, batch: &Batch) -> Done {
        let mut done = self.done.clone();
        done.add(batch.stretch);
        done.drop_up_to(batch.low.mark);
        done
    }

    fn checkpoint(&self, batch: &Batch, done: &Done) -> String {
        checkpoint::update_sql(&self.context.migration, self.context.epoch, self.number, &batch.low, done)
    }

    fn touch(&self, changes: &[RowsChange]) -> u64 {
        let mut rows = 0;
        for change in changes {
            rows += change.rows.len() as u64;
            match change.table.keyless {
                true => self.context.touched.touch_whole_table(&change.table.name),
                false => self.context.touched.touch(&change.table.name, touched_keys(change)),
            }
            for table in cascaded(&self.context.plans, change) {
                self.context.touched.touch_whole_table(table);
            }
        }
        rows
    }

    async fn attempt(&mut self, batch: &Batch, queries: &[Query]) -> std::result::Result<(), Failure> {
        let sent = self.send(batch, queries).await;
        if sent.is_err() {
            self.roll_back().await;
            return sent;
        }
        failpoint::hit(match batch.stretch {
            Stretch::Transactions { .. } => "apply.batch.before_commit",
            Stretch::Part { .. } => "apply.part.before_commit",
        });
        self.commit(batch).await
    }

    async fn send(&mut self, batch: &Batch, queries: &[Query]) -> std::result::Result<(), Failure> {
        let conn = self.connected().await.map_err(Failure::Before)?;
        for query in queries {
            run(conn, query).await.map_err(|problem| Failure::Before(problem.explain(query, batch)))?;
        }
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch) -> std::result::Result<(), Failure> {
        let conn = self.connected().await.map_err(Failure::Before)?;
        conn.query_drop("COMMIT")
            .await
            .map_err(|error| Failure::Unknown(Error::database(Side::Target, batch.place.as_str(), &error)))
    }

    /// Gives locks back before the next attempt. A connection on which even that fails is dropped.
    async fn roll_back(&mut self) {
        if let Some(conn) = &mut self.conn
            && conn.query_drop("ROLLBACK; SET foreign_key_checks=0").await.is_err()
        {
            self.conn = None;
        }
        if let Some(conn) = &mut self.conn
            && conn.query_drop(format!("SET sql_mode='{SQL_MODE}'")).await.is_err()
        {
            self.conn = None;
        }
    }

    /// Finds out on a new connection what became of a COMMIT (invariant 1).
    async fn was_committed(&mut self, batch: &Batch, why: &Error) -> Result<bool> {
        self.conn = None;
        tracing::info!(
            area = "apply",
            place = %batch.place,
            error = %why,
            "the answer to a COMMIT was lost; the checkpoint is asked whether it happened"
        );
        let (context, number) = (Arc::clone(&self.context), self.number);
        let mut backoff = Backoff::new();
        loop {
            let asked = async {
                let conn = self.connected().await?;
                checkpoint::has_applied(conn, &context.migration, context.epoch, number, batch.stretch).await
            }
            .await;
            match asked {
                Ok(applied) => return Ok(applied),
                Err(error) if error.kind == ErrorKind::Transient => {
                    self.conn = None;
                    backoff.wait(&error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut Conn> {
        if self.conn.is_none() {
            self.conn = Some(connect(&self.context.target).await?);
        }
        self.conn.as_mut().ok_or_else(|| Error::bug("apply", "a connection vanished"))
    }
}

/// A connection with the session that [`Script`] is written for.
async fn connect(target: &BackendConfig) -> Result<Conn> {
    let mut conn = server::connect(Side::Target, target).await?;
    let setup = format!(
        "SET SESSION foreign_key_checks=0, unique_checks=1, innodb_lock_wait_timeout=10, sql_mode='{SQL_MODE}'"
    );
    for statement in [setup.as_str(), "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"] {
        conn.query_drop(statement)
            .await
            .map_err(|e| Error::database(Side::Target, "preparing a session for the tail", &e))?;
    }
    Ok(conn)
}

/// What went wrong with a query.
enum Problem {
    /// The server or the connection said no, at a statement.
    Database(usize, mysql_async::Error),
    /// A statement matched another number of rows.
    Rows { statement: usize, matched: u64 },
    /// There were fewer or more answers than statements.
    Answers,
}

/// Sends a query and looks at the answer of each of its statements.
async fn run(conn: &mut Conn, query: &Query) -> std::result::Result<(), Problem> {
    let mut result =
        conn.query_iter(query.sql.as_slice()).await.map_err(|error| Problem::Database(0, error))?;
    let mut answers = 0;
    let mut wrong = None;
    loop {
        let matched = result.affected_rows();
        let last = result.is_empty();
        // Asked for behind the last answer as well: an error that the driver has read in a statement's place
        // looks like an empty last answer until then.
        let next = result.next().await;
        let at = if last { answers } else { answers + 1 };
        if let Err(error) = next {
            return Err(wrong.unwrap_or(Problem::Database(at, error)));
        }
        let expected = query.statements.get(answers).ok_or(Problem::Answers)?;
        if wrong.is_none() && expected.rows.is_some_and(|rows| rows != matched) {
            // The rest is read to its end, so that the connection can take a ROLLBACK.
            wrong = Some(Problem::Rows { statement: answers, matched });
        }
        answers += 1;
        if last {
            break;
        }
    }
    match wrong {
        Some(problem) => Err(problem),
        None if answers != query.statements.len() => Err(Problem::Answers),
        None => Ok(()),
    }
}

impl Problem {
    /// An error that names table and place, and no value (invariant 8).
    fn explain(self, query: &Query, batch: &Batch) -> Error {
        let expected = |statement: usize| query.statements.get(statement);
        let place = |statement: usize| match expected(statement).and_then(|s| s.table.as_ref()) {
            Some(table) => format!("{}, {}", table.name, batch.place),
            None => batch.place.clone(),
        };
        match self {
            Problem::Answers => {
                Error::bug(place(0), "the server gave another number of answers than there were statements")
            }
            Problem::Rows { statement, matched } => match expected(statement) {
                Some(Expected { table: None, .. }) | None => checkpoint::taken_over(),
                Some(Expected { verb, rows, .. }) => Error::definite(
                    Side::Target,
                    place(statement),
                    format!(
                        "{} counted {matched} rows where {} were due: the target's rows aren't those the source had at this \
                         position. Something else writes to the target, or did; stop it, and start the migration again \
                         on an empty target",
                        verb.as_str(),
                        rows.unwrap_or(0)
                    ),
                ),
            },
            Problem::Database(statement, mysql_async::Error::Server(error)) => {
                let verb = expected(statement).map_or("a statement", |s| s.verb.as_str());
                server_error(place(statement), verb, &error)
            }
            Problem::Database(statement, error) => Error::database(Side::Target, place(statement), &error),
        }
    }
}

/// A server's error without its text where that may hold values.
fn server_error(place: String, verb: &str, error: &mysql_async::ServerError) -> Error {
    let full = Error::database(Side::Target, place.as_str(), &mysql_async::Error::Server(error.clone()));
    let names_only = matches!(
        error.code,
        1021 | 1028
            | 1030
            | 1036
            | 1041
            | 1044
            | 1045
            | 1049
            | 1054
            | 1114
            | 1142
            | 1143
            | 1146
            | 1153
            | 1227
            | 1290
            | 1836
    );
    if full.kind == ErrorKind::Transient || names_only {
        return full;
    }
    let hint = match error.code {
        1062 => {
            ": a row with one of its unique values is there already. Something else writes to the target, or did; \
             stop it, and start the migration again on an empty target"
        }
        1451 | 1452 => ": a foreign key of the target forbids it",
        _ => ": the statement's text isn't shown since it holds rows; the server's own log may say more",
    };
    Error::definite(
        Side::Target,
        place,
        format!("the server answered {} ({}) to {verb}{hint}", error.code, error.state),
    )
}

/// The tables in which foreign keys may have changed rows that nobody can name.
fn cascaded<'a>(plans: &'a Plans, change: &'a RowsChange) -> HashSet<&'a TableName> {
    if change.rows.iter().any(|row| plans.cascades(change, row)) {
        plans.descendants(&change.table.name)
    } else {
        HashSet::new()
    }
}

fn at(batch: &Batch, mut error: Error) -> Error {
    error.place = format!("{}, {}", error.place, batch.place);
    error
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Verb::Insert => "an INSERT",
            Verb::Update => "an UPDATE",
            Verb::Delete => "a DELETE",
        }
    }
}

/// Growing pauses between attempts, and a log line now and then.
struct Backoff {
    next: Duration,
    attempts: u32,
    logged: Option<Instant>,
}

impl Backoff {
    fn new() -> Self {
        Self { next: BACKOFF_MIN, attempts: 0, logged: None }
    }

    async fn wait(&mut self, error: &Error) {
        self.attempts += 1;
        // One deadlock between two batches is daily business.
        if self.attempts > 3 && self.logged.is_none_or(|at| at.elapsed() >= RETRY_LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(area = "apply", attempts = self.attempts, "{error}; the batch is tried again");
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(BACKOFF_MAX);
    }
}
