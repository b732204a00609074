//! The zygote: the single-threaded process that forks containers; libcontainer lives only here.
