//! START, PAUSE, RESUME, ABANDON and FINISH MIGRATION, VERIFY, REPAIR: what is possible in which phase.

use config::progress::{Phase, Repaired};
use config::{Side, TableName};

use super::AdminContext;
use super::answer::{Answer, Cell, Column, number, text};
use super::command::Verb;
use crate::cutover::port::PortError;

const ABANDON: &str = "ABANDON MIGRATION";
const FINISH: &str = "FINISH MIGRATION";

pub(super) async fn carry_out(context: &AdminContext, verb: Verb) -> Answer {
    let statement = match verb {
        Verb::Start => "START MIGRATION",
        Verb::Pause => "PAUSE MIGRATION",
        Verb::Resume => "RESUME MIGRATION",
        Verb::Abandon => ABANDON,
        Verb::Finish => FINISH,
    };
    if let Some(refusal) = refusal(context, statement) {
        return refusal;
    }
    said(match verb {
        Verb::Start => context.replication.start().await,
        Verb::Pause => context.replication.pause().await,
        Verb::Resume => context.replication.resume().await,
        Verb::Abandon => return ended(context, Side::Source).await,
        Verb::Finish => return ended(context, Side::Target).await,
    })
}

pub(super) async fn verify(context: &AdminContext, table: Option<TableName>) -> Answer {
    match refusal(context, "VERIFY") {
        Some(refusal) => refusal,
        None => said(context.replication.verify(table).await),
    }
}

async fn ended(context: &AdminContext, serving: Side) -> Answer {
    match context.coordinator.end_migration(serving).await {
        Ok(()) => Answer::Done,
        Err(refused) => Answer::refused(refused.to_string()),
    }
}

const REPAIRED: &[Column] = &[text("schema"), text("table"), number("rows"), text("sql")];

pub(super) async fn repair(context: &AdminContext, table: Option<TableName>, dry_run: bool) -> Answer {
    if let Some(refusal) = refusal(context, "REPAIR") {
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
fn possible(phase: Phase, serving: Side) -> &'static [&'static str] {
    match (phase, serving) {
        (Phase::Idle, _) => &["START MIGRATION"],
        (Phase::Preparing | Phase::Copying | Phase::CatchingUp, _) => &["PAUSE MIGRATION", ABANDON],
        (Phase::Following, _) => &["CUTOVER", "VERIFY", "REPAIR", "PAUSE MIGRATION", ABANDON],
        (Phase::Paused | Phase::Failed, Side::Source) => &["RESUME MIGRATION", ABANDON],
        (Phase::Paused | Phase::Failed, Side::Target) => &["RESUME MIGRATION", FINISH],
        (Phase::Switched, _) => &["ROLLBACK CUTOVER", "VERIFY", "REPAIR", "PAUSE MIGRATION", FINISH],
        (Phase::CuttingOver | Phase::RollingBack | Phase::Finished | Phase::Abandoned, _) => &[],
    }
}

fn refusal(context: &AdminContext, statement: &str) -> Option<Answer> {
    unfit(context.phase(), context.coordinator.serving(), statement)
}

/// The error for a statement that doesn't fit.
fn unfit(phase: Phase, serving: Side, statement: &str) -> Option<Answer> {
    let possible = possible(phase, serving);
    if possible.contains(&statement) {
        return None;
    }
    let what = match possible {
        [] => "nothing but SHOW and HELP is possible in it".to_owned(),
        [only] => format!("possible in it is {only}"),
        several => format!("possible in it are {}", several.join(", ")),
    };
    let why = if statement == ABANDON && serving == Side::Target {
        "; the target serves, so there is no leaving things as they were: ROLLBACK CUTOVER first, or FINISH MIGRATION"
    } else {
        ""
    };
    Some(Answer::refused(format!("{statement} doesn't fit the phase {}: {what}{why}", phase.as_str())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_refusal_names_the_phase_and_what_is_possible() {
        let on = |serving, phase, statement, message: Option<&str>| match (
            unfit(phase, serving, statement),
            message,
        ) {
            (None, None) => {}
            (Some(Answer::Error { message, .. }), Some(part)) => assert!(message.contains(part), "{message}"),
            (other, _) => panic!("{phase:?} {statement}: {other:?}"),
        };
        let check = |phase, statement, message| on(Side::Source, phase, statement, message);
        check(Phase::Idle, "START MIGRATION", None);
        check(Phase::Idle, "PAUSE MIGRATION", Some("the phase idle: possible in it is START MIGRATION"));
        check(Phase::Following, "VERIFY", None);
        check(
            Phase::Following,
            "START MIGRATION",
            Some("possible in it are CUTOVER, VERIFY, REPAIR, PAUSE MIGRATION, ABANDON MIGRATION"),
        );
        check(Phase::Failed, "RESUME MIGRATION", None);
        check(Phase::CuttingOver, "PAUSE MIGRATION", Some("nothing but SHOW and HELP"));
        on(Side::Target, Phase::Switched, "PAUSE MIGRATION", None);
        on(Side::Target, Phase::Failed, "FINISH MIGRATION", None);
        on(Side::Target, Phase::Switched, "ABANDON MIGRATION", Some("ROLLBACK CUTOVER first"));
        on(Side::Source, Phase::Following, "FINISH MIGRATION", Some("ABANDON MIGRATION"));
    }
}
