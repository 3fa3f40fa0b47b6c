//! `sysbench oltp_read_write`, 16 threads with prepared statements, runs through a cutover without an error.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::changeover::Settings;
use crate::support::{Changeover, Engine, Server, accounts, compare};

/// A command line for four tables on a port.
fn sysbench(port: u16) -> Command {
    let mut command = Command::new("sysbench");
    command.args(["oltp_read_write", "--mysql-host=127.0.0.1", "--mysql-db=sbtest", "--tables=4"]);
    command.args(["--table-size=5000", "--rand-type=uniform", "--threads=16"]);
    command.arg(format!("--mysql-port={port}")).arg(format!("--mysql-user={}", accounts::APP));
    command.arg(format!("--mysql-password={}", accounts::APP_PASSWORD));
    command
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("\n")
}

async fn runs_through_a_cutover(engine: Engine) {
    let (source, target) = tokio::join!(Server::start(engine, &[]), Server::start(engine, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, "sbtest").await;
    }
    source.run(&["CREATE DATABASE sbtest"]).await;
    let output = sysbench(source.port()).arg("--threads=4").arg("prepare").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let changeover = Changeover::start(Settings::between(&source, &target, "sbtest")).await;
    let running = sysbench(changeover.port())
        .args([&format!("--time={SECONDS}"), "--report-interval=1", "run"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let cutover = changeover.cut_over().await;
    assert_eq!(cutover["outcome"], "switched", "{cutover:?}");
    let before = changeover.wait_all_moved().await;
    assert_eq!(before, 16);
    let output = tokio::task::spawn_blocking(move || running.wait_with_output()).await.unwrap().unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("reconnects:                          0 "), "{told}");
    assert!(told.contains("ignored errors:                      0 "), "{told}");
    assert!(!told.contains("FATAL"), "{told}");
    // Every transaction deletes a row and inserts it again, so the counts stand.
    for table in 1..=4 {
        let rows: i64 = target.value(&format!("SELECT COUNT(*) FROM sbtest.sbtest{table}")).await;
        assert_eq!(rows, 5000, "sbtest{table}");
    }
    println!("{engine:?}: paused {} ms\n{told}", cutover["pause_ms"]);
}

/// Long enough for the copy, the verdict and the cutover on a slow machine, and then some.
const SECONDS: u64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    runs_through_a_cutover(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97() {
    runs_through_a_cutover(Engine::MySql97).await;
}

/// The tail alone: sysbench ends, and both sides are equal to the last row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_keeps_it_equal() {
    for engine in [Engine::MariaDb, Engine::MySql97] {
        let (source, target) = tokio::join!(Server::start(engine, &[]), Server::start(engine, &[]));
        let (Some(source), Some(target)) = (source, target) else { continue };
        for server in [&source, &target] {
            accounts::create(server, "sbtest").await;
        }
        source.run(&["CREATE DATABASE sbtest"]).await;
        let output = sysbench(source.port()).arg("--threads=4").arg("prepare").output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let changeover = Changeover::start(Settings::between(&source, &target, "sbtest")).await;
        changeover.admin("START MIGRATION").await;
        let port = changeover.port();
        let run = move || sysbench(port).args(["--time=6", "run"]).output();
        let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        changeover.wait_phase(&["following"]).await;
        changeover.wait_applied(&source).await;
        assert_eq!(compare::assert_equal(&source, &target, "sbtest").await, 20_000);
        tokio::time::timeout(Duration::from_secs(60), changeover.wait_ready()).await.unwrap();
        changeover.cut_over().await;
    }
}
