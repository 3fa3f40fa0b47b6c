//! From spooled events to [`super::transaction::RowsChange`]s. (H5)
