//! Certificates and the TLS configuration of the front door, and the RSA key for passwords without TLS.

/// The key pair that clients without TLS encrypt their password for. Made once a process.
pub struct RsaKey {}
