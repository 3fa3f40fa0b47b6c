//! What a statement in the binlog means for the migration, from its first words and the names in it.
//!
//! Not a parser: it has to be right about what may be *skipped*, and only that. Whatever it doesn't know, and
//! whatever may speak of a schema of the migration, stops the stream (invariant 5).

use std::borrow::Cow;

/// What to do with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Opens the group. MariaDB's GTID event does that by itself.
    Begin,
    /// Closes it.
    Commit,
    /// Closes it, undoing what can be undone.
    Rollback,
    /// Undoes a part of the group.
    RollbackToSavepoint,
    /// SAVEPOINT, XA END: nothing to do.
    Nothing,
    /// XA START: opens a group that XA_PREPARE closes.
    XaStart,
    /// XA COMMIT of what was prepared before, with the text that names it.
    XaCommit(String),
    /// XA ROLLBACK of what was prepared before.
    XaRollback(String),
    /// A change of rows that was written as text.
    RowChange,
    /// Changes no row and no definition of the migration.
    Unrelated,
    /// Changes, or may change, a definition of the migration.
    Ddl,
}

/// The schemas of a migration, for the question whether a text speaks of one.
#[derive(Debug, Clone)]
pub(crate) struct SchemaNames {
    lower: Vec<String>,
    any_non_ascii: bool,
    /// Every schema but the server's own is one of them.
    all: bool,
}

impl SchemaNames {
    pub(crate) fn new<'a>(schemas: impl IntoIterator<Item = &'a str>) -> Self {
        let mut lower: Vec<String> = schemas.into_iter().map(bare).collect();
        lower.sort();
        lower.dedup();
        let any_non_ascii = lower.iter().any(|name| !name.is_ascii());
        Self { lower, any_non_ascii, all: false }
    }

    /// Every schema there is or will be.
    pub(crate) fn all() -> Self {
        Self { lower: Vec::new(), any_non_ascii: false, all: true }
    }

    /// True where a statement of a session with that default schema may be about one of them.
    pub(crate) fn may_concern(&self, default_schema: &[u8], sql: &[u8]) -> bool {
        self.is_one(default_schema) || self.may_be_in(sql)
    }

    fn is_one(&self, schema: &[u8]) -> bool {
        let schema = bare(&String::from_utf8_lossy(schema));
        self.all || self.lower.contains(&schema)
    }

    /// True where the text may name one of the schemas: as a word, in quotes, or inside something else.
    fn may_be_in(&self, sql: &[u8]) -> bool {
        if self.all {
            return true;
        }
        // The text is in the session's charset; what a name beyond ASCII looks like in it isn't known.
        if self.any_non_ascii && !sql.is_ascii() {
            return true;
        }
        let text = bare(&String::from_utf8_lossy(sql));
        self.lower.iter().any(|name| text.contains(name.as_str()))
    }
}

/// Lower case, without the characters that quoting doubles.
fn bare(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '`' | '"')).flat_map(char::to_lowercase).collect()
}

/// Decides about a statement with its session's default schema.
pub(crate) fn classify(default_schema: &[u8], sql: &[u8], schemas: &SchemaNames) -> Statement {
    // The first words decide, and a row change of a gigabyte has them in front too.
    const HEAD_BYTES: usize = 4096;
    let head = String::from_utf8_lossy(sql.get(..HEAD_BYTES).unwrap_or(sql));
    let words = first_words(&head);
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let touches = || schemas.may_concern(default_schema, sql);
    let definition = || if touches() { Statement::Ddl } else { Statement::Unrelated };
    match (word(0), word(1)) {
        ("BEGIN", _) | ("START", "TRANSACTION") => Statement::Begin,
        ("COMMIT", _) => Statement::Commit,
        ("ROLLBACK", "TO") => Statement::RollbackToSavepoint,
        ("ROLLBACK", _) => Statement::Rollback,
        ("SAVEPOINT" | "RELEASE", _) | ("XA", "END") => Statement::Nothing,
        ("XA", "START" | "BEGIN") => Statement::XaStart,
        ("XA", "COMMIT") => Statement::XaCommit(xa_name(&head)),
        ("XA", "ROLLBACK") => Statement::XaRollback(xa_name(&head)),
        (
            "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "DO" | "SELECT"
            | "VALUES" | "TABLE" | "IMPORT",
            _,
        ) => Statement::RowChange,
        ("CREATE" | "DROP" | "ALTER", _) if names_a_temporary_table(&words) => Statement::Unrelated,
        ("CREATE" | "DROP" | "ALTER", _) if is_about_the_server(&words) => Statement::Unrelated,
        // The schema that the statement is about is its default schema, whatever the session had.
        ("CREATE" | "DROP" | "ALTER", "DATABASE" | "SCHEMA") => definition(),
        ("CREATE" | "DROP" | "ALTER" | "RENAME" | "TRUNCATE", second) => {
            if word(0) == "RENAME" && second == "USER" { Statement::Unrelated } else { definition() }
        }
        // MariaDB runs any statement behind SET STATEMENT … FOR, and ANALYZE runs what it explains.
        ("SET", "STATEMENT") => {
            if touches() {
                Statement::Ddl
            } else {
                Statement::RowChange
            }
        }
        ("ANALYZE", second) if !matches!(second, "TABLE" | "TABLES" | "LOCAL" | "NO_WRITE_TO_BINLOG") => {
            Statement::RowChange
        }
        (
            "GRANT" | "REVOKE" | "FLUSH" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "CHECKSUM" | "SET"
            | "RESET" | "INSTALL" | "UNINSTALL" | "KILL" | "PURGE" | "CACHE" | "SHUTDOWN" | "CLONE"
            | "BINLOG" | "USE",
            _,
        ) => administration(word(0)),
        _ => Statement::Ddl,
    }
}

fn administration(word: &str) -> Statement {
    // BINLOG replays row events; the server logs those events themselves, never the statement.
    if word == "BINLOG" { Statement::RowChange } else { Statement::Unrelated }
}

/// CREATE [OR REPLACE] TEMPORARY TABLE, DROP TEMPORARY TABLE.
fn names_a_temporary_table(words: &[String]) -> bool {
    let rest = words.get(1..).unwrap_or_default();
    let rest = match rest {
        [or, replace, rest @ ..] if or == "OR" && replace == "REPLACE" => rest,
        _ => rest,
    };
    matches!(rest.first().map(String::as_str), Some("TEMPORARY"))
        && rest.get(1).is_some_and(|word| matches!(word.as_str(), "TABLE" | "TABLES" | "SEQUENCE"))
}

/// CREATE, ALTER or DROP of accounts, roles and other things that live outside schemas.
fn is_about_the_server(words: &[String]) -> bool {
    let rest = words.get(1..).unwrap_or_default();
    let rest = match rest {
        [or, replace, rest @ ..] if or == "OR" && replace == "REPLACE" => rest,
        _ => rest,
    };
    let word = |index: usize| rest.get(index).map_or("", String::as_str);
    match word(0) {
        "USER" | "ROLE" | "SERVER" | "INSTANCE" => true,
        "RESOURCE" => word(1) == "GROUP",
        "SPATIAL" => word(1) == "REFERENCE",
        _ => false,
    }
}

/// The first words in upper case. Comments are skipped, but what a server executes in spite of `/*!` is not.
fn first_words(text: &str) -> Vec<String> {
    const WORDS_MAX: usize = 6;
    let mut words = Vec::new();
    let mut rest = text;
    while words.len() < WORDS_MAX {
        rest = skip_space_and_comments(rest);
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        match rest.split_at_checked(length) {
            Some((word, behind)) if !word.is_empty() => {
                words.push(word.to_ascii_uppercase());
                rest = behind;
            }
            _ => break,
        }
    }
    words
}

fn skip_space_and_comments(mut rest: &str) -> &str {
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '(' || c == '\0');
        if let Some(version) = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!")) {
            rest = version.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if let Some(behind) = rest.strip_prefix("*/") {
            rest = behind;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, behind)| behind);
        } else if rest.starts_with('#') || rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
        } else {
            return rest;
        }
    }
}

/// What names an XA transaction, in the one spelling that the server writes.
fn xa_name(sql: &str) -> String {
    let name = sql.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    name.trim_end_matches(';').to_owned()
}

/// The statement's kind for a message: its first words, never a literal (invariant 8).
pub(crate) fn kind_of(sql: &str) -> String {
    let head: Cow<'_, str> = sql.chars().take(4096).collect::<String>().into();
    let mut words = first_words(&head);
    words.truncate(2);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn decide(schema: &str, sql: &str) -> Statement {
        classify(schema.as_bytes(), sql.as_bytes(), &SchemaNames::new(["shop", "Größe", "z`q"]))
    }

    #[test]
    fn statements_that_frame_a_group() {
        let check = |sql: &str, expected: Statement| assert_eq!(decide("shop", sql), expected, "{sql}");
        check("BEGIN", Statement::Begin);
        check("COMMIT", Statement::Commit);
        check("ROLLBACK", Statement::Rollback);
        check("ROLLBACK TO `a`", Statement::RollbackToSavepoint);
        check("SAVEPOINT `a`", Statement::Nothing);
        check("XA START X'78',X'',1", Statement::XaStart);
        check("XA END X'78',X'',1", Statement::Nothing);
        check("XA COMMIT X'78',X'',1", Statement::XaCommit("X'78',X'',1".to_owned()));
        check("XA ROLLBACK X'78',X'',1", Statement::XaRollback("X'78',X'',1".to_owned()));
    }

    #[test]
    fn rows_written_as_text_are_never_skipped() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "/* hint */ update t set a = 1",
            "(SELECT 1)",
            "-- note\nDELETE FROM other.t",
            "LOAD DATA INFILE 'x' INTO TABLE t",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "BINLOG 'abc'",
        ] {
            assert_eq!(decide("other", sql), Statement::RowChange, "{sql}");
        }
    }

    #[test]
    fn definitions_of_the_migration_are_seen_wherever_they_hide() {
        for (schema, sql) in [
            ("shop", "ALTER TABLE t ADD c INT"),
            ("SHOP", "TRUNCATE t"),
            ("other", "alter table shop.t add c int"),
            ("other", "DROP TABLE `Shop`.`t`"),
            ("", "CREATE DATABASE shop"),
            ("other", "RENAME TABLE other.t TO shop.t"),
            (
                "other",
                "/*!50003 CREATE*/ /*!50020 DEFINER=`a`@`b`*/ /*!50003 TRIGGER shop.x BEFORE INSERT ON t */",
            ),
            ("other", "DROP TABLE `z``q`.t"),
            ("other", "DROP TABLE gr\u{f6}\u{df}e2.t"),
            ("other", "DROP PROCEDURE shop.p"),
            ("other", "CREATE OR REPLACE TABLE shop.t (a INT)"),
            ("", "SOMETHING NEW"),
            ("", ""),
            ("shop", "CREATE TABLE t START TRANSACTION"),
        ] {
            assert_eq!(decide(schema, sql), Statement::Ddl, "{sql}");
        }
    }

    #[test]
    fn what_has_nothing_to_do_with_the_migration_is_skipped() {
        for (schema, sql) in [
            ("other", "ALTER TABLE t ADD c INT"),
            ("other", "DROP TABLE IF EXISTS `t` /* generated by server */"),
            ("shop", "CREATE TEMPORARY TABLE t (a INT)"),
            ("shop", "CREATE OR REPLACE TEMPORARY TABLE t (a INT)"),
            ("shop", "DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`"),
            ("shop", "DROP TEMPORARY TABLE IF EXISTS `t`"),
            ("shop", "GRANT SELECT ON shop.* TO a"),
            ("shop", "FLUSH TABLES"),
            ("shop", "ANALYZE TABLE shop.t"),
            ("shop", "OPTIMIZE TABLE shop.t"),
            ("shop", "CREATE USER 'a'@'%' IDENTIFIED BY 'x'"),
            ("shop", "ALTER USER 'a'@'%' IDENTIFIED BY 'x'"),
            ("shop", "RENAME USER a TO b"),
            ("shop", "SET PASSWORD FOR a = 'x'"),
            ("shop", "DROP ROLE a"),
        ] {
            assert_eq!(decide(schema, sql), Statement::Unrelated, "{sql}");
        }
    }

    #[test]
    fn the_kind_of_a_statement_holds_no_literal() {
        assert_eq!(kind_of("alter table t add c varchar(9) default 'secret'"), "ALTER TABLE");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(schema in ".{0,8}", sql in ".{0,60}") {
            drop(decide(&schema, &sql));
            drop(kind_of(&sql));
        }
    }
}
