//! Words, numbers, quoted things and symbols of an admin statement.

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Letters, digits, `_`, `$` and anything beyond ASCII, as typed. May be a number.
    Word(String),
    /// What stood between backticks.
    Identifier(String),
    /// What stood between quotes.
    Text(String),
    /// Any other character.
    Symbol(char),
}

impl Token {
    /// True for this keyword, however it is typed.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// A name of a schema or a table.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            Token::Identifier(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Token::Word(word) => word.parse().ok(),
            _ => None,
        }
    }
}

/// The tokens of a statement, without comments and without the semicolon at its end. A quote that isn't closed runs
/// to the end.
pub(super) fn tokens(statement: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        rest = if let Some(behind) = skip(rest, first) {
            behind
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            behind
        } else if matches!(first, '`' | '\'' | '"') {
            let (inside, behind) = quoted(rest, first);
            tokens.push(if first == '`' { Token::Identifier(inside) } else { Token::Text(inside) });
            behind
        } else {
            tokens.push(Token::Symbol(first));
            rest.split_at(first.len_utf8()).1
        };
    }
    while tokens.last() == Some(&Token::Symbol(';')) {
        tokens.pop();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// What is behind white space or a comment, where there is one.
fn skip(rest: &str, first: char) -> Option<&str> {
    if first.is_whitespace() {
        return Some(rest.trim_start());
    }
    let dashes = rest.strip_prefix("--").filter(|b| b.is_empty() || b.starts_with(char::is_whitespace));
    if let Some(line) = rest.strip_prefix('#').or(dashes) {
        return Some(line.split_once('\n').map_or("", |(_, behind)| behind));
    }
    let comment = rest.strip_prefix("/*")?;
    Some(comment.split_once("*/").map_or("", |(_, behind)| behind))
}

/// What is between the quotes that `rest` begins with, and what is behind them. A doubled quote stands for one, and
/// a backslash takes the next character as it is.
fn quoted(rest: &str, quote: char) -> (String, &str) {
    let mut inside = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return (inside, rest.get(at + c.len_utf8()..).unwrap_or_default());
            }
            inside.push(quote);
        } else if c == '\\' && quote != '`' {
            inside.extend(chars.next().map(|(_, next)| next));
        } else {
            inside.push(c);
        }
    }
    (inside, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_fall_into_tokens() {
        let word = |w: &str| Token::Word(w.to_owned());
        let check = |text: &str, expected: &[Token]| assert_eq!(tokens(text), expected, "{text}");
        check("", &[]);
        check(" ; ;", &[]);
        check("HELP;", &[word("HELP")]);
        check("/* a */ show\n-- b\n\tevents # c", &[word("show"), word("events")]);
        check("a--b", &[word("a"), Token::Symbol('-'), Token::Symbol('-'), word("b")]);
        check("`a``b`.c", &[Token::Identifier("a`b".into()), Token::Symbol('.'), word("c")]);
        check(r"'a\'b''c'", &[Token::Text("a'b'c".into())]);
        check("'open", &[Token::Text("open".into())]);
        check("@@x", &[Token::Symbol('@'), Token::Symbol('@'), word("x")]);
        check("sch\u{e4}ma", &[word("sch\u{e4}ma")]);
    }
}
