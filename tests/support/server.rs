//! Real servers: each with its own folder, port and process. Binaries come from the system (MariaDB) or from
//! `target/servers` (the others, put there by `./test`). A data folder is initialised once and then copied; seekdb
//! makes its own, which takes it three seconds and a copy no less.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::prelude::{FromRow, FromValue, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder};
use tempfile::TempDir;

use super::process::Process;
use super::scratch;
use super::wait::until;

/// A kind of server that the tests move databases between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Debian's own, 10.11.
    MariaDb,
    /// MySQL 9.7, unpacked beside the system.
    MySql97,
    /// MySQL 5.6: no DEPRECATE_EOF, no session tracking, mysql_native_password only.
    MySql56,
    /// OceanBase's seekdb: says it is MySQL 5.7, has no binary log.
    Seekdb,
}

/// A running server with row binlog and GTIDs. Killed and removed on drop.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    dir: TempDir,
    port: u16,
    flags: Vec<String>,
    process: Option<Process>,
}

static SERVER_ID: AtomicU32 = AtomicU32::new(1);

impl Server {
    /// Starts one, or returns `None` with a loud word where there is none. Flags come last and the last one wins, so
    /// they can take back the launcher's own. `TZ=…` is the zone of its system; `KEYRING=FOLDER` (MySQL 9.7), where it keeps
    /// its keys.
    pub async fn start(engine: Engine, flags: &[&str]) -> Option<Self> {
        if !engine.available() {
            return None;
        }
        // What seekdb allocates at its start is better kept out of the memory.
        let dir = if engine == Engine::Seekdb { scratch::on_disk() } else { scratch::folder() };
        if let Some(template) = engine.template() {
            copy(&template, &dir.path().join("data"));
        }
        let mut server = Self {
            engine,
            dir,
            port: free_port(),
            flags: flags.iter().map(ToString::to_string).collect(),
            process: None,
        };
        let id = SERVER_ID.fetch_add(1, Ordering::Relaxed) + std::process::id() % 100_000 * 100;
        if engine != Engine::Seekdb {
            server.flags.insert(0, format!("--server-id={id}"));
        }
        server.start_again().await;
        Some(server)
    }

    /// Its engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it with nothing flushed.
    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_9();
        }
    }

    /// Asks it to end, and waits for that.
    pub async fn shut_down(&mut self) {
        self.run(&["SHUTDOWN"]).await;
        until("the server's end", Duration::from_secs(60), async || {
            let ended = self.process.as_mut().and_then(Process::ended);
            ended.map(drop).ok_or_else(|| "it runs".to_owned())
        })
        .await;
    }

    /// Keeps what it holds by now, for [`Self::restore`]. It is started again.
    pub async fn back_up(&mut self) {
        self.kill_9();
        copy(&self.dir.path().join("data"), &self.dir.path().join("kept"));
        self.start_again().await;
    }

    /// Puts back what was kept: whatever it was told since is gone, and it doesn't know that there was anything.
    pub async fn restore(&mut self) {
        self.kill_9();
        let data = self.dir.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        copy(&self.dir.path().join("kept"), &data);
        self.start_again().await;
    }

    /// Changes a flag that it was started with, for the next start.
    pub fn replace_flag(&mut self, name: &str, by: &str) {
        let flag = self.flags.iter_mut().find(|flag| flag.starts_with(name));
        by.clone_into(flag.expect("a flag of its start"));
    }

    /// MySQL takes `--skip-name-resolve=OFF` for what it switches off.
    fn takes_back(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own.strip_suffix("=OFF") == Some(flag))
    }

    /// Starts it (again) on its folder and port, and waits until it answers.
    pub async fn start_again(&mut self) {
        self.kill_9();
        let log_path = self.dir.path().join("log");
        let command = match self.engine {
            Engine::Seekdb => self.seekdb_command(),
            _ => self.mysqld_command(),
        };
        self.process = Some(Process::start(&command, &log_path).unwrap());
        let opts = self.opts("root", "", None);
        let mut why = String::new();
        for _ in 0..1500 {
            match Conn::new(opts.clone()).await {
                Ok(_) => return,
                Err(error) => why = error.to_string(),
            }
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("{:?} ended at its start ({status}):\n{}", self.engine, tail(&log_path));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} doesn't answer ({why}):\n{}", self.engine, tail(&log_path));
    }

    fn flag_of(&self, name: &str) -> Option<&str> {
        self.flags.iter().find_map(|flag| flag.strip_prefix(name))
    }

    fn mysqld_command(&self) -> Command {
        let keyring = self.flag_of("KEYRING=").map(Path::new);
        let mut command = match keyring {
            Some(folder) => mysql97(&with_keyring(folder)),
            None => self.engine.server_command(),
        };
        command
            .arg(format!("--datadir={}", self.dir.path().join("data").display()))
            // A server that starts deletes what others have as temporary tables in its temporary folder.
            .arg(format!("--tmpdir={}", self.dir.path().display()))
            .arg(format!("--socket={}", self.dir.path().join("s").display()))
            .arg(format!("--pid-file={}", self.dir.path().join("pid").display()))
            .arg(format!("--log-bin={}", self.dir.path().join("data/bin").display()))
            .arg(format!("--port={}", self.port))
            .args(self.engine.flags().iter().filter(|flag| !self.takes_back(flag)))
            .args(keyring.map(|folder| format!("--plugin-dir={}", folder.display())))
            .args(self.flags.iter().filter(|flag| !flag.starts_with("TZ=") && !flag.starts_with("KEYRING=")));
        command.envs(self.flag_of("TZ=").map(|zone| ("TZ", zone)));
        command
    }

    fn seekdb_command(&self) -> Command {
        let data = self.dir.path().join("data");
        let first = !data.exists();
        let mut command = self.engine.server_command();
        command.arg("--base-dir").arg(&data).arg("--port").arg(self.port.to_string());
        if first {
            // It takes these at its first start only, and not much less than this.
            for parameter in self.engine.flags() {
                command.args(["--parameter", parameter]);
            }
        }
        command.args(&self.flags);
        command
    }

    /// Options of a connection to it.
    pub fn opts(&self, user: &str, password: &str, schema: Option<&str>) -> Opts {
        opts(self.port, user, password, schema)
    }

    /// A connection as root.
    pub async fn root(&self) -> Conn {
        Conn::new(self.opts("root", "", None)).await.unwrap()
    }

    /// Runs statements as root, one by one, on one connection.
    pub async fn run(&self, statements: &[&str]) {
        let mut conn = self.root().await;
        for sql in statements {
            if let Err(error) = conn.query_drop(*sql).await {
                panic!("{sql}: {error}");
            }
        }
        conn.disconnect().await.unwrap();
    }

    /// The rows of a query as root.
    pub async fn rows<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        let mut conn = self.root().await;
        let rows = conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.unwrap();
        rows
    }

    /// The only value of a query as root.
    pub async fn value<T: FromValue + Send + 'static>(&self, sql: &str) -> T {
        let mut conn = self.root().await;
        let value = conn.query_first(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.unwrap();
        value.unwrap_or_else(|| panic!("{sql}: no row"))
    }

    /// Waits until `sql` answers `wanted`.
    pub async fn wait_value(&self, sql: &str, wanted: &str) {
        until(sql, Duration::from_secs(60), async || {
            let value: String = self.value(sql).await;
            if value == wanted { Ok(()) } else { Err(value) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that ended by itself is the answer to many questions, and its log is about to be removed.
        let ended = self.process.as_mut().and_then(Process::ended);
        if let Some(status) = ended.filter(|_| std::thread::panicking()) {
            let log = tail(&self.dir.path().join("log"));
            eprintln!("{:?} on port {} had ended by itself ({status}):\n{log}", self.engine, self.port);
        }
    }
}

/// Options of a connection to a port of 127.0.0.1 that ask the server nothing at the start.
pub fn opts(port: u16, user: &str, password: &str, schema: Option<&str>) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(user))
        .pass(Some(password))
        .db_name(schema)
        .prefer_socket(false)
        .max_allowed_packet(Some(64 << 20))
        .wait_timeout(Some(28_800))
        .into()
}

/// The end of a log.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A port nobody listens on, below the range that the kernel hands to outgoing connections, so that it stays
/// free until the server takes it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = std::process::id() * 131;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + (base + step) % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "could not copy {}", from.display());
}

/// Says that a test is skipped. A passed test's output isn't shown, so ./test reads this list and says it at the end.
pub(super) fn say_skipped(what: &str) {
    eprintln!("{what}");
    let mut list = OpenOptions::new().create(true).append(true).open(cache().join("skipped")).unwrap();
    writeln!(list, "{what}").unwrap();
}

/// `target/servers` of this checkout.
fn cache() -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    fs::create_dir_all(&cache).unwrap();
    cache
}

impl Engine {
    /// Short name in paths and messages.
    pub fn name(self) -> &'static str {
        match self {
            Engine::MariaDb => "mariadb",
            Engine::MySql97 => "mysql97",
            Engine::MySql56 => "mysql56",
            Engine::Seekdb => "seekdb",
        }
    }

    /// True where the server can be started; else says so, or panics where servers are required.
    fn available(self) -> bool {
        let found = match self {
            Engine::MariaDb => mariadbd().is_some(),
            Engine::MySql97 | Engine::MySql56 | Engine::Seekdb => {
                cache().join(self.name()).join("READY").exists()
            }
        };
        if found {
            return true;
        }
        let thread = std::thread::current();
        let what =
            format!("SKIPPED {}: no {} here; run ./test once", thread.name().unwrap_or("?"), self.name());
        assert!(std::env::var("CHANGEOVER_REQUIRE_SERVERS").as_deref() != Ok("1"), "{what}");
        say_skipped(&what);
        false
    }

    /// A fresh data folder to copy, made once for every version of the server; `None` where it makes its own.
    fn template(self) -> Option<PathBuf> {
        if self == Engine::Seekdb {
            return None;
        }
        let lock = File::create(cache().join(format!(".template-{}.lock", self.name()))).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let template = cache().join(format!("template-{}-3", self.name()));
        if template.join("READY").exists() {
            return Some(template.join("data"));
        }
        let _ = fs::remove_dir_all(&template);
        fs::create_dir_all(&template).unwrap();
        let made = template.join("made");
        let mut command = self.initialise(&template);
        command.arg(format!("--datadir={}", made.display()));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // A copy must not be the same server: the UUID is made anew where this file is missing.
        let _ = fs::remove_file(made.join("auto.cnf"));
        // Most of a fresh folder is zeros, which no test has to copy where they are holes.
        let mut copy = Command::new("cp");
        copy.args(["-a", "--sparse=always"]).arg(&made).arg(template.join("data"));
        assert!(copy.status().unwrap().success(), "could not copy {}", made.display());
        fs::remove_dir_all(&made).unwrap();
        File::create(template.join("READY")).unwrap();
        Some(template.join("data"))
    }

    /// What makes a fresh data folder.
    fn initialise(self, template: &Path) -> Command {
        match self {
            Engine::MariaDb => {
                let mut command = Command::new("mariadb-install-db");
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command.args(as_root()).arg("--innodb-log-file-size=48M");
                command
            }
            Engine::MySql97 => {
                let mut command = self.server_command();
                // Without name resolution 127.0.0.1 isn't localhost, for which alone root is made.
                let root = template.join("root.sql");
                fs::write(
                    &root,
                    "CREATE USER root@'127.0.0.1';\nGRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n",
                )
                .unwrap();
                command.args(["--initialize-insecure", "--innodb-redo-log-capacity=48M"]);
                command.arg(format!("--init-file={}", root.display()));
                command
            }
            Engine::MySql56 => {
                let mut command = self.server_command();
                let share = cache().join("mysql56/share");
                // One statement a line.
                let mut sql = "CREATE DATABASE mysql;\nUSE mysql;\n".to_owned();
                for file in ["mysql_system_tables.sql", "mysql_system_tables_data.sql"] {
                    sql.push_str(&fs::read_to_string(share.join(file)).unwrap());
                }
                sql.push_str("DELETE FROM user WHERE user = '' OR host NOT IN ('localhost', '127.0.0.1');\n");
                sql.push_str("DELETE FROM db;\n");
                let path = template.join("bootstrap.sql");
                fs::write(&path, sql).unwrap();
                fs::create_dir(template.join("made")).unwrap();
                command.args(["--bootstrap", "--innodb-log-file-size=48M"]);
                command.stdin(File::open(path).unwrap());
                command
            }
            Engine::Seekdb => unreachable!("it makes its own folder at its first start"),
        }
    }

    /// The program with the flags that say where its own files are.
    fn server_command(self) -> Command {
        match self {
            Engine::MariaDb => {
                let mut command = Command::new(mariadbd().expect("asked for only where it exists"));
                command.arg("--no-defaults").args(as_root());
                command
            }
            Engine::MySql97 => mysql97(&cache().join("mysql97/usr/sbin/mysqld")),
            Engine::MySql56 => {
                let root = cache().join("mysql56");
                let share = root.join("share");
                let mut command = Command::new(root.join("mysqld"));
                command
                    .env("LD_LIBRARY_PATH", &root)
                    .arg("--no-defaults")
                    .args(as_root())
                    .arg(format!("--basedir={}", root.display()))
                    .arg(format!("--lc-messages-dir={}", share.display()))
                    .arg(format!("--character-sets-dir={}", share.join("charsets").display()));
                command
            }
            Engine::Seekdb => {
                let mut command = Command::new(cache().join("seekdb/pylibseekdb/seekdb"));
                command.env("TELEMETRY_ENABLED", "false").arg("--nodaemon");
                command
            }
        }
    }

    /// Row binlog, GTIDs, small, and no fsync of the server's own: a killed process loses nothing by that.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Engine::MariaDb => &[
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--binlog-format=ROW",
                "--gtid-strict-mode=ON",
                "--max-connections=500",
                "--innodb-buffer-pool-size=128M",
                "--innodb-log-file-size=48M",
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
            ],
            Engine::MySql97 => &[
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--mysqlx=OFF",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--max-connections=500",
                "--local-infile=ON",
                "--innodb-buffer-pool-size=128M",
                "--innodb-redo-log-capacity=96M",
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
                "--performance-schema-consumer-events-statements-history=OFF",
            ],
            Engine::MySql56 => &[
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--binlog-format=ROW",
                "--gtid-mode=ON",
                "--log-slave-updates",
                "--enforce-gtid-consistency",
                "--max-connections=500",
                "--innodb-buffer-pool-size=128M",
                "--innodb-log-file-size=48M",
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
                // For so many connections it would fill 450 MB with its statistics, which takes it seconds.
                "--performance-schema-max-table-instances=400",
                "--performance-schema-max-table-handles=1000",
                "--performance-schema-max-thread-instances=600",
                "--performance-schema-max-mutex-instances=4000",
                "--performance-schema-max-rwlock-instances=2000",
                "--performance-schema-max-cond-instances=2000",
                "--performance-schema-max-file-instances=1000",
                "--performance-schema-max-socket-instances=600",
                "--performance-schema-digests-size=200",
                "--performance-schema-events-stages-history-long-size=100",
                "--performance-schema-events-statements-history-long-size=100",
                "--performance-schema-events-waits-history-long-size=100",
            ],
            Engine::Seekdb => &["datafile_size=512M", "log_disk_size=2G", "memory_limit=3G"],
        }
    }
}

/// MySQL 9.7 by this path to its program.
fn mysql97(program: &Path) -> Command {
    let root = cache().join("mysql97");
    let (loader, libraries) = loader(&root);
    let share = root.join("usr/share/mysql");
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(libraries)
        .arg(program)
        .args(["--no-defaults", "--secure-file-priv="])
        .args(as_root())
        .arg(format!("--basedir={}", root.join("usr").display()))
        .arg(format!("--lc-messages-dir={}", share.display()))
        .arg(format!("--character-sets-dir={}", share.join("charsets").display()))
        .arg(format!("--plugin-dir={}", root.join("usr/lib/mysql/plugin").display()));
    command
}

/// Makes what MySQL 9.7 needs for a keyring: it looks beside its program for what to load, and beside its plugins for where
/// the keys are. So it gets a folder of its own with links to them. Returns the program there.
fn with_keyring(folder: &Path) -> PathBuf {
    let usr = cache().join("mysql97/usr");
    let program = folder.join("mysqld");
    if !program.exists() {
        symlink(usr.join("sbin/mysqld"), &program).unwrap();
        for plugin in fs::read_dir(usr.join("lib/mysql/plugin")).unwrap().flatten() {
            symlink(plugin.path(), folder.join(plugin.file_name())).unwrap();
        }
        let keys = folder.join("keys");
        let place = format!("{{\"path\": \"{}\", \"read_only\": false}}", keys.display());
        fs::write(folder.join("component_keyring_file.cnf"), place).unwrap();
        fs::write(folder.join("mysqld.my"), "{\"components\": \"file://component_keyring_file\"}").unwrap();
    }
    program
}

/// A server started by root has to be told that this is meant.
fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

/// The server program, which is outside the path of ordinary users.
fn mariadbd() -> Option<PathBuf> {
    ["/usr/sbin/mariadbd", "/usr/bin/mariadbd", "/usr/local/sbin/mariadbd"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

/// The unpacked C library's own loader and its folder, whatever the architecture.
fn loader(root: &Path) -> (PathBuf, PathBuf) {
    for folder in fs::read_dir(root.join("usr/lib")).unwrap().flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with("ld-linux") {
                return (file.path(), folder.path());
            }
        }
    }
    panic!("there is no loader in {}", root.display());
}

/// The mysql client of MySQL 9.7, where it was fetched.
pub fn mysql97_client() -> Option<Command> {
    if !Engine::MySql97.available() {
        return None;
    }
    let root = cache().join("mysql97");
    let (loader, libraries) = loader(&root);
    let mut command = Command::new(loader);
    command.arg("--library-path").arg(libraries).arg(root.join("usr/bin/mysql"));
    command.arg("--no-defaults").arg(format!("--plugin-dir={}", root.join("usr/lib/mysql/plugin").display()));
    Some(command)
}
