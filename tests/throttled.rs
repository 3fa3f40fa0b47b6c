//! `[throttle]`: copy and verification wait for servers that have enough to do and for replicas that lag, say so, and go on.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::check;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, Server, accounts, replica};

/// Waits until what is waited for holds `part`; nothing where that is empty.
async fn wait_throttled(changeover: &Changeover, part: &str) {
    until(&format!("throttled_by {part:?}"), Duration::from_secs(60), async || {
        let by = changeover.status_of("throttled_by").await;
        if by.contains(part) && by.is_empty() == part.is_empty() { Ok(()) } else { Err(by) }
    })
    .await;
}

async fn said(changeover: &Changeover, part: &str) -> bool {
    changeover.admin("SHOW EVENTS").await.iter().any(|event| event["message"].contains(part))
}

async fn by_threads(engine: Engine) {
    let Some(pair) = Pair::start(engine, 20_000).await else { return };
    let busy: Vec<Conn> = busy(&pair.target, 40).await;
    let settings = pair.settings().with("throttle.max_threads_running", "20");
    let (code, said_before) = check(&settings);
    assert!(code == 0 && said_before.contains("Copy and verification would wait now: the target runs"));
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    wait_throttled(&changeover, "the target runs").await;
    assert_eq!(changeover.status_of("rows_copied").await, "0");
    assert!(said(&changeover, "copy and verification wait: the target runs").await);
    // The tail doesn't wait: it is only behind the copy that it begins. Nothing is held on the servers meanwhile.
    drop(busy);
    changeover.wait_ready().await;
    wait_throttled(&changeover, "").await;
    assert!(said(&changeover, "copy and verification go on after").await);
}

/// So many sessions that run a statement until they are dropped.
async fn busy(server: &Server, sessions: usize) -> Vec<Conn> {
    let mut busy = Vec::new();
    for _ in 0..sessions {
        let mut conn = server.root().await;
        // Given up in the middle of its answer, so that the statement runs on until the connection ends.
        let running = conn.query_drop("SELECT SLEEP(600)");
        drop(tokio::time::timeout(Duration::ZERO, running).await);
        busy.push(conn);
    }
    let sql = "SELECT COUNT(*) >= 40 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'";
    server.wait_value(sql, "1").await;
    busy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_spared_while_many_threads_run() {
    by_threads(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_is_spared_while_many_threads_run() {
    by_threads(Engine::MySql97).await;
}

async fn by_lag(engine: Engine, monitor: &str) {
    let Some(pair) = Pair::start(engine, 20_000).await else { return };
    let Some(mut third) = Server::start(engine, &[]).await else { return };
    pair.source.run(&[monitor]).await;
    replica::follow(&pair.source, &third).await;
    replica::catch_up(&pair.source, &third).await;
    let url = format!("[\"mysql://{}@127.0.0.1:{}\"]", accounts::SERVICE, third.port());
    replica::delay(&third, 3600).await;
    pair.source.run(&["UPDATE shop.accounts SET changes = 76 WHERE id = 1"]).await;
    let changeover = Changeover::start(pair.settings().with("throttle.replicas", &url)).await;
    changeover.admin("START MIGRATION").await;
    wait_throttled(&changeover, " s behind (throttle.max_replica_lag_ms = 1000)").await;
    replica::delay(&third, 0).await;
    changeover.wait_ready().await;

    // One whose replication stands isn't one without lag.
    replica::run(&third, false, "SQL_THREAD").await;
    wait_throttled(&changeover, "doesn't replicate at the moment").await;
    changeover.admin("VERIFY").await;
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("aren't verified yet"), "{refused}");
    // Nor is one that is gone. What the tail applies goes on meanwhile.
    third.kill_9();
    wait_throttled(&changeover, "can't be asked").await;
    pair.source.run(&["UPDATE shop.accounts SET changes = 77 WHERE id = 1"]).await;
    pair.target.wait_value("SELECT changes FROM shop.accounts WHERE id = 1", "77").await;
    third.start_again().await;
    replica::run(&third, true, "").await;
    wait_throttled(&changeover, "").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_waits_for_a_replica_of_mariadb() {
    by_lag(Engine::MariaDb, "GRANT SLAVE MONITOR ON *.* TO changeover@'%'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_waits_for_a_replica_of_mysql97() {
    by_lag(Engine::MySql97, "SELECT 1").await;
}
