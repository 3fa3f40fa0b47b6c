//! Copy and replay as a model that a checker walks through, whole: every history of a small table, every order of reads,
//! loads and batches, a crash at every place.
//!
//! What decides is the code that decides in the product: [`Net`] makes the steps of a batch, [`Plans`] its keys, [`Running`]
//! says which batches may run side by side. Modelled are the two servers (a table with a primary key and a unique column; the source
//! writes its binlog before others see the rows), the chunks, their journal and the checkpoint.
//!
//! | in the model | in the product |
//! |---|---|
//! | `start`, P0 | the start position: nothing before it that a later read can't see |
//! | `end`, P1 | taken when the last chunk is journalled: safe mode up to here, exact mode behind it |
//! | `Read`, `Load`, `Journal` of a chunk | `snapshot/worker.rs`; a chunk here is one key |
//! | `Begin`, `Commit` of a batch | `scheduler.rs`, `worker.rs`: rows and position in one transaction |
//! | `Crash` | kill -9: what isn't journalled or committed is gone |
//!
//! A transaction that is applied in parts is several of them here, between which nobody happens to read: what holds for every
//! moment of reading holds for fewer.
//!
//! Checked in every state: where everything up to a position behind P1 is applied, the target equals the source there (invariant 4);
//! exact mode has found every row that it needs, and no key twice (invariant 5, and 1: a change that is lost or done twice shows as
//! one of them). The barrier between the two modes is modelled because the scheduler has it; without it nothing was found in
//! histories of three transactions. So that it is known to see something, the checker also has to find what is wrong with each [`Flaw`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Debug;
use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::graph::Running;
use super::net::{Net, Row};
use super::sample::{change, delete, insert, int_row, table, update};
use super::statement::Mode;
use super::writeset::{Plans, WriteSet};
use crate::binlog::transaction::RowsChange;
use crate::schema::table::{SchemaSet, TableSchema};
use crate::value::Value;

/// Keys of the table. A chunk is one of them.
const KEYS: usize = 2;
/// Values of the unique column are 1 and 2.
const VALUES: u8 = 2;
/// Transactions in a batch, at most.
const BATCH_MAX: usize = 2;

/// A table: the unique value of the row with that key, where there is one.
type Rows = [Option<u8>; KEYS];

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Nothing.
    None,
    /// P0 is the end of the binlog, before its last transaction can be read.
    StartsAtTheLog,
    /// P1 is taken before the last chunk is read.
    EndsBeforeTheLastRead,
    /// There is no safe mode.
    ExactFromTheStart,
    /// Safe mode goes on for one transaction less.
    SafeModeIsShort,
    /// A chunk is journalled before it is loaded.
    JournalledBeforeLoaded,
    /// The position is written behind the rows, in a transaction of its own.
    PositionApart,
    /// Batches run side by side whatever they touch.
    NoWriteSets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Chunk {
    Waiting,
    Read(Option<u8>),
    /// [`Flaw::JournalledBeforeLoaded`]: the journal says that it is loaded.
    Promised(Option<u8>),
    Loaded,
    Journalled,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// The source's table after each of its transactions; the first is the one before them all.
    history: Vec<Rows>,
    /// So many transactions can be read; the last one of the binlog may not be among them yet.
    visible: usize,
    start: Option<usize>,
    end: Option<usize>,
    chunks: [Chunk; KEYS],
    target: Rows,
    /// Transactions that the checkpoint says are applied; a bit each, from 0.
    applied: u8,
    /// Batches that are begun, from (inclusive) and to (exclusive), and whether their rows are in.
    running: Vec<(usize, usize, bool)>,
    /// The first transaction that isn't in a batch yet.
    next: usize,
    last_mode_is_exact: Option<bool>,
    crashes_left: u8,
    /// What stopped the replay.
    stopped: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Write(Rows),
    BecomeVisible,
    TakeStart,
    Read(usize),
    Load(usize),
    Journal(usize),
    TakeEnd,
    Begin { from: usize, to: usize },
    Commit(usize),
    WritePosition(usize),
    Crash,
}

struct CopyAndReplay {
    flaw: Flaw,
    transactions_max: usize,
    table: Arc<TableSchema>,
    plans: Plans,
}

impl CopyAndReplay {
    fn new(flaw: Flaw, transactions_max: usize) -> Self {
        let table = table("t", 2, &[&[0], &[1]]);
        let plans = Plans::new(&SchemaSet::new(vec![TableSchema::clone(&table)]), true);
        Self { flaw, transactions_max, table, plans }
    }

    /// Row images of the transaction behind `history[number]`, as the binlog has them.
    fn images(&self, history: &[Rows], number: usize) -> RowsChange {
        let (before, after) = (history[number], history[number + 1]);
        let image = |key: usize, value: u8| int_row(&[key as i64, i64::from(value)]);
        let rows = (0..KEYS).filter_map(|key| match (before[key], after[key]) {
            (None, Some(new)) => Some(insert(image(key, new))),
            (Some(old), None) => Some(delete(image(key, old))),
            (Some(old), Some(new)) if old != new => Some(update(image(key, old), image(key, new))),
            _ => None,
        });
        change(&self.table, rows.collect())
    }

    fn keys(&self, history: &[Rows], from: usize, to: usize) -> WriteSet {
        let mut keys = WriteSet::default();
        if self.flaw != Flaw::NoWriteSets {
            for number in from..to {
                self.plans.collect(&self.images(history, number), &mut keys).unwrap();
            }
        }
        keys
    }

    fn mode(&self, world: &World, number: usize) -> Mode {
        let end = world.end.unwrap_or(0);
        let end = if self.flaw == Flaw::SafeModeIsShort { end.saturating_sub(1) } else { end };
        if number < end && self.flaw != Flaw::ExactFromTheStart { Mode::Safe } else { Mode::Exact }
    }

    /// As the scheduler decides it.
    fn may_begin(&self, world: &World, from: usize, to: usize) -> bool {
        let mode = self.mode(world, from);
        let is_exact = mode == Mode::Exact;
        let barrier = world.last_mode_is_exact.is_some_and(|last| last != is_exact);
        let mut running = Running::default();
        for &(from, to, _) in &world.running {
            running.start(&self.keys(&world.history, from, to));
        }
        (from..to).all(|number| self.mode(world, number) == mode && !world.is_applied(number))
            && (!barrier || running.is_empty())
            && running.admits(&self.keys(&world.history, from, to))
    }

    /// What a batch does to the target, or why it can't.
    fn apply(&self, world: &mut World, from: usize, to: usize) {
        let changes: Vec<RowsChange> = (from..to).map(|n| self.images(&world.history, n)).collect();
        let mut net = Net::default();
        changes.iter().for_each(|change| net.add(change));
        let [table] = net.tables() else { return };
        let mut target = world.target;
        let mut stopped = None;
        match self.mode(world, from) {
            Mode::Safe => {
                let steps = table.safe();
                steps.deletes.iter().for_each(|row| target[key_of(row)] = None);
                steps.replaces.iter().for_each(|row| replace(&mut target, key_of(row), value_of(row)));
            }
            Mode::Exact => {
                let steps = table.exact();
                let updated = steps.updates.iter().map(|(before, _)| before);
                for row in steps.deletes.iter().chain(updated) {
                    if target[key_of(row)].is_none() {
                        stopped = Some("a row isn't there");
                    }
                }
                steps.deletes.iter().for_each(|row| target[key_of(row)] = None);
                steps.updates.iter().for_each(|(_, after)| target[key_of(after)] = Some(value_of(after)));
                for row in &steps.inserts {
                    let value = Some(value_of(row));
                    if target[key_of(row)].is_some() || target.contains(&value) {
                        stopped = Some("a key is there already");
                    }
                    target[key_of(row)] = value;
                }
            }
        }
        (world.target, world.stopped) = (target, stopped);
    }
}

fn key_of(row: &Row) -> usize {
    let Value::Int(key) = row[0] else { panic!("{row:?}") };
    usize::try_from(key).unwrap()
}

fn value_of(row: &Row) -> u8 {
    let Value::Int(value) = row[1] else { panic!("{row:?}") };
    u8::try_from(value).unwrap()
}

/// REPLACE: whatever holds the unique value goes.
fn replace(rows: &mut Rows, key: usize, value: u8) {
    for row in rows.iter_mut().filter(|row| **row == Some(value)) {
        *row = None;
    }
    rows[key] = Some(value);
}

/// Every table that a server would allow.
fn tables() -> Vec<Rows> {
    let cells: Vec<Option<u8>> = std::iter::once(None).chain((1..=VALUES).map(Some)).collect();
    let pairs = cells.iter().flat_map(|a| cells.iter().map(|b| [*a, *b]));
    pairs.filter(|[a, b]| a.is_none() || a != b).collect()
}

impl World {
    fn is_applied(&self, number: usize) -> bool {
        self.applied & (1 << number) != 0
    }

    /// Everything before it is applied; `None` before the replay.
    fn low_water(&self) -> Option<usize> {
        let start = self.start?;
        Some((start..).find(|&number| !self.is_applied(number)).unwrap_or(start))
    }

    fn logged(&self) -> usize {
        self.history.len() - 1
    }

    fn are_all(&self, chunks: fn(&Chunk) -> bool) -> bool {
        self.chunks.iter().all(chunks)
    }

    /// Only what is on disk is left: the binlog, the chunk journal, P0 and P1, the target with its checkpoint.
    fn crash(&mut self) {
        self.crashes_left -= 1;
        for chunk in &mut self.chunks {
            let is_journalled = matches!(chunk, Chunk::Journalled | Chunk::Promised(_));
            *chunk = if is_journalled { Chunk::Journalled } else { Chunk::Waiting };
        }
        self.running.clear();
        self.last_mode_is_exact = None;
        self.next = self.low_water().unwrap_or(0);
    }
}

impl Model for CopyAndReplay {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let world = |rows| World {
            history: vec![rows],
            visible: 0,
            start: None,
            end: None,
            chunks: [Chunk::Waiting; KEYS],
            target: [None; KEYS],
            applied: 0,
            running: Vec::new(),
            next: 0,
            last_mode_is_exact: None,
            crashes_left: 1,
            stopped: None,
        };
        tables().into_iter().map(world).collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.stopped.is_some() {
            return;
        }
        let (flaw, logged) = (self.flaw, world.logged());
        if world.visible < logged {
            steps.push(Step::BecomeVisible);
        } else if logged < self.transactions_max {
            let now = world.history[logged];
            steps.extend(tables().into_iter().filter(|rows| *rows != now).map(Step::Write));
        }
        if world.start.is_none() {
            steps.push(Step::TakeStart);
            return;
        }
        for (number, chunk) in world.chunks.iter().enumerate() {
            steps.extend(match chunk {
                Chunk::Waiting => Some(Step::Read(number)),
                Chunk::Read(_) if flaw == Flaw::JournalledBeforeLoaded => Some(Step::Journal(number)),
                Chunk::Read(_) | Chunk::Promised(_) => Some(Step::Load(number)),
                Chunk::Loaded => Some(Step::Journal(number)),
                Chunk::Journalled => None,
            });
        }
        let is_read = |chunk: &Chunk| *chunk != Chunk::Waiting;
        let may_end = match flaw {
            Flaw::EndsBeforeTheLastRead => world.chunks.iter().any(is_read),
            _ => world.are_all(|chunk| *chunk == Chunk::Journalled),
        };
        if world.end.is_none() && may_end {
            steps.push(Step::TakeEnd);
        }
        if world.end.is_some() && world.are_all(|chunk| *chunk == Chunk::Journalled) {
            let from = (world.next..logged).find(|&number| !world.is_applied(number));
            let ends = |from: usize| (from + 1..=logged.min(from + BATCH_MAX)).map(move |to| (from, to));
            let batches = from.into_iter().flat_map(ends);
            let begun = batches.filter(|&(from, to)| self.may_begin(world, from, to));
            steps.extend(begun.map(|(from, to)| Step::Begin { from, to }));
            for (number, (_, _, has_rows)) in world.running.iter().enumerate() {
                steps.push(if *has_rows { Step::WritePosition(number) } else { Step::Commit(number) });
            }
        }
        if world.crashes_left > 0 {
            steps.push(Step::Crash);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Write(rows) => world.history.push(rows),
            Step::BecomeVisible => world.visible = world.logged(),
            Step::TakeStart => {
                let at = if self.flaw == Flaw::StartsAtTheLog { world.logged() } else { world.visible };
                (world.start, world.next) = (Some(at), at);
            }
            Step::Read(number) => world.chunks[number] = Chunk::Read(world.history[world.visible][number]),
            Step::Load(number) => {
                let (row, after) = match world.chunks[number] {
                    Chunk::Read(row) => (row, Chunk::Loaded),
                    Chunk::Promised(row) => (row, Chunk::Journalled),
                    _ => return None,
                };
                row.into_iter().for_each(|value| replace(&mut world.target, number, value));
                world.chunks[number] = after;
            }
            Step::Journal(number) => {
                world.chunks[number] = match world.chunks[number] {
                    Chunk::Read(row) => Chunk::Promised(row),
                    _ => Chunk::Journalled,
                };
            }
            Step::TakeEnd => world.end = Some(world.logged()),
            Step::Begin { from, to } => {
                world.last_mode_is_exact = Some(self.mode(&world, from) == Mode::Exact);
                world.running.push((from, to, false));
                world.next = to;
            }
            Step::Commit(number) => {
                let (from, to, _) = world.running[number];
                self.apply(&mut world, from, to);
                if self.flaw == Flaw::PositionApart {
                    world.running[number].2 = true;
                } else {
                    world.finish(number);
                }
            }
            Step::WritePosition(number) => world.finish(number),
            Step::Crash => world.crash(),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("invariant 4: equal at a position", |_: &Self, world: &World| {
                let (Some(low), Some(end)) = (world.low_water(), world.end) else { return true };
                // Batches above the low water are in already.
                let whole = world.applied.count_ones() as usize == low - world.start.unwrap_or(0);
                let settled = world.running.iter().all(|(_, _, has_rows)| !has_rows);
                low < end || !whole || !settled || world.target == world.history[low]
            }),
            Property::always("invariant 5: every row is found", |_: &Self, world: &World| {
                world.stopped.is_none()
            }),
            Property::sometimes("everything is applied", |model: &Self, world: &World| {
                world.logged() == model.transactions_max && world.low_water() == Some(model.transactions_max)
            }),
            Property::sometimes("batches run side by side", |_: &Self, world: &World| {
                world.running.len() > 1
            }),
        ]
    }
}

impl World {
    fn finish(&mut self, number: usize) {
        let (from, to, _) = self.running.remove(number);
        (from..to).for_each(|transaction| self.applied |= 1 << transaction);
    }
}

/// Goes through every state, or to the first that breaks something.
fn walk(flaw: Flaw, transactions_max: usize) -> impl Checker<CopyAndReplay> {
    let model = CopyAndReplay::new(flaw, transactions_max);
    model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
}

#[test]
fn every_order_ends_with_equal_tables() {
    let checker = walk(Flaw::None, 3);
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
}

#[test]
fn the_checker_sees_what_is_wrong() {
    for (flaw, transactions_max) in [
        (Flaw::StartsAtTheLog, 1),
        (Flaw::EndsBeforeTheLastRead, 2),
        (Flaw::ExactFromTheStart, 1),
        (Flaw::SafeModeIsShort, 1),
        (Flaw::JournalledBeforeLoaded, 1),
        (Flaw::PositionApart, 2),
        (Flaw::NoWriteSets, 2),
    ] {
        let checker = walk(flaw, transactions_max);
        let broken = ["invariant 4: equal at a position", "invariant 5: every row is found"];
        assert!(broken.iter().any(|name| checker.discovery(name).is_some()), "{flaw:?} wasn't noticed");
    }
}
