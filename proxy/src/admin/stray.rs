//! SHOW STRAY WRITES, ACKNOWLEDGE STRAY WRITES: what others wrote on the side that doesn't serve.

use config::progress::StrayWrites;

use super::AdminContext;
use super::answer::{Answer, Cell, Column, number, text};

const COLUMNS: &[Column] = &[
    text("side"),
    text("schema"),
    text("table"),
    number("transactions"),
    number("rows"),
    text("first_position"),
    text("last_position"),
    text("note"),
];

pub(super) fn show(context: &AdminContext) -> Answer {
    let row = |found: StrayWrites| {
        vec![
            Cell::from(found.side.as_str()),
            found.schema.into(),
            found.table.into(),
            found.transactions.into(),
            found.rows.into(),
            found.first_position.into(),
            found.last_position.into(),
            found.note.into(),
        ]
    };
    Answer::rows(COLUMNS, context.replication.stray_writes().into_iter().map(row).collect())
}

pub(super) fn acknowledge(context: &AdminContext) -> Answer {
    match context.replication.acknowledge_stray_writes() {
        Ok(_) => Answer::Done,
        Err(error) => Answer::refused(error.to_string()),
    }
}
