//! One connection of the application, with session state that it checks again and again.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, Params, Row, Statement};

use super::pulse::Pulse;

/// Asks for everything that this session set up for itself.
const STATE: &str = "SELECT CONCAT_WS('|', @worker, @motto, @@time_zone, @@sql_mode, DATABASE(), \
                     @@character_set_client, @@collation_connection, @@session.group_concat_max_len)";

/// A prepared statement with its text.
pub(crate) type Prepared = (&'static str, Statement);

/// A session that remembers what its state has to be.
pub(crate) struct Session {
    conn: Conn,
    pulse: Arc<Pulse>,
    state: String,
    baskets: i64,
    last_insert_id: u64,
}

impl Session {
    /// Connects and sets up state that is different for each worker.
    pub(crate) async fn open(opts: Opts, worker: u32, pulse: &Arc<Pulse>) -> Result<Self> {
        let conn = Conn::new(opts).await.context("connecting")?;
        let mut session =
            Self { conn, pulse: Arc::clone(pulse), state: String::new(), baskets: 0, last_insert_id: 0 };
        let modes =
            ["STRICT_TRANS_TABLES", "STRICT_ALL_TABLES,NO_ZERO_DATE", "STRICT_TRANS_TABLES,ANSI_QUOTES"];
        let mode = modes.get(worker as usize % modes.len()).copied().unwrap_or_default();
        for sql in [
            "SET NAMES utf8mb4".to_owned(),
            format!("SET @worker = {worker}, @motto = 'Zoë ''{worker}'' 🎬', @basket = 0"),
            format!("SET SESSION time_zone = '+{:02}:30'", worker % 12),
            format!("SET SESSION sql_mode = '{mode}'"),
            format!("SET SESSION group_concat_max_len = {}", 4096 + worker),
        ] {
            session.text(&sql).await?;
        }
        session.state = session.one(STATE).await?;
        Ok(session)
    }

    /// Prepares a statement, for as long as the session lives.
    pub(crate) async fn prepare(&mut self, sql: &'static str) -> Result<Prepared> {
        Ok((sql, self.conn.prep(sql).await.with_context(|| format!("preparing {sql}"))?))
    }

    /// Runs a statement as text and forgets its rows.
    pub(crate) async fn text(&mut self, sql: &str) -> Result<()> {
        let (stage, began) = (self.pulse.stage(), Instant::now());
        let done = self.conn.query_drop(sql).await;
        self.pulse.answered(stage, began.elapsed(), sql);
        done.with_context(|| sql.to_owned())
    }

    /// Runs a prepared statement and returns its rows.
    pub(crate) async fn run(
        &mut self,
        statement: &Prepared,
        params: impl Into<Params> + Send,
    ) -> Result<Vec<Row>> {
        let (stage, began) = (self.pulse.stage(), Instant::now());
        let rows = self.conn.exec(&statement.1, params.into()).await;
        self.pulse.answered(stage, began.elapsed(), statement.0);
        if let Some(id @ 1..) = self.conn.last_insert_id() {
            self.last_insert_id = id;
        }
        rows.context("a prepared statement")
    }

    /// What the last INSERT made.
    pub(crate) fn last_insert_id(&self) -> u64 {
        self.last_insert_id
    }

    /// The server's idea of the last id is the client's.
    pub(crate) async fn check_last_insert_id(&mut self) -> Result<()> {
        let seen: u64 = self.one("SELECT LAST_INSERT_ID()").await?;
        let wanted = self.last_insert_id;
        ensure!(seen == wanted, "LAST_INSERT_ID() is {seen}, but the last INSERT made {wanted}");
        Ok(())
    }

    /// Nothing that the session set up has changed.
    pub(crate) async fn check_state(&mut self) -> Result<()> {
        self.text("SET @basket = @basket + 1").await?;
        self.baskets += 1;
        let seen: String = self.one(STATE).await?;
        ensure!(seen == self.state, "the session state was {} and is {seen}", self.state);
        let seen: i64 = self.one("SELECT @basket").await?;
        ensure!(seen == self.baskets, "@basket is {seen} after {} steps", self.baskets);
        Ok(())
    }

    /// The one value of a query.
    async fn one<T: mysql_async::prelude::FromValue + Send + 'static>(&mut self, sql: &str) -> Result<T> {
        let (stage, began) = (self.pulse.stage(), Instant::now());
        let value = self.conn.query_first(sql).await;
        self.pulse.answered(stage, began.elapsed(), sql);
        value.with_context(|| sql.to_owned())?.with_context(|| format!("{sql}: no row"))
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        let _ = self.conn.disconnect().await;
    }
}
