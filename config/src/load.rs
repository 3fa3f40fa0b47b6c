//! Flags over environment over file.

use std::path::PathBuf;

use crate::Config;

/// What the command line says. `None`: not said. Flags win over the environment, that over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--source`, a `mysql://user:password@host:port` URL
    pub source: Option<String>,
    /// `--target`, a `mysql://user:password@host:port` URL
    pub target: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--console`
    pub console: Option<String>,
    /// `--schemas a,b`
    pub schemas: Option<Vec<String>>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
}

/// Every error of a configuration, one a line: `file:line: what, and the nearest right name`.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// Reads, merges and checks. `environment` is asked for `CHANGEOVER_…` names and for `{ env = "NAME" }`
/// passwords; pass `|name| std::env::var(name).ok()`.
pub fn load(
    _overrides: &Overrides,
    _environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    todo!()
}
