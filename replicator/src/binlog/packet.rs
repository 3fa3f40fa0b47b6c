//! A connection that speaks just enough of the client protocol to ask for a binlog: log in, run a few SETs,
//! register, dump. The driver's own stream parses and unpacks events by itself, which is what we must not have.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use config::{BackendConfig, Side};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cursor::{Cursor, Malformed};
use crate::error::{Error, Result};

/// How long dialling and logging in may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the server may take to answer a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A packet of this length is continued by the next one.
pub(crate) const PACKET_BYTES_MAX: usize = 0xff_ffff;
/// Read at once from the socket.
const READ_BYTES: usize = 256 * 1024;

/// Plain TCP, or TLS over it.
#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, logged in.
#[derive(Debug)]
pub(crate) struct PacketConnection {
    socket: Socket,
    buffer: BytesMut,
    sequence: u8,
    place: String,
}

impl PacketConnection {
    /// Dials and logs in. For an account with caching_sha2_password somebody must have logged in before with the
    /// whole password (the control connection does), so that the server has it in its cache.
    ///
    /// Cancel safety: nothing is kept.
    pub(crate) async fn connect(backend: &BackendConfig) -> Result<Self> {
        let place = format!("binlog connection to {}", backend.address());
        let broken = |error: std::io::Error| {
            Error::transient(
                Side::Source,
                place.clone(),
                format!("can't connect ({error}); it is tried again"),
            )
        };
        let connecting = async {
            let socket = TcpStream::connect((backend.host.as_str(), backend.port)).await.map_err(broken)?;
            socket.set_nodelay(true).map_err(broken)?;
            let socket = Socket::Plain(socket);
            let this = Self { socket, buffer: BytesMut::new(), sequence: 0, place: place.clone() };
            this.log_in(backend).await
        };
        tokio::time::timeout(CONNECT_LIMIT, connecting).await.unwrap_or_else(|_| {
            Err(Error::transient(Side::Source, place.clone(), "no answer within 10 s; it is tried again"))
        })
    }

    /// True where the next packet can be read without waiting.
    pub(crate) fn has_packet(&self) -> bool {
        packet_length(&self.buffer).is_some_and(|length| self.buffer.len() >= 4 + length)
    }

    /// The payload of the next packet as it is on the wire: up to 16 MiB, not joined with its continuation.
    ///
    /// Cancel safety: what was read stays in the buffer.
    pub(crate) async fn read(&mut self) -> Result<Bytes> {
        loop {
            if let Some(length) = packet_length(&self.buffer) {
                if self.buffer.len() >= 4 + length {
                    let head = self.buffer.split_to(4);
                    let sequence = head.last().copied().unwrap_or_default();
                    if sequence != self.sequence {
                        return Err(self.transient("packets came out of order"));
                    }
                    self.sequence = sequence.wrapping_add(1);
                    return Ok(self.buffer.split_to(length).freeze());
                }
                self.make_room(4 + length);
            } else {
                self.make_room(READ_BYTES);
            }
            let read = match &mut self.socket {
                Socket::Plain(socket) => socket.read_buf(&mut self.buffer).await,
                Socket::Tls(socket) => socket.read_buf(&mut self.buffer).await,
            };
            match read {
                Ok(0) => return Err(self.transient("the server closed the connection")),
                Ok(_) => {}
                Err(error) => return Err(self.transient(&format!("the connection failed ({error})"))),
            }
        }
    }

    /// Room for so many bytes in all, of which fewer are there, and for little more than that: reserving would double the memory
    /// of a large packet, and hold on to that of the largest one that there ever was (invariant 7).
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.capacity() < bytes || self.buffer.is_empty() {
            let mut larger = BytesMut::with_capacity(bytes.max(READ_BYTES));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
    }

    /// Sends a command. Not cancel safe: half a packet may be on its way.
    async fn write(&mut self, payload: &[u8]) -> Result<()> {
        debug_assert!(payload.len() < PACKET_BYTES_MAX);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut packet = Vec::with_capacity(4 + payload.len());
        packet.extend_from_slice(length.get(..3).unwrap_or_default());
        packet.push(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        packet.extend_from_slice(payload);
        let written = match &mut self.socket {
            Socket::Plain(socket) => socket.write_all(&packet).await,
            Socket::Tls(socket) => {
                async {
                    socket.write_all(&packet).await?;
                    socket.flush().await
                }
                .await
            }
        };
        written.map_err(|error| self.transient(&format!("the connection failed ({error})")))
    }

    /// Sends a command that has no answer of its own but the stream.
    pub(crate) async fn command(&mut self, payload: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.write(payload).await
    }

    /// Sends a command and waits for its OK.
    pub(crate) async fn command_ok(&mut self, payload: &[u8]) -> Result<()> {
        self.command(payload).await?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.read())
            .await
            .map_err(|_| self.transient("no answer within 30 s"))??;
        match answer.first() {
            Some(0x00) => Ok(()),
            Some(0xff) => Err(self.server_error(&answer)),
            _ => Err(self.unexpected()),
        }
    }

    /// Runs a statement that returns no rows.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<()> {
        const COM_QUERY: u8 = 0x03;
        let mut payload = vec![COM_QUERY];
        payload.extend_from_slice(sql.as_bytes());
        self.command_ok(&payload).await
    }

    async fn log_in(mut self, backend: &BackendConfig) -> Result<Self> {
        let greeting = self.read().await?;
        if greeting.first() == Some(&0xff) {
            return Err(self.server_error(&greeting));
        }
        let (mut nonce, mut plugin) = parse_greeting(&greeting).map_err(|_| self.unexpected())?;
        let mut token = self.token(&plugin, &nonce, backend)?;
        let capabilities = if backend.tls.client().is_some() { CAPABILITIES | SSL } else { CAPABILITIES };
        let mut response = Vec::with_capacity(128);
        response.extend_from_slice(&capabilities.to_le_bytes());
        response.extend_from_slice(&(1_u32 << 30).to_le_bytes());
        response.push(UTF8MB4_GENERAL_CI);
        response.extend_from_slice(&[0; 23]);
        self = self.secured(backend, &response).await?;
        response.extend_from_slice(backend.user.as_bytes());
        response.push(0);
        response.push(u8::try_from(token.len()).unwrap_or_default());
        response.extend_from_slice(&token);
        response.extend_from_slice(plugin.as_bytes());
        response.push(0);
        self.write(&response).await?;
        loop {
            let answer = self.read().await?;
            match answer.first() {
                Some(0x00) => return Ok(self),
                Some(0xff) => return Err(self.server_error(&answer)),
                Some(0xfe) => {
                    (nonce, plugin) = parse_switch(&answer).map_err(|_| self.unexpected())?;
                    token = self.token(&plugin, &nonce, backend)?;
                    self.write(&token).await?;
                }
                // caching_sha2_password: 3 is "known", an OK follows; 4 asks for the whole password.
                Some(0x01) if answer.get(1) == Some(&3) => {}
                Some(0x01) if answer.get(1) == Some(&4) => {
                    return Err(self.transient("the server has forgotten the account's password"));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// Asks for TLS with the beginning of the response, where it is configured.
    async fn secured(mut self, backend: &BackendConfig, request: &[u8]) -> Result<Self> {
        let Some(tls) = backend.tls.client() else { return Ok(self) };
        let place = self.place.clone();
        let failed = |why: String| {
            Error::transient(Side::Source, place, format!("TLS failed: {why}; it is tried again"))
        };
        let Ok(name) = backend.server_name() else { return Err(failed("the host is no name".to_owned())) };
        self.write(request).await?;
        let Self { socket, buffer, sequence, place: own } = self;
        let Socket::Plain(tcp) = socket else { return Err(failed("it was begun twice".to_owned())) };
        let tls = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
        let tls = tls.map_err(|error| failed(error.to_string()))?;
        Ok(Self { socket: Socket::Tls(Box::new(tls)), buffer, sequence, place: own })
    }

    fn token(&self, plugin: &str, nonce: &[u8], backend: &BackendConfig) -> Result<Vec<u8>> {
        let password = backend.password.expose();
        match plugin {
            "mysql_native_password" => Ok(native_token(password, nonce)),
            "caching_sha2_password" => Ok(caching_sha2_token(password, nonce)),
            other => Err(Error::definite(
                Side::Source,
                self.place.clone(),
                format!(
                    "the account logs in with {other}, which isn't supported; give it mysql_native_password or \
                     caching_sha2_password"
                ),
            )),
        }
    }

    pub(crate) fn transient(&self, what: &str) -> Error {
        Error::transient(Side::Source, self.place.clone(), format!("{what}; it is tried again"))
    }

    pub(crate) fn unexpected(&self) -> Error {
        self.transient("the server sent a packet that makes no sense here")
    }

    /// An ERR packet to an error.
    pub(crate) fn server_error(&self, packet: &[u8]) -> Error {
        let mut cursor = Cursor::new(packet);
        let (Ok(_), Ok(code)) = (cursor.u8(), cursor.u16()) else { return self.unexpected() };
        let text = String::from_utf8_lossy(cursor.rest());
        let text = match text.strip_prefix('#') {
            Some(rest) => rest.get(5..).unwrap_or_default().to_owned(),
            None => text.into_owned(),
        };
        super::stream::classify_server_error(code, &text, &self.place)
    }
}

fn packet_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer.first_chunk::<4>()?;
    Some(usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16)
}

const UTF8MB4_GENERAL_CI: u8 = 45;
/// LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
const SSL: u32 = 0x800;
const NONCE_BYTES: usize = 20;

/// Nonce and plugin of the server's greeting.
fn parse_greeting(packet: &[u8]) -> std::result::Result<(Vec<u8>, String), Malformed> {
    let mut cursor = Cursor::new(packet);
    if cursor.u8()? != 10 {
        return Err(Malformed::new("another protocol"));
    }
    cursor.until_zero()?;
    cursor.take(4)?;
    let mut nonce = cursor.take(8)?.to_vec();
    // Filler, capabilities, charset, status, capabilities, length of the nonce, reserved.
    cursor.take(1 + 2 + 1 + 2 + 2 + 1 + 10)?;
    nonce.extend_from_slice(cursor.take(NONCE_BYTES - nonce.len())?);
    cursor.take(1)?;
    let plugin = cursor.until_zero().unwrap_or_else(|_| cursor.rest());
    Ok((nonce, String::from_utf8_lossy(plugin).into_owned()))
}

/// Plugin and nonce of a request to use another plugin.
fn parse_switch(packet: &[u8]) -> std::result::Result<(Vec<u8>, String), Malformed> {
    let mut cursor = Cursor::new(packet);
    cursor.u8()?;
    let plugin = String::from_utf8_lossy(cursor.until_zero()?).into_owned();
    let rest = cursor.rest();
    Ok((rest.get(..NONCE_BYTES).unwrap_or(rest).to_vec(), plugin))
}

fn xor(left: impl AsRef<[u8]>, right: impl AsRef<[u8]>) -> Vec<u8> {
    left.as_ref().iter().zip(right.as_ref()).map(|(a, b)| a ^ b).collect()
}

/// SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))
fn native_token(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password);
    let salted = Sha1::new().chain_update(nonce).chain_update(Sha1::digest(once)).finalize();
    xor(once, salted)
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)
fn caching_sha2_token(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha256::digest(password);
    let salted = Sha256::new().chain_update(Sha256::digest(once)).chain_update(nonce).finalize();
    xor(once, salted)
}
