//! The name of an XA transaction, in the three spellings in which servers say it.

use std::fmt;

use super::cursor::{Cursor, Malformed};

/// The longest that either part of a name may be.
const PART_BYTES_MAX: usize = 64;

/// The name of an XA transaction: format, global transaction and branch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Xid {
    /// Its low 32 bits: XA_PREPARE holds no more of it.
    pub(crate) format: u32,
    /// The global transaction.
    pub(crate) global: Vec<u8>,
    /// The branch.
    pub(crate) branch: Vec<u8>,
}

impl Xid {
    /// Parts that a server can have named.
    pub(crate) fn new(format: u32, global: &[u8], branch: &[u8]) -> Result<Self, Malformed> {
        if global.len() > PART_BYTES_MAX || branch.len() > PART_BYTES_MAX {
            return Err(Malformed::new("the name of an XA transaction is longer than one can be"));
        }
        Ok(Self { format, global: global.to_vec(), branch: branch.to_vec() })
    }

    /// From the text behind XA COMMIT and its like, which both families write as `X'6162',X'',1` into their logs.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed::new("the name of an XA transaction isn't written as servers write it");
        let mut parts = text.split(',').map(str::trim);
        let (Some(global), Some(branch), Some(format), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let part = |text: &str| {
            let digits = text.strip_prefix("X'").or_else(|| text.strip_prefix("x'"))?;
            unhex(digits.strip_suffix('\'')?)
        };
        let (global, branch) = part(global).zip(part(branch)).ok_or_else(wrong)?;
        let format = format.parse::<u64>().map_err(|_| wrong())?;
        #[allow(clippy::cast_possible_truncation)]
        Self::new(format as u32, &global, &branch)
    }

    /// From the body of XA_PREPARE behind its first byte.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let format = cursor.u32()?;
        let (global, branch) = (cursor.u32()? as usize, cursor.u32()? as usize);
        Self::new(format, cursor.take(global)?, cursor.take(branch)?)
    }

    /// From a row of XA RECOVER.
    pub(crate) fn recovered(
        format: i64,
        global: usize,
        branch: usize,
        data: &[u8],
    ) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(data);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self::new(format as u32, cursor.take(global)?, cursor.take(branch)?)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X'{}',X'{}',{}", hex(&self.global), hex(&self.branch), self.format)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |[high, low]: &[u8; 2]| Some(nibble(*high)? << 4 | nibble(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_no_server_writes_is_refused() {
        for text in ["", "X'61'", "X'61',X''", "X'61',X'',1,2", "'a','b',1", "X'6',X'',1", "X'61',X'',x"] {
            assert!(Xid::parse(text).is_err(), "{text}");
        }
        assert!(Xid::parse(&format!("X'{}',X'',1", "61".repeat(65))).is_err());
    }

    proptest! {
        #[test]
        fn every_spelling_names_the_same(
            format in any::<u32>(),
            global in proptest::collection::vec(any::<u8>(), 0..=64),
            branch in proptest::collection::vec(any::<u8>(), 0..=64),
        ) {
            let xid = Xid::new(format, &global, &branch).unwrap();
            prop_assert_eq!(&Xid::parse(&xid.to_string()).unwrap(), &xid);
            let mut event = format.to_le_bytes().to_vec();
            for part in [&global, &branch] {
                event.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            }
            let data = [global.clone(), branch.clone()].concat();
            event.extend_from_slice(&data);
            prop_assert_eq!(&Xid::read(&mut Cursor::new(&event)).unwrap(), &xid);
            let recovered = Xid::recovered(i64::from(format), global.len(), branch.len(), &data).unwrap();
            prop_assert_eq!(&recovered, &xid);
        }

        #[test]
        fn garbage_never_panics(text in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(Xid::parse(&text));
            drop(Xid::read(&mut Cursor::new(&bytes)));
        }
    }
}
