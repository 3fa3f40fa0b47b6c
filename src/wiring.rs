//! Adapts the replicator to the port that the proxy owns, so that neither crate knows the other.

use std::sync::Arc;

use config::progress::{
    Conversion, Difference, MigrationStatus, Repaired, ReplicationPosition, StrayWrites, TableStatus, Verdict,
};
use config::{Side, TableName};
use proxy::cutover::port::{PortError, PortFuture, Replication};
use replicator::handle::Replicator;

/// The replicator behind the proxy's port.
pub(crate) struct ReplicatorPort(pub(crate) Arc<Replicator>);

/// An error of the replicator as the sentence that the operator reads.
fn port_error(error: replicator::Error) -> PortError {
    PortError(error.to_string())
}

impl Replication for ReplicatorPort {
    fn status(&self) -> MigrationStatus {
        self.0.status()
    }

    fn tables(&self) -> Vec<TableStatus> {
        self.0.tables()
    }

    fn differences(&self) -> Vec<Difference> {
        self.0.differences()
    }

    fn conversions(&self) -> PortFuture<'_, Vec<Conversion>> {
        Box::pin(async { self.0.conversions().await.map_err(port_error) })
    }

    fn start(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.start().await.map_err(port_error) })
    }

    fn pause(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.pause().await.map_err(port_error) })
    }

    fn resume(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.resume().await.map_err(port_error) })
    }

    fn verify(&self, table: Option<TableName>) -> PortFuture<'_, ()> {
        Box::pin(async move { self.0.verify(table).map_err(port_error) })
    }

    fn stray_writes(&self) -> Vec<StrayWrites> {
        self.0.stray_writes()
    }

    fn acknowledge_stray_writes(&self) -> Result<u64, PortError> {
        self.0.acknowledge_stray_writes().map_err(port_error)
    }

    fn repair(&self, table: Option<TableName>, dry_run: bool) -> PortFuture<'_, Vec<Repaired>> {
        Box::pin(async move { self.0.repair(table, dry_run).await.map_err(port_error) })
    }

    fn refusals(&self, max_lag_ms: u64) -> Vec<String> {
        self.0.refusals(max_lag_ms)
    }

    fn hurry(&self) {
        self.0.hurry();
    }

    fn final_position(&self) -> PortFuture<'_, ReplicationPosition> {
        Box::pin(async { self.0.final_position().await.map_err(port_error) })
    }

    fn watch_ahead(&self) -> Result<(), PortError> {
        self.0.watch_ahead().map_err(port_error)
    }

    fn let_go_of_watch(&self) {
        self.0.let_go_of_watch();
    }

    fn touched_behind<'a>(
        &'a self,
        from: &'a ReplicationPosition,
        to: &'a ReplicationPosition,
    ) -> PortFuture<'a, u64> {
        Box::pin(async move { self.0.touched_behind(from, to).await.map_err(port_error) })
    }

    fn left_alone(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.left_alone().await.map_err(port_error) })
    }

    fn end_watch(&self) {
        self.0.end_watch();
    }

    fn watch(&self, side: Side, since: &str) -> Result<(), PortError> {
        self.0.watch(side, since).map_err(port_error)
    }

    fn unwatch(&self) {
        self.0.unwatch();
    }

    fn wait_applied<'a>(&'a self, position: &'a ReplicationPosition) -> PortFuture<'a, ()> {
        Box::pin(async move { self.0.wait_applied(position).await.map_err(port_error) })
    }

    fn verdict(&self) -> PortFuture<'_, Verdict> {
        Box::pin(async { self.0.verdict_standing_still().await.map_err(port_error) })
    }

    fn way_back(&self) -> PortFuture<'_, bool> {
        Box::pin(async { self.0.way_back().await.map_err(port_error) })
    }

    fn prepared(&self) -> PortFuture<'_, String> {
        Box::pin(async { self.0.prepared().await.map_err(port_error) })
    }

    fn hold(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.hold().await.map_err(port_error) })
    }

    fn prepare_activation(&self, side: Side) -> PortFuture<'_, String> {
        Box::pin(async move { self.0.prepare_activation(side).await.map_err(port_error) })
    }

    fn activate(&self, side: Side) -> PortFuture<'_, ()> {
        Box::pin(async move { self.0.activate(side).await.map_err(port_error) })
    }

    fn start_reverse(&self) -> PortFuture<'_, ReplicationPosition> {
        Box::pin(async { self.0.start_reverse().await.map_err(port_error) })
    }

    fn turn_back(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.turn_back().await.map_err(port_error) })
    }

    fn finish(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.finish().await.map_err(port_error) })
    }

    fn abandon(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.0.abandon().await.map_err(port_error) })
    }

    fn seal(&self, serving: Side) -> PortFuture<'_, ()> {
        Box::pin(async move { self.0.seal(serving).await.map_err(port_error) })
    }
}
