//! What a runtime itself says of where the time went: `stagesMs` and `startStagesMs` in inro's verbose statuses.

use std::collections::HashMap;

use inro_proto as wire;

use super::{Endpoint, Up};

/// The stages of a call in their order, with milliseconds.
pub type Stages = Vec<(String, f64)>;

impl Endpoint {
    /// Of the calls that made `up`, in their order and each with its name; empty where a runtime does not tell.
    ///
    /// # Errors
    /// When a status cannot be had.
    pub async fn stages(&self, up: &Up) -> anyhow::Result<[(&'static str, Stages); 3]> {
        let request = wire::PodSandboxStatusRequest {
            pod_sandbox_id: up.pod.id.clone(),
            verbose: true,
        };
        let pod = self
            .call(
                "PodSandboxStatus",
                self.client.runtime.clone().pod_sandbox_status(request),
            )
            .await?;
        let request = wire::ContainerStatusRequest {
            container_id: up.container.clone(),
            verbose: true,
        };
        let container = self
            .call("ContainerStatus", self.client.runtime.clone().container_status(request))
            .await?;
        Ok([
            ("RunPodSandbox", parse(&pod.info, "stagesMs")),
            ("CreateContainer", parse(&container.info, "stagesMs")),
            ("StartContainer", parse(&container.info, "startStagesMs")),
        ])
    }
}

fn parse(info: &HashMap<String, String>, key: &str) -> Stages {
    let info = info
        .get("info")
        .and_then(|info| serde_json::from_str::<serde_json::Value>(info).ok());
    let stages = info.and_then(|info| serde_json::from_value(info.get(key)?.clone()).ok());
    stages.unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn who_tells_no_stages_has_none() {
        let info = |text: &str| HashMap::from([("info".to_owned(), text.to_owned())]);
        let told =
            info(r#"{"pid": 7, "stagesMs": [["network", 1.5], ["init", 0.25]], "startStagesMs": [["exec", 2]]}"#);
        let stages = parse(&told, "stagesMs");
        assert_eq!(stages, [("network".to_owned(), 1.5), ("init".to_owned(), 0.25)]);
        assert_eq!(parse(&told, "startStagesMs"), [("exec".to_owned(), 2.0)]);
        for silent in ["{}", "not JSON", r#"{"stagesMs": "no list"}"#] {
            assert!(parse(&info(silent), "stagesMs").is_empty(), "{silent}");
        }
        assert!(parse(&HashMap::new(), "stagesMs").is_empty());
    }
}
