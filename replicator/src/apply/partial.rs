//! Images that lack columns (`binlog_row_image` MINIMAL, NOBLOB, FULL_NODUP).
//!
//! Such a change can't be taken together with others, since the row as a whole isn't known: it is carried out by itself,
//! in its place in the stream. An insert leaves what it lacks to the table's defaults, which are constants: what a
//! function made is in the image. An update sets the columns that are in its image after, and leaves the others. The row
//! is found by its key, which is in every image.
//!
//! # Why only onto exact rows
//!
//! Over rows of any age between P0 and P1 that isn't enough:
//!
//! - A row whose key changed, and that was copied by neither the chunk of its old key (read later) nor that of its new one
//!   (read earlier), is on the target nowhere. A whole image makes it again; a partial one can't.
//! - A REPLACE that displaces a row for its unique value relies on a later event that writes that row again, whole.
//!
//! So a source whose `binlog_row_image` isn't FULL is copied table by table, each as it was at one position, as tables
//! without a key are (`snapshot::whole`), and followed exactly once from there: its rows are exact from the first
//! change on. Where a session of a source with whole images writes partial ones while the copy is replayed, the
//! migration stops (invariant 5).
//!
//! Unique values: the source carried the changes out one by one, and so are they here, in the same order, so no moment
//! in between has a value twice. Between batches the write sets see to that; a unique key whose columns the image lacks
//! takes the key as a whole there.

use config::Side;

use super::statement::{Mode, Script};
use super::writeset::Plans;
use crate::binlog::transaction::RowsChange;
use crate::error::{Error, Result};

impl Script {
    /// Adds the statements for the rows of an event, in their order.
    pub(super) fn partial(&mut self, plans: &Plans, mode: Mode, change: &RowsChange) -> Result<()> {
        if mode == Mode::Safe && !plans.is_exact(&change.table.name) {
            return Err(Error::definite(
                Side::Source,
                change.table.name.to_string(),
                "while its copy is replayed, a session logs row images that lack columns: its binlog_row_image isn't FULL, \
                 and the copied rows are of no one moment, so they can't be completed. Set it to FULL in every session \
                 until the migration follows; or set it globally to what the sessions use, and every table is copied at \
                 one position. Then begin the migration again",
            ));
        }
        change.rows.iter().try_for_each(|row| self.in_order(plans, Mode::Exact, change, row))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::sample::{change, delete, insert, table, update};
    use super::*;
    use crate::schema::table::SchemaSet;
    use crate::value::Value::{Absent, Int, Null};

    #[test]
    fn what_an_image_lacks_stays_or_becomes_its_default() {
        let table = table("t", 3, &[&[0], &[1]]);
        let plans = Plans::new(&SchemaSet::new(vec![(*table).clone()]), true);
        let rows = vec![
            insert(vec![Int(1), Absent, Int(3)]),
            update(vec![Int(1), Absent, Absent], vec![Int(1), Int(5), Absent]),
            update(vec![Int(1), Absent, Absent], vec![Int(2), Absent, Null]),
            delete(vec![Int(2), Absent, Absent]),
        ];
        let mut script = Script::new(1 << 20);
        script.changes(&plans, Mode::Exact, &[change(&table, rows.clone())]).unwrap();
        let queries = script.finish().unwrap();
        let sql = String::from_utf8(queries[0].sql.clone()).unwrap();
        let sql: Vec<&str> = sql.split(';').filter(|sql| !sql.starts_with("SET ")).collect();
        assert_eq!(
            sql,
            [
                "INSERT INTO `s`.`t` (`c0`,`c1`,`c2`) VALUES (1,DEFAULT,3)",
                "UPDATE `s`.`t` SET `c1`=5 WHERE `c0` IN (1)",
                "UPDATE `s`.`t` SET `c0`=2,`c2`=NULL WHERE `c0` IN (1)",
                "DELETE FROM `s`.`t` WHERE `c0` IN (2)",
            ]
        );
        // The rows of a copy in chunks are of no one moment.
        let refused = Script::new(1 << 20).changes(&plans, Mode::Safe, &[change(&table, rows)]);
        assert!(refused.unwrap_err().message.contains("binlog_row_image"));
    }
}
