//! Statements that change definitions: not applied yet, so they stop the migration at their position.

use config::Side;

use super::builder::place;
use crate::binlog::transaction::TransactionMeta;
use crate::error::Error;

/// The error with which replay stops. It names the statement's kind, never its text (invariant 8).
pub(super) fn refused(meta: &TransactionMeta, schema: &str, sql: &str) -> Error {
    let schema = if schema.is_empty() { String::new() } else { format!(" in schema {schema}") };
    Error::definite(
        Side::Source,
        place(meta, meta),
        format!(
            "{}{schema}: a statement that changes definitions can't be replayed yet. Everything before it is \
             applied. Stop Changeover, drop the migrated schemas on the target, start it with an empty state_dir, and \
             leave definitions as they are until the cutover",
            kind(sql)
        ),
    )
}

/// The words a statement begins with, as far as they are words of the language: `ALTER TABLE`.
fn kind(sql: &str) -> String {
    const WORDS: [&str; 40] = [
        "ALTER",
        "CREATE",
        "DROP",
        "TRUNCATE",
        "RENAME",
        "ANALYZE",
        "OPTIMIZE",
        "REPAIR",
        "GRANT",
        "REVOKE",
        "SET",
        "OR",
        "REPLACE",
        "TEMPORARY",
        "ONLINE",
        "OFFLINE",
        "IGNORE",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "TABLE",
        "TABLES",
        "INDEX",
        "VIEW",
        "TRIGGER",
        "PROCEDURE",
        "FUNCTION",
        "EVENT",
        "DATABASE",
        "SCHEMA",
        "SEQUENCE",
        "USER",
        "ROLE",
        "SERVER",
        "TABLESPACE",
        "AGGREGATE",
        "PACKAGE",
        "BODY",
        "INSERT",
        "IF",
    ];
    let mut words = Vec::new();
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        // `/*!40000 ALTER … */` is a statement, other comments aren't.
        if let Some(versioned) = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!")) {
            rest = versioned.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if rest.starts_with("/*") {
            let Some((_, behind)) = rest.split_once("*/") else { break };
            rest = behind;
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            let Some((_, behind)) = rest.split_once('\n') else { break };
            rest = behind;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            let Some(known) = WORDS.iter().find(|known| known.eq_ignore_ascii_case(word)) else { break };
            if *known == "IF" || words.len() == 6 {
                break;
            }
            words.push(*known);
            rest = behind;
        }
    }
    if words.is_empty() { "a statement of an unknown kind".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::sample::meta;
    use super::*;

    #[test]
    fn a_statement_is_named_by_its_kind() {
        let check = |sql: &str, expected: &str| assert_eq!(kind(sql), expected, "{sql}");
        check("alter table t add c int default 42", "ALTER TABLE");
        check("/* app */ CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE OR REPLACE VIEW");
        check("/*!40000 ALTER TABLE t DISABLE KEYS */", "ALTER TABLE");
        check("-- x\nDROP TABLE IF EXISTS `t`", "DROP TABLE");
        check("# x\nTRUNCATE t", "TRUNCATE");
        check("CREATE UNIQUE INDEX i ON t (a)", "CREATE UNIQUE INDEX");
        check("CREATE DEFINER=`a`@`b` TRIGGER x", "CREATE");
        check("/* never closed", "a statement of an unknown kind");
        check("", "a statement of an unknown kind");
        check("secret 'literal'", "a statement of an unknown kind");
    }

    #[test]
    fn the_error_says_where_and_not_what_it_holds() {
        let text = refused(&meta(7), "shop", "ALTER TABLE t ADD c INT DEFAULT 42").to_string();
        assert!(text.contains("0-1-7") && text.contains("bin.000001:700"), "{text}");
        assert!(text.contains("ALTER TABLE in schema shop") && !text.contains("42"), "{text}");
    }
}
