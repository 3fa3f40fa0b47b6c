//! MySQL's binary JSON to text. (H5)
