//! `changeover serve`: build, spawn, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use config::events::EventLog;
use config::{Config, Side, StartPolicy};
use proxy::admin::AdminContext;
use proxy::admin::server::AdminServer;
use proxy::auth::adopted::AdoptedAccounts;
use proxy::console::ConsoleServer;
use proxy::cutover::coordinator::{Coordinator, CutoverParts};
use proxy::cutover::journal::Journal;
use proxy::cutover::port::Replication;
use proxy::listener::{FrontDoorKeys, Proxy};
use proxy::route::gate::Gate;
use proxy::route::table::{Backend, RouteTable};
use proxy::session::registry::SessionRegistry;
use proxy::tls::{RsaKey, Tls};
use replicator::handle::Replicator;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::open_files;
use crate::state_dir::{self, StateDirLock};
use crate::wiring::ReplicatorPort;

/// Beyond `proxy.drain_ms`: what replication gets to end its batches in.
const REPLICATION_STOP: Duration = Duration::from_secs(10);

/// A multi-thread runtime with so many workers; 0 is one a core.
pub(crate) fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if workers > 0 {
        builder.worker_threads(workers);
    }
    builder.enable_all().build()
}

/// Everything that runs, from the moment it listens.
struct App {
    _lock: StateDirLock,
    replicator: Arc<Replicator>,
    coordinator: Arc<Coordinator>,
    proxy: Proxy,
    /// Cancelled first: clients.
    clients: CancellationToken,
    admin: AdminServer,
    console: Option<ConsoleServer>,
}

/// Serves until a signal; a second one leaves at once.
pub(crate) async fn serve(config: Config, events: Arc<EventLog>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install()?;
    let start = config.migration.start;
    let app = tokio::select! {
        app = build(config, events) => app?,
        code = signals.next() => return Ok(code),
    };
    app.replicator.resume_after_restart(app.coordinator.serving()).await?;
    if start == StartPolicy::Auto && app.replicator.status().phase == config::progress::Phase::Idle {
        // The application is served whatever becomes of the migration.
        if let Err(error) = app.replicator.start().await {
            tracing::error!(area = "migration", "not started: {error}; START MIGRATION tries again");
        }
    }
    app.run(&mut signals).await
}

/// Makes every part, and listens last: before that nobody can be let down.
async fn build(config: Config, events: Arc<EventLog>) -> anyhow::Result<App> {
    let lock = state_dir::lock(&config.state_dir)?;
    open_files::raise(config.proxy.max_connections);
    let (journal, state) = Journal::open(&config.state_dir)?;
    let source = Backend::new(Side::Source, config.source.clone());
    let mut target = Backend::new(Side::Target, config.target.clone());
    target.names = config.migration.rename.on(Side::Target);
    target.adopted = AdoptedAccounts::open(&config.state_dir)?;
    let routes = RouteTable::new(source, target, state.serving);
    let (gate, registry) = (Gate::new(), Arc::new(SessionRegistry::default()));
    let replicator = Replicator::open(config.clone())?;
    let replication: Arc<dyn Replication> = Arc::new(ReplicatorPort(Arc::clone(&replicator)));
    let coordinator = Coordinator::new(CutoverParts {
        journal,
        routes: Arc::clone(&routes),
        gate: Arc::clone(&gate),
        registry: Arc::clone(&registry),
        replication: Arc::clone(&replication),
        config: config.cutover.clone(),
        schemas: config.migration.schemas.clone(),
    });
    // invariant 2: what a crash left behind is settled before the first client is let in.
    coordinator.recover().await;
    let tls = Tls::load(&config.proxy, &config.state_dir)?;
    let rsa = Arc::new(tokio::task::spawn_blocking(RsaKey::generate).await??);
    let context = Arc::new(AdminContext {
        replication,
        coordinator: Arc::clone(&coordinator),
        registry: Arc::clone(&registry),
        routes: Arc::clone(&routes),
        events,
    });
    let for_operators = Tls::load_for_operators(&config.proxy, &config.state_dir)?;
    let admin = AdminServer::bind(&config.admin, for_operators, Arc::clone(&rsa), Arc::clone(&context))
        .await
        .with_context(|| format!("admin.listen {} can't be used", config.admin.listen))?;
    let clients = CancellationToken::new();
    let console = console(&config, context, &gate, &clients).await?;
    let door = FrontDoorKeys { tls, rsa };
    let proxy = Proxy::start(&config, door, routes, gate, registry, clients.clone()).await?;
    tracing::info!(
        area = "proxy",
        "the {} serves; applications connect to {}, operators to {}",
        state.serving,
        proxy.address(),
        admin.local_addr()?
    );
    Ok(App { _lock: lock, replicator, coordinator, proxy, clients, admin, console })
}

/// The HTTP port, where one was asked for.
async fn console(
    config: &Config,
    context: Arc<AdminContext>,
    gate: &Arc<Gate>,
    clients: &CancellationToken,
) -> anyhow::Result<Option<ConsoleServer>> {
    if !config.console.named {
        return Ok(None);
    }
    let listen = &config.console.listen;
    let console = ConsoleServer::bind(listen, context, Arc::clone(gate), clients.clone())
        .await
        .with_context(|| format!("console.listen {listen} can't be used"))?;
    tracing::info!(area = "console", "metrics and status at http://{}/", console.local_addr()?);
    Ok(Some(console))
}

impl App {
    /// Runs until a signal, then ends in the order in which nothing is cut off: clients, operators, replication.
    async fn run(self, signals: &mut Signals) -> anyhow::Result<ExitCode> {
        let operators = CancellationToken::new();
        let mut admin = tokio::spawn(self.admin.run(operators.clone()));
        let console = self.console.map(|console| tokio::spawn(console.run(operators.clone())));
        let code = tokio::select! {
            code = signals.next() => code,
            // Not at once, whatever has ended it: the clients' transactions may finish.
            _ = &mut admin => ExitCode::FAILURE,
        };
        tracing::info!(
            area = "proxy",
            "ending: statements and transactions may finish; a second signal leaves at once"
        );
        self.clients.cancel();
        let ending = async {
            self.proxy.stopped().await;
            self.coordinator.shutdown().await;
            operators.cancel();
            if !admin.is_finished() {
                drop(admin.await);
            }
            if let Some(console) = console {
                drop(console.await);
            }
            drop(tokio::time::timeout(REPLICATION_STOP, self.replicator.shutdown()).await);
        };
        tokio::select! {
            () = ending => Ok(code),
            code = signals.next() => Ok(code),
        }
    }
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
        let interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be handled")?;
        Ok(Self { terminate, interrupt })
    }

    /// The next one, as the exit code it stands for. Cancel safety: yes.
    async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.terminate.recv() => ExitCode::SUCCESS,
            _ = self.interrupt.recv() => ExitCode::from(crate::EXIT_INTERRUPTED),
        }
    }
}
