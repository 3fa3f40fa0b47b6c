//! The way in for the fuzz targets of `tests/fuzz`: the binlog's parsers aren't part of this crate's interface. Hidden
//! from the documentation because nothing else may call it; what it gives back is only what a target has to hold
//! against something.

use bytes::Bytes;

use super::decode::Decoder;
use super::event::{
    EventHeader, FormatDescription, HEADER_BYTES, checksum_holds, kind, parse_heartbeat_v2, parse_rotate,
};
use super::group::{Grouper, Step};
use super::payload::Payload;
use super::rows::row_memory;
use super::{json, statement};
use crate::schema::selection::Selection;
use crate::schema::table::SchemaSet;

/// What came out of a stream of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Events that were understood.
    pub events: usize,
    /// Rows.
    pub rows: usize,
    /// Memory of the largest row.
    pub largest_row: usize,
    /// Transactions that ended.
    pub closed: usize,
}

/// A stream of events, each with the size in its header, as in a binlog file behind its first four bytes. What isn't
/// understood is passed over, so that the next event is tried too. Checksums are cut off unchecked, as a target that
/// changes bytes would never get past them.
#[must_use]
pub fn events(tables: SchemaSet, stream: &[u8], checksums: bool) -> Seen {
    let all = tables.sorted();
    let schemas: Vec<&str> = all.iter().map(|table| table.name.schema.as_str()).collect();
    let mut state = State {
        grouper: Grouper::new(Selection::of_schemas(&schemas), true),
        decoder: Decoder::new(tables),
        seen: Seen::default(),
    };
    let mut rest = Bytes::copy_from_slice(stream);
    while let Ok(header) = EventHeader::parse(&rest) {
        let size = (header.size as usize).clamp(HEADER_BYTES, rest.len());
        let mut event = rest.split_to(size);
        let _ = checksum_holds(&event);
        if checksums && header.kind != kind::FORMAT_DESCRIPTION {
            event.truncate(size.saturating_sub(4).max(HEADER_BYTES));
        }
        state.event(&event, true);
    }
    state.seen
}

struct State {
    grouper: Grouper,
    decoder: Decoder,
    seen: Seen,
}

impl State {
    fn event(&mut self, event: &Bytes, outside: bool) {
        let Ok(header) = EventHeader::parse(event) else { return };
        let body = event.slice(HEADER_BYTES..);
        let understood = match header.kind {
            kind::FORMAT_DESCRIPTION => FormatDescription::parse(&body).is_ok(),
            kind::ROTATE => parse_rotate(&body).is_ok(),
            kind::HEARTBEAT_V2 => parse_heartbeat_v2(&body).is_ok(),
            kind::TRANSACTION_PAYLOAD if outside => self.payload(&body),
            _ => true,
        };
        if !understood || header.kind == kind::TRANSACTION_PAYLOAD {
            return;
        }
        let Ok(step) = self.grouper.event(&header, &body) else {
            self.grouper.reset();
            return;
        };
        self.seen.events += 1;
        match step {
            Step::Keep => self.rows(event),
            Step::Close(_) => {
                self.seen.closed += 1;
                self.decoder.begin(None);
            }
            Step::Ignore | Step::Abort => {}
        }
    }

    fn payload(&mut self, body: &Bytes) -> bool {
        let Ok(mut payload) = Payload::begin(body, body.len() as u64) else { return false };
        while let Ok(Some(event)) = payload.next_event() {
            self.event(&event, false);
        }
        payload.finish().is_ok()
    }

    fn rows(&mut self, event: &Bytes) {
        let Ok(Some(mut rows)) = self.decoder.event(event) else { return };
        while let Ok(Some(row)) = rows.next_row() {
            self.seen.rows += 1;
            self.seen.largest_row = self.seen.largest_row.max(row_memory(&row));
        }
    }
}

/// A binary JSON document as text.
#[must_use]
pub fn json(document: &[u8]) -> Option<String> {
    json::json_text(document).ok()
}

/// A statement of the binlog: only that it can be told what it is.
pub fn statement(default_schema: &[u8], sql: &[u8]) {
    let names = statement::SchemaNames::new(["fuzz"]);
    let _ = statement::classify(default_schema, sql, &names);
    let _ = statement::kind_of(&String::from_utf8_lossy(sql));
}
