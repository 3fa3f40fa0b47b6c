//! Dials a backend and logs an application's user in.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use config::{BackendConfig, SentHeader, ServerVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::whom::Whom;
use crate::auth::client::{self, LoginError, log_in_securely, read_greeting};
use crate::auth::{Credential, Login};
use crate::error::ConnectError;
use crate::protocol::capability::Capabilities;
use crate::protocol::frame::{FrameError, Frames};
use crate::protocol::packet::{Handshake, OkPacket, StatusFlags};
use crate::protocol::socket::Socket;
use crate::protocol::stream::Stream;

const COM_QUIT: &[u8] = &[1];
/// utf8mb4_general_ci: every server has it.
const PROBE_COLLATION: u16 = 45;
const PROBE_PACKET_MAX: u32 = 1 << 24;

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

/// A connection that was dialled and greeted, and on which nobody has logged in yet.
#[derive(Debug)]
pub struct Dialled {
    stream: Stream,
    frames: Frames,
    whom: Whom,
    /// What the backend greeted with.
    pub greeting: Greeting,
}

/// Dials `backend` and logs the application's user in as it asked for, within `timeout`.
///
/// Cancel safety: dropping it closes the connection.
pub async fn connect(
    backend: &BackendConfig,
    login: &Login,
    credential: &Credential,
    timeout: Duration,
) -> Result<BackendConnection, ConnectError> {
    let work = async {
        let dialled = dial_for(backend, Whom::from(login.client)).await?;
        dialled.admit(backend, login, credential).await
    };
    within(backend, timeout, Box::pin(work)).await
}

/// Dials `backend` for a client at this address, and reads its greeting, within `timeout`.
///
/// Cancel safety: dropping it closes the connection, which the backend counts: see [`Dialled::leave`].
pub async fn dial(
    backend: &BackendConfig,
    client: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Dialled, ConnectError> {
    within(backend, timeout, Box::pin(dial_for(backend, Whom::from(client)))).await
}

impl Dialled {
    /// Logs the application's user in as it asked for, within `timeout`.
    ///
    /// Cancel safety: dropping it closes the connection.
    pub async fn log_in(
        self,
        backend: &BackendConfig,
        login: &Login,
        credential: &Credential,
        timeout: Duration,
    ) -> Result<BackendConnection, ConnectError> {
        within(backend, timeout, Box::pin(self.admit(backend, login, credential))).await
    }

    /// True where the backend was told this client's address, or isn't told any.
    #[must_use]
    pub fn speaks_for(&self, client: Option<SocketAddr>, backend: &BackendConfig) -> bool {
        backend.proxy_protocol == SentHeader::Off || self.whom == Whom::from(client)
    }

    /// Ends a connection for which no login came. Servers count those that end at the greeting, and block a host
    /// that makes too many of them (max_connect_errors), so the service account logs in and quits.
    pub async fn leave(self, backend: &BackendConfig, timeout: Duration) {
        // Whatever comes of it: also a login that is refused isn't counted.
        let _ = tokio::time::timeout(timeout, Box::pin(self.quit(backend))).await;
    }

    /// Returns when the backend doesn't wait any longer: it has closed, or said something. Never where it was sent
    /// a PROXY header: one that doesn't take it closes at once, and the login has to find out, which can say why.
    ///
    /// Cancel safety: yes; nothing is read.
    pub async fn given_up(&self, backend: &BackendConfig) {
        match &self.stream {
            Stream::Plain(Socket::Epoll(socket)) if backend.proxy_protocol == SentHeader::Off => {
                drop(socket.peek(&mut [0]).await);
            }
            _ => std::future::pending().await,
        }
    }

    async fn admit(
        mut self,
        backend: &BackendConfig,
        login: &Login,
        credential: &Credential,
    ) -> Result<BackendConnection, LoginError> {
        let Greeting { version, handshake } = &self.greeting;
        let logged_in =
            log_in_securely(backend, &mut self.stream, &mut self.frames, handshake, login, credential).await;
        let ok = logged_in.map_err(|error| self.whom.explain(error, backend.proxy_protocol, *version))?;
        let status = OkPacket::parse(&ok, login.capabilities)?.status;
        Ok(BackendConnection {
            stream: self.stream,
            version: *version,
            connection_id: handshake.connection_id,
            capabilities: login.capabilities.of_session(),
            ok,
            status,
        })
    }

    /// Logs in as the service account and quits.
    async fn quit(mut self, backend: &BackendConfig) -> Result<Greeting, LoginError> {
        let login = Login {
            user: backend.user.clone().into_bytes(),
            schema: None,
            collation: PROBE_COLLATION,
            capabilities: Capabilities::PROTOCOL_41,
            max_packet: PROBE_PACKET_MAX,
            attributes: None,
            client: None,
        };
        let credential = match backend.password.is_empty() {
            true => Credential::Empty,
            false => Credential::Clear(backend.password.clone()),
        };
        let handshake = &self.greeting.handshake;
        // Whether the service account may enter is the control connection's business, which says it better.
        match log_in_securely(backend, &mut self.stream, &mut self.frames, handshake, &login, &credential)
            .await
        {
            Ok(_) => drop(Frames::new().write(&mut self.stream, COM_QUIT).await),
            Err(error) if self.whom.may_be_why(&error, backend.proxy_protocol) => {
                return Err(self.whom.explain(error, backend.proxy_protocol, self.greeting.version));
            }
            Err(_) => {}
        }
        Ok(self.greeting)
    }
}

/// Makes a connection to `backend` another user's, as COM_CHANGE_USER does: nothing of the session before is
/// left. Returns the payload of the OK packet, and its status flags.
///
/// Cancel safety: none; the connection of a dropped or failed change is of no more use.
pub async fn change_user(
    backend: &BackendConfig,
    stream: &mut Stream,
    version: ServerVersion,
    login: &Login,
    credential: &Credential,
    timeout: Duration,
) -> Result<(Vec<u8>, StatusFlags), ConnectError> {
    let change = async {
        let ok = client::change_user(stream, version, login, credential).await?;
        let status = OkPacket::parse(&ok, login.capabilities)?.status;
        Ok((ok, status))
    };
    within(backend, timeout, Box::pin(change)).await
}

/// Reads a backend's greeting: its version and what it can do.
///
/// It logs in as the service account and quits, whatever comes of it, because MySQL counts connections that
/// end at the greeting and blocks a host that makes too many (max_connect_errors).
///
/// Where the application's connections begin with a PROXY header, a second one does so too, and it is an error
/// where the backend doesn't take it: that is to be known before a cutover, and not from the sessions that move.
///
/// Cancel safety: dropping it closes the connection.
pub async fn probe(backend: &BackendConfig, timeout: Duration) -> Result<Greeting, ConnectError> {
    let work = async {
        let greeting = dial_for(backend, Whom::Nobody).await?.quit(backend).await?;
        if backend.proxy_protocol != SentHeader::Off {
            dial_for(backend, Whom::Ourselves).await?.quit(backend).await?;
        }
        Ok(greeting)
    };
    within(backend, timeout, Box::pin(work)).await
}

async fn within<T>(
    backend: &BackendConfig,
    timeout: Duration,
    work: impl Future<Output = Result<T, LoginError>>,
) -> Result<T, ConnectError> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no login within {timeout:?}"));
    match tokio::time::timeout(timeout, work).await {
        Ok(outcome) => outcome.map_err(|error| named(backend, error)),
        Err(_) => Err(named(backend, LoginError::Frame(FrameError::Io(late())))),
    }
}

fn named(backend: &BackendConfig, error: LoginError) -> ConnectError {
    let backend = backend.address();
    match error {
        LoginError::Refused(packet) => ConnectError::Refused { backend, packet },
        LoginError::Credential(packet) => ConnectError::Credential { backend, packet },
        LoginError::Protocol(reason) => ConnectError::Protocol { backend, reason },
        LoginError::Frame(FrameError::Io(source)) => ConnectError::Unreachable { backend, source },
        LoginError::Frame(other) => ConnectError::Protocol { backend, reason: other.to_string() },
    }
}

/// Connects, and says for whom. The header goes out before the greeting is read, because a load balancer in front of the server waits for it.
async fn dial_for(backend: &BackendConfig, whom: Whom) -> Result<Dialled, LoginError> {
    let mut socket = TcpStream::connect((backend.host.as_str(), backend.port)).await?;
    let header = whom.header(backend.proxy_protocol, socket.peer_addr()?);
    if !header.is_empty() {
        socket.write_all(&header).await?;
    }
    let mut stream = Stream::tcp(socket)?;
    let mut frames = Frames::new();
    let handshake = read_greeting(&mut stream, &mut frames).await?;
    let text = String::from_utf8_lossy(&handshake.server_version);
    let version = ServerVersion::parse(&text)
        .ok_or_else(|| LoginError::Protocol("its greeting names no version".to_owned()))?;
    Ok(Dialled { stream, frames, whom, greeting: Greeting { version, handshake } })
}
