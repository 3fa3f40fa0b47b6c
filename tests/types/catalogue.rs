//! Every column type with the values at its edges, as the expressions that make them.

use crate::support::Engine;

/// How a value is looked at, by the server itself.
#[derive(Debug, Clone, Copy)]
pub enum Look {
    /// Bytes: HEX and LENGTH.
    Bytes,
    /// What the server prints.
    Printed,
    /// FLOAT and DOUBLE print rounded: as the double that they are.
    Float,
    /// BIT, ENUM and SET: the number as well.
    Number,
    /// MySQL's JSON: text, and the type of every value in it.
    Json,
    /// GEOMETRY: its bytes, SRID and text.
    Geometry,
    /// As printed, and the columns `g`, `h` and `i` beside it.
    Beside,
}

/// One column type.
#[derive(Debug, Clone)]
pub struct Case {
    /// Part of its tables' names.
    pub name: String,
    /// Its column, named `v`, and what stands beside it.
    pub columns: String,
    /// Expressions for `v`.
    pub values: Vec<String>,
    /// How it is looked at.
    pub look: Look,
    /// True where it may be a whole primary key.
    pub key: bool,
}

impl Look {
    /// The expressions that show `v`.
    pub fn expressions(self) -> Vec<String> {
        const TYPES: &str = "(SELECT GROUP_CONCAT(JSON_TYPE(j) ORDER BY o) FROM JSON_TABLE(JSON_EXTRACT(JSON_ARRAY(v), \
            '$**[*]', '$**.*'), '$[*]' COLUMNS (o FOR ORDINALITY, j JSON PATH '$')) parts)";
        let list: &[&str] = match self {
            Look::Bytes => &["HEX(v)", "LENGTH(v)"],
            Look::Printed => &["CAST(v AS CHAR)"],
            Look::Float => &["v * 1e0"],
            Look::Number => &["CAST(v AS UNSIGNED)", "HEX(v)"],
            Look::Json => &["CAST(v AS CHAR)", TYPES],
            Look::Geometry => &["HEX(v)", "ST_SRID(v)", "ST_AsText(v)"],
            Look::Beside => &["CAST(v AS CHAR)", "CAST(g AS CHAR)", "CAST(h AS CHAR)", "CAST(i AS CHAR)"],
        };
        list.iter().map(|expression| (*expression).to_owned()).collect()
    }
}

fn case(name: &str, definition: &str, look: Look, key: bool, values: &[&str]) -> Case {
    Case {
        name: name.to_owned(),
        columns: format!("v {definition}"),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        look,
        key,
    }
}

/// Every case of an engine.
pub fn cases(engine: Engine) -> Vec<Case> {
    let mut all = [integers(), numbers(), times(engine), texts(), bytes(), lists(), geometries()].concat();
    all.extend(match engine {
        Engine::MariaDb => [mariadb(), mariadb_addresses()].concat(),
        _ => [mysql(), mysql_json()].concat(),
    });
    all
}

fn integers() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, bits) in [("tinyint", 8_u32), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)]
    {
        let (low, high) = (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
        let signed: Vec<String> = [low, -1, 0, 1, high].iter().map(ToString::to_string).collect();
        let unsigned: Vec<String> =
            [0, 1, high, high + 1, 2 * high + 1].iter().map(ToString::to_string).collect();
        let texts = |values: &[String]| values.to_vec();
        let made = |name: String, definition: String, values: Vec<String>| Case {
            name,
            columns: format!("v {definition}"),
            values,
            look: Look::Printed,
            key: true,
        };
        all.push(made(name.to_owned(), name.to_owned(), texts(&signed)));
        all.push(made(format!("{name}_u"), format!("{name} unsigned"), texts(&unsigned)));
    }
    all.push(case("zerofill", "int(8) zerofill", Look::Printed, true, &["0", "7", "4294967295"]));
    all
}

fn numbers() -> Vec<Case> {
    vec![
        case(
            "decimal_65_30",
            "decimal(65,30)",
            Look::Printed,
            true,
            &[
                "99999999999999999999999999999999999.999999999999999999999999999999",
                "-99999999999999999999999999999999999.999999999999999999999999999999",
                "0.000000000000000000000000000001",
                "-0.000000000000000000000000000001",
                "0",
                "12345678901234567890.5",
            ],
        ),
        case("decimal_10", "decimal(10,0)", Look::Printed, true, &["9999999999", "-9999999999", "0", "5"]),
        case("decimal_1_1", "decimal(1,1)", Look::Printed, true, &["0.9", "-0.9", "0.0"]),
        case("decimal_u", "decimal(20,9) unsigned", Look::Printed, true, &["0", "99999999999.999999999"]),
        case(
            "float",
            "float",
            Look::Float,
            false,
            &[
                "1.1",
                "-1.1",
                "0",
                "-0e0",
                "3.4028234e38",
                "-3.4028234e38",
                "1.17549435e-38",
                "1.4e-45",
                "0.1",
                "16777217",
                "1/3",
                "123456.789",
            ],
        ),
        case("float_7_3", "float(7,3)", Look::Float, false, &["1234.567", "-0.001", "0"]),
        case(
            "double_",
            "double",
            Look::Float,
            false,
            &[
                "1.1",
                "-0e0",
                "1.7976931348623157e308",
                "-1.7976931348623157e308",
                "2.2250738585072014e-308",
                "0.30000000000000004e0",
                "1e0/3",
                "9007199254740993e0",
                "123456789.123456789e0",
            ],
        ),
        case("bit_1", "bit(1)", Look::Number, true, &["b'0'", "b'1'"]),
        case("bit_12", "bit(12)", Look::Number, true, &["0", "4095", "39", "10012"]),
        case(
            "bit_64",
            "bit(64)",
            Look::Number,
            true,
            &["0", "18446744073709551615", "9223372036854775808", "92"],
        ),
        case("year_", "year", Look::Printed, true, &["0", "1901", "2155", "2024"]),
    ]
}

fn times(engine: Engine) -> Vec<Case> {
    let dates =
        ["'0000-00-00'", "'0001-01-01'", "'1000-01-01'", "'9999-12-31'", "'2024-02-30'", "'2024-00-00'"];
    let mut all = vec![
        case("date_", "date", Look::Printed, true, &dates),
        case(
            "time_",
            "time",
            Look::Printed,
            true,
            &["'838:59:59'", "'-838:59:59'", "'00:00:00'", "'-00:00:01'"],
        ),
        case(
            "time_6",
            "time(6)",
            Look::Printed,
            true,
            &[
                if engine == Engine::MariaDb { "'838:59:59.999999'" } else { "'838:59:59'" },
                if engine == Engine::MariaDb { "'-838:59:59.999999'" } else { "'-838:59:58.999999'" },
                "'-00:00:00.000001'",
                "'00:00:00.000001'",
                "'-12:13:14.5'",
                "0",
            ],
        ),
    ];
    for digits in [0, 1, 3, 6] {
        let name = format!("datetime_{digits}");
        let values = [
            "'0000-00-00 00:00:00'",
            "'0001-01-01 00:00:00'",
            "'9999-12-31 23:59:59'",
            "'2024-02-31 12:00:00'",
            "'2001-02-03 04:05:06.123456'",
        ];
        all.push(case(&name, &format!("datetime({digits})"), Look::Printed, true, &values));
        // Both sides of the two changes of the clock in Europe, and the ends of what it can hold, in UTC.
        let name = format!("timestamp_{digits}");
        let values = [
            "'0000-00-00 00:00:00'",
            "'1970-01-01 00:00:01'",
            "'2038-01-19 03:14:07'",
            "'2024-03-31 00:59:59'",
            "'2024-03-31 01:00:00'",
            "'2024-10-27 00:30:00'",
            "'2024-10-27 01:30:00'",
            "'2001-02-03 04:05:06.123456'",
        ];
        let definition = format!("timestamp({digits}) NOT NULL DEFAULT '2000-01-01 00:00:00'");
        all.push(case(&name, &definition, Look::Printed, true, &values));
    }
    let changing = "timestamp(6) NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), \
                    g DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, h INT, i INT";
    all.push(case("touched", changing, Look::Beside, false, &["'2001-02-03 04:05:06.000007'", "NULL"]));
    all
}

/// Texts whose bytes mean something in SQL, or in a file of LOAD DATA; and more of them.
fn with(more: &[&'static str]) -> Vec<&'static str> {
    let plain =
        ["''", "' '", "'a'", "'b  '", "'it''s'", "'back\\\\slash\\\\N'", "'tab\\tline\\nzero\\0end\\Z'"];
    plain.iter().chain(more).copied().collect()
}

fn texts() -> Vec<Case> {
    let mut all = [single_byte_texts(), unicode_texts(), asian_texts(), sized_texts()].concat();
    // Without NULL an empty text would never meet one.
    for case in &mut all {
        case.values.push("NULL".to_owned());
    }
    all
}

fn single_byte_texts() -> Vec<Case> {
    vec![
        case(
            "char_latin1",
            "char(30) character set latin1",
            Look::Bytes,
            false,
            &with(&["_latin1 x'e9fcff80'"]),
        ),
        case(
            "varchar_latin1",
            "varchar(300) character set latin1 collate latin1_bin",
            Look::Bytes,
            true,
            &with(&[
                "_latin1 x'e9fcff80'",
                "_latin1 x'c3a9'",
                "CONVERT(_latin1 x'0001090a0d1a22275c5f6025ff' USING latin1)",
            ]),
        ),
        case(
            "varchar_koi8r",
            "varchar(100) character set koi8r",
            Look::Bytes,
            false,
            &with(&["_koi8r x'c1d2'"]),
        ),
        case("varchar_ascii", "varchar(100) character set ascii", Look::Bytes, false, &with(&[])),
    ]
}

fn unicode_texts() -> Vec<Case> {
    vec![
        case("char_utf8mb4", "char(30) character set utf8mb4", Look::Bytes, false, &with(&["'é黄🎬'"])),
        case(
            "varchar_utf8mb4",
            "varchar(100) character set utf8mb4 collate utf8mb4_bin",
            Look::Bytes,
            true,
            &with(&["'é黄🎬'", "'\u{feff}bom'", "REPEAT('🎬', 100)"]),
        ),
        case(
            "varchar_utf8mb3",
            "varchar(100) character set utf8mb3",
            Look::Bytes,
            false,
            &with(&["'é黄'", "REPEAT('黄', 100)"]),
        ),
        case(
            "varchar_ucs2",
            "varchar(100) character set ucs2 collate ucs2_bin",
            Look::Bytes,
            true,
            &with(&["'é黄'", "_ucs2 x'5c0027005c5c2727'"]),
        ),
        case("varchar_utf16", "varchar(100) character set utf16", Look::Bytes, false, &with(&["'é黄🎬'"])),
        case("varchar_utf32", "varchar(100) character set utf32", Look::Bytes, false, &with(&["'é黄🎬'"])),
    ]
}

fn asian_texts() -> Vec<Case> {
    vec![
        case(
            "varchar_gbk",
            "varchar(100) character set gbk collate gbk_bin",
            Look::Bytes,
            true,
            &with(&["_gbk x'815c'", "_gbk x'd6d0815c27'", "'中文'"]),
        ),
        case(
            "varchar_sjis",
            "varchar(100) character set sjis",
            Look::Bytes,
            false,
            &with(&["_sjis x'955c'", "_sjis x'835c5c27'"]),
        ),
        case(
            "varchar_cp932",
            "varchar(100) character set cp932",
            Look::Bytes,
            false,
            &with(&["_cp932 x'955c8260'"]),
        ),
        case(
            "varchar_big5",
            "varchar(100) character set big5",
            Look::Bytes,
            false,
            &with(&["_big5 x'a55ca55c'"]),
        ),
        case(
            "varchar_eucjpms",
            "varchar(100) character set eucjpms",
            Look::Bytes,
            false,
            &with(&["_eucjpms x'8fa2b7a4a2'"]),
        ),
    ]
}

fn sized_texts() -> Vec<Case> {
    vec![
        case("tinytext_", "tinytext character set utf8mb4", Look::Bytes, false, &with(&["REPEAT('é', 127)"])),
        case(
            "text_latin1",
            "text character set latin1",
            Look::Bytes,
            false,
            &with(&["REPEAT(_latin1 x'e9', 65535)"]),
        ),
        case(
            "mediumtext_",
            "mediumtext character set utf8mb4",
            Look::Bytes,
            false,
            &with(&["REPEAT('🎬', 70000)"]),
        ),
        case(
            "longtext_",
            "longtext character set gbk",
            Look::Bytes,
            false,
            &with(&["REPEAT(_gbk x'815c', 1000)"]),
        ),
        case("varchar_0", "varchar(0)", Look::Bytes, false, &["''"]),
    ]
}

fn bytes() -> Vec<Case> {
    let short = ["''", "x'00'", "x'2020'", "x'61620000'", "x'00000000'", "x'5c4e'", "x'ff270a09'"];
    vec![
        case("binary_4", "binary(4)", Look::Bytes, true, &short),
        case(
            "binary_255",
            "binary(255)",
            Look::Bytes,
            true,
            &["''", "x'610000'", "REPEAT(x'ff', 255)", "REPEAT(x'20', 255)"],
        ),
        case("varbinary_10", "varbinary(10)", Look::Bytes, true, &short),
        case(
            "varbinary_600",
            "varbinary(600)",
            Look::Bytes,
            true,
            &["''", "REPEAT(x'00', 600)", "REPEAT(x'5c27', 300)"],
        ),
        case("tinyblob_", "tinyblob", Look::Bytes, false, &["''", "NULL", "REPEAT(x'00', 255)"]),
        case(
            "blob_",
            "blob",
            Look::Bytes,
            false,
            &["''", "NULL", "x'0a090d5c275c4e00'", "REPEAT(x'275c', 30000)"],
        ),
        case("mediumblob_", "mediumblob", Look::Bytes, false, &["''", "NULL", "REPEAT(x'001aff', 100000)"]),
        case("longblob_", "longblob", Look::Bytes, false, &["''", "NULL", "REPEAT(x'001aff', 900000)"]),
    ]
}

fn lists() -> Vec<Case> {
    let many: Vec<String> = (0..300).map(|n| format!("'m{n}'")).collect();
    let sixty_four: Vec<String> = (0..64).map(|n| format!("'s{n}'")).collect();
    vec![
        case(
            "enum_",
            "enum('a','b','','ü','it''s, (all)')",
            Look::Number,
            true,
            &["'a'", "''", "'ü'", "5", "'not one of them'"],
        ),
        case(
            "enum_300",
            &format!("enum({})", many.join(",")),
            Look::Number,
            true,
            &["1", "256", "300", "'wrong'"],
        ),
        case("set_", "set('a','b','ü')", Look::Number, true, &["''", "'a,ü'", "7", "'wrong,b'"]),
        case(
            "set_64",
            &format!("set({})", sixty_four.join(",")),
            Look::Number,
            true,
            &["0", "18446744073709551615", "9223372036854775809", "4"],
        ),
    ]
}

fn geometries() -> Vec<Case> {
    let shapes = [
        ("point", "POINT(1.1 -2)"),
        ("linestring", "LINESTRING(0 0,1 1,2 0.3)"),
        ("polygon", "POLYGON((0 0,0 9,9 9,9 0,0 0),(1 1,1 2,2 2,1 1))"),
        ("multipoint", "MULTIPOINT(0 0,1 1)"),
        ("multilinestring", "MULTILINESTRING((0 0,1 1),(2 2,3 3))"),
        ("multipolygon", "MULTIPOLYGON(((0 0,0 1,1 1,0 0)))"),
        ("geometrycollection", "GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))"),
        ("geometry", "POINT(-1e-300 1e300)"),
    ];
    let made = shapes.iter().map(|(name, text)| {
        let plain = format!("ST_GeomFromText('{text}')");
        // Within the degrees of 4326, whichever axis comes first.
        let placed = if *name == "geometry" { "POINT(10 20)" } else { text };
        let placed = format!("ST_GeomFromText('{placed}', 4326)");
        case(&format!("{name}_"), name, Look::Geometry, false, &[&plain, &placed, "NULL"])
    });
    made.collect()
}

fn mariadb() -> Vec<Case> {
    let beside = "int, g int AS (v * 2) PERSISTENT, h varchar(20) AS (CONCAT('x', v)) VIRTUAL, i int INVISIBLE DEFAULT 7";
    vec![
        case(
            "varchar_compressed",
            "varchar(500) compressed character set latin1",
            Look::Bytes,
            false,
            &["''", "NULL", "'short'", "REPEAT('abc', 160)", "REPEAT(_latin1 x'e9', 500)"],
        ),
        case(
            "blob_compressed",
            "longblob compressed",
            Look::Bytes,
            false,
            &["''", "NULL", "x'00'", "REPEAT('abc', 40000)", "REPEAT(x'001a5c27', 90000)"],
        ),
        case(
            "text_compressed",
            "text compressed character set ucs2",
            Look::Bytes,
            false,
            &["''", "NULL", "'é'", "REPEAT('é', 3000)"],
        ),
        case(
            "json_text",
            "json",
            Look::Bytes,
            false,
            &[
                "'{\"b\": 1,  \"a\" :2, \"a\": 3}'",
                "'[1.50, 12345678901234567890123, 1e5]'",
                "'\"é🎬\"'",
                "NULL",
                "' null '",
            ],
        ),
        case("beside", beside, Look::Beside, false, &["0", "-5", "NULL"]),
        case(
            "varchar_lax_key",
            "varchar(40) character set utf8mb4 collate utf8mb4_unicode_ci",
            Look::Bytes,
            true,
            &["'straße'", "'Zoë  '", "'zebra'", "''"],
        ),
    ]
}

fn mariadb_addresses() -> Vec<Case> {
    vec![
        case(
            "uuid_",
            "uuid",
            Look::Printed,
            true,
            &[
                "'123e4567-e89b-12d3-a456-426655440000'",
                "'00000000-0000-0000-0000-000000000000'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'017f22e2-79b0-7cc3-98c4-dc0c0c07398f'",
                "'f7e4c567-e89b-52d3-0456-426655440000'",
                "'5c5c5c5c-2727-0000-0000-000000000000'",
            ],
        ),
        case(
            "inet6_",
            "inet6",
            Look::Printed,
            true,
            &[
                "'::'",
                "'::1'",
                "'2001:db8::'",
                "'::ffff:1.2.3.4'",
                "'::1.2.3.4'",
                "'1:0:2:3:4:5:6:7'",
                "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'",
                "'5c5c:2727::5c27'",
            ],
        ),
        case(
            "inet4_",
            "inet4",
            Look::Printed,
            true,
            &["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'", "'92.39.92.39'"],
        ),
    ]
}

fn mysql() -> Vec<Case> {
    let beside =
        "int, g int AS (v * 2) STORED, h varchar(20) AS (CONCAT('x', v)) VIRTUAL, i int DEFAULT 7 INVISIBLE";
    vec![
        case(
            "vector_",
            "vector(3)",
            Look::Bytes,
            false,
            &["TO_VECTOR('[1,2,-0]')", "x'01000000'", "x'5c270a09'", "NULL"],
        ),
        case(
            "geometry_4326",
            "point SRID 4326",
            Look::Geometry,
            false,
            &["ST_GeomFromText('POINT(10 20)', 4326)", "NULL"],
        ),
        case(
            "varchar_gb18030",
            "varchar(100) character set gb18030",
            Look::Bytes,
            false,
            &["_gb18030 x'815c'", "'中文🎬'", "NULL"],
        ),
        case(
            "varchar_lax_key",
            "varchar(40) character set utf8mb4 collate utf8mb4_0900_ai_ci",
            Look::Bytes,
            true,
            &["'straße'", "'Zoë  '", "'zebra'", "''"],
        ),
        case("beside", beside, Look::Beside, false, &["0", "-5", "NULL"]),
    ]
}

fn mysql_json() -> Vec<Case> {
    let deep = format!("'{}1.5{}'", "[".repeat(90), "]".repeat(90));
    vec![
        case(
            "json_",
            "json",
            Look::Json,
            false,
            &[
                "NULL",
                "'null'",
                "'true'",
                "'{}'",
                "'[]'",
                "'\"\"'",
                "'[18446744073709551615, -9223372036854775808, 9223372036854775808, 0, -0.0, 1e308, 5e-324, 0.1, 1.0, 3.0e2]'",
                "'{\"b\": 1, \"a\": {\"ü\": [\"🎬\", \"tab\\\\tquote\\\\\"\", {\"\": null}]}}'",
                deep.as_str(),
            ],
        ),
        case(
            "json_typed",
            "json",
            Look::Json,
            false,
            &[
                "JSON_ARRAY(1.50, CAST(5 AS DECIMAL(10,0)), -0.000, 99999999999999999999999999999999999.000000000000000000000000000001)",
                "JSON_OBJECT('d', CAST('2024-01-02' AS DATE), 't', CAST('-12:13:14.5' AS TIME(6)), 'dt', CAST('2024-01-02 03:04:05.123456' AS DATETIME(6)))",
                "JSON_OBJECT('a', JSON_OBJECT('quo\"ted', 1.5, 'back\\\\slash', CAST('0000-00-00' AS DATE), '', 2.50), 'z', JSON_ARRAY(1, JSON_ARRAY(1.0, 1.0e0)))",
                "JSON_ARRAY(x'00ff275c', x'', REPEAT(x'01', 300))",
                "CAST(1.50 AS JSON)",
                "JSON_ARRAY('2024-01-02', 'base64:type15:AP8=', 1.5e0)",
                "(SELECT JSON_ARRAY(b, 1.50) FROM JSON_TABLE(JSON_ARRAY(x'00ff'), '$[*]' COLUMNS (b BLOB PATH '$')) made)",
                "(SELECT JSON_OBJECT('k', b) FROM JSON_TABLE(JSON_ARRAY(x'00ff'), '$[*]' COLUMNS (b BINARY(2) PATH '$')) made)",
                "(SELECT JSON_OBJECT('k', b) FROM JSON_TABLE('[2748]', '$[*]' COLUMNS (b BIT(12) PATH '$')) made)",
                "(SELECT JSON_ARRAY(s, 'x') FROM JSON_TABLE('[\"2024-01-02 03:04:05.123456\"]', '$[*]' COLUMNS (s TIMESTAMP(6) PATH '$')) made)",
                "JSON_ARRAY(IF(TRUE, x'00ff', CAST('' AS BINARY(70000))), IF(TRUE, x'00ff', CAST('' AS BINARY(16777217))))",
            ],
        ),
    ]
}
