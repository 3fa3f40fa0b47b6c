//! `migration.accounts`: accounts and what they may do come along, are never more on the target than on the source, and what
//! isn't carried is named.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::changeover::{Record, Settings, check};
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Server, accounts};

/// What the service account on the target needs beyond the rest, as docs/accounts.md says.
fn may_create(target: Engine) -> String {
    let more = if target == Engine::MariaDb { ", DELETE HISTORY" } else { "" };
    format!("GRANT CREATE USER, CREATE TEMPORARY TABLES{more} ON *.* TO changeover@'%' WITH GRANT OPTION")
}

/// A schema, and accounts of every kind that both engines know.
const SHOP: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.accounts (id INT PRIMARY KEY, changes INT NOT NULL)",
    "INSERT INTO shop.accounts VALUES (1, 0), (2, 0)",
    "CREATE DATABASE other",
    "CREATE TABLE other.t (id INT PRIMARY KEY)",
    "CREATE USER shopper@'%' IDENTIFIED BY 'shopper-Secret_4'",
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON shop.* TO shopper@'%'",
    "CREATE USER reporter@'%' IDENTIFIED BY 'reporter-Secret_5'",
    "GRANT SELECT (id), UPDATE (changes) ON shop.accounts TO reporter@'%'",
    "GRANT EXECUTE ON `sh%`.* TO reporter@'%'",
    "GRANT SELECT ON other.* TO reporter@'%'",
    "GRANT PROCESS ON *.* TO reporter@'%'",
];

async fn pair(from: Engine, to: Engine) -> Option<(Server, Server)> {
    let (source, target) = tokio::join!(Server::start(from, &[]), Server::start(to, &[]));
    let (source, target) = (source?, target?);
    for server in [&source, &target] {
        accounts::create(server, "shop").await;
    }
    source.run(SHOP).await;
    source.run(&["GRANT SELECT ON other.* TO app@'%'"]).await;
    Some((source, target))
}

fn settings(source: &Server, target: &Server) -> Settings {
    Settings::between(source, target, "shop").with("migration.accounts", "true")
}

/// Rows about one account as `kind|source|target`.
async fn conversions(changeover: &Changeover, account: &str) -> Vec<String> {
    let rows = changeover.admin("SHOW CONVERSIONS").await;
    let of = |row: &&Record| row["object"] == account;
    let text =
        |row: &Record| format!("{}|{}|{}", row["kind"], row["source_definition"], row["target_definition"]);
    rows.iter().filter(of).map(text).collect()
}

fn assert_says(lines: &[String], parts: &[&str]) {
    for part in parts {
        assert!(lines.iter().any(|line| line.contains(part)), "{part:?} isn't in {lines:#?}");
    }
}

async fn log_in(port: u16, user: &str, password: &str) -> Result<Conn, String> {
    Conn::new(opts(port, user, password, Some("shop"))).await.map_err(|error| error.to_string())
}

async fn grants(server: &Server, account: &str) -> Vec<String> {
    let mut lines: Vec<String> = server.rows(&format!("SHOW GRANTS FOR {account}")).await;
    lines.sort();
    lines
}

async fn wait_event(changeover: &Changeover, part: &str) {
    until(part, Duration::from_secs(60), async || {
        let events = changeover.admin("SHOW EVENTS").await;
        let said = events.iter().any(|event| event["message"].contains(part));
        if said { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

fn assert_no_secret(changeover: &Changeover) {
    let log = changeover.log();
    for secret in ["Secret_", "$A$", "0x2441"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let is_hash = |word: &str| {
        word.starts_with('*')
            && word.len() > 30
            && word.chars().skip(1).take(30).all(|c| c.is_ascii_hexdigit())
    };
    assert!(
        !log.split(|c: char| c.is_whitespace() || "'\"".contains(c)).any(is_hash),
        "a hash is in the log"
    );
}

/// Between two servers of one kind everything comes along, down to the byte of what SHOW GRANTS says.
async fn one_kind(engine: Engine, source_only: &[&str], same: &[&str]) {
    let Some((source, target)) = pair(engine, engine).await else { return };
    source.run(source_only).await;
    source
        .run(&[
            "CREATE DEFINER = reporter@'%' PROCEDURE shop.tell() SQL SECURITY INVOKER SELECT id FROM shop.accounts",
            "GRANT EXECUTE ON PROCEDURE shop.tell TO shopper@'%'",
        ])
        .await;

    // What is missing is said beforehand, and nothing begins.
    let (code, said) = check(&settings(&source, &target));
    assert!(code == 1 && said.contains("GRANT CREATE USER ON *.*"), "{said}");
    assert!(said.contains("can't pass on") && said.contains("WITH GRANT OPTION"), "{said}");
    target.run(&[&may_create(engine), "SET GLOBAL log_bin_trust_function_creators = 1"]).await;
    let (code, said) = check(&settings(&source, &target));
    assert!(code == 0 && !said.contains("can't pass on"), "{said}");
    assert!(said.contains("'reporter'@'%'") && said.contains("its schema isn't moved"), "{said}");

    let changeover = Changeover::start(settings(&source, &target)).await;
    let mut before = log_in(changeover.port(), "shopper", "shopper-Secret_4").await.unwrap();
    before.query_drop("UPDATE accounts SET changes = 1 WHERE id = 1").await.unwrap();
    assert_says(&conversions(&changeover, "'app'@'%'").await, &["is there already and left as it is"]);
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    let rows = conversions(&changeover, "'reporter'@'%'").await;
    let narrower = "privilege|EXECUTE ON `sh%`.*|EXECUTE ON `shop`.*";
    assert_says(&rows, &[narrower, "privilege|SELECT ON `other`.*|not carried: its schema isn't moved"]);
    for account in same {
        assert_eq!(grants(&target, account).await, grants(&source, account).await, "{account}");
    }
    let reporter = grants(&target, "reporter@'%'").await;
    assert_says(&reporter, &["GRANT PROCESS ON *.*", "GRANT EXECUTE ON `shop`.*"]);
    assert!(!reporter.concat().contains("other"), "{reporter:?}");
    let app = grants(&target, "app@'%'").await;
    assert!(!app.concat().contains("other"), "an account that was there is left: {app:?}");

    source.run(&["ALTER USER reporter@'%' ACCOUNT LOCK", "CREATE USER late@'%'"]).await;
    wait_event(&changeover, "late@% (new), reporter@% (changed)").await;

    changeover.cut_over().await;
    before.query_drop("UPDATE accounts SET changes = 2 WHERE id = 1").await.unwrap();
    let mut after = log_in(changeover.port(), "shopper", "shopper-Secret_4").await.unwrap();
    let changes: Option<i64> = after.query_first("SELECT changes FROM accounts WHERE id = 1").await.unwrap();
    assert_eq!(changes, Some(2));
    after.query_drop("CALL tell()").await.unwrap();
    assert!(log_in(changeover.port(), "shopper", "wrong").await.unwrap_err().contains("1045"));
    let mut reporter = log_in(changeover.port(), "reporter", "reporter-Secret_5").await.unwrap();
    assert!(reporter.query_drop("UPDATE accounts SET id = 9").await.is_err(), "a column that isn't granted");
    reporter.query_drop("UPDATE accounts SET changes = 3").await.unwrap();
    assert_eq!(target.value::<i64>("SELECT changes FROM shop.accounts WHERE id = 2").await, 3);
    assert_no_secret(&changeover);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_come_along_on_mariadb() {
    let own = &[
        "CREATE ROLE readers",
        "GRANT SELECT ON shop.* TO readers",
        "GRANT readers TO shopper@'%'",
        "SET DEFAULT ROLE readers FOR shopper@'%'",
        "ALTER USER shopper@'%' WITH MAX_USER_CONNECTIONS 50 MAX_STATEMENT_TIME 7.5 PASSWORD EXPIRE INTERVAL 90 DAY",
        "CREATE USER secure@'10.%' IDENTIFIED VIA mysql_native_password USING PASSWORD('secure-Secret_6') OR unix_socket \
         REQUIRE ISSUER '/CN=it''s' AND SUBJECT '/CN=x' ACCOUNT LOCK",
        "GRANT ALL ON shop.* TO secure@'10.%' WITH GRANT OPTION",
    ];
    one_kind(Engine::MariaDb, own, &["shopper@'%'", "readers"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_come_along_on_mysql97() {
    let own = &[
        "ALTER USER shopper@'%' WITH MAX_USER_CONNECTIONS 50 PASSWORD EXPIRE INTERVAL 90 DAY FAILED_LOGIN_ATTEMPTS 9 \
         PASSWORD_LOCK_TIME UNBOUNDED PASSWORD HISTORY 3 COMMENT 'it''s \"one\"'",
        "CREATE USER secure@'10.%' IDENTIFIED BY 'secure-Secret_6' REQUIRE X509 ACCOUNT LOCK",
        "GRANT ALL ON shop.* TO secure@'10.%' WITH GRANT OPTION",
    ];
    one_kind(Engine::MySql97, own, &["shopper@'%'"]).await;
}

/// From an engine whose hashes MySQL 9.7 can't check: an account is there, for whoever it is the definer, and nobody gets in before
/// it is adopted or given a password.
async fn to_mysql97(from: Engine, extra: &[&str], named: &[&str]) {
    let Some((source, target)) = pair(from, Engine::MySql97).await else { return };
    source.run(&["CREATE USER open@'%'", "GRANT SELECT ON shop.* TO open@'%'"]).await;
    source.run(extra).await;
    target.run(&[&may_create(Engine::MySql97)]).await;
    let changeover = Changeover::start(settings(&source, &target)).await;
    let shopper = conversions(&changeover, "'shopper'@'%'").await;
    assert_says(&shopper, &["account|mysql_native_password|a password that nobody knows", "ADOPT ACCOUNT"]);
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    assert_says(&conversions(&changeover, "'reporter'@'%'").await, named);
    let shopper = grants(&target, "shopper@'%'").await;
    let expected =
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON `shop`.* TO `shopper`@`%`";
    assert_says(&shopper, &[expected]);
    for password in ["shopper-Secret_4", ""] {
        assert!(log_in(target.port(), "shopper", password).await.is_err());
    }
    log_in(target.port(), "open", "").await.unwrap();
    let done = changeover.admin("ADOPT ACCOUNT 'shopper'@'%'").await.remove(0);
    assert!(done["note"].starts_with("adopted"), "{done:?}");
    let mut moved = log_in(changeover.port(), "shopper", "shopper-Secret_4").await.unwrap();
    changeover.cut_over().await;
    moved.query_drop("UPDATE accounts SET changes = 2 WHERE id = 1").await.unwrap();
    let mut after = log_in(changeover.port(), "shopper", "shopper-Secret_4").await.unwrap();
    after.query_drop("UPDATE accounts SET changes = 3 WHERE id = 1").await.unwrap();
    assert_eq!(target.value::<i64>("SELECT changes FROM shop.accounts WHERE id = 1").await, 3);
    assert_no_secret(&changeover);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_mysql56_wait_at_mysql97() {
    let extra = &["GRANT REPLICATION CLIENT ON *.* TO reporter@'%'"];
    to_mysql97(Engine::MySql56, extra, &["SELECT ON `other`.*|not carried: its schema isn't moved"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_mariadb_wait_at_mysql97() {
    let extra = &[
        "CREATE ROLE readers",
        "GRANT readers TO reporter@'%'",
        "GRANT READ_ONLY ADMIN, DELETE HISTORY ON *.* TO reporter@'%'",
    ];
    let named = [
        "privilege|role `readers`|not carried: roles aren't carried between two families",
        "privilege|DELETE HISTORY, READ_ONLY ADMIN ON *.*|not carried: the target has nothing that allows just this",
    ];
    to_mysql97(Engine::MariaDb, extra, &named).await;
}

/// Killed while they are made, it goes on with them, and they aren't taken for accounts that were there before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_leaves_no_account_without_its_privileges() {
    let Some((source, target)) = pair(Engine::MariaDb, Engine::MariaDb).await else { return };
    target.run(&[&may_create(Engine::MariaDb)]).await;
    let fail = [("CHANGEOVER_FAILPOINT", "accounts.created")];
    let mut changeover = Changeover::start_with(settings(&source, &target), &fail).await;
    changeover.admin("START MIGRATION").await;
    changeover.wait_end().await;
    assert_eq!(grants(&target, "shopper@'%'").await.len(), 1, "it has no privileges yet");
    changeover.start_again_plain().await;
    changeover.wait_phase(&["following"]).await;
    assert_eq!(grants(&target, "shopper@'%'").await, grants(&source, "shopper@'%'").await);
}
