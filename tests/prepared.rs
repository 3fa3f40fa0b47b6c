//! Sessions are prepared for their move while traffic flows: what is left for the pause doesn't grow with them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::metrics::{scrape, with_console};
use crate::support::{Engine, Pair};

/// CHANGEOVER_SESSIONS=16 compares with fewer.
fn sessions() -> usize {
    std::env::var("CHANGEOVER_SESSIONS").ok().map_or(500, |text| text.parse().unwrap())
}

/// Every session has variables, a schema and a prepared statement; all come through TLS.
async fn nothing_is_left_for_the_pause(engine: Engine) {
    let Some(pair) = Pair::start_with(engine, 200, &["--max-connections=1500"]).await else { return };
    let changeover = with_console(&pair, &[]).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let count = sessions();
    let mut client = Command::new("/usr/bin/python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/sessions.py"))
        .args([changeover.port().to_string(), count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "open");
    let cutover = changeover.cut_over().await;
    assert_eq!(changeover.wait_all_moved().await, count);
    let samples = scrape(&changeover).await;
    println!("{engine:?}: {count} sessions, paused {} ms", cutover["pause_ms"]);
    for line in changeover.log().lines().filter(|line| line.contains(" took ")) {
        println!("  {}", line.split_once(": ").map_or(line, |(_, rest)| rest));
    }
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let all = count as f64;
    // Dialled, logged in and restored before the gate closed; behind it nobody had to be asked anything.
    assert_eq!(samples["changeover_moves_total{outcome=\"prepared\"}"], all, "{samples:?}");
    assert_eq!(samples["changeover_moves_total{outcome=\"unprepared\"}"], 0.0);
    assert_eq!(samples["changeover_move_questions_total"], 0.0);
    client.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(says.next().unwrap().unwrap(), "all fine");
    assert!(client.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    nothing_is_left_for_the_pause(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97() {
    nothing_is_left_for_the_pause(Engine::MySql97).await;
}
