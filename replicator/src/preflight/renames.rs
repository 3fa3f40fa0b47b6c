//! `[[migration.rename]]`: whether the rules fit what there is.

use config::progress::{Finding, Severity};
use config::{Config, Rename, Side, TableName};
use mysql_async::Conn;

use super::some_of;
use crate::error::Result;
use crate::schema::discover::Discovery;
use crate::schema::objects;
use crate::schema::renamed::Renaming;

/// What is to be said of the rules. `folds_names`: a side keeps names in lower case; `ocean_base`: the target is that.
pub(super) fn judge(
    config: &Config,
    found: &Discovery,
    (folds_names, ocean_base): (bool, bool),
) -> Vec<Finding> {
    let names = &config.migration.rename;
    let mut findings = Vec::new();
    let mut add = |severity, subject: String, message: String| {
        findings.push(Finding { severity, subject, message });
    };
    for rule in names.rules() {
        let subject = || format!("rename {rule}");
        if !matches_something(rule, found) {
            let message = "There is nothing of that name among what is moved, so the rule renames nothing; correct it, or take it \
                           out (migration.rename).";
            add(Severity::Fatal, subject(), message.to_owned());
            continue;
        }
        if folds_names && rule.to_string().chars().any(char::is_uppercase) {
            let message = "A server keeps names in small letters (lower_case_table_names), and the rule has capital ones, so it \
                           could mean two things; write it in small letters.";
            add(Severity::Fatal, subject(), message.to_owned());
        }
        let message = match rule {
            Rename::Schema { from, to } => format!(
                "The schema {from} is called {to} on the target. A session whose default schema it is has {to} there; a statement \
                 that names {from} fails behind the cutover, since the texts of statements aren't changed."
            ),
            Rename::Table { from, to } => format!("{from} is called {to} on the target."),
        };
        add(Severity::Note, subject(), message);
    }
    let tables: Vec<String> =
        names.rules().iter().filter_map(renamed_table).map(|(from, _)| from.to_string()).collect();
    if !tables.is_empty() {
        let message = format!(
            "The application has to know the new names of {} behind the cutover, since the texts of statements aren't changed: let \
             it use a name that both sides have, such as a view, or change it in the same moment.",
            some_of(tables.iter().map(String::as_str))
        );
        add(Severity::Warning, "migration.rename".to_owned(), message);
    }
    let there = names.on(Side::Target);
    let all = found.tables.iter().map(|table| table.schema.name.clone()).chain(views(found));
    for name in all.filter(|name| there.table(name).is_none()) {
        let message = "What it would be called on the target is the name of another table there (migration.rename): two tables of \
                       the source can't be one. Rename one of them otherwise, or exclude it with exclude_tables.";
        add(Severity::Fatal, format!("table {name}"), message.to_owned());
    }
    for schema in found.schemas.iter().filter(|schema| there.schema(&schema.name).is_none()) {
        let message = "It keeps its name, and another schema is renamed to that (migration.rename): two schemas of the source can't \
                       be one. Rename one of them otherwise, or name the schemas that are moved in migration.schemas.";
        add(Severity::Fatal, format!("schema {}", schema.name), message.to_owned());
    }
    for table in found.tables.iter().map(|table| &table.schema).filter(|_| ocean_base) {
        let schema_of = |name: &TableName| there.table(name).map(|name| name.schema);
        if table.foreign_keys.iter().any(|key| schema_of(&key.parent) != schema_of(&table.name)) {
            let message = "A foreign key of it refers to a table that is in another schema on the target, which OceanBase doesn't \
                           have; keep both in one (migration.rename), or drop the key.";
            add(Severity::Fatal, format!("table {}", table.name), message.to_owned());
        }
    }
    findings
}

/// Views and routines that won't be made because of what their text says.
pub(super) async fn judge_objects(
    config: &Config,
    source: &mut Conn,
    found: &Discovery,
    folds_names: bool,
) -> Result<Vec<Finding>> {
    let renaming = Renaming::new(&config.migration.rename, Side::Source, folds_names);
    let left_out = objects::not_renamed(source, &found.objects, &renaming).await?;
    let finding = |what: String| Finding {
        severity: Severity::Warning,
        subject: "migration.rename".to_owned(),
        message: format!(
            "It won't be made on the target, so make it there by hand before the cutover: {what}."
        ),
    };
    Ok(left_out.into_iter().map(finding).collect())
}

fn renamed_table(rule: &Rename) -> Option<(&TableName, &TableName)> {
    match rule {
        Rename::Table { from, to } => Some((from, to)),
        Rename::Schema { .. } => None,
    }
}

fn views(found: &Discovery) -> impl Iterator<Item = TableName> {
    let views = found.objects.iter().filter(|object| object.kind == "view");
    views.map(|view| TableName::new(&view.schema, &view.name))
}

fn matches_something(rule: &Rename, found: &Discovery) -> bool {
    match rule {
        Rename::Schema { from, .. } => found.schemas.iter().any(|schema| schema.name == *from),
        Rename::Table { from, .. } => {
            found.tables.iter().any(|table| table.schema.name == *from)
                || views(found).any(|view| view == *from)
        }
    }
}
