//! START, PAUSE and RESUME MIGRATION, VERIFY, REPAIR: what is possible in which phase.

use config::TableName;
use config::progress::{Phase, Repaired};

use super::AdminContext;
use super::answer::{Answer, Cell, Column, number, text};
use super::command::Verb;
use crate::cutover::port::PortError;

pub(super) async fn carry_out(context: &AdminContext, verb: Verb) -> Answer {
    let statement = match verb {
        Verb::Start => "START MIGRATION",
        Verb::Pause => "PAUSE MIGRATION",
        Verb::Resume => "RESUME MIGRATION",
    };
    if let Some(refusal) = refusal(context.phase(), statement) {
        return refusal;
    }
    said(match verb {
        Verb::Start => context.replication.start().await,
        Verb::Pause => context.replication.pause().await,
        Verb::Resume => context.replication.resume().await,
    })
}

pub(super) async fn verify(context: &AdminContext, table: Option<TableName>) -> Answer {
    match refusal(context.phase(), "VERIFY") {
        Some(refusal) => refusal,
        None => said(context.replication.verify(table).await),
    }
}

const REPAIRED: &[Column] = &[text("schema"), text("table"), number("rows"), text("sql")];

pub(super) async fn repair(context: &AdminContext, table: Option<TableName>, dry_run: bool) -> Answer {
    if let Some(refusal) = refusal(context.phase(), "REPAIR") {
        return refusal;
    }
    let row = |repaired: Repaired| {
        let TableName { schema, table } = repaired.table;
        vec![Cell::from(schema), table.into(), repaired.rows.into(), repaired.sql.into()]
    };
    match context.coordinator.repair(table, dry_run).await {
        Ok(repaired) => Answer::rows(REPAIRED, repaired.into_iter().map(row).collect()),
        Err(error) => Answer::refused(error.to_string()),
    }
}

fn said(result: Result<(), PortError>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::refused(error.to_string()),
    }
}

/// The statements that change something and are possible in a phase, in the order in which they are likely wanted.
fn possible(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::Idle => &["START MIGRATION"],
        Phase::Preparing | Phase::Copying | Phase::CatchingUp => &["PAUSE MIGRATION"],
        Phase::Following => &["CUTOVER", "VERIFY", "REPAIR", "PAUSE MIGRATION"],
        Phase::Paused | Phase::Failed => &["RESUME MIGRATION"],
        Phase::CuttingOver | Phase::Switched | Phase::RollingBack | Phase::Finished | Phase::Abandoned => &[],
    }
}

/// The error for a statement that doesn't fit.
fn refusal(phase: Phase, statement: &str) -> Option<Answer> {
    let possible = possible(phase);
    if possible.contains(&statement) {
        return None;
    }
    let what = match possible {
        [] => "nothing but SHOW and HELP is possible in it".to_owned(),
        [only] => format!("possible in it is {only}"),
        several => format!("possible in it are {}", several.join(", ")),
    };
    Some(Answer::refused(format!("{statement} doesn't fit the phase {}: {what}", phase.as_str())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_refusal_names_the_phase_and_what_is_possible() {
        let check = |phase, statement, message: Option<&str>| match (refusal(phase, statement), message) {
            (None, None) => {}
            (Some(Answer::Error { message, .. }), Some(part)) => assert!(message.contains(part), "{message}"),
            (other, _) => panic!("{phase:?} {statement}: {other:?}"),
        };
        check(Phase::Idle, "START MIGRATION", None);
        check(Phase::Idle, "PAUSE MIGRATION", Some("the phase idle: possible in it is START MIGRATION"));
        check(Phase::Following, "VERIFY", None);
        check(
            Phase::Following,
            "START MIGRATION",
            Some("possible in it are CUTOVER, VERIFY, REPAIR, PAUSE MIGRATION"),
        );
        check(Phase::Failed, "RESUME MIGRATION", None);
        check(Phase::Switched, "PAUSE MIGRATION", Some("nothing but SHOW and HELP"));
    }
}
