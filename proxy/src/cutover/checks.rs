//! Whether a cutover may start: every reason at once, and what a dry run has to say.

use std::time::Duration;

use config::{FencePolicy, OpenTransactions, SentHeader, Side};

use super::coordinator::Coordinator;
use super::step::Stage;
use crate::auth::inventory::{Survey, survey};
use crate::backend::connect::probe;
use crate::backend::fence::Fence;

pub(super) const ANOTHER: &str = "another cutover is under way";

/// How long a backend may take to answer a check.
const WITHIN: Duration = Duration::from_secs(3);

/// A row of CUTOVER DRY RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRunRow {
    /// The step it speaks of.
    pub step: &'static str,
    /// Whether it would work now.
    pub ok: bool,
    /// What was found, or why it would not work and what to do.
    pub note: String,
}

fn row(step: &'static str, outcome: Result<String, String>) -> DryRunRow {
    let ok = outcome.is_ok();
    DryRunRow { step, ok, note: outcome.unwrap_or_else(|why| why) }
}

/// What decides whether a cutover starts.
pub(super) async fn all(of: &Coordinator) -> Vec<DryRunRow> {
    let from = of.serving();
    if from == Side::Target {
        // Nothing else matters then, and the rest would be said of the wrong direction.
        let why = "the target serves already; SHOW CUTOVERS says since when".to_owned();
        return vec![row("journal", Err(why))];
    }
    let mut rows = vec![row("journal", journal(of))];
    let refusals = of.replication.refusals(of.config.max_lag_ms);
    if refusals.is_empty() {
        let lag = of.replication.status().lag_ms.map_or_else(String::new, |ms| format!("; lag {ms} ms"));
        rows.push(row("replication", Ok(format!("it follows and the verifier has no objection{lag}"))));
    }
    rows.extend(refusals.into_iter().map(|why| row("replication", Err(why))));
    let (target, header, fence, accounts) = tokio::join!(
        writable(of.fence(from.other())),
        takes_header(of, from.other()),
        fence(of, from),
        survey(&of.routes, &of.registry, WITHIN),
    );
    rows.push(row("target", target));
    rows.extend(header.err().map(|why| row("target", Err(why))));
    rows.push(row("fence", fence));
    rows.push(row("accounts", said_of_accounts(accounts)));
    rows
}

/// All that, and what the pause would meet.
pub(super) async fn dry_run(of: &Coordinator) -> Vec<DryRunRow> {
    if of.in_progress() {
        return vec![row("cutover", Err(ANOTHER.to_owned()))];
    }
    let mut rows = all(of).await;
    let sessions = of.registry.len();
    rows.push(row("prepare", Ok(format!("{sessions} session(s) to move"))));
    rows.push(row("drain", drain(of)));
    rows.push(row(
        "reverse",
        Ok("reverse replication is not built yet: after the swap there is no way back".to_owned()),
    ));
    rows.push(row("pause", Ok(format!("the gate would be closed for at most {} ms", of.config.pause_ms))));
    rows
}

fn journal(of: &Coordinator) -> Result<String, String> {
    let state = of.state();
    if of.unfencing() {
        return Err(format!(
            "the {} is still read-only from a cutover that was undone; SHOW EVENTS says why it can't be given back",
            state.serving
        ));
    }
    match state.unfinished {
        Some(unfinished) if unfinished.stage == Stage::Switched => Err(format!(
            "cutover {} has switched and isn't finished; restart Changeover, which finishes it",
            unfinished.id
        )),
        Some(unfinished) if !of.in_progress() => {
            Err(format!("cutover {} is being undone; try again in a moment", unfinished.id))
        }
        _ => Ok(format!("the {} serves", state.serving)),
    }
}

async fn writable(fence: &Fence) -> Result<String, String> {
    let found = fence.inspect(WITHIN).await.map_err(|error| format!("the target can't be asked: {error}"))?;
    if found.writable() {
        Ok("it answers and takes writes".to_owned())
    } else {
        Err("the target is read-only: SET GLOBAL read_only = OFF on it first".to_owned())
    }
}

/// Sessions that move begin with a PROXY header where one is set. Where the backend doesn't take it none of them
/// would arrive.
async fn takes_header(of: &Coordinator, to: Side) -> Result<(), String> {
    let backend = &of.routes.backend(to).config;
    if backend.proxy_protocol == SentHeader::Off {
        return Ok(());
    }
    probe(backend, WITHIN).await.map(drop).map_err(|error| error.to_string())
}

async fn fence(of: &Coordinator, from: Side) -> Result<String, String> {
    let found =
        of.fence(from).probe(WITHIN).await.map_err(|error| format!("the {from} can't be fenced: {error}"))?;
    Ok(match of.config.fence {
        FencePolicy::None => {
            "cutover.fence is \"none\": writers past the proxy are the operator's affair".to_owned()
        }
        FencePolicy::ReadOnly if !found.writable() => {
            format!("the {from} is read-only already, and stays so")
        }
        FencePolicy::ReadOnly if found.super_read_only.is_some() => {
            format!("the {from} can be made super_read_only")
        }
        FencePolicy::ReadOnly => format!(
            "the {from} can be made read_only; accounts that may write in spite of it have to be kept away"
        ),
    })
}

/// Sessions that surely can't log in on the target refuse the cutover; everything else is for the operator to weigh.
fn said_of_accounts(found: Result<Survey, String>) -> Result<String, String> {
    let found = match found {
        Ok(found) => found,
        Err(why) => return Ok(format!("not known whether every session can log in on the target: {why}")),
    };
    if !found.absent.is_empty() {
        let users =
            listed(found.absent.iter().map(|(user, sessions)| format!("{user:?} ({sessions} session(s))")));
        return Err(format!(
            "users with live sessions have no account on the target: {users}; create them there. SHOW ACCOUNTS \
             lists all accounts"
        ));
    }
    let not_ready: Vec<_> = found.rows.iter().filter(|row| row.ready == Some(false)).collect();
    let unknown = found.rows.iter().filter(|row| row.ready.is_none()).count();
    let all = found.rows.len();
    if not_ready.is_empty() && unknown == 0 {
        return Ok(format!("all {all} account(s) of the source are ready"));
    }
    let names = if not_ready.is_empty() {
        String::new()
    } else {
        format!(" ({})", listed(not_ready.iter().map(|row| row.account.clone())))
    };
    Ok(format!(
        "of {all} account(s) of the source {} are not ready{names} and {unknown} not known to be; SHOW ACCOUNTS says why",
        not_ready.len()
    ))
}

/// The first few, and how many more.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    const NAMED: usize = 5;
    let more = names.len().saturating_sub(NAMED);
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

fn drain(of: &Coordinator) -> Result<String, String> {
    let (held, pinned) = (of.gate.outstanding(), of.registry.pinned());
    let now = format!("{held} statement(s) or transaction(s) open now, {pinned} session(s) pinned");
    match of.config.open_transactions {
        OpenTransactions::Abort if pinned > 0 => Err(format!(
            "{now}; a session that is pinned at the drain deadline undoes the cutover. SHOW SESSIONS says what \
             pins it: end it, or set cutover.open_transactions = \"kill\""
        )),
        OpenTransactions::Abort => Ok(now),
        OpenTransactions::Kill => Ok(format!("{now}; what outlives the drain deadline is closed")),
    }
}
