//! From spooled events to rows: remembers the table maps of the transaction and reads rows by them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use config::BinlogPosition;

use super::cursor::Malformed;
use super::event::{EventHeader, HEADER_BYTES, RowsShape, kind};
use super::rows::{RowsEvent, RowsHead};
use super::table_map::{RowPlan, TableMap};
use crate::schema::table::SchemaSet;

/// Table maps remembered; past it the memory begins anew, which costs a little time and nothing else.
const TABLES_MAX: usize = 4096;

/// The decoder of one stream of events.
#[derive(Debug)]
pub(crate) struct Decoder {
    schemas: SchemaSet,
    /// By table id: the event's body, and what came out of it. Most transactions repeat the map of the one
    /// before, so comparing bytes saves parsing them.
    tables: HashMap<u64, (Bytes, Arc<RowPlan>)>,
    /// Table ids mapped in the present transaction.
    mapped: Vec<u64>,
    /// Those of them whose rows aren't wanted.
    passed_over: Vec<u64>,
    /// Where the present transaction ends, where that matters.
    end: Option<BinlogPosition>,
    /// Up to here it does: a table was copied there, later than the others.
    last_begin: Option<BinlogPosition>,
}

impl Decoder {
    pub(crate) fn new(schemas: SchemaSet) -> Self {
        let last_begin = schemas.last_begin().cloned();
        let (tables, mapped, passed_over) = (HashMap::new(), Vec::new(), Vec::new());
        Self { schemas, tables, mapped, passed_over, end: None, last_begin }
    }

    /// True where a transaction's end has to be known before its rows can be decoded.
    pub(crate) fn wants_end(&self) -> bool {
        self.last_begin.is_some()
    }

    /// A table id means nothing beyond its transaction, which ends at `end`.
    pub(crate) fn begin(&mut self, end: Option<BinlogPosition>) {
        // Positions only grow, and finding an end costs a look ahead.
        if self.last_begin.as_ref().zip(end.as_ref()).is_some_and(|(last, end)| end > last) {
            self.last_begin = None;
        }
        self.end = end;
        self.mapped.clear();
        self.passed_over.clear();
        if self.tables.len() >= TABLES_MAX {
            self.tables.clear();
        }
    }

    /// Takes an event (header and body, without checksum). `Some` where it holds rows.
    pub(crate) fn event(&mut self, event: &Bytes) -> Result<Option<RowsEvent>, Malformed> {
        let header = EventHeader::parse(event)?;
        let body = event.slice(HEADER_BYTES.min(event.len())..);
        if header.kind == kind::TABLE_MAP {
            self.table_map(&body)?;
            return Ok(None);
        }
        let shape = RowsShape::of(header.kind).ok_or_else(|| {
            Malformed::new(format!("the spool holds an event of type {}, which it never should", header.kind))
        })?;
        let head = RowsHead::parse(&body)?;
        if self.passed_over.contains(&head.table_id) {
            return Ok(None);
        }
        if !self.mapped.contains(&head.table_id) {
            return Err(Malformed::new("rows of a table that was not named before them"));
        }
        let (_, plan) = self
            .tables
            .get(&head.table_id)
            .ok_or_else(|| Malformed::new("rows of a table that was not named before them"))?;
        RowsEvent::parse(shape, &body, Arc::clone(plan), self.schemas.outside()).map(Some)
    }

    fn table_map(&mut self, body: &Bytes) -> Result<(), Malformed> {
        let table_id = super::cursor::Cursor::new(body).uint_le(6)?;
        let known = self.tables.get(&table_id).is_some_and(|(bytes, _)| bytes == body);
        if (!known || self.wants_end())
            && self
                .schemas
                .passes_over(&self.schemas.in_source_names(TableMap::parse(body)?.name), self.end.as_ref())
        {
            self.mapped.retain(|id| *id != table_id);
            self.passed_over.push(table_id);
            return Ok(());
        }
        self.passed_over.retain(|id| *id != table_id);
        if !known {
            let map = TableMap::parse(body)?;
            let table =
                self.schemas.get(&self.schemas.in_source_names(map.name.clone())).ok_or_else(|| {
                    Malformed::new(format!(
                        "the spool holds rows of table {}, which isn't part of the migration",
                        map.name
                    ))
                })?;
            let plan = Arc::new(map.plan(table)?);
            self.tables.insert(table_id, (Bytes::copy_from_slice(body), plan));
        }
        if !self.mapped.contains(&table_id) {
            self.mapped.push(table_id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::binlog::fixture;
    use crate::binlog::transaction::RowChange;
    use crate::value::Value;
    use proptest::prelude::*;

    fn rows(decoder: &mut Decoder, event: &Bytes) -> Result<Vec<RowChange>, Malformed> {
        let mut rows = Vec::new();
        if let Some(mut event) = decoder.event(event)? {
            while let Some(row) = event.next_row()? {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    #[test]
    fn rows_are_read_by_the_table_map_before_them() {
        let mut decoder = Decoder::new(fixture::tables());
        let written = fixture::whole(kind::WRITE_ROWS, &fixture::write_rows(&[1, 0xffff_ffff], 3));
        assert!(rows(&mut decoder, &written).is_err(), "no table map yet");
        decoder.begin(None);
        let map = fixture::whole(kind::TABLE_MAP, &fixture::table_map("shop"));
        assert_eq!(rows(&mut decoder, &map).unwrap(), []);
        let row = |id: u64| RowChange::Insert {
            after: vec![Value::UInt(id), Value::Bytes(Bytes::from_static(b"vvv"))],
        };
        assert_eq!(rows(&mut decoder, &written).unwrap(), [row(1), row(0xffff_ffff)]);
        let updated = fixture::whole(kind::UPDATE_ROWS, &fixture::update_rows(7));
        let image = |id: u64| vec![Value::UInt(id), Value::Null];
        let expected = RowChange::Update { before: image(7), after: image(8) };
        assert_eq!(rows(&mut decoder, &updated).unwrap(), [expected]);
        decoder.begin(None);
        assert!(rows(&mut decoder, &written).is_err(), "a table id means nothing beyond its transaction");
    }

    #[test]
    fn an_image_that_lacks_its_key_says_what_to_set() {
        let mut decoder = Decoder::new(fixture::tables());
        rows(&mut decoder, &fixture::whole(kind::TABLE_MAP, &fixture::table_map("shop"))).unwrap();
        let mut body = fixture::write_rows(&[1], 3);
        body[11] = 2;
        let error = rows(&mut decoder, &fixture::whole(kind::WRITE_ROWS, &body)).unwrap_err();
        assert!(error.0.contains("binlog_row_image"), "{error}");
    }

    #[test]
    fn another_definition_is_refused() {
        let mut decoder = Decoder::new(fixture::tables());
        let mut body = fixture::table_map("shop");
        let types = body.len() - 6;
        body[types] = 8;
        let error = rows(&mut decoder, &fixture::whole(kind::TABLE_MAP, &body)).unwrap_err();
        assert!(error.0.contains("the table was changed"), "{error}");
    }

    #[test]
    fn truncated_events_are_errors_at_every_byte() {
        for (kind, body) in fixture::samples() {
            if RowsShape::of(kind).is_none() {
                continue;
            }
            for cut in 0..body.len() {
                let mut decoder = Decoder::new(fixture::tables());
                rows(&mut decoder, &fixture::whole(kind::TABLE_MAP, &fixture::table_map("shop"))).unwrap();
                let whole_rows = rows(&mut decoder, &fixture::whole(kind, &body)).unwrap().len();
                match rows(&mut decoder, &fixture::whole(kind, &body[..cut])) {
                    // Cut between two rows it is an event with fewer of them.
                    Ok(found) => assert!(found.len() < whole_rows, "{kind} {cut}"),
                    Err(error) => drop(error),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_events_never_panic(
            map_at in 0_usize..40, map_byte: u8, at in 0_usize..80, byte: u8, which in 3_usize..6,
        ) {
            let mut decoder = Decoder::new(fixture::tables());
            let mut map = fixture::table_map("shop");
            if let Some(place) = map.get_mut(map_at) { *place = map_byte; }
            drop(rows(&mut decoder, &fixture::whole(kind::TABLE_MAP, &map)));
            let (kind, mut body) = fixture::samples().swap_remove(which);
            if let Some(place) = body.get_mut(at) { *place = byte; }
            drop(rows(&mut decoder, &fixture::whole(kind, &body)));
        }

        #[test]
        fn garbage_never_panics(kind: u8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(fixture::tables());
            rows(&mut decoder, &fixture::whole(kind::TABLE_MAP, &fixture::table_map("shop"))).unwrap();
            let event = fixture::whole(kind, &bytes);
            drop(rows(&mut decoder, &event));
            drop(rows(&mut decoder, &event.slice(..bytes.len().min(fixture::HEADER))));
        }
    }
}
