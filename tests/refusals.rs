//! Bad input: each one a clear error that says what to do, found by `check` and by START MIGRATION before
//! anything is touched.

use crate::support::changeover::{self, Settings};
use crate::support::server::free_port;
use crate::support::{Changeover, Engine, Pair, Server, accounts};

/// `check` and START MIGRATION refuse with each of these words, and nothing appears on the target.
async fn refused(pair: &Pair, settings: &Settings, words: &[&str]) {
    let before: Vec<String> = pair.target.rows("SHOW DATABASES").await;
    let (code, told) = changeover::check(settings);
    assert_eq!(code, 1, "check passed or broke: {told}");
    assert_words(&told, words);
    let changeover = Changeover::start(settings.clone()).await;
    let told = changeover.try_admin("START MIGRATION").await.expect_err("START MIGRATION was accepted");
    assert_words(&told, words);
    assert_eq!(changeover.status_of("phase").await, "idle");
    assert_eq!(before, pair.target.rows::<String>("SHOW DATABASES").await, "something was touched");
}

fn assert_words(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "`{word}` isn't in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_pair_passes_check() {
    for engine in [Engine::MariaDb, Engine::MySql97] {
        let Some(pair) = Pair::start(engine, 100).await else { continue };
        let (code, told) = changeover::check(&pair.settings());
        assert_eq!(code, 0, "{engine:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_databases() {
    let Some(pair) = Pair::start(Engine::MariaDb, 100).await else { return };
    let good = pair.settings();

    pair.source.run(&["CREATE TABLE shop.no_key (a INT) ENGINE=MyISAM"]).await;
    refused(&pair, &good, &["no_key", "key"]).await;
    pair.source.run(&["DROP TABLE shop.no_key"]).await;

    refused(&pair, &good.clone().with("migration.schemas", "[\"shop\", \"nowhere\"]"), &["nowhere"]).await;

    pair.target
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.bulk (id INT PRIMARY KEY)",
            "INSERT INTO shop.bulk VALUES (1)",
        ])
        .await;
    refused(&pair, &good, &["bulk", "target"]).await;
    pair.target.run(&["DROP DATABASE shop"]).await;

    // By its address it is another one; the servers themselves say that they are one.
    let same = format!("\"mysql://changeover@127.1:{}\"", pair.source.port());
    refused(&pair, &good.clone().with("target.url", &same), &["same"]).await;
    let same = format!("\"mysql://changeover@127.0.0.1:{}\"", pair.source.port());
    let (code, told) = changeover::check(&good.clone().with("target.url", &same));
    assert_eq!(code, 2, "{told}");
    assert_words(&told, &["the target is the source"]);

    // Every fatal finding at once.
    pair.source
        .run(&[
            "CREATE TABLE shop.no_key (a INT) ENGINE=MyISAM",
            "CREATE TABLE shop.no_key_either (a INT) ENGINE=MyISAM",
        ])
        .await;
    refused(
        &pair,
        &good.clone().with("migration.schemas", "[\"shop\", \"nowhere\"]"),
        &["no_key_either", "nowhere"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_not_understood_is_refused() {
    let Some(pair) = Pair::start(Engine::MariaDb, 100).await else { return };
    pair.source.run(&["CREATE TABLE shop.odd (id INT PRIMARY KEY) WITH SYSTEM VERSIONING"]).await;
    refused(&pair, &pair.settings(), &["odd", "SYSTEM VERSIONED"]).await;
}

async fn server_settings(engine: Engine, flags: &[&str], words: &[&str]) {
    let (Some(source), Some(target)) = (Server::start(engine, flags).await, Server::start(engine, &[]).await)
    else {
        return;
    };
    let pair = Pair { source, target };
    for server in [&pair.source, &pair.target] {
        accounts::create(server, "shop").await;
    }
    pair.source.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY)"]).await;
    refused(&pair, &pair.settings(), words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_without_a_binlog() {
    server_settings(Engine::MariaDb, &["--skip-log-bin"], &["log_bin"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_without_a_binlog() {
    server_settings(Engine::MySql97, &["--skip-log-bin"], &["log_bin"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_with_a_statement_binlog() {
    server_settings(Engine::MariaDb, &["--binlog-format=STATEMENT"], &["binlog_format", "ROW"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_between_two_gtid_modes() {
    server_settings(Engine::MySql97, &["--gtid-mode=ON_PERMISSIVE"], &["gtid_mode", "between two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_do_not_let_us_in() {
    let Some(pair) = Pair::start(Engine::MariaDb, 100).await else { return };
    let good = pair.settings();
    // Nobody listens; the password is wrong; a privilege is missing.
    let nobody = format!("\"mysql://changeover@127.0.0.1:{}\"", free_port());
    for side in ["source", "target"] {
        let (code, told) = changeover::check(&good.clone().with(&format!("{side}.url"), &nobody));
        assert_eq!(code, 1, "{told}");
        assert_words(&told, &[side, "refused"]);
        let (code, told) = changeover::check(&good.clone().with(&format!("{side}.password"), "\"wrong\""));
        assert_eq!(code, 1, "{told}");
        assert_words(&told, &[side, "denied"]);
        assert!(
            !told.contains(accounts::SERVICE_PASSWORD) && !told.contains("wrong\""),
            "a secret is shown: {told}"
        );
    }
    pair.source.run(&["REVOKE REPLICATION SLAVE ON *.* FROM changeover@'%'"]).await;
    refused(&pair, &good, &["source", "REPLICATION SLAVE"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_one_state_dir() {
    let Some(pair) = Pair::start(Engine::MariaDb, 100).await else { return };
    let first = pair.changeover().await;
    let state_dir = format!("\"{}\"", first.state_dir().display());
    let dir = tempfile::tempdir().unwrap();
    let file = pair.settings().with("state_dir", &state_dir).write(dir.path());
    let output = changeover::run(&["serve", "--config", file.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert_words(&told, &["state"]);
    // And the first one is none the worse for it.
    assert_eq!(first.status_of("phase").await, "idle");
}

#[test]
fn configurations_that_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let output = changeover::run(&["serve", "--config", file.to_str().unwrap()]);
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = run(
        "typos.toml",
        "[proxy]\nlissten = \"127.0.0.1:3307\"\n[source]\nurl = 7\n[cutover]\npause_ms = \"long\"\n",
    );
    assert_eq!(code, 2, "{told}");
    // All at once, with file, line and the nearest right name.
    assert_words(&told, &["typos.toml:2", "lissten", "listen", "url", "pause_ms"]);
    let output = changeover::run(&["serve", "--config", "/nonexistent/changeover.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_words(&String::from_utf8_lossy(&output.stderr), &["/nonexistent/changeover.toml"]);
    let (code, told) = run("empty.toml", "");
    assert_eq!(code, 2, "{told}");
    assert_words(&told, &["source", "target"]);
    let (code, told) = run(
        "unbuilt.toml",
        "[source]\nurl = \"mysql://a:secret-Source@127.0.0.1:1\"\nreplica_url = \"a@127.0.0.1:2\"\n[target]\nurl = \"mysql://a@127.0.0.1:3\"\n",
    );
    assert_eq!(code, 2, "{told}");
    assert_words(&told, &["replica_url"]);
    assert!(!told.contains("secret-Source"), "a secret is shown: {told}");
    assert_eq!(changeover::run(&["serve", "--nonsense"]).status.code(), Some(2));
    assert_eq!(changeover::run(&["--help"]).status.code(), Some(0));
}
