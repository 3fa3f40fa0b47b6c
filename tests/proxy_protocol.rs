//! The PROXY protocol on both sides of the proxy, and the limits of its entrance.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts};

/// 203.0.113.7:5566 to 203.0.113.8:3306, in version 1.
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 203.0.113.8 5566 3306\r\n";
/// The client that both headers name.
const NAMED: &str = "203.0.113.7:5566";

/// The same in version 2, with a TLV.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend_from_slice(&[203, 0, 113, 7, 203, 0, 113, 8, 0x15, 0xBE, 0x0C, 0xEA, 4, 0, 1, 0]);
    header
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn python(port: u16, case: &str, header: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/proxied.py"));
    command.args([&port.to_string(), case, header]);
    command
}

/// What the small client printed.
fn says(port: u16, case: &str, header: &str) -> String {
    let output = python(port, case, header).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{case} {header}: {out}{err}");
    out.trim().to_owned()
}

/// Logs in behind `header`, and compares the client in SHOW SESSIONS while it is there.
async fn listed_as(changeover: &Changeover, header: &str, client: &str) {
    let mut command = python(changeover.port(), "admitted", header);
    let mut child = command.arg("stay").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let sessions = changeover.admin("SHOW SESSIONS").await;
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success(), "{header}: {line}");
    assert!(sessions.iter().any(|row| row["client"].starts_with(client)), "{header}: {sessions:?}");
}

fn is_open_to_the_balancer(mode: &str) -> [(&'static str, String); 2] {
    [
        ("proxy.proxy_protocol", format!("\"{mode}\"")),
        ("proxy.proxy_protocol_from", "[\"127.0.0.1\"]".to_owned()),
    ]
}

async fn changeover(pair: &Pair, settings: &[(&str, String)]) -> Changeover {
    let mut all = pair.settings();
    for (key, value) in settings {
        all.set(key, value);
    }
    Changeover::start(all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_a_load_balancer() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let (v1, v2) = (hex(V1), hex(&v2()));
    let unknown = hex(b"PROXY UNKNOWN\r\n");
    let local = hex(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    let cut = format!("{},{},{}", hex(&V1[..3]), hex(&V1[3..20]), hex(&V1[20..]));
    let garbage = [
        hex(b"PROXY TCP4 203.0.113.7 here 1 2\r\n"),
        hex(b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c............"),
        hex(b"GET / HTTP/1.1\r\n\r\n"),
        format!("{v1}{v1}"),
    ];

    let required = changeover(&pair, &is_open_to_the_balancer("required")).await;
    for header in [&v1, &v2, &cut] {
        listed_as(&required, header, NAMED).await;
    }
    for header in [&unknown, &local] {
        listed_as(&required, header, "127.0.0.1:").await;
    }
    for bytes in &garbage {
        says(required.port(), "closed", bytes);
    }
    assert!(required.log().contains("a connection from 127.0.0.1 was closed"));

    let optional = changeover(&pair, &is_open_to_the_balancer("optional")).await;
    for header in [v1.clone(), v2.clone(), cut, format!("@,{v1}"), format!("@,{v2}")] {
        listed_as(&optional, &header, NAMED).await;
    }
    for header in [String::new(), unknown, local] {
        listed_as(&optional, &header, "127.0.0.1:").await;
    }
    for bytes in &garbage {
        says(optional.port(), "closed", bytes);
    }
    optional.app(None).await.disconnect().await.unwrap();

    let off = pair.changeover().await;
    listed_as(&off, "", "127.0.0.1:").await;
    says(off.port(), "closed", &v1);

    // Others than the balancers.
    let elsewhere = ("proxy.proxy_protocol_from", "[\"10.0.0.0/8\"]".to_owned());
    let [mode, _] = is_open_to_the_balancer("required");
    let closed = changeover(&pair, &[mode, elsewhere.clone()]).await;
    assert!(says(closed.port(), "told", &v1).starts_with("1130 "));
    let [mode, _] = is_open_to_the_balancer("optional");
    let plain = changeover(&pair, &[mode, elsewhere]).await;
    listed_as(&plain, "", "127.0.0.1:").await;
    says(plain.port(), "closed", &v1);
}

async fn host_seen(conn: &mut Conn) -> String {
    let sql = "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
    conn.query_first(sql).await.unwrap().unwrap()
}

/// What the backend sees is the client: the one on the socket, or the one that a balancer named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_to_the_backends() {
    let Some(mut pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    for server in [&mut pair.source, &mut pair.target] {
        server.run(&["SET GLOBAL proxy_protocol_networks = '127.0.0.1'"]).await;
    }
    for version in ["v1", "v2"] {
        let mut settings = is_open_to_the_balancer("optional").to_vec();
        settings.push(("source.proxy_protocol", format!("\"{version}\"")));
        settings.push(("target.proxy_protocol", format!("\"{version}\"")));
        let changeover = changeover(&pair, &settings).await;
        let mut conn = changeover.app(None).await;
        let seen = host_seen(&mut conn).await;
        let sessions = changeover.admin("SHOW SESSIONS").await;
        assert_eq!(seen, sessions[0]["client"]);
        for header in [hex(V1), hex(&v2())] {
            let said = says(changeover.port(), "admitted", &header);
            assert_eq!(said, format!("{NAMED} app@203.0.113.7"));
        }
        // A session that moves says so at the other server too.
        if version == "v2" {
            changeover.admin("START MIGRATION").await;
            changeover.wait_ready().await;
            changeover.cut_over().await;
            assert_eq!(changeover.wait_all_moved().await, 1);
            assert_eq!(host_seen(&mut conn).await, sessions[0]["client"]);
            let port: u16 = conn.query_first("SELECT @@port").await.unwrap().unwrap();
            assert_eq!(port, pair.target.port());
        }
    }
}

/// A server that doesn't take the header: the client hears that there is no server for it, and the log says why.
async fn not_taken(engine: Engine, says: &str) {
    let Some(pair) = Pair::start(engine, 10).await else { return };
    let target = changeover(&pair, &[("target.proxy_protocol", "\"v2\"".to_owned())]).await;
    let checks = target.admin("CUTOVER DRY RUN").await;
    assert!(checks.iter().any(|row| row["step"] == "target" && row["note"].contains(says)), "{checks:?}");
    target.app(None).await.disconnect().await.unwrap();
    for version in ["v1", "v2"] {
        let changeover = changeover(&pair, &[("source.proxy_protocol", format!("\"{version}\""))]).await;
        let login = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None);
        let refused = Conn::new(login).await.unwrap_err().to_string();
        assert!(refused.contains("2003"), "{refused}");
        // The task that keeps asking for the greeting says it, perhaps a moment after the client was told.
        until("the reason in the log", Duration::from_secs(10), async || {
            let log = changeover.log();
            let named = log.contains(&format!("proxy_protocol is {version}")) && log.contains(says);
            if named { Ok(()) } else { Err(log) }
        })
        .await;
        // Changeover's own connections come without one.
        assert_eq!(changeover.status_of("route").await, "source");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_mariadb_does_not_take() {
    not_taken(Engine::MariaDb, "proxy_protocol_networks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_mysql97_does_not_take() {
    not_taken(Engine::MySql97, "MySQL has no PROXY protocol").await;
}

/// 1040 comes in place of the greeting, word for word as the server itself says it, behind a PROXY header as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let mut settings = is_open_to_the_balancer("optional").to_vec();
    settings.push(("proxy.max_connections", "2".to_owned()));
    let changeover = changeover(&pair, &settings).await;
    let mut inside = [changeover.app(None).await, changeover.app(None).await];
    for header in ["", &hex(V1)] {
        assert_eq!(says(changeover.port(), "told", header), "1040 Too many connections");
    }
    let mut packet = Vec::new();
    let mut refused = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
    refused.read_to_end(&mut packet).await.unwrap();
    assert_eq!(packet, b"\x17\0\0\0\xff\x10\x04Too many connections");
    for conn in &mut inside {
        conn.ping().await.unwrap();
    }
    let [first, _second] = inside;
    first.disconnect().await.unwrap();
    until("a free place", Duration::from_secs(10), async || {
        let login = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None);
        Conn::new(login).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// Over the rate nobody is refused; they wait, and the sessions that are there don't.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_so_many_a_second_wait() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = changeover(&pair, &[("proxy.max_connects_per_s", "10".to_owned())]).await;
    let mut inside = changeover.app(None).await;
    let began = Instant::now();
    let mut logins = JoinSet::new();
    for _ in 0..15 {
        logins.spawn(Conn::new(opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None)));
    }
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_millis(500) {
        let asked = Instant::now();
        inside.ping().await.unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    assert!(!logins.is_empty());
    let mut conns = Vec::new();
    while let Some(login) = logins.join_next().await {
        conns.push(login.unwrap().unwrap());
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1400), "15 logins within {took:?}");
    assert!(slowest < Duration::from_millis(400), "a session waited {slowest:?}");
    assert_eq!(changeover.admin("SHOW SESSIONS").await.len(), 16);
}
