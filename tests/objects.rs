//! Views and routines come along with the tables, in whatever order they need each other, in the session in which each was
//! made and with its definer.

use crate::support::changeover::check;
use crate::support::{Engine, Pair};

/// `a_first` needs `z_last`, which needs the function; `broken` needs a table that is gone.
const OBJECTS: &[&str] = &[
    "USE shop",
    "SET NAMES latin1",
    "CREATE DEFINER = 'app'@'%' FUNCTION twice(n INT) RETURNS INT DETERMINISTIC NO SQL RETURN n * 2",
    "CREATE DEFINER = 'app'@'%' PROCEDURE greeting() SELECT 'caf\u{e9}' AS word",
    "SET NAMES utf8mb4",
    "CREATE DEFINER = 'app'@'%' VIEW z_last AS SELECT id, twice(changes) AS t FROM accounts WHERE name LIKE 'Zoë%'",
    "CREATE DEFINER = 'app'@'%' SQL SECURITY INVOKER VIEW a_first AS SELECT id FROM z_last WHERE t = 0",
    "SET sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES'",
    "CREATE DEFINER = 'app'@'%' PROCEDURE joined() SELECT 'a' || 'b' AS word, \"id\" FROM accounts WHERE id = 1",
    "CREATE TABLE gone (id INT PRIMARY KEY)",
    "CREATE DEFINER = 'app'@'%' VIEW broken AS SELECT id FROM gone",
    "DROP TABLE gone",
];

async fn objects_come_along(engine: Engine) {
    let Some(pair) = Pair::start(engine, 100).await else { return };
    pair.source.run(OBJECTS).await;
    let (_, said) = check(&pair.settings());
    assert!(said.contains("shop.a_first") && said.contains("shop.greeting"), "{said}");
    assert!(said.contains("log_bin_trust_function_creators"), "{said}");
    pair.target.run(&["SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    let changeover = pair.changeover().await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_phase(&["following"]).await;
    for sql in [
        "SELECT COUNT(*) FROM shop.a_first",
        "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY 1",
        "SELECT CONCAT_WS('|', ROUTINE_DEFINITION, SQL_MODE, DEFINER, CHARACTER_SET_CLIENT, COLLATION_CONNECTION) \
         FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY ROUTINE_NAME",
        "SELECT CONCAT_WS('|', TABLE_NAME, VIEW_DEFINITION, DEFINER, SECURITY_TYPE, CHARACTER_SET_CLIENT) \
         FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME <> 'broken' ORDER BY TABLE_NAME",
    ] {
        let there: Vec<String> = pair.target.rows(sql).await;
        assert_eq!(there, pair.source.rows::<String>(sql).await, "{sql}");
        assert!(!there.is_empty(), "{sql}");
    }
    let events = changeover.admin("SHOW EVENTS").await;
    let named = events.iter().any(|event| event["message"].contains("shop.broken"));
    assert!(named, "what can't be made is named: {events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_objects_come_along() {
    objects_come_along(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_objects_come_along() {
    objects_come_along(Engine::MySql97).await;
}
