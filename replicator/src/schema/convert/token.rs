//! Tokens of a definition, as far as rewriting it needs them: words, names, literals and brackets.
//!
//! A versioned comment (`/*!80023 INVISIBLE */`, `/*M!100301 COMPRESSED*/`) that a server prints is part of what it
//! means, so its content becomes tokens like any other; every other comment is white space.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word without quotes: a keyword, a name, a number.
    Word,
    /// A name in backticks.
    Name,
    /// A string literal in either quotes, with its introducer or prefix in a word before it.
    Text,
    /// One character of punctuation.
    Mark,
}

/// A token of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// As it is written, quotes included.
    pub(super) text: String,
    /// White space stands before it. Kept because a function's name and its bracket mustn't be parted.
    pub(super) spaced: bool,
}

impl Token {
    pub(super) fn new(kind: Kind, text: &str) -> Self {
        Self { kind, text: text.to_owned(), spaced: true }
    }

    /// A word of this spelling, in any case.
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }

    /// The name that a word or a quoted name stands for.
    pub(super) fn name(&self) -> String {
        let inner = self.text.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
        inner.map_or_else(|| self.text.clone(), |inner| inner.replace("``", "`"))
    }
}

/// The tokens of `sql`; `None` where a quote or a comment isn't closed.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = sql;
    let mut spaced = false;
    // Inside a versioned comment its end is white space.
    let mut in_versioned = false;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = versioned(rest) {
            (rest, in_versioned, spaced) = (after, true, true);
            continue;
        }
        if in_versioned && let Some(after) = rest.strip_prefix("*/") {
            (rest, in_versioned, spaced) = (after, false, true);
            continue;
        }
        if let Some(length) = blank(rest)? {
            (rest, spaced) = (rest.get(length..)?, true);
            continue;
        }
        let (kind, length) = match first {
            '`' => (Kind::Name, quoted(rest, '`')?),
            '\'' | '"' => (Kind::Text, quoted(rest, first)?),
            c if is_word(c) && c != '.' => (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
            c => (Kind::Mark, c.len_utf8()),
        };
        let (text, after) = rest.split_at_checked(length)?;
        found.push(Token { kind, text: text.to_owned(), spaced: std::mem::take(&mut spaced) });
        rest = after;
    }
    (!in_versioned).then_some(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '@' | '.')
}

/// What stands behind the opening of a versioned comment.
fn versioned(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("/*!").or_else(|| text.strip_prefix("/*M!"))?;
    Some(inner.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Length of the white space or comment that `text` begins with. The outer `None`: a comment without an end.
#[expect(clippy::option_option, reason = "nothing to skip isn't the same as nothing that can be read")]
fn blank(text: &str) -> Option<Option<usize>> {
    let space = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    if space > 0 {
        return Some(Some(space));
    }
    if text.starts_with("/*") {
        return text.find("*/").map(|end| Some(end + 2));
    }
    let line = text.starts_with('#') || text.starts_with("-- ") || text.starts_with("--\n");
    Some(line.then(|| text.find('\n').unwrap_or(text.len())))
}

/// Length of a quoted token. A doubled quote is one inside; in text a backslash escapes.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote != '`' {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => drop(chars.next()),
                _ => return Some(at + 1),
            }
        }
    }
    None
}

/// The text of tokens.
pub(super) fn text(tokens: &[Token]) -> String {
    let mut out = String::new();
    for token in tokens {
        if token.spaced && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&token.text);
    }
    out
}

/// The index of the bracket that closes the one at `open`.
pub(super) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(i);
            }
        }
    }
    None
}

/// Splits at the commas outside of brackets.
pub(super) fn items(tokens: &[Token]) -> Vec<Vec<Token>> {
    let (mut items, mut item, mut depth) = (Vec::new(), Vec::new(), 0_usize);
    for token in tokens {
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.saturating_sub(1);
        } else if token.is_mark(",") && depth == 0 {
            items.push(std::mem::take(&mut item));
            continue;
        }
        item.push(token.clone());
    }
    if !item.is_empty() {
        items.push(item);
    }
    items
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn definitions_are_cut_into_tokens() {
        let check = |sql: &str, expected: &str| {
            let words: Option<Vec<String>> =
                tokens(sql).map(|tokens| tokens.into_iter().map(|token| token.text).collect());
            assert_eq!(words.map_or("-".to_owned(), |words| words.join("|")), expected, "{sql}");
        };
        check("a INT(11)", "a|INT|(|11|)");
        check("`s`.`t` s.t", "`s`|.|`t`|s.t");
        check("`a``b` varchar(1) DEFAULT 'x''y\\'z'", "`a``b`|varchar|(|1|)|DEFAULT|'x''y\\'z'");
        check("x /*!80023 INVISIBLE */, y", "x|INVISIBLE|,|y");
        check("x /*M!100301 COMPRESSED*/ y", "x|COMPRESSED|y");
        check("a /* no */ b -- no\nc # no", "a|b|c");
        check("_utf8mb4'a' 1.5 'it''s'", "_utf8mb4|'a'|1.5|'it''s'");
        check("'open", "-");
        check("/* open", "-");
        check("/*!80000 open", "-");
    }

    #[test]
    fn text_keeps_what_parted_tokens() {
        let sql = "`a` int DEFAULT (concat(`b`,_utf8mb4'x')), KEY `k` (`a`)";
        assert_eq!(text(&tokens(sql).unwrap()), sql);
    }
}
