//! A line of SHOW GRANTS, taken apart. Nothing of what it may say about passwords is kept (invariant 8).

use config::AccountName;
use config::names::quote_identifier;

/// What a privilege is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// `*.*`
    Global,
    /// A schema as in the grant: `%` and `_` are wildcards unless escaped.
    Schema(String),
    /// A table or a view.
    Table(String, String),
    /// `PROCEDURE`, `FUNCTION` and the like, schema and name.
    Routine(String, String, String),
    /// To be taken for another account.
    Proxy(AccountName),
    /// To be in a role; MariaDB's have no host.
    Role(AccountName),
}

impl Scope {
    /// As GRANT takes it behind ON; of a role the role.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Global => "*.*".to_owned(),
            Self::Schema(pattern) => format!("{}.*", quote_identifier(pattern)),
            Self::Table(schema, table) => format!("{}.{}", quote_identifier(schema), quote_identifier(table)),
            Self::Routine(kind, schema, name) => {
                format!("{kind} {}.{}", quote_identifier(schema), quote_identifier(name))
            }
            Self::Proxy(account) => account.to_string(),
            Self::Role(role) => role_sql(role),
        }
    }
}

/// A role's name in SQL. One without a host is MariaDB's.
pub(super) fn role_sql(role: &AccountName) -> String {
    if role.host.is_empty() { quote_identifier(&role.user) } else { role.to_string() }
}

/// What one line grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) scope: Scope,
    /// In upper case, each with its columns as they go into SQL: `SELECT`, ``UPDATE (`a`, `b`)``.
    pub(super) privileges: Vec<String>,
    /// With GRANT OPTION, of a role ADMIN OPTION.
    pub(super) grantable: bool,
    /// It takes away instead: MySQL's partial revokes.
    pub(super) is_revoke: bool,
    /// Whose it is.
    pub(super) grantee: AccountName,
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// In upper case.
    Word(String),
    /// Between backticks, or quotes of either kind.
    Quoted(String),
    Mark(char),
}

/// Reads a line. `None`: it isn't understood. Lines that grant nothing (SET DEFAULT ROLE) aren't, either.
pub(super) fn parse(line: &str) -> Option<Grant> {
    let mut rest = Tokens { tokens: &tokens(line)? };
    let is_revoke = match rest.word()?.as_str() {
        "GRANT" => false,
        "REVOKE" => true,
        _ => return None,
    };
    let on = rest.tokens.iter().position(|token| is_word(token, "ON"));
    let to = rest.tokens.iter().position(|token| is_word(token, "TO") || is_word(token, "FROM"))?;
    let (scope, privileges) = match on.filter(|on| *on < to) {
        Some(on) => {
            let privileges = privileges(rest.tokens.get(..on)?)?;
            rest.tokens = rest.tokens.get(on + 1..)?;
            let is_proxy = privileges == ["PROXY"];
            (if is_proxy { Scope::Proxy(rest.account()?) } else { rest.scope()? }, privileges)
        }
        None => (Scope::Role(rest.account()?), Vec::new()),
    };
    if !is_word(rest.next()?, "TO") && !is_revoke {
        return None;
    }
    let grantee = rest.account()?;
    let ends_with = |last: [&str; 2]| {
        let tail = rest.tokens.len().checked_sub(2).and_then(|at| rest.tokens.get(at..));
        tail.is_some_and(|tail| tail.iter().zip(last).all(|(token, word)| is_word(token, word)))
    };
    let grantable = ends_with(["GRANT", "OPTION"]) || ends_with(["ADMIN", "OPTION"]);
    Some(Grant { scope, privileges, grantable, is_revoke, grantee })
}

fn is_word(token: &Token, wanted: &str) -> bool {
    matches!(token, Token::Word(word) if word == wanted)
}

struct Tokens<'a> {
    tokens: &'a [Token],
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.clone()),
            _ => None,
        }
    }

    fn mark(&mut self, wanted: char) -> bool {
        let found = self.tokens.first() == Some(&Token::Mark(wanted));
        if found {
            self.tokens = self.tokens.get(1..).unwrap_or_default();
        }
        found
    }

    fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Quoted(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// `user`@`host`, or a role of MariaDB's.
    fn account(&mut self) -> Option<AccountName> {
        let user = match self.next()? {
            Token::Quoted(name) | Token::Word(name) => name.clone(),
            Token::Mark(_) => return None,
        };
        let host = if self.mark('@') { self.name()? } else { String::new() };
        Some(AccountName { user, host })
    }

    fn scope(&mut self) -> Option<Scope> {
        if self.mark('*') {
            return (self.mark('.') && self.mark('*')).then_some(Scope::Global);
        }
        let mut kind = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.first() {
            kind.push(word.clone());
            self.next();
        }
        let schema = self.name()?;
        if !self.mark('.') {
            return None;
        }
        if kind.is_empty() && self.mark('*') {
            return Some(Scope::Schema(schema));
        }
        let name = self.name()?;
        match kind.join(" ") {
            kind if kind.is_empty() || kind == "TABLE" => Some(Scope::Table(schema, name)),
            kind => Some(Scope::Routine(kind, schema, name)),
        }
    }
}

/// `SELECT (`a`, `b`), INSERT`.
fn privileges(tokens: &[Token]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    let mut inside = false;
    for token in tokens.iter().chain([&Token::Mark(',')]) {
        match token {
            Token::Word(word) if !inside => words.push(word),
            // MySQL 5.6 doesn't quote them. A word has lost its case, which doesn't matter to a column.
            Token::Word(column) | Token::Quoted(column) if inside => columns.push(quote_identifier(column)),
            Token::Mark('(') => inside = true,
            Token::Mark(')') => inside = false,
            Token::Mark(',') if inside => {}
            Token::Mark(',') if !words.is_empty() => {
                let of =
                    if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
                all.push(format!("{}{of}", words.join(" ")));
                words.clear();
                columns.clear();
            }
            _ => return None,
        }
    }
    Some(all)
}

fn tokens(line: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        if matches!(c, '`' | '\'' | '"') {
            tokens.push(Token::Quoted(quoted(&mut chars)?));
            continue;
        }
        chars.next();
        if c.is_whitespace() {
            continue;
        }
        if !(c.is_alphanumeric() || c == '_') {
            tokens.push(Token::Mark(c));
            continue;
        }
        let mut word = c.to_uppercase().to_string();
        while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '$') {
            word.extend(c.to_uppercase());
        }
        tokens.push(Token::Word(word));
    }
    Some(tokens)
}

/// A name between marks, which are doubled in it. A backslash is a character of it: what it escapes is a wildcard.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mark = chars.next()?;
    let mut name = String::new();
    loop {
        match chars.next()? {
            c if c == mark => {
                if chars.next_if_eq(&mark).is_none() {
                    return Some(name);
                }
                name.push(mark);
            }
            c => name.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn lines_of_every_server_are_understood() {
        let check = |line: &str, scope: &str, privileges: &[&str], grantable: bool| {
            let grant = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((grant.scope.sql().as_str(), grant.grantable), (scope, grantable), "{line}");
            assert_eq!(grant.privileges, privileges, "{line}");
            assert_eq!(grant.grantee.user, "app", "{line}");
        };
        check("GRANT USAGE ON *.* TO `app`@`%`", "*.*", &["USAGE"], false);
        check(
            "GRANT SELECT, INSERT ON `sh\\_op`.* TO `app`@`%` WITH GRANT OPTION",
            "`sh\\_op`.*",
            &["SELECT", "INSERT"],
            true,
        );
        check(
            "GRANT USAGE ON *.* TO 'app'@'%' IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 5 GRANT OPTION",
            "*.*",
            &["USAGE"],
            true,
        );
        check(
            "GRANT SELECT (`a`, `b c`), UPDATE (a) ON `s`.`t` TO `app`@`%`",
            "`s`.`t`",
            &["SELECT (`a`, `b c`)", "UPDATE (`A`)"],
            false,
        );
        check("GRANT EXECUTE ON PROCEDURE `s`.`p` TO `app`@`%`", "PROCEDURE `s`.`p`", &["EXECUTE"], false);
        check(
            "GRANT EXECUTE ON PACKAGE BODY `s`.`p` TO `app`@`%`",
            "PACKAGE BODY `s`.`p`",
            &["EXECUTE"],
            false,
        );
        check("GRANT PROXY ON ''@'%' TO 'app'@'h' WITH GRANT OPTION", "''@'%'", &["PROXY"], true);
        check("GRANT `reader`@`%` TO `app`@`%` WITH ADMIN OPTION", "'reader'@'%'", &[], true);
        check("GRANT `reader` TO `app`@`%`", "`reader`", &[], false);
        check(
            "GRANT READ_ONLY ADMIN, ALTER ROUTINE ON *.* TO `app`@`%`",
            "*.*",
            &["READ_ONLY ADMIN", "ALTER ROUTINE"],
            false,
        );
        check("GRANT SELECT ON `a``b`.* TO `app`", "`a``b`.*", &["SELECT"], false);
        let revoke = parse("REVOKE INSERT ON `s`.* FROM `app`@`%`").unwrap();
        assert!(revoke.is_revoke && revoke.scope == Scope::Schema("s".into()));
        for line in ["", "SET DEFAULT ROLE r FOR `a`@`%`", "GRANT", "GRANT SELECT ON", "GRANT `a` `b`"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
