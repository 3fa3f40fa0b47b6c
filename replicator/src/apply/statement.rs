//! Row changes as SQL, safe and exact. (H7)
