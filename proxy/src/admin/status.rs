//! SHOW MIGRATION STATUS, SHOW MIGRATION TABLES, SHOW DIFFERENCES.

use config::Side;

use super::AdminContext;
use super::answer::{Answer, Cell, Column, fraction, number, text};

const STATUS: &[Column] = &[
    text("name"),
    text("phase"),
    text("route"),
    text("source"),
    text("target"),
    number("tables_total"),
    number("tables_copied"),
    number("rows_copied"),
    number("rows_estimate"),
    fraction("percent"),
    number("copy_rows_per_s"),
    number("eta_s"),
    text("source_position"),
    text("applied_position"),
    number("lag_ms"),
    number("lag_bytes"),
    number("apply_rows_per_s"),
    number("rows_verified"),
    number("differences"),
    number("sessions"),
    number("sessions_pinned"),
    text("last_error"),
    text("throttled_by"),
    number("staged_rows"),
    number("staged_bytes"),
];

const TABLES: &[Column] = &[
    text("schema"),
    text("table"),
    text("phase"),
    number("rows_copied"),
    number("rows_estimate"),
    fraction("percent"),
    number("rows_verified"),
    number("differences"),
    text("note"),
];

const DIFFERENCES: &[Column] =
    &[text("schema"), text("table"), text("key"), text("kind"), text("columns"), text("repair_sql")];

pub(super) fn migration(context: &AdminContext) -> Answer {
    let status = context.replication.status();
    let copied = status.tables_total > 0 && status.tables_copied == status.tables_total;
    let address = |side| context.routes.backend(side).config.address();
    let row = vec![
        status.name.into(),
        context.phase().as_str().into(),
        context.routes.load().backend.side.as_str().into(),
        address(Side::Source).into(),
        address(Side::Target).into(),
        status.tables_total.into(),
        status.tables_copied.into(),
        status.rows_copied.into(),
        status.rows_estimate.into(),
        percent(status.rows_copied, status.rows_estimate, copied).into(),
        status.copy_rows_per_s.into(),
        status.eta_s.into(),
        status.source_position.map(|position| position.to_string()).into(),
        status.applied_position.map(|position| position.to_string()).into(),
        status.lag_ms.into(),
        status.lag_bytes.into(),
        status.apply_rows_per_s.into(),
        status.rows_verified.into(),
        status.differences.into(),
        (context.registry.len() as u64).into(),
        (context.registry.pinned() as u64).into(),
        status.last_error.into(),
        status.throttled_by.into(),
        status.staged_rows.into(),
        status.staged_bytes.into(),
    ];
    Answer::rows(STATUS, vec![row])
}

pub(super) fn tables(context: &AdminContext) -> Answer {
    let row = |table: config::progress::TableStatus| {
        let copied = !matches!(table.phase, "waiting" | "copying");
        vec![
            Cell::from(table.table.schema),
            table.table.table.into(),
            table.phase.into(),
            table.rows_copied.into(),
            table.rows_estimate.into(),
            percent(table.rows_copied, table.rows_estimate, copied).into(),
            table.rows_verified.into(),
            table.differences.into(),
            table.note.into(),
        ]
    };
    Answer::rows(TABLES, context.replication.tables().into_iter().map(row).collect())
}

pub(super) fn differences(context: &AdminContext) -> Answer {
    let row = |difference: config::progress::Difference| {
        vec![
            Cell::from(difference.table.schema),
            difference.table.table.into(),
            difference.key.into(),
            difference.kind.as_str().into(),
            difference.columns.join(", ").into(),
            difference.repair_sql.into(),
        ]
    };
    Answer::rows(DIFFERENCES, context.replication.differences().into_iter().map(row).collect())
}

/// The estimate is the source's statistics, so only a copy that ended is 100 percent.
fn percent(copied: u64, estimate: u64, ended: bool) -> f64 {
    if ended {
        return 100.0;
    }
    if estimate == 0 {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let percent = copied as f64 * 100.0 / estimate as f64;
    percent.min(99.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_a_hundred_percent() {
        let check = |copied, estimate, ended, shown: &str| {
            assert_eq!(Cell::from(percent(copied, estimate, ended)).to_text().as_deref(), Some(shown));
        };
        check(0, 0, false, "0.0");
        check(0, 0, true, "100.0");
        check(1, 3, false, "33.3");
        check(12, 10, false, "99.9");
        check(8, 10, true, "100.0");
    }
}
