//! The address that applications connect to, and the façade that the binary builds.
//!
//! A client is greeted as the serving backend would greet it, logs in at the front door, and is let in when
//! the backend has taken its credential. From then on its session has a task of its own.

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use config::{Config, Io, ProxyConfig, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::auth::accounts::Accounts;
use crate::auth::arrival::Origin;
use crate::auth::server::{Accepted, FrontDoor, Hello, Keeper, accept};
use crate::backend::connect::{BackendConnection, Dialled, Greeting, connect, dial, probe};
use crate::entrance::{Entrance, Unwelcome};
use crate::error::{ClientError, ConnectError};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::protocol::frame::put_packet;
use crate::protocol::packet::ErrPacket;
use crate::protocol::stream::Stream;
use crate::relay::copy::Leg;
use crate::ring::Workers;
use crate::route::gate::{Gate, Permit};
use crate::route::table::{Route, RouteTable};
use crate::session::registry::{Greeted, Order, SessionRegistry};
use crate::session::task::{Session, Shared};
use crate::session::{Connection, DIAL_TIMEOUT, Servers, Turns, is_transient};
use crate::tls::{RsaKey, Tls};

/// Backends are asked so often whether they still greet as they did.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// A backend that didn't answer is asked again after this.
const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// Idle sessions are reminded so often that they needn't hold buffers.
const REMIND_EVERY: Duration = Duration::from_secs(2);
/// Passwords that nobody logs in with any more are looked for so often.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// A client that is turned away gets so long to hear why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// So much of what it sent is read before that.
const UNREAD_MAX: u64 = 64 * 1024;
/// So many who are turned away are waited for at once; in a flood the others are closed without that.
static LINGERING: Semaphore = Semaphore::const_new(256);
/// Where the SQLSTATE stands in an ERR packet.
const STATE: std::ops::Range<usize> = 3..9;
/// A backend that gives out an id that a moved session goes by is dialled again so often.
const REDIALS: u32 = 4;
/// A connection that nobody logged in on gets so long to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Sessions that outlived the drain get so long to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the proxy couldn't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}; is another process using it, or is the address wrong?")]
    Bind {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// `proxy.io = "io_uring"`, and the system has none to give.
    #[error(
        "the system gives no io_uring: {0}; it takes Linux 6.1, kernel.io_uring_disabled = 0, and a container that \
         allows it. proxy.io = \"auto\" uses epoll where it can't be had"
    )]
    Ring(io::Error),
}

/// What a front door proves itself with; the admin port uses the same.
#[derive(Debug, Clone)]
pub struct FrontDoorKeys {
    /// Certificate and key.
    pub tls: Tls,
    /// For passwords of clients without TLS.
    pub rsa: Arc<RsaKey>,
}

/// The running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens and serves until `cancel`, then drains for up to `proxy.drain_ms`. A backend that can't be
    /// reached doesn't keep it from starting: clients are told.
    pub async fn start(
        config: &Config,
        keys: FrontDoorKeys,
        routes: Arc<RouteTable>,
        gate: Arc<Gate>,
        registry: Arc<SessionRegistry>,
        cancel: CancellationToken,
    ) -> Result<Self, StartError> {
        let hashes = Accounts::new({
            let routes = Arc::clone(&routes);
            move || Arc::clone(&routes.load().backend)
        });
        let door = FrontDoor::new(keys.tls, keys.rsa, Keeper::Backend(Arc::new(hashes)));
        let move_every = NonZeroU32::new(config.proxy.move_every);
        let (servers, turns) = (Servers::default(), Turns::default());
        let shared = Shared { gate, routes, registry, door, servers, turns, move_every };
        let workers = workers(&config.proxy)?;
        let listener = Listener::bind(&config.proxy, shared, workers).await?;
        let address = listener.address;
        info!(area = "proxy", "listening on {address}");
        if config.proxy.move_every > 0 {
            let every = config.proxy.move_every;
            warn!(
                area = "proxy",
                "proxy.move_every is a setting for tests: sessions move every {every} commands"
            );
        }
        let limits = Limits {
            max_connections: config.proxy.max_connections,
            max_connects_per_s: config.proxy.entrance.max_connects_per_s,
            drain: Duration::from_millis(config.proxy.drain_ms),
        };
        let task = tokio::spawn(Box::pin(listener.run(limits, cancel)));
        Ok(Self { address, task })
    }

    /// Where it listens, with the port that the system chose where port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when it was cancelled and has drained.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            warn!(area = "proxy", "the listener's task ended badly: {error}");
        }
    }
}

/// How many clients, and how long they get to leave.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients at once; one more is answered with error 1040.
    pub max_connections: usize,
    /// New clients a second; more wait to be accepted. 0 is no limit.
    pub max_connects_per_s: u32,
    /// How long a shutdown waits for statements and transactions to end.
    pub drain: Duration,
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    house: Arc<House>,
}

/// What every new client needs.
#[derive(Debug)]
struct House {
    shared: Arc<Shared>,
    entrance: Entrance,
    greetings: Greetings,
    /// For clients that can't be greeted with their backend's id. The servers count from the other end.
    spare_id: AtomicU32,
    /// Where sessions live; `None`: on tokio's workers.
    workers: Option<Workers>,
}

/// What the two backends greeted with when they were last asked.
#[derive(Debug, Default)]
struct Greetings {
    source: ArcSwapOption<Greeting>,
    target: ArcSwapOption<Greeting>,
    /// Whether each side was asked at all since the start.
    tried: [AtomicBool; 2],
}

impl Greetings {
    fn tried(&self, side: Side) -> &AtomicBool {
        let [source, target] = &self.tried;
        if side == Side::Source { source } else { target }
    }

    fn of(&self, side: Side) -> &ArcSwapOption<Greeting> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}

impl Listener {
    /// Binds the configured address.
    async fn bind(
        config: &ProxyConfig,
        shared: Shared,
        workers: Option<Workers>,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Bind { address: config.listen.clone(), source };
        let socket = TcpListener::bind(&config.listen).await.map_err(failed)?;
        let shared = Arc::new(shared);
        let entrance = Entrance::new(&config.entrance);
        let (greetings, spare_id) = (Greetings::default(), AtomicU32::new(u32::MAX));
        let house = House { shared, entrance, greetings, spare_id, workers };
        Ok(Self { address: socket.local_addr().map_err(failed)?, socket, house: Arc::new(house) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`, then lets statements and transactions end, then closes.
    pub async fn run(self, limits: Limits, cancel: CancellationToken) {
        let Self { socket, house, .. } = self;
        let sessions = TaskTracker::new();
        let keepers = TaskTracker::new();
        let over = CancellationToken::new();
        for side in [Side::Source, Side::Target] {
            keepers.spawn(until(over.clone(), Arc::clone(&house).keep_greeting(side)));
        }
        keepers.spawn(until(over.clone(), Arc::clone(&house).pass_on_signals()));
        keepers.spawn(until(over.clone(), Arc::clone(&house).remind_idle_sessions()));
        keepers.spawn(until(over.clone(), Arc::clone(&house).forget_old_passwords()));
        keepers.spawn(until(over.clone(), Arc::clone(&house).keep_surroundings_fresh()));
        let mut pace = Pace::new(limits.max_connects_per_s);
        let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
        let mut accepts = true;
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = async { pace.wait().await; socket.accept().await } => accepted,
            };
            pace.count();
            let socket = match accepted {
                Ok((socket, _)) => {
                    accepts = true;
                    socket
                }
                Err(error) => {
                    // Out of file descriptors, most likely: that passes, and clients wait in the backlog.
                    if std::mem::take(&mut accepts) {
                        warn!(
                            area = "proxy",
                            "a client couldn't be accepted: {error}; it waits, and others do"
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            house.metrics().connections.add_one();
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let (house, tracker) = (Arc::clone(&house), sessions.clone());
                    sessions.spawn(async move {
                        let Some(session) = house.receive(socket).await else { return };
                        let life = tracker.track_future(async move {
                            session.run().await;
                            drop(place);
                        });
                        match &house.workers {
                            Some(workers) => workers.spawn(life),
                            None => drop(tokio::spawn(life)),
                        }
                    });
                }
                Err(_) => {
                    house.metrics().too_many.add_one();
                    sessions.spawn(async move {
                        turn_away(socket, &ErrPacket::new(1040, b"HY000", "Too many connections")).await;
                    });
                }
            }
        }
        drop(socket);
        house.drain(&sessions, limits.drain).await;
        over.cancel();
        keepers.close();
        keepers.wait().await;
    }
}

/// The rings of `proxy.io`; `None` where sessions are to live on tokio's workers.
fn workers(config: &ProxyConfig) -> Result<Option<Workers>, StartError> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = if config.workers == 0 { cores() } else { config.workers };
    if config.io == Io::Epoll {
        return Ok(None);
    }
    match Workers::start(count, config.scheduling) {
        Ok(workers) => Ok(Some(workers)),
        Err(error) if config.io == Io::IoUring => Err(StartError::Ring(error)),
        Err(error) => {
            info!(area = "proxy", "sessions use epoll, because the system gives no io_uring: {error}");
            Ok(None)
        }
    }
}

async fn until(over: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = over.cancelled() => {}
        () = work => {}
    }
}

/// A client that was greeted, and the backend's connection that waits for its login.
struct Waiting {
    route: Arc<Route>,
    dialled: Dialled,
    greeted: Greeted,
}

fn is_adopted(route: &Route, accepted: &Accepted) -> bool {
    route.backend.adopted.credential(&accepted.login.user, &accepted.credential).is_some()
}

fn log_refusal(session_id: Option<u32>, client: &str, error: &ConnectError) {
    match error {
        ConnectError::Refused { .. } => debug!(session_id, client, "{error}"),
        _ => warn!(area = "proxy", session_id, client, "{error}"),
    }
}

/// An error in place of a greeting; such a packet has a SQLSTATE only where a server gave it one. What the client may have sent is read, because
/// closing over it would reset the connection, and the error could be lost with it.
async fn turn_away(mut socket: TcpStream, packet: &ErrPacket) {
    let mut payload = packet.encode();
    if packet.state == *b"HY000" {
        payload.drain(STATE);
    }
    let mut bytes = Vec::new();
    put_packet(&mut bytes, 0, &payload);
    let told = async {
        if socket.write_all(&bytes).await.is_ok() {
            let _ = socket.shutdown().await;
            if let Ok(_place) = LINGERING.try_acquire() {
                let mut rest = (&mut socket).take(UNREAD_MAX);
                let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            }
        }
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
}

impl House {
    fn metrics(&self) -> &Metrics {
        &self.shared.registry.metrics
    }

    /// One client, from its first byte to the end of its login. One that isn't let in has been told.
    async fn receive(&self, mut socket: TcpStream) -> Option<Session> {
        let peer = socket.peer_addr().ok();
        let origin = match self.entrance.origin(&mut socket, peer).await {
            Ok(origin) => origin,
            Err(Unwelcome::NoHeader) => {
                self.metrics().not_proxied.add_one();
                return None;
            }
            Err(Unwelcome::Stranger) => {
                self.metrics().not_proxied.add_one();
                let message = "This address is for the load balancers that speak the PROXY protocol";
                turn_away(socket, &ErrPacket::new(1130, b"HY000", message)).await;
                return None;
            }
        };
        let named = match origin {
            Origin::Named(client) => Some(client),
            Origin::Socket | Origin::MayBeNamed => peer,
        };
        let client = named.map_or_else(String::new, |client| client.to_string());
        let route = self.shared.routes.load_full();
        let (dialled, greeted) = match Box::pin(self.dial(&route, named)).await {
            Ok(dialled) => dialled,
            Err(error) => {
                self.metrics().no_backend.add_one();
                log_refusal(None, &client, &error);
                turn_away(socket, &error.for_client()).await;
                return None;
            }
        };
        let other_side = route.backend.side.other();
        let mut other = self.greetings.of(other_side).load_full();
        if other.is_none() && !self.greetings.tried(other_side).load(Ordering::Relaxed) {
            // The first clients of all mustn't be offered what the other backend can't do.
            other = self.ask_greeting(other_side).await.ok();
        }
        let serving = &dialled.greeting;
        let hello = Hello { origin, ..Hello::new(greeted.id, serving, other.as_deref().unwrap_or(serving)) };
        let Ok(stream) = Stream::tcp(socket) else {
            dialled.leave(&route.backend.config, LEAVE_TIMEOUT).await;
            return None;
        };
        let waiting = Waiting { route, dialled, greeted };
        Box::pin(self.let_in(stream, &hello, client, waiting)).await
    }

    /// A connection to the serving backend, and the id to greet its client with: the backend's own, unless a
    /// session that has moved since goes by it.
    async fn dial(
        &self,
        route: &Route,
        client: Option<SocketAddr>,
    ) -> Result<(Dialled, Greeted), ConnectError> {
        let backend = &route.backend.config;
        let registry = &self.shared.registry;
        let mut dialled = dial(backend, client, DIAL_TIMEOUT).await?;
        for _ in 0..REDIALS {
            if let Some(greeted) = registry.greet(dialled.greeting.handshake.connection_id) {
                return Ok((dialled, greeted));
            }
            let next = dial(backend, client, DIAL_TIMEOUT).await?;
            std::mem::replace(&mut dialled, next).leave(backend, LEAVE_TIMEOUT).await;
        }
        loop {
            let id = self.spare_id.fetch_sub(1, Ordering::Relaxed);
            if let Some(greeted) = registry.greet(id).filter(|_| id != 0) {
                return Ok((dialled, greeted));
            }
        }
    }

    async fn let_in(
        &self,
        stream: Stream,
        hello: &Hello,
        client: String,
        waiting: Waiting,
    ) -> Option<Session> {
        let id = waiting.greeted.id;
        let accepted = tokio::select! {
            biased;
            accepted = accept(stream, &self.shared.door, hello) => accepted,
            () = waiting.dialled.given_up(&waiting.route.backend.config) => Err(ClientError::NotALogin("the backend waits no longer")),
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(session_id = id, client, "no login: {error}");
                self.metrics().logins_unfinished.add_one();
                waiting.dialled.leave(&waiting.route.backend.config, LEAVE_TIMEOUT).await;
                return None;
            }
        };
        let client = accepted.login.client.map_or(client, |client| client.to_string());
        let Waiting { route, dialled, greeted } = waiting;
        // invariant 2: a login comes under a permit as a statement does. In a pause it waits, and then goes to whoever serves:
        // behind a fence its account may be locked on the side that is left. It is kept until the session is registered.
        let (_permit, waited) = self.enter(id).await;
        let (route, logged_in) = self.log_in(route, dialled, waited, &accepted).await;
        let connection = match logged_in {
            Ok(connection) => connection,
            Err(error) => {
                if !is_transient(&error) {
                    self.shared.door.known.refused(&accepted.login.user, &accepted.credential);
                }
                match &error {
                    ConnectError::Refused { .. } => self.metrics().logins_refused.add_one(),
                    _ => self.metrics().logins_unreachable.add_one(),
                }
                log_refusal(Some(id), &client, &error);
                if matches!(error, ConnectError::Refused { .. }) && is_adopted(&route, &accepted) {
                    warn!(
                        area = "accounts",
                        session_id = id,
                        "the {} refuses an adopted account; SHOW ACCOUNTS says whether it still has Changeover's password",
                        route.backend.side
                    );
                }
                accepted.refuse(&error.for_client()).await;
                return None;
            }
        };
        self.shared.door.known.accepted(&accepted.login.user, &accepted.credential);
        let side = route.backend.side;
        let (connection, ok) = Connection::new(connection, &route.backend, route.epoch);
        let (stream, login, credential) = match accepted.admit(&ok).await {
            Ok(admitted) => admitted,
            Err(error @ ClientError::Refused(_)) => {
                warn!(area = "proxy", session_id = id, client, "{error}");
                return None;
            }
            Err(_) => return None,
        };
        let registry = &self.shared.registry;
        let registered = registry.register(greeted, login.user_text(), client, (side, connection.id));
        let shared = Arc::clone(&self.shared);
        Some(Session::new(shared, registered, login, credential, Leg::new(stream), connection))
    }

    /// A permit, and whether it had to be waited for.
    async fn enter(&self, id: u32) -> (Permit, bool) {
        let gate = &self.shared.gate;
        match gate.try_enter(id as usize) {
            Some(permit) => (permit, false),
            None => {
                let since = Instant::now();
                let permit = gate.enter(id as usize).await;
                self.metrics().gate_wait.record(id, since.elapsed());
                (permit, true)
            }
        }
    }

    /// On the connection that waits; where the route has changed meanwhile, or the client turned out to be
    /// another than the backend was told, on another one. Also behind a pause, in which the backend may have lost its patience.
    async fn log_in(
        &self,
        route: Arc<Route>,
        dialled: Dialled,
        waited: bool,
        accepted: &Accepted,
    ) -> (Arc<Route>, Result<BackendConnection, ConnectError>) {
        let backend = &route.backend.config;
        let now = self.shared.routes.load_full();
        let login = &*now.backend.login(&accepted.login);
        let credential = now.backend.credential(login, &accepted.credential);
        if now.epoch == route.epoch && !waited && dialled.speaks_for(login.client, backend) {
            let logged_in = Box::pin(dialled.log_in(backend, login, &credential, DIAL_TIMEOUT)).await;
            return (route, logged_in);
        }
        let ((), logged_in) = tokio::join!(
            Box::pin(dialled.leave(backend, LEAVE_TIMEOUT)),
            Box::pin(connect(&now.backend.config, login, &credential, DIAL_TIMEOUT)),
        );
        (now, logged_in)
    }

    async fn ask_greeting(&self, side: Side) -> Result<Arc<Greeting>, ConnectError> {
        let probed = probe(&self.shared.routes.backend(side).config, DIAL_TIMEOUT).await;
        self.greetings.tried(side).store(true, Ordering::Relaxed);
        let greeting = Arc::new(probed?);
        self.greetings.of(side).store(Some(Arc::clone(&greeting)));
        Ok(greeting)
    }

    async fn keep_greeting(self: Arc<Self>, side: Side) {
        let mut reached = true;
        loop {
            let asked = self.ask_greeting(side).await;
            self.metrics().set_up(side, asked.is_ok());
            match asked {
                Ok(greeting) => {
                    if !reached {
                        info!(area = "proxy", "the {side} is there again: {}", greeting.version);
                    }
                    reached = true;
                    tokio::time::sleep(PROBE_EVERY).await;
                }
                Err(error) => {
                    if reached {
                        warn!(area = "proxy", "the {side} doesn't greet: {error}");
                    }
                    reached = false;
                    tokio::time::sleep(PROBE_AGAIN).await;
                }
            }
        }
    }

    /// Sessions don't listen to the route themselves, so that waiting for a client touches nothing shared.
    async fn pass_on_signals(self: Arc<Self>) {
        let mut signals = self.shared.routes.subscribe();
        let mut lives = signals.changed().await.is_ok();
        while lives {
            tokio::select! {
                biased;
                // All of them, anew.
                changed = signals.changed() => lives = changed.is_ok(),
                () = self.shared.registry.wake_in_turn() => lives = signals.changed().await.is_ok(),
            }
        }
    }

    async fn remind_idle_sessions(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(REMIND_EVERY);
        loop {
            ticks.tick().await;
            self.shared.registry.wake_idle(REMIND_EVERY);
        }
    }

    async fn forget_old_passwords(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(FORGET_EVERY);
        loop {
            ticks.tick().await;
            self.shared.door.known.forget_old();
        }
    }

    async fn keep_surroundings_fresh(self: Arc<Self>) {
        self.shared.servers.keep_fresh(&self.shared.routes).await;
    }

    /// Lets what is under way end, up to `deadline`; then closes it.
    async fn drain(&self, sessions: &TaskTracker, deadline: Duration) {
        sessions.close();
        let registry = &self.shared.registry;
        let told = async {
            loop {
                // Again and again, because a login may just be on its way to the registry.
                registry.give_all(Order::Drain);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let gone = async {
            tokio::select! {
                () = sessions.wait() => {}
                () = told => {}
            }
        };
        if tokio::time::timeout(deadline, gone).await.is_err() {
            warn!(area = "proxy", "{} sessions outlived the drain and are closed", registry.len());
            registry.give_all(Order::Close);
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, sessions.wait()).await;
        }
    }
}
