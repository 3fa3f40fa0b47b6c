//! The live sessions, for SHOW SESSIONS, KILL SESSION, the limit on connections and the cutover.
//!
//! Each session writes what others may see of it into an entry of its own; nobody else writes there but to
//! give it an order. The statement path touches only that entry.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::Side;
use dashmap::DashMap;
use tokio::sync::Notify;

use super::pins::Pins;
use crate::auth::Credential;
use crate::auth::inventory::LiveUser;
use crate::metrics::{Metrics, Work, WorkCell};

/// Sessions that are told of a change at the same moment, and how long until the next are: 8,000 a second at most.
const WOKEN_AT_ONCE: usize = 16;
const WAKE_AGAIN: Duration = Duration::from_millis(2);

/// A row of SHOW SESSIONS.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// The connection id that the client was greeted with; the backend's own until the session has moved.
    pub id: u32,
    /// Account name.
    pub user: String,
    /// Client address.
    pub client: String,
    /// Current schema; empty for none or unknown.
    pub schema: String,
    /// Backend that it is connected to.
    pub backend: Side,
    /// `idle`, `busy`, `waiting` (for the gate), `moving`.
    pub state: &'static str,
    /// True inside a transaction.
    pub in_transaction: bool,
    /// Why it can't be moved now; empty where it can.
    pub pinned_by: String,
    /// Statements so far.
    pub statements: u64,
    /// Milliseconds since the last byte of the client.
    pub idle_ms: u64,
    /// What it has in other terms, or does without, since it came from another kind of server.
    pub mapped: String,
}

/// Something that a session has open, which a cutover waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenWork {
    /// As in [`SessionRow`].
    pub(crate) id: u32,
    /// Account name.
    pub(crate) user: String,
    /// Since it began, ms.
    pub(crate) age_ms: u64,
    /// Where it is a transaction: whether its last statement changed rows, and how long its client has been silent, ms. `None`: a
    /// statement.
    pub(crate) transaction: Option<(bool, u64)>,
}

impl fmt::Display for OpenWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms / 1000;
        write!(f, "session {} ({:?}): ", self.id, self.user)?;
        match self.transaction {
            None => write!(f, "a statement runs for {} s", seconds(self.age_ms)),
            Some((wrote, silent_ms)) => write!(
                f,
                "a transaction is open for {} s, its last statement {}, {} s ago",
                seconds(self.age_ms),
                if wrote { "changed rows" } else { "changed nothing" },
                seconds(silent_ms)
            ),
        }
    }
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    /// Waits for its client.
    Idle = 0,
    /// Has a statement on the backend.
    Busy = 1,
    /// Waits for the gate.
    Waiting = 2,
    /// Moves to the other backend, or prepares for it.
    Moving = 3,
}

impl Activity {
    pub(crate) const TEXTS: [&'static str; 4] = ["idle", "busy", "waiting", "moving"];
}

/// What a session is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Nothing.
    None = 0,
    /// Finish what you are at, then close.
    Drain = 1,
    /// Give up the open transaction; where that isn't all that is open, close.
    EndTransaction = 2,
    /// Close.
    Close = 3,
}

impl Order {
    fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Order::None,
            1 => Order::Drain,
            2 => Order::EndTransaction,
            _ => Order::Close,
        }
    }
}

/// What others see of a session, and how they reach it.
pub(crate) struct Entry {
    pub(crate) id: u32,
    user: Mutex<String>,
    client: String,
    born: Instant,
    schema: Mutex<String>,
    mapped: Mutex<String>,
    /// Whose password it is, and what is known of it, for as long as the session lives: SHOW ACCOUNTS checks it
    /// against the other server's hash.
    credential: Mutex<Option<(String, Credential)>>,
    /// The side in the upper half, the connection's id there in the lower.
    backend: AtomicU64,
    /// The same of the connection that was left and may still be asked how the last statement went; 0 is none.
    previous: AtomicU64,
    activity: AtomicU8,
    pins: AtomicU32,
    in_transaction: AtomicBool,
    /// When the present transaction began, milliseconds after `born`.
    transaction_ms: AtomicU64,
    /// Its last statement changed rows.
    wrote: AtomicBool,
    pub(crate) holds_permit: AtomicBool,
    pub(crate) work: WorkCell,
    /// Milliseconds after `born`.
    heard_ms: AtomicU64,
    order: AtomicU8,
    /// Something changed that an idle session should look at: an order, the route, what to prepare.
    pub(crate) wake: Notify,
    /// Set by the prepare-ahead, for the cutover's progress.
    pub(crate) prepared: AtomicBool,
    /// Its client may still ask how its last statement went: it moves with the client's next one.
    pub(crate) waits_for_client: AtomicBool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Entry {
    pub(crate) fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// The session's connection is this one now.
    pub(crate) fn set_backend(&self, side: Side, id: u32) {
        self.backend.store(backend_bits(side, id), Relaxed);
    }

    /// The session keeps its old connection for a while, or has none any more.
    pub(crate) fn set_previous(&self, kept: Option<(Side, u32)>) {
        self.previous.store(kept.map_or(0, |(side, id)| backend_bits(side, id)), Relaxed);
    }

    /// True where the connection with this id on `side` is one of the session's.
    fn owns(&self, side: Side, id: u32) -> bool {
        let is = backend_bits(side, id);
        self.backend.load(Relaxed) == is || self.previous.load(Relaxed) == is
    }

    pub(crate) fn set_pins(&self, pins: Pins) {
        self.pins.store(pins.bits(), Relaxed);
    }

    pub(crate) fn set_schema(&self, schema: &[u8]) {
        let mut text = self.schema.lock().unwrap_or_else(PoisonError::into_inner);
        text.clear();
        text.push_str(&String::from_utf8_lossy(schema));
    }

    /// What a move between kinds of servers changed; names and words only.
    pub(crate) fn set_mapped(&self, notes: &[String]) {
        *self.mapped.lock().unwrap_or_else(PoisonError::into_inner) = notes.join("; ");
    }

    /// What `user` logged in with.
    pub(crate) fn set_credential(&self, user: String, credential: Credential) {
        *self.credential.lock().unwrap_or_else(PoisonError::into_inner) = Some((user, credential));
    }

    /// What the session's user logged in with; `None` where what is kept is of a user that it was before.
    fn credential_of(&self, user: &str) -> Option<Credential> {
        let kept = self.credential.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(of, _)| of == user).map(|(_, credential)| credential.clone())
    }

    pub(crate) fn set_user(&self, user: String) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = user;
    }

    /// The client said something.
    pub(crate) fn heard(&self, now: Instant) {
        self.heard_ms.store(now.saturating_duration_since(self.born).as_millis() as u64, Relaxed);
    }

    pub(crate) fn idle_ms(&self) -> u64 {
        self.since_ms(&self.heard_ms)
    }

    fn since_ms(&self, then: &AtomicU64) -> u64 {
        (self.born.elapsed().as_millis() as u64).saturating_sub(then.load(Relaxed))
    }

    /// A statement was answered; `open`: within a transaction, which goes on. One that another follows in the same request
    /// (COMMIT AND CHAIN) counts with it.
    pub(crate) fn set_transaction(&self, open: bool, wrote: bool) {
        if open && !self.in_transaction.load(Relaxed) {
            // With the request that was heard last. No other clock is asked for it.
            self.transaction_ms.store(self.heard_ms.load(Relaxed), Relaxed);
        }
        self.in_transaction.store(open, Relaxed);
        self.wrote.store(wrote, Relaxed);
    }

    fn open_work(&self) -> Option<OpenWork> {
        let in_transaction = self.in_transaction.load(Relaxed);
        if !in_transaction && self.activity.load(Relaxed) != Activity::Busy as u8 {
            return None;
        }
        let (since, transaction) = match in_transaction {
            true => (&self.transaction_ms, Some((self.wrote.load(Relaxed), self.idle_ms()))),
            false => (&self.heard_ms, None),
        };
        let user = self.user.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(OpenWork { id: self.id, user, age_ms: self.since_ms(since), transaction })
    }

    pub(crate) fn order(&self) -> Order {
        Order::from_bits(self.order.load(SeqCst))
    }

    /// Gives an order; a stronger one stands.
    pub(crate) fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, SeqCst);
        self.wake.notify_one();
    }

    /// An order to end a transaction was carried out.
    pub(crate) fn done(&self, order: Order) {
        let _ = self.order.compare_exchange(order as u8, Order::None as u8, SeqCst, SeqCst);
    }

    fn backend(&self) -> (Side, u32) {
        let bits = self.backend.load(Relaxed);
        (if bits >> 32 == 0 { Side::Source } else { Side::Target }, bits as u32)
    }

    fn side(&self) -> Side {
        self.backend().0
    }

    fn row(&self) -> SessionRow {
        let activity = usize::from(self.activity.load(Relaxed));
        SessionRow {
            id: self.id,
            user: self.user.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            client: self.client.clone(),
            schema: self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            backend: self.side(),
            state: Activity::TEXTS.get(activity).copied().unwrap_or("busy"),
            in_transaction: self.in_transaction.load(Relaxed),
            pinned_by: Pins::from_bits(self.pins.load(Relaxed)).to_string(),
            statements: self.work.get().statements,
            idle_ms: self.idle_ms(),
            mapped: self.mapped.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

fn backend_bits(side: Side, id: u32) -> u64 {
    u64::from(side == Side::Target) << 32 | u64::from(id)
}

/// All sessions together, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) work: Work,
    /// By the order of [`Activity::TEXTS`].
    pub(crate) states: [u64; 4],
    pub(crate) in_transaction: u64,
    pub(crate) pinned: u64,
    pub(crate) on_target: u64,
    pub(crate) prepared: u64,
}

/// Every live session.
#[derive(Debug, Default)]
pub struct SessionRegistry {
    sessions: DashMap<u32, Arc<Entry>>,
    /// The ids that live sessions, and clients that are about to log in, were greeted with.
    greeted: DashMap<u32, ()>,
    moved: AtomicU64,
    /// Steps of all sessions towards being prepared.
    preparations: AtomicU64,
    /// Of sessions that have ended. Its lock is what keeps a session from being counted twice, or not at all,
    /// while it ends.
    ended: Mutex<Work>,
    pub(crate) metrics: Metrics,
}

/// An id that no other client is greeted with for as long as this lives.
#[derive(Debug)]
pub(crate) struct Greeted {
    registry: Arc<SessionRegistry>,
    pub(crate) id: u32,
}

impl Drop for Greeted {
    fn drop(&mut self) {
        self.registry.greeted.remove(&self.id);
    }
}

/// Keeps a session in the registry for as long as it lives.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<SessionRegistry>,
    pub(crate) entry: Arc<Entry>,
    _greeted: Greeted,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut ended = self.registry.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.registry.sessions.remove(&self.entry.id);
        *ended += self.entry.work.get();
    }
}

impl SessionRegistry {
    /// A row a session, by id.
    #[must_use]
    pub fn rows(&self) -> Vec<SessionRow> {
        let mut rows: Vec<_> = self.sessions.iter().map(|entry| entry.row()).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// What has been open for at least that long, the oldest first.
    pub(crate) fn open_since(&self, age_ms: u64) -> Vec<OpenWork> {
        let mut open: Vec<_> = self.sessions.iter().filter_map(|entry| entry.open_work()).collect();
        open.retain(|work| work.age_ms >= age_ms);
        open.sort_by_key(|work| std::cmp::Reverse(work.age_ms));
        open
    }

    /// Each user that has a session, with what its sessions logged in with.
    pub(crate) fn live_users(&self) -> Vec<LiveUser> {
        let mut users: HashMap<String, LiveUser> = HashMap::new();
        for entry in &self.sessions {
            let user = entry.row().user;
            let credential = entry.credential_of(&user);
            let live = users.entry(user).or_insert_with_key(|user| LiveUser::new(user.clone()));
            live.sessions += 1;
            if let Some(credential) = credential {
                live.saw(credential);
            }
        }
        users.into_values().collect()
    }

    /// Live sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that are on `side` now, but for those that stay there until their client speaks.
    #[must_use]
    pub fn on(&self, side: Side) -> usize {
        let moves = |entry: &Entry| entry.side() == side && !entry.waits_for_client.load(Relaxed);
        self.sessions.iter().filter(|entry| moves(entry)).count()
    }

    /// Sessions that have something open which no move can carry over (transactions not among them).
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.sessions.iter().filter(|entry| entry.pins.load(Relaxed) != 0).count()
    }

    /// Sessions that are restored on the other backend already, or won't be before their client speaks.
    #[must_use]
    pub fn prepared(&self) -> usize {
        let ready = |entry: &Entry| entry.prepared.load(Relaxed) || entry.waits_for_client.load(Relaxed);
        self.sessions.iter().filter(|entry| ready(entry)).count()
    }

    /// Steps that sessions have made towards being prepared, ever: as long as it grows, waiting for them is of use.
    #[must_use]
    pub fn preparations(&self) -> u64 {
        self.preparations.load(Relaxed)
    }

    pub(crate) fn count_preparation(&self) {
        self.preparations.fetch_add(1, Relaxed);
    }

    /// What all sessions did since the process began, and how many there are in each state.
    pub(crate) fn census(&self) -> Census {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let mut census = Census { work: *ended, ..Census::default() };
        for entry in &self.sessions {
            census.work += entry.work.get();
            if let Some(count) = census.states.get_mut(usize::from(entry.activity.load(Relaxed))) {
                *count += 1;
            }
            census.in_transaction += u64::from(entry.in_transaction.load(Relaxed));
            census.pinned += u64::from(entry.pins.load(Relaxed) != 0);
            census.on_target += u64::from(entry.side() == Side::Target);
            census.prepared += u64::from(entry.prepared.load(Relaxed));
        }
        census
    }

    /// Sessions moved since the process began.
    #[must_use]
    pub fn moved_total(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Closes a session and its backend connection. False: no such session.
    pub fn kill(&self, id: u32) -> bool {
        self.sessions.get(&id).map(|entry| entry.give(Order::Close)).is_some()
    }

    /// Ends what holds a permit of the gate now, for `open_transactions = "kill"`. Where that is only a
    /// transaction, the session rolls it back on its own connection, and its client gets error 1213 once the
    /// backend has confirmed it; every other session is closed, and the backend rolls back with it. Returns
    /// how many there are; the permits come back as they end.
    pub async fn kill_permit_holders(&self) -> usize {
        let mut count = 0;
        for entry in &self.sessions {
            if entry.holds_permit.load(SeqCst) {
                entry.give(Order::EndTransaction);
                count += 1;
            }
        }
        count
    }

    /// Takes an id to greet a client with; `None` where a live session was greeted with it.
    pub(crate) fn greet(self: &Arc<Self>, id: u32) -> Option<Greeted> {
        match self.greeted.entry(id) {
            dashmap::Entry::Occupied(_) => None,
            dashmap::Entry::Vacant(free) => {
                free.insert(());
                Some(Greeted { registry: Arc::clone(self), id })
            }
        }
    }

    /// True where the connection with this id on `side` is one of the proxy's own, or of a client that is logging in.
    pub(crate) fn is_ours(&self, side: Side, id: u64) -> bool {
        let logging_in = |id: &u32| self.greeted.contains_key(id) && !self.sessions.contains_key(id);
        u32::try_from(id)
            .is_ok_and(|id| logging_in(&id) || self.sessions.iter().any(|entry| entry.owns(side, id)))
    }

    /// Where the session is now whose client was greeted with this id, and its connection's id there.
    pub(crate) fn backend_of(&self, id: u32) -> Option<(Side, u32)> {
        self.sessions.get(&id).map(|entry| entry.backend())
    }

    pub(crate) fn register(
        self: &Arc<Self>,
        greeted: Greeted,
        user: String,
        client: String,
        (side, backend_id): (Side, u32),
    ) -> Registered {
        let id = greeted.id;
        let entry = Arc::new(Entry {
            id,
            user: Mutex::new(user),
            client,
            born: Instant::now(),
            schema: Mutex::default(),
            mapped: Mutex::default(),
            credential: Mutex::default(),
            backend: AtomicU64::new(backend_bits(side, backend_id)),
            previous: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Idle as u8),
            pins: AtomicU32::new(0),
            in_transaction: AtomicBool::new(false),
            transaction_ms: AtomicU64::new(0),
            wrote: AtomicBool::new(false),
            holds_permit: AtomicBool::new(false),
            work: WorkCell::default(),
            heard_ms: AtomicU64::new(0),
            order: AtomicU8::new(Order::None as u8),
            wake: Notify::new(),
            prepared: AtomicBool::new(false),
            waits_for_client: AtomicBool::new(false),
        });
        self.sessions.insert(id, Arc::clone(&entry));
        Registered { registry: Arc::clone(self), entry, _greeted: greeted }
    }

    pub(crate) fn count_move(&self) {
        self.moved.fetch_add(1, Relaxed);
    }

    /// Wakes every session that lives now, a few at a time: the route, or what is to be prepared, has changed.
    ///
    /// Woken all at once a thousand silent sessions would move at once, and the statements that the gate has held back
    /// would wait for their turn among them.
    ///
    /// Cancel safety: yes; those that haven't been woken aren't.
    pub(crate) async fn wake_in_turn(&self) {
        let entries: Vec<_> = self.sessions.iter().map(|entry| Arc::clone(&entry)).collect();
        for few in entries.chunks(WOKEN_AT_ONCE) {
            for entry in few {
                entry.wake.notify_one();
            }
            tokio::time::sleep(WAKE_AGAIN).await;
        }
    }

    /// Wakes those that have been idle for one to three times `since`, once or twice each.
    pub(crate) fn wake_idle(&self, since: Duration) {
        let since = since.as_millis() as u64;
        for entry in &self.sessions {
            if (since..since * 3).contains(&entry.idle_ms()) {
                entry.wake.notify_one();
            }
        }
    }

    /// The same order for every session.
    pub(crate) fn give_all(&self, order: Order) {
        for entry in &self.sessions {
            entry.give(order);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_is_open_says_for_how_long() {
        let registry = Arc::new(SessionRegistry::default());
        let session = |id| {
            let greeted = registry.greet(id).unwrap();
            registry.register(greeted, "app".into(), String::new(), (Side::Source, id))
        };
        let (idle, one, two) = (session(1), session(2), session(3));
        let heard = |of: &Registered, ms| of.entry.heard(of.entry.born + Duration::from_millis(ms));
        assert_eq!(registry.open_since(0), []);
        // Its second statement doesn't make it younger, its next transaction is.
        for (ms, wrote) in [(0, true), (9_000_000, false)] {
            heard(&one, ms);
            one.entry.set_transaction(true, wrote);
        }
        assert_eq!(one.entry.transaction_ms.load(Relaxed), 0);
        two.entry.set_activity(Activity::Busy);
        let open = registry.open_since(0);
        assert_eq!(open.len(), 2, "{open:?}");
        assert!(open.iter().any(|work| work.id == 2 && work.transaction == Some((false, 0))), "{open:?}");
        assert!(open.iter().any(|work| work.id == 3 && work.transaction.is_none()), "{open:?}");
        assert_eq!(registry.open_since(u64::MAX), []);
        one.entry.set_transaction(false, false);
        one.entry.set_transaction(true, true);
        assert_eq!(one.entry.transaction_ms.load(Relaxed), 9_000_000);
        let told = OpenWork { id: 7, user: "a".into(), age_ms: 93_500, transaction: Some((true, 80_000)) };
        assert_eq!(
            told.to_string(),
            "session 7 (\"a\"): a transaction is open for 93 s, its last statement changed rows, 80 s ago"
        );
        drop(idle);
    }

    #[tokio::test]
    async fn a_session_is_listed_for_as_long_as_it_lives() {
        let registry = Arc::new(SessionRegistry::default());
        let greeted = |id| registry.greet(id).unwrap();
        let one = registry.register(greeted(7), "app".into(), "127.0.0.1:9".into(), (Side::Source, 7));
        let two = registry.register(greeted(3), "app".into(), String::new(), (Side::Source, 3));
        assert!(registry.greet(7).is_none(), "its client knows itself by it");
        two.entry.set_previous(Some((Side::Source, 3)));
        two.entry.set_backend(Side::Target, 7);
        assert_eq!(registry.backend_of(3), Some((Side::Target, 7)));
        assert!(registry.is_ours(Side::Target, 7) && registry.is_ours(Side::Source, 3));
        two.entry.set_previous(None);
        assert!(!registry.is_ours(Side::Source, 3));
        assert_eq!(registry.backend_of(7), Some((Side::Source, 7)));
        two.entry.set_pins(Pins::XA);
        two.entry.set_schema(b"shop");
        two.entry.holds_permit.store(true, SeqCst);
        two.entry.work.count_statement();
        let rows = registry.rows();
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [3, 7]);
        assert_eq!((rows[0].pinned_by.as_str(), rows[0].schema.as_str()), ("XA transaction", "shop"));
        assert_eq!((registry.on(Side::Target), registry.pinned(), registry.len()), (1, 1, 2));
        assert_eq!(registry.kill_permit_holders().await, 1);
        assert_eq!((two.entry.order(), one.entry.order()), (Order::EndTransaction, Order::None));
        assert!(registry.kill(3) && !registry.kill(4));
        two.entry.done(Order::EndTransaction);
        assert_eq!(two.entry.order(), Order::Close, "the stronger order stands");
        assert_eq!(registry.census().work.statements, 1);
        drop((one, two));
        assert!(registry.is_empty() && registry.greet(7).is_some());
        assert_eq!(registry.census().work.statements, 1, "what was done stays counted");
    }
}
