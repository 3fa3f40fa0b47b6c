//! SHOW CUTOVERS, CUTOVER and ROLLBACK CUTOVER with their DRY RUN.

use super::AdminContext;
use super::answer::{Answer, Cell, Column, moment, number, text};
use crate::cutover::coordinator::Asked;
use crate::cutover::journal::CutoverRow;

const COLUMNS: &[Column] = &[
    number("id"),
    text("direction"),
    moment("started_at"),
    text("outcome"),
    number("pause_ms"),
    number("sessions_moved"),
    number("transactions_killed"),
    text("source_position"),
    text("target_position"),
    text("reason"),
];

const DRY_RUN: &[Column] = &[text("step"), number("ok"), text("note")];

fn row(cutover: CutoverRow) -> Vec<Cell> {
    vec![
        cutover.id.0.into(),
        cutover.direction.into(),
        cutover.started_at.into(),
        cutover.outcome.as_str().into(),
        cutover.pause_ms.into(),
        cutover.sessions_moved.into(),
        cutover.transactions_killed.into(),
        cutover.source_position.into(),
        cutover.target_position.into(),
        cutover.reason.into(),
    ]
}

pub(super) fn show(context: &AdminContext) -> Answer {
    Answer::rows(COLUMNS, context.coordinator.history().into_iter().map(row).collect())
}

pub(super) async fn dry_run(context: &AdminContext, asked: Asked) -> Answer {
    let rows = context.coordinator.dry_run(asked).await;
    let row = |row: crate::cutover::checks::DryRunRow| vec![row.step.into(), row.ok.into(), row.note.into()];
    Answer::rows(DRY_RUN, rows.into_iter().map(row).collect())
}

pub(super) async fn cutover(context: &AdminContext, asked: Asked) -> Answer {
    match context.coordinator.cutover(asked).await {
        Ok(cutover) => Answer::rows(COLUMNS, vec![row(cutover)]),
        Err(refused) => {
            let (phase, statement) = (context.phase().as_str(), asked.direction.statement());
            Answer::refused(format!(
                "{statement}: {refused}. The phase is {phase}; {statement} DRY RUN shows every check"
            ))
        }
    }
}
