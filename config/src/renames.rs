//! `[[migration.rename]]`: what schemas and tables are called on the target.
//!
//! Inside of Changeover a table goes by one name, the source's. It is put in other terms only where SQL for a server is made
//! and where a server's catalogue or binary log is read: by the [`SideNames`] of that server. Both ways are partial, so that no
//! name is ever guessed: what two names of the source would share on the target is the name of neither, and a name of the
//! target that nothing of the source is called by is unknown.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::{Side, TableName};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rename {
    /// Everything of a schema goes into another one.
    Schema {
        /// Its name on the source.
        from: String,
        /// Its name on the target.
        to: String,
    },
    /// A table or a view has another name, perhaps in another schema. Wins over the rule of its schema.
    Table {
        /// Its name on the source.
        from: TableName,
        /// Its name on the target.
        to: TableName,
    },
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rename::Schema { from, to } => write!(f, "{from} to {to}"),
            Rename::Table { from, to } => write!(f, "{from} to {to}"),
        }
    }
}

/// Every rule of a migration. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    rules: Arc<[Rename]>,
    /// `Side::Source` means the target and the other way round, as inside of a leg that leads back.
    turned: bool,
}

impl Names {
    /// Of rules that were validated: no two with one `from` or one `to`.
    #[must_use]
    pub fn new(rules: Vec<Rename>) -> Self {
        Self { rules: rules.into(), turned: false }
    }

    /// True where every name is the same on both sides.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[Rename] {
        &self.rules
    }

    /// The same with the sides exchanged.
    #[must_use]
    pub fn turned(&self) -> Self {
        Self { rules: Arc::clone(&self.rules), turned: !self.turned }
    }

    /// What things are called on that side.
    #[must_use]
    pub fn on(&self, side: Side) -> SideNames {
        if (side == Side::Target) == self.turned {
            SideNames::default()
        } else {
            SideNames { rules: Arc::clone(&self.rules), folds: false }
        }
    }

    /// The rules as text, for what has to survive a restart.
    #[must_use]
    pub fn to_text(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.rules.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    }
}

/// What things are called on one side. The default is the side where they are called what the source calls them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideNames {
    rules: Arc<[Rename]>,
    folds: bool,
}

impl SideNames {
    /// True where every name is the source's.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.rules.is_empty()
    }

    /// The same for what clients say, on a server that may keep names in small letters: there a schema counts however it is
    /// spelled. Its rules have no capital letters, which `check` sees to.
    #[must_use]
    pub fn as_spelled(&self, folds: bool) -> Self {
        Self { rules: Arc::clone(&self.rules), folds }
    }

    /// A name as the server knows it.
    fn folded<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.folds { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) }
    }

    /// The rules by which names of this side aren't the source's.
    #[must_use]
    pub fn rules(&self) -> &[Rename] {
        &self.rules
    }

    /// What a schema of the source is called here. `None`: another one has that name.
    #[must_use]
    pub fn schema(&self, of_source: &str) -> Option<String> {
        let of_source = &*self.folded(of_source);
        let mut taken = false;
        for rule in &*self.rules {
            if let Rename::Schema { from, to } = rule {
                if from == of_source {
                    return Some(to.clone());
                }
                taken |= to == of_source;
            }
        }
        (!taken).then(|| of_source.to_owned())
    }

    /// What a table, or a view, of the source is called here. `None`: another one has that name.
    #[must_use]
    pub fn table(&self, of_source: &TableName) -> Option<TableName> {
        if let Some(to) = self.tables().find_map(|(from, to)| (from == of_source).then_some(to)) {
            return Some(to.clone());
        }
        let here = TableName::new(self.schema(&of_source.schema)?, &of_source.table);
        self.tables().all(|(_, to)| *to != here).then_some(here)
    }

    /// What a schema of this side is called on the source. `None`: nothing of the source goes into it by a rule of schemas, and
    /// what the source calls so is called otherwise here.
    #[must_use]
    pub fn source_schema(&self, here: &str) -> Option<String> {
        let here = &*self.folded(here);
        let mut left = false;
        for rule in &*self.rules {
            if let Rename::Schema { from, to } = rule {
                if to == here {
                    return Some(from.clone());
                }
                left |= from == here;
            }
        }
        (!left).then(|| here.to_owned())
    }

    /// What a table, or a view, of this side is called on the source. `None`: no table of the source could have that name here.
    #[must_use]
    pub fn source_table(&self, here: &TableName) -> Option<TableName> {
        if let Some(from) = self.tables().find_map(|(from, to)| (to == here).then_some(from)) {
            return Some(from.clone());
        }
        let of_source = TableName::new(self.source_schema(&here.schema)?, &here.table);
        (self.table(&of_source).as_ref() == Some(here)).then_some(of_source)
    }

    /// Every schema of this side in which there is, or may be, something of these schemas of the source.
    #[must_use]
    pub fn schemas<'a>(&self, of_source: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut here = Vec::new();
        for schema in of_source {
            here.extend(self.schema(schema));
            let moved = self.tables().filter(|(from, _)| from.schema == schema);
            here.extend(moved.map(|(_, to)| to.schema.clone()));
        }
        here.sort();
        here.dedup();
        here
    }

    /// The schemas of this side that only hold tables by rules of their own.
    #[must_use]
    pub fn schemas_of_tables(&self) -> Vec<(TableName, String)> {
        let elsewhere = |(from, to): &(&TableName, &TableName)| {
            self.schema(&from.schema).as_deref() != Some(to.schema.as_str())
        };
        self.tables().filter(elsewhere).map(|(from, to)| (from.clone(), to.schema.clone())).collect()
    }

    /// False for a schema of the source whose tables are in one schema here, with nothing else of the source in it.
    #[must_use]
    pub fn parts(&self, of_source: &str) -> bool {
        let here = self.schema(of_source);
        here.is_none()
            || self
                .tables()
                .any(|(from, to)| (from.schema == of_source) != (Some(&to.schema) == here.as_ref()))
    }

    /// True for a text without quotes that is a name which the rules speak of, of a schema or of a table: where it stands in a
    /// statement it may mean something that has another name on the other side.
    #[must_use]
    pub fn speaks_of(&self, word: &str) -> bool {
        self.rules.iter().any(|rule| match rule {
            Rename::Schema { from, to } => from.eq_ignore_ascii_case(word) || to.eq_ignore_ascii_case(word),
            Rename::Table { from, to } => [&from.schema, &from.table, &to.schema, &to.table]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(word)),
        })
    }

    fn tables(&self) -> impl Iterator<Item = (&TableName, &TableName)> {
        self.rules.iter().filter_map(|rule| match rule {
            Rename::Table { from, to } => Some((from, to)),
            Rename::Schema { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> TableName {
        let (schema, table) = text.split_once('.').unwrap();
        TableName::new(schema, table)
    }

    fn schema_rule(from: &str, to: &str) -> Rename {
        Rename::Schema { from: from.to_owned(), to: to.to_owned() }
    }

    fn table_rule(from: &str, to: &str) -> Rename {
        Rename::Table { from: name(from), to: name(to) }
    }

    #[test]
    fn where_names_are_kept_in_small_letters_any_spelling_counts() {
        let target = Names::new(vec![schema_rule("shop", "store")]).on(Side::Target);
        assert_eq!(target.schema("Shop").as_deref(), Some("Shop"));
        let target = target.as_spelled(true);
        assert_eq!(target.schema("Shop").as_deref(), Some("store"));
        assert_eq!(target.source_schema("STORE").as_deref(), Some("shop"));
        assert_eq!(target.schema("STORE"), None);
    }

    #[test]
    fn a_table_rule_wins_over_that_of_its_schema() {
        let names = Names::new(vec![
            schema_rule("shop", "store"),
            table_rule("shop.orders", "store.purchases"),
            table_rule("shop.log", "archive.log"),
        ]);
        let there = names.on(Side::Target);
        let check = |source: &str, target: Option<&str>| {
            assert_eq!(there.table(&name(source)), target.map(name), "{source}");
        };
        check("shop.items", Some("store.items"));
        check("shop.orders", Some("store.purchases"));
        check("shop.log", Some("archive.log"));
        check("shop.purchases", None);
        check("store.items", None);
        check("archive.log", None);
        check("archive.other", Some("archive.other"));
        let check = |target: &str, source: Option<&str>| {
            assert_eq!(there.source_table(&name(target)), source.map(name), "{target}");
        };
        check("store.items", Some("shop.items"));
        check("store.purchases", Some("shop.orders"));
        check("store.orders", None);
        check("store.log", None);
        check("shop.items", None);
        check("archive.log", Some("shop.log"));
        assert_eq!(there.schemas(["shop"]), ["archive", "store"]);
        assert_eq!(there.schemas_of_tables(), [(name("shop.log"), "archive".to_owned())]);
        assert!(there.parts("shop") && there.parts("archive") && !there.parts("other"));
        assert!(names.on(Side::Source).is_plain() && !names.turned().on(Side::Source).is_plain());
    }

    #[test]
    fn schemas_may_take_each_others_names() {
        let there = Names::new(vec![schema_rule("a", "b"), schema_rule("b", "a")]).on(Side::Target);
        assert_eq!(there.table(&name("a.x")), Some(name("b.x")));
        assert_eq!(there.source_schema("a").as_deref(), Some("b"));
        assert!(!there.parts("a"));
        let chain = Names::new(vec![schema_rule("a", "b"), schema_rule("b", "c")]).on(Side::Target);
        assert_eq!((chain.schema("a").as_deref(), chain.schema("c")), (Some("b"), None));
        assert_eq!((chain.source_schema("a"), chain.source_schema("c").as_deref()), (None, Some("b")));
    }

    fn part() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
    }

    fn any_name() -> impl Strategy<Value = TableName> {
        (part(), part()).prop_map(|(schema, table)| TableName { schema, table })
    }

    fn any_rule() -> impl Strategy<Value = Rename> {
        prop_oneof![
            (part(), part()).prop_map(|(from, to)| Rename::Schema { from, to }),
            (any_name(), any_name()).prop_map(|(from, to)| Rename::Table { from, to }),
        ]
    }

    /// As the validation leaves them: no two with one name on either side.
    fn distinct(rules: Vec<Rename>) -> Vec<Rename> {
        let mut kept: Vec<Rename> = Vec::new();
        for rule in rules {
            let clashes = kept.iter().any(|other| match (other, &rule) {
                (Rename::Schema { from, to }, Rename::Schema { from: f, to: t }) => from == f || to == t,
                (Rename::Table { from, to }, Rename::Table { from: f, to: t }) => from == f || to == t,
                _ => false,
            });
            if !clashes {
                kept.push(rule);
            }
        }
        kept
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same_name(
            rules in prop::collection::vec(any_rule(), 0..6).prop_map(distinct),
            one in any_name(),
            schema in part(),
        ) {
            let there = Names::new(rules).on(Side::Target);
            if let Some(target) = there.table(&one) {
                prop_assert_eq!(there.source_table(&target), Some(one.clone()));
            }
            if let Some(source) = there.source_table(&one) {
                prop_assert_eq!(there.table(&source), Some(one));
            }
            if let Some(target) = there.schema(&schema) {
                prop_assert_eq!(there.source_schema(&target), Some(schema.clone()));
            }
            if let Some(source) = there.source_schema(&schema) {
                prop_assert_eq!(there.schema(&source), Some(schema));
            }
        }
    }
}
