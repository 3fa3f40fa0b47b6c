//! The binary: arguments in, exit code out. What happens in between stands in [`app`].

mod admin_client;
mod allocator;
mod app;
mod check;
mod cli;
mod demo;
mod event_layer;
mod open_files;
mod state_dir;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::demo::{DemoOptions, Interrupted};

/// As a shell reports SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// A name of the configuration is wrong, or a file is missing: nothing was started.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    allocator::return_large_blocks();
    let cli = Cli::parse();
    let events = event_layer::install(cli.log_format);
    let config = match cli.command.migration_flags() {
        Some(flags) => match config::load(&flags.overrides(), &|name| std::env::var(name).ok()) {
            Ok(config) => Some(config),
            Err(errors) => {
                for error in &errors.0 {
                    eprintln!("changeover: {error}");
                }
                return ExitCode::from(EXIT_CONFIGURATION);
            }
        },
        None => None,
    };
    let workers = config.as_ref().map_or(0, |config| config.proxy.workers);
    let runtime = match app::runtime(workers) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("changeover: the runtime can't be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match (cli.command, config) {
            (Command::Serve(_), Some(config)) => app::serve(config, events).await,
            (Command::Check(_), Some(config)) => check::run(&config).await,
            (Command::Demo { seconds, console }, _) => demo(DemoOptions { seconds, console }).await,
            (Command::Admin { url, sql }, _) => admin_client::run(&url, &sql).await,
            (Command::Serve(_) | Command::Check(_), None) => Ok(ExitCode::from(EXIT_CONFIGURATION)),
        }
    });
    // Whatever still runs has been cancelled; it doesn't get to hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result.unwrap_or_else(|error| {
        eprintln!("changeover: {error:#}");
        ExitCode::FAILURE
    })
}

async fn demo(options: DemoOptions) -> anyhow::Result<ExitCode> {
    match demo::run(options).await {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("changeover: {error}");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}
