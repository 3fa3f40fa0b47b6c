//! The keys that the tail has touched since they were last compared. Bounded (invariant 7): a table with too
//! many of them needs another pass instead. (H1)

use config::TableName;

use crate::value::Value;

/// Shared between appliers, which add, and the verifier, which takes.
#[derive(Debug, Default)]
pub struct TouchedKeys {}

impl TouchedKeys {
    /// Called by an applier after its commit, with the row-key values (old and new) it touched.
    pub fn touch(&self, _table: &TableName, _keys: Vec<Vec<Value>>) {
        todo!()
    }
}
