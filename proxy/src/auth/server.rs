//! The proxy as a server to its clients: the front door.
//!
//! Every client is asked for as much as can be replayed to whichever plugin the other backend wants. With
//! caching_sha2_password that is the password itself (over TLS, or encrypted for our RSA key). A client that
//! answers with mysql_native_password gives SHA1 of its password away to whoever knows the stored hash; where
//! that can't be read, the client is asked to switch.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use config::{Flavor, Secret};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::plugin::{Plugin, SCRAMBLE_LEN, is_empty_answer, recover_sha1};
use super::{Credential, Login};
use crate::backend::connect::Greeting;
use crate::error::ClientError;
use crate::protocol::capability::Capabilities;
use crate::protocol::frame::Frames;
use crate::protocol::packet::{
    AuthMoreData, AuthSwitchRequest, ErrPacket, Handshake, HandshakeResponse, SslRequest, StatusFlags,
};
use crate::protocol::stream::Stream;
use crate::tls::{RsaKey, Tls};

/// A login that takes longer is cut off.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refusal may take to be read.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// More than any server takes, in bytes: it keeps what a session remembers small.
const NAME_MAX: usize = 512;
/// Longer than any server's limit, in bytes.
const PASSWORD_MAX: usize = 1024;

/// Bytes of caching_sha2_password's answer to a scramble.
const SHA256_LEN: usize = 32;
const FAST_AUTH_OK: u8 = 3;
const FULL_AUTH: u8 = 4;
const PUBLIC_KEY_REQUEST: u8 = 2;

/// What every client of a listener meets.
#[derive(Debug)]
pub struct FrontDoor {
    /// Whether clients may, must or can't use TLS.
    pub tls: Tls,
    /// For passwords of clients without TLS.
    pub rsa: Arc<RsaKey>,
    /// Who decides.
    pub keeper: Keeper,
    /// A login that takes longer is cut off.
    pub timeout: Duration,
}

impl FrontDoor {
    /// A front door with the usual timeout.
    #[must_use]
    pub fn new(tls: Tls, rsa: Arc<RsaKey>, keeper: Keeper) -> Self {
        Self { tls, rsa, keeper, timeout: LOGIN_TIMEOUT }
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

/// A boxed future of stored hashes.
pub type NativeHashesFuture<'a> = Pin<Box<dyn Future<Output = Vec<[u8; 20]>> + Send + 'a>>;

/// Where the stored hashes (SHA1 of SHA1 of the password) of mysql_native_password accounts are read.
pub trait NativeHashes: Send + Sync + 'static {
    /// The hashes that this user's accounts have; empty where there are none or they may not be read. The
    /// client's token is checked against each, so one too many does no harm.
    fn hashes<'a>(&'a self, user: &'a [u8]) -> NativeHashesFuture<'a>;
}

/// What one client is greeted with.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The version text of the serving backend, as it greets.
    pub server_version: Vec<u8>,
    /// The session's id.
    pub connection_id: u32,
    /// See [`Capabilities::offered`].
    pub capabilities: Capabilities,
    /// Default collation of the serving backend, low byte.
    pub collation: u8,
    /// The plugin that the client is asked for first.
    pub plugin: Plugin,
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
            capabilities: Capabilities::offered(&both.map(|greeting| greeting.handshake.capabilities)),
            collation: serving.handshake.collation,
            plugin: if mariadb { Plugin::Native } else { Plugin::CachingSha2 },
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
        self.visitor.send(ok).await?;
        Ok((self.visitor.stream, self.login, self.credential))
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
    let late = |_| ClientError::Timeout(door.timeout.as_millis().try_into().unwrap_or(u64::MAX));
    tokio::time::timeout(door.timeout, Box::pin(welcome(stream, door, hello))).await.map_err(late)?
}

async fn welcome(stream: Stream, door: &FrontDoor, hello: &Hello) -> Result<Accepted, ClientError> {
    let mut visitor = Visitor { client: stream.peer_addr(), stream, frames: Frames::new() };
    let scramble = random_scramble()?;
    let offers_tls = door.tls.offered().is_some() && visitor.stream.plain().is_some();
    let mut offered = hello.capabilities;
    if offers_tls {
        offered = offered | Capabilities::SSL;
    }
    visitor.send(&greeting(hello, offered, &scramble).encode()).await?;
    let mut payload = visitor.frames.read(&mut visitor.stream).await?;
    if SslRequest::parse(&payload).is_some() {
        let tls = door.tls.offered().ok_or(ClientError::NotALogin("it began TLS, which wasn't offered"))?;
        visitor = visitor.secured(TlsAcceptor::from(Arc::clone(tls))).await?;
        payload = visitor.frames.read(&mut visitor.stream).await?;
    }
    let response = match HandshakeResponse::parse(&payload) {
        Ok(response) => response,
        Err(malformed) => {
            visitor.refuse(&ErrPacket::new(1043, b"08S01", "Bad handshake")).await;
            return Err(malformed.into());
        }
    };
    if let Some(refusal) = unfit(&response, door, visitor.stream.is_tls()) {
        return visitor.refused(refusal).await;
    }
    let login = login_of(&response, hello.capabilities, visitor.client);
    let asked = Question { greeted: hello.plugin, scramble, response, door };
    let credential = match &door.keeper {
        Keeper::Backend(hashes) => asked.learn(&mut visitor, hashes.as_ref()).await,
        Keeper::Account { user, password } => asked.check(&mut visitor, user, password).await,
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
        status: StatusFlags::AUTOCOMMIT,
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
    (response.user.len() > NAME_MAX || schema_len > NAME_MAX)
        .then(|| ErrPacket::new(1043, b"08S01", "Bad handshake"))
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

/// Twenty random bytes, none of them NUL (it ends the string), `$` (it separates fields of stored hashes)
/// or above 127, as the servers make them.
fn random_scramble() -> Result<[u8; SCRAMBLE_LEN], ClientError> {
    let mut scramble = [0; SCRAMBLE_LEN];
    aws_lc_rs::rand::fill(&mut scramble).map_err(|_| ClientError::NotALogin("no random numbers"))?;
    Ok(scramble.map(|byte| match byte & 0x7F {
        0 => 1,
        b'$' => b'%',
        byte => byte,
    }))
}

/// A connection that hasn't been let in yet.
#[derive(Debug)]
struct Visitor {
    stream: Stream,
    frames: Frames,
    client: Option<SocketAddr>,
}

impl Visitor {
    async fn send(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        Ok(self.frames.write(&mut self.stream, payload).await?)
    }

    async fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        Ok(self.frames.read(&mut self.stream).await?)
    }

    async fn secured(self, acceptor: TlsAcceptor) -> Result<Self, ClientError> {
        let Stream::Plain(tcp) = self.stream else {
            return Err(ClientError::NotALogin("it began TLS twice"));
        };
        let tls = acceptor.accept(tcp).await.map_err(ClientError::Tls)?;
        Ok(Self { stream: Stream::Tls(Box::new(tls)), ..self })
    }

    /// Says why not. That nobody may be listening any more is no further error.
    async fn refuse(&mut self, packet: &ErrPacket) {
        let say = async {
            self.frames.write(&mut self.stream, &packet.encode()).await?;
            self.stream.shutdown().await
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say).await;
    }

    async fn refused<T>(mut self, packet: ErrPacket) -> Result<T, ClientError> {
        self.refuse(&packet).await;
        Err(ClientError::Refused(packet))
    }

    fn host(&self) -> String {
        self.client.map_or_else(|| "localhost".to_owned(), |addr| addr.ip().to_canonical().to_string())
    }
}

/// A client's answer to the greeting, and what else may be asked of it.
struct Question<'a> {
    greeted: Plugin,
    scramble: [u8; SCRAMBLE_LEN],
    response: HandshakeResponse,
    door: &'a FrontDoor,
}

/// An answer to a scramble.
struct Answer {
    plugin: Plugin,
    scramble: [u8; SCRAMBLE_LEN],
    data: Zeroizing<Vec<u8>>,
}

impl Question<'_> {
    fn can_switch(&self) -> bool {
        self.response.capabilities.contains(Capabilities::PLUGIN_AUTH)
    }

    /// The plugin that the client speaks of. Without PLUGIN_AUTH there is only one.
    fn named(&self) -> Option<Plugin> {
        if !self.can_switch() {
            return Some(Plugin::Native);
        }
        self.response.plugin.as_deref().and_then(Plugin::of_client)
    }

    /// What came with the response, where it is an answer. A client that names another plugin than the
    /// greeting did, and says nothing else, wants to be asked by that plugin; it is not without a password.
    fn first_answer(&self) -> Option<Answer> {
        let plugin = self.named()?;
        let data = self.response.auth.clone();
        let waits = self.can_switch() && plugin != self.greeted && is_empty_answer(&data);
        (!waits).then_some(Answer { plugin, scramble: self.scramble, data })
    }

    fn denied(&self, visitor: &Visitor, with_password: bool) -> ClientError {
        ClientError::Refused(ErrPacket::access_denied(&self.response.user, &visitor.host(), with_password))
    }

    /// Learns as much of the password as the client gives. The backend decides.
    async fn learn(
        self,
        visitor: &mut Visitor,
        hashes: &dyn NativeHashes,
    ) -> Result<Credential, ClientError> {
        let first = self.first_answer();
        if first.as_ref().is_some_and(|answer| is_empty_answer(&answer.data)) {
            return Ok(Credential::Empty);
        }
        let stored = match self.named() {
            Some(Plugin::Native) => hashes.hashes(&self.response.user).await,
            _ => Vec::new(),
        };
        let answer = match first {
            Some(answer) if answer.plugin == Plugin::CachingSha2 => answer,
            Some(answer) => match recovered(&answer, &stored) {
                Some(credential) => return Ok(credential),
                None if self.can_switch() => switch(visitor, Plugin::CachingSha2).await?,
                None => return Err(self.denied(visitor, true)),
            },
            // A client may be asked to switch only once: by the plugin that it named, where that is enough.
            None if stored.is_empty() => switch(visitor, Plugin::CachingSha2).await?,
            None => switch(visitor, Plugin::Native).await?,
        };
        if is_empty_answer(&answer.data) {
            return Ok(Credential::Empty);
        }
        match answer.plugin {
            Plugin::CachingSha2 => self.full_authentication(visitor, &answer).await,
            _ => recovered(&answer, &stored).ok_or_else(|| self.denied(visitor, true)),
        }
    }

    /// caching_sha2_password's second half: the password itself, through TLS or encrypted for our key.
    ///
    /// MariaDB's client library has versions that send it in the first place over TLS, and unencrypted where
    /// TLS was only wished for. By then it has been sent, and refusing it would protect nobody.
    async fn full_authentication(
        &self,
        visitor: &mut Visitor,
        answer: &Answer,
    ) -> Result<Credential, ClientError> {
        let password = if visitor.stream.is_tls() && answer.data.len() != SHA256_LEN {
            clear_password(&answer.data)
        } else {
            visitor.send(&AuthMoreData(&[FULL_AUTH]).encode()).await?;
            let mut payload = visitor.receive().await?;
            if !visitor.stream.is_tls() && payload.as_slice() == [PUBLIC_KEY_REQUEST] {
                visitor.send(&AuthMoreData(self.door.rsa.public_pem()).encode()).await?;
                payload = visitor.receive().await?;
            }
            if payload.len() == self.door.rsa.ciphertext_len() {
                self.door.rsa.decrypt_password(&payload, &answer.scramble)
            } else {
                clear_password(&payload)
            }
        };
        match password.filter(|password| password.expose().len() <= PASSWORD_MAX) {
            Some(password) if password.is_empty() => Ok(Credential::Empty),
            Some(password) => Ok(Credential::Clear(password)),
            None => Err(self.denied(visitor, true)),
        }
    }

    /// Compares with the only account. A wrong name takes the same path as a wrong password.
    async fn check(
        self,
        visitor: &mut Visitor,
        user: &str,
        password: &Secret,
    ) -> Result<Credential, ClientError> {
        let answer = match self.first_answer() {
            Some(answer) => answer,
            None => switch(visitor, self.named().unwrap_or(Plugin::CachingSha2)).await?,
        };
        let right = answer.plugin.verify(password, &answer.scramble, &answer.data);
        if !(right & (self.response.user == user.as_bytes())) {
            return Err(self.denied(visitor, !is_empty_answer(&answer.data)));
        }
        if password.is_empty() {
            return Ok(Credential::Empty);
        }
        if answer.plugin == Plugin::CachingSha2 {
            visitor.send(&AuthMoreData(&[FAST_AUTH_OK]).encode()).await?;
        }
        Ok(Credential::Clear(password.clone()))
    }
}

/// SHA1 of the password, where the client's native answer fits one of the stored hashes.
fn recovered(answer: &Answer, stored: &[[u8; 20]]) -> Option<Credential> {
    let hash = stored.iter().find_map(|hash| recover_sha1(&answer.data, &answer.scramble, hash))?;
    Some(Credential::Sha1(hash))
}

fn clear_password(payload: &[u8]) -> Option<Secret> {
    payload.strip_suffix(&[0]).map(Secret::new)
}

/// Asks the client to answer another scramble with another plugin.
async fn switch(visitor: &mut Visitor, plugin: Plugin) -> Result<Answer, ClientError> {
    let scramble = random_scramble()?;
    let request = AuthSwitchRequest { plugin: plugin.name().as_bytes().to_vec(), data: scramble.to_vec() };
    visitor.send(&request.encode()).await?;
    let data = visitor.receive().await?;
    Ok(Answer { plugin, scramble, data })
}
