//! What is shipped beside the code: the unit's hardening, and how the programs are linked.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{PLUGINS, SERVER, plugin_file};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// What a tool prints; `None` where it is not installed.
fn output(tool: &str, args: &[&str], file: &Path) -> Option<String> {
    let output = Command::new(tool).args(args).arg(file).env("LC_ALL", "C.UTF-8").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_unit_is_hardened() {
    let unit = root().join("packaging/systemd/sigorest.service");
    let Some(text) = output("systemd-analyze", &["security", "--offline=true", "--no-pager"], &unit) else {
        return;
    };
    let line = text.lines().find(|line| line.contains("exposure level")).unwrap_or_else(|| panic!("{text}"));
    let words = line.rsplit(": ").next().expect("a level");
    let level: f64 = words.split(' ').next().and_then(|level| level.parse().ok()).expect("a number");
    assert!(level <= 1.5, "{text}");
}

#[test]
fn programs_and_plugins_are_position_independent_and_bound_before_they_run() {
    let plugins = PLUGINS.map(plugin_file);
    for file in plugins.iter().map(PathBuf::as_path).chain([Path::new(SERVER)]) {
        let Some(text) = output("readelf", &["--wide", "--file-header", "--segments", "--dynamic"], file)
        else {
            return;
        };
        let name = file.display();
        assert!(text.contains("DYN ("), "{name} is not position independent");
        assert!(text.contains("GNU_RELRO"), "{name} has no RELRO");
        assert!(text.contains("BIND_NOW") || text.contains("Flags: NOW"), "{name} is bound lazily");
        let stack = text.lines().find(|line| line.trim_start().starts_with("GNU_STACK")).expect("a stack");
        assert!(!stack.contains("RWE"), "{name} has an executable stack");
    }
}

#[test]
fn released_files_hold_no_path_of_the_machine_that_built_them() {
    let build = root().join("build");
    let home = std::env::var("HOME").unwrap_or_default();
    let mut files = vec![build.join("sigoREST"), build.join("sigoE")];
    files.extend(PLUGINS.map(|id| build.join("plugins").join(format!("{id}.so"))));
    for file in files.iter().filter(|file| file.exists()) {
        let bytes = std::fs::read(file).expect("a file");
        for path in [root().display().to_string(), format!("{home}/.cargo"), format!("{home}/.rustup")] {
            assert!(!holds(&bytes, path.as_bytes()), "{} holds {path}; use `make build`", file.display());
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
