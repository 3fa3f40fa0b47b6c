//! Cuts a table into key ranges. (H6)
