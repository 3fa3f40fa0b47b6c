//! Changeover is killed at every place at which something is made to last (`config::failpoint::PLACES`), one after the other in
//! one migration, started again each time, and goes on: nothing is lost and nothing is doubled (invariant 1), and one side
//! takes writes, the one that the journal names (invariant 2). A place that isn't reached fails the test.
//!
//! Three walks share the places, so that each is reached once; with CHANGEOVER_LONG=1 each walk dies at all that it comes to,
//! in both directions.

mod acts;
mod turns;

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::acts::{ADOPTION, Act, Walk, due};
use crate::file_and_offset::GTIDS_OFF;
use crate::support::changeover::Settings;
use crate::support::hop::{Break, Fault, Hop, Way};
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 6;
/// Within this time, on a quiet machine, a place is reached.
const LIMIT: Duration = Duration::from_secs(60);

/// Of everything that moves: a table without a key, a trigger, an event, a view, an account.
const OBJECTS: &[&str] = &[
    "USE shop",
    "CREATE TABLE keyless (n INT NOT NULL)",
    "INSERT INTO keyless VALUES (1), (1), (2)",
    "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(60))",
    "CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, note INT NOT NULL)",
    "CREATE TABLE ticks (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) NOT NULL)",
    "CREATE DEFINER = 'app'@'%' TRIGGER noted AFTER INSERT ON notes FOR EACH ROW INSERT INTO audit (note) VALUES (NEW.id)",
    "CREATE DEFINER = 'app'@'%' VIEW twos AS SELECT n FROM keyless WHERE n = 2",
    "CREATE USER shopper@'%' IDENTIFIED BY 'shopper-Secret_4'",
    "GRANT SELECT ON shop.* TO shopper@'%'",
];
/// More than fits into one chunk and one segment of the spool.
const LUMPS: &str = "INSERT INTO shop.lumps (body) SELECT REPEAT('lump', 250000) FROM shop.bulk LIMIT 72";

/// What a server lets happen until its next restart.
async fn act_on_their_own(server: &Server) {
    server.run(&["SET GLOBAL log_bin_trust_function_creators = 1", "SET GLOBAL event_scheduler = ON"]).await;
}

/// A migration on its way, and what its walk is to die at.
struct Story {
    walk: Walk,
    pair: Pair,
    changeover: Changeover,
    /// Where the copy has its chunks on disk.
    _stage: Option<TempDir>,
    /// Deaths so far.
    died: usize,
    began: Instant,
}

impl Story {
    async fn begin(walk: Walk) -> Option<Self> {
        let began = Instant::now();
        let (engine, flags) = match walk {
            Walk::MariaDb => (Engine::MariaDb, &[][..]),
            Walk::MySql => (Engine::MySql97, &[][..]),
            Walk::Offsets => (Engine::MySql97, GTIDS_OFF),
        };
        let pair = Pair::start_with(engine, 15_000, flags).await?;
        for server in [&pair.source, &pair.target] {
            let more = if engine == Engine::MariaDb { ", DELETE HISTORY" } else { "" };
            server
                .run(&[
                    &format!("GRANT CREATE USER, CREATE TEMPORARY TABLES{more} ON *.* TO changeover@'%' WITH GRANT OPTION"),
                ])
                .await;
            act_on_their_own(server).await;
        }
        if walk == Walk::Offsets {
            pair.target.run(&["SET GLOBAL event_scheduler = OFF"]).await;
        }
        pair.source.run(OBJECTS).await;
        // A lock of its definer's account doesn't keep an event from running.
        let does = if walk == Walk::MySql {
            "SET @ticked = 1"
        } else {
            "INSERT INTO shop.ticks (at) VALUES (NOW(6))"
        };
        let event =
            format!("CREATE DEFINER = 'app'@'%' EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO {does}");
        pair.source.run(&[&event]).await;
        let mut settings = pair
            .settings()
            .with("snapshot.chunk_rows", "1000")
            .with("migration.accounts", "true")
            .with("migration.exclude_tables", "[\"shop.in_the_way\"]");
        if walk == Walk::MySql {
            settings.set("cutover.fence", "\"accounts\"");
        }
        let stage = (walk == Walk::Offsets).then(|| tempfile::tempdir().unwrap());
        if let Some(stage) = &stage {
            settings.set("snapshot.stage_dir", &format!("\"{}\"", stage.path().display()));
        }
        if walk == Walk::MariaDb {
            settings.set("cutover.open_transactions", "\"kill\"");
            pair.source
                .run(&["CREATE TABLE shop.lumps (id INT AUTO_INCREMENT PRIMARY KEY, body LONGTEXT)", LUMPS])
                .await;
        }
        Some(Self {
            walk,
            pair,
            changeover: Changeover::not_started(settings),
            _stage: stage,
            died: 0,
            began,
        })
    }

    /// Starts it so that it dies at `place`, asks until it has, and says whether it answered before.
    async fn die_at(&mut self, place: &str, ask: impl AsyncFn(&Changeover)) {
        self.changeover.start_to_die(place).await;
        self.die(place, ask).await;
    }

    /// The same once it is started.
    async fn die(&mut self, place: &str, ask: impl AsyncFn(&Changeover)) {
        let ended = until(&format!("{:?} to die at {place}", self.walk), LIMIT, async || {
            let status = self.changeover.try_admin("SHOW MIGRATION STATUS").await;
            ask(&self.changeover).await;
            self.changeover.ended().ok_or_else(|| format!("{status:?}"))
        })
        .await;
        assert_eq!(ended.signal(), Some(6), "{:?}: it ended before {place}: {ended:?}", self.walk);
        self.died += 1;
        println!("{:?}, {:.1?}: died at {place}", self.walk, self.began.elapsed());
    }

    /// Dies at everything that is due in an act, whatever makes it come there.
    async fn act(&mut self, act: Act, ask: impl AsyncFn(&Changeover)) {
        for (_, group) in due(self.walk, act) {
            for place in group {
                self.die_at(place, &ask).await;
            }
        }
    }

    fn is_due(&self, act: Act) -> bool {
        !due(self.walk, act).is_empty()
    }
}

/// The tail's own acts, each behind what it takes.
impl Story {
    /// Runs these on the source while Changeover is away, so that it meets them when it is ready to die of them.
    async fn run_while_dead(&mut self, statements: &[&str]) {
        self.changeover.kill_9();
        self.pair.source.run(statements).await;
    }

    /// The first connection that fetches it breaks in its midst, which leaves half of it in the spool.
    async fn large(&mut self) {
        if !self.is_due(Act::Large) {
            return;
        }
        self.run_while_dead(&[LUMPS]).await;
        let source = |port| format!("\"mysql://{}@127.0.0.1:{port}\"", accounts::SERVICE);
        let hop = Hop::to(self.pair.source.port(), Some(accounts::SERVICE)).await;
        for _ in 0..100 {
            hop.arm(Fault { way: Way::Down, after: 20_000_000, what: Break::Close });
        }
        self.changeover.set("source.url", &source(hop.port()));
        for (_, group) in due(self.walk, Act::Large) {
            for place in group {
                self.die_at(place, async |_| {}).await;
                self.changeover.set("source.url", &source(self.pair.source.port()));
            }
        }
        self.run_while_dead(&["TRUNCATE TABLE shop.lumps"]).await;
    }

    /// Each death has a transaction of its own.
    async fn xa(&mut self) {
        for (number, group) in due(self.walk, Act::Xa) {
            let statements = [
                format!("XA START '{number}'"),
                format!("INSERT INTO shop.keyless VALUES ({number})"),
                format!("UPDATE shop.bulk SET k = k + 1 WHERE id = {number}"),
                format!("XA END '{number}'"),
                format!("XA PREPARE '{number}'"),
                format!("XA COMMIT '{number}'"),
            ];
            self.run_while_dead(&statements.each_ref().map(String::as_str)).await;
            for place in group {
                self.die_at(place, async |_| {}).await;
            }
        }
    }

    async fn pause(&mut self) {
        self.act(Act::Pause, async |changeover| {
            let status = changeover.try_admin("SHOW MIGRATION STATUS").await;
            let paused = status.is_ok_and(|rows| rows[0]["phase"] == "paused");
            let statement = if paused { "RESUME MIGRATION" } else { "PAUSE MIGRATION" };
            drop(changeover.try_admin(statement).await);
        })
        .await;
        self.changeover.start_again_plain().await;
        if self.changeover.status_of("phase").await == "paused" {
            self.changeover.admin("RESUME MIGRATION").await;
        }
    }

    /// The target has something of that name already.
    async fn stand(&mut self) {
        if !self.is_due(Act::Stand) {
            return;
        }
        const TAKEN: &str = "CREATE VIEW shop.taken AS SELECT 1 AS one";
        self.pair.target.run(&[TAKEN]).await;
        self.run_while_dead(&[TAKEN]).await;
        self.act(Act::Stand, async |_| {}).await;
        self.changeover.start_again_plain().await;
        assert_eq!(self.changeover.status_of("phase").await, "paused");
        self.pair.target.run(&["DROP VIEW shop.taken"]).await;
        self.changeover.admin("RESUME MIGRATION").await;
        self.changeover.wait_phase(&["following"]).await;
    }

    async fn fail(&mut self) {
        if !self.is_due(Act::Fail) {
            return;
        }
        self.changeover.kill_9();
        self.pair
            .target
            .run(&[
                "CREATE TABLE shop.in_the_way SELECT * FROM shop.bulk WHERE id = 9",
                "DELETE FROM shop.bulk WHERE id = 9",
            ])
            .await;
        self.run_while_dead(&["UPDATE shop.bulk SET k = -9 WHERE id = 9"]).await;
        self.act(Act::Fail, async |_| {}).await;
        self.changeover.start_again_plain().await;
        assert_eq!(self.changeover.status_of("phase").await, "failed");
        self.pair
            .target
            .run(&["INSERT INTO shop.bulk SELECT * FROM shop.in_the_way", "DROP TABLE shop.in_the_way"])
            .await;
        self.changeover.admin("RESUME MIGRATION").await;
        self.changeover.wait_phase(&["following"]).await;
    }

    async fn define(&mut self) {
        self.run_while_dead(&["ALTER TABLE shop.names ADD COLUMN extra INT NULL"]).await;
        self.act(Act::Define, async |_| {}).await;
        self.run_while_dead(&["CREATE TABLE shop.picked (id INT PRIMARY KEY) SELECT id, balance FROM shop.accounts WHERE id < 50"]).await;
        self.act(Act::CopyAnew, async |_| {}).await;
    }

    async fn repair(&mut self) {
        if !self.is_due(Act::Repair) {
            return;
        }
        self.changeover.kill_9();
        self.pair.target.run(&["UPDATE shop.bulk SET c = 'wrong' WHERE id BETWEEN 30 AND 60"]).await;
        let repair = async |changeover: &Changeover| {
            let rows = changeover.try_admin("SHOW DIFFERENCES").await.unwrap_or_default();
            if !rows.is_empty() {
                drop(changeover.try_admin("REPAIR").await);
            }
        };
        self.act(Act::Repair, repair).await;
        self.changeover.start_again_plain().await;
        self.changeover.wait_phase(&["following"]).await;
        until("no difference to be left", LIMIT, async || {
            repair(&self.changeover).await;
            let left = self.changeover.admin("SHOW DIFFERENCES").await;
            let verified = self
                .changeover
                .admin("SHOW MIGRATION TABLES")
                .await
                .iter()
                .all(|row| row["phase"] == "verified");
            if left.is_empty() && verified { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
}

/// Everything that moves is the same on both, and as the books say.
async fn prove(story: &mut Story, ledger: Ledger) {
    ledger.rest().await;
    let route = story.changeover.status_of("route").await;
    let (serving, other) = story.pair.sides(&route);
    serving.run(&["DROP EVENT shop.tick"]).await;
    let tables: Vec<String> = serving
        .rows("SELECT CONCAT('shop.', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE = 'BASE TABLE'")
        .await;
    let checksums = format!("CHECKSUM TABLE {}", tables.join(", "));
    // The contents themselves: both servers' logs may have the same names, and then a position may be of either.
    until("both servers to hold the same", LIMIT, async || {
        let phase = story.changeover.status().await;
        let here = serving.rows::<(String, Option<u64>)>(&checksums).await;
        let there = other.rows::<(String, Option<u64>)>(&checksums).await;
        let wrong: Vec<_> = here.iter().zip(&there).filter(|(here, there)| here != there).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}; {phase:?}")) }
    })
    .await;
    compare::assert_equal(serving, other, seed::SCHEMA).await;
    let proof = ledger.close().await;
    for server in [serving, other] {
        proof.assert_holds_on(server).await;
        let audit = "SELECT COUNT(*) = (SELECT COUNT(*) FROM shop.audit) AND COUNT(*) > 0 FROM shop.notes";
        assert_eq!(server.value::<i64>(audit).await, 1, "a trigger acted twice, or not at all");
    }
    let Story { walk, died, began, .. } = story;
    println!("{walk:?}, {:.1?}: {died} deaths, {} connections lost", began.elapsed(), proof.lost_connections);
}

async fn walk(walk: Walk) {
    let Some(mut story) = Story::begin(walk).await else { return };
    story.act(Act::FirstStart, async |_| {}).await;
    story.changeover.start_again_plain().await;
    let ledger = Ledger::start(story.changeover.port(), WRITERS).await;
    ledger.wait_more(20).await;
    ledger.expect_lost_connections();
    let start = async |changeover: &Changeover| drop(changeover.try_admin("START MIGRATION").await);
    story.act(Act::Start, start).await;
    story.act(Act::Copy, start).await;
    story.act(Act::Tail, start).await;
    story.changeover.start_again_plain().await;
    drop(story.changeover.try_admin("START MIGRATION").await);
    story.changeover.wait_phase(&["following"]).await;
    story.large().await;
    story.xa().await;
    story.pause().await;
    story.stand().await;
    story.fail().await;
    story.define().await;
    story.repair().await;
    story.undo().await;
    story.late().await;
    story.turns(&ledger).await;
    story.come_to_the_end().await;
    prove(&mut story, ledger).await;
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_dies_everywhere() {
    walk(Walk::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_dies_everywhere() {
    walk(Walk::MySql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_without_gtids_dies_everywhere() {
    walk(Walk::Offsets).await;
}

/// An account whose password nobody has said is adopted once, whatever dies behind the statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_behind_an_adoption() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MariaDb, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, seed::SCHEMA).await;
    }
    target.run(&["GRANT CREATE USER ON *.* TO changeover@'%'"]).await;
    source.run(&["CREATE USER old@'%' IDENTIFIED BY 'first-Secret_5'"]).await;
    let changeover = Changeover::not_started(Settings::between(&source, &target, seed::SCHEMA));
    let pair = Pair { source, target };
    let mut story =
        Story { walk: Walk::MariaDb, pair, changeover, _stage: None, died: 0, began: Instant::now() };
    story
        .die_at(ADOPTION, async |changeover| drop(changeover.try_admin("ADOPT ACCOUNT 'old'@'%'").await))
        .await;
    story.changeover.start_again_plain().await;
    let plugin = "SELECT plugin FROM mysql.user WHERE User = 'old'";
    assert_eq!(story.pair.target.value::<String>(plugin).await, "caching_sha2_password");
    let row = story.changeover.admin("ADOPT ACCOUNT 'old'@'%'").await.remove(0);
    assert!(row["note"].contains("adopted"), "{row:?}");
}
