//! `[[migration.rows]]`: an array of tables, each with keys of its own.

use toml::de::{DeTable, DeValue};

use super::{Place, Problems, Reader, clip, hint, lookup};
use crate::migration::{FilterValue, RowsConfig};

const KEYS: [&str; 3] = ["table", "column", "values"];
/// Values of one filter: they stand in every statement that reads the table.
const VALUES_MAX: usize = 1000;
/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1000;

impl Reader<'_> {
    /// Every filter that is whole; what is wrong with the others is a problem.
    pub(super) fn rows(&self, problems: &mut Problems) -> Vec<RowsConfig> {
        let Some((value, place)) = self.find("migration", "rows") else { return Vec::new() };
        let shape = "migration.rows has to be a list of filters: write [[migration.rows]] with table, column and values \
                     for each";
        let Some(filters) = value.as_array() else {
            problems.add(place, shape);
            return Vec::new();
        };
        let mut rows = Vec::new();
        for filter in filters.iter() {
            let place = Place::Line((self.line_of)(filter.span().start));
            match filter.get_ref() {
                DeValue::Table(table) => rows.extend(self.filter(problems, table, place)),
                _ => problems.add(place, shape),
            }
        }
        rows
    }

    fn filter(&self, problems: &mut Problems, filter: &DeTable<'_>, place: Place) -> Option<RowsConfig> {
        for key in filter.keys().filter(|key| !KEYS.contains(&key.get_ref().as_ref())) {
            let at = Place::Line((self.line_of)(key.span().start));
            let name = key.get_ref().as_ref();
            let hint = hint(name, KEYS.iter().map(|key| (*key, (*key).to_owned())));
            problems.add(at, format!("[[migration.rows]] has no key {}; {hint}", clip(name)));
        }
        let mut text = |key: &str, example: &str| {
            let found = lookup(filter, key);
            let at = found.map_or(place, |value| Place::Line((self.line_of)(value.span().start)));
            let text = found.and_then(|value| value.get_ref().as_str()).filter(|text| !text.contains('\0'));
            if text.is_none_or(str::is_empty) {
                problems.add(at, format!("[[migration.rows]] needs {key} = \"…\", such as {example}"));
                return None;
            }
            text.map(str::to_owned)
        };
        let tables = text("table", "\"shop.orders\" or \"shop.%\"");
        let column = text("column", "\"tenant_id\"");
        let found = lookup(filter, "values");
        let at = found.map_or(place, |value| Place::Line((self.line_of)(value.span().start)));
        let values = found.and_then(|value| read_values(value.get_ref()));
        if values.is_none() {
            let what = format!(
                "[[migration.rows]] needs values = […], 1 to {VALUES_MAX} whole numbers or texts (of at most {VALUE_BYTES_MAX} \
                 bytes), such as [7, 9]"
            );
            problems.add(at, what);
        }
        let tables = tables?;
        let parts = tables.split_once('.').filter(|(schema, table)| !schema.is_empty() && !table.is_empty());
        if parts.is_none() {
            let what = format!(
                "[[migration.rows]]: {tables:?} isn't a pattern of the form schema.table (with % and _ as in LIKE)"
            );
            problems.add(place, what);
            return None;
        }
        Some(RowsConfig { tables, column: column?, values: values? })
    }
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
