//! One error type for the crate: what happened, where, and whether trying again can help.

use config::Side;

use crate::leg::Leg;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A connection broke, a server restarted, a lock timed out: the same work is tried again.
    Transient,
    /// It will be the same next time: the migration stops and an operator has to see it.
    Definite,
    /// An operator has to do something on a server first: the migration pauses, and goes on with RESUME MIGRATION.
    Pause,
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

    /// An operator has to do something on a server first.
    pub fn pause(
        side: impl Into<Option<Side>>,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: ErrorKind::Pause, side: side.into(), place: place.into(), message: message.into() }
    }

    /// An error from inside a leg, whose source is the side that it reads, in the operator's terms.
    #[must_use]
    pub fn in_leg(mut self, leg: Leg) -> Self {
        self.side = self.side.map(|side| match side {
            Side::Source => leg.reads(),
            Side::Target => leg.writes(),
        });
        self
    }

    /// An assertion of our own failed.
    pub fn bug(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Bug, side: None, place: place.into(), message: message.into() }
    }

    /// Classifies a driver error: i/o errors, lost connections, deadlocks (1213), lock wait timeouts (1205), a
    /// server that shuts down (1053, 1077, 1079) or has too many connections (1040, 1203) are transient, one that is full
    /// (1021, 1114) pauses, all else is definite. The server's text is kept without what stands behind `near`, which may hold literals.
    pub fn database(side: Side, place: impl Into<String>, error: &mysql_async::Error) -> Self {
        use mysql_async::Error as E;
        let (kind, message) = match error {
            // The driver names the kind of error once a layer.
            E::Io(mysql_async::IoError::Io(error)) => {
                (ErrorKind::Transient, format!("the connection failed ({error}); it is tried again"))
            }
            E::Driver(mysql_async::DriverError::ConnectionClosed) => {
                (ErrorKind::Transient, "the server closed the connection; it is tried again".to_owned())
            }
            E::Server(server) => {
                let kind = match server.code {
                    // A killed statement (1317), or one that ran into a server's time limit (1969, 3024), says nothing
                    // of the next one.
                    1040
                    | 1053
                    | 1077
                    | 1079
                    | 1129
                    | 1158..=1161
                    | 1203
                    | 1205
                    | 1213
                    | 1317
                    | 1927
                    | 1969
                    | 3024
                    | 4031 => ErrorKind::Transient,
                    // A fence that is just being set or lowered, or a server that an operator will open again.
                    1290 if server.message.contains("read-only") || server.message.contains("read_only") => {
                        ErrorKind::Transient
                    }
                    code if is_full(code) => ErrorKind::Pause,
                    _ => ErrorKind::Definite,
                };
                let (code, state) = (server.code, &server.state);
                let text = match server.message.split(" near ").next().unwrap_or_default() {
                    // In another language than English there is no "near".
                    _ if code == 1064 => "it doesn't understand the statement",
                    _ if holds_values(code) => {
                        "its text isn't shown since it holds values of rows; the server's own log may say more"
                    }
                    text => text,
                };
                let remedy = match code {
                    code if is_full(code) => FULL,
                    1298 => ZONES,
                    _ => "",
                };
                (kind, format!("the server answered {code} ({state}): {text}{remedy}"))
            }
            other => (ErrorKind::Definite, other.to_string()),
        };
        Self { kind, side: Some(side), place: place.into(), message }
    }
}

/// What an operator does about a server that is full.
const FULL: &str =
    ". Make room on that server (its disk, or a limit of its tablespaces), then RESUME MIGRATION";

/// What an operator does about a time zone whose name a server doesn't know (1298).
const ZONES: &str = ". Load the time zones there (mysql_tzinfo_to_sql), then RESUME MIGRATION";

/// The server's disk (1021), or the file of a table (1114), has no more room.
fn is_full(code: u16) -> bool {
    matches!(code, 1021 | 1114)
}

/// Errors whose text holds a value of a row (invariant 8): a duplicate key, a value that doesn't fit its type, a
/// number out of range, a partition that there isn't, a text of another charset, a JSON document.
fn holds_values(code: u16) -> bool {
    matches!(
        code,
        1062 | 1292
            | 1300
            | 1366
            | 1367
            | 1411
            | 1525
            | 1526
            | 1586
            | 1690
            | 1859
            | 1977
            | 3140..=3158
            | 3854
            | 3903..=3905
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_pauses_and_says_what_to_do() {
        for code in [1021, 1114] {
            let message = "The table 't' is full".to_owned();
            let server = mysql_async::ServerError { code, message, state: "HY000".to_owned() };
            let error = Error::database(Side::Target, "s.t", &mysql_async::Error::Server(server));
            assert_eq!(error.kind, ErrorKind::Pause);
            assert!(error.to_string().ends_with("then RESUME MIGRATION"), "{error}");
        }
    }

    #[test]
    fn values_of_rows_stay_out_of_errors() {
        let check = |code: u16, text: &str, hidden: &str, shown: &str| {
            let server =
                mysql_async::ServerError { code, message: text.to_owned(), state: "HY000".to_owned() };
            let error = Error::database(Side::Target, "s.t", &mysql_async::Error::Server(server)).to_string();
            assert!(!error.contains(hidden), "{error}");
            assert!(error.contains(shown) && error.contains(&code.to_string()), "{error}");
        };
        check(1062, "Duplicate entry 'jane@example.org' for key 'PRIMARY'", "jane", "isn't shown");
        check(1366, "Incorrect integer value: 'jane' for column `s`.`t`.`a` at row 1", "jane", "isn't shown");
        check(
            3140,
            "Invalid JSON text: \"Invalid value.\" at position 0 in value 'jane'",
            "jane",
            "isn't shown",
        );
        check(1064, "You have an error … to use near 'jane' at line 1", "jane", "doesn't understand");
        check(1064, "Fehler in der SQL-Syntax bei 'jane' in Zeile 1", "jane", "doesn't understand");
        check(1146, "Table 's.t' doesn't exist", "jane", "'s.t' doesn't exist");
    }
}
