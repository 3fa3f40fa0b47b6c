//! The order of the stages, from the preparation to the tail, and what is tried again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::progress::{Phase, ReplicationPosition};
use config::{Config, Side, TableName};
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::lock;
use crate::live::Live;
use crate::schema::convert::{self, Dialects};
use crate::schema::discover::{DiscoveredTable, Discovery, discover};
use crate::schema::table::SchemaSet;
use crate::server::{self, ServerInfo};
use crate::snapshot::journal::ChunkJournal;
use crate::snapshot::{Copied, Snapshot, SnapshotProgress};
use crate::spool::fetch::FetchConfig;
use crate::spool::{self, Spool};
use crate::state::{MigrationState, Stage, StateFile, StoredPosition};
use crate::verify::{Passed, TouchedKeys, Verifier};

/// First pause before a transient error is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Folder of the spool, in state_dir.
const SPOOL: &str = "spool";
/// How often space of the spool is given back.
const RELEASE_EVERY: Duration = Duration::from_secs(5);
/// How often progress is looked at where nothing says that it changed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the other stages get to end when one has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// What the stages share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) file: Mutex<StateFile>,
    pub(crate) live: Live,
}

impl Context {
    /// Makes a state durable, then lets everyone see it.
    pub(crate) fn store(&self, state: MigrationState) -> Result<()> {
        lock(&self.file).set(state)
    }

    /// The state of a migration that was started.
    fn state(&self) -> Result<MigrationState> {
        lock(&self.file).get().cloned().ok_or_else(not_started)
    }

    /// Changes the state of a migration that was started. Verbs and pipeline both do, so nobody may write between
    /// its reading and its writing.
    pub(crate) fn update(&self, change: impl FnOnce(&mut MigrationState)) -> Result<()> {
        let mut file = lock(&self.file);
        let mut state = file.get().cloned().ok_or_else(not_started)?;
        change(&mut state);
        file.set(state)
    }
}

fn not_started() -> Error {
    Error::bug("pipeline", "it runs without a started migration")
}

/// Asks both servers who they are.
pub(crate) async fn identify(config: &Config) -> Result<(ServerInfo, ServerInfo)> {
    let mut source = server::connect(Side::Source, &config.source).await?;
    let mut target = server::connect(Side::Target, &config.target).await?;
    let infos = (
        server::inspect(Side::Source, &mut source).await?,
        server::inspect(Side::Target, &mut target).await?,
    );
    source.disconnect().await.ok();
    target.disconnect().await.ok();
    Ok(infos)
}

/// Runs the migration until it is cancelled or an operator has to see why it can't go on. Everything it knows is
/// in the state file, the chunk journal, the spool and the target's checkpoint, so a transient error is answered by
/// beginning again from there.
pub(crate) async fn run(context: Arc<Context>, cancel: CancellationToken) {
    let mut pause = RETRY_FIRST;
    loop {
        let begun = tokio::time::Instant::now();
        let error = match stages(&context, &cancel).await {
            Ok(()) => return,
            Err(_) if cancel.is_cancelled() => return,
            Err(error) => error,
        };
        context.live.set_error(&error);
        if error.kind != ErrorKind::Transient {
            tracing::error!(area = "migration", "stopped: {error}");
            if let Err(error) = context.update(|state| state.failed = Some(error.to_string())) {
                tracing::error!(area = "migration", "the failure can't be written down: {error}");
            }
            context.live.set_phase(Phase::Failed);
            return;
        }
        if begun.elapsed() > RETRY_MAX {
            pause = RETRY_FIRST;
        }
        tracing::warn!(area = "migration", "trying again in {} ms: {error}", pause.as_millis());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// One attempt at all stages. Returns `Ok` only when cancelled.
async fn stages(context: &Arc<Context>, cancel: &CancellationToken) -> Result<()> {
    let config = &context.config;
    let state = context.state()?;
    let (source, target) = identify(config).await?;
    same_server(Side::Source, &state.source_identity, &source)?;
    same_server(Side::Target, &state.target_identity, &target)?;
    let dialects = Dialects { source: source.dialect(), target: target.dialect() };
    let (found, start) = match state.start {
        Some(start) => (find_tables(config, &state.tables, dialects).await?, start.read()?),
        None => prepare(context, &source, dialects).await?,
    };
    context.live.set_conversions(convert::conversions(&found, dialects)?);
    let tables = found.schema_set();
    let without_transactions = found.without_transactions();
    let (spool, writer) =
        Spool::open(&config.state_dir.join(SPOOL), config.apply.spool_max_bytes, &start).await?;
    let fetch = FetchConfig {
        source: config.source.clone(),
        flavor: source.version.flavor,
        schemas: found.schemas.into_iter().map(|schema| schema.name).collect(),
        tables: tables.clone(),
        server_id: replica_server_id(),
    };
    let snapshot = context.live.begin(&tables, &spool);
    let stages =
        Stages { context: Arc::clone(context), source, tables, without_transactions, start, snapshot };
    let scope = cancel.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(spool::fetch::run(fetch, writer, scope.clone()));
    tasks.spawn(release(Arc::clone(context), spool.clone(), stages.origin(), scope.clone()));
    tasks.spawn(sample(Arc::clone(context), scope.clone()));
    tasks.spawn(stages.copy_then_follow(spool, scope.clone()));
    join(tasks, &scope).await
}

/// A server id for the dump connection that no other replica is likely to have: the source would throw one of two
/// with the same id out.
fn replica_server_id() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id()) as u32;
    random | 0x8000_0000
}

/// The first stage to end decides; the others are asked to stop and waited for.
async fn join(mut tasks: JoinSet<Result<()>>, scope: &CancellationToken) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended =
            ended.unwrap_or_else(|error| Err(Error::bug("pipeline", format!("a stage panicked: {error}"))));
        if result.is_ok() {
            result = ended;
        }
        if !scope.is_cancelled() {
            scope.cancel();
            let rest = async { while tasks.join_next().await.is_some() {} };
            if tokio::time::timeout(DRAIN_DEADLINE, rest).await.is_err() {
                tasks.abort_all();
            }
        }
    }
    result
}

/// An address may lead to another server than the one that the migration began with.
fn same_server(side: Side, identity: &str, info: &ServerInfo) -> Result<()> {
    if identity == info.identity {
        return Ok(());
    }
    Err(Error::definite(
        side,
        "identity",
        "its address leads to another server than the one that this migration began with; point it back, or start \
         over with an empty state_dir and an empty target",
    ))
}

/// The tables that the migration began with, as they are on both sides now.
async fn find_tables(
    config: &Config,
    began_with: &[(String, String)],
    dialects: Dialects,
) -> Result<Discovery> {
    let mut conn = server::connect(Side::Source, &config.source).await?;
    let mut discovery = discover(Side::Source, &mut conn, &config.migration).await?;
    conn.disconnect().await.ok();
    let began_with: Vec<TableName> =
        began_with.iter().map(|(schema, table)| TableName::new(schema, table)).collect();
    discovery.keep_only(&began_with).map_err(|gone| {
        Error::definite(
            Side::Source,
            gone.to_string(),
            "this table of the migration isn't there any more, or migration.schemas and exclude_tables leave it out \
             now; put it back, or start over with an empty state_dir and an empty target",
        )
    })?;
    let mut conn = server::connect(Side::Target, &config.target).await?;
    let there = discover(Side::Target, &mut conn, &config.migration).await?;
    conn.disconnect().await.ok();
    convert::pair_up(discovery, &there, dialects)
}

/// Stage `preparing`: P0, then the tables. A table made on the source in between is moved, and stops the tail at the
/// statement that made it, which is in the binlog behind P0: loud, instead of missed.
async fn prepare(
    context: &Arc<Context>,
    source: &ServerInfo,
    dialects: Dialects,
) -> Result<(Discovery, ReplicationPosition)> {
    let config = &context.config;
    context.live.set_phase(Phase::Preparing);
    let mut from = server::connect(Side::Source, &config.source).await?;
    let start = server::start_position(Side::Source, source, &mut from).await?;
    let discovery = discover(Side::Source, &mut from, &config.migration).await?;
    let mut to = server::connect(Side::Target, &config.target).await?;
    forget_former(config, &mut to).await?;
    let discovery = convert::create_on_target(&mut to, discovery, dialects, &config.migration).await?;
    from.disconnect().await.ok();
    to.disconnect().await.ok();
    context.update(|state| {
        state.stage = Stage::Copying;
        state.tables = tables_of(&discovery);
        state.start = Some(StoredPosition::from(&start));
    })?;
    tracing::info!(area = "migration", "{} tables prepared; start position {start}", discovery.tables.len());
    Ok((discovery, start))
}

fn tables_of(discovery: &Discovery) -> Vec<(String, String)> {
    let name = |table: &DiscoveredTable| (table.schema.name.schema.clone(), table.schema.name.table.clone());
    discovery.tables.iter().map(name).collect()
}

/// What an earlier migration of this name has left, here or on the target, is of no use to this one. The preflight
/// has seen that the target holds none of its tables.
async fn forget_former(config: &Config, target: &mut mysql_async::Conn) -> Result<()> {
    apply::checkpoint::forget(target, &config.migration.name).await?;
    ChunkJournal::discard(&config.state_dir)?;
    let spool = config.state_dir.join(SPOOL);
    match std::fs::remove_dir_all(&spool) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::definite(None, spool.display().to_string(), format!("it can't be removed: {error}")))
        }
        _ => Ok(()),
    }
}

/// What the stages of one attempt share.
struct Stages {
    context: Arc<Context>,
    source: ServerInfo,
    tables: SchemaSet,
    /// Those of them that change before the binlog has it.
    without_transactions: Vec<TableName>,
    start: ReplicationPosition,
    snapshot: Arc<SnapshotProgress>,
}

impl Stages {
    /// What the checkpoint on the target belongs to.
    fn origin(&self) -> Origin {
        Origin {
            migration: self.context.config.migration.name.clone(),
            source_identity: self.source.identity.clone(),
            start: self.start.clone(),
        }
    }

    /// Stages `copying`, `catching_up` and `following`.
    async fn copy_then_follow(self, spool: Spool, cancel: CancellationToken) -> Result<()> {
        let Some(copied_at) = self.copy(&cancel).await? else { return Ok(()) };
        let live = &self.context.live;
        live.set_copied_at(copied_at.coordinates.clone());
        live.set_phase(Phase::CatchingUp);
        let touched = Arc::new(TouchedKeys::default());
        let config = &self.context.config;
        let verifier = Arc::new(Verifier::new(
            &config.source,
            &config.target,
            &self.tables,
            Arc::clone(&touched),
            self.passed(),
        ));
        live.set_verifier(Arc::clone(&verifier));
        let setup = apply::Setup {
            target: config.target.clone(),
            origin: self.origin(),
            workers: config.apply.workers,
            schemas: self.tables.clone(),
            cascades_in_binlog: self.source.cascades_in_binlog,
            copied_at: copied_at.coordinates,
            touched,
            progress: Arc::clone(live.applied()),
        };
        let tables = self.tables.clone();
        let scope = cancel.child_token();
        let mut tasks = JoinSet::new();
        tasks.spawn(apply::run(setup, move |from| async move { spool.reader(from, tables) }, scope.clone()));
        tasks.spawn(follow(Arc::clone(&self.context), verifier, scope.clone()));
        join(tasks, &scope).await
    }

    /// Copies what isn't copied yet and returns P1, the end of all that the copy could see. `None`: cancelled.
    async fn copy(&self, cancel: &CancellationToken) -> Result<Option<ReplicationPosition>> {
        let config = &self.context.config;
        let done = self.context.state()?.copied_at;
        if done.is_none() {
            self.context.live.set_phase(Phase::Copying);
        }
        // Also behind a complete copy: the chunk journal then only tells the progress.
        let copied = Snapshot::run(
            config,
            &self.tables,
            &self.start,
            &config.state_dir,
            Arc::clone(&self.snapshot),
            cancel.clone(),
        );
        if copied.await? == Copied::Cancelled {
            return Ok(None);
        }
        if let Some(position) = done {
            return position.read().map(Some);
        }
        let mut conn = server::connect(Side::Source, &config.source).await?;
        let end = self.end_of_copy(&mut conn).await?;
        conn.disconnect().await.ok();
        self.context.update(|state| {
            state.stage = Stage::Replaying;
            state.copied_at = Some(StoredPosition::from(&end));
        })?;
        tracing::info!(area = "migration", "the copy is complete; what it could see ends at {end}");
        Ok(Some(end))
    }

    /// P1. A table without transactions shows a row before the binlog has it, so these are locked for the moment of
    /// the question: what could be seen of them by then is logged.
    async fn end_of_copy(&self, conn: &mut mysql_async::Conn) -> Result<ReplicationPosition> {
        if self.without_transactions.is_empty() {
            return server::end_position(Side::Source, &self.source, conn).await;
        }
        let list: Vec<String> =
            self.without_transactions.iter().map(|table| format!("{} READ", table.quoted())).collect();
        const PLACE: &str = "locking the tables without transactions for a moment";
        let database = |error: mysql_async::Error| Error::database(Side::Source, PLACE, &error);
        conn.query_drop(format!("LOCK TABLES {}", list.join(", "))).await.map_err(database)?;
        let end = server::end_position(Side::Source, &self.source, conn).await;
        conn.query_drop("UNLOCK TABLES").await.map_err(database)?;
        end
    }

    /// "Return when everything up to there is applied", for the verifier.
    fn passed(&self) -> Passed {
        let applied = Arc::clone(self.context.live.applied());
        Arc::new(move |coordinates| {
            let applied = Arc::clone(&applied);
            Box::pin(async move { applied.wait_for_coordinates(&coordinates).await })
        })
    }
}

/// Turns `catching_up` into `following`, and then lets the verifier work.
async fn follow(context: Arc<Context>, verifier: Arc<Verifier>, cancel: CancellationToken) -> Result<()> {
    while !context.live.caught_up() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
    context.live.set_phase(Phase::Following);
    context.live.clear_error();
    verifier.run(&cancel).await;
    Ok(())
}

/// Gives back the space of what is applied. The target itself is asked: the low water that is published runs ahead of
/// what a restart would find there by transactions that have nothing for us.
async fn release(
    context: Arc<Context>,
    spool: Spool,
    origin: Origin,
    cancel: CancellationToken,
) -> Result<()> {
    let mut conn = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(RELEASE_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
        let applied = tokio::select! {
            applied = applied_for_good(&mut conn, &context.config, &origin) => applied,
            () = cancel.cancelled() => return Ok(()),
        };
        match applied {
            Ok(Some(low_water)) => spool.release(low_water)?,
            Ok(None) => {}
            // Only space waits: ending every stage for a broken connection would begin the verification anew.
            Err(error) if error.kind == ErrorKind::Transient => {
                conn = None;
                tracing::debug!("the spool's space is given back later: {error}");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Up to which transaction a restart would find everything applied; `None` before the first run.
async fn applied_for_good(
    conn: &mut Option<mysql_async::Conn>,
    config: &Config,
    origin: &Origin,
) -> Result<Option<u64>> {
    let conn = match conn {
        Some(conn) => conn,
        None => conn.insert(server::connect(Side::Target, &config.target).await?),
    };
    let recovered = apply::checkpoint::peek(conn, origin).await?;
    Ok(recovered.map(|recovered| recovered.low_water))
}

/// Takes the samples that lag and rates are made of.
async fn sample(context: Arc<Context>, cancel: CancellationToken) -> Result<()> {
    loop {
        context.live.sample();
        tokio::select! {
            () = context.live.spool_grew() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
}
