//! Stray writes: what others than Changeover write to tables of the migration on the side that doesn't serve.
//!
//! Nobody replicates them, so they are in that server alone, whatever the fence was meant to keep out. That side's binary
//! log is read for as long as the migration lasts, from the position at which it stopped serving. What is found there and
//! isn't ours ([`own`]) is an alarm: it is counted, shown, makes its tables be compared anew, and keeps a rollback away until
//! an operator has said that it was seen.
//!
//! A watch begins ahead of a cutover, on the side that still serves, so that the pause needn't pay for its connection. Until
//! the swap it only remembers; what it saw behind the final position is the answer to whether tables of the migration were
//! written behind the fence, on a server on which others go on writing ([`Strays::touched_behind`]).

mod book;
pub(crate) mod own;
mod sight;
mod tail;
mod watch;

use std::path::Path;
use std::sync::{Arc, Mutex};

use config::progress::{MigrationStatus, ReplicationPosition, StrayWrites};
use config::{Flavor, GtidSet, Side, TableName};
use tokio_util::sync::CancellationToken;

use self::book::Book;
use self::watch::Watch;
use crate::error::{Error, Result};
use crate::handle::lock;
use crate::pipeline::Context;
use crate::verify::Verifier;

/// What an operator does about them.
const REMEDY: &str = "look at SHOW STRAY WRITES and SHOW DIFFERENCES, bring what is wanted of them to the side that serves, \
                      REPAIR, then ACKNOWLEDGE STRAY WRITES";

/// The watches of a migration.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    /// Of the side that was left.
    left: Mutex<Option<Running>>,
    /// Of the side that a cutover under way is about to leave.
    ahead: Mutex<Option<Running>>,
}

/// A watch whose task runs.
#[derive(Debug)]
struct Running {
    watch: Arc<Watch>,
    cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Running {
    fn start(context: &Arc<Context>, watch: Watch) -> Self {
        let (watch, cancel) = (Arc::new(watch), CancellationToken::new());
        // It ends with its token, which its owner cancels when it is dropped.
        tokio::spawn(tail::run(Arc::clone(context), Arc::clone(&watch), cancel.clone()));
        Self { watch, cancel }
    }
}

impl Strays {
    /// A cutover prepares to leave `side`, of which everything up to `from` was seen.
    pub(crate) fn watch_ahead(&self, context: &Arc<Context>, side: Side, from: ReplicationPosition) {
        *lock(&self.ahead) = Some(Running::start(context, Watch::ahead(side, from)));
    }

    /// The cutover has come to its end, whichever.
    pub(crate) fn let_go(&self) {
        *lock(&self.ahead) = None;
    }

    /// The side that was left is about to serve: what is written there from here on is the application's.
    pub(crate) fn turn(&self) {
        *lock(&self.left) = None;
    }

    /// `side` was left at `since`, a position as the cutover journal has it. Idempotent; after a restart it goes on where
    /// the process before it stood.
    ///
    /// # Errors
    /// `stray.json` is damaged or can't be written.
    pub(crate) fn watch(&self, context: &Arc<Context>, side: Side, since: &str) -> Result<()> {
        let mut left = lock(&self.left);
        if left.as_ref().is_some_and(|running| running.watch.is_since(side, since)) {
            return Ok(());
        }
        *left = None;
        let state_dir = &context.config.state_dir;
        let ahead = lock(&self.ahead).take().filter(|running| running.watch.side() == side);
        *left = Some(match ahead {
            Some(running) => {
                let found = running.watch.settle(since, state_dir)?;
                running.watch.compare(context, &found);
                running
            }
            None => Running::start(context, Watch::left(side, Book::of(state_dir, side, since)?)),
        });
        Ok(())
    }

    /// Nobody is watched any more.
    pub(crate) fn unwatch(&self, state_dir: &Path) {
        *lock(&self.left) = None;
        Book::forget(state_dir);
    }

    fn of_left<T>(&self, ask: impl FnOnce(&Watch) -> T) -> Option<T> {
        lock(&self.left).as_ref().map(|running| ask(&running.watch))
    }

    /// For SHOW STRAY WRITES.
    pub(crate) fn rows(&self) -> Vec<StrayWrites> {
        self.of_left(Watch::rows).unwrap_or_default()
    }

    /// Puts what is open into the status.
    pub(crate) fn add_to(&self, status: &mut MigrationStatus) {
        let Some((open, total, said)) = self.of_left(|watch| (watch.open(), watch.total(), watch.said()))
        else {
            return;
        };
        (status.stray_writes, status.stray_writes_total) = (open, total);
        if let Some(said) = said {
            let said = format!("{said}; {REMEDY}");
            status.last_error = Some(match status.last_error.take() {
                Some(error) => format!("{error}; {said}"),
                None => said,
            });
        }
    }

    /// Why a cutover to `to` has to wait for an operator.
    pub(crate) fn refusal(&self, to: Side) -> Option<String> {
        let said = self.of_left(|watch| if watch.side() == to { watch.said() } else { None }).flatten()?;
        Some(format!("{said}; {REMEDY}"))
    }

    /// ACKNOWLEDGE STRAY WRITES: they were seen, and don't keep a rollback away any more.
    ///
    /// # Errors
    /// There are none, or their tables weren't compared since, or differ.
    pub(crate) fn acknowledge(&self, context: &Context) -> Result<u64> {
        const PLACE: &str = "ACKNOWLEDGE STRAY WRITES";
        let refused = |why: String| Error::definite(None, PLACE, why);
        let left = lock(&self.left);
        let Some(running) = left.as_ref().filter(|running| running.watch.said().is_some()) else {
            return Err(refused("there are none that nobody has acknowledged".to_owned()));
        };
        // Without a way back nothing will ever rely on that side again.
        let over = lock(&context.file).get().is_none_or(|state| state.is_over());
        if !over {
            let verifier = context.live.verifier();
            let verifier =
                verifier.ok_or_else(|| refused("nothing is verified yet; wait for it".to_owned()))?;
            if let Some(why) = unproven(&verifier, &running.watch.tables_to_compare()) {
                return Err(refused(why));
            }
        }
        running.watch.acknowledge(&context.config.state_dir)
    }

    /// A verifier begins its work: tables with writes that nobody has acknowledged are compared whole, whatever was proven.
    pub(crate) fn compare_again(&self, verifier: &Verifier) {
        if let Some(tables) = self.of_left(Watch::tables_to_compare) {
            watch::request(verifier, &tables);
        }
    }

    fn ahead_or_left(&self, side: Side) -> Option<Arc<Watch>> {
        let of = |slot: &Mutex<Option<Running>>| {
            lock(slot)
                .as_ref()
                .filter(|running| running.watch.side() == side)
                .map(|running| Arc::clone(&running.watch))
        };
        of(&self.ahead).or_else(|| of(&self.left))
    }

    /// How many transactions wrote to tables of the migration on `side`, which is about to be left, behind `from` and up to
    /// `to`. Returns once everything up to `to` was seen.
    ///
    /// Cancel safety: it only looks.
    ///
    /// # Errors
    /// Nobody watches it.
    pub(crate) async fn touched_behind(
        &self,
        side: Side,
        from: &ReplicationPosition,
        to: &ReplicationPosition,
    ) -> Result<u64> {
        let watch =
            self.ahead_or_left(side).ok_or_else(|| Error::bug("stray writes", "nobody watches that side"))?;
        watch.seen(&to.coordinates).await?;
        Ok(watch.touched_behind(&from.coordinates))
    }

    /// True where that side has served before, and is watched since.
    pub(crate) fn was_left(&self, side: Side) -> bool {
        lock(&self.left).as_ref().is_some_and(|running| running.watch.side() == side)
    }

    /// Returns where everything on `side`, which is about to serve, up to `position` was seen and is ours or acknowledged.
    /// At once where nobody has left it before.
    ///
    /// Cancel safety: it only looks.
    ///
    /// # Errors
    /// There are stray writes.
    pub(crate) async fn alone_until(&self, side: Side, position: &ReplicationPosition) -> Result<()> {
        let watch = lock(&self.left).as_ref().map(|running| Arc::clone(&running.watch));
        let Some(watch) = watch.filter(|watch| watch.side() == side) else { return Ok(()) };
        watch.seen(&position.coordinates).await?;
        match watch.said() {
            Some(said) => Err(Error::definite(None, "stray writes", format!("{said}; {REMEDY}"))),
            None => Ok(()),
        }
    }
}

/// Why these tables can't be taken for equal. A table without a name stands for all of them.
fn unproven(verifier: &Verifier, tables: &[TableName]) -> Option<String> {
    let known = verifier.tables();
    let all = tables.iter().any(|name| !known.iter().any(|progress| progress.table == *name));
    let open: Vec<String> = known
        .iter()
        .filter(|progress| all || tables.contains(&progress.table))
        .filter(|progress| progress.differences > 0 || !verifier.is_covered(&progress.table))
        .map(|progress| progress.table.to_string())
        .collect();
    let first = open.first()?;
    Some(format!(
        "{} table(s) of theirs weren't compared to the end since, or differ ({first}): wait for SHOW MIGRATION TABLES to say \
         verified, and REPAIR what SHOW DIFFERENCES lists",
        open.len()
    ))
}

/// A position as the cutover journal has it: `gtids (file:offset)`, or `file:offset` of a server without GTIDs.
fn parse_position(flavor: Flavor, text: &str) -> Result<ReplicationPosition> {
    let wrong = |why: String| Error::definite(None, "the position at which a side was left", why);
    let (gtids, coordinates) = match text.strip_suffix(')').and_then(|text| text.rsplit_once('(')) {
        Some((gtids, coordinates)) => (GtidSet::parse(flavor, gtids.trim()), coordinates),
        None => (Ok(GtidSet::Anonymous), text),
    };
    Ok(ReplicationPosition {
        gtids: gtids.map_err(|error| wrong(error.to_string()))?,
        coordinates: coordinates
            .parse()
            .map_err(|error: config::ParsePositionError| wrong(error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn positions_of_the_journal_are_read_again() {
        let check = |flavor, text: &str| assert_eq!(parse_position(flavor, text).unwrap().to_string(), text);
        check(Flavor::MariaDb, "0-1-5,1-1-2 (bin.000001:44)");
        check(Flavor::MySql, "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5 (bin.000001:44)");
        check(Flavor::MySql, "bin.000001:44");
        assert!(parse_position(Flavor::MySql, "somewhere").is_err());
    }
}
