//! The domain: sandboxes and containers, one file per operation.
