//! `source.replica_url`: whether that server is a replica of the source, and one with the same tables.

use std::collections::BTreeMap;

use config::progress::{Finding, Severity};
use config::{Config, Flavor, Side, SideNames};

use super::tables::some_of;
use super::{Backend, names_of};
use crate::error::Result;
use crate::recopy::without_auto_increment;
use crate::schema::discover::{Discovery, discover};
use crate::server::replication::replication_from;

/// Looks at it. None where there is none.
pub(super) async fn judge(config: &Config, source: &Backend, found: &Discovery) -> Vec<Finding> {
    let Some(address) = &config.replica else { return Vec::new() };
    let subject = format!("replica, {}", address.address());
    let finding = |severity, message: String| Finding { severity, subject: subject.clone(), message };
    let fatal = |message: String| vec![finding(Severity::Fatal, message)];
    let mut replica = match Backend::open(Side::Source, address).await {
        Ok(replica) => replica,
        Err(error) => return fatal(format!("It can't be used: {}.", error.message)),
    };
    let (ours, theirs) = (&source.info, &replica.info);
    if theirs.identity == ours.identity {
        return fatal("It is the source itself; leave source.replica_url out.".to_owned());
    }
    if theirs.version.flavor != ours.version.flavor || !can_wait(&replica) {
        return fatal(format!(
            "It is {}, and chunks are read only from a replica of the source's own family, MySQL 5.7 or later.",
            theirs.version
        ));
    }
    if !(theirs.has_gtids && ours.has_gtids) {
        return fatal(
            "One of the two has GTIDs off, so the replica can't be waited for; set gtid_mode = ON on both, or leave \
             source.replica_url out."
                .to_owned(),
        );
    }
    if theirs.folds_names != ours.folds_names {
        return fatal("Its lower_case_table_names isn't the source's.".to_owned());
    }
    let mut findings = Vec::new();
    if theirs.dialect().version != ours.dialect().version {
        let message = format!("It is {} and the source {}.", theirs.version, ours.version);
        findings.push(finding(Severity::Warning, message));
    }
    let lacks = |schema: &&String| !replica.grants.has("SELECT", schema);
    let schemas = names_of(found);
    let lacking: Vec<&str> = schemas.iter().filter(lacks).map(String::as_str).collect();
    if !lacking.is_empty() {
        let message =
            format!("The account there lacks SELECT on the schemas {}.", some_of(lacking.into_iter()));
        findings.push(finding(Severity::Fatal, message));
    }
    if config.replica_stop && !replica.grants.may_stop_replication(theirs.version.flavor) {
        let right = match theirs.version.flavor {
            Flavor::MariaDb => "REPLICATION SLAVE ADMIN",
            Flavor::MySql => "REPLICATION_SLAVE_ADMIN",
        };
        let message = format!(
            "source.replica_stop is set, and the account there lacks {right}; GRANT {right} ON *.* to it."
        );
        findings.push(finding(Severity::Fatal, message));
    }
    let replicates = replicates(&mut replica, source).await;
    let same = same_tables(config, &mut replica, found).await;
    drop(replica.conn.disconnect().await);
    for reasons in [replicates, same] {
        match reasons {
            Ok(reasons) => findings.extend(reasons.into_iter().map(|why| finding(Severity::Fatal, why))),
            Err(error) => {
                findings
                    .push(finding(Severity::Fatal, format!("It couldn't be looked at: {}.", error.message)));
            }
        }
    }
    findings
}

/// MySQL 5.6 can't be asked to wait for a transaction's commit.
fn can_wait(replica: &Backend) -> bool {
    let version = replica.info.version;
    version.flavor == Flavor::MariaDb || (version.at_least(Flavor::MySql, 5, 7) && !version.ocean_base)
}

/// Why it isn't a replica of the source that has all of it.
async fn replicates(replica: &mut Backend, source: &Backend) -> Result<Vec<String>> {
    let version = replica.info.version;
    let Some(replication) = replication_from(&source.info, &mut replica.conn, version).await? else {
        return Ok(vec!["It doesn't replicate from the source.".to_owned()]);
    };
    let mut reasons = Vec::new();
    if !replication.sql_runs || !replication.io_runs {
        reasons.push(
            "Its replication doesn't run; START REPLICA there, since the copy waits for it.".to_owned(),
        );
    }
    if !replication.filters.is_empty() {
        reasons.push(format!("It leaves out something of the source ({}).", replication.filters.join(", ")));
    }
    Ok(reasons)
}

/// Tables that it has otherwise.
async fn same_tables(config: &Config, replica: &mut Backend, found: &Discovery) -> Result<Vec<String>> {
    let there = discover(Side::Source, &mut replica.conn, &config.migration, &SideNames::default()).await?;
    let definitions: BTreeMap<String, String> = there
        .tables
        .iter()
        .map(|table| (table.schema.name.to_string(), without_auto_increment(table.schema.whole_sql())))
        .collect();
    let differs: Vec<String> = found
        .tables
        .iter()
        .filter(|table| {
            definitions.get(&table.schema.name.to_string())
                != Some(&without_auto_increment(table.schema.whole_sql()))
        })
        .map(|table| table.schema.name.to_string())
        .collect();
    if differs.is_empty() {
        return Ok(Vec::new());
    }
    let which = some_of(differs.iter().map(String::as_str));
    Ok(vec![format!("It lacks these tables or has them otherwise than the source, or it lags: {which}.")])
}
