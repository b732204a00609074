use std::{env::args_os, process::ExitCode};

fn main() -> ExitCode {
    // The zygote runs on what it was executed with and must never see a second thread.
    let mut args = args_os().skip(1);
    if let (Some("zygote"), Some(state_dir)) = (args.next().as_deref().and_then(|arg| arg.to_str()), args.next()) {
        inro::zygote::main(state_dir.into(), inro::shim::EMBEDDED)
    }
    ExitCode::SUCCESS
}
