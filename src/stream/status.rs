//! How a remote command ended, in the words of its client's error stream.
//!
//! Version 4 and later: a `metav1.Status` in JSON. Before: text, and nothing for success.

use bytes::Bytes;
use serde_json::json;

/// How the error stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Text,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(i32),
    /// It could not be started, or its end is unknown.
    Failed(String),
}

/// What is written to the error stream; may be empty.
pub fn render(outcome: &Outcome, form: Form) -> Bytes {
    match (form, outcome) {
        (Form::Json, _) => json(outcome).to_string().into(),
        (Form::Text, Outcome::Exited(0)) => Bytes::new(),
        (Form::Text, Outcome::Exited(code)) => exited(*code).into(),
        (Form::Text, Outcome::Failed(why)) => why.clone().into(),
    }
}

/// Source: `metav1.Status`; the reasons are those that `k8s.io/client-go/tools/remotecommand` looks for.
fn json(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Exited(0) => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exited(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": exited(*code),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed(why) => json!({
            "metadata": {},
            "status": "Failure",
            "message": why,
            "reason": "InternalError",
            "details": {"causes": [{"message": why}]},
            "code": 500,
        }),
    }
}

fn exited(code: i32) -> String {
    format!("command terminated with exit code {code}")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_clients_read() {
        let written = |outcome, form| String::from_utf8(render(&outcome, form).into()).unwrap();
        let outcomes = || {
            [
                Outcome::Exited(0),
                Outcome::Exited(3),
                Outcome::Failed("no /bin/x".into()),
            ]
        };
        insta::assert_snapshot!(outcomes().map(|outcome| written(outcome, Form::Json)).join("\n"), @r#"
        {"metadata":{},"status":"Success"}
        {"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with exit code 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}
        {"code":500,"details":{"causes":[{"message":"no /bin/x"}]},"message":"no /bin/x","metadata":{},"reason":"InternalError","status":"Failure"}
        "#);
        let text = outcomes().map(|outcome| written(outcome, Form::Text));
        assert_eq!(text, ["", "command terminated with exit code 3", "no /bin/x"]);
    }
}
