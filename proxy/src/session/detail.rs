//! The second pass over a statement: the names and texts that its effects are about. Only statements whose
//! first pass ([`super::lexer`]) says that there is something to read come here.

use std::collections::BTreeSet;

use super::tokens::{Kind, Token, Tokens, unescape};

/// Names of user variables, in lower case, in the client's character set. No more than `max` and one, which
/// says that there are too many.
pub(crate) fn user_variables(text: &[u8], plain_backslash: bool, max: usize) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for token in Tokens::new(text, plain_backslash) {
        if token.kind == Kind::UserVariable && !token.text.is_empty() {
            names.insert(token.text.to_ascii_lowercase());
            if names.len() > max {
                break;
            }
        }
    }
    names
}

/// Names of session variables that SET statements in it set, in lower case; words that are no variables (NAMES)
/// may be among them. A statement has at most `SET_MAX` that count.
pub(crate) fn set_variables(text: &[u8], plain_backslash: bool) -> Vec<String> {
    let mut names = Vec::new();
    let (mut first, mut in_set, mut expects, mut depth) = (true, false, false, 0_u32);
    for token in Tokens::new(text, plain_backslash) {
        match token.kind {
            Kind::Sign(b';') => (first, in_set, expects, depth) = (true, false, false, 0),
            Kind::Sign(b'(') => depth += 1,
            Kind::Sign(b')') => depth = depth.saturating_sub(1),
            Kind::Sign(b',') if depth == 0 => expects = in_set,
            Kind::Word if first => (first, in_set, expects) = (false, token.is("SET"), token.is("SET")),
            Kind::Word if expects && (token.is("SESSION") || token.is("LOCAL")) => {}
            Kind::Word | Kind::Backticked | Kind::SystemVariable if expects => {
                expects = false;
                let of_all = ["GLOBAL", "PERSIST", "PERSIST_ONLY"];
                let mut parts = token.text.rsplitn(2, |byte| *byte == b'.');
                let name = parts.next().unwrap_or_default();
                let scope = parts.next().unwrap_or_default();
                let global =
                    of_all.iter().any(|word| token.is(word) || scope.eq_ignore_ascii_case(word.as_bytes()));
                if !global && names.len() < SET_MAX {
                    names.push(String::from_utf8_lossy(name).to_ascii_lowercase());
                }
            }
            _ => expects = false,
        }
    }
    names
}

/// Variables that one statement sets.
const SET_MAX: usize = 256;

/// The schema of `USE schema`.
pub(crate) fn used_schema(text: &[u8], plain_backslash: bool) -> Option<Vec<u8>> {
    let mut tokens = Tokens::new(text, plain_backslash);
    tokens.next().filter(|token| token.is("USE"))?;
    tokens.next().and_then(name)
}

fn name(token: Token<'_>) -> Option<Vec<u8>> {
    match token.kind {
        Kind::Word | Kind::Number | Kind::Backticked => Some(token.text.to_vec()),
        _ => None,
    }
}

/// A table as a statement names it, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedTable {
    /// `None`: in the current schema.
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) table: Vec<u8>,
}

/// The tables of CREATE TEMPORARY TABLE or DROP [TEMPORARY] TABLE. `None` where they can't be told.
pub(crate) fn tables(text: &[u8], plain_backslash: bool) -> Option<Vec<NamedTable>> {
    let mut tokens = Tokens::new(text, plain_backslash).peekable();
    let drops = tokens.next()?.is("DROP");
    for token in tokens.by_ref() {
        if token.is("TABLE") || token.is("TABLES") {
            break;
        }
        if !["OR", "REPLACE", "TEMPORARY"].iter().any(|word| token.is(word)) {
            return None;
        }
    }
    while tokens.next_if(|t| ["IF", "NOT", "EXISTS"].iter().any(|word| t.is(word))).is_some() {}
    let mut tables = Vec::new();
    loop {
        let (mut schema, mut table) = (None, name(tokens.next()?)?.to_ascii_lowercase());
        while tokens.next_if(|t| t.kind == Kind::Sign(b'.')).is_some() {
            let behind = name(tokens.next()?)?.to_ascii_lowercase();
            schema = Some(std::mem::replace(&mut table, behind));
        }
        tables.push(NamedTable { schema, table });
        if !drops || tokens.next_if(|t| t.kind == Kind::Sign(b',')).is_none() {
            return Some(tables);
        }
    }
}

/// The literal first arguments of each call of `function`, as written. `None` where one isn't a literal.
pub(crate) fn lock_names(text: &[u8], function: &str, plain_backslash: bool) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut tokens = Tokens::new(text, plain_backslash);
    while let Some(token) = tokens.next() {
        if !token.is(function) {
            continue;
        }
        tokens.next().filter(|token| token.kind == Kind::Sign(b'('))?;
        let name = tokens.next().filter(|token| token.kind == Kind::Quoted)?.text.to_ascii_lowercase();
        // Anything but the end of the argument makes an expression of it.
        tokens.next().filter(|token| matches!(token.kind, Kind::Sign(b',' | b')')))?;
        names.push(name);
    }
    Some(names)
}

/// The procedures of each CALL in it, in lower case and without their schemas. `None` where one can't be read.
pub(crate) fn called(text: &[u8], plain_backslash: bool) -> Option<Vec<Vec<u8>>> {
    let mut tokens = Tokens::new(text, plain_backslash).peekable();
    let mut names = Vec::new();
    while let Some(token) = tokens.next() {
        if !token.is("CALL") {
            continue;
        }
        let mut called = name(tokens.next()?)?;
        while tokens.next_if(|token| token.kind == Kind::Sign(b'.')).is_some() {
            called = name(tokens.next()?)?;
        }
        names.push(called.to_ascii_lowercase());
    }
    Some(names)
}

/// What `PREPARE name FROM …` prepares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextPrepare {
    /// Name of the statement, in lower case.
    pub(crate) name: Vec<u8>,
    /// What is between the quotes, for a look at its effects; `None` where the text is in a variable, so
    /// that preparing it again wouldn't be the same.
    pub(crate) inner: Option<Vec<u8>>,
}

/// Reads a PREPARE. `None` where it isn't one.
pub(crate) fn text_prepare(text: &[u8], plain_backslash: bool) -> Option<TextPrepare> {
    let mut tokens = Tokens::new(text, plain_backslash);
    tokens.next().filter(|token| token.is("PREPARE"))?;
    let name = name(tokens.next()?)?.to_ascii_lowercase();
    tokens.next().filter(|token| token.is("FROM"))?;
    let mut inner: Option<Vec<u8>> = None;
    for token in tokens {
        match token.kind {
            Kind::Quoted => {
                let part = unescape(token.text, plain_backslash);
                match &mut inner {
                    // A doubled quote, most likely; whether it is one is the server's business, and a quote
                    // more or less doesn't hide a keyword from the lexer.
                    Some(inner) => inner.extend(part),
                    None => inner = Some(part),
                }
            }
            Kind::Sign(b';') => break,
            _ => return Some(TextPrepare { name, inner: None }),
        }
    }
    Some(TextPrepare { name, inner })
}

/// The name in EXECUTE name, DEALLOCATE PREPARE name, DROP PREPARE name; in lower case.
pub(crate) fn prepared_name(text: &[u8], plain_backslash: bool) -> Option<Vec<u8>> {
    let mut tokens = Tokens::new(text, plain_backslash);
    let verb = tokens.next()?;
    if !verb.is("EXECUTE") {
        tokens.next().filter(|token| token.is("PREPARE"))?;
    }
    name(tokens.next()?).map(|name| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn words(names: Option<Vec<Vec<u8>>>) -> Option<String> {
        names.map(|names| String::from_utf8(names.join(&b' ')).unwrap())
    }

    #[test]
    fn calls_are_named() {
        for (text, expected) in [
            ("CALL p()", Some("p")),
            ("call `Shop`.`P q`(1); CALL r", Some("p q r")),
            ("SELECT 'CALL p'", Some("")),
            ("CALL \"p\"()", None),
            ("CALL", None),
        ] {
            assert_eq!(words(called(text.as_bytes(), false)).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn names_are_read() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                words(Some(user_variables(text.as_bytes(), false, 9).into_iter().collect())).unwrap(),
                expected,
                "{text}"
            );
        };
        check("SET @a = 1, @`B c` := @a + @@x", "a b c");
        check("SELECT '@no' INTO @yes -- @no", "yes");
        assert_eq!(used_schema(b"use `my shop`;", false).unwrap(), b"my shop");
        assert_eq!(used_schema(b"SELECT 1", false), None);
    }

    #[test]
    fn set_variables_are_read() {
        let check = |text: &str, expected: &str| {
            assert_eq!(set_variables(text.as_bytes(), false).join(" "), expected, "{text}");
        };
        check(
            "SET SESSION lock_wait_timeout = 5, @a = 3, @@sql_mode = '', `Wait_Timeout` = 9",
            "lock_wait_timeout sql_mode wait_timeout",
        );
        check("SET GLOBAL a = 1, @@global.b = 2, @@session.c = GREATEST(1, d)", "c");
        check("SELECT 1; SET LOCAL x := 2", "x");
        check("UPDATE t SET a = 1, b = 2", "");
        check("SET NAMES utf8", "names");
    }

    #[test]
    fn tables_are_read() {
        let check = |text: &str, expected: Option<&str>| {
            let named = tables(text.as_bytes(), false).map(|tables| {
                let full = |named: NamedTable| [named.schema.unwrap_or_default(), named.table].join(&b'.');
                tables.into_iter().map(full).collect()
            });
            assert_eq!(words(named).as_deref(), expected, "{text}");
        };
        check("CREATE TEMPORARY TABLE IF NOT EXISTS Shop.`T` (a int)", Some("shop.t"));
        check("create or replace temporary table t select 1", Some(".t"));
        check("DROP TEMPORARY TABLE a, s.b", Some(".a s.b"));
        check("DROP TABLE IF EXISTS a", Some(".a"));
        check("CREATE TEMPORARY SEQUENCE s", None);
    }

    #[test]
    fn locks_are_read() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(words(lock_names(text.as_bytes(), "GET_LOCK", false)).as_deref(), expected, "{text}");
        };
        check("SELECT GET_LOCK('A', 1), GET_LOCK(\"b\", 0)", Some("a b"));
        check("SELECT GET_LOCK(?, 1)", None);
        check("SELECT GET_LOCK('a' 'b', 1)", None);
        check("SELECT GET_LOCK(CONCAT('a'), 1)", None);
    }

    #[test]
    fn prepares_are_read() {
        let prepare = text_prepare(b"PREPARE S FROM 'SET @a = ''x'', @b = ?'", false).unwrap();
        assert_eq!((prepare.name, prepare.inner), (b"s".to_vec(), Some(b"SET @a = x, @b = ?".to_vec())));
        assert_eq!(text_prepare(b"PREPARE s FROM @v", false).unwrap().inner, None);
        assert_eq!(text_prepare(b"PREPARE s FROM CONCAT('a')", false).unwrap().inner, None);
        assert_eq!(prepared_name(b"EXECUTE `S` USING @a", false).unwrap(), b"s");
        assert_eq!(prepared_name(b"DROP PREPARE s", false).unwrap(), b"s");
        assert_eq!(prepared_name(b"DROP TABLE s", false), None);
    }
}
