//! Session variables that the other server calls otherwise, or does without.

use super::{Dialect, Family};

/// What becomes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes by this name and has this value.
    Carried(String, Option<Vec<u8>>),
    /// The other server does without, and no answer changes; the reason.
    Left(&'static str),
}

/// Why a variable may be left behind where the other server doesn't know it, or not its value.
const LEFT: &[(&str, &str)] = &[
    ("optimizer_", "how a plan is found"),
    ("eq_range_index_dive_limit", "how a plan is found"),
    ("range_optimizer_max_mem_size", "how a plan is found"),
    ("max_seeks_for_key", "how a plan is found"),
    ("use_stat_tables", "how a plan is found"),
    ("histogram_", "how a plan is found"),
    ("join_", "memory of a join"),
    ("mrr_buffer_size", "memory of a read"),
    ("sort_buffer_size", "memory of a sort"),
    ("max_length_for_sort_data", "memory of a sort"),
    ("read_", "memory of a read"),
    ("tmp_", "memory of a temporary table"),
    ("internal_tmp_", "memory of a temporary table"),
    ("bulk_insert_buffer_size", "memory of an insert"),
    ("preload_buffer_size", "memory of an index"),
    ("myisam_", "memory and repair of MyISAM"),
    ("aria_", "memory and repair of Aria"),
    ("query_cache_", "the query cache"),
    ("query_alloc_block_size", "memory of a statement"),
    ("query_prealloc_size", "memory of a statement"),
    ("range_alloc_block_size", "memory of a statement"),
    ("transaction_alloc_block_size", "memory of a transaction"),
    ("transaction_prealloc_size", "memory of a transaction"),
    ("connection_memory_", "memory of a session"),
    ("max_session_mem_used", "memory of a session"),
    ("global_connection_memory_", "memory of a session"),
    ("profiling", "measuring"),
    ("log_slow_", "logs"),
    ("slow_query_", "logs"),
    ("long_query_time", "logs"),
    ("min_examined_row_limit", "logs"),
    ("log_", "logs"),
    ("userstat", "measuring"),
    ("show_old_temporals", "SHOW CREATE TABLE"),
    ("progress_report_time", "progress reports, which are not offered"),
    ("parser_max_mem_size", "memory of a statement"),
    ("innodb_parallel_read_threads", "threads of a read"),
    ("innodb_ddl_", "memory and threads of a change of definition"),
    ("ob_", "OceanBase's own"),
    ("binlog_direct_non_transactional_updates", "the binary log of tables without transactions"),
    ("storage_engine", "an older name of default_storage_engine, which comes along"),
    ("warning_", "warnings"),
    ("deadlock_search_", "how deadlocks are found"),
    ("deadlock_timeout_", "how deadlocks are found"),
    ("updatable_views_with_limit", "an error in place of a warning"),
    ("max_statement_time", "a time limit on statements"),
    ("max_execution_time", "a time limit on statements"),
];

/// Why the variable may be left behind; `None` where it changes what statements do.
pub(crate) fn may_be_left(name: &str) -> Option<&'static str> {
    let same = |known: &str| name == known || (known.ends_with('_') && name.starts_with(known));
    LEFT.iter().find(|(known, _)| same(known)).map(|(_, reason)| *reason)
}

/// The variable on the other server.
pub(crate) fn variable(name: &str, value: Option<&[u8]>, from: Dialect, to: Dialect) -> Fate {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    let carried = |name: &str, value: String| Fate::Carried(name.to_owned(), Some(value.into_bytes()));
    match (name, text) {
        // Seconds with a fraction there, milliseconds here.
        ("max_statement_time", Some(text)) if to.family != Family::MariaDb => match text.parse::<f64>() {
            Ok(seconds) if to.family == Family::MySql && to.version >= (5, 7) => {
                // Above four billion milliseconds there is no limit worth the name.
                carried("max_execution_time", format!("{:.0}", (seconds * 1000.0).clamp(0.0, 4e9)))
            }
            _ => Fate::Left("a time limit on statements"),
        },
        ("max_execution_time", Some(text)) if to.family == Family::MariaDb => match text.parse::<u64>() {
            Ok(ms) => carried("max_statement_time", format!("{}.{:03}", ms / 1000, ms % 1000)),
            Err(_) => Fate::Left("a time limit on statements"),
        },
        ("storage_engine", _) if to.family != from.family || to.version >= (5, 7) => {
            Fate::Left("an older name of default_storage_engine, which comes along")
        }
        _ if name.starts_with("ob_") && to.family != Family::OceanBase => Fate::Left("OceanBase's own"),
        _ => Fate::Carried(name.to_owned(), value.map(<[u8]>::to_vec)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MARIADB, MYSQL_5_6, MYSQL_9_7, OCEANBASE};
    use super::*;

    #[test]
    fn names_and_values_of_the_other_server() {
        let check = |name: &str, value: &str, from: Dialect, to: Dialect, there: Option<(&str, &str)>| {
            let carried = match variable(name, Some(value.as_bytes()), from, to) {
                Fate::Carried(name, value) => Some((name, value.unwrap_or_default())),
                Fate::Left(_) => None,
            };
            let there = there.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
            assert_eq!(carried, there, "{name} from {from:?} to {to:?}");
        };
        check("max_statement_time", "1.500000", MARIADB, MYSQL_9_7, Some(("max_execution_time", "1500")));
        check("max_execution_time", "1500", MYSQL_9_7, MARIADB, Some(("max_statement_time", "1.500")));
        check("max_statement_time", "1.500000", MARIADB, MYSQL_5_6, None);
        check("storage_engine", "InnoDB", MYSQL_5_6, MYSQL_9_7, None);
        check("lock_wait_timeout", "7", MYSQL_5_6, MARIADB, Some(("lock_wait_timeout", "7")));
        check("ob_query_timeout", "7", OCEANBASE, MARIADB, None);
    }

    #[test]
    fn what_changes_no_answer_may_be_left() {
        for name in ["optimizer_switch", "sort_buffer_size", "query_cache_type", "long_query_time"] {
            assert!(may_be_left(name).is_some(), "{name}");
        }
        for name in [
            "sql_select_limit",
            "sql_safe_updates",
            "foreign_key_checks",
            "old_mode",
            "div_precision_increment",
        ] {
            assert_eq!(may_be_left(name), None, "{name}");
        }
    }
}
