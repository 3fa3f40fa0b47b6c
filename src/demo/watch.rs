//! The operator's part: START MIGRATION, a look at SHOW MIGRATION STATUS now and then, CUTOVER.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::application::pulse::{Pulse, Stage};
use super::display::{Bar, Display};
use super::report::{ms, thousands};
use super::serve::{Admin, Record, Serve, cell, number};

/// Between two looks at the status.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// The whole way to a state from which a cutover is possible.
const FOLLOW_MAX: Duration = Duration::from_secs(900);
/// A cutover that is refused or undone is asked for again for so long.
const CUTOVER_MAX: Duration = Duration::from_secs(30);

/// What the report tells of the time before the cutover.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Rows copied.
    pub(crate) rows: u64,
    /// How long the copy took.
    pub(crate) copy: Duration,
    /// Largest lag seen while following.
    pub(crate) lag_max_ms: u64,
    /// Lag right before the cutover.
    pub(crate) lag_last_ms: u64,
    /// Rows that the verifier compared.
    pub(crate) rows_verified: u64,
    /// Rows that differ.
    pub(crate) differences: u64,
}

/// Lets the application work for a while.
pub(crate) async fn idle(serve: &mut Serve, pulse: &Pulse, display: &Display, time: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        feel(pulse, display);
        serve.alive()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Starts the migration and watches it until everything is copied, applied and verified.
pub(crate) async fn follow(serve: &mut Serve, pulse: &Pulse, display: &Display) -> Result<Watched> {
    let mut admin = serve.admin().await?;
    let began = Instant::now();
    admin.query("START MIGRATION").await?;
    let mut watched = Watched::default();
    let mut backlog_max = 0;
    loop {
        serve.alive()?;
        feel(pulse, display);
        let status = admin.row("SHOW MIGRATION STATUS").await?;
        let phase = cell(&status, "phase");
        if matches!(phase, "failed" | "paused" | "abandoned") {
            bail!("the migration is {phase}: {}", cell(&status, "last_error"));
        }
        let copying = matches!(phase, "idle" | "preparing" | "copying");
        if copying {
            watched.copy = began.elapsed();
        }
        watched.rows = number(&status, "rows_copied");
        let backlog = number(&status, "lag_bytes");
        backlog_max = backlog_max.max(backlog);
        show(&status, copying, backlog_max, display);
        if phase == "following" {
            let lag = number(&status, "lag_ms");
            (watched.lag_max_ms, watched.lag_last_ms) = (watched.lag_max_ms.max(lag), lag);
            if verified(&mut admin).await? {
                return Ok(watched);
            }
        }
        if began.elapsed() > FOLLOW_MAX {
            bail!("the migration is still {phase} after {} s", began.elapsed().as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks for the cutover until it happened. What is refused or undone costs the application nothing, and the
/// reasons are shown.
pub(crate) async fn cut_over(serve: &mut Serve, display: &Display) -> Result<Record> {
    let mut admin = serve.admin().await?;
    let began = Instant::now();
    let mut said = String::new();
    loop {
        serve.alive()?;
        let reason = match admin.row("CUTOVER").await {
            Ok(row) => {
                let status = admin.row("SHOW MIGRATION STATUS").await.context("after the cutover")?;
                if cell(&status, "route") == "target" {
                    display.say(&format!("cutover: the gate was closed for {} ms", cell(&row, "pause_ms")));
                    return Ok(row);
                }
                format!("{}: {}", cell(&row, "outcome"), cell(&row, "reason"))
            }
            Err(error) => format!("{error:#}"),
        };
        if said != reason {
            display.say(&format!("cutover not done, asking again: {reason}"));
            said.clone_from(&reason);
        }
        if began.elapsed() > CUTOVER_MAX {
            bail!("no cutover within {} s: {reason}", CUTOVER_MAX.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every table was compared and is equal.
async fn verified(admin: &mut Admin) -> Result<bool> {
    let tables = admin.query("SHOW MIGRATION TABLES").await?;
    Ok(!tables.is_empty() && tables.iter().all(|table| cell(table, "phase") == "verified"))
}

fn show(status: &Record, copying: bool, backlog_max: u64, display: &Display) {
    let (rows, estimate) = (number(status, "rows_copied"), number(status, "rows_estimate"));
    if copying {
        let rate = thousands(number(status, "copy_rows_per_s"));
        let message = format!("{} rows, {rate} rows/s", thousands(rows));
        // The estimate is the source's guess; only the phase says that nothing is left.
        display.bar(Bar::Copy, rows.min(estimate.saturating_sub(1)), estimate, &message);
        return;
    }
    display.bar(Bar::Copy, 1, 1, &format!("{} rows", thousands(rows)));
    let backlog = number(status, "lag_bytes");
    let following = cell(status, "phase") != "catching_up";
    let lag = format!("lag {} ms, {} bytes to apply", cell(status, "lag_ms"), thousands(backlog));
    let (done, of) =
        if following { (1, 1) } else { (backlog_max - backlog.min(backlog_max), backlog_max + 1) };
    display.bar(Bar::CatchUp, done, of, &lag);
    if following {
        let verified = number(status, "rows_verified");
        let message =
            format!("{} rows compared, {} differ", thousands(verified), number(status, "differences"));
        display.bar(Bar::Verify, verified, rows, &message);
    }
}

/// One line about the application.
fn feel(pulse: &Pulse, display: &Display) {
    let stage = [Stage::Before, Stage::Replicating, Stage::Cutover, Stage::After];
    let now = stage.get(pulse.stage()).copied().unwrap_or(Stage::Before);
    display.pulse(&format!(
        "{} transactions, {} errors, slowest answer {} (now: {})",
        thousands(pulse.transactions()),
        pulse.errors(),
        ms(pulse.slowest()),
        ms(pulse.slowest_in(now))
    ));
}
