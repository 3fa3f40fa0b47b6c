//! The launcher itself: what every other module stands on.

use crate::support::ledger::Fate;
use crate::support::{Engine, Ledger, Pair, Server, accounts, compare, seed};

async fn starts_and_survives_kill_9(engine: Engine) {
    let Some(mut server) = Server::start(engine, &[]).await else { return };
    accounts::create(&server, "shop").await;
    server
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id INT PRIMARY KEY)",
            "INSERT INTO shop.t VALUES (1)",
        ])
        .await;
    let mut app = mysql_async::Conn::new(server.opts(accounts::APP, accounts::APP_PASSWORD, Some("shop")))
        .await
        .unwrap();
    let seen: Option<i32> =
        mysql_async::prelude::Queryable::query_first(&mut app, "SELECT id FROM t").await.unwrap();
    assert_eq!(seen, Some(1));
    server.kill_9();
    server.start_again().await;
    assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.t").await, 1);
    if engine != Engine::Seekdb {
        assert_eq!(server.value::<String>("SELECT @@binlog_format").await, "ROW");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::MySql56).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seekdb_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::Seekdb).await;
}

/// The books and the comparison, on one server without anything between: what fails here is the test's own fault.
async fn the_ledger_holds_without_changeover(engine: Engine) {
    let Some(pair) = Pair::start(engine, 2_000).await else { return };
    seed::fill(&pair.target, 2_000).await;
    assert!(compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await > 4_000);
    let ledger = Ledger::start(pair.source.port(), 16).await;
    ledger.wait_more(500).await;
    ledger.rest().await;
    ledger.go_on();
    ledger.wait_more(500).await;
    let proof = ledger.close().await;
    assert_eq!(proof.count(Fate::Unknown), 0);
    proof.assert_holds_on(&pair.source).await;
    // And it would have said so: a lost entry, a doubled one, a sum that is off.
    for (sql, wanted) in [
        ("DELETE FROM shop.entries ORDER BY id DESC LIMIT 1", "LOST"),
        ("UPDATE shop.accounts SET balance = balance + 1 WHERE id = 7", "account 7"),
        (
            "INSERT INTO shop.entries (writer, seq, account, amount, kind, made) SELECT writer, seq, account, amount, kind, made FROM shop.entries ORDER BY id LIMIT 1",
            "DUPLICATED",
        ),
        ("DELETE FROM shop.inbox ORDER BY writer, seq LIMIT 1", "inbox"),
    ] {
        pair.source.run(&[sql]).await;
        let wrong = proof.wrong_on(&pair.source).await;
        assert!(wrong.iter().any(|text| text.contains(wanted)), "{sql} wasn't found: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_holds_on_mariadb() {
    the_ledger_holds_without_changeover(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_holds_on_mysql97() {
    the_ledger_holds_without_changeover(Engine::MySql97).await;
}
