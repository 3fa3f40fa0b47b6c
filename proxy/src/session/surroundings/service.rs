//! Questions by the service account, on a connection of their own.

use config::{BackendConfig, ServerVersion};

use crate::auth::{Credential, Login};
use crate::backend::connect::connect;
use crate::protocol::capability::Capabilities;
use crate::relay::copy::Leg;
use crate::session::connection::DIAL_TIMEOUT;
use crate::session::question::{self, Answer, QuestionError};

/// utf8mb4_general_ci: every server has it.
const SERVICE_COLLATION: u16 = 45;
const COM_QUIT: u8 = 0x01;

/// A connection of the service account.
pub(crate) struct Service {
    leg: Leg,
    capabilities: Capabilities,
    /// As it greeted. OceanBase doesn't say there who it is.
    pub(crate) version: ServerVersion,
}

impl Service {
    /// Logs in.
    pub(crate) async fn open(backend: &BackendConfig) -> Result<Self, QuestionError> {
        let login = Login {
            user: backend.user.clone().into_bytes(),
            schema: None,
            collation: SERVICE_COLLATION,
            capabilities: Capabilities::PROTOCOL_41 | Capabilities::LONG_PASSWORD,
            max_packet: 1 << 24,
            attributes: None,
            client: None,
        };
        let credential = match backend.password.is_empty() {
            true => Credential::Empty,
            false => Credential::Clear(backend.password.clone()),
        };
        let connected = connect(backend, &login, &credential, DIAL_TIMEOUT).await;
        let connection = connected.map_err(|error| QuestionError::Refused(error.for_client()))?;
        let mut service = Self {
            leg: Leg::new(connection.stream),
            capabilities: connection.capabilities,
            version: connection.version,
        };
        // The global value would cut answers short, without a word.
        match service.ask("SET SESSION sql_select_limit = 18446744073709551615").await {
            Err(error) if error.is_transient() => Err(error),
            _ => Ok(service),
        }
    }

    /// Asks.
    pub(crate) async fn ask(&mut self, sql: &str) -> Result<Answer, QuestionError> {
        question::query(&mut self.leg, self.capabilities, sql.as_bytes()).await
    }

    /// Says goodbye.
    pub(crate) async fn close(mut self) {
        let mut goodbye = Vec::new();
        question::put_command(&mut goodbye, COM_QUIT, self.capabilities, b"");
        let _ = self.leg.write(&goodbye).await;
    }
}

/// One statement.
pub(crate) async fn as_service(backend: &BackendConfig, sql: &str) -> Result<Answer, QuestionError> {
    let mut service = Service::open(backend).await?;
    let answer = service.ask(sql).await;
    service.close().await;
    answer
}
