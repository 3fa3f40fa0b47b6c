//! Command bytes. (H3)
