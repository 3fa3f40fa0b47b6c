//! What networks and servers do to Changeover in each stage: connections are cut, answers are lost, rows are locked, batches
//! deadlock, idle connections are ended, the server that is written is full. It goes on by itself, or says what to do and goes
//! on then; the application notices nothing, and the books hold on both servers (invariant 1).

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::hop::Hop;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server, accounts, compare, seed};

/// Sessions of the application.
const WRITERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(60);
/// How often everything of one side is cut in one stage.
const CUTS: usize = 3;

/// Two servers that Changeover reaches through a hop each. Only its own connections meet faults.
struct Bed {
    pair: Pair,
    hops: [Hop; 2],
    changeover: Changeover,
    ledger: Ledger,
}

impl Bed {
    async fn begin(engine: Engine) -> Option<Self> {
        let pair = Pair::start(engine, 20_000).await?;
        let hops = [
            Hop::to(pair.source.port(), Some(accounts::SERVICE)).await,
            Hop::to(pair.target.port(), Some(accounts::SERVICE)).await,
        ];
        // So slow that the cuts come while it copies.
        let mut settings = pair.settings().with("snapshot.chunk_rows", "500");
        settings.set("snapshot.max_rows_per_s", "4000");
        for (side, hop) in ["source", "target"].iter().zip(&hops) {
            let url = format!("\"mysql://{}@127.0.0.1:{}\"", accounts::SERVICE, hop.port());
            settings.set(&format!("{side}.url"), &url);
        }
        let changeover = Changeover::start(settings).await;
        let ledger = Ledger::start(changeover.port(), WRITERS).await;
        changeover.admin("START MIGRATION").await;
        Some(Self { pair, hops, changeover, ledger })
    }

    fn hop(&self, side: &str) -> &Hop {
        &self.hops[usize::from(side == "target")]
    }

    /// Everything to one side is cut, and then to the other, again and again. It never counts as failed. A copy may be over
    /// before the last cut, not before the first of either side.
    async fn cut(&self, phase: &str) {
        for turn in 0..CUTS {
            for side in ["source", "target"] {
                if turn > 0 && self.changeover.status_of("phase").await != phase {
                    return;
                }
                self.changeover.wait_phase(&[phase]).await;
                until(&format!("{phase}: connections to the {side}"), LIMIT, async || {
                    if self.hop(side).cut() > 0 { Ok(()) } else { Err("none".to_owned()) }
                })
                .await;
                self.ledger.wait_more(5).await;
            }
        }
    }

    /// What was committed on a side, and wasn't answered.
    async fn lose_answers(&self, phase: &str, side: &str) {
        let hop = self.hop(side);
        for _ in 0..CUTS {
            let before = hop.hits();
            hop.lose_answer_to("COMMIT");
            until(&format!("{phase}: the answer to a COMMIT to be lost"), LIMIT, async || {
                let phase = self.changeover.status_of("phase").await;
                assert_ne!(phase, "failed");
                if hop.hits() > before { Ok(()) } else { Err(phase) }
            })
            .await;
        }
    }

    async fn turn(&self) {
        until("a verdict for every table", LIMIT, async || {
            let tables = self.changeover.admin("SHOW MIGRATION TABLES").await;
            let open = tables.iter().filter(|table| table["phase"] != "verified").count();
            if !tables.is_empty() && open == 0 { Ok(()) } else { Err(format!("{open} tables")) }
        })
        .await;
        self.changeover.turn().await;
    }

    async fn prove(self) {
        self.ledger.rest().await;
        let (serving, other) = self.pair.sides(&self.changeover.status_of("route").await);
        let wanted = sums(serving).await;
        until("both servers to hold the same", LIMIT, async || {
            let there = sums(other).await;
            if there == wanted { Ok(()) } else { Err(format!("{there:?} in place of {wanted:?}")) }
        })
        .await;
        compare::assert_equal(serving, other, seed::SCHEMA).await;
        assert_eq!(self.ledger.errors(), Vec::<String>::new(), "the application has noticed nothing");
        let proof = self.ledger.close().await;
        proof.assert_holds_on(serving).await;
        proof.assert_holds_on(other).await;
    }
}

/// One engine on both sides sums alike.
async fn sums(server: &Server) -> Vec<(String, Option<u64>)> {
    server
        .rows("CHECKSUM TABLE shop.accounts, shop.entries, shop.inbox, shop.gauges, shop.bulk, shop.names")
        .await
}

async fn connections_break_in_every_stage(engine: Engine) {
    let Some(bed) = Bed::begin(engine).await else { return };
    bed.lose_answers("copying", "target").await;
    bed.cut("copying").await;
    bed.changeover.wait_phase(&["following"]).await;
    bed.lose_answers("following", "target").await;
    let asked = "the answer to a COMMIT was lost";
    assert!(bed.changeover.log().contains(asked), "the tail has asked what became of a COMMIT");
    bed.cut("following").await;
    bed.turn().await;
    bed.lose_answers("switched", "source").await;
    bed.cut("switched").await;
    bed.turn().await;
    bed.prove().await;
}

/// The side that is written has a transaction open that wants what a batch has, and has what it wants. The server ends
/// the one that has changed less.
async fn a_batch_deadlocks(bed: &Bed, serving: &Server, other: &Server) {
    bed.ledger.rest().await;
    other
        .run(&[
            "CREATE DATABASE scratch",
            "CREATE TABLE scratch.t (id INT PRIMARY KEY, v CHAR(50)) ENGINE=InnoDB",
        ])
        .await;
    let mut holder = other.root().await;
    let many: Vec<String> = (0..2_000).map(|id| format!("({id}, 'v')")).collect();
    let many = format!("INSERT INTO scratch.t VALUES {}", many.join(","));
    let ids = other.rows::<u32>("SELECT id FROM shop.bulk ORDER BY id LIMIT 2").await;
    let lock = |id: u32| format!("SELECT id FROM shop.bulk WHERE id = {id} FOR UPDATE");
    let write = |id: u32| format!("UPDATE shop.bulk SET k = k + 1 WHERE id = {id}");
    for sql in ["BEGIN".to_owned(), many, lock(ids[1])] {
        holder.query_drop(sql).await.unwrap();
    }
    let mut writer = serving.root().await;
    for sql in ["BEGIN".to_owned(), write(ids[0]), write(ids[1]), "COMMIT".to_owned()] {
        writer.query_drop(sql).await.unwrap();
    }
    wait_for_lock(other, "the batch to wait for what somebody has").await;
    // It gets the lock, so the batch is what was ended.
    holder.query_drop(lock(ids[0])).await.unwrap();
    holder.query_drop("ROLLBACK").await.unwrap();
    other.run(&["DROP DATABASE scratch"]).await;
    bed.ledger.go_on();
    bed.ledger.wait_more(20).await;
}

async fn wait_for_lock(server: &Server, what: &str) {
    // INNODB_TRX isn't made anew for who reads it this often.
    let schema = if server.engine() == Engine::MariaDb { "information_schema" } else { "performance_schema" };
    let sql = format!(
        "SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM {schema}.global_status \
         WHERE VARIABLE_NAME = 'Innodb_row_lock_current_waits'"
    );
    until(
        what,
        LIMIT,
        async || {
            if server.value::<u64>(&sql).await > 0 { Ok(()) } else { Err("none".to_owned()) }
        },
    )
    .await;
}

/// Somebody holds every row of a table on the side that is written; with CHANGEOVER_LONG for longer than a batch waits.
async fn rows_are_locked(bed: &Bed, server: &Server) {
    let mut holder = server.root().await;
    for sql in ["BEGIN", "SELECT id FROM shop.accounts FOR UPDATE"] {
        holder.query_drop(sql).await.unwrap();
    }
    wait_for_lock(server, "a batch to wait for a row that is held").await;
    if std::env::var_os("CHANGEOVER_LONG").is_some() {
        let tried = || bed.changeover.log().matches("the batch is tried again").count();
        let before = tried();
        until("a batch to wait for a lock again and again", LIMIT * 2, async || {
            if tried() > before { Ok(()) } else { Err(bed.changeover.status_of("applied_position").await) }
        })
        .await;
    }
    holder.query_drop("ROLLBACK").await.unwrap();
    bed.ledger.wait_more(20).await;
}

/// Nobody writes for longer than the servers keep a connection that says nothing.
async fn nothing_is_said(bed: &Bed) {
    bed.ledger.rest().await;
    for server in [&bed.pair.source, &bed.pair.target] {
        server.run(&["SET GLOBAL wait_timeout = 1, GLOBAL interactive_timeout = 1"]).await;
    }
    // The application's connections are older than that, Changeover's aren't.
    bed.changeover.admin("PAUSE MIGRATION").await;
    bed.changeover.admin("RESUME MIGRATION").await;
    bed.changeover.wait_phase(&["following"]).await;
    for server in [&bed.pair.source, &bed.pair.target] {
        let silent = server.root().await;
        let sql = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {}", silent.id());
        until("a silent connection to be ended", LIMIT, async || {
            if server.value::<u64>(&sql).await == 0 { Ok(()) } else { Err("it is there".to_owned()) }
        })
        .await;
    }
    bed.ledger.go_on();
    bed.ledger.wait_more(30).await;
    for server in [&bed.pair.source, &bed.pair.target] {
        server.run(&["SET GLOBAL wait_timeout = 28800, GLOBAL interactive_timeout = 28800"]).await;
    }
}

async fn servers_are_in_the_way(engine: Engine) {
    let Some(bed) = Bed::begin(engine).await else { return };
    bed.changeover.wait_phase(&["following"]).await;
    a_batch_deadlocks(&bed, &bed.pair.source, &bed.pair.target).await;
    rows_are_locked(&bed, &bed.pair.target).await;
    nothing_is_said(&bed).await;
    bed.turn().await;
    a_batch_deadlocks(&bed, &bed.pair.target, &bed.pair.source).await;
    rows_are_locked(&bed, &bed.pair.source).await;
    bed.turn().await;
    bed.ledger.wait_more(20).await;
    bed.prove().await;
}

/// The target has no room, in the copy and again in the tail; an operator makes room.
async fn the_target_is_full(engine: Engine) {
    // All tables in one file, that may grow to so much and no further.
    const ROOM: [&str; 3] = ["32M", "96M", "1G"];
    let room = |size: &str| format!("--innodb-data-file-path=ibdata1:12M:autoextend:max:{size}");
    let flags = ["--innodb-file-per-table=0", &room(ROOM[0])];
    let (source, target) = tokio::join!(Server::start(engine, &[]), Server::start(engine, &flags));
    let (Some(source), Some(target)) = (source, target) else { return };
    let mut pair = Pair { source, target };
    for server in [&pair.source, &pair.target] {
        accounts::create(server, seed::SCHEMA).await;
    }
    seed::fill(&pair.source, 150_000).await;
    let changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    changeover.admin("START MIGRATION").await;
    for (stage, size) in ["copy", "tail"].iter().zip(ROOM.iter().skip(1)) {
        if *stage == "tail" {
            changeover.wait_phase(&["following"]).await;
            for _ in 0..3 {
                pair.source
                    .run(&["INSERT INTO shop.bulk (k, c) SELECT k, c FROM shop.bulk LIMIT 60000"])
                    .await;
            }
        }
        changeover.wait_phase(&["paused"]).await;
        let said = changeover.status_of("last_error").await;
        assert!(
            said.contains("target") && said.contains("1114") && said.contains("Make room"),
            "{stage}: {said}"
        );
        println!("{stage}: {said}");
        pair.target.kill_9();
        pair.target.replace_flag("--innodb-data-file-path", &room(size));
        pair.target.start_again().await;
        changeover.admin("RESUME MIGRATION").await;
    }
    changeover.wait_ready().await;
    changeover.turn().await;
    ledger.wait_more(20).await;
    let proof = ledger.close().await;
    changeover.wait_applied(&pair.target).await;
    proof.assert_holds_on(&pair.target).await;
    proof.assert_holds_on(&pair.source).await;
    compare::assert_equal(&pair.target, &pair.source, seed::SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_break_in_every_stage_on_mariadb() {
    connections_break_in_every_stage(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_break_in_every_stage_on_mysql97() {
    connections_break_in_every_stage(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_in_the_way_on_mariadb() {
    servers_are_in_the_way(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_in_the_way_on_mysql97() {
    servers_are_in_the_way(Engine::MySql97).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_is_full_on_mariadb() {
    the_target_is_full(Engine::MariaDb).await;
}
