//! From spool items to batches for the workers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use config::{BinlogPosition, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::builder::{Builder, PartRows, place};
use super::checkpoint::{self, Recovered};
use super::done::{Done, Mark};
use super::graph::{Running, Watermark};
use super::intake::Taken;
use super::progress::{Applied, AppliedProgress};
use super::statement::Mode;
use super::worker::{Batch, Context, Worker};
use super::writeset::WriteSet;
use crate::binlog::transaction::{DdlStatement, SpoolItem, TransactionMeta};
use crate::error::{Error, ErrorKind, Result};

/// Batches that are begun and not yet below the low water, at most: a slow one can't let the others run away.
const STRETCHES_MAX: usize = 256;
/// The low water is written down this often where no batch does it.
const PERSIST_EVERY: Duration = Duration::from_secs(1);
/// Writing it down may take so long.
const PERSIST_LIMIT: Duration = Duration::from_secs(5);
/// At the end, batches that are under way may take so long.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// A worker has ended its work.
struct Ended {
    worker: usize,
    result: Result<u64>,
}

/// A batch that a worker has.
struct InFlight {
    /// Where it ends.
    end: Mark,
    keys: WriteSet,
    /// Its share of the memory.
    _share: Option<OwnedSemaphorePermit>,
}

/// The workers' tasks and the ways to and from them.
struct Crew {
    context: Arc<Context>,
    tasks: JoinSet<()>,
    to: Vec<mpsc::Sender<Batch>>,
    done: mpsc::Receiver<Ended>,
    idle: Vec<usize>,
    busy: HashMap<usize, InFlight>,
}

/// Hands out batches and follows what is applied.
pub(super) struct Scheduler {
    context: Arc<Context>,
    progress: Arc<AppliedProgress>,
    copied_at: BinlogPosition,
    crew: Crew,
    running: Running,
    mark: Watermark,
    builder: Builder,
    share: Option<OwnedSemaphorePermit>,
    /// The batch that is being built shares a key with one that runs. Nothing but the end of one changes that.
    meets: bool,
    /// What can't join the batch that is being built; nothing is read before it is dealt with.
    held: Option<Taken>,
    /// The large transaction whose parts come now, and whether an earlier run has applied all of it.
    large: Option<(TransactionMeta, bool)>,
    /// The statement at which it stands, with everything before it applied.
    reached: Option<(TransactionMeta, DdlStatement)>,
    /// The mode of the batches handed out last.
    mode: Option<Mode>,
    /// Applied by earlier runs, above the low water.
    done_before: Done,
    rows: u64,
    persisted: (Mark, BinlogPosition),
    persisted_at: Instant,
    conn: Option<Conn>,
}

impl Scheduler {
    /// A scheduler with its workers, behind what a checkpoint says.
    pub(super) fn new(
        context: Arc<Context>,
        progress: Arc<AppliedProgress>,
        copied_at: BinlogPosition,
        recovered: &Recovered,
    ) -> Self {
        let crew = Crew::new(&context, recovered.workers);
        let rows = progress.rows();
        let scheduler = Self {
            context,
            progress,
            copied_at,
            crew,
            running: Running::default(),
            mark: Watermark::new(recovered.low()),
            builder: Builder::default(),
            share: None,
            meets: false,
            held: None,
            large: None,
            reached: None,
            mode: None,
            done_before: recovered.done.clone(),
            rows,
            persisted: (recovered.low().mark, recovered.position.coordinates.clone()),
            persisted_at: Instant::now(),
            conn: None,
        };
        scheduler.progress.begin(scheduler.applied());
        scheduler
    }

    /// Runs until it is cancelled, stands at a statement that changes definitions (which it returns), or something
    /// fails. In all cases batches that are under way may end first, and
    /// the low water is written down.
    pub(super) async fn run(
        mut self,
        mut items: mpsc::Receiver<Result<Taken>>,
        cancel: CancellationToken,
    ) -> Result<Option<(TransactionMeta, DdlStatement)>> {
        let result = self.follow(&mut items, &cancel).await;
        // Nothing more comes; the permits of what was read ahead are given back.
        drop(items);
        let drained = tokio::time::timeout(DRAIN_LIMIT, self.drain()).await;
        self.crew.stop(drained.is_ok()).await;
        let persisted = self.persist().await;
        result?;
        match drained {
            Ok(Err(error)) if error.kind != ErrorKind::Transient => Err(error),
            _ => persisted.map(|()| self.reached),
        }
    }

    async fn follow(
        &mut self,
        items: &mut mpsc::Receiver<Result<Taken>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        loop {
            self.read_ahead(items)?;
            let lingers = self.dispatch(items.is_empty())?;
            if self.reached.is_some() {
                return Ok(());
            }
            if self.accepts() && !items.is_empty() && self.crew.done.is_empty() {
                continue;
            }
            let persist_at = self.persisted_at + PERSIST_EVERY;
            let wake_at = lingers.map_or(persist_at, |at| at.min(persist_at));
            let accepts = self.accepts();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                done = self.crew.done.recv() => self.finished(done)?,
                item = items.recv(), if accepts => {
                    let taken = item.ok_or_else(|| Error::bug("apply", "the spool's reader vanished"))??;
                    self.take(taken)?;
                }
                () = tokio::time::sleep_until(wake_at.into()) => {
                    if Instant::now() >= persist_at {
                        self.persist().await?;
                    }
                }
            }
        }
    }

    /// Takes what is there already, as far as it fits and nothing else is to be done.
    fn read_ahead(&mut self, items: &mut mpsc::Receiver<Result<Taken>>) -> Result<()> {
        while self.accepts() && self.crew.done.is_empty() && !(self.builder.is_ready() && self.may_start()) {
            match items.try_recv() {
                Ok(taken) => self.take(taken?)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn accepts(&self) -> bool {
        self.held.is_none() && !self.builder.is_full()
    }

    /// Takes an item, or holds it where it can't join what is being built.
    fn take(&mut self, taken: Taken) -> Result<()> {
        if self.has_to_wait(&taken.item) {
            self.held = Some(taken);
            return Ok(());
        }
        let Taken { item, weight, permit } = taken;
        match item {
            SpoolItem::Coordinates(coordinates) => {
                if !self.builder.is_empty() {
                    self.builder.advance(coordinates);
                } else if self.mark.advance(coordinates) {
                    self.publish();
                }
            }
            SpoolItem::Skip { meta } => self.skip(meta)?,
            SpoolItem::Transaction { meta, .. } if self.done_before.has_transaction(meta.seq) => {
                self.skip(meta)?;
            }
            SpoolItem::Transaction { meta, changes } => {
                let mode = self.mode_of(&meta);
                self.expect_next(&meta)?;
                self.builder.add(&self.context.plans, mode, meta, changes, weight, Instant::now())?;
                self.keep(permit);
            }
            SpoolItem::LargeBegin { meta } => {
                self.expect_next(&meta)?;
                tracing::info!(area = "apply", place = %place(&meta, &meta), "a large transaction is applied in parts");
                let skipped = self.done_before.has_transaction(meta.seq);
                self.large = Some((meta, skipped));
            }
            SpoolItem::LargeRows { change, first, last } => {
                let (meta, skipped) = self.large.as_ref().ok_or_else(no_begin)?;
                if !skipped {
                    let (mode, now) = (self.mode_of(meta), Instant::now());
                    let rows = PartRows { change, bytes: weight, first, last };
                    self.builder.add_part(&self.context.plans, mode, meta, rows, now)?;
                    self.keep(permit);
                }
            }
            SpoolItem::LargeEnd => {
                let (meta, _) = self.large.take().ok_or_else(no_begin)?;
                self.skip(meta)?;
            }
            SpoolItem::Ddl { meta, statement } => {
                self.expect_next(&meta)?;
                self.reached = Some((meta, statement));
            }
        }
        Ok(())
    }

    /// True where an item can't be dealt with before the batch that is being built is handed out; at a statement that
    /// changes definitions, and at the end of a large transaction, before everything is applied.
    fn has_to_wait(&self, item: &SpoolItem) -> bool {
        match item {
            SpoolItem::Coordinates(_) | SpoolItem::LargeBegin { .. } => false,
            SpoolItem::Skip { .. } => !self.builder.fits_skipped(),
            // invariant 1: a batch that holds the end says that all of the transaction is applied.
            SpoolItem::LargeEnd => !self.builder.is_empty() || !self.running.is_empty(),
            SpoolItem::Transaction { meta, .. } if self.done_before.has_transaction(meta.seq) => {
                !self.builder.fits_skipped()
            }
            SpoolItem::Transaction { meta, .. } => !self.builder.fits(self.mode_of(meta)),
            SpoolItem::LargeRows { .. } => match &self.large {
                Some((meta, false)) => !self.builder.fits_part(meta.seq),
                _ => false,
            },
            SpoolItem::Ddl { .. } => !self.builder.is_empty() || !self.running.is_empty(),
        }
    }

    /// Keeps a share of the memory with the batch that is being built.
    fn keep(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.share {
            Some(share) => share.merge(permit),
            share => *share = Some(permit),
        }
    }

    fn skip(&mut self, meta: TransactionMeta) -> Result<()> {
        self.expect_next(&meta)?;
        self.builder.skip(meta);
        Ok(())
    }

    /// invariant 1: the spool's numbers are what says whether something is applied, so a gap or a repetition is
    /// seen before anything is done with it.
    fn expect_next(&self, meta: &TransactionMeta) -> Result<()> {
        let expected = self.builder.last_seq().unwrap_or(self.mark.last_seq()) + 1;
        if meta.seq == expected {
            return Ok(());
        }
        Err(Error::bug(
            place(meta, meta),
            format!("the spool gave transaction {} where {expected} was due", meta.seq),
        ))
    }

    fn mode_of(&self, meta: &TransactionMeta) -> Mode {
        if meta.end <= self.copied_at { Mode::Safe } else { Mode::Exact }
    }

    /// Hands out what can be handed out. Returns until when a batch waits to grow, if it does.
    fn dispatch(&mut self, nothing_more: bool) -> Result<Option<Instant>> {
        loop {
            if self.builder.is_empty() {
                if !self.release_held()? {
                    return Ok(None);
                }
                continue;
            }
            let blocked = self.builder.is_ready() || self.held.is_some();
            if self.builder.mode().is_none() {
                // Nothing in it is to be applied. Beside a batch that is under way there is no hurry.
                let due = nothing_more && self.running.is_empty();
                let bounded = self.mark.stretches() < STRETCHES_MAX;
                if !due && (!blocked || !bounded) {
                    return Ok(None);
                }
                self.hand_out()?;
                continue;
            }
            if !self.may_start() {
                return Ok(None);
            }
            if !blocked {
                if !nothing_more {
                    return Ok(None);
                }
                let now = Instant::now();
                if let Some(until) = self.builder.waits_until(now_us()).filter(|until| *until > now) {
                    return Ok(Some(until));
                }
            }
            self.hand_out()?;
        }
    }

    fn may_start(&mut self) -> bool {
        let barrier = self.mode.is_some() && self.mode != self.builder.mode();
        if self.crew.idle.is_empty()
            || self.mark.stretches() >= STRETCHES_MAX
            || (barrier && !self.running.is_empty())
            || self.meets
        {
            return false;
        }
        self.meets = !self.running.admits(self.builder.keys());
        !self.meets
    }

    fn hand_out(&mut self) -> Result<()> {
        let built = self.builder.build(self.mark.low().clone());
        self.meets = false;
        let begun = match built.metas.is_empty() {
            true => self.mark.begin_part(built.end),
            false => self.mark.begin(&built.metas),
        };
        if !begun {
            return Err(Error::bug("apply", "a batch isn't consecutive"));
        }
        if let Some(coordinates) = built.coordinates {
            self.mark.advance(coordinates);
        }
        let Some(batch) = built.batch else {
            if self.mark.finish(built.end) {
                self.publish();
            }
            return Ok(());
        };
        self.mode = Some(batch.mode);
        self.running.start(&built.keys);
        let in_flight = InFlight { end: built.end, keys: built.keys, _share: self.share.take() };
        self.crew.start(batch, in_flight)
    }

    /// Deals with the item that couldn't join a batch, once the batch before it is handed out. Returns true where
    /// something is there to be handed out.
    fn release_held(&mut self) -> Result<bool> {
        let Some(held) = self.held.take() else { return Ok(false) };
        if self.has_to_wait(&held.item) {
            self.held = Some(held);
            return Ok(false);
        }
        self.take(held)?;
        Ok(!self.builder.is_empty())
    }

    fn finished(&mut self, done: Option<Ended>) -> Result<()> {
        let done = done.ok_or_else(|| Error::bug("apply", "every worker vanished"))?;
        let in_flight = self
            .crew
            .free(done.worker)
            .ok_or_else(|| Error::bug("apply", "a worker ended work that it didn't have"))?;
        if done.result.is_err() {
            self.context.touched.touch_every_table();
        }
        self.rows += done.result?;
        self.running.finish(&in_flight.keys);
        self.meets = false;
        self.mark.finish(in_flight.end);
        self.publish();
        Ok(())
    }

    /// Waits for the batches that are under way; the first error is what it returns.
    async fn drain(&mut self) -> Result<()> {
        let mut result = Ok(());
        while !self.crew.busy.is_empty() {
            let done = self.crew.done.recv().await;
            if let Err(error) = self.finished(done)
                && result.is_ok()
            {
                result = Err(error);
            }
        }
        result
    }

    fn publish(&self) {
        self.progress.publish(self.applied());
    }

    fn applied(&self) -> Applied {
        let low = self.mark.low();
        Applied {
            low_water: low.mark.seq,
            position: low.position.clone(),
            committed_at_us: low.committed_at_us,
            rows: self.rows,
            at: Instant::now(),
        }
    }

    /// Writes the low water down where it moved since. A connection that fails is left for the next time: what
    /// isn't written down is only looked at again after a restart.
    async fn persist(&mut self) -> Result<()> {
        self.persisted_at = Instant::now();
        let low = self.mark.low().clone();
        let state = (low.mark, low.position.coordinates.clone());
        if state == self.persisted {
            return Ok(());
        }
        self.done_before.drop_up_to(low.mark);
        let sql =
            checkpoint::update_sql(&self.context.migration, self.context.epoch, 0, &low, &self.done_before);
        let writing = async {
            if self.conn.is_none() {
                self.conn = Some(crate::server::connect(Side::Target, &self.context.target).await?);
            }
            let Some(conn) = self.conn.as_mut() else { return Ok::<u64, Error>(0) };
            conn.query_drop(sql)
                .await
                .map_err(|e| Error::database(Side::Target, "changeover.checkpoint", &e))?;
            config::failpoint::hit("checkpoint.low_water");
            Ok(conn.affected_rows())
        };
        match tokio::time::timeout(PERSIST_LIMIT, writing).await {
            Ok(Ok(1)) => self.persisted = state,
            Ok(Ok(_)) => return Err(checkpoint::taken_over()),
            Ok(Err(error)) if error.kind != ErrorKind::Transient => return Err(error),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the applied position wasn't written down");
                self.conn = None;
            }
            Err(_) => self.conn = None,
        }
        Ok(())
    }
}

impl Crew {
    fn new(context: &Arc<Context>, workers: usize) -> Self {
        let (done_to, done) = mpsc::channel(workers.max(1));
        let mut tasks = JoinSet::new();
        let mut to = Vec::new();
        for number in 1..=workers {
            // One at a time: a worker is given work only when it has none.
            let (send, mut work) = mpsc::channel(1);
            let mut worker = Worker::new(Arc::clone(context), number);
            let done_to = done_to.clone();
            tasks.spawn(async move {
                while let Some(next) = work.recv().await {
                    let result = worker.apply(next).await;
                    if done_to.send(Ended { worker: number, result }).await.is_err() {
                        return;
                    }
                }
            });
            to.push(send);
        }
        let context = Arc::clone(context);
        Self { context, tasks, to, done, idle: (1..=workers).rev().collect(), busy: HashMap::new() }
    }

    fn start(&mut self, batch: Batch, in_flight: InFlight) -> Result<()> {
        let number = self.idle.pop().ok_or_else(|| Error::bug("apply", "no worker is idle"))?;
        self.busy.insert(number, in_flight);
        self.to
            .get(number - 1)
            .and_then(|to| to.try_send(batch).ok())
            .ok_or_else(|| Error::bug("apply", "an idle worker doesn't take work"))
    }

    fn free(&mut self, number: usize) -> Option<InFlight> {
        let in_flight = self.busy.remove(&number)?;
        self.idle.push(number);
        Some(in_flight)
    }

    /// Ends the workers: those that are idle by themselves, those that aren't by dropping what they do. A
    /// transaction that is dropped is rolled back by its server, or found committed by the next run.
    async fn stop(&mut self, idle: bool) {
        self.to.clear();
        if !idle {
            self.tasks.abort_all();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.busy.is_empty() {
            // Their commits may have happened, and then nobody has said which keys they touched.
            self.context.touched.touch_every_table();
        }
    }
}

fn no_begin() -> Error {
    Error::bug("apply", "a part of a large transaction came without its begin")
}

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
