//! The session in which a statement ran, from the status variables of its QUERY event.
//!
//! A status variable that isn't known has no length of its own: what stands behind it can't be read, and the
//! statement isn't run in half its context (invariant 5).

use super::cursor::{Cursor, Malformed};

/// What a statement of the binlog may depend on. `None`: the event doesn't say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StatementContext {
    /// foreign_key_checks and unique_checks.
    pub(crate) checks: Option<(bool, bool)>,
    /// sql_mode, as the family's number.
    pub(crate) sql_mode: Option<u64>,
    /// Collation ids of character_set_client, collation_connection and collation_server.
    pub(crate) charsets: Option<(u16, u16, u16)>,
    /// time_zone.
    pub(crate) time_zone: Option<String>,
    /// lc_time_names, as a number.
    pub(crate) lc_time_names: Option<u16>,
    /// Microseconds of the moment at which it began.
    pub(crate) microseconds: u32,
    /// explicit_defaults_for_timestamp (MySQL).
    pub(crate) explicit_defaults: Option<bool>,
    /// Collation id of default_collation_for_utf8mb4 (MySQL).
    pub(crate) utf8mb4_collation: Option<u16>,
    /// MariaDB with binlog_alter_two_phase: the event only announces an ALTER, or takes it back.
    pub(crate) announced: bool,
}

const NO_FOREIGN_KEY_CHECKS: u32 = 1 << 26;
const RELAXED_UNIQUE_CHECKS: u32 = 1 << 27;
/// MariaDB, gtid_flags_extra: ALTER in two phases.
const START_ALTER: u8 = 2;
const COMMIT_ALTER: u8 = 4;
const ROLLBACK_ALTER: u8 = 8;

impl StatementContext {
    /// Reads the status variables.
    pub(crate) fn parse(status: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(status);
        let mut context = Self::default();
        while !cursor.is_empty() {
            let code = cursor.u8()?;
            context.variable(code, &mut cursor)?;
        }
        Ok(context)
    }

    fn variable(&mut self, code: u8, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        match code {
            0 => {
                let flags = cursor.u32()?;
                self.checks = Some((flags & NO_FOREIGN_KEY_CHECKS == 0, flags & RELAXED_UNIQUE_CHECKS == 0));
            }
            1 => self.sql_mode = Some(cursor.u64()?),
            // Catalog, with a zero behind it.
            2 => {
                string(cursor)?;
                cursor.take(1)?;
            }
            // auto_increment_increment and _offset.
            3 => drop(cursor.take(4)?),
            4 => self.charsets = Some((cursor.u16()?, cursor.u16()?, cursor.u16()?)),
            5 => self.time_zone = Some(text(string(cursor)?)?),
            6 => drop(string(cursor)?),
            7 => self.lc_time_names = Some(cursor.u16()?),
            // collation_database: only LOAD DATA looks at it.
            8 => drop(cursor.take(2)?),
            // Tables of a multi-table update.
            9 => drop(cursor.take(8)?),
            // Bytes that the original source wrote.
            10 => drop(cursor.take(4)?),
            // User and host that invoked it: a definer is written into the text.
            11 => {
                string(cursor)?;
                string(cursor)?;
            }
            12 => updated_schemas(cursor)?,
            // Microseconds, of MySQL and of MariaDB.
            13 | 128 => self.microseconds = u32::try_from(cursor.uint_le(3)?).unwrap_or(0),
            16 => self.explicit_defaults = Some(cursor.u8()? != 0),
            // Transaction ids of the data dictionary.
            17 | 129 => drop(cursor.take(8)?),
            18 => self.utf8mb4_collation = Some(cursor.u16()?),
            // sql_require_primary_key and default_table_encryption: settings of the target's own.
            19 | 20 => drop(cursor.take(1)?),
            130 => {
                let flags = cursor.u8()?;
                if flags & (COMMIT_ALTER | ROLLBACK_ALTER) != 0 {
                    cursor.take(8)?;
                }
                self.announced = flags & (START_ALTER | ROLLBACK_ALTER) != 0;
            }
            other => {
                return Err(Malformed::new(format!(
                    "its session has a property ({other}) that isn't known here"
                )));
            }
        }
        Ok(())
    }
}

fn string<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    let length = usize::from(cursor.u8()?);
    cursor.take(length)
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-:/_".contains(c)))
        .map(str::to_owned)
        .ok_or_else(|| Malformed::new("its session's time zone has no name"))
}

/// Names with a zero behind each, or too many to name.
fn updated_schemas(cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
    const TOO_MANY: u8 = 254;
    let count = cursor.u8()?;
    if count == TOO_MANY {
        return Ok(());
    }
    for _ in 0..count {
        while cursor.u8()? != 0 {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_session_is_read_from_its_variables() {
        let mut status = vec![0];
        status.extend_from_slice(&NO_FOREIGN_KEY_CHECKS.to_le_bytes());
        status.push(1);
        status.extend_from_slice(&0x20_0000_u64.to_le_bytes());
        status.extend_from_slice(&[6, 3, b's', b't', b'd', 3, 1, 0, 1, 0, 4, 33, 0, 45, 0, 8, 0]);
        status.extend_from_slice(&[5, 6, b'+', b'0', b'2', b':', b'0', b'0', 7, 4, 0, 8, 8, 0]);
        status.extend_from_slice(&[12, 2, b'a', 0, b'b', b'c', 0, 13, 1, 0, 0, 16, 1, 18, 255, 0]);
        let context = StatementContext::parse(&status).unwrap();
        let expected = StatementContext {
            checks: Some((false, true)),
            sql_mode: Some(0x20_0000),
            charsets: Some((33, 45, 8)),
            time_zone: Some("+02:00".to_owned()),
            lc_time_names: Some(4),
            microseconds: 1,
            explicit_defaults: Some(true),
            utf8mb4_collation: Some(255),
            announced: false,
        };
        assert_eq!(context, expected);
        assert!(StatementContext::parse(&[130, 2]).unwrap().announced);
        assert!(!StatementContext::parse(&[130, 4, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().announced);
    }

    #[test]
    fn what_is_not_known_is_not_half_read() {
        assert!(StatementContext::parse(&[99]).unwrap_err().0.contains("99"));
        assert!(StatementContext::parse(&[1, 0]).is_err());
        assert!(StatementContext::parse(&[5, 2, b'\'', b';']).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(status in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(StatementContext::parse(&status));
        }
    }
}
