//! The application's listener: accepts, limits, opens a session for each client. (H2 with H3)
