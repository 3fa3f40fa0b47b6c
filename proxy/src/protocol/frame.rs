//! Packet framing: a 3-byte little-endian length and a sequence number before each payload. (H2)

/// Bytes of a packet header.
pub const HEADER_LEN: usize = 4;
/// Payload length that says that the next packet continues this one.
pub const PAYLOAD_MAX: usize = 0xFF_FFFF;
