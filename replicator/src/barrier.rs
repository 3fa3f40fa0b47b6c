//! A statement that changes definitions, in its place in the stream.
//!
//! The tail stands at it: everything before it is applied, nothing behind it is. What is decided here, exactly:
//!
//! - It is *run* on the target where the rows that are there are those of its position: the table was made by the
//!   stream, or every copy of it ended before the statement.
//! - Where a copy of the table ran across it (P0 < statement ≤ P1), the copied rows are of both definitions, and no
//!   statement can put that right. The table is *copied anew*: dropped, made as the source has it now, and copied from
//!   a start position of its own. Its rows and statements up to there are passed over, since the copy holds them.
//! - So is what the target hasn't got the parts for: CREATE TABLE … SELECT, a swap with a table that is excluded.
//! - What is about columns that aren't moved and nothing else is *nothing* there; what is known of them changes.
//! - What isn't understood, or what the target refuses, pauses the migration; so does everything with
//!   `migration.ddl = "pause"`. An operator runs it on the target and says RESUME MIGRATION: where the definitions are
//!   others than before, it counts as run.
//!
//! How a crash is survived stands in [`crate::apply::ddl`]. Order of what is durable: the hash of before, the target,
//! `definitions.json`, the checkpoint.

mod columns;
mod filters;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use config::DdlPolicy;
use config::{BinlogPosition, Side, SideNames, TableName, failpoint};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio_util::sync::CancellationToken;

use crate::apply::{Origin, checkpoint, ddl, place};
use crate::binlog::context::StatementContext;
use crate::binlog::transaction::{DdlStatement, TransactionMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::leg::Leg;
use crate::pipeline::Context;
use crate::schema::alterations;
use crate::schema::convert::called;
use crate::schema::ddl::{Change, is_nameless, is_readable_in};
use crate::schema::discover::{Discovery, discover};
use crate::schema::history::{Begin, Definitions, History, Pending, position};
use crate::schema::left_out::LeftOut;
use crate::schema::renamed::Renaming;
use crate::schema::selection::Selection;
use crate::server::{self, ServerInfo};
use crate::snapshot::was_changed;
use crate::stray::own;

/// What a statement means for the target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing.
    Nothing,
    /// It is run there: its own text, or another one.
    Run { sql: Option<String> },
    /// These tables are copied anew.
    CopyAnew(Vec<TableName>),
    /// It is about columns that aren't moved and nothing else: what isn't moved of the table is this from here on.
    Beside(TableName, Box<LeftOut>),
    /// An operator has to do it.
    ByHand(&'static str),
}

/// Deals with the statements that one run of the pipeline meets.
pub(crate) struct Barrier<'a> {
    pub(crate) context: &'a Context,
    pub(crate) leg: Leg,
    /// The server that is read.
    pub(crate) read: &'a ServerInfo,
    /// The server that is written.
    pub(crate) write: &'a ServerInfo,
    pub(crate) origin: &'a Origin,
    pub(crate) selection: &'a Selection,
    pub(crate) history: &'a History,
    /// P1 of the first copy.
    pub(crate) copied_at: &'a BinlogPosition,
    pub(crate) cancel: &'a CancellationToken,
}

impl Barrier<'_> {
    /// Deals with the statement and moves the checkpoint over it. Returns the tables that it may have changed; `None`
    /// where it was cancelled first.
    pub(crate) async fn pass(
        &self,
        meta: &TransactionMeta,
        statement: &DdlStatement,
    ) -> Result<Option<Vec<TableName>>> {
        let mut definitions = self.history.read()?;
        if definitions.seq > meta.seq {
            return Err(Error::definite(
                None,
                place(meta, meta),
                "definitions.json is ahead of the target: one of them was set back (restored from a backup?). Begin \
                 again with an empty state_dir and an empty target",
            ));
        }
        let mut changed = Vec::new();
        if definitions.seq < meta.seq {
            let Some(names) = self.deal_with(&mut definitions, meta, statement).await? else {
                return Ok(None);
            };
            changed = names;
            definitions.seq = meta.seq;
            definitions.pending = None;
            self.history.write(&definitions)?;
            failpoint::hit("ddl.defined");
        }
        // Also where a crash came between the two files.
        let tables = definitions.names();
        self.context.update(|state| state.tables = tables)?;
        failpoint::hit("ddl.shown");
        let mut conn = server::connect(Side::Target, self.leg.to(&self.context.config)).await?;
        checkpoint::step_over(&mut conn, self.origin, meta).await?;
        drop(conn.disconnect().await);
        Ok(Some(changed))
    }

    async fn deal_with(
        &self,
        definitions: &mut Definitions,
        meta: &TransactionMeta,
        statement: &DdlStatement,
    ) -> Result<Option<Vec<TableName>>> {
        let text = String::from_utf8_lossy(&statement.sql);
        let kind = ddl::kind(&text);
        let context = StatementContext::parse(&statement.status);
        let readable = statement.sql.is_ascii() || context.as_ref().is_ok_and(is_readable_in);
        let change = match readable {
            true => Change::parse(&statement.sql, &statement.schema, self.selection.folds_names()),
            false => Change::Unknown,
        };
        let change = self.in_source_names(change, &kind, meta)?;
        if self.leg.reads() == Side::Target
            && let Some(why) = self.stays_on_new_server(&change, &statement.sql, definitions)
        {
            return Err(Error::definite(Side::Source, format!("{kind}, {}", place(meta, meta)), why));
        }
        let (context, plan) = match context {
            Ok(mut context) => {
                let announced = context.announced;
                let plan = if announced {
                    Ok(Plan::Nothing)
                } else {
                    self.plan(definitions, &change, meta, statement)
                };
                let text = (&change, &*statement.sql);
                let plan = self.in_its_zone(plan?, text, &mut context, definitions).await?;
                (context, plan)
            }
            Err(_) => {
                (StatementContext::default(), Plan::ByHand("the session in which it ran isn't understood"))
            }
        };
        let known: Vec<TableName> =
            change.names().into_iter().filter(|name| self.selection.takes(name)).collect();
        let at = place(meta, meta);
        match plan {
            Plan::Nothing => {
                tracing::info!(area = "ddl", "{kind} at {at}: nothing to do on the target");
                return Ok(Some(Vec::new()));
            }
            Plan::Beside(table, left_out) => {
                tracing::info!(area = "ddl", "{kind} at {at}: it is about columns that aren't moved alone");
                definitions.set_left_out(&table, *left_out);
                return Ok(Some(Vec::new()));
            }
            Plan::CopyAnew(names) if self.context.config.migration.ddl == DdlPolicy::Apply => {
                tracing::info!(
                    area = "ddl",
                    tables = names.len(),
                    "{kind} at {at}: its tables are copied anew"
                );
                let copied = self.copy_anew(definitions, &names).await?;
                return Ok(copied.then_some(names));
            }
            Plan::Run { sql } if self.context.config.migration.ddl == DdlPolicy::Apply => {
                let renaming = self.renaming();
                let put = match sql {
                    Some(sql) => Ok(sql.into_bytes()),
                    None => renaming.statement(&statement.sql, &statement.schema),
                };
                match put {
                    Ok(sql) => {
                        // What is left without a schema is of a view or a routine, and those have one.
                        let schema = renaming.schema(&statement.schema).unwrap_or_default();
                        let statement = DdlStatement { schema, ..statement.clone() };
                        self.run(definitions, &change, meta, (&statement, &context, &sql), &kind).await?;
                    }
                    Err(why) => self.by_hand(definitions, &change, meta, &kind, &why).await?,
                }
            }
            Plan::ByHand(why) => self.by_hand(definitions, &change, meta, &kind, why).await?,
            Plan::CopyAnew(_) if self.concerns_left_out(&change, &statement.sql, definitions) => {
                let why = format!(
                    "{kind}: it concerns columns that aren't moved (migration.columns), so nobody can do it by hand. Everything \
                     before it is applied. Set migration.ddl = \"apply\" and start again: then its tables are copied anew"
                );
                return Err(Error::pause(Side::Target, at, why));
            }
            Plan::Run { .. } | Plan::CopyAnew(_) => {
                self.by_hand(definitions, &change, meta, &kind, "migration.ddl is \"pause\"").await?;
            }
        }
        let mut names = self.read_again(definitions, &change, known, &kind, &at).await?;
        let unsure = self.changed_beside(definitions, &change).await?;
        if !unsure.is_empty() && !self.copy_anew(definitions, &unsure).await? {
            return Ok(None);
        }
        names.extend(unsure);
        Ok(Some(names))
    }

    /// See [`columns::copies_anew`].
    fn concerns_left_out(&self, change: &Change, sql: &[u8], definitions: &Definitions) -> bool {
        columns::copies_anew(change, sql, &self.context.config.migration.columns, definitions)
    }

    /// The tables with columns that aren't moved that the old server has otherwise by now. What a statement did that nobody
    /// understood isn't seen on the new server, as far as it was about these columns.
    async fn changed_beside(&self, definitions: &Definitions, change: &Change) -> Result<Vec<TableName>> {
        let mut changed = Vec::new();
        let tables = definitions.tables.iter().map(|definition| &definition.table);
        let tables: Vec<_> = tables.filter(|table| !table.left_out.is_empty()).collect();
        if tables.is_empty() || *change != Change::Unknown || self.leg.reads() == Side::Target {
            return Ok(changed);
        }
        let mut conn = server::connect(Side::Source, self.leg.from(&self.context.config)).await?;
        for table in tables {
            if was_changed(&mut conn, table).await? {
                changed.push(table.name.clone());
            }
        }
        drop(conn.disconnect().await);
        Ok(changed)
    }

    /// Why a statement on the new server isn't run on the old one.
    fn stays_on_new_server(&self, change: &Change, sql: &[u8], definitions: &Definitions) -> Option<String> {
        if let Some(table) = filters::shared(change, definitions).first() {
            return Some(format!(
                "it isn't run on the old server, where other businesses share the table {table} (migration.rows): nothing is \
                 skipped, so the way back ends here. Stay on the new server: FINISH MIGRATION"
            ));
        }
        let rules = &self.context.config.migration.columns;
        let table = columns::stopping(change, sql, rules, definitions)?;
        Some(format!(
            "it isn't run on the old server, where {table} has columns that aren't moved (migration.columns), and what is in \
             them is nowhere else: nothing is skipped, so the way back ends here. Stay on the new server: FINISH MIGRATION"
        ))
    }

    /// What the side that is written calls things.
    fn written(&self) -> SideNames {
        self.context.config.migration.rename.on(self.leg.writes())
    }

    fn renaming(&self) -> Renaming {
        let names = &self.context.config.migration.rename;
        Renaming::new(names, self.leg.reads(), self.selection.folds_names())
    }

    /// What the statement names, by the source's names.
    fn in_source_names(&self, change: Change, kind: &str, meta: &TransactionMeta) -> Result<Change> {
        let names = &self.context.config.migration.rename;
        if names.is_empty() {
            return Ok(change);
        }
        let fails = |name: &TableName| {
            let why = format!(
                "it names {name}, which has no counterpart on the other side: what would be called so there is another table \
                 (migration.rename). Give it another name, or exclude it with exclude_tables, and RESUME MIGRATION"
            );
            Error::definite(Side::Source, format!("{kind}, {}", place(meta, meta)), why)
        };
        let change = change.in_source_names(self.selection).map_err(|name| fails(&name))?;
        let written = self.written();
        let is_table = !matches!(change, Change::Routine(_) | Change::Trigger(_) | Change::Event(_));
        let lost = change
            .names()
            .into_iter()
            .find(|name| is_table && self.selection.takes(name) && written.table(name).is_none());
        match (lost, &change) {
            (Some(name), _) => Err(fails(&name)),
            // Parts of it are elsewhere on one of the sides.
            (None, Change::Schema { name, .. })
                if names.on(Side::Source).parts(name) || names.on(Side::Target).parts(name) =>
            {
                Ok(Change::Unknown)
            }
            (None, _) => Ok(change),
        }
    }

    fn plan(
        &self,
        definitions: &Definitions,
        change: &Change,
        meta: &TransactionMeta,
        statement: &DdlStatement,
    ) -> Result<Plan> {
        let written = self.written();
        let view = View {
            definitions,
            selection: self.selection,
            written: &written,
            copied_at: self.copied_at,
            at: &meta.end,
        };
        if self.leg.reads() == Side::Source
            && let Some(beside) = view.beside(change, &statement.sql)?
        {
            return Ok(beside);
        }
        let plan = view.plan(change, statement.alone)?;
        let rules = &self.context.config.migration.rows;
        let plan = match (self.leg.reads(), plan) {
            (Side::Source, Plan::Run { .. })
                if self.concerns_left_out(change, &statement.sql, definitions) =>
            {
                Plan::CopyAnew(change.names().into_iter().filter(|name| self.selection.takes(name)).collect())
            }
            (Side::Source, plan) => {
                filters::forth(plan, (change, &*statement.sql), rules, definitions, self.selection)
            }
            (Side::Target, plan) => plan,
        };
        if self.read.version.flavor == self.write.version.flavor {
            return Ok(plan);
        }
        // The text is of another family, and so would the definition be that the target has then.
        Ok(match (plan, change) {
            (Plan::Run { sql: None }, Change::Truncate(table)) => {
                Plan::Run { sql: Some(format!("TRUNCATE TABLE {}", called(&written, table)?.quoted())) }
            }
            (Plan::Run { sql: None }, Change::Views(_) | Change::Routine(_) | Change::Schema { .. }) => {
                Plan::ByHand("source and target are of two families")
            }
            (Plan::Run { sql: None }, change) => {
                Plan::CopyAnew(change.names().into_iter().filter(|name| self.selection.takes(name)).collect())
            }
            (plan, _) => plan,
        })
    }

    /// Runs it, unless it ran already.
    async fn run(
        &self,
        definitions: &mut Definitions,
        change: &Change,
        meta: &TransactionMeta,
        (statement, context, sql): (&DdlStatement, &StatementContext, &[u8]),
        kind: &str,
    ) -> Result<()> {
        let label = ddl::label(&self.context.config.migration.name, meta.seq);
        let mut conn = server::connect(Side::Target, self.leg.to(&self.context.config)).await?;
        if definitions.pending.is_some() {
            ddl::end_left_over(&mut conn, &label).await?;
        }
        if self.was_run(&mut conn, definitions, change, meta).await? {
            return Ok(());
        }
        drop(conn.disconnect().await);
        let at = place(meta, meta);
        let target = self.leg.to(&self.context.config);
        let ran = ddl::run(target, self.write.version.flavor, &label, statement, context, sql).await;
        match ran {
            Ok(()) => {
                failpoint::hit("ddl.applied");
                tracing::info!(area = "ddl", "{kind} at {at} is applied");
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Transient => Err(error),
            Err(error) => Err(paused(kind, &at, &format!("the target refused it: {}", error.message))),
        }
    }

    /// True where the target's definitions are others than those that were written down before this statement. Where
    /// nothing was, they are written down now.
    async fn was_run(
        &self,
        conn: &mut Conn,
        definitions: &mut Definitions,
        change: &Change,
        meta: &TransactionMeta,
    ) -> Result<bool> {
        let written = self.written();
        let schemas: BTreeSet<&str> =
            definitions.tables.iter().map(|definition| definition.table.name.schema.as_str()).collect();
        let now = ddl::fingerprint(conn, change, &written, &written.schemas(schemas)).await?;
        if let Some(pending) = definitions.pending.as_ref().filter(|pending| pending.seq == meta.seq) {
            return Ok(pending.before != now);
        }
        definitions.pending = Some(Pending { seq: meta.seq, before: now });
        self.history.write(definitions)?;
        failpoint::hit("ddl.intended");
        Ok(false)
    }

    /// Returns where an operator has done it.
    async fn by_hand(
        &self,
        definitions: &mut Definitions,
        change: &Change,
        meta: &TransactionMeta,
        kind: &str,
        why: &str,
    ) -> Result<()> {
        let mut conn = server::connect(Side::Target, self.leg.to(&self.context.config)).await?;
        let done = self.was_run(&mut conn, definitions, change, meta).await?;
        drop(conn.disconnect().await);
        if done {
            tracing::info!(area = "ddl", "{kind} at {}: it was done by hand", place(meta, meta));
            return Ok(());
        }
        Err(paused(kind, &place(meta, meta), why))
    }

    /// The tables of the side that is written as those of the side that is read, which has the same under other names.
    fn as_read(&self, found: &mut Discovery) {
        let read = self.selection.names();
        for table in &mut found.tables {
            let schema = &mut table.schema;
            let Some(here) = read.table(&schema.name).filter(|here| here != schema.stored()) else {
                continue;
            };
            let there = Arc::new(schema.clone());
            schema.stored_as = (here != schema.name).then_some(here);
            schema.target = Some(there);
        }
    }

    /// Takes the definitions that hold from here on from the target, where the statement has just run.
    async fn read_again(
        &self,
        definitions: &mut Definitions,
        change: &Change,
        mut names: Vec<TableName>,
        kind: &str,
        at: &str,
    ) -> Result<Vec<TableName>> {
        let mut migration = self.context.config.migration.clone();
        // What the source was asked for may be gone from there by now, or new.
        migration.schemas = match self.selection.schemas() {
            Some(schemas) => schemas.to_vec(),
            None => Vec::new(),
        };
        let mut conn = server::connect(Side::Target, self.leg.to(&self.context.config)).await?;
        let mut found = discover(Side::Target, &mut conn, &migration, &self.written()).await?;
        drop(conn.disconnect().await);
        self.as_read(&mut found);
        match change {
            Change::Unknown => {
                names = definitions.tables.iter().map(|definition| definition.table.name.clone()).collect();
                names.extend(found.tables.iter().map(|table| table.schema.name.clone()));
            }
            Change::Schema { name, .. } => {
                let of = definitions.tables.iter().map(|definition| &definition.table.name);
                names.extend(of.filter(|table| table.schema == *name).cloned());
            }
            // The definition stays, and the target's may be one of another family.
            Change::Truncate(_) => return Ok(names),
            _ => {}
        }
        let problem = found.tables.iter().filter(|table| names.contains(&table.schema.name));
        if let Some((table, problem)) =
            problem.filter_map(|table| table.problems.first().map(|problem| (table, problem))).next()
        {
            let why = format!("it is applied, but its table {} can't be moved: {problem}", table.schema.name);
            return Err(Error::definite(Side::Source, format!("{kind}, {at}"), why));
        }
        let now = found.tables.iter().map(|table| &table.schema).filter(|table| names.contains(&table.name));
        if let Some(table) = filters::moved_otherwise(now, change, definitions) {
            let why = format!(
                "it is applied, but it changed by what the rows of {table} are filtered (migration.rows), and so which of \
                 them are moved; begin the migration again with an empty state_dir and an empty target"
            );
            return Err(Error::definite(Side::Source, format!("{kind}, {at}"), why));
        }
        let one_family = self.read.version.flavor == self.write.version.flavor;
        if self.leg.reads() == Side::Target || !one_family {
            // The other side says nothing of these; a statement on one of them isn't run there.
            let has_more = |name: &TableName| {
                definitions.get(name).is_some_and(|known| known.table.left_out_of_either().is_some())
            };
            names.retain(|name| {
                !has_more(name) || !found.tables.iter().any(|table| table.schema.name == *name)
            });
        } else if let Err((table, what)) = columns::carry_over(&mut found, &names, definitions, change) {
            let why = format!(
                "it is applied, but {table} can't be followed any further: {what} (migration.columns); begin the migration again \
                 with an empty state_dir and an empty target"
            );
            return Err(Error::definite(Side::Source, format!("{kind}, {at}"), why));
        }
        definitions.replace(&names, &found, &Begin::Stream, &came_from(change));
        Ok(names)
    }
}

/// The old name of each table that has a new one, over all steps of the statement.
fn came_from(change: &Change) -> BTreeMap<TableName, TableName> {
    let pairs = match change {
        Change::Rename(pairs) => pairs.clone(),
        Change::Alter { table, renamed: Some(renamed), .. } => vec![(table.clone(), renamed.clone())],
        _ => Vec::new(),
    };
    let mut came_from = BTreeMap::new();
    for (from, to) in pairs {
        let first = came_from.remove(&from).unwrap_or(from);
        came_from.insert(to, first);
    }
    came_from
}

/// An operator has to act; it is resumed afterwards.
fn paused(kind: &str, at: &str, why: &str) -> Error {
    Error::pause(
        Side::Target,
        at,
        format!(
            "{kind}: it changes definitions and isn't applied ({why}). Everything before it is. Make the same change on \
             the target by hand, then RESUME MIGRATION"
        ),
    )
}

/// What a decision is made from.
struct View<'a> {
    definitions: &'a Definitions,
    selection: &'a Selection,
    /// What the side that is written calls things.
    written: &'a SideNames,
    copied_at: &'a BinlogPosition,
    at: &'a BinlogPosition,
}

impl View<'_> {
    /// Pure: what the statement means for the target.
    fn plan(&self, change: &Change, alone: bool) -> Result<Plan> {
        let names: Vec<TableName> =
            change.names().into_iter().filter(|name| self.selection.takes(name)).collect();
        Ok(match change {
            Change::Unknown => Plan::ByHand("it isn't understood"),
            // What they do arrives as rows; they themselves aren't moved.
            Change::Trigger(_) | Change::Event(_) => Plan::Nothing,
            Change::Views(names) if names.iter().all(is_nameless) => Plan::Nothing,
            Change::Routine(_) | Change::Views(_) => Plan::Run { sql: None },
            Change::Schema { name, dropped } => {
                let mut of = self.definitions.tables.iter().filter(|d| d.table.name.schema == *name);
                if *dropped
                    && of.try_fold(false, |any, d| Ok::<_, Error>(any | self.is_later(&d.table.name)?))?
                {
                    Plan::ByHand("a table of it was copied after it was made again")
                } else {
                    Plan::Run { sql: None }
                }
            }
            Change::CreateTable { table, like } => {
                if names.is_empty() || self.is_later(table)? {
                    Plan::Nothing
                } else if !alone || self.lacks_pattern(like.as_ref())? {
                    Plan::CopyAnew(names)
                } else {
                    Plan::Run { sql: None }
                }
            }
            Change::Truncate(table)
                if names.is_empty()
                    || self.definitions.ignored.contains(table)
                    || self.is_later(table)? =>
            {
                Plan::Nothing
            }
            // Every row that is there after it comes by the stream, whatever a copy saw.
            Change::Truncate(_) => Plan::Run { sql: None },
            Change::DropTables(_) => {
                let mut gone = Vec::new();
                for name in &names {
                    if !self.is_later(name)? {
                        gone.push(called(self.written, name)?.quoted());
                    }
                }
                match gone.is_empty() {
                    true => Plan::Nothing,
                    false => Plan::Run { sql: Some(format!("DROP TABLE IF EXISTS {}", gone.join(", "))) },
                }
            }
            Change::Rename(_) | Change::Alter { .. } => self.plan_change(change, names)?,
        })
    }

    /// Where a copy ran across it as well, since no copy reads such columns. One that was made later knows what it did.
    fn beside(&self, change: &Change, sql: &[u8]) -> Result<Option<Plan>> {
        let Change::Alter { table, renamed: None, exchanged: None } = change else { return Ok(None) };
        if !self.selection.takes(table) || self.is_later(table)? {
            return Ok(None);
        }
        let definition = self.definitions.get(table);
        let left_out = definition.and_then(|definition| alterations::beside(sql, &definition.table));
        Ok(left_out.map(|left_out| Plan::Beside(table.clone(), Box::new(left_out))))
    }

    /// ALTER, RENAME and indexes: they need the rows to be those of this position.
    fn plan_change(&self, change: &Change, names: Vec<TableName>) -> Result<Plan> {
        if names.is_empty() {
            return Ok(Plan::Nothing);
        }
        let (mut later, mut others, mut straddles) = (false, Vec::new(), false);
        for name in &names {
            if self.is_later(name)? {
                later = true;
            } else {
                straddles |= self.straddles(name)?;
                others.push(name.clone());
            }
        }
        if later {
            return Ok(if others.is_empty() { Plan::Nothing } else { Plan::CopyAnew(others) });
        }
        let exchanges = matches!(change, Change::Alter { exchanged: Some(_), .. });
        // A name in the text that isn't taken, or one that should be there and isn't.
        let lacks = change.names().len() != names.len() || self.lacks_origin(change);
        Ok(if straddles || exchanges || lacks { Plan::CopyAnew(names) } else { Plan::Run { sql: None } })
    }

    fn lacks_origin(&self, change: &Change) -> bool {
        let came_from = came_from(change);
        let moved: Vec<&TableName> = came_from.values().collect();
        let needed: Vec<&TableName> = match change {
            Change::Alter { table, .. } => vec![table],
            _ => moved,
        };
        needed.iter().any(|name| self.definitions.get(name).is_none())
    }

    /// CREATE TABLE … LIKE takes the definition of this position, which the target hasn't got of such a table.
    fn lacks_pattern(&self, like: Option<&TableName>) -> Result<bool> {
        match like {
            None => Ok(false),
            Some(like) => Ok(self.definitions.get(like).is_none() || self.is_later(like)?),
        }
    }

    /// The table was copied at a position behind the statement, and has its effect already.
    fn is_later(&self, name: &TableName) -> Result<bool> {
        match self.definitions.get(name).map(|definition| &definition.begin) {
            Some(Begin::OwnCopy { from, .. }) => Ok(*self.at <= position(from)?),
            _ => Ok(false),
        }
    }

    /// A copy of the table ran across the statement.
    fn straddles(&self, name: &TableName) -> Result<bool> {
        match self.definitions.get(name).map(|definition| &definition.begin) {
            Some(Begin::FirstCopy) => Ok(*self.at <= *self.copied_at),
            Some(Begin::OwnCopy { to, .. }) => Ok(*self.at <= position(to)?),
            Some(Begin::Stream) | None => Ok(false),
        }
    }
}

/// Drops tables on the target, whatever refers to them.
pub(crate) async fn drop_tables(conn: &mut Conn, names: &[TableName], there: &SideNames) -> Result<()> {
    own::announce(Side::Target, conn).await?;
    let mut statements = vec!["SET SESSION foreign_key_checks = 0".to_owned()];
    for name in names {
        statements.push(format!("DROP TABLE IF EXISTS {}", called(there, name)?.quoted()));
    }
    statements.push("SET SESSION foreign_key_checks = 1".to_owned());
    for statement in statements {
        match conn.query_drop(statement).await {
            Ok(()) => {}
            // The schema isn't there either.
            Err(mysql_async::Error::Server(error)) if error.code == 1049 => {}
            Err(error) => {
                return Err(Error::database(Side::Target, "dropping tables that are copied anew", &error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "barrier_tests.rs"]
mod tests;
