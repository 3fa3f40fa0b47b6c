//! Anything dies at any moment: Changeover, the source, the target, in whatever phase the dice find them, in the
//! middle of cutovers too. At the end the books decide (invariants 1 and 2).
//!
//! `CHANGEOVER_TORTURE=N` runs N rounds an engine instead of one, `CHANGEOVER_SEED=S` the round that said so. The
//! moments are the only thing here that a clock decides; what is waited for is a condition.

use std::time::Duration;

use crate::support::wait::until;
use crate::support::{Changeover, Engine, Ledger, Pair};

/// Deaths of a round.
const DEATHS: u64 = 6;
/// Sessions of the application.
const WRITERS: u32 = 16;

/// Dice whose throws follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn moment(&mut self, at_most_ms: u64) -> Duration {
        Duration::from_millis(self.below(at_most_ms))
    }
}

async fn rounds(engine: Engine) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CHANGEOVER_SEED") {
        return round(engine, seed).await;
    }
    let first = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    for seed in first..first + number("CHANGEOVER_TORTURE").unwrap_or(1) {
        round(engine, seed).await;
    }
}

async fn round(engine: Engine, seed: u64) {
    eprintln!("torture of {}: CHANGEOVER_SEED={seed}", engine.name());
    let mut dice = Dice(seed);
    let Some(mut pair) = Pair::start(engine, 20_000).await else { return };
    let mut changeover = pair.changeover().await;
    let ledger = Ledger::start(changeover.port(), WRITERS).await;
    ledger.expect_lost_connections();
    changeover.admin("START MIGRATION").await;
    for _ in 0..DEATHS {
        tokio::time::sleep(dice.moment(2_000)).await;
        if dice.below(2) == 0 {
            // The operator's patience ends somewhere in the middle of it; the cutover itself goes on.
            let patience = dice.moment(400);
            let _ = tokio::time::timeout(patience, changeover.try_admin("CUTOVER")).await;
        }
        match dice.below(4) {
            0 => {
                pair.source.kill_9();
                tokio::time::sleep(dice.moment(500)).await;
                pair.source.start_again().await;
            }
            1 => {
                pair.target.kill_9();
                tokio::time::sleep(dice.moment(500)).await;
                pair.target.start_again().await;
            }
            _ => changeover.start_again().await,
        }
        ledger.wait_more(20).await;
    }
    end_on_the_target(&changeover).await;
    ledger.wait_more(100).await;
    changeover.wait_all_moved().await;
    ledger.close().await.assert_holds_on(&pair.target).await;
    // invariant 2: whoever comes past the proxy finds the old server closed.
    pair.source.wait_value("SELECT @@GLOBAL.read_only", "1").await;
}

/// Whatever is left to do until the target serves.
async fn end_on_the_target(changeover: &Changeover) {
    until("the target to serve", Duration::from_secs(120), async || {
        let status = changeover.status().await;
        match (status["route"].as_str(), status["phase"].as_str()) {
            ("target", _) => return Ok(()),
            (_, "failed") => drop(changeover.try_admin("RESUME MIGRATION").await),
            (_, "following") => drop(changeover.try_admin("CUTOVER").await),
            _ => {}
        }
        Err(format!("{status:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_dies_between_mariadbs() {
    rounds(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_dies_between_mysqls() {
    rounds(Engine::MySql97).await;
}
