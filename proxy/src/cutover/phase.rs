//! The phases of a cutover. (H4)
