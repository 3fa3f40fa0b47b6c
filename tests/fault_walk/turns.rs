//! The part of the walk in which the application moves to the other side, and the end.

use std::collections::VecDeque;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

use super::acts::{Act, Group, Walk, due, only_from};
use super::{LIMIT, Story, act_on_their_own};
use crate::robustness::is_long;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Ledger, Server, accounts, seed};

const SIDES: [&str; 2] = ["source", "target"];
/// Something that isn't known where it serves keeps what acts on its own from being made, and the move is undone.
const IN_THE_WAY: [&str; 2] = [
    "CREATE TABLE shop.in_the_way (id INT PRIMARY KEY)",
    "CREATE TRIGGER shop.noted BEFORE INSERT ON shop.in_the_way FOR EACH ROW SET NEW.id = 1",
];

fn app(changeover: &Changeover) -> Opts {
    opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, Some(seed::SCHEMA))
}

/// Asks for a move of the application, in the way that `place` takes. One that comes to its end without dying in its midst
/// didn't come to a place that each of them has.
async fn ask(place: &str, act: Act, changeover: &Changeover) {
    let Ok(status) = changeover.try_admin("SHOW MIGRATION STATUS").await else { return };
    let last = match place {
        // Values that were given out and rolled back.
        "auto_increment.raised" => Some("ROLLBACK"),
        // A transaction that outlives the deadline.
        "cutover.behind.kill" => Some("DO 1"),
        _ => None,
    };
    let mut held = None;
    if let Some(last) = last {
        let Ok(mut conn) = Conn::new(app(changeover)).await else { return };
        for sql in ["BEGIN", "INSERT INTO bulk (k) VALUES (1)", last] {
            drop(conn.query_drop(sql).await);
        }
        held = Some(conn);
    }
    let statement = if status[0]["route"] == "source" { "CUTOVER" } else { "ROLLBACK CUTOVER" };
    let told = changeover.try_admin(statement).await;
    drop(held);
    if let (Ok(rows), Act::Before | Act::Behind) = (told, act) {
        assert_ne!(rows[0]["outcome"], "switched", "{place} wasn't reached");
    }
}

impl Story {
    /// Where this walk's fence is.
    async fn is_fenced(&self, server: &Server) -> bool {
        let sql = match self.walk {
            Walk::MySql => "SELECT account_locked = 'Y' FROM mysql.user WHERE User = 'app'",
            _ => "SELECT @@GLOBAL.read_only",
        };
        server.value::<i64>(sql).await == 1
    }

    /// The route is what the journal says, and one side takes writes. A process that is about to die again may say nothing.
    async fn check(&self, expected: &str, before: &str) {
        let status = self.changeover.try_admin("SHOW MIGRATION STATUS").await;
        let cutovers = self.changeover.try_admin("SHOW CUTOVERS").await;
        let (Ok(status), Ok(cutovers)) = (status, cutovers) else { return };
        assert_eq!(status[0]["route"], expected, "{:?}: on the way to {before}", self.walk);
        let (serving, other) = self.pair.sides(expected);
        assert!(!self.is_fenced(serving).await, "{:?}: to {before}: the {expected} is fenced", self.walk);
        let turned = cutovers.iter().any(|row| row["outcome"] == "switched");
        assert_eq!(
            self.is_fenced(other).await,
            turned,
            "{:?}: to {before}: the {expected} serves",
            self.walk
        );
    }

    /// Restarts it, and sees to it that this side serves.
    async fn serve_from(&mut self, side: &str) {
        self.changeover.start_again_plain().await;
        if self.changeover.status_of("route").await != side {
            self.changeover.turn().await;
        }
    }

    /// Moves that are undone because something is in their way.
    pub(super) async fn undo(&mut self) {
        for (_, group) in due(self.walk, Act::Undo) {
            let from = only_from(group[0]).unwrap_or("source");
            self.serve_from(from).await;
            let other = self.pair.sides(from).1;
            // Behind a swap it is still there for a moment.
            let made =
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.TRIGGERS WHERE TRIGGER_NAME = 'noted'";
            other.wait_value(made, "0").await;
            other.run(&IN_THE_WAY).await;
            for place in group {
                if self.changeover.start_to_die(place).await {
                    self.check(from, place).await;
                }
                self.die(place, async |changeover| ask(place, Act::Undo, changeover).await).await;
            }
            self.pair.sides(from).1.run(&["DROP TABLE shop.in_the_way"]).await;
        }
    }

    /// The source dies behind the fence, so the fence is taken off once it is back.
    pub(super) async fn late(&mut self) {
        for (_, group) in due(self.walk, Act::Late) {
            self.serve_from("source").await;
            let folder = tempfile::tempdir().unwrap();
            let (hold, reached) = (folder.path().join("hold"), folder.path().join("hold.reached"));
            let mut places = group.iter();
            let first = places.next().unwrap();
            let environment = [("CHANGEOVER_HOLD", hold.to_str().unwrap()), ("CHANGEOVER_FAILPOINT", first)];
            self.changeover.start_again_with(&environment).await;
            until("a cutover behind its fence", LIMIT, async || {
                std::fs::write(&hold, "cutover.behind.hold").unwrap();
                let asked = self.changeover.try_admin("CUTOVER");
                let meets = until("the cutover to be behind hold", LIMIT, async || {
                    if reached.exists() { Ok(()) } else { Err("it isn't yet".to_owned()) }
                });
                tokio::select! {
                    told = asked => Err(format!("{told:?}")),
                    () = meets => Ok(()),
                }
            })
            .await;
            self.pair.source.kill_9();
            std::fs::remove_file(&reached).unwrap();
            until("the cutover to be undone", LIMIT, async || {
                let rows = self.changeover.admin("SHOW CUTOVERS").await;
                let last = rows.last().map(|row| row["outcome"].clone());
                if last.as_deref() == Some("aborted") { Ok(()) } else { Err(format!("{last:?}")) }
            })
            .await;
            self.pair.source.start_again().await;
            act_on_their_own(&self.pair.source).await;
            self.die(first, async |_| {}).await;
            for place in places {
                self.die_at(place, async |_| {}).await;
            }
        }
    }

    /// Everything that moves do, from the one side and the other.
    pub(super) async fn turns(&mut self, ledger: &Ledger) {
        let mut left = [VecDeque::new(), VecDeque::new()];
        for act in [Act::Before, Act::Behind, Act::Turn] {
            for (number, group) in due(self.walk, act) {
                for (at, side) in SIDES.iter().enumerate() {
                    let wanted = match only_from(group[0]) {
                        Some(only) => only == *side,
                        None => is_long() || number % 2 == at,
                    };
                    if wanted {
                        left[at].push_back((act, group));
                    }
                }
            }
        }
        self.serve_from("source").await;
        self.note().await;
        let mut from = 0;
        while left.iter().any(|left| !left.is_empty()) {
            let Some((act, group)) = left[from].pop_front() else {
                self.changeover.start_again_plain().await;
                from = usize::from(self.changeover.status_of("route").await == "target");
                if left[from].is_empty() {
                    self.changeover.turn().await;
                    self.note().await;
                    from = 1 - from;
                }
                continue;
            };
            self.die_in_turn(SIDES[from], act, group).await;
            match act {
                Act::Before => {}
                Act::Behind => from = 1 - from,
                _ => {
                    self.changeover.start_again_plain().await;
                    from = usize::from(self.changeover.status_of("route").await == "target");
                    ledger.wait_more(10).await;
                }
            }
        }
    }

    async fn die_in_turn(&mut self, from: &str, act: Act, group: Group) {
        for (at, place) in group.iter().enumerate() {
            let mut answers = self.changeover.start_to_die(place).await;
            if at == 0 && !answers && act != Act::Turn {
                // It was reached by what the death before has left to do; here it is to be by a move of its own.
                self.changeover.start_again_plain().await;
                answers = self.changeover.start_to_die(place).await;
                assert!(answers, "{:?}: it dies at {place} before it listens", self.walk);
            }
            if at > 0 {
                // What a restart does: nobody has to ask for it.
                self.die(place, async |_| {}).await;
                continue;
            }
            if answers {
                self.check(from, place).await;
            }
            self.die(place, async |changeover| ask(place, act, changeover).await).await;
        }
    }

    /// Gives the trigger something to do.
    pub(super) async fn note(&self) {
        let mut conn = self.changeover.app(Some(seed::SCHEMA)).await;
        conn.query_drop("INSERT INTO notes (body) VALUES ('turned')").await.unwrap();
        conn.disconnect().await.unwrap();
    }

    /// The side from which this walk's migration ends serves, and everything is as it is to stay.
    pub(super) async fn come_to_the_end(&mut self) {
        self.serve_from(if self.walk == Walk::MySql { "source" } else { "target" }).await;
        self.note().await;
        until("a verdict for every table", LIMIT, async || {
            let tables = self.changeover.admin("SHOW MIGRATION TABLES").await;
            if tables.iter().all(|table| table["phase"] == "verified") {
                Ok(())
            } else {
                Err(format!("{tables:?}"))
            }
        })
        .await;
    }

    /// FINISH or ABANDON MIGRATION, until it is over and said to be.
    pub(super) async fn end(&mut self) {
        let statement = if self.walk == Walk::MySql { "ABANDON MIGRATION" } else { "FINISH MIGRATION" };
        self.act(Act::End, async |changeover| drop(changeover.try_admin(statement).await)).await;
        self.changeover.start_again_plain().await;
        drop(self.changeover.try_admin(statement).await);
        let phase = if self.walk == Walk::MySql { "abandoned" } else { "finished" };
        assert_eq!(self.changeover.status_of("phase").await, phase);
        // Nobody is watched any more.
        assert!(!self.changeover.state_dir().join("stray.json").exists());
        self.note().await;
    }
}
