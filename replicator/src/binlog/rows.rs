//! Row images to values.

use std::sync::Arc;

use bytes::Bytes;

use super::cursor::{Cursor, Malformed, bit};
use super::event::{RowsKind, RowsShape};
use super::table_map::{ColumnDecoder, RowPlan};
use super::{address, compress, decimal, json, temporal};
use crate::binlog::transaction::RowChange;
use crate::json::{Edit, edited};
use crate::schema::filter::Outside;
use crate::schema::table::TableSchema;
use crate::value::Value;

/// Flag of a rows event: the session had foreign_key_checks off.
const NO_FOREIGN_KEY_CHECKS_F: u16 = 0x2;
/// Values from this size on share the memory of their event instead of being copied: a small value that is kept
/// for long must not keep a large event.
const SHARED_BYTES_MIN: usize = 64 * 1024;

/// Head of a rows event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsHead {
    pub(crate) table_id: u64,
    pub(crate) flags: u16,
}

impl RowsHead {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        Ok(Self { table_id: cursor.uint_le(6)?, flags: cursor.u16()? })
    }
}

/// The rows of one rows event, decoded one at a time so that memory stays bounded whatever the event's size.
#[derive(Debug)]
pub(crate) struct RowsEvent {
    plan: Arc<RowPlan>,
    kind: RowsKind,
    partial: bool,
    foreign_key_checks: bool,
    outside: Outside,
    before: Presence,
    after: Presence,
    data: Bytes,
    at: usize,
}

/// Which columns an image holds. `None`: all of them.
#[derive(Debug)]
struct Presence(Option<Vec<bool>>);

impl RowsEvent {
    /// Reads the head of a rows event's body (without checksum). `outside`: what becomes of rows that aren't moved.
    pub(crate) fn parse(
        shape: RowsShape,
        body: &Bytes,
        plan: Arc<RowPlan>,
        outside: Outside,
    ) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        cursor.uint_le(6)?;
        let flags = cursor.u16()?;
        if shape.extra_data {
            // The length counts its own two bytes.
            let length = usize::from(cursor.u16()?);
            cursor.take(length.saturating_sub(2))?;
        }
        let count = cursor.lenenc_size()?;
        if count != plan.columns.len() {
            return Err(Malformed::new(format!(
                "a rows event of table {} has {count} columns, its table map {}",
                plan.table.name,
                plan.columns.len()
            )));
        }
        let first = Presence::parse(&mut cursor, plan.columns.len())?;
        let second = match shape.kind {
            RowsKind::Update => Presence::parse(&mut cursor, plan.columns.len())?,
            _ => Presence(None),
        };
        let (before, after) = match shape.kind {
            RowsKind::Write => (second, first),
            RowsKind::Update | RowsKind::Delete => (first, second),
        };
        refuse_what_is_not_enough(&plan, shape, &before, &after)?;
        let data = if shape.compressed {
            Bytes::from(compress::inflate(cursor.rest())?)
        } else {
            body.slice(body.len() - cursor.len()..)
        };
        Ok(Self {
            plan,
            kind: shape.kind,
            partial: shape.partial,
            foreign_key_checks: flags & NO_FOREIGN_KEY_CHECKS_F == 0,
            outside,
            before,
            after,
            data,
            at: 0,
        })
    }

    pub(crate) fn table(&self) -> &Arc<TableSchema> {
        &self.plan.table
    }

    pub(crate) fn foreign_key_checks(&self) -> bool {
        self.foreign_key_checks
    }

    /// Bytes of its rows that were read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.at as u64
    }

    /// The next row of those that are moved; `None` at the end.
    pub(crate) fn next_row(&mut self) -> Result<Option<RowChange>, Malformed> {
        while let Some(row) = self.next_of_all()? {
            let Some(row) = self.of_moved_columns(row) else { continue };
            let table = &self.plan.table;
            let Some(filter) = &table.filter else { return Ok(Some(row)) };
            let narrowed = filter.narrow(row, self.outside);
            if let Some(row) =
                narrowed.map_err(|why| Malformed::new(format!("a row of table {} {why}", table.name)))?
            {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The change of the columns that are moved; `None` where it is one of the others alone.
    fn of_moved_columns(&self, row: RowChange) -> Option<RowChange> {
        if !self.plan.leaves_out() {
            return Some(row);
        }
        let moved = |values: Vec<Value>| -> Vec<Value> {
            let pairs = values.into_iter().zip(&self.plan.columns);
            pairs.filter(|(_, column)| column.moved).map(|(value, _)| value).collect()
        };
        Some(match row {
            RowChange::Insert { after } => RowChange::Insert { after: moved(after) },
            RowChange::Delete { before } => RowChange::Delete { before: moved(before) },
            RowChange::Update { before, after } => {
                let (before, after) = (moved(before), moved(after));
                if before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.is_identical(b)) {
                    return None;
                }
                RowChange::Update { before, after }
            }
        })
    }

    fn next_of_all(&mut self) -> Result<Option<RowChange>, Malformed> {
        let Some(rest) = self.data.get(self.at..).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(rest);
        let (plan, data) = (&*self.plan, &self.data);
        let row = match self.kind {
            RowsKind::Write => {
                RowChange::Insert { after: image(plan, &self.after, data, &mut cursor, None)? }
            }
            RowsKind::Delete => {
                RowChange::Delete { before: image(plan, &self.before, data, &mut cursor, None)? }
            }
            RowsKind::Update => {
                let before = image(plan, &self.before, data, &mut cursor, None)?;
                let edited = if self.partial { EditedDocuments::parse(plan, &mut cursor)? } else { None };
                let edited = edited.as_ref().map(|edited| (edited, &*before));
                let mut after = image(plan, &self.after, data, &mut cursor, edited)?;
                if self.after.0.is_some() {
                    // What isn't in the image after is as it was.
                    let absent = after.iter_mut().zip(&before).filter(|(after, _)| **after == Value::Absent);
                    absent.for_each(|(after, before)| after.clone_from(before));
                }
                RowChange::Update { before, after }
            }
        };
        let at = self.data.len() - cursor.len();
        if at == self.at {
            return Err(Malformed::new("a row holds no column"));
        }
        self.at = at;
        Ok(Some(row))
    }
}

impl Presence {
    /// Reads the bitmap of the columns that are in the image.
    fn parse(cursor: &mut Cursor<'_>, columns: usize) -> Result<Self, Malformed> {
        let bitmap = cursor.take(columns.div_ceil(8))?;
        let present: Vec<bool> = (0..columns).map(|index| bit(bitmap, index)).collect();
        Ok(Self(if present.iter().all(|&p| p) { None } else { Some(present) }))
    }

    fn contains(&self, index: usize) -> bool {
        self.0.as_ref().is_none_or(|present| present.get(index).copied().unwrap_or(false))
    }

    fn count(&self, all: usize) -> usize {
        self.0.as_ref().map_or(all, |present| present.iter().filter(|&&p| p).count())
    }
}

/// binlog_row_image is a session's own setting, so each event is looked at. A row that can't be found by what is in its
/// image, or whose key isn't known, stops the stream.
fn refuse_what_is_not_enough(
    plan: &RowPlan,
    shape: RowsShape,
    before: &Presence,
    after: &Presence,
) -> Result<(), Malformed> {
    if before.0.is_none() && after.0.is_none() {
        return Ok(());
    }
    let table = &plan.table;
    let key = table.row_key();
    let stored = || (0..table.columns.len()).filter(|&c| table.columns.get(c).is_some_and(|c| !c.generated));
    let all_stored: Vec<usize>;
    let in_image = |column: &usize| plan.places.get(*column).copied().unwrap_or(usize::MAX);
    let needed = match key {
        Some(key) => &key.columns,
        // Nothing but all of its values tells a row apart.
        None => {
            all_stored = stored().collect();
            &all_stored
        }
    };
    let lacking = match (shape.kind, key) {
        (RowsKind::Write, Some(_)) => needed.iter().find(|column| !after.contains(in_image(column))),
        (RowsKind::Write, None) => None,
        (RowsKind::Update | RowsKind::Delete, _) => {
            needed.iter().find(|column| !before.contains(in_image(column)))
        }
    };
    if let Some(column) = lacking.and_then(|&column| table.columns.get(column)) {
        return Err(Malformed::new(format!(
            "a row image of table {} lacks column {}, without which its row isn't known: binlog_row_image isn't FULL in \
             the session that wrote it; set it to FULL, globally and in every session, then begin the migration again",
            table.name, column.name
        )));
    }
    let lacks = |column: usize| !before.contains(in_image(&column)) || !after.contains(in_image(&column));
    if shape.partial && stored().any(lacks) {
        return Err(Malformed::new(format!(
            "an update of table {} logs parts of documents (binlog_row_value_options) in images that lack columns \
             (binlog_row_image), which can't be put together; set one of the two back, globally and in every session, \
             then begin the migration again",
            table.name
        )));
    }
    Ok(())
}

/// One image: a bitmap of NULLs over the present columns, then the values that aren't NULL. With `edited` some
/// documents are changes of those in the image before.
fn image(
    plan: &RowPlan,
    presence: &Presence,
    data: &Bytes,
    cursor: &mut Cursor<'_>,
    edited: Option<(&EditedDocuments, &[Value])>,
) -> Result<Vec<Value>, Malformed> {
    let nulls = cursor.take(presence.count(plan.columns.len()).div_ceil(8))?;
    let mut values = Vec::with_capacity(plan.columns.len());
    let mut place = 0;
    for (index, column) in plan.columns.iter().enumerate() {
        if !presence.contains(index) {
            // A generated column is never written, so nothing is missing with it.
            values.push(if column.generated { Value::Null } else { Value::Absent });
            continue;
        }
        let null = bit(nulls, place);
        place += 1;
        let edited = edited.filter(|(edited, _)| edited.contains(index));
        values.push(match (null, edited) {
            (true, _) => Value::Null,
            (false, None) => value(column.decoder, data, cursor)?,
            (false, Some((_, before))) => edited_document(before.get(index), cursor)?,
        });
    }
    Ok(values)
}

/// Which documents of an image are written as changes, by column.
struct EditedDocuments(Vec<bool>);

impl EditedDocuments {
    /// Reads what is in front of an image that may hold some. `None`: it holds none.
    fn parse(plan: &RowPlan, cursor: &mut Cursor<'_>) -> Result<Option<Self>, Malformed> {
        const PARTIAL_JSON: usize = 1;
        match cursor.lenenc_size()? {
            0 => return Ok(None),
            PARTIAL_JSON => {}
            _ => {
                return Err(Malformed::new(
                    "an update has options (binlog_row_value_options) that aren't known here",
                ));
            }
        }
        let is_document = |decoder: &ColumnDecoder| matches!(decoder, ColumnDecoder::Json { .. });
        let decoders = || plan.columns.iter().map(|column| &column.decoder);
        let documents = decoders().filter(|decoder| is_document(decoder)).count();
        let bits = cursor.take(documents.div_ceil(8))?;
        let mut place = 0;
        let mut of = |decoder| {
            let edited = is_document(decoder) && bit(bits, place);
            place += usize::from(is_document(decoder));
            edited
        };
        Ok(Some(Self(decoders().map(&mut of).collect())))
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }
}

/// A document of which only the changes are written.
fn edited_document(before: Option<&Value>, cursor: &mut Cursor<'_>) -> Result<Value, Malformed> {
    let Some(Value::Text(document)) = before else {
        return Err(Malformed::new(
            "an update changes parts of a document that its image before doesn't hold",
        ));
    };
    let length = usize::try_from(cursor.uint_le(4)?).unwrap_or(usize::MAX);
    Ok(Value::Text(edits(document, cursor.take(length)?)?))
}

/// Carries out the changes of one document.
fn edits(document: &str, changes: &[u8]) -> Result<String, Malformed> {
    const REPLACE: u8 = 0;
    const INSERT: u8 = 1;
    const REMOVE: u8 = 2;
    let mut cursor = Cursor::new(changes);
    let mut document = document.to_owned();
    while !cursor.is_empty() {
        let operation = cursor.u8()?;
        let length = cursor.lenenc_size()?;
        let path = std::str::from_utf8(cursor.take(length)?)
            .map_err(|_| Malformed::new("the path of a JSON change isn't valid UTF-8"))?;
        let edit = match operation {
            REMOVE => Edit::Remove,
            REPLACE | INSERT => {
                let length = cursor.lenenc_size()?;
                let text = json::json_text(cursor.take(length)?)?;
                if operation == REPLACE { Edit::Replace(text) } else { Edit::Insert(text) }
            }
            _ => return Err(Malformed::new("a JSON change is of a kind that isn't known here")),
        };
        document = edited(&document, path, &edit)
            .ok_or_else(|| Malformed::new("a JSON change doesn't fit the document before it"))?;
    }
    Ok(document)
}

fn value(decoder: ColumnDecoder, data: &Bytes, cursor: &mut Cursor<'_>) -> Result<Value, Malformed> {
    Ok(match decoder {
        ColumnDecoder::Signed { bytes } => Value::Int(signed(cursor.uint_le(bytes)?, bytes)),
        ColumnDecoder::Unsigned { bytes } => Value::UInt(cursor.uint_le(bytes)?),
        ColumnDecoder::Decimal { precision, scale } => {
            Value::Text(decimal::decimal(cursor, precision, scale)?)
        }
        ColumnDecoder::Float => Value::Float(f32::from_le_bytes(cursor.array()?)),
        ColumnDecoder::Double => Value::Double(f64::from_le_bytes(cursor.array()?)),
        ColumnDecoder::Year => Value::UInt(match cursor.u8()? {
            0 => 0,
            years => 1900 + u64::from(years),
        }),
        ColumnDecoder::Date => Value::Text(temporal::date(cursor)?),
        ColumnDecoder::Time { fraction } => Value::Text(temporal::time2(cursor, fraction)?),
        ColumnDecoder::Datetime { fraction } => Value::Text(temporal::datetime2(cursor, fraction)?),
        ColumnDecoder::Timestamp { fraction } => Value::Text(temporal::timestamp2(cursor, fraction)?),
        ColumnDecoder::Bits { bytes } => Value::Bytes(Bytes::copy_from_slice(cursor.take(bytes)?)),
        ColumnDecoder::Bytes { prefix } => {
            let bytes = prefixed(cursor, prefix)?;
            Value::Bytes(if bytes.len() < SHARED_BYTES_MIN {
                Bytes::copy_from_slice(bytes)
            } else {
                data.slice_ref(bytes)
            })
        }
        ColumnDecoder::Padded { prefix, length } => {
            let bytes = prefixed(cursor, prefix)?;
            if bytes.len() > length {
                return Err(Malformed::new("a BINARY value is longer than its column"));
            }
            let mut padded = bytes.to_vec();
            padded.resize(length, 0);
            Value::Bytes(padded.into())
        }
        ColumnDecoder::Compressed { prefix } => {
            Value::Bytes(compress::inflate_column(prefixed(cursor, prefix)?)?.into())
        }
        ColumnDecoder::Uuid => Value::Text(address::uuid(prefixed(cursor, 1)?)?),
        ColumnDecoder::Inet4 => Value::Text(address::inet4(prefixed(cursor, 1)?)?),
        ColumnDecoder::Inet6 => Value::Text(address::inet6(prefixed(cursor, 1)?)?),
        ColumnDecoder::Json { prefix } => Value::Text(json::json_text(prefixed(cursor, prefix)?)?),
    })
}

fn prefixed<'a>(cursor: &mut Cursor<'a>, prefix: usize) -> Result<&'a [u8], Malformed> {
    let length = cursor.uint_le(prefix)?;
    cursor.take(usize::try_from(length).unwrap_or(usize::MAX))
}

/// Extends the sign of a number of 1 to 8 bytes.
fn signed(number: u64, bytes: usize) -> i64 {
    let shift = 64 - 8 * bytes.clamp(1, 8);
    #[allow(clippy::cast_possible_wrap)]
    let number = (number << shift) as i64;
    number >> shift
}

/// About how much memory a row takes.
pub(crate) fn row_memory(row: &RowChange) -> usize {
    let image = |values: &[Value]| -> usize {
        values
            .iter()
            .map(|value| {
                size_of::<Value>()
                    + match value {
                        Value::Text(text) => text.capacity(),
                        Value::Bytes(bytes) => bytes.len() + 16,
                        _ => 0,
                    }
            })
            .sum()
    };
    size_of::<RowChange>()
        + match row {
            RowChange::Insert { after } => image(after),
            RowChange::Delete { before } => image(before),
            RowChange::Update { before, after } => image(before) + image(after),
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn signs_are_extended() {
        assert_eq!(signed(0x85_ee_00, 3), -8_000_000);
        assert_eq!(signed(0x7f_ff_ff, 3), 8_388_607);
        assert_eq!(signed(0xff, 1), -1);
        assert_eq!(signed(0x8000_0000_0000_0000, 8), i64::MIN);
    }
}
