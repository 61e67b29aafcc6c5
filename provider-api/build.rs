//! Records which compiler builds the crate: shown for each plugin, never enforced.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .map_or_else(|| "rustc (unknown)".into(), |text| text.trim().to_owned());
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=PROVIDER_API_RUSTC={version}");
    println!("cargo:rustc-env=PROVIDER_API_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
}
