//! One error type for the crate: what happened, where, and whether trying again can help.

use config::Side;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A connection broke, a server restarted, a lock timed out: the same work is tried again.
    Transient,
    /// It will be the same next time: the migration stops and an operator has to see it.
    Definite,
    /// An assertion of our own failed: the migration stops and we have to see it.
    Bug,
}

/// An error of the replicator. `message` says what happened and what to do, `place` where (table, position,
/// file); never a row value or a secret (invariant 8).
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{place}: {message}", match side { Some(side) => format!("{side}, "), None => String::new() })]
pub struct Error {
    /// Whether trying again can help.
    pub kind: ErrorKind,
    /// Which backend it happened on, if on one.
    pub side: Option<Side>,
    /// Where: a table, a position, a file, a stage.
    pub place: String,
    /// What happened and what to do.
    pub message: String,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An operator has to see it.
    pub fn definite(
        side: impl Into<Option<Side>>,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: ErrorKind::Definite, side: side.into(), place: place.into(), message: message.into() }
    }

    /// Trying again can help.
    pub fn transient(
        side: impl Into<Option<Side>>,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: ErrorKind::Transient, side: side.into(), place: place.into(), message: message.into() }
    }

    /// An assertion of our own failed.
    pub fn bug(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Bug, side: None, place: place.into(), message: message.into() }
    }

    /// Classifies a driver error: i/o errors, lost connections, deadlocks (1213), lock wait timeouts (1205), a
    /// server that shuts down (1053, 1077, 1079) or has too many connections (1040, 1203) are transient, all else
    /// is definite. The server's text is kept without what stands behind `near`, which may hold literals.
    pub fn database(side: Side, place: impl Into<String>, error: &mysql_async::Error) -> Self {
        use mysql_async::Error as E;
        let (kind, message) = match error {
            E::Io(_) => (ErrorKind::Transient, format!("the connection failed ({error}); it is tried again")),
            E::Driver(mysql_async::DriverError::ConnectionClosed) => {
                (ErrorKind::Transient, "the server closed the connection; it is tried again".to_owned())
            }
            E::Server(server) => {
                let kind = match server.code {
                    // A killed statement (1317), or one that ran into a server's time limit (1969, 3024), says nothing
                    // of the next one.
                    1040 | 1053 | 1077 | 1079 | 1129 | 1203 | 1205 | 1213 | 1317 | 1927 | 1969 | 3024
                    | 4031 => ErrorKind::Transient,
                    _ => ErrorKind::Definite,
                };
                let text = server.message.split(" near ").next().unwrap_or_default();
                (kind, format!("the server answered {} ({}): {}", server.code, server.state, text))
            }
            other => (ErrorKind::Definite, other.to_string()),
        };
        Self { kind, side: Some(side), place: place.into(), message }
    }
}
