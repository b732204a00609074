//! gRPC face: CRI v1 over the unix socket.
