//! OK packets: status flags and what changed in the session.

use std::ops::BitOr;

use super::codec::{Malformed, Reader, put_lenenc_bytes, put_lenenc_int};
use crate::protocol::capability::Capabilities;

/// Status flags of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusFlags(pub u16);

impl StatusFlags {
    /// Inside a transaction.
    pub const IN_TRANSACTION: Self = Self(0x0001);
    /// autocommit is on.
    pub const AUTOCOMMIT: Self = Self(0x0002);
    /// Another result follows.
    pub const MORE_RESULTS: Self = Self(0x0008);
    /// A cursor is open.
    pub const CURSOR_EXISTS: Self = Self(0x0040);
    /// The cursor's last row was sent.
    pub const LAST_ROW_SENT: Self = Self(0x0080);
    /// A schema was dropped.
    pub const DB_DROPPED: Self = Self(0x0100);
    /// sql_mode has NO_BACKSLASH_ESCAPES.
    pub const NO_BACKSLASH_ESCAPES: Self = Self(0x0200);
    /// A prepared statement was prepared anew and its metadata changed.
    pub const METADATA_CHANGED: Self = Self(0x0400);
    /// This result set holds OUT parameters.
    pub const PS_OUT_PARAMS: Self = Self(0x1000);
    /// Inside a read-only transaction.
    pub const IN_READONLY_TRANSACTION: Self = Self(0x2000);
    /// Session-track entries follow.
    pub const SESSION_STATE_CHANGED: Self = Self(0x4000);
    /// MariaDB: sql_mode has ANSI_QUOTES.
    pub const ANSI_QUOTES: Self = Self(0x8000);

    /// True where every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for StatusFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An OK packet, borrowed from its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OkPacket<'a> {
    /// Affected rows.
    pub affected_rows: u64,
    /// LAST_INSERT_ID of this statement; 0 for none.
    pub last_insert_id: u64,
    /// Status flags.
    pub status: StatusFlags,
    /// Number of warnings.
    pub warnings: u16,
    /// Text for a human.
    pub info: &'a [u8],
    /// Session-track entries as they came; read them with [`OkPacket::tracks`].
    pub session_track: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// The first byte.
    pub const MARKER: u8 = 0x00;
    /// The first byte where it ends a result set under DEPRECATE_EOF.
    pub const EOF_MARKER: u8 = 0xFE;

    /// Reads a payload with either first byte.
    pub fn parse(payload: &'a [u8], capabilities: Capabilities) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if !matches!(reader.u8("OK marker")?, Self::MARKER | Self::EOF_MARKER) {
            return Err(Malformed("OK marker"));
        }
        let affected_rows = reader.lenenc_int("affected rows")?;
        let last_insert_id = reader.lenenc_int("last insert id")?;
        let status = StatusFlags(reader.u16("status flags")?);
        let warnings = reader.u16("warnings")?;
        let mut packet = Self { affected_rows, last_insert_id, status, warnings, ..Self::default() };
        if !capabilities.contains(Capabilities::SESSION_TRACK) {
            packet.info = reader.rest();
        } else if !reader.is_empty() {
            packet.info = reader.lenenc_bytes("info")?;
            if status.contains(StatusFlags::SESSION_STATE_CHANGED) {
                packet.session_track = reader.lenenc_bytes("session state")?;
            }
        }
        Ok(packet)
    }

    /// The payload, with the first byte of an ordinary OK.
    #[must_use]
    pub fn encode(&self, capabilities: Capabilities) -> Vec<u8> {
        let mut out = vec![Self::MARKER];
        put_lenenc_int(&mut out, self.affected_rows);
        put_lenenc_int(&mut out, self.last_insert_id);
        out.extend_from_slice(&self.status.0.to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        if !capabilities.contains(Capabilities::SESSION_TRACK) {
            out.extend_from_slice(self.info);
        } else if !self.info.is_empty() || self.status.contains(StatusFlags::SESSION_STATE_CHANGED) {
            put_lenenc_bytes(&mut out, self.info);
            if self.status.contains(StatusFlags::SESSION_STATE_CHANGED) {
                put_lenenc_bytes(&mut out, self.session_track);
            }
        }
        out
    }

    /// The session-track entries. After an error it yields nothing more.
    #[must_use]
    pub fn tracks(&self) -> SessionTracks<'a> {
        SessionTracks { entries: Reader::new(self.session_track), variables: Reader::new(&[]) }
    }
}

/// One change in the session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTrack<'a> {
    /// A session variable has this value now; `None` is NULL.
    SystemVariable {
        /// Name.
        name: &'a [u8],
        /// Value as text.
        value: Option<&'a [u8]>,
    },
    /// The current schema; empty for none.
    Schema(&'a [u8]),
    /// Something else changed (user variables, temporary tables, prepared statements …).
    StateChanged,
    /// GTIDs of what was committed.
    Gtids(&'a [u8]),
    /// Statements that start the open transaction again with its characteristics.
    TransactionCharacteristics(&'a [u8]),
    /// Eight characters, such as `T_r_wsL_`.
    TransactionState(&'a [u8]),
    /// A kind that isn't known here.
    Unknown(u8),
}

/// Iterates over session-track entries.
#[derive(Debug, Clone)]
pub struct SessionTracks<'a> {
    entries: Reader<'a>,
    /// MariaDB puts several variables into one entry.
    variables: Reader<'a>,
}

impl<'a> SessionTracks<'a> {
    fn read(&mut self) -> Result<SessionTrack<'a>, Malformed> {
        if !self.variables.is_empty() {
            return self.variable();
        }
        let kind = self.entries.u8("kind of session state")?;
        let mut data = Reader::new(self.entries.lenenc_bytes("session state")?);
        Ok(match kind {
            0 => {
                self.variables = data;
                return self.variable();
            }
            1 => SessionTrack::Schema(data.lenenc_bytes("schema")?),
            2 => SessionTrack::StateChanged,
            3 => {
                // The byte before the text says how it is written down; there is only one way so far.
                data.u8("GTID format")?;
                SessionTrack::Gtids(data.lenenc_bytes("GTIDs")?)
            }
            4 => SessionTrack::TransactionCharacteristics(data.lenenc_bytes("transaction characteristics")?),
            5 => SessionTrack::TransactionState(data.lenenc_bytes("transaction state")?),
            other => SessionTrack::Unknown(other),
        })
    }

    fn variable(&mut self) -> Result<SessionTrack<'a>, Malformed> {
        let name = self.variables.lenenc_bytes("variable name")?;
        let value = self.variables.lenenc_bytes_or_null("variable value")?;
        Ok(SessionTrack::SystemVariable { name, value })
    }
}

impl<'a> Iterator for SessionTracks<'a> {
    type Item = Result<SessionTrack<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.entries.is_empty() && self.variables.is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            (self.entries, self.variables) = (Reader::new(&[]), Reader::new(&[]));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(
            affected_rows: u64, last_insert_id: u64, status: u16, warnings: u16, info: Vec<u8>,
            session_track: Vec<u8>, track: bool,
        ) {
            let capabilities = if track { Capabilities::SESSION_TRACK } else { Capabilities::NONE };
            let status = StatusFlags(status);
            let tracked = track && status.contains(StatusFlags::SESSION_STATE_CHANGED);
            let packet = OkPacket {
                affected_rows, last_insert_id, status, warnings, info: &info,
                session_track: if tracked { &session_track } else { &[] },
            };
            let bytes = packet.encode(capabilities);
            prop_assert_eq!(OkPacket::parse(&bytes, capabilities).unwrap(), packet);
        }

        #[test]
        fn garbage_never_panics(mut bytes: Vec<u8>) {
            bytes.insert(0, OkPacket::MARKER);
            let _ = OkPacket::parse(&bytes, Capabilities::NONE);
            if let Ok(packet) = OkPacket::parse(&bytes, Capabilities::SESSION_TRACK) {
                packet.tracks().for_each(drop);
            }
            let packet = OkPacket { session_track: &bytes, ..OkPacket::default() };
            prop_assert!(packet.tracks().count() <= bytes.len() + 1);
        }
    }

    fn entry(kind: u8, strings: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        for string in strings {
            put_lenenc_bytes(&mut data, string.as_bytes());
        }
        let mut out = vec![kind];
        put_lenenc_bytes(&mut out, &data);
        out
    }

    #[test]
    fn entries_of_both_families() {
        let mut track = entry(0, &["autocommit", "OFF", "sql_mode", ""]);
        track.extend(entry(1, &["shop"]));
        track.extend(entry(2, &["1"]));
        track.extend(entry(5, &["T_r_wsL_"]));
        track.extend(entry(9, &["?"]));
        let packet = OkPacket { session_track: &track, ..OkPacket::default() };
        let entries: Vec<_> = packet.tracks().map(Result::unwrap).collect();
        assert_eq!(
            entries,
            [
                SessionTrack::SystemVariable { name: b"autocommit", value: Some(b"OFF") },
                SessionTrack::SystemVariable { name: b"sql_mode", value: Some(b"") },
                SessionTrack::Schema(b"shop"),
                SessionTrack::StateChanged,
                SessionTrack::TransactionState(b"T_r_wsL_"),
                SessionTrack::Unknown(9),
            ]
        );
    }
}
