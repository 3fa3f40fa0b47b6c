//! Proves both sides equal, under traffic.
//!
//! A *pass* walks every table in chunks of its row key and compares checksums; a chunk that differs is narrowed down to
//! rows, and those are looked at again ([`recheck`]) once the tail has passed the position of the first look. Beside
//! it, and for ever after, the rows that the tail has *touched* are compared ([`touched`]). Behind the fence of a
//! cutover what is still touched is compared where nothing moves any more, and that is the verdict.
//!
//! # Why no row falls between a pass and the touched keys (invariant 4)
//!
//! Claim: when every table is *covered* and no key is pending, each row of the target equals the source's at the
//! applied position. Take a row K, and the last comparison C of it that said equal: of its chunk, or of its key.
//! Let X be a transaction that changes K. The applier calls `touch(K)` after X is committed on the target and before X
//! counts as applied. So there are three cases.
//!
//! 1. The touch comes after K was taken for C (after `track` for a chunk). Then K is in the set again (or still), its
//!    table's key count is pending, and C isn't the last comparison. A set that overflowed takes the coverage with it.
//! 2. The touch came before that, so X was in the source's binlog by then. C's reads begin after `source_shows_all`:
//!    all of that binlog is visible to them, and X was committed on the target before its touch. Both reads saw X.
//! 3. X isn't applied yet. Then it isn't part of the applied position, and its touch is case 1.
//!
//! So both reads of C saw every transaction that changed K up to the applied position. A read may also have seen later
//! ones, in which case the rows were equal at that later position, and the touch of it makes another comparison.
//! A chunk's read on the source and on the target see different moments: a row that changed in between looks equal
//! only where it is (case 1 again), and looks different only until the next look.
//!
//! Between the fence and the verdict nothing moves: the source is read-only, the tail has applied its last position and
//! every touch was called. Nothing is pending once the rest is compared, and the claim holds for the final position.
//!
//! A rule for the caller follows: an apply stage that ended without its touches (an error between commit and touch)
//! calls [`TouchedKeys::touch_every_table`] before it applies again.

mod checksum;
mod difference;
mod key;
mod keyless;
mod pass;
mod progress;
mod recheck;
mod repair;
mod side;
pub mod touched;
mod work;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::progress::{Difference, Verdict};
use config::{BackendConfig, BinlogPosition, Side, TableName};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use self::checksum::TableSql;
use self::difference::Differences;
use self::progress::Progress;
pub use self::progress::{TableProgress, VerifyPhase};
use self::recheck::Pair;
use self::side::Backend;
pub use self::touched::TouchedKeys;
use crate::error::{Error, ErrorKind, Result};
use crate::leg::Leg;
use crate::schema::table::{SchemaSet, TableSchema};
use crate::state::Proven;
use crate::throttle::Throttle;

/// "Return when everything up to these coordinates is applied": `AppliedProgress::wait_for_coordinates`.
pub type Passed = Arc<dyn Fn(BinlogPosition) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// How often an idle verifier looks whether a listed difference was repaired.
const LISTED_AGAIN: Duration = Duration::from_secs(2);

/// Attempts at the verdict of a cutover, where the first one fails for a moment.
const STANDING_ATTEMPTS: usize = 2;
/// How long a hurry may last that no verdict ends; most take less than a second.
const HURRY: Duration = Duration::from_secs(60);
/// How often connections that have nothing to do are looked after, so that those of a cutover needn't be dialled.
const REVIVED_AGAIN: Duration = Duration::from_secs(60);

/// Compares both sides, from the end of the copy to the verdict of the cutover. Uses two connections a side.
pub struct Verifier {
    leg: Leg,
    source: BackendConfig,
    target: BackendConfig,
    tables: Vec<Arc<TableSchema>>,
    touched: Arc<TouchedKeys>,
    passed: Passed,
    /// Waited for between two chunks of a full pass.
    throttle: Arc<Throttle>,
    differences: Differences,
    progress: Progress,
    /// Connections of the full passes.
    walker: Mutex<Pair>,
    /// Connections of the comparisons of touched keys.
    follower: Mutex<Pair>,
    /// A table wants a pass.
    wanted: Notify,
    /// A cutover is near until then: what is touched is compared at once.
    hurried_until: std::sync::Mutex<Option<Instant>>,
    /// True while a cutover asks for its verdict: no other work is begun, and what was begun is given up soon.
    standing_still: watch::Sender<bool>,
}

impl Verifier {
    /// A verifier of these tables; nothing is verified yet. `source` is the side that the leg reads, and `touched` is what
    /// the appliers were given.
    #[must_use]
    pub fn new(
        leg: Leg,
        source: &BackendConfig,
        target: &BackendConfig,
        tables: &SchemaSet,
        touched: Arc<TouchedKeys>,
        passed: Passed,
    ) -> Self {
        let tables = tables.sorted();
        let pair = || {
            Mutex::new(Pair {
                source: Backend::new(Side::Source, source.clone()),
                target: Backend::new(Side::Target, target.clone()),
            })
        };
        Self {
            leg,
            source: source.clone(),
            target: target.clone(),
            progress: Progress::new(tables.iter().map(|table| table.name.clone())),
            tables,
            touched,
            passed,
            throttle: Throttle::new(),
            differences: Differences::default(),
            walker: pair(),
            follower: pair(),
            wanted: Notify::new(),
            hurried_until: std::sync::Mutex::default(),
            standing_still: watch::Sender::new(false),
        }
    }

    /// The SQL of a table on both sides. These are the leg's, so where it reads the target the old server is its other side.
    fn sql_of<'a>(&self, table: &'a TableSchema) -> Result<TableSql<'a>> {
        TableSql::of(table, self.leg.reads())
    }

    /// Full passes wait for this between two chunks. What a cutover waits for never does.
    pub(crate) fn throttle(&mut self, throttle: Arc<Throttle>) {
        self.throttle = throttle;
    }

    /// Goes on where `earlier` stands, for every table but those in `changed`. The appliers stand still, and `earlier`
    /// doesn't run any more. Tables that are gone are forgotten.
    pub fn succeed(&mut self, earlier: &Self, changed: &[TableName]) {
        let same = |table: &&Arc<TableSchema>| {
            !changed.contains(&table.name) && earlier.tables.iter().any(|before| before == *table)
        };
        let kept: Vec<TableName> = self.tables.iter().filter(same).map(|table| table.name.clone()).collect();
        self.progress.take_over(&earlier.progress, &kept);
        self.differences = earlier.differences.of_tables(&kept);
        for table in earlier.tables.iter().filter(|table| !kept.contains(&table.name)) {
            self.touched.forget_table(&table.name);
        }
    }

    /// Every row was proven equal where the leg starts, and nothing of it is applied yet: from here on whatever is touched
    /// is all that can differ. Tables that aren't among the proven ones are verified as usual. To be called before the
    /// apply stage runs.
    pub(crate) fn begin_proven(&self, proven: &[Proven]) {
        for table in &self.tables {
            let of = |proven: &&Proven| TableName::new(&proven.schema, &proven.table) == table.name;
            if let Some(proven) = proven.iter().find(of) {
                self.touched.track(&table.name);
                let pass = self.progress.begin(&table.name);
                self.progress.compared(&table.name, proven.rows);
                pass.end();
            }
        }
    }

    /// What the present verdict rests on, a row a table.
    pub(crate) fn proven(&self) -> Vec<Proven> {
        let proven = |progress: TableProgress| Proven {
            schema: progress.table.schema,
            table: progress.table.table,
            rows: progress.rows_verified,
        };
        let mut tables = self.progress.tables(&self.differences);
        tables.retain(|progress| self.is_covered(&progress.table) && progress.differences == 0);
        tables.into_iter().map(proven).collect()
    }

    /// Verifies until `stop` is cancelled: a pass over every table that needs one, and whatever is touched. What fails
    /// for a moment is tried again; what fails for good stands in the table's note and keeps the verdict unknown.
    /// May be called again after it returned, and goes on.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(self.walk(), self.follow()); } => {}
        }
    }

    /// An error where the table that an operator names is none of the migration's.
    fn expect_known(&self, table: Option<&TableName>) -> Result<()> {
        match table.filter(|name| !self.tables.iter().any(|known| known.name == **name)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::definite(None, name.to_string(), "this table isn't part of the migration"))
            }
        }
    }

    /// VERIFY: begins a pass over one table, or over all of them. Until it is through, the verdict is unknown.
    pub fn request(&self, table: Option<&TableName>) -> Result<()> {
        self.expect_known(table)?;
        for known in self.tables.iter().filter(|known| table.is_none_or(|name| known.name == *name)) {
            self.progress.want(&known.name);
        }
        self.wanted.notify_one();
        Ok(())
    }

    /// The verdict as of now. Under traffic it is hardly ever more than [`Verdict::Unknown`], because rows are always
    /// on their way; see [`Self::refusal`].
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        // In this order: what a comparison finds is listed before its keys stop to be pending and its table is covered.
        let pending = self.touched.pending();
        let not_covered = self.not_covered();
        let differing = self.differences.total();
        if differing > 0 {
            return Verdict::Different { rows: differing };
        }
        if let Some(why) = not_covered {
            return Verdict::Unknown { why };
        }
        if pending > 0 {
            let why = format!(
                "{pending} rows changed since they were compared, and wait for their next comparison"
            );
            return Verdict::Unknown { why };
        }
        Verdict::Equal { rows: self.progress.rows_verified() }
    }

    /// Why a cutover can't begin: `None` where every table is covered, no difference is open and only the rows of
    /// the last moments wait, which [`Self::verdict_standing_still`] settles.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self.differences.total() {
            0 => {
                self.too_many_without_key().or_else(|| self.missing(|table| self.waits_for_the_fence(table)))
            }
            rows => Some(format!(
                "{rows} rows differ; SHOW DIFFERENCES lists them with the SQL that repairs them"
            )),
        }
    }

    /// A cutover will close its gate soon. What is still to be compared by then lengthens the pause, so there should be
    /// little: until the verdict, or for [`HURRY`], touched keys aren't gathered, and are compared in small batches.
    pub fn hurry(&self) {
        *self.hurried() = Some(Instant::now() + HURRY);
    }

    fn is_hurried(&self) -> bool {
        self.hurried().is_some_and(|until| Instant::now() < until)
    }

    fn hurried(&self) -> MutexGuard<'_, Option<Instant>> {
        self.hurried_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict behind the fence: neither side takes writes and the tail has applied all there is. Compares
    /// what is still touched, exactly and with all connections; tables that need a whole pass only where they are
    /// small.
    ///
    /// Cancel safety: what isn't compared stays touched.
    pub async fn verdict_standing_still(&self) -> Verdict {
        let _still = StandStill::begin(&self.standing_still);
        *self.hurried() = None;
        let (mut walker, mut follower) = tokio::join!(self.walker.lock(), self.follower.lock());
        let mut compared = Ok(());
        for _ in 0..STANDING_ATTEMPTS {
            // Each of the four may have died while it was idle, and every one of them would show it by itself.
            let (a, b) = tokio::join!(walker.revive(), follower.revive());
            compared = match a.and(b) {
                Ok(()) => self.compare_rest(&mut walker, &mut follower).await,
                Err(error) => Err(error),
            };
            if !compared.as_ref().is_err_and(|error| error.kind == ErrorKind::Transient) {
                break;
            }
        }
        match compared {
            Ok(()) => self.verdict(),
            Err(error) => {
                let error = error.in_leg(self.leg);
                Verdict::Unknown { why: format!("the last changes couldn't be compared: {error}") }
            }
        }
    }

    /// Where each table stands, sorted by name.
    #[must_use]
    pub fn tables(&self) -> Vec<TableProgress> {
        self.progress.tables(&self.differences)
    }

    /// Rows compared in the present or last pass of every table.
    #[must_use]
    pub fn rows_verified(&self) -> u64 {
        self.progress.rows_verified()
    }

    /// Rows that differ.
    #[must_use]
    pub fn differences_total(&self) -> u64 {
        self.differences.total()
    }

    /// The differences, at most 10,000 of them.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        self.differences.list()
    }

    /// Rows that wait for their comparison.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.touched.pending()
    }

    /// What keeps the tables from being covered by a pass and the touches since.
    fn not_covered(&self) -> Option<String> {
        self.missing(|_| false)
    }

    /// The same, but for tables that are `excused`.
    fn missing(&self, excused: impl Fn(&TableSchema) -> bool) -> Option<String> {
        if self.tables.is_empty() {
            return Some("there is no table to verify".to_owned());
        }
        let open = self.tables.iter().filter(|table| !self.is_covered(&table.name));
        let missing = open.filter(|table| !excused(table)).count();
        let note = self.progress.first_note().map(|note| format!(" ({note})")).unwrap_or_default();
        (missing > 0).then(|| format!("{missing} of {} tables aren't verified yet{note}", self.tables.len()))
    }

    /// Where both sides are.
    fn backends(&self) -> (BackendConfig, BackendConfig) {
        (self.source.clone(), self.target.clone())
    }

    /// True where the last pass over a table and what was touched since cover all of it, and no other pass is wanted.
    pub(crate) fn is_covered(&self, table: &TableName) -> bool {
        self.progress.is_covered(table)
            && !self.touched.overflowed(table)
            && !self.differences.lost_count(table)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("tables", &self.tables.len()).finish_non_exhaustive()
    }
}

/// Holds the background work back for as long as it lives, also where the caller was cancelled.
struct StandStill<'a>(&'a watch::Sender<bool>);

impl<'a> StandStill<'a> {
    fn begin(flag: &'a watch::Sender<bool>) -> Self {
        flag.send_replace(true);
        Self(flag)
    }
}

impl Drop for StandStill<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
