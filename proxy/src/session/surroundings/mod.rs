//! What of a server reaches into its sessions without their doing: stored code, global values that they began with,
//! the server's own time zone. The service account asks for it, for all sessions at once.

mod service;
mod stored;
mod zone;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use config::Side;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tracing::warn;

use super::question::{Answer, QuestionError};
use super::replay::Variables;
use crate::route::table::{Backend, RouteTable};
pub(crate) use service::{Service, as_service};
use stored::Piece;
pub(crate) use stored::{Reaches, StoredCode};
pub(crate) use zone::SystemZone;
use zone::Zone;

/// Sessions that get ready for a move within this time of each other share what was asked.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Without a reason to ask earlier the serving side is asked again after this.
const REFRESH: Duration = Duration::from_secs(60);

/// Session variables that change what statements do, or what the client is told. A session keeps the value that it
/// began with, also where the other server's global value is another.
pub(crate) const LASTING: &[&str] = &[
    "auto_increment_increment",
    "auto_increment_offset",
    "block_encryption_mode",
    "character_set_filesystem",
    "character_set_server",
    "check_constraint_checks",
    "collation_server",
    "completion_type",
    "cte_max_recursion_depth",
    "default_collation_for_utf8mb4",
    "default_storage_engine",
    "default_tmp_storage_engine",
    "default_week_format",
    "div_precision_increment",
    "explicit_defaults_for_timestamp",
    "foreign_key_checks",
    "idle_readonly_transaction_timeout",
    "idle_transaction_timeout",
    "idle_write_transaction_timeout",
    "innodb_lock_wait_timeout",
    "innodb_strict_mode",
    "innodb_table_locks",
    "interactive_timeout",
    "lc_messages",
    "lc_time_names",
    "lock_wait_timeout",
    "low_priority_updates",
    "max_error_count",
    "max_execution_time",
    "max_join_size",
    "max_recursive_iterations",
    "max_sort_length",
    "max_sp_recursion_depth",
    "max_statement_time",
    "new",
    "old",
    "old_alter_table",
    "old_mode",
    "restrict_fk_on_non_standard_key",
    "session_track_gtids",
    "session_track_schema",
    "session_track_state_change",
    "session_track_system_variables",
    "session_track_transaction_info",
    "show_gipk_in_create_table_and_information_schema",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_generate_invisible_primary_key",
    "sql_notes",
    "sql_quote_show_create",
    "sql_require_primary_key",
    "sql_safe_updates",
    "sql_select_limit",
    "sql_warnings",
    "system_versioning_alter_history",
    "system_versioning_asof",
    "unique_checks",
    "updatable_views_with_limit",
    "wait_timeout",
    "windowing_use_high_precision",
];

/// A server that keeps names in small letters has another value than 0.
const FOLDS_NAMES: &str = "lower_case_table_names";

/// Schemas of the servers' own.
const OWN_SCHEMAS: &str = "('sys', 'mysql', 'information_schema', 'performance_schema', 'oceanbase')";

/// What is known of one server.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Code that statements may make run.
    pub(crate) stored: StoredCode,
    /// The global values of [`LASTING`].
    pub(crate) globals: Variables,
    zone: Zone,
    read_at: Instant,
    generation: u64,
}

/// What a session has to do with that goes from one server to another.
#[derive(Debug)]
pub(crate) struct Between {
    /// The server that it leaves.
    pub(crate) from: Arc<Surroundings>,
    /// Variables of [`LASTING`] whose global values aren't the same on both.
    pub(crate) differing: BTreeSet<String>,
    /// What SYSTEM of the one is on the other.
    pub(crate) zone: SystemZone,
    /// The server that it goes to.
    pub(crate) to: Arc<Surroundings>,
    pub(crate) towards: Side,
}

#[cfg(test)]
impl Between {
    /// Of two servers without anything of their own.
    pub(crate) fn twins(towards: Side) -> Arc<Self> {
        let server = Arc::new(Surroundings {
            stored: StoredCode::default(),
            globals: Variables::new(),
            zone: Zone::default(),
            read_at: Instant::now(),
            generation: 0,
        });
        let (from, differing) = (Arc::clone(&server), BTreeSet::new());
        Arc::new(Self { from, differing, zone: SystemZone::Same, to: server, towards })
    }
}

/// Both servers' surroundings, as far as they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    latest: [ArcSwapOption<Surroundings>; 2],
    between: ArcSwapOption<Between>,
    /// Held by the one session that asks for what lies between.
    asking: Mutex<()>,
    /// Counts what may have changed stored code.
    generation: AtomicU64,
    changed: Notify,
}

impl Servers {
    fn slot(&self, side: Side) -> &ArcSwapOption<Surroundings> {
        let [source, target] = &self.latest;
        if side == Side::Source { source } else { target }
    }

    /// A statement may have changed stored code.
    pub(crate) fn stored_code_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.notify_one();
    }

    /// What `text` may make stored code do on this side, as far as that is known; anything where it was changed a
    /// moment ago.
    pub(crate) fn reached_by(&self, side: Side, text: &[u8]) -> Reaches {
        let latest = self.slot(side).load();
        let Some(known) = latest.as_deref() else { return Reaches::default() };
        if known.generation != self.generation.load(Ordering::Acquire) {
            return Reaches { locks: true, variables: true };
        }
        if known.stored.matters() { known.stored.reached_by(text) } else { Reaches::default() }
    }

    /// Keeps what is known of the serving side fresh. Never returns.
    pub(crate) async fn keep_fresh(&self, routes: &RouteTable) {
        loop {
            let backend = Arc::clone(&routes.load().backend);
            // A server that can't be asked now is asked again; whoever prepares a move hears of it.
            let _ = self.of(&backend, SHARED_FOR).await;
            let again = tokio::time::timeout(REFRESH, self.changed.notified());
            if again.await.is_ok() {
                // Many at once are one.
                tokio::time::sleep(SHARED_FOR / 10).await;
            }
        }
    }

    async fn of(&self, backend: &Backend, age: Duration) -> Result<Arc<Surroundings>, QuestionError> {
        let slot = self.slot(backend.side);
        let generation = self.generation.load(Ordering::Acquire);
        if let Some(known) = slot.load_full()
            && known.generation == generation
            && known.read_at.elapsed() < age
        {
            return Ok(known);
        }
        let read = Arc::new(Surroundings::read(backend, generation).await?);
        slot.store(Some(Arc::clone(&read)));
        Ok(read)
    }

    /// For a session that goes to `to` from the other side. Sessions that ask at the same time wait for one answer.
    ///
    /// Cancel safety: yes; what was asked in vain is asked again.
    pub(crate) async fn between(&self, routes: &RouteTable, to: Side) -> Result<Arc<Between>, QuestionError> {
        let wanted_at = Instant::now();
        if let Some(known) = self.fresh(to, wanted_at) {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        // Whoever held it before has asked for all that waited, however long the answer took.
        if let Some(known) = self.fresh(to, wanted_at) {
            return Ok(known);
        }
        let (from, there) = tokio::try_join!(
            self.of(routes.backend(to.other()), SHARED_FOR),
            self.of(routes.backend(to), SHARED_FOR)
        )?;
        let zone = system_zone(&from.zone, &there.zone, routes.backend(to)).await?;
        let differs = |(name, value): &(&String, &Option<Vec<u8>>)| {
            there.globals.get(*name).is_some_and(|other| other != *value)
        };
        let differing = from.globals.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        let known = Arc::new(Between { from, differing, zone, to: there, towards: to });
        self.between.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    /// What lies between, where both servers were asked a moment before it was wanted, or later, and nothing has changed
    /// stored code since.
    fn fresh(&self, to: Side, wanted_at: Instant) -> Option<Arc<Between>> {
        let known = self.between.load_full()?;
        let generation = self.generation.load(Ordering::Acquire);
        let is_fresh = |server: &Surroundings| {
            server.generation == generation
                && wanted_at.saturating_duration_since(server.read_at) < SHARED_FOR
        };
        (known.towards == to && is_fresh(&known.from) && is_fresh(&known.to)).then_some(known)
    }
}

/// `from`, the zone of the server that is left, on `backend`, whose own zone is `there`.
async fn system_zone(from: &Zone, there: &Zone, backend: &Backend) -> Result<SystemZone, QuestionError> {
    if from == there || from.0.is_none() {
        return Ok(SystemZone::Same);
    }
    if let Some(offset) = from.constant() {
        return Ok(SystemZone::As(offset));
    }
    let Some(sql) = zone::search(from) else { return Ok(SystemZone::Missing) };
    let found = match as_service(&backend.config, &sql).await {
        Ok(answer) => answer,
        Err(error) if error.is_transient() => return Err(error),
        // It has no such tables.
        Err(_) => return Ok(SystemZone::Missing),
    };
    let name = found.value(0).map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(name.map_or(SystemZone::Missing, SystemZone::As))
}

impl Surroundings {
    async fn read(backend: &Backend, generation: u64) -> Result<Self, QuestionError> {
        let mut service = Service::open(&backend.config).await?;
        let read = Self::ask(&mut service, backend, generation).await;
        service.close().await;
        read
    }

    async fn ask(service: &mut Service, backend: &Backend, generation: u64) -> Result<Self, QuestionError> {
        let (side, read_at) = (backend.side, Instant::now());
        let stored = match stored_code(service).await {
            Ok(stored) => stored,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                warn!(area = "proxy", "routines and triggers of the {side} can't be read: {error}");
                StoredCode::unknown()
            }
        };
        if stored.unreadable {
            warn!(
                area = "proxy",
                "some routines or triggers of the {side} can't be read, so what they leave in a session may be \
                 missed; grant the service account SELECT, TRIGGER and SHOW VIEW on *.*"
            );
        }
        let names = LASTING.join("', '");
        let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('{names}', '{FOLDS_NAMES}')");
        let mut globals = variables(&service.ask(&sql).await?);
        // It is no session's, and never changes while the server runs.
        let folds = globals.remove(FOLDS_NAMES).flatten();
        backend.set_folds_names(folds.is_some_and(|value| value != b"0"));
        let zone = match service.ask(&format!("SELECT {}", zone::offsets("'SYSTEM'"))).await {
            Ok(answer) => Zone(answer.value(0).map(|offsets| String::from_utf8_lossy(offsets).into_owned())),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => Zone(None),
        };
        Ok(Self { stored, globals, zone, read_at, generation })
    }
}

async fn stored_code(service: &mut Service) -> Result<StoredCode, QuestionError> {
    let routines = format!(
        "SELECT ROUTINE_NAME, ROUTINE_DEFINITION FROM information_schema.ROUTINES \
         WHERE ROUTINE_SCHEMA NOT IN {OWN_SCHEMAS}"
    );
    let triggers = format!(
        "SELECT EVENT_OBJECT_TABLE, ACTION_STATEMENT FROM information_schema.TRIGGERS \
         WHERE TRIGGER_SCHEMA NOT IN {OWN_SCHEMAS}"
    );
    let mut read = pieces(service.ask(&routines).await?);
    read.extend(pieces(service.ask(&triggers).await?));
    let mut code = StoredCode::read(&read);
    if code.matters() {
        // A view may be what a function is reached by.
        let views = format!(
            "SELECT TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA NOT IN {OWN_SCHEMAS}"
        );
        read.extend(pieces(service.ask(&views).await?));
        code.reach_through(&read);
    }
    Ok(code)
}

fn pieces(answer: Answer) -> Vec<Piece> {
    let piece = |row: Vec<Option<Vec<u8>>>| {
        let mut cells = row.into_iter();
        Some(Piece { reached_by: cells.next()??, body: cells.next()? })
    };
    answer.rows.into_iter().filter_map(piece).collect()
}

fn variables(answer: &Answer) -> Variables {
    let named = |row: &Vec<Option<Vec<u8>>>| {
        let name = String::from_utf8_lossy(row.first()?.as_deref()?).to_ascii_lowercase();
        Some((name, row.get(1)?.clone()))
    };
    answer.rows.iter().filter_map(named).collect()
}
