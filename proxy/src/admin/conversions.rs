//! SHOW CONVERSIONS.

use config::progress::Conversion;

use super::AdminContext;
use super::answer::{Answer, Column, number, text};

const COLUMNS: &[Column] = &[
    text("schema"),
    text("object"),
    text("kind"),
    text("source_definition"),
    text("target_definition"),
    number("lossy"),
];

pub(super) async fn show(context: &AdminContext) -> Answer {
    let row = |conversion: Conversion| {
        vec![
            conversion.schema.into(),
            conversion.object.into(),
            conversion.kind.into(),
            conversion.source_definition.into(),
            conversion.target_definition.into(),
            u64::from(conversion.lossy).into(),
        ]
    };
    match context.replication.conversions().await {
        Ok(found) => Answer::rows(COLUMNS, found.into_iter().map(row).collect()),
        Err(why) => Answer::refused(why.to_string()),
    }
}
