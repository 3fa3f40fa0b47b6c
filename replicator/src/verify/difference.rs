//! The rows that differ, and the statements that make them equal.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use config::TableName;
use config::names::quote_identifier;
use config::progress::{Difference, DifferenceKind};

use super::key::{Key, RowKey, encode_value};
use crate::error::Result;
use crate::json;
use crate::literal::write_literal;
use crate::schema::table::{Column, ColumnKind, TableSchema};
use crate::value::Value;

/// Differences kept; the rest is counted.
const KEPT_MAX: usize = 10_000;
/// Bytes of SQL kept over all differences.
const BYTES_MAX: usize = 32 << 20;
/// Longest statement that is shown.
const SQL_BYTES_MAX: usize = 64 << 10;

/// The open differences by table and key.
#[derive(Debug, Default)]
pub(super) struct Differences {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<(TableName, RowKey), Difference>,
    bytes: usize,
    /// Found while the list was full. Only another pass over the table can take them back.
    counted: HashMap<TableName, u64>,
}

impl Differences {
    /// Those of these tables alone.
    pub(super) fn of_tables(&self, tables: &[TableName]) -> Self {
        let state = self.lock();
        let kept = state.kept.iter().filter(|((table, _), _)| tables.contains(table));
        let kept: BTreeMap<_, _> =
            kept.map(|(place, difference)| (place.clone(), difference.clone())).collect();
        let counted = state.counted.iter().filter(|(table, _)| tables.contains(table));
        let counted = counted.map(|(table, count)| (table.clone(), *count)).collect();
        let bytes = kept.values().map(size).sum();
        Self { state: Mutex::new(State { kept, bytes, counted }) }
    }

    /// Lists a difference, or replaces what was known of that row.
    pub(super) fn add(&self, key: RowKey, difference: Difference) {
        let mut state = self.lock();
        let place = (difference.table.clone(), key);
        state.remove(&place);
        let bytes = size(&difference);
        if state.kept.len() >= KEPT_MAX || state.bytes + bytes > BYTES_MAX {
            *state.counted.entry(place.0).or_default() += 1;
        } else {
            state.bytes += bytes;
            state.kept.insert(place, difference);
        }
    }

    /// True for a row in the list.
    pub(super) fn contains(&self, table: &TableName, key: &RowKey) -> bool {
        self.lock().kept.contains_key(&(table.clone(), key.clone()))
    }

    /// True where further differences are counted and not listed.
    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        state.kept.len() >= KEPT_MAX || state.bytes >= BYTES_MAX
    }

    /// Counts a difference that the full list can't take.
    pub(super) fn count_one(&self, table: &TableName) {
        *self.lock().counted.entry(table.clone()).or_default() += 1;
    }

    /// True where differences of the table were counted and not listed.
    pub(super) fn lost_count(&self, table: &TableName) -> bool {
        self.lock().counted.get(table).is_some_and(|count| *count > 0)
    }

    /// The row is equal now. True where it wasn't before.
    pub(super) fn remove(&self, table: &TableName, key: &RowKey) -> bool {
        self.lock().remove(&(table.clone(), key.clone()))
    }

    /// A pass over the table begins, which counts again what the list can't hold.
    pub(super) fn recount(&self, table: &TableName) {
        self.lock().counted.remove(table);
    }

    /// Rows of a table that differ.
    pub(super) fn count(&self, table: &TableName) -> u64 {
        let state = self.lock();
        let kept = state.kept.keys().filter(|(other, _)| other == table).count();
        kept as u64 + state.counted.get(table).copied().unwrap_or(0)
    }

    /// Rows of all tables that differ.
    pub(super) fn total(&self) -> u64 {
        let state = self.lock();
        state.kept.len() as u64 + state.counted.values().sum::<u64>()
    }

    /// The keys in the list, by table.
    pub(super) fn keys(&self) -> Vec<(TableName, Vec<RowKey>)> {
        let state = self.lock();
        let mut all: BTreeMap<TableName, Vec<RowKey>> = BTreeMap::new();
        for (table, key) in state.kept.keys() {
            all.entry(table.clone()).or_default().push(key.clone());
        }
        all.into_iter().collect()
    }

    pub(super) fn list(&self) -> Vec<Difference> {
        self.lock().kept.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, place: &(TableName, RowKey)) -> bool {
        let Some(old) = self.kept.remove(place) else { return false };
        self.bytes -= size(&old);
        true
    }
}

fn size(difference: &Difference) -> usize {
    difference.key.len()
        + difference.repair_sql.len()
        + difference.columns.iter().map(String::len).sum::<usize>()
}

/// What is the matter with a row, from both sides' values. `None`: it is equal.
pub(super) fn describe(
    table: &TableSchema,
    key: &RowKey,
    source: Option<&[Value]>,
    target: Option<&[Value]>,
) -> Result<Option<Difference>> {
    let condition = printable_condition(&Key::of(table)?, key);
    let name = table.quoted();
    let (kind, columns, sql) = match (source, target) {
        (None, None) => return Ok(None),
        (Some(row), None) => {
            let (names, values) = stored(table, row, |_| true);
            let sql = format!("INSERT INTO {name} ({}) VALUES ({})", names.join(", "), values.join(", "));
            (DifferenceKind::Missing, Vec::new(), sql)
        }
        (None, Some(_)) => {
            (DifferenceKind::Extra, Vec::new(), format!("DELETE FROM {name} WHERE {condition}"))
        }
        (Some(source), Some(target)) => {
            let differs = |i: usize| match (source.get(i), target.get(i)) {
                (Some(a), Some(b)) => !same(a, b),
                (a, b) => a.is_some() || b.is_some(),
            };
            let columns: Vec<String> = table
                .columns
                .iter()
                .enumerate()
                .filter(|(i, _)| differs(*i))
                .map(|(_, c)| c.name.clone())
                .collect();
            if columns.is_empty() {
                return Ok(None);
            }
            let (names, values) = stored(table, source, differs);
            let sets: Vec<String> = names.iter().zip(&values).map(|(n, v)| format!("{n} = {v}")).collect();
            let sql = if sets.is_empty() {
                "-- only generated columns differ: compare their definitions".to_owned()
            } else {
                format!("UPDATE {name} SET {} WHERE {condition}", sets.join(", "))
            };
            (DifferenceKind::Different, columns, sql)
        }
    };
    let repair_sql = if sql.len() > SQL_BYTES_MAX {
        format!("-- the statement is too long to be shown ({} bytes)", sql.len())
    } else {
        sql
    };
    Ok(Some(Difference { table: table.name.clone(), key: condition, kind, columns, repair_sql }))
}

/// Bit by bit, as the checksum sees it: 0.0 and -0.0 are two values.
fn same(a: &Value, b: &Value) -> bool {
    let encoded = |value| {
        let mut out = Vec::new();
        encode_value(&mut out, value);
        out
    };
    encoded(a) == encoded(b)
}

/// Names and literals of the chosen columns, but for generated ones.
fn stored(table: &TableSchema, row: &[Value], choose: impl Fn(usize) -> bool) -> (Vec<String>, Vec<String>) {
    let chosen = table.stored_columns().filter(|i| choose(*i));
    let pairs = chosen.filter_map(|i| Some((table.columns.get(i)?, row.get(i)?)));
    pairs.map(|(column, value)| (quote_identifier(&column.name), printable(column, value))).unzip()
}

fn printable_condition(key: &Key<'_>, row_key: &RowKey) -> String {
    let values = row_key.decode();
    let parts = key.columns().iter().zip(&values);
    let parts: Vec<String> = parts
        .map(|(column, value)| format!("{} = {}", quote_identifier(&column.name), printable(column, value)))
        .collect();
    parts.join(" AND ")
}

/// A literal that survives being pasted into any client, whatever its session's time zone and sql_mode. Text stays text
/// where every character of it is printable; everything else is written in hexadecimal digits, behind the charset that
/// the bytes are in.
fn printable(column: &Column, value: &Value) -> String {
    match (value, &column.kind) {
        // The decoded text is in UTC. Zero dates are in no time zone.
        (Value::Text(text), ColumnKind::Timestamp { .. }) if !text.starts_with("0000") => {
            format!("CONVERT_TZ('{text}', '+00:00', @@session.time_zone)")
        }
        (Value::Text(text), ColumnKind::Json) => {
            let mut sql = Vec::new();
            let quote = |out: &mut Vec<u8>, text: &[u8]| {
                let literal = quoted("utf8mb4", text);
                out.extend_from_slice(literal.trim_start_matches("_utf8mb4").as_bytes());
            };
            json::write_sql(&mut sql, text, quote);
            String::from_utf8_lossy(&sql).into_owned()
        }
        (Value::Bytes(bytes), ColumnKind::Bit { .. }) => format!("0x{}", hex(bytes)),
        (Value::Bytes(bytes), _) => quoted(column.charset.as_deref().unwrap_or("binary"), bytes),
        _ => {
            let mut literal = Vec::new();
            write_literal(&mut literal, column, value);
            String::from_utf8_lossy(&literal).into_owned()
        }
    }
}

fn quoted(charset: &str, bytes: &[u8]) -> String {
    let unicode = matches!(charset, "utf8mb4" | "utf8mb3" | "utf8");
    // ASCII bytes mean themselves in nearly every charset, but a backslash only in some sessions.
    let ascii = !matches!(charset, "utf16" | "utf16le" | "utf32" | "ucs2");
    let plain = |c: char| !c.is_control() && c != '\\' && if c.is_ascii() { ascii } else { unicode };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(plain) => format!("_{charset}'{}'", text.replace('\'', "''")),
        _ => format!("_{charset} x'{}'", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::verify::checksum::tests::{column, table};

    fn shop() -> TableSchema {
        let text = |name: &str, charset: &str| Column {
            charset: (charset != "binary").then(|| charset.to_owned()),
            ..column(name, ColumnKind::Text)
        };
        let mut table = table(vec![
            column("id", ColumnKind::Integer { bytes: 4, unsigned: false }),
            text("name", "utf8mb4"),
            text("old", "latin1"),
            Column { charset: None, ..column("raw", ColumnKind::Blob) },
            Column { generated: true, ..column("sum", ColumnKind::Double) },
        ]);
        table.unique_keys[0].columns = vec![0];
        table
    }

    fn row(id: i64, name: &str, old: &[u8], raw: &[u8], sum: f64) -> Vec<Value> {
        let bytes = |b: &[u8]| Value::Bytes(b.to_vec().into());
        vec![Value::Int(id), bytes(name.as_bytes()), bytes(old), bytes(raw), Value::Double(sum)]
    }

    #[test]
    fn a_difference_names_its_columns_and_repairs_them() {
        let check = |source: Option<&[Value]>, target: Option<&[Value]>, expected: Option<(&str, &str)>| {
            let key = RowKey::encode(&[Value::Int(7)]);
            let got = describe(&shop(), &key, source, target).unwrap();
            let got = got.map(|d| {
                assert_eq!(d.key, "`id` = 7");
                (format!("{} {}", d.kind.as_str(), d.columns.join(",")), d.repair_sql)
            });
            assert_eq!(got, expected.map(|(what, sql)| (what.to_owned(), sql.to_owned())));
        };
        let a = row(7, "Zoë's", b"plain", b"\x00\xff", 0.0);
        let b = row(7, "x", b"\xe9", b"\x00\xff", -0.0);
        check(None, None, None);
        check(Some(&a), Some(&a), None);
        check(
            Some(&a),
            None,
            Some((
                "missing ",
                "INSERT INTO `s`.`t` (`id`, `name`, `old`, `raw`) VALUES (7, _utf8mb4'Zoë''s', _latin1'plain', _binary x'00ff')",
            )),
        );
        check(None, Some(&a), Some(("extra ", "DELETE FROM `s`.`t` WHERE `id` = 7")));
        check(
            Some(&b),
            Some(&a),
            Some((
                "different name,old,sum",
                "UPDATE `s`.`t` SET `name` = _utf8mb4'x', `old` = _latin1 x'e9' WHERE `id` = 7",
            )),
        );
        let c = row(7, "x", b"\xe9", b"\x00\xff", 1.0);
        check(
            Some(&b),
            Some(&c),
            Some(("different sum", "-- only generated columns differ: compare their definitions")),
        );
    }

    #[test]
    fn literals_can_be_pasted() {
        let check = |kind: ColumnKind, charset: Option<&str>, value: Value, expected: &str| {
            let column = Column { charset: charset.map(str::to_owned), ..column("c", kind) };
            assert_eq!(printable(&column, &value), expected);
        };
        let bytes = |b: &[u8]| Value::Bytes(b.to_vec().into());
        let text = |t: &str| Value::Text(t.to_owned());
        check(ColumnKind::Text, Some("utf8mb4"), bytes("a'b".as_bytes()), "_utf8mb4'a''b'");
        check(ColumnKind::Text, Some("utf8mb4"), bytes(b"a\\b"), "_utf8mb4 x'615c62'");
        check(ColumnKind::Text, Some("utf16"), bytes(b"\0a"), "_utf16 x'0061'");
        check(ColumnKind::Text, Some("utf16"), bytes(b"aa"), "_utf16 x'6161'");
        check(ColumnKind::Binary { length: 2 }, None, bytes(b"ab"), "_binary'ab'");
        check(ColumnKind::Bit { bits: 9 }, None, bytes(b"\x01\xff"), "0x01ff");
        check(ColumnKind::Json, None, text("{\"a\": 1}"), "_utf8mb4'{\"a\": 1}'");
        check(ColumnKind::Date, None, text("2024-01-02"), "'2024-01-02'");
        let stamp = ColumnKind::Timestamp { fraction: 0 };
        check(stamp.clone(), None, text("0000-00-00 00:00:00"), "'0000-00-00 00:00:00'");
        let converted = "CONVERT_TZ('2024-01-02 03:04:05', '+00:00', @@session.time_zone)";
        check(stamp, None, text("2024-01-02 03:04:05"), converted);
        check(ColumnKind::Double, None, Value::Null, "NULL");
    }

    #[test]
    fn the_list_is_bounded_and_counts_on() {
        let (list, table) = (Differences::default(), TableName::new("s", "t"));
        let difference = || Difference {
            table: TableName::new("s", "t"),
            key: String::new(),
            kind: DifferenceKind::Extra,
            columns: Vec::new(),
            repair_sql: String::new(),
        };
        let key = |n: usize| RowKey::encode(&[Value::UInt(n as u64)]);
        for n in 0..KEPT_MAX + 5 {
            list.add(key(n), difference());
        }
        list.add(key(0), difference());
        assert_eq!(
            (list.list().len(), list.total(), list.count(&table)),
            (KEPT_MAX, KEPT_MAX as u64 + 5, KEPT_MAX as u64 + 5)
        );
        assert!(list.remove(&table, &key(1)) && !list.remove(&table, &key(1)));
        list.recount(&table);
        assert_eq!(list.total(), KEPT_MAX as u64 - 1);
    }
}
