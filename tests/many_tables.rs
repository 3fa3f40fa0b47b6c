//! Many tables are made over several connections, those that refer to others behind the rest, whatever dies in between.

use std::time::Duration;

use crate::support::changeover::Settings;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Server, accounts, compare};

const SCHEMA: &str = "shop";
const OTHER: &str = "depot";
/// Of each schema: more than are made over one connection.
const TABLES: usize = 120;
/// How a server says that a row might not fit a page.
const ROW_TOO_LARGE: &str = "1118";

/// Chains, forks, a circle, tables that refer to themselves, and parents in the other schema where the target has such.
fn definitions(to: Engine) -> Vec<String> {
    let mut all = Vec::new();
    for schema in [SCHEMA, OTHER] {
        for number in 0..TABLES {
            let parent = match number % 8 {
                1 => format!("{schema}.t{}", number - 1),
                3 => format!("{schema}.t{}", (number + TABLES - 10) % TABLES),
                5 if schema == OTHER && to != Engine::Seekdb => format!("{SCHEMA}.t{number}"),
                5 => format!("{schema}.t{number}"),
                7 => format!("{schema}.t{}", (number + 8) % TABLES),
                _ => String::new(),
            };
            let key = if parent.is_empty() {
                String::new()
            } else {
                format!(", CONSTRAINT c_{schema}_{number} FOREIGN KEY (parent) REFERENCES {parent} (id)")
            };
            all.push(format!(
                "CREATE TABLE {schema}.t{number} (id INT NOT NULL PRIMARY KEY, parent INT NULL, \
                 word VARCHAR(40) NOT NULL DEFAULT 'größer', KEY parent (parent){key}) COMMENT 'table {number}'"
            ));
        }
    }
    all
}

async fn fill(source: &Server, to: Engine) {
    let mut statements = vec![
        "SET SESSION foreign_key_checks = 0".to_owned(),
        format!("CREATE DATABASE {SCHEMA} DEFAULT CHARACTER SET utf8mb4"),
        format!("CREATE DATABASE {OTHER} DEFAULT CHARACTER SET utf8mb4"),
    ];
    statements.extend(definitions(to));
    for schema in [SCHEMA, OTHER] {
        statements.extend(
            (0..TABLES).map(|n| format!("INSERT INTO {schema}.t{n} (id) VALUES (1), (2), ({n} + 3)")),
        );
    }
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    source.run(&statements).await;
}

async fn pair(from: Engine, to: Engine, flags: &[&str]) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(from, &[]), Server::start(to, flags));
    let (source, target) = (source?, target?);
    fill(&source, to).await;
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    Some((source, target))
}

fn settings(source: &Server, target: &Server) -> Settings {
    Settings::between(source, target, SCHEMA)
        .with("migration.schemas", &format!("[\"{SCHEMA}\", \"{OTHER}\"]"))
}

async fn made(target: &Server) -> usize {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ('{SCHEMA}', '{OTHER}')"
    );
    target.value::<usize>(&sql).await
}

async fn are_made(from: Engine, to: Engine) {
    let Some((source, target)) = pair(from, to, &[]).await else { return };
    let mut changeover = Changeover::start(settings(&source, &target)).await;
    changeover.admin("START MIGRATION").await;
    // In the midst of it: some are there, and of the others some are under way.
    until("the first tables", Duration::from_secs(30), async || match made(&target).await {
        0..=20 => Err("none yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    changeover.kill_9();
    changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", "schema.table_made")]).await;
    if made(&target).await < 2 * TABLES {
        assert!(!changeover.wait_end().await.success(), "it died behind a table");
    }
    changeover.start_again_plain().await;
    changeover.wait_ready().await;
    let log = changeover.log();
    assert!(log.contains("240 tables are made over 4 connections"), "{log}");
    assert_eq!(made(&target).await, 2 * TABLES);
    if from != to {
        // Definitions are printed otherwise there; that the rows are equal is the verifier's word.
        return;
    }
    for schema in [SCHEMA, OTHER] {
        assert_eq!(compare::assert_equal(&source, &target, schema).await, 3 * TABLES as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_made_on_mariadb() {
    are_made(Engine::MariaDb, Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_made_on_mysql97() {
    are_made(Engine::MySql97, Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_made_on_oceanbase() {
    are_made(Engine::MySql97, Engine::Seekdb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_made_stops_them_all() {
    let Some((source, target)) = pair(Engine::MariaDb, Engine::MariaDb, &["--innodb-strict-mode=ON"]).await
    else {
        return;
    };
    let columns: Vec<String> = (0..190).map(|n| format!("c{n} VARCHAR(60) NOT NULL")).collect();
    let create = format!(
        "CREATE TABLE {SCHEMA}.a_large_one (id INT PRIMARY KEY, {}) CHARSET latin1",
        columns.join(", ")
    );
    source.run(&["SET SESSION innodb_strict_mode = OFF", &create]).await;
    let changeover = Changeover::start(settings(&source, &target)).await;
    changeover.admin("START MIGRATION").await;
    let said = changeover.stopped().await;
    assert!(said.contains("creating the table shop.a_large_one") && said.contains(ROW_TOO_LARGE), "{said}");
    // Each connection ends what it has begun, and begins nothing more.
    assert!(made(&target).await < 2 * TABLES, "they went on: {}", made(&target).await);
    target.run(&["SET GLOBAL innodb_strict_mode = OFF"]).await;
    changeover.admin("RESUME MIGRATION").await;
    changeover.wait_ready().await;
    compare::assert_equal(&source, &target, SCHEMA).await;
}
