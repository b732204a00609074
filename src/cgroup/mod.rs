//! cgroups: made, limited, joined, killed and removed by the daemon; v1, hybrid and v2.
