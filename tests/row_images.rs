//! Sources whose row images lack columns: copied at one position, followed exactly once, killed, moved and brought back.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{Settings, check};
use crate::support::wait::until;
use crate::support::writers::Writers;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, seed};

const SCHEMA: &str = "shop";
/// Connections that write past the proxy.
const WRITERS: u32 = 4;

/// Defaults of every kind, columns without one, unique values, blobs.
const TABLE: &str = "CREATE TABLE shop.odd (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    slot INT NULL,
    a VARCHAR(20) NOT NULL DEFAULT 'it''s',
    c INT NULL,
    n INT NOT NULL,
    made TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    changed TIMESTAMP NOT NULL DEFAULT '2001-01-01 00:00:00' ON UPDATE CURRENT_TIMESTAMP,
    lump MEDIUMBLOB NULL,
    story TEXT NULL,
    must TEXT NOT NULL,
    e ENUM('x','y') NOT NULL DEFAULT 'y',
    d DECIMAL(8,2) NULL DEFAULT '1.50',
    bits BIT(9) NOT NULL DEFAULT b'101',
    UNIQUE KEY slot (slot),
    UNIQUE KEY ac (a, c)) ENGINE=InnoDB DEFAULT CHARACTER SET utf8";

/// Everything in both tables, as values that all servers compute alike.
const SUMS: [&str; 2] = [
    "SELECT CONCAT_WS('|', COUNT(*), SUM(id), SUM(CRC32(CONCAT_WS('~', id, COALESCE(slot, '-'), a, COALESCE(c, '-'), n, made, changed, \
     COALESCE(HEX(lump), '-'), COALESCE(story, '-'), must, e + 0, COALESCE(d, '-'), bits + 0)))) FROM shop.odd",
    "SELECT CONCAT_WS('|', COUNT(*), SUM(a), SUM(CRC32(CONCAT_WS('~', COALESCE(a, '-'), COALESCE(b, '-'))))) FROM shop.plain",
];

/// Applications that write to a server itself.
fn writers(server: &Server, image: &'static str) -> Writers {
    let opts = server.opts("root", "", Some(SCHEMA));
    Writers::start(WRITERS, move |id, mut turns| {
        let opts = opts.clone();
        async move {
            let mut conn = Conn::new(opts).await.unwrap();
            let session = format!("SET SESSION binlog_row_image = '{image}', sql_mode = ''");
            conn.query_drop(session).await.unwrap();
            let mut round = 0;
            while turns.another().await {
                round += 1;
                if transaction(id, round, &mut conn).await {
                    turns.committed();
                }
            }
        }
    })
}

/// False where it met a deadlock, or a value that is there already; and where MariaDB has no next AUTO_INCREMENT for a REPLACE
/// (1467): it answers so under these very writers and an ALTER TABLE also without Changeover, some four times in 5,000
/// transactions.
async fn transaction(id: u32, round: u32, conn: &mut Conn) -> bool {
    let at = 1 + (id * 7919 + round * 31) % 3_000;
    let (one, two) = (1 + round % 400 * 4 + id, 1 + (round * 7 + 1) % 400 * 4 + id);
    let statements = [
        "BEGIN".to_owned(),
        format!("INSERT INTO odd (n) VALUES ({round})"),
        format!("INSERT INTO odd (lump, c, a) VALUES (REPEAT(0x00FF27, {}), {round}, 'w{id}')", round % 900),
        format!("UPDATE odd SET n = n + 1 WHERE id = {at}"),
        format!("UPDATE odd SET lump = REPEAT('b', {}), d = NULL WHERE id = {at} + 1", round % 2_000),
        format!("UPDATE odd SET story = 'told {round}', changed = changed WHERE id = {at} + 2"),
        format!("DELETE FROM odd WHERE id = {at} + 5000"),
        format!("UPDATE odd SET id = id + 1000000, e = 'x' WHERE id = {at} + 8000 AND id < 1000000"),
        // A row is replaced, by its key and by another unique value; one is changed in place of an insert.
        format!("REPLACE INTO odd (id, n, slot) VALUES ({one} + 9000, {round}, {one} + 9000)"),
        format!("REPLACE INTO odd (slot, c) VALUES ({one} + 9000, NULL)"),
        format!(
            "INSERT INTO odd (id, n) VALUES ({two} + 12000, 1) ON DUPLICATE KEY UPDATE n = n + 1, story = 'again'"
        ),
        // Two rows swap their unique value.
        format!("SELECT slot INTO @one FROM odd WHERE id = {one}"),
        format!("SELECT slot INTO @two FROM odd WHERE id = {two}"),
        format!("UPDATE odd SET slot = NULL WHERE id = {one}"),
        format!("UPDATE odd SET slot = @one WHERE id = {two} AND id <> {one}"),
        format!("UPDATE odd SET slot = IF({one} = {two}, @one, @two) WHERE id = {one}"),
        format!("INSERT INTO plain (b) VALUES ('{id} {round}')"),
        format!("UPDATE plain SET b = CONCAT(b, '!') WHERE b = '{id} {}'", round.saturating_sub(3)),
        "COMMIT".to_owned(),
    ];
    for sql in statements {
        match conn.query_drop(&sql).await {
            Ok(()) => {}
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1062 | 1205 | 1213 | 1467) => {
                conn.query_drop("ROLLBACK").await.unwrap();
                return false;
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
    true
}

async fn servers(from: Engine, to: Engine, flags: &[&str]) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(from, flags), Server::start(to, &[]));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    source
        .run(&[
            "SET sql_mode = ''",
            "CREATE DATABASE shop DEFAULT CHARACTER SET utf8",
            TABLE,
            "CREATE TABLE shop.plain (a INT NULL DEFAULT 3, b VARCHAR(30) NULL, KEY b (b)) ENGINE=InnoDB",
            "INSERT INTO shop.odd (n, must) VALUES (1, ''), (2, 'm'), (3, ''), (4, ''), (5, ''), (6, ''), (7, ''), (8, '')",
            "INSERT INTO shop.plain VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
        ])
        .await;
    for _ in 0..11 {
        source
            .run(&["INSERT INTO shop.odd (n, must, lump) SELECT n + 1, 'must', REPEAT('l', n) FROM shop.odd"])
            .await;
    }
    source.run(&["UPDATE shop.odd SET slot = id WHERE id < 1700"]).await;
    if from != Engine::MySql56 {
        // What a function makes is in every image.
        source
            .run(&[
                "ALTER TABLE shop.odd ADD COLUMN u VARCHAR(40) NULL, ADD COLUMN double_n BIGINT AS (n * 2) VIRTUAL",
                "ALTER TABLE shop.odd ALTER COLUMN u SET DEFAULT (UUID())",
            ])
            .await;
    }
    Some((source, target))
}

async fn assert_equal(changeover: &Changeover, source: &Server, target: &Server) {
    changeover.wait_applied(source).await;
    if source.engine() != Engine::MySql56 {
        let made = "SELECT CONCAT_WS('|', COUNT(u), SUM(CRC32(u)), SUM(double_n)) FROM shop.odd";
        assert_eq!(source.value::<String>(made).await, target.value::<String>(made).await);
    }
    for sum in SUMS {
        assert_eq!(source.value::<String>(sum).await, target.value::<String>(sum).await);
    }
    assert_eq!(changeover.status_of("differences").await, "0");
}

/// Writers during the copy, kills in it and in the tail, a definition that changes, a verdict, a cutover.
async fn moves(from: Engine, to: Engine, image: &'static str) {
    let flag = format!("--binlog-row-image={image}");
    let Some((source, target)) = servers(from, to, &[&flag]).await else { return };
    let settings = Settings::between(&source, &target, SCHEMA);
    let (code, findings) = check(&settings);
    assert!(code == 0 && findings.contains("binlog_row_image"), "{findings}");
    let mut changeover = Changeover::start(settings).await;
    let writing = writers(&source, image);
    writing.wait_more(20).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["copying", "catching_up", "following"]).await;
    changeover.start_again().await;
    writing.wait_more(20).await;
    changeover.wait_phase(&["following"]).await;
    changeover.start_again().await;
    writing.wait_more(20).await;
    source.run(&["ALTER TABLE shop.odd ALTER COLUMN a SET DEFAULT 'new'"]).await;
    writing.wait_more(20).await;
    changeover.wait_ready().await;
    writing.close().await;
    assert_equal(&changeover, &source, &target).await;
    changeover.cut_over().await;
}

macro_rules! moves {
    ($($name:ident: $from:ident to $to:ident, $image:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            moves(Engine::$from, Engine::$to, $image).await;
        }
    )*};
}

moves! {
    minimal_between_mariadbs: MariaDb to MariaDb, "MINIMAL";
    noblob_between_mariadbs: MariaDb to MariaDb, "NOBLOB";
    minimal_between_mysqls: MySql97 to MySql97, "MINIMAL";
    noblob_between_mysqls: MySql97 to MySql97, "NOBLOB";
    minimal_from_mysql56_to_mysql97: MySql56 to MySql97, "MINIMAL";
    noblob_from_mysql56_to_mariadb: MySql56 to MariaDb, "NOBLOB";
}

/// An application through the proxy, minimal images on both sides, forth and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minimal_images_forth_and_back() {
    for engine in [Engine::MariaDb, Engine::MySql97] {
        let Some(pair) = Pair::start_with(engine, 3_000, &["--binlog-row-image=MINIMAL"]).await else {
            return;
        };
        let changeover = pair.changeover().await;
        let ledger = Ledger::start(changeover.port(), 8).await;
        changeover.admin("START MIGRATION").await;
        changeover.wait_ready().await;
        for _ in 0..2 {
            ledger.wait_more(60).await;
            changeover.turn().await;
        }
        ledger.wait_more(60).await;
        let proof = ledger.close().await;
        changeover.wait_applied(&pair.source).await;
        compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
        proof.assert_holds_on(&pair.source).await;
        proof.assert_holds_on(&pair.target).await;
    }
}

/// A session of its own: followed once the copy is replayed, and the reason to stop while it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_an_image_of_its_own() {
    let Some((source, target)) = servers(Engine::MySql97, Engine::MySql97, &[]).await else { return };
    let changeover = Changeover::start(Settings::between(&source, &target, SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let writing = writers(&source, "MINIMAL");
    writing.wait_more(60).await;
    writing.close().await;
    changeover.wait_ready().await;
    assert_equal(&changeover, &source, &target).await;
    drop(changeover);

    let Some((source, target)) = servers(Engine::MySql97, Engine::MySql97, &[]).await else { return };
    let settings = Settings::between(&source, &target, SCHEMA).with("snapshot.max_rows_per_s", "4000");
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["copying"]).await;
    source.run(&["SET binlog_row_image = 'MINIMAL'", "UPDATE shop.odd SET n = 5 WHERE id = 7"]).await;
    changeover.wait_phase(&["failed"]).await;
    let told = changeover.status_of("last_error").await;
    assert!(told.contains("binlog_row_image") && told.contains("shop.odd"), "{told}");
}

/// What can't be done at one position is refused beforehand; a key that isn't in the image stops the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_images_are_not_enough_for() {
    let flags = ["--binlog-row-image=MINIMAL"];
    let Some((source, target)) = servers(Engine::MariaDb, Engine::MariaDb, &flags).await else { return };
    source
        .run(&[
            "CREATE TABLE shop.child (id INT PRIMARY KEY, odd INT NOT NULL, CONSTRAINT f FOREIGN KEY (odd) REFERENCES shop.odd (id) ON DELETE CASCADE) ENGINE=InnoDB",
            "CREATE TABLE shop.isam (id INT PRIMARY KEY) ENGINE=MyISAM",
        ])
        .await;
    let settings = Settings::between(&source, &target, SCHEMA);
    let (code, findings) = check(&settings);
    assert!(code == 1 && findings.contains("shop.isam") && findings.contains("ON DELETE"), "{findings}");
    source.run(&["DROP TABLE shop.child", "DROP TABLE shop.isam"]).await;
    assert!(findings.contains("MariaDB logs a REPLACE that leaves columns out"), "{findings}");
    source
        .run(&[
            "CREATE TABLE shop.zero (id INT NOT NULL DEFAULT 0 PRIMARY KEY, v INT NULL)",
            "CREATE TABLE shop.reset (id INT PRIMARY KEY, a INT NULL, b INT NULL, c INT NULL DEFAULT 7)",
            "INSERT INTO shop.reset VALUES (1, 1, 1, 1)",
        ])
        .await;
    let changeover = Changeover::start(settings).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    // What its log lacks nobody can apply; the verifier sees it.
    source.run(&["REPLACE INTO shop.reset (id, a) VALUES (1, 2)"]).await;
    until("the difference", Duration::from_secs(60), async || {
        let found = changeover.status_of("differences").await;
        if found == "1" { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(changeover.admin("REPAIR").await.len(), 1);
    let row = "SELECT CONCAT_WS('|', id, a, IFNULL(b, 'N'), c) FROM shop.reset";
    assert_eq!(target.value::<String>(row).await, "1|2|N|7");
    source.run(&["INSERT INTO shop.zero (v) VALUES (1)"]).await;
    changeover.wait_phase(&["failed"]).await;
    let told = changeover.status_of("last_error").await;
    assert!(told.contains("lacks column id") && told.contains("bin.0"), "{told}");
}
