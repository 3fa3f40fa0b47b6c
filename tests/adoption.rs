//! Accounts whose password is never seen in clear, moved to a server that can't do without it: MySQL 5.6 to 9.7.

use std::process::Command;

use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn};
use proxy::cutover::journal::{Journal, Record};

use crate::support::changeover::{Record as Row, Settings};
use crate::support::server::opts;
use crate::support::{Changeover, Engine, Server, accounts};

/// A client that says its password to nobody: it knows mysql_native_password, and finds no other plugin. What it
/// heard, or its error.
fn native(port: u16, user: &str, password: &str, sql: &str) -> Result<String, String> {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-h127.0.0.1", &format!("-P{port}"), &format!("-u{user}")]);
    client.args([&format!("-p{password}"), "--default-auth=mysql_native_password", "--plugin-dir=/nowhere"]);
    let output = client.args(["--skip-ssl", "-N", "-e", sql]).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    if output.status.success() { Ok(out) } else { Err(err) }
}

/// True where one session of such a client was on both servers.
fn moves(changeover: &Changeover, user: &str, password: &str) -> bool {
    let versions = native(changeover.port(), user, password, &"SELECT @@version; ".repeat(4)).unwrap();
    let on = |version| versions.lines().filter(|line| line.starts_with(version)).count();
    assert_eq!(versions.lines().count(), 4, "{versions}");
    on("5.6.") > 0 && on("9.") > 0
}

async fn row(changeover: &Changeover, account: &str) -> Row {
    let rows = changeover.admin("SHOW ACCOUNTS").await;
    let found = rows.iter().find(|row| row["account"] == account).cloned();
    found.unwrap_or_else(|| panic!("{account} isn't in {rows:?}"))
}

async fn assert_ready(changeover: &Changeover, account: &str, ready: &str, part: &str) {
    let row = row(changeover, account).await;
    assert!(row["ready"] == ready && row["note"].contains(part), "{ready:?} {part:?}: {row:?}");
}

/// What a cutover leaves behind: the target serves.
fn switched(changeover: &Changeover) {
    let (mut journal, state) = Journal::open(&changeover.state_dir()).unwrap();
    let (id, at_ms) = (state.next_id(), 1);
    let (from, to) = (config::Side::Source, config::Side::Target);
    let position = String::new();
    let switched = Record::Switched {
        id,
        at_ms,
        source_position: Some(position.clone()),
        target_position: None,
        note: position,
        way_back: false,
    };
    let finished = Record::Finished { id, pause_ms: None, sessions_moved: 0, transactions_killed: 0 };
    for record in [Record::Started { id, at_ms, from, to }, switched, finished] {
        journal.append(&record).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_mysql56_goes_on_at_mysql97() {
    let (source, target) =
        tokio::join!(Server::start(Engine::MySql56, &[]), Server::start(Engine::MySql97, &[]));
    let (Some(mut source), Some(target)) = (source, target) else { return };
    for server in [&source, &target] {
        accounts::create(server, "shop").await;
        server.run(&["CREATE DATABASE shop", "CREATE USER old@'%' IDENTIFIED BY 'first-Secret_5'"]).await;
        server.run(&["GRANT ALL ON shop.* TO old@'%'"]).await;
    }
    source.run(&["CREATE USER fresh@'%' IDENTIFIED BY 'fresh-Secret_6'"]).await;
    let settings = Settings::between(&source, &target, "shop").with("proxy.move_every", "1");
    let mut changeover = Changeover::start(settings).await;
    let port = changeover.port();

    // Though both have the same password: the proxy never hears it.
    let stuck = native(port, "old", "first-Secret_5", &"DO 1; ".repeat(4)).unwrap_err();
    assert!(stuck.contains("the password itself is needed"), "{stuck}");
    assert_ready(&changeover, "'old'@'%'", "", "ADOPT ACCOUNT").await;

    let asked = changeover.admin("ADOPT ACCOUNT 'old'@'%' BY HAND").await.remove(0);
    assert_ready(&changeover, "'old'@'%'", "0", "another password than Changeover's").await;
    target.run(&[&asked["sql"]]).await;
    assert_ready(&changeover, "'old'@'%'", "1", "a password of Changeover's own").await;
    assert!(moves(&changeover, "old", "first-Secret_5"));
    let refused = native(port, "old", "wrong", "DO 1").unwrap_err();
    assert!(refused.contains("1045"), "{refused}");
    // Who says the password is let in by it as well.
    let mut clear = Conn::new(opts(port, "old", "first-Secret_5", None)).await.unwrap();
    for _ in 0..3 {
        clear.query_drop("DO 1").await.unwrap();
    }
    clear.disconnect().await.unwrap();

    // The source's password is another one now, and is proved to the source.
    source.run(&["SET PASSWORD FOR old@'%' = PASSWORD('second-Secret_7')"]).await;
    assert_ready(&changeover, "'old'@'%'", "0", "has changed since").await;
    let stuck = native(port, "old", "second-Secret_7", &"DO 1; ".repeat(4)).unwrap_err();
    assert!(stuck.contains("the password itself is needed"), "{stuck}");
    let done = changeover.admin("ADOPT ACCOUNT 'old'@'%'").await.remove(0);
    assert!(done["sql"].is_empty() && done["note"].starts_with("adopted"), "{done:?}");
    assert!(moves(&changeover, "old", "second-Secret_7"));
    // An account that the target lacks is made there.
    let done = changeover.admin("ADOPT ACCOUNT fresh").await.remove(0);
    assert!(done["note"].contains("no privileges"), "{done:?}");
    assert!(moves(&changeover, "fresh", "fresh-Secret_6"));
    for (account, part) in [
        ("nobody", "there is no account 'nobody'@'%'"),
        ("changeover", "Changeover's own"),
        ("'old'@'localhost'", "there is no account"),
    ] {
        let refused = changeover.try_admin(&format!("ADOPT ACCOUNT {account}")).await.unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }

    // The target serves, and the source is gone for good.
    changeover.kill_9();
    switched(&changeover);
    source.kill_9();
    changeover.set("proxy.move_every", "0");
    changeover.start_again().await;
    let version = native(port, "old", "second-Secret_7", "SELECT @@version").unwrap();
    assert!(version.starts_with("9."), "{version}");
    assert!(native(port, "old", "first-Secret_5", "DO 1").is_err(), "a password that was changed");
    assert!(native(port, "fresh", "wrong", "DO 1").is_err());
    let wrong = Conn::new(opts(port, "old", "first-Secret_5", None)).await.unwrap_err().to_string();
    assert!(wrong.contains("1045"), "{wrong}");
    let mut clear = Conn::new(opts(port, "old", "second-Secret_7", Some("shop"))).await.unwrap();
    let fresh =
        ChangeUserOpts::default().with_user(Some("fresh".into())).with_pass(Some("fresh-Secret_6".into()));
    clear.change_user(fresh.with_db_name(None)).await.unwrap();
    let who: Option<String> = clear.query_first("SELECT CURRENT_USER()").await.unwrap();
    assert_eq!(who.as_deref(), Some("fresh@%"));
    clear.disconnect().await.unwrap();

    // The target decides: it may give the account another password.
    target.run(&["ALTER USER old@'%' IDENTIFIED BY 'third-Secret_8'"]).await;
    let mut clear = Conn::new(opts(port, "old", "third-Secret_8", None)).await.unwrap();
    clear.query_drop("DO 1").await.unwrap();
    clear.disconnect().await.unwrap();
    assert!(native(port, "old", "second-Secret_7", "DO 1").unwrap_err().contains("1045"));
    assert!(changeover.log().contains("refuses an adopted account"));
    changeover.admin("RELEASE ACCOUNT 'old'@'%'").await;
    assert!(changeover.try_admin("RELEASE ACCOUNT 'old'@'%'").await.unwrap_err().contains("isn't adopted"));
    changeover.admin("RELEASE ACCOUNT fresh").await;
    assert!(native(port, "fresh", "fresh-Secret_6", "DO 1").is_err(), "it isn't let in by a hash any more");

    let (log, sql) = (changeover.log(), &asked["sql"]);
    assert!(!log.contains("Secret_") && !log.contains("$A$") && !log.contains('*'), "a secret is in the log");
    assert!(!sql.contains("Secret_") && sql.contains("$A$"), "{sql}");
}
