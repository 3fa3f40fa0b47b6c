//! A session's socket on its worker's ring.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::driver::{Bytes, Driver};
use super::worker::{Shelf, with_driver};

/// Bytes that [`AsyncWrite`] takes at once.
const WRITE_MAX: usize = 64 * 1024;

/// A connected TCP socket. It can be used on the worker that adopted it, and nowhere else: there its
/// operations fail. Dropped, it closes.
#[derive(Debug)]
pub(crate) struct RingSocket {
    worker: Arc<Shelf>,
    key: usize,
    peer: Option<SocketAddr>,
}

impl RingSocket {
    /// True on a worker's thread.
    pub(crate) fn can_adopt() -> bool {
        Shelf::of_this_thread().is_some()
    }

    /// Takes a socket over for this thread, which must be a worker.
    pub(crate) fn adopt(socket: TcpStream) -> io::Result<Self> {
        let worker = Shelf::of_this_thread().ok_or_else(|| io::Error::other("this thread has no ring"))?;
        let peer = socket.peer_addr().ok();
        let key = with_driver(&worker, |driver| driver.adopt(socket))?;
        Ok(Self { worker, key, peer })
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// One read; what has come is given to `take`, which says how much of it it took: 0 for none there was is
    /// the end. With `is_large` it is up to 64 KiB.
    pub(crate) fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        is_large: bool,
        take: impl FnOnce(Bytes<'_>) -> usize,
    ) -> Poll<io::Result<usize>> {
        self.on_ring(|driver, key| Ok(driver.poll_read(key, cx, is_large, take)))?
    }

    /// Writes `bytes[start..end]` and gives the buffer back.
    ///
    /// Cancel safety: dropped in the middle, the bytes are written all the same, and the buffer is lost.
    pub(crate) async fn write_owned(
        &mut self,
        bytes: Vec<u8>,
        start: usize,
        end: usize,
    ) -> (Vec<u8>, io::Result<()>) {
        if let Err((bytes, error)) = self.begin_write(bytes, start, end).await {
            return (bytes, Err(error));
        }
        match std::future::poll_fn(|cx| self.poll_outcome(cx)).await {
            Ok(done) => done,
            Err(error) => (Vec::new(), Err(error)),
        }
    }

    /// Begins a write, whose outcome [`RingSocket::poll_outcome`] tells. Where it doesn't begin, the buffer comes back
    /// unless the ring has it.
    pub(crate) async fn begin_write(
        &mut self,
        bytes: Vec<u8>,
        start: usize,
        end: usize,
    ) -> Result<(), (Vec<u8>, io::Error)> {
        let earlier = std::future::poll_fn(|cx| self.poll_written(cx)).await;
        let mut bytes = Some(bytes);
        let begun = match earlier {
            Ok(_) => {
                self.on_ring(|driver, key| driver.write(key, bytes.take().unwrap_or_default(), start, end))
            }
            Err(error) => Err(error),
        };
        begun.map_err(|error| (bytes.unwrap_or_default(), error))
    }

    /// Gives back memory that only a connection with a lot to say needs.
    pub(crate) fn release(&mut self) {
        let _ = self.on_ring(|driver, key| {
            driver.release(key);
            Ok(())
        });
    }

    /// True where nothing has come, not even an end. Asks the system past the ring.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let asked = self.on_ring(|driver, key| {
            if driver.has_read(key) {
                return Ok(false);
            }
            let Some(file) = driver.file(key) else { return Ok(false) };
            let peeked = rustix::net::recv(file, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            Ok(matches!(peeked, Err(rustix::io::Errno::AGAIN)))
        });
        asked.unwrap_or(false)
    }

    /// Ready once no write is under way, with its buffer and what became of it.
    pub(crate) fn poll_outcome(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Vec<u8>, io::Result<()>)>> {
        self.on_ring(|driver, key| Ok(driver.poll_written(key, cx)))?.map(Ok)
    }

    /// Ready once no write is under way, with the buffer and the outcome of the last.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let (buffer, outcome) = ready!(self.poll_outcome(cx))?;
        Poll::Ready(outcome.map(|()| buffer))
    }

    fn on_ring<T>(&self, work: impl FnOnce(&mut Driver, usize) -> io::Result<T>) -> io::Result<T> {
        with_driver(&self.worker, |driver| work(driver, self.key))
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        let here = self.on_ring(|driver, key| {
            driver.close(key);
            Ok(())
        });
        if here.is_err() {
            self.worker.close_later(self.key);
        }
    }
}

impl AsyncRead for RingSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let is_large = false;
        let read = self.get_mut().poll_read_with(cx, is_large, |bytes| {
            let bytes = bytes.as_slice();
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.get(..count).unwrap_or_default());
            count
        });
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for RingSocket {
    /// The bytes are copied and on their way; the next write, or a flush, waits for them and says what became of
    /// them.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut copy = ready!(this.poll_written(cx))?;
        let part = buf.get(..buf.len().min(WRITE_MAX)).unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(part);
        this.on_ring(|driver, key| driver.write(key, copy, 0, part.len()))?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_written(cx).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let written = ready!(this.poll_written(cx)).map(|_| ());
        let shut = this.on_ring(|driver, key| {
            let Some(file) = driver.file(key) else { return Ok(()) };
            rustix::net::shutdown(file, Shutdown::Write).map_err(io::Error::from)
        });
        Poll::Ready(written.and(shut))
    }
}
