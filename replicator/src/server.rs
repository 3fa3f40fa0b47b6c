//! Control connections to a server, what kind of server it is, and where its history stands (`position`).

mod position;
mod prepared;
pub(crate) mod replication;
pub(crate) mod xa;

use std::time::Duration;

use config::{BackendConfig, Dialect, Flavor, ServerVersion, Side, TableName, Verify};
use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, OptsBuilder, SslOpts};

pub(crate) use self::position::{consistent_snapshot_mariadb, status_statement, visible_coordinates};
pub use self::position::{end_position, start_position};

use crate::error::{Error, Result};

/// How long dialling, authentication and session setup may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Largest packet we accept: what the protocol allows.
const PACKET_BYTES_MAX: usize = 1 << 30;
/// The version that OceanBase says it is. No MySQL of that version has a JSON of its own that is moved otherwise.
pub(crate) const OCEANBASE_SAYS: (u16, u16, u16) = (5, 7, 25);
/// Limit on a statement and on a transaction in OceanBase: ten hours.
const OCEANBASE_LIMIT_US: u64 = 36_000_000_000;

/// A server's identity, as preflight and pipeline need it.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Family and version.
    pub version: ServerVersion,
    /// `@@server_uuid` of MySQL, server_id, host, port and data folder of MariaDB: equal for one server reached
    /// twice. Whether two *live* servers are one is asked by preflight in a way that can't be fooled.
    pub identity: String,
    /// `@@server_id`.
    pub server_id: u32,
    /// `@@max_allowed_packet`, bytes.
    pub max_allowed_packet: u64,
    /// It keeps names of schemas and tables in lower case.
    pub folds_names: bool,
    /// Cascades of foreign keys are row events of their own (MySQL 9.6 and later).
    pub cascades_in_binlog: bool,
    /// It is followed by GTIDs: MariaDB, and MySQL with `gtid_mode = ON`. Any other is followed by file and offset.
    pub has_gtids: bool,
}

impl ServerInfo {
    /// What its definitions are written in.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        Dialect::of(self.version)
    }
}

/// Connects with the session every stage relies on: `SET NAMES binary`, time_zone '+00:00', sql_mode
/// NO_AUTO_VALUE_ON_ZERO and ALLOW_INVALID_DATES alone (id 0 and dates that don't exist are values like any
/// other), wait_timeout 28800 and net timeouts raised, autocommit on, REPEATABLE READ, max_allowed_packet 1 GiB on the client side,
/// group_concat_max_len 64 MiB (the types of a JSON document), CLIENT_FOUND_ROWS, a 10 s limit on connecting.
pub async fn connect(side: Side, backend: &BackendConfig) -> Result<Conn> {
    let place = || format!("connecting to {}", backend.address());
    // Without the full text of the password there is nothing to log in with; MySQL compares bytes, the driver
    // takes text only.
    let password = backend.password.expose_str().ok_or_else(|| {
        Error::definite(
            side,
            place(),
            "the password isn't valid UTF-8, which the driver can't send; change it",
        )
    })?;
    let opts = OptsBuilder::default()
        .ip_or_hostname(backend.host.clone())
        .tcp_port(backend.port)
        .user(Some(backend.user.clone()))
        .pass((!password.is_empty()).then(|| password.to_owned()))
        .prefer_socket(false)
        .ssl_opts(tls(backend))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .stmt_cache_size(0)
        .client_found_rows(true)
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(28_800));
    let connecting = async {
        let mut conn = Conn::new(opts).await?;
        prepare_session(&mut conn).await?;
        Ok(conn)
    };
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(Error::database(side, place(), &error)),
        Err(_) => Err(Error::transient(
            side,
            place(),
            format!("no answer within {} s; it is tried again", CONNECT_LIMIT.as_secs()),
        )),
    }
}

/// TLS as configured, in the driver's words.
fn tls(backend: &BackendConfig) -> Option<SslOpts> {
    let (verify, ca_pem) = backend.tls.parts()?;
    let options = SslOpts::default()
        // It takes no empty list of authorities, not even where none is asked.
        .with_disable_built_in_roots(verify == Verify::Identity)
        .with_danger_accept_invalid_certs(verify == Verify::None);
    let options = match backend.tls.identity() {
        None => options,
        Some(identity) => {
            let (cert, key) = (identity.cert_pem.clone(), identity.key_pem.expose().to_vec());
            options.with_client_identity(Some(ClientIdentity::new(cert.into(), key.into())))
        }
    };
    Some(if ca_pem.is_empty() { options } else { options.with_root_certs(vec![ca_pem.to_vec().into()]) })
}

/// The session settings that every stage relies on, on every server.
async fn prepare_session(conn: &mut Conn) -> std::result::Result<(), mysql_async::Error> {
    conn.query_drop(
        "SET NAMES binary, SESSION time_zone = '+00:00', \
         SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', SESSION wait_timeout = 28800, SESSION net_read_timeout = 600, \
         SESSION net_write_timeout = 600, SESSION autocommit = 1, SESSION sql_select_limit = 18446744073709551615, SESSION sql_safe_updates = 0, \
         SESSION group_concat_max_len = 67108864",
    )
    .await?;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    // A limit that an administrator set for applications must not cut a copy short. The two families spell it
    // differently, and a server without either has no such limit.
    for statement in ["SET SESSION max_statement_time = 0", "SET SESSION max_execution_time = 0"] {
        match conn.query_drop(statement).await {
            Ok(()) => break,
            Err(mysql_async::Error::Server(error)) if error.code == 1193 => {}
            Err(error) => return Err(error),
        }
    }
    // OceanBase says that it is this MySQL. It ends statements after ten seconds, and a LOAD DATA in the middle.
    if conn.server_version() == OCEANBASE_SAYS {
        let limit = OCEANBASE_LIMIT_US;
        match conn
            .query_drop(format!("SET SESSION ob_query_timeout = {limit}, SESSION ob_trx_timeout = {limit}"))
            .await
        {
            Err(mysql_async::Error::Server(error)) if error.code == 1193 => {}
            result => result?,
        }
    }
    Ok(())
}

/// True where a session that says nothing else logs whole row images. Each event is looked at all the same.
pub(crate) async fn logs_whole_rows(side: Side, conn: &mut Conn) -> Result<bool> {
    let image: Option<(String, String)> = conn
        .query_first("SHOW GLOBAL VARIABLES LIKE 'binlog_row_image'")
        .await
        .map_err(|error| Error::database(side, "asking for binlog_row_image", &error))?;
    Ok(image.is_none_or(|(_, image)| image.eq_ignore_ascii_case("FULL")))
}

/// Asks a server who it is.
pub async fn inspect(side: Side, conn: &mut Conn) -> Result<ServerInfo> {
    const PLACE: &str = "asking the server who it is";
    let database = |error: mysql_async::Error| Error::database(side, PLACE, &error);
    let row: Option<(String, u32, u64, u8)> = conn
        .query_first(
            "SELECT VERSION(), @@GLOBAL.server_id, @@GLOBAL.max_allowed_packet, @@GLOBAL.lower_case_table_names",
        )
        .await
        .map_err(database)?;
    let (text, server_id, max_allowed_packet, folds) =
        row.ok_or_else(|| Error::definite(side, PLACE, "the server gave no row"))?;
    let version = ServerVersion::parse(&text).ok_or_else(|| {
        Error::definite(side, PLACE, format!("its version {text:?} isn't one of MariaDB or MySQL"))
    })?;
    let identity = match version.flavor {
        Flavor::MySql => "SELECT @@GLOBAL.server_uuid",
        Flavor::MariaDb => {
            "SELECT CONCAT_WS(':', @@GLOBAL.server_id, @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.datadir)"
        }
    };
    let identity: Option<String> = conn.query_first(identity).await.map_err(database)?;
    let identity = identity.ok_or_else(|| Error::definite(side, PLACE, "the server has no identity"))?;
    let cascades_in_binlog = version.at_least(Flavor::MySql, 9, 6) && {
        // Only the SQL layer's own foreign keys are logged; the engine's can be chosen at start.
        let native: Option<(String, String)> = conn
            .query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'")
            .await
            .map_err(database)?;
        native.is_none_or(|(_, value)| value.eq_ignore_ascii_case("OFF") || value == "0")
    };
    let has_gtids = version.flavor == Flavor::MariaDb || {
        let mode: Option<(String, String)> =
            conn.query_first("SHOW GLOBAL VARIABLES LIKE 'gtid_mode'").await.map_err(database)?;
        mode.is_some_and(|(_, mode)| mode.eq_ignore_ascii_case("ON"))
    };
    Ok(ServerInfo {
        version,
        identity,
        server_id,
        max_allowed_packet,
        folds_names: folds != 0,
        cascades_in_binlog,
        has_gtids,
    })
}

/// Tables of all schemas whose engine has no transactions.
///
/// # Errors
/// The server can't be asked.
pub(crate) async fn tables_without_transactions(side: Side, conn: &mut Conn) -> Result<Vec<TableName>> {
    let rows: Vec<(String, String)> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
             AND ENGINE IN ('MyISAM', 'Aria', 'MEMORY')",
        )
        .await
        .map_err(|error| Error::database(side, "looking for tables without transactions", &error))?;
    Ok(rows.into_iter().map(|(schema, table)| TableName::new(schema, table)).collect())
}
