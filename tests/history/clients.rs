//! Clients that append to lists and read them at the same time, and write down what they asked and what they were told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, Statement};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::checker::{Call, End, Key, Operation, Tick, Value};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Server, accounts, seed};

/// Lists that are worked on at a time. After so many appends each the next ones take their turn, so that lists stay
/// short and new rows come into being all the time.
const AT_A_TIME: u64 = 6;
const APPENDS_EACH: u64 = 120;

/// What all clients share.
#[derive(Default)]
struct Shared {
    clock: AtomicU64,
    sent: AtomicU64,
    done: AtomicU64,
    lost: AtomicU64,
    reconnects: AtomicBool,
    errors: Mutex<Vec<String>>,
}

impl Shared {
    fn tick(&self) -> Tick {
        self.clock.fetch_add(1, SeqCst)
    }
}

/// The running clients. Dropping it ends them.
pub struct Clients {
    running: JoinSet<Vec<Operation>>,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

/// The lists are rows, made by their first append.
pub async fn create_table(server: &Server) {
    let sql = format!(
        "CREATE TABLE {}.lists (id INT NOT NULL PRIMARY KEY, list MEDIUMTEXT NOT NULL)",
        seed::SCHEMA
    );
    server.run(&[&sql]).await;
}

/// The values of a list as it is stored: each behind a comma.
pub fn parse(text: &str) -> Vec<Value> {
    text.split(',')
        .skip(1)
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{value:?} in a list")))
        .collect()
}

impl Clients {
    /// Starts `count` clients through the proxy at `port`, each with a session. On a machine that is busy enough a login
    /// may be given up; that isn't what is looked at here.
    pub async fn start(port: u16, count: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        let opts = opts(port, accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA));
        for id in 0..count {
            let client = Client {
                id,
                opts: opts.clone(),
                shared: Arc::clone(&shared),
                dice: u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
                history: Vec::new(),
            };
            let open = async || Session::open(opts.clone()).await.map_err(|error| error.to_string());
            let session = until("a first login", Duration::from_secs(60), open).await;
            running.spawn(client.work(session, stop.clone()));
        }
        Self { running, stop, shared }
    }

    /// From now on a lost connection is a fact of life: it is opened again.
    pub fn expect_lost_connections(&self) {
        self.shared.reconnects.store(true, SeqCst);
    }

    /// Waits until so many more operations were answered.
    pub async fn wait_more(&self, more: u64) {
        let wanted = self.shared.done.load(SeqCst) + more;
        until(&format!("{more} more operations"), Duration::from_secs(60), async || {
            let errors = self.shared.errors.lock().unwrap().clone();
            assert!(errors.is_empty(), "{}", errors.join("\n"));
            let seen = self.shared.done.load(SeqCst);
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
        })
        .await;
    }

    /// Ends every client after its operation, reads every list once more through the proxy, and returns the history, with
    /// the number of connections that were lost.
    pub async fn close(mut self, port: u16) -> (Vec<Operation>, u64) {
        self.stop.cancel();
        let mut history = Vec::new();
        while let Some(of) = self.running.join_next().await {
            history.extend(of.unwrap());
        }
        let errors = self.shared.errors.lock().unwrap().clone();
        assert!(errors.is_empty(), "the application saw {} errors:\n{}", errors.len(), errors.join("\n"));
        let opts = opts(port, accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA));
        let mut conn = Conn::new(opts).await.unwrap();
        let mut keys: Vec<Key> = history.iter().map(|operation| operation.key).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let invoked = self.shared.tick();
            let sql = format!("SELECT list FROM lists WHERE id = {key}");
            let text: Option<String> = conn.query_first(sql).await.unwrap();
            let call = Call::Read { seen: parse(&text.unwrap_or_default()) };
            let end = End::Done(self.shared.tick());
            history.push(Operation { client: u32::MAX, key, call, invoked, end });
        }
        conn.disconnect().await.unwrap();
        (history, self.shared.lost.load(SeqCst))
    }
}

struct Client {
    id: u32,
    opts: Opts,
    shared: Arc<Shared>,
    dice: u64,
    history: Vec<Operation>,
}

struct Session {
    conn: Conn,
    append: Statement,
    read: Statement,
}

impl Session {
    async fn open(opts: Opts) -> Result<Self, Error> {
        let mut conn = Conn::new(opts).await?;
        let append = conn.prep("UPDATE lists SET list = CONCAT(list, ?) WHERE id = ?").await?;
        let read = conn.prep("SELECT list FROM lists WHERE id = ?").await?;
        Ok(Self { conn, append, read })
    }

    /// Says how the append ended, when no error came: a row that isn't there wasn't changed.
    fn changed(&self) -> Append {
        if self.conn.affected_rows() == 0 { Append::NoRow } else { Append::Done }
    }
}

/// What became of an append that was answered.
enum Append {
    Done,
    NoRow,
}

impl Client {
    async fn work(mut self, session: Session, stop: CancellationToken) -> Vec<Operation> {
        let mut session = Some(session);
        while !stop.is_cancelled() {
            let Some(open) = &mut session else {
                // Whoever refuses a new connection in the meantime is only starting.
                match Session::open(self.opts.clone()).await {
                    Ok(open) => session = Some(open),
                    Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
                }
                continue;
            };
            let done = self.operation(open).await;
            match done {
                Ok(()) => {}
                Err(error) if lost(&error) && self.shared.reconnects.load(SeqCst) => {
                    self.shared.lost.fetch_add(1, SeqCst);
                    session = None;
                }
                Err(error) => {
                    self.complain(&error);
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(1 + self.roll(8))).await;
        }
        if let Some(open) = session {
            let _ = open.conn.disconnect().await;
        }
        self.history
    }

    fn complain(&self, error: &Error) {
        self.shared.errors.lock().unwrap().push(format!("client {}: {error}", self.id));
    }

    async fn operation(&mut self, session: &mut Session) -> Result<(), Error> {
        let turn = self.shared.sent.load(SeqCst) / (AT_A_TIME * APPENDS_EACH);
        let key = (turn * AT_A_TIME + self.roll(AT_A_TIME)) as Key;
        if self.roll(2) == 0 { self.read(session, key).await } else { self.append(session, key).await }
    }

    fn note(&mut self, key: Key, call: Call, invoked: Tick, end: End) {
        if let End::Done(_) = end {
            self.shared.done.fetch_add(1, SeqCst);
        }
        self.history.push(Operation { client: self.id, key, call, invoked, end });
    }

    async fn read(&mut self, session: &mut Session, key: Key) -> Result<(), Error> {
        let way = self.roll(3);
        let invoked = self.shared.tick();
        let sql = format!("SELECT list FROM lists WHERE id = {key}");
        let text: Option<String> = match way {
            0 => session.conn.query_first(sql).await?,
            1 => session.conn.exec_first(&session.read, (key,)).await?,
            _ => {
                session.conn.query_drop("START TRANSACTION").await?;
                let text = session.conn.query_first(sql).await?;
                session.conn.query_drop("COMMIT").await?;
                text
            }
        };
        let end = End::Done(self.shared.tick());
        self.note(key, Call::Read { seen: parse(&text.unwrap_or_default()) }, invoked, end);
        Ok(())
    }

    async fn append(&mut self, session: &mut Session, key: Key) -> Result<(), Error> {
        let value = self.shared.sent.fetch_add(1, SeqCst);
        let way = self.roll(4);
        let mut saw = None;
        let invoked = self.shared.tick();
        let conn = &mut session.conn;
        let done = match way {
            0 => conn
                .query_drop(format!("UPDATE lists SET list = CONCAT(list, ',{value}') WHERE id = {key}"))
                .await
                .map(|()| session.changed()),
            1 => {
                conn.exec_drop(&session.append, (format!(",{value}"), key)).await.map(|()| session.changed())
            }
            2 => conn
                .query_drop(format!(
                    "INSERT INTO lists VALUES ({key}, ',{value}') \
                     ON DUPLICATE KEY UPDATE list = CONCAT(list, ',{value}')"
                ))
                .await
                .map(|()| Append::Done),
            _ => self.transaction(session, key, value, &mut saw).await,
        };
        let answered = self.shared.tick();
        let (end, result) = match done {
            Ok(Append::Done) => (End::Done(answered), Ok(())),
            Ok(Append::NoRow) => (End::Absent, Ok(())),
            Err(error) if lost(&error) => (End::Unknown, Err(error)),
            // The victim of a deadlock, which an application answers by trying again.
            Err(Error::Server(refusal)) if matches!(refusal.code, 1205 | 1213) => {
                (End::Absent, session.conn.query_drop("ROLLBACK").await)
            }
            Err(error) => (End::Absent, Err(error)),
        };
        self.note(key, Call::Append { value, saw }, invoked, end);
        result
    }

    /// Reads under a lock and writes the whole list back: whoever came in between would be overwritten.
    async fn transaction(
        &mut self,
        session: &mut Session,
        key: Key,
        value: Value,
        saw: &mut Option<Vec<Value>>,
    ) -> Result<Append, Error> {
        let conn = &mut session.conn;
        conn.query_drop("START TRANSACTION").await?;
        let asked = self.shared.tick();
        let sql = format!("SELECT list FROM lists WHERE id = {key} FOR UPDATE");
        let Some(text) = conn.query_first::<String, _>(sql).await? else {
            conn.query_drop("ROLLBACK").await?;
            return Ok(Append::NoRow);
        };
        let answered = self.shared.tick();
        let seen = parse(&text);
        *saw = Some(seen.clone());
        self.note(key, Call::Read { seen }, asked, End::Done(answered));
        let conn = &mut session.conn;
        conn.query_drop(format!("UPDATE lists SET list = '{text},{value}' WHERE id = {key}")).await?;
        conn.query_drop("COMMIT").await?;
        Ok(Append::Done)
    }

    fn roll(&mut self, end: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % end
    }
}

/// True where the connection is gone, so that nobody knows what became of what was asked last. Among the errors of a
/// server that is the one for being killed.
fn lost(error: &Error) -> bool {
    match error {
        Error::Server(refusal) => matches!(refusal.code, 1053 | 1927 | 3169 | 4031),
        _ => true,
    }
}
