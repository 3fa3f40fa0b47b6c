//! A moved session goes on exactly as it was (invariant 3), whatever it holds, busy or idle.

use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn, Value};

use crate::support::{Changeover, Engine, Pair};

/// Sets that an ordinary driver or application makes, and what shows them.
const STATE: &[(&str, &str)] = &[
    ("SET NAMES latin1", "@@character_set_client, @@character_set_connection, @@collation_connection"),
    ("SET SESSION time_zone = '-07:30'", "@@time_zone"),
    ("SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'", "@@sql_mode"),
    ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "1"),
    ("SET autocommit = 0", "@@autocommit"),
    (
        "SET @n = NULL, @i = -7, @d = 1.50, @f = 2.5e0, @s = 'it''s \\\\ ünï', @b = x'00FF27'",
        "@n, @i, @d, @f, @s, HEX(@b)",
    ),
    ("SELECT 41 + 1 INTO @into", "@into"),
    ("SET SESSION lock_wait_timeout = 77, wait_timeout = 5000", "@@lock_wait_timeout, @@wait_timeout"),
    ("SET SESSION group_concat_max_len = 4321", "@@group_concat_max_len"),
    ("SET SESSION max_join_size = 1000", "@@max_join_size, @@sql_big_selects"),
    ("SET SESSION collation_server = 'latin1_bin'", "@@collation_server, @@character_set_server"),
    ("USE shop", "DATABASE()"),
    ("PREPARE text_one FROM 'SELECT ? + 1'", "1"),
];

async fn answers(conn: &mut Conn) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for (_, show) in STATE {
        let row: Option<mysql_async::Row> = conn.query_first(format!("SELECT {show}")).await.unwrap();
        all.push(row.unwrap().unwrap());
    }
    conn.query_drop("SET @p = 8").await.unwrap();
    let row: Option<i64> = conn.query_first("EXECUTE text_one USING @p").await.unwrap();
    all.push(vec![row.into()]);
    all
}

async fn state_comes_along(engine: Engine) {
    let Some(mut pair) = Pair::start(engine, 500).await else { return };
    let changeover = pair.changeover().await;
    // One that nobody uses until long after, another, and one in which the last answer was an error.
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut conn = changeover.app(None).await;
        for (sql, _) in STATE {
            conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let statement =
            conn.prep("SELECT name, part FROM shop.names WHERE n = ? AND part <> ?").await.unwrap();
        let row: Option<(Vec<u8>, Vec<u8>)> = conn.exec_first(&statement, (10, "x")).await.unwrap();
        let before = answers(&mut conn).await;
        conn.query_drop("ROLLBACK").await.unwrap();
        conns.push((conn, statement, row.unwrap(), before));
    }
    let idle = conns[2].0.prep("SELECT 1 FROM DUAL").await.unwrap();
    let error = conns[2].0.query_drop("SELECT nonsense FROM nowhere.at_all").await.unwrap_err().to_string();
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    // An error leaves something to ask about, and only the server that gave it can answer. So this session waits
    // for its next statement, and asks first; what a driver does on its own before that changes nothing.
    conns[2].0.ping().await.unwrap();
    conns[2].0.close(idle).await.unwrap();
    let told: Vec<(String, u16, String)> = conns[2].0.query("SHOW ERRORS").await.unwrap();
    assert!(told.iter().any(|(_, code, _)| error.contains(&code.to_string())), "{error}, but {told:?}");
    conns[2].0.query_drop("SELECT 1").await.unwrap();
    assert_eq!(changeover.wait_all_moved().await, 3);
    // The old server has served its time: it can be switched off and nobody notices.
    let seen: i64 =
        pair.target.value("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'app'").await;
    assert_eq!(seen, 3);
    pair.source.kill_9();
    for (conn, statement, row, before) in &mut conns {
        let again: Option<(Vec<u8>, Vec<u8>)> = conn.exec_first(&*statement, (10, "x")).await.unwrap();
        assert_eq!(again.as_ref(), Some(&*row));
        assert_eq!(answers(conn).await, *before);
        conn.query_drop("INSERT INTO shop.nothing VALUES (1, 1)").await.unwrap();
        conn.query_drop("ROLLBACK").await.unwrap();
    }
    assert_eq!(
        pair.target.value::<i64>("SELECT COUNT(*) FROM shop.nothing").await,
        0,
        "autocommit came back on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_comes_along_on_mariadb() {
    state_comes_along(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_comes_along_on_mysql97() {
    state_comes_along(Engine::MySql97).await;
}

/// What a naive proxy breaks, without a cutover: big packets, many results, errors, resets, LOCAL INFILE refused.
async fn transparent(engine: Engine) {
    let Some(pair) = Pair::start(engine, 500).await else { return };
    let changeover = pair.changeover().await;
    for server in [&pair.source, &pair.target] {
        server.run(&["SET GLOBAL max_allowed_packet = 67108864"]).await;
    }
    let mut conn = changeover.app(Some("shop")).await;
    // 16 MiB and more in one value, both ways: packets that are split, and one that ends exactly at the border.
    for size in [1_usize << 20, (1 << 24) - 1 - 30, 1 << 24, (1 << 24) + 70_000] {
        let value = vec![b'x'; size];
        let (length, back): (usize, Vec<u8>) =
            conn.exec_first("SELECT LENGTH(?), ?", (&value, &value)).await.unwrap().unwrap();
        assert_eq!((length, back.len()), (size, size));
    }
    let mut results = conn.query_iter("SELECT 1; SELECT 2; DO 3; SELECT id FROM bulk").await.unwrap();
    let mut seen = Vec::new();
    while !results.is_empty() {
        let rows: Vec<mysql_async::Row> = results.collect().await.unwrap();
        seen.push(rows.len());
    }
    drop(results);
    assert_eq!(seen.iter().sum::<usize>(), 502, "{seen:?}");
    conn.query_drop("SELECT 1; SELECT broken").await.unwrap_err();
    conn.ping().await.unwrap();
    conn.query_drop("SET @gone = 1").await.unwrap();
    conn.reset().await.unwrap();
    let gone: Option<Option<i64>> = conn.query_first("SELECT @gone").await.unwrap();
    assert_eq!(gone, Some(None));
    let wrong = conn.query_drop("SELECT * FROM no_such_table").await.unwrap_err().to_string();
    assert!(wrong.contains("1146") && wrong.contains("no_such_table"), "{wrong}");
    conn.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transparent_on_mariadb() {
    transparent(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transparent_on_mysql97() {
    transparent(Engine::MySql97).await;
}

async fn who(conn: &mut Conn) -> (String, Option<String>, Option<i64>) {
    conn.query_first("SELECT CURRENT_USER(), DATABASE(), @before").await.unwrap().unwrap()
}

/// COM_CHANGE_USER before and after a cutover, with the right password and a wrong one.
async fn becomes_somebody_else(engine: Engine) {
    let Some(mut pair) = Pair::start(engine, 10).await else { return };
    for server in [&pair.source, &pair.target] {
        server
            .run(&[
                "CREATE USER other@'%' IDENTIFIED BY 'other-Secret_4'",
                "GRANT SELECT, CREATE TEMPORARY TABLES ON shop.* TO other@'%'",
            ])
            .await;
    }
    let changeover = pair.changeover().await;
    let as_user = |name: &str, password: &str, schema: &str| {
        ChangeUserOpts::default()
            .with_user(Some(name.to_owned()))
            .with_pass(Some(password.to_owned()))
            .with_db_name(Some(schema.to_owned()))
    };
    let other = ("other@%".to_owned(), Some("shop".to_owned()), None);
    let mut conns = Vec::new();
    for change_later in [false, true] {
        let mut conn = changeover.app(Some("shop")).await;
        conn.query_drop("SET @before = 1").await.unwrap();
        conn.query_drop("CREATE TEMPORARY TABLE mine (n INT)").await.unwrap();
        conn.query_drop("BEGIN").await.unwrap();
        conn.query_drop("INSERT INTO nothing VALUES (1, 1)").await.unwrap();
        // Nothing is left of the old session: the transaction and the table would hold the cutover.
        conn.change_user(as_user("other", "other-Secret_4", "shop")).await.unwrap();
        assert_eq!(who(&mut conn).await, other);
        conn.query_drop("SELECT * FROM mine").await.unwrap_err();
        conn.query_drop("INSERT INTO nothing VALUES (1, 1)").await.unwrap_err();
        if change_later {
            conn.change_user(as_user("app", "app-Secret_2", "shop")).await.unwrap();
            conn.query_drop("SET @before = 2").await.unwrap();
        }
        conn.query_drop("DO 1").await.unwrap();
        conns.push(conn);
    }
    let mut refused = changeover.app(Some("shop")).await;
    let error = refused.change_user(as_user("other", "wrong", "shop")).await.unwrap_err().to_string();
    assert!(error.contains("1045"), "{error}");
    drop(refused);
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    assert_eq!(changeover.wait_all_moved().await, 2);
    pair.source.kill_9();
    assert_eq!(who(&mut conns[0]).await, other);
    assert_eq!(who(&mut conns[1]).await, ("app@%".to_owned(), Some("shop".to_owned()), Some(2)));
    for conn in &mut conns {
        conn.change_user(as_user("other", "other-Secret_4", "shop")).await.unwrap();
        assert_eq!(who(conn).await, other);
    }
    let users = changeover.admin("SHOW SESSIONS").await;
    assert!(users.iter().all(|session| session["user"] == "other"), "{users:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn becomes_somebody_else_on_mariadb() {
    becomes_somebody_else(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn becomes_somebody_else_on_mysql97() {
    becomes_somebody_else(Engine::MySql97).await;
}

/// `max_prepared_stmt_count` of the other server is used up: the session stays, and its statements go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stays_where_there_is_no_room_for_its_statements() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    pair.target.run(&["SET GLOBAL max_prepared_stmt_count = 0"]).await;
    let changeover = Changeover::start(pair.settings().with("proxy.move_every", "1")).await;
    let mut conn = changeover.app(None).await;
    let first = conn.prep("SELECT ? + 1, @@port").await.unwrap();
    let second = conn.prep("SELECT ? + 2, @@port").await.unwrap();
    let home = pair.source.port();
    for n in 0..3 {
        let row: Option<(i64, u16)> = conn.exec_first(&first, (n,)).await.unwrap();
        assert_eq!(row, Some((n + 1, home)));
        let row: Option<(i64, u16)> = conn.exec_first(&second, (n,)).await.unwrap();
        assert_eq!(row, Some((n + 2, home)));
    }
    let session = &changeover.admin("SHOW SESSIONS").await[0];
    assert_eq!(session["backend"], "source");
    assert!(session["pinned_by"].contains("doesn't take"), "{session:?}");
}
