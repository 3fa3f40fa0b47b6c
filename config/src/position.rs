//! Positions in a source's history: GTID sets of both families, and binlog coordinates.

use std::fmt;
use std::str::FromStr;

use crate::Flavor;

/// A text that isn't a GTID, a GTID set or a binlog position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}: {reason}")]
pub struct ParsePositionError {
    /// The text, cut to 200 characters.
    pub text: String,
    /// What was expected, with its article.
    pub expected: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// One transaction's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// MySQL: source uuid, tag (8.3 and later; empty for none) and number from 1 on.
    MySql {
        /// Uuid of the server where it was committed first, big-endian bytes.
        uuid: [u8; 16],
        /// Tag, lower case, up to 32 characters; empty for none.
        tag: String,
        /// Number, from 1 on.
        number: u64,
    },
    /// MariaDB: domain, server and sequence number.
    MariaDb {
        /// Replication domain.
        domain: u32,
        /// Server of origin.
        server: u32,
        /// Sequence number within the domain.
        sequence: u64,
    },
}

/// Everything up to a point of a history: MySQL's set of intervals, MariaDB's last GTID of each domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// `uuid[:tag]:1-5:7,…`
    MySql(MySqlGtidSet),
    /// `0-1-100,1-2-5`
    MariaDb(MariaDbGtidSet),
}

/// Intervals of numbers for each `(uuid, tag)`, normalised: sorted, disjoint, not adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MySqlGtidSet {
    // H1: BTreeMap<([u8; 16], String), Vec<(u64 /*first*/, u64 /*last, inclusive*/)>>
}

/// The last `(server, sequence)` of each domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MariaDbGtidSet {
    // H1: BTreeMap<u32, (u32, u64)>
}

impl GtidSet {
    /// The empty set.
    #[must_use]
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => GtidSet::MySql(MySqlGtidSet::default()),
            Flavor::MariaDb => GtidSet::MariaDb(MariaDbGtidSet::default()),
        }
    }

    /// Reads what the server of that family prints (`@@gtid_executed`, `@@gtid_binlog_pos`); white space
    /// and line breaks between parts are allowed, the empty text is the empty set.
    pub fn parse(_flavor: Flavor, _text: &str) -> Result<Self, ParsePositionError> {
        todo!()
    }

    /// The family.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        match self {
            GtidSet::MySql(_) => Flavor::MySql,
            GtidSet::MariaDb(_) => Flavor::MariaDb,
        }
    }

    /// Adds a transaction. A GTID of the other family is a bug of ours and leaves the set as it was
    /// (returns false).
    pub fn add(&mut self, _gtid: &Gtid) -> bool {
        todo!()
    }

    /// True where the transaction is in it. For MariaDB: its domain's last sequence is at least that one.
    #[must_use]
    pub fn contains(&self, _gtid: &Gtid) -> bool {
        todo!()
    }

    /// True where everything of `other` is in it. Sets of two families contain each other only if empty.
    #[must_use]
    pub fn contains_set(&self, _other: &GtidSet) -> bool {
        todo!()
    }

    /// True for the empty set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// `(uuid, tag, first..=last)` of a MySQL set for COM_BINLOG_DUMP_GTID; empty for MariaDB.
    #[must_use]
    pub fn intervals(&self) -> Vec<([u8; 16], String, u64, u64)> {
        todo!()
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl FromStr for Gtid {
    type Err = ParsePositionError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

/// Binlog coordinates: a file and an offset in it. Ordered by the file's number, then by the offset, which
/// is right for files of one server with one base name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BinlogPosition {
    /// File name, such as `binlog.000042`.
    pub file: String,
    /// Offset in bytes from the start of the file.
    pub offset: u64,
}

impl PartialOrd for BinlogPosition {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BinlogPosition {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let number = |p: &Self| p.file.rsplit('.').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        (number(self), self.offset, &self.file).cmp(&(number(other), other.offset, &other.file))
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

impl FromStr for BinlogPosition {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason: &str| ParsePositionError {
            text: text.chars().take(200).collect(),
            expected: "a binlog position (file:offset)",
            reason: reason.to_owned(),
        };
        let (file, offset) = text.rsplit_once(':').ok_or_else(|| wrong("there is no colon"))?;
        if file.is_empty() {
            return Err(wrong("the file name is empty"));
        }
        let offset = offset.parse().map_err(|_| wrong("the offset is not a number"))?;
        Ok(Self { file: file.to_owned(), offset })
    }
}
