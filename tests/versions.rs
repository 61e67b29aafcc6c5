//! The promise about plugin files, kept: those built with an older or newer minor version of provider-api, or
//! by another compiler, work in every gateway, whatever was opened before them; others are refused in words.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::json;

use crate::{
    author,
    harness::{SERVER, Server, gateway},
};

/// A change to a file of provider-api.
enum Edit {
    /// Behind a text.
    After(&'static str, &'static str, &'static str),
    /// In place of a text.
    Instead(&'static str, &'static str, &'static str),
}

use Edit::{After, Instead};

/// A version of provider-api, made of the present one.
struct Variant {
    name: &'static str,
    version: &'static str,
    edits: &'static [Edit],
}

/// All that a minor version may bring: a field at the end of the module, methods with a body at the end of
/// traits on either side, a constant of an open enum; and what uses them.
const APPENDED: &[Edit] = &[
    After(
        "src/abi.rs",
        "host: HostBox) -> RResult<ProviderBox, AbiFault>,\n",
        "pub extra: extern \"C\" fn() -> u64,\n",
    ),
    After(
        "src/abi.rs",
        "fn ext(&mut self, code: u32, data: RSlice<'_, u8>) -> u64;\n",
        "fn extra(&mut self) -> u64 { 3 + 4 }\n",
    ),
    After(
        "src/abi.rs",
        "fn begin(&self, call: AbiCall<'_>) -> RResult<ExchangeBox, AbiFault>;\n",
        "fn extra(&self) -> u64 { 3 + 4 }\n",
    ),
    After("src/abi.rs", "pub const CHILD: Self = Self(7);\n", "pub const EXTRA: Self = Self(8);\n"),
    After("src/provider.rs", "ProviderModule { build, manifest, create", ", extra"),
    After("src/provider.rs", "use $crate::abi::*;\n", "extern \"C\" fn extra() -> u64 { 11 }\n"),
    After(
        "src/provider.rs",
        "impl<P: Provider> RawProvider for Instance<P> {\n",
        "fn extra(&self) -> u64 { 11 }\n",
    ),
    After("src/event.rs", "impl Out<'_, '_> {\n", "pub fn extra(&mut self) -> u64 { self.outbox.extra() }\n"),
    After(
        "src/exchange.rs",
        "impl<S: Sink> Outbox for Bridge<'_, S> {\n",
        "fn extra(&mut self) -> u64 { 11 }\n",
    ),
    After("src/exchange.rs", "\nimpl Instance {\n", "pub fn extra(&self) -> u64 { self.0.extra() }\n"),
    After(
        "src/loader.rs",
        "\nimpl Module {\n",
        "pub fn extra(&self) -> Option<u64> { self.0.extra().map(|extra| extra()) }\n",
    ),
];

const VARIANTS: [Variant; 6] = [
    Variant { name: "old", version: "1.0.0", edits: &[] },
    Variant { name: "new", version: "1.1.0", edits: APPENDED },
    // A plain struct with more in it.
    Variant {
        name: "grown",
        version: "1.0.1",
        edits: &[Instead("src/abi.rs", "pub value: [u64; 16],", "pub value: [u64; 17],")],
    },
    // A field of another type with the same size.
    Variant {
        name: "retyped",
        version: "1.0.2",
        edits: &[Instead("src/abi.rs", "pub present: u64,", "pub present: i64,")],
    },
    // A method that takes something else.
    Variant {
        name: "resigned",
        version: "1.0.3",
        edits: &[
            Instead("src/abi.rs", "fn log(&self, level: u32,", "fn log(&self, level: u64,"),
            Instead("src/exchange.rs", "fn log(&self, level: u32,", "fn log(&self, level: u64,"),
            Instead(
                "src/exchange.rs",
                "(self.0)(level, text.as_str())",
                "(self.0)(level as u32, text.as_str())",
            ),
        ],
    },
    // Nothing but the number says that it means something else.
    Variant { name: "major", version: "2.0.0", edits: &[] },
];

/// Where versions, plugins and programs lie from one run to the next: what did not change is not compiled again.
fn place() -> PathBuf {
    author::target().with_file_name("versions")
}

fn put(path: &Path, text: &str) {
    // A new date on an old text would have it compiled again.
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
    fs::write(path, text).expect("written");
}

/// Lays out a workspace with all versions of provider-api, a plugin of each and the programs of two.
fn lay_out() {
    let temporary = tempfile::tempdir().expect("a directory");
    let made = Command::new(SERVER).args(["plugin", "new", "x"]).current_dir(&temporary).env_clear().output();
    assert!(made.expect("it runs").status.success());
    let root = place();
    // Members would have to have different names.
    let apart = VARIANTS.map(|variant| format!("\"api-{}\"", variant.name)).join(", ");
    let manifest = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"plugin-*\", \"program-*\"]\nexclude = [{apart}]\n"
    );
    put(&root.join("Cargo.toml"), &manifest);
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    fs::copy(lock, root.join("Cargo.lock")).expect("the versions");
    for variant in &VARIANTS {
        copy_api(&temporary.path().join("x/provider-api"), variant);
        member(
            "plugin",
            variant.name,
            "[lib]\ncrate-type = [\"cdylib\"]\n",
            include_str!("versions/plugin.rs"),
        );
    }
    for name in ["old", "new"] {
        member("program", name, "", include_str!("versions/program.rs"));
    }
}

/// A crate of the workspace.
fn member(kind: &str, name: &str, target: &str, source: &str) {
    let directory = place().join(format!("{kind}-{name}"));
    let (features, loader) = match (name, kind) {
        ("new", _) => ("default = [\"extra\"]", kind == "program"),
        _ => ("", kind == "program"),
    };
    let loader = if loader { ", features = [\"loader\"]" } else { "" };
    let manifest = format!(
        "[package]\nname = \"{kind}-{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n{target}\n[features]\n{features}\n\
         extra = []\n\n[dependencies]\nprovider-api = {{ path = \"../api-{name}\"{loader} }}\n"
    );
    // Each run of a program copies all its files.
    let stripped =
        "//! Links it small.\n\nfn main() {\n    println!(\"cargo:rustc-cdylib-link-arg=-s\");\n}\n";
    if kind == "plugin" {
        put(&directory.join("build.rs"), stripped);
    }
    put(&directory.join("Cargo.toml"), &manifest);
    let file = if kind == "program" { "src/main.rs" } else { "src/lib.rs" };
    put(&directory.join(file), source);
}

fn copy_api(from: &Path, variant: &Variant) {
    let to = place().join(format!("api-{}", variant.name));
    let (version, mut unused) = (format!("version = \"{}\"", variant.version), variant.edits.len());
    for path in files(from) {
        let mut text = fs::read_to_string(from.join(&path)).expect("a source");
        if path == Path::new("Cargo.toml") {
            let with = text.replacen("version = \"1.0.0\"", &version, 1);
            assert!(with != text || variant.version == "1.0.0");
            text = with;
        }
        for edit in variant.edits {
            let (After(file, anchor, _) | Instead(file, anchor, _)) = edit;
            if path != Path::new(file) {
                continue;
            }
            unused -= 1;
            assert_eq!(text.matches(anchor).count(), 1, "{anchor:?} in {file}");
            text = match edit {
                After(_, anchor, new) => text.replace(anchor, &format!("{anchor}{new}")),
                Instead(_, anchor, new) => text.replace(anchor, new),
            };
        }
        put(&to.join(path), &text);
    }
    assert_eq!(unused, 0, "{}", variant.name);
}

/// All files below a directory, by their paths from there.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("below").to_owned());
            }
        }
    }
    found
}

/// Runs cargo in the workspace, with this target directory.
fn build(mut cargo: Command, args: &[&str], target: &Path) {
    cargo.args(["build", "--offline", "--quiet"]).args(args).current_dir(place());
    let output = cargo.env("CARGO_TARGET_DIR", target).env("CARGO_INCREMENTAL", "0").output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn own_cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn plugin(target: &Path, name: &str) -> PathBuf {
    target.join(format!("debug/libplugin_{name}.so"))
}

/// All orders of some things.
fn orders<T: Copy>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in things.iter().enumerate() {
        let rest = [&things[..at], &things[at + 1..]].concat();
        all.extend(orders(&rest).into_iter().map(|rest| [&[*first][..], &rest].concat()));
    }
    all
}

/// Compiles everything; the directory where it is.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        lay_out();
        let target = author::target();
        build(own_cargo(), &["--workspace"], &target);
        target
    })
}

/// What a program of this version says to a plugin of each: what it answers and what its newer parts say,
/// or the reason why it is not opened.
fn expected(program: &str, plugin: &str) -> &'static str {
    match (program, plugin) {
        ("old", "old") => "plugin-old answers, gateway unasked",
        // The gateway has no such method: the plugin's own default answers.
        ("old", "new") => "plugin-new answers, gateway 7",
        // The plugin has neither: there is no field, and the gateway's own default answers.
        ("new", "old") => "plugin-old answers, gateway unasked, module None, provider 7",
        ("new", "new") => "plugin-new answers, gateway 11, module Some(11), provider 11",
        (_, "major") => "wrong_api",
        _ => "layout_mismatch",
    }
}

#[test]
fn every_version_meets_every_other_in_every_order() {
    let target = built();
    // One changed layout stands for both where the order is concerned.
    let permuted = ["old", "new", "grown", "resigned", "major"];
    for program in ["old", "new"] {
        for order in orders(&permuted) {
            let order = [&order[..], &["retyped"]].concat();
            let mut command = Command::new(target.join(format!("debug/program-{program}")));
            let output =
                command.args(order.iter().map(|name| plugin(target, name))).output().expect("it runs");
            let mut wanted: Vec<_> = order.iter().map(|name| expected(program, name).to_owned()).collect();
            let opened = wanted.iter().filter(|line| line.contains(' '));
            let again = opened.map(|line| format!("again {}", line.split(", module").next().unwrap_or("")));
            wanted.extend(again.collect::<Vec<_>>());
            let said = String::from_utf8_lossy(&output.stdout);
            let why = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                said.lines().collect::<Vec<_>>(),
                wanted,
                "program {program}, plugins {order:?}: {why}"
            );
        }
    }
}

fn streamed(server: &Server, plugin: &str) -> String {
    let messages = json!([{"role": "user", "content": "x"}]);
    let reply =
        server.chat(&json!({"model": format!("{plugin}-model"), "stream": true, "messages": messages}));
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"), "{}", reply.text());
    reply.streamed_text()
}

#[test]
fn a_gateway_serves_those_that_fit_and_says_of_the_others_why_not() {
    let target = built();
    let mut setup = gateway().plugins(&[]).config("[provider.plugin-new]\nword = \"speaks\"\n");
    for variant in &VARIANTS {
        let file = fs::read(plugin(target, variant.name)).expect("a plugin");
        setup = setup.file(&format!("plugins/{}.so", variant.name), file);
    }
    let server = setup.start();
    assert_eq!(streamed(&server, "plugin-old"), "plugin-old , gateway unasked");
    assert_eq!(streamed(&server, "plugin-new"), "plugin-new speaks, gateway 7");
    for (name, reason, words) in [
        ("grown", "layout_mismatch", "incompatible type size Expected: 136 Found: 144"),
        ("retyped", "layout_mismatch", "Expected: u64 Found: i64"),
        ("resigned", "layout_mismatch", "Expected: u32 Found: u64"),
        ("major", "wrong_api", "it exports provider API 2.x, this gateway has 1.x"),
    ] {
        let shown = server.get(&format!("/api/plugins/plugin-{name}")).json();
        let message = shown["message"].as_str().unwrap_or_default();
        assert_eq!((&shown["state"], &shown["reason"]), (&json!("refused"), &json!(reason)), "{shown}");
        assert!(message.contains(words) && message.len() < 500 && !message.contains('\n'), "{message}");
        // The whole story is long, and in a file.
        let long = fs::read_to_string(server.data().join(format!("plugin-errors/{name}.so.txt")));
        assert_eq!(long.is_ok_and(|text| text.len() > 1000), reason == "layout_mismatch", "{name}");
    }
}

/// A toolchain with another compiler than the one that built this, if the machine has one.
fn another_toolchain() -> Option<(String, String)> {
    let said = |arguments: &[&str]| {
        let output = Command::new("rustup").args(arguments).env_remove("RUSTC").output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let all = said(&["toolchain", "list"])?;
    all.lines().filter_map(|line| line.split_whitespace().next()).find_map(|toolchain| {
        let compiler = said(&["run", toolchain, "rustc", "--version"])?;
        (compiler != provider_api::__private::RUSTC).then(|| (toolchain.to_owned(), compiler))
    })
}

#[test]
fn a_plugin_of_another_compiler_serves() {
    let Some((toolchain, compiler)) = another_toolchain() else {
        // Past the test runner, which keeps what tests that pass have printed.
        let text =
            "\nNOT TRIED: a plugin of another compiler; `rustup toolchain install nightly` has it tried\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
        return;
    };
    built();
    let target = author::target().with_file_name("versions-other");
    let mut cargo = Command::new("rustup");
    cargo.args(["run", &toolchain, "cargo"]).env_remove("RUSTC");
    build(cargo, &["-p", "plugin-old"], &target);
    let file = fs::read(plugin(&target, "old")).expect("a plugin");
    let server = gateway().plugins(&[]).file("plugins/other.so", file).start();
    assert_eq!(server.get("/api/plugins/plugin-old").json()["rustc"], json!(compiler));
    assert_eq!(streamed(&server, "plugin-old"), "plugin-old , gateway unasked");
}
