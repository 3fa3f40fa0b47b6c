//! Bytes from one leg to the other. (H3)
