//! The HTTP port: what it counts is what happened, whoever asks badly is held off.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts, seed};

/// Long enough for any answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Samples by name and labels, as they stand in the text.
pub type Samples = BTreeMap<String, f64>;

/// A Changeover with its HTTP port.
pub async fn with_console(pair: &Pair, settings: &[(&str, &str)]) -> Changeover {
    let port = crate::support::server::free_port();
    let mut all = pair.settings().with("console.listen", &format!("\"127.0.0.1:{port}\""));
    for (key, value) in settings {
        all.set(key, value);
    }
    Changeover::start(all).await
}

/// What comes back for these bytes, up to the end of the connection.
async fn say(port: u16, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // It may be closed before it has read everything.
    let _ = socket.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("it closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status code and body.
async fn get(changeover: &Changeover, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: changeover\r\n\r\n");
    let answer = say(changeover.console_port(), request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// What `/metrics` says.
pub async fn scrape(changeover: &Changeover) -> Samples {
    let (code, text) = get(changeover, "/metrics").await;
    assert_eq!(code, 200, "{text}");
    parse(&text)
}

/// Reads the text format as strictly as `promtool check metrics` would.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let (mut helped, mut family) = (String::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.ends_with('.'), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(name.starts_with("changeover_"), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            family = name.to_owned();
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let name = key.split('{').next().unwrap();
            let rest = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} under {family}"));
            let histogram = families[&family] == "histogram";
            let allowed: &[&str] = if histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&rest), "{line} under {family}");
            if let Some(labels) = key.strip_prefix(name).and_then(|labels| labels.strip_prefix('{')) {
                for label in labels.strip_suffix('}').unwrap().split(',') {
                    let (label, word) = label.split_once("=\"").unwrap();
                    assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                    assert!(word.ends_with('"') && word.matches('"').count() == 1, "{line}");
                }
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(key.to_owned(), value).is_none(), "{key} comes twice");
        }
    }
    for (name, _) in families.iter().filter(|(_, kind)| *kind == "histogram") {
        let buckets: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}_bucket{{")))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(buckets.is_sorted(), "{name}");
        assert_eq!(buckets.last(), samples.get(&format!("{name}_bucket{{le=\"+Inf\"}}")));
        assert_eq!(buckets.last(), samples.get(&format!("{name}_count")));
    }
    samples
}

/// How much a sample has grown.
fn grown(before: &Samples, after: &Samples, key: &str) -> f64 {
    after[key] - before[key]
}

const BYTES: [&str; 4] = [
    "changeover_bytes_total{leg=\"client\",direction=\"received\"}",
    "changeover_bytes_total{leg=\"backend\",direction=\"sent\"}",
    "changeover_bytes_total{leg=\"backend\",direction=\"received\"}",
    "changeover_bytes_total{leg=\"client\",direction=\"sent\"}",
];

/// All samples of a family together.
fn sum(samples: &Samples, family: &str) -> f64 {
    let of = |key: &String| key.split('{').next() == Some(family);
    samples.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
}

/// The first scrape in which these have these values: a client has its answer a moment before its session says what
/// that changed.
async fn scrape_when(changeover: &Changeover, wanted: &[(&str, f64)]) -> Samples {
    until("the values", DEADLINE, async || {
        let now = scrape(changeover).await;
        if wanted.iter().all(|(key, value)| now[*key] == *value) { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_is_what_happened() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = with_console(&pair, &[("proxy.max_connections", "2")]).await;
    let mut conn = changeover.app(None).await;
    let before = scrape(&changeover).await;
    assert_eq!(sum(&before, "changeover_sessions"), 1.0);
    assert_eq!(before["changeover_backend_up{side=\"source\"}"], 1.0);
    assert_eq!(before["changeover_sessions_connected{side=\"source\"}"], 1.0);
    for _ in 0..10 {
        conn.query_drop("DO 1").await.unwrap();
    }
    let timed = "changeover_statement_seconds_count";
    let after = scrape_when(&changeover, &[(timed, before[timed] + 10.0)]).await;
    assert_eq!(grown(&before, &after, "changeover_statements_total"), 10.0);
    // A header, the command's byte and its text; a header and an OK of seven bytes.
    assert_eq!(BYTES.map(|key| grown(&before, &after, key)), [90.0, 90.0, 110.0, 110.0]);

    let before = after;
    let long: String = conn.query_first("SELECT REPEAT('x', 1000000)").await.unwrap().unwrap();
    conn.query_drop("CREATE TEMPORARY TABLE shop.mine (id INT)").await.unwrap();
    conn.query_drop("BEGIN").await.unwrap();
    let held =
        ["changeover_sessions_pinned", "changeover_sessions_in_transaction", "changeover_gate_permits"];
    let after = scrape_when(&changeover, &held.map(|key| (key, 1.0))).await;
    for key in &BYTES[2..] {
        let grown = grown(&before, &after, key);
        assert!((long.len() as f64..long.len() as f64 + 500.0).contains(&grown), "{key} {grown}");
    }

    let before = after;
    Conn::new(opts(changeover.port(), accounts::APP, "wrong", None)).await.unwrap_err();
    let second = changeover.app(None).await;
    Conn::new(opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None)).await.unwrap_err();
    let after = scrape(&changeover).await;
    assert_eq!(grown(&before, &after, "changeover_connections_total"), 3.0);
    let refused = "changeover_connections_refused_total{reason=\"too_many_connections\"}";
    assert_eq!(grown(&before, &after, refused), 1.0);
    let failed = "changeover_logins_failed_total";
    assert_eq!(sum(&after, failed) - sum(&before, failed), 1.0, "{after:?}");

    // What sessions did stays counted when they have ended.
    conn.disconnect().await.unwrap();
    second.disconnect().await.unwrap();
    until("no session", DEADLINE, async || {
        let now = scrape(&changeover).await;
        assert!(now["changeover_statements_total"] >= after["changeover_statements_total"]);
        if sum(&now, "changeover_sessions") == 0.0 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let last = scrape(&changeover).await;
    for key in BYTES {
        assert!(last[key] >= after[key], "{key}");
    }
}

/// The next event of a stream whose data holds `part`.
async fn wait_event(stream: &mut TcpStream, heard: &mut String, part: &str) {
    let mut bytes = [0; 4096];
    while !heard.contains(part) {
        let count = tokio::time::timeout(DEADLINE, stream.read(&mut bytes)).await.expect(part).unwrap();
        assert!(count > 0, "the stream ended before {part}: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_and_its_cutover_are_told() {
    let Some(pair) = Pair::start(Engine::MariaDb, 200).await else { return };
    let changeover = with_console(&pair, &[]).await;
    assert_eq!(get(&changeover, "/healthz").await, (200, "ok\n".to_owned()));
    until("ready", DEADLINE, async || match get(&changeover, "/readyz").await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let mut stream = TcpStream::connect(("127.0.0.1", changeover.console_port())).await.unwrap();
    stream.write_all(b"GET /api/events HTTP/1.1\r\nHost: changeover\r\n\r\n").await.unwrap();
    let mut heard = String::new();
    wait_event(&mut stream, &mut heard, "\"phase\":\"idle\"").await;

    let mut conns = Vec::new();
    for _ in 0..3 {
        conns.push(changeover.app(Some(seed::SCHEMA)).await);
    }
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let samples = scrape(&changeover).await;
    assert_eq!(samples["changeover_migration_phase{phase=\"following\"}"], 1.0);
    assert_eq!(sum(&samples, "changeover_migration_phase"), 1.0);
    let copied: f64 = changeover.status_of("rows_copied").await.parse().unwrap();
    assert!(copied >= 200.0);
    assert_eq!(samples["changeover_rows_copied_total"], copied);
    assert_eq!(samples["changeover_differences"], 0.0);
    assert!(samples.contains_key("changeover_replication_lag_seconds"));

    changeover.cut_over().await;
    assert_eq!(changeover.wait_all_moved().await, 3);
    let samples = scrape(&changeover).await;
    assert_eq!(samples["changeover_cutovers_total{outcome=\"switched\"}"], 1.0);
    assert_eq!(samples["changeover_cutover_pause_seconds_count"], 1.0);
    assert_eq!(samples["changeover_route{side=\"target\"}"], 1.0);
    assert_eq!(samples["changeover_gate_closed"], 0.0);
    assert_eq!(sum(&samples, "changeover_moves_total"), 3.0);
    assert_eq!(samples["changeover_moves_total{outcome=\"failed\"}"], 0.0);
    assert_eq!(samples["changeover_sessions_connected{side=\"target\"}"], 3.0);
    wait_event(&mut stream, &mut heard, "the target serves").await;
    wait_event(&mut stream, &mut heard, "\"phase\":\"switched\"").await;

    let (code, body) = get(&changeover, "/api/status").await;
    assert_eq!(code, 200);
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let shown = changeover.status().await;
    let told = json["status"].as_object().unwrap();
    assert_eq!(told.keys().collect::<Vec<_>>(), shown.keys().collect::<Vec<_>>());
    assert_eq!((told["route"].as_str(), told["sessions"].as_u64()), (Some("target"), Some(3)));
    let tables = json["tables"].as_array().unwrap();
    assert_eq!(tables.len(), changeover.admin("SHOW MIGRATION TABLES").await.len());
    assert_eq!(json["cutovers"][0]["outcome"], "switched");
    assert!(!body.contains(accounts::SERVICE_PASSWORD), "invariant 8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_badly_is_held_off() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = with_console(&pair, &[]).await;
    let port = changeover.console_port();
    // Nothing here can be changed.
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request =
            format!("{method} /api/status HTTP/1.1\r\nHost: changeover\r\nContent-Length: 0\r\n\r\n");
        let answer = say(port, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }
    assert_eq!(get(&changeover, "/../etc/passwd").await.0, 404);
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = say(port, huge.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = say(port, b"\x16\x03\x01 no HTTP at all\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");

    // Those who say nothing take every place; the next one is closed, and so are they after a while.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let answer = say(port, b"").await;
    assert!(answer.is_empty(), "{answer}");
    for mut socket in silent {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await;
        read.expect("a silent client is left").unwrap();
    }
    assert_eq!(get(&changeover, "/healthz").await.0, 200);
    let mut conn = changeover.app(None).await;
    assert_eq!(conn.query_first("SELECT 1").await.unwrap(), Some(1));
}
