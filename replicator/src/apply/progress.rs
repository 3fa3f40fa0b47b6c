//! How far the target is, for everyone who waits for it. (H7)
