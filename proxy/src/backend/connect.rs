//! Dials a backend and logs an application's user in.

use std::time::Duration;

use config::{BackendConfig, ServerVersion};

use crate::auth::{Credential, Login};
use crate::error::ConnectError;
use crate::protocol::capability::Capabilities;
use crate::protocol::packet::{Handshake, StatusFlags};
use crate::protocol::stream::Stream;

/// A logged-in connection of one application session.
#[derive(Debug)]
pub struct BackendConnection {
    /// The socket, at rest: nothing is on its way in either direction.
    pub stream: Stream,
    /// Family and version.
    pub version: ServerVersion,
    /// The backend's own id of it, for KILL.
    pub connection_id: u32,
    /// The flags that shape the session: as in the client's login.
    pub capabilities: Capabilities,
    /// Payload of the OK packet that ended the login; good to be sent to the client as it is.
    pub ok: Vec<u8>,
    /// Status flags of that packet.
    pub status: StatusFlags,
}

/// What a backend greets with.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Family and version.
    pub version: ServerVersion,
    /// The greeting itself.
    pub handshake: Handshake,
}

/// Dials `backend` and logs the application's user in as it asked for, within `timeout`.
///
/// Cancel safety: dropping it closes the connection.
pub async fn connect(
    _backend: &BackendConfig,
    _login: &Login,
    _credential: &Credential,
    _timeout: Duration,
) -> Result<BackendConnection, ConnectError> {
    todo!()
}

/// Reads a backend's greeting without logging in: its version and what it can do.
///
/// Cancel safety: dropping it closes the connection.
pub async fn probe(_backend: &BackendConfig, _timeout: Duration) -> Result<Greeting, ConnectError> {
    todo!()
}
