//! SHOW ACCOUNTS, and what the cutover makes of accounts, on real servers.

use std::time::Duration;

use mysql_async::{ChangeUserOpts, Conn};

use crate::support::changeover::Record;
use crate::support::server::opts;
use crate::support::wait::until;
use crate::support::{Changeover, Engine, Pair};

async fn accounts(changeover: &Changeover) -> Vec<Record> {
    let rows = changeover.admin("SHOW ACCOUNTS").await;
    let shown = format!("{rows:?}");
    assert!(!shown.contains("\"*") && !shown.contains("$A$"), "a hash is shown: {shown}");
    for own in ["changeover", "mysql.sys", "mariadb.sys", "mysql.session", "mysql.infoschema"] {
        assert!(!shown.contains(own), "{own} is none of the application's: {shown}");
    }
    rows
}

/// `ready` is empty for NULL.
fn assert_account(rows: &[Record], account: &str, ready: &str, part: &str) {
    let row = rows.iter().find(|row| row["account"] == account);
    let row = row.unwrap_or_else(|| panic!("{account} isn't in {rows:?}"));
    assert!(row["ready"] == ready && row["note"].contains(part), "{ready:?} {part:?}: {row:?}");
}

async fn step(changeover: &Changeover) -> (String, String) {
    let steps = changeover.admin("CUTOVER DRY RUN").await;
    let step = steps.iter().find(|row| row["step"] == "accounts");
    let step = step.unwrap_or_else(|| panic!("no step for accounts: {steps:?}"));
    (step["ok"].clone(), step["note"].clone())
}

async fn log_in(changeover: &Changeover, user: &str, password: &str) -> Conn {
    Conn::new(opts(changeover.port(), user, password, None)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_mariadb() {
    let Some(pair) = Pair::start(Engine::MariaDb, 100).await else { return };
    for server in [&pair.source, &pair.target] {
        let same = ["same", "it''s", "locked", "tls", "past", "differs"];
        for user in same {
            server.run(&[&format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'x'")]).await;
        }
        server.run(&["INSTALL SONAME 'auth_ed25519'", "CREATE ROLE clerk"]).await;
        server.run(&["CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('x')"]).await;
        server
            .run(&["CREATE USER either@'%' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('x')"])
            .await;
        let native = "mysql_native_password USING PASSWORD('x')";
        let curve = "ed25519 USING PASSWORD('x')";
        server.run(&[&format!("CREATE USER native_first@'%' IDENTIFIED VIA {native} OR {curve}")]).await;
        server.run(&[&format!("CREATE USER curve_first@'%' IDENTIFIED VIA {curve} OR {native}")]).await;
    }
    pair.source
        .run(&[
            "CREATE USER missing@'%' IDENTIFIED BY 'x'",
            "ALTER USER tls@'%' REQUIRE SSL",
            "GRANT READ_ONLY ADMIN ON *.* TO past@'%'",
            "GRANT SUPER ON *.* TO same@'%'",
        ])
        .await;
    pair.target
        .run(&["ALTER USER locked@'%' ACCOUNT LOCK", "ALTER USER differs@'%' IDENTIFIED BY 'y'"])
        .await;
    let changeover = pair.changeover().await;

    let rows = accounts(&changeover).await;
    assert_account(&rows, "'app'@'%'", "1", "the password is the same");
    assert_account(&rows, "'same'@'%'", "1", "the password is the same");
    assert_account(&rows, "'it''s'@'%'", "1", "the password is the same");
    assert_account(&rows, "'either'@'%'", "1", "the password is the same");
    assert_account(&rows, "'past'@'%'", "1", "READ_ONLY ADMIN");
    assert_account(&rows, "'differs'@'%'", "0", "the passwords differ");
    assert_account(&rows, "'missing'@'%'", "0", "missing on the target");
    assert_account(&rows, "'locked'@'%'", "0", "locked on the target");
    assert_account(&rows, "'tls'@'%'", "0", "requires TLS");
    assert_account(&rows, "'curve'@'%'", "1", "the password is the same");
    assert_account(&rows, "'native_first'@'%'", "1", "the password is the same");
    assert_account(&rows, "'curve_first'@'%'", "1", "the password is the same");
    // What it says of logins is so.
    for (user, enters) in
        [("either", true), ("native_first", true), ("curve_first", true), ("curve", true), ("tls", false)]
    {
        let login = Conn::new(opts(changeover.port(), user, "x", None)).await;
        assert_eq!(login.is_ok(), enters, "{user}: {login:?}");
    }
    let same = rows.iter().find(|row| row["account"] == "'same'@'%'").unwrap();
    // Since 10.11 SUPER doesn't reach past read_only.
    assert!(!same["note"].contains("read_only"), "{same:?}");
    assert_eq!(same["target_plugin"], "mysql_native_password");
    assert!(!rows.iter().any(|row| row["account"].contains("clerk")), "a role is no account: {rows:?}");

    let (ok, note) = step(&changeover).await;
    assert!(ok == "1" && note.contains("not ready") && note.contains("'differs'@'%'"), "{ok} {note}");
    let lost = log_in(&changeover, "missing", "x").await;
    let (ok, note) = step(&changeover).await;
    assert!(ok == "0" && note.contains("\"missing\" (1 session(s))"), "{ok} {note}");
    let refused = changeover.try_admin("CUTOVER").await.unwrap_err();
    assert!(refused.contains("\"missing\""), "{refused}");
    pair.target.run(&["CREATE USER missing@'%' IDENTIFIED BY 'x'"]).await;
    let (ok, note) = step(&changeover).await;
    assert!(ok == "1" && !note.contains("missing"), "{ok} {note}");
    lost.disconnect().await.unwrap();

    // Without SELECT on the schema mysql it says so, and no cutover is refused for it.
    pair.target.run(&["REVOKE SELECT ON *.* FROM changeover@'%'"]).await;
    let refused = changeover.try_admin("SHOW ACCOUNTS").await.unwrap_err();
    assert!(refused.contains("the accounts of the target") && refused.contains("SELECT"), "{refused}");
    let (ok, note) = step(&changeover).await;
    assert!(ok == "1" && note.contains("not known"), "{ok} {note}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_mysql97() {
    let Some(pair) = Pair::start(Engine::MySql97, 100).await else { return };
    for server in [&pair.source, &pair.target] {
        server.run(&["CREATE USER locked@'%' IDENTIFIED BY 'x'", "CREATE USER open@'%'"]).await;
        server.run(&["CREATE USER late@'%' IDENTIFIED BY 'x'"]).await;
        server.run(&["INSTALL PLUGIN auth_socket SONAME 'auth_socket.so'", "CREATE ROLE clerk"]).await;
        server.run(&["CREATE USER two@'%' IDENTIFIED BY 'x' AND IDENTIFIED WITH auth_socket"]).await;
    }
    pair.source
        .run(&[
            "CREATE USER copied@'%' IDENTIFIED BY 'x'",
            "GRANT CONNECTION_ADMIN ON *.* TO copied@'%'",
            "CREATE USER cert@'%' IDENTIFIED BY 'x' REQUIRE X509",
        ])
        .await;
    let hash: String =
        pair.source.value("SELECT HEX(authentication_string) FROM mysql.user WHERE user = 'copied'").await;
    pair.target
        .run(&[
            &format!("CREATE USER copied@'%' IDENTIFIED WITH caching_sha2_password AS 0x{hash}"),
            "CREATE USER cert@'%' IDENTIFIED BY 'x'",
            "ALTER USER locked@'%' ACCOUNT LOCK",
        ])
        .await;
    let changeover = pair.changeover().await;

    let rows = accounts(&changeover).await;
    assert_account(&rows, "'app'@'%'", "", "not known");
    assert_account(&rows, "'copied'@'%'", "1", "the password is the same");
    assert_account(&rows, "'copied'@'%'", "1", "CONNECTION_ADMIN");
    assert_account(&rows, "'open'@'%'", "1", "the password is the same");
    assert_account(&rows, "'locked'@'%'", "0", "locked on the target");
    assert_account(&rows, "'cert'@'%'", "0", "on the source it requires TLS");
    assert_account(&rows, "'two'@'%'", "0", "more than one factor");
    assert_account(&rows, "'clerk'@'%'", "1", "locked on the source");

    // After COM_CHANGE_USER the new user's password is what counts.
    let mut changed = log_in(&changeover, "open", "").await;
    let user = ChangeUserOpts::new().with_user(Some("late".into())).with_pass(Some("x".into()));
    changed.change_user(user).await.unwrap();
    assert_account(&accounts(&changeover).await, "'late'@'%'", "1", "checked with the password");
    changed.disconnect().await.unwrap();

    // The password of a live session is held against the target's hash.
    let app = changeover.app(None).await;
    assert_account(&accounts(&changeover).await, "'app'@'%'", "1", "checked with the password");
    pair.target.run(&["ALTER USER app@'%' IDENTIFIED BY 'another'"]).await;
    assert_account(&accounts(&changeover).await, "'app'@'%'", "0", "isn't the target's");
    pair.target.run(&["DROP USER app@'%'"]).await;
    assert_account(&accounts(&changeover).await, "'app'@'%'", "0", "missing on the target");
    let (ok, note) = step(&changeover).await;
    assert!(ok == "0" && note.contains("\"app\""), "{ok} {note}");
    app.disconnect().await.unwrap();
    // The proxy hears of a goodbye a moment later.
    until("a step that takes an account without a session", Duration::from_secs(10), async || {
        let (ok, note) = step(&changeover).await;
        if ok == "1" && note.contains("'app'@'%'") { Ok(()) } else { Err(format!("{ok} {note}")) }
    })
    .await;
}
