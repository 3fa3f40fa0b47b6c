//! The task that keeps the spool ahead of the appliers: source → spool, with reconnects.

use std::time::Duration;

use bytes::Bytes;
use config::{BackendConfig, BinlogPosition, Side};
use tokio_util::sync::CancellationToken;

use super::history::{self, BinlogFiles};
use super::parking::Ending;
use super::writer::SpoolWriter;
use crate::binlog::cursor::Malformed;
use crate::binlog::event::{EventHeader, HEADER_BYTES, kind};
use crate::binlog::group::{Closed, Grouper, Step, Xa};
use crate::binlog::payload::Payload;
use crate::binlog::stream::{BinlogStream, Fetched, Part};
use crate::binlog::transaction::DdlStatement;
use crate::error::{Error, ErrorKind, Result};
use crate::leg::Leg;
use crate::schema::selection::Selection;

/// Wait before the first new attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A source without GTIDs that has sent nothing else for so many heartbeats is asked whether it is still the same.
const HEARTBEATS_MAX: u32 = 10;

/// Said where nobody could ask what was prepared before the migration began.
const UNKNOWN: &str = "an XA transaction is committed that was prepared before the migration began, so its changes can't be \
    followed: GRANT XA_RECOVER_ADMIN to the service account (MySQL), so that Changeover can wait until none is left, or begin \
    the migration again while none is prepared (XA RECOVER)";

/// What to fetch.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// The source.
    pub source: BackendConfig,
    /// Which leg it is: for what is said of errors.
    pub leg: Leg,
    /// [`crate::server::ServerInfo::identity`] of the source.
    pub identity: String,
    /// What is moved.
    pub selection: Selection,
    /// A server id that no other replica of the source uses.
    pub server_id: u32,
    /// Every XA transaction with changes for this migration is prepared behind where the leg starts, so one that isn't here has
    /// none.
    pub knows_prepared: bool,
}

/// Fills the spool until it is cancelled (Ok) or meets what an operator has to see (Err). Broken connections and
/// restarts of the source are its own business.
///
/// Cancel safety: dropping it loses nothing that is durable; what came in half is cut off when the spool is opened
/// again. Cancelling the token closes the files first.
pub async fn run(config: FetchConfig, mut writer: SpoolWriter, cancel: CancellationToken) -> Result<()> {
    let anonymous = writer.position().gtids.is_anonymous();
    let mut fetch = Fetch {
        grouper: Grouper::new(config.selection.clone(), !anonymous),
        payload: None,
        file: String::new(),
        coordinates: None,
        files: if anonymous { Some(BinlogFiles::open(writer.dir())?) } else { None },
        pass_over: None,
        heartbeats: 0,
        behind_at: None,
        knows_prepared: config.knows_prepared,
    };
    let result = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        error = fetch.follow(&config, &mut writer) => Err(error),
    };
    writer.heard(false);
    let closed = writer.close().await;
    result.and(closed)
}

/// State of the fetching.
struct Fetch {
    grouper: Grouper,
    /// The compressed transaction that is being unpacked.
    payload: Option<(Payload, EventHeader)>,
    /// The binlog file of the open transaction.
    file: String,
    /// Where the binlog stands without a transaction, not spooled yet.
    coordinates: Option<BinlogPosition>,
    /// The files of a binlog without GTIDs.
    files: Option<BinlogFiles>,
    /// A dump that had to begin before the place that is wanted: up to here it is in the spool.
    pass_over: Option<BinlogPosition>,
    /// Heartbeats since the last event, where there are no GTIDs.
    heartbeats: u32,
    /// The source's binlog had gone on behind here when it was asked, and the dump hadn't.
    behind_at: Option<BinlogPosition>,
    /// See [`FetchConfig::knows_prepared`].
    knows_prepared: bool,
}

impl Fetch {
    /// Connects and fetches, again and again. Returns the error that ends it.
    async fn follow(&mut self, config: &FetchConfig, writer: &mut SpoolWriter) -> Error {
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = writer.position().clone();
            let error = self.session(config, writer).await;
            writer.heard(false);
            // Before anything else is tried: a writer whose disk is full would only say that it has ended.
            if error.kind != ErrorKind::Transient {
                return error;
            }
            if let Err(error) = self.forget_half(writer).await {
                return error;
            }
            if *writer.position() != before {
                backoff = BACKOFF_MIN;
            }
            tracing::warn!(
                area = "spool",
                wait_ms = backoff.as_millis(),
                "{} (at {})",
                error.in_leg(config.leg),
                writer.position().coordinates
            );
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn forget_half(&mut self, writer: &mut SpoolWriter) -> Result<()> {
        self.grouper.reset();
        self.payload = None;
        self.coordinates = None;
        writer.abort().await?;
        writer.flush().await
    }

    /// One connection, to its end.
    async fn session(&mut self, config: &FetchConfig, writer: &mut SpoolWriter) -> Error {
        let from = writer.position().clone();
        if let Err(error) = history::check(config, &from).await {
            return error;
        }
        self.pass_over = self.files.is_some().then(|| from.coordinates.clone());
        let mut stream = match BinlogStream::open(&config.source, &from, config.server_id).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        tracing::info!(area = "spool", from = %writer.position().coordinates, "fetching the source's binlog");
        loop {
            if !stream.has_event()
                && let Err(error) = self.caught_up(writer).await
            {
                return error;
            }
            let taken = match stream.next().await {
                Ok(fetched) => self.take(fetched, &stream, writer).await,
                Err(error) => Err(error),
            };
            let taken = match taken {
                Ok(()) if self.heartbeats >= HEARTBEATS_MAX => self.look(config, writer).await,
                taken => taken,
            };
            if let Err(error) = taken {
                return error;
            }
        }
    }

    /// Asks a source without GTIDs, which has sent nothing for a while, whether it is still the same, and whether there
    /// is really nothing. A dump goes on waiting at the end of a file that a RESET took away.
    async fn look(&mut self, config: &FetchConfig, writer: &mut SpoolWriter) -> Result<()> {
        self.heartbeats = 0;
        self.caught_up(writer).await?;
        let position = writer.position();
        let end = history::check(config, position).await?;
        if end.is_none_or(|end| end <= position.coordinates) {
            self.behind_at = None;
            return Ok(());
        }
        if self.behind_at.replace(position.coordinates.clone()).as_ref() != Some(&position.coordinates) {
            // It may have gone on just now.
            return Ok(());
        }
        self.behind_at = None;
        let what = "the source's binlog goes on and its dump doesn't; it is asked for anew";
        Err(Error::transient(Side::Source, format!("binlog {}", position.coordinates), what))
    }

    /// Nothing more to read at once: whatever there is goes to disk.
    async fn caught_up(&mut self, writer: &mut SpoolWriter) -> Result<()> {
        if let Some(position) = self.coordinates.take() {
            writer.coordinates(position);
        }
        writer.flush().await?;
        writer.heard(true);
        Ok(())
    }

    async fn take(
        &mut self,
        fetched: Fetched,
        stream: &BinlogStream,
        writer: &mut SpoolWriter,
    ) -> Result<()> {
        let Fetched { header, bytes, end, part } = fetched;
        let damaged = |why: Malformed| stream.damaged(&why);
        if self.file != end.file {
            self.file.clone_from(&end.file);
        }
        if let Some(files) = &mut self.files {
            match header.kind {
                kind::FORMAT_DESCRIPTION => {
                    files.begins(&end.file, header.timestamp, &writer.position().coordinates)?;
                }
                kind::HEARTBEAT | kind::HEARTBEAT_V2 => self.heartbeats += 1,
                _ => self.heartbeats = 0,
            }
            if self.pass_over.as_ref().is_some_and(|to| end <= *to) {
                return Ok(());
            }
            self.pass_over = None;
        }
        match part {
            Part::Whole => {
                let body = bytes.slice(HEADER_BYTES.min(bytes.len())..);
                self.event(&header, &body, &end, writer, &damaged).await?;
            }
            Part::Piece { first, last } => {
                self.piece(&header, bytes, (first, last), &end, writer, &damaged).await?;
            }
        }
        if !self.grouper.is_open() && end > writer.position().coordinates {
            self.coordinates = Some(end);
        }
        Ok(())
    }

    /// Unpacks a piece of a compressed transaction. Events inside have no position; the outer one's is theirs.
    async fn piece(
        &mut self,
        header: &EventHeader,
        bytes: Bytes,
        (first, last): (Option<u64>, bool),
        end: &BinlogPosition,
        writer: &mut SpoolWriter,
        damaged: &(dyn Fn(Malformed) -> Error + Sync),
    ) -> Result<()> {
        let mut payload = match (first, self.payload.take()) {
            (Some(body_bytes), _) => Payload::begin(&bytes, body_bytes).map_err(damaged)?,
            (None, Some((mut payload, _))) => {
                payload.push(bytes).map_err(damaged)?;
                payload
            }
            (None, None) => return Err(Error::bug("spool", "a compressed transaction has no begin")),
        };
        while let Some(event) = payload.next_event().map_err(damaged)? {
            let inner = EventHeader::parse(&event).map_err(damaged)?;
            if matches!(inner.kind, kind::FORMAT_DESCRIPTION | kind::ROTATE | kind::STOP) {
                return Err(damaged(Malformed::new(
                    "a compressed transaction holds an event of the log itself",
                )));
            }
            let body = event.slice(HEADER_BYTES..);
            self.event(&inner, &body, end, writer, damaged).await?;
        }
        if last {
            payload.finish().map_err(damaged)?;
        } else {
            self.payload = Some((payload, *header));
        }
        Ok(())
    }

    /// One event that isn't packed.
    async fn event(
        &mut self,
        header: &EventHeader,
        body: &Bytes,
        end: &BinlogPosition,
        writer: &mut SpoolWriter,
        damaged: &(dyn Fn(Malformed) -> Error + Sync),
    ) -> Result<()> {
        match self.grouper.event(header, body).map_err(damaged)? {
            Step::Ignore => return Ok(()),
            Step::Keep if self.grouper.is_xa() => writer.keep_aside(header, body).await?,
            Step::Keep => {
                if !writer.is_open()
                    && let Some((gtid, committed_at_us)) = self.grouper.open_gtid()
                {
                    writer.begin(gtid.clone(), committed_at_us, &self.file);
                }
                writer.event(header, body, end).await?;
            }
            Step::Close(closed) => self.close(*closed, end.clone(), writer, damaged).await?,
            Step::Abort => {
                tracing::warn!(
                    area = "spool",
                    "the source's binlog holds a transaction without its end, before {end}: it was rolled back there"
                );
                writer.abort().await?;
            }
        }
        writer.make_room().await
    }

    async fn close(
        &mut self,
        closed: Closed,
        end: BinlogPosition,
        writer: &mut SpoolWriter,
        damaged: &(dyn Fn(Malformed) -> Error + Sync),
    ) -> Result<()> {
        self.coordinates = None;
        let Closed { gtid, committed_at_us, ddl, xa } = closed;
        let of = Ending { gtid, committed_at_us, end, file: &self.file };
        match xa {
            Xa::No => self.close_whole(of, ddl, writer).await,
            Xa::OnePhase(xid) => writer.commit_aside(xid, of).await,
            Xa::Prepared(xid) => {
                writer.park(xid, !self.knows_prepared).await?;
                writer.skip(of.gtid, of.committed_at_us, of.end)
            }
            Xa::Committed(xid) => {
                if writer.commit_parked(&xid, of.clone()).await? {
                    return Ok(());
                }
                if !self.knows_prepared {
                    return Err(damaged(Malformed::new(UNKNOWN)));
                }
                writer.skip(of.gtid, of.committed_at_us, of.end)
            }
            Xa::RolledBack(xid) => writer.roll_back_parked(&xid, of).await,
        }
    }

    async fn close_whole(
        &self,
        of: Ending<'_>,
        ddl: Option<DdlStatement>,
        writer: &mut SpoolWriter,
    ) -> Result<()> {
        let Ending { gtid, committed_at_us, end, .. } = of;
        match ddl {
            Some(ddl) => {
                // CREATE TABLE … SELECT: the table is copied, rows and all, when the statement comes up.
                writer.abort().await?;
                writer.ddl(gtid, committed_at_us, end, ddl)
            }
            None if writer.is_open() => writer.end(end),
            None => writer.skip(gtid, committed_at_us, end),
        }
    }
}
