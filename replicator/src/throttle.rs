//! `[throttle]`: copy and full passes of the verifier wait between two chunks while a server has enough to do, or a replica lags.
//!
//! The tail doesn't wait, nor do comparisons of the rows that it touches: both are as much work as the application makes, and what isn't done
//! now piles up. A server that can't be asked holds them as well: a replica that is gone may be the one that is overloaded, and
//! nobody would see that the limit stopped to hold. SHOW MIGRATION STATUS and SHOW EVENTS say what is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::progress::{Finding, Severity};
use config::{BackendConfig, Config, Side, ThrottleConfig};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::server::replication::show_replication;
use crate::server::{self, ServerInfo};

/// How often the servers are asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A server that takes longer to answer has enough to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two events about waiting, so that a load around its limit doesn't fill the log.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// Whether there is something to wait for.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// The reasons; `None`: nothing is waited for.
    why: watch::Sender<Option<String>>,
    waited_ms: AtomicU64,
}

impl Throttle {
    /// One that lets everything through until it is run.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { why: watch::Sender::new(None), waited_ms: AtomicU64::new(0) })
    }

    /// Returns when there is nothing to wait for. Cancel safety: yes.
    pub(crate) async fn pass(&self) {
        // The sender is ours, so the only way out is the condition.
        drop(self.why.subscribe().wait_for(Option::is_none).await);
    }

    /// What is waited for.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.borrow().clone()
    }

    /// For how long it was waited since the process began, in ms.
    pub(crate) fn waited_ms(&self) -> u64 {
        self.waited_ms.load(Ordering::Relaxed)
    }

    /// Asks the servers until it is cancelled; then nothing is waited for any more. From this call on until the first answers
    /// everything waits.
    pub(crate) fn run(
        self: Arc<Self>,
        config: &Config,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<()>> + use<> {
        let gauges = gauges(config);
        if !gauges.is_empty() {
            self.why.send_replace(Some("the servers named in [throttle] weren't asked yet".to_owned()));
        }
        self.ask_on(gauges, cancel)
    }

    async fn ask_on(self: Arc<Self>, mut gauges: Vec<Gauge>, cancel: CancellationToken) -> Result<()> {
        if gauges.is_empty() {
            cancel.cancelled().await;
            return Ok(());
        }
        let mut said_at: Option<Instant> = None;
        let mut since: Option<Instant> = None;
        loop {
            let asked = tokio::select! {
                asked = ask(gauges) => asked,
                () = cancel.cancelled() => break,
            };
            let (back, reasons) = asked;
            gauges = back;
            match (reasons.is_empty(), since) {
                (false, None) => {
                    since = Some(Instant::now());
                    if said_at.is_none_or(|at| at.elapsed() >= SAID_AGAIN) {
                        said_at = since;
                        tracing::info!(
                            area = "throttle",
                            "copy and verification wait: {}",
                            reasons.join("; ")
                        );
                    }
                }
                (true, Some(begun)) => {
                    since = None;
                    if said_at == Some(begun) {
                        let ms = begun.elapsed().as_millis();
                        tracing::info!(area = "throttle", "copy and verification go on after {ms} ms");
                    }
                }
                _ => {}
            }
            self.why.send_replace((!reasons.is_empty()).then(|| reasons.join("; ")));
            let looked = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = cancel.cancelled() => break,
            }
            if since.is_some() {
                let ms = u64::try_from(looked.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.waited_ms.fetch_add(ms, Ordering::Relaxed);
            }
        }
        self.why.send_replace(None);
        Ok(())
    }
}

/// For `check`: what copy and verification would wait for as things are.
pub(crate) async fn judge(config: &Config) -> Vec<Finding> {
    let (_, reasons) = ask(gauges(config)).await;
    let finding = |why| Finding {
        severity: Severity::Warning,
        subject: "throttle".to_owned(),
        message: format!("Copy and verification would wait now: {why}."),
    };
    reasons.into_iter().map(finding).collect()
}

/// All at once, and the gauges back.
async fn ask(gauges: Vec<Gauge>) -> (Vec<Gauge>, Vec<String>) {
    let mut asked = JoinSet::new();
    for (at, mut gauge) in gauges.into_iter().enumerate() {
        asked.spawn(async move {
            let reason = gauge.reason().await;
            (at, gauge, reason)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(at, ..)| *at);
    let reasons = answers.iter().filter_map(|(.., reason)| reason.clone()).collect();
    (answers.into_iter().map(|(_, gauge, _)| gauge).collect(), reasons)
}

fn gauges(config: &Config) -> Vec<Gauge> {
    let ThrottleConfig { max_threads_running, replicas, max_replica_lag_ms } = &config.throttle;
    let gauge = |name: String, backend: &BackendConfig, limit| Gauge {
        name,
        backend: backend.clone(),
        limit,
        conn: None,
    };
    let mut gauges = Vec::new();
    if *max_threads_running > 0 {
        let limit = Limit::Threads(*max_threads_running);
        gauges.push(gauge("the source".to_owned(), &config.source, limit));
        gauges.push(gauge("the target".to_owned(), &config.target, limit));
    }
    for replica in replicas {
        let name = format!("the replica {}", replica.address());
        gauges.push(gauge(name, replica, Limit::LagMs(*max_replica_lag_ms)));
    }
    gauges
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    Threads(u64),
    LagMs(u64),
}

/// A server and what it is asked.
struct Gauge {
    name: String,
    backend: BackendConfig,
    limit: Limit,
    conn: Option<(Conn, ServerInfo)>,
}

impl Gauge {
    /// Why to wait for it, if so.
    async fn reason(&mut self) -> Option<String> {
        let name = self.name.clone();
        let limit = self.limit;
        let answer = async {
            let (conn, info) = self.connected().await?;
            match limit {
                Limit::Threads(max) => threads(conn, max).await,
                Limit::LagMs(max) => lag(conn, info, max).await,
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(reason)) => reason.map(|reason| format!("{name} {reason}")),
            Ok(Err(why)) => {
                self.conn = None;
                Some(format!("{name} can't be asked: {why}"))
            }
            Err(_) => {
                self.conn = None;
                Some(format!("{name} doesn't answer within {} s", ANSWER_WITHIN.as_secs()))
            }
        }
    }

    async fn connected(&mut self) -> std::result::Result<(&mut Conn, &ServerInfo), String> {
        if self.conn.is_none() {
            // The side is only for the error's text, of which the message is taken.
            let plain = |error: crate::Error| error.message;
            let mut conn = server::connect(Side::Source, &self.backend).await.map_err(plain)?;
            let info = server::inspect(Side::Source, &mut conn).await.map_err(plain)?;
            self.conn = Some((conn, info));
        }
        let (conn, info) = self.conn.as_mut().ok_or("there is no connection")?;
        Ok((conn, info))
    }
}

type Answer = std::result::Result<Option<String>, String>;

async fn threads(conn: &mut Conn, max: u64) -> Answer {
    let row: Option<(String, u64)> = conn
        .query_first("SHOW GLOBAL STATUS LIKE 'Threads_running'")
        .await
        .map_err(|error| error.to_string())?;
    let (_, running) = row.ok_or("it doesn't say how many threads run")?;
    // One of them answers this question.
    let running = running.saturating_sub(1);
    Ok((running > max).then(|| format!("runs {running} threads (throttle.max_threads_running = {max})")))
}

async fn lag(conn: &mut Conn, info: &ServerInfo, max_ms: u64) -> Answer {
    let statement = show_replication(info.version);
    let rows: Vec<Row> = conn.query(statement).await.map_err(|error| error.to_string())?;
    let behind_s = |row: &Row| {
        let column = row.columns_ref().iter().position(|column| {
            matches!(column.name_str().as_ref(), "Seconds_Behind_Source" | "Seconds_Behind_Master")
        });
        column.and_then(|at| row.get_opt::<Option<u64>, _>(at)).and_then(std::result::Result::ok).flatten()
    };
    let all: Option<Vec<u64>> = rows.iter().map(behind_s).collect();
    Ok(match all.as_deref() {
        Some([]) => Some("doesn't replicate from any server".to_owned()),
        None => Some("doesn't replicate at the moment (SHOW REPLICA STATUS there says why)".to_owned()),
        Some(behind) => {
            let seconds = behind.iter().copied().max().unwrap_or_default();
            (seconds.saturating_mul(1000) > max_ms)
                .then(|| format!("is {seconds} s behind (throttle.max_replica_lag_ms = {max_ms})"))
        }
    })
}
