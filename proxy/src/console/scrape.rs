//! What `/metrics` says. docs/metrics.md lists it.

use std::time::{Duration, SystemTime};

use config::Side;
use config::progress::Phase;

use super::Console;
use super::page::{Kind, Page, Seconds};
use crate::cutover::phase::Outcome;
use crate::metrics::{Counter, Figures, Traffic};
use crate::session::registry::Activity;

const SIDES: [Side; 2] = [Side::Source, Side::Target];

/// The page of this moment.
pub(super) fn page(console: &Console) -> String {
    let mut page = Page::default();
    process(&mut page, console);
    sessions(&mut page, console);
    statements(&mut page, console);
    cutovers(&mut page, console);
    migration(&mut page, console);
    page.into_text()
}

fn process(page: &mut Page, console: &Console) {
    page.family("changeover_build_info", Kind::Gauge, "The version that runs; the value is always 1.");
    page.sample("changeover_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let started = console.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let help = "When this process began to answer here, in seconds since 1970.";
    page.one("changeover_start_time_seconds", Kind::Gauge, help, micros(started));
    if let Some(bytes) = resident_bytes() {
        page.one("changeover_resident_memory_bytes", Kind::Gauge, "Memory that the process holds.", bytes);
    }
    let name = "changeover_backend_up";
    page.family(name, Kind::Gauge, "1 where the backend greeted when it was last asked.");
    for side in SIDES {
        if let Some(up) = console.context.registry.metrics.is_up(side) {
            page.sample(name, &[("side", side.as_str())], u8::from(up));
        }
    }
    let name = "changeover_route";
    page.family(name, Kind::Gauge, "1 for the backend that serves.");
    let serving = console.context.routes.load().backend.side;
    for side in SIDES {
        page.sample(name, &[("side", side.as_str())], u8::from(side == serving));
    }
}

fn sessions(page: &mut Page, console: &Console) {
    let registry = &console.context.registry;
    let (census, metrics) = (registry.census(), &registry.metrics);
    let name = "changeover_sessions";
    page.family(name, Kind::Gauge, "Live sessions by what they are doing.");
    for (state, count) in Activity::TEXTS.into_iter().zip(census.states) {
        page.sample(name, &[("state", state)], count);
    }
    let name = "changeover_sessions_connected";
    page.family(name, Kind::Gauge, "Live sessions by the backend that they are connected to.");
    let all: u64 = census.states.iter().sum();
    for (side, count) in [(Side::Source, all - census.on_target), (Side::Target, census.on_target)] {
        page.sample(name, &[("side", side.as_str())], count);
    }
    for (name, help, count) in [
        ("changeover_sessions_in_transaction", "Sessions inside a transaction.", census.in_transaction),
        ("changeover_sessions_pinned", "Sessions that hold what no move can carry over.", census.pinned),
        ("changeover_sessions_prepared", "Sessions that are restored on the other backend.", census.prepared),
    ] {
        page.one(name, Kind::Gauge, help, count);
    }
    let help = "Connections of clients that were accepted, those that were refused afterwards among them.";
    page.one("changeover_connections_total", Kind::Counter, help, metrics.connections.get());
    counters(
        page,
        "changeover_connections_refused_total",
        "Connections turned away before the greeting.",
        "reason",
        &[
            ("too_many_connections", &metrics.too_many),
            ("proxy_header", &metrics.not_proxied),
            ("backend_unreachable", &metrics.no_backend),
        ],
    );
    counters(
        page,
        "changeover_logins_failed_total",
        "Logins that came to nothing: given up or wrong at the front door, refused by the backend, or without one.",
        "reason",
        &[
            ("front_door", &metrics.logins_unfinished),
            ("backend_refused", &metrics.logins_refused),
            ("backend_unreachable", &metrics.logins_unreachable),
        ],
    );
    let help = "Commands of clients, of every kind.";
    page.one("changeover_statements_total", Kind::Counter, help, census.work.statements);
    let name = "changeover_bytes_total";
    page.family(name, Kind::Counter, "Bytes of commands and answers, counted when a command has ended.");
    let legs: [(&str, Traffic); 2] = [("client", census.work.client), ("backend", census.work.backend)];
    for (leg, traffic) in legs {
        page.sample(name, &[("leg", leg), ("direction", "received")], traffic.received);
        page.sample(name, &[("leg", leg), ("direction", "sent")], traffic.sent);
    }
}

fn statements(page: &mut Page, console: &Console) {
    let metrics = &console.context.registry.metrics;
    let help = "From the first byte of a command to the last of its answer, with its wait for the gate.";
    page.histogram("changeover_statement_seconds", help, &metrics.statement_time.figures());
    let help = "What commands waited for a closed gate; those that found it open aren't in it.";
    page.histogram("changeover_gate_wait_seconds", help, &metrics.gate_wait.figures());
    let closed = u8::from(console.gate.is_closed());
    page.one("changeover_gate_closed", Kind::Gauge, "1 while a cutover holds commands back.", closed);
    let held = console.gate.outstanding();
    page.one("changeover_gate_permits", Kind::Gauge, "Commands and transactions inside the gate.", held);
    counters(
        page,
        "changeover_moves_total",
        "Sessions moved to the other backend: onto a connection prepared ahead, onto one made at the move, or not.",
        "outcome",
        &[
            ("prepared", &metrics.moves_prepared),
            ("unprepared", &metrics.moves_unprepared),
            ("failed", &metrics.moves_failed),
        ],
    );
    let help =
        "Questions to a server that moves still had to ask, a round trip each: 0 where all was prepared.";
    page.one("changeover_move_questions_total", Kind::Counter, help, metrics.move_questions.get());
}

fn cutovers(page: &mut Page, console: &Console) {
    let history = console.context.coordinator.history();
    let name = "changeover_cutovers_total";
    page.family(name, Kind::Counter, "Cutovers and rollbacks in the journal, by how they ended.");
    for outcome in [Outcome::Switched, Outcome::Aborted] {
        let count = history.iter().filter(|row| row.outcome == outcome).count();
        page.sample(name, &[("outcome", outcome.as_str())], count);
    }
    let mut pauses = Figures::default();
    for ms in history.iter().filter_map(|row| row.pause_ms) {
        pauses.add(Duration::from_millis(ms));
    }
    let help = "For how long the gate was closed, of the cutovers in the journal.";
    page.histogram("changeover_cutover_pause_seconds", help, &pauses);
}

const STRAY: &str = "Transactions of others on the side that doesn't serve, which nobody has acknowledged.";
const STRAY_TOTAL: &str = "Transactions of others on the side that doesn't serve, found by this process.";

fn migration(page: &mut Page, console: &Console) {
    let status = console.context.replication.status();
    let present = console.context.phase();
    let name = "changeover_migration_phase";
    page.family(name, Kind::Gauge, "1 for the phase of the migration.");
    for phase in Phase::ALL {
        page.sample(name, &[("phase", phase.as_str())], u8::from(phase == present));
    }
    for (name, kind, help, value) in [
        ("changeover_tables", Kind::Gauge, "Tables of the migration.", status.tables_total),
        ("changeover_tables_copied", Kind::Gauge, "Tables that are copied.", status.tables_copied),
        ("changeover_rows_copied_total", Kind::Counter, "Rows copied.", status.rows_copied),
        ("changeover_rows_estimate", Kind::Gauge, "Rows to copy, by the statistics.", status.rows_estimate),
        (
            "changeover_staged_rows",
            Kind::Gauge,
            "Rows read that wait on disk for the target.",
            status.staged_rows,
        ),
        ("changeover_staged_bytes", Kind::Gauge, "Bytes that these take on disk.", status.staged_bytes),
        ("changeover_rows_applied_total", Kind::Counter, "Row changes applied.", status.rows_applied),
        ("changeover_spool_bytes", Kind::Gauge, "Bytes fetched and not applied yet.", status.lag_bytes),
        ("changeover_rows_verified", Kind::Gauge, "Rows compared in this pass.", status.rows_verified),
        ("changeover_differences", Kind::Gauge, "Rows that differ.", status.differences),
        ("changeover_stray_writes", Kind::Gauge, STRAY, status.stray_writes),
        ("changeover_stray_writes_total", Kind::Counter, STRAY_TOTAL, status.stray_writes_total),
    ] {
        page.one(name, kind, help, value);
    }
    let help = "1 while copy and verification wait for a server that has enough to do, or for a replica.";
    page.one("changeover_throttled", Kind::Gauge, help, u8::from(status.throttled_by.is_some()));
    let help = "For how long they waited.";
    let waited = Seconds(status.throttled_ms.saturating_mul(1000));
    page.one("changeover_throttled_seconds_total", Kind::Counter, help, waited);
    if let Some(ms) = status.lag_ms {
        let help = "Age of the position that the target has reached; absent while nothing is followed.";
        let lag = Seconds(ms.saturating_mul(1000));
        page.one("changeover_replication_lag_seconds", Kind::Gauge, help, lag);
    }
}

fn counters(page: &mut Page, name: &str, help: &str, label: &str, samples: &[(&str, &Counter)]) {
    page.family(name, Kind::Counter, help);
    for (word, counter) in samples {
        page.sample(name, &[(label, word)], counter.get());
    }
}

fn micros(duration: Duration) -> Seconds {
    Seconds(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// As the kernel says.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
