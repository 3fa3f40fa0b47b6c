//! The shape of the TOML file, before defaults and checks.
