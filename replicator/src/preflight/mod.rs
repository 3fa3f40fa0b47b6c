//! Can this migration work? Every finding at once, and nothing touched.
//!
//! Both servers are only asked: what they are, how they are set, what the service accounts may do, what there is
//! to move and what is already there. The one thing that is written is a named lock in the source's memory, for
//! as long as it takes the target to look whether it sees it: two addresses of one server can't hide that.

pub(crate) mod activation;
mod columns;
mod filters;
mod grants;
mod pair;
mod renames;
mod replica;
mod settings;
mod stage;
mod tables;
pub(crate) mod way_back;

use config::progress::{Conversion, Finding, Severity};
use config::{BackendConfig, Config, FencePolicy, ServerVersion, Side, SideNames};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

pub(crate) use self::tables::some_of;

use self::grants::Grants;
use self::settings::Settings;
use crate::accounts::{Accounts, Asked};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::convert::Dialects;
use crate::schema::discover::{Discovery, discover};
use crate::schema::renamed::Renaming;
use crate::schema::selection::Selection;
use crate::server::replication::show_replication;
use crate::server::{ServerInfo, connect, end_position, inspect, start_position, xa};

/// Looks at both servers. An unreachable server is a finding, not an error. `resuming` allows a target that
/// holds what this very migration has put there.
pub async fn check(config: &Config, resuming: bool) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    let (source, target) = tokio::join!(
        Backend::open(Side::Source, &config.source),
        Backend::open(Side::Target, &config.target)
    );
    let mut source = findings.backend(Side::Source, &config.source, source);
    let mut target = findings.backend(Side::Target, &config.target, target);
    let dialects = source
        .as_ref()
        .zip(target.as_ref())
        .map(|(source, target)| Dialects { source: source.info.dialect(), target: target.info.dialect() });
    let mut one_server = false;
    if let (Some(source), Some(target)) = (&mut source, &mut target) {
        one_server = check_pair(&mut findings, source, target).await;
    }
    let mut discovery = None;
    if let Some(source) = &mut source {
        check_source(&mut findings, config, source).await;
        findings.0.extend(judge_fence(config, source.info.version, Side::Source));
        let mut schemas = config.migration.schemas.clone();
        match discover(Side::Source, &mut source.conn, &config.migration, &SideNames::default()).await {
            Ok(found) => {
                let one_family = dialects.is_none_or(|both| both.source.family == both.target.family);
                findings.all(tables::judge(&found, source.info.cascades_in_binlog, one_family));
                let (whole_rows, cascades) =
                    (source.settings.logs_whole_rows(), source.info.cascades_in_binlog);
                findings.all(filters::judge(config, &found, whole_rows, cascades));
                findings.all(columns::judge(&config.migration, &found));
                match columns::judge_objects(&mut source.conn, &found).await {
                    Ok(objects) => findings.all(objects),
                    Err(error) => findings.error("views and routines", &error),
                }
                let folds_names = source.info.folds_names;
                let either = folds_names || target.as_ref().is_some_and(|target| target.info.folds_names);
                let ocean_base = target.as_ref().is_some_and(|target| target.info.version.ocean_base);
                findings.all(renames::judge(config, &found, (either, ocean_base)));
                match renames::judge_objects(config, &mut source.conn, &found, folds_names).await {
                    Ok(left_out) => findings.all(left_out),
                    Err(error) => findings.error("views and routines", &error),
                }
                if !source.settings.logs_whole_rows() {
                    findings.all(tables::judge_at_one_position(&found, source.info.cascades_in_binlog));
                }
                schemas = names_of(&found);
                findings.all(replica::judge(config, source, &found).await);
                discovery = Some(found);
            }
            Err(error) => findings.error("the source's schema", &error),
        }
        findings.all(source.grants.judge_source(config, &source.info, &schemas));
        findings.xa(Side::Source, source).await;
        findings.0.extend(settings::judge_durability(Side::Source, &source.settings));
    }
    // Of one server under two names there is only that to say.
    if let Some(target) = target.as_mut().filter(|_| !one_server) {
        findings.all(settings::judge_target(&target.settings, target.info.version.ocean_base));
        findings.0.extend(settings::judge_durability(Side::Target, &target.settings));
        findings.0.extend(judge_fence(config, target.info.version, Side::Target));
        if config.migration.reverse && !target.info.version.ocean_base {
            findings.xa(Side::Target, target).await;
        }
        if let (Some(found), Some(dialects)) = (&discovery, dialects) {
            findings.all(target.grants.judge_target(config, target.info.version.flavor, found));
            if let Some(source) = &source {
                findings.0.extend(settings::judge_names(&source.settings, &target.settings, found));
                findings.0.extend(settings::judge_counters(&target.settings, found));
                if target.info.version.ocean_base && !source.settings.logs_whole_rows() {
                    let message = "It isn't FULL, and from such a source nothing is moved to OceanBase yet; SET GLOBAL \
                                   binlog_row_image = 'FULL'.";
                    findings.add(Severity::Fatal, "source, binlog_row_image".to_owned(), message.to_owned());
                }
            }
            findings.all(pair::judge_definitions(config, found, dialects));
            findings.target_limits(target, found);
            if let Some(source) = source.as_mut().filter(|_| dialects.source.family == dialects.target.family)
            {
                findings.activation(config, source, target, found).await;
            }
            if let Some(source) = &mut source {
                findings.accounts(config, source, target, &names_of(found)).await;
            }
            match tables::check_target(&mut target.conn, config, found, dialects, resuming).await {
                Ok(there) => findings.all(there),
                Err(error) => findings.error("the target's schema", &error),
            }
        }
    }
    findings.all(crate::throttle::judge(config).await);
    findings.0.extend(config.snapshot.stage.as_ref().and_then(stage::judge));
    for backend in [source, target].into_iter().flatten() {
        // A goodbye that fails changes nothing about what was found.
        drop(backend.conn.disconnect().await);
    }
    Ok(findings.finish(discovery.as_ref()))
}

/// What is defined otherwise on the target, without the rest of the check.
pub async fn conversions(config: &Config) -> Result<Vec<Conversion>> {
    let (source, target) =
        tokio::join!(connect(Side::Source, &config.source), connect(Side::Target, &config.target));
    let (mut source, mut target) = (source?, target?);
    let from = inspect(Side::Source, &mut source).await?;
    let to = inspect(Side::Target, &mut target).await?;
    let dialects = Dialects { source: from.dialect(), target: to.dialect() };
    let found = discover(Side::Source, &mut source, &config.migration, &SideNames::default()).await?;
    let accounts = Accounts::plan(
        config,
        &mut Asked { info: &from, conn: &mut source },
        &mut Asked { info: &to, conn: &mut target },
        &names_of(&found),
    )
    .await?;
    for conn in [source, target] {
        drop(conn.disconnect().await);
    }
    let mut rows = crate::schema::convert::conversions(&found, dialects, &config.migration.rename)?;
    rows.extend(accounts.rows());
    Ok(rows)
}

/// The schemas that are moved.
pub(crate) fn names_of(found: &Discovery) -> Vec<String> {
    found.schemas.iter().map(|schema| schema.name.clone()).collect()
}

/// A server that answered, and what it said of itself.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) conn: Conn,
    pub(crate) info: ServerInfo,
    settings: Settings,
    grants: Grants,
    /// The account that the server took it for, `user@host`.
    account: String,
}

impl Backend {
    pub(crate) async fn open(side: Side, config: &BackendConfig) -> Result<Self> {
        let mut conn = connect(side, config).await?;
        let info = inspect(side, &mut conn).await?;
        let settings = Settings::read(side, &mut conn).await?;
        let grants = Grants::read(side, &mut conn).await?;
        let account: Option<Option<String>> = conn
            .query_first("SELECT CURRENT_USER()")
            .await
            .map_err(|error| Error::database(side, "asking for the account", &error))?;
        Ok(Self { conn, info, settings, grants, account: account.flatten().unwrap_or_default() })
    }
}

/// Whether accounts can be locked where `cutover.fence` asks for it; on the target that only matters to a rollback.
fn judge_fence(config: &Config, version: ServerVersion, side: Side) -> Option<Finding> {
    if version.locks_accounts() || config.cutover.fence != FencePolicy::Accounts {
        return None;
    }
    let (severity, so) = match side {
        Side::Source => (Severity::Fatal, "no cutover is possible"),
        Side::Target => (Severity::Warning, "a rollback won't be possible"),
    };
    let message = format!(
        "It is \"accounts\", and {version} is no server whose accounts Changeover can lock (MySQL from 5.7 on, MariaDB from \
         10.4), so {so}; use \"read_only\" or \"none\"."
    );
    Some(Finding { severity, subject: format!("{side}, cutover.fence"), message })
}

/// What both have to be together. True where they are one.
async fn check_pair(findings: &mut Findings, source: &mut Backend, target: &mut Backend) -> bool {
    let (from, to) = (source.info.version, target.info.version);
    findings.all(pair::judge(from, to));
    match is_one_server(source, target).await {
        Ok(true) => {
            let message = "It is the same server as the source; source.url and target.url must name two servers.";
            findings.add(Severity::Fatal, "target", message.to_owned());
            return true;
        }
        Ok(false) if source.info.identity == target.info.identity => findings.add(
            Severity::Warning,
            "target",
            "It has the same identity as the source (a copied data folder?); give it a server_uuid or server_id \
             of its own, or replication between them won't work."
                .to_owned(),
        ),
        Ok(false) => {}
        Err(error) => findings.error("whether source and target are one server", &error),
    }
    if target.info.max_allowed_packet < source.info.max_allowed_packet {
        findings.add(
            Severity::Warning,
            "target, max_allowed_packet",
            format!(
                "It is {} bytes and the source's is {}, so a large row may be refused; SET GLOBAL \
                 max_allowed_packet on the target to at least the source's.",
                target.info.max_allowed_packet, source.info.max_allowed_packet
            ),
        );
    }
    false
}

/// Takes a lock with a name that nobody else can know on one side, and looks for it on the other.
async fn is_one_server(source: &mut Backend, target: &mut Backend) -> Result<bool> {
    const PLACE: &str = "comparing the servers";
    let on = |side| move |e: mysql_async::Error| Error::database(side, PLACE, &e);
    let name: Option<String> =
        source.conn.query_first("SELECT CONCAT('changeover-', UUID())").await.map_err(on(Side::Source))?;
    let name: String =
        name.unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let taken: Option<Option<i64>> =
        source.conn.query_first(format!("SELECT GET_LOCK('{name}', 0)")).await.map_err(on(Side::Source))?;
    if taken.flatten() != Some(1) {
        return Err(Error::transient(Side::Source, PLACE, "GET_LOCK was refused"));
    }
    let seen: Option<Option<i64>> =
        target.conn.query_first(format!("SELECT IS_USED_LOCK('{name}')")).await.map_err(on(Side::Target))?;
    source.conn.query_drop(format!("DO RELEASE_LOCK('{name}')")).await.map_err(on(Side::Source))?;
    Ok(seen.flatten().is_some())
}

async fn check_source(findings: &mut Findings, config: &Config, source: &mut Backend) {
    let wrong = settings::judge_source(&source.settings);
    let logs = !wrong.iter().any(|finding| finding.severity == Severity::Fatal);
    findings.all(wrong);
    if !logs {
        return;
    }
    if !source.grants.may_ask_for_positions(source.info.version.flavor) {
        // Said among the privileges.
        return;
    }
    // The very questions that START MIGRATION will ask; they read and hold nothing.
    let start = start_position(Side::Source, &source.info, &mut source.conn).await;
    let end = end_position(Side::Source, &source.info, &mut source.conn).await;
    for result in [start, end] {
        if let Err(error) = result {
            findings.error("the source's binlog position", &error);
            return;
        }
    }
    match settings::check_filters(source.info.version, &mut source.conn, &config.migration.schemas).await {
        Ok(filters) => findings.all(filters),
        Err(error) => findings.error("the source's binlog filters", &error),
    }
    if let Err(error) = check_upstream(findings, source).await {
        findings.error("whether the source replicates from another server", &error);
    }
}

/// A replica that doesn't log what it replicates has a binlog with holes.
async fn check_upstream(findings: &mut Findings, source: &mut Backend) -> Result<()> {
    if source.settings.is_on("log_replica_updates") || source.settings.is_on("log_slave_updates") {
        return Ok(());
    }
    let statement = show_replication(source.info.version);
    const MESSAGE: &str = "log_slave_updates is off";
    match source.conn.query::<mysql_async::Row, _>(statement).await {
        Ok(rows) if rows.is_empty() => {}
        Ok(_) => findings.add(
            Severity::Fatal,
            "source, log_slave_updates",
            format!(
                "{MESSAGE} and the source replicates from another server, so its binlog lacks what comes from \
                 there; turn log_slave_updates on and restart it, or end that replication."
            ),
        ),
        Err(mysql_async::Error::Server(_)) => findings.add(
            Severity::Warning,
            "source, log_slave_updates",
            format!(
                "{MESSAGE}, and the account may not see whether the source replicates from another server. If it \
                 does, what comes from there is missing in its binlog and would be lost."
            ),
        ),
        Err(error) => {
            return Err(Error::database(Side::Source, "asking for replication", &error));
        }
    }
    Ok(())
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, subject: impl Into<String>, message: String) {
        self.0.push(Finding { severity, subject: subject.into(), message });
    }

    fn all(&mut self, findings: Vec<Finding>) {
        self.0.extend(findings);
    }

    /// What of the objects that are moved this target doesn't take.
    fn target_limits(&mut self, target: &Backend, found: &Discovery) {
        if target.info.version.ocean_base
            && let Some(name) = tables::without_key(found).next()
        {
            let message = "It has no key, and such tables aren't moved to OceanBase yet; add a primary key, or exclude \
                           the table with exclude_tables.";
            self.add(Severity::Fatal, format!("table {name}"), message.to_owned());
        }
        let trusts =
            !target.settings.is_on("log_bin") || target.settings.is_on("log_bin_trust_function_creators");
        if !trusts && found.objects.iter().any(|object| object.kind == "function") {
            let message = "Functions are moved, and it takes them from an account without SUPER only with SET GLOBAL \
                           log_bin_trust_function_creators = 1; without that they, and the views that use them, are \
                           left out.";
            self.add(Severity::Warning, "target, log_bin_trust_function_creators", message.to_owned());
        }
    }

    /// What would become of accounts.
    async fn accounts(
        &mut self,
        config: &Config,
        source: &mut Backend,
        target: &mut Backend,
        schemas: &[String],
    ) {
        let mut from = Asked { info: &source.info, conn: &mut source.conn };
        let mut to = Asked { info: &target.info, conn: &mut target.conn };
        match Accounts::plan(config, &mut from, &mut to, schemas).await {
            Ok(accounts) => self.all(accounts.findings(&config.target.user)),
            Err(error) => self.error("accounts", &error),
        }
    }

    /// What a cutover would be refused for.
    async fn activation(
        &mut self,
        config: &Config,
        source: &mut Backend,
        target: &mut Backend,
        found: &Discovery,
    ) {
        let tables = found.schema_set();
        let (names, folds_names) = (&config.migration.rename, source.info.folds_names);
        let selection = Selection::new(&config.migration, names.on(Side::Source), folds_names);
        let of_target = selection.clone().with_names(names.on(Side::Target));
        let renaming = Renaming::new(names, Side::Source, folds_names);
        let found = async {
            let listed = crate::activation::list(Side::Source, &mut source.conn, &selection).await?;
            let to = (Side::Target, &*listed, &tables);
            let mut obstacles = activation::obstacles(config, source, target, &selection, to).await?;
            let texts = crate::activation::texts_not_renamed;
            obstacles.extend(texts(Side::Source, &mut source.conn, &listed, &renaming).await?);
            let (known, target) = (listed.iter().collect::<Vec<_>>(), (Side::Target, &mut target.conn));
            let strange = crate::activation::strange(&config.state_dir, target, &of_target, &known).await?;
            Ok((obstacles, strange))
        };
        match found.await {
            Ok((obstacles, strange)) => {
                for obstacle in obstacles {
                    let message = format!("A cutover would be refused: {obstacle}.");
                    self.add(Severity::Warning, "triggers and events", message);
                }
                if let Some(strange) = strange {
                    let message = format!("It would act on what is applied there: {strange}.");
                    self.add(Severity::Fatal, "triggers and events", message);
                }
            }
            Err(error) => self.error("triggers and events", &error),
        }
    }

    /// What is prepared on a server that is followed, or will be.
    async fn xa(&mut self, side: Side, server: &mut Backend) {
        let (severity, message) = match xa::prepared(side, &mut server.conn).await {
            Ok(None) => (
                Severity::Warning,
                "The account may not ask which XA transactions are prepared: one that was before this server is followed, and is \
                 committed after it, would stop the migration, and a cutover can't say what it would leave behind. Where \
                 applications use XA, GRANT XA_RECOVER_ADMIN ON *.* to it."
                    .to_owned(),
            ),
            Ok(Some(prepared)) if !prepared.is_empty() && side == Side::Source => (
                Severity::Note,
                format!(
                    "{} XA transaction(s) are prepared now (XA RECOVER): the copy begins when those that are then have ended.",
                    prepared.len()
                ),
            ),
            Ok(_) => return,
            Err(error) => return self.error("XA transactions", &error),
        };
        self.add(severity, format!("{side}, XA"), message);
    }

    /// A question that couldn't be answered can't be taken for a yes.
    fn error(&mut self, subject: &str, error: &Error) {
        self.add(Severity::Fatal, subject, format!("It couldn't be looked at: {error}."));
    }

    fn backend(&mut self, side: Side, config: &BackendConfig, opened: Result<Backend>) -> Option<Backend> {
        let error = match opened {
            Ok(backend) => return Some(backend),
            Err(error) => error,
        };
        let advice = match error.kind {
            ErrorKind::Transient => format!("check that the server runs and that {side}.url is right"),
            _ => format!("check the user and the password of {side}.url and what the account may do"),
        };
        let place = format!("{side}, {}", config.address());
        // Nothing is tried again here, whatever the error says for the other stages.
        let message = error.message.trim_end_matches("; it is tried again");
        self.add(Severity::Fatal, place, format!("It can't be used: {message}; {advice}."));
        None
    }

    /// The worst first, and a last word that says what would be moved.
    fn finish(mut self, found: Option<&Discovery>) -> Vec<Finding> {
        self.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        if let Some(found) = found.filter(|found| !found.tables.is_empty()) {
            let rows: u64 = found.tables.iter().map(|table| table.schema.rows_estimate).sum();
            let schemas: Vec<_> = found.schemas.iter().map(|schema| schema.name.as_str()).collect();
            let message = format!(
                "{} tables, ~{rows} rows, of the schemas {} would be moved. Whether the target's disk has room for \
                 them, and state_dir for the binlog in the meantime, can't be seen from here.",
                found.tables.len(),
                tables::some_of(schemas.iter().copied()),
            );
            self.add(Severity::Note, "migration", message);
        }
        self.0
    }
}
