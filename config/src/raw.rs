//! The shape of the TOML file, before defaults and checks, and the list that every finding goes to.
//!
//! The document is walked by hand and not deserialised, because serde stops at its first error and an operator
//! wants all of them at once, each with its line.

mod renames;
mod rows;

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::migration::{ColumnsConfig, RowsConfig};
use crate::nearest::nearest;
use crate::renames::Rename;

/// Where a setting was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In the file, at this line.
    Line(usize),
    /// By a flag of this name.
    Flag(&'static str),
    /// By an environment variable of this name.
    Environment(&'static str),
    /// Nowhere: it is missing.
    Missing,
}

/// A setting and where it was said.
#[derive(Debug, Clone)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// Every finding so far. No text in it holds a secret (invariant 8): values of passwords and URLs are never quoted.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    file: Option<String>,
    found: Vec<(Place, String)>,
    broken: bool,
}

impl Problems {
    pub(crate) fn of_file(file: Option<String>) -> Self {
        Self { file, found: Vec::new(), broken: false }
    }

    pub(crate) fn add(&mut self, place: Place, what: impl Into<String>) {
        self.found.push((place, what.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// True where the file isn't TOML: then a missing setting may be only hidden by that.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Drops what was found at lines that can't be trusted.
    fn forget_lines(&mut self, lines: &[usize]) {
        self.found.retain(|(place, _)| !matches!(place, Place::Line(line) if lines.contains(line)));
    }

    /// One finished line for each, in the order of the file.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        self.found.sort_by_key(|(place, _)| *place);
        let file = self.file.as_deref();
        let lines = self.found.into_iter().map(|(place, what)| match (place, file) {
            (Place::Line(line), Some(file)) => format!("{file}:{line}: {what}"),
            (Place::Line(line), None) => format!("line {line}: {what}"),
            (Place::Flag(name) | Place::Environment(name), _) => format!("{name}: {what}"),
            (Place::Missing, Some(file)) => format!("{file}: {what}"),
            (Place::Missing, None) => format!("configuration: {what}"),
        });
        lines.collect()
    }
}

/// How a password is given.
#[derive(Clone)]
pub(crate) enum RawPassword {
    Text(zeroize::Zeroizing<String>),
    Environment(String),
    File(String),
}

impl fmt::Debug for RawPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawPassword(…)") // invariant 8
    }
}

type Setting<T> = Option<Said<T>>;

/// `[source]` or `[target]`.
#[derive(Debug, Default)]
pub(crate) struct RawBackend {
    /// May hold a password: never printed.
    pub(crate) url: Setting<zeroize::Zeroizing<String>>,
    pub(crate) password: Setting<RawPassword>,
    pub(crate) replica_url: Setting<zeroize::Zeroizing<String>>,
    pub(crate) replica_stop: Setting<bool>,
    pub(crate) proxy_protocol: Setting<String>,
    pub(crate) tls: RawTls,
}

/// TLS of `[source]` or `[target]`.
#[derive(Debug, Default)]
pub(crate) struct RawTls {
    pub(crate) mode: Setting<String>,
    pub(crate) ca: Setting<String>,
    pub(crate) verify: Setting<String>,
    pub(crate) cert: Setting<String>,
    pub(crate) key: Setting<String>,
}

/// Every setting, as far as it was said.
#[derive(Debug, Default)]
pub(crate) struct RawConfig {
    pub(crate) state_dir: Setting<String>,
    pub(crate) proxy_listen: Setting<String>,
    pub(crate) proxy_workers: Setting<i64>,
    pub(crate) proxy_max_connections: Setting<i64>,
    pub(crate) proxy_drain_ms: Setting<i64>,
    pub(crate) proxy_move_every: Setting<i64>,
    pub(crate) proxy_tls: Setting<String>,
    pub(crate) proxy_io: Setting<String>,
    pub(crate) proxy_scheduling: Setting<String>,
    pub(crate) proxy_cert: Setting<String>,
    pub(crate) proxy_key: Setting<String>,
    pub(crate) proxy_client_ca: Setting<String>,
    pub(crate) proxy_client_cert: Setting<String>,
    pub(crate) proxy_headers: Setting<String>,
    pub(crate) proxy_headers_from: Setting<Vec<String>>,
    pub(crate) proxy_max_connects: Setting<i64>,
    pub(crate) admin_listen: Setting<String>,
    pub(crate) admin_user: Setting<String>,
    pub(crate) admin_password: Setting<RawPassword>,
    pub(crate) console_listen: Setting<String>,
    pub(crate) source: RawBackend,
    pub(crate) target: RawBackend,
    pub(crate) name: Setting<String>,
    pub(crate) schemas: Setting<Vec<String>>,
    pub(crate) exclude_tables: Setting<Vec<String>>,
    /// Those that are whole.
    pub(crate) rows: Vec<RowsConfig>,
    pub(crate) columns: Vec<ColumnsConfig>,
    /// Those that are whole.
    pub(crate) renames: Vec<Said<Rename>>,
    pub(crate) allow_lossy: Setting<Vec<String>>,
    pub(crate) accounts: Setting<Vec<String>>,
    pub(crate) start: Setting<String>,
    pub(crate) ddl: Setting<String>,
    pub(crate) reverse: Setting<bool>,
    pub(crate) readers: Setting<i64>,
    pub(crate) chunk_rows: Setting<i64>,
    pub(crate) max_rows_per_s: Setting<i64>,
    pub(crate) late_indexes: Setting<bool>,
    pub(crate) stage_dir: Setting<String>,
    pub(crate) stage_max_gb: Setting<f64>,
    pub(crate) max_threads_running: Setting<i64>,
    /// May hold passwords: never printed.
    pub(crate) throttle_replicas: Setting<Vec<zeroize::Zeroizing<String>>>,
    pub(crate) throttle_password: Setting<RawPassword>,
    pub(crate) max_replica_lag_ms: Setting<i64>,
    pub(crate) apply_workers: Setting<i64>,
    pub(crate) spool_max_gb: Setting<f64>,
    pub(crate) max_lag_ms: Setting<i64>,
    pub(crate) pause_ms: Setting<i64>,
    pub(crate) open_transactions: Setting<String>,
    pub(crate) fence: Setting<String>,
    pub(crate) fence_accounts: Setting<Vec<String>>,
    pub(crate) past_fence: Setting<String>,
}

/// The names that may be said: every section with its keys. `""` is the top level.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", &["state_dir"]),
    (
        "proxy",
        &[
            "listen",
            "workers",
            "max_connections",
            "drain_ms",
            "move_every",
            "io",
            "scheduling",
            "tls",
            "cert",
            "key",
            "client_ca",
            "client_cert",
            "proxy_protocol",
            "proxy_protocol_from",
            "max_connects_per_s",
        ],
    ),
    ("admin", &["listen", "user", "password"]),
    ("console", &["listen"]),
    (
        "source",
        &[
            "url",
            "password",
            "replica_url",
            "replica_stop",
            "proxy_protocol",
            "tls",
            "ca",
            "verify",
            "cert",
            "key",
        ],
    ),
    ("target", &["url", "password", "proxy_protocol", "tls", "ca", "verify", "cert", "key"]),
    (
        "migration",
        &[
            "name",
            "schemas",
            "exclude_tables",
            "rows",
            "columns",
            "rename",
            "allow_lossy",
            "accounts",
            "start",
            "ddl",
            "reverse",
        ],
    ),
    ("snapshot", &["readers", "chunk_rows", "max_rows_per_s", "late_indexes", "stage_dir", "stage_max_gb"]),
    ("throttle", &["max_threads_running", "replicas", "password", "max_replica_lag_ms"]),
    ("apply", &["workers", "spool_max_gb"]),
    ("cutover", &["max_lag_ms", "pause_ms", "open_transactions", "fence", "fence_accounts", "past_fence"]),
];

/// Reads the text of a file. What can't be read is a problem and left unsaid.
pub(crate) fn read(text: &str, problems: &mut Problems) -> RawConfig {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let line_of = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
    let file = Reader { root: root.get_ref(), line_of: &line_of };
    file.check_names(problems);
    let config = file.config(problems);
    // What stands in a line with a syntax error is a guess of the parser's; speaking of it would mislead.
    let broken: Vec<usize> =
        syntax.iter().map(|error| error.span().map_or(1, |s| line_of(s.start))).collect();
    problems.forget_lines(&broken);
    problems.broken = !broken.is_empty();
    for (error, line) in syntax.iter().zip(&broken) {
        // `Display` of the error would quote the line, and a password with it.
        problems.add(Place::Line(*line), format!("this isn't TOML: {}", error.message().replace('\n', "; ")));
    }
    config
}

struct Reader<'a> {
    root: &'a DeTable<'a>,
    line_of: &'a dyn Fn(usize) -> usize,
}

impl<'a> Reader<'a> {
    fn check_names(&self, problems: &mut Problems) {
        for (name, value) in self.root {
            let place = Place::Line((self.line_of)(name.span().start));
            let name = name.get_ref().as_ref();
            let section = SECTIONS.iter().find(|(section, _)| *section == name && !name.is_empty());
            match (section, value.get_ref()) {
                (Some((_, keys)), DeValue::Table(table)) => self.check_keys(name, keys, table, problems),
                (Some(_), _) => problems.add(place, format!("{name} has to be a section: write [{name}]")),
                (None, DeValue::Table(_)) => {
                    let sections = SECTIONS.iter().map(|(s, _)| *s).filter(|s| !s.is_empty());
                    let hint = hint(name, sections.map(|s| (s, format!("[{s}]"))));
                    problems.add(place, format!("there is no section [{}]; {hint}", clip(name)));
                }
                (None, _) if name == "state_dir" => {}
                (None, _) => {
                    problems
                        .add(place, format!("there is no setting {}; {}", clip(name), elsewhere(name, "")));
                }
            }
        }
    }

    fn check_keys(&self, section: &str, keys: &[&str], table: &DeTable<'_>, problems: &mut Problems) {
        for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let place = Place::Line((self.line_of)(key.span().start));
            let name = key.get_ref().as_ref();
            let hint = elsewhere(name, section);
            problems.add(place, format!("[{section}] has no key {}; {hint}", clip(name)));
        }
    }

    fn find(&self, section: &str, key: &str) -> Option<(&'a DeValue<'a>, Place)> {
        let table = match section {
            "" => self.root,
            _ => match lookup(self.root, section)?.get_ref() {
                DeValue::Table(table) => table,
                _ => return None,
            },
        };
        let value = lookup(table, key)?;
        Some((value.get_ref(), Place::Line((self.line_of)(value.span().start))))
    }

    fn read<T>(
        &self,
        problems: &mut Problems,
        (section, key): (&str, &str),
        wanted: &str,
        convert: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Setting<T> {
        let (value, place) = self.find(section, key)?;
        let converted = convert(value);
        if converted.is_none() {
            let dot = if section.is_empty() { "" } else { "." };
            let got = value.type_str();
            problems.add(place, format!("{section}{dot}{key} has to be {wanted}, not of type {got}"));
        }
        converted.map(|value| Said { value, place })
    }

    fn text(&self, problems: &mut Problems, section: &str, key: &str) -> Setting<String> {
        self.read(problems, (section, key), "a text between quotes", |v| v.as_str().map(str::to_owned))
    }

    fn hidden_text(
        &self,
        problems: &mut Problems,
        section: &str,
        key: &str,
    ) -> Setting<zeroize::Zeroizing<String>> {
        self.read(problems, (section, key), "a text between quotes", |v| {
            v.as_str().map(|s| s.to_owned().into())
        })
    }

    fn number(&self, problems: &mut Problems, section: &str, key: &str) -> Setting<i64> {
        self.read(problems, (section, key), "a whole number", |v| {
            // A number beyond i64 is beyond every range too: saturate, and let the range say so.
            let number = v.as_integer()?;
            let negative = number.as_str().starts_with('-');
            let extreme = if negative { i64::MIN } else { i64::MAX };
            Some(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(extreme))
        })
    }

    /// A number with or without a fraction. TOML's infinities and NaN are in no range, which says so.
    fn fraction(&self, problems: &mut Problems, section: &str, key: &str) -> Setting<f64> {
        self.read(problems, (section, key), "a number, such as 50 or 0.5", |v| match v.as_float() {
            Some(number) => number.as_str().parse().ok(),
            None => {
                let number = v.as_integer()?;
                // Beyond i64 is beyond every range too.
                Some(
                    i64::from_str_radix(number.as_str(), number.radix())
                        .map_or(f64::MAX, |whole| whole as f64),
                )
            }
        })
    }

    fn texts(&self, problems: &mut Problems, section: &str, key: &str) -> Setting<Vec<String>> {
        self.read(problems, (section, key), "a list of texts, such as [\"a\", \"b\"]", |v| {
            v.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    fn hidden_texts(
        &self,
        problems: &mut Problems,
        section: &str,
        key: &str,
    ) -> Setting<Vec<zeroize::Zeroizing<String>>> {
        self.read(problems, (section, key), "a list of texts, such as [\"a\", \"b\"]", |v| {
            v.as_array()?.iter().map(|item| item.get_ref().as_str().map(|s| s.to_owned().into())).collect()
        })
    }

    /// `true` stands for `all`, `false` for nothing.
    fn patterns_or_all(
        &self,
        problems: &mut Problems,
        (section, key): (&str, &str),
        (things, all): (&str, &str),
    ) -> Setting<Vec<String>> {
        let wanted = format!("true, false or a list of {things}");
        self.read(problems, (section, key), &wanted, |value| match value.as_bool() {
            Some(true) => Some(vec![all.to_owned()]),
            Some(false) => Some(Vec::new()),
            None => value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect(),
        })
    }

    fn password(&self, problems: &mut Problems, section: &str) -> Setting<RawPassword> {
        let wanted = "a text, { env = \"NAME\" } or { file = \"PATH\" }";
        self.read(problems, (section, "password"), wanted, |value| match value {
            DeValue::String(text) => Some(RawPassword::Text(text.to_string().into())),
            DeValue::Table(table) if table.len() == 1 => {
                let text = |key| lookup(table, key).and_then(|v| v.get_ref().as_str()).map(str::to_owned);
                text("env").map(RawPassword::Environment).or_else(|| text("file").map(RawPassword::File))
            }
            _ => None,
        })
    }

    fn backend(&self, p: &mut Problems, section: &str) -> RawBackend {
        RawBackend {
            url: self.hidden_text(p, section, "url"),
            password: self.password(p, section),
            proxy_protocol: self.text(p, section, "proxy_protocol"),
            tls: RawTls {
                mode: self.text(p, section, "tls"),
                ca: self.text(p, section, "ca"),
                verify: self.text(p, section, "verify"),
                cert: self.text(p, section, "cert"),
                key: self.text(p, section, "key"),
            },
            replica_url: if section == "source" { self.hidden_text(p, section, "replica_url") } else { None },
            replica_stop: match section {
                "source" => self.read(p, (section, "replica_stop"), "true or false", |v| v.as_bool()),
                _ => None,
            },
        }
    }

    fn config(&self, p: &mut Problems) -> RawConfig {
        RawConfig {
            state_dir: self.text(p, "", "state_dir"),
            proxy_listen: self.text(p, "proxy", "listen"),
            proxy_workers: self.number(p, "proxy", "workers"),
            proxy_max_connections: self.number(p, "proxy", "max_connections"),
            proxy_drain_ms: self.number(p, "proxy", "drain_ms"),
            proxy_move_every: self.number(p, "proxy", "move_every"),
            proxy_tls: self.text(p, "proxy", "tls"),
            proxy_io: self.text(p, "proxy", "io"),
            proxy_scheduling: self.text(p, "proxy", "scheduling"),
            proxy_cert: self.text(p, "proxy", "cert"),
            proxy_key: self.text(p, "proxy", "key"),
            proxy_client_ca: self.text(p, "proxy", "client_ca"),
            proxy_client_cert: self.text(p, "proxy", "client_cert"),
            proxy_headers: self.text(p, "proxy", "proxy_protocol"),
            proxy_headers_from: self.texts(p, "proxy", "proxy_protocol_from"),
            proxy_max_connects: self.number(p, "proxy", "max_connects_per_s"),
            admin_listen: self.text(p, "admin", "listen"),
            admin_user: self.text(p, "admin", "user"),
            admin_password: self.password(p, "admin"),
            console_listen: self.text(p, "console", "listen"),
            source: self.backend(p, "source"),
            target: self.backend(p, "target"),
            name: self.text(p, "migration", "name"),
            schemas: self.texts(p, "migration", "schemas"),
            exclude_tables: self.texts(p, "migration", "exclude_tables"),
            rows: self.rows(p),
            columns: self.columns(p),
            renames: self.renames(p),
            allow_lossy: self.patterns_or_all(
                p,
                ("migration", "allow_lossy"),
                ("tables, such as [\"shop.orders\"]", "%.%"),
            ),
            accounts: self.patterns_or_all(
                p,
                ("migration", "accounts"),
                ("accounts, such as [\"app@%\"]", "%@%"),
            ),
            start: self.text(p, "migration", "start"),
            ddl: self.text(p, "migration", "ddl"),
            reverse: self.read(p, ("migration", "reverse"), "true or false", |v| v.as_bool()),
            readers: self.number(p, "snapshot", "readers"),
            chunk_rows: self.number(p, "snapshot", "chunk_rows"),
            max_rows_per_s: self.number(p, "snapshot", "max_rows_per_s"),
            late_indexes: self.read(p, ("snapshot", "late_indexes"), "true or false", |v| v.as_bool()),
            stage_dir: self.text(p, "snapshot", "stage_dir"),
            stage_max_gb: self.fraction(p, "snapshot", "stage_max_gb"),
            max_threads_running: self.number(p, "throttle", "max_threads_running"),
            throttle_replicas: self.hidden_texts(p, "throttle", "replicas"),
            throttle_password: self.password(p, "throttle"),
            max_replica_lag_ms: self.number(p, "throttle", "max_replica_lag_ms"),
            apply_workers: self.number(p, "apply", "workers"),
            spool_max_gb: self.fraction(p, "apply", "spool_max_gb"),
            max_lag_ms: self.number(p, "cutover", "max_lag_ms"),
            pause_ms: self.number(p, "cutover", "pause_ms"),
            open_transactions: self.text(p, "cutover", "open_transactions"),
            fence: self.text(p, "cutover", "fence"),
            fence_accounts: self.texts(p, "cutover", "fence_accounts"),
            past_fence: self.text(p, "cutover", "past_fence"),
        }
    }
}

fn lookup<'a>(table: &'a DeTable<'a>, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
}

/// What an unknown key of `section` was meant to be: a key of that section, or the same key of another one.
fn elsewhere(name: &str, section: &str) -> String {
    let keys = SECTIONS.iter().find(|(s, _)| *s == section).map_or(&[][..], |(_, keys)| *keys);
    if nearest(name, keys.iter().copied()).is_none() {
        let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&name));
        match home {
            Some(("", _)) => {
                return format!("{name} stands at the top of the file, before the first section");
            }
            Some((home, _)) => return format!("{name} belongs into [{home}]"),
            None => {}
        }
    }
    hint(name, keys.iter().map(|key| (*key, (*key).to_owned())))
}

/// `did you mean X?`, or every possible name where none is near.
fn hint<'a>(name: &str, possible: impl Iterator<Item = (&'a str, String)>) -> String {
    let possible: Vec<(&str, String)> = possible.collect();
    let near = nearest(name, possible.iter().map(|(key, _)| *key));
    match possible.iter().find(|(key, _)| Some(*key) == near) {
        Some((_, shown)) => format!("did you mean {shown}?"),
        None => {
            let all: Vec<&str> = possible.iter().map(|(_, shown)| shown.as_str()).collect();
            format!("possible is: {}", all.join(", "))
        }
    }
}

fn clip(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
