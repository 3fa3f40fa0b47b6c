//! Rows into the target. (H6)
