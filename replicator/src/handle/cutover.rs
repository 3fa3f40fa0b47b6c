//! What a cutover asks of replication, in either direction.

use std::time::Duration;

use config::progress::{Phase, ReplicationPosition, StrayWrites, Verdict};
use config::{FencePolicy, Side, failpoint};
use mysql_async::Conn;

use super::Replicator;
use crate::binlog::stream::WENT_BACK;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::convert;
use crate::server::xa::{self, Settled};
use crate::server::{self, ServerInfo};
use crate::state::{NextLeg, Stage, StoredPosition};
use crate::{activation, leg, live, pipeline, preflight};

/// An XA transaction that is on its way ends its second phase within this time.
const SETTLES: Duration = Duration::from_secs(1);
/// The same behind a drained gate, where the application has none on its way any more.
const SETTLES_IN_PAUSE: Duration = Duration::from_millis(100);

impl Replicator {
    /// A cutover prepares to leave the side that is followed: it is watched from what is applied of it on.
    ///
    /// # Errors
    /// Nothing is known to be applied.
    pub fn watch_ahead(&self) -> Result<()> {
        let leg = self.context.leg();
        let applied = self.context.live.applied().position();
        let from =
            applied.ok_or_else(|| Error::transient(leg.reads(), "stray writes", "nothing is applied yet"))?;
        self.context.strays.watch_ahead(&self.context, leg.reads(), from);
        Ok(())
    }

    /// A cutover has ended: what [`Self::watch_ahead`] began is of no use any more, unless [`Self::watch`] took it over.
    pub fn let_go_of_watch(&self) {
        self.context.strays.let_go();
    }

    /// The side that was watched is about to serve.
    pub fn end_watch(&self) {
        self.context.strays.turn();
    }

    /// `side` stopped to serve at `since`, as the cutover journal has it: what others write there behind it is an alarm.
    /// Idempotent.
    ///
    /// # Errors
    /// What an earlier process found can't be read, or nothing can be written down.
    pub fn watch(&self, side: Side, since: &str) -> Result<()> {
        self.context.strays.watch(&self.context, side, since)
    }

    /// The migration is over: nobody is watched any more.
    pub fn unwatch(&self) {
        self.context.strays.unwatch(&self.context.config.state_dir);
    }

    /// For SHOW STRAY WRITES. No query, no await.
    #[must_use]
    pub fn stray_writes(&self) -> Vec<StrayWrites> {
        self.context.strays.rows()
    }

    /// ACKNOWLEDGE STRAY WRITES. Returns how many transactions it was.
    ///
    /// # Errors
    /// There are none, or their tables weren't compared since.
    pub fn acknowledge_stray_writes(&self) -> Result<u64> {
        self.context.strays.acknowledge(&self.context)
    }

    /// Transactions that wrote to tables of the migration on the side that is followed, behind `from` and up to `to`.
    /// Cancel safety: it only looks.
    ///
    /// # Errors
    /// That side isn't watched.
    pub async fn touched_behind(&self, from: &ReplicationPosition, to: &ReplicationPosition) -> Result<u64> {
        self.context.strays.touched_behind(self.context.leg().reads(), from, to).await
    }

    /// Returns where the side that is about to serve holds nothing by others than Changeover up to now, or what was
    /// acknowledged. Behind [`Self::hold`].
    ///
    /// # Errors
    /// It does, or it can't be asked.
    pub async fn left_alone(&self) -> Result<()> {
        let side = self.context.leg().writes();
        // It may have no binary log to ask for: one that never served needs none.
        if !self.context.strays.was_left(side) {
            return Ok(());
        }
        let end = self.end_of(side).await?;
        self.context.strays.alone_until(side, &end).await
    }

    /// The position at which the side that is followed ended. Only true behind a fence.
    ///
    /// # Errors
    /// That side can't be asked.
    pub async fn final_position(&self) -> Result<ReplicationPosition> {
        let side = self.context.leg().reads();
        let position = self.end_of(side).await?;
        // Coordinates alone would take the short log of a server that was reset for one that is applied long since.
        let fetched = self.context.live.fetched().filter(|fetched| fetched.gtids.is_anonymous());
        if fetched.is_some_and(|fetched| position.coordinates < fetched.coordinates) {
            return Err(Error::definite(side, format!("binlog {position}"), WENT_BACK));
        }
        Ok(position)
    }

    async fn end_of(&self, side: Side) -> Result<ReplicationPosition> {
        let [source, target] = &self.asking;
        let mut kept = if side == Side::Source { source.lock().await } else { target.lock().await };
        if let Some((mut conn, info)) = kept.take() {
            // One that broke meanwhile is dialled again.
            if let Ok(position) = server::end_position(side, &info, &mut conn).await {
                *kept = Some((conn, info));
                return Ok(position);
            }
        }
        let (mut conn, info) = self.dial(side).await?;
        let position = server::end_position(side, &info, &mut conn).await?;
        *kept = Some((conn, info));
        Ok(position)
    }

    async fn dial(&self, side: Side) -> Result<(Conn, ServerInfo)> {
        let mut conn = server::connect(side, leg::backend(&self.context.config, side)).await?;
        let info = server::inspect(side, &mut conn).await?;
        if let Some(state) = self.state() {
            let identity = if side == Side::Source { &state.source_identity } else { &state.target_identity };
            pipeline::same_server(side, identity, &info)?;
        }
        Ok((conn, info))
    }

    /// Returns when `position` is applied. Cancel safety: dropping it only stops the waiting.
    ///
    /// # Errors
    /// Replication stopped, so that it never will be.
    pub async fn wait_applied(&self, position: &ReplicationPosition) -> Result<()> {
        let live = &self.context.live;
        let applied = live.applied();
        tokio::select! {
            () = applied.wait_for(position) => Ok(()),
            why = live.stopped() => {
                Err(Error::definite(self.context.leg().writes(), "wait for the final position", why))
            }
        }
    }

    /// A cutover prepares itself: what would be left to verify in its pause is verified as it comes.
    pub fn hurry(&self) {
        if let Some(verifier) = self.context.live.verifier() {
            verifier.hurry();
        }
    }

    /// The verdict while both sides stand still: what was touched since its last comparison is compared now. Beside
    /// it AUTO_INCREMENT is raised on the side that is to serve where the other one gave out values that it rolled back, so that no
    /// value is given out twice, and it is looked whether triggers or events have changed.
    ///
    /// # Errors
    /// A side can't be asked.
    pub async fn verdict_standing_still(&self) -> Result<Verdict> {
        let Some(verifier) = self.context.live.verifier() else {
            return Ok(Verdict::Unknown { why: "the verifier hasn't begun".to_owned() });
        };
        let (verdict, raised, (), prepared) = tokio::join!(
            verifier.verdict_standing_still(),
            self.raise_auto_increment(),
            self.refresh_activation(),
            self.nothing_prepared(SETTLES_IN_PAUSE)
        );
        raised?;
        prepared?;
        Ok(verdict)
    }

    /// Says what is known of XA transactions that are prepared on the side that serves: whoever comes to end one of them behind a
    /// swap would find the other server, which has never heard of it. Those that end within a moment don't matter.
    ///
    /// # Errors
    /// Some don't, or that side can't be asked.
    pub async fn prepared(&self) -> Result<String> {
        if self.state().is_none() {
            return Ok("nothing was started yet".to_owned());
        }
        self.nothing_prepared(SETTLES).await
    }

    async fn nothing_prepared(&self, within: Duration) -> Result<String> {
        let side = self.context.leg().reads();
        // On a server that goes on serving others theirs are no business of ours.
        let alone = self.context.config.cutover.fence == FencePolicy::ReadOnly;
        let listed = if alone { self.settle(side, within).await? } else { Settled::Unknown };
        let many = match listed {
            Settled::Gone => return Ok(format!("no XA transaction is left prepared on the {side}")),
            Settled::Left(many) => many,
            Settled::Unknown => self.left_parked(within, alone).await,
        };
        if many > 0 {
            return Err(Error::definite(
                side,
                "XA RECOVER",
                format!(
                    "{many} XA transaction(s) are prepared and neither committed nor rolled back, and behind the swap nobody could \
                     end them any more: see XA RECOVER, and end them with XA COMMIT or XA ROLLBACK"
                ),
            ));
        }
        let why = if alone {
            format!("the account may not ask the {side} (MySQL: GRANT XA_RECOVER_ADMIN)")
        } else {
            "the server goes on serving others".to_owned()
        };
        Ok(format!(
            "{why}: only XA transactions that changed tables of the migration are seen, and none is left prepared"
        ))
    }

    /// Asks that side on the connection that is kept for it.
    async fn settle(&self, side: Side, within: Duration) -> Result<Settled> {
        let [source, target] = &self.asking;
        let mut kept = if side == Side::Source { source.lock().await } else { target.lock().await };
        if let Some((mut conn, info)) = kept.take() {
            // One that broke meanwhile is dialled again.
            if let Ok(settled) = xa::settle(side, &mut conn, within).await {
                *kept = Some((conn, info));
                return Ok(settled);
            }
        }
        let (mut conn, info) = self.dial(side).await?;
        let settled = xa::settle(side, &mut conn, within).await?;
        *kept = Some((conn, info));
        Ok(settled)
    }

    /// How many of those that were fetched and are prepared haven't ended within that time. Behind the final position that is
    /// all of them.
    async fn left_parked(&self, within: Duration, anyway: bool) -> usize {
        let live = &self.context.live;
        let deadline = tokio::time::Instant::now() + within;
        let mut open = live.prepared(anyway);
        while !open.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = live.prepared(anyway);
            open.retain(|xid| now.contains(xid));
        }
        open.len()
    }

    /// Where it fails, [`Self::activate`] looks for itself.
    async fn refresh_activation(&self) {
        let mut kept = self.prepared.lock().await;
        let Some(prepared) = &mut *kept else { return };
        if let Err(error) = activation::refresh(prepared).await {
            tracing::debug!("triggers and events are looked at again: {error}");
            *kept = None;
        }
    }

    /// On the connections that are kept for positions: to dial in the pause would lengthen it.
    async fn raise_auto_increment(&self) -> Result<usize> {
        let leg = self.context.leg();
        let [source, target] = &self.asking;
        let (mut source, mut target) = tokio::join!(source.lock(), target.lock());
        let (from, to) = match leg.reads() {
            Side::Source => (&mut *source, &mut *target),
            Side::Target => (&mut *target, &mut *source),
        };
        let schema = self.context.live.schema();
        if let (Some((from, _)), Some((to, _))) = (&mut *from, &mut *to) {
            match convert::raise_auto_increment(from, to, &schema).await {
                // One that broke meanwhile is dialled again.
                Err(error) if error.kind == ErrorKind::Transient => {}
                done => return done.map_err(|error| error.in_leg(leg)),
            }
        }
        let dialled = tokio::try_join!(self.dial(leg.reads()), self.dial(leg.writes()))?;
        let ((from, _), (to, _)) = (from.insert(dialled.0), to.insert(dialled.1));
        convert::raise_auto_increment(from, to, &schema).await.map_err(|error| error.in_leg(leg))
    }

    /// Whether the side that is written now will be followed into the other one, once it serves. False: the configuration
    /// doesn't want it.
    ///
    /// # Errors
    /// It can't be, and why; or a side can't be asked.
    pub async fn way_back(&self) -> Result<bool> {
        let config = &self.context.config;
        if !config.migration.reverse {
            return Ok(false);
        }
        let serves = self.context.leg().writes();
        let mut obstacles = preflight::way_back::obstacles(config, serves, &self.context.tables()).await?;
        obstacles.extend(preflight::way_back::lacking_columns(&self.context.live.schema()));
        if obstacles.is_empty() {
            // A cutover may follow at once: both connections are open then.
            tokio::try_join!(self.end_of(Side::Source), self.end_of(Side::Target))?;
            return Ok(true);
        }
        Err(Error::definite(None, "the way back", obstacles.join("; ")))
    }

    /// Ends the present leg behind the fence: nothing is applied any more. [`Self::turn_back`] lets it go on,
    /// [`Self::seal`] makes way for the next one. Idempotent.
    ///
    /// # Errors
    /// It has stopped by itself, so that what it has applied can't be relied on.
    pub async fn hold(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        if self.state().is_some_and(|state| state.next.is_some()) {
            // Of a cutover that was undone; nobody may take it for this one's.
            self.context.update(|state| state.next = None)?;
            failpoint::hit("migration.next.dropped");
        }
        Self::stop(&mut running).await;
        match self.context.live.phase() {
            Phase::Failed | Phase::Paused => Err(self.unfit("A cutover")),
            _ => Ok(()),
        }
    }

    /// Reads what [`Self::activate`] is to make on `side`, and says it in a sentence.
    ///
    /// # Errors
    /// It couldn't be made, with every reason; or a side can't be asked.
    pub async fn prepare_activation(&self, side: Side) -> Result<String> {
        let mut kept = self.prepared.lock().await;
        *kept = None;
        if self.state().is_none() {
            return Ok("nothing was started yet".to_owned());
        }
        let (prepared, obstacles) = activation::prepare(&self.context, side).await?;
        if !obstacles.is_empty() {
            return Err(Error::definite(None, "triggers and events", obstacles.join("; ")));
        }
        Ok(kept.insert(prepared).said())
    }

    /// Makes what acts on its own on `side`, which is about to serve. Behind [`Self::hold`].
    ///
    /// # Errors
    /// The side can't be asked, or refuses it.
    pub async fn activate(&self, side: Side) -> Result<()> {
        let prepared = self.prepared.lock().await.take();
        activation::activate(&self.context, side, prepared).await
    }

    /// Takes the position at which the next leg starts, where the side that is about to serve ends, and makes it durable.
    /// Behind [`Self::hold`], so that everything this leg has applied is before it, and behind [`Self::activate`]. Both
    /// sides are equal there, as the verdict said, and as nobody else has written before it on the side that is about to
    /// serve: what is written behind it is followed.
    ///
    /// # Errors
    /// That side can't be asked, somebody has written there, or the state can't be written.
    pub async fn start_reverse(&self) -> Result<ReplicationPosition> {
        let side = self.context.leg().writes();
        let (start, knows_prepared) = self.start_with_nothing_prepared(side).await?;
        self.context.strays.alone_until(side, &start).await?;
        let proven = self.context.live.verifier().map(|verifier| verifier.proven()).unwrap_or_default();
        let next = NextLeg { start: StoredPosition::from(&start), knows_prepared, proven };
        self.context.update(|state| state.next = Some(next))?;
        failpoint::hit("migration.next");
        Ok(start)
    }

    /// Where that side ends, with nothing prepared behind it by others: what they commit later would begin before it. False: the
    /// account may not ask.
    async fn start_with_nothing_prepared(&self, side: Side) -> Result<(ReplicationPosition, bool)> {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            let start = self.end_of(side).await?;
            match self.settle(side, Duration::ZERO).await? {
                Settled::Gone => return Ok((start, true)),
                Settled::Unknown => return Ok((start, false)),
                Settled::Left(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        let what = "XA transactions of others are prepared there all the time, so what they commit couldn't be followed back; end \
                    them (XA RECOVER), or say CUTOVER WITHOUT ROLLBACK";
        Err(Error::definite(side, "XA RECOVER", what))
    }

    /// The cutover was undone before its journal entry: the leg that [`Self::hold`] ended goes on. Idempotent.
    ///
    /// # Errors
    /// The state can't be written. It goes on all the same, and the next [`Self::hold`] or start throws away what was
    /// prepared.
    pub async fn turn_back(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        let Some(state) = self.state() else { return Ok(()) };
        if running.as_ref().is_some_and(|run| run.cancel.is_cancelled()) {
            // Whoever ended it was given up before it had ended.
            Self::stop(&mut running).await;
        }
        if state.goes_on() && running.is_none() {
            self.spawn(&mut running);
        }
        if state.next.is_some() {
            self.context.update(|state| state.next = None)?;
            failpoint::hit("migration.next.dropped");
        }
        Ok(())
    }

    /// After the journal says that `serving` serves: the leg that led there is over, and the one that a cutover prepared
    /// begins, which reads it. Idempotent, also called after a restart in that state.
    ///
    /// # Errors
    /// The state can't be written.
    pub async fn seal(&self, serving: Side) -> Result<()> {
        let mut running = self.running.lock().await;
        let Some(mut state) = self.state() else { return Ok(()) };
        if state.leg.reads() != serving && !state.is_over() {
            Self::stop(&mut running).await;
            state.sealed_at = self.context.live.applied().position().as_ref().map(StoredPosition::from);
            if state.take_next_leg() {
                tracing::info!(area = "migration", "replication turns around; leg {} begins", state.leg);
            } else {
                state.stage = Stage::Sealed;
                tracing::info!(area = "migration", "replication is over; there is no way back");
            }
            self.context.store(state.clone())?;
            failpoint::hit("migration.turned");
            self.context.live.clear_error();
            self.context.live.set_phase(live::phase_of(Some(&state)));
        }
        if state.goes_on() && running.is_none() {
            self.spawn(&mut running);
        }
        if state.stage == Stage::Sealed {
            // No leg begins that would do it.
            activation::wake(&self.context, &state, serving).await?;
        }
        Ok(())
    }
}
