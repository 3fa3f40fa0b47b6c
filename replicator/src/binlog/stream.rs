//! The dump connection. (H5)
