//! Either server is killed behind each step of a rollback and comes back: one side takes writes, nothing is lost.

use std::path::Path;
use std::time::Duration;

use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair, Server};

const LIMIT: Duration = Duration::from_secs(120);

/// What the rollback has done when the server dies.
const STEPS: &[&str] =
    &["prepare", "close", "fence", "wait", "verdict", "hold", "reverse", "journal switched", "swap"];

/// Rolls back, and kills a server when `step` is done.
async fn roll_back(changeover: &Changeover, hold: &Path, step: &str, dies: &mut Server) -> String {
    let (place, reached) = (format!("cutover.behind.{step}"), hold.with_extension("reached"));
    let began = std::time::Instant::now();
    loop {
        std::fs::write(hold, &place).unwrap();
        let asked = changeover.try_admin("ROLLBACK CUTOVER");
        let meets = async {
            until(&format!("the rollback to be behind {step}"), LIMIT, async || {
                if reached.exists() { Ok(()) } else { Err("it isn't yet".to_owned()) }
            })
            .await;
        };
        tokio::pin!(asked);
        tokio::select! {
            told = &mut asked => {
                // Refused for a moment: rows that wait for their comparison, a lag.
                let refused = told.map(|row| format!("{row:?}")).unwrap_err();
                assert!(began.elapsed() < LIMIT, "{refused}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            () = meets => {
                dies.kill_9();
                dies.start_again().await;
                std::fs::remove_file(&reached).unwrap();
                return match asked.await {
                    Ok(rows) => format!("{}: {}", rows[0]["outcome"], rows[0]["reason"]),
                    Err(refused) => refused,
                };
            }
        }
    }
}

async fn walk(engine: Engine, steps: &[&str]) {
    let Some(mut pair) = Pair::start(engine, 500).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let hold = folder.path().join("hold");
    let settings = pair.settings().with("cutover.pause_ms", "60000");
    let environment = [("CHANGEOVER_HOLD", hold.to_str().unwrap())];
    let changeover = Changeover::start_with(settings, &environment).await;
    let ledger = Ledger::start(changeover.port(), 8).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    ledger.expect_lost_connections();
    for step in steps {
        for dies in ["source", "target"] {
            if changeover.status_of("route").await == "source" {
                go_on(&changeover).await;
                changeover.turn().await;
            }
            go_on(&changeover).await;
            ledger.wait_more(20).await;
            let server = if dies == "source" { &mut pair.source } else { &mut pair.target };
            let told = roll_back(&changeover, &hold, step, server).await;
            let route = changeover.status_of("route").await;
            println!("{engine:?}: the {dies} died behind {step}, the {route} serves; {told}");
            // The side that serves takes writes, and the other one doesn't.
            let (serving, other) = pair.sides(&route);
            serving.wait_value("SELECT @@GLOBAL.read_only", "0").await;
            other.wait_value("SELECT @@GLOBAL.read_only", "1").await;
            ledger.wait_more(20).await;
            assert!(changeover.admin("SHOW STRAY WRITES").await.is_empty(), "{dies}, {step}");
        }
    }
    go_on(&changeover).await;
    let proof = ledger.close().await;
    let (serving, other) = pair.sides(&changeover.status_of("route").await);
    changeover.wait_applied(serving).await;
    proof.assert_holds_on(serving).await;
    proof.assert_holds_on(other).await;
}

/// As an operator would, where the server was away for longer than the retries.
async fn go_on(changeover: &Changeover) {
    if changeover.status_of("phase").await == "failed" {
        changeover.admin("RESUME MIGRATION").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_survives_the_death_of_either_server_on_mariadb() {
    walk(Engine::MariaDb, STEPS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_survives_the_death_of_either_server_on_mysql97() {
    walk(Engine::MySql97, &["fence", "reverse", "journal switched"]).await;
}
