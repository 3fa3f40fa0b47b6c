//! Every pair of servers that makes sense: a migration under writers that come through the proxy, a comparison by what
//! the servers themselves print, a cutover beside sessions that hold all they can, and the writers' own books. Where there
//! is a way back it is gone, and forth again.

#[path = "matrix/holders.rs"]
mod holders;
#[path = "matrix/tables.rs"]
mod tables;
#[path = "matrix/writers.rs"]
mod writers;

use crate::support::changeover::{Record, Settings, check};
use crate::support::{Changeover, Engine, Server, accounts};

use self::holders::{HOLDERS, Holders};
use self::tables::SCHEMA;
use self::writers::Writers;

/// Connections that write while everything happens.
const WRITERS: u32 = 6;

async fn pair(from: Engine, to: Engine) -> Option<(Server, Server)> {
    // An index of 255 characters of utf8mb4 is too long for a 5.6 as it comes.
    let flags = |engine| match engine {
        Engine::MySql56 => &["--max-allowed-packet=64M"][..],
        _ => &[],
    };
    let (source, target) = tokio::join!(Server::start(from, flags(from)), Server::start(to, flags(to)));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    tables::fill(&source, to).await;
    Some((source, target))
}

/// The sides that serve, one after the other.
const ONCE: &[&str] = &["target"];
const THERE_AND_BACK: &[&str] = &["target", "source", "target"];

async fn moves(from: Engine, to: Engine, turns: &[&str]) {
    let Some((source, target)) = pair(from, to).await else { return };
    let settings = Settings::between(&source, &target, SCHEMA);
    let (code, findings) = check(&settings);
    assert_eq!(code, 0, "{findings}");
    let changeover = Changeover::start(settings).await;
    let writers = Writers::start(changeover.port(), WRITERS).await;
    writers.wait_more(30).await;
    let before = changeover.admin("SHOW CONVERSIONS").await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;

    // Invariant 4, as the servers print it: nobody writes for a moment, and every value is compared.
    writers.rest().await;
    changeover.wait_applied(&source).await;
    let rows = tables::assert_equal(&source, &target).await;
    assert!(rows > 1_500, "only {rows} rows were compared");
    assert_eq!(
        changeover.admin("SHOW CONVERSIONS").await,
        before,
        "what was shown before the start is what was done"
    );
    let has = |kind: &str| before.iter().any(|row| row["kind"] == kind);
    for kind in tables::conversions(from, to) {
        assert!(has(kind), "no {kind} among {before:?}");
    }
    let of_engine = |row: &Record| row["kind"] == "engine" || row["kind"] == "option";
    assert!(from != to || before.iter().all(of_engine), "{before:?}");
    writers.go_on();

    writers.wait_more(30).await;
    let mut holders = Holders::open(changeover.port(), (from, to)).await;
    let mut pauses = Vec::new();
    for side in turns {
        pauses.push(turn(&changeover, to).await);
        writers.wait_more(40).await;
        holders.check((from, to)).await;
        let moved = changeover.wait_all_on(side).await;
        assert_eq!(moved, (WRITERS + HOLDERS) as usize);
        let status = changeover.status().await;
        assert_eq!((status["route"].as_str(), status["differences"].as_str()), (*side, "0"), "{status:?}");
        if to == Engine::Seekdb {
            break;
        }
        writers.rest().await;
        changeover.wait_applied(if *side == "target" { &target } else { &source }).await;
        tables::assert_equal(&source, &target).await;
        writers.go_on();
    }
    holders.close().await;
    let books = writers.close().await;
    books.assert_holds_on(&target).await;
    if to != Engine::Seekdb {
        changeover.wait_applied(&target).await;
        books.assert_holds_on(&source).await;
    }
    println!(
        "{from:?} to {to:?}: {rows} rows compared, {} conversions, paused {} ms",
        before.len(),
        pauses.join(", ")
    );
}

/// Moves the application. Returns the pause in ms.
async fn turn(changeover: &Changeover, to: Engine) -> String {
    if to != Engine::Seekdb {
        return changeover.turn().await;
    }
    // Nothing can be followed from there, so it has to be asked for in words.
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("no binary log") && refused.contains("WITHOUT ROLLBACK"), "{refused}");
    changeover.cut_over_by("CUTOVER WITHOUT ROLLBACK").await["pause_ms"].clone()
}

macro_rules! pairs {
    ($($name:ident: $from:ident to $to:ident, $turns:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            moves(Engine::$from, Engine::$to, $turns).await;
        }
    )*};
}

pairs! {
    mariadb_to_mariadb: MariaDb to MariaDb, THERE_AND_BACK;
    mysql97_to_mysql97: MySql97 to MySql97, THERE_AND_BACK;
    mysql56_to_mysql97: MySql56 to MySql97, THERE_AND_BACK;
    mysql56_to_mariadb: MySql56 to MariaDb, THERE_AND_BACK;
    mysql56_to_mysql56: MySql56 to MySql56, THERE_AND_BACK;
    mysql56_to_seekdb: MySql56 to Seekdb, ONCE;
    mysql97_to_seekdb: MySql97 to Seekdb, ONCE;
    mariadb_to_seekdb: MariaDb to Seekdb, ONCE;
    mysql97_to_mariadb: MySql97 to MariaDb, THERE_AND_BACK;
    mysql97_to_mysql56: MySql97 to MySql56, THERE_AND_BACK;
    mariadb_to_mysql97: MariaDb to MySql97, THERE_AND_BACK;
    mariadb_to_mysql56: MariaDb to MySql56, THERE_AND_BACK;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_lost_needs_a_yes() {
    let Some((source, target)) = pair(Engine::MariaDb, Engine::MySql56).await else { return };
    let create =
        format!("CREATE TABLE {SCHEMA}.guarded (id INT PRIMARY KEY, a INT, CONSTRAINT c CHECK (a > 0))");
    source.run(&[&create]).await;
    let settings = Settings::between(&source, &target, SCHEMA);
    let (code, findings) = check(&settings);
    assert!(code == 1 && findings.contains("allow_lossy") && findings.contains("guarded"), "{findings}");
    let changeover = Changeover::start(settings.clone()).await;
    let refused = changeover.try_admin("START MIGRATION").await.expect_err("nobody said yes");
    assert!(refused.contains("guarded"), "{refused}");
    let lossy = changeover.admin("SHOW CONVERSIONS").await;
    assert!(lossy.iter().any(|row| row["object"] == "guarded.c" && row["lossy"] == "1"), "{lossy:?}");
    drop(changeover);

    let yes = settings.with("migration.allow_lossy", &format!("[\"{SCHEMA}.guarded\"]"));
    assert_eq!(check(&yes).0, 0);
    let changeover = Changeover::start(yes).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    source.run(&[&format!("INSERT INTO {SCHEMA}.guarded VALUES (1, 1)")]).await;
    changeover.wait_applied(&source).await;
    assert_eq!(target.value::<i64>(&format!("SELECT COUNT(*) FROM {SCHEMA}.guarded")).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_way_from_oceanbase() {
    let Some(source) = Server::start(Engine::Seekdb, &[]).await else { return };
    let Some(target) = Server::start(Engine::MariaDb, &[]).await else { return };
    for server in [&source, &target] {
        accounts::create(server, SCHEMA).await;
    }
    let (code, findings) = check(&Settings::between(&source, &target, SCHEMA));
    assert!(code == 1 && findings.contains("no binary log"), "{findings}");
}
