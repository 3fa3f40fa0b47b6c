//! Reading bytes that somebody else wrote: every step is checked, none can panic.

use std::borrow::Cow;

/// What is wrong with some bytes, as a sentence without its position: the caller knows that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) Cow<'static, str>);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Malformed {
    /// A sentence made at run time. Never with a row value in it (invariant 8).
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

/// The rest of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

const TRUNCATED: Malformed = Malformed(Cow::Borrowed("the event is truncated"));

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A little-endian number of 1 to 8 bytes.
    #[inline]
    pub(crate) fn uint_le(&mut self, bytes: usize) -> Result<u64, Malformed> {
        let head = self.take(bytes)?;
        if bytes > 8 {
            return Err(Malformed::new("a number has more than 8 bytes"));
        }
        Ok(head.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte)))
    }

    /// A big-endian number of 1 to 8 bytes.
    #[inline]
    pub(crate) fn uint_be(&mut self, bytes: usize) -> Result<u64, Malformed> {
        let head = self.take(bytes)?;
        if bytes > 8 {
            return Err(Malformed::new("a number has more than 8 bytes"));
        }
        Ok(head.iter().fold(0, |value, &byte| (value << 8) | u64::from(byte)))
    }

    /// The protocol's length-encoded integer.
    pub(crate) fn lenenc(&mut self) -> Result<u64, Malformed> {
        match self.u8()? {
            byte @ 0..=250 => Ok(u64::from(byte)),
            252 => self.uint_le(2),
            253 => self.uint_le(3),
            254 => self.u64(),
            _ => Err(Malformed::new("a length-encoded integer begins with a byte that none begins with")),
        }
    }

    /// A length-encoded integer that counts bytes or things which are in this very slice.
    pub(crate) fn lenenc_size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.lenenc()?).map_err(|_| TRUNCATED)
    }

    /// The bytes up to the next zero byte, which is consumed too.
    pub(crate) fn until_zero(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.rest.iter().position(|&byte| byte == 0).ok_or(TRUNCATED)?;
        let head = self.take(length)?;
        self.take(1)?;
        Ok(head)
    }
}

/// Bit `index` of a bitmap whose first bit is the lowest one of the first byte. Out of range: not set.
#[inline]
pub(crate) fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}
