//! One type for the three things a leg can be: TCP, TLS over TCP, an in-process pipe.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::socket::Socket;

/// A leg that is silent for so long is asked whether its other end is still there.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// It is asked again after this where it doesn't answer,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and so often before it counts as gone: two minutes in all.
const KEEPALIVE_PROBES: u32 = 6;

/// A leg of a session.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(Socket),
    /// TLS over TCP: with the proxy as the server of a client, or as the client of a backend.
    Tls(Box<TlsStream<Socket>>),
    /// A pipe within the process: the admin port's "backend", and tests.
    Duplex(DuplexStream),
}

impl Stream {
    /// A TCP leg. Nagle's algorithm is switched off: a relay writes whole packets and waits for answers. A peer
    /// that vanishes without a word (a power cut, a firewall that forgets) is noticed by keepalive probes.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
        Ok(Self::Plain(Socket::Epoll(stream)))
    }

    /// Begins TLS, as the client of a server that was told so.
    ///
    /// Cancel safety: none; a dropped handshake leaves a stream that is closed.
    pub async fn secure(&mut self, tls: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        let Self::Plain(tcp) = std::mem::replace(self, Self::Duplex(tokio::io::duplex(1).0)) else {
            return Err(io::Error::other("TLS begins on a TCP connection only"));
        };
        let secured = TlsConnector::from(tls).connect(name, tcp).await?;
        *self = Self::Tls(Box::new(secured.into()));
        Ok(())
    }

    /// True for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Moves its socket to the ring of the worker whose thread this is; see [`Socket::settle`].
    pub fn settle(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.settle(),
            Self::Tls(stream) => stream.get_mut().0.settle(),
            Self::Duplex(_) => Ok(()),
        }
    }

    /// The socket, where bytes on it are the protocol's own.
    #[must_use]
    pub fn plain(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) | Self::Duplex(_) => None,
        }
    }

    /// The other end's address; `None` for a pipe or a socket that is already closed.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.peer_addr(),
            Self::Tls(stream) => stream.get_ref().0.peer_addr(),
            Self::Duplex(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Self::Duplex(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Self::Duplex(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Duplex(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Duplex(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
