//! Cutovers that must not happen: refused before anything is touched, or undone with nobody noticing.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, seed};

/// Sessions of the application.
const WRITERS: u32 = 16;

/// A pair that follows and is verified, with an application on it.
async fn ready(engine: Engine, settings: &[(&str, &str)]) -> Option<(Pair, Changeover, Ledger)> {
    let pair = Pair::start(engine, 2_000).await?;
    let mut all = pair.settings();
    for (key, value) in settings {
        all.set(key, value);
    }
    let changeover = Changeover::start(all).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    Some((pair, changeover, ledger))
}

/// Asks for a cutover until it was tried and undone. Refusals (a row that is just being compared) don't count.
async fn aborted(changeover: &Changeover) -> String {
    until("a cutover that is undone", Duration::from_secs(60), async || {
        let told = changeover.try_admin("CUTOVER").await;
        let last = changeover.admin("SHOW CUTOVERS").await.pop();
        match last {
            Some(row) if row["outcome"] == "aborted" => Ok(row["reason"].clone()),
            other => Err(format!("{told:?}, {other:?}")),
        }
    })
    .await
}

async fn still_on_the_source(changeover: &Changeover, ledger: &Ledger) {
    assert_eq!(changeover.status_of("route").await, "source");
    ledger.wait_more(200).await;
    assert!(ledger.errors().is_empty(), "{:?}", ledger.errors());
}

async fn then_it_works(pair: &Pair, changeover: &Changeover, ledger: Ledger) {
    changeover.wait_ready().await;
    changeover.cut_over().await;
    ledger.wait_more(200).await;
    changeover.wait_all_moved().await;
    ledger.close().await.assert_holds_on(&pair.target).await;
}

async fn an_open_transaction_holds_it_up(engine: Engine) {
    let Some((pair, changeover, ledger)) = ready(engine, &[("cutover.pause_ms", "700")]).await else {
        return;
    };
    let mut holder = changeover.app(Some("shop")).await;
    holder.query_drop("START TRANSACTION").await.unwrap();
    holder.query_drop("UPDATE names SET n = n + 1 WHERE n = 10").await.unwrap();
    let reason = aborted(&changeover).await;
    assert!(!reason.is_empty());
    still_on_the_source(&changeover, &ledger).await;
    assert_eq!(pair.source.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    // The transaction that was in the way is whole.
    holder.query_drop("COMMIT").await.unwrap();
    then_it_works(&pair, &changeover, ledger).await;
    let n: Option<i64> =
        holder.query_first("SELECT n FROM names WHERE n IN (10, 11) ORDER BY n").await.unwrap();
    assert_eq!(n, Some(11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_holds_it_up_on_mariadb() {
    an_open_transaction_holds_it_up(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_holds_it_up_on_mysql97() {
    an_open_transaction_holds_it_up(Engine::MySql97).await;
}

/// With `kill` the transaction goes, with an error that says so, and the cutover happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_killed_where_that_is_wanted() {
    let settings = [("cutover.pause_ms", "1500"), ("cutover.open_transactions", "\"kill\"")];
    let Some((pair, changeover, ledger)) = ready(Engine::MariaDb, &settings).await else { return };
    let mut holder = changeover.app(Some("shop")).await;
    holder.query_drop("START TRANSACTION").await.unwrap();
    holder.query_drop("UPDATE names SET n = -1 WHERE n = 10").await.unwrap();
    changeover.cut_over().await;
    holder.query_drop("COMMIT").await.unwrap_err();
    ledger.wait_more(200).await;
    let killed: i64 = pair.target.value("SELECT COUNT(*) FROM shop.names WHERE n = -1").await;
    assert_eq!(killed, 0, "half a transaction came along");
    ledger.close().await.assert_holds_on(&pair.target).await;
}

/// The target dies right before it is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_target_is_no_target() {
    let Some((mut pair, changeover, ledger)) = ready(Engine::MariaDb, &[]).await else { return };
    pair.target.kill_9();
    let refused = match changeover.try_admin("CUTOVER").await {
        Err(refused) => refused,
        Ok(rows) => rows[0]["reason"].clone(),
    };
    assert!(!refused.is_empty());
    still_on_the_source(&changeover, &ledger).await;
    pair.target.start_again().await;
    if changeover.status_of("phase").await == "failed" {
        changeover.admin("RESUME MIGRATION").await;
    }
    then_it_works(&pair, &changeover, ledger).await;
}

/// A session that can't be moved says why, and holds the cutover up to its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_session_holds_it_up() {
    let Some((pair, changeover, ledger)) = ready(Engine::MariaDb, &[("cutover.pause_ms", "700")]).await
    else {
        return;
    };
    let mut pinned = changeover.app(Some("shop")).await;
    pinned.query_drop("CREATE TEMPORARY TABLE mine (a INT)").await.unwrap();
    pinned.query_drop("INSERT INTO mine VALUES (1)").await.unwrap();
    let sessions = changeover.admin("SHOW SESSIONS").await;
    let why: Vec<&str> =
        sessions.iter().map(|row| row["pinned_by"].as_str()).filter(|why| !why.is_empty()).collect();
    assert!(why.iter().any(|why| why.contains("temporary")), "{why:?}");
    aborted(&changeover).await;
    still_on_the_source(&changeover, &ledger).await;
    let still: Option<i64> = pinned.query_first("SELECT a FROM mine").await.unwrap();
    assert_eq!(still, Some(1));
    pinned.query_drop("DROP TEMPORARY TABLE mine").await.unwrap();
    pinned.disconnect().await.unwrap();
    then_it_works(&pair, &changeover, ledger).await;
}

/// A row that differs is found, shown with the SQL that repairs it, and forbids the cutover until it is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_forbids_it() {
    let Some((pair, changeover, ledger)) = ready(Engine::MariaDb, &[]).await else { return };
    pair.target
        .run(&[
            "UPDATE shop.bulk SET pad = 'tampered' WHERE id = 300",
            "DELETE FROM shop.bulk WHERE id = 303",
            "INSERT INTO shop.bulk VALUES (1, 1, 'extra', '')",
        ])
        .await;
    changeover.admin("VERIFY").await;
    let found = until("three differences", Duration::from_secs(60), async || {
        let rows = changeover.admin("SHOW DIFFERENCES").await;
        if rows.len() == 3 { Ok(rows) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let mut kinds: Vec<&str> = found.iter().map(|row| row["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["different", "extra", "missing"], "{found:?}");
    let different = found.iter().find(|row| row["kind"] == "different").unwrap();
    assert!(different["columns"].contains("pad") && different["key"].contains("300"), "{different:?}");
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("differ"), "{refused}");
    assert_eq!(changeover.status_of("differences").await, "3");
    still_on_the_source(&changeover, &ledger).await;
    for row in &found {
        println!("{}", row["repair_sql"]);
        pair.target.run(&[&row["repair_sql"]]).await;
    }
    changeover.admin("VERIFY").await;
    then_it_works(&pair, &changeover, ledger).await;
}

/// A dry run tells every step and changes nothing; so does a cutover that comes too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_early_is_refused() {
    let Some(pair) = Pair::start(Engine::MariaDb, 2_000).await else { return };
    let changeover = pair.changeover().await;
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("idle"), "{refused}");
    for wrong in ["PAUSE MIGRATION", "RESUME MIGRATION", "VERIFY"] {
        let refused = changeover.try_admin(wrong).await.unwrap_err();
        assert!(refused.contains("idle"), "{wrong}: {refused}");
    }
    changeover.admin("START MIGRATION").await;
    let again = changeover.try_admin("START MIGRATION").await.unwrap_err();
    assert!(!again.is_empty());
    changeover.wait_ready().await;
    until("a dry run in which every step is fine", Duration::from_secs(30), async || {
        let steps = changeover.admin("CUTOVER DRY RUN").await;
        let wrong: Vec<_> =
            steps.iter().filter(|row| !matches!(row["ok"].as_str(), "1" | "yes" | "true" | "ok")).collect();
        if wrong.is_empty() && steps.len() > 3 {
            Ok(())
        } else {
            Err(format!("{wrong:?} of {}", steps.len()))
        }
    })
    .await;
    let mut app = changeover.app(Some(seed::SCHEMA)).await;
    app.query_drop("BEGIN").await.unwrap();
    app.query_drop("UPDATE bulk SET k = k + 1 ORDER BY id LIMIT 1").await.unwrap();
    until("a dry run that names the transaction", Duration::from_secs(30), async || {
        let steps = changeover.admin("CUTOVER DRY RUN").await;
        let note = &steps.iter().find(|row| row["step"] == "drain").unwrap()["note"];
        let named = note.contains("a transaction is open for") && note.contains("changed rows");
        if named { Ok(()) } else { Err(note.clone()) }
    })
    .await;
    app.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(changeover.status_of("route").await, "source");
    assert!(changeover.admin("SHOW CUTOVERS").await.is_empty());
}
