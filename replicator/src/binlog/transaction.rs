//! A transaction of the source, decoded.

use std::sync::Arc;

use bytes::Bytes;
use config::{BinlogPosition, Gtid};

use crate::schema::table::TableSchema;
use crate::value::Value;

/// What identifies a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionMeta {
    /// Its number in the spool, from 1 on, without gaps. The same transaction has the same number for ever.
    pub seq: u64,
    /// Its identity on the source.
    pub gtid: Gtid,
    /// Where it ends in the source's binlog.
    pub end: BinlogPosition,
    /// When the source committed it, microseconds since 1970 (MariaDB: whole seconds).
    pub committed_at_us: u64,
}

/// A row of a row event. Images may lack columns ([`Value::Absent`]), but never those of the row key, and an image before of
/// a table without one is whole.
#[derive(Debug, Clone, PartialEq)]
pub enum RowChange {
    /// Every column of the new row, in the order of [`TableSchema::columns`].
    Insert {
        /// The new row.
        after: Vec<Value>,
    },
    /// Both images. What the one after lacks and the one before has is in both.
    Update {
        /// The old row.
        before: Vec<Value>,
        /// The new row.
        after: Vec<Value>,
    },
    /// The old row.
    Delete {
        /// The old row.
        before: Vec<Value>,
    },
}

impl RowChange {
    /// True where an image lacks a column.
    pub(crate) fn is_partial(&self) -> bool {
        let lacks = |image: &[Value]| image.contains(&Value::Absent);
        match self {
            RowChange::Insert { after: image } | RowChange::Delete { before: image } => lacks(image),
            RowChange::Update { before, after } => lacks(before) || lacks(after),
        }
    }
}

/// Rows of one row event.
#[derive(Debug, Clone)]
pub struct RowsChange {
    /// The table.
    pub table: Arc<TableSchema>,
    /// In the order of the event.
    pub rows: Vec<RowChange>,
    /// False where the source's session ran it with foreign_key_checks off (flag of the event).
    pub foreign_key_checks: bool,
}

/// A statement that changes definitions, and what is needed to run it as it ran.
#[derive(Clone, PartialEq, Eq)]
pub struct DdlStatement {
    /// Default schema of the session.
    pub schema: String,
    /// Its text, in the character set of its session's client.
    pub sql: Bytes,
    /// Status variables of its event.
    pub status: Bytes,
    /// When it began on the source, seconds since 1970.
    pub began_at_s: u32,
    /// False where it came in one group with rows (CREATE TABLE … SELECT), which aren't here.
    pub alone: bool,
}

impl std::fmt::Debug for DdlStatement {
    // invariant 8: the text may hold literals.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DdlStatement").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// What the spool yields, in the order of the source's binlog.
#[derive(Debug)]
pub enum SpoolItem {
    /// A whole transaction that touches tables of the migration and is small enough to hold in memory.
    Transaction {
        /// Its identity.
        meta: TransactionMeta,
        /// Its row events in order.
        changes: Vec<RowsChange>,
    },
    /// The begin of a transaction that is too large to hold in memory: `LargeRows` follow, then `LargeEnd`.
    LargeBegin {
        /// Its identity.
        meta: TransactionMeta,
    },
    /// Rows of the large transaction.
    LargeRows {
        /// The rows.
        change: RowsChange,
        /// Where they lie among the bytes of the transaction's events in the spool, both inclusive. Each item begins where
        /// the one before it ended, the first one at 1.
        first: u64,
        /// The last of those bytes.
        last: u64,
    },
    /// Its end.
    LargeEnd,
    /// A transaction with nothing for this migration: only the position moves.
    Skip {
        /// Its identity.
        meta: TransactionMeta,
    },
    /// The source's binlog went on without a transaction (rotation, heartbeat): only the coordinates move.
    Coordinates(BinlogPosition),
    /// A statement that changes the definition of something in a schema of the migration.
    Ddl {
        /// Its identity.
        meta: TransactionMeta,
        /// The statement.
        statement: DdlStatement,
    },
}
