//! Reads the binary log of the side that is watched, again and again, as long as it is told to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::progress::ReplicationPosition;
use config::{BinlogPosition, Side, TableName};
use mysql_async::Conn;
use tokio_util::sync::CancellationToken;

use super::sight::Sight;
use super::watch::Watch;
use crate::binlog::cursor::Malformed;
use crate::binlog::event::{EventHeader, HEADER_BYTES};
use crate::binlog::payload::Payload;
use crate::binlog::stream::{BinlogStream, Fetched, Part};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::lock;
use crate::leg;
use crate::pipeline::{Context, replica_server_id, same_server};
use crate::schema::selection::{Known, Selection};
use crate::schema::table::SchemaSet;
use crate::server;

/// Wait before the first new attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often what failed for good is tried again: an operator may have mended it.
const AGAIN: Duration = Duration::from_secs(10);

/// Watches until it is cancelled. What it can't find out it says; nothing else depends on it.
pub(super) async fn run(context: Arc<Context>, watch: Arc<Watch>, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => watch.keep_up(&context.config.state_dir),
        () = go_on(&context, &watch) => {}
    }
}

async fn go_on(context: &Context, watch: &Watch) {
    let (mut backoff, mut said) = (BACKOFF_MIN, false);
    loop {
        let mut tail = Tail { context, watch, sight: None, payload: None, began: false };
        let ended = tail.session().await;
        watch.set_reads(false);
        let error = match ended {
            Ok(never) => match never {},
            Err(error) => Error { side: Some(watch.side()), ..error },
        };
        watch.keep_up(&context.config.state_dir);
        if tail.began {
            (backoff, said) = (BACKOFF_MIN, false);
        }
        if error.kind == ErrorKind::Transient {
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    area = "stray",
                    "the {}'s binlog can't be watched for now: {error}",
                    watch.side()
                );
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            continue;
        }
        watch.blind(&error);
        watch.compare(context, &watch.tables_to_compare());
        tokio::time::sleep(AGAIN).await;
    }
}

/// What never is.
enum Never {}

/// One connection.
struct Tail<'a> {
    context: &'a Context,
    watch: &'a Watch,
    sight: Option<Sight>,
    /// The compressed transaction that is being unpacked.
    payload: Option<Payload>,
    began: bool,
}

impl Tail<'_> {
    /// From its begin to its end, which is an error.
    async fn session(&mut self) -> Result<Never> {
        let (side, config) = (self.watch.side(), &self.context.config);
        let backend = leg::backend(config, side);
        let mut conn = server::connect(side, backend).await?;
        let info = server::inspect(side, &mut conn).await?;
        if let Some(state) = lock(&self.context.file).get() {
            let identity = if side == Side::Source { &state.source_identity } else { &state.target_identity };
            same_server(side, identity, &info)?;
        }
        if self.watch.begins_anew() {
            let end = server::end_position(side, &info, &mut conn).await?;
            self.watch.begin_at(end, &config.state_dir)?;
        }
        let from: ReplicationPosition = self.watch.reached(info.version.flavor)?;
        let names = config.migration.rename.on(side);
        let selection = Selection::new(&config.migration, names, info.folds_names);
        let unmarked = without_transactions(side, &mut conn, &selection).await?;
        drop(conn.disconnect().await);
        let mut stream = BinlogStream::open(backend, &from, replica_server_id()).await?;
        self.watch.set_unmarked(unmarked);
        self.sight = Some(Sight::new(selection));
        loop {
            if !stream.has_event() {
                self.watch.keep_up(&config.state_dir);
            }
            let fetched = stream.next().await?;
            if !std::mem::replace(&mut self.began, true) {
                self.watch.set_reads(true);
            }
            let end = fetched.end.clone();
            self.take(fetched).map_err(|why| stream.damaged(&why))?;
            if self.sight.as_ref().is_some_and(|sight| !sight.is_open()) {
                self.watch.advance(&end);
            }
        }
    }

    fn take(&mut self, fetched: Fetched) -> std::result::Result<(), Malformed> {
        let Fetched { header, bytes, end, part } = fetched;
        let Part::Piece { first, last } = part else {
            return self.event(&header, &bytes.slice(HEADER_BYTES.min(bytes.len())..), &end);
        };
        let mut payload = match (first, self.payload.take()) {
            (Some(body_bytes), _) => Payload::begin(&bytes, body_bytes)?,
            (None, Some(mut payload)) => {
                payload.push(bytes)?;
                payload
            }
            (None, None) => return Err(Malformed::new("a compressed transaction has no begin")),
        };
        while let Some(event) = payload.next_event()? {
            let inner = EventHeader::parse(&event)?;
            self.event(&inner, &event.slice(HEADER_BYTES.min(event.len())..), &end)?;
        }
        if last {
            payload.finish()?;
        } else {
            self.payload = Some(payload);
        }
        Ok(())
    }

    fn event(
        &mut self,
        header: &EventHeader,
        body: &Bytes,
        end: &BinlogPosition,
    ) -> std::result::Result<(), Malformed> {
        let Some(sight) = &mut self.sight else { return Ok(()) };
        let (context, side) = (self.context, self.watch.side());
        let seen = sight.event(header, body, &|| stored_on(context, side))?;
        let found = self.watch.note(seen, end);
        self.watch.compare(context, &found);
        Ok(())
    }
}

/// The tables of the migration as this side stores them.
fn stored_on(context: &Context, side: Side) -> SchemaSet {
    let tables = context.live.schema();
    let tables = if context.leg().writes() == side { tables.on_target() } else { tables };
    // The new server has no right to rows of anybody else.
    if side == Side::Target { tables.unfiltered() } else { tables }
}

/// Tables whose engine has no transactions: each of their changes is logged by itself, so ours can't be told from others'.
async fn without_transactions(
    side: Side,
    conn: &mut Conn,
    selection: &Selection,
) -> Result<HashSet<TableName>> {
    let names = server::tables_without_transactions(side, conn).await?.into_iter();
    let moved = |name: TableName| match selection.known(&name) {
        Known::Moved(name) => Some(name),
        Known::Other | Known::Unnamed => None,
    };
    let found: HashSet<TableName> = names.filter_map(moved).collect();
    if let Some(one) = found.iter().next() {
        tracing::warn!(
            area = "stray",
            "{} table(s) of the {side} have no transactions ({one}): who else writes to them can't be seen",
            found.len()
        );
    }
    Ok(found)
}
