//! What a crash left: the last whole record, and everything behind it cut off. (H5)
