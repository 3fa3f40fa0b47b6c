//! What a request may do to its session, worked out before it is sent on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::detail::{self, NamedTable, TextPrepare};
use super::lexer::{self, Effects};
use super::state::{ClientStatementId, GUESSED_MAX, USER_VARIABLES_MAX};
use crate::protocol::command::Command;

/// What the second pass read, for when the server has answered.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(super) user_variables: BTreeSet<Vec<u8>>,
    /// Those that it names only where a backslash in it may be the second half of a character.
    pub(super) guessed_variables: BTreeSet<Vec<u8>>,
    /// Session variables that it sets.
    pub(super) set_variables: Vec<String>,
    pub(super) schema: Option<Vec<u8>>,
    /// `None`: there are some, and they can't be told.
    pub(super) tables: Option<Vec<NamedTable>>,
    pub(super) locks: Option<Vec<Vec<u8>>>,
    pub(super) prepare: Option<TextPrepare>,
    pub(super) prepared_name: Option<Vec<u8>>,
    pub(super) text: Option<Arc<[u8]>>,
    /// Procedures that it calls; `None`: that can't be told.
    pub(super) called: Option<Vec<Vec<u8>>>,
}

impl Details {
    pub(super) fn read(text: &[u8], effects: Effects, plain_backslash: bool) -> Self {
        let mut details = Self::default();
        let single = !effects.any(Effects::MULTIPLE.and(Effects::UNSURE));
        if effects.contains(Effects::USER_VARIABLES) {
            details.user_variables = detail::user_variables(text, plain_backslash, USER_VARIABLES_MAX);
            if let Some(other) = other_reading(text) {
                let mut names = detail::user_variables(&other, plain_backslash, GUESSED_MAX);
                // Random bytes have "names" with a NUL, which no server takes between backticks.
                names.retain(|name| !name.contains(&0) && !details.user_variables.contains(name));
                details.guessed_variables = names;
            }
        }
        if effects.contains(Effects::VARIABLES) {
            details.set_variables = detail::set_variables(text, plain_backslash);
        }
        if effects.contains(Effects::PROCEDURE) {
            details.called = detail::called(text, plain_backslash);
        }
        if !single {
            return details;
        }
        if effects.contains(Effects::SCHEMA) {
            details.schema = detail::used_schema(text, plain_backslash);
        }
        if effects.any(Effects::TEMPORARY_CREATE.and(Effects::DROP_TABLE)) {
            details.tables = detail::tables(text, plain_backslash);
        }
        if effects.contains(Effects::GET_LOCK) {
            details.locks = detail::lock_names(text, "GET_LOCK", plain_backslash);
        } else if effects.contains(Effects::RELEASE_LOCK) {
            details.locks = detail::lock_names(text, "RELEASE_LOCK", plain_backslash);
        }
        if effects.contains(Effects::TEXT_PREPARE) {
            details.prepare = detail::text_prepare(text, plain_backslash);
            details.text = Some(text.into());
        }
        if effects.any(Effects::TEXT_DEALLOCATE.and(Effects::TEXT_EXECUTE)) {
            details.prepared_name = detail::prepared_name(text, plain_backslash);
        }
        details
    }
}

/// What a request may do, known before it is sent on.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) effects: Effects,
    /// For the commands of prepared statements.
    pub(crate) statement: Option<ClientStatementId>,
    /// COM_INIT_DB's schema, COM_SET_OPTION's option, COM_STMT_PREPARE's text.
    pub(crate) argument: Option<Arc<[u8]>>,
    pub(super) details: Option<Arc<Details>>,
    /// A COM_STMT_EXECUTE that wants a cursor in place of rows.
    pub(crate) asks_for_cursor: bool,
    /// Its end wasn't looked at, and anything may stand there.
    pub(crate) unseen: bool,
}

impl Request {
    /// What the statement before it left can still be asked for behind it.
    pub(crate) fn keeps_outcome(&self) -> bool {
        let prepares_look = self.command == Command::StmtPrepare && self.effects.contains(Effects::ASKS_LAST);
        self.command.keeps_outcome() || prepares_look
    }

    /// Procedures that it calls; `None`: that can't be told.
    pub(super) fn called(&self) -> Option<Vec<Vec<u8>>> {
        self.details.as_ref()?.called.clone()
    }

    /// A request without effects.
    pub(crate) fn plain(command: Command) -> Self {
        Self {
            command,
            effects: Effects::NONE,
            statement: None,
            argument: None,
            details: None,
            asks_for_cursor: false,
            unseen: false,
        }
    }
}

/// What a text may do, also where a backslash in it may be the second half of a character: in GBK, Big5,
/// Shift-JIS and GB18030 that is no escape, and quotes end elsewhere. What the text does under either reading
/// counts, rather than that every change of the character set would have to be followed here.
pub(super) fn effects_of(text: &[u8], plain_backslash: bool) -> Effects {
    let effects = lexer::scan(text, plain_backslash);
    match other_reading(text) {
        Some(other) => effects.and(lexer::scan(&other, plain_backslash)).and(Effects::UNSURE),
        None => effects,
    }
}

fn other_reading(text: &[u8]) -> Option<Vec<u8>> {
    if !text.contains(&b'\\') {
        return None;
    }
    let mut other = text.to_vec();
    let (mut at, mut differs) = (0, false);
    while let Some(&byte) = other.get(at) {
        at += 1;
        if byte >= 0x81
            && let Some(second) = other.get_mut(at)
        {
            if *second == b'\\' {
                *second = b'x';
                differs = true;
            }
            at += usize::from(*second >= 0x40 && *second != b'`');
        }
    }
    differs.then_some(other)
}
