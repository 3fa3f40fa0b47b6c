//! The statements of the admin port, one type each. (H4)
