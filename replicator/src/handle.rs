//! The replicator as the rest of the binary sees it: operators' verbs, progress, and what a cutover asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::progress::{
    Conversion, Difference, Finding, MigrationStatus, Phase, ReplicationPosition, Severity, TableStatus,
    Verdict,
};
use config::{Config, Side, TableName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::live::{self, Live};
use crate::pipeline::{self, Context};
use crate::schema::convert;
use crate::state::{MigrationState, Stage, StateFile, StoredPosition};
use crate::{preflight, server};

/// How long a pause waits for batches in flight.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Moves the rows of one migration. Every verb is safe to call at any time: those that don't fit the phase say so.
#[derive(Debug)]
pub struct Replicator {
    context: Arc<Context>,
    /// The running pipeline. Its lock also makes the verbs follow one another.
    running: tokio::sync::Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Replicator {
    /// Reads what an earlier process left in `state_dir`; starts nothing.
    ///
    /// # Errors
    /// The state is damaged or belongs to another migration.
    pub fn open(config: Config) -> Result<Arc<Self>> {
        let file = StateFile::open(&config.state_dir, &config.migration.name)?;
        let live = Live::new(&config, file.get());
        let context = Arc::new(Context { config, file: Mutex::new(file), live });
        Ok(Arc::new(Self { context, running: tokio::sync::Mutex::new(None) }))
    }

    /// Goes on where an earlier process was stopped. Does nothing for a migration that is idle, paused, failed or
    /// sealed.
    pub async fn resume_after_restart(&self) {
        let mut running = self.running.lock().await;
        let goes_on = self
            .state()
            .is_some_and(|state| !state.paused && state.failed.is_none() && state.stage != Stage::Sealed);
        if goes_on {
            self.spawn(&mut running);
        }
    }

    /// START MIGRATION: preflight, then everything else in the background.
    ///
    /// # Errors
    /// It was started before, or the preflight found something fatal: then nothing was touched.
    pub async fn start(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        if self.state().is_some() {
            return Err(self.unfit("START MIGRATION"));
        }
        let config = &self.context.config;
        let findings = preflight::check(config, false).await?;
        refuse_fatal(&findings)?;
        let (source, target) = pipeline::identify(config).await?;
        self.context.store(MigrationState {
            name: config.migration.name.clone(),
            stage: Stage::Preparing,
            paused: false,
            failed: None,
            source_identity: source.identity,
            target_identity: target.identity,
            tables: Vec::new(),
            start: None,
            copied_at: None,
            sealed_at: None,
        })?;
        tracing::info!(area = "migration", "migration {} started", config.migration.name);
        self.spawn(&mut running);
        Ok(())
    }

    /// PAUSE MIGRATION: batches in flight end, everything else stops. A restart stays paused.
    ///
    /// # Errors
    /// It isn't running.
    pub async fn pause(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        let goes_on = self.state().is_some_and(|state| state.failed.is_none() && !state.paused);
        if running.is_none() || !goes_on || self.context.live.phase() == Phase::Failed {
            return Err(self.unfit("PAUSE MIGRATION"));
        }
        self.context.update(|state| state.paused = true)?;
        self.stop(&mut running).await;
        self.context.live.set_phase(Phase::Paused);
        tracing::info!(area = "migration", "migration paused");
        Ok(())
    }

    /// RESUME MIGRATION, after a pause or a failure.
    ///
    /// # Errors
    /// It is neither paused nor failed.
    pub async fn resume(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        // A failure that couldn't be written down, on a full disk, is in the phase alone.
        let failed = self.context.live.phase() == Phase::Failed;
        let stands = |state: MigrationState| state.paused || state.failed.is_some() || failed;
        if !self.state().is_some_and(stands) {
            return Err(self.unfit("RESUME MIGRATION"));
        }
        self.stop(&mut running).await;
        self.context.update(|state| {
            state.paused = false;
            state.failed = None;
        })?;
        self.context.live.clear_error();
        // It runs from here on, also where a server can't be reached yet.
        self.context.live.set_phase(live::phase_of(self.state().as_ref()));
        tracing::info!(area = "migration", "migration resumed");
        self.spawn(&mut running);
        Ok(())
    }

    /// VERIFY: begins a full pass over one table or all.
    ///
    /// # Errors
    /// The phase isn't `following`, or there is no such table.
    pub fn verify(&self, table: Option<TableName>) -> Result<()> {
        let live = &self.context.live;
        match live.verifier() {
            Some(verifier) if live.phase() == Phase::Following => verifier.request(table.as_ref()),
            _ => Err(self.unfit("VERIFY")),
        }
    }

    /// For SHOW MIGRATION STATUS. No query, no await.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        self.context.live.status()
    }

    /// For SHOW MIGRATION TABLES. No query, no await.
    #[must_use]
    pub fn tables(&self) -> Vec<TableStatus> {
        self.context.live.tables()
    }

    /// For SHOW DIFFERENCES. No query, no await.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        self.context.live.verifier().map(|verifier| verifier.differences()).unwrap_or_default()
    }

    /// For SHOW CONVERSIONS: what is defined otherwise on the target. Before the start both servers are asked.
    ///
    /// # Errors
    /// A server can't be asked, or a definition can't be read.
    pub async fn conversions(&self) -> Result<Vec<Conversion>> {
        match self.context.live.conversions() {
            Some(known) => Ok(known),
            None => preflight::conversions(&self.context.config).await,
        }
    }

    /// Every reason why a cutover can't start now; empty where it can.
    #[must_use]
    pub fn refusals(&self, max_lag_ms: u64) -> Vec<String> {
        let live = &self.context.live;
        let mut reasons = Vec::new();
        let phase = live.phase();
        if phase != Phase::Following {
            reasons.push(format!(
                "the phase is {}; wait until SHOW MIGRATION STATUS says following",
                phase.as_str()
            ));
            return reasons;
        }
        match live.lag_ms() {
            Some(lag) if lag <= max_lag_ms => {}
            Some(lag) => reasons.push(format!(
                "the target is {lag} ms behind and cutover.max_lag_ms is {max_lag_ms}; wait until it has caught up"
            )),
            None => reasons.push("the lag isn't known yet; wait a moment".to_owned()),
        }
        match live.verifier() {
            Some(verifier) => reasons.extend(verifier.refusal()),
            None => {
                reasons.push("nothing is verified yet; wait until SHOW MIGRATION TABLES says so".to_owned())
            }
        }
        reasons
    }

    /// The position at which the source ended. Only true behind a fence.
    ///
    /// # Errors
    /// The source can't be asked.
    pub async fn final_position(&self) -> Result<ReplicationPosition> {
        let mut conn = server::connect(Side::Source, &self.context.config.source).await?;
        let info = server::inspect(Side::Source, &mut conn).await?;
        let position = server::end_position(Side::Source, &info, &mut conn).await?;
        conn.disconnect().await.ok();
        Ok(position)
    }

    /// Returns when `position` is applied. Cancel safety: dropping it only stops the waiting.
    ///
    /// # Errors
    /// Replication stopped, so that it never will be.
    pub async fn wait_applied(&self, position: &ReplicationPosition) -> Result<()> {
        let live = &self.context.live;
        tokio::select! {
            () = live.applied().wait_for(position) => Ok(()),
            why = live.stopped() => Err(Error::definite(Side::Target, "wait for the final position", why)),
        }
    }

    /// The verdict while both sides stand still: what was touched since its last comparison is compared now. Beside
    /// it AUTO_INCREMENT is raised on the target where the source gave out values that it rolled back, so that no
    /// value is given out twice.
    ///
    /// # Errors
    /// A side can't be asked.
    pub async fn verdict_standing_still(&self) -> Result<Verdict> {
        let Some(verifier) = self.context.live.verifier() else {
            return Ok(Verdict::Unknown { why: "the verifier hasn't begun".to_owned() });
        };
        let (verdict, raised) = tokio::join!(verifier.verdict_standing_still(), self.raise_auto_increment());
        raised?;
        Ok(verdict)
    }

    async fn raise_auto_increment(&self) -> Result<usize> {
        let config = &self.context.config;
        let (source, target) = tokio::join!(
            server::connect(Side::Source, &config.source),
            server::connect(Side::Target, &config.target)
        );
        let (mut source, mut target) = (source?, target?);
        let raised =
            convert::raise_auto_increment(&mut source, &mut target, &self.context.live.schema()).await?;
        source.disconnect().await.ok();
        target.disconnect().await.ok();
        Ok(raised)
    }

    /// After the switch: forward replication ends for good. Idempotent.
    ///
    /// # Errors
    /// The state can't be written.
    pub async fn seal(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        self.stop(&mut running).await;
        let Some(mut state) = self.state() else { return Ok(()) };
        if state.stage != Stage::Sealed {
            state.stage = Stage::Sealed;
            state.sealed_at = self.context.live.applied().position().as_ref().map(StoredPosition::from);
            self.context.store(state)?;
            tracing::info!(area = "migration", "forward replication is over");
        }
        Ok(())
    }

    /// Ends every task, with batches in flight; for the end of the process.
    pub async fn shutdown(&self) {
        let mut running = self.running.lock().await;
        self.stop(&mut running).await;
    }

    fn state(&self) -> Option<MigrationState> {
        lock(&self.context.file).get().cloned()
    }

    fn spawn(&self, running: &mut Option<Running>) {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(pipeline::run(Arc::clone(&self.context), cancel.clone()));
        *running = Some(Running { cancel, task });
    }

    /// Cancels the pipeline and waits for it; past the deadline it is aborted, which a checkpoint survives as it
    /// survives a kill.
    async fn stop(&self, running: &mut Option<Running>) {
        if let Some(mut run) = running.take() {
            run.cancel.cancel();
            if tokio::time::timeout(STOP_DEADLINE, &mut run.task).await.is_err() {
                tracing::warn!(area = "migration", "the pipeline did not stop in time and was aborted");
                run.task.abort();
            }
        }
    }

    fn unfit(&self, statement: &str) -> Error {
        let phase = self.context.live.phase();
        let possible = match phase {
            Phase::Idle => "START MIGRATION",
            Phase::Paused | Phase::Failed => "RESUME MIGRATION",
            Phase::Preparing | Phase::Copying | Phase::CatchingUp => "PAUSE MIGRATION",
            Phase::Following => "PAUSE MIGRATION, VERIFY and CUTOVER",
            _ => "looking at it with SHOW",
        };
        Error::definite(
            None,
            format!("phase {}", phase.as_str()),
            format!("{statement} doesn't fit this phase; possible is {possible}"),
        )
    }
}

/// One error out of every fatal finding.
fn refuse_fatal(findings: &[Finding]) -> Result<()> {
    let fatal: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Fatal)
        .map(|finding| format!("{}: {}", finding.subject, finding.message))
        .collect();
    if fatal.is_empty() {
        return Ok(());
    }
    Err(Error::definite(None, "preflight", fatal.join(" | ")))
}

/// Locks a mutex whose holder can't leave it half changed, so a poisoned one is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A replicator whose servers can't be reached, with a migration that has begun.
    fn replicator(folder: &std::path::Path) -> Arc<Replicator> {
        let text = "[source]\nurl = \"mysql://r@127.0.0.1:1\"\npassword = \"p\"\n[target]\nurl = \"mysql://r@127.0.0.1:2\"\n\
                    password = \"p\"\n[migration]\nname = \"m\"\nschemas = [\"s\"]\n";
        let path = folder.join("c.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = config::Overrides {
            config: Some(path),
            state_dir: Some(folder.to_owned()),
            ..config::Overrides::default()
        };
        let replicator = Replicator::open(config::load(&overrides, &|_| None).unwrap()).unwrap();
        let state = MigrationState {
            name: "m".to_owned(),
            stage: Stage::Copying,
            paused: false,
            failed: None,
            source_identity: "a".to_owned(),
            target_identity: "b".to_owned(),
            tables: Vec::new(),
            start: None,
            copied_at: None,
            sealed_at: None,
        };
        replicator.context.store(state).unwrap();
        replicator
    }

    #[tokio::test]
    async fn a_failure_that_could_not_be_written_down_can_be_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let replicator = replicator(folder.path());
        replicator.context.live.set_phase(Phase::Failed);
        replicator.resume().await.unwrap();
        assert_eq!(replicator.context.live.phase(), Phase::Copying, "it runs, though nothing can be reached");
        replicator.pause().await.unwrap();
        assert_eq!(replicator.context.live.phase(), Phase::Paused);
        replicator.resume().await.unwrap();
        replicator.shutdown().await;
    }

    #[test]
    fn changes_of_verbs_and_pipeline_are_both_kept() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let replicator = replicator(folder.path());
            let context = &replicator.context;
            std::thread::scope(|scope| {
                scope.spawn(|| context.update(|state| state.paused = true).unwrap());
                scope.spawn(|| context.update(|state| state.stage = Stage::Replaying).unwrap());
            });
            let state = replicator.state().unwrap();
            assert!(state.paused && state.stage == Stage::Replaying);
        }
    }
}
