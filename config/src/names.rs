//! Names that stand in more than one room.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two backends. `Source` is the old one and `Target` the new one, whichever serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The old backend.
    Source,
    /// The new backend.
    Target,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Side::Source => Side::Target,
            Side::Target => Side::Source,
        }
    }

    /// `source` or `target`, as every SHOW prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A schema-qualified table name, as the server stores it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// Schema (database).
    pub schema: String,
    /// Table.
    pub table: String,
}

impl TableName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// `` `schema`.`table` ``, safe to put into SQL.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// An account of a server. `Display` is `'user'@'host'`, safe to put into SQL where backslashes escape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountName {
    /// The user's name; empty for the anonymous account.
    pub user: String,
    /// Host name, address or pattern that it may come from.
    pub host: String,
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        write!(f, "{}@{}", quoted(&self.user), quoted(&self.host))
    }
}

/// An identifier between backticks, with the backticks in it doubled.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The family of a server, as far as Changeover has to treat it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// Oracle MySQL and what keeps to its protocol.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// Family and version of a server, from the text of `@@version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerVersion {
    /// The family.
    pub flavor: Flavor,
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
    /// OceanBase, which says that it is a MySQL 5.7 and differs from it.
    pub ocean_base: bool,
}

impl ServerVersion {
    /// Reads `8.4.3`, `9.7.0-0ubuntu1`, `10.11.19-MariaDB-0+deb12u1-log` and, as MariaDB greets old
    /// clients, `5.5.5-10.11.19-MariaDB`. Returns `None` for text that doesn't start with a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let flavor = if lower.contains("mariadb") { Flavor::MariaDb } else { Flavor::MySql };
        let text = match flavor {
            Flavor::MariaDb => text.strip_prefix("5.5.5-").unwrap_or(text),
            Flavor::MySql => text,
        };
        let mut numbers =
            text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u16>().ok());
        Some(Self {
            flavor,
            major: numbers.next()?,
            minor: numbers.next().unwrap_or(0),
            patch: numbers.next().unwrap_or(0),
            ocean_base: lower.contains("oceanbase"),
        })
    }

    /// True where this server is of `flavor` and at least `major.minor`.
    #[must_use]
    pub fn at_least(&self, flavor: Flavor, major: u16, minor: u16) -> bool {
        self.flavor == flavor && (self.major, self.minor) >= (major, minor)
    }

    /// True where `ALTER USER … ACCOUNT LOCK` is known: MySQL 5.7, MariaDB 10.4. OceanBase hasn't been tried.
    #[must_use]
    pub fn locks_accounts(self) -> bool {
        !self.ocean_base && (self.at_least(Flavor::MySql, 5, 7) || self.at_least(Flavor::MariaDb, 10, 4))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.flavor {
            Flavor::MySql if self.ocean_base => "OceanBase",
            Flavor::MySql => "MySQL",
            Flavor::MariaDb => "MariaDB",
        };
        write!(f, "{family} {}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_say() {
        let check = |text: &str, shown: Option<&str>| {
            assert_eq!(ServerVersion::parse(text).map(|v| v.to_string()).as_deref(), shown, "{text}");
        };
        check("9.7.0-0ubuntu1", Some("MySQL 9.7.0"));
        check("10.11.19-MariaDB-0+deb12u1-log", Some("MariaDB 10.11.19"));
        check("5.5.5-10.11.19-MariaDB", Some("MariaDB 10.11.19"));
        check("5.6.24-log", Some("MySQL 5.6.24"));
        check("5.5.5", Some("MySQL 5.5.5"));
        check("5.7.25-OceanBase seekdb-v1.4.0.0", Some("OceanBase 5.7.25"));
        check("", None);
        check("garbage", None);
    }

    #[test]
    fn an_account_can_be_pasted() {
        let name = AccountName { user: "it's\\".into(), host: "10.%".into() };
        assert_eq!(name.to_string(), r"'it''s\\'@'10.%'");
    }

    #[test]
    fn a_backtick_in_a_name_is_doubled() {
        assert_eq!(TableName::new("a`b", "c").quoted(), "`a``b`.`c`");
    }
}
