//! What others write on the side that doesn't serve is found, whatever the fence; and what they write behind the final
//! position undoes a cutover without one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::Record;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(60);

async fn begin(engine: Engine, fence: &str) -> Option<(Pair, Changeover, Ledger)> {
    let pair = Pair::start(engine, 500).await?;
    // The application leaves these rows alone.
    pair.source
        .run(&[
            "CREATE TABLE shop.quiet (id INT PRIMARY KEY, n INT)",
            "INSERT INTO shop.quiet VALUES (1,1),(2,2),(3,3),(4,4),(5,5),(6,6),(7,7)",
        ])
        .await;
    let settings = pair.settings().with("cutover.fence", &format!("\"{fence}\""));
    let changeover = Changeover::start(settings).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    ledger.wait_more(50).await;
    Some((pair, changeover, ledger))
}

/// The stray writes, once they are so.
async fn stray(changeover: &Changeover, wanted: &[(&str, &str)]) -> Vec<Record> {
    until(&format!("stray writes {wanted:?}"), LIMIT, async || {
        let rows = changeover.admin("SHOW STRAY WRITES").await;
        let found: Vec<(&str, &str)> =
            rows.iter().map(|row| (row["table"].as_str(), row["rows"].as_str())).collect();
        if found == wanted { Ok(rows.clone()) } else { Err(format!("{rows:?}")) }
    })
    .await
}

/// Stray writes are dealt with as an operator would.
async fn mend(changeover: &Changeover, differing: &str) {
    until("the differences to be found", LIMIT, async || {
        let found = changeover.status_of("differences").await;
        if found == differing { Ok(()) } else { Err(found) }
    })
    .await;
    let refused = changeover.try_admin("ACKNOWLEDGE STRAY WRITES").await.unwrap_err();
    assert!(refused.contains("REPAIR"), "{refused}");
    changeover.admin("REPAIR").await;
    until("an acknowledgement", LIMIT, async || changeover.try_admin("ACKNOWLEDGE STRAY WRITES").await).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    assert_eq!(changeover.status_of("last_error").await, "");
}

/// Somebody with every privilege writes on the old server, behind the swap: it is an alarm, survives restarts, keeps a
/// rollback away, and can be mended; what Changeover writes there never is one.
async fn is_found_shown_and_mended(engine: Engine) {
    let Some((mut pair, mut changeover, ledger)) = begin(engine, "read_only").await else { return };
    changeover.cut_over().await;
    ledger.wait_more(100).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    // Definitions come back with the rows, and what is put into a table that is copied anew is ours as well.
    let mut app = changeover.app(Some("shop")).await;
    for sql in [
        "CREATE TABLE born (id INT PRIMARY KEY, n INT)",
        "INSERT INTO born VALUES (1, 1), (2, 2)",
        "ALTER TABLE born ADD COLUMN m INT",
        "CREATE TABLE twin AS SELECT id, n FROM born",
        "DROP TABLE born",
    ] {
        app.query_drop(sql).await.unwrap();
    }
    changeover.wait_applied(&pair.target).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());

    pair.source.run(&["UPDATE shop.quiet SET n = n + 1000 WHERE id IN (3, 4)"]).await;
    let rows = stray(&changeover, &[("quiet", "2")]).await;
    assert_eq!((rows[0]["side"].as_str(), rows[0]["transactions"].as_str()), ("source", "1"), "{rows:?}");
    assert!(rows[0]["first_position"].contains(':'), "{rows:?}");
    let error = changeover.status_of("last_error").await;
    assert!(error.contains("shop.quiet (1 transaction(s), 2 row(s))"), "{error}");
    let events = changeover.admin("SHOW EVENTS").await;
    let alarm = events.iter().find(|row| row["message"].contains("stray write on the source")).unwrap();
    assert_eq!((alarm["level"].as_str(), alarm["area"].as_str()), ("error", "stray"), "{alarm:?}");
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("shop.quiet") && refused.contains("ACKNOWLEDGE"), "{refused}");

    // Neither a restart of Changeover nor one of that server loses it, or counts it twice.
    ledger.expect_lost_connections();
    changeover.kill_9();
    pair.source.run(&["UPDATE shop.quiet SET n = n + 1000 WHERE id = 5"]).await;
    changeover.start_again().await;
    stray(&changeover, &[("quiet", "3")]).await;
    pair.source.kill_9();
    pair.source.start_again().await;
    pair.source.run(&["DELETE FROM shop.quiet WHERE id = 6"]).await;
    stray(&changeover, &[("quiet", "4")]).await;
    changeover.wait_phase(&["switched"]).await;

    mend(&changeover, "4").await;
    ledger.wait_more(50).await;
    changeover.turn().await;
    ledger.wait_more(50).await;
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.source).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    proof.assert_holds_on(&pair.source).await;
    // The other side is watched now.
    pair.target.run(&["DELETE FROM shop.quiet WHERE id = 7"]).await;
    let rows = stray(&changeover, &[("quiet", "1")]).await;
    assert_eq!(rows[0]["side"], "target");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_is_found_shown_and_mended_on_mariadb() {
    is_found_shown_and_mended(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_is_found_shown_and_mended_on_mysql97() {
    is_found_shown_and_mended(Engine::MySql97).await;
}

/// Writes to tables of nobody's migration, all the time, until told to stop.
struct Neighbour {
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<u64>,
}

impl Neighbour {
    async fn start(pair: &Pair) -> Self {
        for server in [&pair.source, &pair.target] {
            server
                .run(&["CREATE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY, n INT)"])
                .await;
            server.run(&["INSERT INTO elsewhere.t VALUES (1, 0)"]).await;
        }
        let stop = tokio_util::sync::CancellationToken::new();
        let mut conns = [pair.source.root().await, pair.target.root().await];
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut written = 0;
            while !stopped.is_cancelled() {
                for conn in &mut conns {
                    conn.query_drop("UPDATE elsewhere.t SET n = n + 1").await.unwrap();
                    written += 1;
                }
            }
            written
        });
        Self { stop, task }
    }

    async fn end(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

/// Without a fence: back and forth beside another business, which doesn't hold it; nothing of the application is lost, and
/// the servers stay writable.
async fn without_a_fence(engine: Engine) {
    let Some((pair, changeover, ledger)) = begin(engine, "none").await else { return };
    let neighbour = Neighbour::start(&pair).await;
    for _ in 0..4 {
        ledger.wait_more(50).await;
        changeover.turn().await;
        for server in [&pair.source, &pair.target] {
            assert_eq!(server.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
        }
    }
    ledger.wait_more(50).await;
    assert!(neighbour.end().await > 100);
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    changeover.turn().await;
    // An ordinary account of the application, past the proxy.
    let (user, password) = (crate::support::accounts::APP, crate::support::accounts::APP_PASSWORD);
    let mut past = Conn::new(opts(pair.source.port(), user, password, Some("shop"))).await.unwrap();
    past.query_drop("UPDATE quiet SET n = n + 1 WHERE id = 3").await.unwrap();
    stray(&changeover, &[("quiet", "1")]).await;
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("shop.quiet"), "{refused}");
    mend(&changeover, "1").await;
    changeover.turn().await;
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    proof.assert_holds_on(&pair.source).await;
    changeover.turn().await;
    // Behind the end nobody is watched.
    changeover.admin("FINISH MIGRATION").await;
    past.query_drop("UPDATE quiet SET n = n + 1 WHERE id = 3").await.unwrap();
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    assert!(!changeover.state_dir().join("stray.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fence_back_and_forth_on_mariadb() {
    without_a_fence(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fence_back_and_forth_on_mysql97() {
    without_a_fence(Engine::MySql97).await;
}

/// Somebody writes to the migrated tables past the proxy all the time: no cutover gets through, and none loses a write.
async fn a_writer_past_the_proxy_undoes_it(engine: Engine) {
    let Some((pair, changeover, ledger)) = begin(engine, "none").await else { return };
    let mut past = pair.source.root().await;
    past.query_drop("CREATE TABLE shop.past (id INT PRIMARY KEY AUTO_INCREMENT, n INT)").await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0_i64;
        while !stopped.is_cancelled() {
            past.query_drop("INSERT INTO shop.past (n) VALUES (1)").await.unwrap();
            written += 1;
        }
        written
    });
    let aborted = AtomicUsize::new(0);
    until("cutovers that are undone", LIMIT, async || {
        match changeover.try_admin("CUTOVER TIMEOUT 600 MS").await {
            Err(refused) => Err(refused),
            Ok(rows) => {
                assert_eq!(rows[0]["outcome"], "aborted", "{rows:?}");
                if aborted.fetch_add(1, Ordering::SeqCst) == 2 { Ok(()) } else { Err(format!("{rows:?}")) }
            }
        }
    })
    .await;
    stop.cancel();
    let written = writer.await.unwrap();
    let row = changeover.cut_over().await;
    assert_eq!(row["outcome"], "switched", "{row:?}");
    assert_eq!(pair.target.value::<i64>("SELECT COUNT(*) FROM shop.past").await, written);
    ledger.wait_more(50).await;
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    ledger.close().await.assert_holds_on(&pair.target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_past_the_proxy_undoes_it_on_mariadb() {
    a_writer_past_the_proxy_undoes_it(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_past_the_proxy_undoes_it_on_mysql97() {
    a_writer_past_the_proxy_undoes_it(Engine::MySql97).await;
}
