//! Logging: lines on stderr, and from the same lines the rows of SHOW EVENTS.

use std::sync::Arc;
use std::time::SystemTime;

use config::events::{EventLog, EventRow};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::LogFormat;

/// Installs the process's only subscriber and returns the log that SHOW EVENTS reads.
pub(crate) fn install(format: LogFormat) -> Arc<EventLog> {
    let events = Arc::new(EventLog::default());
    let filter = || {
        EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new("info,mysql_async=warn,opensrv_mysql=warn"))
    };
    let stderr = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(EventLayer { events: Arc::clone(&events) });
    // A second subscriber in one process can only come from a test harness; the first one stays.
    let _ = match format {
        LogFormat::Text => registry.with(stderr.with_ansi(false).with_filter(filter())).try_init(),
        LogFormat::Json => registry.with(stderr.json().with_filter(filter())).try_init(),
    };
    events
}

/// Copies every log line with an `area` into the event log.
struct EventLayer {
    events: Arc<EventLog>,
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => return,
        };
        let mut visitor = EventVisitor::default();
        event.record(&mut visitor);
        if let Some(area) = visitor.area {
            let message = format!("{}{}", visitor.message, visitor.fields);
            self.events.push(EventRow { at: SystemTime::now(), level, area, message });
        }
    }
}

#[derive(Default)]
struct EventVisitor {
    area: Option<String>,
    message: String,
    fields: String,
}

impl Visit for EventVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "area" => self.area = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            name => self.fields.push_str(&format!(" {name}={value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "area" => self.area = Some(format!("{value:?}").trim_matches('"').to_owned()),
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push_str(&format!(" {name}={value:?}")),
        }
    }
}
