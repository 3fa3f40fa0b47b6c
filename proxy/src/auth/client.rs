//! The proxy as a client of a backend. (H2)
