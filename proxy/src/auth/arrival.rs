//! The first packet of a client: whose address counts, and how long anyone may take.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::challenge::Visitor;
use crate::error::ClientError;
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::proxy_header::{self, ReadError};

/// How long a client may be silent after the greeting. As long as the servers wait (connect_timeout).
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one step of a login may take: a packet from its first byte to its last and what comes before it,
/// the TLS handshake, a PROXY header.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// A login that takes longer altogether is cut off.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For its first byte, after the greeting.
    pub first_byte: Duration,
    /// For each step.
    pub step: Duration,
    /// For all of it.
    pub login: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_byte: FIRST_BYTE_TIMEOUT, step: STEP_TIMEOUT, login: LOGIN_TIMEOUT }
    }
}

/// Where a client's address is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The socket.
    #[default]
    Socket,
    /// A PROXY header that came before the greeting.
    Named(SocketAddr),
    /// The socket, or a PROXY header before the client's first packet. A client that speaks for itself waits
    /// for the greeting, so there is no telling before it.
    MayBeNamed,
}

/// What didn't come in time.
pub(super) fn late(what: &'static str, patience: Duration) -> ClientError {
    ClientError::Late { what, ms: patience.as_millis().try_into().unwrap_or(u64::MAX) }
}

impl Visitor {
    /// The client's first packet, and before it the PROXY header where one may stand there.
    pub(super) async fn receive_first(&mut self, origin: Origin) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let mut start = self.packet_start().await?;
        if origin == Origin::MayBeNamed && proxy_header::may_begin(&start) {
            let reading = timeout(self.patience.step, proxy_header::read(&mut self.stream, &start));
            match reading.await.map_err(|_| late("PROXY header", self.patience.step))? {
                Ok(None) => {}
                Ok(named) => self.client = named,
                Err(ReadError::Io(error)) => return Err(error.into()),
                Err(ReadError::Malformed(malformed)) => return Err(malformed.into()),
            }
            start = self.packet_start().await?;
        }
        let mut bytes = start.as_slice().chain(&mut self.stream);
        let packet = timeout(self.patience.step, self.frames.read(&mut bytes)).await;
        Ok(packet.map_err(|_| late("first packet", self.patience.step))??)
    }

    async fn packet_start(&mut self) -> Result<[u8; HEADER_LEN], ClientError> {
        let mut start = [0; HEADER_LEN];
        let (first, rest) = start.split_at_mut(1);
        let reading = timeout(self.patience.first_byte, self.stream.read_exact(first));
        reading.await.map_err(|_| late("first byte", self.patience.first_byte))??;
        let reading = timeout(self.patience.step, self.stream.read_exact(rest));
        reading.await.map_err(|_| late("first packet", self.patience.step))??;
        Ok(start)
    }
}
