#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::HashMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    DdlPolicy, EntranceConfig, FencePolicy, FilterValue, Io, OpenTransactions, PastFence, ProxyHeaders,
    RowsConfig, Scheduling, SentHeader, StartPolicy, TlsMode, Verify,
};

struct Loaded {
    result: Result<Config, ConfigErrors>,
    path: String,
}

fn load_text(text: &str, flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let mut overrides = Overrides { config: Some(path.clone()), ..flags_of(flags) };
    if text == "NO FILE" {
        overrides.config = None;
    }
    let environment: HashMap<String, String> =
        environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let result = load(&overrides, &|name| environment.get(name).cloned());
    Loaded { result, path: path.display().to_string() }
}

fn flags_of(flags: &[(&str, &str)]) -> Overrides {
    let get = |name| flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| (*value).to_owned());
    Overrides {
        config: None,
        source: get("source"),
        target: get("target"),
        listen: get("listen"),
        admin: get("admin"),
        console: get("console"),
        schemas: get("schemas").map(|list| list.split(',').map(str::to_owned).collect()),
        state_dir: get("state-dir").map(PathBuf::from),
    }
}

const BACKENDS: &str = "[source]\nurl = \"mysql://r@s:1\"\npassword = \"p\"\n[target]\nurl = \"mysql://r@t:1\"\npassword = \"p\"\n";

/// Loads `text` behind two good backends and compares every error. `C` stands for the file's path; its first line
/// is number 1.
fn refused(text: &str, expected: &[&str]) {
    let loaded = load_text(&format!("{text}\n{BACKENDS}"), &[], &[]);
    compare(text, loaded, expected);
}

fn compare(text: &str, loaded: Loaded, expected: &[&str]) {
    match loaded.result {
        Ok(config) => panic!("{text} was taken: {config:?}"),
        Err(ConfigErrors(lines)) => {
            let lines: Vec<String> = lines.iter().map(|line| line.replace(&loaded.path, "C")).collect();
            let all = lines.join("\n");
            assert_eq!(lines.len(), expected.len(), "{text}\n{all}");
            for (line, part) in lines.iter().zip(expected) {
                let (place, words) = part.split_once(' ').unwrap();
                assert!(line.starts_with(place) && line.contains(words), "{text}\n{all}\nlacks {part}");
            }
        }
    }
}

#[test]
fn everything_has_its_default() {
    let config = load_text(BACKENDS, &[], &[]).result.unwrap();
    assert_eq!(config.state_dir, PathBuf::from("changeover-state"));
    assert_eq!(config.proxy.listen, "127.0.0.1:3307");
    assert_eq!(
        (config.proxy.workers, config.proxy.max_connections, config.proxy.drain_ms, config.proxy.move_every),
        (0, 10_000, 5000, 0)
    );
    assert_eq!(
        (config.proxy.tls, config.proxy.cert, config.proxy.key, config.proxy.io, config.proxy.scheduling),
        (TlsMode::Preferred, None, None, Io::Auto, Scheduling::Batch)
    );
    assert_eq!((config.admin.listen.as_str(), config.admin.user.as_str()), ("127.0.0.1:6032", "admin"));
    assert_eq!(config.proxy.entrance, EntranceConfig::default());
    assert_eq!(config.source.proxy_protocol, SentHeader::Off);
    assert!(config.admin.password.is_empty());
    assert_eq!((config.console.listen.as_str(), config.console.named), ("127.0.0.1:8032", false));
    assert_eq!((config.source.address(), config.target.address()), ("s:1".to_owned(), "t:1".to_owned()));
    assert_eq!(config.source.password.expose(), b"p");
    assert!(config.migration.schemas.is_empty() && config.migration.exclude_tables.is_empty());
    assert_eq!((config.migration.start, config.migration.ddl), (StartPolicy::Manual, DdlPolicy::Apply));
    assert!(config.migration.reverse);
    let snapshot = &config.snapshot;
    assert_eq!((snapshot.readers, snapshot.chunk_rows, snapshot.max_rows_per_s), (4, 0, 0));
    assert!(snapshot.late_indexes && snapshot.stage.is_none());
    let throttle = &config.throttle;
    assert_eq!((throttle.max_threads_running, throttle.max_replica_lag_ms), (0, 1000));
    assert!(throttle.replicas.is_empty());
    assert_eq!((config.apply.workers, config.apply.spool_max_bytes), (4, 50_000_000_000));
    assert_eq!((config.cutover.max_lag_ms, config.cutover.pause_ms), (1000, 3000));
    assert_eq!(config.cutover.open_transactions, OpenTransactions::Abort);
    assert_eq!(config.cutover.fence, FencePolicy::ReadOnly);
    assert_eq!(config.cutover.past_fence, PastFence::Watch);
    assert!(config.cutover.fence_accounts.is_empty());
    let text = format!("{BACKENDS}\n[cutover]\nfence = \"accounts\"\nfence_accounts = [\"shop@%\"]");
    let config = load_text(&text, &[], &[]).result.unwrap();
    assert_eq!(config.cutover.fence, FencePolicy::Accounts);
    assert_eq!(config.cutover.fence_accounts, ["shop@%"]);
}

#[test]
fn every_key_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("pw", "line\n\n"), ("cert", "c"), ("key", "k"), ("ca", "")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let text = r#"
state_dir = "state"
proxy = { listen = "[::1]:1", workers = 2, io = "epoll", max_connections = 3, drain_ms = 4, move_every = 5, tls = "required", cert = "D/cert", key = "D/key", proxy_protocol = "optional", proxy_protocol_from = ["127.0.0.1", "10.0.0.0/8"], max_connects_per_s = 6 }
[admin]
listen = "0.0.0.0:2"
user = "boss"
password = "secret"
[console]
listen = "localhost:3"
[source]
url = "mysql://a@one"
password = { env = "PW" }
replica_url = "mysql://r@three"
proxy_protocol = "v1"
tls = "off"
[target]
proxy_protocol = "v2"
tls = "required"
ca = "D/ca"
verify = "none"
url = "mysql://b@two:3307"
password = { file = "D/pw" }
[migration]
name = "shop"
schemas = ["shop", "Shop2"]
exclude_tables = ["shop.tmp_%"]
accounts = ["app@%"]
start = "auto"
ddl = "pause"
reverse = false
[snapshot]
readers = 5
chunk_rows = 1_000
max_rows_per_s = 7
[throttle]
max_threads_running = 12
replicas = ["mysql://m@four", "mysql://m:own@five"]
password = "lag"
max_replica_lag_ms = 13
[apply]
workers = 8
spool_max_gb = 0.9
[cutover]
max_lag_ms = 10
pause_ms = 11
open_transactions = "kill"
fence = "none"
past_fence = "kill"
[[migration.rows]]
table = "shop.%"
column = "tenant_id"
values = [7, "nine"]
[[migration.columns]]
table = "shop.users"
exclude = ["password_hash", "Notes"]
"#;
    let text = text.replace("D/", &format!("{}/", folder.path().display()));
    let config = load_text(&text, &[], &[("PW", "of env\n")]).result.unwrap();
    assert_eq!(config.state_dir, PathBuf::from("state"));
    let rows = RowsConfig {
        tables: "shop.%".to_owned(),
        column: "tenant_id".to_owned(),
        values: vec![FilterValue::Integer(7), FilterValue::Text("nine".to_owned())],
    };
    assert_eq!(config.migration.rows, [rows]);
    let [columns] = config.migration.columns.as_slice() else { panic!("{:?}", config.migration.columns) };
    assert_eq!(columns.tables, "shop.users");
    assert!(columns.excludes("PASSWORD_hash") && columns.excludes("notes") && !columns.excludes("note"));
    assert_eq!(
        (config.proxy.listen.as_str(), config.proxy.workers, config.proxy.max_connections),
        ("[::1]:1", 2, 3)
    );
    assert_eq!((config.proxy.drain_ms, config.proxy.tls), (4, TlsMode::Required));
    assert_eq!(config.proxy.move_every, 5);
    let entrance = &config.proxy.entrance;
    let from: Vec<String> = entrance.headers_from.iter().map(ToString::to_string).collect();
    assert_eq!((entrance.headers, entrance.max_connects_per_s), (ProxyHeaders::Optional, 6));
    assert_eq!(from, ["127.0.0.1/32", "10.0.0.0/8"]);
    assert_eq!(
        (config.source.proxy_protocol, config.target.proxy_protocol),
        (SentHeader::V1, SentHeader::V2)
    );
    assert_eq!(
        (config.source.tls.parts(), config.target.tls.parts()),
        (None, Some((Verify::None, &b""[..])))
    );
    assert!(config.proxy.cert.unwrap().ends_with("cert") && config.proxy.key.unwrap().ends_with("key"));
    assert_eq!((config.admin.user.as_str(), config.admin.password.expose()), ("boss", &b"secret"[..]));
    assert!(config.console.named);
    assert_eq!((config.source.address(), config.source.user.as_str()), ("one:3306".to_owned(), "a"));
    assert_eq!(
        (config.source.password.expose(), config.target.password.expose()),
        (&b"of env\n"[..], &b"line\n"[..])
    );
    let migration = &config.migration;
    assert_eq!((migration.name.as_str(), migration.schemas.len(), migration.reverse), ("shop", 2, false));
    assert_eq!((migration.start, migration.ddl), (StartPolicy::Auto, DdlPolicy::Pause));
    assert_eq!(
        (config.snapshot.readers, config.snapshot.chunk_rows, config.snapshot.max_rows_per_s),
        (5, 1000, 7)
    );
    let replica = config.replica.unwrap();
    assert_eq!((replica.address().as_str(), replica.password.expose()), ("three:3306", &b"of env\n"[..]));
    assert_eq!(migration.accounts, ["app@%"]);
    let throttle = &config.throttle;
    assert_eq!((throttle.max_threads_running, throttle.max_replica_lag_ms), (12, 13));
    let asked: Vec<&[u8]> = throttle.replicas.iter().map(|replica| replica.password.expose()).collect();
    assert_eq!(asked, [&b"lag"[..], b"own"]);
    assert_eq!((config.apply.workers, config.apply.spool_max_bytes), (8, 900_000_000));
    assert_eq!((config.cutover.max_lag_ms, config.cutover.pause_ms), (10, 11));
    assert_eq!(
        (config.cutover.open_transactions, config.cutover.fence, config.cutover.past_fence),
        (OpenTransactions::Kill, FencePolicy::None, PastFence::Kill)
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let environment = [
        ("CHANGEOVER_SOURCE", "mysql://e:e@env"),
        ("CHANGEOVER_LISTEN", "1.1.1.1:1"),
        ("CHANGEOVER_ADMIN", "127.0.0.1:2"),
        ("CHANGEOVER_SCHEMAS", "a, b"),
        ("CHANGEOVER_STATE_DIR", ""),
        ("CHANGEOVER_CONSOLE", "127.0.0.1:3"),
        ("CHANGEOVER_TARGET", "mysql://t:t@envtarget"),
    ];
    let flags = [("source", "mysql://f@flag:9"), ("listen", "2.2.2.2:2")];
    let config = load_text(BACKENDS, &flags, &environment).result.unwrap();
    assert_eq!((config.source.address(), config.source.password.expose()), ("flag:9".to_owned(), &b"p"[..]));
    assert_eq!(
        (config.target.address(), config.target.password.expose()),
        ("envtarget:3306".to_owned(), &b"t"[..])
    );
    assert_eq!((config.proxy.listen.as_str(), config.admin.listen.as_str()), ("2.2.2.2:2", "127.0.0.1:2"));
    assert_eq!(config.migration.schemas, ["a", "b"]);
    assert_eq!(config.state_dir, PathBuf::from("changeover-state"));
    assert!(config.console.named);

    let flags = [
        ("source", "mysql://a:b@h"),
        ("target", "mysql://a:b@h:1"),
        ("schemas", "x,y"),
        ("state-dir", "d"),
        ("admin", "localhost:5"),
        ("console", "localhost:6"),
    ];
    let config = load_text("NO FILE", &flags, &[]).result.unwrap();
    assert_eq!(config.migration.schemas, ["x", "y"]);
    assert_eq!((config.state_dir, config.admin.listen), (PathBuf::from("d"), "localhost:5".to_owned()));
}

#[test]
fn wrong_names_and_types_are_found_all_at_once() {
    refused(
        "lisen = 1\nstatedir = \"x\"\n[proxi]\nlisten = 1\n[proxy]\nlisen = \"x\"\nworkers = \"many\"\nmax_lag_ms = 1\nstate_dir = \"x\"\n[migration]\nschemas = [\"a\", 1]\nreverse = \"no\"\n[snapshot]\nreaders = 0\nzzzzzzzz = 1\n[admin]\npassword = { enf = \"X\" }",
        &[
            "C:1: there is no setting lisen",
            "C:2: did you mean state_dir?",
            "C:3: did you mean [proxy]?",
            "C:6: did you mean listen?",
            "C:7: proxy.workers has to be a whole number, not of type string",
            "C:8: max_lag_ms belongs into [cutover]",
            "C:9: top of the file",
            "C:11: migration.schemas has to be a list of texts",
            "C:12: migration.reverse has to be true or false",
            "C:14: snapshot.readers is out of range: it has to be 1 to 256",
            "C:15: possible is: readers, chunk_rows, max_rows_per_s, late_indexes",
            "C:17: admin.password has to be a text",
        ],
    );
    refused("proxy = 1", &["C:1: write [proxy]"]);
    refused("listen = \"x\"", &["C:1: listen belongs into [proxy]"]);
}

#[test]
fn impossible_values() {
    refused("[proxy]\nlisten = \"3307\"", &["C:2: the port is missing"]);
    refused("[proxy]\nlisten = \"127.0.0.1:6032\"", &["C:2: proxy.listen and admin.listen are both"]);
    refused("[proxy]\ntls = \"require\"", &["C:2: did you mean \"required\"?"]);
    refused("[proxy]\nmax_connections = -1", &["C:2: 1 to 1000000"]);
    refused("[proxy]\nmax_connections = 99999999999999999999", &["C:2: 1 to 1000000"]);
    refused("[proxy]\ncert = \"/nonexistent\"", &["C:2: proxy.key isn't", "C:2: can't be read"]);
    refused("[proxy]\nclient_cert = \"required\"\ntls = \"required\"", &["C:2: proxy.client_ca isn't"]);
    refused(
        "[proxy]\nclient_cert = \"requird\"",
        &["C:2: did you mean \"required\"?", "C:2: proxy.client_ca isn't"],
    );
    refused("[proxy]\nclient_ca = \"/nonexistent\"", &["C:2: proxy.client_ca: /nonexistent can't be read"]);
    refused("[proxy]\nclient_ca = \"/dev/null\"\ntls = \"off\"", &["C:2: proxy.tls is off"]);
    refused(
        "[proxy]\nclient_ca = \"/dev/null\"\nclient_cert = \"required\"",
        &["C:3: needs proxy.tls = \"required\""],
    );
    refused("[proxy]\nmax_connects_per_s = -1", &["C:2: 0 to 1000000"]);
    refused("[proxy]\nproxy_protocol = \"requird\"", &["C:2: did you mean \"required\"?"]);
    refused("[proxy]\nproxy_protocol = \"optional\"", &["C:2: proxy.proxy_protocol_from names nobody"]);
    refused(
        "[proxy]\nproxy_protocol = \"required\"\nproxy_protocol_from = []",
        &["C:2: proxy.proxy_protocol_from names nobody"],
    );
    refused(
        "[proxy]\nproxy_protocol = \"required\"\nproxy_protocol_from = [\"10.1.0.0/8\", \"here\", \"::1\"]",
        &["C:3: write 10.0.0.0/8", "C:3: \"here\" isn't a network"],
    );
    refused("[admin]\nlisten = \"0.0.0.0:6032\"", &["C: admin.password is empty"]);
    refused("[admin]\nuser = \"\"", &["C:2: admin.user"]);
    refused("[admin]\npassword = { env = \"NOPE\" }", &["C:2: \"NOPE\" isn't set"]);
    refused(
        "[admin]\nlisten = \"0.0.0.0:1\"\npassword = { file = \"/nonexistent\" }",
        &["C:3: can't be read"],
    );
    refused("[migration]\nname = \"a b\"", &["C:2: migration.name"]);
    refused("[migration]\nschemas = []", &["C:2: leave it out"]);
    refused(
        "[migration]\nschemas = [\"MySQL\", \"a\", \"a\", \"\"]",
        &["C:2: MySQL is", "C:2: twice", "C:2: 1 to 64"],
    );
    refused("[migration]\nallow_lossy = 1", &["C:2: true, false or a list"]);
    refused("[migration]\nallow_lossy = [\"tmp\"]", &["C:2: migration.allow_lossy: \"tmp\""]);
    refused("[throttle]\nreplicas = [\"10.0.0.1\"]", &["C:2: throttle.replicas: this isn't a URL"]);
    refused("[throttle]\nmax_replica_lag_ms = -1", &["C:2: throttle.max_replica_lag_ms"]);
    refused("[migration]\naccounts = 1", &["C:2: true, false or a list of accounts"]);
    refused("[migration]\naccounts = [\"app\"]", &["C:2: migration.accounts: \"app\""]);
    refused("[migration]\nexclude_tables = [\"tmp\", \"a.b\", \".x\"]", &["C:2: \"tmp\"", "C:2: \".x\""]);
    refused("[cutover]\nfence_accounts = [\"app@%\"]", &["C:2: is for cutover.fence = \"accounts\""]);
    let named = |list: &str| format!("[cutover]\nfence = \"accounts\"\nfence_accounts = {list}");
    refused(&named("[]"), &["C:3: leave it out"]);
    refused(&named("[\"app\"]"), &["C:3: cutover.fence_accounts: \"app\" isn't a pattern"]);
    refused(&named("\"app@%\""), &["C:3: a list of texts"]);
    let shared = "[cutover]\nfence = \"accounts\"\n[[migration.rows]]\ntable = \"shop.%\"\ncolumn = \"t\"\nvalues = [7]";
    refused(shared, &["C:2: with migration.rows needs cutover.fence_accounts"]);
    refused("[cutover]\nfence = \"acounts\"", &["C:2: did you mean \"accounts\"?"]);
    refused("[cutover]\npause_ms = 0\n[apply]\nspool_max_gb = 0", &["C:2: pause_ms", "C:4: spool_max_gb"]);
    for wrong in ["0.05", "nan", "inf", "-1", "1_000_001"] {
        refused(
            &format!("[apply]\nspool_max_gb = {wrong}"),
            &["C:2: apply.spool_max_gb is out of range: it has to be 0.1"],
        );
    }
    refused(
        "[apply]\nspool_max_gb = \"9\"",
        &["C:2: apply.spool_max_gb has to be a number, such as 50 or 0.5"],
    );
    refused("state_dir = \"\"", &["C:1: state_dir isn't a path"]);
}

#[test]
fn backends() {
    let check = |text: &str, expected: &[&str]| compare(text, load_text(text, &[], &[]), expected);
    check("", &["C: there is no source: write [source]", "C: there is no target: write [target]"]);
    check(
        "[source]\nurl = \"mysql://a:pw@h/db\"\nreplica_url = \"mysql://x\"\n[target]\npassword = \"x\"",
        &[
            "C:2: source.url: the URL has a path",
            "C:3: source.replica_url: the URL has no user",
            "C: there is no target",
        ],
    );
    check(
        "[source]\nurl = \"mysql://a:pw@H:3306\"\npassword = \"pw\"\n[target]\nurl = \"mysql://b@h\"",
        &["C:3: keep one of them", "C:5: the target is the source: both are H:3306"],
    );
    let tls = |keys: &str, expected: &str| {
        let text = format!("[source]\n{keys}\nurl = \"mysql://a@h\"\n[target]\nurl = \"mysql://b@i\"");
        check(&text, &[expected]);
    };
    tls("tls = \"required\"", "C:2: source.tls needs source.ca");
    tls("tls = \"require\"", "C:2: did you mean \"required\"?");
    tls("ca = \"/nonexistent\"", "C:2: source.tls is off");
    tls("tls = \"required\"\nca = \"/nonexistent\"", "C:3: source.ca: /nonexistent can't be read");
    tls("cert = \"/nonexistent\"", "C:2: source.cert is set and source.tls is off");
    let encrypted = "tls = \"required\"\nverify = \"none\"\n";
    tls(&format!("{encrypted}cert = \"/dev/null\""), "C:4: source.key isn't; set both");
    tls(&format!("{encrypted}key = \"/dev/null\""), "C:4: source.cert isn't; set both");
    tls(
        &format!("{encrypted}cert = \"/nonexistent\"\nkey = \"/dev/null\""),
        "C:4: source.cert: /nonexistent can't be read",
    );
    tls(
        &format!("{encrypted}cert = \"/dev/null\"\nkey = \"/dev/null\""),
        "C:4: source.cert can't be used with source.key",
    );
    tls(&format!("{encrypted}certs = \"x\""), "C:4: [source] has no key certs; did you mean cert?");
    tls("tls = \"required\"\nca = \"/dev/null\"", "C:3: source.ca can't be used: it holds no");
    check(
        "[source]\nproxy_protocol = \"v3\"\n[target]\nurl = \"mysql://b@h\"\nproxy_protocol = 1",
        &[
            "C:2: source.proxy_protocol has to be one of: off, v1, v2",
            "C:5: target.proxy_protocol has to be a text",
            "C: there is no source",
        ],
    );
    check(
        "[source]\nurl = \"mysql://a@127.0.0.1\"\n[target]\nurl = \"mysql://b@localhost:3306\"",
        &["C:4: the target is the source"],
    );
    let flags = [("source", "nonsense"), ("target", "mysql://a:sesame@h:x")];
    compare("", load_text("NO FILE", &flags, &[]), &["--source: isn't a URL", "--target: port"]);
    let environment = [("CHANGEOVER_SOURCE", "mysql://a:sesame@")];
    compare(
        "",
        load_text("[target]\nurl = \"mysql://b@h\"", &[], &environment),
        &["CHANGEOVER_SOURCE: host"],
    );
}

#[test]
fn a_file_that_is_missing_or_is_not_toml() {
    let overrides = Overrides { config: Some("/nonexistent/c.toml".into()), ..Overrides::default() };
    let error = load(&overrides, &|_| None).unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/c.toml: the configuration file can't be read: No such file"),
        "{error}"
    );
    let text = "[source]\nurl = mysql://u:sesame@h\n[proxy]\nlisen = \"x\"\npassword = sesame\n[target\n";
    let loaded = load_text(text, &[], &[]);
    let ConfigErrors(lines) = loaded.result.unwrap_err();
    let all = lines.join("\n");
    assert!(lines.len() >= 3 && !all.contains("sesame"), "{all}");
    assert!(lines.iter().any(|l| l.contains(":2: this isn't TOML")), "{all}");
    assert!(lines.iter().any(|l| l.contains(":4: [proxy] has no key lisen")), "{all}");
    assert!(!all.contains("there is no"), "what may only be hidden isn't called missing: {all}");
}

#[test]
fn no_error_and_no_debug_shows_a_password() {
    let secret = "sesame";
    let mut text = String::new();
    for section in ["source", "target"] {
        writeln!(text, "[{section}]\nurl = \"mysql://u:{secret}@h:99999\"\npassword = [\"{secret}\"]")
            .unwrap();
    }
    writeln!(text, "replica_url = \"{secret}\"\n[admin]\npassword = {{ env = \"X\", file = \"{secret}\" }}")
        .unwrap();
    let error = load_text(&text, &[], &[]).result.unwrap_err();
    assert!(!error.to_string().contains(secret) && !format!("{error:?}").contains(secret), "{error}");
    let good = "[source]\nurl = \"mysql://u:sesame@h\"\n[target]\nurl = \"mysql://u:sesame@i\"\n";
    assert!(!format!("{:?}", load_text(good, &[], &[]).result.unwrap()).contains(secret));
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC*", near in "[\\[\\]=\"{}a-z._\n 0-9-]{0,60}", listen in "\\PC{0,12}") {
        for text in [&text, &near, &format!("[source]\n{near}"), &format!("[migration]\nschemas = {near}")] {
            let _ = load_text(text, &[("listen", &listen), ("source", &near)], &[("CHANGEOVER_TARGET", text)]).result;
        }
    }
}

#[test]
fn row_filters_are_whole() {
    let rows = |text: &str| format!("[[migration.rows]]\n{text}");
    refused("[migration]\nrows = 7", &["C:2: write [[migration.rows]]"]);
    refused("[migration]\nrows = [7]", &["C:2: write [[migration.rows]]"]);
    refused(&rows("table = \"shop.a\"\ncolumn = \"t\""), &["C:1: values = […]"]);
    refused(&rows("table = \"shop\"\ncolumn = \"t\"\nvalues = [1]"), &["C:1: schema.table"]);
    for values in ["[]", "7", "[1.5]", "[[1]]", "[99999999999999999999]"] {
        refused(
            &rows(&format!("table = \"shop.a\"\ncolumn = \"t\"\nvalues = {values}")),
            &["C:4: values = […]"],
        );
    }
    refused(
        &rows("table = \"shop.a\"\ncolum = \"t\"\nvalues = [1]"),
        &["C:1: needs column", "C:3: did you mean column?"],
    );
}

#[test]
fn column_filters_are_whole() {
    let columns = |text: &str| format!("[[migration.columns]]\n{text}");
    refused(
        "[migration]\ncolumns = [\"notes\"]",
        &["C:2: write [[migration.columns]] with table and exclude"],
    );
    refused(&columns("table = \"shop.a\""), &["C:1: needs exclude = […]"]);
    refused(&columns("table = \"shop\"\nexclude = [\"a\"]"), &["C:1: schema.table"]);
    for exclude in ["[]", "\"a\"", "[1]", "[\"\"]", "[\"a\", \"A\"]"] {
        refused(
            &columns(&format!("table = \"shop.a\"\nexclude = {exclude}")),
            &["C:3: each once, such as [\"password_hash\"]"],
        );
    }
    refused(
        &columns("table = \"shop.a\"\nexlude = [\"a\"]"),
        &["C:1: needs exclude", "C:3: did you mean exclude?"],
    );
}

#[test]
fn renames_fit_each_other() {
    let rules = |rules: &[(&str, &str)]| {
        rules.iter().fold(String::new(), |mut text, (from, to)| {
            write!(text, "[[migration.rename]]\nfrom = {from:?}\nto = {to:?}\n").unwrap();
            text
        })
    };
    let text = rules(&[("shop", "store"), ("shop.orders", "store.purchases"), ("a", "b"), ("b", "a")]);
    let config = load_text(&format!("{text}\n{BACKENDS}"), &[], &[]).result.unwrap();
    let there = config.migration.rename.on(crate::Side::Target);
    assert_eq!(there.table(&crate::TableName::new("shop", "x")), Some(crate::TableName::new("store", "x")));
    refused("[migration]\nrename = 7", &["C:2: write [[migration.rename]]"]);
    refused("[migration]\nrename = [7]", &["C:2: write [[migration.rename]]"]);
    refused("[[migration.rename]]\nfrom = \"shop\"", &["C:1: needs to = \"…\""]);
    refused("[[migration.rename]]\nfrm = \"a\"\nfrom = \"a\"\nto = \"b\"", &["C:2: did you mean"]);
    for wrong in ["", ".", "a.", ".b", "a.b.c", "a`b", "é", "1", "a b"] {
        refused(&rules(&[(wrong, "b")]), &["C:2: needs from = \"…\""]);
        refused(&rules(&[("b", wrong)]), &["C:3: needs to = \"…\""]);
    }
    refused(&rules(&[("a", "b.c")]), &["C:1: both a schema"]);
    refused(&rules(&[("a.b", "c")]), &["C:1: both a schema"]);
    refused(&rules(&[("a", "a")]), &["C:1: called already"]);
    refused(&rules(&[("a.b", "a.b")]), &["C:1: called already"]);
    refused(&rules(&[("a", "Changeover")]), &["C:1: Changeover is a schema of the server's"]);
    refused(&rules(&[("mysql.user", "a.b")]), &["C:1: mysql is a schema of the server's"]);
    refused(&rules(&[("a", "b"), ("A", "c")]), &["C:4: A is renamed twice"]);
    refused(&rules(&[("a", "b"), ("c", "B")]), &["C:4: both be called B"]);
    refused(&rules(&[("a.x", "b.x"), ("c.x", "b.X")]), &["C:4: both be called b.X"]);
    let with = |text: String| format!("[migration]\nschemas = [\"shop\", \"store\"]\n{text}");
    refused(&with(rules(&[("shop", "store")])), &["C:3: shop and store would both be called store"]);
    refused(&with(rules(&[("other", "x")])), &["C:3: other isn't moved"]);
    let both = format!("[proxy]\nmove_every = 1\n{}", rules(&[("a", "b")]));
    refused(&both, &["C:3: can't be with proxy.move_every"]);
    let turned = with(rules(&[("shop", "store"), ("store", "shop")]));
    assert!(load_text(&format!("{turned}\n{BACKENDS}"), &[], &[]).result.is_ok());
}
