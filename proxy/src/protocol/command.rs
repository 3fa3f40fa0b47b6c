//! Command bytes, and what each of them means to a relay.

/// The first byte of a client's request. Bytes that nobody assigned are [`Command::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the protocol's own.
pub enum Command {
    Sleep,
    Quit,
    InitDb,
    Query,
    FieldList,
    CreateDb,
    DropDb,
    Refresh,
    Shutdown,
    Statistics,
    ProcessInfo,
    Connect,
    ProcessKill,
    Debug,
    Ping,
    Time,
    DelayedInsert,
    ChangeUser,
    BinlogDump,
    TableDump,
    ConnectOut,
    RegisterSlave,
    StmtPrepare,
    StmtExecute,
    StmtSendLongData,
    StmtClose,
    StmtReset,
    SetOption,
    StmtFetch,
    Daemon,
    BinlogDumpGtid,
    ResetConnection,
    Clone,
    SubscribeGroupReplicationStream,
    /// MariaDB: many sets of parameters in one execute.
    StmtBulkExecute,
    /// Anything else.
    Other(u8),
}

/// How the answer to a command is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Nothing comes back.
    None,
    /// OK, ERR, LOCAL INFILE or result sets.
    Results,
    /// One packet that is OK, EOF or ERR.
    Status,
    /// One packet of text, without a header byte.
    Text,
    /// The answer to COM_STMT_PREPARE.
    Prepare,
    /// Column definitions up to an EOF, without a count in front.
    Fields,
    /// Rows of a cursor up to an EOF.
    Rows,
    /// A stream without an end; nothing else is said on this connection any more.
    Stream,
}

impl From<u8> for Command {
    fn from(byte: u8) -> Self {
        match byte {
            0x00 => Command::Sleep,
            0x01 => Command::Quit,
            0x02 => Command::InitDb,
            0x03 => Command::Query,
            0x04 => Command::FieldList,
            0x05 => Command::CreateDb,
            0x06 => Command::DropDb,
            0x07 => Command::Refresh,
            0x08 => Command::Shutdown,
            0x09 => Command::Statistics,
            0x0A => Command::ProcessInfo,
            0x0B => Command::Connect,
            0x0C => Command::ProcessKill,
            0x0D => Command::Debug,
            0x0E => Command::Ping,
            0x0F => Command::Time,
            0x10 => Command::DelayedInsert,
            0x11 => Command::ChangeUser,
            0x12 => Command::BinlogDump,
            0x13 => Command::TableDump,
            0x14 => Command::ConnectOut,
            0x15 => Command::RegisterSlave,
            0x16 => Command::StmtPrepare,
            0x17 => Command::StmtExecute,
            0x18 => Command::StmtSendLongData,
            0x19 => Command::StmtClose,
            0x1A => Command::StmtReset,
            0x1B => Command::SetOption,
            0x1C => Command::StmtFetch,
            0x1D => Command::Daemon,
            0x1E => Command::BinlogDumpGtid,
            0x1F => Command::ResetConnection,
            0x20 => Command::Clone,
            0x21 => Command::SubscribeGroupReplicationStream,
            0xFA => Command::StmtBulkExecute,
            other => Command::Other(other),
        }
    }
}

impl Command {
    /// True where it runs no statement, so that warnings, counts and errors of the one before can still be asked
    /// for behind it. Drivers send these on their own.
    #[must_use]
    pub fn keeps_outcome(self) -> bool {
        matches!(
            self,
            Command::StmtClose
                | Command::StmtReset
                | Command::StmtFetch
                | Command::StmtSendLongData
                | Command::Ping
                | Command::Statistics
        )
    }

    /// How its answer is framed.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Command::Quit | Command::StmtSendLongData | Command::StmtClose => Reply::None,
            Command::Query | Command::StmtExecute | Command::StmtBulkExecute | Command::ProcessInfo => {
                Reply::Results
            }
            Command::Statistics => Reply::Text,
            Command::StmtPrepare => Reply::Prepare,
            Command::FieldList => Reply::Fields,
            Command::StmtFetch => Reply::Rows,
            Command::BinlogDump
            | Command::BinlogDumpGtid
            | Command::TableDump
            | Command::Clone
            | Command::SubscribeGroupReplicationStream => Reply::Stream,
            Command::Sleep
            | Command::InitDb
            | Command::CreateDb
            | Command::DropDb
            | Command::Refresh
            | Command::Shutdown
            | Command::Connect
            | Command::ProcessKill
            | Command::Debug
            | Command::Ping
            | Command::Time
            | Command::DelayedInsert
            | Command::ChangeUser
            | Command::ConnectOut
            | Command::RegisterSlave
            | Command::StmtReset
            | Command::SetOption
            | Command::Daemon
            | Command::ResetConnection
            | Command::Other(_) => Reply::Status,
        }
    }
}
