//! What goes on beside the stages: space is given back, samples are taken.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, LOOK_EVERY};
use crate::apply::{self, Origin};
use crate::error::{ErrorKind, Result};
use crate::server;
use crate::spool::Spool;

/// How often space of the spool is given back.
const RELEASE_EVERY: Duration = Duration::from_secs(5);

/// Gives back the space of what is applied. The target itself is asked: the low water that is published runs ahead of
/// what a restart would find there by transactions that have nothing for us.
pub(super) async fn release(
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
            applied = applied_for_good(&mut conn, &context, &origin) => applied,
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
    context: &Context,
    origin: &Origin,
) -> Result<Option<u64>> {
    let leg = context.leg();
    let conn = match conn {
        Some(conn) => conn,
        None => conn.insert(server::connect(leg.writes(), leg.to(&context.config)).await?),
    };
    let recovered = apply::checkpoint::peek(conn, origin).await.map_err(|error| error.in_leg(leg))?;
    Ok(recovered.map(|recovered| recovered.low_water))
}

/// Takes the samples that lag and rates are made of.
pub(super) async fn sample(context: Arc<Context>, cancel: CancellationToken) -> Result<()> {
    loop {
        context.live.sample();
        tokio::select! {
            () = context.live.spool_grew() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
}
