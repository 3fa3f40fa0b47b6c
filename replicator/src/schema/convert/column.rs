//! One column of a definition.

use config::Family;

use super::token::{Kind, Token, closing, text};
use super::{Rewriter, top_level};

/// What may follow DEFAULT without brackets in every dialect, besides literals.
const PLAIN_DEFAULTS: [&str; 7] =
    ["NULL", "TRUE", "FALSE", "CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"];
/// Types whose default MySQL takes as an expression only.
const NO_LITERAL_DEFAULT: [&str; 9] =
    ["tinytext", "text", "mediumtext", "longtext", "tinyblob", "blob", "mediumblob", "longblob", "json"];
/// Bytes of one number of a VECTOR.
const VECTOR_NUMBER_BYTES: u32 = 4;

impl Rewriter {
    /// Rewrites a column's definition: its name, type and attributes.
    pub(super) fn column(&mut self, part: Vec<Token>) -> Vec<Token> {
        let Some(name) = part.first().map(Token::name) else { return part };
        if self.from == self.to {
            return part;
        }
        let part = self.column_type(&name, part);
        let part = self.charsets(&name, part);
        let part = self.attributes(&name, part);
        let part = self.generated(&name, part);
        let part = self.default_value(&name, part);
        self.column_check(&name, part)
    }

    fn column_type(&mut self, name: &str, mut part: Vec<Token>) -> Vec<Token> {
        let Some(old) = part.get(1).map(|token| token.text.to_ascii_lowercase()) else { return part };
        let end = match part.get(2) {
            Some(open) if open.is_mark("(") => closing(&part, 2).map_or(2, |close| close + 1),
            _ => 2,
        };
        let source = text(part.get(1..end).unwrap_or_default());
        let to_mariadb = self.to.family == Family::MariaDb;
        let latin = if self.to.family == Family::OceanBase {
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
        } else {
            "CHARACTER SET ascii COLLATE ascii_general_ci"
        };
        let has_json = !to_mariadb && (self.to.family == Family::OceanBase || self.to.version >= (5, 7));
        let has_vector = match self.to.family {
            Family::MariaDb => self.to.version >= (11, 7),
            Family::MySql => self.to.version >= (9, 0),
            Family::OceanBase => true,
        };
        let target = match old.as_str() {
            // The same word there is another type: text that is checked to be JSON.
            "json" if to_mariadb && self.from.family != Family::MariaDb => {
                let checked = format!("longtext CHECK (json_valid(`{name}`))");
                self.record(name, "type", &source, &checked, false);
                return part;
            }
            "json" if !has_json => "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin".to_owned(),
            "geomcollection" if !self.to.is_mysql_8() => "geometrycollection".to_owned(),
            "uuid" if !to_mariadb => format!("char(36) {latin}"),
            "inet6" if !to_mariadb => format!("varchar(39) {latin}"),
            "inet4" if !to_mariadb => format!("varchar(15) {latin}"),
            "vector" if !has_vector => {
                let numbers: u32 = part.get(3).and_then(|token| token.text.parse().ok()).unwrap_or(2048);
                format!("varbinary({})", numbers.saturating_mul(VECTOR_NUMBER_BYTES))
            }
            _ => return part,
        };
        self.record(name, "type", &source, &target, false);
        drop(part.splice(1..end, super::tokens(&target).unwrap_or_default()));
        if let Some(first) = part.get_mut(1) {
            first.spaced = true;
        }
        part
    }

    /// Attributes that only one family has. None of them changes a value.
    fn attributes(&mut self, name: &str, mut part: Vec<Token>) -> Vec<Token> {
        let has_invisible = match self.to.family {
            Family::MariaDb => self.to.version >= (10, 3),
            Family::MySql => self.to.version >= (8, 0),
            Family::OceanBase => true,
        };
        if !has_invisible {
            part = self.without(name, part, &["INVISIBLE"], 0);
        }
        if !self.to.is_mysql_8() {
            part = self.without(name, part, &["SRID"], 1);
            part = self.without(name, part, &["ENGINE_ATTRIBUTE"], 1);
            part = self.without(name, part, &["SECONDARY_ENGINE_ATTRIBUTE"], 1);
            part = self.without(name, part, &["NOT", "SECONDARY"], 0);
        }
        if self.to.family != Family::MySql {
            part = self.without(name, part, &["COLUMN_FORMAT"], 1);
            part = self.without(name, part, &["STORAGE"], 1);
        }
        if self.to.family != Family::MariaDb {
            part = self.without(name, part, &["COMPRESSED"], 0);
            part = self.without(name, part, &["REF_SYSTEM_ID"], 1);
            part = self.without(name, part, &["WITHOUT", "SYSTEM", "VERSIONING"], 0);
        }
        part
    }

    /// Leaves out these words and `values` tokens behind them (an equals sign counts as none), and says so.
    pub(super) fn without(
        &mut self,
        object: &str,
        mut part: Vec<Token>,
        words: &[&str],
        values: usize,
    ) -> Vec<Token> {
        let begins = |i: &usize| {
            // The first token is the name.
            *i > 0
                && words
                    .iter()
                    .enumerate()
                    .all(|(n, word)| part.get(i + n).is_some_and(|token| token.is(word)))
        };
        let Some(begin) = top_level(&part).find(begins) else { return part };
        let mut end = begin + words.len();
        if part.get(end).is_some_and(|token| token.is_mark("=")) {
            end += 1;
        }
        let end = (end + values).min(part.len());
        let gone: Vec<Token> = part.drain(begin..end).collect();
        self.record(object, "attribute", &text(&gone), "", false);
        part
    }

    /// MariaDB writes PERSISTENT for STORED in old definitions, and takes no NOT NULL behind either.
    fn generated(&mut self, name: &str, mut part: Vec<Token>) -> Vec<Token> {
        let Some(at) = top_level(&part).find(|i| part.get(*i).is_some_and(|token| token.is("AS"))) else {
            return part;
        };
        if self.to.family == Family::MySql && self.to.version < (5, 7) {
            self.problem(format!(
                "Its column {name} is generated, which the target doesn't know; make it an ordinary column first, or \
                 exclude the table with exclude_tables."
            ));
            return part;
        }
        if self.to.family == Family::MariaDb {
            let not_null = |i: &usize| {
                *i > at
                    && part.get(*i).is_some_and(|token| token.is("NOT"))
                    && part.get(i + 1).is_some_and(|token| token.is("NULL"))
            };
            if let Some(begin) = top_level(&part).find(not_null) {
                part.drain(begin..begin + 2);
                self.record(name, "generated", "NOT NULL", "", false);
            }
        } else if let Some(token) = part.iter_mut().skip(at).find(|token| token.is("PERSISTENT")) {
            "STORED".clone_into(&mut token.text);
        }
        part
    }

    fn default_value(&mut self, name: &str, part: Vec<Token>) -> Vec<Token> {
        let Some(at) = top_level(&part).find(|i| part.get(*i).is_some_and(|token| token.is("DEFAULT")))
        else {
            return part;
        };
        let base = part.get(1).map(|token| token.text.to_ascii_lowercase()).unwrap_or_default();
        let end = default_end(&part, at + 1);
        let value = part.get(at + 1..end).unwrap_or_default().to_vec();
        let (Some(first), false) = (value.first(), self.to.family == Family::MariaDb) else { return part };
        let null = first.is("NULL");
        let no_literal = NO_LITERAL_DEFAULT.contains(&base.as_str()) && !null;
        let expression = first.is_mark("(")
            || no_literal
            || (first.kind == Kind::Word
                && value.get(1).is_some_and(|token| token.is_mark("("))
                && !PLAIN_DEFAULTS.iter().any(|plain| first.is(plain)));
        if !expression {
            return part;
        }
        let takes =
            if self.to.is_mysql_8() { true } else { self.to.family == Family::OceanBase && !no_literal };
        if !takes {
            return self.without_default(name, part, at, end);
        }
        if first.is_mark("(") {
            return part;
        }
        let mut out = part.get(..=at).unwrap_or_default().to_vec();
        out.push(Token::new(Kind::Mark, "("));
        let mut inner = value.clone();
        if let Some(first) = inner.first_mut() {
            first.spaced = false;
        }
        out.extend(inner);
        out.push(Token { kind: Kind::Mark, text: ")".to_owned(), spaced: false });
        out.extend(part.get(end..).unwrap_or_default().to_vec());
        self.record(name, "default", &text(&value), &format!("({})", text(&value)), false);
        out
    }

    /// A default that the target can't have: an INSERT that leaves the column out comes out differently there.
    fn without_default(&mut self, name: &str, mut part: Vec<Token>, at: usize, end: usize) -> Vec<Token> {
        let gone: Vec<Token> = part.drain(at..end).collect();
        self.record(name, "default", &text(&gone), "", true);
        part
    }

    /// MariaDB's CHECK of a column, which a MySQL before 8.0 reads and forgets.
    fn column_check(&mut self, name: &str, mut part: Vec<Token>) -> Vec<Token> {
        if self.to.family != Family::MySql || self.to.is_mysql_8() {
            return part;
        }
        let Some(begin) = top_level(&part).find(|i| part.get(*i).is_some_and(|token| token.is("CHECK")))
        else {
            return part;
        };
        let end = closing(&part, begin + 1).map_or(part.len(), |close| close + 1);
        let gone: Vec<Token> = part.drain(begin..end).collect();
        self.record(name, "check", &text(&gone), "", true);
        part
    }
}

/// Where the value that begins at `start` ends: a literal with its introducer or prefix, a bracket, or a function.
fn default_end(part: &[Token], start: usize) -> usize {
    let mut end = start;
    let sign = |token: &Token| token.is_mark("-") || token.is_mark("+");
    while part.get(end).is_some_and(sign) {
        end += 1;
    }
    let Some(first) = part.get(end) else { return end };
    if first.is_mark("(") {
        return closing(part, end).map_or(part.len(), |close| close + 1);
    }
    end += 1;
    match part.get(end) {
        Some(next) if next.is_mark("(") && first.kind == Kind::Word => {
            closing(part, end).map_or(part.len(), |close| close + 1)
        }
        // `_utf8mb4'a'`, `b'101'`.
        Some(next) if next.kind == Kind::Text && first.kind == Kind::Word && !next.spaced => end + 1,
        _ => end,
    }
}
