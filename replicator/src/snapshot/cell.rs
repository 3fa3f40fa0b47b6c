//! How a column is asked for so that nothing of it is lost in the text protocol, and what the answer means.

use bytes::Bytes;
use config::names::quote_identifier;
use mysql_async::Row;

use crate::error::{Error, Result};
use crate::json;
use crate::schema::table::{Column, ColumnKind};
use crate::value::Value;

/// The expression that reads `column` exactly in a session of [`crate::server::connect`].
///
/// FLOAT and DOUBLE print six digits, or as many as their definition says, unless a double is computed of them
/// (times one, since plus zero would lose the sign of a negative zero). ENUM, SET and BIT travel as the numbers
/// they are: their texts can be ambiguous. Cast, since `+ 0` takes a SET through a double of 53 bits.
#[must_use]
pub fn select_expression(column: &Column) -> String {
    let name = quote_identifier(&column.name);
    match column.kind {
        ColumnKind::Float | ColumnKind::Double => format!("{name} * 1e0"),
        ColumnKind::Bit { .. } | ColumnKind::Enum { .. } | ColumnKind::Set { .. } => {
            format!("CAST({name} AS UNSIGNED)")
        }
        ColumnKind::Json => json::select_expression(&column.name),
        _ => name,
    }
}

/// What the server answered for [`select_expression`] of `column`, as a value.
pub fn value_of_cell(column: &Column, cell: Option<&[u8]>) -> Result<Value> {
    let Some(cell) = cell else { return Ok(Value::Null) };
    let wrong = || {
        let place = format!("column {} ({})", column.name, column.column_type);
        Error::definite(None, place, "the server's answer isn't a value of this type")
    };
    let text = || std::str::from_utf8(cell).map_err(|_| wrong());
    Ok(match &column.kind {
        ColumnKind::Integer { unsigned: false, .. } => Value::Int(text()?.parse().map_err(|_| wrong())?),
        ColumnKind::Integer { unsigned: true, .. }
        | ColumnKind::Year
        | ColumnKind::Enum { .. }
        | ColumnKind::Set { .. } => Value::UInt(text()?.parse().map_err(|_| wrong())?),
        ColumnKind::Float => Value::Float(text()?.parse::<f64>().map_err(|_| wrong())? as f32),
        ColumnKind::Double => Value::Double(text()?.parse().map_err(|_| wrong())?),
        ColumnKind::Decimal { .. }
        | ColumnKind::Date
        | ColumnKind::Time { .. }
        | ColumnKind::Datetime { .. }
        | ColumnKind::Timestamp { .. }
        | ColumnKind::Uuid
        | ColumnKind::Inet4
        | ColumnKind::Inet6 => Value::Text(text()?.to_owned()),
        ColumnKind::Json => {
            let place = || format!("column {} ({})", column.name, column.column_type);
            Value::Text(json::read(text()?).map_err(|why| Error::definite(None, place(), why))?)
        }
        ColumnKind::Bit { bits } => {
            let number: u64 = text()?.parse().map_err(|_| wrong())?;
            let bytes = number.to_be_bytes();
            let width = usize::from(*bits).div_ceil(8).clamp(1, bytes.len());
            Value::Bytes(Bytes::copy_from_slice(bytes.get(bytes.len() - width..).unwrap_or(&bytes)))
        }
        ColumnKind::Text
        | ColumnKind::Binary { .. }
        | ColumnKind::Blob
        | ColumnKind::Geometry
        | ColumnKind::Vector { .. } => Value::Bytes(Bytes::copy_from_slice(cell)),
        ColumnKind::Unknown => return Err(wrong()),
    })
}

/// The bytes of a cell of a text-protocol row; `None` for NULL.
#[must_use]
pub fn cell_of(row: &Row, index: usize) -> Option<&[u8]> {
    match row.as_ref(index) {
        Some(mysql_async::Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}
