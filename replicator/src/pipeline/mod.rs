//! The order of the stages, from the preparation to the tail, and what is tried again.

mod stages;
mod upkeep;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::progress::{Phase, ReplicationPosition};
use config::{Config, Side, failpoint};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounts::{self, Accounts, Asked};
use crate::activation;
use crate::apply;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::lock;
use crate::leg::Leg;
use crate::live::Live;
use crate::preflight;
use crate::recopy::standing_definitions;
use crate::schema::convert::{self, Dialects};
use crate::schema::discover::discover;
use crate::schema::filter;
use crate::schema::history::{Definitions, History};
use crate::schema::left_out;
use crate::schema::objects;
use crate::schema::renamed::Renaming;
use crate::schema::selection::Selection;
use crate::server::{self, ServerInfo};
use crate::snapshot::journal::ChunkJournal;
use crate::snapshot::late_indexes::LateIndexes;
use crate::snapshot::stage;
use crate::spool::fetch::FetchConfig;
use crate::spool::history::GTIDS_ON;
use crate::spool::{self, Spool};
use crate::state::{MigrationState, Stage, StateFile, StoredPosition};
use crate::stray::Strays;

use self::stages::Stages;
use self::upkeep::{release, sample};

/// First pause before a transient error is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(15);
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
    pub(crate) strays: Strays,
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

    /// The tables of the migration, as schema and table; empty before they are known.
    pub(crate) fn tables(&self) -> Vec<(String, String)> {
        lock(&self.file).get().map(|state| state.tables.clone()).unwrap_or_default()
    }

    /// True where each table is copied as it is at one position.
    pub(crate) fn copies_at_one_position(&self) -> bool {
        lock(&self.file).get().is_some_and(|state| state.at_one_position)
    }

    /// The replica whose SQL thread was stopped for the copy, as host:port.
    pub(crate) fn standing_replica(&self) -> Option<String> {
        lock(&self.file).get().and_then(|state| state.standing_replica.clone())
    }

    /// The present leg.
    pub(crate) fn leg(&self) -> Leg {
        lock(&self.file).get().map_or(Leg::FIRST, |state| state.leg)
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
        if error.kind == ErrorKind::Pause {
            tracing::warn!(area = "migration", "paused: {error}");
            let written = context.update(|state| {
                state.paused = true;
                state.paused_by = Some(error.to_string());
            });
            failpoint::hit("migration.stood");
            if let Err(error) = written {
                tracing::error!(area = "migration", "the pause can't be written down: {error}");
            }
            context.live.set_phase(Phase::Paused);
            return;
        }
        if error.kind != ErrorKind::Transient {
            tracing::error!(area = "migration", "stopped: {error}");
            if let Err(error) = context.update(|state| state.failed = Some(error.to_string())) {
                tracing::error!(area = "migration", "the failure can't be written down: {error}");
            }
            failpoint::hit("migration.failed");
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

/// One attempt at all stages of the present leg. Returns `Ok` only when cancelled.
async fn stages(context: &Arc<Context>, cancel: &CancellationToken) -> Result<()> {
    let config = &context.config;
    let state = context.state()?;
    let leg = state.leg;
    // Before a row is applied, whatever a cutover that was undone, or the swap, has left.
    activation::begin_leg(context, &state).await?;
    let (source, target) = identify(config).await?;
    same_server(Side::Source, &state.source_identity, &source)?;
    same_server(Side::Target, &state.target_identity, &target)?;
    let history = History::of(&config.state_dir);
    let (read, write) = if leg.reads() == Side::Source { (source, target) } else { (target, source) };
    let names = config.migration.rename.on(leg.reads());
    let selection = Selection::new(&config.migration, names, read.folds_names);
    let (definitions, start) = match state.start {
        Some(start) => (definitions_of(context, leg, &history, (&read, &write)).await?, start.read()?),
        None => prepare(context, &read, &write, &history, cancel).await?,
    };
    same_gtid_mode(leg.reads(), &start, &read)?;
    let tables = definitions.schema_set(&selection)?;
    filter::hold_to(&config.migration.rows, &tables)?;
    left_out::hold_to(&config.migration.columns, &definitions.column_rules)?;
    forget_other_legs(config, leg).await?;
    let folder = config.state_dir.join(leg.spool_folder());
    let (spool, writer) = Spool::open(&folder, config.apply.spool_max_bytes, &start).await?;
    let fetch = FetchConfig {
        source: leg.from(config).clone(),
        leg,
        identity: read.identity.clone(),
        selection: selection.clone(),
        server_id: replica_server_id(),
        knows_prepared: context.state()?.knows_prepared,
    };
    let snapshot = context.live.begin(leg, &tables, &spool);
    let context = Arc::clone(context);
    let stages = Stages { context, leg, read, write, selection, history, tables, start, snapshot };
    let context = &stages.context;
    let scope = cancel.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(in_leg(leg, spool::fetch::run(fetch, writer, scope.clone())));
    tasks.spawn(release(Arc::clone(context), spool.clone(), stages.origin(), scope.clone()));
    tasks.spawn(sample(Arc::clone(context), spool.clone(), scope.clone()));
    let throttle = Arc::clone(&context.live.throttle);
    tasks.spawn(throttle.run(&context.config, scope.clone()));
    if leg.reads() == Side::Source && !context.config.migration.accounts.is_empty() {
        tasks.spawn(accounts::watch(Arc::clone(context), stages.read.clone(), scope.clone()));
    }
    tasks.spawn(stages.copy_then_follow(spool, scope.clone()));
    join(tasks, &scope).await
}

/// The work of a leg, with its errors in the operator's terms.
async fn in_leg(leg: Leg, work: impl Future<Output = Result<()>>) -> Result<()> {
    work.await.map_err(|error| error.in_leg(leg))
}

/// What earlier legs have left: their spools, and the checkpoint of the last one that wrote to the same side.
async fn forget_other_legs(config: &Config, leg: Leg) -> Result<()> {
    if leg.copies() {
        return Ok(());
    }
    forget_spools(&config.state_dir, |folder| leg.is_others_spool(folder))?;
    if let Some(former) = leg.former() {
        let mut conn = server::connect(leg.writes(), leg.to(config)).await?;
        apply::checkpoint::forget(&mut conn, &former.checkpoint_name(&config.migration.name)).await?;
        conn.disconnect().await.ok();
    }
    Ok(())
}

/// The migration is over for good: spools and checkpoints are of no use any more. What can't be removed is said; it is in
/// nobody's way.
pub(crate) async fn forget_everything(context: &Context) {
    let config = &context.config;
    let said =
        |error: Error| tracing::warn!(area = "migration", "something of the migration stays behind: {error}");
    let spools = |folder: &str| folder == Leg::FIRST.spool_folder() || Leg::FIRST.is_others_spool(folder);
    for result in [forget_spools(&config.state_dir, spools), stage::discard(config)] {
        result.unwrap_or_else(said);
    }
    let last = context.leg();
    for leg in [Some(last), last.previous()].into_iter().flatten() {
        let forgotten = async {
            let mut conn = server::connect(leg.writes(), leg.to(config)).await?;
            apply::checkpoint::forget(&mut conn, &leg.checkpoint_name(&config.migration.name)).await?;
            conn.disconnect().await.ok();
            Ok(())
        };
        if let Err(error) = forgotten.await {
            said(error);
        }
    }
}

/// Removes spools from state_dir.
pub(crate) fn forget_spools(state_dir: &std::path::Path, which: impl Fn(&str) -> bool) -> Result<()> {
    let failed = |place: &std::path::Path, error: &std::io::Error| {
        Error::definite(None, place.display().to_string(), format!("it can't be removed: {error}"))
    };
    for entry in std::fs::read_dir(state_dir).map_err(|error| failed(state_dir, &error))? {
        let path = entry.map_err(|error| failed(state_dir, &error))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&which) {
            std::fs::remove_dir_all(&path).map_err(|error| failed(&path, &error))?;
            failpoint::hit("spool.removed");
        }
    }
    Ok(())
}

/// A server id for the dump connection that no other replica is likely to have: the source would throw one of two
/// with the same id out.
pub(crate) fn replica_server_id() -> u32 {
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
pub(crate) fn same_server(side: Side, identity: &str, info: &ServerInfo) -> Result<()> {
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

/// A leg that began with GTIDs can't go on without them, nor the other way round.
pub(crate) fn same_gtid_mode(side: Side, start: &ReplicationPosition, info: &ServerInfo) -> Result<()> {
    const GTIDS_OFF: &str = "it was ON when the migration began, which therefore follows this server by GTIDs, and isn't any \
         more: set it to ON again, then RESUME MIGRATION; a transaction without a GTID in between would end the migration";
    match (start.gtids.is_anonymous(), info.has_gtids) {
        (true, true) => Err(Error::definite(side, "gtid_mode", GTIDS_ON)),
        (false, false) => Err(Error::definite(side, "gtid_mode", GTIDS_OFF)),
        _ => Ok(()),
    }
}

/// The definitions where a leg stands. One that begins takes over what holds at the end of the leg before it: there both
/// sides are equal. Between two families the side that is read prints them in its own way.
async fn definitions_of(
    context: &Context,
    leg: Leg,
    history: &History,
    (read, write): (&ServerInfo, &ServerInfo),
) -> Result<Definitions> {
    let definitions = history.read()?;
    if definitions.leg == leg {
        return Ok(definitions);
    }
    let (config, side) = (&context.config, leg.reads());
    let found = if read.version.flavor == write.version.flavor {
        None
    } else {
        let mut conn = server::connect(side, leg.from(config)).await?;
        let names = config.migration.rename.on(side);
        let found = discover(side, &mut conn, &config.migration, &names).await?;
        conn.disconnect().await.ok();
        Some(found)
    };
    let definitions = definitions.of_next_leg(leg, found.as_ref()).map_err(|gone| {
        Error::definite(
            side,
            gone.to_string(),
            "this table of the migration isn't there any more; put it back, or start over with an empty state_dir and an \
             empty target",
        )
    })?;
    history.write(&definitions)?;
    Ok(definitions)
}

/// Stage `preparing`: P0, and the tables as they are at it.
async fn prepare(
    context: &Arc<Context>,
    source: &ServerInfo,
    target: &ServerInfo,
    history: &History,
    cancel: &CancellationToken,
) -> Result<(Definitions, ReplicationPosition)> {
    let config = &context.config;
    context.live.set_phase(Phase::Preparing);
    let mut from = server::connect(Side::Source, &config.source).await?;
    let at_one_position = !server::logs_whole_rows(Side::Source, &mut from).await?;
    let (start, discovery) = standing_definitions(config, source, &mut from, None).await?;
    let mut to = server::connect(Side::Target, &config.target).await?;
    forget_former(config, &mut to).await?;
    let dialects = Dialects { source: source.dialect(), target: target.dialect() };
    let mut conversions = convert::conversions(&discovery, dialects, &config.migration.rename)?;
    let mut asked = Asked { info: source, conn: &mut from };
    let mut accounts = Accounts::plan(
        config,
        &mut asked,
        &mut Asked { info: target, conn: &mut to },
        &preflight::names_of(&discovery),
    )
    .await?;
    accounts.create(config, &mut asked, &mut to).await?;
    let discovery = convert::create_on_target(&mut to, discovery, dialects, config).await?;
    if source.version.flavor == target.version.flavor {
        let renaming = Renaming::new(&config.migration.rename, Side::Source, source.folds_names);
        let made = objects::create(&mut from, &mut to, &discovery.objects, &renaming).await?;
        failpoint::hit("schema.objects_made");
        tracing::info!(area = "migration", "{} views and routines made on the target", made.made);
        for why in made.left_out {
            tracing::warn!(
                area = "migration",
                "left out on the target: {why}; make it by hand before the cutover"
            );
        }
    }
    accounts.grant(&mut to).await?;
    failpoint::hit("accounts.granted");
    conversions.extend(accounts.rows());
    context.live.set_conversions(conversions);
    to.disconnect().await.ok();
    // Behind the start position, and before a row is read.
    let knows_prepared = tokio::select! {
        known = server::xa::settle_before_copy(Side::Source, &mut from) => known?,
        () = cancel.cancelled() => return Err(Error::transient(Side::Source, "XA RECOVER", "the migration is paused")),
    };
    let settled_at = server::end_position(Side::Source, source, &mut from).await?;
    from.disconnect().await.ok();
    let definitions = Definitions::begin(&discovery, &config.migration.columns);
    history.write(&definitions)?;
    let tables = definitions.names();
    context.update(|state| {
        state.stage = Stage::Copying;
        state.tables = tables;
        state.at_one_position = at_one_position;
        state.start = Some(StoredPosition::from(&start));
        state.knows_prepared = knows_prepared;
        state.settled_at = Some(StoredPosition::from(&settled_at));
    })?;
    failpoint::hit("migration.prepared");
    tracing::info!(area = "migration", "{} tables prepared; start position {start}", discovery.tables.len());
    Ok((definitions, start))
}

/// What an earlier migration of this name has left, here or on the target, is of no use to this one. The preflight
/// has seen that the target holds none of its tables.
async fn forget_former(config: &Config, target: &mut mysql_async::Conn) -> Result<()> {
    apply::checkpoint::forget(target, &config.migration.name).await?;
    ChunkJournal::discard(&config.state_dir)?;
    LateIndexes::discard(&config.state_dir)?;
    stage::discard(config)?;
    forget_spools(&config.state_dir, |folder| folder == Leg::FIRST.spool_folder())
}
