//! Control connections to a server, and what kind of server it is. (H6)

use config::{BackendConfig, ServerVersion, Side};
use mysql_async::Conn;

use crate::error::Result;

/// A server's identity, as preflight and pipeline need it.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Family and version.
    pub version: ServerVersion,
    /// `@@server_uuid` of MySQL, `@@server_uid`/hostname:port of MariaDB: equal for one server reached twice.
    pub identity: String,
    /// `@@server_id`.
    pub server_id: u32,
    /// `@@max_allowed_packet`, bytes.
    pub max_allowed_packet: u64,
    /// Cascades of foreign keys are row events of their own (MySQL 9.6 and later).
    pub cascades_in_binlog: bool,
}

/// Connects with the session every stage relies on: `SET NAMES binary`, time_zone '+00:00', sql_mode
/// 'NO_AUTO_VALUE_ON_ZERO' alone (zero dates and id 0 are values like any other), wait_timeout 28800 and
/// net timeouts raised, autocommit on, max_allowed_packet 1 GiB on the client side, CLIENT_FOUND_ROWS, a 10 s
/// limit on connecting.
pub async fn connect(_side: Side, _backend: &BackendConfig) -> Result<Conn> {
    todo!()
}

/// Asks a server who it is.
pub async fn inspect(_side: Side, _conn: &mut Conn) -> Result<ServerInfo> {
    todo!()
}

/// The start position P0: every transaction in it is visible to every read that begins after this call
/// returned. MySQL: `gtid_executed` (a transaction enters it after its engine commit); MariaDB: the position of
/// a consistent snapshot (the binlog is written before the engine commits, so `gtid_binlog_pos` could name a
/// transaction that no read sees yet).
pub async fn start_position(
    _side: Side,
    _info: &ServerInfo,
    _conn: &mut Conn,
) -> Result<config::progress::ReplicationPosition> {
    todo!()
}

/// The end of the binlog: every transaction that any earlier read could see is at or before its coordinates.
pub async fn end_position(
    _side: Side,
    _info: &ServerInfo,
    _conn: &mut Conn,
) -> Result<config::progress::ReplicationPosition> {
    todo!()
}
