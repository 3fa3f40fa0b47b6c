//! Scratch MariaDB servers in the demo's temporary folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};

use super::process::Process;

/// How long a server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(60);

/// A running MariaDB with row binlog and GTIDs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// TCP port on 127.0.0.1.
    pub(crate) port: u16,
    _process: Process,
}

/// Initialises one data folder and starts two servers on a copy each.
pub(crate) async fn start_two(dir: &Path) -> Result<(Scratch, Scratch)> {
    let program = mariadbd()?;
    let template = dir.join("template");
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.args(as_root()).arg("--innodb-log-file-size=256M");
    install.arg(format!("--datadir={}", template.display()));
    let log = dir.join("install.log");
    finish(&install, &log).await.context("mariadb-install-db could not make a data folder")?;
    for name in ["source", "target"] {
        std::fs::create_dir(dir.join(name))?;
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto", "--sparse=always"])
            .arg(&template)
            .arg(dir.join(name).join("data"));
        finish(&copy, &log).await?;
    }
    std::fs::remove_dir_all(&template)?;
    tokio::try_join!(
        Scratch::start(&program, dir.join("source"), 101),
        Scratch::start(&program, dir.join("target"), 102)
    )
}

impl Scratch {
    async fn start(program: &Path, dir: PathBuf, server_id: u32) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .arg("--no-defaults")
            .args(as_root())
            .arg(format!("--datadir={}", dir.join("data").display()))
            // A server that starts deletes what others have as temporary tables in its temporary folder.
            .arg(format!("--tmpdir={}", dir.display()))
            .arg(format!("--socket={}", dir.join("s").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--log-bin={}", dir.join("data/bin").display()))
            .arg(format!("--port={port}"))
            .arg(format!("--server-id={server_id}"))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--binlog-format=ROW"])
            .args(["--gtid-strict-mode=ON", "--max-connections=500", "--character-set-server=utf8mb4"])
            .args(["--innodb-buffer-pool-size=384M", "--innodb-log-file-size=256M"])
            .args(["--innodb-flush-log-at-trx-commit=1", "--loose-innodb-doublewrite=ON"]);
        let log = dir.join("log");
        let mut process = Process::start(&command, &log).context("mariadbd could not be started")?;
        let began = Instant::now();
        loop {
            match Conn::new(options(port, "root", "", None)).await {
                Ok(_) => return Ok(Self { port, _process: process }),
                Err(error) if began.elapsed() > START_MAX => {
                    bail!("mariadbd doesn't answer: {error}\n{}", tail(&log, 20))
                }
                Err(_) => {}
            }
            if let Some(status) = process.ended() {
                bail!("mariadbd ended at its start ({status})\n{}", tail(&log, 20));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Options of a direct connection as root.
    pub(crate) fn root(&self) -> Opts {
        options(self.port, "root", "", None)
    }

    /// Runs statements as root on one connection.
    pub(crate) async fn run(&self, statements: &[&str]) -> Result<()> {
        let mut conn = Conn::new(self.root()).await?;
        for sql in statements {
            conn.query_drop(*sql).await.with_context(|| format!("in {sql}"))?;
        }
        conn.disconnect().await?;
        Ok(())
    }
}

/// Options of a connection to a port of 127.0.0.1 that ask the server nothing at the start.
pub(crate) fn options(port: u16, user: &str, password: &str, schema: Option<&str>) -> Opts {
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

/// A port that nobody listens on, below the range that the kernel hands to outgoing connections, so that it stays
/// free until its server takes it.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = (std::process::id() % 10_000) as u16;
    for _ in 0..10_000 {
        let port = 20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 32000 on 127.0.0.1")
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path, lines_max: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(lines_max)).copied().collect::<Vec<_>>().join("\n")
}

/// Runs a short program to its end.
async fn finish(command: &Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut process =
        Process::start(command, log).with_context(|| format!("{program} could not be started"))?;
    loop {
        match process.ended() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{program} failed ({status})\n{}", tail(log, 20)),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A server started by root has to be told that this is meant.
fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

/// The server program, which is outside the path of ordinary users.
fn mariadbd() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join("mariadbd"))
        .find(|program| program.exists())
        .context("mariadbd is missing: run ./demo, which installs it, or install MariaDB's server package")
}
