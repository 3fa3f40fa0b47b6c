//! From the raw shape to a [`crate::Config`], with every error at once.
