//! Capability flags, and which of them a session may have.
//!
//! Packets are relayed raw, so both legs of a session must have agreed on the same flags. What a client is
//! offered is therefore what every backend of the route has in common ([`Capabilities::offered`]), and what
//! it picks of that is what the session has on every backend it is ever on.

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// A set of capability flags: MySQL's in the lower 32 bits, MariaDB's extended ones above them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Capabilities {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }
        const NAMES: &[(Capabilities, &str)] = &[$((Capabilities::$name, stringify!($name))),*];
    };
}

flags! {
    /// Always set by MySQL; a MariaDB server or client that leaves it out speaks the extended flags.
    LONG_PASSWORD = 0;
    /// Affected rows are the rows found.
    FOUND_ROWS = 1;
    /// Column flags have two bytes.
    LONG_FLAG = 2;
    /// The response names a schema.
    CONNECT_WITH_DB = 3;
    /// `schema.table.column` isn't allowed.
    NO_SCHEMA = 4;
    /// zlib compression.
    COMPRESS = 5;
    /// Without effect.
    ODBC = 6;
    /// LOAD DATA LOCAL.
    LOCAL_FILES = 7;
    /// Spaces before `(`.
    IGNORE_SPACE = 8;
    /// The protocol of 4.1; without it nobody gets in here.
    PROTOCOL_41 = 9;
    /// interactive_timeout instead of wait_timeout.
    INTERACTIVE = 10;
    /// TLS follows.
    SSL = 11;
    /// Client side only.
    IGNORE_SIGPIPE = 12;
    /// Status flags are wanted.
    TRANSACTIONS = 13;
    /// Formerly the flag of the 4.1 protocol.
    RESERVED = 14;
    /// The auth data has a length byte.
    SECURE_CONNECTION = 15;
    /// Several statements in one COM_QUERY.
    MULTI_STATEMENTS = 16;
    /// Several results of one COM_QUERY.
    MULTI_RESULTS = 17;
    /// Several results of one COM_STMT_EXECUTE.
    PS_MULTI_RESULTS = 18;
    /// Authentication plugins are named.
    PLUGIN_AUTH = 19;
    /// Connection attributes.
    CONNECT_ATTRS = 20;
    /// The auth data's length is a length-encoded integer.
    PLUGIN_AUTH_LENENC_DATA = 21;
    /// An expired password allows a restricted session.
    CAN_HANDLE_EXPIRED_PASSWORDS = 22;
    /// OK packets carry session-track entries.
    SESSION_TRACK = 23;
    /// No EOF packets around result sets.
    DEPRECATE_EOF = 24;
    /// A result set may come without its column definitions.
    OPTIONAL_RESULTSET_METADATA = 25;
    /// zstd compression.
    ZSTD_COMPRESSION = 26;
    /// Commands carry query attributes.
    QUERY_ATTRIBUTES = 27;
    /// A second and third factor.
    MULTI_FACTOR_AUTHENTICATION = 28;
    /// MySQL: reserved for more flags. MariaDB: the progress reports of old.
    CAPABILITY_EXTENSION = 29;
    /// Client side only.
    SSL_VERIFY_SERVER_CERT = 30;
    /// Client side only.
    REMEMBER_OPTIONS = 31;
    /// MariaDB: progress reports, as ERR packets with code 65535 in the middle of a response.
    MARIADB_PROGRESS = 32;
    /// MariaDB: obsolete.
    MARIADB_COM_MULTI = 33;
    /// MariaDB: COM_STMT_BULK_EXECUTE.
    MARIADB_STMT_BULK_OPERATIONS = 34;
    /// MariaDB: column definitions with extended type information.
    MARIADB_EXTENDED_METADATA = 35;
    /// MariaDB: a second execution may come without its column definitions.
    MARIADB_CACHE_METADATA = 36;
    /// MariaDB: a result for each row of a bulk execution.
    MARIADB_BULK_UNIT_RESULTS = 37;
}

/// Flags that only say how the login itself is written down. They may differ between the legs, because
/// nothing after the login depends on them.
const LOGIN_ONLY: Capabilities = Capabilities(
    Capabilities::LONG_PASSWORD.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::SSL.0
        | Capabilities::IGNORE_SIGPIPE.0
        | Capabilities::RESERVED.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::CONNECT_ATTRS.0
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.0
        | Capabilities::SSL_VERIFY_SERVER_CERT.0
        | Capabilities::REMEMBER_OPTIONS.0,
);

/// Flags that the front door speaks itself, whatever the backends say.
const FRONT_DOOR: Capabilities = Capabilities(
    Capabilities::CONNECT_WITH_DB.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::RESERVED.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::CONNECT_ATTRS.0
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.0,
);

/// Flags that no client is offered. Compression would have to be undone to find packets; factors beyond the
/// password can't be replayed on another server; progress reports would be packets in the middle of a
/// response; SSL is the listener's own decision.
const NEVER: Capabilities = Capabilities(
    Capabilities::COMPRESS.0
        | Capabilities::ZSTD_COMPRESSION.0
        | Capabilities::SSL.0
        | Capabilities::MULTI_FACTOR_AUTHENTICATION.0
        | Capabilities::CAPABILITY_EXTENSION.0
        | Capabilities::SSL_VERIFY_SERVER_CERT.0
        | Capabilities::REMEMBER_OPTIONS.0
        | Capabilities::MARIADB_PROGRESS.0
        | Capabilities::MARIADB_COM_MULTI.0
        | Capabilities::MARIADB_CACHE_METADATA.0,
);

/// Every flag that has a name here. One that hasn't may change how packets look, so it is never agreed on.
const KNOWN: Capabilities = Capabilities((1 << 38) - 1);
const EXTENDED: Capabilities = Capabilities(!0xFFFF_FFFF);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// A set from its bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True where every flag of `other` is in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without the flags of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What a client is offered where these are the greetings' flags of every backend that it may be sent
    /// to. The listener adds SSL.
    #[must_use]
    pub fn offered(backends: &[Capabilities]) -> Self {
        let common = backends.iter().fold(KNOWN, |all, one| all & one.normalised());
        let offered = (common.without(LOGIN_ONLY) | FRONT_DOOR).without(NEVER);
        if offered & EXTENDED == Self::NONE { offered | Self::LONG_PASSWORD } else { offered }
    }

    /// A greeting's or a response's flags without the extended ones that its sender doesn't mean: they
    /// count only where LONG_PASSWORD (MariaDB's CLIENT_MYSQL) is missing.
    #[must_use]
    pub fn normalised(self) -> Self {
        if self.contains(Self::LONG_PASSWORD) { self.without(EXTENDED) } else { self }
    }

    /// What a client asked for of what it was offered.
    #[must_use]
    pub fn common(client: Capabilities, offered: Capabilities) -> Self {
        client.normalised() & offered.normalised()
    }

    /// The flags that shape a session after its login: these are the same on both legs.
    #[must_use]
    pub const fn of_session(self) -> Self {
        Self(self.0 & KNOWN.0).without(LOGIN_ONLY)
    }
}

impl BitOr for Capabilities {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Capabilities {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_set();
        for (flag, name) in NAMES {
            if self.contains(*flag) {
                set.entry(&format_args!("{name}"));
            }
        }
        set.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the servers greet.
    const MYSQL_9_7: Capabilities = Capabilities::from_bits(0xDFFF_FFFF);
    const MARIADB_10_11: Capabilities = Capabilities::from_bits(0x1D_81BF_F7FE);

    #[test]
    fn one_family_keeps_what_it_has() {
        let offered = Capabilities::offered(&[MYSQL_9_7, MYSQL_9_7]);
        for flag in [
            Capabilities::LONG_PASSWORD,
            Capabilities::DEPRECATE_EOF,
            Capabilities::SESSION_TRACK,
            Capabilities::QUERY_ATTRIBUTES,
            Capabilities::OPTIONAL_RESULTSET_METADATA,
            Capabilities::LOCAL_FILES,
            Capabilities::INTERACTIVE,
        ] {
            assert!(offered.contains(flag), "{flag:?}");
        }
        assert_eq!(offered & NEVER, Capabilities::NONE);
        let offered = Capabilities::offered(&[MARIADB_10_11, MARIADB_10_11]);
        assert!(offered.contains(Capabilities::MARIADB_STMT_BULK_OPERATIONS));
        assert!(!offered.contains(Capabilities::LONG_PASSWORD));
    }

    #[test]
    fn two_families_keep_what_both_have() {
        let offered = Capabilities::offered(&[MYSQL_9_7, MARIADB_10_11]);
        assert_eq!(offered & EXTENDED, Capabilities::NONE);
        assert!(offered.contains(Capabilities::LONG_PASSWORD), "a MariaDB client must not expect more");
        assert!(!offered.contains(Capabilities::QUERY_ATTRIBUTES));
        assert!(offered.contains(Capabilities::DEPRECATE_EOF));
    }

    #[test]
    fn extended_flags_count_only_where_long_password_is_missing() {
        let bulk = Capabilities::MARIADB_STMT_BULK_OPERATIONS;
        let offered = Capabilities::offered(&[MARIADB_10_11]);
        assert!(Capabilities::common(bulk, offered).contains(bulk));
        assert!(!Capabilities::common(bulk | Capabilities::LONG_PASSWORD, offered).contains(bulk));
    }
}
