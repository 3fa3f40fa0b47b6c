//! The stages of one attempt: `copying`, `catching_up`, `following`.

use std::sync::{Arc, Mutex};

use config::progress::{Phase, ReplicationPosition};
use config::{BinlogPosition, Side, TableName};
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, LOOK_EVERY, in_leg, join};
use crate::apply::{self, Ended, Origin, Wanted};
use crate::barrier::Barrier;
use crate::binlog::transaction::{DdlStatement, TransactionMeta};
use crate::error::{Error, Result};
use crate::handle::lock;
use crate::leg::Leg;
use crate::recopy::Recopy;
use crate::schema::history::History;
use crate::schema::selection::Selection;
use crate::schema::table::SchemaSet;
use crate::server::{self, ServerInfo};
use crate::snapshot::late_indexes::LateIndexes;
use crate::snapshot::{ChunkSource, Copied, Snapshot, SnapshotProgress};
use crate::spool::Spool;
use crate::standing_replica;
use crate::state::{Proven, Stage, StoredPosition};
use crate::verify::{Passed, TouchedKeys, Verifier};

/// What the stages of one attempt share.
pub(super) struct Stages {
    pub(super) context: Arc<Context>,
    pub(super) leg: Leg,
    /// The server that is read.
    pub(super) read: ServerInfo,
    /// The server that is written.
    pub(super) write: ServerInfo,
    pub(super) selection: Selection,
    pub(super) history: History,
    /// As the copy takes them.
    pub(super) tables: SchemaSet,
    pub(super) start: ReplicationPosition,
    pub(super) snapshot: Arc<SnapshotProgress>,
}

impl Stages {
    /// What the checkpoint on the side that is written belongs to.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            migration: self.leg.checkpoint_name(&self.context.config.migration.name),
            source_identity: self.read.identity.clone(),
            start: self.start.clone(),
        }
    }

    /// Stages `copying`, `catching_up` and `following`.
    pub(super) async fn copy_then_follow(self, spool: Spool, cancel: CancellationToken) -> Result<()> {
        let Some(copied_at) = self.copied_at(&cancel).await? else { return Ok(()) };
        let live = &self.context.live;
        live.set_phase(Phase::CatchingUp);
        let touched = Arc::new(TouchedKeys::default());
        let mut proven = self.proven().await?;
        let mut earlier: Option<(Arc<Verifier>, Vec<TableName>)> = None;
        loop {
            let definitions = self.history.read()?;
            let tables = definitions.schema_set(&self.selection)?;
            let verifier = self.verifier(&tables, &touched, earlier.take(), proven.take());
            let last_copy = definitions.copied_at(&copied_at.coordinates)?;
            live.set_copied_at(last_copy.clone());
            live.set_tables(&tables);
            live.set_verifier(Arc::clone(&verifier));
            self.context.strays.compare_again(&verifier);
            let Some((meta, statement)) =
                self.follow(&spool, tables, last_copy, Arc::clone(&touched), &verifier, &cancel).await?
            else {
                return Ok(());
            };
            let barrier = Barrier {
                context: &self.context,
                leg: self.leg,
                read: &self.read,
                write: &self.write,
                origin: &self.origin(),
                selection: &self.selection,
                history: &self.history,
                copied_at: &copied_at.coordinates,
                cancel: &cancel,
            };
            let passed = barrier.pass(&meta, &statement).await.map_err(|error| error.in_leg(self.leg));
            let Some(changed) = passed? else { return Ok(()) };
            if live.phase() == Phase::Copying {
                live.set_phase(Phase::CatchingUp);
            }
            earlier = Some((verifier, changed));
        }
    }

    /// A verifier of these tables, which goes on where one before it stands.
    fn verifier(
        &self,
        tables: &SchemaSet,
        touched: &Arc<TouchedKeys>,
        earlier: Option<(Arc<Verifier>, Vec<TableName>)>,
        proven: Option<Vec<Proven>>,
    ) -> Arc<Verifier> {
        let (config, leg) = (&self.context.config, self.leg);
        let mut verifier =
            Verifier::new(leg, leg.from(config), leg.to(config), tables, Arc::clone(touched), self.passed());
        verifier.throttle(Arc::clone(&self.context.live.throttle));
        if let Some(proven) = proven {
            verifier.begin_proven(&proven);
        }
        if let Some((earlier, changed)) = earlier {
            verifier.succeed(&earlier, &changed);
        }
        Arc::new(verifier)
    }

    /// Applies and verifies up to the next statement that changes definitions, and returns that. `None`: cancelled.
    async fn follow(
        &self,
        spool: &Spool,
        tables: SchemaSet,
        copied_at: BinlogPosition,
        touched: Arc<TouchedKeys>,
        verifier: &Arc<Verifier>,
        cancel: &CancellationToken,
    ) -> Result<Option<(TransactionMeta, DdlStatement)>> {
        let (config, leg) = (&self.context.config, self.leg);
        let setup = apply::Setup {
            target: leg.to(config).clone(),
            leg,
            origin: self.origin(),
            workers: config.apply.workers,
            schemas: tables.clone(),
            cascades_in_binlog: self.read.cascades_in_binlog,
            copied_at,
            touched,
            progress: self.context.live.applied(),
        };
        let spool = spool.clone();
        let scope = cancel.child_token();
        let reached = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        let (at, stop) = (Arc::clone(&reached), scope.clone());
        tasks.spawn(in_leg(leg, async move {
            let open = |wanted: Wanted| async move {
                Ok(spool.reader(wanted.from_seq, tables)?.without(wanted.without))
            };
            if let Ended::AtDdl(meta, statement) = apply::run(setup, open, stop).await? {
                *lock(&at) = Some((meta, statement));
            }
            Ok(())
        }));
        tasks.spawn(follow(Arc::clone(&self.context), Arc::clone(verifier), scope.clone()));
        join(tasks, &scope).await?;
        Ok(lock(&reached).take())
    }

    /// Up to where the leg is replayed in safe mode. Only the first one copies; every other one begins where both sides
    /// are equal, so it is exact from its first transaction on. `None`: cancelled.
    async fn copied_at(&self, cancel: &CancellationToken) -> Result<Option<ReplicationPosition>> {
        if self.leg.copies() {
            return self.copy(cancel).await;
        }
        self.snapshot.all_copied();
        Ok(Some(self.start.clone()))
    }

    /// What was proven where the leg starts, as long as nothing of it is applied: then whatever differs later was touched
    /// by this run, and only that has to be compared. A run that goes on later doesn't know what was.
    async fn proven(&self) -> Result<Option<Vec<Proven>>> {
        if self.leg.copies() {
            return Ok(None);
        }
        let mut conn = server::connect(self.leg.writes(), self.leg.to(&self.context.config)).await?;
        let recovered = apply::checkpoint::peek(&mut conn, &self.origin())
            .await
            .map_err(|error| error.in_leg(self.leg))?;
        conn.disconnect().await.ok();
        let untouched = recovered.is_none_or(|recovered| recovered.is_beginning());
        if untouched { Ok(Some(self.context.state()?.proven)) } else { Ok(None) }
    }

    /// Copies what isn't copied yet and returns P1, the end of all that the copy could see. `None`: cancelled.
    async fn copy(&self, cancel: &CancellationToken) -> Result<Option<ReplicationPosition>> {
        let config = &self.context.config;
        let done = self.context.state()?.copied_at;
        if done.is_none() {
            self.context.live.set_phase(Phase::Copying);
        }
        if let Some(position) = done {
            // A run before this one may have died with it.
            standing_replica::let_go(&self.context, &self.read).await;
            Snapshot::recall(&config.state_dir, &self.start, &self.snapshot)?;
            return position.read().map(Some);
        }
        let recopy = Recopy {
            context: &self.context,
            leg: self.leg,
            read: &self.read,
            write: &self.write,
            cancel,
            progress: Some(&self.snapshot),
        };
        if !recopy.copy_whole_tables(&self.history).await? {
            return Ok(None);
        }
        let in_chunks = match self.context.copies_at_one_position() {
            true => SchemaSet::default(),
            false => self.tables.clone(),
        };
        let readable_from = match self.context.state()?.settled_at {
            Some(settled_at) => settled_at.read()?,
            None => self.start.clone(),
        };
        let from = ChunkSource::configured(config, &self.start, readable_from);
        let stood = standing_replica::stand(&self.context, &self.read, &from).await;
        let snapshot = Snapshot {
            config,
            from,
            tables: &in_chunks,
            state_dir: &config.state_dir,
            progress: Arc::clone(&self.snapshot),
            throttle: Arc::clone(&self.context.live.throttle),
            late_indexes: self.late_indexes(&in_chunks).await?,
            stage: config.snapshot.stage.as_ref(),
        };
        let copied = match stood {
            Ok(()) => self.let_replica_go_once_read(snapshot.run(cancel.clone())).await,
            Err(error) => Err(error),
        };
        standing_replica::let_go(&self.context, &self.read).await;
        if copied? == Copied::Cancelled {
            return Ok(None);
        }
        let mut conn = server::connect(Side::Source, &config.source).await?;
        let end = self.end_of_copy(&mut conn).await?;
        conn.disconnect().await.ok();
        self.context.update(|state| {
            state.stage = Stage::Replaying;
            state.copied_at = Some(StoredPosition::from(&end));
        })?;
        config::failpoint::hit("migration.copied");
        tracing::info!(area = "migration", "the copy is complete; what it could see ends at {end}");
        Ok(Some(end))
    }

    /// What is staged is loaded without the replica.
    async fn let_replica_go_once_read(&self, copy: impl Future<Output = Result<Copied>>) -> Result<Copied> {
        let mut copy = std::pin::pin!(copy);
        tokio::select! {
            copied = &mut copy => return copied,
            () = self.snapshot.all_read() => {}
        }
        standing_replica::let_go(&self.context, &self.read).await;
        copy.await
    }

    /// Indexes of these tables that come after the rows. What was taken off comes back, whatever is configured by now.
    async fn late_indexes(&self, tables: &SchemaSet) -> Result<LateIndexes> {
        let config = &self.context.config;
        let names = config.migration.rename.on(Side::Target);
        if let Some(known) = LateIndexes::recall(&config.target, names.clone(), &config.state_dir)? {
            return Ok(known);
        }
        // OceanBase builds indexes on its own, beside the rows.
        if !config.snapshot.late_indexes || self.write.version.ocean_base {
            return Ok(LateIndexes::none(&config.target));
        }
        LateIndexes::take_off(&config.target, names, tables, &config.state_dir).await
    }

    /// P1. A table without transactions shows a row before the binlog has it, so these are locked for the moment of
    /// the question: what could be seen of them by then is logged.
    async fn end_of_copy(&self, conn: &mut mysql_async::Conn) -> Result<ReplicationPosition> {
        const PLACE: &str = "locking the tables without transactions for a moment";
        let database = |error: mysql_async::Error| Error::database(Side::Source, PLACE, &error);
        let names = server::tables_without_transactions(Side::Source, conn).await?.into_iter();
        let list: Vec<String> = names
            .filter(|name| self.tables.get(name).is_some())
            .map(|name| format!("{} READ", name.quoted()))
            .collect();
        if list.is_empty() {
            return server::end_position(Side::Source, &self.read, conn).await;
        }
        conn.query_drop(format!("LOCK TABLES {}", list.join(", "))).await.map_err(database)?;
        let end = server::end_position(Side::Source, &self.read, conn).await;
        conn.query_drop("UNLOCK TABLES").await.map_err(database)?;
        end
    }

    /// "Return when everything up to there is applied", for the verifier.
    fn passed(&self) -> Passed {
        let applied = self.context.live.applied();
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
