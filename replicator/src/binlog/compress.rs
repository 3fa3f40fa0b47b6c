//! MariaDB's compressed events (log_bin_compress): zlib behind a length.

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
