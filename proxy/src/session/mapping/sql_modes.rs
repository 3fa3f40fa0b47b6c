//! sql_mode in the words of the other server.

use super::{Dialect, Family};

/// Gone since MySQL 8.0, and without an effect on what statements answer but for SHOW CREATE TABLE: what else
/// they stand for is listed beside them.
const OLD_WORDS: &[&str] = &[
    "NO_AUTO_CREATE_USER",
    "POSTGRESQL",
    "MSSQL",
    "DB2",
    "MAXDB",
    "NO_KEY_OPTIONS",
    "NO_TABLE_OPTIONS",
    "NO_FIELD_OPTIONS",
    "MYSQL323",
    "MYSQL40",
];
/// MariaDB's alone.
const MARIADB_WORDS: &[&str] =
    &["IGNORE_BAD_TABLE_OPTIONS", "SIMULTANEOUS_ASSIGNMENT", "EMPTY_STRING_IS_NULL"];
const ROUND: &str = "TIME_ROUND_FRACTIONAL";
const TRUNCATE: &str = "TIME_TRUNCATE_FRACTIONAL";
const NO_CREATE: &str = "NO_AUTO_CREATE_USER";

/// The mode in the words of `to`; what is lost without harm goes to `notes`. `Err` is a word that changes what
/// statements do and that `to` doesn't have.
pub(crate) fn sql_mode(
    value: &str,
    from: Dialect,
    to: Dialect,
    notes: &mut Vec<String>,
) -> Result<String, String> {
    let words: Vec<&str> = value.split(',').filter(|word| !word.is_empty()).collect();
    let has = |word: &str| words.contains(&word);
    let mut there: Vec<&str> = Vec::new();
    for &word in &words {
        match word {
            ROUND | TRUNCATE => {}
            // MariaDB's is another grammar; MySQL's was a sum of the words beside it.
            "ORACLE" if from.family == Family::MariaDb => return Err(word.to_owned()),
            "ORACLE" if to.family != Family::MySql || to.version >= (8, 0) => notes.push(dropped(word)),
            // It would bring ONLY_FULL_GROUP_BY along.
            "ANSI" if to.is_mysql_8() && !has("ONLY_FULL_GROUP_BY") => notes.push(dropped(word)),
            _ if OLD_WORDS.contains(&word) && to.is_mysql_8() => notes.push(dropped(word)),
            _ if MARIADB_WORDS.contains(&word) => return Err(word.to_owned()),
            _ => there.push(word),
        }
    }
    // A GRANT of MySQL 8 never makes an account.
    if from.is_mysql_8() && !to.is_mysql_8() {
        there.push(NO_CREATE);
    }
    // MariaDB cuts fractions of seconds off where MySQL rounds, and each has a word for the other's way.
    let truncates = match from.family {
        Family::MariaDb => !has(ROUND),
        Family::MySql | Family::OceanBase => has(TRUNCATE),
    };
    match (truncates, to.family) {
        (true, Family::OceanBase) => there.push(TRUNCATE),
        (true, Family::MySql) if to.is_mysql_8() => there.push(TRUNCATE),
        (true, Family::MySql) => notes.push("fractions of seconds are rounded, not cut off".to_owned()),
        (false, Family::MariaDb) if to.version >= (10, 4) => there.push(ROUND),
        (false, Family::MariaDb) => notes.push("fractions of seconds are cut off, not rounded".to_owned()),
        _ => {}
    }
    Ok(there.join(","))
}

fn dropped(word: &str) -> String {
    format!("sql_mode without {word}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MARIADB, MYSQL_5_6, MYSQL_9_7, OCEANBASE};
    use super::*;

    #[test]
    fn words_of_the_other_server() {
        let check = |from: Dialect, to: Dialect, value: &str, there: Result<&str, &str>, noted: usize| {
            let mut notes = Vec::new();
            let mapped = sql_mode(value, from, to, &mut notes);
            assert_eq!(mapped.as_deref().map_err(String::as_str), there, "{value}: {from:?} to {to:?}");
            assert_eq!(notes.len(), noted, "{value}: {notes:?}");
        };
        let strict = "STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER";
        check(MARIADB, MYSQL_9_7, strict, Ok("STRICT_TRANS_TABLES,TIME_TRUNCATE_FRACTIONAL"), 1);
        check(MYSQL_9_7, MARIADB, "STRICT_TRANS_TABLES,TIME_TRUNCATE_FRACTIONAL", Ok(strict), 0);
        check(MARIADB, MYSQL_9_7, "TIME_ROUND_FRACTIONAL", Ok(""), 0);
        check(MYSQL_9_7, MARIADB, "", Ok("NO_AUTO_CREATE_USER,TIME_ROUND_FRACTIONAL"), 0);
        check(MYSQL_5_6, MYSQL_9_7, "NO_ENGINE_SUBSTITUTION", Ok("NO_ENGINE_SUBSTITUTION"), 0);
        check(
            MYSQL_5_6,
            MARIADB,
            "NO_ENGINE_SUBSTITUTION",
            Ok("NO_ENGINE_SUBSTITUTION,TIME_ROUND_FRACTIONAL"),
            0,
        );
        check(MYSQL_5_6, MYSQL_9_7, "MYSQL40,HIGH_NOT_PRECEDENCE", Ok("HIGH_NOT_PRECEDENCE"), 1);
        check(MYSQL_5_6, MYSQL_9_7, "ANSI_QUOTES,ANSI", Ok("ANSI_QUOTES"), 1);
        check(MYSQL_5_6, MARIADB, "ANSI_QUOTES,ORACLE", Ok("ANSI_QUOTES,TIME_ROUND_FRACTIONAL"), 1);
        check(MARIADB, MYSQL_5_6, "PAD_CHAR_TO_FULL_LENGTH", Ok("PAD_CHAR_TO_FULL_LENGTH"), 1);
        check(MARIADB, OCEANBASE, "STRICT_ALL_TABLES", Ok("STRICT_ALL_TABLES,TIME_TRUNCATE_FRACTIONAL"), 0);
        check(MARIADB, MYSQL_9_7, "EMPTY_STRING_IS_NULL", Err("EMPTY_STRING_IS_NULL"), 0);
        check(MARIADB, MYSQL_9_7, "SIMULTANEOUS_ASSIGNMENT", Err("SIMULTANEOUS_ASSIGNMENT"), 0);
        check(MARIADB, MYSQL_5_6, "ORACLE,ANSI_QUOTES", Err("ORACLE"), 0);
    }
}
