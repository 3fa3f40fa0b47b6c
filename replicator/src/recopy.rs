//! Tables that are copied anew while the tail stands, from a start position of their own.

use std::sync::Arc;

use config::progress::{Phase, ReplicationPosition};
use config::{Config, Side, TableName};
use mysql_async::Conn;

use crate::barrier::{Barrier, drop_tables};
use crate::error::{Error, Result};
use crate::leg::Leg;
use crate::schema::convert::{self, Dialects};
use crate::schema::discover::{DiscoveredTable, Discovery, discover};
use crate::schema::history::{Begin, Definitions};
use crate::schema::table::SchemaSet;
use crate::server::{self, ServerInfo};
use crate::snapshot::journal::ChunkJournal;
use crate::snapshot::{Copied, Snapshot, SnapshotProgress};

/// Folder of such a copy's journal, in state_dir.
const FOLDER: &str = "copy-anew";
/// How often definitions are read until they stand still.
const ATTEMPTS: usize = 10;

impl Barrier<'_> {
    /// Drops `names` on the target and copies those of them that the source has now. A crash in its midst begins it
    /// anew. False where it was cancelled.
    pub(crate) async fn copy_anew(&self, definitions: &mut Definitions, names: &[TableName]) -> Result<bool> {
        let Barrier { context, read, cancel, .. } = *self;
        let config = &in_direction(&context.config, self.leg);
        context.live.set_phase(Phase::Copying);
        let mut from = server::connect(Side::Source, &config.source).await?;
        let mut to = server::connect(Side::Target, &config.target).await?;
        drop_tables(&mut to, names).await?;
        let (start, mut found) = standing_definitions(config, read, &mut from, Some(names)).await?;
        found.tables.retain(|table| names.contains(&table.schema.name));
        if let Some(table) = found.tables.iter().find(|table| !table.problems.is_empty()) {
            let problem = table.problems.first().map_or("", String::as_str);
            return Err(Error::definite(Side::Source, table.schema.name.to_string(), problem));
        }
        let dialects = Dialects { source: read.dialect(), target: self.write.dialect() };
        let found = convert::create_on_target(&mut to, found, dialects, &config.migration).await?;
        drop(to.disconnect().await);
        let folder = config.state_dir.join(FOLDER);
        let io = |error: std::io::Error| {
            Error::definite(None, folder.display().to_string(), format!("the folder can't be used: {error}"))
        };
        std::fs::create_dir_all(&folder).map_err(io)?;
        ChunkJournal::discard(&folder)?;
        let tables: SchemaSet = found.schema_set();
        let progress = SnapshotProgress::new(&tables);
        let copied =
            Snapshot::run(config, &tables, &start, &folder, Arc::clone(&progress), cancel.clone()).await?;
        if copied == Copied::Cancelled {
            return Ok(false);
        }
        let end = server::end_position(Side::Source, read, &mut from).await?;
        drop(from.disconnect().await);
        let begin = Begin::OwnCopy { from: start.coordinates.to_string(), to: end.coordinates.to_string() };
        definitions.replace(names, &found, &begin, &std::collections::BTreeMap::new());
        ChunkJournal::discard(&folder)?;
        tracing::info!(
            area = "ddl",
            rows = progress.rows_copied(),
            "{} tables are copied anew, from {start} to {end}",
            found.tables.len()
        );
        Ok(true)
    }
}

/// The configuration with the side that a leg reads as its source.
fn in_direction(config: &Config, leg: Leg) -> Config {
    let (source, target) = (leg.from(config).clone(), leg.to(config).clone());
    Config { source, target, ..config.clone() }
}

/// A start position, and the definitions at it: read before and after it, and the same both times. `names`: only
/// these have to stand still.
pub(crate) async fn standing_definitions(
    config: &Config,
    source: &ServerInfo,
    from: &mut Conn,
    names: Option<&[TableName]>,
) -> Result<(ReplicationPosition, Discovery)> {
    let mut before = discover(Side::Source, from, &config.migration).await?;
    for _ in 0..ATTEMPTS {
        let start = server::start_position(Side::Source, source, from).await?;
        let after = discover(Side::Source, from, &config.migration).await?;
        if shown(&before, names) == shown(&after, names) {
            return Ok((start, after));
        }
        before = after;
    }
    Err(Error::transient(
        Side::Source,
        "reading the schema",
        "definitions change faster than they can be read; it is tried again",
    ))
}

/// What has to be the same: names and definitions, but for the next AUTO_INCREMENT value.
fn shown(found: &Discovery, names: Option<&[TableName]>) -> Vec<(TableName, String)> {
    let wanted = |table: &&DiscoveredTable| names.is_none_or(|names| names.contains(&table.schema.name));
    let show = |table: &DiscoveredTable| {
        (table.schema.name.clone(), without_auto_increment(&table.schema.create_sql))
    };
    found.tables.iter().filter(wanted).map(show).collect()
}

/// A CREATE TABLE without its next AUTO_INCREMENT value.
pub(crate) fn without_auto_increment(create_sql: &str) -> String {
    const WORD: &str = " AUTO_INCREMENT=";
    // The options stand behind the last closing parenthesis of the columns; a comment there may hold the word too,
    // and then both texts lose the same.
    match create_sql.split_once(WORD) {
        Some((head, tail)) => {
            let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{head}{rest}")
        }
        None => create_sql.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_auto_increment;

    #[test]
    fn a_counter_is_no_definition() {
        let check = |sql: &str, expected: &str| assert_eq!(without_auto_increment(sql), expected);
        check(
            "CREATE TABLE `a` (…) ENGINE=InnoDB AUTO_INCREMENT=17 DEFAULT CHARSET=x",
            "CREATE TABLE `a` (…) ENGINE=InnoDB DEFAULT CHARSET=x",
        );
        check("CREATE TABLE `a` (…) ENGINE=InnoDB", "CREATE TABLE `a` (…) ENGINE=InnoDB");
    }
}
