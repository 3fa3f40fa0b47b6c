//! Makes rows of the target equal to the source's, while traffic flows and the tail runs.
//!
//! # Why the tail isn't disturbed (invariants 1 and 4)
//!
//! The tail knows of each row what it was before: a row that is repaired to a moment of which the tail hasn't applied
//! the event yet would meet that event once more. So a repair is one transaction on the target:
//!
//! 1. It locks the rows, and the gaps where there are none. From here on no event of these rows can be applied.
//! 2. The source shows all that its binlog holds, so whatever the target has of these rows can be read there.
//! 3. The source's rows are read, then the position P at which its binlog ends.
//! 4. The tail passes P. It could not, had any of these rows an event between step 1 and P: so what was read in step 3
//!    is the row as the tail left it. Where the tail doesn't pass within the time, the rows are let go and tried again.
//! 5. The rows are written, compared with the source's by their hashes, and committed. Events behind P follow.
//!
//! The caller sees to it that no cutover runs at the same time.

use std::sync::Arc;
use std::time::Duration;

use config::progress::Repaired;
use config::{BackendConfig, Side, TableName, failpoint};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::Verifier;
use super::checksum::TableSql;
use super::difference::describe;
use super::key::RowKey;
use super::recheck::Pair;
use super::side::{self, Backend};
use crate::error::{Error, ErrorKind, Result};
use crate::literal::write_literal;
use crate::schema::table::TableSchema;
use crate::server;
use crate::snapshot::cell::value_of_cell;
use crate::stray::own;
use crate::value::Value;

/// Rows that are locked together.
const BATCH_KEYS: usize = 50;
/// Bytes of values that are held together; one row may be larger.
const BATCH_BYTES: usize = 8 << 20;
/// How long locked rows may keep the tail waiting.
const TAIL_LIMIT: Duration = Duration::from_secs(2);
/// How often a row is tried whose events keep coming.
const ATTEMPTS_MAX: usize = 5;
/// How long the tail may take to catch up before rows are locked.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

const BEHIND: &str = "the tail is more than a minute behind; wait until it has caught up, then REPAIR again";

const WITHOUT_KEY: &str = "the table has no key, so its rows can't be told apart and repaired one by one; find out what else \
                           writes to the target, put its rows right there by hand and VERIFY TABLE, or begin the \
                           migration again on an empty target";

/// What became of a batch.
enum Batch {
    /// It is committed.
    Done(Vec<Repaired>),
    /// The tail had something for one of its rows.
    Busy,
}

impl Verifier {
    /// The statements that [`Self::repair`] would amount to now.
    ///
    /// # Errors
    /// There is no such table in the migration.
    pub fn repair_plan(&self, only: Option<&TableName>) -> Result<Vec<Repaired>> {
        self.expect_known(only)?;
        let listed = self.differences.list().into_iter();
        let wanted = listed.filter(|difference| only.is_none_or(|name| difference.table == *name));
        Ok(wanted.map(|d| Repaired { table: d.table, rows: 1, sql: d.repair_sql }).collect())
    }

    /// Repairs every listed difference, or those of one table, and compares the rows again. Where differences were
    /// counted and not listed, another pass over the table is asked for.
    ///
    /// # Errors
    /// There is no such table in the migration, the target doesn't take a row as it is on the source, rows keep changing, or a server can't be asked. What was
    /// repaired before stays repaired.
    ///
    /// Cancel safety: dropped in the middle, the open transaction is rolled back with its connection.
    pub async fn repair(&self, only: Option<&TableName>) -> Result<Vec<Repaired>> {
        self.expect_known(only)?;
        let (source, target) = self.backends();
        let mut pair = Pair {
            source: Backend::new(Side::Source, source.clone()),
            target: Backend::new(Side::Target, target.clone()),
        };
        let mut repaired = Vec::new();
        let mut refused = None;
        for (name, keys) in self.differences.keys() {
            if only.is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let Some(table) = self.tables.iter().find(|table| table.name == name) else { continue };
            if table.keyless {
                refused.get_or_insert(Error::definite(None, name.to_string(), WITHOUT_KEY));
                continue;
            }
            repaired.extend(self.repair_table(&mut pair, &target, table, keys).await?);
            if self.differences.lost_count(&name) {
                self.request(Some(&name))?;
            }
        }
        refused.map_or(Ok(repaired), Err)
    }

    async fn repair_table(
        &self,
        pair: &mut Pair,
        target: &BackendConfig,
        table: &Arc<TableSchema>,
        keys: Vec<RowKey>,
    ) -> Result<Vec<Repaired>> {
        let sql = self.sql_of(table)?;
        // Rows are read, written and shown in the terms of the side that is written.
        let table = &table.on_target();
        let mut todo: Vec<(Vec<RowKey>, usize)> =
            keys.chunks(BATCH_KEYS).rev().map(|keys| (keys.to_vec(), 0)).collect();
        let mut repaired = Vec::new();
        while let Some((keys, attempts)) = todo.pop() {
            match self.repair_batch(pair, target, table, &sql, &keys).await {
                Ok(Batch::Done(rows)) => repaired.extend(rows),
                // Together they may be in each other's way, or in the tail's.
                Ok(Batch::Busy) if keys.len() > 1 => {
                    let (first, second) = keys.split_at(keys.len() / 2);
                    todo.push((second.to_vec(), attempts));
                    todo.push((first.to_vec(), attempts));
                }
                Ok(Batch::Busy) if attempts < ATTEMPTS_MAX => todo.push((keys, attempts + 1)),
                Err(error) if error.kind == ErrorKind::Transient && attempts < ATTEMPTS_MAX => {
                    tracing::warn!(area = "repair", table = %table.name, "tried again: {error}");
                    tokio::time::sleep(PAUSE).await;
                    todo.push((keys, attempts + 1));
                }
                Ok(Batch::Busy) => {
                    let what = format!(
                        "{} rows were repaired; another one keeps changing. REPAIR again",
                        repaired.len()
                    );
                    return Err(Error::transient(None, table.name.to_string(), what));
                }
                Err(error) => return Err(error),
            }
        }
        tracing::info!(area = "repair", table = %table.name, rows = repaired.len(), "rows were repaired");
        Ok(repaired)
    }

    async fn repair_batch(
        &self,
        pair: &mut Pair,
        target: &BackendConfig,
        table: &Arc<TableSchema>,
        sql: &TableSql<'_>,
        keys: &[RowKey],
    ) -> Result<Batch> {
        // A tail that is far behind would meet the lock's limit for no fault of these rows.
        let written = pair.source.end_position().await?;
        if tokio::time::timeout(CATCH_UP_LIMIT, (self.passed)(written)).await.is_err() {
            return Err(Error::definite(None, table.name.to_string(), BEHIND));
        }
        let mut conn = server::connect(Side::Target, target).await?;
        let mut locked = Locked { conn: &mut conn, table, sql };
        locked.lock(keys).await?;
        pair.source_shows_all().await?;
        let Some(rows) = read_source(pair, table, sql, keys).await? else {
            return Ok(Batch::Busy);
        };
        let position = pair.source.end_position().await?;
        if tokio::time::timeout(TAIL_LIMIT, (self.passed)(position)).await.is_err() {
            // Dropped with its connection, which lets the rows go.
            return Ok(Batch::Busy);
        }
        let written = locked.write(keys, &rows).await?;
        own::mark(Side::Target, locked.conn).await?;
        failpoint::hit("repair.before_commit");
        locked.execute("COMMIT".into()).await?;
        failpoint::hit("repair.committed");
        conn.disconnect().await.ok();
        self.touched.put(&table.name, keys.to_vec());
        self.comparison(table, sql).of_listed(pair, keys).await?;
        Ok(Batch::Done(written))
    }
}

/// A row of the source: its hash and its values; `None` where there is none.
type SourceRow = Option<(u128, Vec<Value>)>;

/// The source's rows. `None` where together they are too large to be held.
async fn read_source(
    pair: &mut Pair,
    table: &TableSchema,
    sql: &TableSql<'_>,
    keys: &[RowKey],
) -> Result<Option<Vec<SourceRow>>> {
    let place = table.name.to_string();
    let hashes = pair.source.hash_of_each(&place, sql, keys).await?;
    let (mut rows, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    for (key, hash) in keys.iter().zip(hashes) {
        let values = match hash {
            Some(_) => pair.source.row(&place, sql, &table.columns, key).await?,
            None => None,
        };
        bytes += values.as_deref().map_or(0, size);
        if bytes > BATCH_BYTES && keys.len() > 1 {
            return Ok(None);
        }
        rows.push(hash.zip(values));
    }
    Ok(Some(rows))
}

fn size(row: &[Value]) -> usize {
    let of = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 8,
    };
    row.iter().map(of).sum()
}

/// The target's side of a repair, within one transaction.
struct Locked<'a> {
    conn: &'a mut Conn,
    table: &'a Arc<TableSchema>,
    sql: &'a TableSql<'a>,
}

impl Locked<'_> {
    async fn query(&mut self, sql: Vec<u8>) -> Result<Vec<Row>> {
        self.conn.query(sql).await.map_err(|e| Error::database(Side::Target, self.place(), &e))
    }

    async fn execute(&mut self, sql: Vec<u8>) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|e| Error::database(Side::Target, self.place(), &e))
    }

    fn place(&self) -> String {
        format!("repairing {}", self.table.name)
    }

    /// REPEATABLE READ locks the gaps too, which a missing row needs.
    async fn lock(&mut self, keys: &[RowKey]) -> Result<()> {
        const SETTINGS: [&str; 3] = [
            "SET SESSION foreign_key_checks = 0, SESSION innodb_lock_wait_timeout = 5",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION",
        ];
        for statement in SETTINGS {
            self.execute(statement.into()).await?;
        }
        let lock = self.sql.lock(keys);
        self.query(lock).await.map(drop)
    }

    /// Writes the rows that differ: all of them out, then in as they are on the source, so that no unique value is
    /// there twice in between. In a table that has columns which aren't moved rows are changed in place; where two of them
    /// have changed unique values with each other, the server refuses that.
    async fn write(&mut self, keys: &[RowKey], rows: &[SourceRow]) -> Result<Vec<Repaired>> {
        let theirs = self.hashes(keys).await?;
        let hash = |row: &SourceRow| row.as_ref().map(|(hash, _)| *hash);
        let pairs = keys.iter().zip(rows).zip(theirs);
        let differing: Vec<_> =
            pairs.filter(|((_, row), theirs)| hash(row) != *theirs).map(|(pair, _)| pair).collect();
        let (mut repaired, mut written) = (Vec::with_capacity(differing.len()), Vec::new());
        for (key, row) in &differing {
            let theirs = self.row(key).await?;
            let ours = row.as_ref().map(|(_, values)| values.as_slice());
            if let Some(difference) = describe(self.table, key, ours, theirs.as_deref())? {
                let table = difference.table;
                repaired.push(Repaired { table, rows: 1, sql: difference.repair_sql });
            }
            // What is in columns that aren't moved is nowhere else.
            let stays = theirs.is_some() && ours.is_some() && !self.table.left_out.is_empty();
            if theirs.is_some() && !stays {
                let delete = self.sql.delete(key);
                self.execute(delete).await?;
            }
            written.extend(ours.map(|ours| match stays {
                true => self.sql.update(key, &assignments(self.table, ours)),
                false => insert(self.table, ours),
            }));
        }
        for statement in written {
            self.execute(statement).await?;
        }
        let keys: Vec<RowKey> = differing.iter().map(|(key, _)| (*key).clone()).collect();
        let after = self.hashes(&keys).await?;
        if differing.iter().zip(after).any(|((_, row), after)| hash(row) != after) {
            let what = "the target doesn't take a row as it is on the source, so nothing of it was changed; compare the \
                        definitions, and look at SHOW DIFFERENCES";
            return Err(Error::definite(Side::Target, self.place(), what));
        }
        Ok(repaired)
    }

    async fn hashes(&mut self, keys: &[RowKey]) -> Result<Vec<Option<u128>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = vec![None; keys.len()];
        for row in self.query(self.sql.hash_of_each(Side::Target, keys)).await? {
            let slot = side::number::<usize>(&row, 0).and_then(|i| found.get_mut(i));
            match (slot, side::hash(&row, 1)) {
                (Some(slot), Some(hash)) => *slot = Some(hash),
                _ => return Err(self.strange()),
            }
        }
        Ok(found)
    }

    async fn row(&mut self, key: &RowKey) -> Result<Option<Vec<Value>>> {
        let rows = self.query(self.sql.row(Side::Target, key)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let columns = self.table.columns.iter().enumerate();
        let values: Option<Vec<Value>> =
            columns.map(|(i, column)| value_of_cell(column, side::bytes(row, i)?).ok()).collect();
        values.map(Some).ok_or_else(|| self.strange())
    }

    fn strange(&self) -> Error {
        Error::definite(
            Side::Target,
            self.place(),
            "the server's answer can't be read; this is a bug of ours",
        )
    }
}

/// `a = 1, b = 'x'`. Columns that aren't moved stay as they are, also those that an UPDATE might set by itself.
fn assignments(table: &TableSchema, row: &[Value]) -> Vec<u8> {
    let mut sql = Vec::new();
    let stored = table.stored_columns().filter_map(|i| Some((table.columns.get(i)?, row.get(i)?)));
    for (i, (column, value)) in stored.enumerate() {
        sql.extend_from_slice(if i == 0 { b"" } else { b", " });
        sql.extend_from_slice(format!("{} = ", config::names::quote_identifier(&column.name)).as_bytes());
        write_literal(&mut sql, column, value);
    }
    for left in table.left_out.columns.iter().filter(|left| !left.column.generated) {
        let name = config::names::quote_identifier(&left.column.name);
        sql.extend_from_slice(format!(", {name} = {name}").as_bytes());
    }
    sql
}

fn insert(table: &TableSchema, row: &[Value]) -> Vec<u8> {
    let stored: Vec<_> =
        table.stored_columns().filter_map(|i| Some((table.columns.get(i)?, row.get(i)?))).collect();
    let names: Vec<String> =
        stored.iter().map(|(column, _)| config::names::quote_identifier(&column.name)).collect();
    let mut sql = format!("INSERT INTO {} ({}) VALUES (", table.quoted(), names.join(", ")).into_bytes();
    for (i, (column, value)) in stored.into_iter().enumerate() {
        sql.extend_from_slice(if i == 0 { b"" } else { b", " });
        write_literal(&mut sql, column, value);
    }
    sql.push(b')');
    sql
}
