//! The MySQL client/server protocol, as far as a relay has to understand it.

// Every byte here came from outside.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod capability;
pub mod collation;
pub mod command;
pub mod frame;
pub mod packet;
pub mod proxy_header;
pub mod socket;
pub mod stream;
