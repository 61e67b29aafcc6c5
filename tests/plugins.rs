//! Plugins come, go and go wrong while requests run.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{Reply, Server, Setup, eventually, gateway, plugin_file};

/// A chat with a model.
pub fn ask(server: &Server, model: &str) -> Reply {
    server.chat(&json!({"model": model, "retries": 0, "messages": [{"role": "user", "content": "x"}]}))
}

/// Puts a file in place of another as an installer does.
pub fn put(directory: &Path, name: &str, bytes: &[u8]) {
    let new = directory.join(format!("{name}.tmp"));
    fs::write(&new, bytes).expect("written");
    fs::rename(&new, directory.join(name)).expect("renamed");
}

/// A copy of a plugin file with some texts changed for others of the same length.
pub fn patched(id: &str, texts: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fs::read(plugin_file(id)).expect("the plugin");
    for (from, to) in texts {
        assert_eq!(from.len(), to.len());
        let places: Vec<usize> = memchr::memmem::find_iter(&bytes, from).collect();
        assert!(!places.is_empty(), "{from}");
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

/// The faulty plugin in another version: three letters.
pub fn version(name: &str) -> Vec<u8> {
    let texts = [format!("generation {name}"), format!("1.0.0-{name}")];
    patched("faulty", &[("generation one", &texts[0]), ("1.0.0-one", &texts[1])])
}

fn second_generation() -> Vec<u8> {
    version("TWO")
}

fn faulty() -> Setup {
    gateway().plugins(&["echo", "faulty"])
}

#[test]
fn the_server_runs_without_any_plugin() {
    let server = gateway().plugins(&[]).start();
    assert_eq!(server.get("/api/health").status, 200);
    ask(&server, "echo").error(404);
    // A directory that was named but is not there is a mistake, and is said to be one.
    let output = gateway().args(&["-plugin-dir", "elsewhere"]).run();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("elsewhere"));
}

#[test]
fn only_what_is_installed_is_offered() {
    let server = gateway().plugins(&["moonshot"]).start();
    let list = server.get("/v1/models").json();
    let names: Vec<&Value> =
        list["data"].as_array().expect("data").iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["kimi"]);
}

#[test]
fn files_that_are_no_plugins_are_refused_by_name_and_the_others_serve() {
    let echo = fs::read(plugin_file("echo")).expect("the plugin");
    let server = gateway()
        .file("plugins/text.so", "not a plugin")
        .file("plugins/empty.so", "")
        .file("plugins/cut.so", &echo[..echo.len() / 2])
        .file("plugins/.hidden.so", "not looked at")
        .file("plugins/notes.txt", "not looked at")
        .start();
    for file in ["text.so", "empty.so", "cut.so"] {
        server.logged_with(&["WARN", file]);
    }
    assert!(!server.log().contains("hidden.so") && !server.log().contains("notes.txt"));
    assert_eq!(ask(&server, "echo").status, 200);
    let health = server.get("/api/health").json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health.to_string().contains("text.so"), "{health}");
}

#[test]
fn a_panic_fails_one_request_and_no_other() {
    let server = faulty().start();
    for model in ["panic-in-begin", "panic-in-step", "panic-with-panic", "nothing"] {
        let reply = ask(&server, model);
        assert!(reply.status == 502 || reply.status == 500, "{model}: {} {}", reply.status, reply.text());
        assert!(!reply.text().contains("as it was asked to"), "{model}: {}", reply.text());
        assert_eq!(ask(&server, "good").status, 200, "{model}");
    }
    let faults = server.get("/metrics").text();
    assert!(
        faults.lines().any(|line| line.contains("plugin")
            && line.contains("fault")
            && line.contains("faulty")
            && !line.ends_with(" 0")),
        "{faults}"
    );
}

#[test]
fn a_plugin_reaches_only_where_its_manifest_says() {
    let server = faulty().start();
    let reply = ask(&server, "abroad");
    assert!(reply.status >= 500, "{}", reply.text());
    assert!(!reply.text().contains("elsewhere.example"), "{}", reply.text());
    server.logged("elsewhere.example");
}

#[test]
fn a_later_directory_shadows_an_earlier_one_and_that_is_said() {
    let setup = faulty();
    let other = tempfile::tempdir().expect("a directory");
    put(other.path(), "renamed.so", &second_generation());
    let server = setup.args(&["-plugin-dir", other.path().to_str().expect("a path")]).start();
    assert!(ask(&server, "good").text().contains("generation TWO"));
    let line = server.logged("shadow");
    assert!(line.contains("faulty"), "{line}");
}

#[test]
fn by_default_plugins_lie_beside_the_program_and_in_the_data_directory() {
    let setup = faulty();
    let installed = tempfile::tempdir().expect("a directory");
    let program = installed.path().join("sigoREST");
    fs::copy(crate::harness::SERVER, &program).expect("a copy");
    fs::create_dir(installed.path().join("plugins")).expect("a directory");
    for id in ["zai", "faulty"] {
        put(&installed.path().join("plugins"), &format!("{id}.so"), &fs::read(plugin_file(id)).expect("it"));
    }
    drop(setup.command(crate::harness::SERVER));
    put(&setup.path().join("plugins"), "faulty.so", &second_generation());
    let mut command = std::process::Command::new(&program);
    command.env_clear().current_dir(setup.path()).args(["-http-port=0", "-https-port=0"]);
    let server = setup.start_as(command);
    let plugins = server.get("/api/health").json()["plugins"].to_string();
    assert!(plugins.contains("\"zai\"") && plugins.contains("\"echo\""), "{plugins}");
    assert!(ask(&server, "good").text().contains("generation TWO"), "the data directory's wins");
    server.logged_with(&["shadow", "faulty"]);
}

#[test]
fn a_new_file_takes_over_and_the_old_one_can_come_back() {
    let server = faulty().start();
    let plugins = server.data().join("plugins");
    let first = fs::read(plugins.join("faulty.so")).expect("the plugin");
    assert!(ask(&server, "good").text().contains("generation one"));
    for (bytes, wanted) in [(second_generation(), "generation TWO"), (first, "generation one")] {
        put(&plugins, "faulty.so", &bytes);
        server.reload();
        eventually(wanted, || ask(&server, "good").text().contains(wanted).then_some(()));
    }
    fs::remove_file(plugins.join("faulty.so")).expect("removed");
    server.reload();
    eventually("its end", || (ask(&server, "good").status == 404).then_some(()));
    put(&plugins, "faulty.so", &second_generation());
    server.reload();
    eventually("its return", || (ask(&server, "good").status == 200).then_some(()));
}

#[test]
fn a_running_server_survives_damage_to_its_files() {
    let server = faulty().start();
    let file = server.data().join("plugins/echo.so");
    // In place, as a careless copy does it.
    fs::write(&file, vec![0; 1000]).expect("overwritten");
    assert_eq!(ask(&server, "echo").status, 200);
    server.reload();
    server.logged("echo.so");
    assert_eq!(server.get("/ping").status, 200);
    // A plugin that served keeps serving until a good file replaces it.
    assert_eq!(ask(&server, "good").status, 200);
}

#[test]
fn a_file_is_read_without_being_run() {
    let setup = faulty();
    let mark = setup.path().join("mark");
    let inspect = |id: &str| {
        let mut command = setup.command(crate::harness::SERVER);
        command.args(["plugin", "inspect"]).arg(plugin_file(id)).env("FAULTY_MARK", &mark);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = inspect("moonshot");
    let compiler = provider_api::__private::RUSTC;
    for wanted in [
        "moonshot",
        "1.0.0",
        "MOONSHOT_API_KEY",
        "https://api.moonshot.ai",
        "kimi",
        "MIT",
        compiler,
        "in $/M",
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(inspect("faulty").contains("1.0.0-one") && !mark.exists());
    // A gateway that refuses a file does not run it either; one that loads it does.
    let marked = mark.to_str().expect("a path").to_owned();
    let setup = setup.env("FAULTY_MARK", marked).file("plugins/plugins.lock", "");
    let server = setup.start();
    ask(&server, "good").error(404);
    assert!(!mark.exists());
    fs::remove_file(server.data().join("plugins/plugins.lock")).expect("removed");
    eventually("its models", || (ask(&server, "good").status == 200).then_some(()));
    assert!(mark.exists());
}
