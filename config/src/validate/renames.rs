//! `[[migration.rename]]`: rules that don't fit each other, or anything.

use super::{Check, OWN_SCHEMAS};
use crate::raw::Said;
use crate::renames::{Names, Rename};

impl Check<'_> {
    /// `schemas`: `migration.schemas`; empty where it is all of them.
    pub(super) fn renames(&mut self, said: Vec<Said<Rename>>, schemas: &[String]) -> Names {
        let mut rules: Vec<Said<Rename>> = Vec::new();
        for Said { value: rule, place } in said {
            let mut add = |what: String| self.problems.add(place, format!("[[migration.rename]]: {what}"));
            for name in schemas_in(&rule) {
                if OWN_SCHEMAS.contains(&name.to_lowercase().as_str()) {
                    add(format!(
                        "{name} is a schema of the server's (or of Changeover's) own; nothing is moved out of it or into it"
                    ));
                }
            }
            let (from, to) = texts(&rule);
            if from == to {
                add(format!("{from} would be called what it is called already; take the rule out"));
            }
            for other in &rules {
                let (other_from, other_to) = texts(&other.value);
                if same(&from, &other_from) {
                    add(format!(
                        "{from} is renamed twice, to {other_to} and to {to}; take one of the rules out"
                    ));
                }
                if same(&to, &other_to) {
                    add(format!(
                        "{other_from} and {from} would both be called {to} on the target; name another one"
                    ));
                }
            }
            if !schemas.is_empty() && !schemas.iter().any(|schema| same(schema, schema_from(&rule))) {
                add(format!(
                    "{from} isn't moved, since migration.schemas doesn't name its schema; name it there, or take the rule out"
                ));
            }
            rules.push(Said { value: rule, place });
        }
        self.clashes(&rules, schemas);
        Names::new(rules.into_iter().map(|said| said.value).collect())
    }

    /// A schema that keeps its name can't share it with one that is renamed.
    fn clashes(&mut self, rules: &[Said<Rename>], schemas: &[String]) {
        let is_renamed = |schema: &String| {
            let of = |rule: &Said<Rename>| matches!(&rule.value, Rename::Schema { from, .. } if same(from, schema));
            rules.iter().any(of)
        };
        for rule in rules {
            let Rename::Schema { from, to } = &rule.value else { continue };
            if let Some(other) = schemas.iter().find(|schema| same(schema, to) && !is_renamed(schema)) {
                let what = format!(
                    "[[migration.rename]]: {from} and {other} would both be called {to} on the target, since {other} is moved too \
                     and keeps its name; name another one"
                );
                self.problems.add(rule.place, what);
            }
        }
    }
}

/// Some servers know no difference.
fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn texts(rule: &Rename) -> (String, String) {
    match rule {
        Rename::Schema { from, to } => (from.clone(), to.clone()),
        Rename::Table { from, to } => (from.to_string(), to.to_string()),
    }
}

fn schemas_in(rule: &Rename) -> [&str; 2] {
    match rule {
        Rename::Schema { from, to } => [from, to],
        Rename::Table { from, to } => [&from.schema, &to.schema],
    }
}

fn schema_from(rule: &Rename) -> &str {
    match rule {
        Rename::Schema { from, .. } => from,
        Rename::Table { from, .. } => &from.schema,
    }
}
