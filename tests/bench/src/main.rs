//! Measures the gateway beside nginx in one run and prints one table.
//!
//! `bench all GATEWAY PLUGINS` runs everything; `bench growth GATEWAY PLUGINS` the growth curves;
//! `bench mock PORT` is the upstream that both talk to. Loopback only.

#![forbid(unsafe_code)]

mod client;
mod growth;
mod mock;
mod process;
mod rounds;
mod table;

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the bench cannot run without a runtime");
    let outcome = match words[..] {
        ["mock", port] => runtime.block_on(mock::serve(port.parse().expect("a port"))),
        ["all", gateway, plugins] => {
            runtime.block_on(rounds::all(&PathBuf::from(gateway), &PathBuf::from(plugins)))
        }
        ["growth", gateway, plugins] => {
            runtime.block_on(growth::all(&PathBuf::from(gateway), &PathBuf::from(plugins)))
        }
        _ => Err("usage: bench all GATEWAY PLUGINS | bench growth GATEWAY PLUGINS | bench mock PORT".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
