//! Positions in a source's history: GTID sets of both families, and binlog coordinates.

mod mariadb;
mod mysql;

use std::fmt;
use std::str::FromStr;

use crate::Flavor;

pub use mariadb::MariaDbGtidSet;
pub use mysql::MySqlGtidSet;

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
    /// MySQL with GTIDs off: a transaction has no identity but its place in the binlog.
    Anonymous,
}

/// Everything up to a point of a history: MySQL's set of intervals, MariaDB's last GTID of each domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// `uuid[:tag]:1-5:7,…`
    MySql(MySqlGtidSet),
    /// `0-1-100,1-2-5`
    MariaDb(MariaDbGtidSet),
    /// `ANONYMOUS`: the history of a MySQL with GTIDs off. Coordinates alone say where it stands, so it holds every set of
    /// its kind, and no single transaction.
    Anonymous,
}

/// MySQL's own word for a transaction without a GTID, and what stands for a set of them.
const ANONYMOUS: &str = "ANONYMOUS";

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
    pub fn parse(flavor: Flavor, text: &str) -> Result<Self, ParsePositionError> {
        if flavor == Flavor::MySql && text == ANONYMOUS {
            return Ok(GtidSet::Anonymous);
        }
        let (parsed, expected) = match flavor {
            Flavor::MySql => (MySqlGtidSet::parse(text).map(GtidSet::MySql), "a MySQL GTID set"),
            Flavor::MariaDb => (MariaDbGtidSet::parse(text).map(GtidSet::MariaDb), "a MariaDB GTID position"),
        };
        parsed.map_err(|reason| ParsePositionError::new(text, expected, reason))
    }

    /// The family.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        match self {
            GtidSet::MySql(_) | GtidSet::Anonymous => Flavor::MySql,
            GtidSet::MariaDb(_) => Flavor::MariaDb,
        }
    }

    /// True for the history of a server with GTIDs off.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self, GtidSet::Anonymous)
    }

    /// Adds a transaction. A GTID of another kind is a bug of ours and leaves the set as it was
    /// (returns false).
    ///
    /// For MariaDB the transaction added last stands for its domain, as it does in `@@gtid_binlog_pos`, even where
    /// its sequence is lower than the one before (two writers without gtid_strict_mode): a dump that went on from
    /// the higher one would send again what is already here.
    pub fn add(&mut self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (GtidSet::MySql(set), Gtid::MySql { uuid, tag, number }) => set.add(*uuid, tag, *number),
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, server, sequence }) => {
                set.add(*domain, *server, *sequence);
                true
            }
            (GtidSet::Anonymous, Gtid::Anonymous) => true,
            _ => false,
        }
    }

    /// True where the transaction is in it. For MariaDB: its domain's last sequence is at least that one.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (GtidSet::MySql(set), Gtid::MySql { uuid, tag, number }) => set.contains(*uuid, tag, *number),
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, sequence, .. }) => {
                set.reaches(*domain, *sequence)
            }
            _ => false,
        }
    }

    /// True where everything of `other` is in it. Sets of two kinds contain each other only if empty.
    #[must_use]
    pub fn contains_set(&self, other: &GtidSet) -> bool {
        match (self, other) {
            (GtidSet::MySql(set), GtidSet::MySql(other)) => set.contains_set(other),
            (GtidSet::MariaDb(set), GtidSet::MariaDb(other)) => set.contains_set(other),
            (GtidSet::Anonymous, GtidSet::Anonymous) => true,
            _ => other.is_empty(),
        }
    }

    /// True for the empty set. Nobody knows what an anonymous history holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            GtidSet::MySql(set) => set.is_empty(),
            GtidSet::MariaDb(set) => set.is_empty(),
            GtidSet::Anonymous => false,
        }
    }

    /// `(uuid, tag, first..=last)` of a MySQL set for COM_BINLOG_DUMP_GTID; empty for the others.
    #[must_use]
    pub fn intervals(&self) -> Vec<([u8; 16], String, u64, u64)> {
        match self {
            GtidSet::MySql(set) => set.intervals(),
            GtidSet::MariaDb(_) | GtidSet::Anonymous => Vec::new(),
        }
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GtidSet::MySql(set) => set.fmt(f),
            GtidSet::MariaDb(set) => set.fmt(f),
            GtidSet::Anonymous => f.write_str(ANONYMOUS),
        }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtid::MySql { uuid, tag, number } => {
                mysql::write_uuid(f, uuid)?;
                if !tag.is_empty() {
                    write!(f, ":{tag}")?;
                }
                write!(f, ":{number}")
            }
            Gtid::MariaDb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
            Gtid::Anonymous => f.write_str(ANONYMOUS),
        }
    }
}

impl FromStr for Gtid {
    type Err = ParsePositionError;

    /// A colon tells the families apart: MySQL's GTIDs always have one and MariaDB's never do.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == ANONYMOUS {
            return Ok(Gtid::Anonymous);
        }
        let parsed = if text.contains(':') { mysql::parse_gtid(text) } else { mariadb::parse_gtid(text) };
        parsed.map_err(|reason| ParsePositionError::new(text, "a GTID", reason))
    }
}

impl ParsePositionError {
    fn new(text: &str, expected: &'static str, reason: impl Into<String>) -> Self {
        Self { text: text.chars().take(200).collect(), expected, reason: reason.into() }
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
        let wrong = |reason: &str| ParsePositionError::new(text, "a binlog position (file:offset)", reason);
        let (file, offset) = text.rsplit_once(':').ok_or_else(|| wrong("there is no colon"))?;
        if file.is_empty() {
            return Err(wrong("the file name is empty"));
        }
        let offset = offset.parse().map_err(|_| wrong("the offset is not a number"))?;
        Ok(Self { file: file.to_owned(), offset })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const V: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(flavor: Flavor, text: &str) -> GtidSet {
        GtidSet::parse(flavor, text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn sets_are_printed_normalised() {
        let check =
            |flavor, text: &str, shown: &str| assert_eq!(set(flavor, text).to_string(), shown, "{text}");
        let my = |text: &str, shown: &str| check(Flavor::MySql, text, shown);
        my("", "");
        my(" \n", "");
        my(&format!("{U}:1-5:7"), &format!("{U}:1-5:7"));
        my(&format!("{U}:7:1-3:4-5"), &format!("{U}:1-5:7"));
        my(&format!("{U}:5-9:1-6"), &format!("{U}:1-9"));
        my(&format!("{V}:1,\n{U}:2"), &format!("{U}:2,{V}:1"));
        my(&format!("{U}:1-3:tag:5-7"), &format!("{U}:1-3:tag:5-7"));
        my(&format!("{U}:1-5:7,{U}:tag:1-3"), &format!("{U}:1-5:7:tag:1-3"));
        my(&format!("{U}:TAG:1-3:b:1:tag:4"), &format!("{U}:b:1:tag:1-4"));
        my(&format!("{}:3", U.to_uppercase()), &format!("{U}:3"));
        check(Flavor::MariaDb, "1-2-5, 0-1-100", "0-1-100,1-2-5");
        check(Flavor::MariaDb, "", "");
    }

    #[test]
    fn what_is_not_a_set_is_refused_with_a_reason() {
        let check = |flavor, text: &str, reason: &str| match GtidSet::parse(flavor, text) {
            Ok(parsed) => panic!("{text} was read as {parsed}"),
            Err(error) => assert!(error.to_string().contains(reason), "{error}"),
        };
        let my = |text: &str, reason| check(Flavor::MySql, text, reason);
        my("garbage", "uuid");
        my(&format!("{U}:"), "neither");
        my(&format!("{U}:0"), "number");
        my(&format!("{U}:5-3"), "before");
        my(&format!("{U}:1-9223372036854775807"), "number");
        my(&format!("{U}:1-99999999999999999999"), "number");
        my(&format!("{U}:tag"), "no number");
        my(&format!("{U}:tag:other:1"), "no number");
        my(&format!("{U}:tag-x:1"), "neither");
        my("0-1-100", "uuid");
        check(Flavor::MariaDb, "0-1", "three");
        check(Flavor::MariaDb, "0-1-2-3", "three");
        check(Flavor::MariaDb, "0-1--3", "three");
        check(Flavor::MariaDb, "0-4294967296-3", "number");
        check(Flavor::MariaDb, "0-1-3,0-2-4", "twice");
    }

    #[test]
    fn adding_keeps_a_set_normalised() {
        let mut all = set(Flavor::MySql, &format!("{U}:1-5:7"));
        for (text, shown) in [
            (format!("{U}:9"), format!("{U}:1-5:7:9")),
            (format!("{U}:6"), format!("{U}:1-7:9")),
            (format!("{U}:8"), format!("{U}:1-9")),
            (format!("{U}:8"), format!("{U}:1-9")),
            (format!("{U}:x:1"), format!("{U}:1-9:x:1")),
        ] {
            assert!(all.add(&text.parse().unwrap()));
            assert_eq!(all.to_string(), shown);
        }
        assert!(!all.add(&"0-1-5".parse().unwrap()));
        let mut maria = set(Flavor::MariaDb, "0-1-5");
        assert!(maria.add(&"0-2-6".parse().unwrap()));
        assert!(maria.add(&"3-1-1".parse().unwrap()));
        assert_eq!(maria.to_string(), "0-2-6,3-1-1");
        assert!(!maria.add(&format!("{U}:1").parse().unwrap()));
    }

    #[test]
    fn containment() {
        let check = |flavor, outer: &str, inner: &str, expected| {
            assert_eq!(set(flavor, outer).contains_set(&set(flavor, inner)), expected, "{outer} {inner}");
        };
        check(Flavor::MySql, &format!("{U}:1-9"), &format!("{U}:2-3:9"), true);
        check(Flavor::MySql, &format!("{U}:1-9"), &format!("{U}:9-10"), false);
        check(Flavor::MySql, &format!("{U}:1-9"), &format!("{U}:t:1"), false);
        check(Flavor::MySql, &format!("{U}:1-9"), &format!("{V}:1"), false);
        check(Flavor::MySql, "", "", true);
        check(Flavor::MariaDb, "0-1-10,1-1-1", "0-2-10", true);
        check(Flavor::MariaDb, "0-1-10", "0-1-11", false);
        check(Flavor::MariaDb, "0-1-10", "1-1-1", false);
        let empty = GtidSet::empty(Flavor::MariaDb);
        assert!(set(Flavor::MySql, &format!("{U}:1")).contains_set(&empty));
        assert!(!empty.contains_set(&set(Flavor::MySql, &format!("{U}:1"))));
        assert!(set(Flavor::MySql, &format!("{U}:1-9:x:4")).contains(&format!("{U}:x:4").parse().unwrap()));
    }

    #[test]
    fn an_anonymous_history_is_of_a_kind_of_its_own() {
        let mut history = set(Flavor::MySql, "ANONYMOUS");
        assert!(history.is_anonymous() && !history.is_empty() && history.to_string() == "ANONYMOUS");
        assert!(history.add(&Gtid::Anonymous) && history.contains_set(&GtidSet::Anonymous));
        assert!(!history.contains(&Gtid::Anonymous), "one like it may come at any time");
        let one: Gtid = format!("{U}:1").parse().unwrap();
        assert!(!history.add(&one) && !history.contains(&one));
        // A server whose GTIDs were turned on or off meanwhile has another history.
        assert!(!history.contains_set(&set(Flavor::MySql, &format!("{U}:1"))));
        assert!(!set(Flavor::MySql, &format!("{U}:1-9")).contains_set(&history));
        assert!(!set(Flavor::MySql, "").add(&Gtid::Anonymous));
        assert!(GtidSet::parse(Flavor::MariaDb, "ANONYMOUS").is_err());
    }

    #[test]
    fn coordinates_sort_in_the_order_of_the_stream() {
        let at = |text: &str| text.parse::<BinlogPosition>().unwrap();
        assert!(at("binlog.999999:900") < at("binlog.1000000:4"));
        assert!(at("binlog.000001:900") < at("binlog.000001:1000"));
        assert!("binlog.000001".parse::<BinlogPosition>().is_err());
    }

    fn any_gtid() -> impl Strategy<Value = Gtid> {
        let tag = prop_oneof![Just(String::new()), "[a-z_][a-z0-9_]{0,31}"];
        prop_oneof![
            Just(Gtid::Anonymous),
            (any::<[u8; 16]>(), tag, 1..=mysql::NUMBER_MAX).prop_map(|(uuid, tag, number)| Gtid::MySql {
                uuid,
                tag,
                number
            }),
            (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(domain, server, sequence)| Gtid::MariaDb {
                domain,
                server,
                sequence
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_gtid_survives_its_text(gtid in any_gtid()) {
            prop_assert_eq!(gtid.to_string().parse::<Gtid>().unwrap(), gtid);
        }

        #[test]
        fn a_set_survives_its_text_and_agrees_with_a_plain_one(
            numbers in proptest::collection::vec((0..3_u8, 0..3_usize, 1..40_u64), 0..60),
        ) {
            let mut plain = std::collections::BTreeSet::new();
            let mut sum = GtidSet::empty(Flavor::MySql);
            for (uuid, tag, number) in numbers {
                let tag = ["", "a", "b"][tag].to_owned();
                plain.insert((uuid, tag.clone(), number));
                let gtid = Gtid::MySql { uuid: [uuid; 16], tag, number };
                prop_assert!(sum.add(&gtid));
            }
            prop_assert_eq!(set(Flavor::MySql, &sum.to_string()), sum.clone());
            for uuid in 0..3_u8 {
                for tag in ["", "a", "b"] {
                    for number in 1..41_u64 {
                        let gtid = Gtid::MySql { uuid: [uuid; 16], tag: tag.to_owned(), number };
                        prop_assert_eq!(sum.contains(&gtid), plain.contains(&(uuid, tag.to_owned(), number)));
                    }
                }
            }
            let all = sum.intervals();
            prop_assert!(all.windows(2).all(|w| (w[0].0, &w[0].1) != (w[1].0, &w[1].1) || w[0].3 + 1 < w[1].2));
        }

        #[test]
        fn garbage_never_panics(text in "\\PC*", near in "[0-9a-f:,\\- tT]{0,80}") {
            for text in [&text, &near, &format!("{U}:{near}")] {
                for flavor in [Flavor::MySql, Flavor::MariaDb] {
                    if let Ok(parsed) = GtidSet::parse(flavor, text) {
                        prop_assert_eq!(set(flavor, &parsed.to_string()), parsed);
                    }
                }
                drop(text.parse::<Gtid>());
                drop(text.parse::<BinlogPosition>());
            }
        }
    }
}
