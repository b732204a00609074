//! Exec, Attach, PortForward.

use inro_proto as wire;

use super::{Parsed, non_empty};
use crate::{cri::error::Fault, pod::Streams};

/// Which container, what in it, with which streams.
pub fn exec(wire: wire::ExecRequest) -> Parsed<(String, Vec<String>, Streams)> {
    let streams = Streams {
        stdin: wire.stdin,
        stdout: wire.stdout,
        stderr: wire.stderr,
        tty: wire.tty,
    };
    Ok((non_empty(wire.container_id, "container_id")?, wire.cmd, streams))
}

/// Which container, with which streams.
pub fn attach(wire: wire::AttachRequest) -> Parsed<(String, Streams)> {
    let streams = Streams {
        stdin: wire.stdin,
        stdout: wire.stdout,
        stderr: wire.stderr,
        tty: wire.tty,
    };
    Ok((non_empty(wire.container_id, "container_id")?, streams))
}

/// Which sandbox, and the ports, which may be none: then the client names them when it comes.
pub fn port_forward(wire: wire::PortForwardRequest) -> Parsed<(String, Vec<u16>)> {
    let port = |(at, port): (usize, i32)| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Fault::new(format!("port[{at}]"), format!("{port} is not a port"))),
    };
    let ports = wire.port.into_iter().enumerate().map(port).collect::<Parsed<_>>()?;
    Ok((non_empty(wire.pod_sandbox_id, "pod_sandbox_id")?, ports))
}
