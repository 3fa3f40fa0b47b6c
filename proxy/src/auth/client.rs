//! The proxy as a client of a backend: an application's user is logged in with the credential that the front
//! door learned.

use std::sync::Arc;

use config::{BackendConfig, Secret, ServerVersion};
use zeroize::Zeroizing;

use super::plugin::Plugin;
use super::{Credential, Login};
use crate::protocol::capability::Capabilities;
use crate::protocol::collation::known_collation;
use crate::protocol::frame::{FrameError, Frames};
use crate::protocol::packet::{
    AuthMoreData, AuthSwitchRequest, ChangeUser, ErrPacket, Handshake, HandshakeResponse, Malformed, OkPacket,
};
use crate::protocol::stream::Stream;
use crate::tls::encrypt_password;

/// No server of sense asks for more.
const ROUNDS_MAX: usize = 16;
/// A response up to the user's name is what asks for TLS.
const SSL_REQUEST_LEN: usize = 32;
const FAST_AUTH_OK: &[u8] = &[3];
const FULL_AUTH: &[u8] = &[4];
const PUBLIC_KEY_REQUEST: &[u8] = &[2];

const NO_PASSWORD: &str = "the server asks for a password, and there is none";

/// Why a login failed; [`crate::error::ConnectError`] without the backend's name.
#[derive(Debug)]
pub(crate) enum LoginError {
    Refused(ErrPacket),
    Credential(ErrPacket),
    Protocol(String),
    Frame(FrameError),
}

impl From<FrameError> for LoginError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<std::io::Error> for LoginError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

impl From<Malformed> for LoginError {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol(malformed.to_string())
    }
}

/// The greeting of a backend that has just been dialled.
pub(crate) async fn read_greeting(stream: &mut Stream, frames: &mut Frames) -> Result<Handshake, LoginError> {
    let payload = frames.read(stream).await?;
    if payload.first() == Some(&ErrPacket::MARKER) {
        return Err(LoginError::Refused(ErrPacket::parse(&payload)?));
    }
    Ok(Handshake::parse(&payload)?)
}

/// Logs in after the greeting. Returns the payload of the OK packet.
pub(crate) async fn log_in(
    stream: &mut Stream,
    frames: &mut Frames,
    greeting: &Handshake,
    login: &Login,
    credential: &Credential,
) -> Result<Vec<u8>, LoginError> {
    let missing = login.capabilities.of_session().without(greeting.capabilities);
    if missing != Capabilities::NONE {
        return Err(LoginError::Protocol(format!("the session has {missing:?}, which it can't do")));
    }
    let plugin = first_plugin(greeting, credential);
    let answer = answer(plugin, credential, &greeting.scramble, stream.is_tls()).unwrap_or_default();
    let mut response = response(greeting, login, plugin, answer);
    if stream.is_tls() {
        response.capabilities = response.capabilities | Capabilities::SSL;
    }
    frames.write(stream, &response.encode()).await?;
    let exchange = Exchange { stream, frames, login, credential };
    exchange.run(plugin, greeting.scramble.clone()).await
}

/// The same, by TLS where that is configured; then nothing but the greeting was said in plain text.
pub(crate) async fn log_in_securely(
    backend: &BackendConfig,
    stream: &mut Stream,
    frames: &mut Frames,
    greeting: &Handshake,
    login: &Login,
    credential: &Credential,
) -> Result<Vec<u8>, LoginError> {
    if let Some(tls) = backend.tls.client() {
        if !greeting.capabilities.contains(Capabilities::SSL) {
            return Err(LoginError::Protocol("TLS is required, and the server doesn't offer it".to_owned()));
        }
        let name = backend.server_name().map_err(|error| LoginError::Protocol(error.to_string()))?;
        let mut request = response(greeting, login, Plugin::Native, Zeroizing::default());
        request.capabilities = request.capabilities | Capabilities::SSL;
        let request = request.encode();
        frames.write(stream, request.get(..SSL_REQUEST_LEN).unwrap_or(&request)).await?;
        let secured = stream.secure(Arc::clone(tls), name).await;
        secured.map_err(|error| LoginError::Protocol(format!("TLS failed: {error}")))?;
    }
    log_in(stream, frames, greeting, login, credential).await
}

/// Makes a session's connection another user's (COM_CHANGE_USER). Returns the payload of the OK packet.
///
/// The connection has PLUGIN_AUTH, and CONNECT_ATTRS where the login has attributes: see [`response`]. The command names no plugin, so that the server asks with a scramble of its own: which scramble it would
/// go by else differs between the families.
pub(crate) async fn change_user(
    stream: &mut Stream,
    version: ServerVersion,
    login: &Login,
    credential: &Credential,
) -> Result<Vec<u8>, LoginError> {
    let command = ChangeUser {
        user: login.user.clone(),
        auth: Secret::default(),
        schema: login.schema.clone(),
        collation: Some(known_collation(Some(version), login.collation)),
        plugin: Some(Vec::new()),
        attributes: login.attributes.clone(),
    };
    let mut capabilities = Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH;
    if login.attributes.is_some() {
        capabilities = capabilities | Capabilities::CONNECT_ATTRS;
    }
    let mut frames = Frames::new();
    frames.write(stream, &command.encode(capabilities)).await?;
    let exchange = Exchange { stream, frames: &mut frames, login, credential };
    exchange.run(Plugin::Native, Vec::new()).await
}

/// As [`Plugin::answer`]; but through TLS sha256_password wants the password at once, and nobody's key.
fn answer(
    plugin: Plugin,
    credential: &Credential,
    scramble: &[u8],
    is_tls: bool,
) -> Option<Zeroizing<Vec<u8>>> {
    match (plugin, credential) {
        (Plugin::Sha256, Credential::Clear(password)) if is_tls => Some(with_nul(password)),
        _ => plugin.answer(credential, scramble),
    }
}

/// A password as it goes through TLS.
fn with_nul(password: &Secret) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(password.expose().len() + 1));
    bytes.extend_from_slice(password.expose());
    bytes.push(0);
    bytes
}

/// What to answer the greeting with. The server switches where the account has another plugin, so the best
/// guess is its default, or the only one that the credential is enough for.
fn first_plugin(greeting: &Handshake, credential: &Credential) -> Plugin {
    match (credential, Plugin::from_name(&greeting.plugin)) {
        (Credential::Sha1(_), _) | (_, None) => Plugin::Native,
        (_, Some(plugin)) => plugin,
    }
}

fn response(
    greeting: &Handshake,
    login: &Login,
    plugin: Plugin,
    auth: Zeroizing<Vec<u8>>,
) -> HandshakeResponse {
    let version = ServerVersion::parse(&String::from_utf8_lossy(&greeting.server_version));
    let has = |flag| greeting.capabilities.contains(flag);
    let session = login.capabilities.of_session();
    let mut capabilities = session
        | Capabilities::PROTOCOL_41
        | Capabilities::SECURE_CONNECTION
        | (greeting.capabilities & (Capabilities::RESERVED | Capabilities::PLUGIN_AUTH_LENENC_DATA));
    if capabilities.normalised() == (capabilities | Capabilities::LONG_PASSWORD).normalised() {
        // No extended flag would be lost by it.
        capabilities = capabilities | Capabilities::LONG_PASSWORD;
    }
    HandshakeResponse {
        capabilities,
        max_packet: login.max_packet,
        collation: known_collation(version, login.collation),
        user: login.user.clone(),
        auth: Secret::new(auth.as_slice()),
        schema: login.schema.clone().filter(|_| has(Capabilities::CONNECT_WITH_DB)),
        plugin: has(Capabilities::PLUGIN_AUTH).then(|| plugin.name().as_bytes().to_vec()),
        attributes: login.attributes.clone().filter(|_| has(Capabilities::CONNECT_ATTRS)),
        zstd_level: None,
    }
}

fn unknown(what: &str) -> LoginError {
    LoginError::Protocol(format!("the login has a {what} that isn't understood"))
}

struct Exchange<'a> {
    stream: &'a mut Stream,
    frames: &'a mut Frames,
    login: &'a Login,
    credential: &'a Credential,
}

impl Exchange<'_> {
    async fn run(mut self, mut plugin: Plugin, mut scramble: Vec<u8>) -> Result<Vec<u8>, LoginError> {
        for _ in 0..ROUNDS_MAX {
            let payload = self.frames.read(self.stream).await?;
            match payload.first().copied() {
                Some(OkPacket::MARKER) => return Ok(payload.to_vec()),
                Some(ErrPacket::MARKER) => return Err(LoginError::Refused(ErrPacket::parse(&payload)?)),
                Some(AuthSwitchRequest::MARKER) => {
                    (plugin, scramble) = self.switch(AuthSwitchRequest::parse(&payload)?).await?;
                }
                Some(AuthMoreData::MARKER) => {
                    let data = AuthMoreData::parse(&payload)?.0;
                    match (plugin, data) {
                        (Plugin::CachingSha2, FAST_AUTH_OK) => {}
                        (Plugin::CachingSha2, FULL_AUTH) if self.stream.is_tls() => {
                            let Credential::Clear(password) = self.credential else {
                                return Err(self.insufficient(NO_PASSWORD));
                            };
                            self.frames.write(self.stream, &with_nul(password)).await?;
                        }
                        (Plugin::CachingSha2, FULL_AUTH) => {
                            self.frames.write(self.stream, PUBLIC_KEY_REQUEST).await?;
                        }
                        (Plugin::CachingSha2 | Plugin::Sha256, key) => {
                            self.send_password(key, &scramble).await?;
                        }
                        (Plugin::Native | Plugin::Ed25519, _) => return Err(unknown("step")),
                    }
                }
                _ => return Err(unknown("packet")),
            }
        }
        Err(LoginError::Protocol("the login doesn't come to an end".to_owned()))
    }

    async fn switch(&mut self, request: AuthSwitchRequest) -> Result<(Plugin, Vec<u8>), LoginError> {
        let name = String::from_utf8_lossy(&request.plugin).into_owned();
        let Some(plugin) = Plugin::from_name(&request.plugin) else {
            return Err(self.insufficient(&format!(
                "on the server behind Changeover the account uses {name}, which Changeover doesn't speak; \
                 it can log in with mysql_native_password, caching_sha2_password or ed25519"
            )));
        };
        let Some(answer) = answer(plugin, self.credential, &request.data, self.stream.is_tls()) else {
            return Err(self.insufficient(&format!(
                "on the server behind Changeover the account uses {name}, for which the password itself is \
                 needed; connect with a client that answers with caching_sha2_password"
            )));
        };
        self.frames.write(self.stream, &answer).await?;
        Ok((plugin, request.data))
    }

    /// The server has sent its public key and wants the password, encrypted for it.
    async fn send_password(&mut self, public_key: &[u8], scramble: &[u8]) -> Result<(), LoginError> {
        let Credential::Clear(password) = self.credential else {
            return Err(self.insufficient(NO_PASSWORD));
        };
        let cipher = encrypt_password(public_key, password, scramble)
            .map_err(|reason| LoginError::Protocol(reason.to_owned()))?;
        self.frames.write(self.stream, &cipher).await?;
        Ok(())
    }

    fn insufficient(&self, why: &str) -> LoginError {
        let user = self.login.user_text();
        let message = format!("Access denied for user '{user}': {why}");
        LoginError::Credential(ErrPacket::new(1045, b"28000", message))
    }
}
