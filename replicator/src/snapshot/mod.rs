//! The copy: chunks by key range, in parallel, with plain reads. (H6)

pub mod chunker;
pub mod journal;
pub mod loader;
pub mod reader;
