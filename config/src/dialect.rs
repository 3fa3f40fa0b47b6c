//! Servers as far as their words differ.

use crate::{Flavor, ServerVersion};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
    /// OceanBase, which says it is a MySQL 5.7.
    OceanBase,
}

/// A server as far as names and values of variables, charsets, collations and definitions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Whose it is.
    pub family: Family,
    /// First and second number.
    pub version: (u16, u16),
}

impl Dialect {
    /// Of a server.
    #[must_use]
    pub fn of(version: ServerVersion) -> Self {
        let family = match version.flavor {
            Flavor::MariaDb => Family::MariaDb,
            Flavor::MySql if version.ocean_base => Family::OceanBase,
            Flavor::MySql => Family::MySql,
        };
        Self { family, version: (version.major, version.minor) }
    }

    /// MySQL 8 or newer: words and names of old were removed then.
    #[must_use]
    pub fn is_mysql_8(self) -> bool {
        self.family == Family::MySql && self.version >= (8, 0)
    }

    /// Nothing has to be put in other terms.
    #[must_use]
    pub fn is_same(self, other: Self) -> bool {
        self == other || (self.is_mysql_8() && other.is_mysql_8())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    pub(crate) const MARIADB: Dialect = Dialect { family: Family::MariaDb, version: (10, 11) };
    pub(crate) const MARIADB_10_5: Dialect = Dialect { family: Family::MariaDb, version: (10, 5) };
    pub(crate) const MYSQL_9_7: Dialect = Dialect { family: Family::MySql, version: (9, 7) };
    pub(crate) const MYSQL_5_6: Dialect = Dialect { family: Family::MySql, version: (5, 6) };
    pub(crate) const OCEANBASE: Dialect = Dialect { family: Family::OceanBase, version: (5, 7) };

    #[test]
    fn servers_are_told_apart() {
        let check = |text: &str, dialect: Dialect| {
            assert_eq!(Dialect::of(ServerVersion::parse(text).unwrap()), dialect, "{text}");
        };
        check("5.5.5-10.11.19-MariaDB-log", MARIADB);
        check("9.7.0", MYSQL_9_7);
        check("5.6.24-log", MYSQL_5_6);
        check("5.7.25-OceanBase seekdb-v1.4.0.0", OCEANBASE);
    }
}
