//! The replicator as the rest of the binary sees it: operators' verbs, progress, and what a cutover asks.

mod cutover;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::progress::{
    Conversion, Difference, Finding, MigrationStatus, Phase, Repaired, Severity, TableStatus,
};
use config::{Config, Side, TableName, failpoint};
use mysql_async::Conn;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::activation;
use crate::error::{Error, Result};
use crate::live::{self, Live};
use crate::pipeline::{self, Context};
use crate::preflight;
use crate::server::ServerInfo;
use crate::state::{MigrationState, Stage, StateFile, StoredPosition};
use crate::stray::Strays;

/// How long a pause waits for batches in flight.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Moves the rows of one migration. Every verb is safe to call at any time: those that don't fit the phase say so.
#[derive(Debug)]
pub struct Replicator {
    context: Arc<Context>,
    /// The running pipeline. Its lock also makes the verbs follow one another.
    running: tokio::sync::Mutex<Option<Running>>,
    /// Connections that ask for positions, source and target, so that the pause of a cutover needn't pay for dialling.
    asking: [tokio::sync::Mutex<Option<(Conn, ServerInfo)>>; 2],
    /// What a cutover that may follow makes of triggers and events.
    prepared: tokio::sync::Mutex<Option<activation::Prepared>>,
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
        let file =
            StateFile::open(&config.state_dir, &config.migration.name, &config.migration.rename.to_text())?;
        let live = Live::new(&config, file.get());
        let context = Arc::new(Context { config, file: Mutex::new(file), live, strays: Strays::default() });
        Ok(Arc::new(Self {
            context,
            running: tokio::sync::Mutex::default(),
            asking: Default::default(),
            prepared: tokio::sync::Mutex::default(),
        }))
    }

    /// Goes on where an earlier process was stopped. Does nothing for a migration that is idle, paused, failed or over.
    /// `serving` is what the cutover journal says: only a leg that reads that side may run.
    ///
    /// # Errors
    /// The state can't be written.
    pub async fn resume_after_restart(&self, serving: Side) -> Result<()> {
        let mut running = self.running.lock().await;
        let Some(state) = self.state() else { return Ok(()) };
        if state.leg.reads() != serving {
            return Ok(());
        }
        if state.next.is_some() {
            // A cutover that was undone had come that far.
            self.context.update(|state| state.next = None)?;
            failpoint::hit("migration.next.dropped");
        }
        if state.goes_on() && running.is_none() {
            self.spawn(&mut running);
        }
        Ok(())
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
        let (name, renames) = (config.migration.name.clone(), config.migration.rename.to_text());
        self.context.store(MigrationState::begun(name, renames, source.identity, target.identity))?;
        failpoint::hit("migration.begun");
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
        let goes_on = self.state().is_some_and(|state| state.goes_on());
        if running.is_none() || !goes_on || self.context.live.phase() == Phase::Failed {
            return Err(self.unfit("PAUSE MIGRATION"));
        }
        self.context.update(|state| state.paused = true)?;
        failpoint::hit("migration.paused");
        Self::stop(&mut running).await;
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
        // What couldn't be written down, on a full disk, is in the phase alone.
        let unwritten = matches!(self.context.live.phase(), Phase::Failed | Phase::Paused);
        let stands =
            |state: MigrationState| (state.paused || state.failed.is_some() || unwritten) && !state.is_over();
        if !self.state().is_some_and(stands) {
            return Err(self.unfit("RESUME MIGRATION"));
        }
        Self::stop(&mut running).await;
        self.context.update(|state| {
            state.paused = false;
            state.paused_by = None;
            state.failed = None;
        })?;
        failpoint::hit("migration.resumed");
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

    /// REPAIR: makes listed differences equal on the target, of one table or all. `dry_run` only says how. The caller
    /// keeps cutovers away meanwhile.
    ///
    /// # Errors
    /// The phase isn't `following`, there is no such table, or a row can't be repaired.
    pub async fn repair(&self, table: Option<TableName>, dry_run: bool) -> Result<Vec<Repaired>> {
        let live = &self.context.live;
        match live.verifier() {
            Some(verifier) if dry_run => verifier.repair_plan(table.as_ref()),
            Some(verifier) if live.phase() == Phase::Following => verifier.repair(table.as_ref()).await,
            _ => Err(self.unfit("REPAIR")),
        }
    }

    /// For SHOW MIGRATION STATUS. No query, no await.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        let mut status = self.context.live.status();
        self.context.strays.add_to(&mut status);
        status
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
        if self.state().is_some_and(|state| state.is_over()) {
            reasons.push(format!(
                "nothing follows the side that serves (the phase is {}), so there is no way to the other one",
                phase.as_str()
            ));
            return reasons;
        }
        reasons.extend(self.context.strays.refusal(self.context.leg().writes()));
        if phase != Phase::Following {
            reasons.push(format!(
                "replication isn't following yet, its phase is {}; wait for it",
                phase.as_str()
            ));
            return reasons;
        }
        match live.lag_ms() {
            Some(lag) if lag <= max_lag_ms => {}
            Some(lag) => reasons.push(format!(
                "the {} is {lag} ms behind and cutover.max_lag_ms is {max_lag_ms}; wait until it has caught up",
                self.context.leg().writes()
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

    /// FINISH MIGRATION: nothing follows the target any more, which goes on serving.
    ///
    /// # Errors
    /// The target doesn't serve, or the state can't be written.
    pub async fn finish(&self) -> Result<()> {
        self.end_for_good("FINISH MIGRATION", Stage::Finished).await
    }

    /// ABANDON MIGRATION: nothing follows the source any more, which goes on serving.
    ///
    /// # Errors
    /// The source doesn't serve, or the state can't be written.
    pub async fn abandon(&self) -> Result<()> {
        self.end_for_good("ABANDON MIGRATION", Stage::Abandoned).await
    }

    /// Whether the verb fits the side that serves is the caller's to know.
    async fn end_for_good(&self, statement: &str, stage: Stage) -> Result<()> {
        let mut running = self.running.lock().await;
        let fits = |state: &MigrationState| !matches!(state.stage, Stage::Finished | Stage::Abandoned);
        let Some(mut state) = self.state().filter(fits) else { return Err(self.unfit(statement)) };
        Self::stop(&mut running).await;
        state.sealed_at = self.context.live.applied().position().as_ref().map(StoredPosition::from);
        (state.stage, state.paused, state.failed) = (stage, false, None);
        self.context.store(state.clone())?;
        failpoint::hit(match stage {
            Stage::Abandoned => "migration.abandoned",
            _ => "migration.finished",
        });
        self.context.live.clear_error();
        self.context.live.set_phase(live::phase_of(Some(&state)));
        pipeline::forget_everything(&self.context).await;
        Ok(())
    }

    /// Ends every task, with batches in flight; for the end of the process.
    pub async fn shutdown(&self) {
        let mut running = self.running.lock().await;
        Self::stop(&mut running).await;
        self.context.strays.let_go();
        self.context.strays.turn();
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
    ///
    /// Cancel safety: dropped half-way, the pipeline still counts as running, and the next call waits for its end.
    async fn stop(running: &mut Option<Running>) {
        if let Some(run) = running {
            run.cancel.cancel();
            if tokio::time::timeout(STOP_DEADLINE, &mut run.task).await.is_err() {
                tracing::warn!(area = "migration", "the pipeline did not stop in time and was aborted");
                run.task.abort();
            }
            *running = None;
        }
    }

    fn unfit(&self, statement: &str) -> Error {
        let phase = self.context.live.phase();
        let possible = match phase {
            Phase::Idle => "START MIGRATION",
            Phase::Paused | Phase::Failed => "RESUME MIGRATION",
            Phase::Preparing | Phase::Copying | Phase::CatchingUp => "PAUSE MIGRATION",
            Phase::Following => "PAUSE MIGRATION, VERIFY, REPAIR, CUTOVER or ROLLBACK CUTOVER",
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
        let begun = MigrationState::begun("m".to_owned(), Vec::new(), "a".to_owned(), "b".to_owned());
        let state = MigrationState { stage: Stage::Copying, ..begun };
        replicator.context.store(state).unwrap();
        replicator
    }

    #[tokio::test]
    async fn what_could_not_be_written_down_can_be_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let replicator = replicator(folder.path());
        replicator.context.live.set_phase(Phase::Paused);
        replicator.resume().await.unwrap();
        replicator.context.live.set_phase(Phase::Failed);
        replicator.resume().await.unwrap();
        assert_eq!(replicator.context.live.phase(), Phase::Copying, "it runs, though nothing can be reached");
        replicator.pause().await.unwrap();
        assert_eq!(replicator.context.live.phase(), Phase::Paused);
        replicator.resume().await.unwrap();
        replicator.shutdown().await;
    }

    #[tokio::test]
    async fn replication_goes_on_behind_a_hold_that_was_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let replicator = replicator(folder.path());
        replicator.turn_back().await.unwrap();
        // A hold that was dropped has cancelled the pipeline and not seen its end.
        replicator.running.lock().await.as_ref().unwrap().cancel.cancel();
        replicator.turn_back().await.unwrap();
        {
            let running = replicator.running.lock().await;
            assert!(!running.as_ref().unwrap().cancel.is_cancelled(), "nothing runs any more");
        }
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
