//! Pod networking: the built-in bridge.
