//! Secondary indexes that come after the rows.
//!
//! Each row that is loaded writes to a random place of every secondary index; an index that is built once the rows are
//! there is sorted first and written in order. So indexes are taken off large tables while those are empty, and built by
//! whoever copies a table's last chunk.
//!
//! What was taken off is noted in `late-indexes.json` before it is, and the copy isn't over before [`LateIndexes::build_all`] has
//! compared all that was noted with what is there. So it doesn't matter what died in between.
//!
//! Only plain indexes are: unique ones say something about the rows and are needed to replace some, a foreign key may stand on
//! an index of its columns, and of the other kinds (FULLTEXT, SPATIAL, expressions) no server builds several at once, or all alike.
//! And only those behind the last of these: an index that is added comes last, and their order is what an optimizer may
//! decide by between two that are equally good. (Servers keep FULLTEXT ones last by themselves.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use config::names::quote_identifier;
use config::{BackendConfig, Side, SideNames, TableName, durable};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::schema::table::{SchemaSet, TableSchema};
use crate::server::connect;
use crate::stray::own;

const FILE: &str = "late-indexes.json";
const NAME: &str = "late-indexes";
const VERSION: u32 = 1;
/// Tables with fewer rows, by the server's estimate, keep their indexes: there is nothing to be gained.
const ROWS_MIN: u64 = 10_000;
/// ER_DUP_KEYNAME: a statement of an earlier run of ours was still at work, and is done now.
const DUPLICATE_NAME: u16 = 1061;
/// Looks at a table until all its indexes are there.
const ATTEMPTS: usize = 3;

/// An index as SHOW CREATE TABLE defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    name: String,
    /// ``KEY `name` (`column`,…) …``, as it stands behind ADD.
    definition: String,
}

/// What was noted of one table.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    schema: String,
    table: String,
    indexes: Vec<Index>,
}

/// The indexes that a copy owes to its tables.
#[derive(Debug)]
pub(crate) struct LateIndexes {
    target: BackendConfig,
    /// What the target calls tables.
    names: SideNames,
    owed: BTreeMap<TableName, Vec<Index>>,
}

impl LateIndexes {
    /// Every table keeps its indexes.
    pub(crate) fn none(target: &BackendConfig) -> Self {
        Self { target: target.clone(), names: SideNames::default(), owed: BTreeMap::new() }
    }

    /// What an earlier run has taken off.
    ///
    /// # Errors
    /// The file is damaged.
    pub(crate) fn recall(target: &BackendConfig, names: SideNames, state_dir: &Path) -> Result<Option<Self>> {
        let failed = |why: String| Error::definite(None, FILE, why);
        let known =
            durable::read(&path(state_dir), NAME, VERSION).map_err(|error| failed(error.to_string()))?;
        let Some(bytes) = known else { return Ok(None) };
        let noted: Vec<Noted> =
            serde_json::from_slice(&bytes).map_err(|error| failed(format!("it can't be read: {error}")))?;
        let owed = noted.into_iter().map(|of| (TableName::new(&of.schema, &of.table), of.indexes));
        Ok(Some(Self { target: target.clone(), names, owed: owed.collect() }))
    }

    /// Takes the indexes off `tables`, which have no rows on the target yet.
    ///
    /// # Errors
    /// The target can't be asked, or the file can't be written.
    pub(crate) async fn take_off(
        target: &BackendConfig,
        names: SideNames,
        tables: &SchemaSet,
        state_dir: &Path,
    ) -> Result<Self> {
        let owed = Self::choose(target, tables).await?;
        let noted = owed.iter().map(|(name, indexes)| Noted {
            schema: name.schema.clone(),
            table: name.table.clone(),
            indexes: indexes.clone(),
        });
        let bytes = serde_json::to_vec_pretty(&noted.collect::<Vec<_>>())
            .map_err(|error| Error::bug(FILE, error.to_string()))?;
        durable::write(&path(state_dir), NAME, VERSION, &bytes)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))?;
        config::failpoint::hit("snapshot.indexes.noted");
        let mut conn = prepared(target).await?;
        for (name, indexes) in &owed {
            drop_all(&mut conn, &there(&names, name)?, indexes).await?;
            config::failpoint::hit("snapshot.indexes.dropped");
        }
        drop(conn.disconnect().await);
        Ok(Self { target: target.clone(), names, owed })
    }

    async fn choose(target: &BackendConfig, tables: &SchemaSet) -> Result<BTreeMap<TableName, Vec<Index>>> {
        let mut conn = prepared(target).await?;
        let mut owed = BTreeMap::new();
        let referred = referred_columns(tables);
        for table in tables.sorted() {
            if table.rows_estimate < ROWS_MIN || table.keyless {
                continue;
            }
            let there = table.on_target();
            let may_be_late = |columns: &[String]| may_be_late(&there, columns, referred.get(&table.name));
            let indexes = last_ones(&definition(&mut conn, there.stored()).await?, may_be_late);
            if !indexes.is_empty() {
                owed.insert(table.name.clone(), indexes);
            }
        }
        drop(conn.disconnect().await);
        Ok(owed)
    }

    /// Forgets what an earlier migration has noted.
    pub(crate) fn discard(state_dir: &Path) -> Result<()> {
        let path = path(state_dir);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // A plan that comes back after a crash would be taken for the next migration's.
            removed => removed.and_then(|()| durable::sync_folder(state_dir)),
        };
        removed.map_err(|error| {
            Error::definite(None, path.display().to_string(), format!("it can't be removed: {error}"))
        })
    }

    /// True where the table lacks indexes until [`Self::build`].
    pub(super) fn are_owed_to(&self, table: &TableName) -> bool {
        self.owed.contains_key(table)
    }

    /// Builds those of a table that aren't there, all of them in one pass over its rows. Idempotent.
    ///
    /// Cancel safety: dropped in the middle, the server ends the statement or doesn't; the next call finds out which.
    pub(super) async fn build(&self, table: &TableName) -> Result<()> {
        let Some(indexes) = self.owed.get(table) else { return Ok(()) };
        let mut conn = prepared(&self.target).await?;
        build(&mut conn, &there(&self.names, table)?, indexes).await?;
        drop(conn.disconnect().await);
        Ok(())
    }

    /// The same for every table.
    pub(super) async fn build_all(&self) -> Result<()> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let mut conn = prepared(&self.target).await?;
        for (table, indexes) in &self.owed {
            build(&mut conn, &there(&self.names, table)?, indexes).await?;
        }
        drop(conn.disconnect().await);
        Ok(())
    }
}

/// What the target calls the table.
fn there(names: &SideNames, table: &TableName) -> Result<TableName> {
    names.table(table).ok_or_else(|| {
        Error::bug(table.to_string(), "it has no name of its own on the target (migration.rename)")
    })
}

async fn prepared(target: &BackendConfig) -> Result<Conn> {
    let mut conn = connect(Side::Target, target).await?;
    let database =
        |error: mysql_async::Error| Error::database(Side::Target, "preparing to build indexes", &error);
    // Names and comments travel in SHOW CREATE TABLE and back; its quotes are those of an empty sql_mode.
    for statement in
        ["SET NAMES utf8mb4", "SET SESSION foreign_key_checks = 0, sql_mode = '', sql_quote_show_create = 1"]
    {
        conn.query_drop(statement).await.map_err(database)?;
    }
    own::announce(Side::Target, &mut conn).await?;
    Ok(conn)
}

async fn definition(conn: &mut Conn, table: &TableName) -> Result<String> {
    let database = |error: mysql_async::Error| Error::database(Side::Target, table.to_string(), &error);
    let row: Option<Row> =
        conn.query_first(format!("SHOW CREATE TABLE {}", table.quoted())).await.map_err(database)?;
    row.and_then(|row| row.get_opt::<String, _>(1)).and_then(std::result::Result::ok).ok_or_else(|| {
        Error::definite(Side::Target, table.to_string(), "SHOW CREATE TABLE answers nothing that can be read")
    })
}

/// An index that the server won't part with stays: then it is only slower.
async fn drop_all(conn: &mut Conn, table: &TableName, indexes: &[Index]) -> Result<()> {
    let list: Vec<String> =
        indexes.iter().map(|index| format!("DROP KEY {}", quote_identifier(&index.name))).collect();
    match conn.query_drop(format!("ALTER TABLE {} {}", table.quoted(), list.join(", "))).await {
        Ok(()) => Ok(()),
        Err(mysql_async::Error::Server(error)) => {
            tracing::info!(area = "snapshot", %table, "its indexes stay while it is copied: the target answered {}", error.code);
            Ok(())
        }
        Err(error) => Err(Error::database(Side::Target, table.to_string(), &error)),
    }
}

async fn build(conn: &mut Conn, table: &TableName, indexes: &[Index]) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let there: BTreeSet<String> = keys(&definition(conn, table).await?)
            .into_iter()
            .flatten()
            .map(|(index, _)| index.name)
            .collect();
        let missing = indexes.iter().filter(|index| !there.contains(&index.name));
        let list: Vec<String> = missing.map(|index| format!("ADD {}", index.definition)).collect();
        if list.is_empty() {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        match conn.query_drop(format!("ALTER TABLE {} {}", table.quoted(), list.join(", "))).await {
            Ok(()) => {
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(area = "snapshot", %table, indexes = list.len(), took_ms, "its indexes are built");
            }
            Err(mysql_async::Error::Server(error)) if error.code == DUPLICATE_NAME => {}
            Err(error) => {
                return Err(Error::database(
                    Side::Target,
                    format!("building the indexes of {table}"),
                    &error,
                ));
            }
        }
        config::failpoint::hit("snapshot.indexes.built");
    }
    Err(Error::definite(
        Side::Target,
        table.to_string(),
        "its indexes were built and aren't there; something else changes this table",
    ))
}

/// Columns that foreign keys of any table refer to.
fn referred_columns(tables: &SchemaSet) -> BTreeMap<TableName, BTreeSet<String>> {
    let mut referred: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
    for table in tables.sorted() {
        for key in &table.foreign_keys {
            referred.entry(key.parent.clone()).or_default().extend(key.parent_columns.iter().cloned());
        }
    }
    referred
}

/// True where no foreign key can stand on an index of these columns, and none of them is generated.
fn may_be_late(table: &TableSchema, columns: &[String], referred: Option<&BTreeSet<String>>) -> bool {
    columns.iter().all(|name| {
        let at = table.columns.iter().position(|column| column.name == *name && !column.generated);
        at.is_some_and(|at| !table.foreign_keys.iter().any(|key| key.columns.contains(&at)))
            && !referred.is_some_and(|referred| referred.contains(name))
    })
}

/// The plain indexes behind everything that has to stay, in their order.
fn last_ones(create_sql: &str, may_be_late: impl Fn(&[String]) -> bool) -> Vec<Index> {
    let mut indexes: Vec<Index> = keys(create_sql)
        .into_iter()
        .rev()
        .map_while(|key| key.filter(|(_, columns)| may_be_late(columns)))
        .map(|(index, _)| index)
        .collect();
    indexes.reverse();
    indexes
}

/// The keys of a definition in their order, but for FULLTEXT ones: a plain index with its columns, or `None`.
fn keys(create_sql: &str) -> Vec<Option<(Index, Vec<String>)>> {
    let is_key = |line: &&str| {
        let (word, rest) = line.split_once(' ').unwrap_or_default();
        word == "KEY" || (word != "FULLTEXT" && rest.starts_with("KEY "))
    };
    create_sql.lines().map(str::trim).filter(is_key).map(plain_index).collect()
}

fn plain_index(line: &str) -> Option<(Index, Vec<String>)> {
    let definition = line.strip_suffix(',').unwrap_or(line);
    let (name, rest) = identifier(definition.strip_prefix("KEY ")?)?;
    let mut list = rest.strip_prefix(" (")?;
    let mut columns = Vec::new();
    loop {
        let (column, rest) = identifier(list)?;
        columns.push(column);
        let end = rest.find([',', ')'])?;
        // The length of a prefix has a pair of its own.
        let end = if rest.starts_with('(') { end + 1 + rest.get(end + 1..)?.find([',', ')'])? } else { end };
        if !rest.get(end..)?.starts_with(',') {
            return Some((Index { name, definition: definition.to_owned() }, columns));
        }
        list = rest.get(end + 1..)?.trim_start();
    }
}

/// A quoted identifier at the start of `text`, and what is behind it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('`')?;
    let mut name = String::new();
    loop {
        let (part, behind) = rest.split_once('`')?;
        name.push_str(part);
        match behind.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return Some((name, behind)),
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const CREATE: &str = "CREATE TABLE `t` (
  `id` int NOT NULL AUTO_INCREMENT,
  `a` varchar(40) NOT NULL DEFAULT 'KEY `x` (`a`)',
  `tick``ed` int DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`a`),
  KEY `k_1` (`a`(10),`tick``ed` DESC),
  KEY `odd``name` (`tick``ed`) USING BTREE COMMENT 'of, (`a`), all' /*!80000 INVISIBLE */,
  KEY `made` ((lower(`a`))),
  FULLTEXT KEY `f` (`a`),
  KEY `last` (`id`,`a`),
  CONSTRAINT `c` FOREIGN KEY (`a`) REFERENCES `p` (`a`)
) ENGINE=InnoDB";

    #[test]
    fn plain_indexes_are_found_by_their_lines() {
        let found: Vec<_> = keys(CREATE).into_iter().flatten().collect();
        let shown: Vec<(&str, &str, Vec<&str>)> = found
            .iter()
            .map(|(index, columns)| {
                let columns = columns.iter().map(String::as_str).collect();
                (index.name.as_str(), index.definition.as_str(), columns)
            })
            .collect();
        let expected = vec![
            ("k_1", "KEY `k_1` (`a`(10),`tick``ed` DESC)", vec!["a", "tick`ed"]),
            (
                "odd`name",
                "KEY `odd``name` (`tick``ed`) USING BTREE COMMENT 'of, (`a`), all' /*!80000 INVISIBLE */",
                vec!["tick`ed"],
            ),
            ("last", "KEY `last` (`id`,`a`)", vec!["id", "a"]),
        ];
        assert_eq!(shown, expected);
        assert_eq!(keys("CREATE TABLE \"t\" (\n  KEY \"a\" (\"b\")\n)"), [None]);
        assert_eq!(keys("  KEY `a` (`b`"), [None]);
    }

    #[test]
    fn indexes_before_one_that_stays_do_too() {
        let check = |sql: &str, may_be_late: fn(&[String]) -> bool, expected: &[&str]| {
            let names: Vec<String> =
                last_ones(sql, may_be_late).into_iter().map(|index| index.name).collect();
            assert_eq!(names, expected);
        };
        check(CREATE, |_| true, &["last"]);
        let without = CREATE.replace("  KEY `made` ((lower(`a`))),\n", "");
        check(&without, |_| true, &["k_1", "odd`name", "last"]);
        check(&without, |columns| columns != ["tick`ed"], &["last"]);
        check(&without.replace("  KEY `last`", "  UNIQUE KEY `last`"), |_| true, &[]);
    }

    #[test]
    fn indexes_of_foreign_keys_and_generated_columns_stay() {
        let tables: SchemaSet = crate::binlog::fixture::tables();
        let mut table = (*tables.sorted().remove(0)).clone();
        let name = table.columns.first().unwrap().name.clone();
        let (columns, referred) = ([name.clone()], BTreeSet::from([name]));
        assert!(may_be_late(&table, &columns, None));
        assert!(!may_be_late(&table, &columns, Some(&referred)));
        assert!(!may_be_late(&table, &["nobody".to_owned()], None));
        table.columns.first_mut().unwrap().generated = true;
        assert!(!may_be_late(&table, &columns, None));
    }
}
