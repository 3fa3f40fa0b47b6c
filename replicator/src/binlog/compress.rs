//! MariaDB's compressed events (log_bin_compress) and COMPRESSED columns: zlib behind a length.

use std::io::Read as _;

use super::cursor::{Cursor, Malformed};

/// The largest event that is unpacked: what max_allowed_packet can be at most.
pub(crate) const UNPACKED_BYTES_MAX: u64 = 1 << 30;

/// Unpacks the compressed part of a QUERY_COMPRESSED or a compressed rows event. Never more than the length
/// that is written in it, so that damage can't fill the memory (invariant 7).
pub(crate) fn inflate(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let head = cursor.u8()?;
    if head & 0x80 == 0 || head & 0x70 != 0 {
        return Err(Malformed::new("a compressed event uses an algorithm that isn't known here"));
    }
    let length = cursor.uint_be(usize::from(head & 0x07))?;
    if length > UNPACKED_BYTES_MAX {
        return Err(Malformed::new("a compressed event is larger than 1 GiB"));
    }
    let mut unpacked = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(cursor.rest()).take(length + 1);
    match decoder.read_to_end(&mut unpacked) {
        Ok(read) if read as u64 == length => Ok(unpacked),
        Ok(_) => Err(Malformed::new("a compressed event doesn't have the length that it says")),
        Err(_) => Err(Malformed::new("a compressed event doesn't decompress")),
    }
}

/// Unpacks a value of a COMPRESSED column. Its first byte says how it is stored: 0 is as it is; else 8 in the upper
/// half is deflate, the fourth bit says that zlib's own frame is left out, and the rest how many bytes the length has.
pub(crate) fn inflate_column(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let head = match bytes.first() {
        None => return Ok(Vec::new()),
        Some(0) => return Ok(bytes.get(1..).unwrap_or_default().to_vec()),
        Some(_) => cursor.u8()?,
    };
    if head & 0xf0 != 0x80 || !(1..=4).contains(&(head & 0x07)) {
        return Err(Malformed::new("a COMPRESSED column uses an algorithm that isn't known here"));
    }
    let length = cursor.uint_be(usize::from(head & 0x07))?;
    if length > UNPACKED_BYTES_MAX {
        return Err(Malformed::new("a value of a COMPRESSED column is larger than 1 GiB"));
    }
    let mut unpacked = Vec::new();
    let read = if head & 0x08 == 0 {
        flate2::read::ZlibDecoder::new(cursor.rest()).take(length + 1).read_to_end(&mut unpacked)
    } else {
        flate2::read::DeflateDecoder::new(cursor.rest()).take(length + 1).read_to_end(&mut unpacked)
    };
    match read {
        Ok(read) if read as u64 == length => Ok(unpacked),
        Ok(_) => Err(Malformed::new("a value of a COMPRESSED column doesn't have the length that it says")),
        Err(_) => Err(Malformed::new("a value of a COMPRESSED column doesn't decompress")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_unpacked_whichever_way_they_are_stored() {
        let text = "abc".repeat(300);
        let mut framed = ZlibEncoder::new(vec![0x82, 0x03, 0x84], Compression::default());
        framed.write_all(text.as_bytes()).unwrap();
        let mut bare = DeflateEncoder::new(vec![0x8a, 0x03, 0x84], Compression::default());
        bare.write_all(text.as_bytes()).unwrap();
        for packed in [framed.finish().unwrap(), bare.finish().unwrap()] {
            assert_eq!(inflate_column(&packed).unwrap(), text.as_bytes());
            for cut in 1..packed.len() - 6 {
                assert!(inflate_column(&packed[..cut]).is_err(), "{cut}");
            }
        }
        assert_eq!(inflate_column(b"").unwrap(), b"");
        assert_eq!(inflate_column(b"\0plain").unwrap(), b"plain");
        assert!(inflate_column(b"\x90\x01a").is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(inflate_column(&bytes));
            drop(inflate(&bytes));
        }
    }
}
