//! REPAIR under traffic: rows of the target that are missing, extra or different become equal, and the tail goes on.

use std::time::Duration;

use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, compare, seed};

/// Rows of every way in which the target can be wrong: at rest, under the writers' hands, with unique values swapped.
const DAMAGE: &[&str] = &[
    "DELETE FROM shop.bulk WHERE id IN (3, 300, 30000)",
    "UPDATE shop.bulk SET c = 'wrong', k = -1 WHERE id BETWEEN 600 AND 900",
    "INSERT INTO shop.bulk (id, c) VALUES (-5, 'extra'), (1, 'extra'), (99999999, 'extra')",
    "UPDATE shop.names SET n = n + 1000 WHERE n < 20",
    "DELETE FROM shop.names WHERE n = 1001",
    "UPDATE shop.accounts SET name = CONCAT('wrong ', id) WHERE id <= 40",
    "UPDATE shop.gauges SET facts = '[0]', single_f = single_f + 1, raw = NULL WHERE id BETWEEN 5 AND 25",
    "UPDATE shop.pairs SET u = u + 100",
    "UPDATE shop.pairs SET u = 3 - (u - 100)",
];

async fn differences(changeover: &Changeover) -> usize {
    changeover.admin("SHOW DIFFERENCES").await.len()
}

async fn repaired_under_traffic(engine: Engine) {
    let Some(pair) = Pair::start(engine, 15_000).await else { return };
    pair.source
        .run(&[
            "CREATE TABLE shop.pairs (id INT PRIMARY KEY, u INT UNIQUE) ENGINE=InnoDB",
            "INSERT INTO shop.pairs VALUES (1, 1), (2, 2)",
        ])
        .await;
    let changeover = pair.changeover().await;
    let early = changeover.try_admin("REPAIR").await.unwrap_err();
    assert!(early.contains("phase idle"), "{early}");
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    assert!(changeover.admin("REPAIR").await.is_empty(), "there is nothing to repair");

    pair.target.run(DAMAGE).await;
    changeover.admin("VERIFY").await;
    let wanted = 3 + 101 + 3 + 22 + 40 + 21 + 2;
    until("every difference to be listed", Duration::from_secs(60), async || {
        let found = differences(&changeover).await;
        if found == wanted { Ok(()) } else { Err(format!("{found} of {wanted} differences")) }
    })
    .await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    ledger.wait_more(50).await;
    let plan = changeover.admin("REPAIR TABLE shop.pairs DRY RUN").await;
    assert_eq!(plan.len(), 2, "{plan:?}");
    assert!(plan.iter().all(|row| row["sql"].starts_with("UPDATE `shop`.`pairs` SET `u`")), "{plan:?}");
    assert!(differences(&changeover).await >= 100, "a dry run repairs nothing");

    let one = changeover.admin("REPAIR TABLE shop.pairs").await;
    assert_eq!(one.len(), 2, "{one:?}");
    let all = changeover.admin("REPAIR").await;
    // The writers' own changes may have put right what was wrong in a row of theirs.
    assert!(all.len() >= 150 && all.iter().all(|row| row["rows"] == "1"), "{} rows", all.len());
    until("no difference to be left", Duration::from_secs(60), async || {
        let left = changeover.admin("SHOW DIFFERENCES").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    changeover.admin("VERIFY").await;
    changeover.wait_ready().await;
    ledger.wait_more(100).await;
    assert_eq!(changeover.status_of("phase").await, "following");
    ledger.rest().await;
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    ledger.go_on();
    let cutover = changeover.cut_over().await;
    assert_eq!(cutover["outcome"], "switched", "{cutover:?}");
    ledger.wait_more(50).await;
    // On the way back it is the old server's rows that are made equal; the one that serves is never touched.
    assert!(changeover.admin("REPAIR DRY RUN").await.is_empty());
    ledger.close().await.assert_holds_on(&pair.target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    repaired_under_traffic(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97() {
    repaired_under_traffic(Engine::MySql97).await;
}

/// A row under the writers' hands all the time: either it is repaired, or REPAIR says that it isn't; the tail never
/// stops for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_come_and_go() {
    let Some(pair) = Pair::start(Engine::MariaDb, 1_000).await else { return };
    pair.source
        .run(&[
            "CREATE TABLE shop.hot (id INT PRIMARY KEY, n INT, other INT) ENGINE=InnoDB",
            "INSERT INTO shop.hot VALUES (1, 0, 0), (2, 0, 0), (3, 0, 0)",
        ])
        .await;
    let changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    pair.target.run(&["UPDATE shop.hot SET other = 9"]).await;
    changeover.admin("VERIFY TABLE shop.hot").await;
    until("the differences to be listed", Duration::from_secs(60), async || {
        let found = differences(&changeover).await;
        if found == 3 { Ok(()) } else { Err(format!("{found}")) }
    })
    .await;
    let stop = tokio_util::sync::CancellationToken::new();
    let source = pair.source.port();
    let churn = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut conn =
                mysql_async::Conn::new(crate::support::server::opts(source, "root", "", None)).await.unwrap();
            let mut n = 0_u32;
            while !stop.is_cancelled() {
                n += 1;
                for sql in [
                    format!("UPDATE shop.hot SET n = {n}"),
                    "DELETE FROM shop.hot WHERE id = 2".to_owned(),
                    format!("INSERT INTO shop.hot VALUES (2, {n}, 0)"),
                ] {
                    mysql_async::prelude::Queryable::query_drop(&mut conn, sql).await.unwrap();
                }
            }
        }
    });
    if let Err(told) = changeover.try_admin("REPAIR").await {
        assert!(told.contains("keeps changing"), "{told}");
    }
    stop.cancel();
    churn.await.unwrap();
    changeover.admin("REPAIR").await;
    changeover.wait_applied(&pair.source).await;
    assert_eq!(changeover.status_of("phase").await, "following");
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}
