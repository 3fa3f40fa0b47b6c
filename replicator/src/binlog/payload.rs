//! TRANSACTION_PAYLOAD: a whole transaction compressed into one event, unpacked while it arrives.
//!
//! Input comes in pieces and events come out one at a time, so that neither a large payload nor one that unpacks
//! to a thousand times its size takes more memory than its largest event (invariant 7).

use bytes::{Bytes, BytesMut};
use zstd::stream::raw::{Decoder, Operation as _};

use super::compress::UNPACKED_BYTES_MAX;
use super::cursor::{Cursor, Malformed};
use super::event::{EventHeader, HEADER_BYTES};

/// Unpacked at a time.
const STEP_BYTES: usize = 128 * 1024;

/// A payload that is being unpacked.
pub(crate) struct Payload {
    decoder: Option<Decoder<'static>>,
    /// Bytes of the compressed body that have not arrived yet.
    missing: u64,
    /// Bytes that it says it unpacks to and that have not come out yet.
    expected: u64,
    input: Bytes,
    unpacked: BytesMut,
    frame_open: bool,
    /// The last step was full, so more may come out without more input.
    more: bool,
}

impl Payload {
    /// Begins with the first piece of the event's body, which holds all of its fields.
    pub(crate) fn begin(first: &Bytes, body_bytes: u64) -> Result<Self, Malformed> {
        const END: u64 = 0;
        const SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const UNCOMPRESSED_SIZE: u64 = 3;
        const ZSTD: u64 = 0;
        const NONE: u64 = 255;
        let mut cursor = Cursor::new(first);
        let (mut size, mut compression, mut uncompressed) = (None, None, None);
        loop {
            let field = cursor.lenenc()?;
            if field == END {
                break;
            }
            let length = cursor.lenenc_size()?;
            let mut value = Cursor::new(cursor.take(length)?);
            match field {
                SIZE => size = Some(value.lenenc()?),
                COMPRESSION => compression = Some(value.lenenc()?),
                UNCOMPRESSED_SIZE => uncompressed = Some(value.lenenc()?),
                _ => {
                    return Err(Malformed::new("a compressed transaction has a field that isn't known here"));
                }
            }
        }
        let decoder = match compression {
            Some(ZSTD) => Some(Decoder::new().map_err(|_| Malformed::new("zstd can't be set up"))?),
            Some(NONE) => None,
            _ => {
                return Err(Malformed::new(
                    "a transaction is compressed by an algorithm that isn't known here",
                ));
            }
        };
        let head = (first.len() - cursor.len()) as u64;
        let missing = body_bytes.saturating_sub(head);
        if size != Some(missing) {
            return Err(Malformed::new("a compressed transaction doesn't have the length that it says"));
        }
        let expected = match (uncompressed, &decoder) {
            (Some(bytes), _) => bytes,
            (None, None) => missing,
            (None, Some(_)) => {
                return Err(Malformed::new("a compressed transaction doesn't say how long it is"));
            }
        };
        let mut payload = Self {
            decoder,
            missing,
            expected,
            input: Bytes::new(),
            unpacked: BytesMut::new(),
            frame_open: true,
            more: false,
        };
        payload.push(first.slice(first.len() - cursor.len()..))?;
        Ok(payload)
    }

    /// The next piece, once [`Self::next_event`] has used up the one before.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), Malformed> {
        self.missing = self
            .missing
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| Malformed::new("a compressed transaction doesn't have the length that it says"))?;
        self.input = piece;
        Ok(())
    }

    /// The next event, header and body; `None` where more input is needed, or at the end.
    pub(crate) fn next_event(&mut self) -> Result<Option<Bytes>, Malformed> {
        loop {
            if self.unpacked.len() >= HEADER_BYTES {
                let header = EventHeader::parse(&self.unpacked)?;
                let size = header.size as usize;
                if size < HEADER_BYTES || u64::from(header.size) > UNPACKED_BYTES_MAX {
                    return Err(Malformed::new(
                        "a compressed transaction holds an event of an impossible size",
                    ));
                }
                if self.unpacked.len() >= size {
                    return Ok(Some(self.unpacked.split_to(size).freeze()));
                }
            }
            if !self.unpack()? {
                return Ok(None);
            }
        }
    }

    /// Unpacks a little more; false where nothing came out and there is no more input.
    fn unpack(&mut self) -> Result<bool, Malformed> {
        let Some(decoder) = &mut self.decoder else {
            let any = !self.input.is_empty();
            self.count(self.input.len())?;
            self.unpacked.extend_from_slice(&self.input);
            self.input = Bytes::new();
            self.frame_open = false;
            return Ok(any);
        };
        // Asked without input, the decoder would begin another frame.
        if self.input.is_empty() && !self.more {
            return Ok(false);
        }
        let mut step = [0_u8; STEP_BYTES];
        let status = decoder
            .run_on_buffers(&self.input, &mut step)
            .map_err(|_| Malformed::new("a compressed transaction doesn't decompress"))?;
        self.frame_open = status.remaining != 0;
        self.more = self.frame_open && status.bytes_written == STEP_BYTES;
        self.input = self.input.slice(status.bytes_read.min(self.input.len())..);
        self.unpacked.extend_from_slice(step.get(..status.bytes_written).unwrap_or_default());
        self.count(status.bytes_written)?;
        Ok(status.bytes_written > 0 || status.bytes_read > 0)
    }

    fn count(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.expected = self
            .expected
            .checked_sub(bytes as u64)
            .ok_or_else(|| Malformed::new("a compressed transaction unpacks to more than it says"))?;
        Ok(())
    }

    /// Checks that nothing is missing and nothing is left.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        let whole = self.missing == 0 && self.expected == 0 && self.unpacked.is_empty() && !self.frame_open;
        if whole { Ok(()) } else { Err(Malformed::new("a compressed transaction is truncated")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::binlog::event::write_event_header;
    use proptest::prelude::*;

    fn events(sizes: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, &size) in sizes.iter().enumerate() {
            let header = EventHeader {
                timestamp: 1,
                kind: u8::try_from(index).unwrap(),
                server_id: 1,
                size: 0,
                log_pos: 0,
                flags: 0,
            };
            write_event_header(&mut out, &header, size);
            out.resize(out.len() + size, 7);
        }
        out
    }

    fn body(plain: &[u8], packed: &[u8]) -> Bytes {
        let mut out = vec![2, 1, 0, 3, 9, 254];
        out.extend((plain.len() as u64).to_le_bytes());
        out.extend([1, 9, 254]);
        out.extend((packed.len() as u64).to_le_bytes());
        out.push(0);
        out.extend_from_slice(packed);
        out.into()
    }

    fn unpack(body: &Bytes, first: usize, piece: usize) -> Result<Vec<Bytes>, Malformed> {
        let first = first.min(body.len());
        let mut payload = Payload::begin(&body.slice(..first), body.len() as u64)?;
        let mut out = Vec::new();
        let mut at = first;
        loop {
            while let Some(event) = payload.next_event()? {
                out.push(event);
            }
            if at == body.len() {
                break;
            }
            let end = (at + piece).min(body.len());
            payload.push(body.slice(at..end))?;
            at = end;
        }
        payload.finish()?;
        Ok(out)
    }

    #[test]
    fn a_payload_unpacks_however_it_is_cut() {
        let plain = events(&[0, 5, 300_000, 17]);
        let packed = zstd::encode_all(&*plain, 3).unwrap();
        let body = body(&plain, &packed);
        for (first, piece) in [(body.len(), 1), (26, 1), (30, 7)] {
            let events = unpack(&body, first, piece).unwrap();
            assert_eq!(events.concat(), plain);
            assert_eq!(events.len(), 4);
        }
    }

    #[test]
    fn a_truncated_or_damaged_payload_is_an_error() {
        let plain = events(&[5, 3000]);
        let packed = zstd::encode_all(&*plain, 3).unwrap();
        let whole = body(&plain, &packed);
        for cut in 0..whole.len() {
            assert!(unpack(&whole.slice(..cut), cut, 1).is_err(), "{cut}");
        }
        let short = body(&plain[..plain.len() - 1], &packed);
        assert!(unpack(&short, short.len(), 1).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = body(&[0; 100], &bytes);
            drop(unpack(&bytes, bytes.len(), 1));
        }
    }
}
