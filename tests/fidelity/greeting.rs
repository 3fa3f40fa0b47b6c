//! The greeting is the backend's own: id, version, status; KILL, blocked hosts, errors in place of a greeting.

use std::net::UdpSocket;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{greeting, packets, read_packet, read_to_end};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, Server, accounts, seed};

async fn greets_as_the_server(engine: Engine) {
    let Some(pair) = Pair::start(engine, 10).await else { return };
    let changeover = pair.changeover().await;
    let mut direct = TcpStream::connect(("127.0.0.1", pair.source.port())).await.unwrap();
    let mut through = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
    let [direct, through] =
        [greeting(&read_packet(&mut direct).await), greeting(&read_packet(&mut through).await)];
    assert_eq!(
        (&through.version, through.collation, through.status),
        (&direct.version, direct.collation, direct.status)
    );
    let mut conn = changeover.app(Some("shop")).await;
    let id: u32 = conn.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap();
    assert_eq!(id, conn.id());
    let sql = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {id} AND USER = 'app'");
    assert_eq!(pair.source.value::<i64>(&sql).await, 1);
    let sessions = changeover.admin("SHOW SESSIONS").await;
    assert_eq!(sessions[0]["id"], id.to_string());
    changeover.admin(&format!("KILL SESSION {id}")).await;
    conn.query_drop("SELECT 1").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greets_as_mariadb() {
    greets_as_the_server(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greets_as_mysql97() {
    greets_as_the_server(Engine::MySql97).await;
}

/// One server as both backends, so that every session moves after two commands.
async fn moving(engine: Engine) -> Option<(Server, Changeover)> {
    let server = Server::start(engine, &[]).await?;
    accounts::create(&server, seed::SCHEMA).await;
    seed::fill(&server, 10).await;
    let settings = crate::support::changeover::Settings::between(&server, &server, seed::SCHEMA);
    let changeover = Changeover::start(settings.with("proxy.move_every", "2")).await;
    Some((server, changeover))
}

/// A session that moved is killed by the id that its client was greeted with, in every form of KILL.
async fn kill_follows_a_move(engine: Engine) {
    let Some((server, changeover)) = moving(engine).await else { return };
    let mut killer = changeover.app(Some("shop")).await;
    let mut victim = changeover.app(Some("shop")).await;
    let greeted = victim.id();
    let mut present = greeted;
    for _ in 0..4 {
        present = victim.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap();
    }
    assert_ne!(present, greeted, "it never moved");
    let sleeping = tokio::spawn(async move {
        let slept: Result<Option<i64>, _> = victim.query_first("SELECT SLEEP(100)").await;
        (victim, slept)
    });
    let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(100)'";
    server.wait_value(sql, "1").await;
    killer.query_drop(format!("/* a tool's */ KILL QUERY {greeted};")).await.unwrap();
    let (mut victim, slept) = sleeping.await.unwrap();
    assert!(!matches!(slept, Ok(Some(0))), "it slept to the end");
    let nobody = killer.query_drop("KILL QUERY 4000000000").await.unwrap_err().to_string();
    assert!(nobody.contains("1094") && nobody.contains("4000000000"), "{nobody}");
    victim.ping().await.unwrap();
    killer.query_drop(format!("KILL {greeted}")).await.unwrap();
    until("the end of the killed session", Duration::from_secs(20), async || {
        let sessions = changeover.admin("SHOW SESSIONS").await;
        if sessions.iter().all(|row| row["id"] != greeted.to_string()) {
            Ok(())
        } else {
            Err(format!("{sessions:?}"))
        }
    })
    .await;
    victim.query_drop("SELECT 1").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_follows_a_move_on_mariadb() {
    kill_follows_a_move(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_follows_a_move_on_mysql97() {
    kill_follows_a_move(Engine::MySql97).await;
}

/// Its own id, as greeted: the answer and the end are the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_kills_itself_after_a_move() {
    let Some((_server, changeover)) = moving(Engine::MariaDb).await else { return };
    let mut conn = changeover.app(Some("shop")).await;
    let greeted = conn.id();
    for _ in 0..4 {
        conn.ping().await.unwrap();
    }
    let error = conn.query_drop(format!("KILL {greeted}")).await.unwrap_err().to_string();
    assert!(error.contains("1927") || error.contains("1317") || error.contains("closed"), "{error}");
    conn.ping().await.unwrap_err();
}

/// The address of this machine on its own network: servers don't count errors of 127.0.0.1. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// Health checks connect and leave. A server counts that against the host, and blocks it in the end: none of it may
/// be counted against the proxy's.
async fn health_checks_block_nobody(engine: Engine) {
    let Some(address) = own_address() else {
        eprintln!("SKIPPED: this machine has no address but 127.0.0.1");
        return;
    };
    let bind = format!("--bind-address=127.0.0.1,{address}");
    let flags = [bind.as_str(), "--skip-name-resolve=OFF", "--max-connect-errors=3"];
    let Some(server) = Server::start(engine, &flags).await else { return };
    accounts::create(&server, seed::SCHEMA).await;
    seed::fill(&server, 10).await;
    // Errors in a row are counted, and a login that works begins anew: without a service account that can log in,
    // nothing but how a connection is left can keep the host from being blocked.
    let mut settings = crate::support::changeover::Settings::between(&server, &server, seed::SCHEMA);
    settings.set("source.url", &format!("\"mysql://changeover@{address}:{}\"", server.port()));
    settings.set("source.password", "\"wrong\"");
    let changeover = Changeover::start(settings).await;
    for round in 0..12 {
        let mut stream = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
        let hello = read_packet(&mut stream).await;
        assert_eq!(hello[0], 10, "round {round}: {}", String::from_utf8_lossy(&hello));
        match round % 3 {
            0 => {}
            1 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            _ => stream.write_all(&packets(1, &[0; 40])).await.unwrap(),
        }
        drop(stream);
    }
    let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'unauthenticated user'";
    server.wait_value(sql, "0").await;
    let app = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some("shop"));
    Conn::new(app).await.unwrap().ping().await.unwrap();
    // The test can fail: four that leave without a word are enough to be blocked.
    server.wait_value("SELECT @@skip_name_resolve", "0").await;
    for _ in 0..4 {
        let mut stream = TcpStream::connect((address.as_str(), server.port())).await.unwrap();
        read_packet(&mut stream).await;
    }
    until("the server to block its host", Duration::from_secs(20), async || {
        let mut stream = TcpStream::connect((address.as_str(), server.port())).await.unwrap();
        let hello = read_packet(&mut stream).await;
        if hello[0] == 0xFF { Ok(()) } else { Err("it greets".to_owned()) }
    })
    .await;
    // And what it says in place of its greeting, the client of the proxy hears as it is: 1129.
    let mut direct = TcpStream::connect((address.as_str(), server.port())).await.unwrap();
    let mut through = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
    let said = read_packet(&mut through).await;
    assert_eq!(said, read_packet(&mut direct).await);
    assert_eq!(said.get(..3), Some(&[0xFF, 0x69, 0x04][..]), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_block_nobody_on_mariadb() {
    health_checks_block_nobody(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_block_nobody_on_mysql97() {
    health_checks_block_nobody(Engine::MySql97).await;
}

/// A server that is full says so in place of its greeting, in its own words.
async fn a_full_server(engine: Engine) {
    let Some(pair) = Pair::start(engine, 10).await else { return };
    let changeover = pair.changeover().await;
    pair.source.run(&["SET GLOBAL max_connections = 12, connect_timeout = 60"]).await;
    // Connections of Changeover's own come and go, and each one that goes leaves a place: what is free is taken again
    // until nobody gets in. MySQL greets one more, who may be an administrator, so greetings are what is held.
    let inside = tokio::sync::Mutex::new(Vec::new());
    until("both to be full", Duration::from_secs(60), async || {
        let direct = fill(pair.source.port(), &mut *inside.lock().await).await;
        let mut stream = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
        let through = read_packet(&mut stream).await;
        if direct == through { Ok(()) } else { Err(format!("{direct:?}, {through:?}")) }
    })
    .await;
}

/// Takes every free place of a server with connections that don't log in. Returns what it says to the next one.
async fn fill(port: u16, inside: &mut Vec<TcpStream>) -> Vec<u8> {
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let said = read_packet(&mut stream).await;
        if said.get(..3) == Some(&[0xFF, 0x10, 0x04][..]) {
            return said;
        }
        inside.push(stream);
        assert!(inside.len() < 100, "it is never full");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mariadb() {
    a_full_server(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mysql97() {
    a_full_server(Engine::MySql97).await;
}

/// A client that takes longer than the server waits (connect_timeout): the connection ends when the server ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_login_ends_with_the_server_s_patience() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = pair.changeover().await;
    pair.source.run(&["SET GLOBAL connect_timeout = 2"]).await;
    let mut slow = TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap();
    read_packet(&mut slow).await;
    read_to_end(&mut slow).await;
    let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'unauthenticated user'";
    pair.source.wait_value(sql, "0").await;
    let mut fresh = changeover.app(Some("shop")).await;
    fresh.ping().await.unwrap();
}
