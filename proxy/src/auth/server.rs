//! The proxy as a server to its clients: the front door.
//!
//! Every client is asked for as much as can be replayed to whichever plugin the other backend wants. With
//! caching_sha2_password that is the password itself (over TLS, or encrypted for our RSA key), unless it is known
//! already and the client's token shows that it has it. A client that
//! answers with mysql_native_password gives SHA1 of its password away to whoever knows the stored hash; where
//! that can't be read, the client is asked to switch.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use config::{Flavor, Secret};
use tokio_rustls::TlsAcceptor;

use super::arrival::{Origin, Patience, late};
use super::challenge::{Challenge, Visitor, random_scramble, wrong_password};
use super::known::KnownPasswords;
use super::plugin::{Plugin, SCRAMBLE_LEN};
use super::{Credential, Login};
use crate::backend::connect::Greeting;
use crate::error::ClientError;
use crate::protocol::capability::Capabilities;
use crate::protocol::frame::Frames;
use crate::protocol::packet::{ChangeUser, ErrPacket, Handshake, HandshakeResponse, SslRequest, StatusFlags};
use crate::protocol::stream::Stream;
use crate::tls::{RsaKey, Tls};

/// More than any server takes, in bytes: it keeps what a session remembers small.
const NAME_MAX: usize = 512;

/// What every client of a listener meets.
#[derive(Debug)]
pub struct FrontDoor {
    /// Whether clients may, must or can't use TLS.
    pub tls: Tls,
    /// For passwords of clients without TLS.
    pub rsa: Arc<RsaKey>,
    /// Who decides.
    pub keeper: Keeper,
    /// How long clients may take.
    pub patience: Patience,
    /// Passwords that were right a short while ago.
    pub known: KnownPasswords,
}

impl FrontDoor {
    /// A front door with the usual patience.
    #[must_use]
    pub fn new(tls: Tls, rsa: Arc<RsaKey>, keeper: Keeper) -> Self {
        Self { tls, rsa, keeper, patience: Patience::default(), known: KnownPasswords::default() }
    }
}

/// Who decides whether a client may enter.
pub enum Keeper {
    /// The backend: the front door only learns the credential.
    Backend(Arc<dyn NativeHashes>),
    /// The front door itself knows the only account (admin port).
    Account {
        /// Its name.
        user: String,
        /// Its password.
        password: Secret,
    },
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Backend(_) => "Backend",
            Self::Account { .. } => "Account",
        })
    }
}

/// What is stored of a user's accounts.
#[derive(Debug, Clone, Default)]
pub struct StoredHashes {
    /// SHA1 of SHA1 of the password, of each account of mysql_native_password.
    pub hashes: Vec<[u8; 20]>,
    /// True where whoever comes by that name can log in with no other plugin, so that a token which fits none of
    /// the hashes was made with a wrong password.
    pub are_all: bool,
}

/// A boxed future of stored hashes.
pub type NativeHashesFuture<'a> = Pin<Box<dyn Future<Output = StoredHashes> + Send + 'a>>;

/// Where the stored hashes (SHA1 of SHA1 of the password) of mysql_native_password accounts are read.
pub trait NativeHashes: Send + Sync + 'static {
    /// The hashes that this user's accounts have; empty where there are none or they may not be read. The
    /// client's token is checked against each, so one too many does no harm. `anew`: nothing that was kept from
    /// an earlier question will do.
    fn hashes<'a>(&'a self, user: &'a [u8], anew: bool) -> NativeHashesFuture<'a>;
}

/// What one client is greeted with.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The version text of the serving backend, as it greets.
    pub server_version: Vec<u8>,
    /// The session's id: its backend connection's own, as a rule.
    pub connection_id: u32,
    /// As the serving backend greets.
    pub status: StatusFlags,
    /// See [`Capabilities::offered`].
    pub capabilities: Capabilities,
    /// Default collation of the serving backend, low byte.
    pub collation: u8,
    /// The plugin that the client is asked for first.
    pub plugin: Plugin,
    /// Where its address is known from.
    pub origin: Origin,
}

impl Hello {
    /// A greeting that looks like `serving`'s own, less what `other` lacks.
    ///
    /// The client is asked for caching_sha2_password, because only that yields the password, which a MySQL
    /// backend may need. Between two MariaDB servers SHA1 of it is enough, and some drivers can't do more
    /// without an extra library, so there the greeting names mysql_native_password as a direct one would.
    #[must_use]
    pub fn new(connection_id: u32, serving: &Greeting, other: &Greeting) -> Self {
        let both = [serving, other];
        let mariadb = both.iter().all(|greeting| greeting.version.flavor == Flavor::MariaDb);
        Self {
            server_version: serving.handshake.server_version.clone(),
            connection_id,
            status: serving.handshake.status,
            capabilities: Capabilities::offered(&both.map(|greeting| greeting.handshake.capabilities)),
            collation: serving.handshake.collation,
            plugin: if mariadb { Plugin::Native } else { Plugin::CachingSha2 },
            origin: Origin::Socket,
        }
    }
}

/// A client whose credential is known and which waits to hear whether it may enter.
#[derive(Debug)]
pub struct Accepted {
    /// Who it is and what it wants.
    pub login: Login,
    /// What is known of its password.
    pub credential: Credential,
    visitor: Visitor,
}

impl Accepted {
    /// Lets the client in with this OK payload: the backend's own, or one of ours.
    pub async fn admit(mut self, ok: &[u8]) -> Result<(Stream, Login, Credential), ClientError> {
        self.visitor.welcome(ok).await?;
        Ok((self.visitor.stream, self.login, self.credential))
    }

    /// Tells the client why not, and goes on as before: what a server may do after COM_CHANGE_USER only.
    pub async fn deny(mut self, packet: &ErrPacket) -> Result<Stream, ClientError> {
        self.visitor.send(&packet.encode()).await?;
        Ok(self.visitor.stream)
    }

    /// Tells the client why not, and closes.
    pub async fn refuse(mut self, packet: &ErrPacket) {
        self.visitor.refuse(packet).await;
    }

    /// True for a client that came by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.visitor.stream.is_tls()
    }
}

/// Greets a client and learns who it is. Everything that isn't a login ends in an error, with the
/// connection closed, within the front door's timeout and with bounded memory.
///
/// Cancel safety: dropping it closes the connection.
pub async fn accept(stream: Stream, door: &FrontDoor, hello: &Hello) -> Result<Accepted, ClientError> {
    in_time(door, welcome(stream, door, hello)).await
}

/// Learns who the client of a session wants to be after COM_CHANGE_USER (the whole payload). A client that
/// can't say it loses its connection.
///
/// The answer in the command is to a scramble that nobody keeps, so the client is always asked again; one
/// that can't be asked (without PLUGIN_AUTH) is let in without a password only.
///
/// Cancel safety: dropping it closes the connection.
pub async fn change_user(
    stream: Stream,
    door: &FrontDoor,
    login: &Login,
    payload: &[u8],
) -> Result<Accepted, ClientError> {
    let command = ChangeUser::parse(payload, login.capabilities)?;
    let challenge = Challenge {
        greeted: command.plugin.is_none().then_some((Plugin::Native, [0; SCRAMBLE_LEN])),
        user: command.user.clone(),
        auth: command.auth,
        plugin: command.plugin,
        rsa: Arc::clone(&door.rsa),
    };
    // Whether there are any was settled when the connection began; the backend expects as much.
    let attributes = login.attributes.as_ref().map(|_| command.attributes.unwrap_or_default());
    let login = Login {
        user: command.user,
        schema: command.schema,
        collation: command.collation.unwrap_or(login.collation),
        attributes,
        ..login.clone()
    };
    let visitor = Visitor::new(stream, login.client, Frames::after(0), door.patience);
    in_time(door, learn_again(visitor, door, challenge, login)).await
}

/// A wrong password that is known to be wrong goes to the backend as another wrong one: what becomes of the
/// session then, and after how many times, differs between the servers.
async fn learn_again(
    mut visitor: Visitor,
    door: &FrontDoor,
    challenge: Challenge,
    login: Login,
) -> Result<Accepted, ClientError> {
    let Keeper::Backend(hashes) = &door.keeper else {
        return decide(visitor, door, challenge, login).await;
    };
    let credential = match challenge.learn(&mut visitor, hashes.as_ref(), &door.known).await {
        Err(ClientError::Refused(_)) => wrong_password()?,
        learned => learned?,
    };
    Ok(Accepted { login, credential, visitor })
}

async fn in_time(
    door: &FrontDoor,
    login: impl Future<Output = Result<Accepted, ClientError>>,
) -> Result<Accepted, ClientError> {
    let login = tokio::time::timeout(door.patience.login, Box::pin(login));
    login.await.map_err(|_| late("login", door.patience.login))?
}

async fn welcome(stream: Stream, door: &FrontDoor, hello: &Hello) -> Result<Accepted, ClientError> {
    let client = match hello.origin {
        Origin::Named(client) => Some(client),
        Origin::Socket | Origin::MayBeNamed => stream.peer_addr(),
    };
    let mut visitor = Visitor::new(stream, client, Frames::new(), door.patience);
    let scramble = random_scramble()?;
    let offers_tls = door.tls.offered().is_some() && matches!(visitor.stream, Stream::Plain(_));
    let mut offered = hello.capabilities;
    if offers_tls {
        offered = offered | Capabilities::SSL;
    }
    visitor.send(&greeting(hello, offered, &scramble).encode()).await?;
    let mut payload = visitor.receive_first(hello.origin).await?;
    let request = SslRequest::parse(&payload);
    if request.is_some() {
        let tls = door.tls.offered().ok_or(ClientError::NotALogin("it began TLS, which wasn't offered"))?;
        visitor = visitor.secured(TlsAcceptor::from(Arc::clone(tls))).await?;
        payload = visitor.receive().await?;
    }
    let response = match &request {
        Some(request) => HandshakeResponse::parse_behind(request, &payload),
        None => HandshakeResponse::parse(&payload),
    };
    let response = match response {
        Ok(response) => response,
        Err(malformed) => {
            visitor.refuse(&bad_handshake()).await;
            return Err(malformed.into());
        }
    };
    if let Some(refusal) = unfit(&response, door, visitor.stream.is_tls()) {
        return visitor.refused(refusal).await;
    }
    let login = login_of(&response, hello.capabilities, visitor.client);
    let has_plugins = response.capabilities.contains(Capabilities::PLUGIN_AUTH);
    let challenge = Challenge {
        greeted: Some((hello.plugin, scramble)),
        user: response.user,
        auth: response.auth,
        plugin: has_plugins.then(|| response.plugin.unwrap_or_default()),
        rsa: Arc::clone(&door.rsa),
    };
    decide(visitor, door, challenge, login).await
}

async fn decide(
    mut visitor: Visitor,
    door: &FrontDoor,
    challenge: Challenge,
    login: Login,
) -> Result<Accepted, ClientError> {
    let credential = match &door.keeper {
        Keeper::Backend(hashes) => challenge.learn(&mut visitor, hashes.as_ref(), &door.known).await,
        Keeper::Account { user, password } => challenge.check(&mut visitor, user, password).await,
    };
    match credential {
        Ok(credential) => Ok(Accepted { login, credential, visitor }),
        Err(ClientError::Refused(packet)) => visitor.refused(packet).await,
        Err(error) => Err(error),
    }
}

fn greeting(hello: &Hello, capabilities: Capabilities, scramble: &[u8]) -> Handshake {
    Handshake {
        server_version: hello.server_version.clone(),
        connection_id: hello.connection_id,
        scramble: scramble.to_vec(),
        capabilities,
        collation: hello.collation,
        status: hello.status,
        plugin: hello.plugin.name().as_bytes().to_vec(),
    }
}

/// Why a response can't lead anywhere, whatever the password.
fn unfit(response: &HandshakeResponse, door: &FrontDoor, is_tls: bool) -> Option<ErrPacket> {
    if matches!(door.tls, Tls::Required(_)) && !is_tls {
        let text = "Connections using insecure transport are prohibited while --require_secure_transport=ON.";
        return Some(ErrPacket::new(3159, b"HY000", text));
    }
    if !response.capabilities.contains(Capabilities::SECURE_CONNECTION) {
        return Some(too_old());
    }
    let schema_len = response.schema.as_ref().map_or(0, Vec::len);
    (response.user.len() > NAME_MAX || schema_len > NAME_MAX).then(bad_handshake)
}

fn bad_handshake() -> ErrPacket {
    ErrPacket::new(1043, b"08S01", "Bad handshake")
}

fn too_old() -> ErrPacket {
    let text = "Client does not support authentication protocol requested by server; consider upgrading MySQL client";
    ErrPacket::new(1251, b"08004", text)
}

fn login_of(response: &HandshakeResponse, offered: Capabilities, client: Option<SocketAddr>) -> Login {
    Login {
        user: response.user.clone(),
        schema: response.schema.clone(),
        collation: response.collation,
        capabilities: Capabilities::common(response.capabilities, offered),
        max_packet: response.max_packet,
        attributes: response.attributes.clone(),
        client,
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
