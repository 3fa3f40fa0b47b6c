//! Where chunks are read: on the source, or on a replica of it (`source.replica_url`), so that the source only streams.
//!
//! Why a replica that lags is as good: what a chunk shows has to lie between P0, before which nothing is missing, and P1. Every
//! connection to the replica waits, before its first read, until everything up to P0 is applied there, and the ends of the XA
//! transactions that were prepared then; that is asked anew each time, since another replica may answer at the same address. And a replica shows only what the source has in its binlog already, so P1, which is the
//! source's end once the last chunk is read, bounds its reads as it does the source's own. In between, the tail puts everything right.

use config::progress::ReplicationPosition;
use config::{BackendConfig, Config, GtidSet, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};
use crate::server::connect;

/// How long a connection waits for the start position before it is tried again.
const WAIT_S: u32 = 10;

/// A server to read chunks from, and since when.
#[derive(Debug, Clone)]
pub(crate) struct ChunkSource {
    backend: BackendConfig,
    /// P0.
    pub(super) start: ReplicationPosition,
    /// What a read has to see: P0, and the ends of XA transactions that were prepared before it.
    readable_from: ReplicationPosition,
    /// It is no replica, so that whatever is before P0 is there.
    is_source: bool,
}

impl ChunkSource {
    /// The source itself.
    pub(crate) fn source(config: &Config, start: &ReplicationPosition) -> Self {
        let (start, readable_from) = (start.clone(), start.clone());
        Self { backend: config.source.clone(), start, readable_from, is_source: true }
    }

    /// The replica, where one is configured.
    pub(crate) fn configured(
        config: &Config,
        start: &ReplicationPosition,
        readable_from: ReplicationPosition,
    ) -> Self {
        match &config.replica {
            Some(replica) => {
                Self { backend: replica.clone(), start: start.clone(), readable_from, is_source: false }
            }
            None => Self::source(config, start),
        }
    }

    /// Opens a connection whose every read sees all that it has to. Cancel safety: yes.
    pub(crate) async fn connect(&self) -> Result<Conn> {
        let mut conn = connect(Side::Source, &self.backend).await.map_err(|error| self.named(error))?;
        if !self.is_source {
            self.wait(&mut conn).await.map_err(|error| self.named(error))?;
        }
        Ok(conn)
    }

    /// An error from reading, which says where.
    pub(crate) fn named(&self, mut error: Error) -> Error {
        if !self.is_source && error.side == Some(Side::Source) {
            error.place = format!("replica {}, {}", self.backend.address(), error.place);
        }
        error
    }

    async fn wait(&self, conn: &mut Conn) -> Result<()> {
        const PLACE: &str = "waiting for the start position";
        let start = &self.readable_from.gtids;
        let asked = match start {
            GtidSet::MySql(_) => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{start}', {WAIT_S})"),
            GtidSet::MariaDb(_) => format!("SELECT MASTER_GTID_WAIT('{start}', {WAIT_S})"),
            GtidSet::Anonymous => {
                let why = "the source has GTIDs off, so a replica can't be waited for; take source.replica_url out and \
                           start Changeover again";
                return Err(Error::definite(Side::Source, PLACE, why));
            }
        };
        let answer: Option<Option<i64>> =
            conn.query_first(asked).await.map_err(|error| Error::database(Side::Source, PLACE, &error))?;
        if answer.flatten() == Some(0) {
            return Ok(());
        }
        Err(Error::transient(
            Side::Source,
            PLACE,
            format!(
                "it hasn't applied what the migration starts from within {WAIT_S} s; see there that replication runs and \
                 catches up, or take source.replica_url out and start Changeover again; it is tried again"
            ),
        ))
    }
}
