//! Stored hashes of mysql_native_password accounts, read with the service account.
