//! What can go wrong, and on which side.
