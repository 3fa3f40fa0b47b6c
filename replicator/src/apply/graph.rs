//! Which batches wait for which. (H7)
