//! `source.replica_url`: the copy reads from a replica, however far it lags, and what comes out is what the source has.

use std::time::Duration;

use mysql_async::prelude::Queryable as _;

use crate::support::changeover::{Settings, check};
use crate::support::ledger::Fate;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, replica, seed};

const BULK: u32 = 20_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Two servers and a replica of the source; `None` where there are none.
async fn trio(engine: Engine) -> Option<(Pair, Server)> {
    let pair = Pair::start(engine, BULK).await?;
    let third = Server::start(engine, &[]).await?;
    if engine == Engine::MariaDb {
        pair.source.run(&["GRANT SLAVE MONITOR ON *.* TO changeover@'%'"]).await;
    }
    replica::follow(&pair.source, &third).await;
    replica::catch_up(&pair.source, &third).await;
    Some((pair, third))
}

fn settings(pair: &Pair, third: &Server) -> Settings {
    let url = format!("\"mysql://{}@127.0.0.1:{}\"", accounts::SERVICE, third.port());
    pair.settings().with("source.replica_url", &url)
}

/// A row that only the replica has says where the copy read, and that the verifier didn't read there.
async fn mark(third: &Server) {
    third.run(&["SET sql_log_bin = 0", "INSERT INTO shop.nothing VALUES (4711, 1)"]).await;
}

async fn copies_from_it(engine: Engine) {
    let Some((pair, third)) = trio(engine).await else { return };
    mark(&third).await;
    let changeover = Changeover::start(settings(&pair, &third)).await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    ledger.wait_more(50).await;
    // It is seconds behind for all of the copy, while the application writes.
    replica::delay(&third, 3).await;
    ledger.wait_more(50).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    until("the row that only the replica has", Duration::from_secs(60), async || {
        let found = changeover.admin("SHOW DIFFERENCES").await;
        let extra = |row: &&_| -> bool {
            let row: &crate::support::changeover::Record = row;
            row["table"] == "nothing" && row["kind"] == "extra" && row["key"].contains("4711")
        };
        if found.len() == 1 && found.iter().any(|row| extra(&row)) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    changeover.admin("REPAIR").await;
    changeover.wait_ready().await;
    ledger.wait_more(50).await;
    changeover.cut_over().await;
    ledger.wait_more(50).await;
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.target).await;
    compare::assert_equal(&pair.target, &pair.source, seed::SCHEMA).await;
    proof.assert_holds_on(&pair.target).await;
    assert_eq!((proof.count(Fate::Unknown), proof.lost_connections), (0, 0));
}

/// What was prepared before the start and is committed behind it is in no spool: the replica has to have applied its end too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_has_what_was_prepared_before_the_start() {
    let Some((pair, third)) = trio(Engine::MariaDb).await else { return };
    let xa = ["XA START 'x'", "INSERT INTO shop.nothing VALUES (1, 1)", "XA END 'x'", "XA PREPARE 'x'"];
    pair.source.run(&xa).await;
    replica::catch_up(&pair.source, &third).await;
    replica::delay(&third, 3).await;
    let changeover = Changeover::start(settings(&pair, &third)).await;
    changeover.admin("START MIGRATION").await;
    until("the start to wait", Duration::from_secs(60), async || {
        let log = changeover.log();
        if log.contains("where the copy starts") { Ok(()) } else { Err(log) }
    })
    .await;
    pair.source.run(&["XA COMMIT 'x'"]).await;
    changeover.wait_ready().await;
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_of_mariadb_is_copied_from() {
    copies_from_it(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_of_mysql97_is_copied_from() {
    copies_from_it(Engine::MySql97).await;
}

/// What isn't applied there is waited for, what is gone is said, and it goes on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_waits_for_a_replica_that_stands_or_dies() {
    let Some((pair, mut third)) = trio(Engine::MariaDb).await else { return };
    let mut changeover =
        Changeover::start(settings(&pair, &third).with("snapshot.max_rows_per_s", "4000")).await;
    replica::delay(&third, 3600).await;
    pair.source.run(&["UPDATE shop.accounts SET changes = 76 WHERE id = 1"]).await;
    changeover.admin("START MIGRATION").await;
    until("a word about the wait", Duration::from_secs(60), async || {
        let events = changeover.admin("SHOW EVENTS").await;
        let said =
            events.iter().any(|event| event["message"].contains("hasn't applied what the migration starts"));
        if said { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    assert_eq!(changeover.status_of("rows_copied").await, "0");
    replica::delay(&third, 0).await;
    let copied =
        async |changeover: &Changeover| -> u64 { changeover.status_of("rows_copied").await.parse().unwrap() };
    until("some rows", Duration::from_secs(60), async || {
        let rows = copied(&changeover).await;
        if rows > 0 { Ok(()) } else { Err(rows.to_string()) }
    })
    .await;
    // It dies in the copy, and Changeover with it.
    third.kill_9();
    until("a word about its death", Duration::from_secs(60), async || {
        let events = changeover.admin("SHOW EVENTS").await;
        let place = format!("replica 127.0.0.1:{}", third.port());
        if events.iter().any(|event| event["message"].contains(&place)) {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await;
    changeover.kill_9();
    third.start_again().await;
    changeover.start_again().await;
    changeover.wait_ready().await;
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}

/// Whether it applies what it gets.
async fn applies(third: &Server) -> bool {
    let answer: Option<mysql_async::Row> = {
        let mut conn = third.root().await;
        let statement = match third.engine() {
            Engine::MariaDb => "SHOW SLAVE STATUS",
            _ => "SHOW REPLICA STATUS",
        };
        conn.query_first(statement).await.unwrap()
    };
    let row = answer.unwrap();
    let state: Option<String> = row.get("Slave_SQL_Running").or_else(|| row.get("Replica_SQL_Running"));
    state.unwrap() == "Yes"
}

async fn wait_applies(third: &Server, wanted: bool) {
    until(&format!("the SQL thread to {}", if wanted { "run" } else { "stand" }), LIMIT, async || {
        if applies(third).await == wanted { Ok(()) } else { Err(String::new()) }
    })
    .await;
}

async fn wait_said(changeover: &Changeover, what: &str) {
    until(what, LIMIT, async || {
        let log = changeover.log();
        if log.contains(what) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// It stands while the copy reads it, and goes on behind it, behind a pause, and behind the death of Changeover.
async fn stands_for_the_copy(engine: Engine) {
    let Some((pair, third)) = trio(engine).await else { return };
    let settings = settings(&pair, &third)
        .with("source.replica_stop", "true")
        .with("snapshot.chunk_rows", "500")
        .with("snapshot.max_rows_per_s", "1500");
    let (code, said) = check(&settings);
    let right = if engine == Engine::MariaDb { "REPLICATION SLAVE ADMIN" } else { "REPLICATION_SLAVE_ADMIN" };
    assert!(code == 1 && said.contains(right), "{said}");
    third.run(&[&format!("GRANT {right} ON *.* TO changeover@'%'")]).await;
    let (code, said) = check(&settings);
    assert_eq!(code, 0, "{said}");
    let mut changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    wait_applies(&third, false).await;
    wait_said(&changeover, "the replica's SQL thread is stopped for the copy, at ").await;
    pair.source.run(&["UPDATE shop.accounts SET changes = 76 WHERE id = 1"]).await;
    changeover.admin("PAUSE MIGRATION").await;
    wait_applies(&third, true).await;
    replica::catch_up(&pair.source, &third).await;
    changeover.admin("RESUME MIGRATION").await;
    wait_applies(&third, false).await;
    changeover.kill_9();
    assert!(!applies(&third).await);
    changeover.set("snapshot.max_rows_per_s", "0");
    changeover.start_again().await;
    changeover.wait_ready().await;
    wait_applies(&third, true).await;
    wait_said(&changeover, "the replica's SQL thread runs again").await;
    assert!(changeover.admin("SHOW DIFFERENCES").await.is_empty());
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_mariadb_stands_for_the_copy() {
    stands_for_the_copy(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_mysql97_stands_for_the_copy() {
    stands_for_the_copy(Engine::MySql97).await;
}

/// One that stands already stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_others_have_stopped_is_left_as_it_is() {
    let Some((pair, third)) = trio(Engine::MariaDb).await else { return };
    third.run(&["GRANT REPLICATION SLAVE ADMIN ON *.* TO changeover@'%'"]).await;
    let settings =
        settings(&pair, &third).with("source.replica_stop", "true").with("snapshot.max_rows_per_s", "3000");
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    wait_applies(&third, false).await;
    changeover.admin("PAUSE MIGRATION").await;
    wait_applies(&third, true).await;
    replica::run(&third, false, "SQL_THREAD").await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    assert!(!applies(&third).await);
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_replica_of_the_source_is_refused() {
    let Some((pair, third)) = trio(Engine::MariaDb).await else { return };
    let refused = |part: &str| {
        let (code, said) = check(&settings(&pair, &third));
        assert!(code == 1 && said.contains(part), "{part}: {said}");
    };
    let (code, said) = check(&settings(&pair, &third));
    assert_eq!(code, 0, "{said}");
    replica::run(&third, false, "SQL_THREAD").await;
    refused("Its replication doesn't run; START REPLICA");
    third.run(&["SET sql_log_bin = 0", "ALTER TABLE shop.bulk COMMENT 'another'"]).await;
    refused("shop.bulk");
    third.run(&["STOP SLAVE", "RESET SLAVE ALL"]).await;
    refused("It doesn't replicate from the source");
    pair.target.run(&["GRANT SLAVE MONITOR ON *.* TO changeover@'%'"]).await;
    let (code, said) = check(&settings(&pair, &pair.target));
    assert!(code == 1 && said.contains("doesn't replicate from the source"), "{said}");
    let (code, said) = check(&settings(&pair, &pair.source));
    assert!(code == 2 && said.contains("is the source itself"), "{said}");
}
