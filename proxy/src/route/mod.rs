//! Which backend serves, and who may start a statement there.

pub mod gate;
pub mod table;
