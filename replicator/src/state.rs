//! The migration's own durable state, `migration.json` in state_dir: which stage it has reached.
//!
//! The applied position isn't here: it is committed on the target beside the rows it speaks of.

use std::path::{Path, PathBuf};

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Flavor, GtidSet, durable};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    /// Every chunk is copied. Set by the pipeline; a restart goes on behind the checkpoint.
    Replaying,
    /// The target serves and forward replication is over. Set by `Replicator::seal`; a restart does nothing.
    Sealed,
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
    /// [`crate::server::ServerInfo::identity`] of the source.
    pub(crate) source_identity: String,
    /// [`crate::server::ServerInfo::identity`] of the target.
    pub(crate) target_identity: String,
    /// P0, from stage `copying` on.
    pub(crate) start: Option<StoredPosition>,
    /// P1: what the copy could see ends here. From stage `replaying` on.
    pub(crate) copied_at: Option<StoredPosition>,
    /// The checkpoint at the seal, for SHOW MIGRATION STATUS after a restart.
    pub(crate) sealed_at: Option<StoredPosition>,
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
    /// It is damaged, or belongs to a migration of another name.
    pub(crate) fn open(state_dir: &Path, name: &str) -> Result<Self> {
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
