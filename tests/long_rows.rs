//! Long rows travel as literals, short ones as fields, and one whose literals don't fit a packet as fields as well: in any order,
//! in one chunk, and again after a death. Every value arrives as it is.

use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, Server, accounts, compare};

const SCHEMA: &str = "shop";
/// What the target takes; the source took more.
const PACKET: &str = "--max-allowed-packet=2M";
/// Every byte there is; and those that a literal has to escape, so that it is twice as long.
const EVERY: &str = "UNHEX('000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F202122232425262728292A2B2C2D2E2F\
                     303132333435363738393A3B3C3D3E3F404142434445464748494A4B4C4D4E4F505152535455565758595A5B5C5D5E5F\
                     606162636465666768696A6B6C6D6E6F707172737475767778797A7B7C7D7E7F808182838485868788898A8B8C8D8E8F\
                     909192939495969798999A9B9C9D9E9FA0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B6B7B8B9BABBBCBDBEBF\
                     C0C1C2C3C4C5C6C7C8C9CACBCCCDCECFD0D1D2D3D4D5D6D7D8D9DADBDCDDDEDFE0E1E2E3E4E5E6E7E8E9EAEBECEDEEEF\
                     F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF')";
const ESCAPED: &str = "UNHEX('00275C1A')";

/// Of a table: short rows, long ones, both by turns, and some that don't fit as literals, among them the first and the last.
fn rows(table: &str) -> Vec<String> {
    let row = |id: u32, b: String, t: &str| format!("INSERT INTO {table} VALUES ({id}, {b}, {t}, 'short')");
    let mut all = Vec::new();
    for id in 0..120 {
        let (b, t) = match id {
            0 | 60 | 119 => (format!("REPEAT({ESCAPED}, 400000)"), "NULL"),
            1..30 => (format!("REPEAT({EVERY}, {})", 100 + id * 7), "REPEAT('größer ''\\\\', 900)"),
            30..50 => ("'brief'".to_owned(), "''"),
            _ if id % 3 == 0 => ("NULL".to_owned(), "'☃'"),
            _ => (format!("REPEAT({EVERY}, {})", id * 9), "NULL"),
        };
        all.push(row(id, b, t));
    }
    all
}

/// `over_files`: on their way they lie on disk.
async fn arrive(engine: Engine, over_files: bool) {
    let (source, target) = tokio::join!(
        Server::start(engine, &["--max-allowed-packet=64M"]),
        Server::start(engine, &[PACKET, "--local-infile=ON"])
    );
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    let columns = "b LONGBLOB, t LONGTEXT CHARACTER SET utf8mb4, s VARCHAR(20) CHARACTER SET latin1";
    source
        .run(&[
            "CREATE DATABASE shop",
            &format!(
                "CREATE TABLE shop.keyed (id INT NOT NULL PRIMARY KEY, {columns}, UNIQUE KEY second (id, s))"
            ),
            &format!("CREATE TABLE shop.keyless (id INT NOT NULL, {columns})"),
        ])
        .await;
    for table in ["shop.keyed", "shop.keyless"] {
        let rows = rows(table);
        source.run(&rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let mut settings = Settings::between(&source, &target, SCHEMA).with("snapshot.chunk_rows", "50");
    let stage = tempfile::tempdir().unwrap();
    if over_files {
        settings.set("snapshot.stage_dir", &format!("\"{}\"", stage.path().display()));
    }
    let changeover = Changeover::start_and_die(settings, &["snapshot.chunk.committed"]).await;
    changeover.wait_ready().await;
    assert_eq!(compare::assert_equal(&source, &target, SCHEMA).await, 240);
    // Rows of a table with a second unique key may displace others; and what doesn't fit went otherwise.
    for (counter, least) in [("Com_replace", 1), ("Com_load", 6)] {
        let (_, count): (String, u64) =
            target.rows(&format!("SHOW GLOBAL STATUS LIKE '{counter}'")).await.remove(0);
        assert!(count >= least, "{counter} is {count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrive_on_mariadb() {
    arrive(Engine::MariaDb, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrive_on_mysql97() {
    arrive(Engine::MySql97, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrive_over_files() {
    arrive(Engine::MariaDb, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_fits_is_named() {
    let (source, target) = tokio::join!(
        Server::start(Engine::MariaDb, &["--max-allowed-packet=64M"]),
        Server::start(Engine::MariaDb, &[PACKET, "--local-infile=OFF"])
    );
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    source
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.one (id INT PRIMARY KEY, b LONGBLOB)",
            &format!("INSERT INTO shop.one VALUES (1, 'brief'), (2, REPEAT({ESCAPED}, 400000))"),
        ])
        .await;
    let changeover = Changeover::start(Settings::between(&source, &target, SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    let said = changeover.stopped().await;
    assert!(said.contains("max_allowed_packet") && said.contains("shop.one"), "{said}");
    target.run(&["SET GLOBAL local_infile = ON"]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    assert_eq!(compare::assert_equal(&source, &target, SCHEMA).await, 2);
}
