//! Views, procedures and functions: made on the target once its tables are there.
//!
//! Each is made from its own CREATE statement in the session that it was made in (sql_mode, character set, collation), with
//! its definer. Views may need each other in any order, and routines as well, so whatever lacks something is tried again
//! as long as that helps. What can't be made is said and left out: rows don't depend on it, and `check` has listed it.
//! Triggers and events act on their own and aren't made here, but at the cutover ([`crate::activation`]).

use config::names::quote_identifier;
use config::{Dialect, Side, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use serde::{Deserialize, Serialize};

use super::convert::{charset_on, collation_on};
use super::discover::OtherObject;
use super::renamed::Renaming;
use crate::error::{Error, ErrorKind, Result};

/// The session in which something was made, as the server has kept it with the definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) sql_mode: String,
    pub(crate) charset: String,
    pub(crate) collation: String,
    /// Of an event.
    pub(crate) time_zone: Option<String>,
}

impl Session {
    /// In the terms of a server of the same family.
    pub(crate) fn on(&self, dialect: Dialect) -> Self {
        let gone = |mode: &&str| !(dialect.is_mysql_8() && GONE_MODES.contains(mode));
        Self {
            sql_mode: self.sql_mode.split(',').filter(gone).collect::<Vec<_>>().join(","),
            charset: charset_on(&self.charset, dialect),
            collation: collation_on(&self.collation, dialect),
            time_zone: self.time_zone.clone(),
        }
    }

    /// Goes into it. Charsets come last: they say how the text that follows is read.
    pub(crate) fn statement(&self) -> String {
        let only = |text: &str, marks: &str| {
            text.chars().filter(|c| c.is_ascii_alphanumeric() || marks.contains(*c)).collect::<String>()
        };
        let zone = self.time_zone.as_deref().map(|zone| format!("time_zone = '{}', ", only(zone, "_/+-:")));
        format!(
            "SET sql_mode = '{}', {}character_set_client = {}, collation_connection = {}",
            only(&self.sql_mode, "_,"),
            zone.unwrap_or_default(),
            only(&self.charset, "_"),
            only(&self.collation, "_")
        )
    }
}

/// Modes that MySQL 8 took away; a replica leaves them out as well.
const GONE_MODES: [&str; 11] = [
    "NO_AUTO_CREATE_USER",
    "NO_FIELD_OPTIONS",
    "NO_KEY_OPTIONS",
    "NO_TABLE_OPTIONS",
    "DB2",
    "MAXDB",
    "MSSQL",
    "MYSQL323",
    "MYSQL40",
    "ORACLE",
    "POSTGRESQL",
];

/// A statement and its session.
struct Object {
    kind: &'static str,
    name: TableName,
    /// As the server keeps it, in the character set of its own session.
    create: Vec<u8>,
    session: Session,
}

/// What became of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// So many are there.
    pub(crate) made: usize,
    /// Kind, name and reason of each that isn't.
    pub(crate) left_out: Vec<String>,
}

/// Makes the views and routines among `objects`. It can be repeated: what is there already stays as it is.
///
/// # Errors
/// A connection broke.
pub(crate) async fn create(
    source: &mut Conn,
    target: &mut Conn,
    objects: &[OtherObject],
    renaming: &Renaming,
) -> Result<Made> {
    let mut made = Made::default();
    let (mut waiting, left_out) = read_all(source, objects, renaming).await?;
    made.left_out = left_out;
    // Routines first: they name what they use only when they run.
    waiting.sort_by_key(|object| object.kind == "VIEW");
    loop {
        let (before, mut failed) = (waiting.len(), Vec::new());
        let mut reasons = Vec::new();
        for object in waiting {
            match make(target, &object).await {
                Ok(()) => made.made += 1,
                Err(error) if error.kind == ErrorKind::Transient => return Err(error),
                Err(error) => {
                    reasons.push(format!(
                        "{} {}: {}",
                        object.kind.to_lowercase(),
                        object.name,
                        error.message
                    ));
                    failed.push(object);
                }
            }
        }
        if failed.is_empty() || failed.len() == before {
            made.left_out.extend(reasons);
            break;
        }
        waiting = failed;
    }
    for statement in
        ["SET NAMES binary", "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'"]
    {
        target
            .query_drop(statement)
            .await
            .map_err(|error| Error::database(Side::Target, "leaving a session of objects", &error))?;
    }
    Ok(made)
}

/// The views and routines whose text can't be put into the other side's names, each with the reason.
///
/// # Errors
/// The connection broke.
pub(crate) async fn not_renamed(
    source: &mut Conn,
    objects: &[OtherObject],
    renaming: &Renaming,
) -> Result<Vec<String>> {
    if renaming.is_plain() {
        return Ok(Vec::new());
    }
    Ok(read_all(source, objects, renaming).await?.1)
}

/// What can be made, and the others, each with the reason why not.
async fn read_all(
    source: &mut Conn,
    objects: &[OtherObject],
    renaming: &Renaming,
) -> Result<(Vec<Object>, Vec<String>)> {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for object in objects {
        let kind = match object.kind.as_str() {
            "procedure" => "PROCEDURE",
            "function" => "FUNCTION",
            "view" => "VIEW",
            _ => continue,
        };
        let read = match read(source, kind, object).await? {
            Some(object) => renamed(object, renaming),
            None => Err("the account may not see its definition".to_owned()),
        };
        match read {
            Ok(object) => found.push(object),
            Err(why) => left_out.push(format!("{} {}.{}: {why}", object.kind, object.schema, object.name)),
        }
    }
    Ok((found, left_out))
}

/// The object under the other side's names.
fn renamed(mut object: Object, renaming: &Renaming) -> std::result::Result<Object, String> {
    if renaming.is_plain() {
        return Ok(object);
    }
    if !is_readable(&object.create, &object.session.charset) {
        return Err(format!(
            "it was made in {}, in which names can't be told from its bytes",
            object.session.charset
        ));
    }
    let nowhere = || "its name has no counterpart on the other side (migration.rename)".to_owned();
    if object.kind == "VIEW" {
        object.create = renaming.view(&object.create)?;
        object.name = renaming.table(&object.name).ok_or_else(nowhere)?;
    } else {
        object.create = renaming.stored(&object.create, &object.name.schema)?;
        object.name.schema = renaming.schema(&object.name.schema).ok_or_else(nowhere)?;
    }
    Ok(object)
}

/// False for a text in a character set in which the second byte of a character may look like a quote or a backslash.
pub(crate) fn is_readable(text: &[u8], charset: &str) -> bool {
    const UNREADABLE: [&str; 5] = ["big5", "sjis", "gbk", "cp932", "gb18030"];
    text.is_ascii() || !UNREADABLE.iter().any(|known| charset.eq_ignore_ascii_case(known))
}

/// Its CREATE statement, in a session without a default schema, so that every name in a view is complete.
async fn read(source: &mut Conn, kind: &'static str, object: &OtherObject) -> Result<Option<Object>> {
    let name = TableName::new(&object.schema, &object.name);
    let row: Option<Row> = source
        .query_first(format!("SHOW CREATE {kind} {}", name.quoted()))
        .await
        .map_err(|error| Error::database(Side::Source, name.to_string(), &error))?;
    let Some(row) = row else { return Ok(None) };
    let bytes =
        |index: usize| row.get_opt::<Option<Vec<u8>>, _>(index).and_then(std::result::Result::ok).flatten();
    let text = |index: usize| bytes(index).and_then(|bytes| String::from_utf8(bytes).ok());
    let (sql_mode, create, charset, collation) = match kind {
        "VIEW" => (None, bytes(1), text(2), text(3)),
        _ => (text(1), bytes(2), text(3), text(4)),
    };
    Ok(create.zip(charset).zip(collation).map(|((create, charset), collation)| Object {
        kind,
        name,
        create,
        session: Session { sql_mode: sql_mode.unwrap_or_default(), charset, collation, time_zone: None },
    }))
}

async fn make(target: &mut Conn, object: &Object) -> Result<()> {
    const THERE_ALREADY: [u16; 2] = [1050, 1304];
    let database = |error: mysql_async::Error| Error::database(Side::Target, object.name.to_string(), &error);
    for statement in [format!("USE {}", quote_identifier(&object.name.schema)), object.session.statement()] {
        target.query_drop(statement).await.map_err(database)?;
    }
    match target.query_drop(object.create.as_slice()).await {
        Ok(()) => Ok(()),
        Err(mysql_async::Error::Server(error)) if THERE_ALREADY.contains(&error.code) => Ok(()),
        Err(error) => Err(database(error)),
    }
}
