//! What a migration says of itself: phases, progress, findings. The replicator fills these in, the proxy's
//! admin SQL prints them with the column names of the same words.

use crate::{BinlogPosition, GtidSet, Side, TableName};

/// Phase of a migration, as SHOW MIGRATION STATUS prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was started. Set by: a new state_dir. A restart stays idle.
    Idle,
    /// Preflight, start position, tables on the target. A restart begins it again.
    Preparing,
    /// Chunks are copied while the spool fills. A restart goes on with the next chunk.
    Copying,
    /// The spool is replayed, in safe mode first. A restart goes on behind the checkpoint.
    CatchingUp,
    /// The tail keeps up and the verifier works. A restart goes on behind the checkpoint.
    Following,
    /// A cutover is under way. A restart asks the cutover journal.
    CuttingOver,
    /// The target serves. Set by the cutover journal.
    Switched,
    /// A rollback is under way.
    RollingBack,
    /// Ended by FINISH MIGRATION.
    Finished,
    /// PAUSE MIGRATION; a restart stays paused.
    Paused,
    /// Stopped by an error that an operator has to see. RESUME MIGRATION tries again.
    Failed,
    /// Ended by ABANDON MIGRATION.
    Abandoned,
}

impl Phase {
    /// Every phase, in the order of a migration.
    pub const ALL: [Self; 12] = [
        Phase::Idle,
        Phase::Preparing,
        Phase::Copying,
        Phase::CatchingUp,
        Phase::Following,
        Phase::CuttingOver,
        Phase::Switched,
        Phase::RollingBack,
        Phase::Finished,
        Phase::Paused,
        Phase::Failed,
        Phase::Abandoned,
    ];

    /// The word in SHOW MIGRATION STATUS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Preparing => "preparing",
            Phase::Copying => "copying",
            Phase::CatchingUp => "catching_up",
            Phase::Following => "following",
            Phase::CuttingOver => "cutting_over",
            Phase::Switched => "switched",
            Phase::RollingBack => "rolling_back",
            Phase::Finished => "finished",
            Phase::Paused => "paused",
            Phase::Failed => "failed",
            Phase::Abandoned => "abandoned",
        }
    }
}

/// What replication knows of SHOW MIGRATION STATUS; the proxy adds route and sessions.
#[derive(Debug, Clone)]
pub struct MigrationStatus {
    /// `migration.name`
    pub name: String,
    /// The phase; the proxy's cutover overrules it while it works and afterwards.
    pub phase: Phase,
    /// Tables of the migration; 0 before it was started.
    pub tables_total: u64,
    /// Tables whose every chunk was copied.
    pub tables_copied: u64,
    /// Rows copied so far.
    pub rows_copied: u64,
    /// Rows to copy, as the source's statistics estimate them.
    pub rows_estimate: u64,
    /// Rows a second over the last seconds of the copy; 0 when it isn't copying.
    pub copy_rows_per_s: u64,
    /// Seconds until the copy is done at that rate; `None` when it isn't copying.
    pub eta_s: Option<u64>,
    /// The last position fetched from the source.
    pub source_position: Option<ReplicationPosition>,
    /// The position that the target's rows correspond to.
    pub applied_position: Option<ReplicationPosition>,
    /// Age of the applied position in ms: 0 when everything fetched is applied and the source has no more.
    pub lag_ms: Option<u64>,
    /// Bytes in the spool that aren't applied yet.
    pub lag_bytes: u64,
    /// Row changes applied a second, over the last seconds.
    pub apply_rows_per_s: u64,
    /// Row changes applied by this process.
    pub rows_applied: u64,
    /// Rows that the verifier compared, in its present or last pass.
    pub rows_verified: u64,
    /// Rows that differ.
    pub differences: u64,
    /// Transactions of others that wrote to tables of the migration on the side that doesn't serve, and that nobody has
    /// acknowledged yet.
    pub stray_writes: u64,
    /// The same, all that this process has found.
    pub stray_writes_total: u64,
    /// The last error, with what to do. `None`: none since the last START or RESUME, and no stray write is open.
    pub last_error: Option<String>,
    /// What copy and verification wait for (`[throttle]`); `None`: nothing.
    pub throttled_by: Option<String>,
    /// For how long they waited in this process, in ms.
    pub throttled_ms: u64,
    /// Rows that the copy has read and that wait on disk for the target (`snapshot.stage_dir`).
    pub staged_rows: u64,
    /// Bytes of the files that they are in.
    pub staged_bytes: u64,
}

/// A row of SHOW STRAY WRITES: writes of others than Changeover to a table of the migration, on the side that doesn't
/// serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayWrites {
    /// Where it was written.
    pub side: Side,
    /// The schema; empty where it isn't known.
    pub schema: String,
    /// The table; empty where it isn't one table, or which isn't known.
    pub table: String,
    /// Transactions, each counted for every table that it wrote to.
    pub transactions: u64,
    /// Rows that they wrote, at least; 0 where only definitions changed.
    pub rows: u64,
    /// The first and the last of them, as `gtid (file:offset)`.
    pub first_position: String,
    /// See there.
    pub last_position: String,
    /// What is worth a sentence; empty for nothing.
    pub note: String,
}

/// A position of the source in both of its spellings; of a source without GTIDs in the one that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationPosition {
    /// Everything up to here.
    pub gtids: GtidSet,
    /// Where it ends in the binlog of the server it was read from.
    pub coordinates: BinlogPosition,
}

impl std::fmt::Display for ReplicationPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.gtids {
            GtidSet::Anonymous => self.coordinates.fmt(f),
            gtids => write!(f, "{gtids} ({})", self.coordinates),
        }
    }
}

/// A row of SHOW MIGRATION TABLES.
#[derive(Debug, Clone)]
pub struct TableStatus {
    /// The table.
    pub table: TableName,
    /// `waiting`, `copying`, `copied`, `verifying`, `verified` or `different`.
    pub phase: &'static str,
    /// Rows copied so far.
    pub rows_copied: u64,
    /// Rows to copy, by the source's statistics.
    pub rows_estimate: u64,
    /// Rows compared in the present or last pass.
    pub rows_verified: u64,
    /// Rows that differ.
    pub differences: u64,
    /// Anything worth a sentence; empty for nothing.
    pub note: String,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DifferenceKind {
    /// On the source only.
    Missing,
    /// On the target only.
    Extra,
    /// On both, with other values.
    Different,
}

impl DifferenceKind {
    /// The word in SHOW DIFFERENCES.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DifferenceKind::Missing => "missing",
            DifferenceKind::Extra => "extra",
            DifferenceKind::Different => "different",
        }
    }
}

/// A row of SHOW DIFFERENCES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: TableName,
    /// The row's key as an exact SQL condition that can be pasted behind WHERE.
    pub key: String,
    /// How it differs.
    pub kind: DifferenceKind,
    /// Columns that differ; empty for a missing or extra row.
    pub columns: Vec<String>,
    /// A statement that makes the target's row equal.
    pub repair_sql: String,
}

/// A row of SHOW CONVERSIONS: something of the source's schema that is defined otherwise on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// The schema.
    pub schema: String,
    /// The table, `table.column`, `table.key`, or another object's name.
    pub object: String,
    /// `type`, `charset`, `collation`, `default`, `generated`, `check`, `index`, `attribute`, `engine`, `option`, or the
    /// kind of another object.
    pub kind: String,
    /// The part that is changed, as the source has it.
    pub source_definition: String,
    /// What the target gets in its place; empty where it is left out.
    pub target_definition: String,
    /// Something is lost by it: a guarantee, a value, what an INSERT does. It needs a yes.
    pub lossy: bool,
}

/// A row of REPAIR: what was done to the target, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The table.
    pub table: TableName,
    /// Rows that the statement makes equal.
    pub rows: u64,
    /// A statement that amounts to it.
    pub sql: String,
}

/// How bad a finding of the preflight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It will work, and something will surprise.
    Warning,
    /// The migration can't start.
    Fatal,
}

/// One finding of `changeover check` and of START MIGRATION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `source`, `target`, a table, a setting.
    pub subject: String,
    /// What is the matter and what to do, in full sentences.
    pub message: String,
}

/// The verifier's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every row of every table, and every change since, was compared and is equal.
    Equal {
        /// Rows compared.
        rows: u64,
    },
    /// Rows differ.
    Different {
        /// How many.
        rows: u64,
    },
    /// No pass is complete, or what was touched since isn't compared yet; never to be read as equal.
    Unknown {
        /// What is missing.
        why: String,
    },
}
