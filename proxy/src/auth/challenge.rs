//! What a client is asked for, and what its answers give away of its password.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use config::Secret;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::Credential;
use super::arrival::{Patience, late};
use super::known::KnownPasswords;
use super::plugin::{Plugin, SCRAMBLE_LEN, is_empty_answer, recover_sha1};
use super::server::NativeHashes;
use crate::error::ClientError;
use crate::protocol::frame::Frames;
use crate::protocol::packet::{AuthMoreData, AuthSwitchRequest, ErrPacket};
use crate::protocol::stream::Stream;
use crate::tls::RsaKey;

/// How long a refusal may take to be read.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any server's limit, in bytes.
const PASSWORD_MAX: usize = 1024;

/// Bytes of caching_sha2_password's answer to a scramble.
const SHA256_LEN: usize = 32;
const FAST_AUTH_OK: u8 = 3;
const FULL_AUTH: u8 = 4;
const PUBLIC_KEY_REQUEST: u8 = 2;

/// A connection that hasn't been let in yet.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) stream: Stream,
    pub(super) frames: Frames,
    pub(super) client: Option<SocketAddr>,
    pub(super) patience: Patience,
    /// Its token was right, and it waits to hear that before the OK.
    pub(super) proved_by_token: bool,
}

impl Visitor {
    pub(super) fn new(
        stream: Stream,
        client: Option<SocketAddr>,
        frames: Frames,
        patience: Patience,
    ) -> Self {
        Self { stream, frames, client, patience, proved_by_token: false }
    }

    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        Ok(self.frames.write(&mut self.stream, payload).await?)
    }

    /// Ends the login with the backend's OK.
    pub(super) async fn welcome(&mut self, ok: &[u8]) -> Result<(), ClientError> {
        if std::mem::take(&mut self.proved_by_token) {
            let fast = AuthMoreData(&[FAST_AUTH_OK]).encode();
            return Ok(self.frames.write_all(&mut self.stream, &[&fast, ok]).await?);
        }
        self.send(ok).await
    }

    pub(super) async fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let packet = tokio::time::timeout(self.patience.step, self.frames.read(&mut self.stream)).await;
        Ok(packet.map_err(|_| late("next packet", self.patience.step))??)
    }

    pub(super) async fn secured(self, acceptor: TlsAcceptor) -> Result<Self, ClientError> {
        let Stream::Plain(tcp) = self.stream else {
            return Err(ClientError::NotALogin("it began TLS twice"));
        };
        let tls = tokio::time::timeout(self.patience.step, acceptor.accept(tcp)).await;
        let tls = tls.map_err(|_| late("TLS handshake", self.patience.step))?.map_err(ClientError::Tls)?;
        Ok(Self { stream: Stream::Tls(Box::new(tls)), ..self })
    }

    /// Says why not. That nobody may be listening any more is no further error.
    pub(super) async fn refuse(&mut self, packet: &ErrPacket) {
        let say = async {
            self.frames.write(&mut self.stream, &packet.encode()).await?;
            self.stream.shutdown().await
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say).await;
    }

    pub(super) async fn refused<T>(mut self, packet: ErrPacket) -> Result<T, ClientError> {
        self.refuse(&packet).await;
        Err(ClientError::Refused(packet))
    }

    fn host(&self) -> String {
        self.client.map_or_else(|| "localhost".to_owned(), |addr| addr.ip().to_canonical().to_string())
    }
}

/// Twenty random bytes, none of them NUL (it ends the string), `$` (it separates fields of stored hashes)
/// or above 127, as the servers make them.
pub(super) fn random_scramble() -> Result<[u8; SCRAMBLE_LEN], ClientError> {
    let mut scramble = [0; SCRAMBLE_LEN];
    aws_lc_rs::rand::fill(&mut scramble).map_err(|_| ClientError::NotALogin("no random numbers"))?;
    Ok(scramble.map(|byte| match byte & 0x7F {
        0 => 1,
        b'$' => b'%',
        byte => byte,
    }))
}

/// A client's answer to the greeting, and what else may be asked of it.
#[derive(Debug)]
pub(super) struct Challenge {
    /// The plugin and the scramble of the greeting; `None` where the client has no scramble that counts.
    pub(super) greeted: Option<(Plugin, [u8; SCRAMBLE_LEN])>,
    /// Account name.
    pub(super) user: Vec<u8>,
    /// What it answered.
    pub(super) auth: Secret,
    /// The plugin that it named; `None` for a client that knows only one.
    pub(super) plugin: Option<Vec<u8>>,
    /// For passwords without TLS.
    pub(super) rsa: Arc<RsaKey>,
}

/// An answer to a scramble.
struct Answer {
    plugin: Plugin,
    scramble: [u8; SCRAMBLE_LEN],
    data: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// True where it is the password itself: see [`Challenge::full_authentication`].
    fn is_clear(&self, is_tls: bool) -> bool {
        is_tls
            && self.plugin == Plugin::CachingSha2
            && self.data.len() != SHA256_LEN
            && !is_empty_answer(&self.data)
    }
}

impl Challenge {
    fn can_switch(&self) -> bool {
        self.plugin.is_some()
    }

    /// The plugin that the client speaks of. Without PLUGIN_AUTH there is only one.
    fn named(&self) -> Option<Plugin> {
        self.plugin.as_deref().map_or(Some(Plugin::Native), Plugin::of_client)
    }

    /// What came with the response, where it is an answer. A client that names another plugin than the
    /// greeting did, and says nothing else, wants to be asked by that plugin; it is not without a password.
    fn first_answer(&self) -> Option<Answer> {
        let plugin = self.named()?;
        let (greeted, scramble) = self.greeted?;
        let waits = self.can_switch() && plugin != greeted && is_empty_answer(self.auth.expose());
        (!waits).then(|| Answer { plugin, scramble, data: Zeroizing::new(self.auth.expose().to_vec()) })
    }

    fn denied(&self, visitor: &Visitor, with_password: bool) -> ClientError {
        ClientError::Refused(ErrPacket::access_denied(&self.user, &visitor.host(), with_password))
    }

    /// Learns as much of the password as the client gives. The backend decides.
    pub(super) async fn learn(
        self,
        visitor: &mut Visitor,
        hashes: &dyn NativeHashes,
        known: &KnownPasswords,
    ) -> Result<Credential, ClientError> {
        let first = self.first_answer();
        if first.as_ref().is_some_and(|answer| is_empty_answer(&answer.data)) {
            return Ok(Credential::Empty);
        }
        let stored = match self.named() {
            Some(Plugin::Native) => hashes.hashes(&self.user).await,
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
            Plugin::CachingSha2 => match known.of_token(&self.user, &answer.scramble, &answer.data) {
                Some(password) => {
                    visitor.proved_by_token = true;
                    Ok(Credential::Clear(password))
                }
                None => self.full_authentication(visitor, &answer).await,
            },
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
        let is_tls = visitor.stream.is_tls();
        let password = if answer.is_clear(is_tls) {
            clear_password(&answer.data)
        } else {
            visitor.send(&AuthMoreData(&[FULL_AUTH]).encode()).await?;
            let mut payload = visitor.receive().await?;
            if !is_tls && payload.as_slice() == [PUBLIC_KEY_REQUEST] {
                visitor.send(&AuthMoreData(self.rsa.public_pem()).encode()).await?;
                payload = visitor.receive().await?;
            }
            if !is_tls && payload.len() == self.rsa.ciphertext_len() {
                self.rsa.decrypt_password(&payload, &answer.scramble)
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
    pub(super) async fn check(
        self,
        visitor: &mut Visitor,
        user: &str,
        password: &Secret,
    ) -> Result<Credential, ClientError> {
        let answer = match self.first_answer() {
            Some(answer) => answer,
            None => switch(visitor, self.named().unwrap_or(Plugin::CachingSha2)).await?,
        };
        let is_clear = answer.is_clear(visitor.stream.is_tls());
        let right = if is_clear {
            clear_password(&answer.data).is_some_and(|given| same(given.expose(), password.expose()))
        } else {
            answer.plugin.verify(password, &answer.scramble, &answer.data)
        };
        if !(right & (self.user == user.as_bytes())) {
            return Err(self.denied(visitor, !is_empty_answer(&answer.data)));
        }
        if password.is_empty() {
            return Ok(Credential::Empty);
        }
        if answer.plugin == Plugin::CachingSha2 && !is_clear {
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

fn same(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
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
