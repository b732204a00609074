//! The daemon's side of the shim: its embedded binary, its control connection, its records.
