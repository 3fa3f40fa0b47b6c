//! From the tracked state to the statements that restore it. (H3)
