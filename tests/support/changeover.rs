//! The built binary as a process, with a configuration and a state folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, SslOpts, Value};
use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::scratch;
use super::server::{free_port, opts, tail};
use super::wait::until;
use super::{Engine, Server, accounts};

/// Name of the admin account in these tests.
pub const ADMIN: &str = "admin";
/// Its password.
pub const ADMIN_PASSWORD: &str = "admin-Secret_3";

/// After this time without a word nobody is there.
const SILENCE: Duration = Duration::from_secs(30);

/// A row of an admin statement by column name; NULL is the empty text.
pub type Record = BTreeMap<String, String>;

/// A configuration file under construction: `section.key` to a TOML value.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// What a move of `schema` from one server to the other needs, on ports of its own.
    pub fn between(source: &Server, target: &Server, schema: &str) -> Self {
        let mut settings = Self::default();
        settings.set("proxy.listen", &format!("\"127.0.0.1:{}\"", free_port()));
        settings.set("admin.listen", &format!("\"127.0.0.1:{}\"", free_port()));
        settings.set("admin.user", &format!("\"{ADMIN}\""));
        settings.set("admin.password", &format!("\"{ADMIN_PASSWORD}\""));
        for (side, server) in [("source", source), ("target", target)] {
            let (user, port) = (accounts::SERVICE, server.port());
            settings.set(&format!("{side}.url"), &format!("\"mysql://{user}@127.0.0.1:{port}\""));
            settings.set(&format!("{side}.password"), &format!("\"{}\"", accounts::SERVICE_PASSWORD));
        }
        settings.set("migration.schemas", &format!("[\"{schema}\"]"));
        settings
    }

    /// Sets a key to a TOML value.
    pub fn set(&mut self, key: &str, toml: &str) {
        self.0.insert(key.to_owned(), toml.to_owned());
    }

    /// The same with one more key.
    pub fn with(mut self, key: &str, toml: &str) -> Self {
        self.set(key, toml);
        self
    }

    /// The port of a `…listen` key.
    fn port(&self, key: &str) -> u16 {
        self.0[key].trim_matches('"').rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Writes the file, with `state_dir` beside it where none is set. Returns its path.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let mut text = String::new();
        let default = format!("\"{}\"", dir.join("state").display());
        text.push_str(&format!("state_dir = {}\n", self.0.get("state_dir").unwrap_or(&default)));
        let mut section = String::new();
        for (key, value) in &self.0 {
            let Some((of, name)) = key.split_once('.') else { continue };
            if of != section {
                text.push_str(&format!("[{of}]\n"));
                section = of.to_owned();
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        let path = dir.join("changeover.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

/// A running `changeover serve`. Killed on drop; its log is shown when the test fails.
#[derive(Debug)]
pub struct Changeover {
    dir: TempDir,
    settings: Settings,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Changeover {
    /// Starts it and waits until the admin port answers.
    pub async fn start(settings: Settings) -> Self {
        Self::start_with(settings, &[]).await
    }

    /// The same with variables in its environment.
    pub async fn start_with(settings: Settings, environment: &[(&str, &str)]) -> Self {
        let mut changeover = Self::not_started(settings);
        changeover.environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        changeover.start_again().await;
        changeover
    }

    /// Starts a migration that dies at one failpoint after the other, and once more, by kill -9, while it follows. Returns
    /// when it follows again.
    pub async fn start_and_die(settings: Settings, failpoints: &[&str]) -> Self {
        let mut changeover = Self::start(settings).await;
        for (turn, failpoint) in failpoints.iter().enumerate() {
            changeover.start_again_with(&[("CHANGEOVER_FAILPOINT", failpoint)]).await;
            if turn == 0 {
                // The reply may be lost with the process.
                let _ = changeover.try_admin("START MIGRATION").await;
            }
            assert!(!changeover.wait_end().await.success(), "it died at {failpoint}");
        }
        changeover.start_again_plain().await;
        changeover.wait_phase(&["following"]).await;
        changeover.kill_9();
        changeover.start_again().await;
        changeover.wait_phase(&["following"]).await;
        changeover
    }

    /// One that isn't running yet, for [`Self::start_to_die`].
    pub fn not_started(settings: Settings) -> Self {
        let dir = scratch::folder();
        Self { dir, settings, environment: Vec::new(), process: None }
    }

    /// Starts it (again) on the same state folder and ports.
    pub async fn start_again(&mut self) {
        assert!(self.start_unless_it_ends().await, "changeover ended at its start");
    }

    /// Starts it (again) with a failpoint that it may reach at once. True where it answers first.
    pub async fn start_to_die(&mut self, failpoint: &str) -> bool {
        self.environment = vec![("CHANGEOVER_FAILPOINT".to_owned(), failpoint.to_owned())];
        self.start_unless_it_ends().await
    }

    /// True once it answers, false where it has ended before.
    pub async fn start_unless_it_ends(&mut self) -> bool {
        self.kill_9();
        let file = self.settings.write(self.dir.path());
        let mut command = with_few_files(&program());
        command.args(["serve", "--config"]).arg(file).env("RUST_LOG", "info");
        command.envs(self.environment.iter().cloned());
        self.process = Some(Process::start(&command, &self.log_path()).unwrap());
        until("the admin port to answer", Duration::from_secs(30), async || {
            match self.try_admin("SHOW MIGRATION STATUS").await {
                Ok(_) => Ok(true),
                Err(_) if self.ended().is_some() => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Restarts it with these variables in place of those of its last start.
    pub async fn start_again_with(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.start_again().await;
    }

    /// Changes a setting, for the next start.
    pub fn set(&mut self, key: &str, toml: &str) {
        self.settings.set(key, toml);
    }

    /// Restarts it without the failpoints and other variables of its first start.
    pub async fn start_again_plain(&mut self) {
        self.environment.clear();
        self.start_again().await;
    }

    /// Ends it at once.
    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_9();
        }
    }

    /// Asks it to leave, as an operator's Ctrl-C would.
    pub fn terminate(&self) {
        let pid = self.process.as_ref().and_then(Process::pid).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Waits for its end, by a failpoint or by itself.
    pub async fn wait_end(&mut self) -> ExitStatus {
        until("its end", Duration::from_secs(60), async || {
            self.ended().ok_or_else(|| "changeover runs".to_owned())
        })
        .await
    }

    /// Bytes of memory that it holds.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most bytes of memory that it ever held.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    }

    /// A file of the system's about this process.
    pub fn proc(&self, name: &str) -> String {
        let pid = self.process.as_ref().and_then(Process::pid).unwrap();
        fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap()
    }

    /// What its open file descriptors are.
    pub fn open_files(&self) -> Vec<String> {
        let pid = self.process.as_ref().and_then(Process::pid).unwrap();
        let folder = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
        // One may be closed between the two looks.
        let targets = folder.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        targets.map(|target| target.display().to_string()).collect()
    }

    /// Port of the proxy.
    pub fn port(&self) -> u16 {
        self.settings.port("proxy.listen")
    }

    /// Port of the admin SQL.
    pub fn admin_port(&self) -> u16 {
        self.settings.port("admin.listen")
    }

    /// Port of its HTTP, where that is configured.
    pub fn console_port(&self) -> u16 {
        self.settings.port("console.listen")
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What it logged, all starts together.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A connection through the proxy as the application.
    pub async fn app(&self, schema: Option<&str>) -> Conn {
        Conn::new(opts(self.port(), accounts::APP, accounts::APP_PASSWORD, schema)).await.unwrap()
    }

    /// Runs an admin statement on a connection of its own.
    pub async fn try_admin(&self, sql: &str) -> Result<Vec<Record>, String> {
        let opts = opts(self.admin_port(), ADMIN, ADMIN_PASSWORD, None);
        // The admin port asks for TLS where the proxy does.
        let tls = self.settings.0.get("proxy.tls").filter(|mode| mode.contains("required"));
        let tls = tls.map(|_| SslOpts::default().with_danger_accept_invalid_certs(true));
        let opts = OptsBuilder::from_opts(opts).ssl_opts(tls);
        let mut conn = connect(opts).await.map_err(|error| error.to_string())?;
        let rows: Vec<Row> = conn.query(sql).await.map_err(|error| error.to_string())?;
        conn.disconnect().await.map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(record).collect())
    }

    /// The same for a statement that has to work.
    pub async fn admin(&self, sql: &str) -> Vec<Record> {
        self.try_admin(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The row of SHOW MIGRATION STATUS.
    pub async fn status(&self) -> Record {
        self.admin("SHOW MIGRATION STATUS").await.remove(0)
    }

    /// A cell of it.
    pub async fn status_of(&self, column: &str) -> String {
        self.status().await.remove(column).unwrap_or_else(|| panic!("SHOW MIGRATION STATUS has no {column}"))
    }

    /// Waits until the migration has stopped, and returns what it says.
    pub async fn stopped(&self) -> String {
        until("the migration to stop", Duration::from_secs(60), async || {
            let mut status = self.status().await;
            // The error is told a moment before it is written down, and the phase behind that: a death in between would go on.
            let stands = matches!(status["phase"].as_str(), "failed" | "paused");
            let error = status.remove("last_error").unwrap_or_default();
            if error.is_empty() || !stands { Err(format!("{status:?}")) } else { Ok(error) }
        })
        .await
    }

    /// Waits for a phase. A migration that failed doesn't get there.
    pub async fn wait_phase(&self, wanted: &[&str]) {
        until(&format!("phase {wanted:?}"), Duration::from_secs(120), async || {
            let status = self.status().await;
            let phase = status["phase"].as_str();
            assert!(phase != "failed" || wanted.contains(&"failed"), "failed: {}", status["last_error"]);
            if wanted.contains(&phase) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// Waits until everything is copied, applied and verified, as an operator would before a cutover.
    pub async fn wait_ready(&self) {
        self.wait_phase(&["following"]).await;
        until("a verdict for every table", Duration::from_secs(120), async || {
            let tables = self.admin("SHOW MIGRATION TABLES").await;
            let open: Vec<String> = tables
                .iter()
                .filter(|table| table["phase"] != "verified")
                .map(|table| format!("{}.{} is {}", table["schema"], table["table"], table["phase"]))
                .collect();
            if !tables.is_empty() && open.is_empty() { Ok(()) } else { Err(open.join(", ")) }
        })
        .await;
    }

    /// Waits until everything that the source has now is applied. The source itself says what it has: the status
    /// only knows what was fetched.
    pub async fn wait_applied(&self, source: &Server) {
        let sql = match source.engine() {
            Engine::MariaDb | Engine::MySql56 => "SHOW MASTER STATUS",
            Engine::MySql97 => "SHOW BINARY LOG STATUS",
            Engine::Seekdb => panic!("seekdb has no binary log"),
        };
        let row = source.rows::<Row>(sql).await.remove(0);
        let end: (String, u64) = (row.get(0).unwrap(), row.get(1).unwrap());
        // Right behind a swap the position may still be the other server's, whose files have the same names.
        let whose = match source.engine() {
            Engine::MariaDb => format!("-{}-", source.value::<u64>("SELECT @@server_id").await),
            _ => source.value::<String>("SELECT @@server_uuid").await,
        };
        let turned = !self.admin("SHOW CUTOVERS").await.is_empty();
        let anonymous = source.engine() != Engine::MariaDb
            && source.value::<String>("SELECT @@GLOBAL.gtid_mode").await == "OFF";
        if turned && anonymous {
            // No GTID says whose the position is; the lag is of the leg that runs.
            self.wait_phase(&["following", "switched"]).await;
        }
        until(&format!("{end:?} to be applied"), Duration::from_secs(60), async || {
            let applied = self.status_of("applied_position").await;
            // gtids (file:offset), or without GTIDs file:offset; the files' numbers have one width, so their names sort.
            let place = applied.rsplit_once(" (").map_or(applied.as_str(), |(_, place)| place);
            let coordinates = place.trim_end_matches(')').split_once(':');
            let there = (!turned || anonymous || applied.contains(&whose))
                && coordinates
                    .is_some_and(|(file, offset)| (file.to_owned(), offset.parse().unwrap_or(0_u64)) >= end);
            if there { Ok(()) } else { Err(applied) }
        })
        .await;
    }

    /// Cuts over, asking again while it is refused for lag or a row that is still being compared.
    pub async fn cut_over(&self) -> Record {
        self.cut_over_by("CUTOVER").await
    }

    /// The same by another statement than the usual one.
    pub async fn cut_over_by(&self, statement: &str) -> Record {
        until("a cutover", Duration::from_secs(60), async || {
            let row = self.try_admin(statement).await?.remove(0);
            let route = self.status_of("route").await;
            if route == "target" { Ok(row) } else { Err(format!("route {route}: {row:?}")) }
        })
        .await
    }

    /// Moves the application to the side that doesn't serve, asking again while that is refused for lag or a row that is
    /// just being compared. Returns the pause in ms.
    pub async fn turn(&self) -> String {
        let from = self.status_of("route").await;
        let statement = if from == "source" { "CUTOVER" } else { "ROLLBACK CUTOVER" };
        until(statement, Duration::from_secs(90), async || {
            let row = self.try_admin(statement).await?.remove(0);
            let route = self.status_of("route").await;
            if route == from { Err(format!("{row:?}")) } else { Ok(row["pause_ms"].clone()) }
        })
        .await
    }

    /// Waits until no session of the proxy is on the source, and returns how many there are.
    pub async fn wait_all_moved(&self) -> usize {
        self.wait_all_on("target").await
    }

    /// Waits until every session of the proxy is on that side, and returns how many there are.
    pub async fn wait_all_on(&self, side: &str) -> usize {
        until(&format!("every session on the {side}"), Duration::from_secs(20), async || {
            let rows = self.admin("SHOW SESSIONS").await;
            let left: Vec<&Record> = rows.iter().filter(|row| row["backend"] != side).collect();
            if left.is_empty() { Ok(rows.len()) } else { Err(format!("{left:?}")) }
        })
        .await
    }
}

impl Drop for Changeover {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of changeover's log:\n{}", tail(&self.log_path()));
            if std::env::var_os("CHANGEOVER_KEEP").is_some() {
                let copy = std::env::temp_dir().join(format!("changeover-kept-{}.log", self.port()));
                let _ = fs::copy(self.log_path(), &copy);
                eprintln!("the whole of it: {}", copy.display());
            }
        }
        self.kill_9();
    }
}

/// A connection to a process that may die at any moment. The kernel can take one for established whose listener goes away just
/// then; nobody ever says anything on it.
pub async fn connect(opts: impl Into<Opts>) -> Result<Conn, mysql_async::Error> {
    match tokio::time::timeout(SILENCE, Conn::new(opts.into())).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// The binary under test, with nothing of our own environment's configuration.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_changeover"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHANGEOVER_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same with the soft limit of open files that systems start a process with: it has to raise it by itself.
fn with_few_files(program: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 1024 && exec \"$0\" \"$@\""]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Runs a command of the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// `changeover check` with these settings: exit code, and both outputs together.
pub fn check(settings: &Settings) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = settings.write(dir.path());
    let output = run(&["check", "--config", file.to_str().unwrap()]);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code().unwrap_or(-1), text.join("\n"))
}

fn record(row: Row) -> Record {
    let columns = row.columns();
    let names = columns.iter().map(|column| column.name_str().into_owned());
    let values = row.unwrap().into_iter().map(|value| match value {
        Value::NULL => String::new(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    });
    names.zip(values).collect()
}
