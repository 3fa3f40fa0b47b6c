//! mysql_native_password and caching_sha2_password: the arithmetic. (H2)
