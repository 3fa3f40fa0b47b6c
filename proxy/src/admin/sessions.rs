//! SHOW SESSIONS and KILL SESSION.

use super::AdminContext;
use super::answer::{Answer, Cell, Column, ErrorCode, number, text};

const COLUMNS: &[Column] = &[
    number("id"),
    text("user"),
    text("client"),
    text("schema"),
    text("backend"),
    text("state"),
    number("in_transaction"),
    text("pinned_by"),
    number("statements"),
    number("idle_ms"),
    text("mapped"),
];

pub(super) fn show(context: &AdminContext) -> Answer {
    let row = |session: crate::session::registry::SessionRow| {
        vec![
            Cell::Number(session.id.into()),
            session.user.into(),
            session.client.into(),
            session.schema.into(),
            session.backend.as_str().into(),
            session.state.into(),
            session.in_transaction.into(),
            session.pinned_by.into(),
            session.statements.into(),
            session.idle_ms.into(),
            session.mapped.into(),
        ]
    };
    Answer::rows(COLUMNS, context.registry.rows().into_iter().map(row).collect())
}

pub(super) fn kill(context: &AdminContext, id: u32) -> Answer {
    if context.registry.kill(id) {
        tracing::info!(area = "admin", "session {id} was closed by an operator");
        Answer::Done
    } else {
        Answer::Error {
            kind: ErrorCode::NoSuchSession,
            message: format!("there is no session {id}; SHOW SESSIONS lists those there are"),
        }
    }
}
