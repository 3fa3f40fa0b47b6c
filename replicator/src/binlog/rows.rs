//! Row images to values. (H5)
