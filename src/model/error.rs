//! Whose fault an error is, and how it is told.

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

/// An error and its causes in one line, for a log or a client; a cause that its effect's text ends with is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.ends_with(&part) {
            text += ": ";
            text += &part;
        }
        source = cause.source();
    }
    text
}
