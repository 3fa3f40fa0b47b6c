//! Definitions change on the source while the application writes: in the tail, in the middle of the copy, through a
//! crash, by hand. At the end both servers have the same definitions and rows (invariants 4 and 5).

use std::time::Duration;

use crate::support::compare::assert_equal;
use crate::support::seed::SCHEMA;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server};

/// Sessions of the application.
const WRITERS: u32 = 8;

/// Everything is applied while the writers rest, and both servers hold the same.
async fn assert_the_same(pair: &Pair, changeover: &Changeover, ledger: &Ledger) {
    ledger.rest().await;
    changeover.wait_applied(&pair.source).await;
    assert_equal(&pair.source, &pair.target, SCHEMA).await;
    ledger.go_on();
}

/// The end of every story: all of it verified, a cutover, and the books.
async fn cut_over_and_prove(pair: &Pair, changeover: &Changeover, ledger: Ledger) {
    changeover.wait_ready().await;
    changeover.cut_over().await;
    ledger.wait_more(50).await;
    changeover.wait_all_moved().await;
    ledger.close().await.assert_holds_on(&pair.target).await;
}

/// A table's life, with rows between all its changes, and tables of the application's under load. (None that others
/// refer to: MariaDB locks the children against an ALTER that waits for their writers.)
const LIFE: &[&str] = &[
    "USE shop",
    "CREATE TABLE extra (id INT PRIMARY KEY, v VARCHAR(20), gone INT) DEFAULT CHARSET = latin1",
    "INSERT INTO extra VALUES (1, 'one', 1), (2, 'two', 2)",
    "ALTER TABLE extra ADD COLUMN w BIGINT UNSIGNED NOT NULL DEFAULT 7 FIRST",
    "INSERT INTO extra VALUES (18446744073709551615, 3, 'drei', 3)",
    "ALTER TABLE extra MODIFY v VARCHAR(300) CHARACTER SET utf8mb4, DROP COLUMN gone",
    "UPDATE extra SET v = REPEAT('ü', 200) WHERE id = 1",
    "ALTER TABLE extra CHANGE w weight DECIMAL(30,2) NOT NULL, ADD UNIQUE KEY v (v(250))",
    "DELETE FROM extra WHERE id = 2",
    "SET time_zone = '+05:00', timestamp = 1700000000.123456",
    "ALTER TABLE extra ADD COLUMN at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
    "SET timestamp = DEFAULT, sql_mode = 'ANSI_QUOTES'",
    "CREATE INDEX at_1 ON \"extra\" (at)",
    "INSERT INTO extra (weight, id, v) VALUES (1.5, 4, 'four')",
    "RENAME TABLE extra TO extra_2",
    "UPDATE extra_2 SET weight = weight + 1",
    "CREATE TABLE short_lived LIKE extra_2",
    "INSERT INTO short_lived SELECT * FROM extra_2",
    "TRUNCATE TABLE short_lived",
    "INSERT INTO short_lived (weight, id) VALUES (1, 1)",
    "CREATE DEFINER = 'app'@'%' VIEW heavy AS SELECT id FROM extra_2 WHERE weight > 1",
    "DROP TABLE short_lived",
    "ALTER TABLE gauges ADD COLUMN remark VARCHAR(20) CHARACTER SET utf8mb4 NOT NULL DEFAULT 'née' AFTER id, DROP KEY words",
    "ALTER TABLE inbox ADD COLUMN flag TINYINT NULL",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "CREATE TABLE picked (id INT PRIMARY KEY) SELECT id, balance FROM accounts WHERE id < 50",
    "UPDATE picked SET balance = 1",
];

async fn definitions_change_in_the_tail(engine: Engine) {
    let Some(pair) = Pair::start(engine, 2_000).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    pair.source.run(LIFE).await;
    ledger.wait_more(50).await;
    assert_the_same(&pair, &changeover, &ledger).await;
    let heavy: Vec<i64> = pair.target.rows("SELECT id FROM shop.heavy ORDER BY id").await;
    assert_eq!(heavy, pair.source.rows::<i64>("SELECT id FROM shop.heavy ORDER BY id").await);
    swap_in_a_ghost(&pair.source, &ledger).await;
    ledger.wait_more(50).await;
    assert_the_same(&pair, &changeover, &ledger).await;
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// An online ALTER as other tools make it: a ghost, its rows, and a swap of the names. The tools take the writers' rows
/// along; here they rest meanwhile.
async fn swap_in_a_ghost(source: &Server, ledger: &Ledger) {
    ledger.rest().await;
    source
        .run(&[
            "USE shop",
            "CREATE TABLE _entries_gho LIKE entries",
            "ALTER TABLE _entries_gho ADD COLUMN checked TINYINT NOT NULL DEFAULT 0, MODIFY note VARCHAR(300)",
            "INSERT INTO _entries_gho (id, writer, seq, account, amount, kind, note, made) \
             SELECT id, writer, seq, account, amount, kind, note, made FROM entries",
            "RENAME TABLE entries TO _entries_del, _entries_gho TO entries",
        ])
        .await;
    ledger.go_on();
}

async fn definitions_change_in_the_copy(engine: Engine) {
    let Some(pair) = Pair::start(engine, 20_000).await else { return };
    let settings = pair.settings().with("snapshot.max_rows_per_s", "6000").with("snapshot.chunk_rows", "500");
    let changeover = Changeover::start(settings).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    until("some rows to be copied", Duration::from_secs(60), async || {
        let status = changeover.status().await;
        let copied: u64 = status["rows_copied"].parse().unwrap_or(0);
        assert!(status["phase"] != "following", "the copy was too fast for this test: {status:?}");
        if copied > 1_000 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    pair.source
        .run(&[
            "USE shop",
            "ALTER TABLE bulk ADD COLUMN born TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) FIRST, DROP COLUMN pad",
            "INSERT INTO bulk (k, c) VALUES (1, 'after')",
            "ALTER TABLE gauges ADD COLUMN remark VARCHAR(20) NOT NULL DEFAULT 'x' AFTER id",
            "RENAME TABLE names TO called",
            "DELETE FROM called WHERE n < 10",
            "CREATE TABLE extra (id INT PRIMARY KEY)",
            "INSERT INTO extra VALUES (1), (2)",
            "ALTER TABLE extra ADD COLUMN x INT",
            "DROP TABLE nothing",
            "CREATE TABLE nothing (a VARCHAR(9) PRIMARY KEY)",
            "INSERT INTO nothing VALUES ('new')",
        ])
        .await;
    assert_eq!(changeover.status_of("phase").await, "copying", "the copy was too fast for this test");
    changeover.wait_phase(&["following"]).await;
    assert_the_same(&pair, &changeover, &ledger).await;
    pair.source
        .run(&["USE shop", "ALTER TABLE bulk DROP COLUMN born", "DELETE FROM bulk WHERE id < 60"])
        .await;
    assert_the_same(&pair, &changeover, &ledger).await;
    assert!(changeover.log().contains("copied anew"), "no table was copied anew");
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// Changeover dies around a statement and is started again: the statement has run once.
async fn dies_at(engine: Engine, failpoint: &str, sql: &str, once: &str) {
    let Some(pair) = Pair::start(engine, 500).await else { return };
    let mut changeover =
        Changeover::start_with(pair.settings(), &[("CHANGEOVER_FAILPOINT", failpoint)]).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    ledger.expect_lost_connections();
    pair.source.run(&["USE shop", sql]).await;
    let status = changeover.wait_end().await;
    assert!(!status.success(), "{failpoint} wasn't reached: {status}");
    changeover.start_again_plain().await;
    ledger.wait_more(50).await;
    assert_the_same(&pair, &changeover, &ledger).await;
    let times = changeover.log().matches(once).count();
    assert_eq!(times, 0, "it was run again:\n{}", changeover.log());
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// `migration.ddl = "pause"`: the operator does it, and says RESUME.
async fn an_operator_applies_it(engine: Engine) {
    let Some(pair) = Pair::start(engine, 500).await else { return };
    let mut changeover = Changeover::start(pair.settings().with("migration.ddl", "\"pause\"")).await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let alter = "ALTER TABLE shop.inbox ADD COLUMN flag VARCHAR(9) NOT NULL DEFAULT 'secret'";
    pair.source
        .run(&["CREATE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY)", alter])
        .await;
    changeover.wait_phase(&["paused"]).await;
    let error = changeover.status_of("last_error").await;
    assert!(
        error.contains("ALTER TABLE") && error.contains("RESUME") && !error.contains("secret"),
        "{error}"
    );
    // Neither a restart nor impatience passes it over.
    ledger.expect_lost_connections();
    changeover.start_again().await;
    assert_eq!(changeover.status_of("phase").await, "paused");
    assert!(changeover.status_of("last_error").await.contains("ALTER TABLE"));
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_phase(&["paused"]).await;
    pair.target.run(&[alter]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    assert_the_same(&pair, &changeover, &ledger).await;
    cut_over_and_prove(&pair, &changeover, ledger).await;
}

/// What nobody understands isn't passed over, nor is what the target refuses.
async fn what_can_not_be_applied_pauses() {
    let Some(pair) = Pair::start(Engine::MariaDb, 500).await else { return };
    let changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    pair.source.run(&["CREATE SEQUENCE shop.numbers"]).await;
    changeover.wait_phase(&["paused"]).await;
    let error = changeover.status_of("last_error").await;
    assert!(error.contains("CREATE SEQUENCE"), "{error}");
    let refused = changeover.try_admin("CUTOVER").await.expect_err("a paused migration can't be cut over");
    assert!(refused.contains("paused"), "{refused}");
    pair.target.run(&["CREATE SEQUENCE shop.numbers"]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    // The target has something of that name already.
    pair.target.run(&["CREATE VIEW shop.taken AS SELECT 1 AS one"]).await;
    pair.source.run(&["CREATE VIEW shop.taken AS SELECT 1 AS one"]).await;
    changeover.wait_phase(&["paused"]).await;
    assert!(changeover.status_of("last_error").await.contains("CREATE"), "which statement it was");
    pair.target.run(&["DROP VIEW shop.taken"]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
}

macro_rules! each {
    ($($name:ident => $call:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() { $call.await; })*
    };
}

const ADD: &str = "ALTER TABLE inbox ADD COLUMN flag TINYINT NULL";
const SWAP: &str = "RENAME TABLE nothing TO nothing_2";

each! {
    mariadb_definitions_change_in_the_tail => definitions_change_in_the_tail(Engine::MariaDb);
    mysql97_definitions_change_in_the_tail => definitions_change_in_the_tail(Engine::MySql97);
    mariadb_definitions_change_in_the_copy => definitions_change_in_the_copy(Engine::MariaDb);
    mysql97_definitions_change_in_the_copy => definitions_change_in_the_copy(Engine::MySql97);
    mariadb_dies_behind_a_definition => dies_at(Engine::MariaDb, "ddl.applied", ADD, "ALTER TABLE at");
    mysql97_dies_behind_a_definition => dies_at(Engine::MySql97, "ddl.defined", SWAP, "refused");
    mariadb_an_operator_applies_it => an_operator_applies_it(Engine::MariaDb);
    mariadb_what_can_not_be_applied_pauses => what_can_not_be_applied_pauses();
}
