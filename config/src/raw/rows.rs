//! `[[migration.rows]]` and `[[migration.columns]]`: arrays of tables, each with keys of its own.

use toml::de::{DeTable, DeValue};

use super::{Place, Problems, Reader, clip, hint, lookup};
use crate::migration::{ColumnsConfig, FilterValue, RowsConfig};

const ROWS: Shape = Shape {
    key: "rows",
    keys: &["table", "column", "values"],
    wanted: "table, column and values",
    example: "\"shop.orders\" or \"shop.%\"",
};
const COLUMNS: Shape = Shape {
    key: "columns",
    keys: &["table", "exclude"],
    wanted: "table and exclude",
    example: "\"shop.users\" or \"shop.%\"",
};
/// Values of one filter: they stand in every statement that reads the table.
const VALUES_MAX: usize = 1000;
/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1000;
/// Columns of one filter; no server has tables with more of them.
const COLUMNS_MAX: usize = 4096;

/// What a kind of filter is written with.
struct Shape {
    /// Its key in `[migration]`.
    key: &'static str,
    /// Its own keys.
    keys: &'static [&'static str],
    wanted: &'static str,
    /// Of a table.
    example: &'static str,
}

impl Reader<'_> {
    /// Every row filter that is whole; what is wrong with the others is a problem.
    pub(super) fn rows(&self, problems: &mut Problems) -> Vec<RowsConfig> {
        self.filters(problems, &ROWS, |problems, filter, place| {
            let tables = self.text_of(problems, &ROWS, (filter, place), "table", ROWS.example);
            let column = self.text_of(problems, &ROWS, (filter, place), "column", "\"tenant_id\"");
            let (found, at) = self.value_of((filter, place), "values");
            let values = found.and_then(read_values);
            if values.is_none() {
                let what = format!(
                    "[[migration.rows]] needs values = […], 1 to {VALUES_MAX} whole numbers or texts (of at most \
                     {VALUE_BYTES_MAX} bytes), such as [7, 9]"
                );
                problems.add(at, what);
            }
            let tables = pattern(problems, &ROWS, place, tables?)?;
            Some(RowsConfig { tables, column: column?, values: values? })
        })
    }

    /// The same for column filters.
    pub(super) fn columns(&self, problems: &mut Problems) -> Vec<ColumnsConfig> {
        self.filters(problems, &COLUMNS, |problems, filter, place| {
            let tables = self.text_of(problems, &COLUMNS, (filter, place), "table", COLUMNS.example);
            let (found, at) = self.value_of((filter, place), "exclude");
            let exclude = found.and_then(read_names);
            if exclude.is_none() {
                let what = format!(
                    "[[migration.columns]] needs exclude = […], the names of 1 to {COLUMNS_MAX} columns, each once, such as \
                     [\"password_hash\"]"
                );
                problems.add(at, what);
            }
            let tables = pattern(problems, &COLUMNS, place, tables?)?;
            Some(ColumnsConfig { tables, exclude: exclude? })
        })
    }

    fn filters<T>(
        &self,
        problems: &mut Problems,
        shape: &Shape,
        read: impl Fn(&mut Problems, &DeTable<'_>, Place) -> Option<T>,
    ) -> Vec<T> {
        let Some((value, place)) = self.find("migration", shape.key) else { return Vec::new() };
        let wrong = format!(
            "migration.{key} has to be a list of filters: write [[migration.{key}]] with {wanted} for each",
            key = shape.key,
            wanted = shape.wanted
        );
        let Some(filters) = value.as_array() else {
            problems.add(place, wrong);
            return Vec::new();
        };
        let mut found = Vec::new();
        for filter in filters.iter() {
            let place = Place::Line((self.line_of)(filter.span().start));
            let DeValue::Table(table) = filter.get_ref() else {
                problems.add(place, wrong.clone());
                continue;
            };
            for key in table.keys().filter(|key| !shape.keys.contains(&key.get_ref().as_ref())) {
                let at = Place::Line((self.line_of)(key.span().start));
                let name = key.get_ref().as_ref();
                let hint = hint(name, shape.keys.iter().map(|key| (*key, (*key).to_owned())));
                problems.add(at, format!("[[migration.{}]] has no key {}; {hint}", shape.key, clip(name)));
            }
            found.extend(read(problems, table, place));
        }
        found
    }

    /// The value of a key, and where it stands; where there is none, the place of its filter.
    fn value_of<'f>(
        &self,
        (filter, place): (&'f DeTable<'f>, Place),
        key: &str,
    ) -> (Option<&'f DeValue<'f>>, Place) {
        let found = lookup(filter, key);
        let at = found.map_or(place, |value| Place::Line((self.line_of)(value.span().start)));
        (found.map(|value| value.get_ref()), at)
    }

    fn text_of(
        &self,
        problems: &mut Problems,
        shape: &Shape,
        filter: (&DeTable<'_>, Place),
        key: &str,
        example: &str,
    ) -> Option<String> {
        let (found, at) = self.value_of(filter, key);
        let text = found.and_then(|value| value.as_str()).filter(|text| is_name(text));
        if text.is_none() {
            problems.add(at, format!("[[migration.{}]] needs {key} = \"…\", such as {example}", shape.key));
        }
        text.map(str::to_owned)
    }
}

fn pattern(problems: &mut Problems, shape: &Shape, place: Place, tables: String) -> Option<String> {
    let parts = tables.split_once('.').filter(|(schema, table)| !schema.is_empty() && !table.is_empty());
    if parts.is_none() {
        let what = format!(
            "[[migration.{}]]: {tables:?} isn't a pattern of the form schema.table (with % and _ as in LIKE)",
            shape.key
        );
        problems.add(place, what);
    }
    parts.is_some().then_some(tables)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

fn read_values(value: &DeValue<'_>) -> Option<Vec<FilterValue>> {
    let list = value.as_array().filter(|list| (1..=VALUES_MAX).contains(&list.len()))?;
    let read = |value: &DeValue<'_>| match value {
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(FilterValue::Integer)
        }
        DeValue::String(text) if text.len() <= VALUE_BYTES_MAX => Some(FilterValue::Text(text.to_string())),
        _ => None,
    };
    list.iter().map(|item| read(item.get_ref())).collect()
}

fn read_names(value: &DeValue<'_>) -> Option<Vec<String>> {
    let list = value.as_array().filter(|list| (1..=COLUMNS_MAX).contains(&list.len()))?;
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for item in list.iter() {
        let name = item.get_ref().as_str().filter(|name| is_name(name))?;
        if names.iter().any(|known| known.to_lowercase() == name.to_lowercase()) {
            return None;
        }
        names.push(name.to_owned());
    }
    Some(names)
}
