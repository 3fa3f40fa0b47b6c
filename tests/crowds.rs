//! Many clients at once: they are served, they may all leave in the same moment, and those who only take up places
//! don't keep others out for longer than a login may last. CHANGEOVER_LONG=1: as many as the system lets in, up to 10,000.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use crate::robustness::is_long;
use crate::support::leaks::nothing_is_left;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, accounts};

/// What Changeover has open besides two files a client.
const OTHER_FILES: u64 = 250;

/// Raises this process's own limit; returns how many clients fit into one of Changeover's.
fn room() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    (hard.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES) / 2) as usize
}

/// Everybody logs in, everybody asks at the same time, everybody leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served() {
    let many = room().min(if is_long() { 10_000 } else { 2_000 });
    let flags = [
        &format!("--max-connections={}", many + 200),
        "--thread-handling=pool-of-threads",
        "--thread-pool-max-threads=64",
        "--back-log=2000",
    ];
    let Some(pair) = Pair::start_with(Engine::MariaDb, 10, &flags).await else { return };
    let settings = pair.settings().with("proxy.max_connections", &many.to_string());
    let changeover = Changeover::start(settings).await;
    changeover.app(None).await.disconnect().await.unwrap();
    nothing_is_left(&pair.source, &changeover, 0, usize::MAX).await;
    let (files, before) = (changeover.open_files().len(), changeover.resident_bytes());
    let (began, logins) = (Instant::now(), Arc::new(Semaphore::new(32)));
    let (inside, asked) = (Arc::new(Barrier::new(many + 1)), Arc::new(Barrier::new(many + 1)));
    let mut clients = JoinSet::new();
    for number in 0..many {
        let (inside, asked, logins) = (Arc::clone(&inside), Arc::clone(&asked), Arc::clone(&logins));
        let opts = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None);
        clients.spawn(async move {
            let place = logins.acquire().await.unwrap();
            let mut conn = Conn::new(opts).await.unwrap();
            drop(place);
            inside.wait().await;
            let answer: Option<usize> = conn.query_first(format!("SELECT {number}")).await.unwrap();
            assert_eq!(answer, Some(number));
            asked.wait().await;
            number
        });
    }
    // A client that failed would leave the others waiting for it.
    let all = async |barrier: &Barrier, clients: &mut JoinSet<usize>| {
        tokio::select! {
            _ = barrier.wait() => {}
            Some(ended) = clients.join_next() => panic!("a client ended early: {ended:?}"),
        }
    };
    all(&inside, &mut clients).await;
    println!("{many} logins: {:?}", began.elapsed());
    assert_eq!(changeover.status_of("sessions").await, many.to_string());
    let one_more = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None);
    let refused = Conn::new(one_more).await.unwrap_err().to_string();
    assert!(refused.contains("1040"), "{refused}");
    let began = Instant::now();
    all(&asked, &mut clients).await;
    let grown = changeover.resident_bytes().saturating_sub(before);
    println!("{many} statements: {:?}; {} bytes a client", began.elapsed(), grown / many as u64);
    let began = Instant::now();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    nothing_is_left(&pair.source, &changeover, 0, files).await;
    println!("all gone: {:?}", began.elapsed());
    changeover.app(None).await.ping().await.unwrap();
}

/// Whoever connects and says nothing takes a place only for as long as a login may last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_crowd_gives_its_places_back() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = Changeover::start(pair.settings().with("proxy.max_connections", "300")).await;
    let mut inside = changeover.app(Some("shop")).await;
    let files = changeover.open_files().len();
    let mut silent = Vec::new();
    for _ in 0..299 {
        silent.push(TcpStream::connect(("127.0.0.1", changeover.port())).await.unwrap());
    }
    let login = || Conn::new(opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some("shop")));
    until("a full house", Duration::from_secs(10), async || match login().await {
        Err(error) if error.to_string().contains("1040") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    inside.ping().await.unwrap();
    // The limit of a login is 20 s; on a busy machine the wait for it may be longer.
    until("a place for somebody who speaks", Duration::from_secs(40), async || {
        login().await.map_err(|error| error.to_string())
    })
    .await
    .disconnect()
    .await
    .unwrap();
    inside.ping().await.unwrap();
    nothing_is_left(&pair.source, &changeover, 1, files).await;
    drop(silent);
}

/// The soft limit that a process begins with isn't what the number of clients ends at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files_are_allowed() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = Changeover::start(pair.settings().with("proxy.max_connections", "1000000")).await;
    let limits = changeover.proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "soft and hard");
    let events = format!("{:?}", changeover.admin("SHOW EVENTS").await);
    assert!(events.contains("proxy.max_connections = 1000000") && events.contains("set it to"), "{events}");
}
