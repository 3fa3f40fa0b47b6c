//! The proxy as a server to its clients: the front door.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use config::{Secret, TlsMode};

use super::{Credential, Login};
use crate::error::ClientError;
use crate::protocol::capability::Capabilities;
use crate::protocol::frame::Frames;
use crate::protocol::packet::ErrPacket;
use crate::protocol::stream::Stream;
use crate::tls::RsaKey;

/// What every client of a listener meets.
pub struct FrontDoor {
    /// Whether clients may, must or can't use TLS.
    pub tls_mode: TlsMode,
    /// Certificate and protocol versions; not used where `tls_mode` is off.
    pub tls: Arc<rustls::ServerConfig>,
    /// For passwords of clients without TLS.
    pub rsa: Arc<RsaKey>,
    /// Who decides.
    pub keeper: Keeper,
    /// A login that takes longer is cut off.
    pub timeout: Duration,
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

/// A boxed future of stored hashes.
pub type NativeHashesFuture<'a> = Pin<Box<dyn Future<Output = Vec<[u8; 20]>> + Send + 'a>>;

/// Where the stored hashes (SHA1 of SHA1 of the password) of mysql_native_password accounts are read.
pub trait NativeHashes: Send + Sync + 'static {
    /// The hashes that this user's accounts have; empty where there are none or they may not be read. The
    /// client's token is checked against each, so one too many does no harm.
    fn hashes<'a>(&'a self, user: &'a [u8], host: &'a str) -> NativeHashesFuture<'a>;
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
}

/// A client whose credential is known and which waits to hear whether it may enter.
#[derive(Debug)]
pub struct Accepted {
    /// Who it is and what it wants.
    pub login: Login,
    /// What is known of its password.
    pub credential: Credential,
    stream: Stream,
    frames: Frames,
}

/// Greets a client and learns who it is. Everything that isn't a login ends in an error, with the
/// connection closed, within the front door's timeout and with bounded memory.
pub async fn accept(_stream: Stream, _door: &FrontDoor, _hello: &Hello) -> Result<Accepted, ClientError> {
    todo!()
}

impl Accepted {
    /// Lets the client in with this OK payload: the backend's own, or one of ours.
    pub async fn admit(mut self, ok: &[u8]) -> Result<(Stream, Login, Credential), ClientError> {
        self.frames.write(&mut self.stream, ok).await?;
        Ok((self.stream, self.login, self.credential))
    }

    /// Tells the client why not, and closes.
    pub async fn refuse(self, _packet: &ErrPacket) {
        todo!()
    }

    /// True for a client that came by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }
}
