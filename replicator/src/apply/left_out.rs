//! Changes of a table that has columns which aren't moved: on the way back, into the old server.
//!
//! What is in these columns is nowhere else, so no row that is there may be written anew. An update stays an update of its
//! row, with a key that changes as well, and nothing becomes a REPLACE, an `INSERT … ON DUPLICATE KEY UPDATE` or a delete and
//! an insert; neither may a delete and an insert of one key become an update, which would give the new row the values of the
//! old one. So the changes are carried out one by one in their order, as they were on the other server: no moment in between
//! has a value twice there, and so none has here. A leg that writes the old server begins where both are equal and
//! is exact from its first transaction on, so that order is enough.
//!
//! A unique key that is left out holds nothing but such columns, one of which is NULL in a new row: there is no way back for
//! other tables (`schema/left_out.rs`). So no row can collide in one.

use super::net::Row;
use super::statement::{Mode, Script};
use super::table_text::TableText;
use super::writeset::Plans;
use crate::binlog::transaction::{RowChange, RowsChange};
use crate::error::{Error, Result};

impl Script {
    /// Adds the statements for the rows of an event, in their order. Inserts, or deletes, that follow each other are one.
    pub(super) fn beside_left_out(&mut self, plans: &Plans, mode: Mode, change: &RowsChange) -> Result<()> {
        if mode != Mode::Exact {
            let what =
                "rows were to be replayed over a table of which columns aren't moved (migration.columns)";
            return Err(Error::bug(change.table.name.to_string(), what));
        }
        let table = TableText::new(&change.table);
        let alone = |row: &RowChange| row.is_partial() || plans.cascades(change, row);
        let kind = |row: &RowChange| match row {
            RowChange::Insert { .. } => 0,
            RowChange::Delete { .. } => 1,
            RowChange::Update { .. } => 2,
        };
        for rows in change.rows.chunk_by(|a, b| kind(a) == kind(b) && !alone(a) && !alone(b)) {
            let images: Vec<&Row> = rows.iter().map(image).collect();
            match rows.first() {
                Some(RowChange::Insert { .. }) if rows.len() > 1 => self.insert(&table, &images, mode)?,
                Some(RowChange::Delete { .. }) if rows.len() > 1 => self.delete(&table, &images, mode)?,
                _ => rows.iter().try_for_each(|row| self.in_order(plans, mode, change, row))?,
            }
        }
        Ok(())
    }
}

/// The only image of an insert or a delete.
fn image(row: &RowChange) -> &Row {
    match row {
        RowChange::Insert { after: image }
        | RowChange::Delete { before: image }
        | RowChange::Update { after: image, .. } => image,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use super::super::sample::{change, column, delete, insert, int_row, table, update};
    use super::*;
    use crate::schema::left_out::LeftOutColumn;
    use crate::schema::table::{ColumnKind, SchemaSet};

    #[test]
    fn no_row_is_written_anew() {
        let mut t = (*table("t", 2, &[&[0], &[1]])).clone();
        let left =
            |at, name: &str, kind| LeftOutColumn { at, column: column(name, kind, None), altered: false };
        t.left_out.columns =
            vec![left(1, "secret", ColumnKind::Text), left(3, "at", ColumnKind::Timestamp { fraction: 0 })];
        let t = Arc::new(t);
        let plans = Plans::new(&SchemaSet::new(vec![(*t).clone()]), true);
        let r = int_row;
        let rows = vec![
            delete(r(&[1, 1])),
            insert(r(&[1, 1])),
            insert(r(&[2, 2])),
            insert(r(&[3, 3])),
            update(r(&[4, 4]), r(&[5, 4])),
            update(r(&[6, 6]), r(&[6, 7])),
            update(r(&[6, 7]), r(&[6, 8])),
            update(r(&[8, 80]), r(&[8, 81])),
            update(r(&[9, 90]), r(&[9, 91])),
            delete(r(&[2, 2])),
            delete(r(&[3, 3])),
        ];
        let mut script = Script::new(1 << 20);
        script.changes(&plans, Mode::Exact, &[change(&t, rows.clone())]).unwrap();
        let query = script.finish().unwrap().remove(0);
        assert_eq!(
            String::from_utf8(query.sql).unwrap().replace('`', ""),
            "DELETE FROM s.t WHERE c0 IN (1);INSERT INTO s.t (c0,c1) VALUES (1,1),(2,2),(3,3);\
             UPDATE s.t SET c0=5,at=at WHERE c0 IN (4);UPDATE s.t SET c1=7,at=at WHERE c0 IN (6);\
             UPDATE s.t SET c1=8,at=at WHERE c0 IN (6);UPDATE s.t SET c1=81,at=at WHERE c0 IN (8);\
             UPDATE s.t SET c1=91,at=at WHERE c0 IN (9);DELETE FROM s.t WHERE c0 IN (2,3)"
        );
        let counts: Vec<Option<u64>> = query.statements.iter().map(|s| s.rows).collect();
        assert_eq!(counts, [Some(1), Some(3), Some(1), Some(1), Some(1), Some(1), Some(1), Some(2)]);
        assert!(Script::new(1 << 20).changes(&plans, Mode::Safe, &[change(&t, rows)]).is_err());
    }
}
