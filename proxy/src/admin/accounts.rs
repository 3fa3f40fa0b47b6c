//! SHOW ACCOUNTS, ADOPT ACCOUNT and RELEASE ACCOUNT.

use std::time::Duration;

use config::AccountName;

use super::AdminContext;
use super::answer::{Answer, Cell, Column, number, text};
use crate::auth::inventory::{self, AccountRow, Adoption, survey};

const COLUMNS: &[Column] =
    &[text("account"), text("source_plugin"), text("target_plugin"), number("ready"), text("note")];

const OF_ONE: &[Column] = &[text("account"), text("sql"), text("note")];

/// How long each server may take.
const WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn show(context: &AdminContext) -> Answer {
    let row = |account: AccountRow| {
        vec![
            account.account.into(),
            account.source_plugin.into(),
            account.target_plugin.map_or(Cell::Null, Cell::Text),
            account.ready.map(u64::from).into(),
            account.note.into(),
        ]
    };
    let fenced = context.coordinator.fenced();
    match survey(&context.routes, &context.registry, fenced.as_ref(), WITHIN).await {
        Ok(found) => Answer::rows(COLUMNS, found.rows.into_iter().map(row).collect()),
        Err(why) => Answer::refused(why),
    }
}

pub(super) async fn adopt(context: &AdminContext, account: &AccountName, by_hand: bool) -> Answer {
    said(inventory::adopt(&context.routes, account, by_hand, WITHIN).await)
}

pub(super) async fn release(context: &AdminContext, account: &AccountName) -> Answer {
    said(inventory::release(&context.routes, account).await)
}

fn said(outcome: Result<Adoption, String>) -> Answer {
    match outcome {
        Ok(Adoption { account, sql, note }) => {
            Answer::rows(OF_ONE, vec![vec![account.into(), sql.map_or(Cell::Null, Cell::Text), note.into()]])
        }
        Err(why) => Answer::refused(why),
    }
}
