//! Packet framing: a 3-byte little-endian length and a sequence number before each payload.
//!
//! The relay walks headers in its own buffers ([`Header::parse`]). The login phase uses [`Frames`], which reads
//! one packet at a time and never a byte more, so that nothing is left in a buffer when the relay takes over
//! or when TLS begins.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Bytes of a packet header.
pub const HEADER_LEN: usize = 4;
/// Payload length that says that the next packet continues this one.
pub const PAYLOAD_MAX: usize = 0xFF_FFFF;
/// An ordinary packet of a login is read in one step of so many bytes.
const READ_STEP: usize = 4096;
/// The largest packet of a login. Generous: connection attributes alone may have 64 KiB.
pub const LOGIN_PACKET_MAX: usize = 128 * 1024;

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload that follows.
    pub len: usize,
    /// Sequence number.
    pub sequence: u8,
}

impl Header {
    /// The header at the start of `bytes`, once all four bytes are there.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, sequence] = *bytes.first_chunk::<HEADER_LEN>()?;
        Some(Self { len: u32::from_le_bytes([a, b, c, 0]) as usize, sequence })
    }

    /// The four bytes. A length over [`PAYLOAD_MAX`] can't be expressed and is cut to it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, _] = (self.len.min(PAYLOAD_MAX) as u32).to_le_bytes();
        [a, b, c, self.sequence]
    }

    /// True where the next packet continues this payload.
    #[must_use]
    pub fn continues(self) -> bool {
        self.len == PAYLOAD_MAX
    }
}

/// `payload` as packets, appended to `out`: split at 16 MiB, with the empty trailer where one is due. Returns
/// the sequence number that comes next.
pub fn put_packet(out: &mut Vec<u8>, sequence: u8, payload: &[u8]) -> u8 {
    let mut sequence = sequence;
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(PAYLOAD_MAX));
        out.extend_from_slice(&Header { len: part.len(), sequence }.to_bytes());
        out.extend_from_slice(part);
        sequence = sequence.wrapping_add(1);
        if part.len() < PAYLOAD_MAX {
            return sequence;
        }
        rest = after;
    }
}

/// Why a packet of a login could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end closed, or the network failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The packet is larger than a login's may be.
    #[error("a packet of {len} bytes in the login, where {limit} are allowed")]
    TooLarge {
        /// As announced.
        len: usize,
        /// As allowed.
        limit: usize,
    },
    /// The sequence number isn't the next one.
    #[error("packet number {got} in the login, where {expected} is next")]
    Sequence {
        /// As received.
        got: u8,
        /// As expected.
        expected: u8,
    },
}

/// `bytes` and zeros up to `len`. A vector that grows by itself would leave a copy behind that nobody overwrites.
fn grown(bytes: Zeroizing<Vec<u8>>, len: usize) -> Zeroizing<Vec<u8>> {
    let mut more = Zeroizing::new(Vec::with_capacity(len));
    more.extend_from_slice(&bytes);
    more.resize(len, 0);
    more
}

/// The sequence of packets of one login, in both directions.
#[derive(Debug)]
pub struct Frames {
    next: u8,
    limit: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { next: 0, limit: LOGIN_PACKET_MAX }
    }
}

impl Frames {
    /// Starts at packet 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on after the packet with this number.
    #[must_use]
    pub fn after(sequence: u8) -> Self {
        Self { next: sequence.wrapping_add(1), ..Self::default() }
    }

    /// Reads one payload. It takes memory as the bytes arrive, not as they are announced, and overwrites it
    /// when it is dropped, because there may be a password in it.
    ///
    /// Cancel safety: none; a dropped read leaves the stream in the middle of a packet.
    pub async fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let mut payload = Zeroizing::new(Vec::new());
        loop {
            let mut header = [0; HEADER_LEN];
            stream.read_exact(&mut header).await?;
            let [a, b, c, sequence] = header;
            let len = u32::from_le_bytes([a, b, c, 0]) as usize;
            // The length comes first: an HTTP request reads as a huge packet, and that is the better message.
            let total = payload.len() + len;
            if total > self.limit {
                return Err(FrameError::TooLarge { len: total, limit: self.limit });
            }
            if sequence != self.next {
                return Err(FrameError::Sequence { got: sequence, expected: self.next });
            }
            self.next = self.next.wrapping_add(1);
            while payload.len() < total {
                let start = payload.len();
                payload = grown(payload, (start + READ_STEP.max(start)).min(total));
                if let Some(room) = payload.get_mut(start..) {
                    stream.read_exact(room).await?;
                }
            }
            if len < PAYLOAD_MAX {
                return Ok(payload);
            }
        }
    }

    /// Writes one payload.
    ///
    /// Cancel safety: none.
    pub async fn write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, payload: &[u8]) -> io::Result<()> {
        self.write_all(stream, &[payload]).await
    }

    /// Writes several payloads at once.
    ///
    /// Cancel safety: none.
    pub async fn write_all<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        payloads: &[&[u8]],
    ) -> io::Result<()> {
        let room = payloads.iter().map(|payload| payload.len() + 2 * HEADER_LEN).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        for payload in payloads {
            self.next = put_packet(&mut bytes, self.next, payload);
        }
        stream.write_all(&bytes).await?;
        stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    async fn read(bytes: &[u8], limit: usize) -> Result<Vec<u8>, FrameError> {
        let mut frames = Frames { next: 0, limit };
        frames.read(&mut &bytes[..]).await.map(|payload| payload.to_vec())
    }

    #[tokio::test]
    async fn payloads_round_trip_whatever_their_length() {
        for len in [0, 1, READ_STEP - 1, READ_STEP, READ_STEP + 1, 100_000, PAYLOAD_MAX, PAYLOAD_MAX + 5] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut bytes = Vec::new();
            let next = put_packet(&mut bytes, 0, &payload);
            assert_eq!(usize::from(next), len / PAYLOAD_MAX + 1);
            assert!(read(&bytes, usize::MAX).await.unwrap() == payload, "{len}");
        }
    }

    #[tokio::test]
    async fn too_much_is_refused_before_it_is_read() {
        let header = Header { len: 101, sequence: 0 }.to_bytes();
        assert!(matches!(read(&header, 100).await, Err(FrameError::TooLarge { len: 101, limit: 100 })));
        // The second half counts as well.
        let mut bytes = Vec::new();
        put_packet(&mut bytes, 0, &vec![0; PAYLOAD_MAX + 5]);
        assert!(matches!(read(&bytes, PAYLOAD_MAX + 4).await, Err(FrameError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn the_sequence_is_checked() {
        let header = Header { len: 0, sequence: 7 }.to_bytes();
        assert!(matches!(read(&header, 100).await, Err(FrameError::Sequence { got: 7, expected: 0 })));
        let mut frames = Frames::after(6);
        assert!(frames.read(&mut &header[..]).await.is_ok());
    }

    proptest! {
        #[test]
        fn headers_round_trip(len in 0..=PAYLOAD_MAX, sequence: u8) {
            let header = Header { len, sequence };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Some(header));
        }
    }
}
