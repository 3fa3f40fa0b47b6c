//! Whom a new connection speaks for: the PROXY header that a load balancer begins it with.
//!
//! Only the balancers that the configuration names are believed. Whoever else sends a header sent something that
//! isn't a login.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use config::{EntranceConfig, Network, ProxyHeaders};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::auth::arrival::{Origin, STEP_TIMEOUT};
use crate::protocol::proxy_header::{self, ReadError};

/// Who is believed.
#[derive(Debug)]
pub(crate) struct Entrance {
    headers: ProxyHeaders,
    trusted: Vec<Network>,
    patience: Duration,
}

/// Why a connection isn't served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unwelcome {
    /// It comes past the balancers, where every connection has to come through them.
    Stranger,
    /// It has no header, or something that isn't one. It is to be closed without a word.
    NoHeader,
}

impl Entrance {
    pub(crate) fn new(config: &EntranceConfig) -> Self {
        Self { headers: config.headers, trusted: config.headers_from.clone(), patience: STEP_TIMEOUT }
    }

    /// Whom `socket` speaks for, as far as that is known before the greeting.
    pub(crate) async fn origin(
        &self,
        socket: &mut TcpStream,
        peer: Option<SocketAddr>,
    ) -> Result<Origin, Unwelcome> {
        if self.headers == ProxyHeaders::Off {
            return Ok(Origin::Socket);
        }
        let Some(peer) = peer.map(|peer| peer.ip().to_canonical()) else { return Err(Unwelcome::NoHeader) };
        match (self.headers, self.trusts(peer)) {
            (ProxyHeaders::Off, _) | (ProxyHeaders::Optional, false) => Ok(Origin::Socket),
            (ProxyHeaders::Optional, true) => Ok(Origin::MayBeNamed),
            (ProxyHeaders::Required, true) => self.read(socket, peer).await,
            (ProxyHeaders::Required, false) => {
                // Without the port, so that repeats are one row of SHOW EVENTS.
                warn!(
                    area = "proxy",
                    "a connection from {peer} was turned away: proxy.proxy_protocol is required, and {peer} isn't in \
                     proxy.proxy_protocol_from"
                );
                Err(Unwelcome::Stranger)
            }
        }
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer))
    }

    async fn read(&self, socket: &mut TcpStream, peer: IpAddr) -> Result<Origin, Unwelcome> {
        let why = match tokio::time::timeout(self.patience, proxy_header::read(socket, &[])).await {
            Ok(Ok(named)) => return Ok(named.map_or(Origin::Socket, Origin::Named)),
            Ok(Err(ReadError::Io(error))) => {
                // A check of the balancer's that the port is open.
                debug!("a connection from {peer} ended before its PROXY header: {error}");
                return Err(Unwelcome::NoHeader);
            }
            Ok(Err(ReadError::Malformed(malformed))) => malformed.0.to_owned(),
            Err(_) => format!("no PROXY header came within {:?}", self.patience),
        };
        warn!(area = "proxy", "a connection from {peer} was closed: {why}; does it send PROXY headers?");
        Err(Unwelcome::NoHeader)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn check(headers: ProxyHeaders, from: &str, bytes: &[u8], wanted: Result<Origin, Unwelcome>) {
        let config =
            EntranceConfig { headers, headers_from: vec![from.parse().unwrap()], max_connects_per_s: 0 };
        let entrance = Entrance { patience: Duration::from_millis(200), ..Entrance::new(&config) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let (mut socket, peer) = listener.accept().await.unwrap();
        assert_eq!(entrance.origin(&mut socket, Some(peer)).await, wanted, "{headers:?} {from}");
    }

    #[tokio::test]
    async fn only_the_trusted_are_believed() {
        use ProxyHeaders::{Off, Optional, Required};
        let line = b"PROXY TCP4 10.9.8.7 1.1.1.1 5 1\r\n";
        let named = Origin::Named("10.9.8.7:5".parse().unwrap());
        check(Off, "127.0.0.0/8", line, Ok(Origin::Socket)).await;
        check(Optional, "10.0.0.0/8", line, Ok(Origin::Socket)).await;
        check(Optional, "127.0.0.0/8", line, Ok(Origin::MayBeNamed)).await;
        check(Required, "127.0.0.0/8", line, Ok(named)).await;
        check(Required, "10.0.0.0/8", line, Err(Unwelcome::Stranger)).await;
        check(Required, "127.0.0.1", b"PROXY UNKNOWN\r\n", Ok(Origin::Socket)).await;
        check(Required, "127.0.0.1", b"GET / HTTP/1.1\r\n\r\n", Err(Unwelcome::NoHeader)).await;
        check(Required, "127.0.0.1", b"PROXY TCP4", Err(Unwelcome::NoHeader)).await;
        check(Required, "127.0.0.1", b"", Err(Unwelcome::NoHeader)).await;
    }
}
