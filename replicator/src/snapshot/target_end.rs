//! The end of the copy at which rows are loaded: a connection, and how rows travel over it.

use config::{BackendConfig, Side};
use mysql_async::Conn;

use super::encode::Form;
use super::loader::{form_of, prepare};
use crate::error::Result;
use crate::server::connect;

/// A connection to load chunks over.
#[derive(Debug)]
pub(super) struct TargetEnd {
    target: BackendConfig,
    conn: Option<Ready>,
}

/// A connection that is ready to load.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) conn: Conn,
    /// How rows travel over it.
    pub(super) form: Form,
    /// The largest packet that the server takes, in bytes.
    pub(super) packet_bytes_max: u64,
}

impl TargetEnd {
    pub(super) fn new(target: BackendConfig) -> Self {
        Self { target, conn: None }
    }

    /// The connection, which comes back with [`Self::keep`], or not at all after an error: then what is open on it is rolled back.
    pub(super) async fn take(&mut self) -> Result<Ready> {
        if let Some(ready) = self.conn.take() {
            return Ok(ready);
        }
        let mut conn = connect(Side::Target, &self.target).await?;
        prepare(&mut conn).await?;
        let (form, packet_bytes_max) = form_of(&mut conn).await?;
        Ok(Ready { conn, form, packet_bytes_max })
    }

    /// How rows travel to this target, and the largest packet that it takes, asked over a connection that is given up again.
    pub(super) async fn form(mut self) -> Result<(Form, u64)> {
        let ready = self.take().await?;
        let form = (ready.form, ready.packet_bytes_max);
        self.keep(ready);
        self.disconnect().await;
        Ok(form)
    }

    /// All that was begun on it is committed.
    pub(super) fn keep(&mut self, ready: Ready) {
        self.conn = Some(ready);
    }

    pub(super) async fn disconnect(self) {
        if let Some(ready) = self.conn {
            drop(ready.conn.disconnect().await);
        }
    }
}
