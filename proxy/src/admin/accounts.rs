//! SHOW ACCOUNTS.

use std::time::Duration;

use super::AdminContext;
use super::answer::{Answer, Cell, Column, number, text};
use crate::auth::inventory::{AccountRow, survey};

const COLUMNS: &[Column] =
    &[text("account"), text("source_plugin"), text("target_plugin"), number("ready"), text("note")];

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
    match survey(&context.routes, &context.registry, WITHIN).await {
        Ok(found) => Answer::rows(COLUMNS, found.rows.into_iter().map(row).collect()),
        Err(why) => Answer::refused(why),
    }
}
