//! Authentication: towards clients, towards backends, and the plugins both share.
//!
//! There is no user list. The front door ([`server`]) learns a client's credential, the backend decides with
//! it ([`client`]), and only then is the client told.

// Every byte here came from outside.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod accounts;
mod challenge;
pub mod client;
pub mod plugin;
pub mod server;

use std::fmt;
use std::net::SocketAddr;

use config::Secret;
use zeroize::Zeroizing;

use crate::protocol::capability::Capabilities;

/// Who a client is and what it asked for, as far as a backend has to be told the same.
#[derive(Debug, Clone)]
pub struct Login {
    /// Account name, in the client's character set.
    pub user: Vec<u8>,
    /// The schema to begin in.
    pub schema: Option<Vec<u8>>,
    /// Collation id of the handshake.
    pub collation: u16,
    /// What client and proxy agreed on, without SSL.
    pub capabilities: Capabilities,
    /// The largest packet that the client takes.
    pub max_packet: u32,
    /// Connection attributes as they came; `None` where the client sent none.
    pub attributes: Option<Vec<u8>>,
    /// Where it comes from; `None` for a pipe.
    pub client: Option<SocketAddr>,
}

impl Login {
    /// The account name for people.
    #[must_use]
    pub fn user_text(&self) -> String {
        String::from_utf8_lossy(&self.user).into_owned()
    }
}

/// What is known of a client's password.
#[derive(Clone)]
pub enum Credential {
    /// It has none.
    Empty,
    /// The password. Enough for every plugin.
    Clear(Secret),
    /// SHA1 of the password: enough for mysql_native_password only.
    Sha1(Zeroizing<[u8; 20]>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // invariant 8
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Clear(_) => "Clear(…)",
            Self::Sha1(_) => "Sha1(…)",
        })
    }
}
