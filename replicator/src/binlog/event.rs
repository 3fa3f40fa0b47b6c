//! Event headers and bodies: format description, GTIDs, table maps, queries, payloads. (H5)
