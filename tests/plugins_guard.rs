//! A bad plugin costs one request, and a very bad one its own service, never the gateway's.

use serde_json::{Value, json};

use crate::{
    harness::{Reply, Server, Upstream, eventually, gateway},
    plugins::{ask, put, version},
};

fn shown(server: &Server) -> Value {
    server.get("/api/plugins/faulty").json()
}

#[test]
fn a_plugin_that_would_end_the_process_is_refused_by_its_trial() {
    for (how, reason, word) in [
        ("abort", "probe_crashed", "SIGABRT"),
        ("segv", "probe_crashed", "SIGSEGV"),
        ("stack", "probe_crashed", "SIG"),
        ("memory", "probe_crashed", "SIG"),
        ("exit", "probe_exited", "status 7"),
        ("loop", "probe_timeout", "2 s"),
        ("panic", "panicked", "as it was asked to, in new"),
    ] {
        let config = format!("[provider.faulty]\nnew = \"{how}\"\n");
        let server = gateway().plugins(&["echo", "faulty"]).config(&config).start();
        let shown = shown(&server);
        assert_eq!(
            (&shown["state"], &shown["reason"]),
            (&json!("refused"), &json!(reason)),
            "{how}: {shown}"
        );
        assert!(shown["message"].as_str().is_some_and(|text| text.contains(word)), "{how}: {shown}");
        assert_eq!(ask(&server, "echo").status, 200, "{how}");
        ask(&server, "good").error(404);
    }
}

#[test]
fn settings_that_would_end_the_process_are_tried_before_they_count() {
    let server = gateway().plugins(&["echo", "faulty"]).start();
    let config = |text: &str| std::fs::write(server.data().join("sigorest.toml"), text).expect("written");
    for (how, reason) in [("abort", "probe_crashed"), ("segv", "probe_crashed"), ("exit", "probe_exited")] {
        config(&format!("[provider.faulty]\nnew = \"{how}\"\n"));
        server.reload();
        eventually(how, || {
            let refused = shown(&server)["refused"].clone();
            (refused[0]["reason"] == reason).then_some(())
        });
        // What served goes on with the settings that it has.
        assert_eq!(ask(&server, "good").status, 200, "{how}");
    }
    // A worker process ran with the same settings: that says nothing about this process.
    config("[provider.faulty]\nisolation = \"process\"\n");
    server.reload();
    eventually("a worker", || (shown(&server)["isolated"] == true).then_some(()));
    config("[provider.faulty]\nnew = \"stack\"\n");
    server.reload();
    eventually("its refusal", || (shown(&server)["refused"][0]["reason"] == "probe_crashed").then_some(()));
    assert_eq!(ask(&server, "good").status, 200);
    config("");
    server.reload();
    eventually("its return", || (shown(&server)["isolated"] == false).then_some(()));
    assert_eq!((ask(&server, "good").status, &shown(&server)["refused"]), (200, &json!([])));
}

#[test]
fn a_panic_in_any_entry_is_a_502_that_names_the_plugin() {
    let upstream = Upstream::saying("hello");
    let server = gateway().plugins(&["faulty"]).provider("faulty", &upstream.url("/v1")).start();
    let stream = |model: &str| -> Reply {
        let messages = json!([{"role": "user", "content": "x"}]);
        server.chat(&json!({"model": model, "stream": true, "retries": 0, "messages": messages}))
    };
    let mut faults = 0;
    for (model, streamed) in [
        ("panic-in-begin", false),
        ("panic-in-step", false),
        ("panic-with-panic", false),
        ("panic-in-response", false),
        ("panic-in-event", true),
        ("panic-in-thread", false),
    ] {
        let reply = if streamed { stream(model) } else { ask(&server, model) };
        let error = reply.error(502);
        assert_eq!(error["code"], "plugin_fault", "{model}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("`faulty`")), "{model}: {error}");
        // A thread's panic counts, and so does the request that waited for it.
        faults += if model == "panic-in-thread" { 2 } else { 1 };
        assert_eq!(shown(&server)["faults"], faults, "{model}");
        server.send("POST", "/api/plugins/faulty/enable", &[], "");
        assert_eq!(ask(&server, "good").status, 200, "{model}");
    }
    // In a drop there is no request left to fail; it is counted all the same.
    assert_eq!(ask(&server, "panic-in-drop").status, 200);
    eventually("its count", || (shown(&server)["faults"] == faults + 1).then_some(()));
    server.logged("in an exchange's drop");
}

#[test]
fn repeated_faults_quarantine_a_plugin_until_its_file_is_replaced() {
    let server = gateway().plugins(&["echo", "faulty"]).start();
    for _ in 0..5 {
        ask(&server, "panic-in-step").error(502);
    }
    let reply = ask(&server, "good");
    let error = reply.error(503);
    assert_eq!(error["code"], "plugin_quarantined");
    assert!(reply.header("retry-after").is_some());
    let plugin = shown(&server);
    assert_eq!((&plugin["state"], &plugin["reason"]), (&json!("quarantined"), &json!("too_many_faults")));
    assert!(plugin["message"].as_str().is_some_and(|text| text.contains("5 times")), "{plugin}");
    let health = server.get("/api/health").json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health["reasons"].to_string().contains("faulty"), "{health}");
    assert_eq!(ask(&server, "echo").status, 200);

    // The same file is the same plugin; a changed one is not.
    server.send("POST", "/api/plugins/reload", &[], "");
    ask(&server, "good").error(503);
    put(&server.data().join("plugins"), "faulty.so", &version("new"));
    eventually("its return", || (ask(&server, "good").status == 200).then_some(()));
    assert_eq!(shown(&server)["state"], "loaded");
    eventually("good health", || (server.get("/api/health").json()["status"] == "ok").then_some(()));
}

#[test]
fn steps_over_the_budget_quarantine_a_plugin() {
    let server = gateway().plugins(&["echo", "faulty"]).start();
    // What a step uses is told by the processor's clock; on a busy machine some of these are no overruns.
    let error = eventually("its quarantine", || {
        let reply = ask(&server, "slow");
        (reply.status == 503).then(|| reply.error(503))
    });
    assert_eq!(error["code"], "plugin_quarantined");
    let plugin = shown(&server);
    assert_eq!(plugin["reason"], "too_slow", "{plugin}");
    assert!(plugin["step_cpu_p99_us"].as_f64().is_some_and(|us| us > 50_000.0), "{plugin}");
    // An operator may know better.
    server.send("POST", "/api/plugins/faulty/enable", &[], "");
    assert_eq!(ask(&server, "good").status, 200);
}
