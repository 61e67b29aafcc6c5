//! Flags, environment and `sigorest.toml`, and what is said about mistakes in them.

use std::process::{Command, Output, Stdio};

use crate::harness::{Setup, gateway, server::SERVER};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs the server with exactly these arguments.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(SERVER);
    command.args(args).env_clear().current_dir(directory.path()).stdin(Stdio::null());
    let output =
        crate::harness::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start"));
    (output.status.code(), text(&output))
}

#[test]
fn both_spellings_of_flags_work() {
    for args in [["-v", "error"], ["--v", "error"], ["-v=error", "-j=false"], ["--v=error", "-q=false"]] {
        let server = gateway().args(&args).start();
        assert_eq!(server.get("/ping").status, 200, "{args:?}");
        assert!(!server.log().contains("INFO"), "{args:?}: {}", server.log());
    }
    for args in [["-version"], ["--version"]] {
        let (code, text) = run(&args);
        assert_eq!((code, text.contains(env!("CARGO_PKG_VERSION"))), (Some(0), true), "{text}");
    }
    for args in [["-help"], ["--help"], ["-h"]] {
        let (code, text) = run(&args);
        assert_eq!(code, Some(0), "{text}");
        for flag in [
            "-http-port",
            "-https-port",
            "-cert",
            "-key",
            "-data-dir",
            "-plugin-dir",
            "-config",
            "9080",
            "9443",
        ] {
            assert!(text.contains(flag), "{flag} in {text}");
        }
    }
}

#[test]
fn wrong_flags_and_values_end_with_one_clear_line() {
    for (args, wanted) in [
        (&["-htp-port", "1"][..], "-http-port"),
        (&["--htp-port=1"], "http-port"),
        (&["-http-port", "eleven"], "http-port"),
        (&["-http-port", "70000"], "http-port"),
        (&["-http-port"], "http-port"),
        (&["-v", "loud"], "info"),
        (&["-v", "inof"], "info"),
        (&["-q=maybe"], "-q"),
        (&["stray"], "stray"),
        (&["chekc"], "check"),
    ] {
        let (code, text) = run(args);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(wanted), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{args:?}: {text}");
    }
}

#[test]
fn every_mistake_in_the_file_is_told_at_once() {
    let wrong = "[access]\nhtpp = [\"127.0.0.0/8\"]\nadmin = [\"not an address\"]\n\n[limits]\nmax_body_bytes = -1\ndrain_secs = \"long\"\n\n[braker]\nfailures = 2\n";
    for command in [&[][..], &["check"]] {
        let output = gateway().config(wrong).args(command).run();
        let text = text(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
        for wanted in [
            "sigorest.toml",
            "htpp",
            "http",
            "not an address",
            "max_body_bytes",
            "drain_secs",
            "braker",
            "breaker",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        for line in ["2", "3", "6", "7", "9"] {
            assert!(
                text.contains(&format!(":{line}:"))
                    || text.contains(&format!("{line} │"))
                    || text.contains(&format!("{line} |")),
                "line {line} in {text}"
            );
        }
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn syntax_errors_show_the_place() {
    let output = gateway().config("[access\nhttp = 1\n").args(&["check"]).run();
    let text = text(&output);
    assert_ne!(output.status.code(), Some(0));
    assert!(text.contains("sigorest.toml") && text.contains('1'), "{text}");
}

#[test]
fn a_good_file_passes_the_check() {
    let good = "[limits]\nheartbeat_secs = 5\n[provider.mammouth]\nbase_url = \"https://example.org/v1\"\n[models]\nkimi = \"moonshot\"\n";
    let output = gateway().config(good).args(&["check"]).run();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(gateway().args(&["check"]).run().status.code(), Some(0), "without a file too");
}

#[test]
fn a_check_finds_fallbacks_that_mean_no_model() {
    let check = |fallbacks: &str, list: &str| {
        let setup = gateway().config(&format!("[fallbacks]\n{fallbacks}\n")).file("models.csv", list);
        let setup = setup.file("plugins/mammouth.models.csv", "shortcode,id\nmine,mine-1\n");
        let output = setup.args(&["check"]).run();
        assert_eq!(output.status.code(), Some(0), "a warning: {}", text(&output));
        text(&output)
    };
    let told = check("gpt41 = [\"claude-s46\", \"mammouth/mine-1\", \"echo\"]", "gpt41\nclaude-s46\nmine");
    assert!(!told.contains("[fallbacks]"), "{told}");
    let told = check("gpt41 = [\"claude-s64\"]\ngpt14 = [\"gpt41\"]\n", "gpt41\nclaude-s46");
    for part in [
        "[fallbacks] `gpt41`: model `claude-s64` is not offered",
        "did you mean `claude-s46`?",
        "[fallbacks] `gpt14`: model `gpt14` is not offered",
        "did you mean `gpt41`?",
        "unless ollama has it when it is asked",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = check("gpt41 = [\"kimi\"]", "gpt41");
    assert!(told.contains("model `kimi` is not offered"), "the list leaves it out: {told}");
}

#[test]
fn the_readmes_settings_are_the_defaults() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("README.md");
    let block = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("settings");
    let settings = |text: &str| -> Vec<String> {
        let values = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
        values
            .filter(|line| line.contains(" = ") && !line.starts_with("data_dir"))
            .map(str::to_owned)
            .collect()
    };
    let told = settings(block);
    let shown = settings(&shown(&gateway().args(&["config", "show"])));
    // The one value that depends on the machine: its descriptors may allow less.
    let fixed = told.iter().filter(|line| !line.starts_with("max_in_flight"));
    let missing: Vec<&String> = fixed.filter(|line| !shown.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:#?} are not the defaults in\n{shown:#?}");
    assert_eq!(gateway().config(block).args(&["check"]).run().status.code(), Some(0));
}

fn shown(setup: &Setup) -> String {
    let output = setup.run();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_effective_values_are_shown_with_their_origin() {
    let text = shown(
        &gateway()
            .config("[limits]\ndrain_secs = 7\n")
            .env("SIGOREST_LIMITS_HEARTBEAT_SECS", "9")
            .env("MAMMOUTH_API_KEY", "sk-very-secret")
            .args(&["config", "show"]),
    );
    let line = |name: &str| {
        text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {text}"))
    };
    assert!(line("drain_secs").contains('7') && line("drain_secs").contains("file, line 2"), "{text}");
    assert!(line("header_secs").contains("10") && line("header_secs").contains("default"), "{text}");
    assert!(line("http_port").contains("flag -http-port"), "{text}");
    assert!(!text.contains("sk-very-secret"), "{text}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let start = |flags: &[&str], level: &str| {
        let setup = gateway().config("log_level = \"info\"\n").args(flags);
        let setup = if level.is_empty() { setup } else { setup.env("SIGOREST_LOG_LEVEL", level) };
        let server = setup.start();
        server.get("/ping");
        server.log().contains("INFO")
    };
    assert!(start(&[], ""));
    assert!(!start(&[], "error"));
    assert!(start(&["-v", "info"], "error"));
}

#[test]
fn a_named_file_must_be_there() {
    let output = gateway().args(&["-config", "elsewhere.toml"]).run();
    assert!(matches!(output.status.code(), Some(1 | 2)));
    assert!(text(&output).contains("elsewhere.toml"), "{}", text(&output));
    let server = gateway()
        .file("conf/mine.toml", "[limits]\nmax_body_bytes = 10\n")
        .args(&["-config", "conf/mine.toml"])
        .start();
    server.send("POST", "/v1/chat/completions", &[], r#"{"model":"echo","messages":[]}"#).error(413);
}

#[test]
fn a_key_can_come_from_a_file() {
    let upstream = crate::harness::Upstream::saying("hi");
    let settings = format!(
        "[provider.mammouth]\nbase_url = \"{}\"\nkey_file = \"keys/mammouth\"\n",
        upstream.url("/v1")
    );
    let server = gateway().config(&settings).file("keys/mammouth", "sk-from-a-file\n").start();
    let body = serde_json::json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(server.chat(&body).status, 200);
    assert_eq!(upstream.last().header("authorization"), Some("Bearer sk-from-a-file"));
}

#[test]
fn a_reload_takes_new_settings_and_keeps_the_old_ones_when_they_are_wrong() {
    let server = gateway().start();
    let body = r#"{"model":"echo","messages":[{"role":"user","content":"x"}]}"#;
    let post = || server.send("POST", "/v1/chat/completions", &[], body).status;
    let file = server.data().join("sigorest.toml");
    std::fs::write(&file, "[limits]\nmax_body_bytes = 10\n").expect("written");
    server.reload();
    crate::harness::eventually("the new limit", || (post() == 413).then_some(()));
    std::fs::write(&file, "[limits]\nmax_body_bytes = \"x\"\n").expect("written");
    server.reload();
    server.logged("max_body_bytes");
    assert_eq!(post(), 413);
    std::fs::write(&file, "").expect("written");
    server.reload();
    crate::harness::eventually("the default limit", || (post() == 200).then_some(()));
}
