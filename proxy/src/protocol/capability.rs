//! Capability flags, and which of them a session may have. (H2)
