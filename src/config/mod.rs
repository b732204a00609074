//! Configuration: one TOML file into each component's `Config`.
