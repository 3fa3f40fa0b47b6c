//! XA transactions in two phases: prepared, committed and rolled back while everything is moved, through deaths of Changeover and
//! restarts of the source; and what a cutover would leave behind keeps it away.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

use crate::file_and_offset::GTIDS_OFF;
use crate::support::changeover::{Settings, check};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Pair, Server, accounts, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 3;
/// Rows in `sums`.
const SUMS: u32 = 8;

const TABLES: &[&str] = &[
    "USE shop",
    "CREATE TABLE booked (writer INT NOT NULL, round INT NOT NULL, sum INT NOT NULL, PRIMARY KEY (writer, round))",
    "CREATE TABLE sums (id INT PRIMARY KEY, booked INT NOT NULL)",
    "INSERT INTO sums VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)",
    "CREATE TABLE keyless (n INT NOT NULL)",
    "INSERT INTO keyless VALUES (1000), (1000)",
    "CREATE TABLE scripted (id INT PRIMARY KEY, what VARCHAR(80))",
];

/// The application: each writer books under a name of its own, whose number says what becomes of it. What was committed counts.
fn writers(of: &'static str, opts: Opts) -> Writers {
    Writers::start(WRITERS, move |id, mut turns| {
        let opts = opts.clone();
        async move {
            let writer = id + if of == "direct" { 0 } else { 100 };
            let mut conn = Conn::new(opts).await.unwrap();
            let mut round = 0;
            while turns.another().await {
                round += 1;
                if book(writer, round, &mut conn).await {
                    turns.committed();
                }
            }
            conn.disconnect().await.unwrap();
        }
    })
}

/// One transaction. False where it was undone.
async fn book(writer: u32, round: u32, conn: &mut Conn) -> bool {
    // One name for all of a writer's transactions, every other time.
    let xid = if round.is_multiple_of(2) {
        format!("'{writer}'")
    } else {
        format!("'{writer}', '{round}', {writer}")
    };
    let sum = (writer * 7 + round) % SUMS;
    let mut statements = vec![
        format!("XA START {xid}"),
        format!("INSERT INTO booked VALUES ({writer}, {round}, {sum})"),
        format!("UPDATE sums SET booked = booked + 1 WHERE id = {sum}"),
        format!("INSERT INTO keyless VALUES ({writer})"),
        format!("XA END {xid}"),
    ];
    let undone = round.is_multiple_of(5);
    statements.extend(match round % 7 {
        0 if !undone => vec![format!("XA COMMIT {xid} ONE PHASE")],
        _ if undone => vec![format!("XA PREPARE {xid}"), format!("XA ROLLBACK {xid}")],
        _ => vec![format!("XA PREPARE {xid}"), format!("XA COMMIT {xid}")],
    });
    for (at, sql) in statements.iter().enumerate() {
        if let Err(error) = conn.query_drop(sql).await {
            // A deadlock, and nothing else; behind XA END it can't be one.
            let deadlock = matches!(&error, mysql_async::Error::Server(error) if matches!(error.code, 1213 | 1402 | 1614));
            assert!(deadlock && at < 5, "{sql}: {error}");
            drop(conn.query_drop(format!("XA END {xid}")).await);
            conn.query_drop(format!("XA ROLLBACK {xid}")).await.unwrap();
            return false;
        }
    }
    !undone
}

/// A transaction that is prepared in a session that goes away.
async fn prepare(server: &Server, xid: &str, sql: &str) {
    let xid_start = format!("XA START '{xid}'");
    let (end, prepare) = (format!("XA END '{xid}'"), format!("XA PREPARE '{xid}'"));
    server.run(&["USE shop", &xid_start, sql, &end, &prepare]).await;
}

/// Its second phase, in another session. The first one may not be gone yet as far as the server knows.
async fn second(server: &Server, word: &str, xid: &str) {
    until(&format!("the first session of {xid} to be gone"), Duration::from_secs(20), async || {
        let mut conn = server.root().await;
        let done = conn.query_drop(format!("XA {word} '{xid}'")).await;
        conn.disconnect().await.unwrap();
        done.map_err(|error| error.to_string())
    })
    .await;
}

fn insert(id: u32, what: &str) -> String {
    format!("INSERT INTO scripted VALUES ({id}, '{what}')")
}

async fn wait_log(changeover: &Changeover, words: &str) {
    until(words, Duration::from_secs(60), async || {
        let log = changeover.log();
        if log.contains(words) { Ok(()) } else { Err("it isn't in the log".to_owned()) }
    })
    .await;
}

async fn has_gtids(server: &Server) -> bool {
    server.engine() == Engine::MariaDb || server.value::<String>("SELECT @@GLOBAL.gtid_mode").await == "ON"
}

/// The row of the dry run that is about XA.
async fn dry_run(changeover: &Changeover) -> (String, String) {
    let rows = changeover.admin("CUTOVER DRY RUN").await;
    let mut row = rows.into_iter().find(|row| row["step"] == "xa").unwrap();
    (row.remove("ok").unwrap(), row.remove("note").unwrap())
}

/// From before the start into `following`, with what is prepared across each step of it.
async fn start(pair: &Pair, settings: Settings) -> Changeover {
    let source = &pair.source;
    prepare(source, "before", &insert(1, "prepared before the start")).await;
    prepare(source, "never", &insert(2, "rolled back")).await;
    let mut changeover =
        Changeover::start_with(settings.clone(), &[("CHANGEOVER_FAILPOINT", "migration.prepared")]).await;
    if has_gtids(source).await {
        let (_, found) = check(&settings);
        assert!(found.contains("XA transaction(s) are prepared now"), "{found}");
        changeover.admin("START MIGRATION").await;
        wait_log(&changeover, "XA transaction(s) are prepared on the source, where the copy starts").await;
    } else {
        // Without GTIDs there is no start position while something stays prepared.
        let refused = changeover.try_admin("START MIGRATION").await.unwrap_err();
        assert!(refused.contains("XA RECOVER"), "{refused}");
    }
    second(source, "COMMIT", "before").await;
    second(source, "ROLLBACK", "never").await;
    if !has_gtids(source).await {
        changeover.admin("START MIGRATION").await;
    }
    changeover.wait_end().await;
    // Behind the start position, and before a row is read.
    prepare(source, "across", &insert(3, "prepared before the copy, committed after it")).await;
    prepare(source, "whole", "INSERT INTO keyless VALUES (1077)").await;
    if has_gtids(source).await {
        changeover.start_again_plain().await;
        wait_log(&changeover, "stays open, or prepared").await;
        second(source, "COMMIT", "whole").await;
        changeover.wait_phase(&["following"]).await;
        second(source, "COMMIT", "across").await;
    } else {
        // Nor a position for a whole table.
        second(source, "COMMIT", "whole").await;
        second(source, "COMMIT", "across").await;
        changeover.start_again_plain().await;
        changeover.wait_phase(&["following"]).await;
    }
    changeover
}

/// Deaths between the phases and at each step between them; and a source that dies with something prepared.
async fn die(pair: &mut Pair, changeover: &mut Changeover) {
    for (id, place) in (10..).zip(["spool.xa.parked", "spool.xa.taken", "spool.xa.ended"]) {
        changeover.start_to_die(place).await;
        prepare(&pair.source, place, &insert(id, place)).await;
        second(&pair.source, "COMMIT", place).await;
        changeover.wait_end().await;
    }
    changeover.start_again_plain().await;
    prepare(&pair.source, "between", &insert(20, "committed while nobody looks")).await;
    prepare(&pair.source, "undone", "UPDATE scripted SET what = 'never' WHERE id = 3").await;
    changeover.wait_phase(&["following"]).await;
    changeover.wait_applied(&pair.source).await;
    changeover.kill_9();
    second(&pair.source, "COMMIT", "between").await;
    second(&pair.source, "ROLLBACK", "undone").await;
    changeover.start_again().await;
    changeover.wait_applied(&pair.source).await;
}

async fn restart_source(pair: &mut Pair, changeover: &Changeover) {
    // Not by a kill: MySQL 9.7 may lose what it has just prepared, and logged, to that.
    prepare(&pair.source, "restart", &insert(30, "across a restart of the source")).await;
    changeover.wait_applied(&pair.source).await;
    pair.source.shut_down().await;
    pair.source.start_again().await;
    second(&pair.source, "COMMIT", "restart").await;
    changeover.wait_applied(&pair.source).await;
}

/// What nobody could end behind a swap keeps the application where it is.
async fn refuse(pair: &Pair, changeover: &Changeover) {
    prepare(&pair.source, "left", &insert(40, "left behind")).await;
    let (ok, note) = dry_run(changeover).await;
    assert!(ok == "0" && note.contains("1 XA transaction(s) are prepared"), "{note}");
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("XA RECOVER"), "{refused}");
    second(&pair.source, "COMMIT", "left").await;
}

/// Both hold the same, and what the application counted.
async fn prove(pair: &Pair, changeover: &Changeover, committed: u64) {
    let route = changeover.status_of("route").await;
    let (serving, other) = pair.sides(&route);
    changeover.wait_applied(serving).await;
    compare::assert_equal(serving, other, seed::SCHEMA).await;
    for server in [serving, other] {
        let counts = "SELECT CONCAT_WS(' ', COUNT(*), (SELECT SUM(booked) FROM shop.sums), \
                      (SELECT COUNT(*) FROM shop.keyless WHERE n < 1000)) FROM shop.booked";
        let kept: String = server.value(counts).await;
        assert_eq!(kept, format!("{committed} {committed} {committed}"), "on the {:?}", server.engine());
        let scripted = "SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.scripted";
        assert_eq!(server.value::<String>(scripted).await, "1,3,10,11,12,20,30,40");
    }
}

async fn moves(engine: Engine, flags: &[&str]) {
    let Some(mut pair) = Pair::start_with(engine, 2_000, flags).await else { return };
    pair.source.run(TABLES).await;
    let direct = pair.source.opts(accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA));
    let app = writers("direct", direct);
    app.wait_more(10).await;
    let mut changeover = start(&pair, pair.settings().with("snapshot.chunk_rows", "500")).await;
    app.wait_more(10).await;
    die(&mut pair, &mut changeover).await;
    app.wait_more(10).await;
    let mut committed = app.close().await;
    restart_source(&mut pair, &changeover).await;
    changeover.wait_ready().await;
    refuse(&pair, &changeover).await;
    let through = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA));
    let app = writers("proxy", through);
    for _ in 0..3 {
        app.wait_more(10).await;
        println!("{engine:?}: the gate was closed for {} ms", changeover.turn().await);
    }
    app.wait_more(10).await;
    committed += app.close().await;
    prove(&pair, &changeover, committed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_moves_under_xa() {
    moves(Engine::MariaDb, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_moves_under_xa() {
    moves(Engine::MySql97, &["--binlog-transaction-compression=ON"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_without_gtids_moves_under_xa() {
    moves(Engine::MySql97, GTIDS_OFF).await;
}

/// MySQL wants a privilege for the question what is prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_may_not_ask_is_strict() {
    let Some(pair) = Pair::start(Engine::MySql97, 500).await else { return };
    pair.source.run(TABLES).await;
    pair.source
        .run(&[
            "REVOKE XA_RECOVER_ADMIN ON *.* FROM changeover@'%'",
            "CREATE DATABASE elsewhere",
            "CREATE TABLE elsewhere.t (id INT PRIMARY KEY)",
        ])
        .await;
    let (_, found) = check(&pair.settings());
    assert!(found.contains("GRANT XA_RECOVER_ADMIN"), "{found}");
    prepare(&pair.source, "before", &insert(1, "prepared before the start")).await;
    let mut changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    // What was prepared since is known, also across a restart, and whether it is ours or not.
    prepare(&pair.source, "ours", &insert(2, "prepared since")).await;
    prepare(&pair.source, "theirs", "INSERT INTO elsewhere.t VALUES (1)").await;
    changeover.wait_applied(&pair.source).await;
    let (ok, note) = dry_run(&changeover).await;
    assert!(ok == "0" && note.contains("2 XA transaction(s)"), "{note}");
    changeover.kill_9();
    second(&pair.source, "COMMIT", "ours").await;
    second(&pair.source, "COMMIT", "theirs").await;
    changeover.start_again().await;
    changeover.wait_ready().await;
    pair.target.wait_value("SELECT COUNT(*) FROM shop.scripted WHERE id = 2", "1").await;
    let (ok, note) = dry_run(&changeover).await;
    assert!(ok == "1" && note.contains("may not ask"), "{note}");
    second(&pair.source, "COMMIT", "before").await;
    changeover.wait_phase(&["failed"]).await;
    let told = changeover.status_of("last_error").await;
    assert!(
        told.contains("prepared before the migration began") && told.contains("XA_RECOVER_ADMIN"),
        "{told}"
    );
}

/// MySQL 5.6 logs no first phase: an XA transaction is in its log where it is committed, like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_logs_the_second_phase_alone() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MySql56, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, seed::SCHEMA).await;
    }
    source.run(&["CREATE DATABASE shop"]).await;
    source.run(TABLES).await;
    let app = writers("direct", source.opts(accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA)));
    let changeover = Changeover::start(Settings::between(&source, &target, seed::SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    app.wait_more(20).await;
    let committed = app.close().await;
    changeover.wait_applied(&source).await;
    let counts = "SELECT CONCAT_WS(' ', COUNT(*), (SELECT SUM(booked) FROM shop.sums)) FROM shop.booked";
    for server in [&source, &target] {
        assert_eq!(server.value::<String>(counts).await, format!("{committed} {committed}"));
    }
}
