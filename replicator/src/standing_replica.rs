//! A replica that stands while chunks are read from it (`source.replica_stop`): nothing is written there meanwhile.
//!
//! It isn't needed for what is copied to be right ([`crate::snapshot::ChunkSource`]), but the copy then has its pages and its disk for itself, and
//! sees all tables as they were at one position. The thread that applies is stopped once everything up to P0 is applied and goes on when
//! the last chunk is read, whatever became of the copy. That it was stopped is noted before it is, so that a run behind a crash
//! starts it again too.

use std::time::Duration;

use config::{Flavor, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};
use crate::pipeline::Context;
use crate::server::replication::{Replication, replication_from, turn_sql_thread};
use crate::server::{ServerInfo, connect, inspect};
use crate::snapshot::ChunkSource;

const PLACE: &str = "the replica's SQL thread";
/// How long letting go may take, with a process that ends waiting for it.
const LET_GO_LIMIT: Duration = Duration::from_secs(10);

/// Has the replica stand, where that is configured, and notes it. One whose thread stands already is left as it is.
///
/// # Errors
/// It doesn't get as far as the start position, isn't the source's, or the account may not stop it.
pub(crate) async fn stand(context: &Context, source: &ServerInfo, from: &ChunkSource) -> Result<()> {
    if context.config.replica.is_none() || !context.config.replica_stop {
        return Ok(());
    }
    // Which waits until the start position is applied there.
    let mut conn = from.connect().await?;
    let standing = try_to_stand(context, source, &mut conn).await.map_err(|error| from.named(error));
    drop(conn.disconnect().await);
    standing
}

async fn try_to_stand(context: &Context, source: &ServerInfo, conn: &mut Conn) -> Result<()> {
    let (replica, replication) = look(source, conn).await?;
    if !replication.sql_runs {
        return Ok(());
    }
    let address = context.config.replica.as_ref().map(config::BackendConfig::address);
    context.update(|state| state.standing_replica = address)?;
    let database = |error: mysql_async::Error| Error::database(Side::Source, PLACE, &error);
    let stop = turn_sql_thread(replica.version, &replication.channel, false);
    conn.query_drop(stop).await.map_err(database)?;
    let position = match replica.version.flavor {
        Flavor::MariaDb => "SELECT @@GLOBAL.gtid_slave_pos",
        Flavor::MySql => "SELECT @@GLOBAL.gtid_executed",
    };
    let position: Option<String> = conn.query_first(position).await.map_err(database)?;
    tracing::info!(
        area = "snapshot",
        "the replica's SQL thread is stopped for the copy, at {}",
        position.unwrap_or_default().replace('\n', "")
    );
    Ok(())
}

/// Lets it go on where it was made to stand, by this run or by one before. What is in the way of that is said, and is no reason to stop.
pub(crate) async fn let_go(context: &Context, source: &ServerInfo) {
    let Some(address) = context.standing_replica() else { return };
    let going = async {
        let configured = context.config.replica.as_ref().filter(|replica| replica.address() == address);
        let Some(replica) = configured else {
            return Err(Error::definite(Side::Source, PLACE, "source.replica_url names another server now"));
        };
        let mut conn = connect(Side::Source, replica).await?;
        let (replica, replication) = look(source, &mut conn).await?;
        if !replication.sql_runs {
            let start = turn_sql_thread(replica.version, &replication.channel, true);
            conn.query_drop(start).await.map_err(|error| Error::database(Side::Source, PLACE, &error))?;
        }
        drop(conn.disconnect().await);
        context.update(|state| state.standing_replica = None)?;
        tracing::info!(area = "snapshot", "the replica's SQL thread runs again");
        Ok(())
    };
    let gone = tokio::time::timeout(LET_GO_LIMIT, going).await.unwrap_or_else(|_| {
        Err(Error::transient(Side::Source, PLACE, format!("no answer within {LET_GO_LIMIT:?}")))
    });
    if let Err(error) = gone {
        tracing::error!(
            area = "snapshot",
            "the SQL thread of the replica {address} was stopped for the copy and can't be started again: {error}; START REPLICA SQL_THREAD there"
        );
    }
}

/// Who it is, and how it replicates from the source.
async fn look(source: &ServerInfo, conn: &mut Conn) -> Result<(ServerInfo, Replication)> {
    let replica = inspect(Side::Source, conn).await?;
    let replication = replication_from(source, conn, replica.version).await?;
    replication.map(|replication| (replica, replication)).ok_or_else(|| {
        let what = "it doesn't replicate from the source any more; see to that, or take source.replica_stop out and start Changeover again";
        Error::definite(Side::Source, PLACE, what)
    })
}
