//! What acts on its own (triggers, events): its place in a cutover, and what is done there so far.
//!
//! Row events hold what triggers did, so a trigger on the side that is written would do it twice. [`activate`] runs once
//! in a cutover or rollback, behind the fence, when nothing is applied any more and before the next leg's start position is
//! taken. [`deactivate`] runs whenever a leg begins: behind a swap, behind a cutover that was undone, after a restart. So
//! both have to be repeatable, and a crash in between needs no record.
//!
//! Triggers and events aren't moved: [`activate`] makes none (`check` and `CUTOVER DRY RUN` say so), and [`deactivate`]
//! takes none away, but refuses to apply rows to a table that has a trigger.

use config::{Side, TableName};
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};
use crate::pipeline::Context;
use crate::server;

const PLACE: &str = "looking for triggers";

/// `side` is about to serve: the moment for what acts on its own there. Nothing is made yet.
#[allow(clippy::unused_async, reason = "what it is to make is made on a server")]
pub(crate) async fn activate(_context: &Context, _side: Side) -> Result<()> {
    Ok(())
}

/// Rows are about to be applied to `side`: no trigger may act there.
///
/// # Errors
/// One would; it is named.
pub(crate) async fn deactivate(context: &Context, side: Side) -> Result<()> {
    let tables: Vec<TableName> =
        context.tables().into_iter().map(|(schema, table)| TableName::new(&schema, &table)).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let mut conn = server::connect(side, crate::leg::backend(&context.config, side)).await?;
    let triggers: Vec<(String, String, String)> = conn
        .query(
            "SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME FROM information_schema.TRIGGERS",
        )
        .await
        .map_err(|error| Error::database(side, PLACE, &error))?;
    conn.disconnect().await.ok();
    let acts =
        triggers.into_iter().find(|(schema, table, _)| tables.contains(&TableName::new(schema, table)));
    match acts {
        None => Ok(()),
        Some((schema, table, trigger)) => Err(Error::definite(
            side,
            format!("{schema}.{table}"),
            format!(
                "the trigger {trigger} would act a second time on rows that are applied here, whose events hold what it \
                 did; DROP it on the {side} and RESUME MIGRATION"
            ),
        )),
    }
}
