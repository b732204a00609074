//! OCI runtime spec generation: pure functions from model values.
