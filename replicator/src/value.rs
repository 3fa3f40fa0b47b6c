//! One column value of one row, exact: nothing a type of the server can hold is lost in it.

use bytes::Bytes;

/// A column value. Which variant a column has is decided by its [`crate::schema::table::ColumnKind`] alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// Not in the image that the source logged: a column that an update left as it was, one that an insert gave its
    /// default, one that isn't needed to find the row (`binlog_row_image`). Never of a row key's column.
    Absent,
    /// Signed integers of every width.
    Int(i64),
    /// Unsigned integers of every width, YEAR (0, 1901 to 2155), the index of an ENUM (0: the empty error
    /// value), the bits of a SET.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL (`-12.3400`), DATE (`2024-01-02`), TIME, DATETIME and TIMESTAMP (in UTC), with exactly the
    /// fractional digits of the column; UUID, INET4 and INET6 as MariaDB prints them; MySQL's JSON as text,
    /// in which some types are marked ([`crate::json`]). ASCII but for JSON.
    Text(String),
    /// CHAR, VARCHAR, TEXT in the column's own charset; BINARY (padded to its length), VARBINARY, BLOB; BIT,
    /// big-endian; GEOMETRY as stored (SRID and WKB); VECTOR as stored (four bytes a number).
    Bytes(Bytes),
}

impl Value {
    /// True where both are the same bytes. `==` isn't enough: 0.0 equals -0.0.
    pub(crate) fn is_identical(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }
}
