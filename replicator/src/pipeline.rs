//! The order of the stages, from the preparation to the tail, and what is tried again.

use std::sync::Mutex;
use std::sync::Arc;
use std::time::Duration;

use config::progress::{Phase, ReplicationPosition};
use config::{Config, Side};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::lock;
use crate::live::Live;
use crate::schema::table::SchemaSet;
use crate::schema::{convert, discover};
use crate::server::{self, ServerInfo};
use crate::snapshot::Snapshot;
use crate::spool;
use crate::state::{MigrationState, Stage, StateFile, StoredPosition};
use crate::verify::Verifier;

/// First pause before a transient error is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(15);
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
        lock(&self.file).get().cloned().ok_or_else(|| Error::bug("pipeline", "it runs without a started migration"))
    }

    fn update(&self, change: impl FnOnce(&mut MigrationState)) -> Result<()> {
        let mut state = self.state()?;
        change(&mut state);
        self.store(state)
    }
}

/// Asks both servers who they are.
pub(crate) async fn identify(config: &Config) -> Result<(ServerInfo, ServerInfo)> {
    let mut source = server::connect(Side::Source, &config.source).await?;
    let mut target = server::connect(Side::Target, &config.target).await?;
    let infos =
        (server::inspect(Side::Source, &mut source).await?, server::inspect(Side::Target, &mut target).await?);
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
    let (tables, start) = match state.start {
        Some(start) => (discover_tables(config).await?, start.read()?),
        None => prepare(context, &source).await?,
    };
    context.live.set_tables(tables.clone());

    let scope = cancel.child_token();
    let mut tasks = JoinSet::new();
    let fetch = spool::fetch::Fetch::open(config, &source, &tables, &start)?;
    context.live.set_spool(fetch.progress());
    tasks.spawn(fetch.run(scope.clone()));
    tasks.spawn(copy_then_follow(Arc::clone(context), source, tables, start, scope.clone()));
    join(tasks, &scope).await
}

/// The first stage to end decides; the others are asked to stop and waited for.
async fn join(mut tasks: JoinSet<Result<()>>, scope: &CancellationToken) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(Error::bug("pipeline", format!("a stage panicked: {error}"))));
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

async fn discover_tables(config: &Config) -> Result<SchemaSet> {
    let mut conn = server::connect(Side::Source, &config.source).await?;
    let discovery = discover::discover(Side::Source, &mut conn, &config.migration).await?;
    conn.disconnect().await.ok();
    Ok(discovery.schema_set())
}

/// Stage `preparing`: the tables on the target, then P0, in this order: a table made on the source in between is
/// in the binlog behind P0 and stops the tail, instead of being missed.
async fn prepare(context: &Arc<Context>, source: &ServerInfo) -> Result<(SchemaSet, ReplicationPosition)> {
    let config = &context.config;
    context.live.set_phase(Phase::Preparing);
    let mut from = server::connect(Side::Source, &config.source).await?;
    let start = server::start_position(Side::Source, source, &mut from).await?;
    let discovery = discover::discover(Side::Source, &mut from, &config.migration).await?;
    let mut to = server::connect(Side::Target, &config.target).await?;
    convert::create_on_target(&mut to, &discovery).await?;
    from.disconnect().await.ok();
    to.disconnect().await.ok();
    context.update(|state| {
        state.stage = Stage::Copying;
        state.start = Some(StoredPosition::from(&start));
    })?;
    tracing::info!(area = "migration", "{} tables prepared; start position {start}", discovery.tables.len());
    Ok((discovery.schema_set(), start))
}

/// Stages `copying`, `catching_up` and `following`.
async fn copy_then_follow(
    context: Arc<Context>,
    source: ServerInfo,
    tables: SchemaSet,
    start: ReplicationPosition,
    cancel: CancellationToken,
) -> Result<()> {
    let config = &context.config;
    let copied_at = match context.state()?.copied_at {
        Some(position) => position.read()?,
        None => {
            context.live.set_phase(Phase::Copying);
            Snapshot::run(config, &tables, context.live.snapshot(), &cancel).await?;
            if cancel.is_cancelled() {
                return Ok(());
            }
            let mut conn = server::connect(Side::Source, &config.source).await?;
            let end = server::end_position(Side::Source, &source, &mut conn).await?;
            conn.disconnect().await.ok();
            context.update(|state| {
                state.stage = Stage::Replaying;
                state.copied_at = Some(StoredPosition::from(&end));
            })?;
            tracing::info!(area = "migration", "the copy is complete; what it could see ends at {end}");
            end
        }
    };
    context.live.copied(&copied_at.coordinates);
    let verifier = Verifier::new(config, &tables, context.live.applied());
    context.live.set_verifier(Arc::clone(&verifier));
    let scope = cancel.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(apply::run(todo!()));
    tasks.spawn(follow(Arc::clone(&context), verifier, copied_at.coordinates, scope.clone()));
    join(tasks, &scope).await
}
