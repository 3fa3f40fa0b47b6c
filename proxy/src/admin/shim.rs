//! opensrv-mysql's side of the pipe: it parses a packet into a query and writes our rows as packets.
//!
//! Nothing but [`super::gateway`] talks to it, one packet at a time, so that none of the crate's weak places can be
//! reached (see there).

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use opensrv_mysql::{
    AsyncMysqlShim, Column as WireColumn, ColumnFlags, ColumnType, ErrorKind, InitWriter, OkResponse,
    ParamParser, QueryResultWriter, StatementMetaWriter, StatusFlags,
};
use tokio::io::AsyncWrite;

use super::AdminContext;
use super::answer::{Answer, Cell, Column, ErrorCode, Kind, Rows};
use super::talk::VERSION;

/// A row's bytes, at most: opensrv doesn't write the empty packet that must follow one of exactly 16 MiB, so no
/// row comes near.
const ROW_MAX: usize = 15 << 20;

/// One admin client.
pub(super) struct Shim {
    pub(super) context: Arc<AdminContext>,
    pub(super) connection_id: u32,
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> AsyncMysqlShim<W> for Shim {
    type Error = io::Error;

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn connect_id(&self) -> u32 {
        self.connection_id
    }

    async fn on_prepare<'a>(&'a mut self, _: &'a str, info: StatementMetaWriter<'a, W>) -> io::Result<()> {
        // The gateway answers before it comes here.
        info.error(ErrorKind::ER_UNSUPPORTED_PS, b"prepared statements end at the gateway".as_slice()).await
    }

    async fn on_execute<'a>(
        &'a mut self,
        _: u32,
        _: ParamParser<'a>,
        results: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        results
            .error(ErrorKind::ER_UNSUPPORTED_PS, b"prepared statements end at the gateway".as_slice())
            .await
    }

    async fn on_close<'a>(&'a mut self, _: u32)
    where
        W: 'async_trait,
    {
    }

    async fn on_query<'a>(&'a mut self, query: &'a str, results: QueryResultWriter<'a, W>) -> io::Result<()> {
        match self.context.answer(query, self.connection_id).await {
            Answer::Done => results.completed(ok()).await,
            Answer::Error { kind, message } => results.error(error_kind(kind), message.as_bytes()).await,
            Answer::Rows(rows) => write(rows, results).await,
        }
    }

    async fn on_init<'a>(&'a mut self, _: &'a str, writer: InitWriter<'a, W>) -> io::Result<()> {
        writer.ok().await
    }
}

fn ok() -> OkResponse {
    OkResponse { status_flags: StatusFlags::SERVER_STATUS_AUTOCOMMIT, ..OkResponse::default() }
}

async fn write<W: AsyncWrite + Send + Unpin>(
    rows: Rows,
    results: QueryResultWriter<'_, W>,
) -> io::Result<()> {
    let columns: Vec<WireColumn> = rows.columns.iter().map(wire_column).collect();
    let mut writer = results.start(&columns).await?;
    for row in rows.rows {
        writer.write_row(fitting(&row)).await?;
    }
    writer.finish().await
}

/// The row's cells as text. Where they are too long together, the longest gives way to a comment that says so.
fn fitting(row: &[Cell]) -> Vec<Option<String>> {
    let mut cells: Vec<_> = row.iter().map(Cell::to_text).collect();
    while cells.iter().flatten().map(|text| text.len() + 9).sum::<usize>() > ROW_MAX {
        if let Some(longest) = cells.iter_mut().flatten().max_by_key(|text| text.len()) {
            *longest = format!("/* too long to be shown: {} bytes */", longest.len());
        }
    }
    cells
}

fn wire_column(column: &Column) -> WireColumn {
    let (coltype, colflags) = match column.kind {
        Kind::Text => (ColumnType::MYSQL_TYPE_VAR_STRING, ColumnFlags::empty()),
        Kind::Number => (ColumnType::MYSQL_TYPE_LONGLONG, ColumnFlags::UNSIGNED_FLAG),
        Kind::Fraction => (ColumnType::MYSQL_TYPE_DOUBLE, ColumnFlags::empty()),
        Kind::Moment => (ColumnType::MYSQL_TYPE_DATETIME, ColumnFlags::empty()),
    };
    WireColumn { table: String::new(), column: column.name.to_string(), coltype, colflags }
}

fn error_kind(kind: ErrorCode) -> ErrorKind {
    match kind {
        ErrorCode::UnknownColumn => ErrorKind::ER_BAD_FIELD_ERROR,
        ErrorCode::Parse => ErrorKind::ER_PARSE_ERROR,
        ErrorCode::NoSuchSession => ErrorKind::ER_NO_SUCH_THREAD,
        ErrorCode::Refused => ErrorKind::ER_UNKNOWN_ERROR,
        ErrorCode::UnknownVariable => ErrorKind::ER_UNKNOWN_SYSTEM_VARIABLE,
        ErrorCode::NotYet => ErrorKind::ER_NOT_SUPPORTED_YET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_too_long_says_so_in_its_longest_cell() {
        let row = [Cell::from("key"), Cell::from("x".repeat(ROW_MAX)), Cell::Null];
        let cells = fitting(&row);
        assert_eq!(cells.first(), Some(&Some("key".to_owned())));
        assert_eq!(cells.get(1), Some(&Some(format!("/* too long to be shown: {ROW_MAX} bytes */"))));
        assert_eq!(cells.last(), Some(&None));
    }
}
