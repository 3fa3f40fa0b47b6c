//! The time zone that a statement ran in, on a server that may not have it.
//!
//! `SYSTEM`, which is what most sessions have, is another zone on each server. What a definition says of a moment (the default of a TIMESTAMP, what
//! CURRENT_TIMESTAMP fills a new DATETIME with, a partition's bound) and a change of a column from TIMESTAMP to another type mean the
//! zone of the session. So SYSTEM is put into what the target calls the same, or the statement's tables are copied anew.

use config::{Side, TableName};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::{Barrier, Plan};
use crate::binlog::context::StatementContext;
use crate::error::{Error, Result};
use crate::schema::ddl::{Change, words};
use crate::schema::history::Definitions;
use crate::schema::table::ColumnKind;
use crate::server;

const SYSTEM: &str = "SYSTEM";
const UTC: &str = "+00:00";
/// What makes a definition depend on the zone, as words of its text; so does a TIMESTAMP that its tables have.
const MOMENTS: [&str; 14] = [
    "TIMESTAMP",
    "NOW",
    "CURRENT_TIMESTAMP",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "CURDATE",
    "CURTIME",
    "SYSDATE",
    "UNIX_TIMESTAMP",
    "FROM_UNIXTIME",
    "CONVERT_TZ",
    // A table made like another one, or out of rows.
    "SELECT",
];
/// Seconds between two moments at which zones are compared: no two rules for summers differ for less.
const STEP_S: u32 = 7 * 86_400;

/// What a server's SYSTEM zone is beside the other one's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Zone {
    /// The same.
    Same,
    /// Another, which is always so far from UTC, as `+05:30`.
    Fixed(String),
    /// Another, with summers or a history of its own.
    Other,
}

impl Barrier<'_> {
    /// What becomes of a plan to run a statement, whose context then has a zone that means the same on the side that is written.
    pub(super) async fn in_its_zone(
        &self,
        plan: Plan,
        (change, sql): (&Change, &[u8]),
        context: &mut StatementContext,
        definitions: &Definitions,
    ) -> Result<Plan> {
        let is_system = context.time_zone.as_ref().is_some_and(|zone| zone.eq_ignore_ascii_case(SYSTEM));
        if !is_system || !matches!(plan, Plan::Run { .. }) {
            return Ok(plan);
        }
        let has_timestamp = |name: &TableName| {
            let columns =
                definitions.get(name).map(|known| known.table.columns.as_slice()).unwrap_or_default();
            columns.iter().any(|column| matches!(column.kind, ColumnKind::Timestamp { .. }))
        };
        if !depends_on_zone(change, sql, has_timestamp) {
            context.time_zone = Some(UTC.to_owned());
            return Ok(plan);
        }
        match self.compare_zones().await? {
            Zone::Same => Ok(plan),
            Zone::Fixed(offset) => {
                context.time_zone = Some(offset);
                Ok(plan)
            }
            Zone::Other => Ok(elsewhere(change, |name| self.selection.takes(name))),
        }
    }

    async fn compare_zones(&self) -> Result<Zone> {
        let config = &self.context.config;
        let mut read = server::connect(Side::Source, self.leg.from(config)).await?;
        let here = offsets(Side::Source, &mut read).await?;
        drop(read.disconnect().await);
        let mut written = server::connect(Side::Target, self.leg.to(config)).await?;
        let there = offsets(Side::Target, &mut written).await?;
        drop(written.disconnect().await);
        Ok(zone_of(&here, &there))
    }
}

/// Where the target can't have the zone, only rows as they are will do.
fn elsewhere(change: &Change, takes: impl Fn(&TableName) -> bool) -> Plan {
    let tables: Vec<_> = match change {
        Change::CreateTable { .. } | Change::Alter { .. } => {
            change.names().into_iter().filter(takes).collect()
        }
        _ => Vec::new(),
    };
    if tables.is_empty() {
        return Plan::ByHand(
            "it ran in the time zone SYSTEM, which the two servers have differently, and may depend on it",
        );
    }
    Plan::CopyAnew(tables)
}

/// True where the same text may mean something else in another zone.
fn depends_on_zone(change: &Change, sql: &[u8], has_timestamp: impl Fn(&TableName) -> bool) -> bool {
    let says_moment =
        || words(sql).iter().any(|word| MOMENTS.iter().any(|moment| word.eq_ignore_ascii_case(moment)));
    match change {
        // What they hold is text, and is read in the zone of whoever uses it. An event's times aren't, but none is run before a cutover.
        Change::Views(_)
        | Change::Routine(_)
        | Change::Trigger(_)
        | Change::Event(_)
        | Change::Schema { .. } => false,
        Change::DropTables(_) | Change::Truncate(_) | Change::Rename(_) => false,
        Change::CreateTable { .. } | Change::Unknown => says_moment(),
        Change::Alter { .. } => says_moment() || change.names().iter().any(has_timestamp),
    }
}

/// Minutes from UTC of a server's SYSTEM zone, all through what a TIMESTAMP can hold.
async fn offsets(side: Side, conn: &mut Conn) -> Result<Vec<i64>> {
    const PLACE: &str = "asking what time zone its system is in";
    let database = |error: mysql_async::Error| Error::database(side, PLACE, &error);
    let moments: Vec<i64> = (0..i32::MAX.unsigned_abs()).step_by(STEP_S as usize).map(i64::from).collect();
    let asked: Vec<String> = moments
        .iter()
        .map(|at| format!("TIMESTAMPDIFF(MINUTE, '1970-01-01', FROM_UNIXTIME({at}))"))
        .collect();
    conn.query_drop("SET SESSION time_zone = 'SYSTEM'").await.map_err(database)?;
    let answer: Option<String> =
        conn.query_first(format!("SELECT CONCAT_WS(' ', {})", asked.join(", "))).await.map_err(database)?;
    let minutes = answer.unwrap_or_default();
    let minutes: Vec<i64> = minutes.split(' ').filter_map(|minutes| minutes.parse().ok()).collect();
    if minutes.len() != moments.len() {
        return Err(Error::definite(side, PLACE, "its answer isn't a number for each moment"));
    }
    Ok(minutes.iter().zip(moments).map(|(minutes, at)| minutes - at / 60).collect())
}

fn zone_of(here: &[i64], there: &[i64]) -> Zone {
    if here == there {
        return Zone::Same;
    }
    match here.first() {
        Some(offset) if here.iter().all(|other| other == offset) => {
            let sign = if *offset < 0 { '-' } else { '+' };
            Zone::Fixed(format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60))
        }
        _ => Zone::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_compared() {
        let check = |here: &[i64], there: &[i64], expected: Zone| assert_eq!(zone_of(here, there), expected);
        check(&[60, 120], &[60, 120], Zone::Same);
        check(&[330, 330], &[60, 120], Zone::Fixed("+05:30".to_owned()));
        check(&[-210, -210], &[0, 0], Zone::Fixed("-03:30".to_owned()));
        check(&[0, 0], &[60, 120], Zone::Fixed("+00:00".to_owned()));
        check(&[60, 120], &[60, 60], Zone::Other);
    }

    #[test]
    fn what_has_nothing_to_do_with_moments_runs_in_any_zone() {
        let check = |sql: &str, expected: bool| {
            let change = Change::parse(sql.as_bytes(), "s", false);
            assert_eq!(
                depends_on_zone(&change, sql.as_bytes(), |name| name.table == "timed"),
                expected,
                "{sql}"
            );
        };
        check("ALTER TABLE t ADD COLUMN a INT", false);
        check("ALTER TABLE t ADD COLUMN a timestamp NULL", true);
        check("ALTER TABLE t ADD COLUMN a DATETIME DEFAULT now()", true);
        check("CREATE TABLE t (a INT COMMENT 'the timestamp')", false);
        check("CREATE TABLE t (a DATE DEFAULT (CURRENT_DATE))", true);
        check("CREATE VIEW v AS SELECT NOW()", false);
        check("DROP TABLE timed", false);
        check("ALTER TABLE timed MODIFY a DATETIME", true);
        check("ALTER TABLE t MODIFY a DATETIME", false);
    }

    #[test]
    fn where_the_target_lacks_the_zone_tables_are_copied() {
        let check = |sql: &str, expected: Plan| {
            assert_eq!(elsewhere(&Change::parse(sql.as_bytes(), "s", false), |_| true), expected, "{sql}");
        };
        check("ALTER TABLE t ADD COLUMN a TIMESTAMP", Plan::CopyAnew(vec![TableName::new("s", "t")]));
        let why =
            "it ran in the time zone SYSTEM, which the two servers have differently, and may depend on it";
        check("SOMETHING with a TIMESTAMP", Plan::ByHand(why));
    }
}
