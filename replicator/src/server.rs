//! Control connections to a server, what kind of server it is, and where its history stands.
//!
//! Both positions are bounds, from opposite sides. [`start_position`] may name too little, never too much: what it
//! leaves out is fetched and replayed, which safe mode can take. [`end_position`] may name too much, never too
//! little: waiting for it waits a moment longer.

use std::time::Duration;

use config::progress::ReplicationPosition;
use config::{BackendConfig, BinlogPosition, Dialect, Flavor, Gtid, GtidSet, ServerVersion, Side, Verify};
use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, OptsBuilder, Row, SslOpts};

use crate::error::{Error, Result};

/// How long dialling, authentication and session setup may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Largest packet we accept: what the protocol allows.
const PACKET_BYTES_MAX: usize = 1 << 30;
/// How long a start position waits for transactions that are between binlog and engine.
const OWNED_GTIDS_WAIT_S: u32 = 5;
/// How often the transactions between binlog and engine are looked at where the server can't be asked to wait.
const OWNED_GTIDS_POLL: Duration = Duration::from_millis(20);
/// The version that OceanBase says it is. No MySQL of that version has a JSON of its own that is moved otherwise.
pub(crate) const OCEANBASE_SAYS: (u16, u16, u16) = (5, 7, 25);
/// Limit on a statement and on a transaction in OceanBase: ten hours.
const OCEANBASE_LIMIT_US: u64 = 36_000_000_000;
/// Length of a binlog file's magic number, where its first event begins.
const BINLOG_MAGIC_BYTES: u64 = 4;

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
    Ok(ServerInfo {
        version,
        identity,
        server_id,
        max_allowed_packet,
        folds_names: folds != 0,
        cascades_in_binlog,
    })
}

/// The start position P0: every transaction in it is visible to every read that begins after this call
/// returned. MySQL: `gtid_executed` (a transaction enters it after its engine commit); MariaDB: the position of
/// a consistent snapshot (the binlog is written before the engine commits, so `gtid_binlog_pos` could name a
/// transaction that no read sees yet).
pub async fn start_position(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    match info.version.flavor {
        Flavor::MySql => start_position_mysql(side, info, conn).await,
        Flavor::MariaDb => start_position_mariadb(side, conn).await,
    }
}

/// The end of the binlog: every transaction that any earlier read could see is at or before its coordinates.
///
/// Behind a fence both spellings are exact; under traffic the GTID set may lag or lead the coordinates by what is
/// being committed.
pub async fn end_position(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    let coordinates = binlog_status(side, info, conn).await?;
    let variable = match info.version.flavor {
        Flavor::MySql => "@@GLOBAL.gtid_executed",
        Flavor::MariaDb => "@@GLOBAL.gtid_binlog_pos",
    };
    let gtids = gtid_set(side, info.version.flavor, conn, &format!("SELECT {variable}")).await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

/// The statement that says from where, and how, a server replicates.
pub(crate) fn show_replication(version: ServerVersion) -> &'static str {
    match version.flavor {
        Flavor::MariaDb => "SHOW ALL SLAVES STATUS",
        Flavor::MySql if version.at_least(Flavor::MySql, 8, 4) => "SHOW REPLICA STATUS",
        Flavor::MySql => "SHOW SLAVE STATUS",
    }
}

const POSITION: &str = "reading the binlog position";

/// Where the server's binlog ends: it holds every transaction that a read could see so far, and those that are
/// between binlog and engine.
async fn binlog_status(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<BinlogPosition> {
    let statement = if info.version.at_least(Flavor::MySql, 8, 4) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    };
    let row: Option<Row> =
        conn.query_first(statement).await.map_err(|e| Error::database(side, POSITION, &e))?;
    let row = row.ok_or_else(|| {
        Error::definite(side, POSITION, "the binary log is off; start the server with log_bin")
    })?;
    let file = row.get_opt::<String, _>(0).and_then(std::result::Result::ok);
    let offset = row.get_opt::<u64, _>(1).and_then(std::result::Result::ok);
    match (file, offset) {
        (Some(file), Some(offset)) => Ok(BinlogPosition { file, offset }),
        _ => {
            Err(Error::definite(side, POSITION, format!("{statement} has no file and offset on this server")))
        }
    }
}

/// Reads a GTID set with a statement of one column and one row. NULL is an answer that says nothing.
async fn gtid_set(side: Side, flavor: Flavor, conn: &mut Conn, statement: &str) -> Result<GtidSet> {
    let text: Option<Option<String>> =
        conn.query_first(statement).await.map_err(|e| Error::database(side, POSITION, &e))?;
    let text = text.flatten().ok_or_else(|| {
        Error::transient(side, POSITION, "the server gave no GTID position for its binlog; it is asked again")
    })?;
    GtidSet::parse(flavor, &text).map_err(|e| Error::definite(side, POSITION, e.to_string()))
}

/// Coordinates first, then whatever was on its way into the engine at that moment is waited for: what is in the
/// binlog up to the coordinates had its GTID already, so it is executed or owned. The GTID set that is read last
/// holds all of it, and a transaction enters `gtid_executed` only after its engine commit.
async fn start_position_mysql(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<ReplicationPosition> {
    let database = |error: mysql_async::Error| Error::database(side, POSITION, &error);
    let mut coordinates = binlog_status(side, info, conn).await?;
    if !info.version.at_least(Flavor::MySql, 5, 7) {
        return start_position_mysql_56(side, coordinates, conn).await;
    }
    let owned = owned_gtids(side, conn).await?;
    if !owned.is_empty() {
        let waited: Option<Option<i64>> = conn
            .query_first(format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{owned}', {OWNED_GTIDS_WAIT_S})"))
            .await
            .map_err(database)?;
        if waited.flatten() != Some(0) {
            // Someone holds a GTID without committing it. The server rotates only when nothing is on its way
            // into the engine, so the start of the file is a bound that always holds.
            coordinates.offset = BINLOG_MAGIC_BYTES;
        }
    }
    let gtids = gtid_set(side, Flavor::MySql, conn, "SELECT @@GLOBAL.gtid_executed").await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

/// MySQL 5.6 counts a transaction as executed when it is in the binlog, and as owned until its engine has committed
/// it. So the set is read first, and then waited for until nothing of it is owned any more. It can't be asked to wait.
async fn start_position_mysql_56(
    side: Side,
    coordinates: BinlogPosition,
    conn: &mut Conn,
) -> Result<ReplicationPosition> {
    let gtids = gtid_set(side, Flavor::MySql, conn, "SELECT @@GLOBAL.gtid_executed").await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(OWNED_GTIDS_WAIT_S));
    loop {
        let owned = owned_gtids(side, conn).await?;
        let owned = GtidSet::parse(Flavor::MySql, &owned)
            .map_err(|error| Error::definite(side, POSITION, error.to_string()))?;
        let inside = owned.intervals().iter().any(|(uuid, tag, first, _)| {
            gtids.contains(&Gtid::MySql { uuid: *uuid, tag: tag.clone(), number: *first })
        });
        if !inside {
            return Ok(ReplicationPosition { gtids, coordinates });
        }
        if tokio::time::Instant::now() >= deadline {
            let what = "the source has transactions in its binlog that it doesn't commit; it is asked again";
            return Err(Error::transient(side, format!("binlog {coordinates}"), what));
        }
        tokio::time::sleep(OWNED_GTIDS_POLL).await;
    }
}

/// The GTIDs of transactions that aren't committed yet, as a set.
async fn owned_gtids(side: Side, conn: &mut Conn) -> Result<String> {
    let owned: Option<Option<String>> = conn
        .query_first("SELECT @@GLOBAL.gtid_owned")
        .await
        .map_err(|error| Error::database(side, POSITION, &error))?;
    Ok(without_owners(owned.flatten().as_deref().unwrap_or_default()))
}

/// `uuid:5#24, uuid:6#25` (GTIDs and the threads that own them) as a GTID set. Anything but the characters of
/// one is dropped, since it goes into a statement.
fn without_owners(owned: &str) -> String {
    let mut set = String::with_capacity(owned.len());
    let mut in_owner = false;
    for c in owned.chars() {
        match c {
            '#' => in_owner = true,
            ',' | ':' => {
                in_owner = false;
                set.push(c);
            }
            _ if in_owner => {}
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => set.push(c),
            _ => {}
        }
    }
    set
}

/// The binlog position of a consistent snapshot: MariaDB takes both under the lock that orders engine commits, so
/// everything before that position is in the snapshot, and in every later one.
async fn start_position_mariadb(side: Side, conn: &mut Conn) -> Result<ReplicationPosition> {
    let coordinates = snapshot_coordinates_mariadb(side, conn).await?;
    let BinlogPosition { file, offset } = &coordinates;
    let statement = format!("SELECT BINLOG_GTID_POS('{}', {offset})", file.replace(['\'', '\\'], ""));
    let gtids = gtid_set(side, Flavor::MariaDb, conn, &statement).await?;
    Ok(ReplicationPosition { gtids, coordinates })
}

/// Coordinates up to which every transaction is visible to every read that begins after this call returned, without
/// the GTID set of [`start_position`], for which MariaDB reads its binlog file from the start.
pub(crate) async fn visible_coordinates(
    side: Side,
    info: &ServerInfo,
    conn: &mut Conn,
) -> Result<BinlogPosition> {
    match info.version.flavor {
        Flavor::MySql => Ok(start_position_mysql(side, info, conn).await?.coordinates),
        Flavor::MariaDb => snapshot_coordinates_mariadb(side, conn).await,
    }
}

async fn snapshot_coordinates_mariadb(side: Side, conn: &mut Conn) -> Result<BinlogPosition> {
    let result = consistent_snapshot_mariadb(side, conn).await;
    // The snapshot itself isn't needed: later reads see at least as much. Ended in any case, since an old
    // snapshot keeps the server from purging.
    let ended = conn.query_drop("ROLLBACK").await;
    let coordinates = result?;
    ended.map_err(|e| Error::database(side, POSITION, &e))?;
    Ok(coordinates)
}

/// Begins a consistent read and leaves it open; returns the coordinates at which it is, exactly.
pub(crate) async fn consistent_snapshot_mariadb(side: Side, conn: &mut Conn) -> Result<BinlogPosition> {
    let result = async {
        conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        conn.query::<(String, String), _>("SHOW STATUS LIKE 'binlog_snapshot_%'").await
    }
    .await;
    let rows = result.map_err(|e| Error::database(side, POSITION, &e))?;
    let value = |name: &str| {
        rows.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    };
    let file = value("Binlog_snapshot_file").filter(|file| !file.is_empty());
    let offset = value("Binlog_snapshot_position").and_then(|text| text.parse::<u64>().ok());
    let (Some(file), Some(offset)) = (file, offset) else {
        return Err(Error::definite(side, POSITION, "the binary log is off; start the server with log_bin"));
    };
    Ok(BinlogPosition { file: file.to_owned(), offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_cut_from_owned_gtids() {
        let check = |owned: &str, set: &str| assert_eq!(without_owners(owned), set, "{owned}");
        check("", "");
        check("a74f0b7b-251e-11ef:5#24", "a74f0b7b-251e-11ef:5");
        check("a74f:5#24:6#25,\nb8:1#3", "a74f:5:6,b8:1");
        check("a74f:tag_1:5#24", "a74f:tag_1:5");
        check("a74f:5') OR ('1", "a74f:5OR1");
    }
}
