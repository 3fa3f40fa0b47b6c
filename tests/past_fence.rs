//! Connections that `read_only` doesn't hold: named before a cutover, in its way, or ended behind the fence, as
//! `cutover.past_fence` says. Nobody else on the server notices.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server};

/// Sessions of the application.
const WRITERS: u32 = 6;
const PASSWORD: &str = "x-Secret_4";

/// What lets an account write in spite of `read_only`.
fn privilege(engine: Engine) -> &'static str {
    if engine == Engine::MariaDb { "READ_ONLY ADMIN" } else { "SUPER" }
}

/// On the old server `batch` may write past the fence, `watcher` would be let past it and may not write, and `other` is
/// another business's, which the fence holds.
async fn create(server: &Server) {
    let privilege = privilege(server.engine());
    for user in ["batch", "watcher", "other"] {
        server.run(&[&format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")]).await;
    }
    server
        .run(&[
            &format!("GRANT {privilege} ON *.* TO batch@'%'"),
            &format!("GRANT {privilege} ON *.* TO watcher@'%'"),
            "GRANT ALL ON shop.* TO batch@'%'",
            "GRANT SELECT ON *.* TO watcher@'%'",
            "GRANT ALL ON shop.* TO other@'%'",
        ])
        .await;
}

async fn log_in(port: u16, user: &str) -> Conn {
    Conn::new(opts(port, user, PASSWORD, Some("shop"))).await.unwrap()
}

async fn begin(engine: Engine, past_fence: &str) -> Option<(Pair, Changeover, Ledger)> {
    let pair = Pair::start(engine, 300).await?;
    create(&pair.source).await;
    let settings = pair.settings().with("cutover.past_fence", &format!("\"{past_fence}\""));
    let changeover = Changeover::start(settings.with("cutover.pause_ms", "30000")).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    Some((pair, changeover, ledger))
}

/// What the dry run says of the fence, once a part of it is so.
async fn fence_says(changeover: &Changeover, ok: &str, part: &str) -> String {
    until(&format!("a dry run that says {part:?}"), std::time::Duration::from_secs(30), async || {
        let rows = changeover.admin("CUTOVER DRY RUN").await;
        let row = rows.iter().find(|row| row["step"] == "fence").unwrap();
        if row["ok"] == ok && row["note"].contains(part) {
            Ok(row["note"].clone())
        } else {
            Err(format!("{row:?}"))
        }
    })
    .await
}

async fn is_refused_and_named(engine: Engine) {
    let Some((pair, changeover, ledger)) = begin(engine, "refuse").await else { return };
    fence_says(&changeover, "1", "nobody is connected").await;
    let mut batch = log_in(pair.source.port(), "batch").await;
    let mut watcher = log_in(pair.source.port(), "watcher").await;
    let mut other = log_in(pair.source.port(), "other").await;
    let note = fence_says(&changeover, "0", "1 connection(s) may write").await;
    assert!(note.contains("'batch'@'%'") && note.contains(privilege(engine)), "{note}");
    assert!(note.contains(&format!("connection {}", batch.id())), "{note}");
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("'batch'@'%'"), "{refused}");
    assert!(changeover.admin("SHOW CUTOVERS").await.is_empty(), "something was touched");
    // Through the proxy it is a session like any other.
    batch.query_drop("SELECT 1").await.unwrap();
    batch.disconnect().await.unwrap();
    fence_says(&changeover, "1", "nobody is connected").await;
    changeover.cut_over().await;
    ledger.wait_more(50).await;
    // Whoever isn't in the way keeps its connection; who isn't let past the fence can't write.
    watcher.query_drop("SELECT COUNT(*) FROM shop.names").await.unwrap();
    other.query_drop("SELECT COUNT(*) FROM shop.names").await.unwrap();
    let held = other.query_drop("UPDATE shop.names SET n = n + 1").await.unwrap_err();
    assert!(held.to_string().contains("1290"), "{held}");
    ledger.close().await.assert_holds_on(&pair.target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_connected_is_refused_and_named_on_mariadb() {
    is_refused_and_named(Engine::MariaDb).await;
}

/// It writes all the time, with new connections whenever it loses one; what it wrote came along or was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_writes_is_ended_behind_the_fence_on_mariadb() {
    let Some((pair, changeover, ledger)) = begin(Engine::MariaDb, "kill").await else { return };
    let mut batch = log_in(pair.source.port(), "batch").await;
    let mut watcher = log_in(pair.source.port(), "watcher").await;
    batch.query_drop("START TRANSACTION").await.unwrap();
    batch.query_drop("UPDATE shop.names SET n = -5 WHERE n = 10").await.unwrap();
    fence_says(&changeover, "1", "they will be ended").await;
    changeover.cut_over().await;
    batch.query_drop("COMMIT").await.unwrap_err();
    watcher.query_drop("SELECT COUNT(*) FROM shop.names").await.unwrap();
    ledger.wait_more(50).await;
    changeover.wait_all_moved().await;
    for server in [&pair.source, &pair.target] {
        assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.names WHERE n = -5").await, 0);
    }
    let said = changeover.admin("SHOW EVENTS").await;
    assert!(said.iter().any(|row| row["message"].contains("in spite of read_only were ended")), "{said:?}");
    ledger.close().await.assert_holds_on(&pair.target).await;
}

/// By default it is named; on a server with super_read_only there is nobody to name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_connected_is_named() {
    if let Some((pair, changeover, ledger)) = begin(Engine::MariaDb, "watch").await {
        let _batch = log_in(pair.source.port(), "batch").await;
        fence_says(&changeover, "1", "'batch'@'%'").await;
        // Through the proxy it is a session like any other, and moves or holds the cutover by the gate.
        let _proxied = log_in(changeover.port(), "batch").await;
        let note = fence_says(&changeover, "1", "'batch'@'%'").await;
        assert!(note.contains("1 connection(s)"), "{note}");
        ledger.close().await.assert_holds_on(&pair.source).await;
    }
    if let Some((pair, changeover, ledger)) = begin(Engine::MySql97, "refuse").await {
        let _batch = log_in(pair.source.port(), "batch").await;
        fence_says(&changeover, "1", "super_read_only").await;
        ledger.close().await.assert_holds_on(&pair.source).await;
    }
}
