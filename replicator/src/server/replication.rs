//! What a replica says of its replication, and how its SQL thread is stopped and started.

use config::{Flavor, ServerVersion, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::ServerInfo;
use crate::error::{Error, Result};

/// Columns of its status that name what it leaves out.
const FILTERS: [&str; 7] = [
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Rewrite_DB",
];

/// The replication of one server from one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replication {
    /// MySQL's channel, MariaDB's connection; the default one has no name.
    pub(crate) channel: String,
    pub(crate) io_runs: bool,
    pub(crate) sql_runs: bool,
    /// The filters that it has, by their names.
    pub(crate) filters: Vec<&'static str>,
}

/// The statement that says from where, and how, a server replicates.
pub(crate) fn show_replication(version: ServerVersion) -> &'static str {
    match version.flavor {
        Flavor::MariaDb => "SHOW ALL SLAVES STATUS",
        Flavor::MySql if version.at_least(Flavor::MySql, 8, 4) => "SHOW REPLICA STATUS",
        Flavor::MySql => "SHOW SLAVE STATUS",
    }
}

/// How a server of that version replicates from `source`; `None`: it doesn't, or not directly.
///
/// # Errors
/// It can't be asked.
pub(crate) async fn replication_from(
    source: &ServerInfo,
    replica: &mut Conn,
    version: ServerVersion,
) -> Result<Option<Replication>> {
    let rows: Vec<Row> = replica
        .query(show_replication(version))
        .await
        .map_err(|error| Error::database(Side::Source, "asking for replication", &error))?;
    let is_of_source = |row: &&Row| match version.flavor {
        Flavor::MySql => {
            text(row, &["Source_UUID", "Master_UUID"]).is_some_and(|uuid| uuid == source.identity)
        }
        Flavor::MariaDb => {
            text(row, &["Master_Server_Id"]).is_some_and(|id| id == source.server_id.to_string())
        }
    };
    let runs = |row: &Row, names: &[&str]| text(row, names).is_some_and(|state| state == "Yes");
    let has = |row: &Row, filter: &str| text(row, &[filter]).is_some_and(|value| !value.is_empty());
    Ok(rows.iter().find(is_of_source).map(|row| Replication {
        channel: text(row, &["Channel_Name", "Connection_name"]).unwrap_or_default(),
        io_runs: runs(row, &["Replica_IO_Running", "Slave_IO_Running"]),
        sql_runs: runs(row, &["Replica_SQL_Running", "Slave_SQL_Running"]),
        filters: FILTERS.into_iter().filter(|filter| has(row, filter)).collect(),
    }))
}

fn text(row: &Row, names: &[&str]) -> Option<String> {
    let named = |column: &mysql_async::Column| names.contains(&column.name_str().as_ref());
    let at = row.columns_ref().iter().position(named)?;
    row.get_opt::<Option<String>, _>(at)?.ok().flatten()
}

/// The statement that starts or stops the thread of a channel that applies what was fetched.
pub(crate) fn turn_sql_thread(version: ServerVersion, channel: &str, goes: bool) -> String {
    let verb = if goes { "START" } else { "STOP" };
    let name = format!("'{}'", channel.replace('\'', "''"));
    match version.flavor {
        Flavor::MariaDb => format!("{verb} SLAVE {name} SQL_THREAD"),
        // MySQL 8.0.22 has both words.
        Flavor::MySql if version.at_least(Flavor::MySql, 8, 1) => {
            format!("{verb} REPLICA SQL_THREAD FOR CHANNEL {name}")
        }
        Flavor::MySql => format!("{verb} SLAVE SQL_THREAD FOR CHANNEL {name}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_server_has_its_words() {
        let check = |version: &str, channel, expected: &str| {
            assert_eq!(turn_sql_thread(ServerVersion::parse(version).unwrap(), channel, false), expected);
        };
        check("10.11.6-MariaDB", "it's", "STOP SLAVE 'it''s' SQL_THREAD");
        check("8.4.0", "", "STOP REPLICA SQL_THREAD FOR CHANNEL ''");
        check("5.7.30", "a", "STOP SLAVE SQL_THREAD FOR CHANNEL 'a'");
    }
}
