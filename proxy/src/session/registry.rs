//! The live sessions, for SHOW SESSIONS, KILL SESSION, the limit on connections and the cutover. (H3)

use config::Side;

/// A row of SHOW SESSIONS.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// The proxy's id of the session; also the connection id that the client was greeted with.
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
}

/// Every live session. H3 fills it in; these are the calls that the cutover and the admin SQL (H4) make.
#[derive(Debug, Default)]
pub struct SessionRegistry {}

impl SessionRegistry {
    /// A row a session, by id.
    #[must_use]
    pub fn rows(&self) -> Vec<SessionRow> {
        todo!()
    }

    /// Live sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that are on `side` now.
    #[must_use]
    pub fn on(&self, _side: Side) -> usize {
        todo!()
    }

    /// Sessions that have something open which no move can carry over (transactions not among them).
    #[must_use]
    pub fn pinned(&self) -> usize {
        todo!()
    }

    /// Sessions moved since the process began.
    #[must_use]
    pub fn moved_total(&self) -> u64 {
        todo!()
    }

    /// Closes a session and its backend connection. False: no such session.
    pub fn kill(&self, _id: u32) -> bool {
        todo!()
    }

    /// Closes every session that holds a permit of the gate now (open transactions, pins), for
    /// `open_transactions = "kill"`. The backend rolls back when its connection closes; a client in a
    /// transaction gets error 1213 only once that is certain, else its connection closes. Returns how many.
    pub async fn kill_permit_holders(&self) -> usize {
        todo!()
    }
}
