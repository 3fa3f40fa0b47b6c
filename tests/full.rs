//! What is full: the spool, because the target stands; the disk under state_dir, in the copy, in the tail and at a cutover; the disk
//! under stage_dir. Nothing is lost or doubled, nothing grows beyond its bound, and it is said what to do.

use std::path::Path;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::support::changeover::Settings;
use crate::support::disk::Disk;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Server, pair};

const LIMIT: Duration = Duration::from_secs(60);
/// The least that a spool may be given, and what it says then.
const SPOOL: (&str, u64) = ("0.1", 100_000_000);
const FULL: &str = "the spool is full (apply.spool_max_gb)";
/// Of everything that was written, as one value that both servers compute alike.
const SUM: &str =
    "SELECT CONCAT_WS('|', COUNT(*), SUM(id), SUM(n), SUM(LENGTH(body)), SUM(CRC32(body))) FROM shop.t";

async fn servers(engine: Engine) -> Option<(Server, Server)> {
    let with_flags: (Engine, &[&str]) = (engine, &["--max-allowed-packet=64M"]);
    let (source, target) = pair::servers(with_flags, with_flags, "shop").await?;
    source
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL DEFAULT 0, body LONGBLOB) ENGINE=InnoDB",
            "INSERT INTO shop.t (body) VALUES ('a'), ('b'), ('c')",
        ])
        .await;
    Some((source, target))
}

/// The target takes no row from here on, until the session ends.
async fn hold_up(target: &Server) -> Conn {
    let mut locker = target.root().await;
    locker.query_drop("LOCK TABLES shop.t WRITE").await.unwrap();
    locker
}

/// So many transactions of four megabytes, and small ones between them.
async fn write_much(source: &Server, transactions: u32) {
    for _ in 0..transactions {
        source
            .run(&[
                "INSERT INTO shop.t (body) VALUES (REPEAT('0123456789abcdef', 262144))",
                "UPDATE shop.t SET n = n + 1 WHERE id <= 3",
            ])
            .await;
    }
}

fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    // A segment may go between the two looks.
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

async fn wait_full(changeover: &Changeover, times: usize) {
    until("the spool to be full", LIMIT, async || {
        let said = changeover.log().matches(FULL).count();
        if said >= times { Ok(()) } else { Err(format!("{:?}", changeover.status().await)) }
    })
    .await;
    // The transaction that fills it, and what is on its way to the disk.
    let bytes = bytes_in(&changeover.state_dir().join("spool"));
    assert!(bytes > SPOOL.1 * 9 / 10 && bytes < SPOOL.1 + 10_000_000, "the spool has {bytes} bytes");
    assert_ne!(changeover.status_of("phase").await, "failed");
}

async fn assert_equal(changeover: &Changeover, source: &Server, target: &Server) {
    changeover.wait_applied(source).await;
    changeover.wait_ready().await;
    assert_eq!(source.value::<String>(SUM).await, target.value::<String>(SUM).await);
}

async fn following(source: &Server, target: &Server) -> Changeover {
    let settings = Settings::between(source, target, "shop").with("apply.spool_max_gb", SPOOL.0);
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover
}

/// The target stands and the source writes more than the spool may hold; Changeover dies meanwhile.
async fn the_spool_is_full(engine: Engine) {
    let Some((source, target)) = servers(engine).await else { return };
    let mut changeover = following(&source, &target).await;
    let locker = hold_up(&target).await;
    write_much(&source, 36).await;
    wait_full(&changeover, 1).await;
    changeover.kill_9();
    changeover.start_again().await;
    wait_full(&changeover, 2).await;
    // What the application is told doesn't depend on it.
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO t (body) VALUES ('by the application')").await.unwrap();
    locker.disconnect().await.unwrap();
    assert_equal(&changeover, &source, &target).await;
    assert_eq!(target.value::<i64>("SELECT n FROM shop.t WHERE id = 2").await, 36);
    let bytes = bytes_in(&changeover.state_dir().join("spool"));
    assert!(bytes < SPOOL.1, "room was given back: {bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_is_full_mariadb() {
    the_spool_is_full(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_is_full_mysql97() {
    the_spool_is_full(Engine::MySql97).await;
}

/// Meanwhile the source ends the dump, which takes nothing, and purges what wasn't read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_purged_while_the_spool_is_full() {
    let Some((source, target)) = servers(Engine::MariaDb).await else { return };
    let changeover = following(&source, &target).await;
    let locker = hold_up(&target).await;
    write_much(&source, 36).await;
    wait_full(&changeover, 1).await;
    let dumps: Vec<u32> =
        source.rows("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'").await;
    assert_eq!(dumps.len(), 1);
    source.run(&[&format!("KILL {}", dumps[0]), "FLUSH LOGS"]).await;
    let last: String = source.rows::<mysql_async::Row>("SHOW MASTER STATUS").await.remove(0).get(0).unwrap();
    until("the logs to be purged", LIMIT, async || {
        source.run(&[&format!("PURGE BINARY LOGS TO '{last}'")]).await;
        let first: String =
            source.rows::<mysql_async::Row>("SHOW BINARY LOGS").await.remove(0).get(0).unwrap();
        if first == last { Ok(()) } else { Err(first) }
    })
    .await;
    locker.disconnect().await.unwrap();
    let said = changeover.stopped().await;
    assert!(said.contains("no longer has") && said.contains("begin the migration again"), "{said}");
    assert!(changeover.try_admin("CUTOVER").await.is_err());
}

/// It stopped because of the disk, and says where and what to do.
fn assert_says(said: &str, file: &str) {
    assert!(said.contains(file) && said.contains("No space left"), "{said}");
    assert!(said.contains("make room on that disk") || said.contains("free some space"), "{said}");
}

/// No room for the first word, for the journal of the copy, for the spool, and for the journal of a cutover.
async fn the_disk_under_state_dir_is_full(engine: Engine) {
    let Some(disk) = Disk::of_megabytes(48) else { return };
    let Some((source, target)) = servers(engine).await else { return };
    for _ in 0..12 {
        source.run(&["INSERT INTO shop.t (body) SELECT REPEAT('x', 40) FROM shop.t"]).await;
    }
    let state_dir = disk.path().join("state");
    let settings = Settings::between(&source, &target, "shop")
        .with("state_dir", &format!("\"{}\"", state_dir.display()))
        .with("snapshot.chunk_rows", "20");
    let aside = tempfile::tempdir().unwrap();
    let hold = aside.path().join("hold");
    let changeover = Changeover::start_with(settings, &[("CHANGEOVER_HOLD", hold.to_str().unwrap())]).await;
    disk.fill();
    let said = changeover.try_admin("START MIGRATION").await.unwrap_err();
    assert_says(&said, "migration.json");
    disk.make_room();
    std::fs::write(&hold, "migration.prepared").unwrap();
    changeover.admin("START MIGRATION").await;
    let reached = hold.with_extension("reached");
    until(
        "the tables to be there",
        LIMIT,
        async || if reached.exists() { Ok(()) } else { Err(changeover.log()) },
    )
    .await;
    disk.fill();
    std::fs::remove_file(&reached).unwrap();
    stopped_by(&disk, &changeover).await;
    changeover.wait_ready().await;
    disk.fill();
    write_much(&source, 2).await;
    let said = stopped_by(&disk, &changeover).await;
    assert!(said.contains("spool"), "{said}");
    assert_equal(&changeover, &source, &target).await;
    cut_over_on_a_full_disk(&disk, &changeover, &source).await;
    assert_equal_behind(&changeover, &target, &source).await;
}

/// It stops, the application doesn't; there is room again, and it goes on when it is told to.
async fn stopped_by(disk: &Disk, changeover: &Changeover) -> String {
    let said = changeover.stopped().await;
    assert_says(&said, disk.path().to_str().unwrap());
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO t (body) VALUES ('by the application')").await.unwrap();
    app.disconnect().await.unwrap();
    let refused = changeover.try_admin("RESUME MIGRATION").await.unwrap_err();
    assert_says(&refused, "migration.json");
    disk.make_room();
    changeover.admin("RESUME MIGRATION").await;
    said
}

/// The cutover is undone and says why, traffic goes on at the source; with room it is done.
async fn cut_over_on_a_full_disk(disk: &Disk, changeover: &Changeover, source: &Server) {
    disk.fill();
    let said = until("a cutover that the disk is in the way of", LIMIT, async || {
        match changeover.try_admin("CUTOVER").await {
            Ok(rows) => Ok(format!("{rows:?}")),
            Err(said) if said.contains("No space left") => Ok(said),
            Err(said) => Err(said),
        }
    })
    .await;
    assert_says(&said, "state");
    assert_eq!(changeover.status_of("route").await, "source");
    assert_eq!(source.value::<i64>("SELECT @@GLOBAL.read_only").await, 0);
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO t (body) VALUES ('in between')").await.unwrap();
    app.disconnect().await.unwrap();
    disk.make_room();
    if changeover.status_of("phase").await != "following" {
        changeover.admin("RESUME MIGRATION").await;
    }
    changeover.wait_ready().await;
    changeover.turn().await;
}

async fn assert_equal_behind(changeover: &Changeover, serving: &Server, other: &Server) {
    let mut app = changeover.app(Some("shop")).await;
    app.query_drop("INSERT INTO t (body) VALUES ('behind')").await.unwrap();
    changeover.wait_applied(serving).await;
    let wanted: String = serving.value(SUM).await;
    other.wait_value(SUM, &wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_under_state_dir_is_full_mariadb() {
    the_disk_under_state_dir_is_full(Engine::MariaDb).await;
}

/// Staged files don't fit on their disk, which is that of state_dir as well: not even the pause can be written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_under_stage_dir_is_full() {
    let Some(disk) = Disk::of_megabytes(16) else { return };
    let Some((source, target)) = servers(Engine::MariaDb).await else { return };
    source
        .run(&["INSERT INTO shop.t (body) VALUES (RANDOM_BYTES(1000)), (REPEAT(RANDOM_BYTES(1000), 1000))"])
        .await;
    let (state_dir, stage) = (disk.path().join("state"), disk.path().join("stage"));
    let settings = Settings::between(&source, &target, "shop")
        .with("state_dir", &format!("\"{}\"", state_dir.display()))
        .with("snapshot.stage_dir", &format!("\"{}\"", stage.display()));
    let aside = tempfile::tempdir().unwrap();
    let hold = aside.path().join("hold");
    let changeover = Changeover::start_with(settings, &[("CHANGEOVER_HOLD", hold.to_str().unwrap())]).await;
    std::fs::write(&hold, "snapshot.journal.begun").unwrap();
    changeover.admin("START MIGRATION").await;
    let reached = hold.with_extension("reached");
    until("the copy to begin", LIMIT, async || if reached.exists() { Ok(()) } else { Err(changeover.log()) })
        .await;
    disk.fill();
    std::fs::remove_file(&reached).unwrap();
    let said = changeover.stopped().await;
    assert!(said.contains(disk.path().to_str().unwrap()) && said.contains("No space left"), "{said}");
    assert!(changeover.try_admin("RESUME MIGRATION").await.is_err(), "nothing can be written");
    disk.make_room();
    changeover.admin("RESUME MIGRATION").await;
    assert_equal(&changeover, &source, &target).await;
}
