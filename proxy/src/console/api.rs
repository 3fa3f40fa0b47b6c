//! The addresses of the HTTP port, and what each answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::Stream;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::{Console, Endless, scrape};
use crate::admin::answer::{Answer, Cell};

/// Between two looks of a stream at what is new.
const TICK: Duration = Duration::from_secs(1);
/// Ticks after which a silent stream shows that it is there.
const SILENT_TICKS: u32 = 15;
/// Events that a stream begins with.
const EVENTS_BEFORE: usize = 100;

const INDEX: &str =
    "Changeover. /metrics, /healthz, /readyz, /api/status, /api/events. The console isn't built yet.\n";

pub(super) fn router(console: Arc<Console>) -> Router {
    Router::new()
        .route("/", get(async || plain(StatusCode::OK, INDEX)))
        .route("/healthz", get(async || plain(StatusCode::OK, "ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/events", get(events))
        .fallback(async || plain(StatusCode::NOT_FOUND, "there is nothing here; / says what there is\n"))
        .with_state(console)
}

type Headers = [(header::HeaderName, &'static str); 3];

fn headers(kind: &'static str) -> Headers {
    [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}

fn plain(code: StatusCode, text: &'static str) -> Response {
    (code, headers("text/plain; charset=utf-8"), text).into_response()
}

/// Ready is who would let a new client in.
async fn ready(State(console): State<Arc<Console>>) -> Response {
    let serving = console.context.routes.load().backend.side;
    if console.draining.is_cancelled() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "it is about to end\n");
    }
    match console.context.registry.metrics.is_up(serving) {
        Some(true) => plain(StatusCode::OK, "ready\n"),
        Some(false) => plain(StatusCode::SERVICE_UNAVAILABLE, "the serving backend can't be reached\n"),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "the serving backend hasn't been asked yet\n"),
    }
}

async fn metrics(State(console): State<Arc<Console>>) -> Response {
    (headers("text/plain; version=0.0.4; charset=utf-8"), scrape::page(&console)).into_response()
}

async fn status(State(console): State<Arc<Console>>) -> Response {
    let mut all = Map::new();
    all.insert("status".to_owned(), one(rows(&console, "SHOW MIGRATION STATUS").await));
    all.insert("tables".to_owned(), rows(&console, "SHOW MIGRATION TABLES").await.into());
    all.insert("cutovers".to_owned(), rows(&console, "SHOW CUTOVERS").await.into());
    (headers("application/json"), Value::Object(all).to_string()).into_response()
}

fn one(rows: Vec<Value>) -> Value {
    rows.into_iter().next().unwrap_or(Value::Null)
}

/// The rows of an admin statement, as objects with the names of its columns.
async fn rows(console: &Console, statement: &str) -> Vec<Value> {
    let Answer::Rows(rows) = console.context.answer(statement, 0).await else { return Vec::new() };
    let object = |row: Vec<Cell>| {
        let names = rows.columns.iter().map(|column| column.name.clone().into_owned());
        Value::Object(names.zip(row.iter().map(value)).collect())
    };
    rows.rows.into_iter().map(object).collect()
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Number(number) => (*number).into(),
        Cell::Fraction(number) => Value::from((number * 10.0).round() / 10.0),
        other => other.to_text().into(),
    }
}

/// `status` when it has changed, `event` for each row of SHOW EVENTS, oldest first. A client that comes back
/// says what it had last (`Last-Event-ID`).
async fn events(
    State(console): State<Arc<Console>>,
    Extension(endless): Extension<Endless>,
    asked: HeaderMap,
) -> Response {
    let Ok(place) = Arc::clone(&console.streams).try_acquire_owned() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many streams; come back later\n");
    };
    endless.0.store(true, Relaxed);
    let had = asked.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let begin =
        Feed { console, had, waiting: VecDeque::new(), status: Value::Null, silent: None, _place: place };
    Sse::new(feed(begin)).into_response()
}

/// A stream's place in what there is to tell.
struct Feed {
    console: Arc<Console>,
    /// Number of the last event told.
    had: Option<u64>,
    waiting: VecDeque<Event>,
    status: Value,
    /// Ticks without a word; `None` before the first look.
    silent: Option<u32>,
    _place: OwnedSemaphorePermit,
}

fn feed(begin: Feed) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(begin, |mut feed| async move {
        loop {
            if let Some(event) = feed.waiting.pop_front() {
                feed.silent = Some(0);
                return Some((Ok(event), feed));
            }
            if let Some(ticks) = feed.silent {
                tokio::time::sleep(TICK).await;
                feed.silent = Some(ticks + 1);
            }
            feed.look().await;
        }
    })
}

impl Feed {
    async fn look(&mut self) {
        let status = one(rows(&self.console, "SHOW MIGRATION STATUS").await);
        if status != self.status {
            self.waiting.push_back(Event::default().event("status").data(status.to_string()));
            self.status = status;
        }
        for (number, row) in self.console.context.events.after(self.had, EVENTS_BEFORE) {
            self.had = Some(number);
            let fields = [
                ("at", Cell::from(row.at)),
                ("level", row.level.into()),
                ("area", row.area.into()),
                ("message", row.message.into()),
            ];
            let fields = fields.into_iter().map(|(name, cell)| (name.to_owned(), value(&cell)));
            let data = Value::Object(fields.collect()).to_string();
            self.waiting.push_back(Event::default().event("event").id(number.to_string()).data(data));
        }
        if self.waiting.is_empty() && self.silent.is_none_or(|ticks| ticks >= SILENT_TICKS) {
            self.waiting.push_back(Event::default().comment("still here"));
        }
    }
}
