//! What a statement that changes definitions is about: its kind and the names in it.
//!
//! Not a parser of the language: it knows how such statements begin, and in ALTER TABLE where another table is named.
//! Everything else of the text is the target's business, which runs it as it is. A statement that isn't understood
//! here is [`Change::Unknown`], which nobody runs and nobody skips (invariant 5).

use std::ops::Range;

use config::TableName;

use super::selection::{Known, Selection};
use crate::binlog::context::StatementContext;

/// False for a client's character set in which the second byte of a character may look like a quote or a backslash.
pub(crate) fn is_readable_in(context: &StatementContext) -> bool {
    /// The base ids of MariaDB's NOPAD collations are these and 1024.
    const NOPAD: u16 = 1024;
    /// big5, sjis, gbk, cp932 and gb18030.
    const UNREADABLE: [u16; 11] = [1, 84, 13, 88, 28, 87, 95, 96, 248, 249, 250];
    context.charsets.is_none_or(|(client, ..)| !UNREADABLE.contains(&(client % NOPAD)))
}

/// What a statement changes. Names are complete: the session's default schema stands where the text has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// CREATE TABLE. `like`: the table whose definition it takes.
    CreateTable { table: TableName, like: Option<TableName> },
    /// DROP TABLE.
    DropTables(Vec<TableName>),
    /// TRUNCATE.
    Truncate(TableName),
    /// RENAME TABLE: old and new names, in order.
    Rename(Vec<(TableName, TableName)>),
    /// ALTER TABLE, CREATE INDEX, DROP INDEX.
    Alter { table: TableName, renamed: Option<TableName>, exchanged: Option<TableName> },
    /// CREATE, ALTER, DROP DATABASE.
    Schema { name: String, dropped: bool },
    /// CREATE, ALTER, DROP VIEW.
    Views(Vec<TableName>),
    /// CREATE, ALTER, DROP of a procedure, function or package.
    Routine(TableName),
    /// CREATE, DROP TRIGGER.
    Trigger(TableName),
    /// CREATE, ALTER, DROP EVENT.
    Event(TableName),
    /// Anything else.
    Unknown,
}

impl Change {
    /// Reads a statement. `default_schema` is that of its session; `folds_names` says that the server keeps names in
    /// lower case.
    pub(crate) fn parse(sql: &[u8], default_schema: &str, folds_names: bool) -> Self {
        Parsed::of(sql, default_schema, folds_names).change
    }

    /// The same with the names that the source has for what it names. What isn't moved and has no name there gets one that no
    /// selection takes.
    ///
    /// # Errors
    /// A name that is of the migration, and that nothing of the source is called by here (`migration.rename`).
    pub(crate) fn in_source_names(self, selection: &Selection) -> Result<Self, TableName> {
        if selection.names().is_plain() {
            return Ok(self);
        }
        let table = |here: TableName| match selection.known(&here) {
            Known::Moved(name) => Ok(name),
            Known::Unnamed => Err(here),
            Known::Other => Ok(selection.names().source_table(&here).unwrap_or_else(|| nameless(&here))),
        };
        let tables = |names: Vec<TableName>| names.into_iter().map(table).collect::<Result<Vec<_>, _>>();
        let beside = |here: TableName| match selection.names().source_schema(&here.schema) {
            Some(schema) => Ok(TableName::new(schema, here.table)),
            None if selection.holds(&here.schema) => Err(here),
            None => Ok(nameless(&here)),
        };
        Ok(match self {
            Change::CreateTable { table: name, like } => {
                Change::CreateTable { table: table(name)?, like: like.map(table).transpose()? }
            }
            Change::DropTables(names) => Change::DropTables(tables(names)?),
            Change::Truncate(name) => Change::Truncate(table(name)?),
            Change::Rename(pairs) => {
                let pairs = pairs.into_iter().map(|(from, to)| Ok((table(from)?, table(to)?)));
                Change::Rename(pairs.collect::<Result<_, _>>()?)
            }
            Change::Alter { table: name, renamed, exchanged } => Change::Alter {
                table: table(name)?,
                renamed: renamed.map(table).transpose()?,
                exchanged: exchanged.map(table).transpose()?,
            },
            Change::Schema { name, dropped } => {
                let held = selection.holds(&name);
                match selection.names().source_schema(&name) {
                    // It holds tables of two schemas, or some of one: nothing else is like it on the other side.
                    Some(of_source) if held && selection.names().parts(&of_source) => Change::Unknown,
                    None if held => Change::Unknown,
                    Some(name) => Change::Schema { name, dropped },
                    None => Change::Schema { name: nameless(&TableName::new(name, "")).schema, dropped },
                }
            }
            // A view may stand in for a table that is renamed. It is of this side alone then.
            Change::Views(names) => {
                let view = |here: TableName| table(here.clone()).unwrap_or_else(|_| nameless(&here));
                Change::Views(names.into_iter().map(view).collect())
            }
            Change::Routine(name) => Change::Routine(beside(name)?),
            Change::Trigger(name) => Change::Trigger(beside(name)?),
            Change::Event(name) => Change::Event(beside(name)?),
            Change::Unknown => Change::Unknown,
        })
    }

    /// Every table or view that it names, each once.
    pub(crate) fn names(&self) -> Vec<TableName> {
        let mut names: Vec<TableName> = match self {
            Change::CreateTable { table, .. } | Change::Truncate(table) => vec![table.clone()],
            Change::DropTables(names) | Change::Views(names) => names.clone(),
            Change::Rename(pairs) => pairs.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect(),
            Change::Alter { table, renamed, exchanged } => {
                [Some(table), renamed.as_ref(), exchanged.as_ref()].into_iter().flatten().cloned().collect()
            }
            Change::Routine(name) | Change::Trigger(name) | Change::Event(name) => vec![name.clone()],
            Change::Schema { .. } | Change::Unknown => Vec::new(),
        };
        names.sort();
        names.dedup();
        names
    }
}

/// A name that no server has, for something of the target that the source has no name for.
fn nameless(here: &TableName) -> TableName {
    TableName::new(format!("{}\0", here.schema), &here.table)
}

/// True for a name of [`Change::in_source_names`] that isn't one.
pub(crate) fn is_nameless(name: &TableName) -> bool {
    name.schema.ends_with('\0')
}

/// What a name in a statement is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A table or a view.
    Table,
    /// A routine, a trigger, an event: it goes with its schema.
    Beside,
    /// A schema.
    Schema,
}

/// A name in a statement, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) of: Of,
    /// Complete; of a schema the other part is empty.
    pub(super) name: TableName,
    /// All of it.
    pub(super) span: Range<usize>,
    /// The last part of it.
    pub(super) last: Range<usize>,
}

/// A statement, taken apart.
pub(super) struct Parsed {
    pub(super) change: Change,
    /// The names that [`Change`] was made of, in their order.
    pub(super) named: Vec<Named>,
    pub(super) tokens: Vec<(Token, Range<usize>)>,
}

impl Parsed {
    /// See [`Change::parse`].
    pub(super) fn of(sql: &[u8], default_schema: &str, folds_names: bool) -> Self {
        let tokens = Lexer::of(sql).collect();
        let mut reader = Reader { tokens, at: 0, default_schema, folds_names, named: Vec::new() };
        let change = reader.statement().unwrap_or(Change::Unknown);
        Self { change, named: reader.named, tokens: reader.tokens }
    }

    /// The name of a table that begins at a token. `default_schema` stands where it has none.
    pub(super) fn table_at(
        &self,
        at: usize,
        default_schema: &str,
        folds_names: bool,
    ) -> Option<(Named, bool)> {
        let tokens = self.tokens.get(at..)?.iter().take(4).cloned().collect();
        let mut reader = Reader { tokens, at: 0, default_schema, folds_names, named: Vec::new() };
        reader.name()?;
        let qualified = reader.at > 1;
        Some((reader.named.pop()?, qualified))
    }
}

/// The words and names of a statement, in their order.
pub(crate) fn words(sql: &[u8]) -> Vec<String> {
    let words = Lexer::of(sql).filter_map(|(token, _)| match token {
        Token::Word(word) | Token::Quoted(word) => Some(word),
        Token::Literal | Token::Symbol(_) => None,
    });
    words.collect()
}

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word or a number, as it stands.
    Word(String),
    /// Between backticks or double quotes.
    Quoted(String),
    /// Between single quotes: what it holds is nobody's business here.
    Literal,
    /// Any other character.
    Symbol(u8),
}

struct Lexer<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Lexer<'a> {
    fn of(sql: &'a [u8]) -> Self {
        Self { rest: sql, length: sql.len() }
    }
}

impl Iterator for Lexer<'_> {
    /// With where it stands.
    type Item = (Token, Range<usize>);

    fn next(&mut self) -> Option<(Token, Range<usize>)> {
        self.skip_space_and_comments();
        let begin = self.length - self.rest.len();
        let token = self.token()?;
        Some((token, begin..self.length - self.rest.len()))
    }
}

impl Lexer<'_> {
    fn token(&mut self) -> Option<Token> {
        let &first = self.rest.first()?;
        match first {
            b'`' | b'"' => {
                let text = self.quoted(first);
                // A name that isn't UTF-8 can't be one of ours; it must not become another one either.
                Some(String::from_utf8(text).map_or(Token::Symbol(0), Token::Quoted))
            }
            b'\'' => {
                self.quoted(first);
                Some(Token::Literal)
            }
            _ if is_word(first) => {
                let end = self.rest.iter().position(|&b| !is_word(b)).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at_checked(end)?;
                self.rest = rest;
                Some(std::str::from_utf8(word).map_or(Token::Symbol(0), |word| Token::Word(word.to_owned())))
            }
            _ => {
                self.rest = self.rest.get(1..)?;
                Some(Token::Symbol(first))
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl Lexer<'_> {
    /// What stands between quotes. A backslash hides a quote in a literal; where the session's mode says that it
    /// doesn't, the text ends later than it should, and then the statement isn't understood.
    fn quoted(&mut self, quote: u8) -> Vec<u8> {
        let mut text = Vec::new();
        let mut bytes = self.rest.iter().copied().enumerate().skip(1).peekable();
        let mut end = self.rest.len();
        while let Some((at, byte)) = bytes.next() {
            if byte == b'\\' && quote == b'\'' {
                bytes.next();
            } else if byte == quote {
                if bytes.peek().is_some_and(|&(_, next)| next == quote) {
                    bytes.next();
                    text.push(byte);
                } else {
                    end = at + 1;
                    break;
                }
            } else {
                text.push(byte);
            }
        }
        self.rest = self.rest.get(end..).unwrap_or_default();
        text
    }

    /// What a server executes in spite of `/*!` is no comment.
    fn skip_space_and_comments(&mut self) {
        loop {
            let rest = self.rest.trim_ascii_start();
            let rest = rest.strip_prefix(b"\0").unwrap_or(rest);
            let after = |needle: &[u8]| {
                let at = rest.windows(needle.len()).position(|window| window == needle);
                at.and_then(|at| rest.get(at + needle.len()..)).unwrap_or_default()
            };
            self.rest = if let Some(inner) = rest.strip_prefix(b"/*!").or_else(|| rest.strip_prefix(b"/*M!"))
            {
                let digits = inner.iter().position(|b| !b.is_ascii_digit()).unwrap_or(inner.len());
                inner.get(digits..).unwrap_or_default()
            } else if let Some(behind) = rest.strip_prefix(b"*/") {
                behind
            } else if rest.starts_with(b"/*") {
                after(b"*/")
            } else if rest.starts_with(b"#") || is_dash_comment(rest) {
                after(b"\n")
            } else {
                self.rest = rest;
                return;
            };
        }
    }
}

fn is_dash_comment(rest: &[u8]) -> bool {
    rest.strip_prefix(b"--").is_some_and(|behind| behind.first().is_none_or(u8::is_ascii_whitespace))
}

struct Reader<'a> {
    tokens: Vec<(Token, Range<usize>)>,
    at: usize,
    default_schema: &'a str,
    folds_names: bool,
    named: Vec<Named>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    /// Takes the next token where it is that word.
    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    /// Takes one of the words.
    fn any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.word(word))
    }

    /// Takes all of the words or none.
    fn words(&mut self, words: &[&str]) -> bool {
        let before = self.at;
        let all = words.iter().all(|word| self.word(word));
        if !all {
            self.at = before;
        }
        all
    }

    fn symbol(&mut self, symbol: u8) -> bool {
        let found = self.peek() == Some(&Token::Symbol(symbol));
        self.at += usize::from(found);
        found
    }

    fn identifier(&mut self) -> Option<String> {
        let name = match self.peek()? {
            Token::Word(name) | Token::Quoted(name) => name.clone(),
            Token::Literal | Token::Symbol(_) => return None,
        };
        self.at += 1;
        Some(if self.folds_names { name.to_lowercase() } else { name })
    }

    /// Of a table or a view: `a`, `a.b` or `.b`.
    fn name(&mut self) -> Option<TableName> {
        self.name_of(Of::Table)
    }

    fn name_of(&mut self, of: Of) -> Option<TableName> {
        let begin = self.at;
        let name = self.complete_name()?;
        self.note(of, begin, name.clone())?;
        Some(name)
    }

    /// Of a schema.
    fn schema(&mut self) -> Option<String> {
        let begin = self.at;
        let name = self.identifier()?;
        self.note(Of::Schema, begin, TableName::new(&name, ""))?;
        Some(name)
    }

    fn complete_name(&mut self) -> Option<TableName> {
        if self.symbol(b'.') {
            return Some(TableName::new(self.default_schema, self.identifier()?));
        }
        let first = self.identifier()?;
        if self.symbol(b'.') {
            return Some(TableName::new(first, self.identifier()?));
        }
        (!self.default_schema.is_empty()).then(|| TableName::new(self.default_schema, first))
    }

    /// Remembers where a name stands that was just read.
    fn note(&mut self, of: Of, begin: usize, name: TableName) -> Option<()> {
        let (_, first) = self.tokens.get(begin)?;
        let (_, last) = self.tokens.get(self.at.checked_sub(1)?)?;
        self.named.push(Named { of, name, span: first.start..last.end, last: last.clone() });
        Some(())
    }

    fn names(&mut self) -> Option<Vec<TableName>> {
        let mut names = vec![self.name()?];
        while self.symbol(b',') {
            names.push(self.name()?);
        }
        Some(names)
    }

    fn if_exists(&mut self) {
        let _maybe = self.words(&["IF", "EXISTS"]) || self.words(&["IF", "NOT", "EXISTS"]);
    }

    fn statement(&mut self) -> Option<Change> {
        if self.word("CREATE") {
            self.create()
        } else if self.word("DROP") {
            self.drop_()
        } else if self.word("ALTER") {
            self.alter()
        } else if self.word("TRUNCATE") {
            self.word("TABLE");
            Some(Change::Truncate(self.name()?))
        } else if self.word("RENAME") {
            self.rename()
        } else {
            None
        }
    }

    /// Where in front of the kind there may be attributes with values: DEFINER = a@b, ALGORITHM = x, SQL SECURITY x.
    fn attributes(&mut self) {
        loop {
            if self.any(&["ALGORITHM", "DEFINER"]) {
                self.symbol(b'=');
                self.at += 1;
                if self.symbol(b'(') {
                    self.symbol(b')');
                }
                if self.symbol(b'@') {
                    self.at += 1;
                }
            } else if self.words(&["SQL", "SECURITY"]) {
                self.at += 1;
            } else if !self.words(&["OR", "REPLACE"]) && !self.word("AGGREGATE") {
                return;
            }
        }
    }

    fn create(&mut self) -> Option<Change> {
        self.attributes();
        if self.any(&["DATABASE", "SCHEMA"]) {
            self.if_exists();
            return Some(Change::Schema { name: self.schema()?, dropped: false });
        }
        if self.word("TABLE") {
            self.if_exists();
            let table = self.name()?;
            self.symbol(b'(');
            let like = if self.word("LIKE") { Some(self.name()?) } else { None };
            return Some(Change::CreateTable { table, like });
        }
        let before = self.at;
        while self.any(&["UNIQUE", "FULLTEXT", "SPATIAL", "ONLINE", "OFFLINE", "VECTOR"]) {}
        if self.word("INDEX") {
            return self.index();
        }
        self.at = before;
        self.object()
    }

    /// `[IF …] name [USING x] ON table`.
    fn index(&mut self) -> Option<Change> {
        self.if_exists();
        self.identifier()?;
        if self.any(&["USING", "TYPE"]) {
            self.identifier()?;
        }
        if !self.word("ON") {
            return None;
        }
        Some(Change::Alter { table: self.name()?, renamed: None, exchanged: None })
    }

    /// What CREATE, ALTER and DROP spell alike.
    fn object(&mut self) -> Option<Change> {
        if self.word("VIEW") {
            self.if_exists();
            return Some(Change::Views(vec![self.name()?]));
        }
        if self.any(&["PROCEDURE", "FUNCTION"]) {
            self.if_exists();
            let name = self.name_of(Of::Beside)?;
            // A loadable function belongs to the server, not to a schema.
            let loadable = self.word("RETURNS") && {
                self.at += 1;
                self.word("SONAME")
            };
            return (!loadable).then_some(Change::Routine(name));
        }
        if self.word("TRIGGER") {
            self.if_exists();
            return Some(Change::Trigger(self.name_of(Of::Beside)?));
        }
        if self.word("EVENT") {
            self.if_exists();
            return Some(Change::Event(self.name_of(Of::Beside)?));
        }
        None
    }

    fn drop_(&mut self) -> Option<Change> {
        if self.any(&["DATABASE", "SCHEMA"]) {
            self.if_exists();
            return Some(Change::Schema { name: self.schema()?, dropped: true });
        }
        if self.any(&["TABLE", "TABLES"]) {
            self.if_exists();
            return Some(Change::DropTables(self.names()?));
        }
        if self.word("VIEW") {
            self.if_exists();
            return Some(Change::Views(self.names()?));
        }
        if self.word("INDEX") {
            return self.index();
        }
        self.object()
    }

    fn rename(&mut self) -> Option<Change> {
        if !self.any(&["TABLE", "TABLES"]) {
            return None;
        }
        self.if_exists();
        let mut pairs = Vec::new();
        loop {
            let from = self.name()?;
            self.wait_or_nowait();
            if !self.word("TO") {
                return None;
            }
            pairs.push((from, self.name()?));
            if !self.symbol(b',') {
                return Some(Change::Rename(pairs));
            }
        }
    }

    /// MariaDB: how long a lock may be waited for.
    fn wait_or_nowait(&mut self) {
        if self.word("WAIT") {
            self.at += 1;
        }
        self.word("NOWAIT");
    }

    fn alter(&mut self) -> Option<Change> {
        while self.any(&["ONLINE", "OFFLINE", "IGNORE"]) {}
        if self.any(&["DATABASE", "SCHEMA"]) {
            // Without a name it is about the default schema.
            const OPTIONS: [&str; 7] =
                ["DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "ENCRYPTION", "READ", "COMMENT"];
            let options = matches!(self.peek(), Some(Token::Word(w)) if OPTIONS.iter().any(|o| o.eq_ignore_ascii_case(w)));
            let name = if options { self.default_schema.to_owned() } else { self.schema()? };
            return Some(Change::Schema { name, dropped: false });
        }
        if self.word("TABLE") {
            return self.alter_table();
        }
        self.attributes();
        self.object()
    }

    fn alter_table(&mut self) -> Option<Change> {
        self.if_exists();
        let table = self.name()?;
        self.wait_or_nowait();
        let (mut renamed, mut exchanged) = (None, None);
        let (mut depth, mut begins) = (0_usize, true);
        while let Some(token) = self.peek() {
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            let comma = *token == Token::Symbol(b',') && depth == 0;
            if begins && self.word("RENAME") {
                if self.any(&["COLUMN", "INDEX", "KEY"]) {
                    begins = false;
                    continue;
                }
                let _filler = self.any(&["TO", "AS"]) || self.symbol(b'=');
                renamed = Some(self.name()?);
            } else if begins && self.words(&["EXCHANGE", "PARTITION"]) {
                self.identifier()?;
                if !self.words(&["WITH", "TABLE"]) {
                    return None;
                }
                exchanged = Some(self.name()?);
            } else {
                self.at += 1;
            }
            begins = comma;
        }
        Some(Change::Alter { table, renamed, exchanged })
    }
}

#[cfg(test)]
#[path = "ddl_tests.rs"]
mod tests;
