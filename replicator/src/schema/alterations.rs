//! ALTER TABLE that is about columns which aren't moved and about nothing else ([`super::left_out`]). Pure.
//!
//! Seen through the filter nothing happens there, so nothing is done on the target. What is known of these columns is carried
//! on from the statement alone: the source may have changed them again by now. A column whose type was changed is
//! [`LeftOutColumn::altered`], and read by what the binary log says it is.

use super::ddl::{Parsed, Token, words};
use super::left_out::{Filling, LeftOut, LeftOutColumn, Part, PartKind, no_way_back, same};
use super::table::TableSchema;

/// What such a statement may do. Names as they stand in it.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    DropColumn(String),
    DropIndex(String),
    Modify { column: String, filling: Filling, definition: String },
}

/// Words of a column's new definition by which more than the column changes.
const MORE: [&str; 11] = [
    "FIRST",
    "AFTER",
    "UNIQUE",
    "PRIMARY",
    "KEY",
    "REFERENCES",
    "CHECK",
    "CONSTRAINT",
    "AS",
    "AUTO_INCREMENT",
    "SERIAL",
];

/// What isn't moved of the table behind the ALTER TABLE, if that is about nothing else.
pub(crate) fn beside(sql: &[u8], table: &TableSchema) -> Option<LeftOut> {
    if table.left_out.is_empty() {
        return None;
    }
    let parsed = Parsed::of(sql, &table.name.schema, false);
    let behind_name = parsed.named.first()?.span.end;
    let tokens: Vec<_> = parsed.tokens.iter().filter(|(_, span)| span.start >= behind_name).collect();
    let mut left_out = table.left_out.clone();
    let mut steps = 0;
    let mut depth = 0_usize;
    let clauses = tokens.split(|(token, _)| {
        match token {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *token == Token::Symbol(b',')
    });
    for clause in clauses {
        let (Some((_, first)), Some((_, last))) = (clause.first(), clause.last()) else { return None };
        let words: Vec<&Token> = clause.iter().map(|(token, _)| token).collect();
        if is_how(&words) {
            continue;
        }
        let text = String::from_utf8_lossy(sql.get(first.start..last.end)?);
        left_out = left_out.behind_step(&step(&words, &text)?)?;
        steps += 1;
    }
    left_out.no_way_back = no_way_back(&left_out.columns, &left_out.parts);
    let behind = if left_out.is_empty() { LeftOut::default() } else { left_out };
    (steps > 0).then_some(behind)
}

fn is(token: Option<&&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(w)) if w.eq_ignore_ascii_case(word))
}

/// `ALGORITHM = x`, `LOCK = x`: how it is done, not what.
fn is_how(clause: &[&Token]) -> bool {
    let how = is(clause.first(), "ALGORITHM") || is(clause.first(), "LOCK");
    how && clause.iter().skip(1).all(|token| matches!(token, Token::Word(_) | Token::Symbol(b'=')))
        && clause.len() <= 3
}

fn step(clause: &[&Token], text: &str) -> Option<Step> {
    let (first, mut rest) = clause.split_first()?;
    let mut skip = |words: &[&str]| {
        let all = words.iter().enumerate().all(|(at, word)| is(rest.get(at), word));
        if all {
            rest = rest.get(words.len()..).unwrap_or_default();
        }
        all
    };
    let dropping = is(Some(first), "DROP");
    if !dropping && !is(Some(first), "MODIFY") {
        return None;
    }
    let index = dropping && (skip(&["INDEX"]) || skip(&["KEY"]));
    let _filler = index || skip(&["COLUMN"]);
    skip(&["IF", "EXISTS"]);
    let (name, definition) = rest.split_first()?;
    let (Token::Word(name) | Token::Quoted(name)) = name else { return None };
    if dropping {
        let ends = definition.is_empty() || is(definition.first(), "RESTRICT") && definition.len() == 1;
        let name = name.clone();
        return ends.then_some(if index { Step::DropIndex(name) } else { Step::DropColumn(name) });
    }
    let changes_more = |token: &&Token| MORE.iter().any(|word| is(Some(token), word));
    if definition.is_empty() || definition.iter().any(changes_more) {
        return None;
    }
    Some(Step::Modify { column: name.clone(), filling: filling(definition), definition: text.to_owned() })
}

/// What an INSERT that doesn't name the column gives it. Where the text leaves that to the server's settings it counts as the
/// one that promises less.
fn filling(definition: &[&Token]) -> Filling {
    let default = definition.iter().position(|token| is(Some(token), "DEFAULT"));
    if let Some(at) = default {
        return if is(definition.get(at + 1), "NULL") { Filling::Null } else { Filling::Default };
    }
    let nulls = definition.iter().position(|token| is(Some(token), "NULL"));
    match nulls {
        Some(at) if at.checked_sub(1).is_some_and(|before| is(definition.get(before), "NOT")) => {
            Filling::Nothing
        }
        // A TIMESTAMP may be NOT NULL by itself, with a default.
        None if is(definition.first(), "TIMESTAMP") => Filling::Default,
        _ => Filling::Null,
    }
}

impl LeftOut {
    /// The same behind a step; `None` where that is about more.
    fn behind_step(mut self, step: &Step) -> Option<Self> {
        match step {
            Step::DropColumn(name) => {
                let gone = self.columns.iter().position(|left| same(&left.column.name, name))?;
                let LeftOutColumn { at, .. } = self.columns.remove(gone);
                self.columns.iter_mut().filter(|left| left.at > at).for_each(|left| left.at -= 1);
                let parts = std::mem::take(&mut self.parts);
                for part in parts {
                    self.parts.extend(self.without(part, name)?);
                }
            }
            Step::DropIndex(name) => {
                let whole = |part: &Part| {
                    matches!(part.kind, PartKind::Unique | PartKind::Index) && part.becomes.is_empty()
                };
                let gone = self.parts.iter().position(|part| whole(part) && same(&part.name, name))?;
                self.parts.remove(gone);
            }
            Step::Modify { column, filling, definition } => {
                let left = self.columns.iter_mut().find(|left| same(&left.column.name, column))?;
                // Whether it is generated still is said where it wasn't looked at.
                if left.column.generated {
                    return None;
                }
                left.altered = true;
                let is_column = |part: &&mut Part| matches!(part.kind, PartKind::Column(_));
                let mut parts = self.parts.iter_mut().filter(is_column);
                let part = parts.find(|part| same(&part.name, column))?;
                part.kind = PartKind::Column(*filling);
                part.definition.clone_from(definition);
            }
        }
        Some(self)
    }

    /// A part behind the end of a column that isn't among [`Self::columns`] any more. `None`: what is moved isn't the same then.
    fn without(&self, mut part: Part, column: &str) -> Option<Option<Part>> {
        match part.kind {
            PartKind::Column(_) => Some((!same(&part.name, column)).then_some(part)),
            // It holds that column alone, or the server would have refused.
            PartKind::Check => {
                let names = words(part.definition.as_bytes()).iter().any(|word| same(word, column));
                Some((!names).then_some(part))
            }
            PartKind::Unique | PartKind::Index => {
                let before = part.columns.len();
                part.columns.retain(|name| !same(name, column));
                if part.columns.len() == before {
                    return Some(Some(part));
                }
                let all = part.columns.iter().all(|name| self.has_column(name));
                let any = part.columns.iter().any(|name| self.has_column(name));
                match part.kind {
                    // Of its other columns it says something from here on.
                    PartKind::Unique if !all => None,
                    _ => Some(any.then_some(part)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::apply::sample::{column, schema};
    use crate::schema::table::ColumnKind;

    /// `secret id a hash seen`, of which id and a are moved.
    fn table() -> TableSchema {
        let int = |name: &str| column(name, ColumnKind::Integer { bytes: 4, unsigned: false }, None);
        let mut table = schema("users", vec![int("id"), int("a")], &[&[0]]);
        let left = |at, name: &str| LeftOutColumn { at, column: int(name), altered: false };
        table.left_out.columns = vec![left(0, "secret"), left(3, "hash"), left(4, "seen")];
        let part = |kind, name: &str, columns: &[&str], becomes: &str, definition: &str| Part {
            kind,
            name: name.to_owned(),
            definition: definition.to_owned(),
            becomes: becomes.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            lossy: false,
        };
        table.left_out.parts = vec![
            part(PartKind::Column(Filling::Null), "secret", &[], "", "int"),
            part(PartKind::Column(Filling::Default), "hash", &[], "", "int"),
            part(PartKind::Column(Filling::Nothing), "seen", &[], "", "int"),
            part(PartKind::Unique, "secret", &["secret"], "", ""),
            part(PartKind::Unique, "mixed_up", &["hash", "a"], "", ""),
            part(PartKind::Index, "mixed", &["a", "secret"], "KEY mixed (a)", ""),
            part(PartKind::Index, "hidden", &["hash", "secret"], "", ""),
            part(PartKind::Check, "own", &[], "", "CHECK (`secret` > 0)"),
        ];
        table.left_out.no_way_back = Some("of seen".to_owned());
        table
    }

    fn shown(sql: &str) -> Option<String> {
        let left_out = beside(sql.as_bytes(), &table())?;
        let columns = left_out
            .columns
            .iter()
            .map(|left| format!("{}{}{}", left.column.name, left.at, if left.altered { "!" } else { "" }));
        let columns: Vec<_> = columns.collect();
        let parts: Vec<_> = left_out
            .parts
            .iter()
            .map(|part| match part.kind {
                PartKind::Column(filling) => format!("{}:{filling:?}", part.name),
                _ => format!("{}({})", part.name, part.columns.join(",")),
            })
            .collect();
        let back = if left_out.no_way_back.is_some() { "; no way back" } else { "" };
        Some(format!("{}; {}{back}", columns.join(" "), parts.join(" ")))
    }

    #[test]
    fn what_is_about_nothing_else_is_carried_on() {
        let check = |sql: &str, expected: &str| assert_eq!(shown(sql).as_deref(), Some(expected), "{sql}");
        check(
            "ALTER TABLE users DROP COLUMN `Secret`",
            "hash2 seen3; hash:Default seen:Nothing mixed_up(hash,a) hidden(hash); no way back",
        );
        check(
            "ALTER TABLE s.users DROP secret, DROP COLUMN IF EXISTS seen, ALGORITHM=INPLACE, LOCK NONE",
            "hash2; hash:Default mixed_up(hash,a) hidden(hash); no way back",
        );
        check(
            "ALTER TABLE users MODIFY seen DECIMAL(10, 2) DEFAULT NULL COMMENT 'a, FIRST', DROP KEY mixed_up",
            "secret0 hash3 seen4!; secret:Null hash:Default seen:Null secret(secret) mixed(a,secret) \
             hidden(hash,secret) own()",
        );
        check(
            "ALTER TABLE users DROP INDEX mixed_up, DROP COLUMN hash, DROP COLUMN secret, MODIFY seen INT",
            "seen2!; seen:Null",
        );
        check("alter table users drop index mixed_up, drop hash, drop secret, drop seen", "; ");
    }

    #[test]
    fn what_is_about_more_is_not() {
        for sql in [
            "ALTER TABLE users DROP COLUMN a",
            "ALTER TABLE users DROP COLUMN secret, DROP COLUMN a",
            "ALTER TABLE users DROP COLUMN secret, ADD COLUMN b INT",
            "ALTER TABLE users DROP COLUMN other",
            // The key would be one of column a alone.
            "ALTER TABLE users DROP COLUMN hash",
            "ALTER TABLE users DROP INDEX mixed",
            "ALTER TABLE users DROP PRIMARY KEY",
            "ALTER TABLE users DROP FOREIGN KEY secret",
            "ALTER TABLE users DROP PARTITION secret",
            "ALTER TABLE users MODIFY secret INT FIRST",
            "ALTER TABLE users MODIFY secret INT AFTER a",
            "ALTER TABLE users MODIFY secret INT UNIQUE",
            "ALTER TABLE users MODIFY secret INT AS (a + 1)",
            "ALTER TABLE users MODIFY secret",
            "ALTER TABLE users MODIFY a INT",
            "ALTER TABLE users CHANGE secret secret INT",
            "ALTER TABLE users RENAME COLUMN secret TO s",
            "ALTER TABLE users ALGORITHM=INPLACE",
            "ALTER TABLE users DROP COLUMN secret,",
            "ALTER TABLE users DROP COLUMN secret COMMENT 'x'",
            "ALTER TABLE users",
        ] {
            assert_eq!(shown(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_column_is_filled_by_what_its_text_says() {
        let check = |definition: &str, expected: Filling| {
            let sql = format!("ALTER TABLE users MODIFY COLUMN secret {definition}");
            let left_out = beside(sql.as_bytes(), &table()).unwrap();
            assert_eq!(left_out.parts[0].kind, PartKind::Column(expected), "{definition}");
        };
        check("INT", Filling::Null);
        check("INT NULL", Filling::Null);
        check("INT NOT NULL", Filling::Nothing);
        check("INT NOT NULL DEFAULT 4", Filling::Default);
        check("VARCHAR(9) DEFAULT 'NULL'", Filling::Default);
        check("TEXT DEFAULT (concat('a', 'b'))", Filling::Default);
        check("TIMESTAMP", Filling::Default);
        check("TIMESTAMP NULL", Filling::Null);
    }
}
