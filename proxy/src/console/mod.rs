//! The HTTP port: metrics for Prometheus, health for load balancers, the status as JSON, and events as they come.
//!
//! It only tells: nothing here changes anything, so nobody has to log in. A connection answers one request and
//! closes; how many there are, how long they last and how much they may say is bounded (invariant 7).

mod api;
mod page;
mod scrape;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminContext;
use crate::route::gate::Gate;

/// Connections at once; more are closed without a word.
const CONNECTIONS_MAX: usize = 64;
/// Streams of events among them.
const STREAMS_MAX: usize = 16;
/// A client that hasn't sent its request by then is left.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// Of a request line with its headers.
const HEADERS_MAX: usize = 16 * 1024;
/// From the first byte to the last.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The same for a stream of events; clients come back by themselves.
const STREAM_WITHIN: Duration = Duration::from_secs(600);
/// How long accepting rests after the system refused.
const REST: Duration = Duration::from_millis(100);

/// What the answers are made of.
pub(crate) struct Console {
    context: Arc<AdminContext>,
    gate: Arc<Gate>,
    /// Cancelled when clients are no longer let in.
    draining: CancellationToken,
    started: SystemTime,
    streams: Arc<Semaphore>,
}

/// Set by a request whose answer has no end.
#[derive(Clone, Default)]
struct Endless(Arc<AtomicBool>);

/// The HTTP port.
#[derive(Debug)]
pub struct ConsoleServer {
    listener: TcpListener,
    router: Router,
}

impl ConsoleServer {
    /// Listens. Clients are answered once [`ConsoleServer::run`] runs. `draining`: cancelled when the proxy lets
    /// nobody in any more.
    pub async fn bind(
        listen: &str,
        context: Arc<AdminContext>,
        gate: Arc<Gate>,
        draining: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let console = Console { context, gate, draining, started: SystemTime::now(), streams };
        Ok(Self { listener, router: api::router(Arc::new(console)) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until cancelled; then closes what is open.
    pub async fn run(self, cancel: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // Its end ends the connections.
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let router = self.router.clone();
                        tasks.spawn(async move {
                            answer(socket, router).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(area = "console", "a client can't be accepted: {error}");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// One request of one connection.
async fn answer(socket: TcpStream, router: Router) {
    let endless = Endless::default();
    let router = router.layer(Extension(endless.clone()));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    builder.max_buf_size(HEADERS_MAX).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let done = tokio::time::timeout(ANSWER_WITHIN, connection.as_mut()).await;
    if done.is_err() && endless.0.load(Relaxed) {
        let _ = tokio::time::timeout(STREAM_WITHIN, connection).await;
    }
}
