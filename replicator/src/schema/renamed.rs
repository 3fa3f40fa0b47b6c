//! Statements and definitions with the names of another side (`migration.rename`). Pure.
//!
//! A name is put into other words where it is known to be one, by its place in the statement: everything else of the text stays
//! as it is. Where a name that the rules speak of stands somewhere else, what it means there isn't known here, and nothing is
//! guessed: the statement can't be put into the other side's words (invariant 5).

use std::ops::Range;

use config::names::quote_identifier;
use config::{Names, Rename, Side, SideNames, TableName};

use super::ddl::{Change, Named, Of, Parsed, Token};

/// From the names of one side to those of the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renaming {
    from: SideNames,
    to: SideNames,
    /// The side whose text it is keeps names in lower case.
    folds_names: bool,
}

/// A piece of a text, and what takes its place.
type Replacement = (Range<usize>, Vec<u8>);

impl Renaming {
    /// From the side `from` to the other one.
    pub(crate) fn new(names: &Names, from: Side, folds_names: bool) -> Self {
        Self { from: names.on(from), to: names.on(from.other()), folds_names }
    }

    /// True where nothing is renamed.
    pub(crate) fn is_plain(&self) -> bool {
        self.from.is_plain() && self.to.is_plain()
    }

    /// What the other side calls things.
    pub(crate) fn to_names(&self) -> &SideNames {
        &self.to
    }

    /// What the other side calls a table or a view.
    pub(crate) fn table(&self, here: &TableName) -> Option<TableName> {
        self.to.table(&self.from.source_table(here)?)
    }

    /// What the other side calls a schema.
    pub(crate) fn schema(&self, here: &str) -> Option<String> {
        self.to.schema(&self.from.source_schema(here)?)
    }

    /// A statement that changes definitions (or a server's own CREATE TABLE), of a session with that default schema. Names of
    /// tables come out complete.
    ///
    /// # Errors
    /// It can't be put into the other side's words, and why: the rest of a sentence about it.
    pub(crate) fn statement(&self, sql: &[u8], default_schema: &str) -> Result<Vec<u8>, String> {
        if self.is_plain() {
            return Ok(sql.to_vec());
        }
        let parsed = Parsed::of(sql, default_schema, self.folds_names);
        let mut named = parsed.named.clone();
        match &parsed.change {
            Change::Unknown => return Err("it isn't understood".to_owned()),
            Change::CreateTable { table, .. } | Change::Alter { table, .. } => {
                named.extend(self.parents(&parsed, table, default_schema)?);
            }
            _ => {}
        }
        let replacements =
            named.iter().map(|named| self.replacement(sql, named)).collect::<Result<Vec<_>, _>>()?;
        let is_inside = |span: &Range<usize>| {
            replacements.iter().any(|(other, _)| other.start <= span.start && span.end <= other.end)
        };
        match &parsed.change {
            Change::Views(_) | Change::Routine(_) => {
                if self.schema(default_schema).is_none() {
                    return Err(format!("its session was in {default_schema}, which has no counterpart"));
                }
                let begin = parsed.named.last().map_or(0, |named| named.span.end);
                let rest = parsed.tokens.iter().position(|(_, span)| span.start >= begin);
                self.says_nothing(sql, &parsed.tokens, rest.unwrap_or(parsed.tokens.len()))?;
            }
            // As the qualifier of something else: of a column, a routine, a sequence.
            _ => {
                for pair in parsed.tokens.windows(2) {
                    if let [(token, span), (Token::Symbol(b'.'), _)] = pair
                        && let Some(word) = word_of(token)
                        && self.speaks_of(word)
                        && !is_inside(span)
                    {
                        return Err(elsewhere(word));
                    }
                }
            }
        }
        Ok(replaced(sql, replacements))
    }

    /// The tables that foreign keys refer to.
    fn parents(
        &self,
        parsed: &Parsed,
        table: &TableName,
        default_schema: &str,
    ) -> Result<Vec<Named>, String> {
        let mut parents = Vec::new();
        for (at, (token, _)) in parsed.tokens.iter().enumerate() {
            if !is_word(token, "REFERENCES") {
                continue;
            }
            let found = parsed.table_at(at + 1, &table.schema, self.folds_names);
            let Some((named, qualified)) = found else { continue };
            if !qualified && table.schema != default_schema {
                return Err("a foreign key of it refers to a table without its schema, in another schema than its session's"
                    .to_owned());
            }
            parents.push(named);
        }
        Ok(parents)
    }

    fn replacement(&self, sql: &[u8], named: &Named) -> Result<Replacement, String> {
        let Named { of, name, span, last } = named;
        let nowhere = || format!("{name} has no counterpart on the other side (migration.rename)");
        // As it is written, in whatever character set that is.
        let written = sql.get(last.clone()).unwrap_or_default();
        let text = match of {
            Of::Schema => {
                let other = self.schema(&name.schema).ok_or_else(nowhere)?;
                if other == name.schema { written.to_vec() } else { quote_identifier(&other).into_bytes() }
            }
            Of::Table => {
                let other = self.table(name).ok_or_else(nowhere)?;
                let table = if other.table == name.table {
                    written.to_vec()
                } else {
                    quote_identifier(&other.table).into_bytes()
                };
                qualified(&other.schema, &table)
            }
            Of::Beside => qualified(&self.schema(&name.schema).ok_or_else(nowhere)?, written),
        };
        Ok((span.clone(), text))
    }

    /// A server's own CREATE VIEW, in which every name is complete, since it was asked for without a default schema.
    ///
    /// # Errors
    /// As [`Self::statement`].
    pub(crate) fn view(&self, create: &[u8]) -> Result<Vec<u8>, String> {
        if self.is_plain() {
            return Ok(create.to_vec());
        }
        let Parsed { mut tokens, change, named } = Parsed::of(create, "", self.folds_names);
        let (Change::Views(_), Some(own)) = (change, named.first()) else {
            return Err("it isn't understood".to_owned());
        };
        // Before that its definer is named.
        tokens.retain(|(_, span)| span.start >= own.span.start);
        let is_dot = |at: usize| matches!(tokens.get(at), Some((Token::Symbol(b'.'), _)));
        let name = |at: usize| tokens.get(at).and_then(|(token, _)| word_of(token));
        let mut replacements = Vec::new();
        for (at, (token, span)) in tokens.iter().enumerate() {
            let Some(schema) = word_of(token).filter(|word| self.speaks_of_schema(word)) else { continue };
            let previous = at.checked_sub(1);
            if previous.is_some_and(&is_dot) {
                continue;
            }
            if !is_dot(at + 1) {
                // The name of a column of the result stands behind AS; anything else may be another name for a table.
                let named =
                    previous.and_then(|at| tokens.get(at)).is_some_and(|(token, _)| is_word(token, "AS"));
                if named {
                    continue;
                }
                return Err(elsewhere(schema));
            }
            let Some(table) = name(at + 2) else { return Err(elsewhere(schema)) };
            let here = TableName::new(schema, table);
            let nowhere =
                || format!("it reads {here}, which has no counterpart on the other side (migration.rename)");
            let is_routine = matches!(tokens.get(at + 3), Some((Token::Symbol(b'('), _)));
            let other = match is_routine {
                true => self.schema(schema).map(|schema| TableName::new(schema, table)),
                false => self.table(&here),
            };
            let other = other.ok_or_else(nowhere)?;
            let Some((_, end)) = tokens.get(at + 2) else { continue };
            let last = match other.table == here.table {
                true => create.get(end.clone()).unwrap_or_default().to_vec(),
                false => quote_identifier(&other.table).into_bytes(),
            };
            replacements.push((span.start..end.end, qualified(&other.schema, &last)));
        }
        Ok(replaced(create, replacements))
    }

    /// A server's own CREATE TRIGGER on a table of that schema.
    ///
    /// # Errors
    /// As [`Self::statement`].
    pub(crate) fn trigger(&self, create: &[u8], schema: &str) -> Result<Vec<u8>, String> {
        if self.is_plain() {
            return Ok(create.to_vec());
        }
        let parsed = Parsed::of(create, schema, self.folds_names);
        let (Change::Trigger(_), Some(trigger)) = (&parsed.change, parsed.named.first()) else {
            return Err("it isn't understood".to_owned());
        };
        // `BEFORE INSERT ON table FOR EACH ROW …`, and in MariaDB of several events.
        let behind = parsed.tokens.iter().position(|(_, span)| span.start >= trigger.span.end);
        let on = behind.and_then(|behind| {
            let rest = parsed.tokens.iter().enumerate().skip(behind);
            rest.take(16).find_map(|(at, (token, _))| is_word(token, "ON").then_some(at))
        });
        let table = on.and_then(|on| parsed.table_at(on + 1, schema, self.folds_names));
        let Some((table, _)) = table else { return Err("it isn't understood".to_owned()) };
        let there = self
            .table(&table.name)
            .ok_or_else(|| format!("its table {} has no counterpart (migration.rename)", table.name))?;
        let name = create.get(trigger.last.clone()).unwrap_or_default();
        let body = parsed.tokens.iter().position(|(_, span)| span.start >= table.span.end);
        self.says_nothing(create, &parsed.tokens, body.unwrap_or(parsed.tokens.len()))?;
        // It is in the schema of its table.
        let trigger = (trigger.span.clone(), qualified(&there.schema, name));
        let table = self.replacement(create, &table)?;
        Ok(replaced(create, vec![trigger, table]))
    }

    /// A server's own CREATE PROCEDURE, FUNCTION or EVENT in that schema.
    ///
    /// # Errors
    /// As [`Self::statement`].
    pub(crate) fn stored(&self, create: &[u8], schema: &str) -> Result<Vec<u8>, String> {
        if self.is_plain() {
            return Ok(create.to_vec());
        }
        let parsed = Parsed::of(create, schema, self.folds_names);
        let (Change::Routine(_) | Change::Event(_), Some(named)) = (&parsed.change, parsed.named.first())
        else {
            return Err("it isn't understood".to_owned());
        };
        let replacement = self.replacement(create, named)?;
        let body = parsed.tokens.iter().position(|(_, span)| span.start >= named.span.end);
        self.says_nothing(create, &parsed.tokens, body.unwrap_or(parsed.tokens.len()))?;
        Ok(replaced(create, vec![replacement]))
    }

    /// Looks for a name that the rules speak of, from a token on. Names without a schema are those of the schema in use, which
    /// is put into other words by itself.
    fn says_nothing(&self, sql: &[u8], tokens: &[(Token, Range<usize>)], from: usize) -> Result<(), String> {
        const MAKES_STATEMENTS: [&str; 3] = ["PREPARE", "EXECUTE", "CALL"];
        let rest = tokens.get(from..).unwrap_or_default();
        let dynamic = rest.iter().any(|(token, _)| MAKES_STATEMENTS.iter().any(|word| is_word(token, word)));
        for (at, (token, span)) in rest.iter().enumerate() {
            let text = sql.get(span.clone()).map(String::from_utf8_lossy).unwrap_or_default();
            let is_text = match token {
                Token::Literal => true,
                Token::Quoted(_) => text.starts_with('"'),
                Token::Word(_) | Token::Symbol(_) => false,
            };
            if dynamic
                && is_text
                && let Some(name) = self.named_in(&text)
            {
                return Err(elsewhere(&name));
            }
            let Some(word) = word_of(token).filter(|word| self.speaks_of(word)) else { continue };
            // A column of the row that a trigger is about.
            let is_of_row = at >= 2
                && matches!(rest.get(at - 1), Some((Token::Symbol(b'.'), _)))
                && rest.get(at - 2).is_some_and(|(token, _)| is_word(token, "NEW") || is_word(token, "OLD"));
            if !is_of_row {
                return Err(elsewhere(word));
            }
        }
        Ok(())
    }

    fn speaks_of(&self, word: &str) -> bool {
        self.from.speaks_of(word) || self.to.speaks_of(word)
    }

    fn rules(&self) -> impl Iterator<Item = &Rename> {
        self.from.rules().iter().chain(self.to.rules())
    }

    fn speaks_of_schema(&self, word: &str) -> bool {
        self.rules().any(|rule| match rule {
            Rename::Schema { from, to } => [from, to].iter().any(|name| name.eq_ignore_ascii_case(word)),
            Rename::Table { from, to } => {
                [&from.schema, &to.schema].iter().any(|name| name.eq_ignore_ascii_case(word))
            }
        })
    }

    /// The first name of the rules that is somewhere in a text.
    fn named_in(&self, text: &str) -> Option<String> {
        let text = text.to_ascii_lowercase();
        let names = self.rules().flat_map(|rule| match rule {
            Rename::Schema { from, to } => vec![from, to],
            Rename::Table { from, to } => vec![&from.schema, &from.table, &to.schema, &to.table],
        });
        names.into_iter().find(|name| text.contains(&name.to_ascii_lowercase())).cloned()
    }
}

fn elsewhere(word: &str) -> String {
    format!(
        "it says {word}, a name that migration.rename speaks of, where it isn't known whether that is the one that is renamed"
    )
}

fn word_of(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) | Token::Quoted(word) => Some(word),
        Token::Literal | Token::Symbol(_) => None,
    }
}

fn is_word(token: &Token, wanted: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(wanted))
}

fn qualified(schema: &str, last: &[u8]) -> Vec<u8> {
    [quote_identifier(schema).as_bytes(), b".", last].concat()
}

fn replaced(sql: &[u8], mut replacements: Vec<Replacement>) -> Vec<u8> {
    replacements.sort_by_key(|(span, _)| span.start);
    let mut out = Vec::with_capacity(sql.len());
    let mut done = 0;
    for (span, text) in replacements {
        out.extend_from_slice(sql.get(done..span.start).unwrap_or_default());
        out.extend_from_slice(&text);
        done = span.end;
    }
    out.extend_from_slice(sql.get(done..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn renaming(from: Side) -> Renaming {
        let name = |schema, table| TableName::new(schema, table);
        let rules = vec![
            Rename::Schema { from: "shop".to_owned(), to: "store".to_owned() },
            Rename::Table { from: name("shop", "orders"), to: name("store", "purchases") },
            Rename::Table { from: name("shop", "log"), to: name("archive", "log") },
        ];
        Renaming::new(&Names::new(rules), from, false)
    }

    fn text(result: Result<Vec<u8>, String>) -> Result<String, String> {
        result.map(|sql| String::from_utf8(sql).unwrap())
    }

    #[test]
    fn names_of_definitions_are_put_into_other_words() {
        let check = |sql: &str, expected: &str| {
            assert_eq!(
                text(renaming(Side::Source).statement(sql.as_bytes(), "shop")).as_deref(),
                Ok(expected),
                "{sql}"
            );
        };
        check("CREATE TABLE a (shop INT)", "CREATE TABLE `store`.a (shop INT)");
        check("create table `shop`.`orders`(id int)", "create table `store`.`purchases`(id int)");
        check("CREATE TABLE orders LIKE log", "CREATE TABLE `store`.`purchases` LIKE `archive`.log");
        check(
            "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES `orders` (id), RENAME TO log",
            "ALTER TABLE `store`.`purchases` ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES `store`.`purchases` (id), RENAME TO \
             `archive`.log",
        );
        check(
            "ALTER TABLE crm.x ADD shop INT COMMENT 'shop.orders'",
            "ALTER TABLE `crm`.x ADD shop INT COMMENT 'shop.orders'",
        );
        check("CREATE INDEX shop ON shop . orders (a)", "CREATE INDEX shop ON `store`.`purchases` (a)");
        check(
            "RENAME TABLE orders TO _orders_del, _orders_gho TO shop.orders",
            "RENAME TABLE `store`.`purchases` TO `store`._orders_del, `store`._orders_gho TO `store`.`purchases`",
        );
        check("TRUNCATE /* shop.orders */ orders", "TRUNCATE /* shop.orders */ `store`.`purchases`");
        check("ALTER DATABASE shop COLLATE utf8mb4_bin", "ALTER DATABASE `store` COLLATE utf8mb4_bin");
        check("ALTER DATABASE COLLATE utf8mb4_bin", "ALTER DATABASE COLLATE utf8mb4_bin");
        check("CREATE VIEW v AS SELECT * FROM items", "CREATE VIEW `store`.v AS SELECT * FROM items");
        check("DROP VIEW shop.v, crm.w", "DROP VIEW `store`.v, `crm`.w");
        check("CREATE PROCEDURE p() SELECT 'shop'", "CREATE PROCEDURE `store`.p() SELECT 'shop'");
        check("DROP FUNCTION orders", "DROP FUNCTION `store`.orders");
    }

    #[test]
    fn the_way_back_is_the_same_way() {
        let check = |sql: &str, expected: &str| {
            assert_eq!(
                text(renaming(Side::Target).statement(sql.as_bytes(), "store")).as_deref(),
                Ok(expected),
                "{sql}"
            );
        };
        check("ALTER TABLE purchases ADD a INT", "ALTER TABLE `shop`.`orders` ADD a INT");
        check("DROP TABLE archive.log, items", "DROP TABLE `shop`.log, `shop`.items");
        let refused = |sql: &str| renaming(Side::Target).statement(sql.as_bytes(), "store").unwrap_err();
        assert!(refused("CREATE TABLE orders (a INT)").contains("store.orders has no counterpart"));
        assert!(refused("CREATE TABLE shop.a (a INT)").contains("shop.a has no counterpart"));
    }

    #[test]
    fn what_may_mean_something_else_is_refused() {
        let refused = |sql: &str| {
            assert!(renaming(Side::Source).statement(sql.as_bytes(), "shop").is_err(), "{sql}");
        };
        refused("CREATE TABLE purchases (a INT)");
        refused("CREATE TABLE store.x (a INT)");
        refused("CREATE TABLE a (b INT CHECK (orders.b > 0))");
        refused("CREATE TABLE a (b INT DEFAULT shop.f())");
        refused("CREATE TABLE crm.a (b INT REFERENCES c (d))");
        refused("CREATE VIEW v AS SELECT * FROM orders");
        refused("CREATE VIEW v AS SELECT * FROM shop.items");
        refused("CREATE VIEW v AS SELECT * FROM `store`.x");
        refused("CREATE PROCEDURE p() BEGIN PREPARE s FROM 'DELETE FROM shop.items'; EXECUTE s; END");
        refused("CREATE PROCEDURE p() UPDATE log SET a = 1");
        refused("GRANT ALL ON shop.* TO a");
    }

    #[test]
    fn views_of_a_server_are_rewritten() {
        let check = |sql: &str, expected: Option<&str>| {
            assert_eq!(text(renaming(Side::Source).view(sql.as_bytes())).ok().as_deref(), expected, "{sql}");
        };
        check(
            "CREATE ALGORITHM=UNDEFINED DEFINER=`shop`@`%` SQL SECURITY DEFINER VIEW `shop`.`v` AS select `shop`.`orders`.`id` AS \
             `shop`,`o`.`orders` AS `x`,`shop`.`f`(1) AS `f` from (`shop`.`orders` join `shop`.`log` `o`) where `o`.`shop` = 'shop.x'",
            Some(
                "CREATE ALGORITHM=UNDEFINED DEFINER=`shop`@`%` SQL SECURITY DEFINER VIEW `store`.`v` AS select \
                 `store`.`purchases`.`id` AS `shop`,`o`.`orders` AS `x`,`store`.`f`(1) AS `f` from (`store`.`purchases` join \
                 `archive`.`log` `o`) where `o`.`shop` = 'shop.x'",
            ),
        );
        check("CREATE VIEW `shop`.`v` AS select `shop`.`id` AS `id` from `crm`.`a` `shop`", None);
        check("CREATE VIEW `shop`.`v` AS select 1 AS `a` from `store`.`b`", None);
        check(
            "CREATE VIEW `crm`.`v` AS select 1 AS `a` from `crm`.`orders`",
            Some("CREATE VIEW `crm`.`v` AS select 1 AS `a` from `crm`.`orders`"),
        );
    }

    #[test]
    fn triggers_go_with_their_tables() {
        let check = |side: Side, schema: &str, sql: &str, expected: Option<&str>| {
            assert_eq!(
                text(renaming(side).trigger(sql.as_bytes(), schema)).ok().as_deref(),
                expected,
                "{sql}"
            );
        };
        check(
            Side::Source,
            "shop",
            "CREATE DEFINER=`a`@`%` TRIGGER t BEFORE INSERT ON log FOR EACH ROW SET NEW.shop = 'shop'",
            Some(
                "CREATE DEFINER=`a`@`%` TRIGGER `archive`.t BEFORE INSERT ON `archive`.log FOR EACH ROW SET NEW.shop = 'shop'",
            ),
        );
        check(
            Side::Target,
            "store",
            "CREATE DEFINER=`a`@`%` TRIGGER `store`.`t` AFTER UPDATE ON `store`.`purchases` FOR EACH ROW INSERT INTO items VALUES (1)",
            Some(
                "CREATE DEFINER=`a`@`%` TRIGGER `shop`.`t` AFTER UPDATE ON `shop`.`orders` FOR EACH ROW INSERT INTO items VALUES (1)",
            ),
        );
        check(
            Side::Source,
            "shop",
            "CREATE TRIGGER t BEFORE INSERT ON items FOR EACH ROW INSERT INTO log VALUES (1)",
            None,
        );
        let stored = |sql: &str, is_fine: bool| {
            assert_eq!(renaming(Side::Source).stored(sql.as_bytes(), "shop").is_ok(), is_fine, "{sql}");
        };
        stored("CREATE DEFINER=`a`@`%` PROCEDURE `p`() INSERT INTO items VALUES (1)", true);
        stored(
            "CREATE DEFINER=`a`@`%` EVENT `e` ON SCHEDULE EVERY 1 DAY ON COMPLETION NOT PRESERVE ENABLE DO DELETE FROM items",
            true,
        );
        stored("CREATE DEFINER=`a`@`%` EVENT `e` ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.items", false);
        stored(
            "CREATE DEFINER=`a`@`%` FUNCTION `f`() RETURNS INT RETURN (SELECT COUNT(*) FROM `orders`)",
            false,
        );
    }
}
