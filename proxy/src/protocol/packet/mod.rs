//! One packet a file: handshake, handshake response, auth switch, change of user, OK, ERR.
//!
//! Parsers read untrusted bytes through [`codec::Reader`], which can't read past the end.

pub mod auth;
pub mod change_user;
pub mod codec;
pub mod err;
pub mod handshake;
pub mod handshake_response;
pub mod ok;

pub use auth::{AuthMoreData, AuthSwitchRequest};
pub use change_user::ChangeUser;
pub use codec::Malformed;
pub use err::ErrPacket;
pub use handshake::Handshake;
pub use handshake_response::{HandshakeResponse, SslRequest};
pub use ok::{OkPacket, SessionTrack, StatusFlags};
