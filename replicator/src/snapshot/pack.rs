//! Rows gathered into batches, each in the form in which the target takes it with the least work.
//!
//! A server reads a short row of LOAD DATA faster than the same row as literals, and a long one slower. What a row is
//! is seen from the rows before it, batch by batch: forms may take turns within a chunk, which is one transaction whatever
//! statements it is made of. A row whose literals don't fit a packet goes as fields, where the target takes those.

use bytes::Bytes;

use super::encode::{Cells, Form, bytes_of, statement, write_row};
use super::reader::Batch;
use crate::error::Result;
use crate::schema::table::TableSchema;

/// A batch is handed on when it has this many bytes, or a row that is larger.
const BATCH_BYTES: usize = 256 << 10;
/// From this length on, in bytes, a row costs the target less as literals than as fields. (MariaDB 10.11, CPU of the
/// server: equal at about 1,000 bytes, 1.2 to 1.4 times as much from here to 200,000.)
const LONG_ROW_BYTES: usize = 4 << 10;
/// A statement that goes as one packet of the protocol; one that is larger is held in memory more than once on its way.
const STATEMENT_BYTES_MAX: u64 = 15 << 20;
/// What a packet has beside the statement, and more.
const PROTOCOL_BYTES: u64 = 64;

/// Gathers the rows of one chunk.
#[derive(Debug)]
pub(super) struct Packer<'a> {
    /// The target's.
    table: &'a TableSchema,
    /// LOAD DATA: the target takes either.
    allowed: Form,
    /// A batch of literals has at most so many bytes; a row that has more by itself is one by itself.
    literal_bytes_max: usize,
    /// How the next rows travel. `None`: the first one decides.
    form: Option<Form>,
    batch: Vec<u8>,
    rows: u64,
}

impl<'a> Packer<'a> {
    /// `allowed`: what the target takes, LOAD DATA or nothing but INSERT; a row as INSERT has to fit `packet_bytes_max` there.
    pub(super) fn new(table: &'a TableSchema, (allowed, packet_bytes_max): (Form, u64)) -> Self {
        let head = statement(table, Form::Insert, true).len() as u64 + PROTOCOL_BYTES;
        let most = packet_bytes_max.min(STATEMENT_BYTES_MAX).saturating_sub(head);
        Self {
            table,
            allowed: allowed.of_table(table),
            literal_bytes_max: usize::try_from(most).unwrap_or(usize::MAX),
            form: None,
            batch: Vec::new(),
            rows: 0,
        }
    }

    /// Adds a row; returns what is ready to go, in its order.
    pub(super) fn add(&mut self, row: &impl Cells) -> Result<[Option<Batch>; 2]> {
        let bytes = bytes_of(row);
        let form = match (self.allowed, self.form) {
            (Form::Insert, _) => Form::Insert,
            (Form::LoadData, Some(form)) => form,
            (Form::LoadData, None) => form_for(bytes),
        };
        self.form = Some(form);
        if form == Form::LoadData {
            self.write(form, row)?;
            return Ok([None, self.ready(form)]);
        }
        let too_long = bytes > self.literal_bytes_max;
        let mut before = if too_long { self.take(form) } else { None };
        if self.allowed == Form::Insert || !too_long {
            let begin = self.batch.len();
            self.write(form, row)?;
            if self.batch.len() > self.literal_bytes_max && begin > 0 {
                self.batch.truncate(begin);
                self.rows -= 1;
                before = self.take(form);
                self.write(form, row)?;
            }
            if self.batch.len() <= self.literal_bytes_max {
                return Ok([before, self.ready(form)]);
            }
            if self.allowed == Form::Insert {
                return Ok([before, self.take(form)]);
            }
            self.batch.clear();
            self.rows = 0;
        }
        // As fields it is a stream, and may be as long as it likes.
        self.write(Form::LoadData, row)?;
        Ok([before, self.take(Form::LoadData)])
    }

    /// Writes a row behind those that are there.
    fn write(&mut self, form: Form, row: &impl Cells) -> Result<()> {
        if self.batch.capacity() == 0 {
            self.batch.reserve(BATCH_BYTES + 4096);
        }
        if form == Form::Insert && self.rows > 0 {
            self.batch.push(b',');
        }
        write_row(&mut self.batch, self.table, form, row)?;
        self.rows += 1;
        Ok(())
    }

    /// The batch, where it is full; then its rows say how those behind it travel.
    fn ready(&mut self, form: Form) -> Option<Batch> {
        if self.batch.len() < BATCH_BYTES {
            return None;
        }
        let each = self.batch.len() / usize::try_from(self.rows).unwrap_or(usize::MAX).max(1);
        self.form = Some(form_for(each));
        self.take(form)
    }

    fn take(&mut self, form: Form) -> Option<Batch> {
        let rows = std::mem::take(&mut self.rows);
        (rows > 0).then(|| Batch::Rows { form, bytes: Bytes::from(std::mem::take(&mut self.batch)), rows })
    }

    /// What isn't handed on yet.
    pub(super) fn rest(&mut self) -> Option<Batch> {
        let form = self.form?;
        self.take(form)
    }
}

fn form_for(row_bytes: usize) -> Form {
    if row_bytes >= LONG_ROW_BYTES { Form::Insert } else { Form::LoadData }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;
    use crate::schema::table::{Column, ColumnKind};

    /// A number, and some bytes.
    struct Line(String, Vec<u8>);

    impl Line {
        fn of(number: usize, length: usize) -> Self {
            Self(number.to_string(), vec![b'x'; length])
        }
    }

    impl Cells for Line {
        fn count(&self) -> usize {
            2
        }

        fn cell(&self, index: usize) -> Option<&[u8]> {
            Some(if index == 0 { self.0.as_bytes() } else { &self.1 })
        }
    }

    fn table() -> TableSchema {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
            column_type: String::new(),
            charset: None,
            collation: None,
            nullable: false,
            generated: false,
        };
        let mut table = (*crate::binlog::fixture::tables().sorted().remove(0)).clone();
        let number = ColumnKind::Integer { bytes: 4, unsigned: false };
        table.columns = vec![column("id", number), column("b", ColumnKind::Blob)];
        table
    }

    /// What becomes of rows of these lengths: of each batch its form, and its rows in their order.
    fn packed(travel: (Form, u64), lengths: &[usize]) -> Vec<(Form, Vec<usize>, usize)> {
        let table = table();
        let mut packer = Packer::new(&table, travel);
        let mut batches = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            batches.extend(packer.add(&Line::of(number, *length)).unwrap().into_iter().flatten());
        }
        batches.extend(packer.rest());
        assert!(packer.rest().is_none());
        let shown = |batch| match batch {
            Batch::Rows { form, bytes, rows } => {
                let numbers = numbers(form, &bytes);
                assert_eq!(numbers.len() as u64, rows);
                (form, numbers, bytes.len())
            }
            Batch::End => panic!("nobody asked for the end"),
        };
        batches.into_iter().map(shown).collect()
    }

    fn numbers(form: Form, bytes: &[u8]) -> Vec<usize> {
        let text = std::str::from_utf8(bytes).unwrap();
        let first = |row: &str, end: char| row.split(end).next().unwrap().parse().unwrap();
        match form {
            Form::LoadData => text.lines().map(|row| first(row, '\t')).collect(),
            Form::Insert => {
                let inner = text.strip_prefix('(').unwrap().strip_suffix("')").unwrap();
                inner.split("'),(").map(|row| first(row, ',')).collect()
            }
        }
    }

    #[test]
    fn rows_travel_as_suits_their_length() {
        let check = |travel, lengths: &[usize], expected: &[(Form, &[usize])]| {
            let packed = packed(travel, lengths);
            let shown: Vec<(Form, &[usize])> =
                packed.iter().map(|(form, rows, _)| (*form, rows.as_slice())).collect();
            assert_eq!(shown, expected, "{travel:?}, {lengths:?}");
        };
        use Form::{Insert, LoadData};
        let (any, long, packet) = ((LoadData, 1 << 30), BATCH_BYTES, 1 << 20);
        check(any, &[], &[]);
        check(any, &[10, 20], &[(LoadData, &[0, 1])]);
        check(any, &[long, 10, 20], &[(Insert, &[0]), (Insert, &[1, 2])]);
        // The rows of a batch say how those behind it travel.
        check(any, &[10, long, 10, 20], &[(LoadData, &[0, 1]), (Insert, &[2, 3])]);
        check((Insert, 1 << 30), &[10, 20, long], &[(Insert, &[0, 1, 2])]);
        // What doesn't fit a packet goes by itself, in its place.
        check(
            (LoadData, packet),
            &[5_000, 2 << 20, 5_000],
            &[(Insert, &[0]), (LoadData, &[1]), (Insert, &[2])],
        );
        check((LoadData, packet), &[2 << 20], &[(LoadData, &[0])]);
        check((Insert, packet), &[5_000, 2 << 20, 5_000], &[(Insert, &[0]), (Insert, &[1]), (Insert, &[2])]);
        // Nor does a packet become too large by what is in it already.
        check((LoadData, 10_000), &[5_000, 5_000, 4_000], &[(Insert, &[0]), (Insert, &[1, 2])]);
        check(any, &[16 << 20, 16 << 20], &[(LoadData, &[0]), (LoadData, &[1])]);
    }

    proptest! {
        #[test]
        fn every_row_goes_once_in_its_place_and_fits(
            lengths in proptest::collection::vec(prop_oneof![0..300_usize, 3_000..6_000_usize, 0..400_000_usize], 0..60),
            packet in 2_000..500_000_u64,
            only_insert: bool,
        ) {
            let allowed = if only_insert { Form::Insert } else { Form::LoadData };
            let packed = packed((allowed, packet), &lengths);
            let rows: Vec<usize> = packed.iter().flat_map(|(_, rows, _)| rows.clone()).collect();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            let head = statement(&table(), Form::Insert, true).len() as u64 + PROTOCOL_BYTES;
            for (form, rows, bytes) in packed {
                let fits = form == Form::LoadData || bytes as u64 + head <= packet;
                prop_assert!(fits || (only_insert && rows.len() == 1), "{form:?} of {rows:?} has {bytes} bytes");
                prop_assert!(!only_insert || form == Form::Insert);
            }
        }
    }
}
