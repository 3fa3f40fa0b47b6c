//! MySQL's JSON documents with the types that JSON text has no room for.
//!
//! A document may hold DECIMALs, dates, times, and bytes, which its text shows as numbers and strings. Here they are
//! *marked*: between two U+0001, which no JSON text holds, stand a letter for the type and the value. A document without
//! any is nothing but its text.
//!
//! `{"price": \u{1}n1.50\u{1}, "at": \u{1}d2024-01-02\u{1}}`

mod edit;

use std::borrow::Cow;
use std::fmt::Write as _;

use config::names::quote_identifier;

pub(crate) use self::edit::{Edit, edited};

/// Begins and ends a marked value.
pub(crate) const MARK: char = '\u{1}';
/// What the server answers for a document that is too large to be read with its types.
const TOO_LARGE: char = '\u{2}';
/// The server allows 100.
const DEPTH_MAX: usize = 128;
/// Types of JSON_TYPE that have to be marked.
const MARKED_TYPES: [&str; 8] = ["DECIMAL", "DATE", "TIME", "DATETIME", "TIMESTAMP", "BLOB", "BIT", "OPAQUE"];

/// Letters of marked values.
pub(crate) mod letter {
    /// DECIMAL.
    pub(crate) const DECIMAL: char = 'n';
    /// DATE.
    pub(crate) const DATE: char = 'd';
    /// TIME.
    pub(crate) const TIME: char = 't';
    /// DATETIME.
    pub(crate) const DATETIME: char = 'm';
    /// TIMESTAMP.
    pub(crate) const TIMESTAMP: char = 's';
    /// Bytes: the number of their type, a colon, base64.
    pub(crate) const BYTES: char = 'b';
}

/// True for a type of bytes in a document that can be made on another server.
pub(crate) fn carries_bytes_of(field_type: u8) -> bool {
    matches!(field_type, 15 | 16 | 250..=252 | 254)
}

/// The text of a document as the server prints it, without marks.
pub(crate) fn plain(marked: &str) -> Cow<'_, str> {
    if !marked.contains(MARK) {
        return Cow::Borrowed(marked);
    }
    let mut out = String::with_capacity(marked.len());
    for (index, part) in marked.split(MARK).enumerate() {
        let mut characters = part.chars();
        match (index % 2, characters.next()) {
            (0, _) => out.push_str(part),
            (_, Some(letter::DECIMAL)) => out.push_str(characters.as_str()),
            (_, Some(letter::BYTES)) => {
                let _ = write!(out, "\"base64:type{}\"", characters.as_str());
            }
            _ => {
                let _ = write!(out, "\"{}\"", characters.as_str());
            }
        }
    }
    Cow::Owned(out)
}

/// The expression that reads a JSON column so that [`read`] can mark it, in a session of `server::connect`: NULL, or the
/// document's text, or its marked values' places and types in front of that.
///
/// The places number every value of the document: first what is in an array, then what is in an object, each in the
/// order of the text, with the document itself as the only value of an array around it.
pub(crate) fn select_expression(column: &str) -> String {
    // Inside the subquery these names come before the table's own.
    const PLACE: &str = "`changeover place`";
    const PART: &str = "`changeover part`";
    let name = quote_identifier(column);
    let text = format!("CAST({name} AS CHAR CHARACTER SET utf8mb4)");
    let types: Vec<String> = MARKED_TYPES.iter().map(|name| format!("_utf8mb4'{name}'")).collect();
    format!(
        "COALESCE((SELECT COALESCE(CONCAT(x'01',COUNT(*),';',GROUP_CONCAT({PLACE},':',JSON_TYPE({PART})),x'01',{text}),x'02') \
         FROM JSON_TABLE(JSON_EXTRACT(JSON_ARRAY({name}),_utf8mb4'$**[*]',_utf8mb4'$**.*'),_utf8mb4'$[*]' \
         COLUMNS({PLACE} FOR ORDINALITY,{PART} JSON PATH _utf8mb4'$')) typed WHERE JSON_TYPE({PART}) IN ({}) HAVING COUNT(*)>0),{text})",
        types.join(",")
    )
}

/// What the server answered for [`select_expression`], marked. The error says what can't be carried.
pub(crate) fn read(answer: &str) -> Result<String, String> {
    if answer.starts_with(TOO_LARGE) {
        return Err(
            "a document with DECIMALs or dates is too large for this server's max_allowed_packet; raise it"
                .to_owned(),
        );
    }
    let Some(rest) = answer.strip_prefix(MARK) else { return Ok(answer.to_owned()) };
    let odd = || "the server's list of a document's types can't be read".to_owned();
    let (list, text) = rest.split_once(MARK).ok_or_else(odd)?;
    let (count, list) = list.split_once(';').ok_or_else(odd)?;
    let mut places = Vec::new();
    for entry in list.split(',') {
        let (place, name) = entry.split_once(':').ok_or_else(odd)?;
        places.push((place.parse::<usize>().map_err(|_| odd())?, name));
    }
    // A list that was cut off at group_concat_max_len would lose types.
    if count.parse() != Ok(places.len()) {
        return Err(
            "a document holds more DECIMALs or dates than group_concat_max_len allows to list".to_owned()
        );
    }
    let nodes = Parser::parse(text).ok_or_else(odd)?;
    let order = places_of(&nodes);
    let mut marks = Vec::with_capacity(places.len());
    for (place, name) in places {
        let node =
            place.checked_sub(1).and_then(|i| order.get(i)).and_then(|i| nodes.get(*i)).ok_or_else(odd)?;
        let value = text.get(node.start..node.end).ok_or_else(odd)?;
        marks.push((node.start, node.end, marked(name, value)?));
    }
    marks.sort_by_key(|(start, ..)| *start);
    let mut out = String::with_capacity(text.len() + 4 * marks.len());
    let mut at = 0;
    for (start, end, mark) in marks {
        out.push_str(text.get(at..start).ok_or_else(odd)?);
        out.push_str(&mark);
        at = end;
    }
    out.push_str(text.get(at..).ok_or_else(odd)?);
    Ok(out)
}

/// A value with its mark, from its JSON_TYPE and its text.
fn marked(name: &str, text: &str) -> Result<String, String> {
    let odd = || format!("a value of a document isn't the {name} that the server says it is");
    let quoted = || text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or_else(odd);
    let (letter, value) = match name {
        "DECIMAL" => (letter::DECIMAL, text),
        "DATE" => (letter::DATE, quoted()?),
        "TIME" => (letter::TIME, quoted()?),
        "DATETIME" => (letter::DATETIME, quoted()?),
        "TIMESTAMP" => (letter::TIMESTAMP, quoted()?),
        _ => {
            let value = quoted()?.strip_prefix("base64:type").ok_or_else(odd)?;
            let number = value.split_once(':').and_then(|(number, _)| number.parse().ok()).ok_or_else(odd)?;
            if !carries_bytes_of(number) {
                return Err(uncarried(number));
            }
            (letter::BYTES, value)
        }
    };
    Ok(format!("{MARK}{letter}{value}{MARK}"))
}

/// Why a value of such a type can't be moved.
pub(crate) fn uncarried(field_type: u8) -> String {
    format!(
        "a JSON document holds bytes of the type {field_type}, which no expression makes on another server; store them \
         as a string, or exclude the table with exclude_tables"
    )
}

/// The nodes in the order of their places.
fn places_of(nodes: &[Node]) -> Vec<usize> {
    let mut order = vec![0];
    for array in [true, false] {
        for node in nodes.iter().filter(|node| node.array == Some(array)) {
            order.extend(&node.children);
        }
    }
    order
}

/// Appends an expression that makes the document with its types. `text` is marked.
pub(crate) fn write_sql(out: &mut Vec<u8>, text: &str, quote: impl Fn(&mut Vec<u8>, &[u8])) {
    let literal = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(b"_utf8mb4");
        quote(out, text.as_bytes());
    };
    if !text.contains(MARK) {
        return literal(out, text);
    }
    let nodes = Parser::parse(text).unwrap_or_default();
    out.extend_from_slice(b"JSON_SET(CAST(");
    literal(out, &plain(text));
    out.extend_from_slice(b" AS JSON)");
    for (index, node) in nodes.iter().enumerate() {
        let value = text.get(node.start..node.end).unwrap_or_default();
        let Some(value) = value.strip_prefix(MARK).and_then(|value| value.strip_suffix(MARK)) else {
            continue;
        };
        out.push(b',');
        literal(out, &path(text, &nodes, index));
        out.push(b',');
        write_value(out, value, &literal);
    }
    out.push(b')');
}

/// The path of a node: `$."key"[3]`. Keys stand in it as they stand in the text.
fn path(text: &str, nodes: &[Node], mut index: usize) -> String {
    let mut steps = Vec::new();
    while let Some(node) = nodes.get(index)
        && let Some(parent) = node.parent
    {
        steps.push(match node.step {
            Step::Key(start, end) => format!(".{}", text.get(start..end).unwrap_or_default()),
            Step::Cell(number) => format!("[{number}]"),
        });
        index = parent;
    }
    steps.push("$".to_owned());
    steps.reverse();
    steps.concat()
}

fn write_value(out: &mut Vec<u8>, value: &str, literal: &impl Fn(&mut Vec<u8>, &str)) {
    let mut characters = value.chars();
    let letter = characters.next();
    let value = characters.as_str();
    let mut cast = |to: &str| {
        out.extend_from_slice(b"CAST(");
        literal(out, value);
        out.extend_from_slice(format!(" AS {to})").as_bytes());
    };
    match letter {
        Some(letter::DECIMAL) => {
            let digits = value.bytes().filter(u8::is_ascii_digit).count().clamp(1, 65);
            let scale = value.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            cast(&format!("DECIMAL({digits},{scale})"));
        }
        Some(letter::DATE) => cast("DATE"),
        Some(letter::TIME) => cast("TIME(6)"),
        Some(letter::DATETIME) => cast("DATETIME(6)"),
        Some(letter::TIMESTAMP) => {
            out.extend_from_slice(b"(SELECT v FROM JSON_TABLE(");
            literal(out, &format!("[\"{value}\"]"));
            out.extend_from_slice(b",_utf8mb4'$[*]' COLUMNS(v TIMESTAMP(6) PATH _utf8mb4'$')) made)");
        }
        _ => write_bytes(out, value),
    }
}

/// Bytes whose JSON type is that of the column they came from. Each form is one that gives exactly this type.
fn write_bytes(out: &mut Vec<u8>, value: &str) {
    let (number, base64) = value.split_once(':').unwrap_or_default();
    let bytes = bytes_of(base64);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let column = |from: String, kind: String| {
        format!(
            "(SELECT v FROM JSON_TABLE(JSON_ARRAY({from}),_utf8mb4'$[*]' COLUMNS(v {kind} PATH _utf8mb4'$')) made)"
        )
    };
    let sql = match number {
        "16" => {
            let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            column(bits.to_string(), format!("BIT({})", (8 * bytes.len()).clamp(1, 64)))
        }
        // An expression's type follows from how long its value might be.
        "250" => format!("IF(TRUE,x'{hex}',CAST(x'' AS BINARY(70000)))"),
        "251" => format!("IF(TRUE,x'{hex}',CAST(x'' AS BINARY(16777217)))"),
        "252" => column(format!("x'{hex}'"), "BLOB".to_owned()),
        "254" => column(format!("x'{hex}'"), format!("BINARY({})", bytes.len())),
        _ => format!("x'{hex}'"),
    };
    out.extend_from_slice(sql.as_bytes());
}

/// Reads base64 as the server prints it, with its escaped line breaks.
fn bytes_of(base64: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(base64.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for digit in base64.replace("\\n", "").bytes().filter_map(digit) {
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff) as u8);
        }
    }
    bytes
}

/// A value in a document's text.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    start: usize,
    end: usize,
    /// `Some(true)` for an array, `Some(false)` for an object.
    array: Option<bool>,
    children: Vec<usize>,
    parent: Option<usize>,
    step: Step,
}

/// How a value is reached from the one around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Where the key stands in the text, with its quotes.
    Key(usize, usize),
    /// The cell of an array.
    Cell(usize),
}

/// Finds the values of a document, the outer ones before what is in them.
struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl<'a> Parser<'a> {
    /// `None` for what is no document.
    fn parse(text: &'a str) -> Option<Vec<Node>> {
        let mut parser = Self { bytes: text.as_bytes(), at: 0, nodes: Vec::new() };
        parser.value(None, Step::Cell(0), 0)?;
        parser.space();
        (parser.at == parser.bytes.len()).then_some(parser.nodes)
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, parent: Option<usize>, step: Step, depth: usize) -> Option<usize> {
        self.space();
        let (index, start) = (self.nodes.len(), self.at);
        let array = match self.bytes.get(start)? {
            b'[' => Some(true),
            b'{' => Some(false),
            _ => None,
        };
        self.nodes.push(Node { start, end: start, array, children: Vec::new(), parent, step });
        match array {
            Some(array) => self.container(index, array, depth + 1)?,
            None => self.scalar()?,
        }
        self.nodes.get_mut(index)?.end = self.at;
        Some(index)
    }

    fn container(&mut self, index: usize, array: bool, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let close = if array { b']' } else { b'}' };
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&close) {
            self.at += 1;
            return Some(());
        }
        for number in 0.. {
            self.space();
            let step = if array { Step::Cell(number) } else { self.key()? };
            let child = self.value(Some(index), step, depth)?;
            self.nodes.get_mut(index)?.children.push(child);
            self.space();
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            match byte {
                b',' => {}
                byte if byte == close => return Some(()),
                _ => return None,
            }
        }
        None
    }

    fn key(&mut self) -> Option<Step> {
        let start = self.at;
        self.string()?;
        let end = self.at;
        self.space();
        (self.bytes.get(self.at) == Some(&b':')).then(|| self.at += 1)?;
        Some(Step::Key(start, end))
    }

    fn string(&mut self) -> Option<()> {
        (self.bytes.get(self.at) == Some(&b'"')).then(|| self.at += 1)?;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        match self.bytes.get(self.at)? {
            b'"' => self.string(),
            1 => {
                let length = self.bytes.get(self.at + 1..)?.iter().position(|byte| *byte == 1)?;
                self.at += length + 2;
                Some(())
            }
            _ => {
                let rest = self.bytes.get(self.at..)?;
                let plain = |byte: &u8| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\t' | b'\r');
                let length = rest.iter().take_while(|byte| plain(byte)).count();
                self.at += length;
                (length > 0).then_some(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn sql(text: &str) -> String {
        let mut out = Vec::new();
        write_sql(&mut out, text, |out, bytes| {
            out.push(b'\'');
            out.extend_from_slice(bytes);
            out.push(b'\'');
        });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn types_are_marked_in_their_places() {
        let check =
            |answer: &str, marked: &str| assert_eq!(read(answer).unwrap().replace('\u{1}', "^"), marked);
        check("[1, 2]", "[1, 2]");
        check("\u{1}1;1:DECIMAL\u{1}1.500", "^n1.500^");
        // As MySQL 9.7 lists them: cells of arrays, from the outermost on, then members of objects.
        check(
            "\u{1}3;3:DECIMAL,5:BLOB,6:DATE\u{1}{\"g\": [1.5, 2.50], \"b\": \"base64:type252:AP8=\", \"d\": \"2024-01-02\"}",
            "{\"g\": [1.5, ^n2.50^], \"b\": ^b252:AP8=^, \"d\": ^d2024-01-02^}",
        );
        check("\u{1}1;4:TIME\u{1}[[], [\"12:00:00.000000\"]]", "[[], [^t12:00:00.000000^]]");
        for broken in [
            "\u{1}2;1:DECIMAL\u{1}1.5",
            "\u{1}1;9:DECIMAL\u{1}1.5",
            "\u{1}1;1:DATE\u{1}1.5",
            "\u{1}1;1:BLOB\u{1}\"base64:type13:AA==\"",
            "\u{1}1;1:DECIMAL\u{1}[1.5",
            "\u{2}",
        ] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn marked_documents_become_expressions() {
        let check = |marked: &str, expected: &str| assert_eq!(sql(&marked.replace('^', "\u{1}")), expected);
        check("{\"a\": 1}", "_utf8mb4'{\"a\": 1}'");
        check(
            "^n-1.50^",
            "JSON_SET(CAST(_utf8mb4'-1.50' AS JSON),_utf8mb4'$',CAST(_utf8mb4'-1.50' AS DECIMAL(3,2)))",
        );
        check(
            "{\"q\\\"\": [0, ^d2024-01-02^]}",
            "JSON_SET(CAST(_utf8mb4'{\"q\\\"\": [0, \"2024-01-02\"]}' AS JSON),_utf8mb4'$.\"q\\\"\"[1]',\
             CAST(_utf8mb4'2024-01-02' AS DATE))",
        );
        check(
            "[^b15:AP8=^]",
            "JSON_SET(CAST(_utf8mb4'[\"base64:type15:AP8=\"]' AS JSON),_utf8mb4'$[0]',x'00ff')",
        );
    }

    #[test]
    fn base64_is_read_as_it_is_printed() {
        assert_eq!(bytes_of("AP8="), [0, 255]);
        assert_eq!(bytes_of("YWJj\\nZGU="), b"abcde");
        assert_eq!(bytes_of(""), b"");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[\\[\\]{}\",:1.a\\\\ \u{1}\u{2}]{0,40}") {
            drop(read(&text));
            drop(read(&format!("\u{1}1;1:DECIMAL\u{1}{text}")));
            drop(plain(&text));
            drop(sql(&text));
        }
    }
}
