//! Either end of a session may vanish at any byte, be slow, or be a crowd: nothing leaks, nothing stays stuck, nobody
//! else notices, and no answer is shorter than it says. CHANGEOVER_LONG=1 runs them at their full size.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, Row, WhiteListFsHandler};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::support::changeover::Settings;
use crate::support::hop::{Break, Fault, Hop, Way};
use crate::support::leaks::nothing_is_left;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts};

const MIB: u64 = 1 << 20;

/// True where the full size is asked for.
pub fn is_long() -> bool {
    std::env::var_os("CHANGEOVER_LONG").is_some_and(|value| value == "1")
}

/// The application's options on a port, with a file that it may load.
fn app_opts(port: u16, file: &std::path::Path) -> Opts {
    OptsBuilder::from_opts(opts(port, accounts::APP, accounts::APP_PASSWORD, Some("shop")))
        .local_infile_handler(Some(WhiteListFsHandler::new([file])))
        .into()
}

/// Settings of a pair whose source is reached through `hop`.
fn through(pair: &Pair, hop: &Hop) -> Settings {
    let url = format!("\"mysql://{}@127.0.0.1:{}\"", accounts::SERVICE, hop.port());
    pair.settings().with("source.url", &url)
}

/// What a whole session says, step by step, up to its first error.
async fn session(opts: Opts, file: &std::path::Path, said: &mut Vec<String>) -> mysql_async::Result<()> {
    let mut conn = Conn::new(opts).await?;
    said.push("let in".to_owned());
    let rows: Vec<(String, i32)> =
        conn.query("SELECT name, n FROM names WHERE n BETWEEN 100 AND 105 ORDER BY n").await?;
    said.push(format!("{rows:?}"));
    let rows: Vec<(i32, i32)> =
        conn.exec("SELECT id, k FROM bulk WHERE id > ? ORDER BY id LIMIT 3", (20,)).await?;
    said.push(format!("{rows:?}"));
    let mut results = conn.query_iter("SELECT 1; DO 4; SELECT 2 UNION ALL SELECT 3").await?;
    while !results.is_empty() {
        let rows: Vec<Row> = results.collect().await?;
        said.push(format!("{rows:?}"));
    }
    drop(results);
    match conn.query_drop("SELECT broken").await {
        Err(mysql_async::Error::Server(error)) if error.code == 1054 => said.push(error.to_string()),
        other => other?,
    }
    conn.query_drop("CREATE TEMPORARY TABLE loaded (n INT)").await?;
    said.push("created".to_owned());
    conn.query_drop(format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE loaded", file.display())).await?;
    let sum: Option<(i64, i64)> = conn.query_first("SELECT COUNT(*), SUM(n) FROM loaded").await?;
    said.push(format!("{sum:?}"));
    conn.query_drop("BEGIN").await?;
    conn.query_drop("SELECT 1 FROM bulk LIMIT 1 FOR UPDATE SKIP LOCKED").await?;
    said.push("in a transaction".to_owned());
    let again = ChangeUserOpts::default()
        .with_user(Some(accounts::APP.to_owned()))
        .with_pass(Some(accounts::APP_PASSWORD.to_owned()))
        .with_db_name(Some("shop".to_owned()));
    conn.change_user(again).await?;
    said.push("changed".to_owned());
    conn.reset().await?;
    conn.ping().await?;
    let last: Option<String> = conn.query_first("SELECT 'the end'").await?;
    said.push(format!("{last:?}"));
    Ok(())
}

/// A session with all it says; one that hangs fails.
async fn run_session(opts: Opts, file: &std::path::Path) -> (Vec<String>, mysql_async::Result<()>) {
    let mut said = Vec::new();
    let ended = timeout(Duration::from_secs(60), session(opts, file, &mut said)).await;
    (said, ended.expect("a session hangs"))
}

/// One pair, one Changeover, a hop on each side of it, and a session that isn't to be disturbed.
struct Stage {
    pair: Pair,
    changeover: Changeover,
    backend: Hop,
    client: Hop,
    healthy: Mutex<Conn>,
    file: tempfile::NamedTempFile,
    files: usize,
}

impl Stage {
    async fn set(engine: Engine) -> Option<Self> {
        let pair = Pair::start(engine, 200).await?;
        pair.source.run(&["SET GLOBAL local_infile = ON"]).await;
        let backend = Hop::to(pair.source.port(), Some(accounts::APP)).await;
        let changeover = Changeover::start(through(&pair, &backend)).await;
        let client = Hop::to(changeover.port(), None).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1\n20\n300\n4000\n").unwrap();
        let healthy = Mutex::new(changeover.app(Some("shop")).await);
        // What is opened on first use and kept isn't there to be counted later.
        run_session(app_opts(client.port(), file.path()), file.path()).await.1.unwrap();
        nothing_is_left(&pair.source, &changeover, 1, usize::MAX).await;
        let files = changeover.open_files().len();
        Some(Self { pair, changeover, backend, client, healthy, file, files })
    }

    async fn session(&self) -> (Vec<String>, mysql_async::Result<()>) {
        run_session(app_opts(self.client.port(), self.file.path()), self.file.path()).await
    }

    async fn healthy_goes_on(&self) {
        let count: Option<i64> =
            self.healthy.lock().await.query_first("SELECT COUNT(*) FROM bulk").await.unwrap();
        assert_eq!(count, Some(200));
    }

    /// One session with a fault that was set; `wanted` is what an undisturbed one says.
    async fn broken_session(&self, fault: Fault, wanted: &[String]) {
        let (said, ended) = self.session().await;
        assert!(wanted.starts_with(&said), "{fault:?}: {said:?}, not {wanted:?}");
        assert!(ended.is_err() || said.len() == wanted.len(), "{fault:?}: it ends early, without an error");
        self.healthy_goes_on().await;
    }

    /// Breaks sessions at every `step`th byte on one of the hops, six at a time.
    async fn everywhere(&self, hop: &Hop, way: Way, step: usize, wanted: &[String]) {
        let line = hop.latest();
        let (whole, greeting) = (line.passed(way), line.greeting());
        let whats = [Break::Close, Break::Reset, Break::HalfClose];
        let fault = |after: u64| Fault { way, after, what: whats[after as usize % whats.len()] };
        let is_early = |after: &u64| way == Way::Down && *after <= greeting;
        let places = || (0..whole).step_by(step);
        println!("{way:?}: {} of {whole} places", places().count());
        for after in places().filter(is_early) {
            let hits = hop.hits();
            hop.arm_at_once(fault(after));
            self.broken_session(fault(after), wanted).await;
            assert!(hop.hits() > hits, "{after}: nothing broke");
        }
        hop.disarm();
        let later: Vec<u64> = places().filter(|after| !is_early(after)).collect();
        let (next, hits) = (AtomicUsize::new(0), hop.hits());
        let work = async || {
            while let Some(&after) = later.get(next.fetch_add(1, SeqCst)) {
                hop.arm(fault(after));
                self.broken_session(fault(after), wanted).await;
            }
        };
        tokio::join!(work(), work(), work(), work(), work(), work());
        assert_eq!(hop.hits() - hits, later.len(), "every fault happened");
        nothing_is_left(&self.pair.source, &self.changeover, 1, self.files).await;
    }
}

async fn either_end_may_vanish(engine: Engine, step: usize) {
    let Some(stage) = Stage::set(engine).await else { return };
    let (wanted, ended) = stage.session().await;
    ended.unwrap();
    assert_eq!(wanted.len(), 12, "{wanted:?}");
    let backend = stage.backend.latest();
    assert!(backend.passed(Way::Down) > 1000 && backend.greeting() > 50, "{backend:?}");
    for hop in [&stage.backend, &stage.client] {
        for way in [Way::Down, Way::Up] {
            // Its bytes are counted anew, because the latest one may have been broken.
            stage.session().await.1.unwrap();
            stage.everywhere(hop, way, step, &wanted).await;
        }
        // Byte by byte it all means the same.
        for way in [Way::Down, Way::Up] {
            hop.arm(Fault { way, after: 0, what: Break::Drip });
            let (said, ended) = stage.session().await;
            ended.unwrap();
            assert_eq!(said, wanted, "{way:?}, byte by byte");
        }
    }
    // No permit of the gate was lost on the way, so it drains; and whoever was there all the time moves along.
    stage.changeover.admin("START MIGRATION").await;
    stage.changeover.wait_ready().await;
    stage.changeover.cut_over().await;
    assert_eq!(stage.changeover.wait_all_moved().await, 1);
    stage.healthy_goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_end_may_vanish_on_mariadb() {
    either_end_may_vanish(Engine::MariaDb, if is_long() { 1 } else { 23 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_end_may_vanish_on_mysql97() {
    either_end_may_vanish(Engine::MySql97, if is_long() { 1 } else { 61 }).await;
}

/// Statements of the application on the source that hold a text.
async fn running(pair: &Pair, text: &str) -> usize {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'app' AND INFO LIKE '%{text}%'"
    );
    pair.source.value(&sql).await
}

async fn wait_running(pair: &Pair, text: &str, wanted: usize) {
    until(&format!("{wanted} statements with {text}"), Duration::from_secs(30), async || {
        let now = running(pair, text).await;
        if now == wanted { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// A reader that doesn't read holds the backend back, and the proxy's memory stays what it was. When it reads again it
/// gets every row; when it goes, so does its query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let backend = Hop::to(pair.source.port(), Some(accounts::APP)).await;
    let changeover = Changeover::start(through(&pair, &backend)).await;
    let rows = 200_000_u64;
    let sql = format!("SELECT REPEAT('x', 1000) AS slow FROM seq_1_to_{rows}");
    let mut hop = Hop::to(changeover.port(), None).await;
    let before = changeover.resident_bytes();
    for stays in [false, true] {
        hop.arm(Fault { way: Way::Down, after: MIB, what: Break::Stall });
        let reader = tokio::spawn({
            let (opts, sql) = (app_opts(hop.port(), std::path::Path::new("/")), sql.clone());
            async move {
                let mut conn = Conn::new(opts).await?;
                let (mut count, mut bytes) = (0, 0);
                conn.query_iter(sql)
                    .await?
                    .for_each(|row: Row| {
                        count += 1;
                        bytes += row.get::<Vec<u8>, _>(0).unwrap().len() as u64;
                    })
                    .await?;
                mysql_async::Result::Ok((count, bytes))
            }
        });
        wait_running(&pair, "AS slow", 1).await;
        let passed = AtomicU64::new(0);
        until("a backend that is held back", Duration::from_secs(30), async || {
            let now = backend.latest().passed(Way::Down);
            let is_still = now == passed.swap(now, SeqCst) && hop.hits() > 0;
            if now > MIB && is_still { Ok(()) } else { Err(format!("{now} bytes")) }
        })
        .await;
        let held = backend.latest().passed(Way::Down);
        assert!(held < 64 * MIB, "{held} bytes have left the backend, and nobody reads them");
        let grown = changeover.resident_bytes().saturating_sub(before);
        assert!(grown < 16 * MIB, "{grown} bytes more while a reader sleeps");
        if stays {
            hop.resume();
            assert_eq!(reader.await.unwrap().unwrap(), (rows, rows * 1000));
        } else {
            // Whoever goes with bytes unread resets the connection.
            drop(std::mem::replace(&mut hop, Hop::to(changeover.port(), None).await));
            reader.await.unwrap().unwrap_err();
        }
        wait_running(&pair, "AS slow", 0).await;
    }
    let grown = changeover.peak_bytes().saturating_sub(before);
    println!("peak: {} KiB more for {} MiB", grown / 1024, rows * 1000 / MIB);
    assert!(grown < 24 * MIB, "{grown} bytes more at the peak");
}

/// Whatever the backend is at for a client that is gone, it is told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_works_for_those_who_left() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = pair.changeover().await;
    let mut holder = changeover.app(Some("shop")).await;
    holder.query_drop("BEGIN").await.unwrap();
    holder.query_drop("UPDATE bulk SET k = 1 WHERE id = 3").await.unwrap();
    let cases = [
        ("it waits for a lock", "UPDATE bulk SET k = 2 WHERE id = 3 /* left */", false),
        ("it computes", "SELECT SLEEP(1000) /* left */", false),
        // More than the sockets hold: the proxy is writing to the client when that goes away.
        ("in the middle of a result", "SELECT REPEAT('x', 100000) FROM seq_1_to_10000 /* left */", true),
        (
            "after the rows of a part",
            "SELECT SQL_BUFFER_RESULT REPEAT('x', 1000000) FROM seq_1_to_{parts}; SELECT SLEEP(1000) /* left */",
            true,
        ),
    ];
    for (what, sql, stalls) in cases {
        for how in [Break::Close, Break::Reset] {
            println!("{what}, {how:?}");
            let (hop, client) = until_it_runs(&pair, &changeover, sql, stalls).await;
            if stalls {
                until("a stalled client", Duration::from_secs(20), async || {
                    if hop.hits() > 0 { Ok(()) } else { Err(String::new()) }
                })
                .await;
            }
            match how {
                Break::Close if !stalls => client.abort(),
                _ => drop(hop),
            }
            wait_running(&pair, "left */", 0).await;
        }
    }
    holder.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(pair.source.value::<i64>("SELECT COUNT(*) FROM shop.bulk WHERE k = 2").await, 0);
}

/// A client whose last statement runs on the server. How much of the rows before it the sockets on the way hold is the
/// system's affair: as many as let that statement begin.
async fn until_it_runs(
    pair: &Pair,
    changeover: &Changeover,
    sql: &str,
    stalls: bool,
) -> (Hop, tokio::task::JoinHandle<mysql_async::Result<usize>>) {
    for parts in (1..=9).rev() {
        let hop = Hop::to(changeover.port(), None).await;
        if stalls {
            hop.arm(Fault { way: Way::Down, after: 100_000, what: Break::Stall });
        }
        let opts = app_opts(hop.port(), std::path::Path::new("/"));
        let text = sql.replace("{parts}", &parts.to_string());
        let client =
            tokio::spawn(
                async move { Conn::new(opts).await?.query::<Row, _>(text).await.map(|rows| rows.len()) },
            );
        if !sql.contains("{parts}") {
            wait_running(pair, "left */", 1).await;
            return (hop, client);
        }
        let begins = wait_running(pair, "left */", 1);
        if tokio::time::timeout(Duration::from_secs(10), begins).await.is_ok() {
            return (hop, client);
        }
    }
    panic!("the last statement never begins: {sql}");
}

/// A client that goes away in the middle of its file: what came of it isn't kept as if it were all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_file_is_no_file() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = pair.changeover().await;
    pair.source.run(&["SET GLOBAL local_infile = ON"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let rows: String = (0..200_000).map(|n| format!("{n}\t{n}\n")).collect();
    std::fs::write(file.path(), &rows).unwrap();
    for what in [Break::Close, Break::Reset, Break::HalfClose] {
        let hop = Hop::to(changeover.port(), None).await;
        hop.arm(Fault { way: Way::Up, after: rows.len() as u64 / 2, what });
        let mut conn = Conn::new(app_opts(hop.port(), file.path())).await.unwrap();
        let load =
            format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE nothing /* half */", file.path().display());
        conn.query_drop(load).await.unwrap_err();
        assert_eq!(hop.hits(), 1);
        wait_running(&pair, "half */", 0).await;
        let kept: i64 = pair.source.value("SELECT COUNT(*) FROM shop.nothing").await;
        assert_eq!(kept, 0, "{what:?}");
    }
}

/// Neither a large result nor a large packet, in either direction, takes memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_things_pass_through() {
    let flags = ["--max-allowed-packet=256M"];
    let Some(pair) = Pair::start_with(Engine::MariaDb, 10, &flags).await else { return };
    let changeover = pair.changeover().await;
    let wide =
        OptsBuilder::from_opts(opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some("shop")))
            .max_allowed_packet(Some(256 << 20));
    let mut conn = Conn::new(wide).await.unwrap();
    conn.ping().await.unwrap();
    let before = changeover.peak_bytes();
    let rows = if is_long() { 1024 } else { 200 };
    let (mut count, mut bytes) = (0, 0);
    conn.query_iter(format!("SELECT REPEAT('y', {MIB}) FROM seq_1_to_{rows}"))
        .await
        .unwrap()
        .for_each(|row: Row| {
            count += 1;
            bytes += row.get::<Vec<u8>, _>(0).unwrap().len() as u64;
        })
        .await
        .unwrap();
    assert_eq!((count, bytes), (rows, rows * MIB));
    let after_result = changeover.peak_bytes() - before;
    let value = vec![b'z'; 64 << 20];
    let (length, back): (u64, Vec<u8>) =
        conn.exec_first("SELECT LENGTH(?), ?", (&value, &value)).await.unwrap().unwrap();
    assert_eq!(length, 64 * MIB);
    assert!(back == value);
    let text = [b"SELECT LENGTH('".as_slice(), &value, b"')"].concat();
    let length: Option<u64> = conn.query_first(String::from_utf8(text).unwrap()).await.unwrap();
    assert_eq!(length, Some(64 * MIB));
    let grown = changeover.peak_bytes() - before;
    println!("{rows} MiB of rows: {} KiB; with 64 MiB packets: {} KiB", after_result / 1024, grown / 1024);
    assert!(after_result < 8 * MIB, "{after_result} bytes more at the peak of the result");
    assert!(grown < 24 * MIB, "{grown} bytes more at the peak");
}

/// A peer that vanishes without a word is asked after: every idle socket of a session has its keepalive timer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_are_asked_after() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = pair.changeover().await;
    let _conn = changeover.app(None).await;
    let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    until("a keepalive timer on both legs", Duration::from_secs(20), async || {
        let own = changeover.open_files();
        let table = changeover.proc("net/tcp");
        let established = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let legs: Vec<(bool, bool)> = established
            .filter(|words| words[3] == "01" && own.contains(&format!("socket:[{}]", words[9])))
            .filter_map(|words| {
                let asked = words[5].starts_with("02:");
                match (port_of(words[1]), port_of(words[2])) {
                    (near, _) if near == changeover.port() => Some((true, asked)),
                    (_, far) if far == pair.source.port() => Some((false, asked)),
                    _ => None,
                }
            })
            .collect();
        let both = [true, false].iter().all(|leg| legs.iter().any(|(of, _)| of == leg));
        if both && legs.iter().all(|(_, asked)| *asked) { Ok(()) } else { Err(format!("{legs:?}")) }
    })
    .await;
}
