//! Sources with GTIDs off, which are followed by binlog file and offset: copied, followed, killed, moved and brought back;
//! and everything that takes such a place away stops with a cause.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{Settings, check};
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, seed};

/// Takes back what the launcher says of GTIDs.
pub const GTIDS_OFF: &[&str] = &["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];

/// The schema that moves.
const SCHEMA: &str = "shop";
/// Connections that write past the proxy.
const WRITERS: u32 = 4;
/// Everything that the writers change, as one value that both servers compute alike.
const SUM: &str = "SELECT CONCAT_WS('|', COUNT(*), SUM(id), SUM(CRC32(CONCAT_WS('~', id, slot, n, COALESCE(note, '-'))))) FROM shop.t";

/// Applications that write to the old server itself, whatever dies.
fn writers(server: &Server) -> Writers {
    let opts = server.opts(accounts::APP, accounts::APP_PASSWORD, Some(SCHEMA));
    Writers::start(WRITERS, move |id, mut turns| {
        let opts = opts.clone();
        async move {
            let mut round = 0_u32;
            let mut conn: Option<Conn> = None;
            while turns.another().await {
                round += 1;
                let written = match &mut conn {
                    Some(conn) => write(id, round, conn).await.is_ok(),
                    None => {
                        conn = Conn::new(opts.clone()).await.ok();
                        false
                    }
                };
                if written {
                    turns.committed();
                } else if conn.is_some() && round.is_multiple_of(2) {
                    conn = None;
                }
            }
        }
    })
}

/// One transaction: a row comes, one goes, keys change, and two rows swap a unique value.
async fn write(id: u32, round: u32, conn: &mut Conn) -> Result<(), mysql_async::Error> {
    let at = 1 + (id * 7919 + round * 31) % 3_000;
    for sql in [
        "BEGIN".to_owned(),
        format!("INSERT INTO t (slot, n, note) VALUES (NULL, {round}, REPEAT('nöte ', {}))", round % 90),
        format!("UPDATE t SET n = n + 1, note = CONCAT('x', {round}) WHERE id = {at}"),
        format!("DELETE FROM t WHERE id = {} + 5000", at),
        format!("UPDATE t SET id = id + 1000000 WHERE id = {at} + 8000 AND id < 1000000"),
        "COMMIT".to_owned(),
    ] {
        if let Err(error) = conn.query_drop(sql).await {
            drop(conn.query_drop("ROLLBACK").await);
            return Err(error);
        }
    }
    Ok(())
}

async fn servers(from: Engine, to: Engine) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(from, GTIDS_OFF), Server::start(to, &[]));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    source
        .run(&[
            "CREATE DATABASE shop DEFAULT CHARACTER SET utf8",
            "CREATE TABLE shop.t (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, slot INT NULL, n INT NOT NULL, \
             note TEXT NULL, UNIQUE KEY slot (slot)) ENGINE=InnoDB",
            "CREATE TABLE shop.keyless (a INT NULL, b VARCHAR(20) NULL) ENGINE=InnoDB",
            "INSERT INTO shop.t (n) VALUES (1), (2), (3), (4), (5), (6), (7), (8)",
            "INSERT INTO shop.keyless VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
        ])
        .await;
    for _ in 0..11 {
        source.run(&["INSERT INTO shop.t (n, note) SELECT n + 1, REPEAT('a', n) FROM shop.t"]).await;
    }
    source.run(&["UPDATE shop.t SET slot = id WHERE id < 2000"]).await;
    Some((source, target))
}

/// What was written is the same on both once it is applied.
async fn assert_equal(changeover: &Changeover, serving: &Server, other: &Server) {
    changeover.wait_applied(serving).await;
    // Behind a swap a position of the leg before may look as if it were this one's.
    let wanted = serving.value::<String>(SUM).await;
    other.wait_value(SUM, &wanted).await;
    let keyless = "SELECT COALESCE(a, '-'), COALESCE(b, '-') FROM shop.keyless ORDER BY 1, 2";
    assert_eq!(
        serving.rows::<(String, String)>(keyless).await,
        other.rows::<(String, String)>(keyless).await
    );
}

/// Copy and tail under writers, Changeover and the source killed in both, definitions that change, a cutover.
async fn moves(from: Engine, to: Engine) {
    let Some((mut source, target)) = servers(from, to).await else { return };
    let settings = Settings::between(&source, &target, SCHEMA).with("snapshot.chunk_rows", "500");
    let (code, findings) = check(&settings);
    assert!(code == 0 && findings.contains("file and offset"), "{findings}");
    let mut changeover = Changeover::start(settings).await;
    let writing = writers(&source);
    writing.wait_more(20).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["copying", "catching_up", "following"]).await;
    changeover.start_again().await;
    source.run(&["FLUSH LOGS", "INSERT INTO shop.keyless VALUES (2, 'y')"]).await;
    changeover.wait_phase(&["catching_up", "following"]).await;
    writing.wait_more(20).await;
    changeover.start_again().await;
    writing.wait_more(20).await;
    source.kill_9();
    source.start_again().await;
    writing.wait_more(40).await;
    changeover.wait_phase(&["following"]).await;
    source
        .run(&[
            "USE shop",
            "CREATE TABLE picked (id INT PRIMARY KEY) SELECT id, n FROM t WHERE id < 50",
            "UPDATE picked SET n = 9 WHERE id < 9",
            "ALTER TABLE picked ADD COLUMN extra INT NOT NULL DEFAULT 4",
            "INSERT INTO picked VALUES (70, 1, 2)",
            "DELETE FROM keyless WHERE a = 1 LIMIT 1",
        ])
        .await;
    writing.wait_more(20).await;
    changeover.wait_ready().await;
    writing.close().await;
    assert_equal(&changeover, &source, &target).await;
    let picked = "SELECT CONCAT_WS('|', COUNT(*), SUM(id), SUM(n), SUM(extra)) FROM shop.picked";
    assert_eq!(source.value::<String>(picked).await, target.value::<String>(picked).await);
    let status = changeover.status().await;
    assert!(status["source_position"].starts_with("bin.0000"), "{status:?}");
    assert_eq!(status["differences"], "0", "{status:?}");
    changeover.cut_over_by("CUTOVER").await;
    assert_eq!(source.value::<i64>("SELECT @@GLOBAL.read_only").await, 1);
    if from != to {
        return;
    }
    // The way back: each side is followed in its own way, GTIDs on here and off there.
    let writing = writers(&target);
    writing.wait_more(40).await;
    changeover.turn().await;
    writing.close().await;
    let writing = writers(&source);
    writing.wait_more(40).await;
    writing.close().await;
    assert_equal(&changeover, &source, &target).await;
    changeover.turn().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_to_mysql97() {
    moves(Engine::MySql56, Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql56_to_mariadb() {
    moves(Engine::MySql56, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_to_mysql97() {
    moves(Engine::MySql97, Engine::MySql97).await;
}

/// Applications through the proxy, both servers without GTIDs, back and forth, the source killed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_and_forth_without_any_gtids() {
    let Some(mut pair) = Pair::start_with(Engine::MySql97, 5_000, GTIDS_OFF).await else { return };
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    ledger.wait_more(50).await;
    ledger.expect_lost_connections();
    pair.source.kill_9();
    pair.source.start_again().await;
    ledger.wait_more(50).await;
    changeover.wait_ready().await;
    for _ in 0..3 {
        changeover.turn().await;
        ledger.wait_more(60).await;
    }
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.target).await;
    compare::assert_equal(&pair.target, &pair.source, seed::SCHEMA).await;
    proof.assert_holds_on(&pair.target).await;
    proof.assert_holds_on(&pair.source).await;
}

/// A migration that follows, and the writers gone.
async fn following(from: Engine) -> Option<(Server, Server, Changeover)> {
    let (source, target) = servers(from, Engine::MySql97).await?;
    let changeover = Changeover::start(Settings::between(&source, &target, SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.wait_applied(&source).await;
    Some((source, target, changeover))
}

/// It stops by itself, with these words in its error.
async fn stops_with(changeover: &Changeover, words: &[&str]) {
    changeover.wait_phase(&["failed"]).await;
    let told = changeover.status_of("last_error").await;
    for word in words {
        assert!(told.contains(word), "`{word}` isn't in: {told}");
    }
    let refused = changeover.try_admin("CUTOVER").await.expect_err("a cutover of a failed migration");
    assert!(refused.contains("failed"), "{refused}");
}

fn reset(engine: Engine) -> &'static str {
    if engine == Engine::MySql97 { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_are_purged_are_missed() {
    let Some((source, _target, changeover)) = following(Engine::MySql56).await else { return };
    changeover.admin("PAUSE MIGRATION").await;
    source.run(&["FLUSH LOGS", "INSERT INTO shop.t (n) VALUES (1)", "FLUSH LOGS"]).await;
    let last: Vec<(String, u64)> = source.rows("SHOW BINARY LOGS").await;
    source.run(&[&format!("PURGE BINARY LOGS TO '{}'", last.last().unwrap().0)]).await;
    changeover.admin("RESUME MIGRATION").await;
    stops_with(&changeover, &["no longer has the binary logs"]).await;
}

/// The dump is connected, and goes on waiting at the end of a file that isn't there any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_noticed_while_it_is_followed() {
    for engine in [Engine::MySql56, Engine::MySql97] {
        let Some((source, _target, changeover)) = following(engine).await else { return };
        source.run(&["FLUSH LOGS", "INSERT INTO shop.t (n) VALUES (1)"]).await;
        changeover.wait_applied(&source).await;
        source.run(&[reset(engine), "INSERT INTO shop.t (n) VALUES (7)"]).await;
        stops_with(&changeover, &["RESET", "egin the migration again"]).await;
    }
}

/// The file has the same name again, and is longer than the old one was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_begun_anew_is_not_taken_for_the_old_one() {
    for engine in [Engine::MySql56, Engine::MySql97] {
        let Some((source, _target, changeover)) = following(engine).await else { return };
        changeover.admin("PAUSE MIGRATION").await;
        source.run(&[reset(engine)]).await;
        for _ in 0..3 {
            source.run(&["UPDATE shop.t SET n = n + 1"]).await;
        }
        source.run(&["UPDATE shop.t SET note = REPEAT('grown ', 100)"]).await;
        changeover.admin("RESUME MIGRATION").await;
        stops_with(&changeover, &["went back"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gtids_that_are_turned_on_stop_it() {
    let Some((source, _target, changeover)) = following(Engine::MySql97).await else { return };
    source
        .run(&[
            "SET GLOBAL enforce_gtid_consistency = ON",
            "SET GLOBAL gtid_mode = OFF_PERMISSIVE",
            "INSERT INTO shop.t (n) VALUES (1)",
            "SET GLOBAL gtid_mode = ON_PERMISSIVE",
            "INSERT INTO shop.t (n) VALUES (2)",
        ])
        .await;
    stops_with(&changeover, &["gtid_mode"]).await;
}
