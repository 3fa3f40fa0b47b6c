//! Why a session can't be moved at the moment.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of reasons. Empty: the session can be moved between two statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u32);

macro_rules! pins {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Pins {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }
        const TEXTS: &[(Pins, &str)] = &[$((Pins::$name, $text)),*];
    };
}

pins! {
    /// CREATE TEMPORARY TABLE.
    TEMPORARY_TABLE = 0, "temporary table";
    /// LOCK TABLES.
    LOCK_TABLES = 1, "LOCK TABLES";
    /// FLUSH TABLES WITH READ LOCK, FOR EXPORT.
    READ_LOCK = 2, "FLUSH TABLES WITH READ LOCK";
    /// HANDLER … OPEN.
    HANDLER = 3, "HANDLER";
    /// GET_LOCK().
    USER_LOCK = 4, "GET_LOCK";
    /// XA between START and COMMIT or ROLLBACK.
    XA = 5, "XA transaction";
    /// A cursor that wasn't read to its end.
    CURSOR = 6, "open cursor";
    /// COM_STMT_SEND_LONG_DATA that wasn't executed yet.
    LONG_DATA = 7, "long data of a prepared statement";
    /// SET TRANSACTION without SESSION.
    NEXT_TRANSACTION = 8, "SET TRANSACTION for the next transaction";
    /// PREPARE whose text the proxy didn't see.
    PREPARED_TEXT = 9, "PREPARE from a variable or within a procedure";
    /// SET timestamp, insert_id, rand_seed1, gtid_next, pseudo_… and BINLOG statements.
    REPLICATION_VARIABLE = 10, "timestamp, insert_id, rand_seed, gtid_next or a pseudo variable was set";
    /// SET ROLE, SET RESOURCE GROUP.
    ROLE = 11, "SET ROLE or SET RESOURCE GROUP";
    /// The session reads a binary log.
    BINLOG_STREAM = 12, "binary log stream";
    /// A statement too long to be looked at whole.
    LONG_STATEMENT = 13, "statement too long to be looked at";
    /// The other backend didn't take the session's state.
    NOT_RESTORABLE = 14, "state that the other backend doesn't take";
    /// More prepared statements than are kept.
    STATEMENTS = 15, "too many or too long prepared statements";
    /// A character set, or a collation of one, that the other server has not.
    FOREIGN_CHARSET = 18, "character set that the other server lacks";
    /// A word of sql_mode that changes what statements do and that the other server has not.
    FOREIGN_SQL_MODE = 19, "sql_mode that the other server lacks";
    /// A session variable, or its value, that the other server has not.
    FOREIGN_VARIABLE = 20, "session variable that the other server lacks";
    /// GET_LOCK within a routine or a trigger.
    HIDDEN_LOCK = 21, "GET_LOCK within stored code";
    /// CALL of a procedure that prepares text, at a server that can't be asked what came of it.
    HIDDEN_CODE = 22, "CALL of a procedure whose effects can't be known";
    /// time_zone SYSTEM, where the other server's system is in another zone and doesn't know this one.
    FOREIGN_ZONE = 23, "time_zone SYSTEM that the other server lacks";
    /// The current schema has no name on the other server (`migration.rename`).
    FOREIGN_SCHEMA = 24, "current schema that has no counterpart on the other server";
    /// LOCK INSTANCE, BACKUP STAGE.
    BACKUP_LOCK = 16, "LOCK INSTANCE or BACKUP STAGE";
    /// SAVEPOINT with autocommit off, before the first statement that opens the transaction.
    SAVEPOINT = 17, "SAVEPOINT of a transaction that hasn't begun";
}

impl Pins {
    /// No reason.
    pub const NONE: Self = Self(0);

    /// What the other server has to do with; a preparation finds it, and a changed session may be rid of it.
    pub const OF_OTHER_SERVER: Self = Self(
        Self::NOT_RESTORABLE.0
            | Self::FOREIGN_CHARSET.0
            | Self::FOREIGN_SQL_MODE.0
            | Self::FOREIGN_VARIABLE.0
            | Self::FOREIGN_ZONE.0
            | Self::FOREIGN_SCHEMA.0,
    );

    /// From the bits that [`Pins::bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As bits, for an atomic.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True for no reason.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True where every reason of `other` is in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True where any reason of `other` is in it.
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds `other` where `on`, takes it away otherwise.
    pub fn set(&mut self, other: Self, on: bool) {
        if on { self.0 |= other.0 } else { self.0 &= !other.0 }
    }
}

impl BitOr for Pins {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Pins {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (pin, text) in TEXTS {
            if self.contains(*pin) {
                write!(f, "{comma}{text}")?;
                comma = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_add_up() {
        let mut pins = Pins::XA | Pins::HANDLER;
        pins.set(Pins::TEMPORARY_TABLE, true);
        assert_eq!(pins.to_string(), "temporary table, HANDLER, XA transaction");
        pins.set(Pins::TEMPORARY_TABLE | Pins::XA | Pins::HANDLER, false);
        assert!(pins.is_empty() && pins.to_string().is_empty());
    }
}
