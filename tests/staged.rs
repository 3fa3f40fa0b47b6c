//! `snapshot.stage_dir`: chunks lie on disk between source and target. What is staged is loaded without the source, what isn't whole never is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::support::changeover::{Settings, check};
use crate::support::ledger::Fate;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, replica, seed};

/// `migration.name`, and so the folder in stage_dir.
const NAME: &str = "migration";
const BULK: u32 = 30_000;
const LIMIT: Duration = Duration::from_secs(60);
/// More than fits into one part: a table of rows of a megabyte.
const LUMPS: [&str; 3] = [
    "USE shop",
    "CREATE TABLE shop.lumps (id INT AUTO_INCREMENT PRIMARY KEY, body LONGTEXT)",
    "INSERT INTO shop.lumps (body) SELECT REPEAT(SHA2(id, 224), 18000) FROM shop.bulk LIMIT 72",
];

fn staging(pair: &Pair, dir: &Path) -> Settings {
    pair.settings().with("snapshot.stage_dir", &format!("\"{}\"", dir.display()))
}

/// The files of staged rows.
fn parts(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join(NAME)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut parts: Vec<_> = paths.filter(|path| path.extension().is_some_and(|of| of == "rows")).collect();
    parts.sort();
    parts
}

/// Rows of all tables of the source.
async fn rows_of(source: &Server) -> u64 {
    let tables: Vec<String> = source
        .rows("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE = 'BASE TABLE'")
        .await;
    let mut rows = 0;
    for table in tables {
        rows += source.value::<u64>(&format!("SELECT COUNT(*) FROM shop.{table}")).await;
    }
    rows
}

/// A migration that is started and comes no further than to where its tables are made.
struct Held {
    changeover: Changeover,
    reached: PathBuf,
}

impl Held {
    async fn start(settings: Settings, dir: &Path) -> Self {
        let hold = dir.join("hold");
        fs::write(&hold, "migration.prepared").unwrap();
        // Indexes that are taken off would wait for the target too.
        let settings = settings.with("snapshot.late_indexes", "false");
        let environment = [("CHANGEOVER_HOLD", hold.to_str().unwrap())];
        let changeover = Changeover::start_with(settings, &environment).await;
        changeover.admin("START MIGRATION").await;
        Self { changeover, reached: hold.with_extension("reached") }
    }

    /// Lets it go on before a target that takes no row: its tables are locked by the session that comes back.
    async fn before_a_target_that_stands(self, target: &Server) -> (Changeover, Conn) {
        let Self { changeover, reached } = self;
        until(
            "the tables to be there",
            LIMIT,
            async || {
                if reached.exists() { Ok(()) } else { Err(changeover.log()) }
            },
        )
        .await;
        let mut locker = target.root().await;
        let tables: Vec<String> = locker
            .query("SELECT CONCAT('shop.', TABLE_NAME, ' WRITE') FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop'")
            .await
            .unwrap();
        locker.query_drop(format!("LOCK TABLES {}", tables.join(", "))).await.unwrap();
        fs::remove_file(&reached).unwrap();
        (changeover, locker)
    }
}

/// Returns when so many rows are staged and none is loaded.
async fn wait_staged(changeover: &Changeover, rows: u64) {
    until("all rows to be staged", LIMIT, async || {
        let status = changeover.status().await;
        assert_eq!(status["rows_copied"], "0", "the target stands");
        if status["staged_rows"] == rows.to_string() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn goes_over(engine: Engine, flags: &[&str]) {
    let Some(pair) = Pair::start_with(engine, BULK, flags).await else { return };
    pair.source.run(&LUMPS).await;
    let dir = tempfile::tempdir().unwrap();
    let changeover = Changeover::start(staging(&pair, dir.path())).await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    ledger.wait_more(20).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    assert!(!dir.path().join(NAME).exists(), "nothing is left");
    let status = changeover.status().await;
    assert_eq!((status["staged_rows"].as_str(), status["staged_bytes"].as_str()), ("0", "0"));
    changeover.cut_over().await;
    ledger.wait_more(50).await;
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.target).await;
    compare::assert_equal(&pair.target, &pair.source, seed::SCHEMA).await;
    proof.assert_holds_on(&pair.target).await;
    assert_eq!((proof.count(Fate::Unknown), proof.lost_connections), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_over_files() {
    goes_over(Engine::MariaDb, &[]).await;
}

/// Rows travel as literals of INSERTs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_goes_over_files_of_literals() {
    goes_over(Engine::MySql97, &["--local-infile=OFF"]).await;
}

/// The source of the copy is dead by then, and Changeover was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_staged_is_loaded_without_the_source() {
    let Some(pair) = Pair::start(Engine::MariaDb, BULK).await else { return };
    let Some(mut third) = Server::start(Engine::MariaDb, &[]).await else { return };
    pair.source.run(&["GRANT SLAVE MONITOR ON *.* TO changeover@'%'"]).await;
    pair.source.run(&LUMPS).await;
    replica::follow(&pair.source, &third).await;
    replica::catch_up(&pair.source, &third).await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("\"mysql://{}@127.0.0.1:{}\"", accounts::SERVICE, third.port());
    let settings = staging(&pair, dir.path()).with("source.replica_url", &url);
    let (mut changeover, locker) =
        Held::start(settings, dir.path()).await.before_a_target_that_stands(&pair.target).await;
    wait_staged(&changeover, rows_of(&pair.source).await).await;
    pair.source
        .run(&["UPDATE shop.bulk SET k = k + 1 WHERE id < 3000", "DELETE FROM shop.lumps LIMIT 3"])
        .await;
    changeover.kill_9();
    third.kill_9();
    locker.disconnect().await.unwrap();
    let (staged, mode) = (parts(dir.path()).len(), fs::metadata(dir.path().join(NAME)).unwrap());
    assert!(staged > 2, "{staged} files");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o700);
    changeover.start_again_plain().await;
    changeover.wait_ready().await;
    let log = changeover.log();
    assert!(log.contains("staged files of the run before are loaded as they are"), "{log}");
    assert!(!log.contains("isn't loaded"), "{log}");
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
}

/// A file that has changed on disk, one that is cut off, one that is gone, and some that are somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_read_again_and_never_loaded() {
    let Some(pair) = Pair::start(Engine::MariaDb, BULK).await else { return };
    pair.source.run(&LUMPS).await;
    let dir = tempfile::tempdir().unwrap();
    let settings = staging(&pair, dir.path()).with("snapshot.chunk_rows", "1000");
    let (mut changeover, locker) =
        Held::start(settings, dir.path()).await.before_a_target_that_stands(&pair.target).await;
    wait_staged(&changeover, rows_of(&pair.source).await).await;
    changeover.kill_9();
    locker.disconnect().await.unwrap();
    let staged = parts(dir.path());
    let by_size = |path: &&PathBuf| fs::metadata(path).unwrap().len();
    // In its midst, where only its checksums know.
    let largest = staged.iter().max_by_key(by_size).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(largest, bytes).unwrap();
    let [cut, gone] = [7, 11].map(|at| staged.iter().filter(|path| *path != largest).nth(at).unwrap());
    let whole = fs::metadata(cut).unwrap().len();
    fs::File::options().write(true).open(cut).unwrap().set_len(whole - 1).unwrap();
    fs::remove_file(gone).unwrap();
    let foreign = dir.path().join(NAME).join("notes.txt");
    fs::write(&foreign, "not a part").unwrap();
    let not_a_part = dir.path().join(NAME).join("000000999999.rows");
    fs::write(&not_a_part, "not one either").unwrap();
    changeover.start_again_plain().await;
    changeover.wait_ready().await;
    let log = changeover.log();
    for file in [largest, cut, &not_a_part] {
        assert!(log.contains(&format!("{} isn't loaded", file.display())), "{}\n{log}", file.display());
    }
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    assert!(foreign.exists() && parts(dir.path()).is_empty());
}

/// Of a table that is altered meanwhile what is staged is loaded as it was, and what isn't read yet is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_changes_while_it_is_staged() {
    let Some(pair) = Pair::start(Engine::MariaDb, BULK).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let settings = staging(&pair, dir.path())
        .with("snapshot.chunk_rows", "1000")
        .with("snapshot.max_rows_per_s", "8000");
    let (changeover, locker) =
        Held::start(settings, dir.path()).await.before_a_target_that_stands(&pair.target).await;
    until("some rows to be staged", LIMIT, async || {
        let staged: u64 = changeover.status_of("staged_rows").await.parse().unwrap();
        if staged > 5000 { Ok(()) } else { Err(staged.to_string()) }
    })
    .await;
    pair.source
        .run(&[
            "ALTER TABLE shop.bulk DROP COLUMN pad, ADD COLUMN more INT NOT NULL DEFAULT 7 AFTER k",
            "UPDATE shop.bulk SET more = id WHERE id < 900",
        ])
        .await;
    until("the rest to be given up", LIMIT, async || {
        let log = changeover.log();
        if log.contains("it is copied anew later") { Ok(()) } else { Err(log) }
    })
    .await;
    locker.disconnect().await.unwrap();
    changeover.wait_ready().await;
    changeover.wait_applied(&pair.source).await;
    compare::assert_equal(&pair.source, &pair.target, seed::SCHEMA).await;
    assert!(parts(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_is_refused_pauses_and_is_forgotten() {
    let Some(pair) = Pair::start(Engine::MariaDb, 5_000).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, said) = check(&staging(&pair, &file));
    assert!(code == 1 && said.contains("snapshot.stage_dir") && said.contains("can't be made"), "{said}");
    let (code, said) = check(&pair.settings().with("snapshot.stage_max_gb", "7"));
    assert!(code == 2 && said.contains("name that too"), "{said}");
    // Something is in its place that the check didn't look at.
    let stage = dir.path().join("stage");
    fs::create_dir(&stage).unwrap();
    fs::write(stage.join(NAME), "").unwrap();
    let held = Held::start(staging(&pair, &stage), dir.path()).await;
    held.changeover.wait_phase(&["paused"]).await;
    let said = held.changeover.status_of("last_error").await;
    assert!(said.contains("can't make the folder") && said.contains("RESUME MIGRATION"), "{said}");
    fs::remove_file(stage.join(NAME)).unwrap();
    held.changeover.admin("RESUME MIGRATION").await;
    let (changeover, locker) = held.before_a_target_that_stands(&pair.target).await;
    wait_staged(&changeover, rows_of(&pair.source).await).await;
    assert!(!parts(&stage).is_empty());
    // What an abandoned migration has staged is of no use to anybody.
    changeover.admin("ABANDON MIGRATION").await;
    assert!(!stage.join(NAME).exists());
    locker.disconnect().await.unwrap();
}
