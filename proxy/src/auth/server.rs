//! The proxy as a server to its clients: the front door. (H2)
