//! The file format: this comment is to be its specification. (H5)
