//! SHOW EVENTS.

use super::AdminContext;
use super::answer::{Answer, Cell, Column, moment, text};

const COLUMNS: &[Column] = &[moment("at"), text("level"), text("area"), text("message")];

pub(super) fn show(context: &AdminContext, limit: usize) -> Answer {
    let row = |event: config::events::EventRow| {
        vec![Cell::from(event.at), event.level.into(), event.area.into(), event.message.into()]
    };
    Answer::rows(COLUMNS, context.events.recent(limit).into_iter().map(row).collect())
}
