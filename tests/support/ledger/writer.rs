//! One writer: a session with state of its own, transactions, and a look at both again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Error, Opts, Params, Statement};
use tokio_util::sync::CancellationToken;

use super::{Entry, Fate, Shared};
use crate::support::changeover::connect;
use crate::support::seed::{ACCOUNTS, GAUGES};
use crate::support::writers::think;

/// Inbox rows of a writer that stand at a time.
const INBOX: u32 = 8;

const STATE: &str = "SELECT CONCAT_WS('|', @writer, @label, @@time_zone, @@sql_mode, DATABASE(), \
                     @@character_set_client, @@character_set_results, @@collation_connection, @@autocommit, \
                     @@session.group_concat_max_len)";

/// Why a round ended early.
enum Trouble {
    /// The server said no; its text. Nothing was committed.
    Refused(String),
    /// The connection is gone.
    Lost(String),
    /// A deadlock or a lock wait, which an application answers by trying again.
    Again,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) if matches!(error.code, 1205 | 1213) => Trouble::Again,
            // Shutdown, killed: the server ends the connection with a last word.
            Error::Server(error) if matches!(error.code, 1053 | 1927 | 3169 | 4031) => {
                Trouble::Lost(error.to_string())
            }
            Error::Server(error) => Trouble::Refused(error.to_string()),
            other => Trouble::Lost(other.to_string()),
        }
    }
}

pub(super) struct Writer {
    id: u32,
    opts: Opts,
    shared: Arc<Shared>,
    seq: u32,
    dice: u64,
    inbox: Vec<u32>,
    session: Session,
}

struct Session {
    conn: Conn,
    shared: Arc<Shared>,
    state: String,
    steps: i64,
    last_id: u64,
    entry: Statement,
    account: Statement,
    put: Statement,
    take: Statement,
    gauge: Statement,
    read: Statement,
}

impl Session {
    /// Half of the writers work with autocommit off, a third each in another character set.
    async fn open(id: u32, opts: &Opts, shared: &Arc<Shared>) -> Result<Self, Trouble> {
        let mut conn = connect(opts.clone()).await?;
        let names = ["utf8mb4", "utf8mb4 COLLATE utf8mb4_bin", "latin1"][id as usize % 3];
        let mode = ["", "STRICT_ALL_TABLES", "STRICT_TRANS_TABLES,ANSI_QUOTES,NO_ZERO_DATE"][id as usize % 3];
        for sql in [
            format!("SET NAMES {names}"),
            format!("SET @writer = {id}, @label = 'it''s {id}', @steps = 0"),
            format!("SET SESSION time_zone = '{:+03}:00'", i64::from(id % 20) - 10),
            format!("SET SESSION sql_mode = '{mode}', group_concat_max_len = {}", 2048 + id),
            format!("SET autocommit = {}", id % 2),
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
        ] {
            conn.query_drop(sql).await?;
        }
        let entry = conn
            .prep(
                "INSERT INTO entries (writer, seq, account, amount, kind, note, made)
                 VALUES (?, ?, ?, ? / 100, ?, ?, NOW(6))",
            )
            .await?;
        let account = conn
            .prep("UPDATE accounts SET balance = balance + ? / 100, changes = changes + 1 WHERE id = ?")
            .await?;
        let put = conn.prep("INSERT INTO inbox (writer, seq, slot, body) VALUES (?, ?, ?, ?)").await?;
        let take = conn.prep("DELETE FROM inbox WHERE writer = ? AND seq = ?").await?;
        let gauge = conn
            .prep(
                "UPDATE gauges SET medium = ?, medium_u = ?, big_u = ?, exact = ?, single_f = ?, double_f = ?,
                    moment_us = ?, stamp = FROM_UNIXTIME(?), span = ?, yr = ?, words = ?, raw_var = ?, lump = ?,
                    colour = ?, tags = ?, bits = ?, tiny = NULL, facts = JSON_ARRAY(?, 'x')
                 WHERE id = ?",
            )
            .await?;
        let read = conn.prep("SELECT balance, changes, name FROM accounts WHERE id = ?").await?;
        let state = String::new();
        let shared = Arc::clone(shared);
        let mut session =
            Self { conn, shared, state, steps: 0, last_id: 0, entry, account, put, take, gauge, read };
        session.state = session.one(STATE).await?;
        session.text("COMMIT").await?;
        Ok(session)
    }

    fn felt(&self, began: Instant) {
        let took = u64::try_from(began.elapsed().as_micros()).unwrap();
        self.shared.slowest_us.fetch_max(took, Ordering::Relaxed);
    }

    async fn text(&mut self, sql: &str) -> Result<(), Trouble> {
        let began = Instant::now();
        let done = self.conn.query_drop(sql).await;
        self.felt(began);
        Ok(done?)
    }

    async fn one<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<T, Trouble> {
        let began = Instant::now();
        let row = self.conn.query_first(sql).await;
        self.felt(began);
        row?.ok_or_else(|| Trouble::Refused(format!("{sql}: no row")))
    }

    async fn run(&mut self, statement: Statement, params: impl Into<Params>) -> Result<u64, Trouble> {
        let began = Instant::now();
        let done = self.conn.exec_drop(statement, params.into()).await;
        self.felt(began);
        done?;
        if let Some(id @ 1..) = self.conn.last_insert_id() {
            self.last_id = id;
        }
        Ok(self.conn.affected_rows())
    }

    /// A prepared SELECT with rows. The name comes in the session's character set, latin1 for a third of them.
    async fn read_account(&mut self, account: u32) -> Result<(), Trouble> {
        let began = Instant::now();
        let row = self.conn.exec_first::<(String, i64, Vec<u8>), _, _>(&self.read, (account,)).await;
        self.felt(began);
        row?.ok_or_else(|| Trouble::Refused(format!("account {account} is gone")))?;
        Ok(())
    }

    /// Everything about the session is as it was left.
    async fn check(&mut self) -> Result<(), Trouble> {
        let wrong = |what: &str, seen: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            Err(Trouble::Refused(format!("{what} is {seen:?} instead of {wanted:?}")))
        };
        let seen: u64 = self.one("SELECT LAST_INSERT_ID()").await?;
        if seen != self.last_id {
            return wrong("LAST_INSERT_ID()", &seen, &self.last_id);
        }
        let seen: String = self.one(STATE).await?;
        if seen != self.state {
            return wrong("the session state", &seen, &self.state);
        }
        self.text("SET @steps = @steps + 1").await?;
        self.steps += 1;
        let seen: i64 = self.one("SELECT @steps").await?;
        if seen != self.steps {
            return wrong("@steps", &seen, &self.steps);
        }
        // With autocommit off the SELECTs above have begun a transaction.
        self.text("COMMIT").await
    }
}

impl Writer {
    pub(super) async fn open(id: u32, opts: Opts, shared: Arc<Shared>) -> Result<Self, String> {
        let session = Session::open(id, &opts, &shared).await.map_err(Trouble::into_text)?;
        let dice = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(88_172_645_463_325_252);
        Ok(Self { id, opts, shared, seq: 0, dice, inbox: Vec::new(), session })
    }

    pub(super) async fn work(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.shared.resting.load(Ordering::SeqCst) {
                self.rest(&stop).await;
                continue;
            }
            let began = Instant::now();
            let mut done = self.round().await;
            if done.is_ok() && self.seq.is_multiple_of(4) {
                done = self.session.check().await;
            }
            match done {
                Ok(()) => {}
                Err(Trouble::Again) => {
                    let _ = self.session.text("ROLLBACK").await;
                }
                Err(Trouble::Lost(_)) if self.shared.reconnects.load(Ordering::Relaxed) => {
                    self.shared.lost_connections.fetch_add(1, Ordering::Relaxed);
                    if !self.reopen(&stop).await {
                        return;
                    }
                }
                Err(trouble) => {
                    let text = format!("writer {}: {}", self.id, trouble.into_text());
                    self.shared.errors.lock().unwrap().push(text);
                    return;
                }
            }
            think(began, Duration::from_millis(2 + self.roll(10))).await;
        }
        let _ = self.session.conn.disconnect().await;
    }

    async fn rest(&self, stop: &CancellationToken) {
        self.shared.at_rest.fetch_add(1, Ordering::SeqCst);
        while self.shared.resting.load(Ordering::SeqCst) && !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.shared.at_rest.fetch_sub(1, Ordering::SeqCst);
    }

    /// Until it works; whoever refuses a new connection in the meantime is only starting. False: told to stop.
    async fn reopen(&mut self, stop: &CancellationToken) -> bool {
        while !stop.is_cancelled() {
            if let Ok(session) = Session::open(self.id, &self.opts, &self.shared).await {
                self.session = session;
                return true;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        false
    }

    /// One transaction, booked under its fate.
    async fn round(&mut self) -> Result<(), Trouble> {
        self.seq += 1;
        let removes = (self.inbox.len() as u32 >= INBOX).then(|| self.inbox[0]);
        let account = 1 + self.roll(u64::from(ACCOUNTS)) as u32;
        let cents = self.roll(20_000) as i64 - 10_000;
        let entry = Entry { writer: self.id, seq: self.seq, account, cents, removes };
        if let Err(trouble) = self.write(&entry).await {
            self.book(entry, Fate::Absent);
            return Err(trouble);
        }
        if self.roll(15) == 0 {
            let done = self.session.text("ROLLBACK").await;
            self.book(entry, Fate::Absent);
            return done;
        }
        match self.session.text("COMMIT").await {
            Ok(()) => {
                self.book(entry, Fate::Acknowledged);
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(trouble @ Trouble::Lost(_)) => {
                self.book(entry, Fate::Unknown);
                Err(trouble)
            }
            Err(trouble) => {
                self.book(entry, Fate::Absent);
                Err(trouble)
            }
        }
    }

    fn book(&mut self, entry: Entry, fate: Fate) {
        if fate == Fate::Acknowledged {
            self.inbox.push(entry.seq);
            self.inbox.retain(|seq| Some(*seq) != entry.removes);
        } else if fate == Fate::Unknown {
            // Whether that row is still there isn't known either, so nobody asks for it again.
            self.inbox.retain(|seq| Some(*seq) != entry.removes);
        }
        self.shared.books.lock().unwrap().push((entry, fate));
    }

    /// Everything up to COMMIT.
    async fn write(&mut self, entry: &Entry) -> Result<(), Trouble> {
        if self.id % 2 == 1 {
            self.session.text("START TRANSACTION").await?;
        }
        let kind = if entry.cents < 0 { "debit" } else { "credit" };
        let note = (!entry.seq.is_multiple_of(3)).then(|| format!("n{}.{}", self.id, entry.seq));
        let row = (entry.writer, entry.seq, entry.account, entry.cents, kind, note);
        self.session.run(self.session.entry.clone(), row).await?;
        let seen: u64 = self.session.one("SELECT LAST_INSERT_ID()").await?;
        if seen != self.session.last_id {
            return Err(Trouble::Refused(format!("LAST_INSERT_ID() {seen}, not {}", self.session.last_id)));
        }
        let changed = self.session.run(self.session.account.clone(), (entry.cents, entry.account)).await?;
        if changed != 1 {
            return Err(Trouble::Refused(format!("account {} changed {changed} times", entry.account)));
        }
        let mut body = vec![0_u8; 1 + self.roll(400) as usize];
        for (index, byte) in body.iter_mut().enumerate() {
            *byte = (index as u32 * entry.seq % 256) as u8;
        }
        // A slot is one of a few names of the writer's own, so unique values wander between rows.
        if let Some(removes) = entry.removes {
            let gone = self.session.run(self.session.take.clone(), (self.id, removes)).await?;
            if gone != 1 {
                return Err(Trouble::Refused(format!("inbox row {removes} was there {gone} times")));
            }
        }
        let slot = format!("{}-{}", self.id, entry.seq);
        self.session.run(self.session.put.clone(), (self.id, entry.seq, slot, body)).await?;
        self.gauge().await?;
        self.session.read_account(entry.account).await?;
        Ok(())
    }

    /// Changes a row in place through many types; each writer has rows of its own.
    async fn gauge(&mut self) -> Result<(), Trouble> {
        let id = 1 + self.id + 64 * self.roll(u64::from(GAUGES) / 64) as u32;
        let n = self.roll(1 << 30) as i64;
        let row: Vec<mysql_async::Value> = vec![
            (n % 8_388_608 - 4_000_000).into(),
            (n % 16_777_216).into(),
            (u64::MAX - n as u64).into(),
            format!("-{n}.{:010}", n % 9_999_999_999).into(),
            (n as f32 / 7.0).into(),
            (n as f64 / 3.0).into(),
            format!("2024-02-29 12:34:56.{:06}", n % 1_000_000).into(),
            (1 + n % 2_000_000_000).into(),
            format!("-{}:{:02}:01", n % 800, n % 60).into(),
            (1901 + n % 200).into(),
            format!("w{n} é").into(),
            n.to_le_bytes().to_vec().into(),
            vec![0_u8; (n % 600) as usize].into(),
            (1 + n % 3).into(),
            (n % 16).into(),
            (n % 4096).into(),
            n.into(),
            id.into(),
        ];
        self.session.run(self.session.gauge.clone(), row).await?;
        Ok(())
    }

    fn roll(&mut self, end: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % end
    }
}

impl Trouble {
    fn into_text(self) -> String {
        match self {
            Trouble::Refused(text) => text,
            Trouble::Lost(text) => format!("lost the connection: {text}"),
            Trouble::Again => "deadlock".to_owned(),
        }
    }
}
