//! COM_CHANGE_USER: the session begins again as somebody else, or as itself.
//!
//! What the client answers in the command is bound to a challenge of the proxy's, so no backend could check
//! it. The client is asked as at the front door, and the command is repeated on the backend with what it said;
//! the backend decides. No permit is waited with: the client may take its time.

use config::Flavor;
use zeroize::Zeroizing;

use super::connection::{Connection, DIAL_TIMEOUT, is_transient};
use super::relay::unless_ended;
use super::task::{End, Session};
use crate::auth::server::{self, Accepted};
use crate::auth::{Credential, Login};
use crate::backend::connect::{self, connect};
use crate::error::ConnectError;
use crate::protocol::frame::{HEADER_LEN, Header, LOGIN_PACKET_MAX};
use crate::protocol::packet::ErrPacket;
use crate::relay::copy::Leg;

impl Session {
    /// The command in the client's buffer, up to the last byte of its answer.
    pub(super) async fn change_user(&mut self) -> Result<(), End> {
        let payload = self.take_command()?;
        let stream = self.client.take_stream();
        let dialogue = server::change_user(stream, &self.shared.door, &self.login, &payload);
        let asked = unless_ended(&self.registered.entry, &mut self.woken, Box::pin(dialogue)).await?;
        let accepted = asked.map_err(|error| End::NotLetIn(error.to_string()))?;
        self.enter().await?;
        self.rolled_back = false;
        self.outcome = None;
        self.let_go_of_standby().await;
        if let Some(previous) = self.previous.take() {
            self.registered.entry.set_previous(None);
            previous.quit().await;
        }
        let ok = match self.log_in_again(&accepted.login, &accepted.credential).await {
            Ok(ok) => ok,
            Err(error) => return self.not_let_in(accepted, error).await,
        };
        self.shared.door.known.accepted(&accepted.login.user, &accepted.credential);
        let admitted = accepted.admit(&ok).await.map_err(|error| End::NotLetIn(error.to_string()))?;
        let (stream, login, credential) = admitted;
        self.client = Leg::new(stream);
        self.contexts.clear();
        let schema = self.shared.routes.backend(self.backend.side).login_schema(login.schema.as_deref());
        self.state.begin_again(self.backend.status, schema.clone());
        let entry = &self.registered.entry;
        entry.set_user(login.user_text());
        entry.set_credential(login.user_text(), credential.clone());
        entry.set_schema(schema.as_deref().unwrap_or_default());
        (self.login, self.credential) = (login, credential);
        // What was prepared was the old user's.
        self.woken = true;
        self.settle();
        Ok(())
    }

    /// MySQL closes the connection of a client that isn't let in. At MariaDB it remains what it was, as a
    /// fresh session in its old schema; after three times the server refuses without looking.
    async fn not_let_in(&mut self, accepted: Accepted, error: ConnectError) -> Result<(), End> {
        if !is_transient(&error) {
            self.shared.door.known.refused(&accepted.login.user, &accepted.credential);
        }
        let packet = error.for_client();
        let stays = matches!(error, ConnectError::Refused { .. }) && self.at_rest_after_refusal();
        if !stays {
            accepted.refuse(&packet).await;
            return Err(End::NotLetIn(error.to_string()));
        }
        // First asked, then told: the client may be quick.
        let status = self.backend.ping().await.map_err(|error| Self::backend_end(&error))?;
        let stream = accepted.deny(&packet).await.map_err(|error| End::NotLetIn(error.to_string()))?;
        self.at_rest = true;
        self.client = Leg::new(stream);
        self.backend.statements.clear();
        self.contexts.clear();
        self.state.begin_again_somewhere(status);
        self.woken = true;
        self.settle();
        Ok(())
    }

    /// The connection that has refused the new user is still there as the old one's: it was asked on it.
    fn at_rest_after_refusal(&self) -> bool {
        !self.at_rest && self.backend.version.flavor == Flavor::MariaDb
    }

    fn take_command(&mut self) -> Result<Zeroizing<Vec<u8>>, End> {
        let out_of_order = || End::Failed(ErrPacket::new(1156, b"08S01", "Got packets out of order"));
        let header = Header::parse(self.client.buffer.filled()).ok_or_else(out_of_order)?;
        if header.len > LOGIN_PACKET_MAX {
            return Err(End::Failed(ErrPacket::new(1047, b"08S01", "Unknown command")));
        }
        let whole = HEADER_LEN + header.len;
        let payload = self.client.buffer.filled().get(HEADER_LEN..whole).map(<[u8]>::to_vec);
        self.client.buffer.consume(whole);
        match payload {
            Some(payload) if self.client.buffer.is_empty() => Ok(Zeroizing::new(payload)),
            _ => Err(out_of_order()),
        }
    }

    /// Makes the backend connection the new user's; a permit is held. Where the connection is of a route that
    /// was left, one of the present route takes its place. Returns the OK's payload.
    async fn log_in_again(
        &mut self,
        login: &Login,
        credential: &Credential,
    ) -> Result<Vec<u8>, ConnectError> {
        let route = self.shared.routes.load_full();
        if route.epoch == self.backend.epoch {
            let backend = self.shared.routes.backend(self.backend.side);
            let (config, credential) = (&backend.config, backend.credential(login, credential));
            let login = &*backend.login(login);
            if !self.backend.is_quiet() {
                let source = std::io::Error::other("it said something unasked, or closed");
                return Err(ConnectError::Unreachable { backend: config.address(), source });
            }
            let Connection { leg, version, .. } = &mut self.backend;
            self.at_rest = false;
            let changed =
                connect::change_user(config, leg.stream_mut(), *version, login, &credential, DIAL_TIMEOUT);
            let (ok, status) = changed.await?;
            self.at_rest = true;
            self.backend.status = status;
            self.backend.statements.clear();
            return Ok(ok);
        }
        let side = route.backend.side;
        let credential = route.backend.credential(login, credential);
        let login = &*route.backend.login(login);
        let connection = connect(&route.backend.config, login, &credential, DIAL_TIMEOUT).await?;
        let (mut connection, ok) = Connection::new(connection, &route.backend, route.epoch);
        let settled = connection.leg.settle();
        settled.map_err(|source| ConnectError::Unreachable {
            backend: route.backend.config.address(),
            source,
        })?;
        std::mem::replace(&mut self.backend, connection).quit().await;
        self.registered.entry.set_backend(side, self.backend.id);
        Ok(ok)
    }
}
