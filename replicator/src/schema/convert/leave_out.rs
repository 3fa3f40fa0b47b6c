//! A definition without some of its columns, and without what stands on them.

use std::collections::BTreeSet;

use super::key::name_of;
use super::token::{Kind, Token, closing, items, text, tokens};
use super::{NOT_COLUMNS, top_level};
use crate::schema::left_out::{Filling, Part, PartKind, lower};

/// What became of a definition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reduced {
    pub(crate) sql: String,
    /// What isn't in it any more, or not as it was.
    pub(crate) parts: Vec<Part>,
    /// What of the rest stands on the columns, each a full sentence.
    pub(crate) problems: Vec<String>,
}

/// Takes columns, by their names in lower case, out of a server's own SHOW CREATE TABLE. `None`: it isn't one. A line a part,
/// as servers print it.
pub(crate) fn without_columns(create_sql: &str, names: &BTreeSet<String>) -> Option<Reduced> {
    let all = tokens(create_sql)?;
    let open = all.iter().position(|token| token.is_mark("("))?;
    let close = closing(&all, open)?;
    let mut reducer = Reducer { names, parts: Vec::new(), problems: Vec::new() };
    let mut kept = Vec::new();
    for part in items(all.get(open + 1..close)?) {
        let first = part.first()?;
        kept.extend(match NOT_COLUMNS.iter().any(|word| first.is(word)) {
            true => reducer.key(&part),
            false => reducer.column(&part),
        });
    }
    let behind = all.get(close + 1..)?;
    reducer.partitions(behind);
    let (head, behind) = (text(all.get(..open)?), text(behind));
    let sql = format!("{head} (\n  {}\n) {behind}", kept.join(",\n  ")).trim_end().to_owned();
    Some(Reduced { sql, parts: reducer.parts, problems: reducer.problems })
}

struct Reducer<'a> {
    names: &'a BTreeSet<String>,
    parts: Vec<Part>,
    problems: Vec<String>,
}

impl Reducer<'_> {
    fn leaves_out(&self, name: &str) -> bool {
        self.names.contains(&lower(name))
    }

    /// The first of the columns that the tokens name. Servers quote every column of an expression.
    fn named(&self, part: &[Token]) -> Option<String> {
        let mut names = part.iter().filter(|token| token.kind == Kind::Name).map(Token::name);
        names.find(|name| self.leaves_out(name))
    }

    fn column(&mut self, part: &[Token]) -> Option<String> {
        let (first, rest) = part.split_first()?;
        let name = first.name();
        if !self.leaves_out(&name) {
            if let Some(other) = self.named(rest) {
                self.problems.push(format!(
                    "Its column {name} is made of the column {other} (an expression, a default or a check), which \
                     migration.columns leaves out; leave out both, or none."
                ));
            }
            return Some(text(part));
        }
        if rest.iter().any(|token| token.is("AUTO_INCREMENT")) {
            self.problems.push(format!(
                "Its column {name} is AUTO_INCREMENT, and migration.columns leaves it out; keep it, since nothing could give \
                 its values out on the new server."
            ));
        }
        let (kind, definition) = (PartKind::Column(filling(rest)), text(rest));
        self.parts.push(Part {
            kind,
            name,
            definition,
            becomes: String::new(),
            columns: Vec::new(),
            lossy: false,
        });
        None
    }

    fn key(&mut self, part: &[Token]) -> Option<String> {
        let whole = Some(text(part));
        let Some(found) = self.named(part) else { return whole };
        let head = || part.iter().take_while(|token| !token.is_mark("("));
        let has = |word: &str| head().any(|token| token.is(word));
        let name = name_of(part);
        let Some(open) = part.iter().position(|token| token.is_mark("(")) else { return whole };
        let Some(close) = closing(part, open) else { return whole };
        let list = items(part.get(open + 1..close).unwrap_or_default());
        // An index may be called like a column.
        let stands_on = |item: &Vec<Token>| self.named(item).is_some();
        if !list.iter().any(stands_on) {
            return whole;
        }
        let what = if has("FOREIGN") {
            Some(format!("foreign key {name}"))
        } else if has("PRIMARY") {
            Some("primary key".to_owned())
        } else if has("PERIOD") {
            Some("period".to_owned())
        } else {
            None
        };
        if let Some(what) = what {
            self.problems.push(format!(
                "Its {what} stands on the column {found}, which migration.columns leaves out; keep it."
            ));
            return whole;
        }
        let columns: Vec<String> = list.iter().filter_map(|item| item.first()).map(Token::name).collect();
        let (head_text, tail) = (text(part.get(..open)?), text(part.get(close + 1..).unwrap_or_default()));
        let kept: Vec<String> = list.iter().filter(|item| !stands_on(item)).map(|item| text(item)).collect();
        let definition = text(part);
        if has("CHECK") {
            let names = |token: &&Token| token.kind == Kind::Name;
            let lossy = list.iter().flatten().filter(names).any(|token| !self.leaves_out(&token.name()));
            let becomes = String::new();
            self.parts.push(Part {
                kind: PartKind::Check,
                name,
                definition,
                becomes,
                columns: Vec::new(),
                lossy,
            });
            return None;
        }
        let unique = has("UNIQUE");
        let left = (!unique && !kept.is_empty())
            .then(|| format!("{head_text} ({}) {tail}", kept.join(",")).trim_end().to_owned());
        let kind = if unique { PartKind::Unique } else { PartKind::Index };
        let becomes = left.clone().unwrap_or_default();
        self.parts.push(Part { kind, name, definition, becomes, columns, lossy: false });
        left
    }

    /// What rows are put into partitions by. MySQL before 8.0 doesn't quote it.
    fn partitions(&mut self, behind: &[Token]) {
        let by = |pair: &[Token]| matches!(pair, [word, by] if (word.is("PARTITION") || word.is("SUBPARTITION")) && by.is("BY"));
        let begins = behind.windows(2).enumerate().filter(|(_, pair)| by(pair)).map(|(at, _)| at);
        for begin in begins {
            let Some(open) = behind.iter().skip(begin).position(|token| token.is_mark("(")) else { continue };
            let open = begin + open;
            let inner = closing(behind, open).and_then(|close| behind.get(open..close)).unwrap_or_default();
            let names = inner.iter().filter(|token| matches!(token.kind, Kind::Name | Kind::Word));
            let found = names.map(Token::name).find(|name| self.leaves_out(name));
            if let Some(found) = found {
                self.problems.push(format!(
                    "It is partitioned by its column {found}, which migration.columns leaves out; keep it."
                ));
            }
        }
    }
}

/// What a row gets that is inserted without the column. `rest`: its definition behind the name.
fn filling(rest: &[Token]) -> Filling {
    let top: Vec<&Token> = top_level(rest).filter_map(|at| rest.get(at)).collect();
    let default = top.iter().position(|token| token.is("DEFAULT")).map(|at| top.get(at + 1));
    let not_null = top.windows(2).any(|pair| matches!(pair, [not, null] if not.is("NOT") && null.is("NULL")));
    match default {
        Some(Some(value)) if value.is("NULL") => Filling::Null,
        Some(_) => Filling::Default,
        None if not_null => Filling::Nothing,
        None => Filling::Null,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn reduced(parts: &[&str], options: &str, names: &[&str]) -> Reduced {
        let sql = format!("CREATE TABLE `t` (\n  {}\n){options}", parts.join(",\n  "));
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        without_columns(&sql, &names).unwrap()
    }

    #[test]
    fn what_stands_on_a_column_goes_with_it() {
        let Reduced { sql, parts, problems } = reduced(
            &[
                "`id` int(11) NOT NULL AUTO_INCREMENT",
                "`Secret` varchar(20) CHARACTER SET latin1 DEFAULT NULL COMMENT 'a, `b`)'",
                "`tag` char(3) NOT NULL DEFAULT 'x'",
                "`hash` binary(4) NOT NULL",
                "`kept` varchar(9) DEFAULT 'secret'",
                "PRIMARY KEY (`id`)",
                "UNIQUE KEY `u` (`secret`,`tag`)",
                "UNIQUE KEY `secret` (`kept`)",
                "KEY `k` (`kept`(3) DESC,`Secret`(4)) USING BTREE COMMENT 'c'",
                "KEY `only` (`secret`)",
                "KEY `f` ((lower(`secret`)),`kept`)",
                "FULLTEXT KEY `ft` (`kept`)",
                "CONSTRAINT `own` CHECK (`secret` <> 'kept')",
                "CONSTRAINT `both` CHECK (`secret` <> `kept`)",
                "CONSTRAINT `other` CHECK (`kept` <> '')",
            ],
            " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='secret'",
            &["secret", "tag", "hash"],
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            sql,
            "CREATE TABLE `t` (\n  `id` int(11) NOT NULL AUTO_INCREMENT,\n  `kept` varchar(9) DEFAULT 'secret',\n  \
             PRIMARY KEY (`id`),\n  UNIQUE KEY `secret` (`kept`),\n  KEY `k` (`kept`(3) DESC) USING BTREE COMMENT 'c',\n  \
             KEY `f` (`kept`),\n  FULLTEXT KEY `ft` (`kept`),\n  CONSTRAINT `other` CHECK (`kept` <> '')\n) \
             ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='secret'"
        );
        let shown: Vec<String> =
            parts.iter().map(|part| format!("{:?} {} {}", part.kind, part.name, part.lossy)).collect();
        assert_eq!(
            shown,
            [
                "Column(Null) Secret false",
                "Column(Default) tag false",
                "Column(Nothing) hash false",
                "Unique u false",
                "Index k false",
                "Index only false",
                "Index f false",
                "Check own false",
                "Check both true",
            ]
        );
    }

    #[test]
    fn what_the_rest_stands_on_is_refused() {
        let check = |parts: &[&str], options: &str, expected: &str| {
            let problems = reduced(parts, options, &["s"]).problems;
            assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
        };
        let s = "`s` int(11) DEFAULT NULL";
        check(&[s, "PRIMARY KEY (`a`,`s`)"], "", "primary key");
        check(&[s, "CONSTRAINT `fk` FOREIGN KEY (`s`) REFERENCES `p` (`x`)"], "", "foreign key fk");
        check(&[s, "`g` int(11) GENERATED ALWAYS AS (`s` + 1) VIRTUAL"], "", "Its column g");
        check(&[s, "`d` int DEFAULT (`S`)"], "", "Its column d");
        check(&["`s` int NOT NULL AUTO_INCREMENT", "KEY (`s`)"], "", "AUTO_INCREMENT");
        check(&[s], "\n/*!50100 PARTITION BY HASH (s) PARTITIONS 3 */", "partitioned");
        check(
            &[s],
            " PARTITION BY RANGE COLUMNS(`a`) SUBPARTITION BY HASH (`s`) (PARTITION p VALUES LESS THAN (1))",
            "partitioned",
        );
        let free = reduced(
            &[s, "CONSTRAINT `fk` FOREIGN KEY (`a`) REFERENCES `p` (`s`)"],
            " PARTITION BY HASH (`a`) (PARTITION s)",
            &["s"],
        );
        assert_eq!(free.problems, [""; 0]);
    }
}
