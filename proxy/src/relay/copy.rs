//! One leg of a session: a stream and the one buffer that everything from it passes through.
//!
//! Bytes are read in large portions and written on from where they lie. Nothing is read while what was read
//! before still waits to be written, so the slower end holds the faster one back and memory stays bounded
//! whatever the size of a result (invariant 7). An idle leg owns no buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::metrics::Traffic;
use crate::protocol::socket::Socket;
use crate::protocol::stream::Stream;
use crate::ring::{Bytes, RingSocket};

/// What a leg starts with: enough for most statements. Thousands of connections have one at the same time.
const SMALL: usize = 2 * 1024;
/// What a leg with more to say gets, and one with a lot.
const MIDDLE: usize = 16 * 1024;
const LARGE: usize = 64 * 1024;

/// Bytes that were read and not yet passed on.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// How much the last read has brought.
    flow: Flow,
}

/// How much a leg has to say at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flow {
    /// Less than [`SMALL`] at a time.
    #[default]
    Short,
    /// More.
    Long,
    /// As much as is read.
    Bulk,
}

impl Flow {
    fn after(count: usize) -> Self {
        match count {
            MIDDLE.. => Self::Bulk,
            SMALL.. => Self::Long,
            _ => Self::Short,
        }
    }

    fn room(self) -> usize {
        match self {
            Self::Short => SMALL,
            Self::Long => MIDDLE,
            Self::Bulk => LARGE,
        }
    }
}

impl Buffer {
    /// What is in it.
    #[inline]
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that it has taken from the system.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.capacity()
    }

    /// The first `count` bytes were passed on.
    pub fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// What comes next is likely to be short.
    pub fn calm(&mut self) {
        self.flow = Flow::Short;
    }

    /// Gives the memory back, where nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Makes room for a packet of `total` bytes, counted from the first byte that is in it.
    pub fn make_room(&mut self, total: usize) {
        if self.start + total <= self.data.len() {
            return;
        }
        self.data.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.data.len() < total {
            self.data.resize(total, 0);
        }
    }

    /// Puts the bytes of a read behind what is in it; keeps a large buffer that came with them where it can.
    fn put(&mut self, bytes: Bytes<'_>) -> usize {
        let count = match bytes {
            Bytes::Own { buffer, start, end } if self.is_empty() => {
                std::mem::swap(&mut self.data, buffer);
                (self.start, self.end) = (start, end);
                return end - start;
            }
            Bytes::Own { .. } | Bytes::Shared(_) => bytes.as_slice().len(),
        };
        if self.data.len() - self.end < count {
            // Not a byte more for a short one, because an idle session keeps it for a while.
            let total = (self.len() + count).max(self.len() * 2);
            self.make_room(total.next_power_of_two());
        }
        if let Some(room) = self.data.get_mut(self.end..self.end + count) {
            room.copy_from_slice(bytes.as_slice());
            self.end += count;
        }
        count
    }

    /// Room for the next read.
    fn room(&mut self) -> &mut [u8] {
        let wanted = self.flow.room();
        if self.is_empty() && self.data.len() < wanted {
            self.data.resize(wanted, 0);
        } else if self.end == self.data.len() {
            let total = (self.len() * 2).max(wanted);
            self.make_room(total);
        }
        self.data.get_mut(self.end..).unwrap_or_default()
    }
}

/// A stream and its buffer.
#[derive(Debug)]
pub struct Leg {
    stream: Stream,
    /// What was read from the stream.
    pub buffer: Buffer,
    traffic: Traffic,
}

impl Leg {
    /// A leg at rest.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: Buffer::default(), traffic: Traffic::default() }
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream, for an exchange that reads no byte more than it needs. Nothing may be in the buffer.
    pub fn stream_mut(&mut self) -> &mut Stream {
        debug_assert!(self.buffer.is_empty(), "bytes would be overtaken");
        &mut self.stream
    }

    /// The same, for good: what is left behaves like a leg whose other end has closed.
    pub fn take_stream(&mut self) -> Stream {
        debug_assert!(self.buffer.is_empty(), "bytes would be lost");
        std::mem::replace(&mut self.stream, Stream::Duplex(tokio::io::duplex(1).0))
    }

    /// What passed here since the last call; not what went over the stream past its buffer.
    pub fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// Gives back the memory of a leg that has nothing to say.
    pub fn release(&mut self) {
        self.buffer.release();
        if let Some(socket) = self.ring() {
            socket.release();
        }
    }

    /// Moves the socket to the ring of the worker whose thread this is, if it is one.
    pub fn settle(&mut self) -> io::Result<()> {
        self.stream.settle()
    }

    /// The socket, where it is on a ring and bytes on it are the protocol's own.
    fn ring(&mut self) -> Option<&mut RingSocket> {
        match self.stream.plain() {
            Some(Socket::Ring(socket)) => Some(socket),
            _ => None,
        }
    }

    /// One read into the buffer, behind what is in it. 0: the other end has closed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Stream::Plain(Socket::Ring(socket)) = &mut self.stream {
            let buffer = &mut self.buffer;
            let is_large = buffer.flow == Flow::Bulk;
            let read = socket.poll_read_with(cx, is_large, |bytes| buffer.put(bytes));
            if let Poll::Ready(Ok(count)) = read {
                buffer.flow = Flow::after(count);
                self.traffic.received += count as u64;
            }
            return read;
        }
        let mut room = ReadBuf::new(self.buffer.room());
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut room);
        let count = room.filled().len();
        if result.is_pending() {
            return Poll::Pending;
        }
        self.buffer.flow = Flow::after(count);
        self.buffer.end += count;
        self.traffic.received += count as u64;
        result.map(|result| result.map(|()| count))
    }

    /// One read into the buffer, behind what is in it. 0: the other end has closed.
    ///
    /// Cancel safety: dropped while waiting, nothing was read.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Reads until `count` bytes are in the buffer; an end before that is an error.
    pub async fn fill_to(&mut self, count: usize) -> io::Result<()> {
        if self.buffer.len() < count {
            self.buffer.make_room(count);
        }
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.traffic.sent += bytes.len() as u64;
        // The common case: the socket takes it at once, and no future has to be built for it.
        if let Some(socket) = self.ring() {
            return socket.write_owned(bytes.to_vec(), 0, bytes.len()).await.1;
        }
        if let Some(Socket::Epoll(stream)) = self.stream.plain() {
            match stream.try_write(bytes) {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(count) => return self.stream.write_all(bytes.get(count..).unwrap_or_default()).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Passes the first `count` bytes of the buffer on to `to`.
    pub async fn forward(&mut self, to: &mut Leg, count: usize) -> io::Result<()> {
        if to.ring().is_some() {
            to.traffic.sent += count as u64;
        }
        if let Some(socket) = to.ring() {
            // The bytes are written from where they lie, so the buffer goes along.
            let Buffer { data, start, end, flow } = std::mem::take(&mut self.buffer);
            let (data, written) = socket.write_owned(data, start, end.min(start + count)).await;
            // A buffer that didn't come back was lost together with the connection.
            let end = if data.is_empty() { start } else { end };
            self.buffer = Buffer { data, start, end, flow };
            self.buffer.consume(count);
            return written;
        }
        to.write(self.buffer.filled().get(..count).unwrap_or_default()).await?;
        self.buffer.consume(count);
        Ok(())
    }

    /// The same as [`Leg::forward`]; while `to` takes its time it is also read from, up to `ahead` bytes: one that says
    /// that it will say nothing more (an end of its stream, TLS's close_notify) has left, which is an error.
    ///
    /// Cancel safety: none; a part of the bytes may have been written.
    pub async fn forward_to_reader(&mut self, to: &mut Leg, count: usize, ahead: usize) -> io::Result<()> {
        if to.ring().is_some() {
            let Buffer { data, start, end, flow } = std::mem::take(&mut self.buffer);
            let (data, written) = to.write_owned_to_reader(data, start, end.min(start + count), ahead).await;
            // A buffer that didn't come back was lost together with the connection.
            let end = if data.is_empty() { start } else { end };
            self.buffer = Buffer { data, start, end, flow };
            self.buffer.consume(count);
            return written;
        }
        to.write_to_reader(self.buffer.filled().get(..count).unwrap_or_default(), ahead).await?;
        self.buffer.consume(count);
        Ok(())
    }

    /// On the ring, where the bytes go along with their buffer.
    async fn write_owned_to_reader(
        &mut self,
        bytes: Vec<u8>,
        start: usize,
        end: usize,
        ahead: usize,
    ) -> (Vec<u8>, io::Result<()>) {
        self.traffic.sent += end.saturating_sub(start) as u64;
        let gone = || io::Error::other("the socket isn't on a ring");
        let Some(socket) = self.ring() else { return (bytes, Err(gone())) };
        if let Err((bytes, error)) = socket.begin_write(bytes, start, end).await {
            return (bytes, Err(error));
        }
        std::future::poll_fn(|cx| {
            let Some(socket) = self.ring() else { return Poll::Ready((Vec::new(), Err(gone()))) };
            match socket.poll_outcome(cx) {
                Poll::Ready(Ok(done)) => Poll::Ready(done),
                Poll::Ready(Err(error)) => Poll::Ready((Vec::new(), Err(error))),
                Poll::Pending => self.poll_left(cx, ahead).map(|left| (Vec::new(), Err(left))),
            }
        })
        .await
    }

    async fn write_to_reader(&mut self, bytes: &[u8], ahead: usize) -> io::Result<()> {
        self.traffic.sent += bytes.len() as u64;
        let mut rest = bytes;
        std::future::poll_fn(|cx| {
            loop {
                let stream = Pin::new(&mut self.stream);
                let written = match rest {
                    [] => stream.poll_flush(cx).map_ok(|()| None),
                    rest => stream.poll_write(cx, rest).map_ok(Some),
                };
                match written {
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(Some(0))) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(Some(count))) => rest = rest.get(count..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return self.poll_left(cx, ahead).map(Err),
                }
            }
        })
        .await
    }

    /// Ready once the other end has left. What it says before that is kept, up to `ahead` bytes; a client that has
    /// sent more than that is taken to be there.
    fn poll_left(&mut self, cx: &mut Context<'_>, ahead: usize) -> Poll<io::Error> {
        while self.buffer.len() < ahead {
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// True where the other end is still there and has said nothing that wasn't asked for.
    pub fn is_quiet(&mut self) -> bool {
        if let Some(socket) = self.ring() {
            let is_quiet = socket.is_quiet();
            return is_quiet && self.buffer.is_empty();
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.buffer.is_empty() && self.poll_fill(&mut cx).is_pending()
    }

    /// Says that nothing more comes from here, and closes.
    pub async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// What may lie in a leg's buffer that isn't passed on yet, in bytes, before it is no longer read from.
const AHEAD: usize = 16 * 1024;

/// Passes on whatever comes, both ways, until one end closes: for streams without an end (binary logs).
pub async fn both_ways(a: &mut Leg, b: &mut Leg) -> io::Result<()> {
    loop {
        if !a.buffer.is_empty() {
            let count = a.buffer.len();
            a.forward_to_reader(b, count, AHEAD).await?;
        }
        if !b.buffer.is_empty() {
            let count = b.buffer.len();
            b.forward_to_reader(a, count, AHEAD).await?;
        }
        let count = tokio::select! {
            count = a.fill() => count?,
            count = b.fill() => count?,
        };
        if count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::io::AsyncReadExt;

    use super::*;

    fn pair(size: usize) -> (Leg, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(size);
        (Leg::new(Stream::Duplex(near)), far)
    }

    #[tokio::test]
    async fn what_comes_in_goes_out_and_memory_is_bounded() {
        let (mut from, mut writer) = pair(1 << 16);
        let (mut to, mut reader) = pair(1 << 12);
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let write = async move {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
        };
        let relay = async move {
            while from.fill().await.unwrap() > 0 {
                let count = from.buffer.len();
                from.forward(&mut to, count).await.unwrap();
                assert!(from.buffer.capacity() <= 2 * LARGE);
            }
            from.buffer.release();
            assert_eq!(from.buffer.capacity(), 0);
            drop(to);
        };
        let mut got = Vec::new();
        let ((), (), _) = tokio::join!(write, relay, reader.read_to_end(&mut got));
        assert!(got == bytes);
    }

    #[tokio::test]
    async fn who_leaves_while_written_to_is_noticed() {
        let full = |byte: u8| {
            let mut leg = pair(1).0;
            leg.buffer.put(Bytes::Shared(&[byte; 100_000]));
            leg
        };
        let mut big = full(7);
        let (mut to, far) = pair(1000);
        let (mut reads, mut writes) = tokio::io::split(far);
        // It may still say something, and doesn't read.
        writes.write_all(&[1; 40]).await.unwrap();
        let left = async {
            writes.shutdown().await.unwrap();
        };
        let (forwarded, ()) = tokio::join!(big.forward_to_reader(&mut to, 100_000, 64), left);
        assert_eq!(forwarded.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(to.buffer.filled(), [1; 40]);
        let mut got = vec![0; 1000];
        reads.read_exact(&mut got).await.unwrap();

        // Whoever only takes its time gets all of it, and what it says meanwhile is kept for later.
        let mut big = full(8);
        let (mut to, mut far) = pair(1000);
        let reader = async {
            far.write_all(b"ahead").await.unwrap();
            let mut got = vec![0; 100_000];
            far.read_exact(&mut got).await.unwrap();
            assert!(got.iter().all(|byte| *byte == 8));
        };
        let (forwarded, ()) = tokio::join!(big.forward_to_reader(&mut to, 100_000, 64), reader);
        forwarded.unwrap();
        assert!(big.buffer.is_empty() && to.buffer.len() <= 5);
    }

    #[tokio::test]
    async fn a_packet_is_waited_for_whole() {
        let (mut leg, mut far) = pair(64);
        assert!(leg.is_quiet());
        let write = async {
            far.write_all(&[7; 100]).await.unwrap();
            far.write_all(&[8; 50_000]).await.unwrap();
        };
        let read = async {
            leg.fill_to(60).await.unwrap();
            leg.buffer.consume(60);
            leg.fill_to(40_000).await.unwrap();
            assert_eq!((leg.buffer.filled()[39], leg.buffer.filled()[40]), (7, 8));
            let rest = leg.buffer.len();
            leg.buffer.consume(rest);
            leg.fill_to(50_100 - 60 - rest).await.unwrap();
        };
        tokio::join!(write, read);
        assert!(!{
            drop(far);
            leg.buffer.consume(usize::MAX / 2);
            leg.is_quiet()
        });
    }
}
