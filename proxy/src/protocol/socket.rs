//! A TCP socket, on whichever of the two it is: tokio's epoll, or a worker's ring.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ring::RingSocket;

/// A connected TCP socket. It begins on tokio's epoll, where it is dialled or accepted.
#[derive(Debug)]
pub enum Socket {
    /// Tokio's.
    Epoll(TcpStream),
    /// On the ring of the worker that its session lives on.
    #[expect(
        private_interfaces,
        reason = "whoever is outside needs nothing of it but that it reads and writes"
    )]
    Ring(RingSocket),
    /// Between the two: only where the system refused to hand it over.
    Lost,
}

impl Socket {
    /// The other end's address; `None` where it has closed already.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Epoll(socket) => socket.peer_addr().ok(),
            Self::Ring(socket) => socket.peer_addr(),
            Self::Lost => None,
        }
    }

    /// Moves to the ring of the worker whose thread this is; on any other thread it stays where it is.
    /// Nothing may be on its way.
    pub fn settle(&mut self) -> io::Result<()> {
        if !matches!(self, Self::Epoll(_)) || !RingSocket::can_adopt() {
            return Ok(());
        }
        if let Self::Epoll(socket) = std::mem::replace(self, Self::Lost) {
            *self = Self::Ring(RingSocket::adopt(socket.into_std()?)?);
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Ring(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Epoll(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Ring(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(socket) => Pin::new(socket).poll_flush(cx),
            Self::Ring(socket) => Pin::new(socket).poll_flush(cx),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Ring(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Lost => Poll::Ready(Err(lost())),
        }
    }
}

fn lost() -> io::Error {
    io::Error::other("the socket couldn't be handed over to its worker")
}
