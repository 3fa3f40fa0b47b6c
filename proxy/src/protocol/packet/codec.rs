//! Integers and strings of the protocol.

/// A packet that doesn't have the form it must have. Says which part, never what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub struct Malformed(pub &'static str);

/// Reads from the front of a payload.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What hasn't been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True at the end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn chunk<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed(what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.chunk(what)?))
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.chunk(what)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.chunk(what)?))
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// A length-encoded integer.
    pub fn lenenc_int(&mut self, what: &'static str) -> Result<u64, Malformed> {
        match self.u8(what)? {
            short @ 0..=0xFA => Ok(u64::from(short)),
            0xFC => Ok(u64::from(self.u16(what)?)),
            0xFD => {
                let [a, b, c] = self.chunk(what)?;
                Ok(u64::from(u32::from_le_bytes([a, b, c, 0])))
            }
            0xFE => Ok(u64::from_le_bytes(self.chunk(what)?)),
            // 0xFB is NULL and 0xFF an error; neither is a number.
            _ => Err(Malformed(what)),
        }
    }

    /// A length-encoded string.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.lenenc_int(what)?).map_err(|_| Malformed(what))?;
        self.bytes(len, what)
    }

    /// A length-encoded string, or `None` for NULL.
    pub fn lenenc_bytes_or_null(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        if let Some((0xFB, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(None);
        }
        self.lenenc_bytes(what).map(Some)
    }

    /// A string that ends at a NUL byte, without it.
    pub fn nul_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(Malformed(what))?;
        let head = self.bytes(end, what)?;
        self.u8(what)?;
        Ok(head)
    }

    /// A string that ends at a NUL byte or at the end of the packet.
    pub fn nul_bytes_or_rest(&mut self) -> &'a [u8] {
        let mut copy = *self;
        match copy.nul_bytes("") {
            Ok(head) => {
                *self = copy;
                head
            }
            Err(_) => std::mem::take(&mut self.rest),
        }
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc_int(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    let (marker, len) = match value {
        0..=0xFA => (None, 1),
        0xFB..=0xFFFF => (Some(0xFC), 2),
        0x1_0000..=0xFF_FFFF => (Some(0xFD), 3),
        _ => (Some(0xFE), 8),
    };
    out.extend(marker);
    out.extend(bytes.iter().take(len));
}

/// Appends a length-encoded string.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a string and the NUL byte that ends it. A NUL inside would end it early, so the text is cut there.
pub fn put_nul_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().take_while(|b| **b != 0));
    out.push(0);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_round_trip(value: u64) {
            let mut out = Vec::new();
            put_lenenc_int(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.lenenc_int("n").unwrap(), value);
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn strings_round_trip(value: Vec<u8>, after: Vec<u8>) {
            let mut out = Vec::new();
            put_lenenc_bytes(&mut out, &value);
            out.extend_from_slice(&after);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.lenenc_bytes("s").unwrap(), &value[..]);
            prop_assert_eq!(reader.rest(), &after[..]);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() && reader.lenenc_bytes("s").is_ok() {}
            let _ = reader.nul_bytes_or_rest();
            let _ = reader.nul_bytes("z");
        }
    }

    #[test]
    fn borders_of_the_lengths() {
        let check = |value: u64, len: usize| {
            let mut out = Vec::new();
            put_lenenc_int(&mut out, value);
            assert_eq!(out.len(), len, "{value}");
        };
        check(0xFA, 1);
        check(0xFB, 3);
        check(0xFFFF, 3);
        check(0x1_0000, 4);
        check(0xFF_FFFF, 4);
        check(0x100_0000, 9);
    }
}
