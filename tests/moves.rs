//! A live database moves: the main job, end to end, for both server pairs.

use crate::support::ledger::Fate;
use crate::support::{Engine, Ledger, Pair, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 16;

async fn moves_under_traffic(engine: Engine) {
    let Some(pair) = Pair::start(engine, 20_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    ledger.wait_more(100).await;
    assert_eq!(changeover.status_of("phase").await, "idle");
    assert_eq!(changeover.status_of("route").await, "source");
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;

    // Invariant 4, looked at from outside: nobody writes for a moment, and every row is compared.
    ledger.rest().await;
    changeover.wait_applied(&pair.source).await;
    let rows = compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    assert!(rows > 20_000, "only {rows} rows were compared");
    ledger.go_on();

    ledger.wait_more(100).await;
    ledger.forget_slowest();
    let cutover = changeover.cut_over().await;
    assert_eq!(cutover["outcome"], "switched", "{cutover:?}");
    ledger.wait_more(300).await;
    let felt = ledger.slowest();
    assert_eq!(changeover.wait_all_moved().await, WRITERS as usize);
    let status = changeover.status().await;
    assert_eq!((status["phase"].as_str(), status["route"].as_str()), ("switched", "target"), "{status:?}");
    assert_eq!(status["differences"], "0");

    let proof = ledger.close().await;
    assert_eq!((proof.count(Fate::Unknown), proof.lost_connections), (0, 0));
    proof.assert_holds_on(&pair.target).await;
    // The old server is fenced.
    assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    assert_eq!(pair.target.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    // It follows all the same, so that there is a way back.
    changeover.wait_applied(&pair.target).await;
    proof.assert_holds_on(&pair.source).await;
    let cutovers = changeover.admin("SHOW CUTOVERS").await;
    assert_eq!(cutovers.last().unwrap()["outcome"], "switched", "{cutovers:?}");
    println!("{engine:?}: paused {} ms, slowest statement {felt:?}", cutover["pause_ms"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_to_mariadb() {
    moves_under_traffic(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_to_mysql97() {
    moves_under_traffic(Engine::MySql97).await;
}

/// PAUSE MIGRATION stops the work and not the application; RESUME goes on where it stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_migration_goes_on() {
    let Some(pair) = Pair::start(Engine::MariaDb, 20_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["copying", "catching_up", "following"]).await;
    changeover.admin("PAUSE MIGRATION").await;
    changeover.wait_phase(&["paused"]).await;
    ledger.wait_more(300).await;
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("paused"), "{refused}");
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    ledger.wait_more(100).await;
    ledger.close().await.assert_holds_on(&pair.target).await;
}
