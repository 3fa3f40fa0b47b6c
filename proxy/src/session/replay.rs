//! From the state that a session has to the commands that give it to a new connection.
//!
//! A pure plan: it compares what is wanted with what the connection has already, so that the same code
//! serves a move from a fresh connection and the last touch to one that was prepared ahead. What is restored
//! are values, which the old server was asked for, never the text of statements that may do something else
//! the second time (`SET @t = NOW()`); the texts of prepared statements are the exception, because there the
//! text is the state.

use std::collections::{BTreeMap, BTreeSet};

use super::question::{backticked, hex_literal, quoted};
use super::state::ClientStatementId;

/// Session variables that decide how a statement's text is read; what a statement was prepared under.
pub(crate) const CONTEXT_VARIABLES: [&str; 4] =
    ["sql_mode", "character_set_client", "character_set_results", "collation_connection"];

/// Values of session variables by name; `None` is NULL.
pub(crate) type Variables = BTreeMap<String, Option<Vec<u8>>>;

/// What a statement was prepared under.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Context {
    /// The current schema, in UTF-8.
    pub(crate) schema: Option<Vec<u8>>,
    /// [`CONTEXT_VARIABLES`].
    pub(crate) variables: Variables,
}

/// A statement to be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToPrepare {
    /// COM_STMT_PREPARE.
    Binary(ClientStatementId),
    /// `PREPARE name FROM …`, and which of that name.
    Text(Vec<u8>, u64),
}

/// The state of a session, or of a connection that is being prepared to take a session over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The current schema, in UTF-8.
    pub(crate) schema: Option<Vec<u8>>,
    /// Session variables: those that are always carried, and those that differ from their default.
    pub(crate) variables: Variables,
    /// User variables; those that were never set aren't in it.
    pub(crate) user_variables: BTreeMap<Vec<u8>, UserValue>,
    /// LAST_INSERT_ID().
    pub(crate) last_insert_id: u64,
    /// Those of the variables that nobody set, and that are among them because the other server's global value
    /// is another.
    pub(crate) inherited: BTreeSet<String>,
    /// autocommit.
    pub(crate) autocommit: bool,
    /// COM_SET_OPTION; `None`: as the login said.
    pub(crate) multi_statements: Option<bool>,
    /// Prepared statements with the version of the context that they belong to.
    pub(crate) prepared: Vec<(ToPrepare, u64)>,
}

/// Value of a user variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserValue {
    /// An expression that every server understands.
    Plain(String),
    /// Text, whose character set and collation have other names on another server.
    Text {
        /// Character set.
        charset: String,
        /// Collation.
        collation: String,
        /// Its bytes.
        literal: String,
    },
}

impl std::fmt::Display for UserValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(expression) => f.write_str(expression),
            Self::Text { charset, collation, literal } => {
                write!(f, "_{charset} {literal} COLLATE {collation}")
            }
        }
    }
}

/// One command for the new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// COM_INIT_DB; the name is in UTF-8, and the connection reads it so.
    Schema(Vec<u8>),
    /// `SET` of these session variables.
    Variables(Variables),
    /// `SET` of these user variables, or of LAST_INSERT_ID: a list behind the word SET.
    Assign(Vec<u8>),
    /// COM_SET_OPTION.
    MultiStatements(bool),
    /// Prepare it.
    Prepare(ToPrepare),
    /// `DEALLOCATE PREPARE name`.
    Deallocate(Vec<u8>),
    /// COM_STMT_CLOSE.
    Close(ClientStatementId),
}

/// Bytes of assignments that go into one SET.
const ASSIGN_MAX: usize = 64 * 1024;

/// No plan leads from here to there: a connection with a schema can't be without one again. A fresh
/// connection can take the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeedsFreshConnection;

/// The commands that make `have` into `wanted`. `contexts` holds what statements of older contexts were
/// prepared under; the present one, `now`, is the wanted state itself.
pub(crate) fn plan(
    wanted: &Snapshot,
    have: &Snapshot,
    contexts: &BTreeMap<u64, Context>,
    now: u64,
) -> Result<Vec<Step>, NeedsFreshConnection> {
    let mut steps = Vec::new();
    // What the connection has, as the steps change it.
    let mut schema = have.schema.clone();
    let mut variables = have.variables.clone();
    let missing = |context: u64| {
        wanted
            .prepared
            .iter()
            .filter(move |(_, of)| *of == context || (context == now && !contexts.contains_key(of)))
            .filter(|prepared| !have.prepared.contains(prepared))
            .map(|(statement, _)| Step::Prepare(statement.clone()))
    };
    forget_statements(wanted, have, &mut steps);
    let mut older: Vec<_> = contexts.iter().filter(|(version, _)| **version != now).collect();
    // Without a schema first: there is no way back to that.
    older.sort_by_key(|(version, context)| (context.schema.is_some(), **version));
    for (version, context) in older {
        let mut statements = missing(*version).peekable();
        if statements.peek().is_none() {
            continue;
        }
        if wanted.schema.is_none() && context.schema.is_some() {
            // Its schema was dropped under it. The statement stays unprepared, and says so when executed.
            continue;
        }
        to_schema(&mut schema, context.schema.as_deref(), &mut variables, &mut steps)?;
        to_variables(&mut variables, &context.variables, &mut steps);
        steps.extend(statements);
    }
    to_variables(&mut variables, &wanted.variables, &mut steps);
    reset_variables(&variables, wanted, &mut steps);
    to_schema(&mut schema, wanted.schema.as_deref(), &mut variables, &mut steps)?;
    // The name of the schema may have needed another character set.
    to_variables(&mut variables, &wanted.variables, &mut steps);
    steps.extend(missing(now));
    assignments(wanted, have, &mut steps);
    if let Some(on) = wanted.multi_statements.filter(|on| have.multi_statements != Some(*on)) {
        steps.push(Step::MultiStatements(on));
    }
    if wanted.autocommit != have.autocommit {
        // Last: with autocommit off a statement before it might have opened a transaction.
        let value = if wanted.autocommit { &b"1"[..] } else { b"0" };
        steps.push(Step::Variables([("autocommit".to_owned(), Some(value.to_vec()))].into()));
    }
    Ok(steps)
}

fn to_schema(
    have: &mut Option<Vec<u8>>,
    wanted: Option<&[u8]>,
    variables: &mut Variables,
    steps: &mut Vec<Step>,
) -> Result<(), NeedsFreshConnection> {
    match wanted {
        None if have.is_some() => return Err(NeedsFreshConnection),
        Some(schema) if have.as_deref() != Some(schema) => {
            if !schema.is_ascii() {
                // The session may have changed its character set since its USE, and the name need not exist in it.
                let utf8 = [("character_set_client".to_owned(), Some(b"utf8mb4".to_vec()))].into();
                to_variables(variables, &utf8, steps);
            }
            steps.push(Step::Schema(schema.to_vec()));
            *have = Some(schema.to_vec());
        }
        _ => {}
    }
    Ok(())
}

fn to_variables(have: &mut Variables, wanted: &Variables, steps: &mut Vec<Step>) {
    let different: Variables = wanted
        .iter()
        .filter(|(name, value)| have.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if different.is_empty() {
        return;
    }
    have.extend(different.clone());
    // How text is read comes first, in a statement of its own: the rest of the texts depends on it.
    let (context, rest): (Variables, Variables) =
        different.into_iter().partition(|(name, _)| CONTEXT_VARIABLES.contains(&name.as_str()));
    steps.extend([context, rest].into_iter().filter(|part| !part.is_empty()).map(Step::Variables));
}

/// A variable that was different when the connection was prepared and no longer is.
fn reset_variables(have: &Variables, wanted: &Snapshot, steps: &mut Vec<Step>) {
    let mut list = Vec::new();
    for name in have.keys().filter(|name| !wanted.variables.contains_key(*name)) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(b"SESSION ");
        list.extend_from_slice(name.as_bytes());
        list.extend_from_slice(b" = DEFAULT");
    }
    if !list.is_empty() {
        steps.push(Step::Assign(list));
    }
}

/// Statements of the prepared connection that are gone, or are others by now.
fn forget_statements(wanted: &Snapshot, have: &Snapshot, steps: &mut Vec<Step>) {
    let gone = have.prepared.iter().filter(|prepared| !wanted.prepared.contains(prepared));
    steps.extend(gone.map(|(statement, _)| match statement {
        ToPrepare::Text(name, _) => Step::Deallocate(name.clone()),
        ToPrepare::Binary(id) => Step::Close(*id),
    }));
}

fn assignments(wanted: &Snapshot, have: &Snapshot, steps: &mut Vec<Step>) {
    let mut list = Vec::new();
    let mut add = |text: Vec<u8>| {
        if !list.is_empty() && list.len() + text.len() > ASSIGN_MAX {
            steps.push(Step::Assign(std::mem::take(&mut list)));
        }
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(&text);
    };
    for (name, value) in &wanted.user_variables {
        if have.user_variables.get(name) != Some(value) {
            add(user_variable(name, &value.to_string()));
        }
    }
    for name in have.user_variables.keys().filter(|name| !wanted.user_variables.contains_key(*name)) {
        add(user_variable(name, "NULL"));
    }
    if wanted.last_insert_id != have.last_insert_id {
        add(format!("last_insert_id = {}", wanted.last_insert_id).into_bytes());
    }
    if !list.is_empty() {
        steps.push(Step::Assign(list));
    }
}

fn user_variable(name: &[u8], value: &str) -> Vec<u8> {
    let mut text = vec![b'@'];
    text.extend(backticked(name));
    text.extend_from_slice(b" = ");
    text.extend_from_slice(value.as_bytes());
    text
}

/// `SET SESSION a = …, SESSION b = …`. Numbers go without quotes, because numeric variables refuse text.
pub(crate) fn set_statement(variables: &Variables) -> Vec<u8> {
    let mut sql = b"SET ".to_vec();
    for (place, (name, value)) in variables.iter().enumerate() {
        if place > 0 {
            sql.extend_from_slice(b", ");
        }
        sql.extend_from_slice(b"SESSION ");
        sql.extend_from_slice(name.as_bytes());
        sql.extend_from_slice(b" = ");
        sql.extend(variable_literal(value.as_deref()));
    }
    sql
}

fn variable_literal(value: Option<&[u8]>) -> Vec<u8> {
    match value {
        None => b"NULL".to_vec(),
        Some(value) if is_number(value) => value.to_vec(),
        // No variable of a session has a backslash in its value; text with one is written as hexadecimal.
        Some(value) if value.contains(&b'\\') => hex_literal(value).into_bytes(),
        Some(value) => quoted(value, true),
    }
}

fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && digits.iter().filter(|b| **b == b'.').count() <= 1
}

/// A user variable's value, as the server gave it, as an expression of the same type and value.
pub(crate) mod user_value {
    use super::{UserValue, hex_literal};
    use crate::session::question::Column;

    const DOUBLE: [u8; 2] = [4, 5];
    const INTEGERS: [u8; 6] = [1, 2, 3, 8, 9, 13];
    const DECIMALS: [u8; 2] = [0, 246];
    const UNSIGNED: u16 = 32;

    /// NULL, of the type that the variable has.
    pub(crate) fn null(column: Column) -> UserValue {
        let text = match column.kind {
            kind if DOUBLE.contains(&kind) => "NULL + 0e0",
            kind if DECIMALS.contains(&kind) => "CAST(NULL AS DECIMAL(65,30))",
            kind if INTEGERS.contains(&kind) && column.flags & UNSIGNED != 0 => "CAST(NULL AS UNSIGNED)",
            kind if INTEGERS.contains(&kind) => "CAST(NULL AS SIGNED)",
            _ => "NULL",
        };
        UserValue::Plain(text.to_owned())
    }

    /// `text` is the value, `hex` its bytes in its own character set, as the server printed both.
    pub(crate) fn expression(
        column: Column,
        text: &[u8],
        hex: Option<&[u8]>,
        charset: Option<&[u8]>,
        collation: Option<&[u8]>,
    ) -> Option<UserValue> {
        let number = || std::str::from_utf8(text).ok().filter(|text| !text.contains(['\'', '\\']));
        if INTEGERS.contains(&column.kind) {
            let sign = if column.flags & UNSIGNED != 0 { "UNSIGNED" } else { "SIGNED" };
            return Some(UserValue::Plain(format!("CAST('{}' AS {sign})", number()?)));
        }
        if DECIMALS.contains(&column.kind) {
            let text = number()?;
            let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            return Some(UserValue::Plain(format!("CAST('{text}' AS DECIMAL(65,{scale}))")));
        }
        if DOUBLE.contains(&column.kind) {
            let text = number()?;
            let exponent = if text.contains(['e', 'E']) { "" } else { "e0" };
            return Some(UserValue::Plain(format!("{text}{exponent}")));
        }
        let name = |name: Option<&[u8]>| {
            let name = std::str::from_utf8(name?).ok()?;
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then(|| name.to_owned())
        };
        let (hex, charset, collation) = (hex?, name(charset)?, name(collation)?);
        let literal = match hex.is_empty() || hex.iter().all(u8::is_ascii_hexdigit) {
            true => format!("x'{}'", String::from_utf8_lossy(hex)),
            false => hex_literal(text),
        };
        Some(match charset.as_str() {
            "binary" => UserValue::Plain(format!("_binary {literal}")),
            _ => UserValue::Text { charset, collation, literal },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::session::question::Column;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec()))).collect()
    }

    fn plain(expression: &str) -> UserValue {
        UserValue::Plain(expression.to_owned())
    }

    fn binary(id: u32) -> ToPrepare {
        ToPrepare::Binary(ClientStatementId(id))
    }

    fn fresh() -> Snapshot {
        Snapshot {
            variables: variables(&[("sql_mode", "STRICT"), ("time_zone", "SYSTEM")]),
            autocommit: true,
            ..Snapshot::default()
        }
    }

    #[test]
    fn nothing_to_do_is_no_command() {
        assert_eq!(plan(&fresh(), &fresh(), &BTreeMap::new(), 0), Ok(Vec::new()));
    }

    #[test]
    fn a_fresh_connection_gets_everything_in_order() {
        let wanted = Snapshot {
            schema: Some(b"shop".to_vec()),
            variables: variables(&[("sql_mode", "ANSI"), ("time_zone", "+02:00"), ("wait_timeout", "60")]),
            user_variables: [(b"a".to_vec(), plain("CAST('1' AS SIGNED)"))].into(),
            last_insert_id: 7,
            inherited: BTreeSet::new(),
            autocommit: false,
            multi_statements: Some(true),
            prepared: vec![(binary(1), 4), (ToPrepare::Text(b"t".to_vec(), 1), 4)],
        };
        let steps = plan(&wanted, &fresh(), &BTreeMap::new(), 4).unwrap();
        assert_eq!(
            steps,
            [
                Step::Variables(variables(&[("sql_mode", "ANSI")])),
                Step::Variables(variables(&[("time_zone", "+02:00"), ("wait_timeout", "60")])),
                Step::Schema(b"shop".to_vec()),
                Step::Prepare(binary(1)),
                Step::Prepare(ToPrepare::Text(b"t".to_vec(), 1)),
                Step::Assign(b"@`a` = CAST('1' AS SIGNED), last_insert_id = 7".to_vec()),
                Step::MultiStatements(true),
                Step::Variables(variables(&[("autocommit", "0")])),
            ]
        );
        // And nothing again, once it has it.
        assert_eq!(plan(&wanted, &wanted, &BTreeMap::new(), 4), Ok(Vec::new()));
    }

    #[test]
    fn a_prepared_connection_gets_the_difference() {
        let mut have = fresh();
        have.schema = Some(b"shop".to_vec());
        have.variables.extend(variables(&[("wait_timeout", "60")]));
        have.user_variables = [(b"a".to_vec(), plain("1")), (b"b".to_vec(), plain("2"))].into();
        have.prepared = vec![(binary(1), 0), (ToPrepare::Text(b"t".to_vec(), 1), 0)];
        let mut wanted = have.clone();
        wanted.variables.remove("wait_timeout");
        wanted.user_variables = [(b"a".to_vec(), plain("3"))].into();
        wanted.prepared = vec![(binary(1), 0), (binary(2), 0), (ToPrepare::Text(b"t".to_vec(), 2), 0)];
        assert_eq!(
            plan(&wanted, &have, &BTreeMap::new(), 0).unwrap(),
            [
                Step::Deallocate(b"t".to_vec()),
                Step::Assign(b"SESSION wait_timeout = DEFAULT".to_vec()),
                Step::Prepare(binary(2)),
                Step::Prepare(ToPrepare::Text(b"t".to_vec(), 2)),
                Step::Assign(b"@`a` = 3, @`b` = NULL".to_vec()),
            ]
        );
    }

    #[test]
    fn statements_are_prepared_under_what_they_were_prepared_under() {
        let mut wanted = fresh();
        wanted.schema = Some(b"two".to_vec());
        wanted.prepared = vec![(binary(1), 0), (binary(2), 1), (binary(3), 2)];
        let contexts = [
            (0, Context { schema: Some(b"one".to_vec()), variables: variables(&[("sql_mode", "ANSI")]) }),
            (1, Context { schema: None, variables: variables(&[("sql_mode", "STRICT")]) }),
        ];
        assert_eq!(
            plan(&wanted, &fresh(), &contexts.into(), 2).unwrap(),
            [
                Step::Prepare(binary(2)),
                Step::Schema(b"one".to_vec()),
                Step::Variables(variables(&[("sql_mode", "ANSI")])),
                Step::Prepare(binary(1)),
                Step::Variables(variables(&[("sql_mode", "STRICT")])),
                Step::Schema(b"two".to_vec()),
                Step::Prepare(binary(3)),
            ]
        );
    }

    #[test]
    fn a_schema_cannot_be_left() {
        let have = Snapshot { schema: Some(b"shop".to_vec()), ..fresh() };
        assert_eq!(plan(&fresh(), &have, &BTreeMap::new(), 0), Err(NeedsFreshConnection));
    }

    #[test]
    fn a_schema_is_named_in_a_character_set_that_has_its_name() {
        let latin1 = variables(&[("character_set_client", "latin1"), ("sql_mode", "STRICT")]);
        let utf8 = Step::Variables(variables(&[("character_set_client", "utf8mb4")]));
        let client = Step::Variables(variables(&[("character_set_client", "latin1")]));
        let have = Snapshot { variables: latin1.clone(), autocommit: true, ..Snapshot::default() };
        let wanted = Snapshot {
            schema: Some("да".into()),
            prepared: vec![(binary(1), 0), (binary(2), 1)],
            ..have.clone()
        };
        let older = [(0, Context { schema: Some("ня".into()), variables: latin1 })];
        assert_eq!(
            plan(&wanted, &have, &older.into(), 1).unwrap(),
            [
                utf8.clone(),
                Step::Schema("ня".into()),
                client.clone(),
                Step::Prepare(binary(1)),
                utf8,
                Step::Schema("да".into()),
                client,
                Step::Prepare(binary(2)),
            ]
        );
    }

    #[test]
    fn variables_are_written_as_the_server_takes_them() {
        let mut all = variables(&[("a", "5"), ("b", "1.50"), ("c", "+00:00"), ("d", ""), ("e", "it's")]);
        all.insert("f".to_owned(), None);
        assert_eq!(
            String::from_utf8(set_statement(&all)).unwrap(),
            "SET SESSION a = 5, SESSION b = 1.50, SESSION c = '+00:00', SESSION d = '', SESSION e = 'it''s', \
             SESSION f = NULL"
        );
    }

    #[test]
    fn user_variables_keep_their_type() {
        let check = |kind: u8, flags: u16, text: &str, expected: &str| {
            let hex: String = text.bytes().map(|b| format!("{b:02X}")).collect();
            let value = user_value::expression(
                Column { kind, flags, length: 0 },
                text.as_bytes(),
                Some(hex.as_bytes()),
                Some(if flags & 128 != 0 { b"binary" } else { b"utf8mb4" }),
                Some(b"utf8mb4_bin"),
            );
            assert_eq!(value.map(|value| value.to_string()).as_deref(), Some(expected));
        };
        check(8, 0, "-5", "CAST('-5' AS SIGNED)");
        check(8, 32, "5", "CAST('5' AS UNSIGNED)");
        check(246, 0, "1.50", "CAST('1.50' AS DECIMAL(65,2))");
        check(5, 0, "0.1", "0.1e0");
        check(5, 0, "1e300", "1e300");
        check(253, 0, "a'", "_utf8mb4 x'6127' COLLATE utf8mb4_bin");
        check(251, 128, "a", "_binary x'61'");
        check(253, 0, "", "_utf8mb4 x'' COLLATE utf8mb4_bin");
        let null = |kind, flags| user_value::null(Column { kind, flags, length: 0 }).to_string();
        assert_eq!(
            [null(8, 0), null(8, 32), null(250, 0)],
            ["CAST(NULL AS SIGNED)", "CAST(NULL AS UNSIGNED)", "NULL"]
        );
    }
}
