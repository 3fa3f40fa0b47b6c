//! Whether replication could turn around at a swap: the side that rows are applied to now would serve and be followed, and
//! the one that is followed now would be written to.

use config::progress::Severity;
use config::{Config, Dialect, Family, Flavor, Side};

use super::Backend;
use super::settings;
use crate::error::Result;
use crate::leg;
use crate::schema::table::{SchemaSet, TableSchema};
use crate::server::end_position;

/// What an account needs in each schema that rows are applied to.
const WRITE_PRIVILEGES: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Why `serves`, once it serves, couldn't be followed into the other side; empty where it could. `tables`: those of the
/// migration.
///
/// # Errors
/// A side can't be asked.
pub(crate) async fn obstacles(
    config: &Config,
    serves: Side,
    tables: &[(String, String)],
) -> Result<Vec<String>> {
    let (mut followed, written) = tokio::try_join!(
        Backend::open(serves, leg::backend(config, serves)),
        Backend::open(serves.other(), leg::backend(config, serves.other()))
    )?;
    if Dialect::of(followed.info.version).family == Family::OceanBase {
        return Ok(vec![format!(
            "the {serves} is OceanBase, which has no binary log that could be followed"
        )]);
    }
    let mut found: Vec<String> = settings::judge_source(&followed.settings)
        .into_iter()
        .filter(|finding| finding.severity == Severity::Fatal)
        .map(|finding| {
            let setting = finding.subject.strip_prefix("source, ").unwrap_or(&finding.subject).to_owned();
            format!("{setting} of the {serves}: {}", finding.message.trim_end_matches('.'))
        })
        .collect();
    if found.is_empty() {
        if !followed.grants.has_global("REPLICATION SLAVE") {
            found.push(format!("the account on the {serves} lacks REPLICATION SLAVE on *.*"));
        }
        if let Err(error) = end_position(serves, &followed.info, &mut followed.conn).await {
            found.push(error.to_string());
        }
    }
    let other = serves.other();
    let names = config.migration.rename.on(other);
    let schemas: Vec<String> = names.schemas(tables.iter().map(|(schema, _)| schema.as_str()));
    let lacks = |privilege: &&str| !schemas.iter().all(|schema| written.grants.has(privilege, schema));
    let lacking: Vec<&str> = WRITE_PRIVILEGES.into_iter().filter(lacks).collect();
    if !lacking.is_empty() {
        found.push(format!(
            "the account on the {other} lacks {} on the migration's schemas, which rows would be applied to",
            lacking.join(", ")
        ));
    }
    let (past_read_only, named) = past_read_only(written.info.version.flavor);
    if !past_read_only.iter().any(|privilege| written.grants.has_global(privilege)) {
        found.push(format!(
            "the account on the {other} lacks {named}, so it can't apply rows behind the fence"
        ));
    }
    for backend in [followed, written] {
        drop(backend.conn.disconnect().await);
    }
    Ok(found)
}

/// The tables of the side that would be written whose rows need more than the other side's have (`migration.columns`).
pub(crate) fn lacking_columns(tables: &SchemaSet) -> Vec<String> {
    let why = |table: &TableSchema| Some(format!("{}: {}", table.name, table.left_out.no_way_back.as_ref()?));
    tables.sorted().iter().filter_map(|table| why(table)).collect()
}

/// Any of these lets an account write in spite of read_only, and the one to ask for.
fn past_read_only(flavor: Flavor) -> (&'static [&'static str], &'static str) {
    match flavor {
        Flavor::MySql => (&["SUPER", "CONNECTION_ADMIN"], "CONNECTION_ADMIN (MySQL 5.6: SUPER)"),
        Flavor::MariaDb => (&["READ_ONLY ADMIN"], "READ_ONLY ADMIN"),
    }
}
