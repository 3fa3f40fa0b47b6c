//! What is applied above the low water: transactions, and parts of those that are too large for one batch. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::intervals::{Intervals, NotIntervals};

/// A place in the spool's order: everything up to the end of transaction `seq`, and of the one behind it what its first
/// `within` bytes of events hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// A transaction's number; 0: before the first.
    pub(super) seq: u64,
    /// Bytes of the next one, as it lies in the spool; 0: nothing of it.
    pub(super) within: u64,
}

impl Mark {
    /// Behind a whole transaction.
    pub(super) fn behind(seq: u64) -> Self {
        Self { seq, within: 0 }
    }
}

/// A stretch of the spool that is applied in one transaction of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    /// Whole transactions, both inclusive.
    Transactions { first: u64, last: u64 },
    /// Bytes of the events of one transaction, both inclusive; the first byte is 1.
    Part { seq: u64, first: u64, last: u64 },
}

impl Stretch {
    /// Where it ends.
    pub(super) fn end(self) -> Mark {
        match self {
            Self::Transactions { last, .. } => Mark::behind(last),
            Self::Part { seq, last, .. } => Mark { seq: seq.saturating_sub(1), within: last },
        }
    }
}

/// Transactions, and parts of transactions. As text the transactions, then the parts of each other one behind its number:
/// `5-9,12;14:1-70000,90001-95000`.
///
/// Parts are named by bytes of the spool, not by rows or events: those stay what they are whatever a later version of this program
/// makes of them, and whichever tables and rows it leaves out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Done {
    transactions: Intervals,
    parts: BTreeMap<u64, Intervals>,
}

impl Done {
    /// True where there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty() && self.parts.is_empty()
    }

    /// Adds a stretch.
    pub(super) fn add(&mut self, stretch: Stretch) {
        match stretch {
            Stretch::Transactions { first, last } => self.transactions.add(first, last),
            Stretch::Part { seq, first, last } => self.parts.entry(seq).or_default().add(first, last),
        }
    }

    /// Adds all of `other`.
    pub(super) fn add_all(&mut self, other: &Self) {
        self.transactions.add_all(&other.transactions);
        for (&seq, parts) in &other.parts {
            self.parts.entry(seq).or_default().add_all(parts);
        }
    }

    /// Drops what is not above the low water.
    pub(super) fn drop_up_to(&mut self, low: Mark) {
        self.transactions.drop_up_to(low.seq);
        self.parts.retain(|&seq, parts| {
            if seq == low.seq + 1 {
                parts.drop_up_to(low.within);
            }
            seq > low.seq && !parts.is_empty()
        });
    }

    /// True where the whole transaction is in it.
    pub(super) fn has_transaction(&self, seq: u64) -> bool {
        self.transactions.contains(seq)
    }

    /// True where all of the stretch is in it, as it was added.
    pub(super) fn has(&self, stretch: Stretch) -> bool {
        match stretch {
            Stretch::Transactions { last, .. } => self.transactions.contains(last),
            Stretch::Part { seq, last, .. } => self.parts.get(&seq).is_some_and(|parts| parts.contains(last)),
        }
    }

    /// The parts, by the number of their transaction.
    pub(super) fn parts(&self) -> &BTreeMap<u64, Intervals> {
        &self.parts
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.transactions)?;
        self.parts.iter().try_for_each(|(seq, parts)| write!(f, ";{seq}:{parts}"))
    }
}

impl FromStr for Done {
    type Err = NotIntervals;

    fn from_str(text: &str) -> Result<Self, NotIntervals> {
        let mut sections = text.split(';');
        let transactions = sections.next().unwrap_or_default().parse()?;
        let mut parts: BTreeMap<u64, Intervals> = BTreeMap::new();
        for section in sections {
            let (seq, intervals) = section.split_once(':').ok_or(NotIntervals)?;
            let seq = seq.parse().map_err(|_| NotIntervals)?;
            parts.entry(seq).or_default().add_all(&intervals.parse()?);
        }
        Ok(Self { transactions, parts })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn done(text: &str) -> Done {
        text.parse().unwrap()
    }

    #[test]
    fn its_text_is_read_again() {
        for text in ["", "5-9,12", ";14:1-700", "5-9,12;14:1-700,901-950;16:1-3"] {
            assert_eq!(done(text).to_string(), text);
        }
        for text in [";", "5;", "5;14", "5;x:1-2", "5;14:2-1", "5:1-2", "5;14:1;"] {
            assert_eq!(text.parse::<Done>(), Err(NotIntervals), "{text}");
        }
    }

    #[test]
    fn a_part_is_above_the_low_water_until_its_transaction_is_below() {
        let mut all = done("5-9,12;11:1-700,901-950;16:1-3");
        assert!(all.has_transaction(9) && !all.has_transaction(11));
        assert!(all.has(Stretch::Part { seq: 11, first: 650, last: 700 }));
        assert!(!all.has(Stretch::Part { seq: 11, first: 701, last: 720 }));
        assert!(!all.has(Stretch::Part { seq: 12, first: 1, last: 2 }));
        all.drop_up_to(Mark { seq: 10, within: 800 });
        assert_eq!(all.to_string(), "12;11:901-950;16:1-3");
        all.drop_up_to(Mark { seq: 10, within: 950 });
        assert_eq!(all.to_string(), "12;16:1-3");
        all.drop_up_to(Mark::behind(16));
        assert!(all.is_empty());
    }

    #[test]
    fn places_are_in_the_order_of_the_spool() {
        let part = |last| Stretch::Part { seq: 12, first: 1, last }.end();
        let whole = |last| Stretch::Transactions { first: 1, last }.end();
        assert!(whole(11) < part(1) && part(1) < part(2) && part(9_999) < whole(12));
    }
}
