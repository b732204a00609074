//! Kinds of errors as gRPC codes. Each error is logged here, once, with its whole chain.

use std::future::Future;

use tonic::{Code, Status};

use crate::{
    image::ImageError,
    model::{ErrorKind, chain},
    pod::PodError,
};

/// What a failed call answers.
pub trait Answer: std::error::Error + Send + 'static {
    fn kind(&self) -> ErrorKind;
}

impl Answer for PodError {
    fn kind(&self) -> ErrorKind {
        Self::kind(self)
    }
}

impl Answer for ImageError {
    fn kind(&self) -> ErrorKind {
        Self::kind(self)
    }
}

/// Logs an error and turns it into a status.
pub fn status(call: &'static str, error: &impl Answer) -> Status {
    let message = bounded(chain(error));
    let code = code(error.kind());
    match code {
        Code::Internal => tracing::error!(call, error = message),
        Code::NotFound => tracing::debug!(call, error = message),
        _ => tracing::warn!(call, %code, error = message),
    }
    Status::new(code, message)
}

/// What an error quotes may be as long as a request or a manifest; a client takes some KiB of message, or loses the answer.
fn bounded(mut message: String) -> String {
    if message.len() > MOST_MESSAGE {
        let end = (0..=MOST_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

/// HTTP/2 clients take 8 KiB of headers at least, in which each byte that is no plain text is three.
const MOST_MESSAGE: usize = 2000;

/// Runs a call to its end, whether its client waits for it or not: a kubelet that gave up will ask again.
pub async fn to_its_end<T, E>(
    call: &'static str,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    E: Answer,
{
    match tokio::spawn(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(status(call, &error)),
        Err(_) => Err(Status::internal(format!("{call} was interrupted"))),
    }
}

/// A field of a request that is not as the CRI wants it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub field: String,
    pub why: String,
    pub unimplemented: bool,
}

impl Fault {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
            unimplemented: false,
        }
    }

    /// A wish that this build cannot fulfil: never passed over in silence.
    pub fn unimplemented(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: "not supported yet".into(),
            unimplemented: true,
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = if fault.unimplemented {
            Code::Unimplemented
        } else {
            Code::InvalidArgument
        };
        Self::new(code, format!("{}: {}", fault.field, fault.why))
    }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Named => Code::Unknown,
    }
}
