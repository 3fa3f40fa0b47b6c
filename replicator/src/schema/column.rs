//! From COLUMN_TYPE to [`ColumnKind`].

use super::table::ColumnKind;

/// Reads a column's type as information_schema.COLUMNS prints it (`int(10) unsigned`, `enum('a','b')`).
/// What isn't known becomes [`ColumnKind::Unknown`], which preflight refuses (invariant 5).
pub(super) fn kind(column_type: &str) -> ColumnKind {
    // How MariaDB stores a column is a matter of its own; what it holds isn't changed by it.
    let attribute = column_type.strip_suffix("*/").and_then(|text| text.rsplit_once(" /*"));
    let column_type = attribute.map_or(column_type, |(bare, _)| bare);
    let (name, arguments, rest) = split(column_type);
    let unsigned = rest.to_ascii_lowercase().contains("unsigned");
    let integer = |bytes| ColumnKind::Integer { bytes, unsigned };
    let fraction = || number(arguments).filter(|f| *f <= 6).unwrap_or(0);
    match name.to_ascii_lowercase().as_str() {
        "tinyint" => integer(1),
        "smallint" => integer(2),
        "mediumint" => integer(3),
        "int" => integer(4),
        "bigint" => integer(8),
        "decimal" => decimal(arguments),
        "float" => ColumnKind::Float,
        "double" => ColumnKind::Double,
        "bit" => number(arguments).map_or(ColumnKind::Unknown, |bits| ColumnKind::Bit { bits }),
        "year" => ColumnKind::Year,
        "date" => ColumnKind::Date,
        "time" => ColumnKind::Time { fraction: fraction() },
        "datetime" => ColumnKind::Datetime { fraction: fraction() },
        "timestamp" => ColumnKind::Timestamp { fraction: fraction() },
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => ColumnKind::Text,
        "binary" => number(arguments).map_or(ColumnKind::Unknown, |length| ColumnKind::Binary { length }),
        "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => ColumnKind::Blob,
        "enum" => members(arguments)
            .and_then(|n| u16::try_from(n).ok())
            .map_or(ColumnKind::Unknown, |members| ColumnKind::Enum { members }),
        "set" => members(arguments)
            .and_then(|n| u8::try_from(n).ok())
            .map_or(ColumnKind::Unknown, |members| ColumnKind::Set { members }),
        "json" => ColumnKind::Json,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => ColumnKind::Geometry,
        "vector" => {
            number(arguments).map_or(ColumnKind::Unknown, |dimensions| ColumnKind::Vector { dimensions })
        }
        "uuid" => ColumnKind::Uuid,
        "inet4" => ColumnKind::Inet4,
        "inet6" => ColumnKind::Inet6,
        _ => ColumnKind::Unknown,
    }
}

/// `name(arguments) rest`; the arguments end at the last parenthesis, since members may hold some.
fn split(column_type: &str) -> (&str, &str, &str) {
    let name_end = column_type.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let (name, tail) = column_type.split_at(name_end.unwrap_or(column_type.len()));
    match (tail.strip_prefix('('), tail.rfind(')')) {
        (Some(inner), Some(close)) => {
            (name, inner.get(..close - 1).unwrap_or_default(), tail.get(close + 1..).unwrap_or_default())
        }
        _ => (name, "", tail),
    }
}

fn number<T: std::str::FromStr>(arguments: &str) -> Option<T> {
    arguments.trim().parse().ok()
}

fn decimal(arguments: &str) -> ColumnKind {
    let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
    match (number(precision), number(scale)) {
        (Some(precision), Some(scale)) => ColumnKind::Decimal { precision, scale },
        _ => ColumnKind::Unknown,
    }
}

/// Counts `'a','it''s'`. `None` where it isn't such a list.
fn members(arguments: &str) -> Option<usize> {
    let mut count = 0;
    let mut rest = arguments;
    loop {
        rest = rest.strip_prefix('\'')?;
        loop {
            let quote = rest.find('\'')?;
            rest = rest.get(quote + 1..)?;
            match rest.strip_prefix('\'') {
                Some(doubled) => rest = doubled,
                None => break,
            }
        }
        count += 1;
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return rest.is_empty().then_some(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_types_are_read() {
        let check = |text: &str, expected: ColumnKind| assert_eq!(kind(text), expected, "{text}");
        check("int(11)", ColumnKind::Integer { bytes: 4, unsigned: false });
        check("int", ColumnKind::Integer { bytes: 4, unsigned: false });
        check("bigint(20) unsigned zerofill", ColumnKind::Integer { bytes: 8, unsigned: true });
        check("mediumint unsigned", ColumnKind::Integer { bytes: 3, unsigned: true });
        check("decimal(20,5) unsigned", ColumnKind::Decimal { precision: 20, scale: 5 });
        check("float(7,3)", ColumnKind::Float);
        check("double", ColumnKind::Double);
        check("bit(12)", ColumnKind::Bit { bits: 12 });
        check("year(4)", ColumnKind::Year);
        check("year", ColumnKind::Year);
        check("timestamp(3)", ColumnKind::Timestamp { fraction: 3 });
        check("datetime", ColumnKind::Datetime { fraction: 0 });
        check("time(6)", ColumnKind::Time { fraction: 6 });
        check("varchar(30)", ColumnKind::Text);
        check("binary(16)", ColumnKind::Binary { length: 16 });
        check("varbinary(255)", ColumnKind::Blob);
        check("enum('a','b','it''s,)')", ColumnKind::Enum { members: 3 });
        check("set('x','y')", ColumnKind::Set { members: 2 });
        check("enum('')", ColumnKind::Enum { members: 1 });
        check("enum('''','a')", ColumnKind::Enum { members: 2 });
        check("json", ColumnKind::Json);
        check("point", ColumnKind::Geometry);
        check("uuid", ColumnKind::Uuid);
        check("inet6", ColumnKind::Inet6);
        check("inet4", ColumnKind::Inet4);
        check("vector(3)", ColumnKind::Vector { dimensions: 3 });
        check("varchar(10) /*M!100301 COMPRESSED*/", ColumnKind::Text);
        check("longblob /*M!100301 COMPRESSED*/", ColumnKind::Blob);
        check("enum('a /*b*/','c')", ColumnKind::Enum { members: 2 });
        check("xmltype", ColumnKind::Unknown);
        check("", ColumnKind::Unknown);
        check("enum('a", ColumnKind::Unknown);
        check("int)", ColumnKind::Integer { bytes: 4, unsigned: false });
    }
}
