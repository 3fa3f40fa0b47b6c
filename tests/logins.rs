//! How clients prove themselves to the proxy, and the proxy to the backends.

use std::path::PathBuf;
use std::process::Command;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, SslOpts};

use crate::support::server::{mysql97_client, opts};
use crate::support::{Changeover, Engine, Pair, Server};

const APP: &str = "app";
const PASSWORD: &str = "app-Secret_2";

fn says(port: u16, case: &str, more: &[&str]) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/logins.py"));
    let output = command.args([&port.to_string(), case]).args(more).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{case} {more:?}: {out}{err}");
    out.trim().to_owned()
}

/// Whether MySQL's own client gets in without TLS and without asking for a public key, and what it says if not.
fn plainly(port: u16, user: &str, password: &str) -> Result<(), String> {
    let mut client = mysql97_client().unwrap();
    client.args(["-h127.0.0.1", &format!("-P{port}"), &format!("-u{user}"), &format!("-p{password}")]);
    let output = client.args(["--ssl-mode=DISABLED", "-e", "SELECT 1"]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_just_right_is_not_asked_for_again() {
    let Some(pair) = Pair::start(Engine::MySql97, 10).await else { return };
    let changeover = pair.changeover().await;
    let port = changeover.port();
    assert_eq!(says(port, "token", &[]), "full");
    assert!(plainly(port, APP, PASSWORD).unwrap_err().contains("secure connection"));
    changeover.app(None).await.disconnect().await.unwrap();
    assert_eq!(says(port, "token", &[]), "fast ok");
    plainly(port, APP, PASSWORD).unwrap();
    assert!(plainly(port, APP, "another").unwrap_err().contains("secure connection"));

    // The backend decides, each time.
    pair.source.run(&["ALTER USER app@'%' ACCOUNT LOCK"]).await;
    let refusal = plainly(port, APP, PASSWORD).unwrap_err();
    assert!(refusal.contains("3118"), "{refusal}");
    assert_eq!(says(port, "token", &[]), "full", "what was refused is forgotten");
    pair.source.run(&["ALTER USER app@'%' ACCOUNT UNLOCK"]).await;
    changeover.app(None).await.disconnect().await.unwrap();
    plainly(port, APP, PASSWORD).unwrap();
    pair.source.run(&["ALTER USER app@'%' IDENTIFIED BY 'new-Secret_4'"]).await;
    assert!(plainly(port, APP, PASSWORD).unwrap_err().contains("1045"));
    assert!(plainly(port, APP, "new-Secret_4").unwrap_err().contains("secure connection"));
    Conn::new(opts(port, APP, "new-Secret_4", None)).await.unwrap().disconnect().await.unwrap();
    plainly(port, APP, "new-Secret_4").unwrap();
    // The backend may have forgotten it, and is then told again.
    pair.source.run(&["FLUSH PRIVILEGES"]).await;
    plainly(port, APP, "new-Secret_4").unwrap();
    let log = changeover.log();
    assert!(!log.contains("new-Secret_4") && !log.contains(PASSWORD), "a password is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers() {
    let Some(pair) = Pair::start(Engine::MySql97, 10).await else { return };
    let changeover = pair.changeover().await;
    changeover.app(None).await.disconnect().await.unwrap();
    let expected = "another's token: full\nshort: full\nlong: full\nwrong: full\nnothing: error 1045\n\
                    long name: error 1043\nsays it is done: error 1045\nasks for the key twice: key error 1045\n\
                    switches itself: switch full";
    assert_eq!(says(changeover.port(), "hostile", &[]), expected);
    assert_eq!(says(changeover.port(), "token", &[]), "fast ok");
}

/// A client that knows no more than mysql_native_password hears MariaDB's own refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_every_client_understands() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let changeover = pair.changeover().await;
    let connect = |user: &str, password: &str| says(changeover.port(), "connect", &["poor", user, password]);
    assert_eq!(connect(APP, PASSWORD), "in");
    assert_eq!(connect(APP, "wrong"), "error 1045");
    assert_eq!(connect("nobody", "x"), "error 1045");
    // A change is noticed at once.
    pair.source.run(&["ALTER USER app@'%' IDENTIFIED BY 'new-Secret_4'"]).await;
    assert_eq!(connect(APP, "new-Secret_4"), "in");
    assert_eq!(connect(APP, PASSWORD), "error 1045");
    pair.source.run(&["CREATE USER late@'%' IDENTIFIED BY 'x'"]).await;
    assert_eq!(connect("late", "x"), "in");
    pair.source.run(&["CREATE USER ''@'%' IDENTIFIED BY 'y'"]).await;
    assert_eq!(connect("somebody", "y"), "in");
    assert_eq!(connect("somebody", "x"), "error 1045");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ed25519_moves() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    for server in [&pair.source, &pair.target] {
        server.run(&["INSTALL SONAME 'auth_ed25519'"]).await;
        server.run(&["CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('x')"]).await;
    }
    let changeover = pair.changeover().await;
    let wrong = Conn::new(opts(changeover.port(), "curve", "y", None)).await;
    assert!(wrong.unwrap_err().to_string().contains("1045"));
    let mut session = Conn::new(opts(changeover.port(), "curve", "x", None)).await.unwrap();
    let before: u16 = session.query_first("SELECT @@port").await.unwrap().unwrap();
    assert_eq!(before, pair.source.port());
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let after: u16 = session.query_first("SELECT @@port").await.unwrap().unwrap();
    assert_eq!(after, pair.target.port());
    session.disconnect().await.unwrap();
}

/// Where a MySQL server keeps the authority that it made for itself.
async fn own_authority(server: &Server) -> String {
    let folder: String = server.value("SELECT @@datadir").await;
    format!("\"{}\"", PathBuf::from(folder).join("ca.pem").display())
}

/// The certificate and the key that a MySQL server made for its clients.
async fn own_client(server: &Server) -> [String; 2] {
    let folder: String = server.value("SELECT @@datadir").await;
    ["client-cert.pem", "client-key.pem"]
        .map(|file| format!("\"{}\"", PathBuf::from(&folder).join(file).display()))
}

/// An authority that has signed nothing here.
async fn another_authority(server: &Server) -> String {
    let folder: String = server.value("SELECT @@datadir").await;
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout another-key.pem -subj /CN=another -days 9 -out another.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("\"{}\"", PathBuf::from(folder).join("another.pem").display())
}

/// Gives a MySQL server a certificate for 127.0.0.1, signed by its own authority.
async fn certify(server: &Server) {
    let folder: String = server.value("SELECT @@datadir").await;
    let script = "echo subjectAltName=IP:127.0.0.1 > ext && \
                  openssl req -new -newkey rsa:2048 -nodes -keyout server-key.pem -subj /CN=backend -out csr && \
                  openssl x509 -req -in csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 9 -extfile ext \
                  -out server-cert.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server.run(&["ALTER INSTANCE RELOAD TLS"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_both_backends() {
    let Some(pair) = Pair::start(Engine::MySql97, 100).await else { return };
    let mut settings = pair.settings();
    for (side, server) in [("source", &pair.source), ("target", &pair.target)] {
        certify(server).await;
        server.run(&["CREATE USER strict@'%' IDENTIFIED BY 'x' REQUIRE X509"]).await;
        server.run(&["CREATE USER named@'%' IDENTIFIED BY 'x' REQUIRE SUBJECT '/CN=somebody'"]).await;
        server.run(&["ALTER USER app@'%' REQUIRE SSL", "ALTER USER changeover@'%' REQUIRE X509"]).await;
        let [cert, key] = own_client(server).await;
        settings.set(&format!("{side}.cert"), &cert);
        settings.set(&format!("{side}.key"), &key);
        settings.set(&format!("{side}.tls"), "\"required\"");
        settings.set(&format!("{side}.ca"), &own_authority(server).await);
    }
    let changeover = Changeover::start(settings).await;
    let mut session = changeover.app(None).await;
    let cipher =
        "SELECT VARIABLE_VALUE FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'";
    let used: String = session.query_first(cipher).await.unwrap().unwrap();
    assert!(used.contains("AES") || used.contains("CHACHA"), "{used}");
    let rows = changeover.admin("SHOW ACCOUNTS").await;
    for (account, ready, part) in [
        ("'app'@'%'", "1", "checked with"),
        ("'strict'@'%'", "", "not known"),
        ("'named'@'%'", "", "certain names"),
    ] {
        let row = rows.iter().find(|row| row["account"] == account).unwrap();
        let fits = row["ready"] == ready && row["note"].contains(part) && !row["note"].contains("requires");
        assert!(fits, "{row:?}");
    }
    let mut strict = Conn::new(opts(changeover.port(), "strict", "x", None)).await.unwrap();
    assert!(Conn::new(opts(changeover.port(), "named", "x", None)).await.is_err(), "it shows another name");
    changeover.admin("START MIGRATION").await;
    changeover.wait_ready().await;
    changeover.cut_over().await;
    let port: u16 = session.query_first("SELECT @@port").await.unwrap().unwrap();
    assert_eq!(port, pair.target.port());
    let used: String = session.query_first(cipher).await.unwrap().unwrap();
    assert!(!used.is_empty());
    let port: u16 = strict.query_first("SELECT @@port").await.unwrap().unwrap();
    assert_eq!(port, pair.target.port());
    strict.disconnect().await.unwrap();
    session.disconnect().await.unwrap();
    // What is read from the key is in no log.
    assert!(!changeover.log().contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_not_who_it_should_be() {
    let Some(pair) = Pair::start(Engine::MySql97, 10).await else { return };
    let try_with = async |ca: String, verify: &str| {
        let mut settings = pair.settings();
        settings.set("source.tls", "\"required\"");
        settings.set("source.ca", &ca);
        settings.set("source.verify", verify);
        let changeover = Changeover::start(settings).await;
        let login = Conn::new(opts(changeover.port(), APP, PASSWORD, None)).await;
        (login.map(drop).map_err(|error| error.to_string()), changeover.log())
    };
    let (fine, _) = try_with(own_authority(&pair.source).await, "\"none\"").await;
    fine.unwrap();
    // Nothing is shown to it here, so whom it asks for a certificate it refuses.
    pair.source.run(&["ALTER USER app@'%' REQUIRE X509"]).await;
    let (refused, _) = try_with(own_authority(&pair.source).await, "\"none\"").await;
    assert!(refused.unwrap_err().contains("1045"));
    pair.source.run(&["ALTER USER app@'%' REQUIRE NONE"]).await;
    // Its certificate is made out for nobody, as MySQL makes them.
    let (refused, log) = try_with(own_authority(&pair.source).await, "\"identity\"").await;
    assert!(refused.is_err() && log.contains("TLS failed"), "{refused:?} {log}");
    certify(&pair.source).await;
    let (fine, _) = try_with(own_authority(&pair.source).await, "\"identity\"").await;
    fine.unwrap();
    let (refused, log) = try_with(another_authority(&pair.source).await, "\"identity\"").await;
    assert!(refused.is_err() && log.contains("TLS failed"), "{refused:?} {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_a_backend_or_a_client_lacks() {
    // MariaDB 10.11 has no certificate by itself.
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let settings = pair.settings().with("source.tls", "\"required\"").with("source.verify", "\"none\"");
    let changeover = Changeover::start(settings).await;
    assert!(Conn::new(opts(changeover.port(), APP, PASSWORD, None)).await.is_err());
    assert!(changeover.log().contains("doesn't offer it"), "{}", changeover.log());
    drop(changeover);

    let changeover = Changeover::start(pair.settings().with("proxy.tls", "\"required\"")).await;
    let plain = opts(changeover.port(), APP, PASSWORD, None);
    let refused = Conn::new(plain.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("3159"), "{refused}");
    let tls = SslOpts::default().with_danger_accept_invalid_certs(true);
    let secured = OptsBuilder::from_opts(plain).ssl_opts(tls);
    Conn::new(secured).await.unwrap().disconnect().await.unwrap();
}
