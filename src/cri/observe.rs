//! How long calls take and how they end, for whoever wants to know.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture,
        http::{Request, Response},
    },
    server::NamedService,
};
use tower::Service;

use super::deadline;
use crate::model::Stopwatch;

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub method: &'static str,
    /// gRPC's name of the status; `CANCELLED` too when the client went away, though the work may go on.
    pub code: &'static str,
    /// From the request's head to the answer.
    pub took: Duration,
}

/// Who is told of each.
pub type Observer = Arc<dyn Fn(Ended) + Send + Sync>;

/// A service whose calls end at their clients' deadlines, and are observed, if by anyone.
#[derive(Clone)]
pub struct Observed<S> {
    pub service: S,
    pub observer: Option<Observer>,
}

impl<S: NamedService> NamedService for Observed<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = BoxFuture<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(Arrived(Instant::now()));
        let begun = self
            .observer
            .as_ref()
            .and_then(|observer| Begun::of(&request, observer));
        let limit = deadline::of(request.headers());
        let answer = deadline::kept(limit, self.service.call(request));
        let Some(mut begun) = begun else { return answer };
        Box::pin(async move {
            let answer = answer.await?;
            begun.answered(&answer);
            Ok(answer)
        })
    }
}

/// When the head of a request was there.
#[derive(Clone, Copy)]
struct Arrived(Instant);

/// Takes the times of a call's steps, from its arrival on.
pub fn stopwatch<T>(request: &tonic::Request<T>) -> Stopwatch {
    let arrived = request.extensions().get::<Arrived>();
    arrived.map_or_else(Stopwatch::start, |arrived| Stopwatch::since(arrived.0))
}

/// A call under way. Told at its drop, so that one that nobody waits for any longer is told as well.
struct Begun {
    method: &'static str,
    code: Code,
    at: Instant,
    observer: Observer,
}

impl Begun {
    /// `None` for calls that answer with a stream, whose length says nothing, and for what is no call of the CRI: a client
    /// can ask for any name.
    fn of(request: &Request<Body>, observer: &Observer) -> Option<Self> {
        let asked = request.uri().path().rsplit('/').next()?;
        Some(Self {
            method: CALLS.iter().find(|name| **name == asked)?,
            code: Code::Cancelled,
            at: Instant::now(),
            observer: observer.clone(),
        })
    }

    /// A call that failed has its status in the headers. Only an answer that is too long for a message fails after them, and
    /// is taken for a success here.
    fn answered(&mut self, answer: &Response<Body>) {
        self.code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        (self.observer)(Ended {
            method: self.method,
            code: name(self.code),
            took: self.at.elapsed(),
        });
    }
}

/// Source: gRPC, "Status codes and their use in gRPC".
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The calls with one answer, in the order of `proto/api.proto`.
const CALLS: &[&str] = &[
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "RuntimeConfig",
    "UpdatePodSandboxResources",
    "ListImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
];

#[cfg(test)]
mod test {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_call_with_one_answer_is_observed_and_no_other() {
        let rpcs = include_str!("../../proto/api.proto")
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "));
        let single = rpcs.filter(|rpc| !rpc.contains("returns (stream "));
        let names: Vec<&str> = single.filter_map(|rpc| rpc.split('(').next()).collect();
        assert_eq!(CALLS, names);
    }

    /// Answers with a status, or never.
    #[derive(Clone)]
    struct Says(Option<Code>);

    impl Service<Request<Body>> for Says {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Answer;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Answer {
            match self.0 {
                None => Box::pin(std::future::pending()),
                Some(Code::Ok) => Box::pin(async { Ok(Response::new(Body::empty())) }),
                Some(code) => Box::pin(async move { Ok(Status::new(code, "no").into_http()) }),
            }
        }
    }

    /// What is observed of a call to `path` that is waited for a little.
    async fn observed(path: &str, says: Option<Code>) -> Vec<(&'static str, &'static str)> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let observer: Observer = Arc::new(move |ended| into.lock().unwrap().push((ended.method, ended.code)));
        let mut service = Observed {
            service: Says(says),
            observer: Some(observer),
        };
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(10), service.call(request)).await;
        drop(service);
        Arc::into_inner(seen).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn a_call_is_told_once_with_its_code_also_when_its_client_left() {
        let path = "/runtime.v1.RuntimeService/RunPodSandbox";
        for (says, told) in [
            (Some(Code::Ok), "OK"),
            (Some(Code::NotFound), "NOT_FOUND"),
            (None, "CANCELLED"),
        ] {
            assert_eq!(observed(path, says).await, [("RunPodSandbox", told)]);
        }
    }

    #[tokio::test]
    async fn streams_and_names_that_are_none_are_passed_over() {
        for name in [
            "GetContainerEvents",
            "StreamContainers",
            "runpodsandbox",
            "Nonsense",
            "",
        ] {
            let path = format!("/runtime.v1.RuntimeService/{name}");
            assert_eq!(observed(&path, Some(Code::Unimplemented)).await, [], "{name}");
        }
    }
}
