//! Certificates and the TLS configuration of the front door. (H2)
