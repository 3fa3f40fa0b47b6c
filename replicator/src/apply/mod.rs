//! Replays the spool into the target, in parallel, with the position committed beside the rows.
//!
//! `spool → intake → builder → scheduler → workers → checkpoint`. Consecutive transactions become a batch, a batch
//! becomes one transaction on the target, and batches run side by side as long as their keys don't meet. A transaction that is too
//! large for memory becomes several of them, which nobody sees who looks at whole positions ([`done`]). What is
//! applied is known to the target alone ([`checkpoint`]), since it is committed there together with the rows.
//!
//! Deliberately absent: a retry of batches in another order (a batch is retried until it is in), and statements of
//! the source. At one that changes definitions a run ends, with everything before it applied: the caller deals with it
//! and runs it again with the definitions that hold from there on.

mod builder;
pub mod checkpoint;
pub(crate) mod ddl;
mod done;
mod fold;
mod graph;
mod intake;
mod keyless;
mod left_out;
#[cfg(test)]
mod model;
mod net;
mod partial;
pub mod progress;
#[cfg(test)]
pub(crate) mod sample;
mod scheduler;
mod statement;
mod table_text;
mod worker;
mod writeset;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use config::{BackendConfig, BinlogPosition, Side};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use checkpoint::{Origin, Recovered};
pub use intake::SpoolSource;

pub(crate) use self::builder::place;
use self::progress::AppliedProgress;
use self::scheduler::Scheduler;
use self::worker::Context;
use self::writeset::Plans;
use crate::binlog::transaction::{DdlStatement, TransactionMeta};
use crate::error::Result;
use crate::intervals::Intervals;
use crate::leg::Leg;
use crate::schema::table::SchemaSet;
use crate::server;
use crate::verify::touched::TouchedKeys;

/// What a run needs to know.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The target.
    pub target: BackendConfig,
    /// Which leg it is: for what is said of errors.
    pub leg: Leg,
    /// What the checkpoint belongs to.
    pub origin: Origin,
    /// `apply.workers`; 0 counts as 1.
    pub workers: usize,
    /// The migration's tables, as the source has them.
    pub schemas: SchemaSet,
    /// [`crate::server::ServerInfo::cascades_in_binlog`] of the source.
    pub cascades_in_binlog: bool,
    /// P1, the end of the source's binlog after the copy: transactions that end up to here are replayed in safe mode.
    pub copied_at: BinlogPosition,
    /// Is told of every key that was touched.
    pub touched: Arc<TouchedKeys>,
    /// Is told how far it is.
    pub progress: Arc<AppliedProgress>,
}

/// How a run ended without an error.
#[derive(Debug)]
pub enum Ended {
    /// It was cancelled.
    Cancelled,
    /// It stands at a statement that changes definitions; everything before it is applied, nothing behind it is.
    AtDdl(TransactionMeta, DdlStatement),
}

/// What a run has to be given of the spool.
#[derive(Debug)]
pub struct Wanted {
    /// The number of the first transaction.
    pub(crate) from_seq: u64,
    /// Parts of it and of later ones that aren't to be given, since they are applied: bytes of their events, by their numbers.
    pub(crate) without: BTreeMap<u64, Intervals>,
}

/// Replays until it is cancelled (which is how it is paused: run it again), stands at a statement that changes
/// definitions, or fails. `open` is called once; its items must be what is said there.
///
/// Connections that break are made again for as long as it takes. A transient error is returned only where the target can't
/// be reached at the begin. The caller then runs it again.
///
/// Cancel safety: cancel it with the token, and batches that are under way may end first (20 s at most). If the
/// future is dropped instead, they are left to the server, and the next run finds out what became of them.
pub async fn run<S, O>(
    setup: Setup,
    open: impl FnOnce(Wanted) -> O + Send,
    cancel: CancellationToken,
) -> Result<Ended>
where
    S: SpoolSource,
    O: Future<Output = Result<S>> + Send,
{
    let workers = setup.workers.max(1);
    let mut conn = server::connect(Side::Target, &setup.target).await?;
    let target = server::inspect(Side::Target, &mut conn).await?;
    let recovered = checkpoint::load(&mut conn, &setup.origin, workers).await?;
    drop(conn);
    let wanted = Wanted { from_seq: recovered.low_water + 1, without: recovered.done.parts().clone() };
    let source = open(wanted).await?;
    tracing::info!(
        area = "apply",
        from = recovered.low_water + 1,
        position = %recovered.position,
        workers,
        "the tail begins"
    );
    let context = Arc::new(Context {
        target: setup.target,
        migration: setup.origin.migration,
        epoch: recovered.epoch,
        max_allowed_packet: target.max_allowed_packet,
        plans: Plans::new(&setup.schemas.on_target(), setup.cascades_in_binlog),
        touched: setup.touched,
    });
    let scheduler = Scheduler::new(context, setup.progress, setup.copied_at, &recovered);
    let (to, items) = intake::channel();
    // Dropped with this future, and its task with it.
    let mut intake = JoinSet::new();
    let stop_intake = cancel.child_token();
    intake.spawn(intake::pump(source, to, stop_intake.clone()));
    let result = scheduler.run(items, cancel).await;
    stop_intake.cancel();
    while intake.join_next().await.is_some() {}
    if let Err(error) = &result {
        let error = error.clone().in_leg(setup.leg);
        tracing::warn!(area = "apply", "the tail stops: {error}");
    }
    Ok(match result? {
        Some((meta, statement)) => Ended::AtDdl(meta, statement),
        None => Ended::Cancelled,
    })
}
