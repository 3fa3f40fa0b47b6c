//! Authentication: towards clients, towards backends, and the plugins both share.
//!
//! There is no user list. The front door ([`server`]) learns a client's credential, the backend decides with
//! it ([`client`]), and only then is the client told.

// Every byte here came from outside.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod accounts;
pub mod adopted;
pub mod arrival;
mod challenge;
pub mod client;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod inventory;
pub mod known;
pub mod plugin;
pub mod server;
mod sha_crypt;

use std::fmt;
use std::net::SocketAddr;

use config::Secret;
use sha1::{Digest, Sha1};
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

impl Credential {
    /// What a server keeps of it for mysql_native_password: SHA1 of SHA1. `None` where there is no password.
    pub(crate) fn native_hash(&self) -> Option<[u8; 20]> {
        match self {
            Self::Empty => None,
            Self::Clear(password) => Some(Sha1::digest(*plugin::sha1_of(password)).into()),
            Self::Sha1(once) => Some(Sha1::digest(**once).into()),
        }
    }

    /// True where both are known in the same way and of the same password.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Empty, Self::Empty) => true,
            (Self::Clear(a), Self::Clear(b)) => a == b,
            (Self::Sha1(a), Self::Sha1(b)) => a == b,
            _ => false,
        }
    }
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
