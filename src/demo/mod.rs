//! `changeover demo`: a live database moves between two scratch servers while an application goes on writing, and
//! then the application's own books are checked against the new server.

mod application;
mod audit;
mod display;
mod process;
mod report;
mod scratch;
mod serve;
mod shop;
mod watch;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use application::pulse::Stage;
use application::{Application, SESSIONS};
use display::{Bar, Display};
use report::Report;
use scratch::Scratch;
use serve::Serve;
use watch::Watched;

/// Traffic before the migration starts, and after the cutover.
const TRAFFIC_AROUND: Duration = Duration::from_secs(4);

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct DemoOptions {
    /// Keep everything up for so many seconds after the report.
    pub(crate) seconds: Option<u64>,
    /// Address of the console.
    pub(crate) console: Option<String>,
}

/// Ctrl-C or SIGTERM ended the demo; everything is cleaned up. For exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; everything the demo started is stopped and removed")]
pub(crate) struct Interrupted;

/// Runs the demo. True when everything holds that the report promises.
pub(crate) async fn run(options: DemoOptions) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let dir = tempfile::Builder::new().prefix("changeover-demo-").tempdir().context("no temporary folder")?;
    // Whatever ends this select drops the performance, which kills its children, and then the folder.
    tokio::select! {
        done = perform(&options, dir.path()) => done,
        _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
        _ = hangup.recv() => Err(Interrupted.into()),
    }
}

/// The stage: servers, Changeover and the application, with what was counted before it all began.
struct Scene {
    source: Scratch,
    target: Scratch,
    serve: Serve,
    application: Application,
    before: BTreeMap<&'static str, u64>,
}

async fn perform(options: &DemoOptions, dir: &Path) -> Result<bool> {
    let display = Display::new();
    let mut scene = set_up(options, dir, &display).await?;
    let shown = show(&mut scene, &display).await;
    let (watched, cutover, moved) = match shown {
        Ok(shown) => shown,
        Err(error) => {
            display.finish();
            // The folder goes away, so this is the only place where the log can still be read.
            return Err(error.context(format!("the end of Changeover's log:\n{}\n", scene.serve.log_tail())));
        }
    };
    let Scene { source, target, serve, application, before } = scene;
    let pulse = std::sync::Arc::clone(&application.pulse);
    let books = application.close().await?;
    display.pulse("closed its books; comparing them with the new server");
    let audit = audit::compare(&books, &before, &source, &target).await?;
    display.finish();
    let (felt, errors, pause) = Report::feel(&pulse);
    let report = Report {
        copied: (watched.rows, watched.copy),
        lag_ms: (watched.lag_max_ms, watched.lag_last_ms),
        verified: (watched.rows_verified, watched.differences),
        cutover,
        moved,
        audit,
        application: felt,
        errors,
        pause,
        slowest: pulse.slowest_was(),
    };
    let failures = report.failures();
    let mut out = std::io::stdout();
    writeln!(out, "\nWhat happened\n{report}")?;
    if failures.is_empty() {
        writeln!(out, "\nThe database moved, and the application didn't notice.")?;
    } else {
        writeln!(out, "\nTHIS DOES NOT HOLD:\n  {}", failures.join("\n  "))?;
        writeln!(std::io::stderr(), "\nThe end of Changeover's log:\n{}", serve.log_tail())?;
    }
    look_around(options, &serve, &source, &target).await?;
    Ok(failures.is_empty())
}

async fn set_up(options: &DemoOptions, dir: &Path, display: &Display) -> Result<Scene> {
    display.say(
        "Two scratch MariaDB servers, a shop with half a million rows, and an application that uses it.",
    );
    let (source, target) = scratch::start_two(dir).await?;
    shop::open(&source, &target, |table, done, of| display.bar(Bar::Fill, done as u64, of as u64, table))
        .await?;
    let before = audit::count_all(&source).await?;
    let serve = Serve::start(dir, &source, &target, options.console.as_deref()).await?;
    let application = Application::open(serve.proxy_port).await?;
    display.say(&format!(
        "source 127.0.0.1:{}, target 127.0.0.1:{}; the application's {SESSIONS} sessions talk to 127.0.0.1:{}",
        source.port, target.port, serve.proxy_port
    ));
    Ok(Scene { source, target, serve, application, before })
}

/// From START MIGRATION to some seconds after the cutover. Returns what was watched, the cutover's row and how
/// many sessions of the application are on the new server.
async fn show(scene: &mut Scene, display: &Display) -> Result<(Watched, serve::Record, u64)> {
    let pulse = std::sync::Arc::clone(&scene.application.pulse);
    watch::idle(&mut scene.serve, &pulse, display, TRAFFIC_AROUND).await?;
    pulse.enter(Stage::Replicating);
    let mut watched = watch::follow(&mut scene.serve, &pulse, display).await?;
    pulse.enter(Stage::Cutover);
    let cutover = watch::cut_over(&mut scene.serve, display).await?;
    pulse.enter(Stage::After);
    watch::idle(&mut scene.serve, &pulse, display, TRAFFIC_AROUND).await?;
    let mut admin = scene.serve.admin().await?;
    let status = admin.row("SHOW MIGRATION STATUS").await?;
    watched.rows_verified = serve::number(&status, "rows_verified");
    watched.differences = serve::number(&status, "differences");
    let sessions = admin.query("SHOW SESSIONS").await?;
    let on_target = |row: &&serve::Record| {
        serve::cell(row, "user") == "shopper" && serve::cell(row, "backend") == "target"
    };
    let moved = sessions.iter().filter(on_target).count() as u64;
    Ok((watched, cutover, moved))
}

/// Says how to go on, and keeps everything up while the operator does.
async fn look_around(options: &DemoOptions, serve: &Serve, source: &Scratch, target: &Scratch) -> Result<()> {
    let mut out = std::io::stdout();
    let Some(seconds) = options.seconds else {
        writeln!(
            out,
            "\nTo look around: ./demo --seconds 600 keeps the servers and Changeover up for ten minutes."
        )?;
        writeln!(out, "To move a database of your own: see README.md.")?;
        return Ok(());
    };
    let (admin, password) = (serve::ADMIN, serve::ADMIN_PASSWORD);
    writeln!(out, "\nEverything stays up for {seconds} s (Ctrl-C ends it). Look around:")?;
    for (what, command) in [
        (
            "admin SQL",
            format!(
                "mariadb -h127.0.0.1 -P{} -u{admin} -p{password} -e 'SHOW CUTOVERS\\G SHOW EVENTS; HELP'",
                serve.admin_port
            ),
        ),
        ("through the proxy", format!("mariadb -h127.0.0.1 -P{} -ushopper -pshopper shop", serve.proxy_port)),
        ("the old server", format!("mariadb -h127.0.0.1 -P{} -uroot shop", source.port)),
        ("the new server", format!("mariadb -h127.0.0.1 -P{} -uroot shop", target.port)),
    ] {
        writeln!(out, "  {what:18} {command}")?;
    }
    out.flush()?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        // The verdict is already printed, so leaving early is no interruption of it.
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
