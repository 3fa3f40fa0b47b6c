//! HELP.

use super::answer::{Answer, Column, text};
use super::command::STATEMENTS;

const COLUMNS: &[Column] = &[text("statement"), text("does")];

pub(super) fn show() -> Answer {
    let does = |statement: &super::command::Statement| {
        if statement.built { statement.does.to_owned() } else { format!("{} (not yet)", statement.does) }
    };
    Answer::rows(COLUMNS, STATEMENTS.iter().map(|s| vec![s.form.into(), does(s).into()]).collect())
}
