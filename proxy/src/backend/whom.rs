//! Whom a connection to a backend speaks for: the PROXY header that it begins with.

use std::io;
use std::net::SocketAddr;

use config::{Flavor, SentHeader, ServerVersion};

use crate::auth::client::LoginError;
use crate::protocol::frame::FrameError;
use crate::protocol::proxy_header;

/// Packets out of order, bad handshake, host not privileged: the answers to a header that isn't taken.
const NOT_TAKEN: [u16; 3] = [1156, 1043, 1130];

/// Whom a connection speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// A client of the application's.
    Client(SocketAddr),
    /// Us, where nothing is to be said of it.
    Nobody,
    /// Us, and that is to be said: to see whether the backend listens.
    Ourselves,
}

impl From<Option<SocketAddr>> for Whom {
    fn from(client: Option<SocketAddr>) -> Self {
        client.map_or(Self::Nobody, Self::Client)
    }
}

impl Whom {
    /// What is sent first to the backend at `server`.
    pub(super) fn header(self, form: SentHeader, server: SocketAddr) -> Vec<u8> {
        match (self, form) {
            (_, SentHeader::Off) | (Self::Nobody, _) => Vec::new(),
            (Self::Client(client), SentHeader::V1) => proxy_header::v1(client, server),
            (Self::Client(client), SentHeader::V2) => proxy_header::v2(client, server),
            (Self::Ourselves, SentHeader::V1) => proxy_header::V1_UNKNOWN.to_vec(),
            (Self::Ourselves, SentHeader::V2) => proxy_header::v2_local(),
        }
    }

    /// Why a login failed, with the setting's name where the header may be the reason. A server that doesn't know the
    /// PROXY protocol takes it for a packet out of order, and says so in words that lead nobody there.
    pub(super) fn explain(self, error: LoginError, form: SentHeader, version: ServerVersion) -> LoginError {
        if !self.may_be_why(&error, form) {
            return error;
        }
        let why = match &error {
            LoginError::Refused(packet) => packet.to_string(),
            // Its error came before our login, so it has the wrong number; or the connection was reset over it.
            LoginError::Frame(error) => error.to_string(),
            _ => return error,
        };
        let what = match version.flavor {
            Flavor::MariaDb => "its proxy_protocol_networks has to name Changeover's address",
            Flavor::MySql => {
                "MySQL has no PROXY protocol, so set it to \"off\" unless a load balancer is in between"
            }
        };
        let form = form.as_str();
        let text =
            format!("the login after the PROXY header (proxy_protocol is {form}) failed: {why}; {what}");
        match error {
            // Whoever tries again after a broken connection is to do so here too.
            LoginError::Frame(FrameError::Io(io)) => {
                LoginError::Frame(FrameError::Io(io::Error::new(io.kind(), text)))
            }
            _ => LoginError::Protocol(text),
        }
    }

    /// True where a header was sent, and `error` is what becomes of one that isn't taken.
    pub(super) fn may_be_why(self, error: &LoginError, form: SentHeader) -> bool {
        let sent = form != SentHeader::Off && !matches!(self, Self::Nobody);
        sent && match error {
            LoginError::Refused(packet) => NOT_TAKEN.contains(&packet.code),
            LoginError::Frame(_) => true,
            LoginError::Credential(_) | LoginError::Protocol(_) => false,
        }
    }
}
