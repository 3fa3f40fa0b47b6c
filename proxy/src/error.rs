//! What can go wrong while somebody logs in, and on which side.

use std::io;

use crate::protocol::frame::FrameError;
use crate::protocol::packet::{ErrPacket, Malformed};

/// A client didn't come through the front door. Its connection is closed already.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It went away, or it never was a MySQL client: a port scan, an HTTP request, garbage. Nobody has to
    /// hear of it (debug).
    #[error("not a login: {0}")]
    NotALogin(&'static str),
    /// Framing or network.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// A step of the login, or the login, took too long.
    #[error("its {what} didn't come within {ms} ms")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// For so long.
        ms: u64,
    },
    /// It was refused with this error.
    #[error("refused with {0}")]
    Refused(ErrPacket),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

impl From<Malformed> for ClientError {
    fn from(malformed: Malformed) -> Self {
        Self::NotALogin(malformed.0)
    }
}

/// A backend couldn't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The backend said no; its words are for the client.
    #[error("the backend {backend} refused: {packet}")]
    Refused {
        /// `host:port`.
        backend: String,
        /// What it said.
        packet: ErrPacket,
    },
    /// What is known of the password isn't enough for the plugin of this backend's account.
    #[error("the backend {backend} can't be given this password: {packet}")]
    Credential {
        /// `host:port`.
        backend: String,
        /// What the client is told.
        packet: ErrPacket,
    },
    /// It can't be reached, or the connection broke during the login.
    #[error("can't reach the backend {backend}: {source}")]
    Unreachable {
        /// `host:port`.
        backend: String,
        /// Why.
        source: io::Error,
    },
    /// It said something that isn't understood, or lacks a capability that the session has.
    #[error("the backend {backend} can't be used: {reason}")]
    Protocol {
        /// `host:port`.
        backend: String,
        /// What.
        reason: String,
    },
}

impl ConnectError {
    /// What the client is told: the backend's own words where it said any, else that it can't be reached.
    /// The address isn't in it; the log has it.
    #[must_use]
    pub fn for_client(&self) -> ErrPacket {
        match self {
            Self::Refused { packet, .. } | Self::Credential { packet, .. } => packet.clone(),
            Self::Unreachable { .. } => {
                ErrPacket::new(2003, b"HY000", "Changeover can't reach the database server at the moment")
            }
            Self::Protocol { .. } => ErrPacket::new(
                2003,
                b"HY000",
                "Changeover can't use the database server for this connection; its log says why",
            ),
        }
    }
}
