//! Whose fault an error is.

/// What a client can do about an error; `cri` alone turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    InvalidArgument,
    AlreadyExists,
    FailedPrecondition,
    ResourceExhausted,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    DeadlineExceeded,
    Cancelled,
    Unimplemented,
    Internal,
    /// One that the kubelet knows by the first word of its message (cri-api `pkg/errors`: `RegistryUnavailable`,
    /// `ImageVolumeMountFailed`, ...). Its client strips the code from UNKNOWN alone, so only under that code the word
    /// comes first (cri-client `remote_image.go`, kubelet `image_manager.go`).
    Named,
}
