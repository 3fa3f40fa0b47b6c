//! Reads tables, keys and foreign keys of a server into [`super::table::TableSchema`]. (H6)
