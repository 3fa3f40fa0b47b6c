//! The books against a server.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Fate};
use crate::support::{Server, seed};

/// Closed books.
pub struct Proof {
    books: Vec<(Entry, Fate)>,
    /// Connections that were lost on the way.
    pub lost_connections: u64,
}

impl Proof {
    pub(super) fn new(books: Vec<(Entry, Fate)>, lost_connections: u64) -> Self {
        Self { books, lost_connections }
    }

    /// Transactions of a fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.books.iter().filter(|(_, of)| *of == fate).count()
    }

    /// Panics with what is lost, doubled or otherwise not as the books say (invariant 1).
    pub async fn assert_holds_on(&self, server: &Server) {
        assert!(self.count(Fate::Acknowledged) > 0, "books without an entry prove nothing");
        let wrong = self.wrong_on(server).await;
        let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>();
        assert!(wrong.is_empty(), "the books don't hold in {} places:\n{}", wrong.len(), shown.join("\n"));
    }

    /// Everything on the server that isn't as the books say.
    pub async fn wrong_on(&self, server: &Server) -> Vec<String> {
        let mut wrong = Vec::new();
        let standing = self.entries(server, &mut wrong).await;
        Self::accounts(server, &standing, &mut wrong).await;
        Self::inbox(server, &standing, &mut wrong).await;
        wrong
    }

    /// Each acknowledged entry is there once, each unknown one at most once, no other is. Returns those there.
    async fn entries(&self, server: &Server, wrong: &mut Vec<String>) -> Vec<Entry> {
        let sql = format!(
            "SELECT writer, seq, account, CAST(amount * 100 AS SIGNED) FROM {}.entries",
            seed::SCHEMA
        );
        let mut seen: BTreeMap<(u32, u32), Vec<(u32, i64)>> = BTreeMap::new();
        for (writer, seq, account, cents) in server.rows::<(u32, u32, u32, i64)>(&sql).await {
            seen.entry((writer, seq)).or_default().push((account, cents));
        }
        let mut standing = Vec::new();
        for (entry, fate) in &self.books {
            let rows = seen.remove(&(entry.writer, entry.seq)).unwrap_or_default();
            match (fate, rows.len()) {
                (Fate::Acknowledged, 0) => wrong.push(format!("LOST: {entry:?}")),
                (Fate::Acknowledged | Fate::Unknown, 2..) => {
                    wrong.push(format!("DUPLICATED {} times: {entry:?}", rows.len()));
                }
                (Fate::Absent, 1..) => wrong.push(format!("rolled back, and is there: {entry:?}")),
                _ => {}
            }
            if let Some(row) = rows.first() {
                if *row != (entry.account, entry.cents) {
                    wrong.push(format!("{entry:?} is there as {row:?}"));
                }
                standing.push(entry.clone());
            }
        }
        wrong.extend(seen.keys().map(|key| format!("in no book: {key:?}")));
        standing
    }

    /// Every account is the sum of its entries, changed so many times.
    async fn accounts(server: &Server, standing: &[Entry], wrong: &mut Vec<String>) {
        let mut sums: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
        for entry in standing {
            let sum = sums.entry(entry.account).or_default();
            *sum = (sum.0 + entry.cents, sum.1 + 1);
        }
        let sql = format!("SELECT id, CAST(balance * 100 AS SIGNED), changes FROM {}.accounts", seed::SCHEMA);
        let rows = server.rows::<(u32, i64, i64)>(&sql).await;
        assert_eq!(rows.len(), seed::ACCOUNTS as usize, "accounts");
        for (id, cents, changes) in rows {
            let wanted = sums.get(&id).copied().unwrap_or_default();
            if (cents, changes) != wanted {
                wrong.push(format!("account {id} is {:?}, its entries say {wanted:?}", (cents, changes)));
            }
        }
    }

    /// The inbox holds what was put and not taken.
    async fn inbox(server: &Server, standing: &[Entry], wrong: &mut Vec<String>) {
        let mut wanted: BTreeSet<(u32, u32)> = standing.iter().map(|e| (e.writer, e.seq)).collect();
        for entry in standing {
            if let Some(removed) = entry.removes {
                wanted.remove(&(entry.writer, removed));
            }
        }
        let sql = format!("SELECT writer, seq FROM {}.inbox", seed::SCHEMA);
        let seen: BTreeSet<(u32, u32)> = server.rows::<(u32, u32)>(&sql).await.into_iter().collect();
        wrong.extend(wanted.difference(&seen).map(|key| format!("LOST from the inbox: {key:?}")));
        wrong.extend(seen.difference(&wanted).map(|key| format!("back in the inbox: {key:?}")));
    }
}
