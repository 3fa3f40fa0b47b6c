//! Tables made on the target, many of them over several connections.
//!
//! A server makes a table last with a row of syncs, one behind the other, and others can be made meanwhile. One with a
//! foreign key comes behind all that have none, over one connection: so it never meets its parent in the making, and two of
//! them never wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use config::names::quote_identifier;
use config::{BackendConfig, Side, TableName, failpoint};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;

use super::create::prepare_table_session;
use crate::error::{Error, Result};
use crate::server;
use crate::stray::own;

/// Up to so many tables the connection that is there is enough.
const FEW: usize = 64;
/// Connections at most.
const CONNECTIONS_MAX: usize = 4;

/// A table to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Making {
    /// What the source calls it.
    pub(super) name: TableName,
    /// The schema that it is made in.
    pub(super) schema: String,
    /// CREATE TABLE IF NOT EXISTS, for the schema in use.
    pub(super) sql: String,
}

impl Making {
    /// It may need other tables. A comment that says so only makes it come later.
    fn refers(&self) -> bool {
        self.sql.contains(" FOREIGN KEY ")
    }
}

/// Makes `tables` on the target, some of them side by side where they are many. `target` is prepared
/// ([`prepare_session`]); the other connections are opened here, so that there are `connections` at most.
///
/// The first error is the one that is returned; no table is begun after it.
pub(super) async fn make(
    target: &mut Conn,
    backend: &BackendConfig,
    tables: Vec<Making>,
    connections: usize,
) -> Result<()> {
    let connections = connections.min(CONNECTIONS_MAX);
    if tables.len() <= FEW || connections < 2 {
        return Queue::new(tables).make(target).await;
    }
    tracing::info!(
        area = "migration",
        "{} tables are made over {connections} connections, those with foreign keys behind the others",
        tables.len()
    );
    let (behind, first): (Vec<_>, Vec<_>) = tables.into_iter().partition(Making::refers);
    let queue = Arc::new(Queue::new(first));
    let mut others = JoinSet::new();
    for _ in 1..connections {
        others.spawn(make_over_another(Arc::clone(&queue), backend.clone()));
    }
    let mut result = queue.make(target).await;
    while let Some(ended) = others.join_next().await {
        let ended = ended
            .unwrap_or_else(|error| Err(Error::bug("creating the tables", format!("a task ended: {error}"))));
        result = result.and(ended);
    }
    result?;
    Queue::new(behind).make(target).await
}

async fn make_over_another(queue: Arc<Queue>, backend: BackendConfig) -> Result<()> {
    let prepared = async {
        let mut conn = server::connect(Side::Target, &backend).await?;
        prepare_session(&mut conn).await?;
        Ok(conn)
    };
    let mut conn = match prepared.await {
        Ok(conn) => conn,
        Err(error) => {
            queue.stop();
            return Err(error);
        }
    };
    queue.make(&mut conn).await?;
    // Only a goodbye.
    drop(conn.disconnect().await);
    Ok(())
}

/// Prepares a session of the target to make tables, and makes it known as ours.
pub(super) async fn prepare_session(target: &mut Conn) -> Result<()> {
    const PLACE: &str = "preparing the schema session";
    // Literals in a CREATE TABLE (defaults, members, comments) are text of the source's SHOW in UTF-8.
    run(target, PLACE, "SET NAMES utf8mb4").await?;
    run(target, PLACE, "SET SESSION foreign_key_checks = 0").await?;
    prepare_table_session(target).await?;
    own::announce(Side::Target, target).await
}

pub(super) async fn run(target: &mut Conn, place: &str, statement: &str) -> Result<()> {
    target.query_drop(statement).await.map_err(|e| Error::database(Side::Target, place, &e))
}

/// What several connections take tables from.
#[derive(Debug)]
struct Queue {
    tables: Vec<Making>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl Queue {
    fn new(tables: Vec<Making>) -> Self {
        Self { tables, next: AtomicUsize::new(0), stopped: AtomicBool::new(false) }
    }

    /// The next table; `None` behind the last one, and once something has failed.
    fn take(&self) -> Option<&Making> {
        if self.stopped.load(Ordering::Acquire) {
            return None;
        }
        self.tables.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Makes tables over one connection until none is left.
    async fn make(&self, target: &mut Conn) -> Result<()> {
        let mut schema = None;
        while let Some(table) = self.take() {
            let made = make_one(target, table, &mut schema).await;
            made.inspect_err(|_| self.stop())?;
            failpoint::hit("schema.table_made");
        }
        Ok(())
    }
}

/// `schema`: the one in use.
async fn make_one<'a>(target: &mut Conn, table: &'a Making, schema: &mut Option<&'a str>) -> Result<()> {
    let place = format!("creating the table {}", table.name);
    if *schema != Some(table.schema.as_str()) {
        run(target, &place, &format!("USE {}", quote_identifier(&table.schema))).await?;
        *schema = Some(&table.schema);
    }
    run(target, &place, &table.sql).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn making(table: &str, sql: &str) -> Making {
        Making { name: TableName::new("s", table), schema: "s".to_owned(), sql: sql.to_owned() }
    }

    #[test]
    fn tables_with_foreign_keys_are_known() {
        let check = |sql: &str, refers: bool| assert_eq!(making("t", sql).refers(), refers, "{sql}");
        check("CREATE TABLE IF NOT EXISTS `t` (\n  `a` int\n)", false);
        check(
            "CREATE TABLE IF NOT EXISTS `t` (\n  CONSTRAINT `c` FOREIGN KEY (`a`) REFERENCES `p` (`a`)\n)",
            true,
        );
    }

    #[test]
    fn each_table_is_taken_once_and_none_behind_a_failure() {
        let queue = Queue::new(vec![making("a", ""), making("b", ""), making("c", "")]);
        let name = |table: Option<&Making>| table.map(|table| table.name.table.clone());
        assert_eq!(name(queue.take()).as_deref(), Some("a"));
        assert_eq!(name(queue.take()).as_deref(), Some("b"));
        queue.stop();
        assert_eq!(queue.take(), None);
        let queue = Queue::new(vec![making("a", "")]);
        assert!(queue.take().is_some() && queue.take().is_none() && queue.take().is_none());
    }
}
