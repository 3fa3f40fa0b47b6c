//! The triggers and events of a migration as a server lists them.

use config::{Side, SideNames, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::literal::text_literal;
use crate::schema::ddl::words;
use crate::schema::selection::{Known, Selection};

const PLACE: &str = "looking for triggers and events";
/// OceanBase hasn't got events in its information_schema.
const UNKNOWN_TABLE: u16 = 1109;

/// What acts on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// It acts when rows change.
    Trigger,
    /// It acts when its time has come.
    Event,
}

impl Kind {
    /// The word of the language.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Trigger => "TRIGGER",
            Self::Event => "EVENT",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trigger => "trigger",
            Self::Event => "event",
        })
    }
}

/// One of them, as information_schema has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) kind: Kind,
    /// Its schema, by the source's name, and its own name.
    pub(crate) name: TableName,
    /// The same as the server has it.
    pub(crate) stored: TableName,
    /// What a trigger is on, by the source's name.
    pub(crate) table: Option<TableName>,
    /// `user@host`.
    pub(crate) definer: String,
    /// The default collation that its schema had when it was made.
    pub(crate) database_collation: String,
    /// The zone that an event goes by.
    pub(crate) time_zone: Option<String>,
    /// An event that runs when its time comes, if the scheduler does.
    pub(crate) enabled: bool,
    /// A hash of what it does and when, the same on every server of one family: what it is told apart by.
    pub(crate) key: String,
    /// Everything that the server says of it, so that a change is seen.
    row: Vec<Vec<u8>>,
}

impl Listed {
    /// Of an event that is dropped behind its last run: its zone and that time, as literals.
    pub(crate) fn ends(&self) -> Option<(String, String)> {
        let cell = |index: usize| self.row.get(index).filter(|cell| !cell.is_empty());
        let kept = cell(16).is_some_and(|on_completion| on_completion == b"PRESERVE");
        let at = cell(11).or_else(|| cell(15)).filter(|_| self.kind == Kind::Event && !kept)?;
        let zone = self.time_zone.as_deref()?;
        Some((text_literal(zone), text_literal(std::str::from_utf8(at).ok()?)))
    }

    /// The words and names of what it does.
    pub(crate) fn words(&self) -> Vec<String> {
        let text = if self.kind == Kind::Trigger { 10 } else { 9 };
        words(self.row.get(text).map(Vec::as_slice).unwrap_or_default())
    }

    /// True for a trigger on that table.
    pub(crate) fn is_on(&self, table: &TableName) -> bool {
        self.table.as_ref() == Some(table)
    }

    /// The schema that it is in on the side with these names: a trigger's is that of its table. `None`: there is none.
    pub(crate) fn schema_on(&self, names: &SideNames) -> Option<String> {
        match &self.table {
            Some(table) => names.table(table).map(|table| table.schema),
            None => names.schema(&self.name.schema),
        }
    }

    /// `trigger shop.audit`.
    pub(crate) fn called(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// Reads what belongs to the migration: triggers on its tables in the order in which they act, and events of its schemas.
pub(crate) async fn list(side: Side, conn: &mut Conn, selection: &Selection) -> Result<Vec<Listed>> {
    let database = |error: mysql_async::Error| Error::database(side, PLACE, &error);
    let triggers: Vec<Row> = conn.query(triggers_sql(selection)).await.map_err(database)?;
    let events: Vec<Row> = match conn.query(events_sql(selection)).await {
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_TABLE => Vec::new(),
        rows => rows.map_err(database)?,
    };
    let mut found = Vec::new();
    for (kind, rows) in [(Kind::Trigger, triggers), (Kind::Event, events)] {
        for row in rows {
            found.extend(listed(side, kind, row, selection)?);
        }
    }
    Ok(found)
}

/// The columns that both have come first, in one order; see [`listed`].
fn triggers_sql(selection: &Selection) -> String {
    format!(
        "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_TABLE, DEFINER, DATABASE_COLLATION, SQL_MODE, \
         CHARACTER_SET_CLIENT, COLLATION_CONNECTION, ACTION_TIMING, EVENT_MANIPULATION, ACTION_STATEMENT, ACTION_ORDER \
         FROM information_schema.TRIGGERS{} \
         ORDER BY TRIGGER_SCHEMA, EVENT_OBJECT_TABLE, EVENT_MANIPULATION, ACTION_TIMING, ACTION_ORDER, TRIGGER_NAME",
        of_schemas("TRIGGER_SCHEMA", selection)
    )
}

fn events_sql(selection: &Selection) -> String {
    format!(
        "SELECT EVENT_SCHEMA, EVENT_NAME, STATUS, DEFINER, DATABASE_COLLATION, SQL_MODE, CHARACTER_SET_CLIENT, \
         COLLATION_CONNECTION, EVENT_TYPE, EVENT_DEFINITION, TIME_ZONE, EXECUTE_AT, INTERVAL_VALUE, INTERVAL_FIELD, STARTS, \
         ENDS, ON_COMPLETION, EVENT_COMMENT FROM information_schema.EVENTS{} ORDER BY EVENT_SCHEMA, EVENT_NAME",
        of_schemas("EVENT_SCHEMA", selection)
    )
}

fn of_schemas(column: &str, selection: &Selection) -> String {
    let Some(schemas) = selection.schemas_here() else { return String::new() };
    let list: Vec<String> = schemas.iter().map(|schema| text_literal(schema)).collect();
    // MariaDB looks into one folder only where the schema is given by itself.
    match list.as_slice() {
        [one] => format!(" WHERE {column} = {one}"),
        several => format!(" WHERE {column} IN ({})", several.join(", ")),
    }
}

fn listed(side: Side, kind: Kind, row: Row, selection: &Selection) -> Result<Option<Listed>> {
    let mut row: Vec<Vec<u8>> = row.unwrap_raw().into_iter().map(|value| bytes(value.as_ref())).collect();
    let text = |index: usize| {
        let bytes = row.get(index).cloned().unwrap_or_default();
        String::from_utf8(bytes)
            .map_err(|_| Error::definite(side, PLACE, "the server's answer isn't text in UTF-8"))
    };
    let stored = TableName::new(text(0)?, text(1)?);
    // What a trigger is on; of an event, whether it is enabled.
    let third = text(2)?;
    let (schema, table) = match kind {
        Kind::Trigger => match selection.known(&TableName::new(&stored.schema, &third)) {
            Known::Moved(table) => (table.schema.clone(), Some(table)),
            Known::Other | Known::Unnamed => return Ok(None),
        },
        Kind::Event => match selection.names().source_schema(&stored.schema) {
            Some(schema) if selection.takes_schema(&schema) => (schema, None),
            _ => return Ok(None),
        },
    };
    let name = TableName::new(schema, &stored.table);
    let (definer, database_collation) = (text(3)?, text(4)?);
    let time_zone = (kind == Kind::Event).then(|| text(10)).transpose()?;
    // What it is told apart by goes by the source's names.
    for (index, name) in [(0, Some(&name.schema)), (2, table.as_ref().map(|table| &table.table))] {
        if let (Some(cell), Some(name)) = (row.get_mut(index), name) {
            *cell = name.as_bytes().to_vec();
        }
    }
    let what: &[usize] = match kind {
        Kind::Trigger => &[0, 1, 2, 3, 8, 9, 10],
        Kind::Event => &[0, 1, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    };
    let mut key = Sha256::new();
    key.update(kind.word());
    for index in what {
        let cell = row.get(*index).map(Vec::as_slice).unwrap_or_default();
        key.update((cell.len() as u64).to_le_bytes());
        key.update(cell);
    }
    Ok(Some(Listed {
        kind,
        name,
        stored,
        table,
        definer,
        database_collation,
        time_zone,
        enabled: kind == Kind::Event && third.eq_ignore_ascii_case("ENABLED"),
        key: key.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        row,
    }))
}

fn bytes(value: Option<&Value>) -> Vec<u8> {
    match value {
        Some(Value::Bytes(bytes)) => bytes.clone(),
        Some(Value::NULL) | None => Vec::new(),
        Some(other) => other.as_sql(true).into_bytes(),
    }
}

#[cfg(test)]
impl Listed {
    /// One for the tests of what is decided about them.
    pub(super) fn sample(kind: Kind, name: &str, key: &str, enabled: bool) -> Self {
        Self {
            kind,
            name: TableName::new("shop", name),
            stored: TableName::new("shop", name),
            table: None,
            definer: "app@%".to_owned(),
            database_collation: "utf8mb4_general_ci".to_owned(),
            time_zone: None,
            enabled,
            key: key.to_owned(),
            row: Vec::new(),
        }
    }
}
