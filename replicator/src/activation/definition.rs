//! CREATE statements of triggers and events: read from one server, made on another.
//!
//! An event that is to run is made disabled: it may not run before its server serves. It is woken then by ALTER EVENT, in
//! the session and with the definer that it was made with, which ALTER would otherwise replace by its own.

use config::names::quote_identifier;
use config::{Dialect, Side, TableName};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::book::Sleeping;
use super::listing::{Kind, Listed};
use crate::error::{Error, Result};
use crate::schema::objects::{Session, is_readable};
use crate::schema::renamed::Renaming;

/// There is no such trigger, no such event.
const GONE: [u16; 2] = [1360, 1539];
/// An event whose time is past can't be made, or woken.
const PAST: [u16; 2] = [1588, 1589];

/// What helps where a text can't be put into the other side's names.
pub(super) const BY_HAND: &str = "drop it where it serves, and make it by hand on the other side behind the cutover, or write its text without that name";

/// A CREATE statement and its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// As the server keeps it, in the character set of its own session.
    pub(super) create: Vec<u8>,
    /// As it is made on the other side, by the names that are used there; or why it can't be.
    pub(super) there: std::result::Result<There, String>,
    pub(super) session: Session,
    /// Of an event that is to run.
    pub(super) asleep: Option<Asleep>,
}

/// A CREATE statement for the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct There {
    create: Vec<u8>,
    /// The schema in which it is made.
    pub(super) schema: String,
}

/// An event that may not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asleep {
    /// Its CREATE statement with DISABLE.
    create: Vec<u8>,
    /// `DEFINER=…`
    definer: String,
}

impl Asleep {
    /// Takes the statement of SHOW CREATE EVENT apart. What stands before the body was put together by the server.
    fn of(create: &[u8]) -> Option<Self> {
        const ENABLE: &[u8] = b" PRESERVE ENABLE";
        let rest = create.strip_prefix(b"CREATE ")?;
        let definer = rest.get(..find_outside_quotes(rest, b" EVENT ")?)?;
        let definer = String::from_utf8(definer.to_vec()).ok().filter(|d| d.starts_with("DEFINER="))?;
        let end = find_outside_quotes(create, ENABLE)? + ENABLE.len();
        let (head, body) = create.split_at_checked(end)?;
        let head = head.strip_suffix(b"ENABLE")?;
        body.starts_with(b" ").then(|| Self { create: [head, b"DISABLE", body].concat(), definer })
    }
}

/// Where `wanted` begins, outside of names and literals.
fn find_outside_quotes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut within = None;
    text.iter().enumerate().find_map(|(at, byte)| {
        match within {
            // A doubled quote ends and begins again.
            Some(quote) if quote == *byte => within = None,
            Some(_) => {}
            None if matches!(byte, b'`' | b'\'' | b'"') => within = Some(*byte),
            None if text.get(at..).is_some_and(|rest| rest.starts_with(wanted)) => return Some(at),
            None => {}
        }
        None
    })
}

/// Reads the definition of each.
///
/// # Errors
/// One can't be read, or is gone by now: then the same question has another answer next time.
pub(super) async fn read(
    side: Side,
    conn: &mut Conn,
    found: Vec<Listed>,
    renaming: &Renaming,
) -> Result<Vec<(Listed, Definition)>> {
    let mut definitions = Vec::with_capacity(found.len());
    for listed in found {
        let definition = read_one(side, conn, &listed, renaming).await?;
        definitions.push((listed, definition));
    }
    Ok(definitions)
}

async fn read_one(side: Side, conn: &mut Conn, listed: &Listed, renaming: &Renaming) -> Result<Definition> {
    let called = listed.called();
    let sql = format!("SHOW CREATE {} {}", listed.kind.word(), listed.stored.quoted());
    let row: Option<Row> = match conn.query_first(sql).await {
        Err(mysql_async::Error::Server(error)) if GONE.contains(&error.code) => {
            return Err(Error::transient(side, called, "it was dropped just now; it is looked at again"));
        }
        row => row.map_err(|error| Error::database(side, &called, &error))?,
    };
    let bytes = |index: usize| {
        let cell = row.as_ref().and_then(|row| row.get_opt::<Option<Vec<u8>>, _>(index));
        cell.and_then(std::result::Result::ok).flatten()
    };
    let text = |index: usize| bytes(index).and_then(|bytes| String::from_utf8(bytes).ok());
    let (zone, create, charset) = match listed.kind {
        Kind::Trigger => (None, 2, 3),
        Kind::Event => (Some(text(2)), 3, 4),
    };
    let complete = (text(1), bytes(create), text(charset), text(charset + 1));
    let (Some(sql_mode), Some(create), Some(charset), Some(collation)) = complete else {
        let why = "the account may not see its definition; grant it TRIGGER and EVENT there";
        return Err(Error::definite(side, called, why));
    };
    let there = renamed(listed, &create, &charset, renaming);
    let asleep = match listed.enabled {
        false => None,
        true => Some(Asleep::of(there.as_ref().map_or(&create, |there| &there.create)).ok_or_else(|| {
            Error::definite(side, &called, "its definition isn't understood; make it by hand, or drop it")
        })?),
    };
    // It is woken by its name, in the character set of its session.
    let name = [&listed.name.schema, &listed.name.table, &listed.definer];
    if asleep.is_some() && !charset.starts_with("utf8") && !name.iter().all(|part| part.is_ascii()) {
        let why = format!(
            "its name or its definer has letters beyond ASCII, and it was made in {charset}; make it anew in utf8mb4"
        );
        return Err(Error::definite(side, called, why));
    }
    Ok(Definition {
        create,
        there,
        session: Session { sql_mode, charset, collation, time_zone: zone.flatten() },
        asleep,
    })
}

/// The statement that makes it on the other side. An error is the rest of a sentence about it.
fn renamed(
    listed: &Listed,
    create: &[u8],
    charset: &str,
    renaming: &Renaming,
) -> std::result::Result<There, String> {
    let schema = &listed.stored.schema;
    if renaming.is_plain() {
        return Ok(There { create: create.to_vec(), schema: schema.clone() });
    }
    if !is_readable(create, charset) {
        return Err(format!("it was made in {charset}, in which names can't be told from its bytes"));
    }
    let create = match listed.kind {
        Kind::Trigger => renaming.trigger(create, schema)?,
        Kind::Event => renaming.stored(create, schema)?,
    };
    let there = listed.schema_on(renaming.to_names());
    let schema = there.ok_or_else(|| "its schema has no counterpart on the other side".to_owned())?;
    Ok(There { create, schema })
}

/// Makes triggers and events on a server, one after the other.
pub(super) struct Maker<'a> {
    pub(super) side: Side,
    pub(super) conn: &'a mut Conn,
    pub(super) dialect: Dialect,
    /// Schema and session that the connection is in.
    within: Option<(String, Session)>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(side: Side, conn: &'a mut Conn, dialect: Dialect) -> Self {
        Self { side, conn, dialect, within: None }
    }

    /// Goes into the session of a definition, in the server's own terms.
    pub(super) async fn enter(&mut self, schema: &str, session: &Session, called: &str) -> Result<()> {
        let wanted = (schema.to_owned(), session.on(self.dialect));
        if self.within.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.within = None;
        // Names are UTF-8, whatever the session before was.
        let names = "SET NAMES binary".to_owned();
        for sql in [names, format!("USE {}", quote_identifier(schema)), wanted.1.statement()] {
            self.conn.query_drop(sql).await.map_err(|error| match &error {
                mysql_async::Error::Server(server) if server.code == 1298 => Error::definite(
                    self.side,
                    called,
                    format!(
                        "the server doesn't know the time zone {} that it goes by; load the zones there \
                         (mysql_tzinfo_to_sql)",
                        session.time_zone.as_deref().unwrap_or_default()
                    ),
                ),
                _ => Error::database(self.side, called, &error),
            })?;
        }
        self.within = Some(wanted);
        Ok(())
    }

    /// Goes back to where names are UTF-8.
    pub(super) async fn leave(self) -> Result<()> {
        let left = self.conn.query_drop("SET NAMES binary").await;
        left.map_err(|error| Error::database(self.side, "leaving a session of definitions", &error))
    }

    /// Makes it; an event that is to run, disabled.
    pub(super) async fn make(&mut self, listed: &Listed, definition: &Definition) -> Result<()> {
        let called = listed.called();
        let there = definition.there.as_ref();
        let there = there.map_err(|why| Error::definite(self.side, &called, format!("{why}; {BY_HAND}")))?;
        self.enter(&there.schema, &definition.session, &called).await?;
        let create = definition.asleep.as_ref().map_or(&there.create, |asleep| &asleep.create);
        let made = self.conn.query_drop(create.as_slice()).await;
        made.map_err(|error| refused(self.side, &called, &error))
    }

    /// Wakes an event, which the server calls `stored`. False where its time is past.
    pub(super) async fn wake(&mut self, event: &Sleeping, stored: &TableName) -> Result<bool> {
        let called = format!("event {}", event.name);
        self.enter(&stored.schema, &event.session, &called).await?;
        let sql = format!("ALTER {} EVENT {} ENABLE", event.definer, stored.quoted());
        match self.conn.query_drop(sql).await {
            Ok(()) => Ok(true),
            Err(mysql_async::Error::Server(error)) if PAST.contains(&error.code) => Ok(false),
            Err(error) => Err(Error::database(self.side, called, &error)),
        }
    }
}

/// What the server says, and what helps.
fn refused(side: Side, called: &str, error: &mysql_async::Error) -> Error {
    let remedy = match error {
        mysql_async::Error::Server(error) => match error.code {
            1419 => "; SET GLOBAL log_bin_trust_function_creators = 1 there",
            1227 => "; give the service account there what docs/accounts.md lists",
            _ => "; change it where it serves, or drop it",
        },
        _ => "",
    };
    let mut error = Error::database(side, called, error);
    error.message.push_str(remedy);
    error
}

/// What becomes of a definition behind the swap.
pub(super) fn sleeping(listed: &Listed, definition: &Definition) -> Option<Sleeping> {
    definition.asleep.as_ref().map(|asleep| Sleeping {
        name: listed.name.clone(),
        definer: asleep.definer.clone(),
        session: definition.session.clone(),
    })
}

/// Drops them. One that is gone already is no error.
pub(super) async fn drop_all(side: Side, conn: &mut Conn, which: &[&Listed]) -> Result<()> {
    for listed in which {
        let sql = format!("DROP {} IF EXISTS {}", listed.kind.word(), listed.stored.quoted());
        conn.query_drop(sql).await.map_err(|error| Error::database(side, listed.called(), &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_event_is_put_to_sleep_by_its_own_word_alone() {
        let check = |create: &str, expected: &str, definer: &str| {
            let asleep = Asleep::of(create.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(asleep.create).unwrap(), expected);
            assert_eq!(asleep.definer, definer);
        };
        check(
            "CREATE DEFINER=`a`@`%` EVENT `e` ON SCHEDULE EVERY 1 SECOND STARTS '2026-01-01 00:00:00' ON COMPLETION NOT \
             PRESERVE ENABLE DO SET @x = ' PRESERVE ENABLE '",
            "CREATE DEFINER=`a`@`%` EVENT `e` ON SCHEDULE EVERY 1 SECOND STARTS '2026-01-01 00:00:00' ON COMPLETION NOT \
             PRESERVE DISABLE DO SET @x = ' PRESERVE ENABLE '",
            "DEFINER=`a`@`%`",
        );
        check(
            "CREATE DEFINER=`a EVENT ``b`@`%` EVENT ` PRESERVE ENABLE ` ON SCHEDULE AT '2036-01-01 00:00:00' ON COMPLETION \
             PRESERVE ENABLE COMMENT 'it''s' DO DELETE FROM t",
            "CREATE DEFINER=`a EVENT ``b`@`%` EVENT ` PRESERVE ENABLE ` ON SCHEDULE AT '2036-01-01 00:00:00' ON COMPLETION \
             PRESERVE DISABLE COMMENT 'it''s' DO DELETE FROM t",
            "DEFINER=`a EVENT ``b`@`%`",
        );
        for create in [
            "",
            "CREATE EVENT `e` DO 1",
            "CREATE DEFINER=`a`@`b` EVENT `e` ON COMPLETION PRESERVE DISABLE DO 1",
        ] {
            assert_eq!(Asleep::of(create.as_bytes()), None, "{create}");
        }
    }
}
