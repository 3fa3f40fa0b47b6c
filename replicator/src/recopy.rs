//! Tables that are copied anew while the tail stands, from a start position of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::progress::{Phase, ReplicationPosition};
use config::{Config, Flavor, Side, TableName, failpoint};
use mysql_async::Conn;
use tokio_util::sync::CancellationToken;

use crate::barrier::{Barrier, drop_tables};
use crate::error::{Error, Result};
use crate::leg::Leg;
use crate::pipeline::Context;
use crate::schema::convert::{self, Dialects};
use crate::schema::discover::{DiscoveredTable, Discovery, discover};
use crate::schema::history::{Begin, Definitions, History};
use crate::schema::table::{SchemaSet, TableSchema};
use crate::server::{self, ServerInfo};
use crate::snapshot::journal::ChunkJournal;
use crate::snapshot::late_indexes::LateIndexes;
use crate::snapshot::{ChunkSource, Copied, Snapshot, SnapshotProgress, whole};

/// Folder of such a copy's journal, in state_dir.
const FOLDER: &str = "copy-anew";
/// How often definitions are read until they stand still.
const ATTEMPTS: usize = 10;

/// What a copy needs to know.
pub(crate) struct Recopy<'a> {
    pub(crate) context: &'a Context,
    pub(crate) leg: Leg,
    /// The server that is read.
    pub(crate) read: &'a ServerInfo,
    /// The server that is written.
    pub(crate) write: &'a ServerInfo,
    pub(crate) cancel: &'a CancellationToken,
    /// Where the tables' progress is shown; `None`: nowhere.
    pub(crate) progress: Option<&'a SnapshotProgress>,
}

impl Barrier<'_> {
    /// See [`Recopy::copy_anew`].
    pub(crate) async fn copy_anew(&self, definitions: &mut Definitions, names: &[TableName]) -> Result<bool> {
        let Barrier { context, leg, read, write, cancel, .. } = *self;
        let recopy = Recopy { context, leg, read, write, cancel, progress: None };
        recopy.copy_anew(definitions, names).await
    }
}

impl Recopy<'_> {
    /// Drops `names` on the target and copies those of them that the source has now. A crash in its midst begins it
    /// anew. False where it was cancelled.
    ///
    /// # Errors
    /// A table there has columns that aren't moved: what is in them would be lost.
    pub(crate) async fn copy_anew(&self, definitions: &mut Definitions, names: &[TableName]) -> Result<bool> {
        let Recopy { context, read, .. } = *self;
        let holds_more = |name: &&TableName| {
            let written = definitions.get(name).and_then(|known| known.table.target.as_deref());
            written.is_some_and(|written| !written.left_out.is_empty())
        };
        if let Some(name) = names.iter().find(holds_more) {
            let what = "it would have to be copied anew, and what is in its columns that aren't moved (migration.columns) would be \
                        lost; nothing is skipped, so the way back ends here. Stay on the new server: FINISH MIGRATION";
            return Err(Error::definite(Side::Target, name.to_string(), what));
        }
        let config = &in_direction(&context.config, self.leg);
        context.live.set_phase(Phase::Copying);
        let mut from = server::connect(Side::Source, &config.source).await?;
        let mut to = server::connect(Side::Target, &config.target).await?;
        drop_tables(&mut to, names, &config.migration.rename.on(Side::Target)).await?;
        failpoint::hit("recopy.dropped");
        let (start, mut found) = standing_definitions(config, read, &mut from, Some(names)).await?;
        found.tables.retain(|table| names.contains(&table.schema.name));
        if let Some(table) = found.tables.iter().find(|table| !table.problems.is_empty()) {
            let problem = table.problems.first().map_or("", String::as_str);
            return Err(Error::definite(Side::Source, table.schema.name.to_string(), problem));
        }
        let lost = |table: &&DiscoveredTable| {
            table.schema.filter.is_none()
                && definitions.get(&table.schema.name).is_some_and(|known| known.table.filter.is_some())
        };
        if let Some(table) = found.tables.iter().find(lost) {
            let what = "it has lost the column by which its rows are filtered (migration.rows), so those of other businesses \
                        can't be told apart any more; put the column back, or exclude the table, and begin the migration again";
            return Err(Error::definite(Side::Source, table.schema.name.to_string(), what));
        }
        if context.copies_at_one_position()
            && let Some((table, problem)) = not_at_one_position(&found.tables, read.cascades_in_binlog).next()
        {
            return Err(Error::definite(Side::Source, table.to_string(), problem));
        }
        let dialects = Dialects { source: read.dialect(), target: self.write.dialect() };
        let found = convert::create_on_target(&mut to, found, dialects, config).await?;
        drop(to.disconnect().await);
        let Some(mut rows) =
            self.copy_chunks(config, definitions, &start, (&mut from, &found), names).await?
        else {
            return Ok(false);
        };
        drop(from.disconnect().await);
        for table in found.tables.iter().filter(|table| self.is_copied_whole(&table.schema)) {
            let Some(copied) = self.copy_whole(config, definitions, &found, &table.schema).await? else {
                return Ok(false);
            };
            rows += copied;
        }
        failpoint::hit("recopy.copied");
        tracing::info!(area = "ddl", rows, "{} tables are copied anew, from {start} on", found.tables.len());
        Ok(true)
    }

    /// True where the table is copied as it is at one position.
    fn is_copied_whole(&self, table: &TableSchema) -> bool {
        table.keyless || self.context.copies_at_one_position()
    }

    /// Copies the tables that are copied in chunks, and notes what became of all the others that aren't there any more. Returns
    /// the rows; `None` where it was cancelled.
    async fn copy_chunks(
        &self,
        config: &Config,
        definitions: &mut Definitions,
        start: &ReplicationPosition,
        (from, found): (&mut Conn, &Discovery),
        names: &[TableName],
    ) -> Result<Option<u64>> {
        let in_chunks = found.tables.iter().filter(|table| !self.is_copied_whole(&table.schema));
        let tables = SchemaSet::new(in_chunks.map(|table| table.schema.clone()).collect());
        let is_whole = |name: &TableName| {
            found.tables.iter().any(|table| table.schema.name == *name && self.is_copied_whole(&table.schema))
        };
        let names: Vec<TableName> = names.iter().filter(|name| !is_whole(name)).cloned().collect();
        if names.is_empty() {
            return Ok(Some(0));
        }
        if self.read.version.flavor == Flavor::MariaDb {
            // It has XA COMMIT in its log for a moment before a read sees what that committed.
            server::xa::settle_before_copy(Side::Source, from).await?;
        }
        let folder = config.state_dir.join(FOLDER);
        let io = |error: std::io::Error| {
            Error::definite(None, folder.display().to_string(), format!("the folder can't be used: {error}"))
        };
        std::fs::create_dir_all(&folder).map_err(io)?;
        ChunkJournal::discard(&folder)?;
        let progress = SnapshotProgress::new(&tables);
        let cancel = self.cancel.clone();
        let snapshot = Snapshot {
            config,
            from: ChunkSource::source(config, start),
            tables: &tables,
            state_dir: &folder,
            progress: Arc::clone(&progress),
            throttle: Arc::clone(&self.context.live.throttle),
            late_indexes: LateIndexes::none(&config.target),
            // The tail stands meanwhile: what is read goes where it is needed.
            stage: None,
        };
        if snapshot.run(cancel).await? == Copied::Cancelled {
            return Ok(None);
        }
        let end = server::end_position(Side::Source, self.read, from).await?;
        let begin = Begin::OwnCopy { from: start.coordinates.to_string(), to: end.coordinates.to_string() };
        definitions.replace(&names, found, &begin, &BTreeMap::new());
        // Up to `start` somebody has dropped them, or given them another name: a statement that does copies that one anew. Whatever
        // the stream holds of them before is gone with them.
        let is_there = |name: &&TableName| found.tables.iter().any(|table| table.schema.name == **name);
        definitions.ignored.extend(names.iter().filter(|name| !is_there(name)).cloned());
        ChunkJournal::discard(&folder)?;
        Ok(Some(progress.rows_copied()))
    }

    /// Copies a table as it is at one position. `None` where it was cancelled.
    async fn copy_whole(
        &self,
        config: &Config,
        definitions: &mut Definitions,
        found: &Discovery,
        table: &TableSchema,
    ) -> Result<Option<u64>> {
        let shown = self.progress.and_then(|progress| progress.table(&table.name)).cloned();
        let progress = shown.unwrap_or_default();
        let table = Arc::new(table.clone());
        let at = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(None),
            at = whole::copy(config, self.read, &table, &progress) => at?.to_string(),
        };
        // Everything up to there is in it and nothing behind: no statement can straddle such a copy.
        let begin = Begin::OwnCopy { from: at.clone(), to: at };
        definitions.replace(std::slice::from_ref(&table.name), found, &begin, &BTreeMap::new());
        Ok(Some(progress.rows_copied()))
    }

    /// Copies the tables that are copied at one position, and that the first copy hasn't copied yet, one after the other.
    /// False where it was cancelled.
    pub(crate) async fn copy_whole_tables(&self, history: &History) -> Result<bool> {
        let mut definitions = history.read()?;
        let whole = definitions.tables.iter().filter(|definition| self.is_copied_whole(&definition.table));
        let (open, done): (Vec<_>, Vec<_>) =
            whole.partition(|definition| definition.begin == Begin::FirstCopy);
        if let Some(progress) = self.progress {
            done.iter().for_each(|definition| progress.was_copied(&definition.table.name));
        }
        let open: Vec<TableName> = open.iter().map(|definition| definition.table.name.clone()).collect();
        for name in open {
            // Once it is begun it can't wait: it is one read.
            tokio::select! {
                () = self.context.live.throttle.pass() => {}
                () = self.cancel.cancelled() => return Ok(false),
            }
            if !self.copy_anew(&mut definitions, std::slice::from_ref(&name)).await? {
                return Ok(false);
            }
            let Some(definition) = definitions.get(&name) else {
                let what = "it was dropped or renamed on the source before it was copied, and is copied as it is at one \
                            position, so the changes before that can't be followed; begin the migration again with an empty state_dir and an \
                            empty target";
                return Err(Error::definite(Side::Source, name.to_string(), what));
            };
            if let Some(progress) = self.progress.filter(|_| !self.is_copied_whole(&definition.table)) {
                // It was given a key meanwhile, and was copied in chunks.
                progress.was_copied(&name);
            }
            history.write(&definitions)?;
            failpoint::hit("snapshot.whole.defined");
        }
        Ok(true)
    }
}

/// Tables that can't be copied as they are at one position, each with a sentence that says why.
pub(crate) fn not_at_one_position(
    tables: &[DiscoveredTable],
    cascades_in_binlog: bool,
) -> impl Iterator<Item = (&TableName, &'static str)> {
    const ENGINE: &str = "The source logs row images that lack columns (binlog_row_image), so each table has to be copied as it is \
         at one position, which an engine without transactions can't show; SET GLOBAL binlog_row_image = 'FULL' there, or \
         change the engine to InnoDB.";
    const CASCADES: &str = "The source logs row images that lack columns (binlog_row_image), so each table has to be copied as it \
         is at one position, and other tables refer to this one with ON DELETE or ON UPDATE actions, which the source \
         doesn't log; SET GLOBAL binlog_row_image = 'FULL' there.";
    tables.iter().filter_map(move |table| {
        let why = if !table.engine.eq_ignore_ascii_case("InnoDB") {
            ENGINE
        } else if table.schema.has_cascading_children && !cascades_in_binlog {
            CASCADES
        } else {
            return None;
        };
        Some((&table.schema.name, why))
    })
}

/// The configuration with the side that a leg reads as its source. The new server hasn't got the columns that aren't moved.
fn in_direction(config: &Config, leg: Leg) -> Config {
    let (source, target) = (leg.from(config).clone(), leg.to(config).clone());
    let mut turned = Config { source, target, ..config.clone() };
    if leg.reads() == Side::Target {
        turned.migration.rename = config.migration.rename.turned();
        turned.migration.columns.clear();
    }
    turned
}

/// A start position, and the definitions at it: read before and after it, and the same both times. `names`: only
/// these have to stand still.
pub(crate) async fn standing_definitions(
    config: &Config,
    source: &ServerInfo,
    from: &mut Conn,
    names: Option<&[TableName]>,
) -> Result<(ReplicationPosition, Discovery)> {
    let called = config.migration.rename.on(Side::Source);
    let mut before = discover(Side::Source, from, &config.migration, &called).await?;
    for _ in 0..ATTEMPTS {
        let start = server::start_position(Side::Source, source, from).await?;
        let after = discover(Side::Source, from, &config.migration, &called).await?;
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
        (table.schema.name.clone(), without_auto_increment(table.schema.whole_sql()))
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
