//! SIGTERM and Ctrl-C: nobody new, statements and transactions end, then it leaves. And what it leaves behind in
//! its log and its files holds no secret (invariant 8).

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::changeover::ADMIN_PASSWORD;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_may_end() {
    let Some(pair) = Pair::start(Engine::MariaDb, 500).await else { return };
    let mut changeover = pair.changeover().await;
    let mut conn = changeover.app(Some("shop")).await;
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop("INSERT INTO nothing VALUES (1, 1)").await.unwrap();
    changeover.terminate();
    let address = ("127.0.0.1", changeover.port());
    until("a closed listener", Duration::from_secs(10), async || {
        let opts = opts(address.1, accounts::APP, accounts::APP_PASSWORD, None);
        match mysql_async::Conn::new(opts).await {
            Ok(_) => Err("somebody new was let in".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    conn.query_drop("INSERT INTO nothing VALUES (2, 2)").await.unwrap();
    conn.query_drop("COMMIT").await.unwrap();
    let status = changeover.wait_end().await;
    assert_eq!(status.code(), Some(0), "{}", changeover.log());
    assert_eq!(pair.source.value::<i64>("SELECT COUNT(*) FROM shop.nothing").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_never_ends_is_cut_off() {
    let Some(pair) = Pair::start(Engine::MariaDb, 500).await else { return };
    let mut changeover = Changeover::start(pair.settings().with("proxy.drain_ms", "300")).await;
    let mut conn = changeover.app(Some("shop")).await;
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop("INSERT INTO nothing VALUES (1, 1)").await.unwrap();
    changeover.terminate();
    changeover.wait_end().await;
    conn.query_drop("COMMIT").await.unwrap_err();
    pair.source.wait_value("SELECT CAST(COUNT(*) AS CHAR) FROM shop.nothing", "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_no_value_is_left_behind() {
    let Some(pair) = Pair::start(Engine::MariaDb, 500).await else { return };
    let changeover = Changeover::start_with(pair.settings(), &[("RUST_LOG", "debug")]).await;
    let mut conn = changeover.app(Some("shop")).await;
    conn.query_drop("INSERT INTO names VALUES ('private-Value_4', 'k', 1)").await.unwrap();
    conn.query_drop("SELECT 'private-Value_4' FROM nowhere").await.unwrap_err();
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let log = changeover.log();
    let events = format!("{:?}", changeover.admin("SHOW EVENTS").await);
    for secret in [accounts::SERVICE_PASSWORD, accounts::APP_PASSWORD, ADMIN_PASSWORD, "private-Value_4"] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!events.contains(secret), "{secret} is in SHOW EVENTS");
    }
    for file in ["migration.json", "cutover.journal", "chunks.journal"] {
        let bytes = std::fs::read(changeover.state_dir().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("-Secret_"), "a password is in {file}");
    }
}
