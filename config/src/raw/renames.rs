//! `[[migration.rename]]`: an array of tables, each with keys of its own.

use toml::de::{DeTable, DeValue};

use super::{Place, Problems, Reader, Said, clip, hint, lookup};
use crate::TableName;
use crate::renames::Rename;

const KEYS: [&str; 2] = ["from", "to"];
/// Longest name of a schema or table, in characters.
const NAME_MAX: usize = 64;

impl Reader<'_> {
    /// Every rule that is whole; what is wrong with the others is a problem.
    pub(super) fn renames(&self, problems: &mut Problems) -> Vec<Said<Rename>> {
        let Some((value, place)) = self.find("migration", "rename") else { return Vec::new() };
        let shape = "migration.rename has to be a list of rules: write [[migration.rename]] with from and to for each";
        let Some(rules) = value.as_array() else {
            problems.add(place, shape);
            return Vec::new();
        };
        let mut read = Vec::new();
        for rule in rules.iter() {
            let place = Place::Line((self.line_of)(rule.span().start));
            match rule.get_ref() {
                DeValue::Table(table) => {
                    read.extend(self.rename(problems, table, place).map(|value| Said { value, place }));
                }
                _ => problems.add(place, shape),
            }
        }
        read
    }

    fn rename(&self, problems: &mut Problems, rule: &DeTable<'_>, place: Place) -> Option<Rename> {
        for key in rule.keys().filter(|key| !KEYS.contains(&key.get_ref().as_ref())) {
            let at = Place::Line((self.line_of)(key.span().start));
            let name = key.get_ref().as_ref();
            let hint = hint(name, KEYS.iter().map(|key| (*key, (*key).to_owned())));
            problems.add(at, format!("[[migration.rename]] has no key {}; {hint}", clip(name)));
        }
        let mut named = |key: &str, example: &str| {
            let found = lookup(rule, key);
            let at = found.map_or(place, |value| Place::Line((self.line_of)(value.span().start)));
            let text = found.and_then(|value| value.get_ref().as_str());
            let read = text.and_then(parts);
            if read.is_none() {
                let what = format!(
                    "[[migration.rename]] needs {key} = \"…\", a schema or schema.table, such as {example}: names of letters, \
                     digits, _, $ and - (ASCII), each of 1 to {NAME_MAX} characters"
                );
                problems.add(at, what);
            }
            read
        };
        let from = named("from", "\"shop\" or \"shop.orders\"");
        let to = named("to", "\"store\" or \"store.purchases\"");
        match (from?, to?) {
            ((from, None), (to, None)) => Some(Rename::Schema { from, to }),
            ((schema, Some(table)), (to_schema, Some(to_table))) => Some(Rename::Table {
                from: TableName { schema, table },
                to: TableName { schema: to_schema, table: to_table },
            }),
            _ => {
                let what = "[[migration.rename]]: from and to have to be both a schema, or both a table with its schema \
                            (schema.table)";
                problems.add(place, what);
                None
            }
        }
    }
}

/// A schema, and a table where there is a dot.
fn parts(text: &str) -> Option<(String, Option<String>)> {
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-');
        (1..=NAME_MAX).contains(&name.len())
            && name.chars().all(plain)
            && !name.bytes().all(|byte| byte.is_ascii_digit())
    };
    match text.split_once('.') {
        None => is_name(text).then(|| (text.to_owned(), None)),
        Some((schema, table)) => {
            (is_name(schema) && is_name(table)).then(|| (schema.to_owned(), Some(table.to_owned())))
        }
    }
}
