//! The rules that keep the code in the shape that ARCHITECTURE.md describes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::PLUGINS;

/// The steps of a request, each of which uses only those before it. That is the order in which a request
/// passes them, with three bends: `listen` asks `access` about peers before there is a request; `route` drives
/// each attempt through `plugins`, `upstream` and `relay`; and the entry in `account` goes with the answer.
const STEPS: [&str; 12] = [
    "access", "listen", "limits", "dialect", "catalog", "memory", "session", "account", "upstream",
    "plugins", "relay", "route",
];

/// What the project's root holds.
const ROOT: [&str; 20] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "host",
    "memory.json",
    "models.csv",
    "packaging",
    "provider-api",
    "providers",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every tracked file whose name ends so, with its path from the root.
fn tracked(end: &str) -> Vec<String> {
    let output =
        Command::new("git").arg("-C").arg(root()).args(["ls-files", "-co", "--exclude-standard"]).output();
    let output = output.expect("git lists the files");
    let names = String::from_utf8(output.stdout).expect("names in UTF-8");
    let there = |name: &&str| name.ends_with(end) && root().join(name).is_file();
    names.lines().filter(there).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The part of a file that is not its tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_fits_a_reader() {
    let mut faults = Vec::new();
    for path in tracked(".rs") {
        let text = read(&path);
        if !text.starts_with("//!") {
            faults.push(format!("{path} does not start with //! and its job"));
        }
        let lines = production(&text).lines().count();
        if lines > 500 {
            faults.push(format!("{path} has {lines} lines without its tests; split it below 500"));
        }
    }
    none(&faults);
}

#[test]
fn every_function_fits_a_screen() {
    let mut faults = Vec::new();
    // Tables make tests long, not hard to read.
    for path in tracked(".rs").into_iter().filter(|path| !is_test(path)) {
        let text = read(&path);
        let mut open: Option<(usize, String, String)> = None;
        for (number, line) in production(&text).lines().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            if let Some(name) = function_name(line) {
                open = Some((number, format!("{indent}}}"), name));
            } else if let Some((start, end, name)) = &open
                && line == end
            {
                if number - start > 60 {
                    faults.push(format!(
                        "{path}:{} `{name}` has {} lines; at most 60",
                        start + 1,
                        number - start
                    ));
                }
                open = None;
            }
        }
    }
    none(&faults);
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe" | "extern" | "\"C\"")
    });
    (words.next()? == "fn")
        .then(|| words.next().unwrap_or("").split(['(', '<']).next().unwrap_or("").to_owned())
}

#[test]
fn a_step_uses_no_later_step_and_never_the_pipeline() {
    let mut faults = Vec::new();
    for path in tracked(".rs") {
        let Some(module) = path.strip_prefix("host/src/").and_then(|rest| rest.split(['/', '.']).next())
        else {
            continue;
        };
        let Some(place) = STEPS.iter().position(|step| *step == module) else { continue };
        let text = read(&path);
        for used in modules_used(production(&text)) {
            let later = STEPS.iter().position(|step| *step == used).is_some_and(|at| at > place);
            if later || used == "pipeline" {
                faults.push(format!(
                    "{path} uses `{used}`, which stands after it; hand the value over in pipeline.rs"
                ));
            }
        }
    }
    none(&faults);
}

/// The modules of the crate that a file names: `crate::x`, and `crate::{x, y::z}`.
fn modules_used(text: &str) -> Vec<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
    let mut used = Vec::new();
    for part in code.split("crate::").skip(1) {
        let Some(list) = part.strip_prefix('{') else {
            used.push(word(part));
            continue;
        };
        let (mut depth, mut start) = (1, true);
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => start = start || depth == 1,
                _ if depth == 1 && start && !letter.is_whitespace() => {
                    used.push(word(&list[at..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn the_list_of_used_modules_is_read_right() {
    let used = modules_used("use crate::{a, b::{c, d}, e::f};\n// crate::no\nlet x = crate::g::h();");
    assert_eq!(used, ["a", "b", "e", "g"]);
}

#[test]
fn the_layers_do_not_know_each_other() {
    let mut faults = Vec::new();
    let providers = PLUGINS.into_iter().filter(|name| *name != "echo").collect::<Vec<_>>();
    for path in tracked(".rs").into_iter().filter(|path| path.starts_with("host/src/dialect")) {
        let text = read(&path);
        let code = production(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n").to_lowercase();
        faults.extend(
            providers.iter().filter(|name| code.contains(*name)).map(|name| format!("{path} knows {name}")),
        );
    }
    for path in tracked("Cargo.toml") {
        let text = read(&path);
        let own = text.split("[dev-dependencies]").next().unwrap_or("");
        let depends = |name: &str| own.lines().any(|line| line.starts_with(name) && line.contains('='));
        if path.starts_with("provider-api/") && (depends("host") || depends("tokio") || depends("hyper")) {
            faults.push(format!("{path}: provider-api knows nothing of the host and does no I/O"));
        }
        if path.starts_with("providers/") && (depends("tokio") || depends("hyper") || depends("abi_stable")) {
            faults.push(format!("{path}: a provider does no I/O and sees provider-api alone"));
        }
    }
    none(&faults);
}

#[test]
fn unsafe_code_is_in_two_files_and_explained() {
    let mut faults = Vec::new();
    for path in tracked(".rs") {
        let text = read(&path);
        let allowed = path.starts_with("provider-api/") || is_test(&path);
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !allowed && ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|form| code.contains(form)) {
                faults.push(format!("{path}:{} has unsafe code; it belongs into provider-api", number + 1));
            }
        }
        let root = path == "host/src/lib.rs";
        if root && !text.contains("#![forbid(unsafe_code)]") {
            faults.push(format!("{path} does not forbid unsafe code"));
        }
    }
    none(&faults);
}

#[test]
fn nothing_is_left_undone_or_hidden() {
    let mut faults = Vec::new();
    let barred = [
        concat!("#[ign", "ore"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("dbg", "!("),
    ];
    for path in tracked(".rs") {
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            faults.extend(
                barred
                    .iter()
                    .filter(|word| line.contains(*word))
                    .map(|word| format!("{path}:{}: {word}", number + 1)),
            );
            if is_test(&path) && line.contains(concat!("thread::sl", "eep")) {
                faults.push(format!("{path}:{}: wait for a condition instead", number + 1));
            }
        }
        let uses = production(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        let unwraps = uses.filter(|line| line.contains(".unwrap()")).count();
        if !is_test(&path) && unwraps > 0 {
            faults.push(format!("{path} has {unwraps} unwrap() outside tests"));
        }
    }
    none(&faults);
}

#[test]
fn the_root_holds_what_it_should_and_nothing_else() {
    let mut found: Vec<String> =
        tracked("").iter().map(|path| path.split('/').next().unwrap_or("").to_owned()).collect();
    found.sort();
    found.dedup();
    let more: Vec<&String> = found.iter().filter(|name| !ROOT.contains(&name.as_str())).collect();
    assert!(more.is_empty(), "the root has {more:?}; ARCHITECTURE.md names what it holds");
}

#[test]
fn every_dependency_comes_from_the_registry_and_there_is_one_tls_library() {
    let lock = read("Cargo.lock");
    let foreign = lock.lines().filter(|line| line.starts_with("source =") && !line.contains("\"registry+"));
    let barred = ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "zstd-sys"];
    let barred = barred.iter().filter(|name| lock.contains(&format!("name = \"{name}\"\n")));
    let faults: Vec<String> =
        foreign.map(str::to_owned).chain(barred.map(|name| (*name).to_owned())).collect();
    none(&faults);
}
