//! What acts on its own (triggers, events): it is on the side that serves, and on no other.
//!
//! Row events hold what triggers did, so a trigger on the side that rows are applied to would do it twice; an event there
//! would write what nobody follows. So:
//!
//! 1. [`prepare`], before a cutover or rollback begins: reads the definitions on the side that serves, and says what would
//!    keep them from being made on the other one.
//! 2. [`refresh`], behind the fence, beside the verdict: what has changed since is read again. Whoever changes more behind
//!    it has moved the position at which that side ended, which undoes the cutover.
//! 3. [`activate`], behind the fence, when nothing is applied any more and before the next leg's start position is taken,
//!    so that the next leg doesn't meet what it writes: makes them there, as they are now where they serve. Events that
//!    are to run are made disabled, since that server doesn't serve yet. Nothing is changed on the side that serves.
//! 4. [`begin_leg`], whenever a leg begins, be it behind a swap, behind a cutover that was undone, or after a restart:
//!    drops them on the side that rows are applied to, then wakes the events on the one that serves.
//!
//! Each can be repeated, and a crash needs no undoing of its own: which of the two sides a leg writes to is decided by the
//! cutover journal alone, and [`begin_leg`] brings both into the state that belongs to that. No definition is lost: one is
//! dropped only where the other side has the same, or it is in [`book`].
//!
//! A call that was given up may have a statement running on the server. Its connection holds a lock there until that has
//! ended, and whoever undoes it takes the lock first.

mod book;
mod definition;
mod listing;

use std::time::Duration;

use config::{Dialect, Side, failpoint};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use sha2::{Digest as _, Sha256};

use self::book::{Awaits, Book};
use self::definition::{Definition, Maker};
pub(crate) use self::listing::{Kind, Listed, list};
use crate::error::{Error, ErrorKind, Result};
use crate::leg;
use crate::pipeline::{Context, same_server};
use crate::preflight::{self, Backend};
use crate::schema::renamed::Renaming;
use crate::schema::selection::Selection;
use crate::server::{self, ServerInfo};
use crate::state::MigrationState;

const PLACE: &str = "triggers and events";
/// How long a statement waits for a table that someone holds. In the pause there is no time for more, and outside of it it is
/// tried again.
const LOCK_WAIT_S: u32 = 2;
/// How long a former call may take to end.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// What [`activate`] will do, read before the pause.
#[derive(Debug)]
pub(crate) struct Prepared {
    to: Side,
    from_conn: Conn,
    to_conn: Conn,
    /// On the side that serves.
    selection: Selection,
    /// On `to`.
    there: Selection,
    renaming: Renaming,
    dialect: Dialect,
    /// Between two families nothing is made.
    moves: bool,
    /// As the side that serves lists them.
    found: Vec<(Listed, Definition)>,
    /// The event_scheduler of `to` is to be turned on.
    scheduler: bool,
    /// What `to` has, where [`refresh`] has just looked at both.
    fresh: Option<Vec<Listed>>,
}

/// Reads what is to be made on `to`, and every reason why it couldn't be.
///
/// # Errors
/// A side can't be asked.
pub(crate) async fn prepare(context: &Context, to: Side) -> Result<(Prepared, Vec<String>)> {
    let (config, from) = (&context.config, to.other());
    let (mut here, mut there) = tokio::try_join!(
        Backend::open(from, leg::backend(config, from)),
        Backend::open(to, leg::backend(config, to))
    )?;
    let names = &config.migration.rename;
    let folds_names = here.info.folds_names;
    let selection = Selection::new(&config.migration, names.on(from), folds_names);
    let of_there = selection.clone().with_names(names.on(to));
    let renaming = Renaming::new(names, from, folds_names);
    let listed = list(from, &mut here.conn, &selection).await?;
    let moves = here.info.dialect().family == there.info.dialect().family;
    let (mut obstacles, mut scheduler) = (Vec::new(), false);
    let mut found = Vec::new();
    if moves {
        let what = (to, &*listed, &context.live.schema());
        obstacles = preflight::activation::obstacles(config, &here, &mut there, &selection, what).await?;
        let known: Vec<&Listed> = listed.iter().collect();
        obstacles.extend(strange(&config.state_dir, (to, &mut there.conn), &of_there, &known).await?);
        scheduler = preflight::activation::turns_scheduler_on(&here, &there, &listed);
        found = definition::read(from, &mut here.conn, listed, &renaming).await?;
        obstacles.extend(not_renamed(&found));
    }
    let dialect = there.info.dialect();
    let mut maker = Maker::new(to, &mut there.conn, dialect);
    for (listed, definition) in &found {
        let Ok(made) = &definition.there else { continue };
        let entered = maker.enter(&made.schema, &definition.session, &listed.called()).await;
        obstacles.extend(entered.err().map(|error| error.to_string()));
    }
    maker.leave().await?;
    let (from_conn, mut to_conn) = (here.conn, there.conn);
    wait_briefly(to, &mut to_conn).await?;
    let prepared = Prepared {
        to,
        from_conn,
        to_conn,
        selection,
        there: of_there,
        renaming,
        dialect,
        moves,
        found,
        scheduler,
        fresh: None,
    };
    Ok((prepared, obstacles))
}

/// What can't be made because of its text, each a sentence without its full stop.
fn not_renamed(found: &[(Listed, Definition)]) -> impl Iterator<Item = String> {
    found.iter().filter_map(|(listed, definition)| {
        let why = definition.there.as_ref().err()?;
        Some(format!("{}: {why}; {}", listed.called(), definition::BY_HAND))
    })
}

/// The same of what was listed on `side`, for a look ahead.
///
/// # Errors
/// That side can't be asked.
pub(crate) async fn texts_not_renamed(
    side: Side,
    conn: &mut Conn,
    listed: &[Listed],
    renaming: &Renaming,
) -> Result<Vec<String>> {
    if renaming.is_plain() {
        return Ok(Vec::new());
    }
    let found = definition::read(side, conn, listed.to_vec(), renaming).await?;
    Ok(not_renamed(&found).collect())
}

impl Prepared {
    /// What will be made, in a sentence.
    pub(crate) fn said(&self) -> String {
        let count = |kind: Kind| self.found.iter().filter(|(listed, _)| listed.kind == kind).count();
        let (to, triggers, events) = (self.to, count(Kind::Trigger), count(Kind::Event));
        if !self.moves {
            return format!(
                "triggers and events aren't moved between two families of servers: make them on the {to} behind the cutover"
            );
        }
        if triggers + events == 0 {
            return "there are no triggers and no events".to_owned();
        }
        let scheduler = match self.scheduler {
            true => format!(
                ", and event_scheduler is turned on there: put that into the configuration of the {to} as well"
            ),
            false => String::new(),
        };
        format!("{triggers} trigger(s) and {events} event(s) are made on the {to}{scheduler}")
    }
}

/// `to` is about to serve: makes what is to act there. What is on the side that serves stays as it is.
///
/// # Errors
/// One can't be made; it is named. What was made is dropped when the present leg goes on.
pub(crate) async fn activate(context: &Context, to: Side, prepared: Option<Prepared>) -> Result<()> {
    let mut prepared = match prepared.filter(|prepared| prepared.to == to) {
        Some(prepared) => prepared,
        None => prepare(context, to).await?.0,
    };
    let made = match make(context, &mut prepared).await {
        // Connections that were kept since the preparation may have broken.
        Err(error) if error.kind == ErrorKind::Transient => {
            prepared = prepare(context, to).await?.0;
            make(context, &mut prepared).await?
        }
        made => made?,
    };
    if made > 0 {
        tracing::info!(area = "cutover", "{made} triggers and events are made on the {to}");
    }
    // The end of the connections, which gives the lock back, isn't waited for in the pause.
    Ok(())
}

/// Looks at both sides once more.
///
/// # Errors
/// A side can't be asked.
pub(crate) async fn refresh(prepared: &mut Prepared) -> Result<()> {
    prepared.fresh = None;
    if !prepared.moves {
        return Ok(());
    }
    let (to, from) = (prepared.to, prepared.to.other());
    let Prepared { from_conn, to_conn, selection, there, renaming, .. } = prepared;
    let (now, there) = tokio::try_join!(list(from, from_conn, selection), list(to, to_conn, there))?;
    if !now.iter().eq(prepared.found.iter().map(|(listed, _)| listed)) {
        prepared.found = definition::read(from, from_conn, now, renaming).await?;
    }
    prepared.fresh = Some(there);
    Ok(())
}

async fn make(context: &Context, prepared: &mut Prepared) -> Result<usize> {
    if !prepared.moves {
        return Ok(0);
    }
    if prepared.fresh.is_none() {
        refresh(prepared).await?;
    }
    let to = prepared.to;
    let there = prepared.fresh.take().unwrap_or_default();
    if prepared.found.is_empty() && there.is_empty() {
        return Ok(0);
    }
    let found = &prepared.found;
    let book = Book::read(&context.config.state_dir)?;
    let known: Vec<&Listed> = found.iter().map(|(listed, _)| listed).collect();
    let replaced = replaced((to, &there), &known, &book)?;
    if found.is_empty() {
        return Ok(0);
    }
    take_turn(context, to, &mut prepared.to_conn).await?;
    write_down(context, prepared)?;
    failpoint::hit("activation.written");
    let Prepared { to_conn, there: selection, dialect, found, .. } = prepared;
    definition::drop_all(to, to_conn, &replaced).await?;
    failpoint::hit("activation.dropped");
    let mut maker = Maker::new(to, to_conn, *dialect);
    for (listed, definition) in &*found {
        maker.make(listed, definition).await?;
        failpoint::hit("activation.made");
    }
    maker.leave().await?;
    let there = list(to, to_conn, selection).await?;
    for (listed, _) in &*found {
        if !there.iter().any(|there| there.kind == listed.kind && there.name == listed.name) {
            let why = "it was made and isn't there: is its time past? Let it run, or drop it where it serves";
            return Err(Error::definite(to, listed.called(), why));
        }
    }
    Ok(found.len())
}

/// What has to make way on `to`: the same definitions, made by hand or by an attempt that didn't come to its end.
fn replaced<'a>(
    (to, there): (Side, &'a [Listed]),
    found: &[&Listed],
    book: &Book,
) -> Result<Vec<&'a Listed>> {
    let mut replaced = Vec::new();
    for strange in there {
        let same = found.iter().find(|listed| listed.kind == strange.kind && listed.name == strange.name);
        if same.is_some_and(|listed| listed.key == strange.key) || book.made(to, strange) {
            replaced.push(strange);
        } else if strange.kind == Kind::Trigger || strange.enabled || same.is_some() {
            let why = format!(
                "the {other} hasn't got it, at least not like this; DROP it on the {to}, or make it on the {other}",
                other = to.other()
            );
            return Err(Error::definite(to, strange.called(), why));
        }
    }
    Ok(replaced)
}

/// What is on `to` and may not be there, in a sentence.
///
/// # Errors
/// The side can't be asked.
pub(crate) async fn strange(
    state_dir: &std::path::Path,
    (to, conn): (Side, &mut Conn),
    selection: &Selection,
    found: &[&Listed],
) -> Result<Option<String>> {
    let (there, book) = (list(to, conn, selection).await?, Book::read(state_dir)?);
    Ok(replaced((to, &there), found, &book).err().map(|error| error.to_string()))
}

/// Before anything is made: what there is, and what is left to be done behind a swap.
fn write_down(context: &Context, prepared: &Prepared) -> Result<()> {
    let mut book = Book::read(&context.config.state_dir)?;
    book.replace(prepared.to.other(), &prepared.found);
    book.awaits = Some(Awaits {
        side: prepared.to.into(),
        made: prepared.found.iter().map(|(listed, _)| (listed.kind, listed.name.clone())).collect(),
        events: prepared.found.iter().filter_map(|(l, d)| definition::sleeping(l, d)).collect(),
        scheduler: prepared.scheduler,
    });
    book.write(&context.config.state_dir)
}

/// A leg begins: nothing acts on the side that rows are applied to, and everything on the one that serves.
///
/// # Errors
/// A side can't be asked or changed, or has something that would act on applied rows and is known nowhere else.
pub(crate) async fn begin_leg(context: &Context, state: &MigrationState) -> Result<()> {
    // The other side is fenced, and events that are due on the one that serves can't wait for it.
    let quiet = quiet(context, state).await;
    wake(context, state, state.leg.reads()).await?;
    quiet
}

/// Takes away what would act on the side that rows are applied to.
async fn quiet(context: &Context, state: &MigrationState) -> Result<()> {
    let (side, serves) = (state.leg.writes(), state.leg.reads());
    // invariant 2: what acts is never taken from the side that serves.
    debug_assert_ne!(side, serves);
    let state_dir = &context.config.state_dir;
    let (mut conn, selection) = reach(context, state, side).await?;
    let mut book = Book::read(state_dir)?;
    if book.awaits.as_ref().is_some_and(|awaits| awaits.side == side.into()) {
        take_turn(context, side, &mut conn).await?;
    }
    let found = list(side, &mut conn, &selection).await?;
    if !found.is_empty() {
        let (mut other, of_other) = reach(context, state, serves).await?;
        let served = list(serves, &mut other, &of_other).await?;
        drop(other.disconnect().await);
        let unwanted = unwanted((side, &found), &served, &book)?;
        keep(&mut book, state_dir, (side, &mut conn), &unwanted).await?;
        failpoint::hit("activation.kept");
        wait_briefly(side, &mut conn).await?;
        definition::drop_all(side, &mut conn, &unwanted).await?;
        failpoint::hit("activation.taken_away");
        if !unwanted.is_empty() {
            let number = unwanted.len();
            tracing::info!(
                area = "migration",
                "{number} triggers and events of the {side} are dropped there; the {serves} serves, which has them"
            );
        }
    }
    let before = book.clone();
    if book.scheduler_on == Some(side.into()) {
        set_scheduler(side, &mut conn, "OFF").await?;
        failpoint::hit("activation.scheduler_off");
        book.scheduler_on = None;
    }
    book.awaits = book.awaits.take().filter(|awaits| awaits.side != side.into());
    if book != before {
        book.write(state_dir)?;
    }
    drop(conn.disconnect().await);
    Ok(())
}

/// What has to go from `side`.
fn unwanted<'a>(
    (side, found): (Side, &'a [Listed]),
    served: &[Listed],
    book: &Book,
) -> Result<Vec<&'a Listed>> {
    let same = |listed: &Listed| served.iter().any(|s| s.kind == listed.kind && s.key == listed.key);
    let mut unwanted = Vec::new();
    for listed in found {
        if same(listed) || book.holds(listed) || book.made(side, listed) {
            unwanted.push(listed);
        } else if listed.kind == Kind::Trigger {
            let why = format!(
                "it would act a second time on rows that are applied here, whose events hold what it did, and it isn't on \
                 the {}, at least not like this; DROP it on the {side} and RESUME MIGRATION",
                side.other()
            );
            return Err(Error::definite(side, listed.called(), why));
        } else if listed.enabled {
            let why = format!(
                "it would write here, and it isn't on the {}, at least not like this; DROP or DISABLE it on the {side} and \
                 RESUME MIGRATION",
                side.other()
            );
            return Err(Error::definite(side, listed.called(), why));
        }
    }
    Ok(unwanted)
}

/// Before they are dropped their definitions are in state_dir, whatever becomes of the other server.
async fn keep(
    book: &mut Book,
    state_dir: &std::path::Path,
    (side, conn): (Side, &mut Conn),
    which: &[&Listed],
) -> Result<()> {
    let unknown: Vec<Listed> = which.iter().filter(|l| !book.holds(l)).map(|&l| l.clone()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let found = definition::read(side, conn, unknown, &Renaming::default()).await?;
    book.add(side, &found);
    book.write(state_dir)
}

/// `side` serves: its events run from here on.
///
/// # Errors
/// It can't be asked, or refuses.
pub(crate) async fn wake(context: &Context, state: &MigrationState, side: Side) -> Result<()> {
    let state_dir = &context.config.state_dir;
    let mut book = Book::read(state_dir)?;
    let Some(awaits) = book.awaits.clone().filter(|awaits| awaits.side == side.into()) else { return Ok(()) };
    let mut conn = server::connect(side, leg::backend(&context.config, side)).await?;
    let info = server::inspect(side, &mut conn).await?;
    let migration = &context.config.migration;
    let selection = Selection::new(migration, migration.rename.on(side), info.folds_names);
    same_server(side, identity(state, side), &info)?;
    wait_briefly(side, &mut conn).await?;
    let there = list(side, &mut conn, &selection).await?;
    let mut maker = Maker::new(side, &mut conn, info.dialect());
    for event in &awaits.events {
        let asleep =
            |there: &&Listed| there.kind == Kind::Event && there.name == event.name && !there.enabled;
        // One that is gone, or runs, was dealt with by its owner.
        let Some(stored) = there.iter().find(asleep).map(|there| &there.stored) else { continue };
        if maker.wake(event, stored).await? {
            continue;
        }
        tracing::error!(
            area = "cutover",
            "event {} fell due during the pause and did not run; run what it does by hand on the {side}",
            event.name
        );
    }
    failpoint::hit("activation.woken");
    if awaits.scheduler {
        book.scheduler_on = Some(side.into());
        book.write(state_dir)?;
        set_scheduler(side, &mut conn, "ON").await?;
        failpoint::hit("activation.scheduler_on");
    }
    book.awaits = None;
    book.write(state_dir)?;
    drop(conn.disconnect().await);
    Ok(())
}

/// A connection to the very server that the migration began with, and what belongs to it there.
async fn reach(context: &Context, state: &MigrationState, side: Side) -> Result<(Conn, Selection)> {
    let mut conn = server::connect(side, leg::backend(&context.config, side)).await?;
    let info: ServerInfo = server::inspect(side, &mut conn).await?;
    same_server(side, identity(state, side), &info)?;
    let migration = &context.config.migration;
    Ok((conn, Selection::new(migration, migration.rename.on(side), info.folds_names)))
}

fn identity(state: &MigrationState, side: Side) -> &str {
    match side {
        Side::Source => &state.source_identity,
        Side::Target => &state.target_identity,
    }
}

/// Waits until a former call's statements have ended on that server: their connection holds the lock.
async fn take_turn(context: &Context, side: Side, conn: &mut Conn) -> Result<()> {
    let name = Sha256::digest(context.config.migration.name.as_bytes());
    let name: String = name.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let sql = format!("SELECT GET_LOCK('changeover.activation.{name}', {})", TURN_WAIT.as_secs());
    let taken: Option<Option<i64>> =
        conn.query_first(sql).await.map_err(|error| Error::database(side, PLACE, &error))?;
    match taken.flatten() {
        Some(1) => Ok(()),
        _ => Err(Error::transient(side, PLACE, "an earlier attempt hasn't ended there; it is tried again")),
    }
}

async fn wait_briefly(side: Side, conn: &mut Conn) -> Result<()> {
    let sql = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}");
    conn.query_drop(sql).await.map_err(|error| Error::database(side, PLACE, &error))
}

async fn set_scheduler(side: Side, conn: &mut Conn, value: &str) -> Result<()> {
    let set = conn.query_drop(format!("SET GLOBAL event_scheduler = {value}")).await;
    set.map_err(|error| Error::database(side, "event_scheduler", &error))?;
    tracing::info!(area = "migration", "event_scheduler of the {side} is {value}");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_known_elsewhere_is_taken_away() {
        let trigger = |name: &str, key: &str| Listed::sample(Kind::Trigger, name, key, false);
        let event = |name: &str, key: &str, enabled| Listed::sample(Kind::Event, name, key, enabled);
        let mut book = Book::default();
        book.awaits = Some(Awaits {
            side: Side::Source.into(),
            made: vec![(Kind::Trigger, trigger("made", "").name)],
            events: Vec::new(),
            scheduler: false,
        });
        let check = |found: Listed, served: &[Listed], expected: Option<usize>| {
            let found = [found];
            let decided = unwanted((Side::Source, &found), served, &book).map(|which| which.len());
            assert_eq!(decided.ok(), expected, "{found:?} {served:?}");
        };
        check(trigger("a", "1"), &[trigger("a", "1")], Some(1));
        check(trigger("a", "1"), &[trigger("a", "2")], None);
        check(trigger("a", "1"), &[event("a", "1", true)], None);
        check(trigger("a", "1"), &[], None);
        check(trigger("made", "1"), &[], Some(1));
        check(event("made", "1", true), &[], None);
        check(event("a", "1", true), &[event("a", "1", false)], Some(1));
        check(event("a", "1", true), &[], None);
        // It can't act.
        check(event("a", "1", false), &[], Some(0));
    }

    #[test]
    fn nothing_strange_makes_way() {
        let trigger = |name: &str, key: &str| Listed::sample(Kind::Trigger, name, key, false);
        let event = |name: &str, key: &str, enabled| Listed::sample(Kind::Event, name, key, enabled);
        let check = |there: Listed, found: &[Listed], expected: Option<usize>| {
            let (there, found) = ([there], found.iter().collect::<Vec<_>>());
            let decided = replaced((Side::Target, &there), &found, &Book::default()).map(|which| which.len());
            assert_eq!(decided.ok(), expected, "{there:?} {found:?}");
        };
        check(trigger("a", "1"), &[trigger("a", "1")], Some(1));
        check(trigger("a", "1"), &[trigger("a", "2")], None);
        check(trigger("a", "1"), &[], None);
        check(event("a", "1", true), &[], None);
        check(event("a", "1", false), &[event("a", "2", true)], None);
        check(event("a", "1", false), &[event("b", "2", true)], Some(0));
    }
}
