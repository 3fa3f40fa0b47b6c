//! The real thing: `changeover serve` as a process of its own, driven over its admin port like an operator would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::process::Process;
use super::scratch::{Scratch, free_port, options, tail};

/// Name of the admin account, which is the demo's own.
pub(crate) const ADMIN: &str = "admin";
/// Its password.
pub(crate) const ADMIN_PASSWORD: &str = "demo";

/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// A running `changeover serve`; killed when dropped.
pub(crate) struct Serve {
    /// Port of the proxy.
    pub(crate) proxy_port: u16,
    /// Port for admin SQL.
    pub(crate) admin_port: u16,
    log: PathBuf,
    process: Process,
}

/// A row of an admin statement, by column name.
pub(crate) type Record = BTreeMap<String, String>;

impl Serve {
    /// Writes a configuration as an operator would, and starts it.
    pub(crate) async fn start(
        dir: &Path,
        source: &Scratch,
        target: &Scratch,
        console: Option<&str>,
    ) -> Result<Self> {
        let (proxy_port, admin_port) = (free_port()?, free_port()?);
        let file = dir.join("changeover.toml");
        let mut text = format!(
            "state_dir = \"{state_dir}\"\n\
             [proxy]\nlisten = \"127.0.0.1:{proxy_port}\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin_port}\"\nuser = \"{ADMIN}\"\npassword = \"{ADMIN_PASSWORD}\"\n\
             [source]\nurl = \"mysql://changeover@127.0.0.1:{source}\"\npassword = \"changeover\"\n\
             [target]\nurl = \"mysql://changeover@127.0.0.1:{target}\"\npassword = \"changeover\"\n\
             [migration]\nname = \"shop\"\nschemas = [\"shop\", \"shop_stats\"]\n\
             # Both servers, the application and Changeover share this machine.\n\
             [snapshot]\nreaders = 2\n",
            state_dir = dir.join("state").display(),
            source = source.port,
            target = target.port,
        );
        if let Some(console) = console {
            text.push_str(&format!("[console]\nlisten = \"{console}\"\n"));
        }
        std::fs::write(&file, text)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--config").arg(&file);
        // Whatever the caller's environment says is meant for a migration of the caller's own.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHANGEOVER_") {
                command.env_remove(name);
            }
        }
        let log = dir.join("changeover.log");
        let process = Process::start(&command, &log).context("changeover serve could not be started")?;
        let mut serve = Self { proxy_port, admin_port, log, process };
        let began = Instant::now();
        loop {
            match serve.admin().await {
                Ok(_) => return Ok(serve),
                Err(error) if began.elapsed() > START_MAX => {
                    bail!("changeover serve doesn't answer: {error:#}\n{}", serve.log_tail())
                }
                Err(_) => serve.alive().with_context(|| serve.log_tail())?,
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// An error where it is gone.
    pub(crate) fn alive(&mut self) -> Result<()> {
        match self.process.ended() {
            None => Ok(()),
            Some(status) => bail!("changeover serve ended ({status})"),
        }
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log, 25)
    }

    /// A connection to the admin port.
    pub(crate) async fn admin(&self) -> Result<Admin> {
        let opts = options(self.admin_port, ADMIN, ADMIN_PASSWORD, None);
        Ok(Admin { conn: Conn::new(opts).await.context("logging in to the admin port")? })
    }
}

/// A connection that speaks admin SQL.
pub(crate) struct Admin {
    conn: Conn,
}

impl Admin {
    /// Runs a statement.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<Record>> {
        let rows: Vec<Row> = self.conn.query(sql).await.with_context(|| sql.to_owned())?;
        Ok(rows.into_iter().map(record).collect())
    }

    /// Runs a statement that answers with one row.
    pub(crate) async fn row(&mut self, sql: &str) -> Result<Record> {
        self.query(sql).await?.into_iter().next().with_context(|| format!("{sql} answered no row"))
    }
}

/// A cell as text, empty for NULL or a column that isn't there.
pub(crate) fn cell<'a>(record: &'a Record, column: &str) -> &'a str {
    record.get(column).map_or("", String::as_str)
}

/// A cell as a number, 0 for anything else.
pub(crate) fn number(record: &Record, column: &str) -> u64 {
    cell(record, column).parse::<f64>().map_or(0, |number| number as u64)
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
