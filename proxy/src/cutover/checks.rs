//! Whether a cutover may start: every reason at once, and what a dry run has to say.

use std::time::Duration;

use config::{FencePolicy, OpenTransactions, PastFence, SentHeader, Side};
use tokio::time::{Instant, sleep, timeout};

use super::coordinator::{Asked, Coordinator};
use super::phase::Direction;
use super::port::PortFuture;
use super::step::Stage;
use crate::auth::inventory::{Survey, survey};
use crate::backend::connect::probe;
use crate::backend::connections::Foreign;
use crate::backend::fence::FenceBefore;

pub(super) const ANOTHER: &str = "another cutover is under way";

/// How long a backend may take to answer a check.
const WITHIN: Duration = Duration::from_secs(3);

/// A connection that was told to end has gone by then.
const LEAVING: Duration = Duration::from_secs(1);

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

/// What was found, and whether there would be a way back.
pub(super) struct Found {
    pub(super) rows: Vec<DryRunRow>,
    pub(super) way_back: bool,
}

/// What decides whether a cutover starts.
pub(super) async fn all(of: &Coordinator, asked: Asked) -> Found {
    let (from, to) = (of.serving(), of.serving().other());
    if asked.direction.from() != from {
        // Nothing else matters then, and the rest would be said of the wrong direction.
        let why = match from {
            Side::Target => {
                "the target serves already; SHOW CUTOVERS says since when, and ROLLBACK CUTOVER leads back"
            }
            Side::Source => "the source serves, so there is nothing to roll back",
        };
        return Found { rows: vec![row("journal", Err(why.to_owned()))], way_back: false };
    }
    let mut rows = vec![row("journal", journal(of))];
    let refusals = of.replication.refusals(of.config.max_lag_ms);
    if refusals.is_empty() {
        let lag = of.replication.status().lag_ms.map_or_else(String::new, |ms| format!("; lag {ms} ms"));
        rows.push(row("replication", Ok(format!("it follows and the verifier has no objection{lag}"))));
    }
    rows.extend(refusals.into_iter().map(|why| row("replication", Err(why))));
    let fenced = of.fenced();
    let (there, header, fence, prepared, accounts, acts, back) = tokio::join!(
        writable(of, to),
        takes_header(of, to),
        fence(of, from),
        asked_of_replication(of.replication.prepared()),
        survey(&of.routes, &of.registry, fenced.as_ref(), WITHIN),
        asked_of_replication(of.replication.prepare_activation(to)),
        asked_of_replication(of.replication.way_back()),
    );
    let way_back = back == Ok(true) && !asked.without_rollback;
    rows.push(row(to.as_str(), there));
    rows.extend(header.err().map(|why| row(to.as_str(), Err(why))));
    rows.push(row("fence", fence));
    rows.push(row("xa", prepared));
    rows.push(row("accounts", said_of_accounts(accounts, to)));
    rows.push(row("activate", acts));
    rows.push(row("reverse", said_of_way_back(back, asked, to)));
    Found { rows, way_back }
}

/// All that, and what the pause would meet.
pub(super) async fn dry_run(of: &Coordinator, asked: Asked) -> Vec<DryRunRow> {
    if of.in_progress() {
        return vec![row("cutover", Err(ANOTHER.to_owned()))];
    }
    let mut rows = all(of, asked).await.rows;
    let sessions = of.registry.len();
    let pause_ms = asked.timeout.map_or(u128::from(of.config.pause_ms), |timeout| timeout.as_millis());
    rows.push(row("prepare", Ok(format!("{sessions} session(s) to move"))));
    rows.push(row("drain", drain(of)));
    rows.push(row("pause", Ok(format!("the gate would be closed for at most {pause_ms} ms"))));
    rows
}

async fn asked_of_replication<T>(answer: PortFuture<'_, T>) -> Result<T, String> {
    match timeout(WITHIN, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("that couldn't be found out within {} ms", WITHIN.as_millis())),
    }
}

/// A way that can't be gone back has to be wanted. Back on the source, or where the configuration says so, it is.
fn said_of_way_back(back: Result<bool, String>, asked: Asked, to: Side) -> Result<String, String> {
    match back {
        Ok(_) if asked.without_rollback => Ok("there will be no way back, as asked for".to_owned()),
        Ok(false) => Ok("there will be no way back: migration.reverse is false".to_owned()),
        Ok(true) => Ok(format!("the {to} will be followed into the {}, so there is a way back", to.other())),
        Err(why) if asked.without_rollback || asked.direction == Direction::Rollback => {
            Ok(format!("there will be no way back: {why}"))
        }
        Err(why) => {
            Err(format!("there would be no way back: {why}. Mend that, or say CUTOVER WITHOUT ROLLBACK"))
        }
    }
}

fn journal(of: &Coordinator) -> Result<String, String> {
    let state = of.state();
    if of.unfencing() {
        return Err(format!(
            "the {} is still fenced from a cutover that was undone; SHOW EVENTS says why it can't be given back",
            state.serving
        ));
    }
    match state.unfinished {
        Some(unfinished) if unfinished.stage == Stage::Switched => Err(format!(
            "cutover {} has switched and isn't finished: what is left failed, see SHOW EVENTS; try again",
            unfinished.id
        )),
        Some(unfinished) if !of.in_progress() => {
            Err(format!("cutover {} is being undone; try again in a moment", unfinished.id))
        }
        _ => Ok(format!("the {} serves", state.serving)),
    }
}

async fn writable(of: &Coordinator, to: Side) -> Result<String, String> {
    let found =
        of.fence(to).inspect(WITHIN).await.map_err(|error| format!("the {to} can't be asked: {error}"))?;
    let ours = of.state().fenced.filter(|(side, _)| *side == to);
    match ours {
        Some((_, FenceBefore { accounts: Some(accounts), .. })) if found.writable() => Ok(format!(
            "it answers and takes writes, and {} account(s) that were locked there will be unlocked",
            accounts.len()
        )),
        _ if found.writable() => Ok("it answers and takes writes".to_owned()),
        Some((_, before)) if before.writable() => {
            Ok("it answers, and its fence will be taken off".to_owned())
        }
        _ => Err(format!("the {to} is read-only: SET GLOBAL read_only = OFF on it first")),
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
    match of.config.fence {
        FencePolicy::None => Ok(format!(
            "cutover.fence is \"none\": the gate holds the application alone. What others write to the migration's tables \
             on the {from} before the swap undoes the cutover where it doesn't end, and behind it is an alarm"
        )),
        FencePolicy::ReadOnly if found.super_read_only.is_some() && found.writable() => {
            Ok(format!("the {from} can be made super_read_only"))
        }
        FencePolicy::ReadOnly if found.super_read_only.is_some() => {
            Ok(format!("the {from} is read-only already, and stays so"))
        }
        FencePolicy::Accounts => accounts_fence(of, from).await,
        FencePolicy::ReadOnly => {
            let fenced = if found.writable() {
                format!("the {from} can be made read_only")
            } else {
                format!("the {from} is read-only already, and stays so")
            };
            Ok(format!("{fenced}; {}", past_fence(of, from).await?))
        }
    }
}

/// Which accounts would be locked, and which connections ended.
async fn accounts_fence(of: &Coordinator, from: Side) -> Result<String, String> {
    let ours = |id| of.registry.is_ours(from, id);
    let found = of.fence(from).prospect(&ours, WITHIN).await;
    let found = found.map_err(|error| format!("the {from} can't be fenced: {error}"))?;
    let locked = match found.locked {
        0 => String::new(),
        locked => format!(", {locked} are locked already and stay so"),
    };
    let ended = match found.end.len() {
        0 => "none of their connections comes from elsewhere".to_owned(),
        many => {
            let connections = listed(found.end.iter().map(Foreign::to_string));
            format!("{many} connection(s) of theirs that don't come through the proxy ended: {connections}")
        }
    };
    let would = match found.lock.len() {
        0 => "no account would be locked".to_owned(),
        many => {
            let accounts = listed(found.lock.iter().map(ToString::to_string));
            format!("{many} account(s) on the {from} would be locked: {accounts}")
        }
    };
    Ok(format!("{would}{locked}; {ended}; {}", past_fence(of, from).await?))
}

/// What is to be said of connections that the fence doesn't hold. One that is just leaving doesn't count.
async fn past_fence(of: &Coordinator, from: Side) -> Result<String, String> {
    let began = Instant::now();
    let there = loop {
        let there = of.fence(from).past(&|id| of.registry.is_ours(from, id), WITHIN).await;
        let there =
            there.map_err(|error| format!("whom the fence doesn't hold can't be found out: {error}"))?;
        let refuses = of.config.past_fence == PastFence::Refuse;
        if there.is_empty() || !refuses || began.elapsed() > LEAVING {
            break there;
        }
        sleep(Duration::from_millis(20)).await;
    };
    if there.is_empty() {
        return Ok("nobody is connected who may write in spite of it".to_owned());
    }
    let named = format!(
        "{} connection(s) may write in spite of it: {}",
        there.len(),
        listed(there.iter().map(Foreign::to_string))
    );
    match of.config.past_fence {
        PastFence::Watch => Ok(format!(
            "{named}. What they write before the swap is found and undoes the cutover where it doesn't end; behind it \
             it is on the {from} alone. Keep them away, or set cutover.past_fence = \"refuse\" or \"kill\""
        )),
        PastFence::Kill => Ok(format!("{named}; they will be ended (cutover.past_fence)")),
        PastFence::Refuse => Err(format!("{named}; end them, or set cutover.past_fence = \"kill\"")),
    }
}

/// Sessions that surely can't log in on the target refuse the cutover; everything else is for the operator to weigh.
fn said_of_accounts(found: Result<Survey, String>, to: Side) -> Result<String, String> {
    let found = match found {
        Ok(found) => found,
        Err(why) => return Ok(format!("not known whether every session can log in on the {to}: {why}")),
    };
    let absent = found.absent_on(to);
    if !absent.is_empty() {
        let users = listed(absent.iter().map(|(user, sessions)| format!("{user:?} ({sessions} session(s))")));
        return Err(format!(
            "users with live sessions have no account on the {to}: {users}; create them there. SHOW ACCOUNTS \
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
pub(super) fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    const NAMED: usize = 5;
    let more = names.len().saturating_sub(NAMED);
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

/// What is open for at least this long is named.
const LONG_OPEN_MS: u64 = 1_000;

fn drain(of: &Coordinator) -> Result<String, String> {
    let (held, pinned) = (of.gate.outstanding(), of.registry.pinned());
    let mut now = format!("{held} statement(s) or transaction(s) open now, {pinned} session(s) pinned");
    let long = of.registry.open_since(LONG_OPEN_MS);
    if !long.is_empty() {
        now = format!("{now}; the longest: {}", listed(long.iter().map(ToString::to_string)));
    }
    match of.config.open_transactions {
        OpenTransactions::Abort if pinned > 0 => Err(format!(
            "{now}; a session that is pinned at the drain deadline undoes the cutover. SHOW SESSIONS says what \
             pins it: end it, or set cutover.open_transactions = \"kill\""
        )),
        OpenTransactions::Abort => Ok(now),
        OpenTransactions::Kill => Ok(format!("{now}; what outlives the drain deadline is closed")),
    }
}
