//! Statements that change definitions stop the tail at their position, also when they came while nobody looked
//! (invariant 5).

use crate::support::{Changeover, Engine, Pair};

/// The migration has stopped, and says where and at what.
async fn assert_stopped_at(changeover: &Changeover, kind: &str) {
    changeover.wait_phase(&["failed"]).await;
    let error = changeover.status_of("last_error").await;
    assert!(error.contains(kind) && error.contains("definitions"), "{error}");
    let refused = changeover.try_admin("CUTOVER").await.expect_err("a stopped migration can't be cut over");
    assert!(refused.contains("failed"), "{refused}");
}

async fn stops_at_a_definition(engine: Engine) {
    let Some(pair) = Pair::start(engine, 1_000).await else { return };
    let mut changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    // Of another schema: none of our business.
    pair.source.run(&["CREATE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY)"]).await;
    changeover.wait_applied(&pair.source).await;
    assert_eq!(changeover.status_of("phase").await, "following");
    changeover.kill_9();
    let schema = crate::support::seed::SCHEMA;
    pair.source
        .run(&[
            &format!("CREATE TABLE `{schema}`.came_later (id INT PRIMARY KEY)"),
            &format!("INSERT INTO `{schema}`.came_later VALUES (1)"),
        ])
        .await;
    changeover.start_again().await;
    assert_stopped_at(&changeover, "CREATE TABLE").await;
    // Trying again doesn't pass it over.
    changeover.admin("RESUME MIGRATION").await;
    assert_stopped_at(&changeover, "CREATE TABLE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_stops_at_a_definition() {
    stops_at_a_definition(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_stops_at_a_definition() {
    stops_at_a_definition(Engine::MySql97).await;
}
