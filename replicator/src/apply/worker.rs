//! One connection that applies batches. (H7)
