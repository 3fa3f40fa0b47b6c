//! `cutover.fence = "accounts"`: the business's accounts are locked on the side that doesn't serve and nobody else notices, not
//! even somebody who writes on the same servers all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::crashes;
use crate::robustness::is_long;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, changeover, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "x-Secret_5";

/// On both servers: `night`, the business's own, which comes past the proxy; `gone`, which an operator has locked on the source;
/// `other`, another business's; and `broker`, of both.
async fn create(pair: &Pair) {
    for server in [&pair.source, &pair.target] {
        server
            .run(&["CREATE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY, n INT)"])
            .await;
        server.run(&["INSERT INTO elsewhere.t VALUES (1, 0)"]).await;
        for user in ["night", "gone", "other", "broker"] {
            server.run(&[&format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")]).await;
        }
        server
            .run(&[
                "GRANT ALL ON shop.* TO night@'%'",
                "GRANT INSERT ON shop.* TO gone@'%'",
                "GRANT ALL ON elsewhere.* TO other@'%'",
                "GRANT ALL ON elsewhere.* TO broker@'%'",
                "GRANT SELECT, INSERT ON shop.* TO broker@'%'",
            ])
            .await;
    }
    pair.source.run(&["ALTER USER gone@'%' ACCOUNT LOCK"]).await;
}

async fn is_locked(server: &Server, user: &str) -> bool {
    let sql = match server.engine() {
        Engine::MariaDb => format!(
            "SELECT Priv LIKE '%\"account\\_locked\":true%' FROM mysql.global_priv WHERE User = '{user}'"
        ),
        _ => format!("SELECT account_locked = 'Y' FROM mysql.user WHERE User = '{user}'"),
    };
    server.value::<i64>(&sql).await == 1
}

async fn begin(engine: Engine) -> Option<(Pair, Changeover, Ledger)> {
    let pair = Pair::start(engine, 500).await?;
    pair.source.run(&["CREATE TABLE shop.nightly (id INT PRIMARY KEY AUTO_INCREMENT, n INT)"]).await;
    create(&pair).await;
    let changeover = Changeover::start(pair.settings().with("cutover.fence", "\"accounts\"")).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    Some((pair, changeover, ledger))
}

async fn step_says(changeover: &Changeover, statement: &str, step: &str, ok: &str) -> String {
    until(&format!("{statement} in which {step} is {ok}"), LIMIT, async || {
        let rows = changeover.admin(statement).await;
        let found = rows.iter().find(|row| row["step"] == step && row["ok"] == ok);
        found.map(|row| row["note"].clone()).ok_or_else(|| format!("{rows:?}"))
    })
    .await
}

/// Goes on and on until it is told to stop. An error of its work is one of the test.
struct Endless {
    stop: CancellationToken,
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Endless {
    /// Another business writes, on one connection.
    async fn writes(server: &Server) -> Self {
        let mut conn = Conn::new(server.opts("other", PASSWORD, Some("elsewhere"))).await.unwrap();
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&done));
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                conn.query_drop("UPDATE t SET n = n + 1").await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, done, task }
    }

    /// New clients log in, ask something, and leave.
    fn log_ins(to: Opts) -> Self {
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&done));
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let mut conn = Conn::new(to.clone()).await.unwrap_or_else(|error| panic!("a login: {error}"));
                conn.query_drop("SELECT COUNT(*) FROM nightly").await.unwrap();
                conn.disconnect().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, done, task }
    }

    async fn end(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap();
        self.done.load(Ordering::SeqCst)
    }
}

/// The business's accounts are open on the side that serves and locked on the other one; only the operator locks `gone`.
async fn assert_fenced(pair: &Pair, changeover: &Changeover) {
    let (serving, other) = pair.sides(&changeover.status_of("route").await);
    for (server, locked) in [(serving, false), (other, true)] {
        for user in ["app", "night"] {
            assert_eq!(is_locked(server, user).await, locked, "{user} on port {}", server.port());
        }
        for user in ["other", "broker", "changeover"] {
            assert!(!is_locked(server, user).await, "{user} on port {}", server.port());
        }
        assert_eq!(server.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    }
    assert!(is_locked(&pair.source, "gone").await);
    let refused = Conn::new(other.opts("night", PASSWORD, Some("shop"))).await.unwrap_err();
    assert!(refused.to_string().contains("locked"), "{refused}");
}

/// Cut over, rolled back and cut over again, while another business writes on both servers and clients come and go.
async fn beside_another_business(engine: Engine) {
    let Some((pair, changeover, ledger)) = begin(engine).await else { return };
    let neighbours = [Endless::writes(&pair.source).await, Endless::writes(&pair.target).await];
    let through_proxy = || opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some("shop"));
    let clients = [Endless::log_ins(through_proxy()), Endless::log_ins(through_proxy())];
    for turn in 0..3 {
        let route = changeover.status_of("route").await;
        let (serving, _) = pair.sides(&route);
        // It comes past the proxy, and what it has written without a COMMIT is nobody's.
        let mut night = Conn::new(serving.opts("night", PASSWORD, Some("shop"))).await.unwrap();
        night.query_drop("START TRANSACTION").await.unwrap();
        night.query_drop("INSERT INTO nightly (n) SELECT id FROM bulk").await.unwrap();
        let statement = if route == "source" { "CUTOVER DRY RUN" } else { "ROLLBACK CUTOVER DRY RUN" };
        let note = step_says(&changeover, statement, "fence", "1").await;
        for part in ["'app'@'%'", "'night'@'%'", &format!("(connection {})", night.id())] {
            assert!(note.contains(part), "{part}: {note}");
        }
        assert_eq!(note.contains("1 are locked already"), route == "source", "{note}");
        assert!(!note.contains("'broker'"), "it isn't connected: {note}");
        if turn > 0 {
            let note =
                step_says(&changeover, statement, if route == "source" { "target" } else { "source" }, "1");
            assert!(note.await.contains("will be unlocked"));
        }
        ledger.wait_more(50).await;
        changeover.turn().await;
        night.query_drop("COMMIT").await.unwrap_err();
        assert_fenced(&pair, &changeover).await;
        let said = changeover.admin("SHOW ACCOUNTS").await;
        let app = said.iter().find(|row| row["account"] == "'app'@'%'").unwrap();
        assert!(!app["note"].contains("locked"), "{app:?}");
        ledger.wait_more(50).await;
    }
    for client in clients {
        assert!(client.end().await > 10);
    }
    for neighbour in neighbours {
        assert!(neighbour.end().await > 100);
    }
    assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty());
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.target).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    for server in [&pair.source, &pair.target] {
        proof.assert_holds_on(server).await;
        assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.nightly").await, 0);
    }
    changeover.admin("FINISH MIGRATION").await;
    assert_fenced(&pair, &changeover).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_another_business_on_mariadb() {
    beside_another_business(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_another_business_on_mysql97() {
    beside_another_business(Engine::MySql97).await;
}

/// The locks outlive a restart of that server, and whoever takes one off finds it there again.
async fn the_locks_stay(engine: Engine) {
    let Some((mut pair, changeover, ledger)) = begin(engine).await else { return };
    changeover.turn().await;
    pair.source.kill_9();
    pair.source.start_again().await;
    assert_fenced(&pair, &changeover).await;
    let mut night = until("a login in time", LIMIT, async || {
        pair.source.run(&["ALTER USER night@'%' ACCOUNT UNLOCK"]).await;
        let conn = Conn::new(pair.source.opts("night", PASSWORD, Some("shop"))).await;
        conn.map_err(|error| error.to_string())
    })
    .await;
    until("its end", LIMIT, async || {
        let threads: Vec<mysql_async::Row> = pair.source.rows("SHOW PROCESSLIST").await;
        let is_there = threads.iter().any(|row| row.get("Id") == Some(night.id()));
        if is_there { Err("it is still there".to_owned()) } else { Ok(()) }
    })
    .await;
    night.query_drop("SELECT 1").await.unwrap_err();
    assert_fenced(&pair, &changeover).await;
    let said = changeover.admin("SHOW EVENTS").await;
    assert!(said.iter().any(|row| row["message"].contains("were locked again")), "{said:?}");
    changeover.wait_phase(&["switched"]).await;
    ledger.wait_more(50).await;
    changeover.turn().await;
    assert_fenced(&pair, &changeover).await;
    ledger.close().await.assert_holds_on(&pair.source).await;
}

/// MySQL doesn't list its threads in information_schema while one of them runs such a statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_lists_its_threads_whatever_they_run() {
    let Some((pair, changeover, ledger)) = begin(Engine::MySql97).await else { return };
    let mut busy = tokio::task::JoinSet::new();
    for server in [&pair.source, &pair.target] {
        let mut conn = server.root().await;
        conn.query_drop("SET NAMES binary").await.unwrap();
        busy.spawn(async move { conn.query_drop("SELECT SLEEP(1000), '\u{1f3ac}'").await });
        server
            .wait_value("SELECT CAST(COUNT(*) AS CHAR) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'User sleep'", "1")
            .await;
    }
    changeover.turn().await;
    assert_fenced(&pair, &changeover).await;
    ledger.wait_more(20).await;
    changeover.turn().await;
    ledger.close().await.assert_holds_on(&pair.source).await;
    assert!(busy.try_join_next().is_none(), "root's statements still run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_stay_on_mariadb() {
    the_locks_stay(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_stay_on_mysql97() {
    the_locks_stay(Engine::MySql97).await;
}

/// What a cutover has done when it dies: as with `read_only`, and behind the step that only this fence has.
fn steps() -> Vec<&'static str> {
    let mut steps = crashes::STEPS.to_vec();
    steps.insert(1, "unlock");
    steps
}

async fn dies(engine: Engine, steps: &[&str]) {
    let Some(pair) = Pair::start(engine, 1_000).await else { return };
    create(&pair).await;
    let settings = pair.settings().with("cutover.fence", "\"accounts\"");
    crashes::walk_over(&pair, settings, steps, async |server| {
        assert_eq!(is_locked(server, "night").await, is_locked(server, "app").await);
        is_locked(server, "app").await
    })
    .await;
    assert!(is_locked(&pair.source, "gone").await, "it was the operator's");
    assert!(!is_locked(&pair.source, "other").await && !is_locked(&pair.target, "broker").await);
}

/// Those that this fence has a part in. `fault_walk` dies behind all of them, on MySQL.
const ITS_OWN: &[&str] = &["journal started", "unlock", "fence", "reverse", "journal switched", "swap"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_dies_behind_the_steps_in_both_directions() {
    let all = steps();
    dies(Engine::MariaDb, if is_long() { &all } else { ITS_OWN }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_dies_behind_the_steps_that_matter_most_in_both_directions() {
    dies(Engine::MySql97, ITS_OWN).await;
}

/// While it is being decided whether to go back, an account that was unlocked for the sessions to come is somebody's chance to
/// write on the old side: that undoes the rollback, and keeps the next one away until it was dealt with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_in_while_accounts_are_unlocked_is_found() {
    let Some((pair, changeover, ledger)) = begin(Engine::MariaDb).await else { return };
    changeover.turn().await;
    ledger.wait_more(20).await;
    let to = pair.source.opts("night", PASSWORD, Some("shop"));
    let stray = tokio::spawn(async move {
        loop {
            if let Ok(mut conn) = Conn::new(to.clone()).await
                && conn.query_drop("INSERT INTO nightly (n) VALUES (7)").await.is_ok()
            {
                return;
            }
        }
    });
    until("a rollback that is undone", LIMIT, async || {
        match changeover.try_admin("ROLLBACK CUTOVER").await {
            Ok(rows) if rows[0]["outcome"] == "aborted" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    stray.await.unwrap();
    assert_eq!(changeover.status_of("route").await, "target");
    assert_fenced(&pair, &changeover).await;
    let refused = changeover.try_admin("ROLLBACK CUTOVER").await.unwrap_err();
    assert!(refused.contains("shop.nightly"), "{refused}");
    ledger.close().await.assert_holds_on(&pair.target).await;
}

/// Who isn't held is named, and so is a fence that would hold nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_held_is_named() {
    let Some((pair, mut changeover, ledger)) = begin(Engine::MariaDb).await else { return };
    let _broker = Conn::new(pair.source.opts("broker", PASSWORD, Some("shop"))).await.unwrap();
    let note = step_says(&changeover, "CUTOVER DRY RUN", "fence", "1").await;
    assert!(note.contains("1 connection(s) may write in spite of it: 'broker'@'%'"), "{note}");
    assert!(note.contains("\"elsewhere\" too"), "{note}");
    ledger.close().await.assert_holds_on(&pair.source).await;

    changeover.set("cutover.fence_accounts", "[\"nobody@%\"]");
    changeover.start_again().await;
    let note = step_says(&changeover, "CUTOVER DRY RUN", "fence", "0").await;
    assert!(note.contains("would hold nobody") && note.contains("fence_accounts"), "{note}");

    changeover.set("cutover.fence_accounts", "[\"app@%\", \"broker@%\"]");
    changeover.set("cutover.past_fence", "\"refuse\"");
    changeover.start_again().await;
    let note = step_says(&changeover, "CUTOVER DRY RUN", "fence", "1").await;
    assert!(note.contains("2 account(s)") && note.contains("'broker'@'%' from"), "{note}");
    let _night = Conn::new(pair.source.opts("night", PASSWORD, Some("shop"))).await.unwrap();
    let note = step_says(&changeover, "CUTOVER DRY RUN", "fence", "0").await;
    assert!(note.contains("'night'@'%'"), "{note}");
}

/// What took the old fence is what takes it off, whatever the configuration says by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kind_of_fence_is_changed_in_between() {
    let Some((pair, mut changeover, ledger)) = begin(Engine::MariaDb).await else { return };
    ledger.expect_lost_connections();
    changeover.turn().await;
    changeover.set("cutover.fence", "\"read_only\"");
    changeover.start_again().await;
    assert_fenced(&pair, &changeover).await;
    changeover.turn().await;
    assert!(!is_locked(&pair.source, "app").await && !is_locked(&pair.target, "app").await);
    assert_eq!(pair.target.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    changeover.set("cutover.fence", "\"accounts\"");
    changeover.start_again().await;
    assert_eq!(pair.target.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    changeover.turn().await;
    assert_fenced(&pair, &changeover).await;
    ledger.wait_more(50).await;
    ledger.close().await.assert_holds_on(&pair.target).await;
}

/// MySQL 5.6 has no account that can be locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_can_not_lock_accounts_is_refused() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MySql56, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    let pair = Pair { source, target };
    for server in [&pair.source, &pair.target] {
        accounts::create(server, seed::SCHEMA).await;
    }
    pair.source.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY)"]).await;
    let (code, told) = changeover::check(&pair.settings().with("cutover.fence", "\"accounts\""));
    assert!(code == 1 && told.contains("MySQL 5.6.24 is no server whose accounts"), "{told}");
    let mut changeover = Changeover::start(pair.settings()).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.set("cutover.fence", "\"accounts\"");
    changeover.start_again().await;
    let note = step_says(&changeover, "CUTOVER DRY RUN", "fence", "0").await;
    assert!(note.contains("MySQL 5.7 or MariaDB 10.4"), "{note}");
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("MySQL 5.7 or MariaDB 10.4"), "{refused}");
    assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
}
