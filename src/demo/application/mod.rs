//! The application: long-lived connections that read and write through the proxy from before the start to after
//! the end, and keep books of what they were told is done.

pub(crate) mod books;
mod clerk;
pub(crate) mod pulse;
mod reporter;
mod session;
mod shopper;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mysql_async::Opts;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::scratch::options;
use books::Books;
use pulse::Pulse;
use session::Session;

/// Sessions that place orders.
const SHOPPERS: u32 = 14;
/// Sessions that look after customers and reviews.
const CLERKS: u32 = 6;
/// Sessions that read for reports and count page views, in a schema of their own.
const REPORTERS: u32 = 4;
/// All sessions.
pub(crate) const SESSIONS: u32 = SHOPPERS + CLERKS + REPORTERS;

/// The running application. Dropping it ends it.
pub(crate) struct Application {
    workers: JoinSet<Books>,
    stop: CancellationToken,
    /// What it feels.
    pub(crate) pulse: Arc<Pulse>,
}

/// What a worker is: state beside its session, and one round of work.
trait Role: Sized + Send + 'static {
    /// Prepares its statements on a new session.
    fn start(worker: u32, session: &mut Session) -> impl Future<Output = Result<Self>> + Send;
    /// Reads, writes, keeps book.
    fn round(
        &mut self,
        session: &mut Session,
        books: &mut Books,
        pulse: &Pulse,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Makes a book entry of whatever was under way when the session broke.
    fn broken(&mut self, books: &mut Books);
    /// How long it thinks between two rounds, at most.
    const THINK_MAX_MS: u64;
}

impl Application {
    /// Opens every session through the proxy at `port`, and returns once all of them work.
    pub(crate) async fn open(port: u16) -> Result<Self> {
        let pulse = Arc::new(Pulse::default());
        let stop = CancellationToken::new();
        let mut app = Self { workers: JoinSet::new(), stop, pulse };
        for worker in 0..SESSIONS {
            if worker < SHOPPERS {
                app.hire::<shopper::Shopper>(port, worker, "shop").await
            } else if worker < SHOPPERS + CLERKS {
                app.hire::<clerk::Clerk>(port, worker, "shop").await
            } else {
                app.hire::<reporter::Reporter>(port, worker, "shop_stats").await
            }
            .with_context(|| format!("session {worker} of the application could not be set up"))?;
        }
        Ok(app)
    }

    async fn hire<R: Role>(&mut self, port: u16, worker: u32, schema: &str) -> Result<()> {
        let opts = options(port, "shopper", "shopper", Some(schema));
        let mut session = Session::open(opts.clone(), worker, &self.pulse).await?;
        let role = R::start(worker, &mut session).await?;
        let (pulse, stop) = (Arc::clone(&self.pulse), self.stop.clone());
        self.workers.spawn(work(role, session, opts, worker, pulse, stop));
        Ok(())
    }

    /// Lets every worker end its round, and closes the books.
    pub(crate) async fn close(mut self) -> Result<Books> {
        self.stop.cancel();
        let mut books = Books::default();
        while let Some(worker) = self.workers.join_next().await {
            books.merge(worker.context("a worker of the application broke down")?);
        }
        Ok(books)
    }
}

/// A worker's life. An error ends its session, is counted, and a new session is opened, as a real application
/// would do.
async fn work<R: Role>(
    mut role: R,
    mut session: Session,
    opts: Opts,
    worker: u32,
    pulse: Arc<Pulse>,
    stop: CancellationToken,
) -> Books {
    let mut books = Books::default();
    let mut dice = Dice::new(u64::from(worker) + 1000);
    let mut rounds = 0_u32;
    while !stop.is_cancelled() {
        rounds += 1;
        let mut done = role.round(&mut session, &mut books, &pulse).await;
        if done.is_ok() && rounds.is_multiple_of(3) {
            done = session.check_state().await;
        }
        if let Err(error) = done {
            role.broken(&mut books);
            pulse.error(format!("session {worker}: {error:#}"));
            tokio::select! {
                () = stop.cancelled() => return books,
                again = reopen(&opts, worker, &pulse) => (role, session) = again,
            }
        }
        tokio::time::sleep(Duration::from_millis(1 + dice.below(R::THINK_MAX_MS))).await;
    }
    session.close().await;
    books
}

/// Tries until it works.
async fn reopen<R: Role>(opts: &Opts, worker: u32, pulse: &Arc<Pulse>) -> (R, Session) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Ok(mut session) = Session::open(opts.clone(), worker, pulse).await
            && let Ok(role) = R::start(worker, &mut session).await
        {
            return (role, session);
        }
    }
}

/// Small, fast, the same each time (xorshift64*).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end.max(1)
    }
}

/// `1234` cents as `12.34`.
fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// The day on which the application counts page views.
pub(crate) fn reporter_day() -> &'static str {
    reporter::VIEWS_DAY
}
