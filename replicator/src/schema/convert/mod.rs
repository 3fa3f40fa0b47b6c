//! Definitions in the terms of another server.
//!
//! Nothing is built anew: the tokens of the source's own definition are kept, but for those that the other server
//! hasn't got or would take for something else. So what isn't known here reaches the target as it is, and the
//! target's own parser refuses what it can't take (invariant 5). Every change is recorded ([`Conversion`]): operators
//! see them with SHOW CONVERSIONS, and those that lose something need a yes (`migration.allow_lossy`).
//!
//! It works in both directions: what one direction turns into something else, the other turns back where it can.

mod column;
mod create;
mod key;
mod leave_out;
mod making;
mod options;
mod token;

pub use config::progress::Conversion;
use config::{Dialect, Side, TableName, collation};

pub(crate) use self::create::{called, prepare_table_session};
pub use self::create::{
    conversions, create_on_target, definitions, differences, pair_up, raise_auto_increment,
};
pub(crate) use self::leave_out::{Reduced, without_columns};
use self::token::{Kind, Token, closing, items, text, tokens};
use crate::error::{Error, Result};

/// The two servers' dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialects {
    /// Of the server that is copied from.
    pub source: Dialect,
    /// Of the server that is copied to.
    pub target: Dialect,
}

/// A definition in the target's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The statement.
    pub sql: String,
    /// What was changed in it.
    pub conversions: Vec<Conversion>,
    /// What has no counterpart and can't be left out, each a full sentence. Empty for a statement that can be run.
    pub problems: Vec<String>,
}

/// Puts CREATE TABLE (a server's own SHOW CREATE TABLE, or a statement of the binlog) or ALTER TABLE of `table` into
/// the terms of `to`.
///
/// # Errors
/// The text has a quote or a bracket that isn't closed, or is another statement.
pub fn table_definition(sql: &str, table: &TableName, from: Dialect, to: Dialect) -> Result<Converted> {
    let unreadable = |what: &str| {
        Error::definite(Side::Source, table.to_string(), format!("its definition can't be read: {what}"))
    };
    let all = tokens(sql).ok_or_else(|| unreadable("a quote or a comment in it isn't closed"))?;
    let mut rewriter = Rewriter::new(table.clone(), from, to);
    let verb = all.first().ok_or_else(|| unreadable("it is empty"))?;
    let rewritten = if verb.is("ALTER") {
        rewriter.alter(&all)
    } else if verb.is("CREATE") {
        rewriter.create(&all)
    } else {
        None
    };
    let rewritten = rewritten
        .ok_or_else(|| unreadable("it is neither CREATE TABLE nor ALTER TABLE as they are known here"))?;
    let Rewriter { conversions, problems, .. } = rewriter;
    // Between two servers that are alike the text stays as it is, line by line. Another one reads versioned comments
    // by numbers of its own, so it gets what they say.
    let same = from == to && conversions.is_empty();
    let sql = if same { sql.to_owned() } else { text(&rewritten) };
    Ok(Converted { sql, conversions, problems })
}

/// The default charset and collation of a schema in the terms of `to`. A charset that isn't there becomes utf8mb4.
#[must_use]
pub fn schema_defaults(charset: &str, collation: &str, to: Dialect) -> (String, String) {
    (charset_on(charset, to), collation_on(collation, to))
}

/// The charset's name on `to`; utf8mb4 where it isn't there, since every text is one of utf8mb4.
#[must_use]
pub fn charset_on(name: &str, to: Dialect) -> String {
    let there = collation::charset(&name.to_ascii_lowercase(), to);
    there.unwrap_or_else(|| "utf8mb4".to_owned())
}

/// The collation on `to` that compares most like it.
#[must_use]
pub fn collation_on(name: &str, to: Dialect) -> String {
    let name = name.to_ascii_lowercase();
    collation::collation(&name, to).unwrap_or_else(|| {
        // The strictest that there is where case counts, the loosest where it doesn't.
        let binary = name.ends_with("_bin") || name.ends_with("_cs");
        if binary { "utf8mb4_bin".to_owned() } else { "utf8mb4_general_ci".to_owned() }
    })
}

/// The collation that a server gives to a charset without one.
#[must_use]
pub fn default_collation(charset: &str, on: Dialect) -> Option<String> {
    let charset = charset.to_ascii_lowercase();
    let rest = match charset.as_str() {
        "utf8mb4" if on.is_mysql_8() => "0900_ai_ci",
        "utf8mb4" | "utf8mb3" | "utf8" | "ucs2" | "utf16" | "utf16le" | "utf32" | "ascii" | "greek"
        | "hebrew" | "cp1250" | "cp1251" | "cp1256" | "cp1257" | "armscii8" | "cp850" | "cp852" | "cp866"
        | "dec8" | "geostd8" | "hp8" | "keybcs2" | "koi8r" | "koi8u" | "latin2" | "latin7" | "macce"
        | "macroman" | "swe7" => {
            return match charset.as_str() {
                "dec8" => Some("dec8_swedish_ci".to_owned()),
                "hp8" => Some("hp8_english_ci".to_owned()),
                "swe7" => Some("swe7_swedish_ci".to_owned()),
                _ => Some(format!("{charset}_general_ci")),
            };
        }
        "latin1" => "swedish_ci",
        "latin5" => "turkish_ci",
        "big5" | "gb2312" | "gbk" | "gb18030" => "chinese_ci",
        "sjis" | "ujis" | "cp932" | "eucjpms" => "japanese_ci",
        "euckr" => "korean_ci",
        "tis620" => "thai_ci",
        _ => return None,
    };
    Some(format!("{charset}_{rest}"))
}

/// What the parts of a definition are rewritten with.
struct Rewriter {
    table: TableName,
    from: Dialect,
    to: Dialect,
    conversions: Vec<Conversion>,
    problems: Vec<String>,
}

/// The words that a part of a table's definition begins with when it isn't a column.
const NOT_COLUMNS: [&str; 11] = [
    "PRIMARY",
    "UNIQUE",
    "KEY",
    "INDEX",
    "FULLTEXT",
    "SPATIAL",
    "VECTOR",
    "CONSTRAINT",
    "FOREIGN",
    "CHECK",
    "PERIOD",
];

impl Rewriter {
    fn new(table: TableName, from: Dialect, to: Dialect) -> Self {
        Self { table, from, to, conversions: Vec::new(), problems: Vec::new() }
    }

    /// `CREATE [TEMPORARY] TABLE [IF NOT EXISTS] name (parts) options`; what has no list of parts (LIKE, SELECT)
    /// stays as it is.
    fn create(&mut self, all: &[Token]) -> Option<Vec<Token>> {
        all.iter().take(6).position(|token| token.is("TABLE"))?;
        let Some(open) = all.iter().position(|token| token.is_mark("(")) else { return Some(all.to_vec()) };
        let close = closing(all, open)?;
        let mut out = all.get(..=open)?.to_vec();
        out.extend(self.parts(all.get(open + 1..close)?));
        out.push(all.get(close)?.clone());
        out.extend(self.options(all.get(close + 1..)?));
        Some(out)
    }

    /// The parts between the brackets of CREATE TABLE.
    fn parts(&mut self, inner: &[Token]) -> Vec<Token> {
        let mut out = Vec::new();
        for part in items(inner) {
            let Some(part) = self.part(part) else { continue };
            if !out.is_empty() {
                out.push(Token { kind: Kind::Mark, text: ",".to_owned(), spaced: false });
            }
            out.extend(part);
        }
        out
    }

    /// A column or a key; `None` where it is left out.
    fn part(&mut self, part: Vec<Token>) -> Option<Vec<Token>> {
        let first = part.first()?;
        if NOT_COLUMNS.iter().any(|word| first.is(word)) { self.key(part) } else { Some(self.column(part)) }
    }

    /// `ALTER TABLE name part, part …`
    fn alter(&mut self, all: &[Token]) -> Option<Vec<Token>> {
        let table = all.iter().take(4).position(|token| token.is("TABLE"))?;
        let mut name_end = table + 1;
        while ["IF", "EXISTS"].iter().any(|word| all.get(name_end).is_some_and(|token| token.is(word))) {
            name_end += 1;
        }
        // `a`.`b`, or a.b as one word.
        name_end += 1;
        if all.get(name_end).is_some_and(|token| token.is_mark(".")) {
            name_end += 2;
        }
        let mut out = all.get(..name_end)?.to_vec();
        let head = out.len();
        for part in items(all.get(name_end..)?) {
            let part = self.alteration(&part);
            if part.is_empty() {
                continue;
            }
            if out.len() > head {
                out.push(Token { kind: Kind::Mark, text: ",".to_owned(), spaced: false });
            }
            out.extend(part);
        }
        Some(out)
    }

    /// One part of an ALTER TABLE: its verb stays, and what is defined behind it is rewritten.
    fn alteration(&mut self, part: &[Token]) -> Vec<Token> {
        let Some(verb) = part.first() else { return Vec::new() };
        let word = |i: usize, words: &[&str]| {
            part.get(i).is_some_and(|token| words.iter().any(|word| token.is(word)))
        };
        if !["ADD", "MODIFY", "CHANGE"].iter().any(|known| verb.is(known)) {
            let other =
                ["DROP", "RENAME", "ALTER", "ORDER", "DISABLE", "ENABLE", "ALGORITHM", "LOCK", "FORCE"];
            return if other.iter().any(|known| verb.is(known)) { part.to_vec() } else { self.options(part) };
        }
        let mut at = 1;
        while word(at, &["COLUMN", "IF", "NOT", "EXISTS"]) {
            at += 1;
        }
        if verb.is("CHANGE") {
            at += 1;
        }
        let (head, rest) = part.split_at(at.min(part.len()));
        let mut out = head.to_vec();
        if rest.first().is_some_and(|token| token.is_mark("(")) {
            let inner = rest.get(1..rest.len().saturating_sub(1)).unwrap_or_default();
            out.push(Token::new(Kind::Mark, "("));
            out.extend(self.parts(inner));
            out.push(Token { kind: Kind::Mark, text: ")".to_owned(), spaced: false });
            return out;
        }
        if word(1, &["PARTITION"]) {
            return self.partitions(part);
        }
        match self.part(rest.to_vec()) {
            Some(rest) => out.extend(rest),
            None => return Vec::new(),
        }
        out
    }

    /// Records a change of `object`, a column or a key; the empty text is the table itself.
    fn record(&mut self, object: &str, kind: &str, source: &str, target: &str, lossy: bool) {
        let object = if object.is_empty() {
            self.table.table.clone()
        } else {
            format!("{}.{object}", self.table.table)
        };
        self.conversions.push(Conversion {
            schema: self.table.schema.clone(),
            object,
            kind: kind.to_owned(),
            source_definition: source.to_owned(),
            target_definition: target.to_owned(),
            lossy,
        });
    }

    fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    /// Charsets and collations of a stretch of tokens: of a column, or of a table's options. Where a charset stands
    /// without its collation, the one that the source means by that is added.
    fn charsets(&mut self, object: &str, part: Vec<Token>) -> Vec<Token> {
        if self.from == self.to {
            return part;
        }
        let has_collation = top_level(&part).any(|i| part.get(i).is_some_and(|token| token.is("COLLATE")));
        let mut out: Vec<Token> = Vec::with_capacity(part.len());
        let mut tokens = part.into_iter().peekable();
        let mut depth = 0_usize;
        while let Some(token) = tokens.next() {
            if token.is_mark("(") {
                depth += 1;
            } else if token.is_mark(")") {
                depth = depth.saturating_sub(1);
            }
            let charset = token.is("CHARSET")
                || (token.is("SET")
                    && out.last().is_some_and(|last: &Token| last.is("CHARACTER") || last.is("CHAR")));
            let collate = token.is("COLLATE");
            out.push(self.introducer(token, tokens.peek()));
            if !charset && !collate {
                continue;
            }
            if let Some(equals) = tokens.next_if(|token| token.is_mark("=")) {
                out.push(equals);
            }
            let Some(mut name) = tokens.next() else { continue };
            let old = name.name();
            let new = if charset { charset_on(&old, self.to) } else { collation_on(&old, self.to) };
            if depth == 0 && !same_name(&old, &new) {
                self.record(object, if charset { "charset" } else { "collation" }, &old, &new, false);
            }
            if new != old {
                name.text.clone_from(&new);
            }
            out.push(name);
            if charset && depth == 0 && !has_collation && !old.eq_ignore_ascii_case("binary") {
                self.add_default_collation(object, &old, &new, &mut out);
            }
        }
        out
    }

    fn add_default_collation(&mut self, object: &str, old: &str, new: &str, out: &mut Vec<Token>) {
        let Some(meant) = default_collation(old, self.from) else { return };
        let wanted = collation_on(&meant, self.to);
        if !same_name(&meant, &wanted) {
            self.record(object, "collation", &meant, &wanted, false);
        }
        if default_collation(new, self.to).is_some_and(|default| same_name(&default, &wanted)) {
            return;
        }
        out.push(Token::new(Kind::Word, "COLLATE"));
        out.push(Token::new(Kind::Word, &wanted));
    }

    /// `_latin1'a'` in an expression, where the target hasn't got the charset.
    fn introducer(&self, mut token: Token, next: Option<&Token>) -> Token {
        let Some(charset) = token.text.strip_prefix('_').filter(|_| token.kind == Kind::Word) else {
            return token;
        };
        if charset.eq_ignore_ascii_case("binary") || next.is_none_or(|next| next.kind != Kind::Text) {
            return token;
        }
        let there = charset_on(charset, self.to);
        token.text = format!("_{there}");
        token
    }
}

/// Indexes of the tokens outside of brackets.
fn top_level(tokens: &[Token]) -> std::vec::IntoIter<usize> {
    let mut depth = 0_usize;
    let mut found = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 {
            found.push(i);
        }
    }
    found.into_iter()
}

/// One name is the other but for the two spellings of utf8mb3.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    let plain = |name: &str| {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("utf8_") {
            Some(rest) => format!("utf8mb3_{rest}"),
            None if name == "utf8" => "utf8mb3".to_owned(),
            None => name,
        }
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests;
