//! The way back: the new server is followed into the old one, and a rollback loses nothing, however often.

use crate::support::ledger::Fate;
use crate::support::{Engine, Ledger, Pair, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 12;

async fn back_and_forth(engine: Engine, turns: usize) {
    let Some(pair) = Pair::start(engine, 2_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let mut pauses = Vec::new();
    for _ in 0..turns {
        ledger.wait_more(60).await;
        pauses.push(changeover.turn().await);
    }
    ledger.wait_more(60).await;
    let (serving, other) = pair.sides(&changeover.status_of("route").await);
    let cutovers = changeover.admin("SHOW CUTOVERS").await;
    let switched: Vec<&str> = cutovers
        .iter()
        .filter(|row| row["outcome"] == "switched")
        .map(|row| {
            assert!(!row["source_position"].is_empty() && !row["target_position"].is_empty(), "{row:?}");
            row["direction"].as_str()
        })
        .collect();
    let expected: Vec<&str> = ["forward", "rollback"].into_iter().cycle().take(turns).collect();
    assert_eq!(switched, expected, "{cutovers:?}");
    // Invariant 4, whichever way it goes now.
    let proof = ledger.close().await;
    changeover.wait_applied(serving).await;
    compare::assert_equal(serving, other, seed::SCHEMA).await;
    assert_eq!((proof.count(Fate::Unknown), proof.lost_connections), (0, 0));
    for server in [serving, other] {
        proof.assert_holds_on(server).await;
    }
    assert_eq!(serving.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    assert_eq!(other.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    println!("{engine:?}: pauses of {} ms", pauses.join(", "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_turns_lose_nothing_on_mariadb() {
    back_and_forth(Engine::MariaDb, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_turns_lose_nothing_on_mysql97() {
    back_and_forth(Engine::MySql97, 10).await;
}

/// A failure of the way back is shown and can be resumed, and the application doesn't notice; what ends for good ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_stops_goes_on_and_ends() {
    let Some(pair) = Pair::start(Engine::MariaDb, 2_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("nothing to roll back"), "{refused}");
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.turn().await;

    changeover.admin("PAUSE MIGRATION").await;
    assert_eq!(changeover.status_of("phase").await, "paused");
    ledger.wait_more(50).await;
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("paused"), "{refused}");
    changeover.admin("RESUME MIGRATION").await;

    // A row that isn't there where it should be: exact from the first transaction on.
    ledger.rest().await;
    changeover.wait_applied(&pair.target).await;
    pair.source.run(&["DELETE FROM shop.gauges WHERE id = 7"]).await;
    pair.target.run(&["UPDATE shop.gauges SET plain = 7777 WHERE id = 7"]).await;
    ledger.go_on();
    changeover.wait_phase(&["failed"]).await;
    ledger.wait_more(50).await;
    assert!(ledger.errors().is_empty(), "{:?}", ledger.errors());
    let error = changeover.status_of("last_error").await;
    assert!(error.contains("source, ") && error.contains("gauges"), "{error}");
    let refused = changeover.try_admin("ABANDON MIGRATION").await.unwrap_err();
    assert!(refused.contains("ROLLBACK CUTOVER first") && refused.contains("failed"), "{refused}");

    changeover.admin("FINISH MIGRATION").await;
    let status = changeover.status().await;
    assert_eq!((status["phase"].as_str(), status["route"].as_str()), ("finished", "target"), "{status:?}");
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("finished"), "{refused}");
    ledger.wait_more(50).await;
    ledger.close().await.assert_holds_on(&pair.target).await;
    // What it needed on the servers and on the disk is gone; the old server is left as it was last.
    assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    for server in [&pair.source, &pair.target] {
        assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM changeover.checkpoint").await, 0);
    }
    let left: Vec<String> = std::fs::read_dir(changeover.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("spool"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
