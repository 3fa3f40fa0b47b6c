//! What hardly any client does, and a session that has just moved: the same answers as the server's own.

use std::process::Command;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::io::AsyncWriteExt;

use super::{
    BULK, LONG_PASSWORD, command, log_in, packets, query, quit, read_packet, read_to_end, transcript,
};
use crate::support::changeover::Settings;
use crate::support::server::{mysql97_client, opts};
use crate::support::{Changeover, Engine, Pair, Server, accounts, seed};

const COMPRESS: u64 = 1 << 5;
const ZSTD: u64 = 1 << 26;

async fn with_raw_user(server: &Server) {
    server
        .run(&[
            "CREATE USER raw@'%'",
            "GRANT ALL ON shop.* TO raw@'%'",
            "CREATE TABLE shop.`lines` (a VARCHAR(50) PRIMARY KEY, b INT)",
        ])
        .await;
}

/// One server as both backends, and sessions that move before every command.
async fn moving_at_once() -> Option<(Server, Changeover)> {
    let server = Server::start(Engine::MariaDb, &[]).await?;
    accounts::create(&server, seed::SCHEMA).await;
    seed::fill(&server, 10).await;
    with_raw_user(&server).await;
    let settings = Settings::between(&server, &server, seed::SCHEMA).with("proxy.move_every", "1");
    let changeover = Changeover::start(settings).await;
    Some((server, changeover))
}

/// MariaDB's bulk execution of the statement that was prepared last, with its session moved before every command. (A
/// client that doesn't repeat the types is refused by the server itself.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_execution_after_a_move() {
    let Some((server, changeover)) = moving_at_once().await else { return };
    let bulk = |id: u32, flags: u16, rest: &[u8]| {
        command(0xFA, [&id.to_le_bytes()[..], &flags.to_le_bytes()[..], rest].concat())
    };
    let types = b"\xfd\0\x03\0";
    let row = |text: &str, n: i32| {
        let len = [u8::try_from(text.len()).unwrap()];
        [&b"\0"[..], &len, text.as_bytes(), b"\0", &n.to_le_bytes()].concat()
    };
    let last = u32::MAX;
    let requests = [
        command(0x16, "INSERT INTO `lines` VALUES (?, ?)"),
        bulk(last, 0x80, &[&types[..], &row("one", 1), &row("two", 2)].concat()),
        query("DO 1"),
        bulk(last, 0x80, &[&types[..], &row("three", 3)].concat()),
        // A value that is there already: the error of one row.
        bulk(last, 0x80, &[&types[..], &row("five", 5), &row("one", 6)].concat()),
        query("SELECT a, b FROM `lines` ORDER BY b"),
        query("DELETE FROM `lines`"),
        quit(),
    ];
    let direct = unnumbered(transcript(server.port(), BULK, &requests).await);
    let moved = unnumbered(transcript(changeover.port(), BULK, &requests).await);
    let [d, t] = [&direct, &moved].map(|bytes| bytes.escape_ascii().to_string());
    assert!(d.contains("three"), "the server doesn't do it: {d}");
    assert!(direct == moved, "\n{d}\n{t}");
    assert!(changeover.log().contains("move_every"));
}

/// Without the id in the answer to the prepare, which is the proxy's own.
fn unnumbered(mut transcript: Vec<u8>) -> Vec<u8> {
    if let Some(id) = transcript.get_mut(5..9) {
        id.fill(0);
    }
    transcript
}

/// COM_PROCESS_KILL by the greeting's id, of a session that has moved since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_command_follows_a_move() {
    let Some((server, changeover)) = moving_at_once().await else { return };
    let (mut victim, greeted) = log_in(changeover.port(), LONG_PASSWORD).await;
    for _ in 0..3 {
        victim.write_all(&query("DO 1")).await.unwrap();
        assert_eq!(read_packet(&mut victim).await[0], 0);
    }
    let present: u32 =
        server.value("SELECT MAX(ID) FROM information_schema.PROCESSLIST WHERE USER = 'raw'").await;
    assert_ne!(present, greeted.id, "it never moved");
    let (mut killer, _) = log_in(changeover.port(), LONG_PASSWORD).await;
    killer.write_all(&command(0x0C, 4_000_000_000_u32.to_le_bytes())).await.unwrap();
    let nobody = read_packet(&mut killer).await;
    assert!(nobody[0] == 0xFF && nobody[1..3] == 1094_u16.to_le_bytes(), "{nobody:?}");
    killer.write_all(&command(0x0C, greeted.id.to_le_bytes())).await.unwrap();
    assert_eq!(read_packet(&mut killer).await[0], 0);
    // It ends, with or without the server's farewell.
    read_to_end(&mut victim).await;
}

/// What `ssl_request.py` hears.
fn ssl_requests(port: u16) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/ssl_request.py")).arg(port.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn flags_of_the_ssl_request(engine: Engine, flags: &[&str]) {
    let Some(pair) = Pair::start_with(engine, 10, flags).await else { return };
    with_raw_user(&pair.source).await;
    let changeover = pair.changeover().await;
    let (direct, through) = (ssl_requests(pair.source.port()), ssl_requests(changeover.port()));
    assert!(direct.contains("no EOF in the request only: 0100000101"), "the server doesn't do it: {direct}");
    let differ: Vec<_> = direct.lines().zip(through.lines()).filter(|(d, t)| d != t).collect();
    assert!(differ.is_empty() && direct.lines().count() == through.lines().count(), "{differ:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_of_the_ssl_request_of_mysql97() {
    flags_of_the_ssl_request(Engine::MySql97, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_of_the_ssl_request_of_mariadb() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = format!("--ssl-cert={}", file("cert.pem", params.self_signed(&key).unwrap().pem()));
    let key = format!("--ssl-key={}", file("key.pem", key.serialize_pem()));
    flags_of_the_ssl_request(Engine::MariaDb, &[&cert, &key]).await;
}

/// Compression isn't offered. Who asks for it all the same goes on without, and who insists hears so: never half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_is_honestly_absent() {
    let Some(pair) = Pair::start(Engine::MySql97, 10).await else { return };
    with_raw_user(&pair.source).await;
    let changeover = pair.changeover().await;
    let requests = [query("SELECT 'plainly readable'"), quit()];
    for asked in [COMPRESS, ZSTD, COMPRESS | ZSTD] {
        let (_, greeting) = log_in(changeover.port(), LONG_PASSWORD).await;
        assert_eq!(greeting.capabilities & asked, 0, "it is offered");
        let without = transcript(changeover.port(), LONG_PASSWORD, &requests).await;
        let heard = transcript(changeover.port(), LONG_PASSWORD | asked, &requests).await;
        assert_eq!(heard, without, "{asked:x}");
        assert!(heard.windows(16).any(|part| part == b"plainly readable"));
    }
    // Compressed packets of a client that didn't look: an end, and nobody else is disturbed.
    let (mut deaf, _) = log_in(changeover.port(), LONG_PASSWORD | COMPRESS).await;
    let inner = packets(0, b"\x03SELECT 1");
    let frame = [&u32::try_from(inner.len()).unwrap().to_le_bytes()[..3], &[0, 0, 0, 0], &inner].concat();
    deaf.write_all(&[frame, packets(0, b"\x01")].concat()).await.unwrap();
    deaf.shutdown().await.unwrap();
    let heard = read_to_end(&mut deaf).await;
    assert!(
        !heard.starts_with(b"\x01\0\0\x01\x01"),
        "a compressed request was taken for a plain one: {heard:?}"
    );
    Conn::new(opts(changeover.port(), "raw", "", None)).await.unwrap().ping().await.unwrap();

    let client = |algorithms: &str| {
        let mut client = mysql97_client().unwrap();
        client.args(["-h127.0.0.1", &format!("-P{}", changeover.port()), "-uraw"]);
        client.arg(format!("--compression-algorithms={algorithms}"));
        let output = client.args(["-N", "-e", "SHOW STATUS LIKE 'Compression'"]).output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if output.status.success() { Ok(out) } else { Err(err) }
    };
    for wished in ["zlib,uncompressed", "zstd,uncompressed", "zstd,zlib,uncompressed"] {
        assert_eq!(client(wished).unwrap().split_whitespace().last(), Some("OFF"), "{wished}");
    }
    for insisted in ["zlib", "zstd"] {
        let why = client(insisted).unwrap_err();
        assert!(why.contains("ompression"), "{insisted}: {why}");
    }
    let mut mariadb = Command::new("mariadb");
    mariadb.args([
        "--no-defaults",
        "-h127.0.0.1",
        &format!("-P{}", changeover.port()),
        "-uraw",
        "--compress",
        "-N",
    ]);
    let output = mariadb.args(["-e", "SHOW STATUS LIKE 'Compression'"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("OFF"), "{output:?}");
}
