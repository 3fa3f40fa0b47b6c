//! What goes on beside the stages: space is given back, samples are taken.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
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

/// Takes the samples that lag and rates are made of: whenever the spool has grown, and every [`LOOK_EVERY`].
pub(super) async fn sample(context: Arc<Context>, spool: Spool, cancel: CancellationToken) -> Result<()> {
    let live = &context.live;
    tokio::select! {
        () = on_growth(spool.progress(), LOOK_EVERY, || live.sample()) => {}
        () = cancel.cancelled() => {}
    }
    Ok(())
}

/// Samples at once, when `grown` changes, and when nothing has come for `every`. Never returns. `grown` is this loop's own: a receiver that is cloned for each wait has seen nothing of what came since
/// it was made, and its wait is over at once, again and again.
///
/// Cancel safety: yes.
async fn on_growth<T>(mut grown: watch::Receiver<T>, every: Duration, mut sample: impl FnMut()) {
    loop {
        sample();
        let growth = async {
            if grown.changed().await.is_err() {
                // The writer has ended; the attempt ends with it.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = growth => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn a_spool_that_has_grown_is_looked_at_once() {
        let (sender, receiver) = watch::channel(0);
        let never = Duration::from_secs(86_400);
        let samples = Cell::new(0);
        let mut sampling = std::pin::pin!(on_growth(receiver, never, || samples.set(samples.get() + 1)));
        let mut taken = || {
            let polled = sampling.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            samples.replace(0)
        };
        assert_eq!(taken(), 1, "at the begin");
        assert_eq!(taken(), 0, "nothing was written");
        sender.send_replace(1);
        assert_eq!(taken(), 1, "for what was written");
        assert_eq!(taken(), 0, "that was looked at");
        drop(sender);
        assert_eq!(taken(), 0, "nothing will be written any more");
    }
}
