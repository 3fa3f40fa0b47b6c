//! What SHOW MIGRATION STATUS and SHOW MIGRATION TABLES are made of. Every reader is cheap: no query, no await.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use config::progress::{Conversion, MigrationStatus, Phase, ReplicationPosition, TableStatus};
use config::{BinlogPosition, Config, TableName};
use tokio::sync::watch;

use crate::apply::progress::AppliedProgress;
use crate::binlog::xid::Xid;
use crate::error::Error;
use crate::handle::lock;
use crate::lag::LagClock;
use crate::leg::Leg;
use crate::schema::table::{SchemaSet, TableSchema};
use crate::snapshot::progress::{CopyPhase, SnapshotProgress};
use crate::spool::{Prepared, Spool, SpoolProgress};
use crate::state::{MigrationState, Stage, StoredPosition};
use crate::throttle::Throttle;
use crate::verify::{self, Verifier, VerifyPhase};

/// The rate of the copy is that of this last stretch of time.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// The source sends a heartbeat a second when it has nothing else; silence up to this is no lag.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The tail has caught up once it is no more than this behind; the phase then stays `following`.
const CAUGHT_UP: Duration = Duration::from_secs(2);

/// Shared by the stages, which write, and everyone who looks.
#[derive(Debug)]
pub(crate) struct Live {
    name: String,
    pub(crate) throttle: Arc<Throttle>,
    phase: watch::Sender<Phase>,
    view: Mutex<View>,
}

#[derive(Debug, Default)]
struct View {
    /// The leg that all of this is of.
    leg: Option<Leg>,
    applied: Arc<AppliedProgress>,
    tables: SchemaSet,
    snapshot: Arc<SnapshotProgress>,
    spool: Option<watch::Receiver<SpoolProgress>>,
    prepared: Option<Prepared>,
    verifier: Option<Arc<Verifier>>,
    copied_at: Option<BinlogPosition>,
    sealed_at: Option<ReplicationPosition>,
    last_error: Option<String>,
    conversions: Option<Vec<Conversion>>,
    lag: LagClock,
    copied: VecDeque<(Instant, u64)>,
}

impl Live {
    /// As an earlier process left it.
    pub(crate) fn new(config: &Config, state: Option<&MigrationState>) -> Self {
        let phase = phase_of(state);
        let sealed_at = state
            .and_then(|state| state.sealed_at.as_ref())
            .and_then(|stored: &StoredPosition| stored.read().ok());
        let last_error = state.and_then(|state| state.failed.clone().or_else(|| state.paused_by.clone()));
        Self {
            name: config.migration.name.clone(),
            throttle: Throttle::new(),
            phase: watch::Sender::new(phase),
            view: Mutex::new(View { sealed_at, last_error, ..View::default() }),
        }
    }

    pub(crate) fn applied(&self) -> Arc<AppliedProgress> {
        Arc::clone(&lock(&self.view).applied)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let changed = self.phase.send_if_modified(|now| std::mem::replace(now, phase) != phase);
        if changed {
            tracing::info!(area = "migration", "phase {}", phase.as_str());
        }
    }

    /// Returns when the migration doesn't run any more, with the reason. Cancel safety: yes.
    pub(crate) async fn stopped(&self) -> String {
        let mut phase = self.phase.subscribe();
        let stopped = |phase: &Phase| matches!(phase, Phase::Paused | Phase::Failed | Phase::Abandoned);
        match phase.wait_for(stopped).await {
            Ok(phase) => format!("the migration is {}; SHOW MIGRATION STATUS says why", phase.as_str()),
            Err(_) => "the process ends".to_owned(),
        }
    }

    /// A new attempt at the stages of a leg begins with these tables.
    pub(crate) fn begin(&self, leg: Leg, tables: &SchemaSet, spool: &Spool) -> Arc<SnapshotProgress> {
        let snapshot = SnapshotProgress::new(tables);
        let mut view = lock(&self.view);
        if view.leg.replace(leg) != Some(leg) {
            // Its positions are of another server, and its transactions are numbered anew.
            view.applied = Arc::default();
            view.verifier = None;
            view.copied_at = None;
        }
        view.tables = tables.clone();
        view.snapshot = Arc::clone(&snapshot);
        view.spool = Some(spool.progress());
        view.prepared = Some(spool.prepared());
        view.lag = LagClock::behind_bytes(spool.released_bytes());
        view.copied.clear();
        snapshot
    }

    /// XA transactions with changes for this migration that are prepared on the side that is read, as far as it is fetched.
    /// `anyway`: others too, where these are noted.
    pub(crate) fn prepared(&self, anyway: bool) -> BTreeSet<Xid> {
        lock(&self.view).prepared.as_ref().map(|prepared| prepared.now(anyway)).unwrap_or_default()
    }

    /// Definitions have changed: these are the tables from here on.
    pub(crate) fn set_tables(&self, tables: &SchemaSet) {
        let mut view = lock(&self.view);
        view.tables = tables.clone();
        view.snapshot = view.snapshot.followed_by(tables);
    }

    /// The tables of the present attempt.
    pub(crate) fn schema(&self) -> SchemaSet {
        lock(&self.view).tables.clone()
    }

    /// The copy is complete; what it could see ends at `coordinates`.
    pub(crate) fn set_copied_at(&self, coordinates: BinlogPosition) {
        lock(&self.view).copied_at = Some(coordinates);
    }

    pub(crate) fn set_verifier(&self, verifier: Arc<Verifier>) {
        lock(&self.view).verifier = Some(verifier);
    }

    pub(crate) fn verifier(&self) -> Option<Arc<Verifier>> {
        lock(&self.view).verifier.clone()
    }

    /// What the present attempt at the stages defines otherwise on the target.
    pub(crate) fn set_conversions(&self, conversions: Vec<Conversion>) {
        lock(&self.view).conversions = Some(conversions);
    }

    /// `None`: no attempt has come so far yet.
    pub(crate) fn conversions(&self) -> Option<Vec<Conversion>> {
        lock(&self.view).conversions.clone()
    }

    pub(crate) fn set_error(&self, error: &Error) {
        lock(&self.view).last_error = Some(error.to_string());
    }

    pub(crate) fn clear_error(&self) {
        lock(&self.view).last_error = None;
    }

    /// Takes the samples behind lag and rate; called a few times a second and whenever the spool grew.
    pub(crate) fn sample(&self) {
        let now = Instant::now();
        let view = &mut *lock(&self.view);
        if let Some(spool) = &view.spool {
            let (last_seq, bytes) = {
                let spool = spool.borrow();
                (spool.last_seq, spool.durable_bytes)
            };
            view.lag.readable(last_seq, bytes, now);
        }
        let rows = view.snapshot.rows_copied();
        view.copied.push_back((now, rows));
        while view.copied.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW) {
            view.copied.pop_front();
        }
    }

    /// The last position fetched from the side that is read.
    pub(crate) fn fetched(&self) -> Option<ReplicationPosition> {
        lock(&self.view).spool.as_ref().map(|spool| spool.borrow().fetched.clone())
    }

    /// True once the tail is past the copy and keeps up.
    pub(crate) fn caught_up(&self) -> bool {
        let past_the_copy = {
            let view = lock(&self.view);
            view.copied_at.as_ref().is_some_and(|position| view.applied.has_reached(position))
        };
        past_the_copy && self.lag_ms().is_some_and(|lag| u128::from(lag) <= CAUGHT_UP.as_millis())
    }

    /// Age of the applied position in ms. `None` while nothing is applied. A source that is silent, or that has sent
    /// more than is on disk yet, counts as far behind as the moment at which it was last known to have no more.
    pub(crate) fn lag_ms(&self) -> Option<u64> {
        let view = &mut *lock(&self.view);
        let heard_at = view.spool.as_ref()?.borrow().heard_at;
        let applied = view.applied.current()?;
        let silence = SystemTime::now().duration_since(heard_at).unwrap_or_default();
        let fetch = if silence > HEARTBEAT { silence } else { Duration::ZERO };
        let apply = view.lag.behind(applied.low_water, Instant::now());
        u64::try_from(apply.max(fetch).as_millis()).ok()
    }

    pub(crate) fn status(&self) -> MigrationStatus {
        let phase = self.phase();
        let over = matches!(phase, Phase::Switched | Phase::Finished | Phase::Abandoned);
        let lag_ms = if over { None } else { self.lag_ms() };
        let view = &mut *lock(&self.view);
        let applied = view.applied.current();
        let spool = view.spool.as_ref().map(|spool| spool.borrow().clone());
        let copying = phase == Phase::Copying;
        let copy_rows_per_s = if copying { rate(&view.copied) } else { 0 };
        let (rows_copied, rows_estimate) = (view.snapshot.rows_copied(), view.snapshot.rows_estimate());
        let eta_s = (copying && copy_rows_per_s > 0)
            .then(|| rows_estimate.saturating_sub(rows_copied).div_ceil(copy_rows_per_s));
        let low_water = applied.as_ref().map_or(0, |applied| applied.low_water);
        let (staged_rows, staged_bytes) = view.snapshot.staged_now();
        MigrationStatus {
            name: self.name.clone(),
            phase,
            tables_total: view.tables.len() as u64,
            tables_copied: view.snapshot.tables_copied() as u64,
            rows_copied,
            rows_estimate,
            copy_rows_per_s,
            eta_s,
            source_position: spool.as_ref().map(|spool| spool.fetched.clone()),
            rows_applied: applied.as_ref().map_or(0, |applied| applied.rows),
            applied_position: applied.map(|applied| applied.position).or_else(|| view.sealed_at.clone()),
            lag_ms,
            lag_bytes: spool.map_or(0, |spool| view.lag.bytes_behind(low_water, spool.durable_bytes)),
            apply_rows_per_s: view.applied.rows_per_s(),
            rows_verified: view.verifier.as_ref().map_or(0, |verifier| verifier.rows_verified()),
            differences: view.verifier.as_ref().map_or(0, |verifier| verifier.differences_total()),
            stray_writes: 0,
            stray_writes_total: 0,
            last_error: view.last_error.clone(),
            throttled_by: self.throttle.why(),
            throttled_ms: self.throttle.waited_ms(),
            staged_rows,
            staged_bytes,
        }
    }

    pub(crate) fn tables(&self) -> Vec<TableStatus> {
        let view = lock(&self.view);
        let mut verified: BTreeMap<TableName, verify::TableProgress> = view
            .verifier
            .iter()
            .flat_map(|verifier| verifier.tables())
            .map(|progress| (progress.table.clone(), progress))
            .collect();
        let row = |table: Arc<TableSchema>| {
            let copy = view.snapshot.table(&table.name);
            let verified = verified.remove(&table.name);
            TableStatus {
                phase: table_phase(copy.map(|copy| copy.phase()), verified.as_ref()),
                rows_copied: copy.map_or(0, |copy| copy.rows_copied()),
                rows_estimate: copy.map_or(table.rows_estimate, |copy| copy.rows_estimate()),
                rows_verified: verified.as_ref().map_or(0, |verified| verified.rows_verified),
                differences: verified.as_ref().map_or(0, |verified| verified.differences),
                note: verified.map(|verified| verified.note).unwrap_or_default(),
                table: table.name.clone(),
            }
        };
        view.tables.sorted().into_iter().map(row).collect()
    }
}

/// The phase in which a migration with this state begins to run, or doesn't.
pub(crate) fn phase_of(state: Option<&MigrationState>) -> Phase {
    match state {
        None => Phase::Idle,
        Some(state) if state.stage == Stage::Sealed => Phase::Switched,
        Some(state) if state.stage == Stage::Finished => Phase::Finished,
        Some(state) if state.stage == Stage::Abandoned => Phase::Abandoned,
        Some(state) if state.failed.is_some() => Phase::Failed,
        Some(state) if state.paused => Phase::Paused,
        Some(state) => match state.stage {
            Stage::Preparing => Phase::Preparing,
            Stage::Copying => Phase::Copying,
            Stage::Replaying | Stage::Sealed | Stage::Finished | Stage::Abandoned => Phase::CatchingUp,
        },
    }
}

/// The word for a table: what the verifier says once it has begun, else what the copy says.
fn table_phase(copy: Option<CopyPhase>, verified: Option<&verify::TableProgress>) -> &'static str {
    match verified {
        Some(verified) if verified.differences > 0 => "different",
        Some(verified) if verified.phase == VerifyPhase::Verifying => "verifying",
        Some(verified) if verified.phase == VerifyPhase::Verified => "verified",
        _ => copy.map_or("waiting", CopyPhase::as_str),
    }
}

/// Rows a second between the oldest and the newest sample.
fn rate(samples: &VecDeque<(Instant, u64)>) -> u64 {
    let (Some((begun, first)), Some((ended, last))) = (samples.front(), samples.back()) else { return 0 };
    let ms = ended.duration_since(*begun).as_millis();
    if ms == 0 {
        return 0;
    }
    u64::try_from(u128::from(last.saturating_sub(*first)) * 1000 / ms).unwrap_or(u64::MAX)
}
