//! Rows of the source's text protocol as what a loader sends: LOAD DATA's fields, or literals of an INSERT.
//!
//! The same columns, the same exact texts ([`select_list`]), and for each column what the target has to do
//! with them. In LOAD DATA's form a cell is copied without being looked at, but for its separators.

use config::Side;
use config::names::quote_identifier;
use mysql_async::Row;

use super::binary_row::is_float;
use super::cell::{cell_of, value_of_cell};
use crate::error::{Error, Result};
use crate::literal::{write_literal, write_stored_bytes};
use crate::schema::table::{Column, ColumnKind, TableSchema};
use crate::schema::transfer::Transfer;

/// How rows travel to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// LOAD DATA LOCAL INFILE.
    LoadData,
    /// INSERT or REPLACE of many rows, where the target doesn't allow the other, or has less work with it.
    Insert,
}

impl Form {
    /// How rows of that table travel, where this is how others do: what types there are in a JSON document only an
    /// expression can say, and a file holds none.
    pub(super) fn of_table(self, table: &TableSchema) -> Self {
        let has_json = table.columns.iter().any(|column| column.kind == ColumnKind::Json);
        if has_json { Form::Insert } else { self }
    }
}

/// How a chunk's rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Every value as a text.
    Text,
    /// Floating points as they are, see [`super::binary_row`].
    Binary,
}

/// The list of expressions that reads the stored columns of a table of the source exactly, in the target's terms.
pub(super) fn select_list(table: &TableSchema, protocol: Protocol) -> Result<String> {
    let mut list = Vec::new();
    for (column, there) in table.column_pairs().filter(|(column, _)| !column.generated) {
        let transfer = Transfer::between(column, there).map_err(|why| {
            Error::definite(
                Side::Target,
                table.name.to_string(),
                format!("the column {}: {why}", column.name),
            )
        })?;
        list.push(match transfer {
            Transfer::Same if protocol == Protocol::Binary && is_float(&column.kind) => {
                quote_identifier(&column.name)
            }
            _ => transfer.read(column),
        });
    }
    Ok(list.join(", "))
}

/// The statement that the rows belong to. For LOAD DATA it is whole; for INSERT the rows follow it.
///
/// `replace`: rows may be there already, from an attempt before or under another unique key that the row had when
/// its neighbour was read. What it displaces has a later event of its own.
pub(super) fn statement(table: &TableSchema, form: Form, replace: bool) -> String {
    let name = table.quoted();
    match form {
        Form::LoadData => load_data(table, &name, replace),
        Form::Insert => {
            let columns: Vec<_> = stored(table).map(|c| quote_identifier(&c.name)).collect();
            let verb = if replace { "REPLACE" } else { "INSERT" };
            format!("{verb} INTO {name} ({}) VALUES ", columns.join(", "))
        }
    }
}

fn load_data(table: &TableSchema, name: &str, replace: bool) -> String {
    let mut fields = Vec::new();
    let mut sets = Vec::new();
    // Where there is a SET, servers but MySQL's of late take a zero in the file for "the next value".
    let counter = table.auto_increment().filter(|_| stored(table).any(|column| is_set(&column.kind)));
    for (index, column) in stored(table).enumerate() {
        let quoted = quote_identifier(&column.name);
        // In a file a number for these columns would be taken as text, and UUID and INET take binary text for
        // something else.
        let set = match column.kind {
            ColumnKind::Bit { .. } | ColumnKind::Enum { .. } | ColumnKind::Set { .. } => {
                format!("CAST(@c{index} AS UNSIGNED)")
            }
            ColumnKind::Uuid | ColumnKind::Inet4 | ColumnKind::Inet6 => {
                format!("CONVERT(@c{index} USING latin1)")
            }
            _ if counter == Some(column.name.as_str()) => format!("@c{index}"),
            _ => {
                fields.push(quoted);
                continue;
            }
        };
        fields.push(format!("@c{index}"));
        sets.push(format!("{quoted} = {set}"));
    }
    let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
    let replace = if replace { "REPLACE " } else { "" };
    format!(
        "LOAD DATA LOCAL INFILE 'changeover' {replace}INTO TABLE {name} CHARACTER SET binary \
         FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}",
        fields.join(", ")
    )
}

/// Types that a file's text has to be made something of.
fn is_set(kind: &ColumnKind) -> bool {
    use ColumnKind as K;
    matches!(kind, K::Bit { .. } | K::Enum { .. } | K::Set { .. } | K::Json | K::Uuid | K::Inet4 | K::Inet6)
}

/// A row of the text protocol, by its cells.
pub(super) trait Cells {
    /// How many there are.
    fn count(&self) -> usize;
    /// The bytes of one; `None` for NULL.
    fn cell(&self, index: usize) -> Option<&[u8]>;
}

impl Cells for Row {
    fn count(&self) -> usize {
        self.len()
    }

    fn cell(&self, index: usize) -> Option<&[u8]> {
        cell_of(self, index)
    }
}

/// Appends a row for the target's `table`, whose cells are those of [`select_list`].
pub(super) fn write_row(out: &mut Vec<u8>, table: &TableSchema, form: Form, row: &impl Cells) -> Result<()> {
    match form {
        Form::LoadData => {
            for index in 0..row.count() {
                if index > 0 {
                    out.push(b'\t');
                }
                match row.cell(index) {
                    Some(cell) => write_field(out, cell),
                    None => out.extend_from_slice(b"\\N"),
                }
            }
            out.push(b'\n');
        }
        Form::Insert => {
            for (index, column) in stored(table).enumerate() {
                out.push(if index == 0 { b'(' } else { b',' });
                match row.cell(index) {
                    // The cell is the value: what is long isn't copied once more for nothing.
                    Some(cell) if is_bytes(&column.kind) => write_stored_bytes(out, column, cell),
                    cell => write_literal(out, column, &value_of_cell(column, cell)?),
                }
            }
            out.push(b')');
        }
    }
    Ok(())
}

/// Types whose values are the bytes that the server answers.
fn is_bytes(kind: &ColumnKind) -> bool {
    use ColumnKind as K;
    matches!(kind, K::Text | K::Binary { .. } | K::Blob | K::Geometry | K::Vector { .. })
}

/// How long a row is, without what its form adds.
pub(super) fn bytes_of(row: &impl Cells) -> usize {
    (0..row.count()).filter_map(|index| row.cell(index)).map(<[u8]>::len).sum()
}

fn stored(table: &TableSchema) -> impl Iterator<Item = &Column> {
    table.stored_columns().filter_map(|index| table.columns.get(index))
}

/// Copies a cell, escaping what would end a field or a line. A cell that needs none is copied whole.
fn write_field(out: &mut Vec<u8>, cell: &[u8]) {
    let mut rest = cell;
    while let Some(at) = memchr::memchr3(b'\t', b'\n', b'\\', rest) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { return };
        let escaped = match byte {
            b'\t' => b't',
            b'\n' => b'n',
            other => other,
        };
        out.extend_from_slice(&[b'\\', escaped]);
        rest = after;
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_escaped() {
        let check = |cell: &[u8], expected: &[u8]| {
            let mut out = Vec::new();
            write_field(&mut out, cell);
            assert_eq!(out, expected, "{cell:?}");
        };
        check(b"", b"");
        check(b"plain\0\r\x1a'", b"plain\0\r\x1a'");
        check(b"\t", b"\\t");
        check(b"a\\N\nb\\", b"a\\\\N\\nb\\\\");
    }
}
