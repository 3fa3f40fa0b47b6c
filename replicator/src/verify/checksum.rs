//! Checksums of a key range, made by the servers over canonical column forms. (H1)
