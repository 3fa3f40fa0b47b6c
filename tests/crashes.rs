//! Changeover is killed at any moment, and a backend is. Invariant 1 holds all the same. Where Changeover dies at a place that
//! has a name: `fault_walk`.

use std::time::Duration;

use crate::support::changeover::Settings;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server};

/// Sessions of the application.
const WRITERS: u32 = 16;

/// The end that each of these stories has: a cutover, traffic on the new server, and the proof.
async fn cut_over_and_prove(pair: &Pair, changeover: &Changeover, ledger: Ledger) {
    changeover.wait_ready().await;
    changeover.cut_over().await;
    ledger.wait_more(200).await;
    changeover.wait_all_moved().await;
    let proof = ledger.close().await;
    proof.assert_holds_on(&pair.target).await;
}

/// kill -9 from outside, whenever the status shows the wanted state.
async fn killed_while(engine: Engine, phases: &[&str], times: u32) {
    let Some(pair) = Pair::start(engine, 30_000).await else { return };
    let mut changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    ledger.expect_lost_connections();
    changeover.admin("START MIGRATION").await;
    for _ in 0..times {
        changeover.wait_phase(phases).await;
        ledger.wait_more(40).await;
        changeover.kill_9();
        changeover.start_again().await;
    }
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

macro_rules! each {
    ($($name:ident => $call:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() { $call.await; })*
    };
}

each! {
    mariadb_is_killed_while_copying => killed_while(Engine::MariaDb, &["copying", "catching_up", "following"], 2);
    mariadb_is_killed_while_following => killed_while(Engine::MariaDb, &["following"], 3);
    mysql97_is_killed_while_following => killed_while(Engine::MySql97, &["following"], 2);
}

/// What a cutover or rollback has done when it dies, step by step. A crash before a step is one behind the step before it.
pub const STEPS: &[&str] = &[
    "journal started",
    "prepare",
    "journal fenced",
    "close",
    "fence",
    "wait",
    "verdict",
    "hold",
    "activate",
    "reverse",
    "journal switched",
    "swap",
    "open",
    "keep fence",
    "seal",
    "settle",
    "journal finished",
];

/// Walks over `steps` in both directions: each time the process dies behind one, starts again, and one side takes writes,
/// the one that the journal names. At the end the books hold on both servers.
pub async fn walk_over(
    pair: &Pair,
    settings: Settings,
    steps: &[&str],
    is_fenced: impl AsyncFn(&Server) -> bool,
) {
    let engine = pair.source.engine();
    let mut changeover = Changeover::start(settings).await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    ledger.wait_more(20).await;
    ledger.expect_lost_connections();
    let mut left = [("source", steps.to_vec()), ("target", steps.to_vec())];
    loop {
        let from = changeover.status_of("route").await;
        let todo = left.iter_mut().find(|(side, _)| *side == from).and_then(|(_, steps)| steps.pop());
        let Some(step) = todo else {
            if left.iter().all(|(_, steps)| steps.is_empty()) {
                break;
            }
            changeover.turn().await;
            continue;
        };
        let failpoint = format!("cutover.behind.{step}");
        changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", &failpoint)]).await;
        let told = turn_until_it_dies(&mut changeover).await;
        changeover.start_again_plain().await;
        let route = changeover.status_of("route").await;
        let behind =
            steps.iter().position(|s| *s == step) >= steps.iter().position(|s| *s == "journal switched");
        assert_eq!(route != from, behind, "from the {from}, behind {step}: the {route} serves; {told}");
        let (serving, other) = pair.sides(&route);
        assert!(!is_fenced(serving).await, "behind {step}");
        let fenced = !changeover.admin("SHOW CUTOVERS").await.iter().all(|row| row["outcome"] != "switched");
        assert_eq!(is_fenced(other).await, fenced, "behind {step}");
        ledger.wait_more(20).await;
        println!("{engine:?}: from the {from}, behind {step}: the {route} serves");
    }
    let proof = ledger.close().await;
    let (serving, other) = pair.sides(&changeover.status_of("route").await);
    changeover.wait_applied(serving).await;
    proof.assert_holds_on(serving).await;
    proof.assert_holds_on(other).await;
}

/// Asks for a cutover or rollback until the process has died of its failpoint.
pub async fn turn_until_it_dies(changeover: &mut Changeover) -> String {
    let statement =
        if changeover.status_of("route").await == "source" { "CUTOVER" } else { "ROLLBACK CUTOVER" };
    let told = until("the end of the process", Duration::from_secs(90), async || {
        match changeover.try_admin(statement).await {
            Err(refused) if refused.contains("ERROR") => Err(refused),
            Err(gone) => Ok(gone),
            Ok(row) => Err(format!("{row:?}")),
        }
    })
    .await;
    changeover.wait_end().await;
    told
}

/// The target is killed and comes back; the application doesn't notice, the tail goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_crashes_and_comes_back() {
    let Some(mut pair) = Pair::start(Engine::MariaDb, 5_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    pair.target.kill_9();
    ledger.wait_more(200).await;
    pair.target.start_again().await;
    resume_if_failed(&changeover).await;
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// The source is killed and comes back; the application has lost its connections, as it would without us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_crashes_and_comes_back() {
    let Some(mut pair) = Pair::start(Engine::MariaDb, 5_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    ledger.wait_more(100).await;
    ledger.expect_lost_connections();
    pair.source.kill_9();
    pair.source.start_again().await;
    ledger.wait_more(200).await;
    resume_if_failed(&changeover).await;
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// A backend that is away for longer than the retries is an error that an operator sees; RESUME tries again.
async fn resume_if_failed(changeover: &Changeover) {
    if changeover.status_of("phase").await == "failed" {
        changeover.admin("RESUME MIGRATION").await;
    }
}
