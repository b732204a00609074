//! What confines a container: users, capabilities, seccomp, the root file system's shape.
