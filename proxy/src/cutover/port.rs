//! What a cutover and the admin SQL ask of replication. The proxy owns this trait; `src/wiring.rs` adapts the
//! replicator to it, so that neither crate knows the other.

use std::future::Future;
use std::pin::Pin;

use config::progress::{
    Conversion, Difference, MigrationStatus, Repaired, ReplicationPosition, StrayWrites, TableStatus, Verdict,
};
use config::{Side, TableName};

/// A boxed future, so that the trait can stand behind `dyn`.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, PortError>> + Send + 'a>>;

/// A sentence for the operator: what happened, where, what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// Replication from the backend that serves to the other one, in whichever direction that is.
pub trait Replication: Send + Sync + 'static {
    /// For SHOW MIGRATION STATUS. Cheap: no query.
    fn status(&self) -> MigrationStatus;
    /// For SHOW MIGRATION TABLES. Cheap: no query.
    fn tables(&self) -> Vec<TableStatus>;
    /// For SHOW DIFFERENCES. Cheap: no query.
    fn differences(&self) -> Vec<Difference>;
    /// For SHOW CONVERSIONS. Asks both servers as long as nothing was started.
    fn conversions(&self) -> PortFuture<'_, Vec<Conversion>>;

    /// START MIGRATION: preflight, then everything in the background. Every fatal finding in one error.
    fn start(&self) -> PortFuture<'_, ()>;
    /// PAUSE MIGRATION.
    fn pause(&self) -> PortFuture<'_, ()>;
    /// RESUME MIGRATION, after a pause or a failure.
    fn resume(&self) -> PortFuture<'_, ()>;
    /// VERIFY: begins a full pass over one table or all.
    fn verify(&self, table: Option<TableName>) -> PortFuture<'_, ()>;

    /// For SHOW STRAY WRITES. Cheap: no query.
    fn stray_writes(&self) -> Vec<StrayWrites>;
    /// ACKNOWLEDGE STRAY WRITES: an operator has seen them. `Err` where their tables weren't compared since.
    fn acknowledge_stray_writes(&self) -> Result<u64, PortError>;

    /// REPAIR: makes differing rows of the side that rows are applied to equal, of one table or all; `dry_run` only says
    /// how. Called only while no cutover runs, and none is unfinished.
    fn repair(&self, table: Option<TableName>, dry_run: bool) -> PortFuture<'_, Vec<Repaired>>;

    /// Every reason why a cutover can't start now, in sentences; empty where it can. Checks phase, lag against
    /// `max_lag_ms`, the verdict and open differences.
    fn refusals(&self, max_lag_ms: u64) -> Vec<String>;
    /// A cutover prepares itself, and its gate closes soon: what would lengthen the pause is done now. Cheap: no query.
    fn hurry(&self);
    /// The side that serves is about to be left: what is written there is watched from now on, for [`Self::touched_behind`]
    /// and [`Self::watch`]. Doesn't wait for anything. `Err`: it can't be, and why.
    fn watch_ahead(&self) -> Result<(), PortError>;
    /// The cutover came to its end: what `watch_ahead` began ends, unless `watch` has taken it over.
    fn let_go_of_watch(&self);
    /// Reads the position at which the serving side ended. Called behind the fence, never before it.
    fn final_position(&self) -> PortFuture<'_, ReplicationPosition>;
    /// How many transactions wrote to tables of the migration on the serving side behind `from` and up to `to`: on a server
    /// on which others go on writing its position alone says nothing. `Err` where nobody watches it.
    fn touched_behind<'a>(
        &'a self,
        from: &'a ReplicationPosition,
        to: &'a ReplicationPosition,
    ) -> PortFuture<'a, u64>;
    /// Returns when exactly that position is applied. Cancel safety: dropping it only stops the waiting.
    fn wait_applied<'a>(&'a self, position: &'a ReplicationPosition) -> PortFuture<'a, ()>;
    /// The verdict for everything, while both sides stand still behind the fence: what was touched since its
    /// last comparison is compared now.
    fn verdict(&self) -> PortFuture<'_, Verdict>;
    /// Whether the side that rows are applied to will be followed, once it serves, into the other one: false where the
    /// configuration doesn't want it. `Err` says why it can't be.
    fn way_back(&self) -> PortFuture<'_, bool>;
    /// What is known of XA transactions that are prepared on the serving side, in a sentence. `Err` where some are and don't end: a
    /// swap would leave them behind. `verdict` looks again.
    fn prepared(&self) -> PortFuture<'_, String>;
    /// Ends the present direction, behind the fence: nothing is applied any more. `turn_back` undoes it.
    fn hold(&self) -> PortFuture<'_, ()>;
    /// What `activate` will make on `side`, in a sentence. Called before a cutover begins, so that its pause needn't read it.
    /// `Err` says what would keep it from being made.
    fn prepare_activation(&self, side: Side) -> PortFuture<'_, String>;
    /// Makes what acts on its own (triggers, events) on `side`, which is about to serve. Behind `hold`; events don't
    /// run there before `seal`. There is no call that undoes it: replication takes away what acts on its own before it
    /// applies a row to that side.
    fn activate(&self, side: Side) -> PortFuture<'_, ()>;
    /// Returns where nobody but Changeover has written to tables of the migration on the side that is about to serve, since
    /// it was left, or where that was acknowledged. Behind `hold`.
    fn left_alone(&self) -> PortFuture<'_, ()>;
    /// Takes the position at which the side that is about to serve ends, and makes it durable as the start of the other
    /// direction, which begins with `seal`. Behind `hold` and `activate`. `Err` as for `left_alone`, up to that position.
    fn start_reverse(&self) -> PortFuture<'_, ReplicationPosition>;
    /// The cutover was undone before its journal entry: the present direction goes on. Idempotent.
    fn turn_back(&self) -> PortFuture<'_, ()>;
    /// After the journal says that `serving` serves: replication that led there is over, and what was prepared for the way
    /// back begins. Idempotent, also called after a restart in that phase.
    fn seal(&self, serving: Side) -> PortFuture<'_, ()>;
    /// The journal says that the side which was watched serves: what is written there is the application's.
    fn end_watch(&self);
    /// The journal says that `side` stopped to serve at `since`, a position as it prints them: what others than Changeover
    /// write there behind it is an alarm. Idempotent, also called after a restart. Cheap: no query.
    fn watch(&self, side: Side, since: &str) -> Result<(), PortError>;
    /// The migration is over: nobody is watched any more.
    fn unwatch(&self);
    /// FINISH MIGRATION, while the target serves: nothing follows it any more.
    fn finish(&self) -> PortFuture<'_, ()>;
    /// ABANDON MIGRATION, while the source serves: nothing follows it any more.
    fn abandon(&self) -> PortFuture<'_, ()>;
}
