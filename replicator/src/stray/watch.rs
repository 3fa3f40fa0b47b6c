//! One watch: what was seen of a side, and what of it is stray.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::progress::{ReplicationPosition, StrayWrites};
use config::{BinlogPosition, Flavor, Side, TableName};
use tokio::sync::watch;

use super::book::{Book, described, place};
use super::parse_position;
use super::sight::{Seen, Sighting};
use crate::error::{Error, Result};
use crate::handle::lock;
use crate::pipeline::Context;
use crate::state::StoredPosition;
use crate::verify::Verifier;

/// Transactions that a watch ahead of a cutover remembers: those behind the final position are among the last ones.
const REMEMBERED_MAX: usize = 10_000;
/// Between two events about the same thing.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often the position is written down where nothing was found.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// How often what was found is, at most.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// A watch.
#[derive(Debug)]
pub(super) struct Watch {
    side: Side,
    seen: watch::Sender<BinlogPosition>,
    /// The log is being read.
    reads: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reached: Option<ReplicationPosition>,
    /// A watch ahead of the cutover hadn't read that far when the side was left: what comes up to there was written while it
    /// still served.
    served_until: Option<BinlogPosition>,
    /// Tables without transactions: what changes them can't be marked as ours.
    unmarked: HashSet<TableName>,
    kept: Kept,
    /// Transactions found by this process.
    total: u64,
    /// Found since the last event said so.
    unsaid: u64,
    said_at: Option<Instant>,
    found_unwritten: bool,
    moved: bool,
    written_at: Instant,
}

#[derive(Debug)]
enum Kept {
    /// Ahead of a cutover nobody knows yet which of them will be behind the final position.
    Ahead { recent: VecDeque<(BinlogPosition, Sighting)>, forgotten: Option<BinlogPosition> },
    /// The side was left: whatever isn't ours is stray.
    Left(Book),
}

impl Watch {
    pub(super) fn ahead(side: Side, from: ReplicationPosition) -> Self {
        let kept = Kept::Ahead { recent: VecDeque::new(), forgotten: None };
        Self::new(side, Some(from), kept)
    }

    pub(super) fn left(side: Side, book: Book) -> Self {
        let reached = book.reached.as_ref().and_then(|reached| reached.read().ok());
        Self::new(side, reached, Kept::Left(book))
    }

    fn new(side: Side, reached: Option<ReplicationPosition>, kept: Kept) -> Self {
        let seen = reached.as_ref().map(|reached| reached.coordinates.clone()).unwrap_or_default();
        let state = State {
            reached,
            served_until: None,
            unmarked: HashSet::new(),
            kept,
            total: 0,
            unsaid: 0,
            said_at: None,
            found_unwritten: false,
            moved: false,
            written_at: Instant::now(),
        };
        Self { side, seen: watch::Sender::new(seen), reads: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// A connection reads the log, or doesn't any more.
    pub(super) fn set_reads(&self, reads: bool) {
        self.reads.store(reads, Ordering::Release);
    }

    pub(super) fn set_unmarked(&self, unmarked: HashSet<TableName>) {
        lock(&self.state).unmarked = unmarked;
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    pub(super) fn is_since(&self, side: Side, since: &str) -> bool {
        self.side == side && matches!(&lock(&self.state).kept, Kept::Left(book) if book.since == since)
    }

    /// True where what came before is past finding out.
    pub(super) fn begins_anew(&self) -> bool {
        self.of_book(|book| book.anew).unwrap_or_default()
    }

    /// It goes on where the server stands now.
    pub(super) fn begin_at(&self, now: ReplicationPosition, state_dir: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        if let Kept::Left(book) = &mut state.kept {
            book.anew = false;
        }
        let end = now.coordinates.clone();
        state.reached = Some(now);
        state.write(state_dir)?;
        drop(state);
        self.advance(&end);
        Ok(())
    }

    /// Where to go on, on a server of that family.
    pub(super) fn reached(&self, flavor: Flavor) -> Result<ReplicationPosition> {
        let mut state = lock(&self.state);
        state.served_until = None;
        if let Some(reached) = &state.reached {
            return Ok(reached.clone());
        }
        let Kept::Left(book) = &state.kept else {
            return Err(Error::bug("stray writes", "a watch without a begin"));
        };
        let since = parse_position(flavor, &book.since)?;
        state.reached = Some(since.clone());
        drop(state);
        self.seen
            .send_if_modified(|seen| std::mem::replace(seen, since.coordinates.clone()) != since.coordinates);
        Ok(since)
    }

    /// The side was left at `since`: of what was seen, that behind it is stray. Returns the tables.
    pub(super) fn settle(&self, since: &str, state_dir: &Path) -> Result<Vec<TableName>> {
        let mut state = lock(&self.state);
        let flavor = state.reached.as_ref().map(|reached| reached.gtids.flavor());
        let flavor = flavor.ok_or_else(|| Error::bug("stray writes", "a watch without a begin"))?;
        let left_at = parse_position(flavor, since)?;
        let at = left_at.coordinates.clone();
        let mut book = Book::new(self.side, since);
        let kept = std::mem::replace(&mut state.kept, Kept::Left(book.clone()));
        let mut tables = Vec::new();
        if let Kept::Ahead { recent, forgotten } = kept {
            if forgotten.is_some_and(|forgotten| forgotten > at) {
                book.blind = Some("more was written during the cutover than was remembered".to_owned());
            }
            for (end, mut sighting) in recent.into_iter().filter(|(end, _)| *end > at) {
                sighting.written.retain(|_, written| written.is_of_table());
                if sighting.written.is_empty() {
                    continue;
                }
                let new = !book.knows_all(&sighting);
                tables.extend(book.enter(&sighting, &end));
                state.found(self.side, &sighting, &end, new);
            }
        }
        if state.reached.as_ref().is_some_and(|reached| reached.coordinates < at) {
            (state.reached, state.served_until) = (Some(left_at), Some(at));
        }
        book.reached = state.reached.as_ref().map(StoredPosition::from);
        book.write(state_dir)?;
        (state.found_unwritten, state.moved, state.written_at) = (false, false, Instant::now());
        state.kept = Kept::Left(book);
        Ok(tables)
    }

    /// What the tail has read: `end` is where the log stands behind it. Returns the tables that something stray was found in.
    pub(super) fn note(&self, seen: Seen, end: &BinlogPosition) -> Vec<TableName> {
        let mut state = lock(&self.state);
        if state.served_until.as_ref().is_some_and(|until| end <= until) {
            return Vec::new();
        }
        let gtid = match &seen {
            Seen::Nothing => None,
            Seen::Ended(gtid) => gtid.clone(),
            Seen::Stray(sighting) => sighting.gtid.clone(),
        };
        if let Some(reached) = &mut state.reached {
            if reached.gtids.is_anonymous() && *end <= reached.coordinates {
                // A server without GTIDs may begin earlier than it was asked to.
                return Vec::new();
            }
            if let Some(gtid) = &gtid {
                reached.gtids.add(gtid);
            }
            if *end > reached.coordinates {
                reached.coordinates.clone_from(end);
            }
            state.moved = true;
        }
        let Seen::Stray(mut sighting) = seen else { return Vec::new() };
        let state = &mut *state;
        match &mut state.kept {
            Kept::Ahead { recent, forgotten } => {
                if recent.len() >= REMEMBERED_MAX {
                    *forgotten = recent.pop_front().map(|(end, _)| end);
                }
                recent.push_back((end.clone(), sighting));
                Vec::new()
            }
            Kept::Left(book) => {
                let unmarked = &state.unmarked;
                sighting.written.retain(|name, written| written.is_of_table() && !unmarked.contains(name));
                if sighting.written.is_empty() {
                    return Vec::new();
                }
                let new = !book.knows_all(&sighting);
                let tables = book.enter(&sighting, end);
                state.found(self.side, &sighting, end, new);
                tables
            }
        }
    }

    /// Everything up to `end` was looked at, and noted before.
    pub(super) fn advance(&self, end: &BinlogPosition) {
        self.seen.send_if_modified(|seen| {
            let further = end > seen;
            if further {
                seen.clone_from(end);
            }
            further
        });
    }

    /// Returns once everything up to there was looked at. Cancel safety: yes.
    ///
    /// # Errors
    /// Nobody looks at present.
    pub(super) async fn seen(&self, position: &BinlogPosition) -> Result<()> {
        if *self.seen.borrow() < *position && !self.reads.load(Ordering::Acquire) {
            let what = "its binlog can't be read at present, so what others write there isn't known; SHOW EVENTS says why";
            return Err(Error::transient(self.side, "stray writes", what));
        }
        // The sender lives as long as `self` is borrowed, so the only way out is the condition.
        drop(self.seen.subscribe().wait_for(|seen| seen >= position).await);
        Ok(())
    }

    /// Transactions behind `from` that wrote to tables of the migration.
    pub(super) fn touched_behind(&self, from: &BinlogPosition) -> u64 {
        match &lock(&self.state).kept {
            Kept::Ahead { recent, forgotten } => {
                let forgotten = forgotten.as_ref().is_some_and(|forgotten| forgotten > from);
                recent.iter().filter(|(end, _)| end > from).count() as u64 + u64::from(forgotten)
            }
            Kept::Left(book) => book.transactions(),
        }
    }

    /// What has happened can't be found out.
    pub(super) fn blind(&self, error: &Error) {
        let mut state = lock(&self.state);
        if let Kept::Left(book) = &mut state.kept
            && book.blind.is_none()
        {
            tracing::error!(
                area = "stray",
                "what others write on the {}, which doesn't serve, can't be watched: {error}",
                self.side
            );
            book.blind = Some(error.to_string());
            state.found_unwritten = true;
        }
    }

    /// Writes down what there is, and says what wasn't said, where it is time for that.
    pub(super) fn keep_up(&self, state_dir: &Path) {
        let mut state = lock(&self.state);
        if state.unsaid > 0 && state.said_at.is_none_or(|at| at.elapsed() > SAY_EVERY) {
            let (unsaid, side) = (state.unsaid, self.side);
            tracing::error!(
                area = "stray",
                "{unsaid} more transaction(s) of others on the {side}, which doesn't serve; SHOW STRAY WRITES sums them up"
            );
            (state.unsaid, state.said_at) = (0, Some(Instant::now()));
        }
        let since = state.written_at.elapsed();
        let due = (state.found_unwritten && since > WRITE_AGAIN) || (state.moved && since > WRITE_EVERY);
        if due && let Err(error) = state.write(state_dir) {
            tracing::warn!(area = "stray", "what was found of stray writes can't be written down: {error}");
        }
    }

    /// Has the verifier compare tables that something stray was found in.
    pub(super) fn compare(&self, context: &Context, tables: &[TableName]) {
        if let Some(verifier) = context.live.verifier().filter(|_| !tables.is_empty()) {
            request(&verifier, tables);
        }
    }

    pub(super) fn tables_to_compare(&self) -> Vec<TableName> {
        self.of_book(|book| {
            let mut tables = book.tables();
            if book.blind.is_some() {
                tables.push(TableName::new("", ""));
            }
            tables
        })
        .unwrap_or_default()
    }

    fn of_book<T>(&self, ask: impl FnOnce(&Book) -> T) -> Option<T> {
        match &lock(&self.state).kept {
            Kept::Ahead { .. } => None,
            Kept::Left(book) => Some(ask(book)),
        }
    }

    pub(super) fn rows(&self) -> Vec<StrayWrites> {
        self.of_book(|book| book.rows(self.side)).unwrap_or_default()
    }

    pub(super) fn open(&self) -> u64 {
        self.of_book(Book::transactions).unwrap_or_default()
    }

    pub(super) fn total(&self) -> u64 {
        lock(&self.state).total
    }

    pub(super) fn said(&self) -> Option<String> {
        self.of_book(|book| book.said(self.side)).flatten()
    }

    /// Returns how many transactions it was.
    pub(super) fn acknowledge(&self, state_dir: &Path) -> Result<u64> {
        let mut state = lock(&self.state);
        let Kept::Left(book) = &mut state.kept else { return Ok(0) };
        let before = book.clone();
        let acknowledged = book.transactions();
        book.acknowledge();
        if let Err(error) = state.write(state_dir) {
            state.kept = Kept::Left(before);
            return Err(error);
        }
        tracing::warn!(
            area = "stray",
            "{acknowledged} stray transaction(s) on the {} were acknowledged",
            self.side
        );
        Ok(acknowledged)
    }
}

impl State {
    /// `new`: in a table that nobody has heard of yet.
    fn found(&mut self, side: Side, sighting: &Sighting, end: &BinlogPosition, new: bool) {
        self.total += 1;
        self.found_unwritten = true;
        if !new && self.said_at.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            self.unsaid += 1;
            return;
        }
        tracing::error!(
            area = "stray",
            "stray write on the {side}, which doesn't serve: {} at {}; it is on that server alone, and no rollback is \
             possible before it was dealt with (SHOW STRAY WRITES)",
            described(&sighting.written),
            place(sighting.gtid.as_ref(), end)
        );
        self.said_at = Some(Instant::now());
    }

    fn write(&mut self, state_dir: &Path) -> Result<()> {
        let reached = self.reached.as_ref().map(StoredPosition::from);
        if let Kept::Left(book) = &mut self.kept {
            book.reached = reached;
            book.write(state_dir)?;
        }
        (self.found_unwritten, self.moved, self.written_at) = (false, false, Instant::now());
        Ok(())
    }
}

/// Asks for a whole pass over these tables; a table without a name stands for all of them.
pub(super) fn request(verifier: &Verifier, tables: &[TableName]) {
    for table in tables {
        // One that isn't part of the migration, as the verifier knows it, may be any.
        if verifier.request(Some(table)).is_err() {
            drop(verifier.request(None));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use super::super::sight::Written;
    use super::*;

    const SINCE: &str = "0-1-4 (b.1:40)";

    fn position(gtids: &str, offset: u64) -> ReplicationPosition {
        parse_position(Flavor::MariaDb, &format!("{gtids} (b.1:{offset})")).unwrap()
    }

    fn writes(watch: &Watch, sequence: u64) -> usize {
        let written = Written { rows: 1, ..Written::default() };
        let gtid = Some(format!("0-1-{sequence}").parse().unwrap());
        let written = BTreeMap::from([(TableName::new("shop", "a"), written)]);
        let end = BinlogPosition { file: "b.1".to_owned(), offset: sequence * 10 };
        let tables = watch.note(Seen::Stray(Sighting { gtid, written }), &end);
        watch.advance(&end);
        tables.len()
    }

    #[test]
    fn what_was_written_while_the_side_served_is_not_stray() {
        let folder = tempfile::tempdir().unwrap();
        let all_seen = Watch::ahead(Side::Source, position("0-1-1", 10));
        for sequence in 2..=5 {
            assert_eq!(writes(&all_seen, sequence), 0, "nobody knows yet");
        }
        assert_eq!(all_seen.settle(SINCE, folder.path()).unwrap().len(), 1);
        assert_eq!((writes(&all_seen, 6), all_seen.open()), (1, 2));

        // Its connection was slower than the cutover.
        let late = Watch::ahead(Side::Source, position("0-1-1", 10));
        assert_eq!(writes(&late, 2), 0);
        assert_eq!(late.settle(SINCE, folder.path()).unwrap(), []);
        assert_eq!((writes(&late, 3), writes(&late, 4), late.said()), (0, 0, None));
        assert_eq!((writes(&late, 5), writes(&late, 6), late.open()), (1, 1, 2));
    }

    #[test]
    fn a_late_watch_begins_where_the_side_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let late = Watch::ahead(Side::Source, position("0-1-1", 10));
        late.settle(SINCE, folder.path()).unwrap();
        // It connects only now, or again, or after a restart.
        assert_eq!(late.reached(Flavor::MariaDb).unwrap(), position("0-1-4", 40));
        let book = Book::of(folder.path(), Side::Source, SINCE).unwrap();
        let restarted = Watch::left(Side::Source, book);
        assert_eq!(restarted.reached(Flavor::MariaDb).unwrap(), position("0-1-4", 40));
        assert_eq!((writes(&restarted, 5), writes(&late, 5)), (1, 1));
    }
}
