//! Rows out of the source. (H6)
