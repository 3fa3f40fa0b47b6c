//! Dials a backend and logs an application's user in. (H2)
