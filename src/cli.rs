//! The command line. INTERFACE: its names are a contract with users; see README.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use config::Overrides;

/// Moves a live MySQL-compatible database to another server while the application keeps its address and its
/// connections.
#[derive(Debug, Parser)]
#[command(name = "changeover", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// How log lines on stderr look. Levels: RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stand in front of the source, and move it to the target when told to
    #[command(after_help = "Example:\n  changeover serve --config changeover.toml\n  \
        changeover serve --source mysql://repl:…@10.0.0.1:3306 --target mysql://repl:…@10.0.0.2:3306 --schemas shop")]
    Serve(MigrationFlags),
    /// Can this migration work? A row a finding; exit 1 where one is fatal
    #[command(after_help = "Example:\n  changeover check --config changeover.toml")]
    Check(MigrationFlags),
    /// Watch a live database move between two scratch servers, and the proof that nothing was lost
    #[command(after_help = "Example:\n  changeover demo\n  changeover demo --seconds 600")]
    Demo {
        /// Keep everything up for so many seconds after the report
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// HTTP: metrics, health, status as JSON [default: none]
        #[arg(long, value_name = "ADDR")]
        console: Option<String>,
    },
    /// Run one admin statement and print its rows as the mysql client would
    #[command(
        after_help = "Example:\n  changeover admin --url mysql://admin:…@127.0.0.1:6032 \"SHOW MIGRATION STATUS\\G\""
    )]
    Admin {
        /// The admin listener: mysql://user:password@host:port
        #[arg(
            long,
            env = "CHANGEOVER_ADMIN_URL",
            default_value = "mysql://admin@127.0.0.1:6032",
            hide_env_values = true
        )]
        url: String,
        /// One statement; `\G` at its end prints a line a column
        sql: String,
    },
}

/// Flags of `serve` and `check`. They win over the environment (CHANGEOVER_…), that over the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct MigrationFlags {
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE", env = "CHANGEOVER_CONFIG")]
    config: Option<PathBuf>,
    /// The old backend: mysql://user:password@host:port
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The new backend: mysql://user:password@host:port
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Where applications connect [default: 127.0.0.1:3307]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where operators connect [default: 127.0.0.1:6032]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// HTTP: metrics, health, status as JSON [default: none]
    #[arg(long, value_name = "ADDR")]
    console: Option<String>,
    /// Schemas to move [default: every one that isn't the server's own]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    schemas: Option<Vec<String>>,
    /// Folder of what must survive a restart [default: changeover-state]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl MigrationFlags {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            console: self.console.clone(),
            schemas: self.schemas.clone(),
            state_dir: self.state_dir.clone(),
        }
    }
}

impl Command {
    /// The flags of a command that needs a configuration.
    pub(crate) fn migration_flags(&self) -> Option<&MigrationFlags> {
        match self {
            Command::Serve(flags) | Command::Check(flags) => Some(flags),
            Command::Demo { .. } | Command::Admin { .. } => None,
        }
    }
}
