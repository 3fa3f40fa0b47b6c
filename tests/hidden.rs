//! What a session has that none of its statements and no answer tells: what stored code left in it, what the server
//! gave it, and the numbers that its last statement left. It moves along, or the session stays and says why.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn};

use super::engines::Bed;
use super::metrics::{scrape, with_console};
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, Server};

/// On both servers: ways to set a user variable, to take a lock, and to let go of it.
const CODE: &[&str] = &[
    "USE shop",
    "CREATE TABLE shop.fires (n INT PRIMARY KEY)",
    "CREATE TRIGGER shop.fired BEFORE INSERT ON shop.fires FOR EACH ROW SET @by_trigger = NEW.n",
    "CREATE FUNCTION shop.puts(n INT) RETURNS INT DETERMINISTIC BEGIN SET @by_function = n; RETURN n; END",
    "CREATE FUNCTION shop.takes() RETURNS INT DETERMINISTIC RETURN GET_LOCK('a lock', 5)",
    "CREATE FUNCTION shop.gives() RETURNS INT DETERMINISTIC RETURN RELEASE_LOCK('a lock')",
    "CREATE PROCEDURE shop.makes() CREATE TEMPORARY TABLE made (n INT)",
    "CREATE PROCEDURE shop.calls(n INT) SET @by_procedure = n",
    "CREATE PROCEDURE shop.runs(t TEXT CHARACTER SET utf8) BEGIN SET @t = t; PREPARE s FROM @t; EXECUTE s; DEALLOCATE PREPARE s; END",
];

/// Waits until two sessions are restored on the other server.
async fn wait_prepared(changeover: &Changeover) {
    until("sessions to be prepared", Duration::from_secs(30), async || {
        let samples = scrape(changeover).await;
        if samples["changeover_sessions_prepared"] > 1.0 { Ok(()) } else { Err(format!("{samples:?}")) }
    })
    .await;
}

/// A trigger and a function create user variables after the session was prepared and before the swap; a procedure makes
/// a temporary table, which holds its session.
async fn between_preparation_and_swap(engine: Engine) {
    let Some(pair) = Pair::start(engine, 10).await else { return };
    for server in [&pair.source, &pair.target] {
        server.run(&["SET GLOBAL log_bin_trust_function_creators = ON"]).await;
        if engine == Engine::MySql97 {
            // The definer of the code is root.
            server.run(&["GRANT SYSTEM_USER ON *.* TO changeover"]).await;
        }
    }
    pair.source.run(CODE).await;
    let changeover = with_console(&pair, &[]).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let mut late = changeover.app(Some("shop")).await;
    late.query_drop("DO 1").await.unwrap();
    let mut makes = changeover.app(Some("shop")).await;
    makes.query_drop("DO 1").await.unwrap();
    // It holds the cutover in its preparation, and then the gate.
    let mut holds = changeover.app(Some("shop")).await;
    holds.query_drop("BEGIN").await.unwrap();
    holds.query_drop("INSERT INTO nothing VALUES (1, 1)").await.unwrap();
    let cutover = async {
        let row = changeover.cut_over().await;
        assert_eq!(row["outcome"], "switched", "{row:?}");
    };
    let meanwhile = async {
        wait_prepared(&changeover).await;
        late.query_drop("INSERT INTO fires VALUES (7)").await.unwrap();
        late.query_drop("SELECT puts(8)").await.unwrap();
        makes.query_drop("CALL makes()").await.unwrap();
        // The client has its answer a moment before that is said.
        until("the procedure's table to hold the session", Duration::from_secs(10), async || {
            let rows = changeover.admin("SHOW SESSIONS").await;
            let held = rows.iter().any(|row| row["pinned_by"] == "temporary table");
            if held { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        let made: Option<i64> = makes.query_first("SELECT COUNT(*) FROM made").await.unwrap();
        assert_eq!(made, Some(0));
        makes.disconnect().await.unwrap();
        holds.query_drop("ROLLBACK").await.unwrap();
    };
    tokio::join!(cutover, meanwhile);
    changeover.wait_all_moved().await;
    let set: Option<(Option<i64>, Option<i64>)> =
        late.query_first("SELECT @by_trigger, @by_function").await.unwrap();
    assert_eq!(set, Some((Some(7), Some(8))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_stored_code_on_mariadb() {
    between_preparation_and_swap(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_stored_code_on_mysql97() {
    between_preparation_and_swap(Engine::MySql97).await;
}

/// The session's answer on both servers.
async fn same_on_both(bed: &mut Bed, asked: &str, expected: &str) {
    let answers = bed.both(asked).await;
    assert_eq!(answers.len(), 2, "{asked}: it didn't move: {answers:?}; {}", bed.session("pinned_by").await);
    assert!(answers.values().flatten().all(|answer| answer == expected), "{asked}: {answers:?}");
}

/// What stored code set is on both; a lock that a function took holds the session, until another lets it go.
async fn stored_code(from: Engine, to: Engine) -> Option<Bed> {
    let mut bed = Bed::start_with(from, to, CODE).await?;
    bed.conn.query_drop("INSERT INTO shop.fires VALUES (7)").await.unwrap();
    bed.conn.query_drop("SELECT shop.puts(8)").await.unwrap();
    bed.conn.query_drop("CALL shop.calls(9)").await.unwrap();
    same_on_both(&mut bed, "@by_trigger, @by_function, @by_procedure", "7|8|9").await;
    let taken: Option<i64> = bed.conn.query_first("SELECT shop.takes()").await.unwrap();
    assert_eq!(taken, Some(1));
    assert_eq!(bed.both("IS_USED_LOCK('a lock') = CONNECTION_ID()").await.len(), 1, "it moved with a lock");
    assert_eq!(bed.session("pinned_by").await, "GET_LOCK within stored code");
    let given: Option<i64> = bed.conn.query_first("SELECT shop.gives()").await.unwrap();
    assert_eq!(given, Some(1), "it was lost");
    same_on_both(&mut bed, "@by_trigger", "7").await;
    assert_eq!(bed.session("pinned_by").await, "");
    Some(bed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_code_between_mariadb_and_mysql97() {
    let Some(mut bed) = stored_code(Engine::MariaDb, Engine::MySql97).await else { return };
    // Both have a list of user variables, so they tell what prepared text has set.
    bed.conn.query_drop("CALL shop.runs('SET @by_text = 10')").await.unwrap();
    same_on_both(&mut bed, "@by_text", "10").await;
    // The name of a schema needs a character set that the session no longer has.
    bed.run(&["CREATE DATABASE `да`", "GRANT ALL ON `да`.* TO anyone@'%'"]).await;
    bed.conn.query_drop("USE `да`").await.unwrap();
    bed.conn.query_drop("SET NAMES latin1").await.unwrap();
    same_on_both(
        &mut bed,
        "HEX(CONVERT(DATABASE() USING utf8mb4)), @@SESSION.character_set_client",
        "D0B4D0B0|latin1",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_code_between_mysql56_and_mysql97() {
    let Some(mut bed) = stored_code(Engine::MySql56, Engine::MySql97).await else { return };
    hidden_code(&mut bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_code_between_mariadb_and_seekdb() {
    let Some(mut bed) = stored_code(Engine::MariaDb, Engine::Seekdb).await else { return };
    hidden_code(&mut bed).await;
}

/// One of the two has no list of user variables: what prepared text has done there can't be known.
async fn hidden_code(bed: &mut Bed) {
    let mut versions = Vec::new();
    for _ in 0..2 {
        bed.conn.query_drop("CALL shop.runs('SET @by_text = 10')").await.unwrap();
        let seen: (String, Option<i64>) =
            bed.conn.query_first("SELECT @@version, @by_text").await.unwrap().unwrap();
        versions.push(seen);
    }
    let held = bed.both("@by_text").await;
    assert_eq!(held.len(), 1, "{held:?}, seen before: {versions:?}");
    assert_eq!(held.values().next().unwrap()[0], "10");
    assert_eq!(bed.session("pinned_by").await, "CALL of a procedure whose effects can't be known");
    bed.conn.change_user(ChangeUserOpts::default()).await.unwrap();
    assert_eq!(bed.both("1").await.len(), 2, "who begins again has nothing of it");
}

/// Nobody set these: the source's global values are others than the target's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_nobody_set_stay_what_they_were() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MariaDb, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    let globals = ["SET GLOBAL div_precision_increment = 7, sql_select_limit = 2, wait_timeout = 1234"];
    let mut bed = Bed::between(source, target, &globals, &[]).await;
    same_on_both(&mut bed, "1/3, @@SESSION.sql_select_limit, @@SESSION.wait_timeout", "0.3333333|2|1234")
        .await;
    bed.conn.query_drop("SET div_precision_increment = 2").await.unwrap();
    same_on_both(&mut bed, "1/3, @@SESSION.wait_timeout", "0.33|1234").await;
}

/// A server in another zone: SYSTEM goes on to mean what it meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_system_s_zone_stays_the_old_one() {
    const OFFSET: &str = "TIMESTAMPDIFF(MINUTE, '2026-07-01 00:00:00', CONVERT_TZ('2026-07-01 00:00:00', '+00:00', @@SESSION.time_zone))";
    let Some(mut bed) = in_zones("TZ=IST-5:30", "TZ=UTC").await else { return };
    same_on_both(&mut bed, OFFSET, "330").await;
    let mapped = bed.both("@@SESSION.time_zone").await;
    assert!(mapped.values().flatten().any(|zone| zone == "+05:30"), "{mapped:?}");
    // A zone with a summer, which the other server doesn't know.
    let Some(mut bed) = in_zones("TZ=CET-1CEST,M3.5.0,M10.5.0/3", "TZ=UTC").await else { return };
    assert_eq!(bed.both(OFFSET).await.len(), 1);
    assert_eq!(bed.session("pinned_by").await, "time_zone SYSTEM that the other server lacks");
    // One that the session chose itself is no matter.
    bed.conn.query_drop("SET time_zone = '+02:00'").await.unwrap();
    same_on_both(&mut bed, OFFSET, "120").await;
}

async fn in_zones(source: &str, target: &str) -> Option<Bed> {
    let (source_flags, target_flags) = ([source], [target]);
    let (source, target) = tokio::join!(
        Server::start(Engine::MariaDb, &source_flags),
        Server::start(Engine::MySql97, &target_flags)
    );
    Some(Bed::between(source?, target?, &[], &[]).await)
}

/// FOUND_ROWS() and ROW_COUNT() long after the statement, with a cutover in between.
async fn numbers(engine: Engine) {
    let Some(pair) = Pair::start(engine, 10).await else { return };
    let changeover = pair.changeover().await;
    let mut asked: Vec<(Conn, &str, (i64, i64))> = Vec::new();
    for (statements, ask, expected) in [
        (&["SELECT id FROM bulk LIMIT 7"][..], "SELECT FOUND_ROWS(), ROW_COUNT()", (7, -1)),
        (&["SELECT id FROM bulk WHERE id < 0"], "SELECT FOUND_ROWS(), ROW_COUNT()", (0, -1)),
        (&["SELECT id FROM bulk LIMIT 3", "SET @a = 1"], "SELECT FOUND_ROWS(), ROW_COUNT()", (3, 0)),
        (&["INSERT INTO nothing VALUES (1, 1)"], "SELECT 0, ROW_COUNT()", (0, 1)),
        (&["INSERT INTO nothing VALUES (2, 2), (3, 3)"], "SELECT 0, ROW_COUNT()", (0, 2)),
    ] {
        let mut conn = changeover.app(Some("shop")).await;
        for sql in statements {
            conn.query_drop(*sql).await.unwrap();
        }
        asked.push((conn, ask, expected));
    }
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    // All but the last were asked for their state, which took the place of these numbers on the server.
    until("four sessions on the target", Duration::from_secs(20), async || {
        let rows = changeover.admin("SHOW SESSIONS").await;
        let moved = rows.iter().filter(|row| row["backend"] == "target").count();
        if moved == 4 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    for (conn, ask, expected) in &mut asked {
        let numbers: Option<(i64, i64)> = conn.query_first(*ask).await.unwrap();
        assert_eq!(numbers.as_ref(), Some(&*expected), "{ask}");
        let warnings: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.unwrap();
        // Of the question itself: FOUND_ROWS() is deprecated.
        assert!(warnings.iter().all(|(_, code, _)| *code == 1287), "{warnings:?}");
        conn.query_drop("DO 1").await.unwrap();
    }
    assert_eq!(changeover.wait_all_moved().await, asked.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_the_last_statement_on_mariadb() {
    numbers(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_the_last_statement_on_mysql97() {
    numbers(Engine::MySql97).await;
}
