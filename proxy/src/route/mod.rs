//! Which backend serves, and who may start a statement there. (H3)

pub mod gate;
pub mod table;
