//! What the tables look like: read from the source, made on the target.

pub(crate) mod alterations;
mod column;
pub mod convert;
pub(crate) mod ddl;
pub mod discover;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod left_out;
pub(crate) mod objects;
pub(crate) mod renamed;
pub mod selection;
mod shown;
pub mod table;
pub(crate) mod transfer;
