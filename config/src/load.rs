//! Flags over environment over file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Config;
use crate::raw::{self, Place, Problems, RawConfig, Said};
use crate::validate::validate;

/// A configuration or password file that is longer is a mistake, not a file to be held in memory (invariant 7).
const FILE_BYTES_MAX: u64 = 1 << 20;

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
    overrides: &Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    let file = overrides.config.as_deref().map(|path| path.display().to_string());
    let mut problems = Problems::of_file(file);
    let mut raw = match &overrides.config {
        Some(path) => match read_file(path) {
            Ok(text) => raw::read(&text, &mut problems),
            Err(why) => {
                problems.add(Place::Missing, format!("the configuration file can't be read: {why}"));
                return Err(ConfigErrors(problems.into_lines()));
            }
        },
        None => RawConfig::default(),
    };
    let broken = problems.is_broken();
    override_settings(&mut raw, overrides, environment, &mut problems);
    let config = validate(raw, environment, &mut problems, broken);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors(problems.into_lines())),
    }
}

/// Flags over environment over file, setting by setting. An empty variable counts as not set.
fn override_settings(
    raw: &mut RawConfig,
    flags: &Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) {
    let said = |flag: &Option<String>, flag_name, variable| match flag {
        Some(value) => Some(Said { value: value.clone(), place: Place::Flag(flag_name) }),
        None => environment(variable)
            .filter(|value| !value.is_empty())
            .map(|value| Said { value, place: Place::Environment(variable) }),
    };
    let replace = |setting: &mut Option<Said<String>>, other: Option<Said<String>>| {
        if other.is_some() {
            *setting = other;
        }
    };
    replace(&mut raw.proxy_listen, said(&flags.listen, "--listen", "CHANGEOVER_LISTEN"));
    replace(&mut raw.admin_listen, said(&flags.admin, "--admin", "CHANGEOVER_ADMIN"));
    replace(&mut raw.console_listen, said(&flags.console, "--console", "CHANGEOVER_CONSOLE"));
    let state_dir = flags.state_dir.as_ref().map(|path| path.to_str().map(str::to_owned));
    if matches!(state_dir, Some(None)) {
        problems.add(Place::Flag("--state-dir"), "the path isn't UTF-8; choose another folder");
    }
    replace(&mut raw.state_dir, said(&state_dir.flatten(), "--state-dir", "CHANGEOVER_STATE_DIR"));
    if let Some(url) = said(&flags.source, "--source", "CHANGEOVER_SOURCE") {
        raw.source.url = Some(Said { value: url.value.into(), place: url.place });
    }
    if let Some(url) = said(&flags.target, "--target", "CHANGEOVER_TARGET") {
        raw.target.url = Some(Said { value: url.value.into(), place: url.place });
    }
    if let Some(schemas) = &flags.schemas {
        let value = schemas.iter().map(|name| name.trim().to_owned()).collect();
        raw.schemas = Some(Said { value, place: Place::Flag("--schemas") });
    } else if let Some(list) = said(&None, "--schemas", "CHANGEOVER_SCHEMAS") {
        let value = list.value.split(',').map(|name| name.trim().to_owned()).collect();
        raw.schemas = Some(Said { value, place: list.place });
    }
}

/// The whole of a small text file. It may hold passwords, so its memory is overwritten when it is dropped.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = Zeroizing::new(String::new());
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > FILE_BYTES_MAX => {
            Err(format!("it is over {FILE_BYTES_MAX} bytes long"))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err("it isn't UTF-8".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
