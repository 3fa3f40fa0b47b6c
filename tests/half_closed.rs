//! Clients that end their half of the connection and stay, over TCP and TLS, on either driver of sockets: that is leaving.
//! The session ends, its statement is killed, and nobody waits for the client to read.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::hop::{Hop, Way};
use crate::support::leaks::nothing_is_left;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts};

const MIB: u64 = 1 << 20;

/// The client, as a process of its own.
struct Client {
    process: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Client {
    fn start(port: u16, how: &str, statements: &[&str]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/half_closed.py"));
        command.args([&port.to_string(), how]).args(statements);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (says, hears) = (process.stdout.take().unwrap(), process.stdin.take().unwrap());
        let mut client = Self { process, says: BufReader::new(says), hears };
        client.said("asked");
        client
    }

    fn said(&mut self, what: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), what);
    }

    fn half_close(&mut self) {
        self.hears.write_all(b"\n").unwrap();
        self.said("half closed");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn nothing_runs(pair: &Pair, wanted: &str) {
    let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'app' AND INFO LIKE '%half%'";
    pair.source.wait_value(sql, wanted).await;
}

async fn is_leaving(io: &str) {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let backend = Hop::to(pair.source.port(), Some(accounts::APP)).await;
    let url = format!("\"mysql://{}@127.0.0.1:{}\"", accounts::SERVICE, backend.port());
    let changeover = Changeover::start(pair.settings().with("source.url", &url).with("proxy.io", io)).await;
    changeover.app(None).await.disconnect().await.unwrap();
    nothing_is_left(&pair.source, &changeover, 0, usize::MAX).await;
    let files = changeover.open_files().len();
    let cases: &[(&str, &[&str])] = &[
        ("idle", &[]),
        ("in a transaction", &["BEGIN", "UPDATE bulk SET k = 77", "DO 1"]),
        ("it computes", &["SELECT SLEEP(1000) /* half */"]),
        ("it is written to", &["SELECT REPEAT('x', 100000) FROM seq_1_to_10000 /* half */"]),
    ];
    for how in ["tcp", "tls", "notify"] {
        for (what, statements) in cases {
            println!("{how}: {what}");
            let mut client = Client::start(changeover.port(), how, statements);
            let runs = statements.last().is_some_and(|last| last.contains("half"));
            nothing_runs(&pair, if runs { "1" } else { "0" }).await;
            if *what == "it is written to" {
                let passed = AtomicU64::new(0);
                until("a backend that is held back", Duration::from_secs(30), async || {
                    let now = backend.latest().passed(Way::Down);
                    let is_still = now == passed.swap(now, SeqCst);
                    if now > MIB && is_still { Ok(()) } else { Err(format!("{now} bytes")) }
                })
                .await;
            }
            client.half_close();
            nothing_runs(&pair, "0").await;
            // The client is still there.
            nothing_is_left(&pair.source, &changeover, 0, files).await;
        }
    }
    assert_eq!(pair.source.value::<i64>("SELECT COUNT(*) FROM shop.bulk WHERE k = 77").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_leaving_with_epoll() {
    is_leaving("\"epoll\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_leaving_with_io_uring() {
    is_leaving("\"auto\"").await;
}
