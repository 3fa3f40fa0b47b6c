//! The way in for the fuzz targets of `tests/fuzz`: whole logins, from both sides, against a peer that says anything.
//! Hidden from the documentation because nothing else may call it.

use std::io;
use std::sync::{Arc, OnceLock};

use config::{Flavor, Secret, ServerVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::arrival::Origin;
use super::client::{self, log_in, read_greeting};
use super::plugin::Plugin;
use super::server::{self, FrontDoor, Hello, Keeper, NativeHashes, NativeHashesFuture, StoredHashes};
use super::{Credential, Login};
use crate::protocol::capability::Capabilities;
use crate::protocol::frame::Frames;
use crate::protocol::packet::{OkPacket, StatusFlags};
use crate::protocol::stream::Stream;
use crate::tls::{RsaKey, Tls};

/// What nobody may guess at a front door, and no backend may be told in clear.
pub const PASSWORD: &str = "correct horse battery staple";
/// More than any peer of these targets sends or is sent.
const PIPE: usize = 1 << 20;

/// What came of a login.
#[derive(Debug)]
pub struct Seen {
    /// It ended well.
    pub let_in: bool,
    /// Bytes that the peer was sent.
    pub said: Vec<u8>,
}

struct Stored;

impl NativeHashes for Stored {
    fn hashes<'a>(&'a self, user: &'a [u8], _anew: bool) -> NativeHashesFuture<'a> {
        Box::pin(async move { StoredHashes { hashes: vec![[7; 20]], are_all: user.is_empty() } })
    }
}

fn bit(flags: u8, number: u8) -> bool {
    flags & (1 << number) != 0
}

fn a_login(flags: u8) -> Login {
    let mut capabilities =
        Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH;
    if bit(flags, 7) {
        capabilities = capabilities | Capabilities::CONNECT_ATTRS;
    }
    Login {
        user: b"app".to_vec(),
        schema: bit(flags, 6).then(|| b"shop".to_vec()),
        collation: 45,
        capabilities,
        max_packet: 1 << 24,
        attributes: bit(flags, 7).then(Vec::new),
        client: None,
    }
}

/// Runs one end of a login against `bytes`, after which the peer has nothing more to say.
fn meet(bytes: &[u8], login: impl AsyncFnOnce(Stream) -> bool) -> io::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let (ours, mut theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(PIPE);
        theirs.write_all(bytes.get(..PIPE).unwrap_or(bytes)).await?;
        theirs.shutdown().await?;
        let let_in = Box::pin(login(Stream::Duplex(ours))).await;
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).await?;
        Ok(Seen { let_in, said })
    })
}

/// A client that says `bytes` to the front door. `flags`: 0: it is asked by the admin port, which knows
/// [`PASSWORD`]; 1, 2: where its address is known from; 3: the plugin of the greeting; 4: `bytes` answer a
/// COM_CHANGE_USER, which is `command`.
pub fn front_door(flags: u8, command: &[u8], bytes: &[u8]) -> io::Result<Seen> {
    static RSA: OnceLock<Option<Arc<RsaKey>>> = OnceLock::new();
    let rsa = RSA.get_or_init(|| RsaKey::generate().ok().map(Arc::new)).clone();
    let rsa = rsa.ok_or_else(|| io::Error::other("no RSA key"))?;
    let keeper = match bit(flags, 0) {
        true => Keeper::Account { user: "app".to_owned(), password: Secret::new(PASSWORD) },
        false => Keeper::Backend(Arc::new(Stored)),
    };
    let door = FrontDoor::new(Tls::Off, rsa, keeper);
    let hello = Hello {
        server_version: b"10.11.6-MariaDB".to_vec(),
        connection_id: 42,
        capabilities: Capabilities::offered(&[Capabilities::from_bits(0xFFFF_FFFF)]),
        collation: 45,
        status: StatusFlags::AUTOCOMMIT,
        plugin: if bit(flags, 3) { Plugin::Native } else { Plugin::CachingSha2 },
        origin: match (bit(flags, 1), bit(flags, 2)) {
            (false, _) => Origin::Socket,
            (true, false) => Origin::MayBeNamed,
            (true, true) => Origin::Named(([10, 0, 0, 1], 5).into()),
        },
    };
    meet(bytes, async |stream| match bit(flags, 4) {
        false => server::accept(stream, &door, &hello).await.is_ok(),
        true => server::change_user(stream, &door, &a_login(flags), command).await.is_ok(),
    })
}

/// A backend that says `bytes` to whoever logs in. `flags`: 0, 1: what is known of the password; 4: it answers a
/// COM_CHANGE_USER.
pub fn backend(flags: u8, bytes: &[u8]) -> io::Result<Seen> {
    let credential = match (bit(flags, 0), bit(flags, 1)) {
        (false, _) => Credential::Clear(Secret::new(PASSWORD)),
        (true, false) => Credential::Sha1(super::plugin::sha1_of(&Secret::new(PASSWORD))),
        (true, true) => Credential::Empty,
    };
    let login = a_login(flags);
    meet(bytes, async |mut stream| {
        let ok = if bit(flags, 4) {
            let version =
                ServerVersion { flavor: Flavor::MySql, major: 9, minor: 7, patch: 0, ocean_base: false };
            client::change_user(&mut stream, version, &login, &credential).await
        } else {
            let mut frames = Frames::new();
            match read_greeting(&mut stream, &mut frames).await {
                Ok(greeting) => log_in(&mut stream, &mut frames, &greeting, &login, &credential).await,
                Err(error) => Err(error),
            }
        };
        ok.is_ok_and(|ok| OkPacket::parse(&ok, login.capabilities).is_ok())
    })
}
