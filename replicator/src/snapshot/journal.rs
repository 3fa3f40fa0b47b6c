//! The chunks that are done, on disk. (H6)
