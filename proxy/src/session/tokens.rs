//! Statement text in tokens: just enough to know what is a word and what is inside quotes or a comment.
//!
//! What stands in `/*! … */` is code for the server, so it is code here; other comments are skipped.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or a name without quotes; `text` is all of it.
    Word,
    /// A number.
    Number,
    /// Between `'` or `"`; `text` is what is inside, as written.
    Quoted,
    /// A name between backticks; `text` is what is inside, as written.
    Backticked,
    /// `@name`; `text` is the name, without quotes.
    UserVariable,
    /// `@@name` with what precedes the last dot; `text` is all behind the `@@`.
    SystemVariable,
    /// Any other character.
    Sign(u8),
}

/// A token and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a [u8],
}

impl Token<'_> {
    /// True for this keyword, in any case.
    pub(crate) fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword.as_bytes())
    }
}

const SPACE: u8 = 0;
const WORD: u8 = 1;
const DIGIT: u8 = 2;
const SIGN: u8 = 3;
/// Class of each byte. Bytes from 0x80 on belong to names, as in MySQL.
const CLASS: [u8; 256] = {
    let mut class = [SIGN; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80..=0xFF => WORD,
            b'0'..=b'9' => DIGIT,
            b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => SPACE,
            _ => SIGN,
        };
        byte += 1;
    }
    class
};

/// In a statement whose first word leaves nothing open only a few words mean something: those that begin as
/// the names of the functions do that [`super::lexer`] looks for. All else but quotes, variables, comments and
/// semicolons is dull there.
const DULL: [u8; 256] = {
    let mut class = CLASS;
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'f' | b'F' | b'g' | b'G' | b'l' | b'L' | b'r' | b'R' | b's' | b'S' => SIGN,
            b'\'' | b'"' | b'`' | b'@' | b'#' | b'-' | b'/' | b'*' | b';' => SIGN,
            _ => match CLASS[byte] {
                DIGIT => WORD,
                SIGN => SPACE,
                other => other,
            },
        };
        byte += 1;
    }
    class
};

/// Iterates over the tokens of a text.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// A backslash in quotes is a character like any other (sql_mode NO_BACKSLASH_ESCAPES).
    plain_backslash: bool,
    /// Inside of `/*! … */`.
    in_code_comment: bool,
    /// A quote or a comment had no end.
    pub(crate) unterminated: bool,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a [u8], plain_backslash: bool) -> Self {
        Self { text, at: 0, plain_backslash, in_code_comment: false, unterminated: false }
    }

    /// To the next token that isn't dull.
    #[inline]
    pub(crate) fn skip_dull(&mut self) {
        let mut at = self.at;
        while let Some(&byte) = self.text.get(at) {
            match DULL[usize::from(byte)] {
                SPACE => at += 1,
                WORD => at += 1 + word_len(&self.text[at + 1..]),
                _ => break,
            }
        }
        self.at = at;
    }

    #[inline]
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    #[inline]
    fn take_word(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at = start + word_len(&self.text[start..]);
        &self.text[start..self.at]
    }

    /// Past the closing quote; what is inside as written. The two halves of `'it''s'` come as two tokens.
    fn take_quoted(&mut self, quote: u8) -> &'a [u8] {
        let start = self.at + 1;
        let backslash = quote != b'`' && !self.plain_backslash;
        let mut at = start;
        while let Some(&byte) = self.text.get(at) {
            if byte == quote {
                self.at = at + 1;
                return &self.text[start..at];
            }
            at += if byte == b'\\' && backslash { 2 } else { 1 };
        }
        self.unterminated = true;
        self.at = self.text.len();
        self.text.get(start..).unwrap_or_default()
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }

    /// At `/*`: into the comment where it holds code, past it otherwise.
    fn skip_comment(&mut self) {
        let code = match self.peek(2) {
            b'!' => 3,
            b'M' if self.peek(3) == b'!' => 4,
            _ => 0,
        };
        if code > 0 {
            self.at += code;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            self.in_code_comment = true;
            return;
        }
        let body = self.text.get(self.at + 2..).unwrap_or_default();
        match body.windows(2).position(|pair| pair == b"*/") {
            Some(len) => self.at += len + 4,
            None => {
                self.unterminated = true;
                self.at = self.text.len();
            }
        }
    }

    /// At `@`.
    fn take_variable(&mut self) -> Token<'a> {
        self.at += 1;
        let kind = if self.peek(0) == b'@' { Kind::SystemVariable } else { Kind::UserVariable };
        if kind == Kind::SystemVariable {
            self.at += 1;
        }
        let text = match self.peek(0) {
            quote @ (b'\'' | b'"' | b'`') => self.take_quoted(quote),
            _ => {
                let start = self.at;
                loop {
                    self.take_word();
                    if self.peek(0) != b'.' {
                        break;
                    }
                    self.at += 1;
                }
                &self.text[start..self.at]
            }
        };
        Token { kind, text }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    #[inline]
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let &byte = self.text.get(self.at)?;
            match CLASS[usize::from(byte)] {
                SPACE => {
                    self.at += 1;
                    continue;
                }
                WORD => return Some(Token { kind: Kind::Word, text: self.take_word() }),
                DIGIT => return Some(Token { kind: Kind::Number, text: self.take_word() }),
                _ => {}
            }
            match byte {
                b'\'' | b'"' => return Some(Token { kind: Kind::Quoted, text: self.take_quoted(byte) }),
                b'`' => return Some(Token { kind: Kind::Backticked, text: self.take_quoted(byte) }),
                b'@' => return Some(self.take_variable()),
                b'#' => self.skip_line(),
                b'-' if self.peek(1) == b'-' && self.peek(2) <= b' ' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => self.skip_comment(),
                b'*' if self.in_code_comment && self.peek(1) == b'/' => {
                    self.in_code_comment = false;
                    self.at += 2;
                }
                sign => {
                    let start = self.at;
                    self.at += 1;
                    return Some(Token { kind: Kind::Sign(sign), text: &self.text[start..self.at] });
                }
            }
        }
    }
}

/// Bytes of the word that `text` goes on with.
#[inline]
fn word_len(text: &[u8]) -> usize {
    text.iter().position(|b| !matches!(CLASS[usize::from(*b)], WORD | DIGIT)).unwrap_or(text.len())
}

/// What a server makes of the inside of quotes: doubled quotes don't reach here, escapes do.
pub(crate) fn unescape(quoted: &[u8], plain_backslash: bool) -> Vec<u8> {
    if plain_backslash || !quoted.contains(&b'\\') {
        return quoted.to_vec();
    }
    let mut out = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'0') => out.push(0),
            Some(b'b') => out.push(8),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'Z') => out.push(26),
            // Only LIKE patterns keep their backslash.
            Some(&escaped @ (b'%' | b'_')) => out.extend_from_slice(&[b'\\', escaped]),
            Some(&other) => out.push(other),
            None => out.push(b'\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let tokens: Vec<_> = Tokens::new(text.as_bytes(), false)
            .map(|t| String::from_utf8_lossy(t.text).into_owned())
            .collect();
        assert_eq!(tokens, expected, "{text}");
    }

    #[test]
    fn quotes_and_comments_are_seen() {
        check(
            "SELECT 'a''b', \"c\\\"d\" FROM `x``y`",
            &["SELECT", "a", "b", ",", "c\\\"d", "FROM", "x", "y"],
        );
        check("a -- b 'c\n# d \"\n/* e ' */ f --g", &["a", "f", "-", "-", "g"]);
        check("/*!40101 SET NAMES utf8 */;", &["SET", "NAMES", "utf8", ";"]);
        check("/*M!100500 x*/ /*+ y */ z", &["x", "z"]);
        check("@a @'b c' @`d` @@session.x @@`y` u@h", &["a", "b c", "d", "session.x", "y", "u", "h"]);
        check("1a 0x1F 1.5", &["1a", "0x1F", "1", ".", "5"]);
    }

    #[test]
    fn what_has_no_end_is_said() {
        for text in ["'a", "\"", "`x", "/* y", "'a\\'"] {
            let mut tokens = Tokens::new(text.as_bytes(), false);
            tokens.by_ref().for_each(drop);
            assert!(tokens.unterminated, "{text}");
        }
        let mut tokens = Tokens::new(b"'a\\' b", true);
        assert_eq!(tokens.by_ref().count(), 2);
        assert!(!tokens.unterminated);
    }
}
