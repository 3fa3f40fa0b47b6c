//! What common clients send by themselves, before and between their user's statements. Answered as plainly as can be;
//! nothing of it reaches a database.

use super::answer::{Answer, Cell, Column, ErrorCode, Rows, number, text};
use super::token::Token;

/// What the admin port says of its version.
pub(super) const VERSION: &str = concat!("8.4.0-changeover-", env!("CARGO_PKG_VERSION"));

/// Small talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Talk {
    /// SET, USE, BEGIN, COMMIT, ROLLBACK: there is nothing to set, and it is fine to ask.
    Ok,
    /// SELECT of constants, variables and functions that tell of the connection.
    Select(Vec<Item>),
    /// SHOW VARIABLES, filtered by a LIKE pattern.
    Variables(Option<String>),
    /// SHOW of something of which there is nothing here.
    Empty(Nothing),
}

/// One expression of a SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    name: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Text(String),
    Null,
    Variable(String),
    ConnectionId,
    UnknownColumn(String),
}

/// Of what there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// Warnings and errors.
    Warnings,
    /// Schemas.
    Databases,
    /// Tables.
    Tables,
    /// Everything with a name and a value.
    Status,
}

const VARIABLE_COLUMNS: &[Column] = &[text("Variable_name"), text("Value")];
const WARNING_COLUMNS: &[Column] = &[text("Level"), number("Code"), text("Message")];

/// System variables that drivers ask for, sorted. Numbers are given as such.
const VARIABLES: &[(&str, &str)] = &[
    ("auto_increment_increment", "1"),
    ("autocommit", "1"),
    ("character_set_client", "utf8mb4"),
    ("character_set_connection", "utf8mb4"),
    ("character_set_database", "utf8mb4"),
    ("character_set_results", "utf8mb4"),
    ("character_set_server", "utf8mb4"),
    ("collation_connection", "utf8mb4_general_ci"),
    ("collation_database", "utf8mb4_general_ci"),
    ("collation_server", "utf8mb4_general_ci"),
    ("have_ssl", "YES"),
    ("init_connect", ""),
    ("interactive_timeout", "28800"),
    ("license", "Apache-2.0"),
    ("lower_case_table_names", "0"),
    ("max_allowed_packet", "1048576"),
    ("net_buffer_length", "16384"),
    ("net_write_timeout", "60"),
    ("performance_schema", "0"),
    ("protocol_version", "10"),
    ("query_cache_size", "0"),
    ("query_cache_type", "OFF"),
    ("read_only", "0"),
    ("sql_mode", ""),
    ("sql_select_limit", "18446744073709551615"),
    ("system_time_zone", "UTC"),
    ("time_zone", "SYSTEM"),
    ("transaction_isolation", "REPEATABLE-READ"),
    ("transaction_read_only", "0"),
    ("tx_isolation", "REPEATABLE-READ"),
    ("version", VERSION),
    ("version_comment", "Changeover"),
    ("wait_timeout", "28800"),
];

/// Small talk, where it is some.
pub(super) fn parse(tokens: &[Token]) -> Option<Talk> {
    let (first, rest) = tokens.split_first()?;
    if ["SET", "USE", "BEGIN", "COMMIT"].iter().any(|word| first.is(word)) {
        return Some(Talk::Ok);
    }
    if first.is("ROLLBACK") && rest.first().is_none_or(|next| next.is("WORK") || next.is("TO")) {
        return Some(Talk::Ok);
    }
    if first.is("START") && rest.first().is_some_and(|next| next.is("TRANSACTION")) {
        return Some(Talk::Ok);
    }
    if first.is("SELECT") {
        return select(rest).map(Talk::Select);
    }
    if first.is("SHOW") { show(rest) } else { None }
}

fn show(rest: &[Token]) -> Option<Talk> {
    let mut rest = rest;
    while let Some((first, behind)) = rest.split_first() {
        if !["SESSION", "GLOBAL", "LOCAL", "FULL"].iter().any(|word| first.is(word)) {
            break;
        }
        rest = behind;
    }
    let (first, rest) = rest.split_first()?;
    let filters = ["LIKE", "WHERE", "FROM", "IN", "LIMIT"];
    if !rest.first().is_none_or(|next| filters.iter().any(|word| next.is(word))) {
        return None;
    }
    let nothing = |what| Some(Talk::Empty(what));
    if first.is("VARIABLES") {
        let pattern = match rest {
            [like, Token::Text(pattern)] if like.is("LIKE") => Some(pattern.clone()),
            _ => None,
        };
        return Some(Talk::Variables(pattern));
    }
    if first.is("WARNINGS") || first.is("ERRORS") {
        return nothing(Nothing::Warnings);
    }
    if first.is("DATABASES") || first.is("SCHEMAS") {
        return nothing(Nothing::Databases);
    }
    if first.is("TABLES") {
        return nothing(Nothing::Tables);
    }
    let status = ["STATUS", "ENGINES", "PLUGINS", "COLLATION"].iter().any(|word| first.is(word));
    if status { nothing(Nothing::Status) } else { None }
}

/// The expressions up to a LIMIT, which changes nothing.
fn select(tokens: &[Token]) -> Option<Vec<Item>> {
    let end = tokens.iter().position(|token| token.is("LIMIT")).unwrap_or(tokens.len());
    let (list, limit) = tokens.split_at_checked(end)?;
    let limit_fits = match limit {
        [] => true,
        [_, n] => n.number().is_some(),
        _ => false,
    };
    if !limit_fits {
        return None;
    }
    list.split(|token| *token == Token::Symbol(',')).map(item).collect()
}

fn item(tokens: &[Token]) -> Option<Item> {
    let (tokens, alias) = match tokens {
        [expression @ .., keyword, alias] if keyword.is("AS") => (expression, alias.name()),
        _ => (tokens, None),
    };
    let (name, value) = expression(tokens)?;
    Some(Item { name: alias.map_or(name, str::to_owned), value })
}

fn expression(tokens: &[Token]) -> Option<(String, Value)> {
    use Token::{Symbol, Text, Word};
    match tokens {
        [Text(text)] => Some((text.clone(), Value::Text(text.clone()))),
        [Word(word)] if word.eq_ignore_ascii_case("NULL") => Some((word.clone(), Value::Null)),
        [Word(word)] => Some(match word.parse() {
            Ok(number) => (word.clone(), Value::Number(number)),
            Err(_) => (word.clone(), Value::UnknownColumn(word.clone())),
        }),
        [Word(function), Symbol('('), Symbol(')')] => {
            Some((format!("{function}()"), call(&function.to_ascii_uppercase())?))
        }
        [Symbol('@'), Symbol('@'), name] => {
            let name = name.name()?;
            Some((format!("@@{name}"), Value::Variable(name.to_ascii_lowercase())))
        }
        [Symbol('@'), Symbol('@'), Word(scope), Symbol('.'), name] => {
            let name = name.name()?;
            Some((format!("@@{scope}.{name}"), Value::Variable(name.to_ascii_lowercase())))
        }
        _ => None,
    }
}

fn call(function: &str) -> Option<Value> {
    match function {
        "VERSION" => Some(Value::Text(VERSION.to_owned())),
        "DATABASE" | "SCHEMA" => Some(Value::Null),
        "CONNECTION_ID" => Some(Value::ConnectionId),
        "USER" | "CURRENT_USER" | "SESSION_USER" => Some(Value::Text("admin".to_owned())),
        _ => None,
    }
}

/// The answer to it.
pub(super) fn answer(talk: &Talk, connection_id: u32) -> Answer {
    match talk {
        Talk::Ok => Answer::Done,
        Talk::Select(items) => select_answer(items, connection_id),
        Talk::Variables(pattern) => {
            let wanted = |name: &str| pattern.as_ref().is_none_or(|pattern| like(pattern, name));
            let found = VARIABLES.iter().filter(|(name, _)| wanted(name));
            Answer::rows(
                VARIABLE_COLUMNS,
                found.map(|(name, value)| vec![(*name).into(), (*value).into()]).collect(),
            )
        }
        Talk::Empty(what) => Answer::rows(
            match what {
                Nothing::Warnings => WARNING_COLUMNS,
                Nothing::Databases => const { &[text("Database")] },
                Nothing::Tables => const { &[text("Tables_in_changeover")] },
                Nothing::Status => VARIABLE_COLUMNS,
            },
            Vec::new(),
        ),
    }
}

fn select_answer(items: &[Item], connection_id: u32) -> Answer {
    let mut columns = Vec::with_capacity(items.len());
    let mut row = Vec::with_capacity(items.len());
    for item in items {
        let cell = match &item.value {
            Value::Number(number) => Cell::Number(*number),
            Value::Text(text) => Cell::Text(text.clone()),
            Value::Null => Cell::Null,
            Value::ConnectionId => Cell::Number(connection_id.into()),
            Value::Variable(name) => match variable(name) {
                Some(cell) => cell,
                None => return unknown_variable(name),
            },
            Value::UnknownColumn(name) => return unknown_column(name),
        };
        columns.push(if matches!(cell, Cell::Number(_)) {
            Column { name: item.name.clone().into(), ..number("") }
        } else {
            Column { name: item.name.clone().into(), ..text("") }
        });
        row.push(cell);
    }
    Answer::Rows(Rows { columns: columns.into(), rows: vec![row] })
}

fn variable(name: &str) -> Option<Cell> {
    let (_, value) = VARIABLES.iter().find(|(known, _)| *known == name)?;
    Some(value.parse().map_or_else(|_| Cell::from(*value), Cell::Number))
}

fn unknown_variable(name: &str) -> Answer {
    let name: String = name.chars().take(64).collect();
    Answer::Error {
        kind: ErrorCode::UnknownVariable,
        message: format!("Unknown system variable '{name}': this is Changeover's admin port, not a database"),
    }
}

/// MySQL's client asks `select $$` to learn whether the server takes dollar quotes; this error says no.
fn unknown_column(name: &str) -> Answer {
    let name: String = name.chars().take(64).collect();
    Answer::Error {
        kind: ErrorCode::UnknownColumn,
        message: format!("Unknown column '{name}': this is Changeover's admin port, not a database"),
    }
}

/// LIKE, without case.
fn like(pattern: &str, name: &str) -> bool {
    config::pattern::like(&pattern.to_lowercase(), &name.to_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::token::tokens;
    use super::*;

    fn said(text: &str) -> Option<Answer> {
        parse(&tokens(text)).map(|talk| answer(&talk, 42))
    }

    #[test]
    fn clients_are_answered() {
        let check = |text: &str, names: &[&str], cells: &[Option<&str>]| match said(text) {
            Some(Answer::Rows(rows)) => {
                assert_eq!(rows.columns.iter().map(|c| c.name.as_ref()).collect::<Vec<_>>(), names, "{text}");
                let row: Vec<_> = rows.rows[0].iter().map(Cell::to_text).collect();
                assert_eq!(row.iter().map(Option::as_deref).collect::<Vec<_>>(), cells, "{text}");
            }
            other => panic!("{text}: {other:?}"),
        };
        check("select @@version_comment limit 1", &["@@version_comment"], &[Some("Changeover")]);
        check("SELECT @@max_allowed_packet", &["@@max_allowed_packet"], &[Some("1048576")]);
        check("SELECT 1", &["1"], &[Some("1")]);
        check("SELECT VERSION()", &["VERSION()"], &[Some(VERSION)]);
        check("SELECT DATABASE()", &["DATABASE()"], &[None]);
        check("SELECT CONNECTION_ID()", &["CONNECTION_ID()"], &[Some("42")]);
        check(
            "SELECT  @@session.auto_increment_increment AS auto_increment_increment, @@sql_mode AS `m`, 'x' AS y",
            &["auto_increment_increment", "m", "y"],
            &[Some("1"), Some(""), Some("x")],
        );
        check(
            "SHOW VARIABLES LIKE 'lower_case_%'",
            &["Variable_name", "Value"],
            &[Some("lower_case_table_names"), Some("0")],
        );
    }

    #[test]
    fn some_things_are_just_fine_and_some_are_empty() {
        let check = |text: &str, expected: fn(&Answer) -> bool| {
            assert!(said(text).is_some_and(|answer| expected(&answer)), "{text}");
        };
        let ok: fn(&Answer) -> bool = |answer| *answer == Answer::Done;
        for text in ["SET NAMES utf8mb4", "SET AUTOCOMMIT = 0", "USE shop", "COMMIT", "ROLLBACK", "BEGIN"] {
            check(text, ok);
        }
        check("START TRANSACTION", ok);
        let empty: fn(&Answer) -> bool =
            |answer| matches!(answer, Answer::Rows(rows) if rows.rows.is_empty());
        for text in ["SHOW WARNINGS", "SHOW DATABASES", "SHOW SCHEMAS", "SHOW FULL TABLES", "SHOW STATUS"] {
            check(text, empty);
        }
        check("select $$", |a| matches!(a, Answer::Error { kind: ErrorCode::UnknownColumn, .. }));
        check("select @@nothing", |a| matches!(a, Answer::Error { kind: ErrorCode::UnknownVariable, .. }));
        assert_eq!(said("SELECT * FROM t"), None);
        assert_eq!(said("SELECT SLEEP(5)"), None);
    }

    #[test]
    fn like_is_like() {
        let check =
            |pattern: &str, name: &str, fits: bool| assert_eq!(like(pattern, name), fits, "{pattern} {name}");
        check("sql_mode", "sql_mode", true);
        check("SQL\\_MODE", "sql_mode", true);
        check("sql_mod", "sql_mode", false);
        check("%", "anything", true);
        check("%mode", "sql_mode", true);
        check("s%m%e", "sql_mode", true);
        check("s%x%e", "sql_mode", false);
        check("____mode", "sql_mode", true);
        check("a\\%", "a%", true);
        check("a\\%", "ab", false);
        check("", "a", false);
    }
}
