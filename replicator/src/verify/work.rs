//! The verifier's two loops, and its last comparison behind the fence.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use config::TableName;
use tokio::sync::Mutex;

use super::checksum::TableSql;
use super::key::RowKey;
use super::keyless::Rests;
use super::pass::Walk;
use super::recheck::{Comparison, Pair};
use super::{LISTED_AGAIN, REVIVED_AGAIN, Verifier};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::table::TableSchema;

/// Keys compared together.
const BATCH_KEYS: usize = 2_000;
/// The same behind the fence, small enough to keep both pairs of connections busy.
const BATCH_KEYS_STANDING: usize = 500;
/// A key that is touched again within this time is compared once.
const GATHER: Duration = Duration::from_millis(100);
/// Between two attempts after an error.
const RETRY: Duration = Duration::from_secs(1);
/// How long work that was begun may go on when a cutover wants its verdict. A statement that is given up costs a new
/// connection, which is still less than the rest of a chunk.
const STANDING_GRACE: Duration = Duration::from_millis(20);
/// Rows, by the server's estimate, of tables that are compared whole behind the fence.
const STANDING_ROWS_MAX: u64 = 50_000;
/// Attempts to settle what is left behind the fence. Nothing moves there, so one should do.
const STANDING_ROUNDS_MAX: usize = 5;

impl Verifier {
    /// Passes over the tables that want one.
    pub(super) async fn walk(&self) {
        let mut revived_at = tokio::time::Instant::now();
        let mut rests = Rests::default();
        loop {
            let wanted = |table: &&Arc<TableSchema>| !table.keyless && self.wants_pass(table);
            let whole = |table: &&Arc<TableSchema>| {
                table.keyless && self.wants_pass(table) && !rests.is_resting(&table.name)
            };
            let next = self.tables.iter().find(wanted).or_else(|| self.tables.iter().find(whole));
            match next {
                Some(table) => {
                    let begun = tokio::time::Instant::now();
                    let passed = match table.keyless {
                        true => self.pass_whole(table).await,
                        false => self.pass(table).await,
                    };
                    if table.keyless {
                        rests.rest_after(&table.name, begun.elapsed());
                    }
                    if let Err(error) = passed {
                        let error = error.in_leg(self.leg);
                        tracing::error!(area = "verify", table = %table.name, "verification failed: {error}");
                        self.progress.fail(&table.name, error.to_string());
                    }
                    self.say_when_covered();
                }
                // An overflow has no signal of its own, hence the look every second.
                None => {
                    drop(tokio::time::timeout(Duration::from_secs(1), self.wanted.notified()).await);
                    if revived_at.elapsed() >= REVIVED_AGAIN {
                        self.revive(&self.walker).await;
                        revived_at = tokio::time::Instant::now();
                    }
                }
            }
        }
    }

    fn wants_pass(&self, table: &TableSchema) -> bool {
        self.progress.is_wanted(&table.name)
            || (self.touched.overflowed(&table.name) && !self.progress.is_failed(&table.name))
    }

    /// One pass, from its first chunk to its last. Transient errors are tried again, the rest is returned.
    async fn pass(&self, table: &Arc<TableSchema>) -> Result<()> {
        let sql = self.sql_of(table)?;
        let pass = self.progress.begin(&table.name);
        self.differences.recount(&table.name);
        // From here on a touch is kept; what was touched before is seen by every read behind `source_shows_all`.
        self.touched.track(&table.name);
        let there = table.on_target();
        let compare = self.comparison(&there, &sql);
        let mut walk = Walk::new();
        let mut shown = false;
        while !walk.done {
            self.throttle.pass().await;
            self.while_standing_still().await;
            let mut pair = self.walker.lock().await;
            let result = async {
                if !shown {
                    pair.source_shows_all().await?;
                    shown = true;
                }
                walk.step(&mut pair, &compare).await
            };
            let Some(result) = self.unless_standing_still(result).await else { continue };
            match result {
                Ok((rows, again)) => {
                    self.touched.put(&table.name, again);
                    self.progress.compared(&table.name, rows);
                    self.progress.note(&table.name, String::new());
                }
                Err(error) if error.kind == ErrorKind::Transient => {
                    drop(pair);
                    self.pause_after(table, &error).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.look_at_listed(table).await;
        pass.end();
        let differing = self.differences.count(&table.name);
        if differing > 0 {
            tracing::warn!(area = "verify", table = %table.name, differing, "{} has {differing} rows that differ", table.name);
        }
        Ok(())
    }

    /// Chunks that are equal say nothing of rows in them that were listed before a repair.
    async fn look_at_listed(&self, table: &Arc<TableSchema>) {
        let mut listed = self.differences.keys();
        listed.retain(|(name, _)| *name == table.name);
        self.while_standing_still().await;
        let mut pair = self.walker.lock().await;
        let compared = self.unless_standing_still(self.compare_those(&mut pair, listed)).await;
        if let Some(Err((_, error))) = compared {
            // They stay listed, and are looked at again by the other loop.
            tracing::debug!("listed differences of {} couldn't be looked at: {error}", table.name);
        }
    }

    fn say_when_covered(&self) {
        if let Some(why) = self.not_covered() {
            tracing::debug!("verification goes on: {why}");
        } else {
            let (tables, rows) = (self.tables.len(), self.progress.rows_verified());
            let differing = self.differences.total();
            tracing::info!(
                area = "verify",
                "{tables} tables with {rows} rows are compared, {differing} rows differ"
            );
        }
    }

    /// Compares what was touched, for ever, and listed differences now and then.
    pub(super) async fn follow(&self) {
        let mut listed_at = tokio::time::Instant::now();
        let mut revived_at = listed_at;
        self.revive(&self.follower).await;
        loop {
            let touched = tokio::time::timeout(LISTED_AGAIN, self.touched.wait()).await.is_ok();
            if !touched && revived_at.elapsed() >= REVIVED_AGAIN {
                self.revive(&self.follower).await;
                revived_at = tokio::time::Instant::now();
            }
            let keys_max = if self.is_hurried() {
                BATCH_KEYS_STANDING
            } else {
                tokio::time::sleep(GATHER).await;
                BATCH_KEYS
            };
            self.while_standing_still().await;
            let mut pair = self.follower.lock().await;
            let work = async {
                self.compare_touched(&mut pair, keys_max, false).await?;
                if listed_at.elapsed() >= LISTED_AGAIN {
                    self.compare_listed(&mut pair).await?;
                    listed_at = tokio::time::Instant::now();
                }
                Ok(())
            };
            let result = self.unless_standing_still(work).await.unwrap_or(Ok(()));
            drop(pair);
            if let Err((table, error)) = result {
                match error.kind {
                    ErrorKind::Transient => self.pause_after(&table, &error).await,
                    ErrorKind::Definite | ErrorKind::Pause | ErrorKind::Bug => {
                        let error = error.in_leg(self.leg);
                        tracing::error!(area = "verify", table = %table.name, "verification failed: {error}");
                        self.progress.fail(&table.name, error.to_string());
                        // Its keys would come first again and again; VERIFY begins anew.
                        self.touched.touch_whole_table(&table.name);
                    }
                }
            }
        }
    }

    /// Compares touched keys until there are none, until a batch left rows that are still moving, or, under traffic that
    /// touches faster than this compares, for so long that listed differences have their turn, or until a cutover wants the
    /// connections. `standing`: that is the cutover, and the source shows all it has already.
    async fn compare_touched(&self, pair: &mut Pair, keys_max: usize, standing: bool) -> Failed<()> {
        let begun = tokio::time::Instant::now();
        while standing || (begun.elapsed() < LISTED_AGAIN && !*self.standing_still.borrow()) {
            let Some(taken) = self.touched.take(keys_max) else { break };
            // Only tables of ours are tracked.
            let Some(table) = self.tables.iter().find(|table| table.name == taken.table) else { break };
            let compared = async {
                let sql = self.sql_of(table)?;
                if !standing {
                    pair.source_shows_all().await?;
                }
                self.comparison(&table.on_target(), &sql).of_keys(pair, &taken.keys).await
            };
            let again = compared.await.map_err(|error| (Arc::clone(table), error))?;
            let moving = !again.is_empty();
            taken.compared(again);
            if moving {
                break;
            }
        }
        Ok(())
    }

    /// Looks whether listed differences were repaired.
    async fn compare_listed(&self, pair: &mut Pair) -> Failed<()> {
        self.compare_those(pair, self.differences.keys()).await
    }

    async fn compare_those(&self, pair: &mut Pair, listed: Vec<(TableName, Vec<RowKey>)>) -> Failed<()> {
        for (name, keys) in listed {
            let found = self.tables.iter().find(|table| table.name == name);
            // What is listed of a table without a row key is the table, and another pass says what became of it.
            let Some(table) = found.filter(|table| !table.keyless) else { continue };
            for keys in keys.chunks(BATCH_KEYS) {
                let compared = async {
                    let sql = self.sql_of(table)?;
                    pair.source_shows_all().await?;
                    self.comparison(&table.on_target(), &sql).of_listed(pair, keys).await
                };
                compared.await.map_err(|error| (Arc::clone(table), error))?;
            }
        }
        Ok(())
    }

    /// Behind the fence: everything that isn't settled, with both pairs of connections.
    pub(super) async fn compare_rest(&self, walker: &mut Pair, follower: &mut Pair) -> Result<()> {
        let open = self.tables.iter().filter(|table| !self.is_covered(&table.name));
        let (whole, open): (Vec<_>, Vec<_>) = open.partition(|table| self.waits_for_the_fence(table));
        let rows: u64 = open.iter().map(|table| table.rows_estimate).sum();
        if rows > STANDING_ROWS_MAX || open.iter().any(|table| self.progress.is_failed(&table.name)) {
            return Ok(()); // The verdict names them.
        }
        walker.source_shows_all().await?;
        for table in open {
            match table.keyless {
                true => self.whole_standing_still(table, walker).await?,
                false => self.pass_standing_still(table, walker).await?,
            }
        }
        for table in whole {
            self.whole_standing_still(table, walker).await?;
        }
        for _ in 0..STANDING_ROUNDS_MAX {
            let (a, b) = tokio::join!(
                self.compare_touched(walker, BATCH_KEYS_STANDING, true),
                self.compare_touched(follower, BATCH_KEYS_STANDING, true)
            );
            a.and(b).map_err(|(_, error)| error)?;
            if self.touched.pending() == 0 {
                break;
            }
        }
        self.compare_listed(follower).await.map_err(|(_, error)| error)
    }

    async fn pass_standing_still(&self, table: &Arc<TableSchema>, pair: &mut Pair) -> Result<()> {
        let sql = self.sql_of(table)?;
        let pass = self.progress.begin(&table.name);
        self.differences.recount(&table.name);
        self.touched.track(&table.name);
        let there = table.on_target();
        let compare = self.comparison(&there, &sql);
        let mut walk = Walk::new();
        while !walk.done {
            let (rows, again) = walk.step(pair, &compare).await?;
            self.touched.put(&table.name, again);
            self.progress.compared(&table.name, rows);
        }
        pass.end();
        Ok(())
    }

    /// `table` is the side's that is written: keys and values are compared and shown in its terms.
    pub(super) fn comparison<'a>(
        &'a self,
        table: &'a Arc<TableSchema>,
        sql: &'a TableSql<'a>,
    ) -> Comparison<'a> {
        Comparison { table, sql, passed: &self.passed, differences: &self.differences }
    }

    async fn revive(&self, pair: &Mutex<Pair>) {
        self.while_standing_still().await;
        let mut pair = pair.lock().await;
        if let Some(Err(error)) = self.unless_standing_still(pair.revive()).await {
            tracing::debug!("the verifier's connections are opened later: {error}");
        }
    }

    pub(super) async fn while_standing_still(&self) {
        // The sender is ours, so the only way out is the condition.
        drop(self.standing_still.subscribe().wait_for(|still| !still).await);
    }

    /// The work's result, unless a cutover wants the connections: then `None`, and the work is dropped where it is.
    pub(super) async fn unless_standing_still<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let interrupted = async {
            drop(self.standing_still.subscribe().wait_for(|still| *still).await);
            tokio::time::sleep(STANDING_GRACE).await;
        };
        tokio::select! {
            biased;
            result = work => Some(result),
            () = interrupted => None,
        }
    }

    pub(super) async fn pause_after(&self, table: &TableSchema, error: &Error) {
        let error = error.clone().in_leg(self.leg);
        tracing::warn!(area = "verify", table = %table.name, "verification is tried again: {error}");
        self.progress.note(&table.name, error.to_string());
        tokio::time::sleep(RETRY).await;
    }
}

/// An error, and the table it belongs to.
type Failed<T> = std::result::Result<T, (Arc<TableSchema>, Error)>;
