//! From spooled events to rows: remembers the table maps of the transaction and reads rows by them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

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
}

impl Decoder {
    pub(crate) fn new(schemas: SchemaSet) -> Self {
        Self { schemas, tables: HashMap::new(), mapped: Vec::new() }
    }

    /// A table id means nothing beyond its transaction.
    pub(crate) fn begin(&mut self) {
        self.mapped.clear();
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
        if !self.mapped.contains(&head.table_id) {
            return Err(Malformed::new("rows of a table that was not named before them"));
        }
        let (_, plan) = self
            .tables
            .get(&head.table_id)
            .ok_or_else(|| Malformed::new("rows of a table that was not named before them"))?;
        RowsEvent::parse(shape, &body, Arc::clone(plan)).map(Some)
    }

    fn table_map(&mut self, body: &Bytes) -> Result<(), Malformed> {
        let table_id = super::cursor::Cursor::new(body).uint_le(6)?;
        let known = self.tables.get(&table_id).is_some_and(|(bytes, _)| bytes == body);
        if !known {
            let map = TableMap::parse(body)?;
            let table = self.schemas.get(&map.name).ok_or_else(|| {
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
