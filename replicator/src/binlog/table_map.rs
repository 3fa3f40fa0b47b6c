//! TABLE_MAP: which table the rows behind it belong to, and how its columns are stored, checked against the
//! definition that was read from the source.

use std::sync::Arc;

use config::TableName;

use super::cursor::{Cursor, Malformed};
use crate::schema::table::{Column, ColumnKind, TableSchema};

/// Type codes in a table map.
mod stored {
    pub(super) const TINY: u8 = 1;
    pub(super) const SHORT: u8 = 2;
    pub(super) const LONG: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const LONGLONG: u8 = 8;
    pub(super) const INT24: u8 = 9;
    pub(super) const DATE: u8 = 10;
    pub(super) const TIME: u8 = 11;
    pub(super) const DATETIME: u8 = 12;
    pub(super) const YEAR: u8 = 13;
    pub(super) const NEWDATE: u8 = 14;
    pub(super) const VARCHAR: u8 = 15;
    pub(super) const BIT: u8 = 16;
    pub(super) const TIMESTAMP2: u8 = 17;
    pub(super) const DATETIME2: u8 = 18;
    pub(super) const TIME2: u8 = 19;
    pub(super) const BLOB_COMPRESSED: u8 = 140;
    pub(super) const VARCHAR_COMPRESSED: u8 = 141;
    pub(super) const VECTOR: u8 = 242;
    pub(super) const JSON: u8 = 245;
    pub(super) const NEWDECIMAL: u8 = 246;
    pub(super) const ENUM: u8 = 247;
    pub(super) const SET: u8 = 248;
    pub(super) const BLOB: u8 = 252;
    pub(super) const VAR_STRING: u8 = 253;
    pub(super) const STRING: u8 = 254;
    pub(super) const GEOMETRY: u8 = 255;
}

/// The body of TABLE_MAP, not yet looked at closer than its name.
#[derive(Debug, Clone)]
pub(crate) struct TableMap<'a> {
    pub(crate) table_id: u64,
    pub(crate) name: TableName,
    columns: Cursor<'a>,
}

impl<'a> TableMap<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let table_id = cursor.uint_le(6)?;
        cursor.take(2)?;
        let mut name = || {
            let length = cursor.lenenc_size()?;
            let text = std::str::from_utf8(cursor.take(length)?)
                .map_err(|_| Malformed::new("a table's name isn't valid UTF-8"))?;
            cursor.take(1)?;
            Ok::<_, Malformed>(text.to_owned())
        };
        let name = TableName { schema: name()?, table: name()? };
        Ok(Self { table_id, name, columns: cursor })
    }

    /// How to read a row of it. An error says that the definition isn't the one at this position.
    pub(crate) fn plan(&self, table: &Arc<TableSchema>) -> Result<RowPlan, Malformed> {
        let mut cursor = self.columns;
        let count = cursor.lenenc_size()?;
        let image = table.image();
        if count != image.len() {
            return Err(Malformed::new(format!(
                "the binlog holds {count} columns for table {}, its definition has {}: the table was changed \
                 since, or before it was read; start the migration again, without definition changes",
                self.name,
                image.len()
            )));
        }
        let types = cursor.take(count)?;
        let metadata_length = cursor.lenenc_size()?;
        let mut metadata = Cursor::new(cursor.take(metadata_length)?);
        let columns = types.iter().zip(&image).map(|(&code, &(column, moved))| {
            let stored = Stored::parse(code, &mut metadata)?;
            // What its definition is at this position isn't known, and nothing but its length is of interest.
            let altered = moved.is_none() && table.left_out.is_altered(&column.name);
            let as_stored = altered.then(|| Column { kind: stored.kind(), ..column.clone() });
            let decoder = decoder(&stored, as_stored.as_ref().unwrap_or(column)).map_err(|why| {
                Malformed::new(format!("column {} of table {}: {why}", column.name, self.name))
            })?;
            Ok(ColumnPlan { decoder, generated: column.generated, moved: moved.is_some() })
        });
        let columns: Vec<ColumnPlan> = columns.collect::<Result<_, Malformed>>()?;
        let places = columns.iter().enumerate().filter(|(_, column)| column.moved).map(|(at, _)| at);
        Ok(RowPlan { table: Arc::clone(table), places: places.collect(), columns })
    }
}

/// How to read the rows of one table.
#[derive(Debug)]
pub(crate) struct RowPlan {
    pub(crate) table: Arc<TableSchema>,
    /// Every column of the image.
    pub(crate) columns: Vec<ColumnPlan>,
    /// Where in the image each of the table's columns is.
    pub(crate) places: Vec<usize>,
}

impl RowPlan {
    /// True where the image holds columns that aren't moved.
    pub(crate) fn leaves_out(&self) -> bool {
        self.places.len() < self.columns.len()
    }
}

/// What to do with one value of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnPlan {
    pub(crate) decoder: ColumnDecoder,
    pub(crate) generated: bool,
    /// False for one that is read and dropped.
    pub(crate) moved: bool,
}

/// How to read one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnDecoder {
    Signed {
        bytes: usize,
    },
    Unsigned {
        bytes: usize,
    },
    Decimal {
        precision: u8,
        scale: u8,
    },
    Float,
    Double,
    Year,
    Date,
    Time {
        fraction: u8,
    },
    Datetime {
        fraction: u8,
    },
    Timestamp {
        fraction: u8,
    },
    /// Big-endian bits.
    Bits {
        bytes: usize,
    },
    /// Bytes behind a length of so many bytes.
    Bytes {
        prefix: usize,
    },
    /// The same, and trailing zeros were cut off.
    Padded {
        prefix: usize,
        length: usize,
    },
    /// Binary JSON behind a length.
    Json {
        prefix: usize,
    },
    /// Bytes of a COMPRESSED column behind a length.
    Compressed {
        prefix: usize,
    },
    /// Sixteen bytes behind a length of one, without their trailing zeros.
    Uuid,
    /// Four bytes, stored the same way.
    Inet4,
    /// Sixteen bytes, stored the same way.
    Inet6,
}

/// A column type with its metadata, as stored.
#[derive(Debug, Clone, Copy)]
struct Stored {
    code: u8,
    /// First byte of the metadata, or its only one.
    first: u8,
    second: u8,
}

impl Stored {
    fn parse(code: u8, metadata: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let bytes = match code {
            stored::FLOAT
            | stored::DOUBLE
            | stored::TIMESTAMP2
            | stored::DATETIME2
            | stored::TIME2
            | stored::BLOB_COMPRESSED
            | stored::VECTOR
            | stored::JSON
            | 249..=stored::BLOB
            | stored::GEOMETRY => 1,
            stored::VARCHAR
            | stored::BIT
            | stored::VARCHAR_COMPRESSED
            | stored::NEWDECIMAL
            | stored::ENUM
            | stored::SET
            | stored::VAR_STRING
            | stored::STRING => 2,
            0..=stored::NEWDATE => 0,
            _ => {
                return Err(Malformed::new(format!(
                    "the binlog holds a column of type {code}, which isn't known"
                )));
            }
        };
        let mut take = |wanted: bool| if wanted { metadata.u8() } else { Ok(0) };
        Ok(Self { code, first: take(bytes > 0)?, second: take(bytes > 1)? })
    }

    fn length(&self) -> u16 {
        u16::from_le_bytes([self.first, self.second])
    }

    /// STRING holds its real type and, in two bits that no type code lacks, the high bits of its length.
    fn string(&self) -> (u8, u16) {
        let high = (self.first & 0x30) ^ 0x30;
        (self.first | 0x30, u16::from(high) << 4 | u16::from(self.second))
    }

    /// A kind of column that is stored so.
    fn kind(&self) -> ColumnKind {
        let width = self.second;
        match self.code {
            code if integer_bytes(code).is_some() => {
                ColumnKind::Integer { bytes: integer_bytes(code).unwrap_or_default(), unsigned: false }
            }
            stored::NEWDECIMAL => ColumnKind::Decimal { precision: self.first, scale: self.second },
            stored::FLOAT => ColumnKind::Float,
            stored::DOUBLE => ColumnKind::Double,
            stored::YEAR => ColumnKind::Year,
            stored::DATE | stored::NEWDATE => ColumnKind::Date,
            stored::TIME2 => ColumnKind::Time { fraction: self.first },
            stored::DATETIME2 => ColumnKind::Datetime { fraction: self.first },
            stored::TIMESTAMP2 => ColumnKind::Timestamp { fraction: self.first },
            stored::BIT => ColumnKind::Bit { bits: width.saturating_mul(8).saturating_add(self.first) },
            stored::JSON => ColumnKind::Json,
            stored::VECTOR => ColumnKind::Vector { dimensions: 0 },
            stored::GEOMETRY => ColumnKind::Geometry,
            stored::STRING => match self.string().0 {
                stored::ENUM => ColumnKind::Enum { members: if width > 1 { 256 } else { 1 } },
                stored::SET => ColumnKind::Set { members: width.saturating_mul(8) },
                _ => ColumnKind::Text,
            },
            _ => ColumnKind::Text,
        }
    }
}

const CHANGED: &str = "the binlog holds another type than the definition that was read: the table was changed since, \
     or before it was read; start the migration again, without definition changes";

fn decoder(stored: &Stored, column: &Column) -> Result<ColumnDecoder, Malformed> {
    let changed =
        || Malformed::new(format!("{CHANGED} (definition {}, type {})", column.column_type, stored.code));
    match stored.code {
        stored::TIMESTAMP | stored::DATETIME | stored::TIME => Err(Malformed::new(
            "it is stored in the temporal format of MySQL 5.5 (or mysql56_temporal_format is OFF), which holds no \
             fractions; set mysql56_temporal_format = ON where there is one, and rebuild the table with \
             ALTER TABLE … FORCE",
        )),
        stored::STRING => string_decoder(stored, column).ok_or_else(changed),
        _ => plain_decoder(stored, column).ok_or_else(changed),
    }
}

fn plain_decoder(stored: &Stored, column: &Column) -> Option<ColumnDecoder> {
    let length_prefix = || if stored.length() > 255 { 2 } else { 1 };
    let blob_prefix = || Some(usize::from(stored.first)).filter(|bytes| (1..=4).contains(bytes));
    Some(match (stored.code, &column.kind) {
        (code, ColumnKind::Integer { bytes, unsigned }) if integer_bytes(code) == Some(*bytes) => {
            let bytes = usize::from(*bytes);
            if *unsigned { ColumnDecoder::Unsigned { bytes } } else { ColumnDecoder::Signed { bytes } }
        }
        (stored::NEWDECIMAL, ColumnKind::Decimal { precision, scale })
            if (stored.first, stored.second) == (*precision, *scale) =>
        {
            ColumnDecoder::Decimal { precision: *precision, scale: *scale }
        }
        (stored::FLOAT, ColumnKind::Float) if stored.first == 4 => ColumnDecoder::Float,
        (stored::DOUBLE, ColumnKind::Double) if stored.first == 8 => ColumnDecoder::Double,
        (stored::YEAR, ColumnKind::Year) => ColumnDecoder::Year,
        (stored::DATE | stored::NEWDATE, ColumnKind::Date) => ColumnDecoder::Date,
        (stored::TIME2, ColumnKind::Time { fraction }) if *fraction == stored.first && *fraction <= 6 => {
            ColumnDecoder::Time { fraction: *fraction }
        }
        (stored::DATETIME2, ColumnKind::Datetime { fraction })
            if *fraction == stored.first && *fraction <= 6 =>
        {
            ColumnDecoder::Datetime { fraction: *fraction }
        }
        (stored::TIMESTAMP2, ColumnKind::Timestamp { fraction })
            if *fraction == stored.first && *fraction <= 6 =>
        {
            ColumnDecoder::Timestamp { fraction: *fraction }
        }
        (stored::BIT, ColumnKind::Bit { bits })
            if u16::from(stored.second) * 8 + u16::from(stored.first) == u16::from(*bits) =>
        {
            ColumnDecoder::Bits { bytes: usize::from(bits.div_ceil(8)) }
        }
        (stored::VARCHAR | stored::VAR_STRING, ColumnKind::Text | ColumnKind::Blob) => {
            ColumnDecoder::Bytes { prefix: length_prefix() }
        }
        (stored::VARCHAR_COMPRESSED, ColumnKind::Text | ColumnKind::Blob) => {
            ColumnDecoder::Compressed { prefix: length_prefix() }
        }
        (stored::BLOB_COMPRESSED, ColumnKind::Text | ColumnKind::Blob) => {
            ColumnDecoder::Compressed { prefix: blob_prefix()? }
        }
        (249..=stored::BLOB, ColumnKind::Text | ColumnKind::Blob)
        | (stored::VECTOR, ColumnKind::Vector { .. })
        | (stored::GEOMETRY, ColumnKind::Geometry) => ColumnDecoder::Bytes { prefix: blob_prefix()? },
        (stored::JSON, ColumnKind::Json) => ColumnDecoder::Json { prefix: blob_prefix()? },
        _ => return None,
    })
}

/// CHAR, BINARY, ENUM and SET, and MariaDB's types of a fixed number of bytes.
fn string_decoder(stored: &Stored, column: &Column) -> Option<ColumnDecoder> {
    let (code, length) = stored.string();
    let prefix = if length > 255 { 2 } else { 1 };
    // ENUM and SET aren't lengthened this way: their second byte is the width of the number.
    let width = usize::from(stored.second);
    match (code, &column.kind) {
        (stored::STRING, ColumnKind::Text) => Some(ColumnDecoder::Bytes { prefix }),
        (stored::STRING, ColumnKind::Binary { length: expected }) if u32::from(length) == *expected => {
            Some(ColumnDecoder::Padded { prefix, length: usize::from(length) })
        }
        (stored::STRING, ColumnKind::Uuid) if length == 16 => Some(ColumnDecoder::Uuid),
        (stored::STRING, ColumnKind::Inet4) if length == 4 => Some(ColumnDecoder::Inet4),
        (stored::STRING, ColumnKind::Inet6) if length == 16 => Some(ColumnDecoder::Inet6),
        (stored::ENUM, ColumnKind::Enum { members }) if width == if *members > 255 { 2 } else { 1 } => {
            Some(ColumnDecoder::Unsigned { bytes: width })
        }
        (stored::SET, ColumnKind::Set { members }) if width == set_bytes(*members) => {
            Some(ColumnDecoder::Unsigned { bytes: width })
        }
        _ => None,
    }
}

/// A SET takes 1, 2, 3, 4 or 8 bytes.
fn set_bytes(members: u8) -> usize {
    match members.div_ceil(8) {
        bytes @ 0..=4 => usize::from(bytes),
        _ => 8,
    }
}

fn integer_bytes(code: u8) -> Option<u8> {
    match code {
        stored::TINY => Some(1),
        stored::SHORT => Some(2),
        stored::INT24 => Some(3),
        stored::LONG => Some(4),
        stored::LONGLONG => Some(8),
        _ => None,
    }
}
