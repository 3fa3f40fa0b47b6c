//! What concurrent clients were told across cutovers and rollbacks is what one single server could have told them:
//! their history is linearizable. How that is decided: `history/checker.rs`. CHANGEOVER_LONG=1 turns 40 times instead of
//! a few, and in the second form dies behind every step of the cutover, in both directions.

mod checker;
mod clients;
mod proofs;

use std::collections::BTreeMap;

use self::checker::{Key, Sound, Value};
use self::clients::{Clients, parse};
use crate::crashes::{STEPS, turn_until_it_dies};
use crate::robustness::is_long;
use crate::support::{Changeover, Engine, Pair, Server, seed};

/// Clients at the same time.
const CLIENTS: u32 = 10;

async fn begin(engine: Engine) -> Option<(Pair, Changeover, Clients)> {
    let pair = Pair::start(engine, 500).await?;
    clients::create_table(&pair.source).await;
    // A pause that is too short for a busy machine is undone, and isn't what is looked at here.
    let changeover = Changeover::start(pair.settings().with("cutover.pause_ms", "30000")).await;
    let clients = Clients::start(changeover.port(), CLIENTS).await;
    clients.wait_more(50).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    Some((pair, changeover, clients))
}

/// The history holds, and both servers have the lists that it says. Returns it with how many connections were lost.
async fn prove(pair: &Pair, changeover: &Changeover, clients: Clients) -> (Sound, u64) {
    let (history, lost) = clients.close(changeover.port()).await;
    let sound = checker::check(&history).unwrap_or_else(|wrong| {
        let told: Vec<String> = wrong.iter().take(10).map(|wrong| wrong.explain(&history)).collect();
        panic!("the history is not linearizable in {} places:\n{}", wrong.len(), told.join("\n"))
    });
    let (serving, other) = pair.sides(&changeover.status_of("route").await);
    changeover.wait_applied(serving).await;
    let lists: BTreeMap<Key, Vec<Value>> = sound
        .lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(key, list)| (*key, list.clone()))
        .collect();
    for server in [serving, other] {
        assert_eq!(lists_on(server).await, lists);
    }
    assert!(sound.reads > 100 && sound.appends > 100, "a history of nothing proves nothing: {sound:?}");
    (sound, lost)
}

async fn lists_on(server: &Server) -> BTreeMap<Key, Vec<Value>> {
    let rows = server.rows::<(Key, String)>(&format!("SELECT id, list FROM {}.lists", seed::SCHEMA)).await;
    rows.into_iter().map(|(key, text)| (key, parse(&text))).collect()
}

fn tell(engine: Engine, what: &str, sound: &Sound) {
    let Sound { keys, reads, appends, absent, unknown, unknown_there, .. } = sound;
    println!(
        "{engine:?}, {what}: {appends} appends acknowledged, {absent} refused, {unknown} unknown of which {unknown_there} \
         happened, {reads} reads, {keys} lists: linearizable"
    );
}

async fn across_turns(engine: Engine) {
    let Some((pair, changeover, clients)) = begin(engine).await else { return };
    let turns = if is_long() { 40 } else { 4 };
    for _ in 0..turns {
        clients.wait_more(300).await;
        changeover.turn().await;
    }
    clients.wait_more(300).await;
    let (sound, lost) = prove(&pair, &changeover, clients).await;
    assert_eq!((sound.unknown, lost), (0, 0));
    tell(engine, &format!("{turns} turns"), &sound);
}

/// Each death is behind a step of a turn; whichever side serves then, the clients go on there.
async fn across_deaths(engine: Engine) {
    let Some((pair, mut changeover, clients)) = begin(engine).await else { return };
    let steps = if is_long() { STEPS } else { &["fence", "journal switched"] };
    clients.expect_lost_connections();
    // Each step once from each side; what dies before the journal's word stays where it was.
    for step in steps.iter().chain(steps.iter().filter(|_| is_long())) {
        clients.wait_more(200).await;
        let failpoint = format!("cutover.behind.{step}");
        changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", &failpoint)]).await;
        clients.wait_more(50).await;
        turn_until_it_dies(&mut changeover).await;
        changeover.start_again_plain().await;
        clients.wait_more(100).await;
        changeover.turn().await;
    }
    clients.wait_more(200).await;
    let (sound, lost) = prove(&pair, &changeover, clients).await;
    assert!(lost > 0, "nobody lost a connection");
    tell(engine, &format!("{} deaths", steps.len() * if is_long() { 2 } else { 1 }), &sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_across_turns_on_mariadb() {
    across_turns(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_across_turns_on_mysql97() {
    across_turns(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_across_deaths_on_mariadb() {
    across_deaths(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linearizable_across_deaths_on_mysql97() {
    across_deaths(Engine::MySql97).await;
}
