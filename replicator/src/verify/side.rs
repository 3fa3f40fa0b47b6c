//! One side's connection, with the few questions that a comparison asks of it.

use std::collections::HashMap;
use std::time::Duration;

use config::{BackendConfig, BinlogPosition, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::checksum::{ChunkSum, Combining, TableSql};
use super::key::RowKey;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::table::Column;
use crate::server::{self, ServerInfo};
use crate::snapshot::cell::value_of_cell;
use crate::snapshot::range::KeyRange;
use crate::value::Value;

/// A statement that takes longer is given up with its connection, and tried again.
const STATEMENT_LIMIT: Duration = Duration::from_secs(300);
/// A connection that doesn't answer for so long is dead.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// Below this a row's canonical form may not fit into a CONCAT.
const PACKET_BYTES_MIN: u64 = 1 << 20;
/// Keys and bytes of literals in one statement.
const STATEMENT_KEYS_MAX: usize = 500;
const STATEMENT_BYTES_MAX: usize = 512 << 10;
/// Subselects in one statement of [`TableSql::hash_of_each`].
const SUBSELECTS_MAX: usize = 100;

/// A row's hash by its key.
pub(super) type Hashes = HashMap<RowKey, u128>;

/// One side. The connection is opened when it is first needed and again after it failed.
pub(super) struct Backend {
    side: Side,
    config: BackendConfig,
    open: Option<(Conn, ServerInfo)>,
}

impl Backend {
    pub(super) fn new(side: Side, config: BackendConfig) -> Self {
        Self { side, config, open: None }
    }

    /// Opens the connection, where it isn't.
    pub(super) async fn open(&mut self) -> Result<()> {
        if self.open.is_none() {
            let mut conn = server::connect(self.side, &self.config).await?;
            let info = server::inspect(self.side, &mut conn).await?;
            if info.max_allowed_packet < PACKET_BYTES_MIN {
                let what = format!(
                    "max_allowed_packet is {} bytes, too little to compare rows; raise it to 16M",
                    info.max_allowed_packet
                );
                return Err(Error::definite(self.side, "verifier", what));
            }
            self.open = Some((conn, info));
        }
        Ok(())
    }

    /// Opens the connection, or another one where it died while nobody used it: of old age (wait_timeout), by a
    /// firewall, with its server.
    ///
    /// Cancel safety: a question that isn't waited for to its end takes its connection with it.
    pub(super) async fn revive(&mut self) -> Result<()> {
        if let Some((mut conn, info)) = self.open.take()
            && matches!(tokio::time::timeout(PING_LIMIT, conn.ping()).await, Ok(Ok(())))
        {
            self.open = Some((conn, info));
        }
        self.open().await
    }

    /// Cancel safety: a statement that isn't waited for to its end takes its connection with it.
    async fn query(&mut self, place: &str, sql: Vec<u8>) -> Result<Vec<Row>> {
        self.open().await?;
        let Some((mut conn, info)) = self.open.take() else {
            return Err(Error::bug(place, "a connection that was just opened is gone"));
        };
        let answer = tokio::time::timeout(STATEMENT_LIMIT, conn.query::<Row, _>(sql)).await;
        match answer {
            Ok(Ok(rows)) => {
                self.open = Some((conn, info));
                Ok(rows)
            }
            Ok(Err(error)) => {
                let server = matches!(error, mysql_async::Error::Server(_));
                let error = Error::database(self.side, place, &error);
                // A server that ends a connection may say so first.
                if server && error.kind != ErrorKind::Transient {
                    self.open = Some((conn, info));
                }
                Err(error)
            }
            Err(_) => {
                let what =
                    format!("a comparison took over {} s; it is tried again", STATEMENT_LIMIT.as_secs());
                Err(Error::transient(self.side, place, what))
            }
        }
    }

    pub(super) async fn checksum(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        range: &KeyRange,
    ) -> Result<ChunkSum> {
        self.open().await?;
        let combining = sql.combining(self.open.as_ref().map(|(_, info)| &info.version));
        let rows = self.query(place, sql.checksum(self.side, combining, range)).await?;
        let sum = rows.first().and_then(|row| {
            let count: u64 = number(row, 0)?;
            let hash = match combining {
                // Over no row at all BIT_XOR is as long as it likes.
                Combining::Binary if count == 0 => 0,
                Combining::Binary => hash(row, 1)?,
                Combining::Halves => {
                    u128::from(number::<u64>(row, 1)?) << 64 | u128::from(number::<u64>(row, 2)?)
                }
                // Exact decimals, far below 2^128; of each the lower half is kept.
                Combining::Sums => {
                    number::<u128>(row, 1)? << 64 | (number::<u128>(row, 2)? & u128::from(u64::MAX))
                }
            };
            Some(ChunkSum { rows: count, hash })
        });
        sum.ok_or_else(|| self.strange(place))
    }

    /// The key of the row `offset` rows into a range; `None` where it has no more than that.
    pub(super) async fn bound(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        range: &KeyRange,
        offset: u64,
    ) -> Result<Option<Vec<Value>>> {
        let rows = self.query(place, sql.bound(self.side, range, offset)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        key_values(sql, row).map(Some).ok_or_else(|| self.strange(place))
    }

    /// At most `limit` rows of a range.
    pub(super) async fn hashes_in_range(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Hashes> {
        let rows = self.query(place, sql.hashes_in_range(self.side, range, limit)).await?;
        self.hashes(place, sql, &rows)
    }

    /// The rows that have one of these keys, under the key that this side has.
    pub(super) async fn hashes_of(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        keys: &[RowKey],
    ) -> Result<Hashes> {
        let mut all = Hashes::with_capacity(keys.len());
        for part in parts(keys, STATEMENT_KEYS_MAX) {
            let rows = self.query(place, sql.hashes_of(self.side, part)).await?;
            all.extend(self.hashes(place, sql, &rows)?);
        }
        Ok(all)
    }

    /// For each key the hash of its row; `None` where there is none.
    pub(super) async fn hash_of_each(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        keys: &[RowKey],
    ) -> Result<Vec<Option<u128>>> {
        let mut all = Vec::with_capacity(keys.len());
        for part in parts(keys, SUBSELECTS_MAX) {
            let mut found = vec![None; part.len()];
            for row in self.query(place, sql.hash_of_each(self.side, part)).await? {
                let slot = number::<usize>(&row, 0).and_then(|i| found.get_mut(i));
                match (slot, hash(&row, 1)) {
                    (Some(slot), Some(hash)) => *slot = Some(hash),
                    _ => return Err(self.strange(place)),
                }
            }
            all.extend(found);
        }
        Ok(all)
    }

    /// Every column of one row.
    pub(super) async fn row(
        &mut self,
        place: &str,
        sql: &TableSql<'_>,
        columns: &[Column],
        key: &RowKey,
    ) -> Result<Option<Vec<Value>>> {
        let rows = self.query(place, sql.row(self.side, key)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let values: Option<Vec<Value>> = columns
            .iter()
            .enumerate()
            .map(|(i, column)| value_of_cell(column, bytes(row, i)?).ok())
            .collect();
        values.map(Some).ok_or_else(|| self.strange(place))
    }

    /// Where the binlog ends: everything that an earlier read could see is at or before it.
    pub(super) async fn end_position(&mut self) -> Result<BinlogPosition> {
        self.open().await?;
        let Some((mut conn, info)) = self.open.take() else {
            return Err(Error::bug("verifier", "a connection that was just opened is gone"));
        };
        let position = server::end_position(self.side, &info, &mut conn).await?;
        self.open = Some((conn, info));
        Ok(position.coordinates)
    }

    /// Where everything is visible to reads that begin from now on.
    pub(super) async fn visible_position(&mut self) -> Result<BinlogPosition> {
        self.open().await?;
        let Some((mut conn, info)) = self.open.take() else {
            return Err(Error::bug("verifier", "a connection that was just opened is gone"));
        };
        let coordinates = server::visible_coordinates(self.side, &info, &mut conn).await?;
        self.open = Some((conn, info));
        Ok(coordinates)
    }

    fn hashes(&self, place: &str, sql: &TableSql<'_>, rows: &[Row]) -> Result<Hashes> {
        let last = sql.key.columns().len();
        let pairs: Option<Hashes> = rows.iter().map(|row| Some((key(sql, row)?, hash(row, last)?))).collect();
        pairs.ok_or_else(|| self.strange(place))
    }

    /// Something that isn't understood is never taken for equal (invariant 5).
    fn strange(&self, place: &str) -> Error {
        Error::definite(
            self.side,
            place,
            "the server's answer to a checksum can't be read; this is a bug of ours",
        )
    }
}

/// Slices of at most `count_max` keys and some bytes of literals.
fn parts(keys: &[RowKey], count_max: usize) -> Vec<&[RowKey]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, key) in keys.iter().enumerate() {
        if i > start && (i - start >= count_max || bytes + key.len() > STATEMENT_BYTES_MAX) {
            parts.extend(keys.get(start..i));
            (start, bytes) = (i, 0);
        }
        bytes += key.len();
    }
    parts.extend(keys.get(start..).filter(|rest| !rest.is_empty()));
    parts
}

/// The outer `None`: there is no such column. The inner one: NULL.
pub(super) fn bytes(row: &Row, index: usize) -> Option<Option<&[u8]>> {
    match row.as_ref(index)? {
        mysql_async::Value::NULL => Some(None),
        mysql_async::Value::Bytes(bytes) => Some(Some(bytes)),
        _ => None,
    }
}

pub(super) fn number<T: std::str::FromStr>(row: &Row, index: usize) -> Option<T> {
    std::str::from_utf8(bytes(row, index)??).ok()?.parse().ok()
}

/// 32 hexadecimal digits. NULL (a CONCAT over max_allowed_packet) is no hash.
pub(super) fn hash(row: &Row, index: usize) -> Option<u128> {
    let text = std::str::from_utf8(bytes(row, index)??).ok()?;
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn key(sql: &TableSql<'_>, row: &Row) -> Option<RowKey> {
    key_values(sql, row).map(|values| RowKey::encode(&values))
}

fn key_values(sql: &TableSql<'_>, row: &Row) -> Option<Vec<Value>> {
    let columns = sql.key.columns().iter().enumerate();
    columns.map(|(i, column)| value_of_cell(column, bytes(row, i)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cut_into_statements() {
        let check = |lengths: &[usize], count_max, expected: &[usize]| {
            let keys: Vec<RowKey> =
                lengths.iter().map(|n| RowKey::encode(&[Value::Bytes(vec![7; *n].into())])).collect();
            let cut: Vec<usize> = parts(&keys, count_max).iter().map(|part| part.len()).collect();
            assert_eq!(cut, expected);
        };
        check(&[], 3, &[]);
        check(&[1; 7], 3, &[3, 3, 1]);
        check(&[STATEMENT_BYTES_MAX, 1, 1], 3, &[1, 2]);
        check(&[1, 1, STATEMENT_BYTES_MAX, 1], 9, &[2, 1, 1]);
    }
}
