//! Whether the source still has the history that the spool holds, and everything behind it.
//!
//! GTIDs say that by themselves. Where there are none, a place in the binlog means the same only as long as the server and
//! the file are the same: a RESET begins with the same file names again, and a crash may cut a file's end off. So the
//! server's identity is compared, the file has to be there and long enough, and each file is known by the second in which
//! the server began it, which stands in front of its first event and is sent with every dump.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use config::progress::ReplicationPosition;
use config::{BinlogPosition, Flavor, GtidSet, Side, durable};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::fetch::FetchConfig;
use crate::binlog::stream::{PURGED, WENT_BACK};
use crate::error::{Error, Result};
use crate::server;

const PLACE: &str = "comparing the spool with the source's history";

/// The source sends a transaction before it counts it as executed, and a replica that it waits for can keep it so
/// for ten seconds. Only what stays missing longer is missing.
const EXECUTED_LIMIT: Duration = Duration::from_secs(15);
const EXECUTED_POLL: Duration = Duration::from_millis(100);

/// Asks the source whether it still has everything behind `from`, and still has `from`. The control connection also
/// logs in with the whole password, which the dump connection relies on. Returns where its binlog ends, if it has no
/// GTIDs.
pub(super) async fn check(
    config: &FetchConfig,
    from: &ReplicationPosition,
) -> Result<Option<BinlogPosition>> {
    let mut conn = server::connect(Side::Source, &config.source).await?;
    let end = match &from.gtids {
        GtidSet::Anonymous => Some(check_files(config, &mut conn, &from.coordinates).await?),
        gtids => {
            check_gtids(&mut conn, gtids).await?;
            None
        }
    };
    // The answer is here; whether the goodbye arrives doesn't matter.
    drop(conn.disconnect().await);
    Ok(end)
}

fn database(error: mysql_async::Error) -> Error {
    Error::database(Side::Source, PLACE, &error)
}

fn definite(place: impl Into<String>, what: &str) -> Error {
    Error::definite(Side::Source, place, what)
}

async fn check_gtids(conn: &mut Conn, from: &GtidSet) -> Result<()> {
    let flavor = from.flavor();
    let sql = match flavor {
        Flavor::MySql => "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged",
        Flavor::MariaDb => "SELECT @@GLOBAL.gtid_binlog_pos, ''",
    };
    let parse =
        |text: &str| GtidSet::parse(flavor, text).map_err(|error| definite(PLACE, &error.to_string()));
    let since = Instant::now();
    let purged = loop {
        let row: Option<(String, String)> = conn.query_first(sql).await.map_err(database)?;
        let (executed, purged) = row.unwrap_or_default();
        if parse(&executed)?.contains_set(from) {
            break purged;
        }
        if since.elapsed() > EXECUTED_LIMIT {
            return Err(definite(PLACE, WENT_BACK));
        }
        tokio::time::sleep(EXECUTED_POLL).await;
    };
    if flavor == Flavor::MySql && !from.contains_set(&parse(&purged)?) {
        return Err(definite(PLACE, PURGED));
    }
    Ok(())
}

/// Returns where the binlog ends.
async fn check_files(config: &FetchConfig, conn: &mut Conn, from: &BinlogPosition) -> Result<BinlogPosition> {
    let info = server::inspect(Side::Source, conn).await?;
    if info.identity != config.identity {
        return Err(definite(PLACE, WENT_BACK));
    }
    if info.has_gtids {
        return Err(definite("gtid_mode", GTIDS_ON));
    }
    let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await.map_err(database)?;
    let ends: Option<Vec<BinlogPosition>> = rows
        .iter()
        .map(|row| {
            let (file, offset) = (row.get_opt(0)?.ok()?, row.get_opt(1)?.ok()?);
            Some(BinlogPosition { file, offset })
        })
        .collect();
    let ends = ends.ok_or_else(|| definite(PLACE, "SHOW BINARY LOGS has no names and sizes here"))?;
    judge_files(&ends, from).map_err(|what| definite(format!("binlog {from}"), what))?;
    ends.into_iter().next_back().ok_or_else(|| definite(PLACE, WENT_BACK))
}

/// A migration that follows file and offset can't take GTIDs for the same.
pub(crate) const GTIDS_ON: &str = "it was OFF when the migration began, which therefore follows this server by file and \
     offset, and is ON now: begin the migration again, and leave gtid_mode as it is until it is done";

/// `ends`: the end of each file that the source has, in order.
fn judge_files(ends: &[BinlogPosition], from: &BinlogPosition) -> std::result::Result<(), &'static str> {
    match ends.iter().find(|end| end.file == from.file) {
        Some(end) if end.offset >= from.offset => Ok(()),
        Some(_) => Err(WENT_BACK),
        None if ends.first().is_some_and(|first| first > from) => Err(PURGED),
        None => Err(WENT_BACK),
    }
}

/// When the source began each binlog file that may be asked for again. Kept beside the spool, and written before anything
/// of a file is.
#[derive(Debug)]
pub(super) struct BinlogFiles {
    path: PathBuf,
    /// File names, and seconds since 1970.
    begun_at_s: BTreeMap<String, u32>,
}

impl BinlogFiles {
    const FILE: &str = "binlog-files";
    const VERSION: u32 = 1;

    /// Those of the spool in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let unusable = |why: String| Error::definite(None, path.display().to_string(), why);
        let bytes = durable::read(&path, Self::FILE, Self::VERSION).map_err(|e| unusable(e.to_string()))?;
        let begun_at_s = match bytes {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| unusable(format!("it can't be read ({error})")))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, begun_at_s })
    }

    /// The source says that it began `file` then; everything up to `spooled` is in the spool.
    ///
    /// # Errors
    /// It is another file of that name.
    pub(super) fn begins(&mut self, file: &str, at_s: u32, spooled: &BinlogPosition) -> Result<()> {
        match self.begun_at_s.get(file) {
            Some(&known) if known == at_s => return Ok(()),
            Some(_) => return Err(definite(format!("binlog {file}"), WENT_BACK)),
            None => {}
        }
        let before = |file: &str| BinlogPosition { file: file.to_owned(), offset: u64::MAX } < *spooled;
        self.begun_at_s.retain(|file, _| !before(file));
        self.begun_at_s.insert(file.to_owned(), at_s);
        let failed = |why: String| Error::definite(None, self.path.display().to_string(), why);
        let bytes =
            serde_json::to_vec(&self.begun_at_s).map_err(|e| Error::bug(Self::FILE, e.to_string()))?;
        durable::write(&self.path, Self::FILE, Self::VERSION, &bytes).map_err(|e| failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(text: &str) -> BinlogPosition {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_in_a_log_is_there_or_it_is_said_why_not() {
        let check = |ends: &[&str], from: &str, expected: std::result::Result<(), &str>| {
            let ends: Vec<BinlogPosition> = ends.iter().map(|end| at(end)).collect();
            assert_eq!(judge_files(&ends, &at(from)), expected, "{ends:?} {from}");
        };
        let logs = ["bin.000003:900", "bin.000004:500"];
        check(&logs, "bin.000004:500", Ok(()));
        check(&logs, "bin.000003:120", Ok(()));
        check(&logs, "bin.000002:120", Err(PURGED));
        check(&logs, "bin.000004:501", Err(WENT_BACK));
        check(&logs, "bin.000005:4", Err(WENT_BACK));
        check(&["bin.000001:154"], "bin.000004:500", Err(WENT_BACK));
        check(&[], "bin.000004:500", Err(WENT_BACK));
    }

    #[test]
    fn a_file_that_was_begun_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = BinlogFiles::open(folder.path()).unwrap();
        for (file, at_s) in [("bin.000001", 70), ("bin.000001", 70), ("bin.000002", 80)] {
            files.begins(file, at_s, &at("bin.000001:120")).unwrap();
        }
        let mut again = BinlogFiles::open(folder.path()).unwrap();
        again.begins("bin.000001", 70, &at("bin.000001:120")).unwrap();
        assert!(
            again.begins("bin.000002", 81, &at("bin.000001:120")).unwrap_err().message.contains("went back")
        );
        // What can't be asked for again is forgotten.
        again.begins("bin.000003", 90, &at("bin.000002:700")).unwrap();
        assert_eq!(again.begun_at_s.len(), 2);
    }
}
