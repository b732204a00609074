//! Exec, Attach, PortForward: gRPC answers with a URL, and the call itself is the streaming server's.

use inro_proto as wire;
use tonic::Status;

use super::{error::status, parse, runtime_service::RuntimeCalls};
use crate::pod::{PodError, StreamCall};

impl RuntimeCalls {
    pub(super) fn exec_url(&self, request: wire::ExecRequest) -> Result<wire::ExecResponse, Status> {
        let (id, command, streams) = parse::exec(request)?;
        let call = || {
            let container = self.pods.container(&id)?.id.clone();
            Ok(StreamCall::Exec {
                container,
                command,
                streams,
            })
        };
        let url = self.url("Exec", call)?;
        Ok(wire::ExecResponse { url })
    }

    pub(super) fn attach_url(&self, request: wire::AttachRequest) -> Result<wire::AttachResponse, Status> {
        let (id, streams) = parse::attach(request)?;
        let call = || {
            let container = self.pods.container(&id)?.id.clone();
            Ok(StreamCall::Attach { container, streams })
        };
        let url = self.url("Attach", call)?;
        Ok(wire::AttachResponse { url })
    }

    pub(super) fn port_forward_url(
        &self,
        request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse, Status> {
        let (id, ports) = parse::port_forward(request)?;
        let call = || {
            let sandbox = self.pods.pod(&id)?.sandbox.id;
            Ok(StreamCall::PortForward { sandbox, ports })
        };
        let url = self.url("PortForward", call)?;
        Ok(wire::PortForwardResponse { url })
    }

    /// Promises a call and says where it is redeemed.
    fn url(&self, name: &'static str, call: impl FnOnce() -> Result<StreamCall, PodError>) -> Result<String, Status> {
        let promised = call().and_then(|call| Ok((call.kind(), self.pods.promise(call)?)));
        let (kind, token) = promised.map_err(|error| status(name, &error))?;
        Ok(format!("{}/{}/{token}", self.stream_url, kind.as_str()))
    }
}
