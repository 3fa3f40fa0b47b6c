//! A world of two backends, writers, replication and a disk, in which cutovers and rollbacks are crashed between any two
//! effects, fail anywhere, lose replies and are restarted from the journal, under one seed.
//!
//! A backend is its binlog: a list of writes, each with a number of its own, so that a write is lost, doubled or in order
//! by looking at two lists. Replication is modelled as the replicator does it: a leg with a durable start and a durable
//! preparation of the next one, and a task that a crash ends. What is checked, whenever the application writes and at the
//! end: one side takes writes and it is the journal's (invariant 2), that side holds every write that was acknowledged
//! anywhere (invariant 1), nothing is applied twice or back to where it came from, and what acts on its own (triggers) acts
//! where the application writes and nowhere that rows are applied to. In a world without a fence others write on either side
//! whenever they like, and in one whose fence locks accounts while these are unlocked for a rollback: what they write behind
//! the last look is known to be on the side that was left alone, and no rollback gets past that before it was acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use config::progress::Verdict;
use config::{OpenTransactions, Side};

use self::world::{World, position};
use super::phase::{Effect, Entry, Event, Outcome, Plan};
use super::step::{Stage, State, begin, resume, step};
use crate::backend::fence::FenceBefore;

/// Worlds in a run of the tests; `CHANGEOVER_SIMULATION_SEEDS` asks for more.
const WORLDS: u64 = 100_000;
/// Cutovers and rollbacks tried in one world.
const TURNS: usize = 5;

/// Cutovers that were tried, and how many switched in each direction.
#[derive(Default)]
struct Ends {
    tried: usize,
    forward: usize,
    back: usize,
}

fn simulate(world: &mut World) -> Ends {
    let mut ends = Ends::default();
    while ends.tried < TURNS && world.may_turn() {
        ends.tried += 1;
        let before = world.journal.serving;
        let plan = world.plan();
        world.run(plan.clone(), begin(plan));
        world.settle_and_check();
        world.acknowledge();
        world.faults = true;
        match (before, world.journal.serving) {
            (Side::Source, Side::Target) => ends.forward += 1,
            (Side::Target, Side::Source) => ends.back += 1,
            _ => {}
        }
        for _ in 0..3 {
            world.time_passes();
        }
    }
    world.rollbacks = ends.back;
    ends
}

/// Prints seed and steps of a world that went wrong.
fn seeded(seed: u64) -> Ends {
    let mut world = World::new(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(&mut world)));
    result.unwrap_or_else(|cause| {
        eprintln!("the cutover simulation failed with CHANGEOVER_SIMULATION_SEED={:#x}", world.seed);
        for (effect, fate) in &world.trace {
            eprintln!("  {effect} {fate:?}");
        }
        std::panic::resume_unwind(cause)
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.expect("a seed, or how many, is a number"))
}

/// `CHANGEOVER_SIMULATION_SEED` runs one world again; `CHANGEOVER_SIMULATION_SEEDS` says how many there are.
#[test]
fn no_crash_and_no_failure_loses_a_write_or_lets_two_write() {
    if let Some(seed) = number("CHANGEOVER_SIMULATION_SEED") {
        seeded(seed);
        return;
    }
    let worlds = number("CHANGEOVER_SIMULATION_SEEDS").unwrap_or(WORLDS);
    // Other worlds in every run, and the same ones under the number that it prints.
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("{worlds} worlds from seed {first:#x} on");
    let (next, tried, forward, back) =
        (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let world = next.fetch_add(1, Ordering::Relaxed);
                    if world >= worlds {
                        return;
                    }
                    let ends = seeded(first.wrapping_add(world));
                    tried.fetch_add(ends.tried, Ordering::Relaxed);
                    forward.fetch_add(ends.forward, Ordering::Relaxed);
                    back.fetch_add(ends.back, Ordering::Relaxed);
                }
            });
        }
    });
    let (tried, forward, back) = (tried.into_inner(), forward.into_inner(), back.into_inner());
    println!("{tried} tried, {forward} switched, {back} rolled back");
    // A simulation in which nothing gets there proves nothing.
    let worlds = usize::try_from(worlds).unwrap();
    assert!(forward > worlds / 2 && back > worlds / 3 && tried > forward + back, "{tried} {forward} {back}");
}

#[test]
fn without_faults_every_step_comes_in_its_order() {
    let mut world = World::new(7);
    (world.faults, world.fenced) = (false, true);
    let mut plan = world.plan();
    (plan.fenced, plan.way_back) = (true, true);
    let mut next = begin(plan.clone());
    let mut names = Vec::new();
    while let (state, Some(effect)) = next {
        names.push(effect.name());
        let event = if matches!(effect, Effect::AskVerdict) {
            Event::Verdict(Verdict::Equal { rows: 9 })
        } else {
            world.works(&plan, &effect)
        };
        next = step(state, event);
    }
    assert_eq!(next.0, State::Ended(Outcome::Switched));
    assert_eq!(
        names,
        [
            "journal started",
            "prepare",
            "inspect",
            "journal fenced",
            "close",
            "drain",
            "fence",
            "position",
            "wait",
            "verdict",
            "position",
            "hold",
            "activate",
            "reverse",
            "position",
            "journal switched",
            "swap",
            "open",
            "keep fence",
            "seal",
            "settle",
            "let go",
            "journal finished"
        ]
    );
}

#[test]
fn an_abort_undoes_exactly_what_was_done() {
    // Fails at the named effect; the undo is what follows.
    let check = |at: &str, undo: &[&str]| {
        let mut world = World::new(7);
        (world.faults, world.fenced) = (false, true);
        let mut plan = world.plan();
        (plan.fenced, plan.way_back, plan.open_transactions) = (true, true, OpenTransactions::Abort);
        let mut next = begin(plan.clone());
        let mut undone = Vec::new();
        let mut failed = false;
        while let (state, Some(effect)) = next {
            let event = if failed {
                undone.push(effect.name());
                world.works(&plan, &effect)
            } else if effect.name() == at {
                failed = true;
                Event::Failed("no".into())
            } else if matches!(effect, Effect::AskVerdict) {
                Event::Verdict(Verdict::Equal { rows: 9 })
            } else {
                world.works(&plan, &effect)
            };
            next = step(state, event);
        }
        assert_eq!(next.0, State::Ended(Outcome::Aborted), "{at}");
        assert_eq!(undone, undo, "{at}");
    };
    check("journal started", &["journal aborted"]);
    check("inspect", &["let go", "journal aborted"]);
    check("journal fenced", &["let go", "journal aborted"]);
    check("drain", &["open", "let go", "journal aborted"]);
    check("fence", &["unfence", "open", "let go", "journal aborted"]);
    check("wait", &["unfence", "open", "let go", "journal aborted"]);
    check("hold", &["unfence", "open", "turn back", "let go", "journal aborted"]);
    check("reverse", &["unfence", "open", "turn back", "let go", "journal aborted"]);
    check("journal switched", &["unfence", "open", "turn back", "let go", "journal aborted"]);
}

/// Towards a side that an earlier cutover fenced.
fn rollback(found: &FenceBefore) -> Plan {
    Plan {
        id: super::phase::CutoverId(2),
        from: Side::Target,
        to: Side::Source,
        fenced: true,
        open_transactions: OpenTransactions::Abort,
        release: Some(found.clone()),
        way_back: true,
    }
}

#[test]
fn a_rollback_takes_the_old_fence_off_before_it_swaps() {
    let found = FenceBefore { read_only: false, super_read_only: Some(false), accounts: None };
    let (state, effect) = resume(rollback(&found), Stage::Switched);
    assert_eq!(effect, Some(Effect::Fence));
    let (state, effect) = step(state, Event::Done);
    assert_eq!(effect, Some(Effect::Release(found.clone())));
    let (state, effect) = step(state, Event::Failed("unreachable".into()));
    assert_eq!(effect, Some(Effect::Release(found)), "tried again");
    assert_eq!(step(state, Event::Done).1, Some(Effect::Swap));
}

/// Sessions log in on the other side before the pause, so accounts are unlocked there first, and locked again where it is undone.
#[test]
fn accounts_that_an_earlier_fence_locked_are_unlocked_for_the_sessions_to_come() {
    let found = FenceBefore { read_only: false, super_read_only: None, accounts: Some(Vec::new()) };
    let plan = rollback(&found);
    let (state, _) = begin(plan.clone());
    let (state, effect) = step(state, Event::Done);
    assert_eq!(effect, Some(Effect::Unlock(found.clone())));
    let (prepared, effect) = step(state.clone(), Event::Done);
    assert_eq!(effect, Some(Effect::Prepare));
    let (_, effect) = step(state, Event::Failed("late".into()));
    assert_eq!(effect, Some(Effect::LockAgain(found.clone())));
    let (state, effect) = step(prepared, Event::Done);
    assert_eq!(effect, Some(Effect::Inspect));
    let (state, effect) = step(state, Event::Failed("no".into()));
    assert_eq!(effect, Some(Effect::LetGo));
    assert_eq!(step(state, Event::Done).1, Some(Effect::LockAgain(found.clone())));
    // A crash in between left them open or not.
    let (mut next, mut names) = (resume(plan, Stage::Started), Vec::new());
    while let (state, Some(effect)) = next {
        names.push(effect.name());
        next = step(state, Event::Done);
    }
    assert_eq!(names, ["turn back", "lock again", "journal aborted"]);
}

#[test]
fn a_write_past_the_fence_is_waited_for_before_the_point_of_no_return() {
    let mut world = World::new(7);
    let mut plan = world.plan();
    plan.fenced = false;
    plan.way_back = false;
    let mut next = begin(plan);
    // The source moves once more after its position was read.
    let mut positions = [5, 6, 6, 6].into_iter();
    let mut waited = Vec::new();
    let switched_at = loop {
        let (state, Some(effect)) = next else { panic!("it ended early") };
        let event = match effect {
            Effect::ReadPosition => Event::Position(position(positions.next().unwrap())),
            Effect::WaitApplied(until) => {
                waited.push(until.coordinates.offset);
                Event::Done
            }
            Effect::AskVerdict => Event::Verdict(Verdict::Equal { rows: 1 }),
            Effect::Record(Entry::Switched { position, .. }) => break position.coordinates.offset,
            _ => Event::Done,
        };
        next = step(state, event);
    };
    assert_eq!((waited, switched_at), (vec![5, 6], 6));
}

/// Once nothing is applied any more there is nobody to wait for: a write past the fence then undoes the cutover.
#[test]
fn a_write_past_the_fence_at_the_last_moment_undoes_it() {
    let mut world = World::new(7);
    let mut plan = world.plan();
    (plan.fenced, plan.way_back) = (true, false);
    let mut next = begin(plan);
    let mut positions = [5, 5, 6].into_iter();
    let mut names = Vec::new();
    while let (state, Some(effect)) = next {
        names.push(effect.name());
        let event = match effect {
            Effect::ReadPosition => Event::Position(position(positions.next().unwrap())),
            Effect::Inspect => {
                Event::Inspected(FenceBefore { read_only: false, super_read_only: None, accounts: None })
            }
            Effect::AskVerdict => Event::Verdict(Verdict::Equal { rows: 1 }),
            _ => Event::Done,
        };
        next = step(state, event);
    }
    assert_eq!(next.0, State::Ended(Outcome::Aborted));
    assert_eq!(names[names.len() - 5..], ["unfence", "open", "turn back", "let go", "journal aborted"]);
}
