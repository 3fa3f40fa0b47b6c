//! Triggers and events act on the side that serves and on no other, through cutovers, rollbacks, failures and kills.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::changeover::{Record, Settings, check};
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair, Server, accounts, compare, seed};

/// `second` was made before `first`, which precedes it; `texts` was made in a session of its own.
const OBJECTS: &[&str] = &[
    "USE shop",
    "SET NAMES utf8mb4",
    "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(60) CHARACTER SET utf8mb4)",
    "CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, note INT NOT NULL, verb VARCHAR(60) CHARACTER SET utf8mb4)",
    "CREATE TABLE ticks (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) NOT NULL)",
    "CREATE DEFINER = 'app'@'%' TRIGGER second AFTER INSERT ON notes FOR EACH ROW \
     INSERT INTO audit (note, verb) VALUES (NEW.id, 'second')",
    "CREATE DEFINER = 'app'@'%' TRIGGER first AFTER INSERT ON notes FOR EACH ROW PRECEDES second \
     INSERT INTO audit (note, verb) VALUES (NEW.id, 'first')",
    "SET NAMES latin1, sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES'",
    // The text of this file is UTF-8, so to the server it is two letters of latin1, here and behind a move.
    "CREATE DEFINER = 'app'@'%' TRIGGER \"texts\" BEFORE INSERT ON \"notes\" FOR EACH ROW SET NEW.body = NEW.body || ' caf\u{e9}'",
    "SET NAMES utf8mb4, sql_mode = '', time_zone = '+03:00'",
    "CREATE DEFINER = 'app'@'%' EVENT tick ON SCHEDULE EVERY 1 SECOND COMMENT 'it''s ENABLE' \
     DO INSERT INTO ticks (at) VALUES (NOW(6))",
    "CREATE DEFINER = 'app'@'%' EVENT idle ON SCHEDULE EVERY 1 SECOND DISABLE DO DELETE FROM shop.ticks",
    "CREATE DEFINER = 'app'@'%' EVENT `sp\u{e4}ter` ON SCHEDULE AT '2037-01-01 00:00:00' DO DELETE FROM shop.ticks",
    "SET GLOBAL event_scheduler = ON",
];

/// Everything that a server says of them, but when they were made.
const SAID: [&str; 2] = [
    "SELECT CONCAT_WS('|', TRIGGER_NAME, EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER, \
     ACTION_STATEMENT, SQL_MODE, DEFINER, CHARACTER_SET_CLIENT, COLLATION_CONNECTION, DATABASE_COLLATION) \
     FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop' ORDER BY TRIGGER_NAME",
    "SELECT CONCAT_WS('|', EVENT_NAME, STATUS, EVENT_DEFINITION, TIME_ZONE, EVENT_TYPE, EXECUTE_AT, INTERVAL_VALUE, \
     INTERVAL_FIELD, STARTS, ON_COMPLETION, EVENT_COMMENT, SQL_MODE, DEFINER, CHARACTER_SET_CLIENT, COLLATION_CONNECTION) \
     FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'shop' ORDER BY EVENT_NAME",
];

struct Story {
    pair: Pair,
    changeover: Changeover,
    /// What the servers are to say.
    said: Vec<String>,
    notes: i64,
}

impl Story {
    async fn begin(engine: Engine) -> Option<Self> {
        let pair = Pair::start(engine, 100).await?;
        pair.source.run(OBJECTS).await;
        let said = said(&pair.source).await;
        let settings = pair.settings().with("migration.exclude_tables", "[\"shop.in_the_way\"]");
        let changeover = Changeover::start(settings).await;
        changeover.admin("START MIGRATION").await;
        changeover.wait_ready().await;
        Some(Self { pair, changeover, said, notes: 0 })
    }

    async fn sides(&self) -> (&Server, &Server) {
        match self.changeover.status_of("route").await.as_str() {
            "source" => (&self.pair.source, &self.pair.target),
            _ => (&self.pair.target, &self.pair.source),
        }
    }

    /// The row of the dry run that is about triggers and events.
    async fn dry_run(&self, statement: &str) -> Record {
        let rows = self.changeover.admin(statement).await;
        rows.into_iter().find(|row| row["step"] == "activate").unwrap()
    }

    /// They are where the application is, as they were made, and on no other server. The event runs.
    async fn assert_in_place(&self) {
        let (serving, other) = self.sides().await;
        until("triggers and events in their place", Duration::from_secs(60), async || {
            let (there, elsewhere) = (said(serving).await, said(other).await);
            if there == self.said && elsewhere.is_empty() {
                return Ok(());
            }
            Err(format!("{there:#?} {elsewhere:#?}; {:?}", self.changeover.status().await))
        })
        .await;
        let before: i64 = serving.value("SELECT COUNT(*) FROM shop.ticks").await;
        until("a tick", Duration::from_secs(30), async || {
            let now: i64 = serving.value("SELECT COUNT(*) FROM shop.ticks").await;
            if now > before { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }

    /// The application writes, and each of its rows is audited once, in the right order.
    async fn write(&mut self) {
        let mut app = self.changeover.app(Some(seed::SCHEMA)).await;
        for _ in 0..5 {
            app.query_drop("INSERT INTO notes (body) VALUES ('a')").await.unwrap();
            self.notes += 1;
        }
        let audited: Vec<String> = app
            .query(
                "SELECT CONCAT_WS('|', HEX(body), GROUP_CONCAT(verb ORDER BY audit.id)) FROM notes \
                 LEFT JOIN audit ON note = notes.id GROUP BY notes.id",
            )
            .await
            .unwrap();
        // " cafÃ©", as latin1 reads the two bytes.
        let expected =
            vec!["6120636166C383C2A9|first,second".to_owned(); usize::try_from(self.notes).unwrap()];
        assert_eq!(audited, expected);
        app.disconnect().await.unwrap();
    }

    /// What would go wrong behind the cutover is said before it.
    async fn expect_obstacles(&self) {
        let Pair { source, target } = &self.pair;
        let ghost = "CREATE DEFINER = 'ghost'@'%' TRIGGER shop.ghost BEFORE DELETE ON shop.notes FOR EACH ROW SET @a = 1";
        source.run(&[ghost]).await;
        target.run(&["ALTER DATABASE shop COLLATE utf8mb4_bin"]).await;
        let row = self.dry_run("CUTOVER DRY RUN").await;
        assert!(row["ok"] == "0" && row["note"].contains("\"ghost@%\" has no account"), "{row:?}");
        assert!(row["note"].contains("another default collation"), "{row:?}");
        source.run(&["DROP TRIGGER shop.ghost"]).await;
        let collation: String = source
            .value(
                "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'shop'",
            )
            .await;
        target.run(&[&format!("ALTER DATABASE shop COLLATE {collation}")]).await;
    }

    /// The application changes them where it is now, and takes that along the next time.
    async fn change(&mut self) {
        let (serving, _) = self.sides().await;
        let name = format!("turn_{}", self.said.len());
        let trigger = format!(
            "CREATE DEFINER = 'app'@'%' TRIGGER shop.{name} BEFORE UPDATE ON shop.notes FOR EACH ROW SET @{name} = 1"
        );
        let event = format!("ALTER DEFINER = 'app'@'%' EVENT shop.idle COMMENT '{name}'");
        serving.run(&["SET sql_mode = ''", &trigger, &event]).await;
        self.said = said(serving).await;
    }

    /// Both servers hold the same at the end, and every note once.
    async fn end(self) {
        let (serving, other) = self.sides().await;
        serving.run(&["DROP EVENT shop.tick"]).await;
        self.changeover.wait_applied(serving).await;
        let log = self.changeover.log();
        let took = log.lines().filter_map(|line| line.split("activate took ").nth(1)).collect::<Vec<_>>();
        println!("{:?}: made within {}", serving.engine(), took.join(", "));
        compare::assert_equal(serving, other, seed::SCHEMA).await;
        for server in [serving, other] {
            assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.notes").await, self.notes);
            assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.audit").await, 2 * self.notes);
        }
    }
}

async fn said(server: &Server) -> Vec<String> {
    let mut said = Vec::new();
    for sql in SAID {
        said.extend(server.rows::<String>(sql).await);
    }
    said
}

async fn they_follow_the_application(engine: Engine) {
    let Some(mut story) = Story::begin(engine).await else { return };
    story.write().await;
    story.assert_in_place().await;
    let trust = "SET GLOBAL log_bin_trust_function_creators = 1";
    story.pair.target.run(&["SET GLOBAL event_scheduler = OFF"]).await;
    let (_, found) = check(&story.pair.settings());
    assert!(found.contains("log_bin_trust_function_creators = 1"), "{found}");
    let row = story.dry_run("CUTOVER DRY RUN").await;
    assert!(row["ok"] == "0" && row["note"].contains("log_bin_trust_function_creators"), "{row:?}");
    story.pair.source.run(&[trust]).await;
    story.pair.target.run(&[trust]).await;
    if engine == Engine::MariaDb {
        // Only SUPER may set it there.
        let row = story.dry_run("CUTOVER DRY RUN").await;
        assert!(row["ok"] == "0" && row["note"].contains("event_scheduler"), "{row:?}");
        story.pair.target.run(&["SET GLOBAL event_scheduler = ON"]).await;
    }
    story.expect_obstacles().await;
    let row = story.dry_run("CUTOVER DRY RUN").await;
    assert!(row["ok"] == "1" && row["note"].contains("3 trigger(s) and 3 event(s)"), "{row:?}");
    assert_eq!(row["note"].contains("turned on"), engine == Engine::MySql97, "{row:?}");

    // What can't be made in the pause undoes the cutover, and all is as it was.
    story
        .pair
        .target
        .run(&[
            "CREATE TABLE shop.in_the_way (id INT PRIMARY KEY)",
            "CREATE TRIGGER shop.second BEFORE INSERT ON shop.in_the_way FOR EACH ROW SET NEW.id = 1",
        ])
        .await;
    until("a cutover that is undone", Duration::from_secs(60), async || {
        let row = story.changeover.try_admin("CUTOVER").await?.remove(0);
        let why = &row["reason"];
        if why.contains("trigger shop.second") { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    assert_eq!(story.changeover.status_of("route").await, "source");
    story.pair.target.run(&["DROP TABLE shop.in_the_way"]).await;
    story.assert_in_place().await;
    story.write().await;

    for turn in ["target", "source", "target"] {
        story.changeover.turn().await;
        story.write().await;
        story.assert_in_place().await;
        story.change().await;
        let on: String = story.pair.target.value("SELECT @@GLOBAL.event_scheduler").await;
        // What was turned on is turned off again; what an operator did stays.
        let expected = if turn == "target" || engine == Engine::MariaDb { "ON" } else { "OFF" };
        assert_eq!(on, expected, "with the {turn} serving");
    }
    story.end().await;
}

/// Killed at each of these places, in turn from the source and from the target: the one that serves has them afterwards.
async fn killed_around_it(engine: Engine, failpoints: &[&str]) {
    let Some(mut story) = Story::begin(engine).await else { return };
    let ready = ["SET GLOBAL log_bin_trust_function_creators = 1", "SET GLOBAL event_scheduler = ON"];
    story.pair.source.run(&ready).await;
    story.pair.target.run(&ready).await;
    for failpoint in failpoints {
        let from = story.changeover.status_of("route").await;
        let statement = if from == "source" { "CUTOVER" } else { "ROLLBACK CUTOVER" };
        story.changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", failpoint)]).await;
        until("the end of the process", Duration::from_secs(90), async || {
            match story.changeover.try_admin(statement).await {
                Err(refused) if refused.contains("ERROR") => Err(refused),
                Err(gone) => Ok(gone),
                Ok(row) => Err(format!("{row:?}")),
            }
        })
        .await;
        story.changeover.wait_end().await;
        story.changeover.start_again_plain().await;
        story.write().await;
        story.assert_in_place().await;
        println!(
            "{engine:?}: from the {from}, at {failpoint}: {}",
            story.changeover.status_of("route").await
        );
    }
    story.end().await;
}

/// An old server has modes that the new one lacks, and other words for the same character sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_and_events_come_along_from_mysql56() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MySql56, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, seed::SCHEMA).await;
        server.run(&["SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    }
    source
        .run(&[
            "CREATE DATABASE shop DEFAULT CHARACTER SET utf8",
            "USE shop",
            "CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(60))",
            "SET NAMES utf8, sql_mode = 'NO_AUTO_CREATE_USER,STRICT_TRANS_TABLES'",
            "CREATE DEFINER = 'app'@'%' TRIGGER texts BEFORE INSERT ON notes FOR EACH ROW SET NEW.body = 'caf\u{e9}'",
            "CREATE DEFINER = 'app'@'%' EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO notes () VALUES ()",
        ])
        .await;
    let changeover = Changeover::start(Settings::between(&source, &target, seed::SCHEMA)).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("event_scheduler is off on the source"), "{refused}");
    source.run(&["SET GLOBAL event_scheduler = ON"]).await;
    changeover.turn().await;
    target.wait_value("SELECT COUNT(*) > 3 FROM shop.notes", "1").await;
    let marks = "SELECT GROUP_CONCAT(DISTINCT HEX(CONVERT(body USING utf8mb4))) FROM shop.notes";
    assert_eq!(target.value::<String>(marks).await, "636166C3A9");
    target.run(&["DROP EVENT shop.tick"]).await;
    changeover.wait_applied(&target).await;
    for server in [&source, &target] {
        let left: Vec<String> = server.rows("SELECT EVENT_NAME FROM information_schema.EVENTS").await;
        assert!(left.is_empty(), "{left:?}");
    }
    let count = "SELECT COUNT(*) FROM shop.notes";
    assert_eq!(source.value::<i64>(count).await, target.value::<i64>(count).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_triggers_and_events_follow_the_application() {
    they_follow_the_application(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_triggers_and_events_follow_the_application() {
    they_follow_the_application(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_killed_while_triggers_and_events_change_sides() {
    let failpoints = [
        "activation.written",
        "activation.made",
        "cutover.behind.activate",
        "cutover.behind.journal switched",
        "activation.made",
        "activation.woken",
        "cutover.behind.seal",
    ];
    killed_around_it(Engine::MariaDb, &failpoints).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_killed_while_triggers_and_events_change_sides() {
    let failpoints = ["activation.made", "cutover.behind.journal switched", "activation.woken"];
    killed_around_it(Engine::MySql97, &failpoints).await;
}
