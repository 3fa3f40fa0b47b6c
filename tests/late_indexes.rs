//! Secondary indexes that are taken off for the copy are all back when it is over, whatever dies in between.

use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, Server, accounts, compare};

const SCHEMA: &str = "shop";
/// What a large table is; see snapshot/late_indexes.rs.
const DOUBLINGS: usize = 14;

const TABLES: [&str; 4] = [
    "CREATE TABLE shop.parent (id INT PRIMARY KEY, code INT NOT NULL, KEY code (code)) ENGINE=InnoDB",
    "CREATE TABLE shop.large (
        id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        name VARCHAR(60) NOT NULL,
        story TEXT NULL,
        n INT NULL,
        parent INT NOT NULL DEFAULT 1,
        double_n INT AS (n * 2) VIRTUAL,
        UNIQUE KEY name (name),
        KEY early (n, name),
        KEY parent (parent, n),
        KEY made (double_n),
        KEY n (n),
        KEY `tick``ed, (n)` (story(10), n) COMMENT 'it''s, (all)',
        FULLTEXT KEY words (story),
        CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES shop.parent (id)) ENGINE=InnoDB",
    "CREATE TABLE shop.also_large (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, a INT NOT NULL, b INT NOT NULL, KEY a (a), KEY ab (a, b)) ENGINE=InnoDB",
    "CREATE TABLE shop.small (id INT PRIMARY KEY, a INT, KEY a (a)) ENGINE=InnoDB",
];

async fn fill(source: &Server) {
    source.run(&["CREATE DATABASE shop DEFAULT CHARACTER SET utf8mb4"]).await;
    source.run(&TABLES).await;
    source
        .run(&["INSERT INTO shop.parent VALUES (1, 7)", "INSERT INTO shop.small VALUES (1, 1), (2, NULL)"])
        .await;
    source.run(&["INSERT INTO shop.large (name, story, n) VALUES ('0', 'once', 1)"]).await;
    source.run(&["INSERT INTO shop.also_large (a, b) VALUES (1, 2)"]).await;
    for turn in 0..DOUBLINGS {
        let large = format!(
            "INSERT INTO shop.large (name, story, n) SELECT CONCAT(name, '-{turn}'), CONCAT('told ', name), n + {turn} FROM shop.large"
        );
        source
            .run(&[
                &large,
                "INSERT INTO shop.also_large (a, b) SELECT b * 7 % 1000, a + id FROM shop.also_large",
            ])
            .await;
    }
    for table in ["large", "also_large"] {
        source.rows::<(String, String, String, String)>(&format!("ANALYZE TABLE shop.{table}")).await;
    }
}

async fn come_back(engine: Engine, dies_at: &str) {
    let (source, target) = tokio::join!(Server::start(engine, &[]), Server::start(engine, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    fill(&source).await;
    let settings = Settings::between(&source, &target, SCHEMA);
    let changeover = Changeover::start_and_die(settings, &[dies_at]).await;
    let log = changeover.log();
    let built: Vec<&str> = log.lines().filter(|line| line.contains("its indexes are built")).collect();
    // Small tables keep their indexes, and large ones those that are unique, special, or a foreign key's. What a server was
    // about to build when Changeover died it may have ended by itself.
    let expected = |line: &&str| line.contains("large") && line.contains("indexes=2");
    assert!(built.iter().all(expected) && built.len() <= 2, "{built:?}");
    assert_eq!(built.is_empty(), dies_at == NOTED, "{built:?}");
    changeover.wait_ready().await;
    // Definitions too, and so the order of the indexes.
    compare::assert_equal(&source, &target, SCHEMA).await;
}

/// Before any was taken off, and behind the first that are back.
const NOTED: &str = "snapshot.indexes.noted";
const BUILT: &str = "snapshot.indexes.built";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_back_on_mariadb() {
    come_back(Engine::MariaDb, BUILT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn come_back_on_mysql97() {
    come_back(Engine::MySql97, BUILT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn were_never_away() {
    come_back(Engine::MariaDb, NOTED).await;
}
