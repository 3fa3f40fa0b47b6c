//! XA transactions that are prepared on a server: of applications, which end them in a second phase, or never.

use std::collections::BTreeSet;
use std::time::Duration;

use config::Side;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tokio::time::Instant;

use crate::binlog::xid::Xid;
use crate::error::{Error, Result};

const PLACE: &str = "XA RECOVER";
/// How often it is asked again.
const POLL: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(500);

/// What is prepared now; `None` where the account may not ask. MySQL wants XA_RECOVER_ADMIN for it from 8.0 on.
pub(crate) async fn prepared(side: Side, conn: &mut Conn) -> Result<Option<BTreeSet<Xid>>> {
    let rows: Vec<Row> = match conn.query(PLACE).await {
        Ok(rows) => rows,
        // No privilege, as MySQL says it; none either, or no such statement, as others do.
        Err(mysql_async::Error::Server(error)) if matches!(error.code, 1064 | 1142 | 1227 | 1235 | 1401) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::database(side, PLACE, &error)),
    };
    let wrong = || Error::definite(side, PLACE, "the server's answer isn't understood");
    let mut found = BTreeSet::new();
    for row in rows {
        let number = |at: usize| row.get_opt::<i64, _>(at).and_then(std::result::Result::ok);
        let data = row.get_opt::<Vec<u8>, _>(3).and_then(std::result::Result::ok);
        let size = |at: usize| number(at).and_then(|bytes| usize::try_from(bytes).ok());
        let (Some(format), Some(global), Some(branch), Some(data)) = (number(0), size(1), size(2), data)
        else {
            return Err(wrong());
        };
        found.insert(Xid::recovered(format, global, branch, &data).map_err(|_| wrong())?);
    }
    Ok(Some(found))
}

/// What became of those that were prepared when it was asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// They have ended, and every read that begins now sees those that were committed.
    Gone,
    /// So many haven't.
    Left(usize),
    /// The account may not ask.
    Unknown,
}

/// Waits until everything that is prepared now has ended. Those that come meanwhile don't count. Cancel safety: yes.
pub(crate) async fn settle(side: Side, conn: &mut Conn, within: Duration) -> Result<Settled> {
    let deadline = Instant::now() + within;
    let mut poll = POLL;
    let Some(mut open) = prepared(side, conn).await? else { return Ok(Settled::Unknown) };
    while !open.is_empty() {
        if Instant::now() >= deadline {
            return Ok(Settled::Left(open.len()));
        }
        tokio::time::sleep(poll).await;
        poll = (poll * 2).min(POLL_MAX);
        let now = prepared(side, conn).await?.unwrap_or_default();
        open.retain(|xid| now.contains(xid));
    }
    Ok(Settled::Gone)
}

/// Behind a position of `side` from which a copy starts: waits until every transaction that was prepared by then has ended, so that
/// the copy sees it or nobody ever will. False where the account may not ask.
///
/// # Errors
/// Some don't end. Transient: it is tried again from a new position.
pub(crate) async fn settle_before_copy(side: Side, conn: &mut Conn) -> Result<bool> {
    /// For those that are on their way.
    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(60);
    if let Settled::Left(many) = settle(side, conn, SHORT).await? {
        tracing::warn!(
            area = "migration",
            "{many} XA transaction(s) are prepared on the {side}, where the copy starts: waiting up to {} s until they are \
             committed or rolled back (XA RECOVER lists them)",
            LONG.as_secs()
        );
    }
    match settle(side, conn, LONG).await? {
        Settled::Gone => Ok(true),
        Settled::Unknown => Ok(false),
        Settled::Left(many) => Err(Error::transient(
            side,
            PLACE,
            format!(
                "{many} XA transaction(s) were prepared before the copy and are neither committed nor rolled back, so their \
                 changes are in no copy and can't be followed: see XA RECOVER, and end them with XA COMMIT or XA ROLLBACK; it \
                 is tried again"
            ),
        )),
    }
}
