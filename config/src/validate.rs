//! From the raw shape to a [`crate::Config`], with every error at once.

mod certificates;
mod renames;

use std::net::IpAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::entrance::{HEADERS, SENT_HEADERS, networks};
use crate::load::read_file;
use crate::nearest::nearest;
use crate::raw::{Place, Problems, RawBackend, RawConfig, RawPassword, Said};
use crate::url::{BackendUrl, host_and_port};
use crate::{
    AdminConfig, ApplyConfig, BackendConfig, Config, ConsoleConfig, CutoverConfig, DdlPolicy, EntranceConfig,
    FencePolicy, Io, MigrationConfig, OpenTransactions, PastFence, ProxyConfig, ProxyHeaders, Scheduling,
    Secret, SentHeader, Side, SnapshotConfig, StageConfig, StartPolicy, ThrottleConfig, TlsMode,
};

/// Schemas that belong to the servers or to us.
const OWN_SCHEMAS: &[&str] = &["mysql", "information_schema", "performance_schema", "sys", "changeover"];

/// Longest name of a schema or table, in characters.
const NAME_MAX: usize = 64;

/// Most replicas that are asked for their lag.
const REPLICAS_MAX: usize = 64;

const HOUR_MS: i64 = 3_600_000;

/// `None` where a part without a default is missing or wrong; then `problems` says which. `broken` says that the
/// file isn't TOML: what is missing may only be hidden.
pub(crate) fn validate(
    raw: RawConfig,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
    broken: bool,
) -> Option<Config> {
    let mut check = Check { environment, problems, broken };
    let places = (place_of(&raw.source.url), place_of(&raw.target.url));
    let replica_url = raw.source.replica_url.clone();
    let replica_stop = check.replica_stop(raw.source.replica_stop.clone(), replica_url.is_some());
    let source = check.backend(Side::Source, raw.source);
    let replica = check.replica(replica_url, source.as_ref());
    let target = check.backend(Side::Target, raw.target);
    let move_every = check.number("proxy.move_every", raw.proxy_move_every, 0, 0, 1_000_000);
    if let (Some(said), true) = (raw.renames.first(), move_every > 0) {
        let what = "[[migration.rename]] can't be with proxy.move_every, for which both servers are one; take one of them out";
        check.problems.add(said.place, what);
    }
    if let (Some(source), Some(target)) = (&source, &target)
        && move_every == 0
        && same_server(source, target)
    {
        let what = format!("the target is the source: both are {}; name two servers", source.address());
        check.problems.add(places.1.max(places.0), what);
    }
    let named = raw.console_listen.is_some();
    let [proxy_listen, admin_listen, console_listen] =
        check.listeners([raw.proxy_listen, raw.admin_listen, raw.console_listen]);
    let (cert, key) = check.certificate(raw.proxy_cert, raw.proxy_key);
    let tls = check.choice("proxy.tls", raw.proxy_tls, TLS, TlsMode::Preferred);
    let proxy = ProxyConfig {
        listen: proxy_listen,
        workers: check.number("proxy.workers", raw.proxy_workers, 0, 0, 1024),
        max_connections: check.number(
            "proxy.max_connections",
            raw.proxy_max_connections,
            10_000,
            1,
            1_000_000,
        ),
        drain_ms: check.number("proxy.drain_ms", raw.proxy_drain_ms, 5000, 0, HOUR_MS),
        move_every,
        io: check.choice("proxy.io", raw.proxy_io, IO, Io::Auto),
        scheduling: check.choice("proxy.scheduling", raw.proxy_scheduling, SCHEDULING, Scheduling::Batch),
        tls,
        cert,
        key,
        client_certificates: check.client_certificates(tls, raw.proxy_client_ca, raw.proxy_client_cert),
        entrance: check.entrance(raw.proxy_headers, raw.proxy_headers_from, raw.proxy_max_connects),
    };
    let admin = check.admin(admin_listen, raw.admin_user, raw.admin_password);
    let schemas = check.schemas(raw.schemas);
    let migration = MigrationConfig {
        name: check.migration_name(raw.name),
        rename: check.renames(raw.renames, &schemas),
        schemas,
        exclude_tables: check.table_patterns("exclude_tables", raw.exclude_tables),
        rows: raw.rows,
        columns: raw.columns,
        allow_lossy: check.table_patterns("allow_lossy", raw.allow_lossy),
        accounts: check.account_patterns("migration.accounts", raw.accounts),
        start: check.choice("migration.start", raw.start, START, StartPolicy::Manual),
        ddl: check.choice("migration.ddl", raw.ddl, DDL, DdlPolicy::Apply),
        reverse: raw.reverse.is_none_or(|said| said.value),
    };
    let snapshot = SnapshotConfig {
        readers: check.number("snapshot.readers", raw.readers, 4, 1, 256),
        chunk_rows: check.number("snapshot.chunk_rows", raw.chunk_rows, 0, 0, 100_000_000),
        max_rows_per_s: check.number("snapshot.max_rows_per_s", raw.max_rows_per_s, 0, 0, i64::MAX),
        late_indexes: raw.late_indexes.is_none_or(|said| said.value),
        stage: check.stage(raw.stage_dir, raw.stage_max_gb),
    };
    let throttle = check.throttle(
        raw.max_threads_running,
        raw.max_replica_lag_ms,
        raw.throttle_replicas,
        raw.throttle_password,
        source.as_ref(),
    );
    let apply = ApplyConfig {
        workers: check.number("apply.workers", raw.apply_workers, 4, 1, 256),
        spool_max_bytes: check.gigabytes("apply.spool_max_gb", raw.spool_max_gb),
    };
    let shared_at = (!migration.rows.is_empty()).then_some(place_of(&raw.fence));
    let fence = check.choice("cutover.fence", raw.fence, FENCE, FencePolicy::ReadOnly);
    let cutover = CutoverConfig {
        max_lag_ms: check.number("cutover.max_lag_ms", raw.max_lag_ms, 1000, 0, HOUR_MS),
        pause_ms: check.number("cutover.pause_ms", raw.pause_ms, 3000, 10, HOUR_MS),
        open_transactions: check.choice(
            "cutover.open_transactions",
            raw.open_transactions,
            OPEN,
            OpenTransactions::Abort,
        ),
        fence,
        fence_accounts: check.fence_accounts(raw.fence_accounts, fence, shared_at),
        past_fence: check.choice("cutover.past_fence", raw.past_fence, PAST_FENCE, PastFence::Watch),
    };
    let state_dir =
        check.path("state_dir", raw.state_dir).unwrap_or_else(|| PathBuf::from("changeover-state"));
    let console = ConsoleConfig { listen: console_listen, named };
    let (source, target) = (source?, target?);
    Some(Config {
        state_dir,
        proxy,
        admin,
        console,
        source,
        replica,
        replica_stop,
        target,
        migration,
        snapshot,
        throttle,
        apply,
        cutover,
    })
}

const IO: &[(&str, Io)] = &[("auto", Io::Auto), ("epoll", Io::Epoll), ("io_uring", Io::IoUring)];
const SCHEDULING: &[(&str, Scheduling)] = &[("batch", Scheduling::Batch), ("normal", Scheduling::Normal)];
const TLS: &[(&str, TlsMode)] =
    &[("off", TlsMode::Off), ("preferred", TlsMode::Preferred), ("required", TlsMode::Required)];
const START: &[(&str, StartPolicy)] = &[("manual", StartPolicy::Manual), ("auto", StartPolicy::Auto)];
const DDL: &[(&str, DdlPolicy)] = &[("apply", DdlPolicy::Apply), ("pause", DdlPolicy::Pause)];
const OPEN: &[(&str, OpenTransactions)] =
    &[("abort", OpenTransactions::Abort), ("kill", OpenTransactions::Kill)];
const PAST_FENCE: &[(&str, PastFence)] =
    &[("watch", PastFence::Watch), ("refuse", PastFence::Refuse), ("kill", PastFence::Kill)];
const FENCE: &[(&str, FencePolicy)] =
    &[("read_only", FencePolicy::ReadOnly), ("accounts", FencePolicy::Accounts), ("none", FencePolicy::None)];

fn place_of<T>(setting: &Option<Said<T>>) -> Place {
    setting.as_ref().map_or(Place::Missing, |said| said.place)
}

/// By address only: that two addresses lead to one server is found by the preflight.
fn same_server(a: &BackendConfig, b: &BackendConfig) -> bool {
    let canonical = |host: &str| {
        let host = host.trim_end_matches('.').to_lowercase();
        match host.parse::<IpAddr>() {
            Ok(address) if address.to_canonical().is_loopback() => "localhost".to_owned(),
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => host,
        }
    };
    a.port == b.port && canonical(&a.host) == canonical(&b.host)
}

/// A server beside the source, by its URL. Where that has no password, `password` counts, or the source's; TLS is as to the source.
fn beside(parsed: BackendUrl, password: Option<&Secret>, source: &BackendConfig) -> BackendConfig {
    BackendConfig {
        host: parsed.host,
        port: parsed.port,
        user: parsed.user,
        password: parsed.password.or_else(|| password.cloned()).unwrap_or_else(|| source.password.clone()),
        proxy_protocol: SentHeader::Off,
        tls: source.tls.clone(),
    }
}

struct Check<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a mut Problems,
    broken: bool,
}

impl Check<'_> {
    /// A number within its range, which has to fit into `T`.
    fn number<T: TryFrom<i64> + Default>(
        &mut self,
        name: &str,
        said: Option<Said<i64>>,
        default: i64,
        least: i64,
        most: i64,
    ) -> T {
        let value = match said {
            Some(said) if !(least..=most).contains(&said.value) => {
                let range =
                    if most == i64::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
                self.problems.add(said.place, format!("{name} is out of range: it has to be {range}"));
                default
            }
            Some(said) => said.value,
            None => default,
        };
        T::try_from(value).unwrap_or_default()
    }

    /// Room on our own disk, in bytes; 50 GB where nothing is said.
    fn gigabytes(&mut self, name: &str, said: Option<Said<f64>>) -> u64 {
        const GB: u64 = 1_000_000_000;
        let Some(said) = said else { return 50 * GB };
        if !(0.1..=1_000_000.0).contains(&said.value) {
            self.problems.add(said.place, format!("{name} is out of range: it has to be 0.1 to 1000000"));
            return 50 * GB;
        }
        // The range keeps it far from where a f64 has gaps.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (said.value * GB as f64).round() as u64;
        bytes
    }

    fn choice<T: Copy>(
        &mut self,
        name: &str,
        said: Option<Said<String>>,
        choices: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(said) = said else { return default };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == said.value) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let near = nearest(&said.value, words.iter().copied());
        let hint = near.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
        self.problems.add(said.place, format!("{name} has to be one of: {}{hint}", words.join(", ")));
        default
    }

    /// `shared_at`: where the fence was chosen, if only some rows of tables are moved (`migration.rows`).
    fn fence_accounts(
        &mut self,
        said: Option<Said<Vec<String>>>,
        fence: FencePolicy,
        shared_at: Option<Place>,
    ) -> Vec<String> {
        let place = place_of(&said);
        if said.as_ref().is_some_and(|said| said.value.is_empty()) {
            let what = "cutover.fence_accounts is empty; name at least one account, or leave it out for those that may \
                        write in the migration's schemas and nowhere else";
            self.problems.add(place, what);
        } else if said.is_some() && fence != FencePolicy::Accounts {
            let what = "cutover.fence_accounts is for cutover.fence = \"accounts\"; set that as well, or leave it out";
            self.problems.add(place, what);
        } else if let (None, FencePolicy::Accounts, Some(place)) = (&said, fence, shared_at) {
            let what = "cutover.fence = \"accounts\" with migration.rows needs cutover.fence_accounts: the others that share the \
                        tables may write in these schemas too, and would be locked with the rest";
            self.problems.add(place, what);
        }
        self.account_patterns("cutover.fence_accounts", said)
    }

    fn path(&mut self, name: &str, said: Option<Said<String>>) -> Option<PathBuf> {
        let said = said?;
        if said.value.is_empty() || said.value.contains('\0') {
            self.problems.add(said.place, format!("{name} isn't a path"));
            return None;
        }
        Some(PathBuf::from(said.value))
    }

    /// `snapshot.stage_dir` and the bound of what is in it.
    fn stage(&mut self, dir: Option<Said<String>>, max_gb: Option<Said<f64>>) -> Option<StageConfig> {
        if let (None, Some(said)) = (&dir, &max_gb) {
            let what =
                "snapshot.stage_max_gb bounds what is in snapshot.stage_dir; name that too, or leave it out";
            self.problems.add(said.place, what);
        }
        let bytes_max = self.gigabytes("snapshot.stage_max_gb", max_gb);
        let dir = self.path("snapshot.stage_dir", dir)?;
        Some(StageConfig { dir, bytes_max })
    }

    fn listen(&mut self, name: &str, said: Option<Said<String>>, default: &str) -> String {
        let Some(said) = said else { return default.to_owned() };
        if let Err(what) = host_and_port(&said.value, None) {
            self.problems.add(
                said.place,
                format!("{name} isn't an address to listen on: {what}; write host:port, such as {default}"),
            );
            return default.to_owned();
        }
        said.value
    }

    /// Those of the proxy, the admin SQL and the console, with their defaults; two can't be the same.
    fn listeners(&mut self, said: [Option<Said<String>>; 3]) -> [String; 3] {
        let names = ["proxy.listen", "admin.listen", "console.listen"];
        let places = [place_of(&said[0]), place_of(&said[1]), place_of(&said[2])];
        let [proxy, admin, console] = said;
        let listens = [
            self.listen(names[0], proxy, "127.0.0.1:3307"),
            self.listen(names[1], admin, "127.0.0.1:6032"),
            self.listen(names[2], console, "127.0.0.1:8032"),
        ];
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            if listens[a] == listens[b] && !listens[a].ends_with(":0") {
                // One of the two may be a default: the place is where the other was said.
                let place = if places[b] == Place::Missing { places[a] } else { places[b] };
                let what = format!(
                    "{} and {} are both {}; each needs an address of its own",
                    names[a], names[b], listens[a]
                );
                self.problems.add(place, what);
            }
        }
        listens
    }

    fn entrance(
        &mut self,
        headers: Option<Said<String>>,
        from: Option<Said<Vec<String>>>,
        max_connects: Option<Said<i64>>,
    ) -> EntranceConfig {
        let place = place_of(&headers);
        let headers = self.choice("proxy.proxy_protocol", headers, HEADERS, ProxyHeaders::Off);
        if headers != ProxyHeaders::Off && from.as_ref().is_none_or(|said| said.value.is_empty()) {
            let what = "proxy.proxy_protocol is on and proxy.proxy_protocol_from names nobody; name the load balancers \
                        that may send the header, such as [\"10.0.0.5\"]: whoever may can claim any address";
            self.problems.add(place, what);
        }
        EntranceConfig {
            headers,
            headers_from: networks(from, self.problems),
            max_connects_per_s: self.number("proxy.max_connects_per_s", max_connects, 0, 0, 1_000_000),
        }
    }

    fn admin(
        &mut self,
        listen: String,
        user: Option<Said<String>>,
        password: Option<Said<RawPassword>>,
    ) -> AdminConfig {
        let place = place_of(&password);
        let user = match user {
            Some(said)
                if said.value.is_empty() || said.value.chars().count() > 32 || said.value.contains('\0') =>
            {
                self.problems.add(said.place, "admin.user has to be a name of 1 to 32 characters");
                said.value
            }
            Some(said) => said.value,
            None => "admin".to_owned(),
        };
        let given = password.map(|said| self.password("admin.password", said));
        let failed = matches!(given, Some(None));
        let password = given.flatten().unwrap_or_default();
        if password.is_empty() && !failed && !is_loopback(&listen) {
            let what = format!(
                "admin.listen is {listen}, which others can reach, and admin.password is empty; set it under [admin] \
                 (a text, {{ env = \"NAME\" }} or {{ file = \"PATH\" }}) or listen on 127.0.0.1"
            );
            self.problems.add(place, what);
        }
        AdminConfig { listen, user, password }
    }

    /// `None`: there is a problem, and it was said.
    fn password(&mut self, name: &str, said: Said<RawPassword>) -> Option<Secret> {
        match said.value {
            RawPassword::Text(text) => Some(Secret::new(text.as_bytes())),
            RawPassword::Environment(variable) => {
                let value = (self.environment)(&variable);
                if value.is_none() {
                    let what = format!("{name}: the environment variable {variable:?} isn't set");
                    self.problems.add(said.place, what);
                }
                value.map(|value| Secret::new(zeroize::Zeroizing::new(value).as_bytes()))
            }
            RawPassword::File(path) => match read_file(path.as_ref()) {
                Ok(text) => {
                    let line = text.strip_suffix('\n').unwrap_or(&text);
                    Some(Secret::new(line.strip_suffix('\r').unwrap_or(line).as_bytes()))
                }
                Err(why) => {
                    self.problems.add(said.place, format!("{name}: the file {path:?} can't be read: {why}"));
                    None
                }
            },
        }
    }

    fn backend(&mut self, side: Side, raw: RawBackend) -> Option<BackendConfig> {
        // Read even where the URL is wrong, so that both are said at once.
        let password_place = place_of(&raw.password);
        let had_key = raw.password.is_some();
        let header = format!("{side}.proxy_protocol");
        let proxy_protocol = self.choice(&header, raw.proxy_protocol, SENT_HEADERS, SentHeader::Off);
        let tls = self.backend_tls(side, raw.tls);
        let key = raw.password.and_then(|said| self.password(&format!("{side}.password"), said));
        let Some(url) = raw.url else {
            if !self.broken {
                let what = format!(
                    "there is no {side}: write [{side}] with url = \"mysql://user@host:3306\" and password = \"…\" into the \
                     configuration file, or say --{side} mysql://user:password@host:3306, or set CHANGEOVER_{}",
                    side.as_str().to_uppercase()
                );
                self.problems.add(Place::Missing, what);
            }
            return None;
        };
        let parsed = match BackendUrl::parse(&url.value) {
            Ok(parsed) => parsed,
            Err(what) => {
                let name =
                    if matches!(url.place, Place::Line(_)) { format!("{side}.url: ") } else { String::new() };
                self.problems.add(url.place, format!("{name}{what}"));
                return None;
            }
        };
        let both_in_file = matches!(url.place, Place::Line(_)) && had_key;
        if parsed.password.is_some() && both_in_file {
            let what = format!("{side}.url has a password and {side}.password is set too; keep one of them");
            self.problems.add(password_place, what);
        }
        // A URL of a flag or of the environment wins over the file with all it says.
        let password = parsed.password.or(key).unwrap_or_default();
        Some(BackendConfig {
            host: parsed.host,
            port: parsed.port,
            user: parsed.user,
            password,
            proxy_protocol,
            tls,
        })
    }

    fn throttle(
        &mut self,
        max_threads_running: Option<Said<i64>>,
        max_replica_lag_ms: Option<Said<i64>>,
        replicas: Option<Said<Vec<Zeroizing<String>>>>,
        password: Option<Said<RawPassword>>,
        source: Option<&BackendConfig>,
    ) -> ThrottleConfig {
        let threads = "throttle.max_threads_running";
        ThrottleConfig {
            max_threads_running: self.number(threads, max_threads_running, 0, 0, 100_000),
            replicas: self.throttle_replicas(replicas, password, source),
            max_replica_lag_ms: self.number(
                "throttle.max_replica_lag_ms",
                max_replica_lag_ms,
                1000,
                0,
                HOUR_MS,
            ),
        }
    }

    fn throttle_replicas(
        &mut self,
        urls: Option<Said<Vec<Zeroizing<String>>>>,
        password: Option<Said<RawPassword>>,
        source: Option<&BackendConfig>,
    ) -> Vec<BackendConfig> {
        let password = password.and_then(|said| self.password("throttle.password", said));
        let Some(said) = urls else { return Vec::new() };
        if said.value.len() > REPLICAS_MAX {
            let what = format!("throttle.replicas: at most {REPLICAS_MAX} replicas are asked");
            self.problems.add(said.place, what);
            return Vec::new();
        }
        let mut replicas = Vec::new();
        for url in &said.value {
            match BackendUrl::parse(url) {
                Ok(parsed) => {
                    replicas.extend(source.map(|source| beside(parsed, password.as_ref(), source)));
                }
                Err(what) => self.problems.add(said.place, format!("throttle.replicas: {what}")),
            }
        }
        replicas
    }

    /// `source.replica_stop`, which is of no use without a replica.
    fn replica_stop(&mut self, said: Option<Said<bool>>, has_replica: bool) -> bool {
        match said {
            Some(said) if said.value && !has_replica => {
                let what = "source.replica_stop is about the server of source.replica_url; name that too, or leave it out";
                self.problems.add(said.place, what);
                false
            }
            said => said.is_some_and(|said| said.value),
        }
    }

    /// `source.replica_url`: user and password as in the URL, else the source's password.
    fn replica(
        &mut self,
        url: Option<Said<Zeroizing<String>>>,
        source: Option<&BackendConfig>,
    ) -> Option<BackendConfig> {
        let url = url.filter(|said| !said.value.is_empty())?;
        let replica = match BackendUrl::parse(&url.value) {
            Ok(parsed) => beside(parsed, None, source?),
            Err(what) => {
                self.problems.add(url.place, format!("source.replica_url: {what}"));
                return None;
            }
        };
        if same_server(&replica, source?) {
            self.problems.add(url.place, "source.replica_url is the source itself; leave it out");
            return None;
        }
        Some(replica)
    }

    fn migration_name(&mut self, said: Option<Said<String>>) -> String {
        let Some(said) = said else { return "migration".to_owned() };
        let plain = said.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if said.value.is_empty() || said.value.len() > NAME_MAX || !plain {
            let what = "migration.name has to be 1 to 64 letters, digits, dots, dashes and underscores";
            self.problems.add(said.place, what);
        }
        said.value
    }

    fn schemas(&mut self, said: Option<Said<Vec<String>>>) -> Vec<String> {
        let Some(said) = said else { return Vec::new() };
        let mut add = |what: String| self.problems.add(said.place, what);
        if said.value.is_empty() {
            add("migration.schemas is empty; name at least one schema, or leave it out to move every schema"
                .to_owned());
        }
        for (i, name) in said.value.iter().enumerate() {
            if name.is_empty() || name.chars().count() > NAME_MAX || name.contains('\0') {
                add("migration.schemas: a schema's name has 1 to 64 characters".to_owned());
            } else if OWN_SCHEMAS.contains(&name.to_lowercase().as_str()) {
                add(format!(
                    "migration.schemas: {name} is a schema of the server's (or of Changeover's) own and can't be moved"
                ));
            } else if said.value.iter().take(i).any(|other| other == name) {
                add(format!("migration.schemas: {name:?} is there twice"));
            }
        }
        said.value
    }

    fn account_patterns(&mut self, name: &str, said: Option<Said<Vec<String>>>) -> Vec<String> {
        let Some(said) = said else { return Vec::new() };
        for pattern in &said.value {
            if !pattern.contains('@') || pattern.contains('\0') {
                let what = format!(
                    "{name}: {pattern:?} isn't a pattern of the form user@host (with % and _ as in LIKE)"
                );
                self.problems.add(said.place, what);
            }
        }
        said.value
    }

    fn table_patterns(&mut self, key: &str, said: Option<Said<Vec<String>>>) -> Vec<String> {
        let Some(said) = said else { return Vec::new() };
        for pattern in &said.value {
            let parts =
                pattern.split_once('.').filter(|(schema, table)| !schema.is_empty() && !table.is_empty());
            if parts.is_none() || pattern.contains('\0') {
                let what = format!(
                    "migration.{key}: {pattern:?} isn't a pattern of the form schema.table (with % and _ as in LIKE)"
                );
                self.problems.add(said.place, what);
            }
        }
        said.value
    }
}

fn is_loopback(listen: &str) -> bool {
    match host_and_port(listen, None) {
        Ok((host, _)) if host.eq_ignore_ascii_case("localhost") => true,
        Ok((host, _)) => host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback()),
        Err(_) => true, // It is no address at all, which was said already.
    }
}
