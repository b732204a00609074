//! Builds the shim on the way, so that one file is the whole installation.
//!
//! The shim is freestanding: other flags and another profile than the daemon's. So a nested cargo builds it, in a
//! target folder of its own (sharing one would wait for this build's lock for ever).

use std::{env, path::PathBuf, process::Command};

fn main() {
    for input in ["build.rs", "Cargo.toml", "Cargo.lock", "shim/Cargo.toml", "shim/src"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("shim");
    let target = env::var("TARGET").expect("cargo sets it");
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let mut flags = vec![
        "-Cpanic=abort",
        "-Crelocation-model=static",
        "-Ctarget-feature=+crt-static",
        "-Clink-self-contained=no",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none,-z,noseparate-code,-z,norelro,--gc-sections",
        "-Cforce-unwind-tables=no",
    ];
    if target == "x86_64-unknown-linux-gnu" {
        // Its default linker is the toolchain's own lld, which `link-self-contained=no` takes away.
        flags.push("-Clinker-features=-lld");
    }
    let status = Command::new(cargo)
        .current_dir(&root)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "-p",
            "inro-shim",
            "--bins",
            "--features",
            "bin",
        ])
        .args(["--target", &target, "--target-dir"])
        .arg(&out)
        .args([
            "--config",
            "profile.release.opt-level='s'",
            "--config",
            "profile.release.lto='fat'",
        ])
        .args(["--config", "profile.release.codegen-units=1"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "building the shim failed");
    if target.ends_with("-linux-musl") {
        // What the start of a program that may lie anywhere adjusts: a bit for each address instead of 24 bytes, 2 MB of them
        // (musl from 1.2.4 on; a linker that does not know it goes on without).
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let built = out.join(target).join("release");
    println!("cargo::rustc-env=INRO_SHIM={}", built.join("inro-shim").display());
    println!("cargo::rustc-env=INRO_DEMO={}", built.join("inro-demo").display());
}
