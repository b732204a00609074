//! Sessions against real servers on loopback.
