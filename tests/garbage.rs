//! Garbage, half packets, oversized handshakes and port scans on every listener: the connection is closed, a
//! healthy client is unaffected, and nothing grows.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::leaks::nothing_is_left;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair};

/// What strangers send in place of a login.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let packet = |sequence: u8, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(sequence);
        bytes.extend_from_slice(payload);
        bytes
    };
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut tls = 0x0000_0a00_u32.to_le_bytes().to_vec();
    tls.extend_from_slice(&[0, 0, 0, 1, 45]);
    tls.extend_from_slice(&[0; 23]);
    let mut half_tls = packet(1, &tls);
    half_tls.extend_from_slice(b"this is no client hello");
    // Capabilities of an ordinary client, then a user name that never ends.
    let mut endless = 0x000f_a68d_u32.to_le_bytes().to_vec();
    endless.extend_from_slice(&[0, 0, 0, 1, 45]);
    endless.extend_from_slice(&[0; 23]);
    endless.extend_from_slice(&vec![b'a'; 70_000]);
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0x16]),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec()),
        ("a TLS hello without asking", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("noise", noise.clone()),
        ("a header alone", vec![0x20, 0, 0, 1]),
        ("half a packet", packet(1, &[0; 200])[..50].to_vec()),
        ("an empty packet", packet(1, &[])),
        ("a packet of one byte", packet(1, &[1])),
        ("a wrong sequence", packet(9, &[0; 40])),
        ("zeros", packet(1, &[0; 100])),
        ("16 MiB announced", vec![0xff, 0xff, 0xff, 1, 0, 0, 0, 0]),
        ("an oversized handshake", packet(1, &endless)),
        ("an SSL request and then none", half_tls),
        ("a good header and noise", packet(1, &noise)),
    ]
}

/// Sends it, and waits until the other end has closed. `linger`: doesn't close by itself first.
async fn throw(port: u16, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The other end may have closed before everything was written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let closed = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection stays open");
    assert!(answer.len() < 100_000, "{} bytes of answer", answer.len());
}

async fn started() -> Option<(Pair, Changeover)> {
    let pair = Pair::start(Engine::MariaDb, 500).await?;
    let changeover = pair.changeover().await;
    // What is opened on first use and kept isn't there to be counted later.
    changeover.app(Some("shop")).await.disconnect().await.unwrap();
    let _ = mysql_async::Conn::new(opts(changeover.port(), "nobody", "wrong", None)).await;
    until("a server without sessions", Duration::from_secs(10), async || {
        let sessions = changeover.admin("SHOW SESSIONS").await.len();
        if sessions == 0 { Ok(()) } else { Err(sessions.to_string()) }
    })
    .await;
    Some((pair, changeover))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_listener() {
    let Some((pair, changeover)) = started().await else { return };
    let files = changeover.open_files().len();
    let mut healthy = changeover.app(Some("shop")).await;
    for port in [changeover.port(), changeover.admin_port()] {
        for (what, bytes) in nonsense() {
            println!("{what}");
            throw(port, &bytes).await;
            let answer: Option<i64> = healthy.query_first("SELECT COUNT(*) FROM bulk").await.unwrap();
            assert_eq!(answer, Some(500), "after {what}");
        }
    }
    let before = changeover.resident_bytes();
    for round in 0..30 {
        for port in [changeover.port(), changeover.admin_port()] {
            for (_, bytes) in nonsense() {
                throw(port, &bytes).await;
            }
        }
        let _: Option<i64> = healthy.query_first(format!("SELECT {round}")).await.unwrap();
    }
    let grown = changeover.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more after 900 strangers");
    assert_eq!(changeover.admin("SHOW MIGRATION STATUS").await[0]["sessions"], "1");
    healthy.disconnect().await.unwrap();
    nothing_is_left(&pair.source, &changeover, 0, files).await;
}

/// A scanner connects and leaves, hundreds at a time, and some of them never say anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_scans() {
    let Some((pair, changeover)) = started().await else { return };
    let files = changeover.open_files().len();
    let mut healthy = changeover.app(Some("shop")).await;
    for port in [changeover.port(), changeover.admin_port()] {
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
            drop(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
            // A reset instead of a goodbye.
            let reset = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            reset.set_zero_linger().unwrap();
        }
        let answer: Option<i64> = healthy.query_first("SELECT COUNT(*) FROM bulk").await.unwrap();
        assert_eq!(answer, Some(500));
        changeover.admin("SHOW MIGRATION STATUS").await;
    }
    healthy.disconnect().await.unwrap();
    nothing_is_left(&pair.source, &changeover, 0, files).await;
}

/// Whoever connects and says nothing is shown the door; it doesn't take a place for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_ended() {
    let Some((_pair, changeover)) = started().await else { return };
    for port in [changeover.port(), changeover.admin_port()] {
        let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut bytes = Vec::new();
        let closed = timeout(Duration::from_secs(40), silent.read_to_end(&mut bytes)).await;
        assert!(closed.is_ok(), "a silent connection on {port} is kept for ever");
    }
}

/// One more than `max_connections` is told so with error 1040, and the others aren't disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections() {
    let Some(pair) = Pair::start(Engine::MariaDb, 500).await else { return };
    let changeover = Changeover::start(pair.settings().with("proxy.max_connections", "3")).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        inside.push(changeover.app(Some("shop")).await);
    }
    let opts = opts(changeover.port(), "app", "app-Secret_2", None);
    let refused = mysql_async::Conn::new(opts).await.unwrap_err().to_string();
    assert!(refused.contains("1040"), "{refused}");
    for conn in &mut inside {
        conn.ping().await.unwrap();
    }
}
