//! `sigoE`: asks a model from the command line, without a running server.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use host::{cli, plugins::worker::process, telemetry};

fn main() -> ExitCode {
    if process::is_wanted(std::env::args_os()) {
        return ExitCode::from(u8::from(process::run().is_err()));
    }
    // Before anything can use TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A core file would hold the keys.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    telemetry::log_panics();
    let outcome = std::panic::catch_unwind(|| cli::e::run(std::env::args_os()));
    ExitCode::from(outcome.unwrap_or(1))
}
