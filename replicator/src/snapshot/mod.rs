//! The copy: chunks by key range, in parallel, with plain reads. (H6)

pub mod cell;
pub mod chunker;
pub mod journal;
pub mod loader;
pub mod range;
pub mod reader;

pub use range::KeyRange;
