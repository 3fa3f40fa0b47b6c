//! Which tables a migration moves, by name alone: also those that don't exist yet.
//!
//! It goes by the source's names. What one of the servers calls a thing is put into them here ([`Selection::known`]).

use config::pattern::like;
use config::{MigrationConfig, SideNames, TableName};

/// Schemas that belong to the server or to Changeover itself.
const OWN_SCHEMAS: [&str; 5] = ["mysql", "information_schema", "performance_schema", "sys", "changeover"];

/// True for a schema that is never moved.
pub(crate) fn is_own_schema(name: &str) -> bool {
    OWN_SCHEMAS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The rule by which names belong to a migration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The configured schemas as the server spells them; `None`: every one that isn't the server's own.
    schemas: Option<Vec<String>>,
    exclude_tables: Vec<String>,
    /// The server keeps names in lower case.
    folds_names: bool,
    /// What the server calls things.
    names: SideNames,
}

/// What a table is to a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is moved; the name is the source's.
    Moved(TableName),
    /// It has nothing to do with it.
    Other,
    /// It is in a schema of the migration, and no table of the source could be called that here (`migration.rename`).
    Unnamed,
}

impl Selection {
    /// The rule of a migration, on a server with these names. `folds_names`: that server keeps names in lower case.
    #[must_use]
    pub fn new(migration: &MigrationConfig, names: SideNames, folds_names: bool) -> Self {
        let spelled = |name: &String| if folds_names { name.to_lowercase() } else { name.clone() };
        let schemas: Vec<String> = migration.schemas.iter().map(spelled).collect();
        Self {
            schemas: (!schemas.is_empty()).then_some(schemas),
            exclude_tables: migration.exclude_tables.clone(),
            folds_names,
            names,
        }
    }

    /// The same on a server with these names.
    #[must_use]
    pub fn with_names(self, names: SideNames) -> Self {
        Self { names, ..self }
    }

    /// What the server calls things.
    #[must_use]
    pub fn names(&self) -> &SideNames {
        &self.names
    }

    /// What a table is that the server calls `here`.
    #[must_use]
    pub fn known(&self, here: &TableName) -> Known {
        let taken = |name: TableName| if self.takes(&name) { Known::Moved(name) } else { Known::Other };
        if self.names.is_plain() {
            return taken(here.clone());
        }
        match self.names.source_table(here) {
            Some(name) => taken(name),
            None if self.holds(&here.schema) => Known::Unnamed,
            None => Known::Other,
        }
    }

    /// True where a schema of the server holds, or may hold, something of the migration.
    #[must_use]
    pub fn holds(&self, here: &str) -> bool {
        match &self.schemas {
            Some(schemas) if self.names.is_plain() => schemas.iter().any(|schema| schema == here),
            Some(schemas) => {
                self.names.schemas(schemas.iter().map(String::as_str)).iter().any(|schema| schema == here)
            }
            None => !is_own_schema(here),
        }
    }

    /// The schemas of the server that hold something of the migration; `None` where it is all of them.
    #[must_use]
    pub fn schemas_here(&self) -> Option<Vec<String>> {
        let schemas = self.schemas.as_ref()?;
        Some(self.names.schemas(schemas.iter().map(String::as_str)))
    }

    /// The tables of these schemas, all of them.
    #[must_use]
    pub fn of_schemas(schemas: &[&str]) -> Self {
        let schemas = Some(schemas.iter().map(|&schema| schema.to_owned()).collect());
        Self { schemas, ..Self::default() }
    }

    /// True where the tables of a schema are moved, as far as they aren't excluded.
    #[must_use]
    pub fn takes_schema(&self, name: &str) -> bool {
        match &self.schemas {
            Some(schemas) => schemas.iter().any(|schema| schema == name),
            None => !is_own_schema(name),
        }
    }

    /// True where a table of that name is moved.
    #[must_use]
    pub fn takes(&self, table: &TableName) -> bool {
        self.takes_schema(&table.schema) && !self.excludes(table)
    }

    /// True where `exclude_tables` leaves it out.
    #[must_use]
    pub fn excludes(&self, table: &TableName) -> bool {
        if self.exclude_tables.is_empty() {
            return false;
        }
        let text = table.to_string();
        self.exclude_tables.iter().any(|pattern| like(pattern, &text))
    }

    /// The schemas by name; `None` where it is all of them.
    #[must_use]
    pub fn schemas(&self) -> Option<&[String]> {
        self.schemas.as_deref()
    }

    /// True where the server keeps names in lower case.
    #[must_use]
    pub fn folds_names(&self) -> bool {
        self.folds_names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_by_schema_and_pattern() {
        let all = Selection { exclude_tables: vec!["shop.tmp_%".to_owned()], ..Selection::default() };
        let check = |selection: &Selection, schema: &str, table: &str, expected: bool| {
            assert_eq!(selection.takes(&TableName::new(schema, table)), expected, "{schema}.{table}");
        };
        check(&all, "shop", "a", true);
        check(&all, "shop", "tmp_a", false);
        check(&all, "born_later", "a", true);
        check(&all, "MySQL", "user", false);
        check(&all, "changeover", "checkpoint", false);
        let one = Selection::of_schemas(&["shop"]);
        check(&one, "shop", "tmp_a", true);
        check(&one, "Shop", "a", false);
        check(&one, "born_later", "a", false);
    }
}
