//! The migration's own durable state, `migration.json` in state_dir: which stage it has reached.
//!
//! The applied position isn't here: it is committed on the target beside the rows it speaks of.

use std::path::{Path, PathBuf};

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Flavor, GtidSet, durable};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::leg::Leg;

const FILE: &str = "migration.json";
const NAME: &str = "migration";
const VERSION: u32 = 1;

/// How far a migration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// START MIGRATION was accepted. Set by `Replicator::start`; a restart makes the tables again.
    Preparing,
    /// The start position is known and the tables exist. Set by the pipeline; a restart goes on with the chunks
    /// that the chunk journal doesn't have.
    Copying,
    /// Every chunk is copied. Set by the pipeline, and by `Replicator::seal` for the leg behind a swap; a restart goes
    /// on behind the checkpoint.
    Replaying,
    /// The target serves and nothing follows it. Set by `Replicator::seal`; a restart does nothing.
    Sealed,
    /// FINISH MIGRATION: whichever side serves, nothing follows it any more. Set by `Replicator::finish`.
    Finished,
    /// ABANDON MIGRATION: the source serves as if nothing had been. Set by `Replicator::abandon`.
    Abandoned,
}

/// What `migration.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MigrationState {
    /// `migration.name`.
    pub(crate) name: String,
    /// How far it is.
    pub(crate) stage: Stage,
    /// PAUSE MIGRATION was said last.
    pub(crate) paused: bool,
    /// What paused it, where that wasn't PAUSE MIGRATION; RESUME MIGRATION takes it away.
    #[serde(default)]
    pub(crate) paused_by: Option<String>,
    /// The error that stopped it; RESUME MIGRATION takes it away.
    pub(crate) failed: Option<String>,
    /// `migration.rename` as it was when the migration was started.
    #[serde(default)]
    pub(crate) renames: Vec<String>,
    /// [`crate::server::ServerInfo::identity`] of the source.
    pub(crate) source_identity: String,
    /// [`crate::server::ServerInfo::identity`] of the target.
    pub(crate) target_identity: String,
    /// The tables that are moved, as schema and table, from stage `copying` on. What the source has besides came
    /// later, or is excluded.
    pub(crate) tables: Vec<(String, String)>,
    /// Where the present leg starts on the side that it reads: P0 of the first one, from stage `copying` on.
    pub(crate) start: Option<StoredPosition>,
    /// Up to here the leg is replayed in safe mode. P1 of the first one: what the copy could see ends here; from stage
    /// `replaying` on. Every other leg's is its start.
    pub(crate) copied_at: Option<StoredPosition>,
    /// The checkpoint at the seal, for SHOW MIGRATION STATUS after a restart.
    pub(crate) sealed_at: Option<StoredPosition>,
    /// The present leg.
    #[serde(default = "first_leg")]
    pub(crate) leg: Leg,
    /// The source doesn't log whole rows: each table is copied as it is at one position. From stage `copying` on.
    #[serde(default)]
    pub(crate) at_one_position: bool,
    /// Every XA transaction with changes for this migration is prepared behind where the present leg starts, or was ended
    /// before a row was copied. From stage `copying` on. False: the account may not ask what is prepared.
    #[serde(default)]
    pub(crate) knows_prepared: bool,
    /// The source's end once those prepared before the start had ended: what a replica has to have applied before it is read.
    #[serde(default)]
    pub(crate) settled_at: Option<StoredPosition>,
    /// The replica whose SQL thread was stopped for the copy, as host:port, until it runs again.
    #[serde(default)]
    pub(crate) standing_replica: Option<String>,
    /// What was proven equal where the present leg starts; empty for the first one.
    #[serde(default)]
    pub(crate) proven: Vec<Proven>,
    /// What a cutover under way has prepared for the leg behind its swap. Whether there was a swap is in the cutover
    /// journal alone: `Replicator::seal` makes it the present leg, `Replicator::turn_back` throws it away.
    #[serde(default)]
    pub(crate) next: Option<NextLeg>,
}

fn first_leg() -> Leg {
    Leg::FIRST
}

/// The leg behind a swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextLeg {
    /// Where the side that it reads ended, behind the closed gate and with nobody applying to it.
    pub(crate) start: StoredPosition,
    /// As in [`MigrationState`].
    #[serde(default)]
    pub(crate) knows_prepared: bool,
    /// What the verdict of that cutover rests on.
    pub(crate) proven: Vec<Proven>,
}

/// A table whose every row was equal on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proven {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// Rows that were compared.
    pub(crate) rows: u64,
}

impl MigrationState {
    /// A migration that has just been started, between these two servers.
    pub(crate) fn begun(
        name: String,
        renames: Vec<String>,
        source_identity: String,
        target_identity: String,
    ) -> Self {
        Self {
            name,
            renames,
            stage: Stage::Preparing,
            paused: false,
            failed: None,
            source_identity,
            target_identity,
            paused_by: None,
            tables: Vec::new(),
            start: None,
            copied_at: None,
            at_one_position: false,
            knows_prepared: false,
            settled_at: None,
            standing_replica: None,
            sealed_at: None,
            leg: Leg::FIRST,
            proven: Vec::new(),
            next: None,
        }
    }

    /// True where a leg is to run: neither over nor stopped.
    pub(crate) fn goes_on(&self) -> bool {
        !self.paused && self.failed.is_none() && !self.is_over()
    }

    /// True where no leg will ever run again, or none until a rollback that there is no way for.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Sealed | Stage::Finished | Stage::Abandoned)
    }

    /// Makes the leg that a cutover prepared the present one.
    pub(crate) fn take_next_leg(&mut self) -> bool {
        let Some(next) = self.next.take() else { return false };
        self.leg = self.leg.next();
        self.stage = Stage::Replaying;
        self.copied_at = Some(next.start.clone());
        self.start = Some(next.start);
        self.knows_prepared = next.knows_prepared;
        self.settled_at = None;
        self.proven = next.proven;
        self.paused = false;
        self.paused_by = None;
        self.failed = None;
        true
    }
}

/// A [`ReplicationPosition`] as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPosition {
    flavor: StoredFlavor,
    gtids: String,
    coordinates: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredFlavor {
    MySql,
    MariaDb,
}

impl From<&ReplicationPosition> for StoredPosition {
    fn from(position: &ReplicationPosition) -> Self {
        Self {
            flavor: match position.gtids.flavor() {
                Flavor::MySql => StoredFlavor::MySql,
                Flavor::MariaDb => StoredFlavor::MariaDb,
            },
            gtids: position.gtids.to_string(),
            coordinates: position.coordinates.to_string(),
        }
    }
}

impl StoredPosition {
    /// Back to a position.
    pub(crate) fn read(&self) -> Result<ReplicationPosition> {
        let flavor = match self.flavor {
            StoredFlavor::MySql => Flavor::MySql,
            StoredFlavor::MariaDb => Flavor::MariaDb,
        };
        let wrong = |error: config::ParsePositionError| {
            Error::definite(None, FILE, format!("{error}; start over with an empty state_dir"))
        };
        Ok(ReplicationPosition {
            gtids: GtidSet::parse(flavor, &self.gtids).map_err(wrong)?,
            coordinates: self.coordinates.parse::<BinlogPosition>().map_err(wrong)?,
        })
    }
}

/// The file, and what is in it.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    state: Option<MigrationState>,
}

impl StateFile {
    /// Reads `migration.json`, if there is one.
    ///
    /// # Errors
    /// It is damaged, or belongs to a migration of another name, or to one that renames otherwise.
    pub(crate) fn open(state_dir: &Path, name: &str, renames: &[String]) -> Result<Self> {
        let path = state_dir.join(FILE);
        let bytes =
            durable::read(&path, NAME, VERSION).map_err(|e| Error::definite(None, FILE, e.to_string()))?;
        let state: Option<MigrationState> = match bytes {
            None => None,
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| {
                Error::definite(
                    None,
                    FILE,
                    format!("it can't be read ({error}); start over with an empty state_dir"),
                )
            })?),
        };
        if let Some(state) = &state
            && state.name != name
        {
            return Err(Error::definite(
                None,
                FILE,
                format!(
                    "this state_dir belongs to the migration `{}`, the configuration names `{name}`; set migration.name \
                     or give it a state_dir of its own",
                    state.name
                ),
            ));
        }
        if let Some(state) = &state
            && state.renames != renames
            && !matches!(state.stage, Stage::Finished | Stage::Abandoned)
        {
            let were = if state.renames.is_empty() { "nothing".to_owned() } else { state.renames.join(", ") };
            return Err(Error::definite(
                None,
                FILE,
                format!(
                    "migration.rename was changed since the migration began, and tables have the names that it said then \
                     ({were}); put it back, or begin again with an empty state_dir and an empty target"
                ),
            ));
        }
        Ok(Self { path, state })
    }

    /// What is in it; `None` before START MIGRATION.
    pub(crate) fn get(&self) -> Option<&MigrationState> {
        self.state.as_ref()
    }

    /// Replaces it durably; in memory only once it is on disk.
    pub(crate) fn set(&mut self, state: MigrationState) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&state).map_err(|e| Error::bug(FILE, e.to_string()))?;
        durable::write(&self.path, NAME, VERSION, &bytes)
            .map_err(|e| Error::definite(None, FILE, e.to_string()))?;
        self.state = Some(state);
        Ok(())
    }
}
