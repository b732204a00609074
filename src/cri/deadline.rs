//! What a client is told whose time for a call is over.
//!
//! tonic ends a call at its `grpc-timeout` too, but with CANCELLED, which clients take for their own doing: who asked for a
//! millisecond sees that or DEADLINE_EXCEEDED, whichever clock is first. Source: gRPC over HTTP2, "Timeout"; gRPC, "Deadlines".

use std::{convert::Infallible, time::Duration};

use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture,
        http::{HeaderMap, Response},
    },
};

/// Part of a client's time that was over when its call came: its clock ran before ours.
const AHEAD: Duration = Duration::from_millis(1);

type Answer = BoxFuture<Response<Body>, Infallible>;

/// How long a call may take by its headers.
pub fn of(headers: &HeaderMap) -> Option<Duration> {
    limit(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// The answer, or DEADLINE_EXCEEDED when it takes longer.
pub fn kept(limit: Option<Duration>, answer: Answer) -> Answer {
    let Some(limit) = limit else { return answer };
    Box::pin(async move {
        let over = |_| Ok(Status::deadline_exceeded("the client's time for this call is over").into_http());
        let answer = tokio::time::timeout(limit.saturating_sub(AHEAD), answer).await;
        answer.unwrap_or_else(over)
    })
}

/// At most eight digits and a unit.
fn limit(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod test {
    use tonic::{Code, codegen::http::HeaderName};

    use super::*;

    #[test]
    fn limits_are_read_as_grpc_writes_them() {
        for (text, limit_is) in [
            ("1m", Some(Duration::from_millis(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4u", Some(Duration::from_micros(4))),
            ("5n", Some(Duration::from_nanos(5))),
            ("123456789m", None),
            ("-1m", None),
            ("1", None),
            ("m", None),
            ("", None),
            ("1é", None),
        ] {
            assert_eq!(limit(text), limit_is, "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_that_takes_longer_than_its_client_waits_is_told_so() {
        let told = |limit: &'static str, takes: Duration| async move {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), limit.parse().unwrap())]);
            let answer = Box::pin(async move {
                tokio::time::sleep(takes).await;
                Ok(Response::new(Body::empty()))
            });
            let answer = kept(of(&headers), answer).await.unwrap();
            Status::from_header_map(answer.headers()).map(|status| status.code())
        };
        assert_eq!(told("5m", Duration::from_secs(60)).await, Some(Code::DeadlineExceeded));
        assert_eq!(told("60S", Duration::ZERO).await, None);
    }
}
