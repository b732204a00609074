use std::{env::args_os, process::ExitCode};

#[global_allocator]
static ALLOCATOR: inro::sys::arena::Allocator = inro::sys::arena::Allocator;

fn main() -> ExitCode {
    // Hidden commands come before everything else: they run on what they were executed with, and the zygote must
    // never see a second thread.
    let args: Vec<_> = args_os().skip(1).collect();
    match args.first().and_then(|arg| arg.to_str()) {
        Some("zygote") if args.len() == 2 => inro::zygote::main(args[1].clone().into(), inro::shim::EMBEDDED),
        Some("unpack-worker") if args.len() >= 5 => inro::image::unpack::worker_main(&args[1..]),
        Some("halt") if args.len() == 1 => inro::zygote::halt_main(),
        _ => inro::cli::main(),
    }
}
