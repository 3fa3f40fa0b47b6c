//! What is moved, and how carefully.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[migration]`
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// Names the migration in the target's `changeover` schema and in SHOW MIGRATION STATUS.
    pub name: String,
    /// Schemas to move. Empty: every schema that isn't the server's own.
    pub schemas: Vec<String>,
    /// `schema.table` patterns with `%` and `_` as in LIKE.
    pub exclude_tables: Vec<String>,
    /// Of which tables only some rows are moved; the first one that matches a table counts.
    pub rows: Vec<RowsConfig>,
    /// Which columns of which tables aren't moved; the first one that matches a table counts.
    pub columns: Vec<ColumnsConfig>,
    /// What is called otherwise on the target.
    pub rename: crate::Names,
    /// `schema.table` patterns of tables whose definition may lose something on the target; `%.%` is all of them.
    pub allow_lossy: Vec<String>,
    /// `user@host` patterns, with `%` and `_` as in LIKE, of the source's accounts that are made on the target; `%@%` is all
    /// of them, none is none.
    pub accounts: Vec<String>,
    /// Whether START MIGRATION is waited for.
    pub start: StartPolicy,
    /// What a DDL statement in the stream does.
    pub ddl: DdlPolicy,
    /// Replicate back after the cutover.
    pub reverse: bool,
}

/// `[[migration.rows]]`: of the tables that match, only the rows whose column has one of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsConfig {
    /// `schema.table`, with `%` and `_` as in LIKE.
    pub tables: String,
    /// The column's name.
    pub column: String,
    /// The values; never empty.
    pub values: Vec<FilterValue>,
}

/// `[[migration.columns]]`: of the tables that match, all columns but these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnsConfig {
    /// `schema.table`, with `%` and `_` as in LIKE.
    pub tables: String,
    /// Names of columns; never empty.
    pub exclude: Vec<String>,
}

impl ColumnsConfig {
    /// True for the name of a column that isn't moved. Names of columns have no case.
    #[must_use]
    pub fn excludes(&self, column: &str) -> bool {
        let column = column.to_lowercase();
        self.exclude.iter().any(|name| name.to_lowercase() == column)
    }
}

/// A value of a row filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterValue {
    /// For columns of integers.
    Integer(i64),
    /// For columns of text; for columns of bytes `0x…` is their hexadecimal digits.
    Text(String),
}

impl std::fmt::Display for FilterValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FilterValue::Integer(number) => write!(f, "{number}"),
            FilterValue::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
        }
    }
}

/// `migration.start`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPolicy {
    /// START MIGRATION starts it.
    Manual,
    /// It starts with the process.
    Auto,
}

/// `migration.ddl`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DdlPolicy {
    /// Apply it in its place in the stream.
    Apply,
    /// Pause the migration at it.
    Pause,
}

/// `[snapshot]`
#[derive(Debug, Clone)]
pub struct SnapshotConfig {
    /// Chunks read and loaded side by side.
    pub readers: usize,
    /// Rows a chunk; 0 is adaptive.
    pub chunk_rows: u64,
    /// Rows a second over all readers; 0 is no limit.
    pub max_rows_per_s: u64,
    /// Secondary indexes of large tables are built when their rows are there.
    pub late_indexes: bool,
    /// Chunks are staged on disk between source and target; `None`: they aren't.
    pub stage: Option<StageConfig>,
}

/// `snapshot.stage_dir`, `snapshot.stage_max_gb`
#[derive(Debug, Clone)]
pub struct StageConfig {
    /// The folder in which each migration has one of its own.
    pub dir: PathBuf,
    /// Bound of what is staged, in bytes on disk.
    pub bytes_max: u64,
}

/// `[throttle]`: while a limit is passed, copy and full passes of the verifier wait.
#[derive(Debug, Clone)]
pub struct ThrottleConfig {
    /// Threads that may run on either side, Changeover's own among them; 0 is no limit.
    pub max_threads_running: u64,
    /// Replicas of either side that are asked how far they are behind.
    pub replicas: Vec<crate::BackendConfig>,
    /// How far they may be.
    pub max_replica_lag_ms: u64,
}

/// `[apply]`
#[derive(Debug, Clone)]
pub struct ApplyConfig {
    /// Connections that apply side by side.
    pub workers: usize,
    /// Bound of the spool on disk, in bytes.
    pub spool_max_bytes: u64,
}

/// `[cutover]`
#[derive(Debug, Clone)]
pub struct CutoverConfig {
    /// A cutover with more lag than this is refused.
    pub max_lag_ms: u64,
    /// The gate never stays closed longer than this.
    pub pause_ms: u64,
    /// What happens to transactions that outlive the deadline.
    pub open_transactions: OpenTransactions,
    /// How writes that don't come through the proxy are kept out.
    pub fence: FencePolicy,
    /// `user@host` patterns, as in `migration.accounts`, of the accounts that `fence = "accounts"` locks; none: those that may
    /// write in the migration's schemas and nowhere else.
    pub fence_accounts: Vec<String>,
    /// What happens to connections that the fence doesn't hold.
    pub past_fence: PastFence,
}

/// `cutover.open_transactions`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenTransactions {
    /// The cutover is undone.
    Abort,
    /// The transactions are.
    Kill,
}

/// `cutover.past_fence`: connections past the proxy that may write in spite of the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastFence {
    /// They are named by the dry run, and what they write is found by the position.
    Watch,
    /// While there is one, no cutover starts.
    Refuse,
    /// They are ended behind the fence, before the final position is read.
    Kill,
}

/// `cutover.fence`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePolicy {
    /// `read_only` (and `super_read_only` where there is one) on the backend that is left.
    ReadOnly,
    /// The business's accounts are locked and their connections ended: others on the same server go on writing.
    Accounts,
    /// Nothing: the operator promises that nobody writes past the proxy.
    None,
}
