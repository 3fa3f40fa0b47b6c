//! Consecutive transactions, or consecutive parts of one that is too large, gathered to a batch. Pure.

use std::time::{Duration, Instant};

use config::BinlogPosition;

use super::done::{Mark, Stretch};
use super::graph::LowWater;
use super::statement::Mode;
use super::worker::Batch;
use super::writeset::{Plans, WriteSet};
use crate::binlog::transaction::{RowsChange, TransactionMeta};
use crate::error::Result;

/// How much is in a batch.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    /// Row changes.
    rows: usize,
    /// Bytes in memory.
    bytes: usize,
    /// Transactions that change something.
    transactions: usize,
    /// Transactions in all.
    numbers: usize,
}

/// With so much of anything a batch needn't grow: a commit of its own costs little beside it.
const READY: Size = Size { rows: 1_000, bytes: 4 << 20, transactions: 500, numbers: 2_000 };
/// With so much it can't. A batch that has to wait for one with which it shares a key grows meanwhile up to here: of
/// the changes of one row only the last one is left, so where rows are changed often the target has less to do.
const FULL: Size = Size { rows: 8_000, bytes: 12 << 20, transactions: 4_000, numbers: 16_000 };

impl Size {
    fn reaches(self, bound: Size) -> bool {
        self.rows >= bound.rows
            || self.bytes >= bound.bytes
            || self.transactions >= bound.transactions
            || self.numbers >= bound.numbers
    }
}

/// Far behind, a batch that isn't full waits so long for more. A commit costs more than that.
const LINGER: Duration = Duration::from_millis(4);
/// More behind than this is far behind. MariaDB's times are whole seconds.
const FAR_BEHIND_US: u64 = 2_500_000;

/// A batch that still grows.
#[derive(Debug, Default)]
pub(super) struct Builder {
    metas: Vec<TransactionMeta>,
    /// What is in it is of this transaction alone, and not all of it; `metas` is empty then.
    part: Option<Part>,
    changes: Vec<RowsChange>,
    keys: WriteSet,
    mode: Option<Mode>,
    /// The binlog went on to here behind the last transaction.
    coordinates: Option<BinlogPosition>,
    size: Size,
    began: Option<Instant>,
}

/// Some rows of a large transaction.
#[derive(Debug)]
pub(super) struct PartRows {
    /// The rows.
    pub(super) change: RowsChange,
    /// About how many bytes they take in memory.
    pub(super) bytes: usize,
    /// Where they lie among the bytes of its events, both inclusive.
    pub(super) first: u64,
    /// The last of those bytes.
    pub(super) last: u64,
}

/// A stretch of a large transaction.
#[derive(Debug)]
struct Part {
    meta: TransactionMeta,
    first: u64,
    last: u64,
}

/// A batch that is ready to be applied.
#[derive(Debug)]
pub(super) struct Built {
    /// Its transactions; none where it is a part of one.
    pub(super) metas: Vec<TransactionMeta>,
    /// Where it ends.
    pub(super) end: Mark,
    /// Where the binlog went on to behind them.
    pub(super) coordinates: Option<BinlogPosition>,
    /// What it touches.
    pub(super) keys: WriteSet,
    /// Its rows; `None` where there are none.
    pub(super) batch: Option<Batch>,
}

impl Builder {
    /// True for no transaction.
    pub(super) fn is_empty(&self) -> bool {
        self.metas.is_empty() && self.part.is_none()
    }

    /// True where it should be applied before it grows, if it can be.
    pub(super) fn is_ready(&self) -> bool {
        self.size.reaches(READY)
    }

    /// True where it has to be applied before it grows.
    pub(super) fn is_full(&self) -> bool {
        self.size.reaches(FULL)
    }

    /// True where a transaction replayed in that mode may join.
    pub(super) fn fits(&self, mode: Mode) -> bool {
        self.part.is_none() && !self.is_full() && self.mode.is_none_or(|own| own == mode)
    }

    /// True where a transaction with nothing to do may join.
    pub(super) fn fits_skipped(&self) -> bool {
        self.part.is_none()
    }

    /// True where a part of the large transaction `seq` may join.
    pub(super) fn fits_part(&self, seq: u64) -> bool {
        self.metas.is_empty() && !self.is_full() && self.part.as_ref().is_none_or(|part| part.meta.seq == seq)
    }

    /// The mode of what is in it.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// The keys of what is in it.
    pub(super) fn keys(&self) -> &WriteSet {
        &self.keys
    }

    /// Number of the last transaction in it.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.metas.last().map(|meta| meta.seq)
    }

    /// Until when it should wait for more, were nothing more there now.
    pub(super) fn waits_until(&self, now_us: u64) -> Option<Instant> {
        let first = self.part.as_ref().map(|part| &part.meta).or(self.metas.first())?;
        if self.is_ready() || self.changes.is_empty() || first.committed_at_us + FAR_BEHIND_US > now_us {
            return None;
        }
        self.began.map(|began| began + LINGER)
    }

    /// Adds a transaction with nothing to do: none of ours, or applied by an earlier run.
    pub(super) fn skip(&mut self, meta: TransactionMeta) {
        self.metas.push(meta);
        self.size.numbers += 1;
        self.coordinates = None;
    }

    /// Adds a transaction.
    pub(super) fn add(
        &mut self,
        plans: &Plans,
        mode: Mode,
        meta: TransactionMeta,
        changes: Vec<RowsChange>,
        bytes: usize,
        now: Instant,
    ) -> Result<()> {
        self.take(plans, mode, changes, bytes, now)?;
        self.size.transactions += 1;
        self.skip(meta);
        Ok(())
    }

    /// Adds rows of a large transaction, which go on where those before them ended.
    pub(super) fn add_part(
        &mut self,
        plans: &Plans,
        mode: Mode,
        meta: &TransactionMeta,
        rows: PartRows,
        now: Instant,
    ) -> Result<()> {
        let PartRows { change, bytes, first, last } = rows;
        self.take(plans, mode, vec![change], bytes, now)?;
        match &mut self.part {
            Some(part) => part.last = last,
            none => *none = Some(Part { meta: meta.clone(), first, last }),
        }
        Ok(())
    }

    fn take(
        &mut self,
        plans: &Plans,
        mode: Mode,
        changes: Vec<RowsChange>,
        bytes: usize,
        now: Instant,
    ) -> Result<()> {
        for change in &changes {
            plans.collect(change, &mut self.keys)?;
            self.size.rows += change.rows.len();
        }
        self.size.bytes += bytes;
        self.mode = Some(mode);
        self.began.get_or_insert(now);
        self.changes.extend(changes);
        Ok(())
    }

    /// The binlog went on behind the last transaction.
    pub(super) fn advance(&mut self, coordinates: BinlogPosition) {
        self.coordinates = Some(coordinates);
    }

    /// Takes what is in it; `low` is what is applied without a gap.
    pub(super) fn build(&mut self, low: LowWater) -> Built {
        let whole = std::mem::take(self);
        let stretch = match (&whole.part, whole.metas.first(), whole.metas.last()) {
            (Some(part), ..) => {
                let stretch = Stretch::Part { seq: part.meta.seq, first: part.first, last: part.last };
                Some((stretch, format!("a part of {}", place(&part.meta, &part.meta))))
            }
            (None, Some(first), Some(last)) => {
                Some((Stretch::Transactions { first: first.seq, last: last.seq }, place(first, last)))
            }
            _ => None,
        };
        let end = stretch.as_ref().map_or(Mark::default(), |(stretch, _)| stretch.end());
        let batch = stretch.zip(whole.mode).map(|((stretch, place), mode)| Batch {
            stretch,
            place,
            mode,
            changes: whole.changes,
            low,
        });
        Built { metas: whole.metas, end, coordinates: whole.coordinates, keys: whole.keys, batch }
    }
}

/// Where transactions are, for an error message.
pub(crate) fn place(first: &TransactionMeta, last: &TransactionMeta) -> String {
    if first.seq == last.seq {
        format!("transaction {} ending at {}", first.gtid, first.end)
    } else {
        format!("transactions {} to {} ending at {}", first.gtid, last.gtid, last.end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use config::progress::ReplicationPosition;
    use config::{Flavor, GtidSet};

    use super::super::sample::{change, insert, int_row, meta, table};
    use super::*;
    use crate::schema::table::SchemaSet;

    fn low() -> LowWater {
        LowWater {
            mark: Mark::default(),
            position: ReplicationPosition {
                gtids: GtidSet::empty(Flavor::MariaDb),
                coordinates: BinlogPosition::default(),
            },
            committed_at_us: 0,
        }
    }

    #[test]
    fn a_batch_has_a_bound_and_one_mode() {
        let table = table("t", 1, &[&[0]]);
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let mut builder = Builder::default();
        let now = Instant::now();
        let mut seq = 0;
        let mut add = |builder: &mut Builder, rows: i64, bytes: usize| {
            seq += 1;
            let rows = (0..rows).map(|i| insert(int_row(&[i]))).collect();
            builder.add(&plans, Mode::Safe, meta(seq), vec![change(&table, rows)], bytes, now).unwrap();
        };
        assert!(builder.is_empty() && builder.fits(Mode::Exact) && builder.waits_until(u64::MAX).is_none());
        builder.skip(meta(0));
        assert!(builder.fits(Mode::Exact) && builder.mode().is_none());
        add(&mut builder, 600, 10);
        assert!(builder.fits(Mode::Safe) && !builder.fits(Mode::Exact));
        assert_eq!(builder.waits_until(u64::MAX), Some(now + LINGER));
        assert_eq!(builder.waits_until(1_000_000), None, "not far behind");
        assert!(!builder.is_ready());
        add(&mut builder, 600, 10);
        assert!(builder.is_ready() && builder.fits(Mode::Safe) && !builder.fits(Mode::Exact));
        assert_eq!(builder.waits_until(u64::MAX), None, "it needn't grow");
        add(&mut builder, 6_800, 10);
        assert!(builder.is_full() && !builder.fits(Mode::Safe));
        builder.advance(BinlogPosition { file: "bin.000001".to_owned(), offset: 9_999 });
        let built = builder.build(low());
        assert_eq!(built.metas.len(), 4);
        assert_eq!(built.coordinates.unwrap().offset, 9_999);
        assert_eq!(built.keys.taken.len(), 6_800);
        let batch = built.batch.unwrap();
        assert_eq!(batch.stretch, Stretch::Transactions { first: 0, last: 3 });
        assert_eq!((batch.changes.len(), built.end), (3, Mark::behind(3)));
        assert_eq!(batch.place, "transactions 0-1-0 to 0-1-3 ending at bin.000001:300");
        assert!(builder.is_empty());
        add(&mut builder, 1, FULL.bytes);
        assert!(builder.is_full());
        builder.build(low());
        builder.skip(meta(9));
        assert!(builder.build(low()).batch.is_none(), "nothing to do");
    }

    #[test]
    fn parts_of_a_large_transaction_are_gathered_alone() {
        let table = table("t", 1, &[&[0]]);
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let mut builder = Builder::default();
        let rows = |from: i64| change(&table, (from..from + 900).map(|i| insert(int_row(&[i]))).collect());
        let add = |builder: &mut Builder, seq, first, last| {
            let rows = PartRows { change: rows(first as i64), bytes: 10, first, last };
            builder.add_part(&plans, Mode::Exact, &meta(seq), rows, Instant::now()).unwrap();
        };
        add(&mut builder, 5, 1, 9_000);
        assert!(builder.fits_part(5) && !builder.fits_part(6) && !builder.is_empty());
        assert!(!builder.fits(Mode::Exact) && !builder.fits_skipped());
        add(&mut builder, 5, 9_001, 20_000);
        let built = builder.build(low());
        assert_eq!((built.metas.len(), built.end), (0, Mark { seq: 4, within: 20_000 }));
        assert_eq!(built.keys.taken.len(), 1_800);
        let batch = built.batch.unwrap();
        assert_eq!(batch.stretch, Stretch::Part { seq: 5, first: 1, last: 20_000 });
        assert_eq!(batch.place, "a part of transaction 0-1-5 ending at bin.000001:500");
        builder.skip(meta(5));
        assert!(!builder.fits_part(6), "its transaction has to be applied first");
    }
}
