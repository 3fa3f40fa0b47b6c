//! The admin port with real clients: the mariadb and mysql command lines, PyMySQL, and `changeover admin`.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::changeover::{self, ADMIN, ADMIN_PASSWORD};
use crate::support::{Changeover, Engine, Pair};

/// Statements of which each client tries every one.
const SHOWS: [&str; 9] = [
    "SHOW MIGRATION STATUS",
    "SHOW MIGRATION TABLES",
    "SHOW SESSIONS",
    "SHOW DIFFERENCES",
    "SHOW ACCOUNTS",
    "SHOW CUTOVERS",
    "SHOW EVENTS",
    "SHOW EVENTS LIMIT 3",
    "HELP",
];

fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    parts.join("\n")
}

fn mariadb(changeover: &Changeover, password: &str, sql: &str) -> Output {
    Command::new("mariadb")
        .args(["--no-defaults", "-h127.0.0.1", "-u", ADMIN, "-e", sql])
        .arg(format!("-P{}", changeover.admin_port()))
        .arg(format!("-p{password}"))
        .output()
        .unwrap()
}

async fn idle() -> Option<(Pair, Changeover)> {
    let pair = Pair::start(Engine::MariaDb, 500).await?;
    let changeover = pair.changeover().await;
    Some((pair, changeover))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mariadb_client() {
    let Some((_pair, changeover)) = idle().await else { return };
    for sql in SHOWS {
        let output = mariadb(&changeover, ADMIN_PASSWORD, sql);
        assert!(output.status.success(), "{sql}: {}", text(&output));
    }
    let status = mariadb(&changeover, ADMIN_PASSWORD, "show migration status\\G");
    let shown = text(&status);
    for column in [
        "name",
        "phase",
        "route",
        "source",
        "target",
        "tables_total",
        "tables_copied",
        "rows_copied",
        "rows_estimate",
        "percent",
        "copy_rows_per_s",
        "eta_s",
        "source_position",
        "applied_position",
        "lag_ms",
        "lag_bytes",
        "apply_rows_per_s",
        "rows_verified",
        "differences",
        "sessions",
        "sessions_pinned",
        "last_error",
        "throttled_by",
        "staged_rows",
        "staged_bytes",
    ] {
        assert!(shown.contains(&format!("{column}: ")), "{column} is missing in:\n{shown}");
    }
    let output = mariadb(&changeover, ADMIN_PASSWORD, "START MIGRATION; SHOW MIGRATION STATUS; VERIFY");
    let told = text(&output);
    assert!(told.contains("phase"), "{told}");
    changeover.wait_ready().await;
    let output = mariadb(&changeover, ADMIN_PASSWORD, "VERIFY TABLE shop.bulk; CUTOVER DRY RUN");
    assert!(output.status.success(), "{}", text(&output));
    let output = mariadb(&changeover, ADMIN_PASSWORD, "PAUSE MIGRATION; RESUME MIGRATION");
    assert!(output.status.success(), "{}", text(&output));
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let output = mariadb(&changeover, ADMIN_PASSWORD, "SHOW CUTOVERS");
    assert!(text(&output).contains("switched"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_enter_and_what_is_not_there() {
    let Some((_pair, changeover)) = idle().await else { return };
    let output = mariadb(&changeover, "wrong", "HELP");
    assert!(!output.status.success() && text(&output).contains("1045"), "{}", text(&output));
    for (sql, code) in [
        ("ROLLBACK CUTOVER", "nothing to roll back"),
        ("START REHEARSAL", "1235"),
        ("SHOW REHEARSAL", "1235"),
        ("FINISH MIGRATION", "doesn't fit the phase idle"),
        ("ABANDON MIGRATION", "doesn't fit the phase idle"),
        ("DROP TABLE users", "1064"),
        ("SHOW NONSENSE", "1064"),
    ] {
        let output = mariadb(&changeover, ADMIN_PASSWORD, sql);
        let told = text(&output);
        // A later version that has built one of these answers otherwise; it is never silently accepted.
        assert!(!output.status.success() && told.contains(code), "{sql}: {told}");
    }
    // A refused statement doesn't end the session.
    let output = mariadb(&changeover, ADMIN_PASSWORD, "SHOW MIGRATION STATUS");
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_session_ends_one_client() {
    let Some((_pair, changeover)) = idle().await else { return };
    let mut victim = changeover.app(Some("shop")).await;
    let mut other = changeover.app(Some("shop")).await;
    let sessions = changeover.admin("SHOW SESSIONS").await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    assert!(sessions.iter().all(|row| row["user"] == "app" && row["schema"] == "shop"), "{sessions:?}");
    let id = victim.id();
    assert!(
        sessions.iter().any(|row| row["id"] == id.to_string()),
        "the greeting's id {id} isn't in {sessions:?}"
    );
    changeover.admin(&format!("KILL SESSION {id}")).await;
    mysql_async::prelude::Queryable::ping(&mut victim).await.unwrap_err();
    mysql_async::prelude::Queryable::ping(&mut other).await.unwrap();
    changeover.try_admin("KILL SESSION 4000000000").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mysql97_client() {
    let Some((_pair, changeover)) = idle().await else { return };
    let Some(mut command) = crate::support::server::mysql97_client() else { return };
    let output = command
        .args(["-h127.0.0.1", "-u", ADMIN, "-E", "-e", "HELP; SHOW MIGRATION STATUS"])
        .arg(format!("-P{}", changeover.admin_port()))
        .arg(format!("-p{ADMIN_PASSWORD}"))
        .output()
        .unwrap();
    assert!(output.status.success() && text(&output).contains("phase: idle"), "{}", text(&output));
}

/// PyMySQL logs in to both listeners, with and without TLS, and uses what they offer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pymysql() {
    let Some((_pair, changeover)) = idle().await else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clients.py");
    let output = Command::new("/usr/bin/python3")
        .arg(script)
        .args([changeover.admin_port().to_string(), changeover.port().to_string()])
        .args(SHOWS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("all fine"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changeover_admin() {
    let Some((_pair, changeover)) = idle().await else { return };
    let url = format!("mysql://{ADMIN}:{ADMIN_PASSWORD}@127.0.0.1:{}", changeover.admin_port());
    for sql in SHOWS {
        let output = changeover::run(&["admin", "--url", &url, sql]);
        assert_eq!(output.status.code(), Some(0), "{sql}: {}", text(&output));
    }
    let output = changeover::run(&["admin", "--url", &url, "SHOW MIGRATION STATUS\\G"]);
    assert!(text(&output).contains("phase: idle"), "{}", text(&output));
    let output = changeover::run(&["admin", "--url", &url, "CUTOVER"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let wrong = url.replace(ADMIN_PASSWORD, "nonsense");
    let output = changeover::run(&["admin", "--url", &wrong, "HELP"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(!text(&output).contains("nonsense"), "a secret is shown: {}", text(&output));
}
