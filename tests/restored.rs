//! A source that is restored from an older backup while it is followed: what was applied of it never happened there, so nothing of
//! what it does next is applied, and it is said that the migration has to begin again.

use crate::file_and_offset::GTIDS_OFF;
use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, pair};

/// Restored while it is followed, or while Changeover is dead; then it goes on in its own way.
async fn goes_back(engine: Engine, flags: &[&str], dead: bool) {
    let servers = pair::servers((engine, flags), (Engine::MariaDb, &[]), "shop").await;
    let Some((mut source, target)) = servers else { return };
    source
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id INT PRIMARY KEY, n INT NOT NULL) ENGINE=InnoDB",
            "INSERT INTO shop.t VALUES (1, 1), (2, 2), (3, 3)",
        ])
        .await;
    let mut changeover = Changeover::start(Settings::between(&source, &target, "shop")).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source.back_up().await;
    for id in 10..20 {
        source.run(&[&format!("INSERT INTO shop.t VALUES ({id}, 0)")]).await;
    }
    changeover.wait_applied(&source).await;
    if dead {
        changeover.kill_9();
    }
    source.restore().await;
    source.run(&["UPDATE shop.t SET n = 100 + id", "INSERT INTO shop.t VALUES (10, 7)"]).await;
    if dead {
        changeover.start_again().await;
    }
    let said = changeover.stopped().await;
    assert!(said.contains("went back") && said.contains("egin the migration again"), "{said}");
    assert!(said.contains("source"), "{said}");
    assert!(changeover.try_admin("CUTOVER").await.is_err());
    let there = "SELECT CONCAT_WS('|', COUNT(*), SUM(n)) FROM shop.t";
    assert_eq!(target.value::<String>(there).await, "13|6", "nothing of the other history was applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    goes_back(Engine::MariaDb, &[], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_with_gtids() {
    goes_back(Engine::MySql97, &[], true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_without_gtids() {
    goes_back(Engine::MySql97, GTIDS_OFF, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_with_gtids() {
    goes_back(Engine::MySql56, &[], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_without_gtids() {
    goes_back(Engine::MySql56, GTIDS_OFF, true).await;
}
