//! The way in for the fuzz targets of `tests/fuzz`: parsers that face a client or a backend and aren't part of this
//! crate's interface. Hidden from the documentation because nothing else may call it; it takes bytes and gives back
//! only what a target has to hold against something.

use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWriteExt;

use super::execute::{Types, query_text};
use super::lexer::scan;
use super::question::{self, quoted};
use super::request::{Request, effects_of};
use super::state::SessionState;
use crate::protocol::capability::Capabilities;
use crate::protocol::command::Command;
use crate::protocol::packet::ok::StatusFlags;
use crate::protocol::stream::Stream;
use crate::relay::copy::Leg;
use crate::relay::exchange::{Exchange, Progress};

/// A statement text, read in both passes and run through a session's state with the backend's `answer` to it.
/// Returns how many names the state keeps: the bound that a target checks.
pub fn statement(text: &[u8], answer: &[u8], capabilities: Capabilities) -> usize {
    let mut state = SessionState::new(StatusFlags::AUTOCOMMIT, None);
    for status in [StatusFlags::AUTOCOMMIT, StatusFlags::NO_BACKSLASH_ESCAPES] {
        state.status = status;
        let request = state.query(text);
        run(&mut state, &request, answer, capabilities);
        let prepare = state.prepare(text);
        run(&mut state, &prepare, answer, capabilities);
        let init = state.with_argument(Command::InitDb, text);
        run(&mut state, &init, answer, capabilities);
    }
    state.user_variables.len() + state.statements.len() + state.texts.len()
}

fn run(state: &mut SessionState, request: &Request, answer: &[u8], capabilities: Capabilities) {
    let mut exchange = Exchange::new(request.command, capabilities);
    exchange.feed(answer);
    if exchange.progress() == Progress::ClientData {
        exchange.data_sent();
    }
    let prepared = exchange.outcome().prepared.is_some().then(|| state.new_statement_id());
    state.answered(request, exchange.outcome(), prepared);
}

/// True where [`effects_of`] sees at least what the lexer alone sees: a second reading may only add.
#[must_use]
pub fn reads_alike(text: &[u8], plain_backslash: bool) -> bool {
    effects_of(text, plain_backslash).contains(scan(text, plain_backslash))
}

/// COM_QUERY with attributes, COM_STMT_EXECUTE and its bulk form. Returns the length of the payload after types were
/// put into it, or that of the text.
pub fn execute(payload: &[u8], command: Command, params: u16, capabilities: Capabilities) -> Option<usize> {
    if command == Command::Query {
        return query_text(payload, capabilities).map(<[u8]>::len);
    }
    let types = Types::find(payload, command, params, capabilities)?;
    let said = types.of(payload).to_vec();
    Some(types.insert(payload, &said).len())
}

/// The answer to a question of the proxy's own. Returns its number of values, or `None` where it isn't one.
#[must_use]
pub fn question(answer: &[u8], capabilities: Capabilities) -> Option<usize> {
    let (near, mut far) = tokio::io::duplex(answer.len().max(1));
    let mut context = Context::from_waker(Waker::noop());
    {
        let write = std::pin::pin!(far.write_all(answer));
        assert!(write.poll(&mut context).is_ready(), "the pipe is as long as the answer");
    }
    drop(far);
    let mut leg = Leg::new(Stream::Duplex(near));
    let asked = std::pin::pin!(question::answer(&mut leg, capabilities, Command::Query));
    match asked.poll(&mut context) {
        Poll::Ready(Ok(answer)) => {
            Some(answer.columns.len() + answer.rows.iter().map(Vec::len).sum::<usize>())
        }
        Poll::Ready(Err(_)) => None,
        Poll::Pending => unreachable!("the other end has closed"),
    }
}

/// Text as a literal, and whether what quotes it also ends it: nothing of it may get out of its quotes.
#[must_use]
pub fn quoted_ends(text: &[u8], plain_backslash: bool) -> bool {
    let mut sql = b"SELECT ".to_vec();
    sql.extend_from_slice(&quoted(text, plain_backslash));
    let effects = scan(&sql, plain_backslash);
    effects == scan(b"SELECT 'x'", plain_backslash)
}
