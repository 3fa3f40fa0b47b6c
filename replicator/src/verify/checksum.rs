//! Checksums of a key range, made by the servers over canonical column forms.
//!
//! A row's hash is the first half of SHA-256 over all its columns, generated ones too, each in a form that can't run
//! into its neighbour's (a length in front, or a comma behind what has none in it) and in which NULL is no value. A
//! chunk's is the XOR of its rows' and their count, so the order of rows doesn't matter. SHA2 and not MD5, because
//! MySQL 9.6 and later have no MD5() of their own; with the CPU's own SHA instructions it costs the same.

use config::names::quote_identifier;
use config::{Flavor, ServerVersion, Side};

use super::key::{Key, RowKey};
use crate::error::{Error, Result};
use crate::schema::table::{Column, ColumnKind, TableSchema};
use crate::schema::transfer::Transfer;
use crate::snapshot::range::{KeyRange, force_row_key, key_list};

/// How a server combines the hashes of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combining {
    /// MySQL 8.0 and later: BIT_XOR takes binary strings. One column: 32 hexadecimal digits.
    Binary,
    /// BIT_XOR has 64 bits. Two columns: the halves as numbers.
    Halves,
    /// Of a table whose rows may be equal, and would cancel out in pairs: the sums of the halves, in two columns.
    Sums,
}

impl Combining {
    pub(super) fn of(version: &ServerVersion) -> Self {
        if version.at_least(Flavor::MySql, 8, 0) { Combining::Binary } else { Combining::Halves }
    }
}

/// What a chunk is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkSum {
    /// Rows: two rows that are equal cancel out in an XOR, and are noticed here.
    pub(super) rows: u64,
    /// XOR of the rows' hashes; of a table without a row key the sums of their halves, each modulo 2^64.
    pub(super) hash: u128,
}

/// The SQL of one table, for either side. Keys and values are in the terms of the target's columns.
pub(super) struct TableSql<'a> {
    table: &'a TableSchema,
    /// The row key, as values are read and shown.
    pub(super) key: Key<'a>,
    source: SideSql<'a>,
    target: SideSql<'a>,
}

/// What depends on the side.
struct SideSql<'a> {
    /// The table.
    name: String,
    /// The row key, as literals are compared with it.
    key: Key<'a>,
    /// The expressions that read the columns.
    reads: Vec<String>,
    /// SHA2 over the row: 64 hexadecimal digits.
    hash: String,
    /// The condition of the rows that are moved, where there are others.
    only: Option<Vec<u8>>,
}

impl<'a> TableSql<'a> {
    /// `table` is the source's. `shared`: the side of the old server, whose table may hold rows that aren't moved; the
    /// other one has no right to any.
    pub(super) fn of(table: &'a TableSchema, shared: Side) -> Result<Self> {
        let there = table.target.as_deref().unwrap_or(table);
        let wrong = |column: &Column, why: String| {
            Error::definite(None, table.name.to_string(), format!("the column {}: {why}", column.name))
        };
        let mut transfers = Vec::with_capacity(table.columns.len());
        for (column, other) in table.column_pairs() {
            transfers.push(Transfer::between(column, other).map_err(|why| wrong(column, why))?);
        }
        let mut sides = [(table, Vec::new(), Vec::new()), (there, Vec::new(), Vec::new())];
        for (on_source, (schema, reads, parts)) in [true, false].into_iter().zip(&mut sides) {
            for ((column, form), transfer) in schema.columns.iter().zip(&there.columns).zip(&transfers) {
                let transfer = if on_source { *transfer } else { Transfer::Same };
                let unknown =
                    || wrong(column, format!("it has a type that isn't understood: {}", column.column_type));
                reads.push(transfer.read(column));
                parts.push(canonical(form, &value_expression(column, transfer)).ok_or_else(unknown)?);
            }
        }
        let [source, target] = sides;
        let side = |side, (schema, reads, parts): (&TableSchema, Vec<String>, Vec<String>), key| SideSql {
            name: schema.quoted(),
            key,
            reads,
            hash: format!("SHA2(CONCAT({}),256)", parts.join(",")),
            only: schema.filter.as_ref().filter(|_| side == shared).map(|filter| filter.condition(schema)),
        };
        // A literal in the source's own charset is what its index is in.
        let own = |at: usize| match transfers.get(at) {
            Some(Transfer::Same) => table.columns.get(at),
            _ => there.columns.get(at),
        };
        Ok(Self {
            table: there,
            key: Key::of(there)?,
            source: side(Side::Source, source, Key::with(table, own)?),
            target: side(Side::Target, target, Key::of(there)?),
        })
    }

    /// How a server of that version combines the hashes of this table's rows.
    pub(super) fn combining(&self, version: Option<&ServerVersion>) -> Combining {
        match version {
            _ if self.table.keyless => Combining::Sums,
            Some(version) => Combining::of(version),
            None => Combining::Halves,
        }
    }

    fn side(&self, side: Side) -> &SideSql<'a> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// Count and combined hash of a range.
    pub(super) fn checksum(&self, side: Side, combining: Combining, range: &KeyRange) -> Vec<u8> {
        let hash = &self.side(side).hash;
        let combined = match combining {
            Combining::Binary => format!("HEX(BIT_XOR(UNHEX(LEFT({hash},32))))"),
            // The variable saves the second SHA2. Were the halves ever taken from two rows, equal chunks could look
            // different, which the rows then settle; different ones could not look equal.
            Combining::Halves => format!(
                "BIT_XOR(CAST(CONV(LEFT(@changeover_hash:={hash},16),16,10) AS UNSIGNED)),\
                 BIT_XOR(CAST(CONV(SUBSTR(@changeover_hash,17,16),16,10) AS UNSIGNED))"
            ),
            Combining::Sums => format!(
                "IFNULL(SUM(CAST(CONV(LEFT({hash},16),16,10) AS UNSIGNED)),0),\
                 IFNULL(SUM(CAST(CONV(SUBSTR({hash},17,16),16,10) AS UNSIGNED)),0)"
            ),
        };
        self.select(side, &format!("COUNT(*),{combined}"), &self.within(side, range))
    }

    /// Key and hash of each row of a range, in order, at most `limit`.
    pub(super) fn hashes_in_range(&self, side: Side, range: &KeyRange, limit: usize) -> Vec<u8> {
        let mut sql = self.select(side, &self.key_and_hash(side), &self.within(side, range));
        self.order_and_limit(&mut sql, &format!("{limit}"));
        sql
    }

    /// Key and hash of the rows that have one of these keys.
    pub(super) fn hashes_of(&self, side: Side, keys: &[RowKey]) -> Vec<u8> {
        self.select(side, &self.key_and_hash(side), &self.side(side).key.one_of(keys))
    }

    /// For each key its index and the hash of its row, so that the server alone decides which row a key means.
    pub(super) fn hash_of_each(&self, side: Side, keys: &[RowKey]) -> Vec<u8> {
        let SideSql { hash, key: own, .. } = self.side(side);
        let mut sql = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            sql.extend_from_slice(if i == 0 { b"" } else { b" UNION ALL " });
            let row = self.select(side, &format!("{i},LEFT({hash},32)"), &own.equals(key));
            sql.extend_from_slice(&row);
        }
        sql
    }

    /// Locks the rows that have one of these keys, and the gaps of those that aren't there, to the end of the
    /// transaction.
    pub(super) fn lock(&self, keys: &[RowKey]) -> Vec<u8> {
        let mut sql = self.select_of_all(Side::Target, "1", &self.key.one_of(keys));
        sql.extend_from_slice(b" FOR UPDATE");
        sql
    }

    /// Deletes the row with that key.
    pub(super) fn delete(&self, key: &RowKey) -> Vec<u8> {
        let mut sql = format!("DELETE FROM {} WHERE ", self.target.name).into_bytes();
        sql.extend_from_slice(&self.key.equals(key));
        self.only_moved(Side::Target, &mut sql);
        sql
    }

    /// Changes the row with that key.
    pub(super) fn update(&self, key: &RowKey, assignments: &[u8]) -> Vec<u8> {
        let mut sql = format!("UPDATE {} SET ", self.target.name).into_bytes();
        sql.extend_from_slice(assignments);
        sql.extend_from_slice(b" WHERE ");
        sql.extend_from_slice(&self.key.equals(key));
        self.only_moved(Side::Target, &mut sql);
        sql
    }

    /// The key of the row `offset` rows into a range. Rows that aren't moved count: the server has to walk over them.
    pub(super) fn bound(&self, side: Side, range: &KeyRange, offset: u64) -> Vec<u8> {
        let mut sql = self.select_of_all(side, &self.key_values(side), &self.within(side, range));
        self.order_and_limit(&mut sql, &format!("1 OFFSET {offset}"));
        sql
    }

    /// Every column of one row, as [`crate::snapshot::cell::value_of_cell`] reads those of the target.
    pub(super) fn row(&self, side: Side, key: &RowKey) -> Vec<u8> {
        let SideSql { reads, key: own, .. } = self.side(side);
        self.select(side, &reads.join(","), &own.equals(key))
    }

    fn within(&self, side: Side, range: &KeyRange) -> Vec<u8> {
        range.condition_over(self.side(side).key.columns())
    }

    fn key_values(&self, side: Side) -> String {
        let reads = &self.side(side).reads;
        let positions = self.table.row_key().map(|key| key.columns.as_slice()).unwrap_or_default();
        let list: Vec<&str> = positions.iter().filter_map(|at| reads.get(*at)).map(String::as_str).collect();
        list.join(",")
    }

    fn key_and_hash(&self, side: Side) -> String {
        format!("{},LEFT({},32)", self.key_values(side), self.side(side).hash)
    }

    fn select(&self, side: Side, what: &str, condition: &[u8]) -> Vec<u8> {
        if self.side(side).only.is_none() {
            return self.select_of_all(side, what, condition);
        }
        let mut sql = self.select_of_all(side, what, &[b"(", condition, b")"].concat());
        self.only_moved(side, &mut sql);
        sql
    }

    fn only_moved(&self, side: Side, sql: &mut Vec<u8>) {
        if let Some(only) = &self.side(side).only {
            sql.extend_from_slice(b" AND ");
            sql.extend_from_slice(only);
        }
    }

    fn select_of_all(&self, side: Side, what: &str, condition: &[u8]) -> Vec<u8> {
        let (table, index) = (&self.side(side).name, force_row_key(self.table));
        let mut sql = format!("SELECT {what} FROM {table} {index} WHERE ").into_bytes();
        sql.extend_from_slice(condition);
        sql
    }

    fn order_and_limit(&self, sql: &mut Vec<u8>, limit: &str) {
        sql.extend_from_slice(b" ORDER BY ");
        sql.extend_from_slice(key_list(self.table).as_bytes());
        sql.extend_from_slice(format!(" LIMIT {limit}").as_bytes());
    }
}

/// The same text for the same value, whatever the definition says of how it is shown.
fn value_expression(column: &Column, transfer: Transfer) -> String {
    let name = quote_identifier(&column.name);
    match column.kind {
        // How many zeros ZEROFILL prints is a matter of the definition, not of the value.
        ColumnKind::Integer { .. } | ColumnKind::Decimal { .. }
            if column.column_type.contains("zerofill") =>
        {
            format!("{name}+0")
        }
        // OceanBase's.
        ColumnKind::Text if column.column_type.eq_ignore_ascii_case("json") => {
            format!("CAST({name} AS CHAR CHARACTER SET utf8mb4)")
        }
        _ => transfer.read(column),
    }
}

/// The arguments of CONCAT for one column of the target, whose value is `value`; `None` for a type that isn't
/// understood.
fn canonical(column: &Column, value: &str) -> Option<String> {
    Some(match column.kind {
        ColumnKind::Unknown => return None,
        ColumnKind::Integer { .. }
        | ColumnKind::Decimal { .. }
        | ColumnKind::Float
        | ColumnKind::Double
        | ColumnKind::Bit { .. }
        | ColumnKind::Year
        | ColumnKind::Date
        | ColumnKind::Time { .. }
        | ColumnKind::Datetime { .. }
        | ColumnKind::Timestamp { .. }
        | ColumnKind::Uuid
        | ColumnKind::Inet4
        | ColumnKind::Inet6
        | ColumnKind::Enum { .. }
        | ColumnKind::Set { .. } => format!("IFNULL({value},'N'),','"),
        ColumnKind::Text | ColumnKind::Binary { .. } | ColumnKind::Blob if !is_long(column) => {
            // As bytes: MariaDB refuses to put text of several charsets into one CONCAT.
            format!("IFNULL(LENGTH({value}),'N'),':',IFNULL(CAST({value} AS BINARY),'')")
        }
        // By its own hash: a CONCAT longer than max_allowed_packet is NULL, and NULL is not noticed in an XOR.
        ColumnKind::Text
        | ColumnKind::Binary { .. }
        | ColumnKind::Blob
        | ColumnKind::Json
        | ColumnKind::Vector { .. }
        | ColumnKind::Geometry => {
            format!("IFNULL(LENGTH({value}),'N'),':',IFNULL(SHA2({value},256),'')")
        }
    })
}

/// Types that aren't part of the row's 65,535 bytes.
fn is_long(column: &Column) -> bool {
    let base = column.column_type.split(['(', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    !matches!(base.as_str(), "char" | "varchar" | "binary" | "varbinary")
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::schema::table::UniqueKey;
    use config::TableName;

    pub(in crate::verify) fn column(name: &str, kind: ColumnKind) -> Column {
        Column {
            name: name.to_owned(),
            kind,
            column_type: String::new(),
            charset: None,
            collation: None,
            nullable: false,
            generated: false,
        }
    }

    /// A table whose every column is in the primary key.
    pub(in crate::verify) fn table(columns: Vec<Column>) -> TableSchema {
        let all: Vec<usize> = (0..columns.len()).collect();
        TableSchema {
            name: TableName::new("s", "t"),
            unique_keys: vec![UniqueKey {
                name: "PRIMARY".to_owned(),
                prefixes: vec![None; all.len()],
                columns: all,
            }],
            columns,
            foreign_keys: Vec::new(),
            has_cascading_children: false,
            rows_estimate: 0,
            create_sql: String::new(),
            keyless: false,
            target: None,
            stored_as: None,
            filter: None,
            left_out: Default::default(),
        }
    }

    #[test]
    fn canonical_forms() {
        let check = |kind: ColumnKind, column_type: &str, expected: &str| {
            let column = Column { column_type: column_type.to_owned(), ..column("c", kind) };
            let value = value_expression(&column, Transfer::Same);
            assert_eq!(canonical(&column, &value).as_deref(), (!expected.is_empty()).then_some(expected));
        };
        let int = ColumnKind::Integer { bytes: 4, unsigned: true };
        check(int.clone(), "int(10) unsigned", "IFNULL(`c`,'N'),','");
        check(int, "int(10) unsigned zerofill", "IFNULL(`c`+0,'N'),','");
        check(ColumnKind::Float, "float", "IFNULL(`c` * 1e0,'N'),','");
        check(ColumnKind::Set { members: 3 }, "set('a')", "IFNULL(CAST(`c` AS UNSIGNED),'N'),','");
        check(ColumnKind::Text, "varchar(20)", "IFNULL(LENGTH(`c`),'N'),':',IFNULL(CAST(`c` AS BINARY),'')");
        check(ColumnKind::Text, "longtext", "IFNULL(LENGTH(`c`),'N'),':',IFNULL(SHA2(`c`,256),'')");
        check(ColumnKind::Uuid, "uuid", "IFNULL(`c`,'N'),','");
        check(
            ColumnKind::Vector { dimensions: 3 },
            "vector(3)",
            "IFNULL(LENGTH(`c`),'N'),':',IFNULL(SHA2(`c`,256),'')",
        );
        check(ColumnKind::Unknown, "xmltype", "");
    }
}
