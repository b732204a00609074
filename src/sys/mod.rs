//! System calls that rustix does not offer; with the shim's start-up module the only `unsafe` code.
